"""What commands print besides their results: JSON, warnings, rows that were left out."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..measures import CalibrationReport
    from ..reports.table import Cell

WIDTH = 80


@contextmanager
def short_warnings() -> Iterator[list[str]]:
    """Show warnings as a line each, without the code that they come from, and give a list that collects them."""
    seen: list[str] = []
    with warnings.catch_warnings():
        shown = warnings.showwarning

        def show(message: Warning | str, *where: Any, **more: Any) -> None:
            if str(message) not in seen:
                seen.append(str(message))
                shown(message, *where, **more)

        warnings.showwarning = show  # type: ignore[assignment]
        formatted = warnings.formatwarning
        warnings.formatwarning = lambda message, *where, **more: f"warning: {message}\n"  # type: ignore[assignment]
        try:
            yield seen
        finally:
            warnings.formatwarning = formatted


def print_json(result: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Print a result as JSON, with the run's messages, which are shown on standard error too."""
    print(json.dumps({**result, **({"messages": options.warnings} if options.warnings else {})}))


def calibrators_table(reports: Mapping[str, CalibrationReport]) -> str:
    """Return a table of the main measures with each calibrator."""
    from ..measures import shown_in
    from ..reports import render_table

    rows: list[dict[str, Cell]] = [
        {
            "calibrator": name,
            **{
                info.short: report.measures[info.key] if info.key == "ece" else report.measures[info.key].value
                for info in shown_in("calibrators")
            },
        }
        for name, report in reports.items()
    ]
    return render_table(rows)


def print_skipped(skipped_rows: Mapping[str, int]) -> None:
    """Say of each dataset how many rows could not be read."""
    for name, n in skipped_rows.items():
        print(textwrap.fill(f"{name}: {n} rows could not be read and were left out.", WIDTH), end="\n\n")


def with_flags(message: str, parser: argparse.ArgumentParser) -> str:
    """Return a message with arguments' Python names replaced by a command's flags.

    Names with an underscore are replaced wherever they are words of their own, others only where the message begins
    with them.
    """
    flags = {action.dest: action.option_strings[-1] for action in parser._actions if action.option_strings}
    flags |= parser.get_default("flags_of_arguments") or {}
    begins = re.match(r"[a-z_]+(?:(?:, | and )[a-z_]+)*(?=: | is | go )", message)
    start = "" if begins is None else begins[0]
    named = re.sub(r"[a-z_]+", lambda word: flags.get(word[0], word[0]), start.replace(" and ", " & "))
    rest = re.sub(
        r"(?<![\w'\"/.-])[a-z]+(?:_[a-z]+)+(?![\w'\"/.(=-])",
        lambda word: flags.get(word[0], word[0]),
        message[len(start) :],
    )
    return named.replace(" & ", " and ") + rest
