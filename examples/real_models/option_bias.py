r"""
Compare ways to read confidence that take out a preference for letters or for frequent texts.

```bash
python examples/real_models/option_bias.py --model HuggingFaceTB/SmolLM2-135M-Instruct \
    --dataset allenai/ai2_arc:ARC-Easy:test --n 1000 --scores scores.jsonl --out results.json
```

Every score is kept in the file of `--scores`, so that the methods share forward passes and a stopped run resumes. The
results are added to the file of `--out` and printed as a table.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import positive
from kept_scores import KeptScores, opened

from hf_calib.calibrators import by_name
from hf_calib.calibrators.cross_validation import held_out_predictions
from hf_calib.confidence import Asking, ConfidenceMethod, Marginalized, Predictions, confidence_method
from hf_calib.tasks import PromptFormat, Question, load_questions, other_orders, permute_options

LETTERS = ("letters", "letters-pride", "letters-batch", "letters-content-free")
TEXTS = ("text", "text-characters", "text-tokens", "text-pmi", "text-pmi-domain", "text-content-free")
MEASURES = ("accuracy", "confidence", "ece", "brier", "nll")


def methods(texts: bool) -> dict[str, ConfidenceMethod]:
    """Return the ways by name; rotations are all rotations of the options."""
    rotations = {
        "rotations, arithmetic mean": Marginalized(n_orders=26),
        "rotations, geometric mean": Marginalized(n_orders=26, mean="geometric"),
    }
    return {
        **{name: confidence_method(name) for name in LETTERS},
        **rotations,
        **({name: confidence_method(name) for name in TEXTS} if texts else {}),
    }


def compared(source: KeptScores, asked: list[Question], asking: Asking, *, texts: bool) -> dict[str, Any]:
    """Return each method's measures, as they are and with a cross-validated temperature, and its flip rate.

    The flip rate is the share of answers that change in one other, random order of the options. Methods that estimate
    a preference estimate it on the questions in that order too. Texts are asked without a list of options, so their
    order does not matter.
    """
    orders = [own[0] for own in other_orders(asked, 1, seed=0)]
    turned = [permute_options(question, order) for question, order in zip(asked, orders, strict=True)]
    found = {}
    for name, method in methods(texts).items():
        predictions = method.predict(source, asked, PromptFormat(), asking)
        temperature = held_out_predictions(predictions, partial(by_name, "temperature"))
        found[name] = {
            "as it is": measured(predictions),
            "one temperature": measured(temperature),
            "largest share of one letter": float(np.bincount(predictions.predicted).max() / len(asked)),
        }
        if name not in TEXTS:
            other = method.predict(source, turned, PromptFormat(), asking).with_options_back(orders)
            found[name]["flip_rate"] = float((other.predicted != predictions.predicted).mean())
    return found


def measured(predictions: Predictions) -> dict[str, Any]:
    """Return the measures with their intervals."""
    report = predictions.report()
    values = {key: report.measures[key] for key in MEASURES}
    return {
        **{key: [own.value, own.low, own.high] for key, own in values.items()},
        "ece_if_calibrated": report.ece_convention["calibrated_model"],
    }


def table(result: dict[str, Any]) -> str:
    """Return the main figures as a Markdown table, before → after one temperature."""
    lines = [
        f"| {result['model']}, {result['dataset']}, n = {result['n']} | accuracy | ECE | Brier | flip rate |",
        "|---|---|---|---|---|",
    ]
    for name, own in result["methods"].items():
        accuracy = _with_interval(own["as it is"]["accuracy"])
        ece = " → ".join(_with_interval(own[stage]["ece"]) for stage in ("as it is", "one temperature"))
        brier = " → ".join(f"{own[stage]['brier'][0]:.3f}" for stage in ("as it is", "one temperature"))
        flipped = f"{own['flip_rate']:.2f}" if "flip_rate" in own else ""
        lines.append(f"| {name} | {accuracy} | {ece} | {brier} | {flipped} |")
    return "\n".join(lines)


def _with_interval(value: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*value)


def main() -> None:
    """Ask, measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or Hub id")
    parser.add_argument("--dataset", required=True, help="as hf-calib measure takes it")
    parser.add_argument(
        "--n", type=positive, default=1000, help="questions at most, drawn at random (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=positive, default=8, help="questions per forward (default: %(default)s)")
    parser.add_argument("--no-texts", action="store_true", help="leave out the options' texts")
    parser.add_argument("--scores", required=True, help="JSON Lines file to keep scores in")
    parser.add_argument("--out", required=True, type=Path, help="JSON file to add the results to")
    arguments = parser.parse_args()
    for file in (arguments.out, Path(arguments.scores)):
        file.parent.mkdir(parents=True, exist_ok=True)
    asked = load_questions(arguments.dataset, limit=arguments.n)
    source = opened(arguments.model, arguments.scores)
    result = {
        "model": Path(arguments.model).name,
        "dataset": Path(arguments.dataset).stem,
        "n": len(asked),
        "methods": compared(source, asked, Asking(arguments.batch_size), texts=not arguments.no_texts),
    }
    results = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    others = [own for own in results if any(own[key] != result[key] for key in ("model", "dataset", "n"))]
    arguments.out.write_text(json.dumps([*others, result], indent=2) + "\n", encoding="utf-8")
    print(table(result))


if __name__ == "__main__":
    main()
