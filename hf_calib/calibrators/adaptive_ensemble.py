"""Two calibrators, for easy and for hard questions, weighted by the difficulty of the target questions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .importance_weighted import WrappingCalibrator
from .inputs import UNLABELED, Inputs, Sample
from .registry import by_name, from_nested, nested
from .storage import ParameterReader


class AdaptiveCalibratorEnsemble(WrappingCalibrator):
    """Mix a calibrator for easy questions with one for hard questions, α · easy + (1 - α) · hard.

    The labeled questions are reweighted in two ways, so that their accuracy a becomes (1 + a)/2 and a/2, and a
    calibrator is fitted to each. α is the position of the target's accuracy, estimated without labels, between the
    two, limited to [0, 1]. The estimate is the share of target questions whose confidence is above a threshold, which
    is set so that the share of labeled questions above it equals their accuracy (average thresholded confidence).
    Without questions labeled -1, the labeled ones are the target.

    It helps if the target questions are harder or easier overall than the labeled ones; it does not distinguish
    between individual questions.

    Parameters
    ----------
    base : str, default "temperature"
        The calibrator to fit twice.
    **base_options
        Options of the base.

    Attributes
    ----------
    target_accuracy : float
        Estimated accuracy of the target, in [0, 1].
    source_accuracy : float or None
        Accuracy on the labeled questions, in (0, 1); `None` before `fit` and after loading.
    alpha : float
        Weight of the calibrator for easy questions, in [0, 1].

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE.

    References
    ----------
    Zou, Deng and Zheng, Adaptive Calibrator Ensemble: Navigating Test Set Difficulty in Out-of-Distribution Scenarios,
    ICCV 2023. Garg et al., Leveraging Unlabeled Data to Predict Out-of-Distribution Performance, ICLR 2022 (the
    estimate).
    """

    name: ClassVar[str] = "adaptive_ensemble"
    keeps_argmax: bool = True
    monotonic: bool = True
    takes_unlabeled: ClassVar[bool] = True
    wrappable: ClassVar[bool] = False

    def __init__(self, base: str = "temperature", **base_options: Any) -> None:
        super().__init__(base, **base_options)
        self.hard = by_name(base, **base_options)
        self.source_accuracy: float | None = None

    @property
    def alpha(self) -> float:
        """Weight of the calibrator for easy questions."""
        return self.parameters()["alpha"]

    @property
    def target_accuracy(self) -> float:
        """The target's estimated accuracy."""
        return self.parameters()["target_accuracy"]

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        target = sample.labels == UNLABELED
        source = sample[~target]
        accuracy = float(source.weights @ source.correct)
        if not 0 < accuracy < 1:
            raise ValueError(
                f"'adaptive_ensemble' needs both right and wrong answers, but the accuracy is {accuracy:g}; give more "
                "questions"
            )
        self.source_accuracy = accuracy
        easy, hard = (1 + accuracy) / 2, accuracy / 2
        estimated = thresholded_confidence(source, sample[target] if target.any() else source)
        return {
            "easy": self._fitted_base(self.base, _at_accuracy(source, easy)),
            "hard": self._fitted_base(self.hard, _at_accuracy(source, hard)),
            "alpha": float(np.clip((estimated - hard) / (easy - hard), 0.0, 1.0)),
            "target_accuracy": estimated,
        }

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        alpha = self.alpha
        mixed = alpha * self.base._apply(inputs) + (1 - alpha) * self.hard._apply(inputs)
        return mixed / mixed.sum(axis=1, keepdims=True)

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        easy, hard = from_nested(reader.mapping("easy")), from_nested(reader.mapping("hard"))
        if type(easy) is not type(hard):
            raise ValueError("the two calibrators of 'adaptive_ensemble' must be of one kind")
        self._set_base(easy)
        self.hard = hard
        return {
            "easy": nested(easy),
            "hard": nested(hard),
            "alpha": reader.number("alpha", 0.0, 1.0),
            "target_accuracy": reader.number("target_accuracy", 0.0, 1.0),
        }


def _at_accuracy(sample: Sample, accuracy: float) -> Sample:
    """Return the sample reweighted to a given accuracy."""
    correct = sample.correct
    present = float(sample.weights @ correct)
    weights = sample.weights * np.where(correct, accuracy / present, (1 - accuracy) / (1 - present))
    return replace(sample, weights=weights / weights.sum())


def thresholded_confidence(source: Sample, target: Sample) -> float:
    """Estimate the target's accuracy by average thresholded confidence, in [0, 1]."""
    margin, target_margin = (_negative_entropy(sample) for sample in (source, target))
    order = np.argsort(-margin, kind="stable")
    above = np.cumsum(source.weights[order])
    accuracy = source.weights @ source.correct
    # The lowest confidence that counts as right, such that answers above it weigh as much as the right answers.
    cut = min(int(np.searchsorted(above, accuracy * (1 - 1e-12))), len(order) - 1)
    return float((target_margin >= margin[order[cut]]).mean())


def _negative_entropy(sample: Sample) -> NDArray[np.float64]:
    from .adaptive_temperature import relative_entropy

    return -relative_entropy(sample)
