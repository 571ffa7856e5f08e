"""Modular conformal calibration of regression: from any base predictor to distributions with calibrated quantiles."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .inputs import as_array, check_weights, like, to_numpy
from .protocol import StoredCalibrator
from .storage import ParameterReader

PREDICTORS = ("point", "gaussian", "quantiles")
# The scores of each predictor; the first is the default.
SCORES = {"point": ("residual",), "gaussian": ("scaled", "residual"), "quantiles": ("place", "residual")}
INTERPOLATIONS = ("step", "linear")
DEFAULT_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


class ModularConformal(StoredCalibrator):
    """Turn a regression's predictions into distributions with valid quantiles.

    A base predictor gives a number for each question (judge score, reward, numeric answer), a mean and a standard
    deviation, or quantiles. A calibration score measures the position of an outcome relative to its prediction, and
    increases with the outcome: the residual, the residual divided by the standard deviation, or the position among the
    quantiles. The scores of held-out outcomes are ranked; if questions are exchangeable, a new outcome's rank is
    uniform, however good the base predictor is.

    Parameters
    ----------
    predictor : {"point", "gaussian", "quantiles"}, default "point"
        Form of the predictions: (n,), (n, 2) of mean and standard deviation, or (n, m) of increasing quantiles.
    interpolation : {"linear", "step"}, default "linear"
        The distribution function between the ranks. With "step", an interval of level 1 - α is guaranteed to contain
        at least that share of new outcomes on average; "linear" is smooth and may fall short by at most 1/(n + 1).
    levels : sequence of float, default (0.05, 0.25, 0.5, 0.75, 0.95)
        Levels of the quantiles that `transform` returns, in (0, 1), increasing.
    score : {"residual", "scaled", "place"}, optional
        The calibration score: "residual", of the number, the mean or the middle quantile; "scaled", the residual
        divided by the standard deviation, only for "gaussian", and its default; "place", the position among the
        quantiles in units of their distances, only for "quantiles", and their default.

    Notes
    -----
    Not wrapped: MAPIE's calibrators wrap an estimator and return intervals, not distributions. The tests compare with
    its intervals.

    References
    ----------
    Marx, Zhao, Neiswanger and Ermon, Modular Conformal Calibration, ICML 2022.
    """

    name: ClassVar[str] = "modular_conformal"

    def __init__(
        self,
        predictor: str = "point",
        interpolation: str = "linear",
        levels: tuple[float, ...] = DEFAULT_LEVELS,
        score: str | None = None,
    ) -> None:
        if predictor not in PREDICTORS:
            raise ValueError(f"predictor must be one of {', '.join(PREDICTORS)}, got {predictor!r}")
        if interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {interpolation!r}")
        if score is not None and score not in SCORES[predictor]:
            raise ValueError(
                f"the score of {predictor!r} must be one of {', '.join(SCORES[predictor])}, got {score!r}"
            )
        given = np.asarray(levels, dtype=np.float64)
        if given.ndim != 1 or not len(given) or not ((given > 0) & (given < 1)).all() or (np.diff(given) <= 0).any():
            raise ValueError(f"levels must be in (0, 1) and increase, got {levels}")
        super().__init__()
        self.predictor, self.interpolation, self.levels = predictor, interpolation, tuple(map(float, given))
        self.score = score or SCORES[predictor][0]

    def fit(
        self,
        predictions: ArrayLike,
        labels: ArrayLike,
        *,
        kind: str | None = None,
        features: ArrayLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Self:
        """Rank the scores of held-out outcomes.

        Parameters
        ----------
        predictions : array_like or tensor
            With the shape of the `predictor`.
        labels : array_like or tensor of float, shape (n,)
            The outcomes.
        kind : str, optional
            If given, it must equal the predictor.
        features
            Not used.
        weights : array_like, shape (n,), optional
            Weight of each outcome, such as a density ratio under covariate shift.

        Raises
        ------
        ValueError
            If the input does not have this form.
        """
        self._check_kind(kind)
        # A previous fit does not determine the number of columns now.
        self._parameters = None
        base = self._check(predictions)
        outcomes = np.asarray(to_numpy(labels), dtype=np.float64)
        if outcomes.shape != (len(base),) or not len(base):
            raise ValueError(f"{len(base)} predictions were given, and labels of the shape {outcomes.shape}; "
                             "give at least one of each")  # fmt: skip
        if not np.isfinite(outcomes).all():
            raise ValueError(f"row {np.flatnonzero(~np.isfinite(outcomes))[0]}, counted from 0, has no finite label")
        scores = self._scores(base, outcomes)
        share = check_weights(weights, np.ones(len(scores), dtype=bool))
        order = np.argsort(scores, kind="stable")
        order = order[share[order] > 0]
        self._parameters = {
            "predictor": self.predictor,
            "interpolation": self.interpolation,
            "score": self.score,
            "levels": np.array(self.levels),
            "columns": base.shape[1],
            "scores": scores[order],
            "mass": share[order] * len(order) / share[order].sum(),
        }
        return self

    def transform(
        self,
        predictions: ArrayLike,
        *,
        kind: str | None = None,
        features: ArrayLike | None = None,
    ) -> Any:
        """Return calibrated quantiles at `levels`, shape (n, number of levels); increasing in each row.

        Parameters
        ----------
        predictions, kind, features
            As in `fit`.

        Returns
        -------
        ndarray or tensor of float64
            As in `quantile`. This and the other methods return a tensor if the predictions are one.

        Raises
        ------
        NotFittedError
            Before `fit` or `load_calibrator`.
        ValueError
            If the input does not have the form that `fit` takes.
        """
        self._check_kind(kind)
        return self.quantile(predictions, self.levels)

    def cdf(self, predictions: ArrayLike, values: ArrayLike) -> Any:
        """Return the probability that each outcome is at most a value, shape (n,), in [0, 1].

        Parameters
        ----------
        predictions : array_like or tensor
            As in `fit`.
        values : array_like or tensor of float, shape (n,) or ()
            A value for each prediction, or one for all.

        Raises
        ------
        ValueError
            If the predictions do not have the form that `fit` takes, or `values` has the wrong shape or contains NaN.
        """
        base = self._check(predictions)
        wanted = as_array(values, "values").astype(np.float64)
        if wanted.shape not in ((), (len(base),)):
            raise ValueError(f"values has shape {wanted.shape}, but there are {len(base)} predictions: "
                             f"expected ({len(base)},), or one number")  # fmt: skip
        if np.isnan(wanted).any():
            row = "" if wanted.ndim == 0 else f"[{np.flatnonzero(np.isnan(wanted))[0]}]"
            raise ValueError(f"values{row} is NaN")
        scores = self._scores(base, np.broadcast_to(wanted, (len(base),)))
        knots, heights = self._ranks()
        if self.interpolation == "step":
            shares = np.concatenate([[0.0], heights])[np.searchsorted(knots, scores, side="right")]
        else:
            shares = np.interp(scores, knots, heights, left=0.0, right=1.0)
        return like(shares, predictions)

    def quantile(self, predictions: ArrayLike, levels: ArrayLike) -> Any:
        """Return quantiles, shape (n, m), of levels (m,) in (0, 1).

        Beyond the outermost ranks, at levels below 1/(n + 1) and above n/(n + 1) with n outcomes, the distribution is
        unknown and the quantile ±inf.

        Raises
        ------
        ValueError
            If a level is not in (0, 1), or the predictions are not of the form that `fit` takes.
        """
        base = self._check(predictions)
        knots, heights = self._ranks()
        wanted = np.atleast_1d(np.asarray(to_numpy(levels), dtype=np.float64))
        if not ((wanted > 0) & (wanted < 1)).all():
            raise ValueError(f"levels must be in (0, 1), got {levels!r}")
        result = np.empty((len(base), len(wanted)))
        for column, level in enumerate(wanted):
            if level > heights[-1] * (1 + 1e-12):
                result[:, column] = np.inf
            elif level < heights[0] * (1 - 1e-12):
                result[:, column] = -np.inf
            elif self.interpolation == "step":
                score = knots[np.searchsorted(heights, level * (1 - 1e-12))]
                result[:, column] = self._outcomes(base, score)
            else:
                result[:, column] = self._outcomes(base, float(np.interp(level, heights, knots)))
        return like(result, predictions)

    def interval(self, predictions: ArrayLike, level: float = 0.9) -> Any:
        """Return intervals, shape (n, 2), that contain a new outcome with a given probability.

        With "step", at least that often on average if questions are exchangeable: the lower end is the ⌊(n + 1)
        α/2⌋-th score, the upper the ⌈(n + 1)(1 - α/2)⌉-th, or ±inf if there is none.

        Raises
        ------
        ValueError
            If the level is not in (0, 1), or the predictions are not of the form that `fit` takes.
        """
        if not 0 < level < 1:
            raise ValueError(f"level must be in (0, 1), got {level}")
        tail = (1 - level) / 2
        if self.interpolation == "linear":
            return self.quantile(predictions, [tail, 1 - tail])
        base = self._check(predictions)
        knots, heights = self._ranks()
        below = int(np.searchsorted(heights, tail * (1 + 1e-12), side="right")) - 1
        above = int(np.searchsorted(heights, (1 - tail) * (1 - 1e-12)))
        ends = [knots[below] if below >= 0 else -np.inf, knots[above] if above < len(knots) else np.inf]
        return like(np.column_stack([self._outcomes(base, end) for end in ends]), predictions)

    def sample(self, predictions: ArrayLike, n_samples: int = 1, *, seed: int = 0) -> Any:
        """Return draws from the calibrated distributions, shape (n, n_samples).

        Levels beyond the outermost ranks are replaced by them.

        Raises
        ------
        ValueError
            If `n_samples` is below 1, or the predictions do not have the form that `fit` takes.
        """
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}")
        base = self._check(predictions)
        knots, heights = self._ranks()
        levels = np.random.default_rng(seed).random((len(base), n_samples))
        if self.interpolation == "step":
            rows = np.minimum(np.searchsorted(heights, levels), len(knots) - 1)
            scores = knots[rows]
        else:
            scores = np.interp(levels, heights, knots)
        drawn = np.column_stack([self._outcomes(base, scores[:, column]) for column in range(n_samples)])
        return like(drawn, predictions)

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        predictor = reader.choice("predictor", PREDICTORS)
        interpolation = reader.choice("interpolation", INTERPOLATIONS)
        score = reader.choice("score", SCORES[predictor])
        levels = reader.increasing("levels", 0.0, 1.0)
        columns = reader.integer("columns", 1, 10_000)
        scores = reader.array("scores", (None,))
        mass = reader.array("mass", (len(scores),), 1e-15, 1e15)
        if (np.diff(scores) < 0).any():
            raise ValueError("the scores of 'modular_conformal' must not decrease")
        self.__init__(predictor, interpolation, tuple(levels), score)  # type: ignore[misc]
        return {
            "predictor": predictor,
            "interpolation": interpolation,
            "score": score,
            "levels": levels,
            "columns": columns,
            "scores": scores,
            "mass": mass,
        }

    def _ranks(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        parameters = self.parameters()
        return parameters["scores"], np.cumsum(parameters["mass"]) / (parameters["mass"].sum() + 1)

    def _check_kind(self, kind: str | None) -> None:
        if kind is not None and kind != self.predictor:
            raise ValueError(f"this calibrator is made for {self.predictor!r} predictions, kind is {kind!r}")

    def _check(self, predictions: ArrayLike) -> NDArray[np.float64]:
        values = np.asarray(to_numpy(predictions), dtype=np.float64)
        if self.predictor == "point":
            values = values[:, None] if values.ndim == 1 else values
        least, most = {"point": (1, 1), "gaussian": (2, 2), "quantiles": (2, 10_000)}[self.predictor]
        if values.ndim != 2 or not least <= values.shape[1] <= most:
            raise ValueError(f"predictions of the kind {self.predictor!r} cannot have the shape {values.shape}")
        if self._parameters is not None and values.shape[1] != self._parameters["columns"]:
            raise ValueError(f"{self._parameters['columns']} columns were fitted, {values.shape[1]} were given")
        wrong = ~np.isfinite(values).all(axis=1)
        if self.predictor == "gaussian":
            wrong |= ~(values[:, 1] > 0)
        if self.predictor == "quantiles":
            wrong |= ~(np.diff(values, axis=1) > 0).all(axis=1)
        if wrong.any():
            raise ValueError(
                f"row {np.flatnonzero(wrong)[0]}, counted from 0, is not a prediction of kind {self.predictor!r}: "
                "numbers must be finite, standard deviations positive, quantiles must increase"
            )
        return values

    def _scores(self, base: NDArray[np.float64], outcomes: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.score == "place":
            return _place(base, outcomes)
        residual = outcomes - self._center(base)
        return residual / base[:, 1] if self.score == "scaled" else residual

    def _outcomes(self, base: NDArray[np.float64], scores: Any) -> NDArray[np.float64]:
        """Return the outcomes with given scores, the inverse of `_scores`."""
        if self.score == "place":
            return _unplace(base, np.broadcast_to(scores, (len(base),)))
        return self._center(base) + (base[:, 1] * scores if self.score == "scaled" else scores)

    def _center(self, base: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the number, the mean, or the middle of the quantiles, shape (n,)."""
        return np.median(base, axis=1) if self.predictor == "quantiles" else base[:, 0]


def _place(quantiles: NDArray[np.float64], outcomes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return outcomes' positions among their quantiles, interpolated: 0 at the first, m - 1 at the last."""
    m = quantiles.shape[1]
    cell = np.clip((quantiles <= outcomes[:, None]).sum(axis=1) - 1, 0, m - 2)
    rows = np.arange(len(quantiles))
    low, high = quantiles[rows, cell], quantiles[rows, cell + 1]
    return cell + (outcomes - low) / (high - low)


def _unplace(quantiles: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    finite = np.where(np.isfinite(places), places, 0.0)
    cell = np.clip(np.floor(finite), 0, quantiles.shape[1] - 2).astype(int)
    rows = np.arange(len(quantiles))
    low, high = quantiles[rows, cell], quantiles[rows, cell + 1]
    return np.where(np.isfinite(places), low + (finite - cell) * (high - low), places)
