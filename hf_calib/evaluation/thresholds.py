"""Conditions on measures, such as ece>0.05."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .._suggestions import did_you_mean

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Threshold:
    """A condition on a named number.

    Examples
    --------
    >>> Threshold.parse("ece>0.05").holds({"ece": 0.1})
    True
    """

    text: str
    name: str
    compare: Callable[[float, float], bool]
    limit: float

    @classmethod
    def parse(cls, text: str) -> Threshold:
        """Read a condition: a measure's name, one of > >= < <=, and a number.

        Raises
        ------
        ValueError
            If the text is not a condition.
        """
        match = re.fullmatch(r"\s*(\w+(?:\.\w+)*)\s*(>=|<=|>|<)\s*([-+.0-9eE]+)\s*", text)
        try:
            limit = float(match[3]) if match else None
        except ValueError:
            limit = None
        if match is None or limit is None:
            raise ValueError(f"{text!r} is not a condition such as ece>0.05")
        return cls(text, match[1], _OPERATORS[match[2]], limit)

    def holds(self, values: Mapping[str, float], place: str = "") -> bool:
        """Return whether the condition holds for the measures' values; errors say the place if it has a name.

        Raises
        ------
        ValueError
            If the measure was not measured, or has no value here.
        """
        where = f"for {place}" if place else "here"
        if self.name not in values:
            raise ValueError(f"{self.name!r} was not measured {where}, so --fail-if {self.text!r} cannot be checked")
        value = values[self.name]
        if value != value:
            raise ValueError(f"{self.name} has no value {where}, so --fail-if {self.text!r} cannot be checked")
        return self.compare(value, self.limit)


def check_names(thresholds: Sequence[Threshold], known: Iterable[str]) -> None:
    """Reject a condition on an unknown measure, before a long run rather than after it.

    Raises
    ------
    ValueError
        If a condition names an unknown measure; the message lists the measures.
    """
    known = list(known)
    for threshold in thresholds:
        if threshold.name not in known:
            raise ValueError(
                f"there is no measure {threshold.name!r} for --fail-if; choose from {', '.join(map(repr, known))}."
                + did_you_mean(threshold.name, known)
            )


def those_that_hold(
    thresholds: Sequence[Threshold], found: Mapping[str, Mapping[str, float]]
) -> list[tuple[Threshold, str]]:
    """Return the conditions that hold, each with the name of its result.

    Parameters
    ----------
    thresholds : sequence of Threshold
    found : mapping
        The values by name, for each result; a single result has the name "".
    """
    return [(one, place) for one in thresholds for place, values in found.items() if one.holds(values, place)]


def flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the numbers in nested mappings by their dotted names."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[prefix + name] = value
    return found
