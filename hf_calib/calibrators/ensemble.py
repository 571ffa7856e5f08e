"""Ensembles: pool the members' probabilities, then calibrate, or vice versa."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..measures.validation import floor_zeros
from .inputs import (
    UNLABELED,
    Inputs,
    Sample,
    check_features,
    check_kind,
    check_labels,
    check_predictions,
    check_weights,
    like,
    to_numpy,
)
from .protocol import BaseCalibrator, Calibrator
from .registry import base_of, by_name, from_nested, nested
from .storage import ParameterReader

ORDERS = ("pool_then_calibrate", "calibrate_then_pool")


class EnsembleCalibration(BaseCalibrator):
    """Average the probabilities of several models, and calibrate the average (or each model first).

    An average of calibrated models is underconfident where they disagree, so pooling first and then fitting one map is
    better. The other order is an option for comparison.

    In `fit` and `transform`, predictions have the shape (M, n, K) for M members, or (n, K) for one.

    Parameters
    ----------
    order : {"pool_then_calibrate", "calibrate_then_pool"}, default "pool_then_calibrate"
    base : str, default "temperature"
        The calibrator, fitted once or per member.
    **base_options
        Go to it.

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE.

    References
    ----------
    Rahaman and Thiery, Uncertainty Quantification and Deep Ensembles, NeurIPS 2021.
    """

    name: ClassVar[str] = "ensemble"
    takes_events: bool = False
    wrappable: ClassVar[bool] = False

    def __init__(self, order: str = ORDERS[0], base: str = "temperature", **base_options: Any) -> None:
        super().__init__()
        if order not in ORDERS:
            raise ValueError(f"order must be one of {', '.join(ORDERS)}, got {order!r}")
        self.order, self._base, self._base_options = order, base, base_options
        self.members: list[Calibrator] = []
        example = base_of(self.name, by_name(base, **base_options))
        self.needs_features, self.positional = example.needs_features, example.positional

    def fit(
        self,
        predictions: ArrayLike,
        labels: ArrayLike,
        *,
        kind: str = "logits",
        features: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Self:
        """Fit on the members' predictions, shape (M, n, K) or (n, K); otherwise as in `BaseCalibrator.fit`."""
        check_kind(predictions, kind)
        logits = _member_logits(predictions, kind)
        rows = check_labels(labels, logits[0], absent=kind == "probabilities")
        if kind == "probabilities":
            logits = [floor_zeros(member, rows + 1) for member in logits]
        given = check_features(features, len(rows))
        share = check_weights(weights, rows != UNLABELED)
        stacks = [_pooled(logits)] if self.order == ORDERS[0] else logits
        self.members = [by_name(self._base, **self._base_options) for _ in stacks]
        for member, stack in zip(self.members, stacks, strict=True):
            member._fit_sample(Sample(stack, given, False, rows, share))
        self._parameters = {
            "order": self.order,
            "n_members": len(logits),
            "calibrators": [nested(member) for member in self.members],
        }
        return self

    def transform(
        self,
        predictions: ArrayLike,
        *,
        kind: str = "logits",
        features: ArrayLike | None = None,
    ) -> Any:
        """Return the ensemble's calibrated probabilities, shape (n, K), of predictions (M, n, K) or (n, K)."""
        parameters = self.parameters()
        logits = _member_logits(predictions, kind)
        if len(logits) != parameters["n_members"]:
            raise ValueError(f"'ensemble' was fitted with {parameters['n_members']} member(s), got {len(logits)}")
        given = check_features(features, len(logits[0]))
        stacks = [_pooled(logits)] if parameters["order"] == ORDERS[0] else logits
        total = np.zeros_like(stacks[0])
        for member, stack in zip(self.members, stacks, strict=True):
            inputs = Inputs(stack, given)
            member._check_features_given(inputs)
            total += member._apply(inputs)
        return like(total / len(stacks), predictions)

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        order = reader.choice("order", ORDERS)
        n_members = reader.integer("n_members", 1, 1000)
        contents = reader.mappings("calibrators", 1000)
        if len(contents) != (1 if order == ORDERS[0] else n_members):
            raise ValueError(f"an ensemble of {n_members} member(s) cannot have {len(contents)} calibrator(s)")
        self.order, self.members = order, [base_of(self.name, from_nested(content)) for content in contents]
        if any(type(member) is not type(self.members[0]) for member in self.members):
            raise ValueError("the calibrators of an ensemble must be of one kind")
        self.needs_features, self.positional = self.members[0].needs_features, self.members[0].positional
        return {"order": order, "n_members": n_members, "calibrators": [nested(member) for member in self.members]}


def _member_logits(predictions: Any, kind: str) -> list[NDArray[np.float64]]:
    values = np.asarray(to_numpy(predictions))
    if values.ndim not in (2, 3) or len(values) == 0:
        raise ValueError(
            "predictions must have the shape (members, questions, options) or (questions, options); "
            f"got {values.shape}"
        )
    return [check_predictions(member, kind)[0] for member in (values if values.ndim == 3 else values[None])]


def _pooled(logits: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the logarithm of the mean of the members' probabilities, each row's largest at 0."""
    logs = [member - np.log(np.exp(member).sum(axis=1, keepdims=True)) for member in logits]
    pooled = np.logaddexp.reduce(np.stack(logs), axis=0)
    return pooled - pooled.max(axis=1, keepdims=True)
