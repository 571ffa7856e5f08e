"""A learned head and a fixed one on a simplex equiangular tight frame that balance each other's confidence."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

from .adaptive_temperature import read_standardization, standardization, standardized
from .inputs import Inputs, Sample, shifted, softmax
from .protocol import Calibrator
from .storage import ParameterReader


def simplex_etf(k: int) -> NDArray[np.float64]:
    """Return the simplex equiangular tight frame, shape (K, K): unit rows with pairwise cosines of -1/(K - 1).

    M = √(K/(K-1)) (I - 11ᵀ/K), up to rotation.

    Raises
    ------
    ValueError
        If k is below 2.
    """
    if k < 2:
        raise ValueError(f"a simplex has two vertices or more, got {k}")
    return np.sqrt(k / (k - 1)) * (np.eye(k) - 1 / k)


def simplex_etf_head(hidden_size: int, n_options: int, *, scale: float = 4.0) -> Any:
    """Return a torch module that maps hidden states (..., d) to logits (..., K) of a fixed simplex classifier.

    A learned linear layer maps the hidden state to h in the simplex's space, normalized to a length below 1: the
    logits are scale · m_k · h/√(1 + ‖h‖²), so the scale limits the confidence. The simplex is a buffer: it is saved
    but never trained.

    Parameters
    ----------
    hidden_size, n_options : int
        d and K.
    scale : float, default 4.0
        Positive.

    Raises
    ------
    ValueError
        If the scale is not positive, or there are fewer than two options.
    """
    import torch
    from torch import nn

    class SimplexETFHead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.projection = nn.Linear(hidden_size, n_options)
            self.register_buffer("vertices", torch.from_numpy(simplex_etf(n_options)).float())

        def forward(self, hidden: Any) -> Any:
            h = self.projection(hidden)
            h = h / (1 + (h**2).sum(dim=-1, keepdim=True)).sqrt()
            return scale * h @ self.get_buffer("vertices").to(h.dtype).T

    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")
    return SimplexETFHead()


def balance(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    labels: NDArray[np.intp],
    weights: NDArray[np.float64] | None = None,
) -> float:
    """Return the share of the first in a mixture whose mean confidence equals its accuracy, in [0, 1].

    Parameters
    ----------
    first, second : ndarray, shape (n, K)
        Probabilities, usually of an overconfident and an underconfident classifier.
    labels : ndarray of int, shape (n,)
    weights : ndarray, shape (n,), optional

    Returns
    -------
    float
        The share with the lowest log-loss if both are miscalibrated in the same direction, so that no mixture has
        a gap of zero.
    """

    def gap(share: float) -> float:
        p = share * first + (1 - share) * second
        return float(np.average(p.max(axis=1) - (p.argmax(axis=1) == labels), weights=weights))

    low, high = gap(0.0), gap(1.0)
    if low * high < 0:
        return float(brentq(gap, 0.0, 1.0, xtol=1e-6))
    rows = np.arange(len(labels))
    one, other = first[rows, labels], second[rows, labels]

    def loss(share: float) -> float:
        return -float(np.average(np.log(np.maximum(share * one + (1 - share) * other, 1e-300)), weights=weights))

    best = minimize_scalar(loss, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-6})
    return float(min((0.0, float(best.x), 1.0), key=loss))


class SimplexETFCalibration(Calibrator):
    """Mix the model's probabilities with those of a fixed simplex classifier on features, until they are calibrated.

    Features are hidden states or anything else that is informative about the answer. A linear layer into the simplex's
    space is trained on the questions. The mixture's share is chosen so that the mean confidence equals the accuracy,
    with each half of the questions answered by a layer trained on the other half. This works if the model is
    overconfident and the simplex classifier, limited by its scale, is not; otherwise the share with the lowest
    log-loss is used.

    Parameters
    ----------
    scale : float, default 4.0
        Scale of the simplex classifier's logits, positive.
    steps : int, default 200
        Steps of Adam, each on all questions of a half.
    weight_decay : float, default 0.01
        Weight decay of the linear layer.
    seed : int, default 0
        Seed of the halves and the initial weights.

    Attributes
    ----------
    share : float
        Share of the model's own probabilities in the mixture, in [0, 1].

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE.

    References
    ----------
    Balancing Two Classifiers via a Simplex ETF Structure for Model Calibration (BalCAL), CVPR 2025; there both heads
    are trained with the network, for which there are `simplex_etf_head` and `balance`.
    """

    name: ClassVar[str] = "simplex_etf"
    needs_features: bool = True
    positional: bool = True
    approximate: bool = True

    def __init__(self, scale: float = 4.0, steps: int = 200, weight_decay: float = 0.01, seed: int = 0) -> None:
        super().__init__()
        if not scale > 0:
            raise ValueError(f"scale must be positive, got {scale}")
        if steps < 1 or not weight_decay >= 0:
            raise ValueError(f"steps must be at least 1 and weight_decay at least 0, got {steps} and {weight_decay}")
        self.scale, self.steps, self.weight_decay, self.seed = scale, steps, weight_decay, seed

    @property
    def share(self) -> float:
        """Share of the model's own probabilities in the mixture."""
        return self.parameters()["share"]

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        assert sample.features is not None
        n = len(sample)
        rows = np.random.default_rng(self.seed).permutation(n)
        first, second = rows[: (n + 1) // 2], rows[n // 2 :]
        # Each half is answered by a head trained on the other.
        fixed = np.empty_like(sample.logits)
        for train, held_out in ((first, second), (second, first)):
            fixed[held_out] = _simplex_probabilities(sample[held_out], self._train(sample[train]))
        share = balance(softmax(sample.logits), fixed, sample.labels, sample.weights)
        return {**self._train(sample), "share": share}

    def _train(self, sample: Sample) -> dict[str, Any]:
        """Return the simplex head's parameters."""
        import torch

        assert sample.features is not None
        mean, scale = standardization(sample.features)
        x = standardized(sample.features, mean, scale)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            head = simplex_etf_head(x.shape[1], sample.n_options, scale=self.scale).double()
        inputs, labels = torch.from_numpy(x), torch.from_numpy(sample.labels.astype(np.int64))
        absent = torch.from_numpy(np.isneginf(sample.logits))
        share = torch.from_numpy(sample.weights)
        optimizer = torch.optim.AdamW(head.parameters(), lr=0.05, weight_decay=self.weight_decay)
        for _ in range(self.steps):
            logits = head(inputs).masked_fill(absent, -torch.inf)
            loss = share @ torch.nn.functional.cross_entropy(logits, labels, reduction="none")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return {
            "projection": head.projection.weight.detach().numpy().copy(),
            "bias": head.projection.bias.detach().numpy().copy(),
            "scale": self.scale,
            "feature_mean": mean,
            "feature_scale": scale,
        }

    def _apply(self, inputs: Inputs) -> NDArray[np.float64]:
        parameters = self.parameters()
        self._check_option_count(inputs, len(parameters["bias"]))
        self._check_feature_count(inputs, len(parameters["feature_mean"]))
        fixed = _simplex_probabilities(inputs, parameters)
        return parameters["share"] * softmax(inputs.logits) + (1 - parameters["share"]) * fixed

    def _read(self, reader: ParameterReader) -> dict[str, Any]:
        projection = reader.array("projection", (None, None), -1e100, 1e100)
        k, d = projection.shape
        if k < 2:
            raise ValueError("'projection' of the calibrator 'simplex_etf' must have two rows or more")
        return {
            "projection": projection,
            "bias": reader.array("bias", (k,), -1e100, 1e100),
            "scale": reader.number("scale", 1e-6, 1e6),
            "share": reader.number("share", 0.0, 1.0),
            **read_standardization(reader, d),
        }


def _simplex_probabilities(inputs: Inputs, parameters: dict[str, Any]) -> NDArray[np.float64]:
    assert inputs.features is not None
    x = standardized(inputs.features, parameters["feature_mean"], parameters["feature_scale"])
    h = np.einsum("nd,kd->nk", x, parameters["projection"]) + parameters["bias"]
    h /= np.sqrt(1 + (h**2).sum(axis=1, keepdims=True))
    vertices = simplex_etf(len(parameters["bias"]))[: inputs.n_options]
    z = parameters["scale"] * np.einsum("nj,kj->nk", h, vertices)
    return softmax(shifted(np.where(np.isneginf(inputs.logits), -np.inf, z)))
