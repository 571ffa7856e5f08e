"""`hf-calib measure`."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .options import (
    DATASET_HELP,
    add_command,
    add_model_options,
    add_question_options,
    add_report_options,
)
from .predictions import PROGRESS, check_source
from .thresholds import add_threshold, check_names, exit_code

if TYPE_CHECKING:
    from ..confidence.recorded import Recorded
    from ..reports import Measurement
    from ..reports.table import Cell

_WIDTH = 80


def add_measure_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "measure",
        usage="(--model M --dataset D | --from-... FILE)",
        help="measure a model's calibration on multiple-choice questions",
        description="Ask a causal language model multiple-choice questions, read its confidence, and report accuracy, "
        "calibration error and more, with their 95% intervals. A run into --out that was stopped goes on when it is "
        "started again; torchrun or accelerate launch share the work among processes. Or measure predictions that "
        "exist already.",
        example="hf-calib measure --model gpt2 --dataset cais/mmlu:all:test --out report --fail-if 'ece>0.05'",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model", help="a folder or the Hub id of a causal language model or adapter, or openai:http://host:port/v1"
    )
    source.add_argument(
        "--from-predictions",
        metavar="FILE",
        help="a Parquet, CSV or JSONL file with the columns probabilities (or p_A, p_B, ...) and answer",
    )
    source.add_argument(
        "--from-lm-eval", metavar="FILE", nargs="+", help="lm-evaluation-harness's samples_*.jsonl (--log_samples)"
    )
    source.add_argument("--from-helm", metavar="DIR", help="a run folder of HELM, with its scenario_state.json")
    parser.add_argument("--dataset", action="append", default=[], help=f"{DATASET_HELP}; may be given several times")
    parser.add_argument(
        "--calibrator", metavar="DIR", help="what `hf-calib calibrate` saved: applied before measuring"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="for report.json, report.html, predictions.parquet, ..."
    )
    parser.add_argument(
        "--free-form",
        choices=("exact", "contains", "numeric"),
        help="the questions have no options, and an answer is right if it matches so; with --confidence "
        "consistency, stated or p-true",
    )
    add_question_options(parser)
    add_model_options(parser)
    add_report_options(parser)
    add_threshold(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..measures.report import HEADINGS

    check_source(options.model, options.dataset)
    check_names(options.fail_if, HEADINGS)
    measurement = _measure_model(options) if options.model is not None else _measure_existing(options)
    if measurement is None:  # another process writes and prints
        return 0
    if options.out is not None:
        measurement.save(options.out)
        shutil.rmtree(options.out / PROGRESS, ignore_errors=True)
    if options.json:
        print(json.dumps(measurement.to_dict()))
    else:
        _print(measurement)
    values = {name: measure.value for name, measure in measurement.report.measures.items()}
    return exit_code("measure", options.fail_if, {"": values})


def _measure_model(options: argparse.Namespace) -> Measurement | None:
    """Ask a model; None on all processes but the first."""
    from ..reports import Measurement
    from .predictions import ask_model

    calibrator = _calibrator(options)
    asked = ask_model(
        options,
        options.model,
        options.dataset,
        None if options.out is None else options.out / PROGRESS,
        hidden_states=getattr(calibrator, "needs_features", False),
    )
    if asked is None:
        return None
    name = options.model_name or Path(options.adapter or options.model).name
    answered, run = asked
    missing = {name: own for name, recorded in answered.items() if (own := _missing(recorded))}
    if missing:
        run = {**run, "options_not_returned": missing}
    return Measurement(name, *_calibrated(answered, run, calibrator), {"seed": options.seed})


def _missing(recorded: Recorded) -> dict[str, Any] | None:
    """Return what is not known since a server returned only the most probable tokens."""
    predictions = recorded.predictions
    if predictions.missing_bounds is None:
        return None
    low, high = predictions.confidence_bounds
    return {
        "questions": int((predictions.missing_bounds > 0).sum()),
        "largest_bound_of_an_option": float(predictions.missing_bounds.max()),
        "mean_confidence_at_least": float(low.mean()),
        "mean_confidence_at_most": float(high.mean()),
    }


def _measure_existing(options: argparse.Namespace) -> Measurement:
    from ..confidence.recorded import read_predictions
    from ..confidence.recorded_helm import read_helm
    from ..confidence.recorded_lm_eval import read_lm_eval
    from ..reports import Measurement

    if options.from_lm_eval is not None:
        path, run = options.from_lm_eval[0], {"from_lm_eval": options.from_lm_eval}
        answered = read_lm_eval(options.from_lm_eval)
    elif options.from_helm is not None:
        path, run = options.from_helm, {"from_helm": options.from_helm}
        answered = read_helm(path)
    else:
        path, run = options.from_predictions, {"from_predictions": options.from_predictions}
        answered = read_predictions(path)
    return Measurement(Path(path).stem, *_calibrated(answered, run, _calibrator(options)), {"seed": options.seed})


def _calibrator(options: argparse.Namespace) -> Any:
    """Return the calibrator that is to be applied, or None."""
    if options.calibrator is None:
        return None
    from ..calibrators import load_calibrator
    from ..calibrators.protocol import BaseCalibrator

    calibrator = load_calibrator(options.calibrator)
    if not isinstance(calibrator, BaseCalibrator):
        raise ValueError(f"the calibrator {calibrator.name!r} is for numbers, not for options; use it in Python")
    return calibrator


def _calibrated(
    answered: dict[str, Recorded], run: dict[str, Any], calibrator: Any
) -> tuple[dict[str, Recorded], dict[str, Any]]:
    if calibrator is None:
        return answered, run
    from dataclasses import replace

    from ..calibrators.storage import described

    changed = {
        name: replace(own, predictions=own.predictions.calibrated(calibrator)) for name, own in answered.items()
    }
    return changed, {**run, "calibrator": {"method": calibrator.name, **described(calibrator.parameters())}}


def _print(measurement: Measurement) -> None:
    from ..reports import render_table, verdict

    print(textwrap.fill(verdict(measurement.report), _WIDTH), end="\n\n")
    for name, own in measurement.run.get("options_not_returned", {}).items():
        text = (
            f"{name}: of {own['questions']} questions the server did not return all options; each of those has at "
            f"most {own['largest_bound_of_an_option']:.2g}, and the mean confidence is between "
            f"{own['mean_confidence_at_least']:.4f} and {own['mean_confidence_at_most']:.4f}."
        )
        print(textwrap.fill(text, _WIDTH), end="\n\n")
    for name, recorded in measurement.datasets.items():
        if recorded.skipped_rows:
            print(textwrap.fill(f"{name}: {recorded.skipped_rows} rows could not be read and were left out.", _WIDTH))
            print()
    print(measurement.report)
    if len(measurement.datasets) > 1:
        rows: list[dict[str, Cell]] = [
            {
                "dataset": name if len(name) <= 34 else "…" + name[-33:],
                "n": report.n,
                **{key: report.measures[key].value for key in ("accuracy", "confidence")},
                "ECE": report.measures["ece"].value,
            }
            for name, report in measurement.reports.items()
        ]
        print()
        print(render_table(rows))
