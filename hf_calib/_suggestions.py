"""Suggestions for misspelled names in error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the known name that a misspelled one resembles; empty if none does.

    Examples
    --------
    >>> did_you_mean("temprature", ["temperature", "isotonic"])
    " Did you mean 'temperature'?"
    """
    plain = {own.lower(): own for own in known}
    close = difflib.get_close_matches(name.lower(), plain, n=1)
    return f" Did you mean {plain[close[0]]!r}?" if close else ""
