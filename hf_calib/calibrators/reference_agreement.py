"""Temperature scaling without labels, on questions where the model agrees with a reference."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from .inputs import check_kind, check_predictions, check_weights, softmax
from .temperature import TemperatureScaling, best_temperature


class ReferenceAgreementScaling(TemperatureScaling):
    """Fit the temperature to a calibrated reference model's probabilities on questions where both agree.

    Large pre-trained models are usually well calibrated on multiple choice, and asking them needs no answers; small
    ones may not be (`examples/real_models/README.md`). Questions where the aligned model's answer differs are left
    out, since the reference's confidence does not apply to a different answer.

    In `fit`, the labels are the reference's predictions, of the same shape and kind as the model's.

    Attributes
    ----------
    agreement : float or None
        The share of questions with the same answer from both, in (0, 1]; `None` before `fit` and after loading.

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE.

    References
    ----------
    Luo, Wang and Wei, Your Pre-trained LLM is Secretly an Unsupervised Confidence Calibrator (DACA), 2025.
    """

    name: ClassVar[str] = "reference_agreement"
    wrappable: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self.agreement: float | None = None

    def fit(
        self,
        predictions: ArrayLike,
        labels: ArrayLike,
        *,
        kind: str = "logits",
        features: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Self:
        """Fit without answers.

        Parameters
        ----------
        predictions : array_like or tensor, shape (n, K)
            Of the model to calibrate.
        labels : array_like or tensor, shape (n, K)
            Predictions of the reference on the same questions, of the same kind.
        kind, weights
            As in `Calibrator.fit`; features are not used.

        Raises
        ------
        ValueError
            If the two have different shapes or options, or never agree.
        """
        for given in (predictions, labels):
            check_kind(given, kind)
        logits, event = check_predictions(predictions, kind)
        reference, reference_event = check_predictions(labels, kind)
        if logits.shape != reference.shape or event != reference_event:
            raise ValueError(
                "the labels of 'reference_agreement' are the reference's predictions, of the same shape as the "
                f"model's: got {np.shape(labels)} and {np.shape(predictions)}"
            )
        if len(logits) == 0:
            raise ValueError("there is nothing to fit on; give at least one prediction")
        differing = (np.isneginf(logits) != np.isneginf(reference)).any(axis=1) & (kind == "logits")
        if differing.any():
            row = int(np.flatnonzero(differing)[0])
            raise ValueError(f"row {row}, counted from 0, has different options in the reference's predictions")
        agree = logits.argmax(axis=1) == reference.argmax(axis=1)
        share = check_weights(weights, np.ones(len(logits), dtype=bool))
        if not (agree & (share > 0)).any():
            raise ValueError("the model and the reference agree on no question, so there is nothing to fit on")
        self.agreement = float(share @ agree)
        kept = share[agree] / share[agree].sum()
        finite = np.where(np.isneginf(logits[agree]), 0.0, logits[agree])
        expected = (softmax(reference[agree]) * finite).sum(axis=1)
        parameters: dict[str, Any] = {"temperature": best_temperature(logits[agree], float(kept @ expected), kept)}
        self._parameters = parameters
        return self
