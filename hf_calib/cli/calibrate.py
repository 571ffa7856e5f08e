"""`hf-calib calibrate`."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import DATASET_HELP, add_command, add_model_options, add_question_options, add_report_options
from .predictions import PROGRESS
from .thresholds import add_threshold, check_names, exit_code

if TYPE_CHECKING:
    import numpy as np

    from ..confidence.predictions import Predictions
    from ..measures import CalibrationReport
    from ..reports.table import Cell

_REPORT = "calibration.json"


def add_calibrate_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "calibrate",
        usage="(--model M --dataset D | ...) --out DIR",
        help="fit a map that makes a model's confidence calibrated",
        description="Fit a calibrator on a model's answers to held-out questions, cross-validate it and save it; "
        "`hf-calib measure --calibrator DIR` then uses it.",
        example="hf-calib calibrate --model my/aligned --dataset held-out.jsonl --method auto --out calibrator",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a folder or the Hub id of a causal language model or adapter")
    source.add_argument("--from-predictions", metavar="FILE", help="predictions that exist already, or their folder")
    parser.add_argument(
        "--dataset", action="append", default=[], help=f"questions that it was not trained on: {DATASET_HELP}"
    )
    parser.add_argument(
        "--method",
        nargs="+",
        default=["temperature"],
        metavar="NAME",
        help="calibrators, such as temperature, vector or isotonic; of several the one whose cross-validated log-loss "
        "is the lowest is kept. auto takes the one that did best in the comparison for what there is to fit on; "
        "localized and simplex_etf take the hidden states of --model (default: temperature)",
    )
    parser.add_argument(
        "--target-predictions",
        metavar="FILE",
        help="the model's predictions of the questions to come, whose answers are not used: for adaptive_ensemble, "
        "importance_weighted and auto",
    )
    parser.add_argument(
        "--reference-predictions",
        metavar="FILE",
        help="the pre-trained model's predictions of the same questions, in the answers' place: for "
        "reference_agreement and auto",
    )
    parser.add_argument("--folds", type=int, default=5, help="of the cross-validation (default: %(default)s)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for calibrator.json, calibration.json")
    add_question_options(parser)
    add_model_options(parser)
    add_report_options(parser)
    add_threshold(parser, several=", of the cross-validated measures with the calibrator")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..calibrators import CALIBRATOR_FILE, by_name
    from ..calibrators.storage import described
    from ..measures.report import HEADINGS
    from ..reports.measurement import pool
    from .predictions import answered_by

    check_names(options.fail_if, HEADINGS)
    methods = tuple(dict.fromkeys(options.method))
    # One that does not exist is told before the model is asked.
    with_features = any(getattr(by_name(name), "needs_features", False) for name in methods)
    answered = answered_by(
        options,
        options.model,
        options.from_predictions,
        options.dataset,
        options.out,
        hidden_states=with_features,
    )
    if answered is None:  # another process writes and prints
        return 0
    predictions = pool(answered)
    given = _given(options, predictions)
    reports: dict[str, CalibrationReport] = {"none": predictions.report(seed=options.seed)}
    refused: dict[str, str] = {}
    for name in methods:
        try:
            reports[name] = _cross_validated(predictions, name, given, options)
        except ValueError as error:
            if len(methods) == 1:
                raise
            refused[name] = str(error)
    candidates = [name for name in reports if name != "none"]
    if not candidates:
        raise ValueError(f"no method can be fitted here: {'; '.join(refused.values())}")
    best = min(candidates, key=lambda name: reports[name].measures["nll"].value)
    calibrator = given.fitted(best, predictions.option_log_probabilities)
    calibrator.save(options.out / CALIBRATOR_FILE)
    chosen = {"chosen": calibrator.chosen, "reason": calibrator.reason} if best == "auto" else {}
    result = {
        "method": best,
        **chosen,
        "parameters": described(calibrator.parameters()),
        "n": len(predictions),
        "folds": options.folds,
        "seed": options.seed,
        "refused": refused,
        "cross_validated": {name: report.to_dict() for name, report in reports.items()},
    }
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    (options.out / _REPORT).write_text(text, encoding="utf-8")
    shutil.rmtree(options.out / PROGRESS, ignore_errors=True)
    if options.json:
        print(json.dumps(result))
    else:
        _print(reports, refused, best, options.out)
        if chosen:
            print(f"auto took {chosen['chosen']}: {chosen['reason']}")
    values = {name: measure.value for name, measure in reports[best].measures.items()}
    return exit_code("calibrate", options.fail_if, {"": values})


@dataclass(frozen=True)
class _Given:
    """What there is to fit on beside predictions.

    Answers or a reference's predictions, and perhaps a target's predictions and the hidden states.
    """

    labels: np.ndarray
    target: np.ndarray | None
    features: np.ndarray | None

    def fitted(self, name: str, predictions: np.ndarray) -> Any:
        """Return a calibrator that is fitted on all there is."""
        from ..calibrators.cross_validation import fit_with_target

        calibrator = _for_options(name, self.features)
        if self.target is not None:
            return fit_with_target(calibrator, predictions, self.labels, self.target)
        return calibrator.fit(predictions, self.labels, features=self.features if calibrator.needs_features else None)


def _given(options: argparse.Namespace, predictions: Predictions) -> _Given:
    from ..reports.measurement import pool
    from .predictions import read_answered

    labels: np.ndarray = predictions.answers
    if options.reference_predictions is not None:
        if options.target_predictions is not None:
            raise ValueError("a reference's predictions are taken in the answers' place, without --target-predictions")
        reference = pool(read_answered(options.reference_predictions))
        labels = reference.option_log_probabilities
        if labels.shape != predictions.option_log_probabilities.shape:
            raise ValueError(
                f"the reference was asked {len(reference)} questions and the model {len(predictions)}; both must be "
                "asked the same ones"
            )
    target = None
    if options.target_predictions is not None:
        target = pool(read_answered(options.target_predictions)).option_log_probabilities
    return _Given(labels, target, predictions.hidden_states)


def _for_options(name: str, features: np.ndarray | None) -> Any:
    """Return a new calibrator, or raise a ValueError if what there is is not enough for it."""
    from ..calibrators import by_name
    from ..calibrators.protocol import BaseCalibrator

    calibrator = by_name(name)
    if not isinstance(calibrator, BaseCalibrator):
        raise ValueError(f"the calibrator {name!r} is for numbers, not for options; use it in Python")
    if calibrator.needs_features and features is None:
        raise ValueError(
            f"the calibrator {name!r} needs features, the hidden states, which files of predictions don't hold; give "
            "--model and --dataset"
        )
    return calibrator


def _cross_validated(
    predictions: Predictions, name: str, given: _Given, options: argparse.Namespace
) -> CalibrationReport:
    from ..calibrators.cross_validation import cross_validate
    from ..measures import CalibrationReport

    held_out = cross_validate(
        lambda: _for_options(name, given.features),
        predictions.option_log_probabilities,
        given.labels,
        features=given.features,
        unlabeled=given.target,
        n_folds=options.folds,
        seed=options.seed,
    )
    settings: dict[str, Any] = {"seed": options.seed}
    return CalibrationReport.from_predictions(held_out.probabilities, predictions.answers, **settings)


def _print(reports: dict[str, CalibrationReport], refused: dict[str, str], best: str, out: Path) -> None:
    from ..reports import render_table

    rows: list[dict[str, Cell]] = [
        {
            "calibrator": name,
            "accuracy": report.measures["accuracy"].value,
            "confidence": report.measures["confidence"].value,
            "ECE": report.measures["ece"],
            "NLL": report.measures["nll"].value,
        }
        for name, report in reports.items()
    ]
    print("Cross-validated: each question's probabilities come from a fit without it.\n")
    print(render_table(rows))
    for name, reason in refused.items():
        print(textwrap.fill(f"{name} can't be fitted here: {reason}", 80))
    print(f"\nSaved {best} to {out}")
