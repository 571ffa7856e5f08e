"""`hf-calib compare`."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from .options import (
    DATASET_HELP,
    METHODS,
    add_command,
    add_model_options,
    add_question_options,
    add_report_options,
)
from .predictions import PREDICTIONS_FILE, PROGRESS, read_answered
from .thresholds import add_threshold, check_names, exit_code

if TYPE_CHECKING:
    from ..confidence.predictions import Predictions
    from ..reports import Comparison
    from ..reports.table import Cell

_WIDTH = 80


def add_compare_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "compare",
        usage="BASE MODEL [MODEL ...] [--dataset D]",
        help="compare two or more models on the same questions",
        description="Compare models with a base on the same questions: every measure's difference with its paired "
        "interval and a verdict, and how much sharper the log-odds have become; for each dataset and each way to read "
        "confidence.",
        example="hf-calib compare my/base my/aligned --dataset cais/mmlu:all:test --out comparison",
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="the base and the others: folders or Hub ids of models, or folders that `hf-calib measure` wrote",
    )
    parser.add_argument("--dataset", action="append", default=[], help=f"{DATASET_HELP}; may be given several times")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for comparison.json and comparison.html")
    add_question_options(parser, several_methods=True)
    add_model_options(parser, adapter=False)
    add_report_options(parser)
    add_threshold(
        parser,
        "ece.change.low>0",
        several=": ece is a model's own, ece.base the base's, ece.change the difference, ece.change.low and .high its "
        "interval; sharpening. It is enough that it holds of one model on one dataset in one way",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..reports import Comparison
    from ..reports.paired import HEADINGS

    parts = ("", ".base", ".change", ".change.low", ".change.high")
    check_names(options.fail_if, [*(measure + part for measure in HEADINGS for part in parts), "sharpening"])
    if len(options.models) < 2:
        raise ValueError("a comparison needs a base and at least one other model")
    if len(set(options.models)) < len(options.models):
        raise ValueError("a model is given twice")
    skipped: dict[str, dict[str, int]] = {}
    measured = [(Path(model) / PREDICTIONS_FILE).is_file() for model in options.models]
    if all(measured):
        if options.dataset:
            raise ValueError("these folders were measured already; leave --dataset out")
        predictions = _read(options.models)
    elif any(measured):
        raise ValueError("give either models or folders that were measured, not both")
    elif not options.dataset:
        raise ValueError("models need at least one --dataset to be compared on")
    else:
        asked = _ask(options)
        if asked is None:  # another process writes and prints
            return 0
        predictions, skipped = asked
    comparison = Comparison.of(predictions, seed=options.seed)
    if options.out is not None:
        _save(comparison, options.out, skipped)
    if options.json:
        print(json.dumps({**comparison.to_dict(), **skipped}))
    else:
        _print(comparison)
    return exit_code("compare", options.fail_if, _values(comparison))


def _values(comparison: Comparison) -> dict[str, dict[str, float]]:
    """Return the numbers of each cell by name, for conditions."""
    found: dict[str, dict[str, float]] = {}
    for (model, task, method), differences in comparison.differences.items():
        own = found.setdefault(f"{model} on {task} ({method})", {})
        for one in differences:
            change = {"": one.difference.value, ".low": one.difference.low, ".high": one.difference.high}
            own |= {one.measure: one.other, f"{one.measure}.base": one.base}
            own |= {f"{one.measure}.change{part}": v for part, v in change.items() if v is not None}
        slope = comparison.sharpenings.get((model, task, method))
        if slope is not None:
            own["sharpening"] = slope.slope.value
    return found


def _read(folders: list[str]) -> dict[tuple[str, str, str], Predictions]:
    reports = [json.loads((Path(folder) / "report.json").read_text(encoding="utf-8")) for folder in folders]
    methods = [report.get("run", {}).get("confidence", {}).get("name") for report in reports]
    # How predictions from elsewhere were read is not known; they go with the others' if those were read in one way.
    known = set(methods) - {None}
    unknown = known.pop() if len(known) == 1 else "recorded"
    return {
        (name, task, method or unknown): recorded.predictions
        for name, folder, method in zip(_names(folders), folders, methods, strict=True)
        for task, recorded in read_answered(folder).items()
    }


def _ask(
    options: argparse.Namespace,
) -> tuple[dict[tuple[str, str, str], Predictions], dict[str, dict[str, int]]] | None:
    from . import asking as steps
    from .predictions import ask_model, skipped_rows

    found = {}
    skipped: dict[str, dict[str, int]] = {}
    where = steps.this_process(options.device)
    for number, (name, model) in enumerate(zip(_names(options.models), options.models, strict=True)):
        backend = steps.open_model(model, options, where)
        for method in dict.fromkeys(options.confidence or METHODS[:1]):
            progress = None if options.out is None else options.out / PROGRESS / f"{number}-{method}"
            asked = ask_model(options, model, options.dataset, progress, method_name=method, backend=backend)
            if asked is None:
                continue
            for task, recorded in asked[0].items():
                found[name, task, method] = recorded.predictions
            skipped = skipped_rows(asked[0])
    return (found, skipped) if found else None


def _names(models: list[str]) -> list[str]:
    """Return the models' last names where those tell them apart."""
    short = [Path(model).name for model in models]
    return short if len(set(short)) == len(models) else list(models)


def _save(comparison: Comparison, folder: Path, skipped: dict[str, dict[str, int]]) -> None:
    from ..reports.page import render_comparison

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.html").write_text(render_comparison(comparison), encoding="utf-8")
    text = json.dumps({**comparison.to_dict(), **skipped}, indent=2, allow_nan=False) + "\n"
    (folder / "comparison.json").write_text(text, encoding="utf-8")
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)


def _print(comparison: Comparison) -> None:
    from ..reports import render_table
    from ..reports.comparison import summary
    from ..reports.paired import HEADINGS

    for (model, task, method), own in comparison.differences.items():
        print(textwrap.shorten(f"{task} ({method})", _WIDTH, placeholder="…"))
        print(textwrap.fill(summary(model, comparison.models[0], own), _WIDTH))
        slope = comparison.sharpenings.get((model, task, method))
        if slope is not None:
            factor = f"Its log-odds are {slope.slope.value:.2f} times the base's"
            print(f"{factor} (R² {slope.r_squared:.2f}).")
        rows: list[dict[str, Cell]] = [
            {
                "measure": HEADINGS[one.measure],
                "base": one.base,
                "other": one.other,
                "difference": one.difference,
                "verdict": one.verdict,
            }
            for one in own
        ]
        print(render_table(rows), end="\n\n")
