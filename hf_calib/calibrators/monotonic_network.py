"""An unconstrained monotonic network on the log-odds of a confidence or a score."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from .confidence_maps import FittedConfidenceMap, laplace_bounds
from .inputs import Inputs
from .storage import ParameterReader

N_NODES = 65
WIDTH = 16
# Lower bound of the integrand, so that the map increases everywhere.
LEAST_SLOPE = 1e-4
# Length of a stretch of neighbors, as a share of the total weight.
LEAST_MASS = 1e-9


class MonotonicNetwork(FittedConfidenceMap):
    """σ(b + ∫ f(t) dt) up to the log-odds, where f is a small network with positive output.

    The integral of a positive function increases, so no weight needs a constraint. It is computed by the trapezoidal
    rule on 65 nodes over the range of the sample, and f is constant beyond it, so the trained and the applied map are
    the same, and increase everywhere. Only the network's values at the nodes are saved. Probabilities are limited to
    the range that n outcomes can show, [1/(n+2), (n+1)/(n+2)].

    In addition to the log-loss, it minimizes a smooth calibration loss: with the questions sorted by confidence, the
    mean over all stretches of neighbors of (mean probability - mean outcome)². The order never changes, since the map
    increases.

    Parameters
    ----------
    smooth_calibration_weight : float, default 1.0
        Weight of the second loss; 0 for the log-loss only.
    steps : int, default 300
        Steps of Adam, each on all data.
    seed : int, default 0
        Seed of the initial weights.

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE.

    References
    ----------
    Bai et al., Unconstrained Monotonic Calibration of Predictions in Deep Ranking Systems, SIGIR 2025; the network is
    that of Wehenkel and Louppe, Unconstrained Monotonic Neural Networks, NeurIPS 2019. The smooth calibration loss is
    our own variant of its idea.
    """

    name: ClassVar[str] = "monotonic_network"
    approximate: bool = True

    def __init__(self, smooth_calibration_weight: float = 1.0, steps: int = 300, seed: int = 0) -> None:
        super().__init__()
        if not smooth_calibration_weight >= 0:
            raise ValueError(f"smooth_calibration_weight must be at least 0, got {smooth_calibration_weight}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.smooth_calibration_weight, self.steps, self.seed = smooth_calibration_weight, steps, seed

    def _estimate_map(
        self, log_odds: NDArray[np.float64], outcomes: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> dict[str, Any]:
        import torch
        from torch import nn
        from torch.nn import functional as F

        order = np.argsort(log_odds, kind="stable")
        order = order[weights[order] > 0]
        x, y, w = (values[order] for values in (log_odds, outcomes, weights))
        # A few extreme values would leave most nodes without data; beyond the nodes the map is linear.
        low, high = np.quantile(x, [0.005, 0.995])
        if high - low < 1e-3:
            low, high = low - 1.0, high + 1.0
        nodes = np.linspace(low, high, N_NODES)
        cell = np.clip(np.searchsorted(nodes, x, side="right") - 1, 0, N_NODES - 2)
        spacing = (high - low) / (N_NODES - 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            last = nn.Linear(WIDTH, 1)
            network = nn.Sequential(nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), last).double()
        # Start at the identity, f = 1.
        nn.init.zeros_(last.weight)
        nn.init.constant_(last.bias, float(np.log(np.expm1(1.0))))
        intercept = nn.Parameter(torch.tensor(low, dtype=torch.float64))
        at = torch.linspace(-2, 2, N_NODES, dtype=torch.float64)[:, None]
        below = torch.from_numpy(np.minimum(x - low, 0.0))
        above = torch.from_numpy(np.maximum(x - high, 0.0))
        inside = torch.from_numpy(np.clip(x, low, high) - nodes[cell])
        cells, target, share = torch.from_numpy(cell), torch.from_numpy(y), torch.from_numpy(w / w.sum())
        stretch = max(len(x) // 10, 2)

        def logits_at(densities: torch.Tensor) -> torch.Tensor:
            areas = (densities[1:] + densities[:-1]) * (spacing / 2)
            cumulative = torch.cat([torch.zeros(1, dtype=torch.float64), areas.cumsum(0)])
            slope = (densities[1:] - densities[:-1]) / spacing
            within = densities[cells] * inside + slope[cells] * inside**2 / 2
            return intercept + cumulative[cells] + within + densities[0] * below + densities[-1] * above

        optimizer = torch.optim.Adam([*network.parameters(), intercept], lr=0.02, weight_decay=1e-4)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        for _ in range(self.steps):
            densities = F.softplus(network(at)[:, 0]) + LEAST_SLOPE
            logits = logits_at(densities)
            loss = share @ F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            if self.smooth_calibration_weight and len(x) >= 2 * stretch:
                loss = loss + self.smooth_calibration_weight * smooth_calibration_loss(
                    torch.sigmoid(logits), target, share, stretch
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        with torch.no_grad():
            densities = F.softplus(network(at)[:, 0]) + LEAST_SLOPE
        return {
            "low": float(low),
            "high": float(high),
            "intercept": float(intercept.detach()),
            "densities": densities.numpy(),
            "n": len(x),
        }

    def _map(self, log_odds: NDArray[np.float64], inputs: Inputs) -> NDArray[np.float64]:
        parameters = self.parameters()
        low, high, density = parameters["low"], parameters["high"], parameters["densities"]
        nodes = np.linspace(low, high, len(density))
        spacing = (high - low) / (len(density) - 1)
        cumulative = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) * (spacing / 2))])
        cell = np.clip(np.searchsorted(nodes, log_odds, side="right") - 1, 0, len(density) - 2)
        inside = np.clip(log_odds, low, high) - nodes[cell]
        within = density[cell] * inside + (np.diff(density) / spacing)[cell] * inside**2 / 2
        # Rounding must not move a cell's end past the next one's start.
        value = np.clip(cumulative[cell] + within, cumulative[cell], cumulative[cell + 1])
        value = value + density[0] * np.minimum(log_odds - low, 0.0) + density[-1] * np.maximum(log_odds - high, 0.0)
        # No sample shows more certainty than its size allows; this keeps the log-loss finite on new data.
        return np.clip(expit(parameters["intercept"] + value), *laplace_bounds(parameters["n"]))

    def _read_map(self, reader: ParameterReader) -> dict[str, Any]:
        low = reader.number("low", -1e4, 1e4)
        return {
            "low": low,
            "high": reader.number("high", low + 1e-6, 1e4 + 1),
            "intercept": reader.number("intercept", -1e100, 1e100),
            "densities": reader.array("densities", (N_NODES,), 0.0, 1e100),
            "n": reader.integer("n", 1, 10**15),
        }


def smooth_calibration_loss(probabilities: Any, outcomes: Any, weights: Any, stretch: int) -> Any:
    """Return the mean over stretches of neighbors of (mean probability - mean outcome)².

    Parameters
    ----------
    probabilities, outcomes, weights : tensor of float, shape (n,)
        Sorted by confidence; the weights sum to one. Stretches with weights below 1e-9 count less.
    stretch : int
        Number of neighbors in each stretch, at most n.

    Returns
    -------
    tensor of float, scalar
        In [0, 1].
    """
    import torch

    zero = torch.zeros(1, dtype=probabilities.dtype)
    gaps = torch.cat([zero, (weights * (probabilities - outcomes)).cumsum(0)])
    mass = torch.cat([zero, weights.cumsum(0)])
    # Stretches with almost no weight are dominated by rounding errors.
    return (
        ((gaps[stretch:] - gaps[:-stretch]) / (mass[stretch:] - mass[:-stretch]).clamp_min(LEAST_MASS)) ** 2
    ).mean()
