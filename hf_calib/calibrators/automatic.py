"""Choosing a calibrator for the given data, with the reason."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from .inputs import UNLABELED, to_numpy
from .protocol import BaseCalibrator
from .registry import by_name, from_nested, nested
from .storage import ParameterReader

# With at least this many labels, an entropy-dependent temperature was never worse than a single one in our
# measurements.
ENOUGH_FOR_ADAPTIVE = 1000
CHOICES = ("adaptive_ensemble", "adaptive_temperature", "platt", "reference_agreement", "temperature")


class AutoCalibration(BaseCalibrator):
    """Choose a calibrator by the available data; every choice keeps the argmax, and so the accuracy.

    ===================================================  ======================  =====================================
    labels                                               calibrator              why
    ===================================================  ======================  =====================================
    a reference's predictions, shape (n, K)              reference_agreement     the temperature of hundreds of labels
    some are -1: questions of the target, which looks    adaptive_ensemble       of those that need no target labels,
    harder than the labeled questions                                           the one that helped on real data
    of events, shape (n,) of one-dimensional predictions platt                   a wrong offset is likely there, and
                                                                                 two numbers are soon found
    fewer than 1,000                                     temperature             nothing else that keeps the argmax was
                                                                                 better by more than noise
    1,000 and more                                       adaptive_temperature    never worse by more than noise, and
                                                                                 better under a shift on real data
    ===================================================  ======================  =====================================

    If the target does not look harder, its questions are not used: in the lab the adaptive ensemble made models
    overconfident there. The figures are in `examples/calibrators/README.md`. Calibrators that use the options'
    positions were better in the lab, whose options keep their positions, but not on real questions; with few labels
    they lose accuracy.

    Attributes
    ----------
    chosen : str
        The calibrator's name.
    reason : str
        The reason; empty after loading.

    Notes
    -----
    scikit-learn, probmetrics, netcal and MAPIE cannot choose a calibrator by the available data. The notes of each
    calibrator name the library that it wraps, or explain why it wraps none.
    """

    name: ClassVar[str] = "auto"
    keeps_argmax: bool = True
    takes_unlabeled: ClassVar[bool] = True
    wrappable: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.base: Any = None
        self.reason = ""

    def __repr__(self) -> str:
        return "AutoCalibration(not fitted)" if self.base is None else f"AutoCalibration(chose {self.base!r})"

    @property
    def chosen(self) -> str:
        """The name of the calibrator that was chosen."""
        self.parameters()
        return self.base.name

    def fit(
        self,
        predictions: ArrayLike,
        labels: ArrayLike,
        *,
        kind: str = "logits",
        features: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Self:
        """Choose a calibrator and fit it; see `BaseCalibrator.fit`. Features are not used."""
        name, self.reason = choose(predictions, labels)
        self.base = by_name(name).fit(predictions, labels, kind=kind, weights=weights)
        if name == "adaptive_ensemble" and self.base.target_accuracy >= self.base.source_accuracy:
            known = np.asarray(to_numpy(labels)) != UNLABELED
            labeled, answers = np.asarray(to_numpy(predictions))[known], np.asarray(to_numpy(labels))[known]
            name, why = choose(labeled, answers)
            self.reason = f"the target does not look harder than the labeled questions, and {why}"
            share = None if weights is None else np.asarray(to_numpy(weights))[known]
            self.base = by_name(name).fit(labeled, answers, kind=kind, weights=share)
        self._parameters = {"base": nested(self.base)}
        return self

    def transform(
        self,
        predictions: ArrayLike,
        *,
        kind: str = "logits",
        features: ArrayLike | None = None,
    ) -> Any:
        """Return calibrated probabilities; see `BaseCalibrator.transform`."""
        self.parameters()
        return self.base.transform(predictions, kind=kind)

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        content = reader.mapping("base")
        if content.get("method") not in CHOICES:
            raise ValueError(f"'auto' chooses one of {', '.join(CHOICES)}, not {content.get('method')!r:.100}")
        self.base, self.reason = from_nested(content), ""
        return {"base": nested(self.base)}


def choose(predictions: ArrayLike, labels: ArrayLike) -> tuple[str, str]:
    """Return the name of the calibrator for the available data, and the reason in a sentence."""
    answers = np.asarray(to_numpy(labels))
    if answers.ndim == 2:
        return "reference_agreement", "a reference's predictions were given instead of labels"
    if (answers == UNLABELED).any():
        return "adaptive_ensemble", "unlabeled questions of the target were given"
    if np.ndim(to_numpy(predictions)) == 1:
        return "platt", "the predictions are of events"
    if len(answers) < ENOUGH_FOR_ADAPTIVE:
        return "temperature", f"there are {len(answers)} labels, fewer than {ENOUGH_FOR_ADAPTIVE:,}"
    return "adaptive_temperature", f"there are {len(answers):,} labels"
