"""Checked predictions of one set of questions."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .validation import Floats, top_prediction

Array = NDArray[np.float64]


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
