"""The protocol of calibrators: fit on held-out predictions, transform new ones, save without pickle."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..measures.validation import floor_zeros
from . import storage
from .fitted_on import FittedOn
from .inputs import (
    UNLABELED,
    Inputs,
    Sample,
    check_features,
    check_kind,
    check_labels,
    check_predictions,
    check_weights,
    keep_first_maximum,
    like,
)
from .storage import ParameterReader


class NotFittedError(ValueError):
    """A calibrator was used before it was fitted."""


def _short(parameters: Mapping[str, Any], most: int = 4) -> str:
    """Return a short description of fitted parameters: numbers and names, and the sizes of everything else."""
    parts = []
    for key, value in parameters.items():
        if isinstance(value, Mapping):
            parts.append(f"{key}=({_short(value, most)})")
        elif isinstance(value, float):
            parts.append(f"{key}={value:.4g}")
        elif isinstance(value, np.ndarray | list | tuple):
            parts.append(f"{key}=<{' x '.join(map(str, np.shape(value)))} numbers>")
        else:
            parts.append(f"{key}={value!r}")
    return ", ".join([*parts[:most], "..."] if len(parts) > most else parts)


class StoredCalibrator(ABC):
    """Parameters and files of a calibrator, for options or for numbers.

    Attributes
    ----------
    name : str
        Name for `hf_calib.calibrators.by_name`.
    fitted_on : FittedOn or None
        The model, the way of asking and the questions that it was fitted on; set by `hf_calib.calibrate` and saved
        with the calibrator. None if unknown.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self._parameters: dict[str, Any] | None = None
        self.fitted_on: FittedOn | None = None

    def __repr__(self) -> str:
        if self._parameters is None:
            return f"{type(self).__name__}(not fitted)"
        return f"{type(self).__name__}({_short(self._parameters)})"

    @abstractmethod
    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        """Check the parameters that `_estimate` returned, which may come from an untrusted file."""

    def parameters(self) -> dict[str, Any]:
        """Return the fitted parameters: JSON values, float64 arrays, and dictionaries of these.

        Raises
        ------
        NotFittedError
            Before `fit` or `load_calibrator`.
        """
        if self._parameters is None:
            raise NotFittedError(f"the calibrator {self.name!r} has not been fitted; call fit first")
        return self._parameters

    def set_parameters(self, parameters: dict[str, Any]) -> Self:
        """Check and restore the values of `parameters`.

        Raises
        ------
        ValueError
            If a parameter is missing, unknown or invalid; the message names it.
        """
        reader = ParameterReader(parameters, self.name)
        checked = self._read(reader)
        reader.done()
        self._parameters = checked
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a JSON file, usually called `calibrator.json`, and return its path.

        Arrays with more than 4,096 numbers are saved next to it, in a safetensors file with the same name.

        Raises
        ------
        NotFittedError
            Before `fit` or `load_calibrator`.
        ValueError
            If the arrays are larger than `load_calibrator` accepts.
        """
        return storage.write(
            path, self.name, self.parameters(), None if self.fitted_on is None else self.fitted_on.to_dict()
        )


class BaseCalibrator(StoredCalibrator):
    """A map from predictions to better calibrated probabilities.

    A calibrator takes NumPy arrays (or lists) and torch tensors, and returns the same type. A subclass defines how to
    fit and transform, and how to check the parameters of an untrusted file, `_read`; most subclass `Calibrator`.

    Attributes
    ----------
    name : str
        Name for `hf_calib.calibrators.by_name`.
    keeps_argmax : bool
        Whether a row's (first) most probable option, and so the accuracy, stays the same.
    monotonic : bool
        Whether a higher confidence never becomes a lower one, for predictions with two options.
    needs_features : bool
        Whether `fit` and `transform` need features.
    takes_unlabeled : bool
        Whether questions with the label -1 are used as an unlabeled sample of the target.
    takes_events : bool
        Whether one-dimensional predictions are accepted.
    labels_may_be_absent : bool
        Whether an option with probability 0 may be the right one.
    wrappable : bool
        Whether it can be the base of another calibrator, that is, only needs predictions and labels.
    approximate : bool
        Whether the fit uses randomness or few steps, so that results on the same data may differ slightly.
    positional : bool
        Whether the options' positions matter; then no question may have more options than those in `fit`.
    """

    keeps_argmax: bool = False
    monotonic: bool = False
    needs_features: bool = False
    takes_unlabeled: ClassVar[bool] = False
    takes_events: bool = True
    labels_may_be_absent: ClassVar[bool] = False
    wrappable: ClassVar[bool] = True
    approximate: bool = False
    positional: bool = False

    @abstractmethod
    def fit(
        self,
        predictions: ArrayLike,
        labels: ArrayLike,
        *,
        kind: str = "logits",
        features: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Self:
        """Fit on predictions that the model was not trained on.

        Parameters
        ----------
        predictions : array_like or tensor, shape (n, K) or (n,)
            Logits (up to a constant per row; -inf for missing options), or probabilities, which are normalized if
            their sums are off by rounding to three decimals. One-dimensional: the log-odds or the probability of an
            event, for example that an answer is right or that a reward model orders a pair correctly.

            Zeros at the right end of a row of probabilities stand for missing options, except in the first two columns
            and up to the label. Every other zero is an option: it counts as `hf_calib.measures.validation.ROUNDING`,
            1e-6, times the row's largest probability, or as the row's smallest positive one if that is lower. Pass
            logits if zeros mean something else.
        labels : array_like or tensor of int, shape (n,)
            Index of each right option; for events, whether each happened. -1 where unknown, for calibrators with
            `takes_unlabeled`.
        kind : {"logits", "probabilities"}, default "logits"
        features : array_like or tensor, shape (n, d), optional
            Additional numbers for each question, within ±1e150, for calibrators that need them. They are standardized
            and limited to 10 standard deviations.
        weights : array_like or tensor, shape (n,), optional
            Weight of each question, at least 0, not all 0.

        Returns
        -------
        Calibrator
            Itself.

        Raises
        ------
        ValueError
            If the input does not have this form (naming the first invalid row), or probabilities are given as logits.
        """

    @abstractmethod
    def transform(
        self,
        predictions: ArrayLike,
        *,
        kind: str = "logits",
        features: ArrayLike | None = None,
    ) -> Any:
        """Return calibrated probabilities.

        Parameters
        ----------
        predictions, kind, features
            As in `fit`.

        Returns
        -------
        ndarray or tensor of float64, shape (n, K) or (n,)
            Rows sum to one; missing options stay at 0. For events, their probabilities.

        Raises
        ------
        NotFittedError
            Before `fit` or `load_calibrator`.
        ValueError
            If the input does not have the form that `fit` takes.
        """

    def _check_features_given(self, inputs: Inputs) -> None:
        if self.needs_features and inputs.features is None:
            raise ValueError(f"the calibrator {self.name!r} needs features: one row of numbers for each question")


class Calibrator(BaseCalibrator):
    """A calibrator of one model's predictions.

    A subclass defines how to find parameters, `_estimate`, and how to use them, `_apply`; this class checks the input.
    """

    def fit(
        self,
        predictions: ArrayLike,
        labels: ArrayLike,
        *,
        kind: str = "logits",
        features: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Self:
        """Fit on predictions that the model was not trained on; see `BaseCalibrator.fit`."""
        shares = self.labels_may_be_absent
        check_kind(predictions, kind)
        logits, event = check_predictions(predictions, kind, zeros_exist=not shares)
        if event and not self.takes_events:
            raise ValueError(f"the calibrator {self.name!r} takes predictions of the shape (questions, options)")
        absent = shares or kind == "probabilities"
        rows = check_labels(labels, logits, event=event, unlabeled=self.takes_unlabeled, absent=absent)
        if kind == "probabilities" and not shares:
            logits = floor_zeros(logits, rows + 1)
        sample = Sample(
            logits,
            check_features(features, len(logits)),
            event,
            rows,
            check_weights(weights, rows != UNLABELED),
        )
        return self._fit_sample(sample)

    def _fit_sample(self, sample: Sample) -> Self:
        """Fit on checked input."""
        self._check_features_given(sample)
        self._parameters = self._estimate(sample)
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
        logits, event = check_predictions(predictions, kind, zeros_exist=not self.labels_may_be_absent)
        inputs = Inputs(logits, check_features(features, len(logits)), event)
        self._check_features_given(inputs)
        probabilities = self._apply(inputs)
        if self.keeps_argmax and not event:
            probabilities = keep_first_maximum(probabilities, logits)
        return like(np.ascontiguousarray(probabilities[:, 1]) if event else probabilities, predictions)

    @abstractmethod
    def _estimate(self, sample: Sample) -> dict[str, Any]:
        """Return the parameters fitted to a sample: JSON values, float64 arrays, and dictionaries of these."""

    @abstractmethod
    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        """Return probabilities, shape (n, K)."""

    def _check_feature_count(self, inputs: Inputs, wanted: int) -> None:
        given = 0 if inputs.features is None else inputs.features.shape[1]
        if given != wanted:
            raise ValueError(f"the calibrator {self.name!r} was fitted with {wanted} feature(s), {given} were given")

    def _check_option_count(self, inputs: Inputs, most: int) -> None:
        if inputs.n_options > most:
            raise ValueError(
                f"the calibrator {self.name!r} was fitted on questions with up to {most} options, "
                f"and cannot be used on rows of {inputs.n_options}"
            )
