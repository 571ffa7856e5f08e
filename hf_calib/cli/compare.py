"""`hf-calib compare`."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from ..evaluation.thresholds import check_names
from .options import (
    DATASET_HELP,
    add_command,
    add_model_options,
    add_out,
    add_question_options,
    add_report_options,
    ask_options,
)
from .output import WIDTH, print_json
from .thresholds import add_threshold, exit_code

if TYPE_CHECKING:
    from ..reports import Comparison
    from ..reports.table import Cell

# Two names of this length fit a table of `WIDTH` columns.
_NAME = 15
_NO_DIFFERENCE = "not significantly different"


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
        flags_of_arguments={"method": "--confidence"},
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="the base and the others: folders or Hub ids of models, or folders that `hf-calib measure` wrote",
    )
    parser.add_argument("--dataset", action="append", default=[], help=f"{DATASET_HELP}; may be given several times")
    add_out(parser, "for comparison.json and comparison.html")
    add_question_options(parser, several_methods=True)
    add_model_options(parser, adapter=False)
    add_report_options(parser)
    add_threshold(
        parser,
        "ece.change.low>0",
        several=": ece is a model's own, ece.base the base's, ece.change the difference, ece.change.low and .high its "
        "interval; sharpening is available too. It is enough that one model, dataset and method meets the condition",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..evaluation import compare, this_process
    from ..reports import Comparison

    check_names(options.fail_if, Comparison.value_names())
    comparison = compare(
        options.models,
        options.dataset or None,
        method=options.confidence,
        out=options.out,
        seed=options.seed,
        **ask_options(options),
    )
    if not this_process(options.device).is_first:  # another process prints
        return 0
    if options.json:
        print_json(comparison.to_dict(), options)
    else:
        _print(comparison)
    return exit_code("compare", options.fail_if, comparison.values())


def _print(comparison: Comparison) -> None:
    from ..measures import CATALOG
    from ..reports import render_table
    from ..reports.comparison import summary
    from ..reports.terminal import shown_name

    base = comparison.models[0]
    for note in comparison.notes:
        print(textwrap.fill(note, WIDTH), end="\n\n")
    for key, own in comparison.differences.items():
        model, task, method = key
        print(textwrap.shorten(f"{shown_name(task)} ({method})", WIDTH, placeholder="…"))
        print(textwrap.fill(comparison.n_text(key), WIDTH))
        print(textwrap.fill(summary(model, base, own), WIDTH))
        for name in (base, model):
            for finding in comparison.warnings.get((name, task, method), ()):
                print(textwrap.fill(f"! {name}: {finding}", WIDTH, break_on_hyphens=False))
        slope = comparison.sharpenings.get(key)
        if slope is not None:
            factor = f"The log-odds of {model} are {slope.slope.value:.2f} times those of {base}"
            print(textwrap.fill(f"{factor} (R² {slope.r_squared:.2f}).", WIDTH))
        one, two = _headings(base, model)
        rows: list[dict[str, Cell]] = [
            {
                "measure": CATALOG[difference.measure].short,
                one: difference.base,
                two: difference.other,
                "difference": difference.difference,
                "verdict": difference.verdict.replace(_NO_DIFFERENCE, "–"),
            }
            for difference in own
        ]
        print(f"\n{render_table(rows)}")
        if any(difference.verdict == _NO_DIFFERENCE for difference in own):
            print(f"–: {_NO_DIFFERENCE} (the interval of the difference includes 0)")
        print(textwrap.fill(comparison.ece_note(key), WIDTH))
        print()


def _headings(base: str, model: str) -> tuple[str, str]:
    """Return two names that fit the table, different ones; of long ones the ends, which tell versions apart."""
    one, two = (name if len(name) <= _NAME else "…" + name[1 - _NAME :] for name in (base, model))
    return (one, two) if one != two else (f"{one[: _NAME - 2]} 1", f"{two[: _NAME - 2]} 2")
