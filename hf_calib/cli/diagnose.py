"""`hf-calib diagnose`."""

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
    check_source,
)
from .output import WIDTH, print_json, print_skipped
from .thresholds import add_threshold, exit_code

if TYPE_CHECKING:
    from ..evaluation import Diagnosis
    from ..reports.table import Cell


def add_diagnose_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "diagnose",
        usage="(--model M --dataset D --held-out D | ...)",
        help="tell whether a fine-tuned model can be calibrated without losing accuracy, and how",
        description="Ask a model the questions that it was fine-tuned on and new ones of the same kind, and determine "
        "the regime: calibratable (plain supervised fine-tuning, CFT, suffices) or not (the model has begun to "
        "memorize).",
        example="hf-calib diagnose --model my/model --dataset train.jsonl --held-out test.jsonl",
        flags_of_arguments={"method": "--confidence", "training": "--dataset", "new": "--held-out"},
    )
    parser.add_argument("--model", help="a folder or Hub id of a causal language model or adapter")
    parser.add_argument(
        "--from-predictions",
        nargs=2,
        metavar=("TRAIN", "HELD_OUT"),
        help="predictions on the two sets that exist already: files, or folders that `hf-calib measure` wrote",
    )
    parser.add_argument("--dataset", metavar="D", help=f"what it was fine-tuned on: {DATASET_HELP}")
    parser.add_argument("--held-out", metavar="D", help="new questions of the same kind")
    parser.add_argument(
        "--critical-accuracy",
        type=float,
        metavar="ACC",
        help="highest accuracy that any model can reach on such questions, if known (default: the accuracy on the "
        "new questions, a lower estimate)",
    )
    add_out(parser, "for diagnosis.json")
    add_question_options(parser)
    add_model_options(parser)
    add_report_options(parser)
    add_threshold(parser, "gap_low>0.02", several=" (also new.ece, training.accuracy, ...)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..evaluation import Diagnosis, diagnose, this_process

    if (options.model is None) == (options.from_predictions is None):
        raise ValueError("give either --model or --from-predictions")
    check_source(options)
    check_names(options.fail_if, Diagnosis.value_names())
    sets = options.from_predictions or (options.dataset, options.held_out)
    if None in sets:
        raise ValueError("--model also needs --held-out, new questions of the same kind as --dataset")
    diagnosis = diagnose(
        *sets,
        model=options.model,
        critical_accuracy=options.critical_accuracy,
        method=options.confidence,
        out=options.out,
        seed=options.seed,
        **ask_options(options),
    )
    if not this_process(options.device).is_first:  # another process prints
        return 0
    if options.json:
        print_json(diagnosis.to_dict(), options)
    else:
        _print(diagnosis)
    return exit_code("diagnose", options.fail_if, {"": diagnosis.values()})


def _print(diagnosis: Diagnosis) -> None:
    from ..measures import Measure
    from ..reports import render_table

    print_skipped(diagnosis.skipped_rows)
    print(f"Regime: {diagnosis.regime}; use {diagnosis.method}\n")
    print(textwrap.fill(f"{diagnosis.reasons} {diagnosis.advice}", WIDTH), end="\n\n")
    rows: list[dict[str, Cell]] = [
        {
            "questions": name,
            "n": part.n,
            "accuracy": Measure(part.accuracy, part.low, part.high),
            "confidence": part.confidence,
            "ECE": part.ece,
            "|acc - conf|": part.bound,
        }
        for name, part in (("fine-tuned on", diagnosis.training), ("new", diagnosis.new))
    ]
    print(render_table(rows))
    print(f"\nGeneralization gap {diagnosis.gap:+.3f} [{diagnosis.gap_low:+.3f}, {diagnosis.gap_high:+.3f}]")
    print(textwrap.fill(f"{diagnosis.ece_note} No binning gives an ECE below |accuracy - mean confidence|.", WIDTH))
