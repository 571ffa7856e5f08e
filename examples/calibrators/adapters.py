"""Ensembles of adapters of one base model: calibrate then pool vs. pool then calibrate, in the lab.

python examples/calibrators/adapters.py --how fine-tuning --worlds 5 --members 4 --write
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from over_seeds import measured, over_seeds, write_figures

import hf_calib
from hf_calib.calibrators import by_name
from hf_calib.hub import save_calibration_metadata
from hf_calib.lab import PRESETS, Bench, make_bench, plain_dpo, pretrained_folder
from hf_calib.lab.bench import fine_tuned
from hf_calib.lab.presets import FineTuningSettings
from hf_calib.reports import render_table

N_LABELS = 500
# Long enough for a member to memorize its questions and become overconfident.
LONG = FineTuningSettings(steps=150, learning_rate=2e-3, lora_rank=16)


def aligned(bench: Bench, member: int):
    """Align with DPO; members differ in the order of the pairs and the adapter's initial weights."""
    return plain_dpo(replace(bench, seed=1000 * (member + 1) + bench.seed), f"member-{member}").model


def memorized(bench: Bench, member: int):
    """Fine-tune on 300 questions, drawn for each member, until they are memorized."""
    questions = bench.data.labeled()
    chosen = np.random.default_rng((bench.seed, member)).permutation(len(questions))[:300]
    bench = replace(bench, seed=1000 * (member + 1) + bench.seed)
    return fine_tuned(bench, "long", bench.pretrained(), [questions[row] for row in chosen], LONG).model


TRAININGS = {"dpo": aligned, "fine-tuning": memorized}
# The text before the figures of each on the page.
TITLES = {"dpo": "Aligned with DPO instead:", "fine-tuning": "Fine-tuned:"}


def effect(how: str, preset: str, members: int, world: int) -> dict[str, dict[str, float]]:
    """Train a world's adapters, load them on one base model, and measure both orders on its test questions."""
    settings = PRESETS[preset]
    if not settings.alignment.lora_rank:
        # Adapters learn faster than full weights would at the same rate.
        alignment = replace(settings.alignment, lora_rank=16, learning_rate=2 * settings.alignment.learning_rate)
        settings = replace(settings, alignment=alignment)
    with tempfile.TemporaryDirectory() as work:
        bench = make_bench(settings, world, pretrained_folder(settings, world), Path(work), progress=False)
        folders = []
        for member in range(members):
            folders.append(Path(work) / f"adapter-{member}")
            TRAININGS[how](bench, member).save_pretrained(folders[-1])
            save_calibration_metadata(folders[-1], option_counts=[4])
        together = hf_calib.ensemble(folders, base_model=bench.pretrained_folder)
        one = sum(parameter.numel() for parameter in bench.pretrained().parameters())
        held = sum(parameter.numel() for parameter in together.model.parameters())
        print(f"world {world}: {members} members hold {held:,} numbers; {members} models are {members * one:,}")
        questions = bench.data.test["in"].to_questions()
        logs = together.log_probabilities(questions, batch_size=512)
    answers = np.array([question.answer for question in questions])
    fit, test = np.split(np.random.default_rng(world).permutation(len(answers)), [N_LABELS])

    def probabilities(calibrator, chosen):
        return calibrator.fit(logs[chosen][..., fit, :], answers[fit]).transform(logs[chosen][..., test, :])

    def mean_of_members(measure):
        rows = [measured(measure(member), answers[test]) for member in range(members)]
        return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}

    plain = np.exp(logs[:, test] - np.logaddexp.reduce(logs[:, test], axis=-1, keepdims=True))
    return {
        "a member": mean_of_members(lambda member: plain[member]),
        "a member, calibrated": mean_of_members(lambda member: probabilities(by_name("temperature"), member)),
        "pooled": measured(plain.mean(axis=0), answers[test]),
        "calibrate then pool": measured(
            probabilities(by_name("ensemble", order="calibrate_then_pool"), slice(None)), answers[test]
        ),
        "pool then calibrate": measured(probabilities(by_name("ensemble"), slice(None)), answers[test]),
    }


def main():
    """Print the table, and put it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--how", choices=sorted(TRAININGS), default="fine-tuning")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--write", action="store_true", help="also put the figures into adapters.md")
    arguments = parser.parse_args()
    rows = over_seeds(
        lambda world: effect(arguments.how, arguments.preset, arguments.members, world), arguments.worlds
    )
    table = render_table(rows)
    print(f"{arguments.how}: {arguments.members} members, {arguments.worlds} worlds\n\n{table}")
    if arguments.write:
        write_figures(Path(__file__).with_name("adapters.md"), table, after=TITLES[arguments.how])


if __name__ == "__main__":
    main()
