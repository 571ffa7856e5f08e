"""The balanced option head (BalCAL) of a causal language model, trained for many steps in the lab's worlds.

python examples/calibrators/option_head.py --preset mini --worlds 5 --write
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from over_seeds import measured, over_seeds, write_figures
from peft import get_peft_model
from transformers import TrainingArguments

from hf_calib.calibrators import by_name
from hf_calib.confidence import predict
from hf_calib.lab import PRESETS, adapter_config, make_bench, pretrained_folder
from hf_calib.lab.presets import FineTuningSettings
from hf_calib.reports import render_table
from hf_calib.trainers import train_option_head
from hf_calib.trainers.option_head import head_inputs

# For the miniature; the larger worlds have ten times as many steps.
LONG = FineTuningSettings(steps=240, learning_rate=2e-3, lora_rank=16)


def effect(preset: str, world: int) -> dict[str, dict[str, float]]:
    """Train adapter and head on a world's labeled questions until they are memorized, and ask new ones."""
    settings = PRESETS[preset]
    with tempfile.TemporaryDirectory() as work:
        bench = make_bench(settings, world, pretrained_folder(settings, world), Path(work), progress=False)
        questions = bench.data.test["in"].to_questions()
        # The labels of the held-out half balance the heads, or fit the temperature.
        held_out, test = questions[: len(questions) // 2], questions[len(questions) // 2 :]
        before = predict(bench.pretrained(), bench.tokenizer, test, batch_size=512)
        torch.manual_seed(world)
        steps = LONG.steps if preset == "mini" else 10 * LONG.steps
        model = get_peft_model(bench.pretrained(), adapter_config(LONG.lora_rank))
        arguments = TrainingArguments(
            work, max_steps=steps, learning_rate=LONG.learning_rate, use_cpu=True,
            per_device_train_batch_size=LONG.batch_size, per_device_eval_batch_size=512, seed=world,
            save_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        labeled = bench.data.calibration.to_questions()
        whole = train_option_head(model, bench.tokenizer, labeled, held_out, args=arguments, balance_steps=40)
    logits, answers = {}, {}
    for part, asked in (("held out", held_out), ("test", test)):
        said = predict(model, bench.tokenizer, asked, batch_size=512, hidden_states=True)
        hidden, mask = head_inputs(said, whole.head)
        with torch.no_grad():
            logits[part] = [values.double().numpy() for values in whole.head.classifiers(hidden, mask)]
            balanced = whole.head(hidden, mask).double().exp().numpy()
        answers[part] = said.answers
    learned, fixed = (np.exp(part - np.logaddexp.reduce(part, axis=1, keepdims=True)) for part in logits["test"])
    temperature = by_name("temperature").fit(logits["held out"][0], answers["held out"])
    right = answers["test"]
    return {
        "pre-trained": measured(before.probabilities, before.answers),
        "learned classifier": measured(learned, right),
        "simplex classifier": measured(fixed, right),
        "balanced": measured(balanced, right),
        "learned classifier, temperature": measured(temperature.transform(logits["test"][0]), right),
    }


def main():
    """Print the table, and insert it into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--worlds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="also insert the figures into simplex_etf.md")
    arguments = parser.parse_args()
    table = render_table(over_seeds(lambda world: effect(arguments.preset, world), arguments.worlds))
    print(table)
    if arguments.write:
        write_figures(Path(__file__).with_name("simplex_etf.md"), table, after="The head of a language model:")


if __name__ == "__main__":
    main()
