"""`hf-calib threshold`."""

from __future__ import annotations

import argparse
import textwrap

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
from .output import WIDTH, print_json
from .thresholds import add_threshold, exit_code

# What --fail-if can name; the second row only with --new.
_VALUES = ("coverage", "accuracy", "accuracy_low", "threshold", "n")
_OF_NEW = ("check.coverage", "check.accuracy", "check.low", "check.high", "check.n")


def add_threshold_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "threshold",
        usage="(--model M --dataset D | ...)",
        help="find the confidence above which answers reach an accuracy",
        description="Find the confidence above which a model's answers to new questions reach an accuracy, with a "
        "guarantee (an exact binomial bound that allows for all thresholds tried), and the share of answers above it. "
        "The questions must be held out, and like the ones to expect.",
        example="hf-calib threshold --from-predictions report --fail-if 'coverage<0.4'",
        flags_of_arguments={"method": "--confidence"},
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", help="a folder or Hub id of a causal language model or adapter")
    source.add_argument("--from-predictions", metavar="FILE", help="existing predictions, or their folder")
    parser.add_argument("--dataset", action="append", default=[], help=f"held-out questions: {DATASET_HELP}")
    parser.add_argument(
        "--accuracy", type=float, default=0.95, help="accuracy to reach, above 0 and below 1 (default: %(default)s)"
    )
    parser.add_argument(
        "--level", type=float, default=0.95, help="probability of the guarantee (default: %(default)s)"
    )
    parser.add_argument(
        "--by",
        choices=("subject", "type", "n_options", "dataset"),
        help="find a threshold for each group; the guarantee holds in all groups at once",
    )
    parser.add_argument(
        "--new",
        metavar="D",
        help="more questions to check the threshold on: a dataset with --model, a file or folder with "
        "--from-predictions",
    )
    parser.add_argument(
        "--calibrator",
        metavar="DIR",
        help="a calibrator to apply first, saved by `hf-calib calibrate` and fitted on other questions",
    )
    add_out(parser, "folder for threshold.json")
    add_question_options(parser)
    add_model_options(parser)
    add_report_options(parser)
    add_threshold(parser, "coverage<0.4", several=" (of each group)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..evaluation import find_threshold, this_process
    from ..reports import Measurement

    check_source(options)
    check_names(options.fail_if, (*_VALUES, *(_OF_NEW if options.new is not None else ())))
    recorded = options.from_predictions
    found = find_threshold(
        options.model if recorded is None else Measurement.load(recorded, seed=options.seed),
        options.dataset or None,
        accuracy=options.accuracy,
        level=options.level,
        by=options.by,
        new=options.new,
        method=None if recorded is not None else options.confidence,
        calibrator=options.calibrator,
        out=options.out,
        seed=options.seed,
        **ask_options(options),
    )
    if not this_process(options.device).is_first:  # another process prints
        return 0
    if options.json:
        print_json(found.to_dict(), options)
    else:
        print(found)
        for finding in found.warnings:
            print(textwrap.fill(f"! {finding}", WIDTH, break_on_hyphens=False))
        if options.out is not None:
            print(f"Wrote {options.out / 'threshold.json'}")
    return exit_code("threshold", options.fail_if, found.values())
