"""Compare ways to read confidence that take out a preference for letters or for frequent texts.

    python examples/real_models/option_bias.py --model HuggingFaceTB/SmolLM2-135M-Instruct \
        --dataset allenai/ai2_arc:ARC-Easy:test --n 200 --scores scores.jsonl --out results.json

Every score is kept in the file of `--scores`, so that the ways share forwards and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from kept_scores import KeptScores, N, opened, questions_of

from hf_calib.calibrators import by_name
from hf_calib.calibrators.cross_validation import held_out_predictions
from hf_calib.confidence import Asking, ConfidenceMethod, Marginalized, Predictions, confidence_method
from hf_calib.tasks import PromptFormat, Question, other_orders, permute_options

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


def compared(source: KeptScores, asked: list[Question], n_flips: int, *, texts: bool) -> dict[str, Any]:
    """Return each way's measures, as they are and with a cross-validated temperature, and its flip rate.

    The flip rate is the share of the first `n_flips` answers that change in one other, random order of the options.
    Ways that estimate a preference estimate it on the same questions in that order too.
    """
    found = {}
    for name, method in methods(texts).items():
        predictions = method.predict(source, asked, PromptFormat(), Asking(8))
        temperature = held_out_predictions(predictions, partial(by_name, "temperature"))
        found[name] = {
            "as it is": measured(predictions),
            "one temperature": measured(temperature),
            "largest share of one letter": float(np.bincount(predictions.predicted).max() / len(asked)),
        }
        if name not in TEXTS:
            found[name] |= flips(source, method, asked[:n_flips])
    return found


def measured(predictions: Predictions) -> dict[str, Any]:
    """Return the measures with their intervals."""
    report = predictions.report()
    values = {key: report.measures[key] for key in MEASURES}
    return {
        **{key: [own.value, own.low, own.high] for key, own in values.items()},
        "ece_if_calibrated": report.ece_convention["calibrated_model"],
    }


def flips(source: KeptScores, method: ConfidenceMethod, asked: list[Question]) -> dict[str, Any]:
    """Return the share of answers that change in another order of the options."""
    orders = [own[0] for own in other_orders(asked, 1, seed=0)]
    turned = [permute_options(question, order) for question, order in zip(asked, orders, strict=True)]
    one = method.predict(source, asked, PromptFormat(), Asking(8))
    other = method.predict(source, turned, PromptFormat(), Asking(8)).with_options_back(orders)
    return {"flip_rate": float((one.predicted != other.predicted).mean()), "n_flips": len(asked)}


def main() -> None:
    """Ask, measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder or Hub id")
    parser.add_argument("--dataset", required=True, help="as hf-calib measure takes it")
    parser.add_argument("--n", type=int, default=N, help=f"questions, at most {N} (default: %(default)s)")
    parser.add_argument("--n-flips", type=int, default=60, help="of these for the flip rate (default: %(default)s)")
    parser.add_argument("--no-texts", action="store_true", help="leave out the options' texts")
    parser.add_argument("--scores", required=True, help="JSON Lines file to keep scores in")
    parser.add_argument("--out", required=True, type=Path, help="JSON file to add the results to")
    arguments = parser.parse_args()
    asked = questions_of(arguments.dataset, arguments.n)
    source = opened(arguments.model, arguments.scores)
    result = {
        "model": Path(arguments.model).name,
        "dataset": Path(arguments.dataset).stem,
        "n": len(asked),
        "methods": compared(source, asked, min(arguments.n_flips, len(asked)), texts=not arguments.no_texts),
    }
    results = json.loads(arguments.out.read_text()) if arguments.out.is_file() else []
    others = [own for own in results if any(own[key] != result[key] for key in ("model", "dataset", "n"))]
    arguments.out.write_text(json.dumps([*others, result], indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
