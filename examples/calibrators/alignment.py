"""What alignment does to calibration: paired differences by task, way to read confidence and measure, over worlds.

python examples/calibrators/alignment.py --preset mini --worlds 5 --write
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from over_seeds import measure_over_runs, write_figures

from hf_calib.confidence import Asking, LocalModel, OptionLetters, OptionTexts, SampleConsistency
from hf_calib.lab import PRESETS, make_bench, plain_dpo, pretrained_folder
from hf_calib.reports import Comparison, render_table
from hf_calib.tasks import PromptFormat

WAYS = (OptionLetters(), OptionTexts(list_options=True), SampleConsistency(n_samples=10))
MEASURES = {"accuracy": "accuracy", "ece": "ECE", "cw_ece": "classwise ECE", "nll": "NLL", "brier": "Brier"}


def compared(preset: str, world: int) -> Comparison:
    """Align a world's model with DPO, and compare the model before and after."""
    settings = PRESETS[preset]
    with tempfile.TemporaryDirectory() as work:
        bench = make_bench(settings, world, pretrained_folder(settings, world), Path(work), progress=False)
        models = {"pre-trained": bench.pretrained(), "aligned": plain_dpo(bench).model}
        predictions = {
            (name, task, way.name): way.predict(
                LocalModel(model.eval(), bench.tokenizer), questions, PromptFormat(), Asking(256)
            )
            for name, model in models.items()
            for task, questions in ((task, bench.data.test[task].to_questions()) for task in ("in", "out"))
            for way in WAYS
        }
    return Comparison.of(predictions, seed=world)


def table_of(comparisons: list[Comparison]) -> list[dict]:
    """Return a row for each task and way: each measure before, and its paired difference over worlds."""
    rows: list[dict] = []
    for key in comparisons[0].differences:
        runs = [{own.measure: own for own in one.differences[key]} for one in comparisons]
        row: dict = {"task": key[1], "read off": key[2]}
        for measure, title in MEASURES.items():
            before = float(np.mean([run[measure].base for run in runs]))
            # A single right answer without a vote makes the log-loss of the votes infinite.
            there = np.isfinite(before)
            differences = [run[measure].difference.value for run in runs]
            row[f"{title} before"] = before if there else None
            row[f"{title} difference"] = measure_over_runs(differences) if there else None
        rows.append(row)
    return rows


def verdicts_of(comparisons: list[Comparison]) -> list[dict]:
    """Return in how many worlds each measure's paired difference was worse, better, or not significantly different."""
    rows: list[dict] = []
    for key in comparisons[0].differences:
        row: dict = {"task": key[1], "read off": key[2]}
        for measure, title in MEASURES.items():
            given = Counter(
                own.verdict for one in comparisons for own in one.differences[key] if own.measure == measure
            )
            row[title] = f"{given['worse']} / {given['better']} / {given['not significantly different']}"
        rows.append(row)
    return rows


def main():
    """Print the tables, and insert them into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="also insert the figures into alignment.md")
    arguments = parser.parse_args()
    comparisons = [compared(arguments.preset, world) for world in range(arguments.worlds)]
    differences, verdicts = render_table(table_of(comparisons)), render_table(verdicts_of(comparisons))
    print(f"{differences}\n\nworse / better / not significantly different, of {arguments.worlds} worlds\n\n{verdicts}")
    if arguments.write:
        page = Path(__file__).with_name("alignment.md")
        write_figures(page, differences)
        write_figures(page, verdicts, after="Verdicts")


if __name__ == "__main__":
    main()
