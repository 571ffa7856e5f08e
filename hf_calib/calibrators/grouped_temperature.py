"""A temperature for each group of questions, shrunk toward that of all questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .inputs import Inputs, Sample, check_predictions, keep_first_maximum, like, softmax
from .protocol import Calibrator
from .storage import ParameterReader
from .temperature import HIGHEST, LOWEST, best_temperature, scaled

#: What questions can be grouped by.
GROUPINGS = ("subject", "type", "n_options", "dataset")

# Limits on the groups and the lengths of their names in a file, which may come from an untrusted source.
_MOST, _LONGEST = 10_000, 1000


class GroupedTemperature(Calibrator):
    """Divide the logits by the temperature of the question's group: its subject, type, number of options or dataset.

    A group's temperature is fitted on its own questions and, with the weight of `shrinkage` questions, on all
    questions together. So a small group's temperature is close to that of all questions, and a large group's depends
    mostly on its own. A group that was not fitted gets the temperature of all questions. No argmax changes.

    Parameters
    ----------
    by : {"subject", "type", "n_options", "dataset"}, default "subject"
        What the questions are grouped by; `hf_calib.measure` then finds each question's group.
    shrinkage : float, default 50
        Number of questions in a group that weigh as much as all questions together.

    Raises
    ------
    ValueError
        If `by` is unknown, or the shrinkage is not above 0.
    """

    name: ClassVar[str] = "grouped_temperature"
    keeps_argmax: bool = True
    wrappable: ClassVar[bool] = False

    def __init__(self, by: str = "subject", shrinkage: float = 50.0) -> None:
        super().__init__()
        if by not in GROUPINGS:
            raise ValueError(f"by: {by!r} is not a way to group questions; choose from {', '.join(GROUPINGS)}")
        if not 0 < shrinkage < np.inf:
            raise ValueError(f"shrinkage: must be a number above 0, got {shrinkage}")
        self._by, self._shrinkage = by, float(shrinkage)
        self._groups: NDArray[np.str_] | None = None

    @property
    def by(self) -> str:
        """What the questions are grouped by."""
        return self._by

    @property
    def needs_groups(self) -> bool:
        """Whether `transform` needs the groups, because `fit` was given them."""
        return bool(self.parameters()["groups"])

    def fit(
        self,
        predictions: ArrayLike,
        labels: ArrayLike,
        *,
        kind: str = "logits",
        features: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        groups: Sequence[str] | NDArray[np.str_] | None = None,
    ) -> Self:
        """Fit on predictions that the model was not trained on; see `BaseCalibrator.fit`.

        Parameters
        ----------
        predictions, labels, kind, features, weights
            As in `BaseCalibrator.fit`.
        groups : sequence of str, of length n, optional
            Each question's group; without groups, one temperature is fitted to all questions.
        """
        self._groups = None if groups is None else _checked(groups, len(np.asarray(labels)))
        return super().fit(predictions, labels, kind=kind, features=features, weights=weights)

    def transform(
        self,
        predictions: ArrayLike,
        *,
        kind: str = "logits",
        features: ArrayLike | None = None,
        groups: Sequence[str] | NDArray[np.str_] | None = None,
    ) -> Any:
        """Return calibrated probabilities; see `BaseCalibrator.transform`.

        Parameters
        ----------
        predictions, kind, features
            As in `BaseCalibrator.transform`.
        groups : sequence of str, of length n, optional
            Each question's group; needed if the calibrator was fitted with groups.

        Raises
        ------
        ValueError
            If the groups are missing, or their number differs from that of the questions.
        """
        parameters = self.parameters()
        if groups is None:
            if self.needs_groups:
                raise ValueError(
                    f"groups: the calibrator has a temperature for each {self._by}; give each question's group, or "
                    "apply it with hf_calib.measure"
                )
            return super().transform(predictions, kind=kind, features=features)
        logits, event = check_predictions(predictions, kind)
        overall = parameters["temperature"]
        temperatures = [parameters["groups"].get(str(name), overall) for name in _checked(groups, len(logits))]
        probabilities = softmax(scaled(logits, np.reshape(temperatures, (-1, 1))))
        if event:
            return like(np.ascontiguousarray(probabilities[:, 1]), predictions)
        return like(keep_first_maximum(probabilities, logits), predictions)

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        targets = sample.logits[np.arange(len(sample)), sample.labels]

        def fitted(weights: NDArray[np.float64]) -> float:
            return best_temperature(sample.logits, float(weights @ targets), weights)

        found = {}
        for name in () if self._groups is None else np.unique(self._groups):
            weights = sample.weights * (len(sample) * (self._groups == name) + self._shrinkage)
            found[str(name)] = fitted(weights / weights.sum())
        overall = fitted(sample.weights)
        return {"by": self._by, "shrinkage": self._shrinkage, "temperature": overall, "groups": found}

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        return softmax(scaled(inputs.logits, self.parameters()["temperature"]))

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        by = reader.choice("by", GROUPINGS)
        shrinkage = reader.number("shrinkage", np.nextafter(0, 1), 1e300)
        temperature = reader.number("temperature", LOWEST, HIGHEST)
        groups = reader.mapping("groups")
        if len(groups) > _MOST or any(len(name) > _LONGEST for name in groups):
            raise ValueError(f"'groups' of the calibrator {self.name!r} must hold at most {_MOST:,} short names")
        inner = ParameterReader(groups, self.name)
        self._by, self._shrinkage = by, shrinkage
        return {
            "by": by,
            "shrinkage": shrinkage,
            "temperature": temperature,
            "groups": {name: inner.number(name, LOWEST, HIGHEST) for name in groups},
        }


def _checked(groups: Sequence[str] | NDArray[np.str_], n: int) -> NDArray[np.str_]:
    names = np.asarray([str(name) for name in groups])
    if len(names) != n:
        raise ValueError(f"groups: there are {n} questions and {len(names)} groups; give one group for each question")
    return names
