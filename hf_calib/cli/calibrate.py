"""`hf-calib calibrate`."""

from __future__ import annotations

import argparse
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.thresholds import check_names
from .options import (
    DATASET_HELP,
    add_command,
    add_force,
    add_model_options,
    add_out,
    add_question_options,
    add_report_options,
    ask_options,
    check_source,
)
from .output import WIDTH, calibrators_table, print_json
from .thresholds import add_threshold, exit_code

if TYPE_CHECKING:
    from ..evaluation import Calibration


def add_calibrate_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "calibrate",
        usage="(--model M --dataset D | ...) --out DIR",
        help="fit a calibrator for a model's confidence",
        description="Fit a calibrator on a model's answers to held-out questions, cross-validate it and save it; "
        "`hf-calib measure --calibrator DIR` then uses it.",
        example="hf-calib calibrate --model my/aligned --dataset held-out.jsonl --method auto --out calibrator",
        flags_of_arguments={"method": "--confidence", "calibrators": "--method"},
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a folder or Hub id of a causal language model or adapter")
    source.add_argument("--from-predictions", metavar="FILE", help="existing predictions, or their folder")
    parser.add_argument(
        "--dataset", action="append", default=[], help=f"questions that the model was not trained on: {DATASET_HELP}"
    )
    parser.add_argument(
        "--method",
        nargs="+",
        default=["temperature"],
        metavar="NAME",
        help="calibrators, such as temperature, vector or isotonic; of several, the one with the lowest "
        "cross-validated log-loss is kept. auto chooses by the data, from our comparison of calibrators; localized "
        "and simplex_etf use the hidden states of --model (default: temperature)",
    )
    parser.add_argument(
        "--by",
        choices=("subject", "type", "n_options", "dataset"),
        help="fit a temperature for each group of questions, close to that of all questions where a group is small",
    )
    parser.add_argument(
        "--target-predictions",
        metavar="FILE",
        help="the model's predictions for new questions, without their answers: for adaptive_ensemble, "
        "importance_weighted and auto",
    )
    parser.add_argument(
        "--reference-predictions",
        metavar="FILE",
        help="the pre-trained model's predictions for the same questions, used instead of answers: for "
        "reference_agreement and auto",
    )
    parser.add_argument("--folds", type=int, default=5, help="folds of the cross-validation (default: %(default)s)")
    add_out(parser, "for calibrator.json, calibration.json", required=True)
    add_force(parser, "also save a fit that does not generalize")
    add_question_options(parser)
    add_model_options(parser)
    add_report_options(parser)
    add_threshold(parser, several=", of the cross-validated measures with the calibrator")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..evaluation import UninformativeFitError, calibrate, this_process
    from ..measures import CATALOG
    from ..reports import Measurement

    check_source(options)
    check_names(options.fail_if, CATALOG)
    recorded = options.from_predictions
    refusal = None
    try:
        calibration = calibrate(
            options.model if recorded is None else Measurement.load(recorded, seed=options.seed),
            options.dataset or None,
            calibrators=options.method,
            by=options.by,
            target_predictions=options.target_predictions,
            reference_predictions=options.reference_predictions,
            folds=options.folds,
            method=options.confidence,
            out=options.out,
            force=options.force,
            seed=options.seed,
            **ask_options(options),
        )
    except UninformativeFitError as error:
        refusal, calibration = error, error.calibration
    if not this_process(options.device).is_first:  # another process prints
        return 0
    if options.json:
        print_json(calibration.to_dict(), options)
    else:
        _print(calibration, None if refusal else options.out)
    if refusal is not None:
        print(f"hf-calib calibrate: {refusal}", file=sys.stderr)
        return 1
    return exit_code("calibrate", options.fail_if, {"": calibration.values()})


def _print(calibration: Calibration, out: Path | None) -> None:
    from ..measures.verdict import convention_note

    print("Cross-validated: each question's probabilities come from a fit without it.\n")
    print(calibrators_table(calibration.reports))
    conventions = {name: report.ece_convention for name, report in calibration.reports.items()}
    print(textwrap.fill(convention_note(conventions), WIDTH))
    for name, reason in calibration.refused.items():
        print(textwrap.fill(f"{name} cannot be fitted here: {reason}", WIDTH))
    for finding in calibration.warnings:
        print(textwrap.fill(f"! {finding}", WIDTH, break_on_hyphens=False))
    print()
    if calibration.choice:
        print("auto chose {chosen}: {reason}".format(**calibration.choice))
    if out is not None:
        print(f"Saved {calibration.name} to {out}")
