"""The `hf-calib` command. Thin: every line of work is a call into a room, imported when its command runs."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence

from .._version import __version__
from ..evaluation.provenance import COMMAND
from .calibrate import add_calibrate_parser
from .card import add_card_parser
from .compare import add_compare_parser
from .completion import add_completion_parser
from .configuration import with_configuration
from .demo import add_demo_parser
from .diagnose import add_diagnose_parser
from .lm_eval_task import add_lm_eval_task_parser
from .measure import add_measure_parser
from .output import short_warnings, with_flags
from .parser import CommandParser, check_options, command_of
from .publish import add_publish_parser
from .serve import add_serve_parser
from .threshold import add_threshold_parser
from .train import TRAINING, add_training_parsers, train

# Errors that a user can act on are printed in one line, without a traceback.
USER_ERRORS = (
    ValueError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    PermissionError,
    FloatingPointError,
    ConnectionError,
)


_ADDERS = (
    add_demo_parser,
    add_measure_parser,
    add_compare_parser,
    add_calibrate_parser,
    add_threshold_parser,
    add_diagnose_parser,
    add_card_parser,
    add_publish_parser,
    add_serve_parser,
    add_lm_eval_task_parser,
    add_training_parsers,
    add_completion_parser,
)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command and all its subcommands."""
    parser = CommandParser(prog="hf-calib", description="Calibrated confidence for aligned language models.")
    parser.add_argument("--version", action="version", version=f"hf-calib {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for add in _ADDERS:
        add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns
    -------
    int
        The exit code: 0; 1 after an error, printed on standard error; 3 where a condition of `--fail-if` holds;
        130 after an interruption. Wrong usage ends with 2.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = make_parser()
    own, depth = command_of(arguments, parser)
    if depth == len(arguments) and own._subparsers is not None:
        own.print_help()
        return 0
    command = " ".join(arguments[:depth])
    try:
        if command in TRAINING:
            train(command, arguments[1:])
            return 0
        check_options(arguments, parser)
        options = parser.parse_args(with_configuration(arguments, parser))
        asked = COMMAND.set(shlex.join(["hf-calib", *arguments]))
        try:
            with short_warnings() as options.warnings:
                return options.run(options) or 0
        finally:
            COMMAND.reset(asked)
    except BrokenPipeError:  # whoever reads the output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except USER_ERRORS as error:
        print(f"hf-calib {command}: {with_flags(str(error), own)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interruption:
        print(f"\nhf-calib {command}: interrupted. {interruption}".rstrip(), file=sys.stderr)
        return 130
