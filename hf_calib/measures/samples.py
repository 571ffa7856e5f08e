"""Checked predictions of one set of questions, and checks of what else belongs to each question."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .validation import Floats, to_numpy, top_prediction

Array = NDArray[np.float64]

# How Python, NumPy and pandas write a missing name that is not a string.
_MISSING = ("None", "nan", "<NA>", "NaT")


@dataclass(frozen=True)
class Sample:
    """Checked predictions of one set of questions, with the answers and confidences derived from them."""

    probabilities: Floats
    labels: NDArray[np.integer]
    weights: Array | None = None
    option_mass: Floats | None = None
    true_probabilities: Floats | None = None
    features: Array | None = None
    clusters: NDArray[np.intp] | None = None
    chosen: NDArray[np.integer] | None = None
    flips: Floats | None = None
    gold: Floats | None = None
    ordered: NDArray[np.bool_] | None = None
    most_confident_correct: Floats | None = None
    _top: tuple = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.chosen is None:
            top = top_prediction(self.probabilities, self.labels)
        else:
            confidences = np.take_along_axis(self.probabilities, self.chosen[:, None], axis=1)[:, 0]
            top = (confidences, self.chosen, self.chosen == self.labels)
        object.__setattr__(self, "_top", top)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def confidences(self) -> Floats:
        """(n,) probability of each answer."""
        return self._top[0]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """(n,) whether each answer is right."""
        return self._top[2]

    @cached_property
    def true_confidences(self) -> Array:
        """(n,) true probability of each answer, where the truth is given."""
        assert self.true_probabilities is not None
        return np.take_along_axis(self.true_probabilities, self._top[1][:, None], axis=1)[:, 0].astype(np.float64)

    def part(self, chosen: NDArray) -> "Sample":
        """Return the chosen samples, as independent ones."""

        def take(values):
            return None if values is None else values[chosen]

        return Sample(
            self.probabilities[chosen],
            self.labels[chosen],
            take(self.weights),
            take(self.option_mass),
            take(self.true_probabilities),
            take(self.features),
            chosen=take(self.chosen),
            flips=take(self.flips),
            gold=take(self.gold),
            ordered=take(self.ordered),
            most_confident_correct=take(self.most_confident_correct),
        )


def group_codes(groups: ArrayLike | None, n: int, what: str = "groups") -> tuple[list[str], NDArray[np.intp] | None]:
    """Return the sorted names of the groups, and the number of each question's group among them, shape (n,).

    Raises
    ------
    ValueError
        If the shape is not (n,), or a question has no group; the message names the row.
    """
    if groups is None:
        return [], None
    values = to_numpy(groups)
    array = np.asarray(values)
    if array.shape != (n,):
        raise ValueError(f"{what} has shape {array.shape}, but there are {n} questions: expected ({n},)")
    # NumPy turns a missing name among strings into a string, so the original names are checked.
    for row, name in enumerate(np.asarray(values, dtype=object)):
        if not isinstance(name, str) and str(name) in _MISSING:
            raise ValueError(
                f"{what}[{row}] is {name}: every question needs a {what[:-1]}; name one for those without"
            )
    names, codes = np.unique(array.astype(str), return_inverse=True)
    return [str(name) for name in names], codes


def of_length(values: NDArray, n: int, name: str) -> NDArray:
    """Return values after checking that there is one for each question."""
    if len(values) != n:
        raise ValueError(f"{name} has {len(values)} values, but there are {n} questions")
    return values
