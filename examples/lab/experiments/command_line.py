"""The options that the experiments' scripts share, and errors without a traceback."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hf_calib.cli import USER_ERRORS

from .presets import EXPERIMENTS


def make_parser(script: str, description: str) -> argparse.ArgumentParser:
    """Return a parser with the description and the example of the script's docstring.

    Parameters
    ----------
    script : str
        The script's ``__file__``.
    description : str
        Its ``__doc__``: a description, then lines with commands.
    """
    text, _, example = description.strip().partition("\n\npython ")
    return argparse.ArgumentParser(
        prog=Path(script).name,
        description=" ".join(text.split()),
        epilog=f"example: python {example}",
        allow_abbrev=False,
    )


def add_running_options(parser: argparse.ArgumentParser, presets: Sequence[str] = tuple(EXPERIMENTS)) -> None:
    """Add the options of scripts that train."""
    parser.add_argument("--seeds", type=seeds, required=True, help="seeds as numbers and ranges: 3-7 or 3,5-7")
    parser.add_argument(
        "--preset",
        choices=presets,
        default="full",
        help="full: full weights; adapters: LoRA; mini: a miniature for a quick look (default: %(default)s)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="number of processes, each on one thread (default: 1)")
    parser.add_argument("--cache-dir", help="folder of the pre-trained models (default: the user's cache)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the results and the report")


def add_all_seeds(parser: argparse.ArgumentParser) -> None:
    """Add the option to report every seed."""
    parser.add_argument(
        "--all-seeds", action="store_true", help="also report seeds 0 to 2, on which settings were chosen"
    )


def add_baseline(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the method to compare with."""
    parser.add_argument(
        "--baseline", default="dpo", metavar="METHOD", help="method to compare with (default: %(default)s)"
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints JSON."""
    parser.add_argument("--json", action="store_true", help="print rows and report as JSON")


def print_report(options: argparse.Namespace, rows: list[dict[str, Any]], report: str) -> None:
    """Print a report, or its rows and text as JSON if requested."""
    print(json.dumps({"rows": rows, "report": report}) if options.json else report)


def seeds(text: str) -> list[int]:
    """Read seeds: numbers and inclusive ranges, separated by commas."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low = int(first)
            high = int(last) if dash else low
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is neither a number nor a range like 0-7") from None
        if high < low:
            raise argparse.ArgumentTypeError(f"the range {part!r} is descending")
        found += range(low, high + 1)
    return found


def run_script(
    parser: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Parse the arguments, do the work, and return the exit code: 0, 1 after an error or 130 after an interruption."""
    options = parser.parse_args(arguments)
    try:
        work(options)
    except USER_ERRORS as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
