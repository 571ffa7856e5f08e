"""Conditions on measures, as options that determine the exit code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

from ..evaluation.thresholds import Threshold, those_that_hold

# Exit codes for scripts, in addition to argparse's 2 for wrong usage.
FAILED_THRESHOLD = 3


def add_threshold(parser: argparse.ArgumentParser, example: str = "ece>0.05", *, several: str = "") -> None:
    """Add the conditions under which the command ends with a separate exit code.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    example : str
    several : str
        An explanation of the values, for commands with several values per name.
    """
    parser.add_argument(
        "--fail-if",
        type=_condition,
        action="append",
        default=[],
        metavar="CONDITION",
        help=f"end with exit code {FAILED_THRESHOLD} if it holds, such as '{example}'{several}; may be given several "
        "times",
    )


def _condition(text: str) -> Threshold:
    try:
        return Threshold.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def exit_code(command: str, thresholds: Sequence[Threshold], found: Mapping[str, Mapping[str, float]]) -> int:
    """Return the command's exit code, and print the conditions that hold on standard error.

    Parameters
    ----------
    command : str
    thresholds : sequence of Threshold
    found : mapping
        The values by name, for each place that has some of its own; the place is "" where there is one only.
    """
    holding = those_that_hold(thresholds, found)
    for threshold, place in holding:
        print(f"hf-calib {command}: {threshold.text} holds" + (place and f" of {place}"), file=sys.stderr)
    return FAILED_THRESHOLD if holding else 0
