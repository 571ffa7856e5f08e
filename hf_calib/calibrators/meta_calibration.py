"""Label smoothing learned so that a head trained with it is calibrated on held-out questions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .differentiable_ece import differentiable_ece
from .inputs import Sample
from .linear import VectorScaling

# Settings of the outer optimizer, whose steps are few and noisy.
OUTER_RATE = 0.1
MAX_SMOOTHING = 0.5
SMOOTHED = ("class", "unit")
DECAY = 1e-5


def learn_smoothing(
    design: NDArray[np.float64],
    labels: NDArray[np.intp],
    there: NDArray[np.bool_] | None = None,
    *,
    weights: NDArray[np.float64] | None = None,
    diagonal: bool = False,
    error_weight: float = 0.5,
    steps: int = 60,
    seed: int = 0,
    per: str = "class",
) -> NDArray[np.float64]:
    """Learn how much to smooth labels from the calibration of a linear head on held-out questions.

    A head, softmax(W x + b), is trained to convergence on half of the questions with smoothed labels; then the
    smoothing takes a gradient step on log-loss + `error_weight` · DECE of the other half, by implicit differentiation;
    and so on. The paper differentiates through one training step, which does not show the smoothing's effect on a
    converged head.

    Parameters
    ----------
    design : ndarray, shape (n, d)
        x, features or logits.
    labels : ndarray of int, shape (n,)
    there : ndarray of bool, shape (n, K), optional
        Which options a question has; by default all.
    weights : ndarray, shape (n,), optional
    diagonal : bool, default False
        Whether W is diagonal (then d = K) and starts at the identity; otherwise it starts at 0.
    error_weight : float, default 0.5
        Weight of the DECE in the outer loss, relative to the log-loss.
    steps : int, default 60
        Gradient steps of the smoothing.
    seed : int, default 0
        Seed of the split into halves.
    per : {"class", "unit"}, default "class"
        Whether a class's label gives the same share to all other output units, or each unit has its own.

    Returns
    -------
    ndarray of float64, shape (K,) or (K, K)
        For "class", the share of the probability that a label of each class gives to the other options, in [0, 0.5].
        For "unit", the share that a label of each class gives to each output unit; rows sum to at most 0.5, and the
        diagonal is 0.

    Raises
    ------
    ValueError
        If `per` is neither.

    References
    ----------
    Bohdal, Yang and Hospedales, Meta-Calibration: Learning of Model Calibration Using Differentiable Expected
    Calibration Error, TMLR 2023, section 4.
    """
    import torch

    if per not in SMOOTHED:
        raise ValueError(f"per must be one of {', '.join(SMOOTHED)}, got {per!r}")
    n, k = len(labels), int(labels.max()) + 1 if there is None else there.shape[1]
    x = torch.from_numpy(design.astype(np.float64))
    y = torch.from_numpy(labels.astype(np.int64))
    mask = torch.ones(n, k, dtype=torch.bool) if there is None else torch.from_numpy(there)
    share = torch.ones(n, dtype=torch.float64) if weights is None else torch.from_numpy(weights * n)
    rows = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    train, held_out = rows[: (n + 1) // 2], rows[n // 2 :]

    def logits(head: list[Any], chosen: Any) -> Any:
        w, b = head
        z = (x[chosen] * w if diagonal else x[chosen] @ w.T) + b
        return z.masked_fill(~mask[chosen], -torch.inf)

    def log_loss(z: Any, targets: Any, chosen: Any) -> Any:
        # A missing option has the logarithm -inf and the target 0.
        log_p = z.log_softmax(dim=1).masked_fill(~mask[chosen], 0.0)
        return -(share[chosen] * (targets * log_p).sum(dim=1)).mean()

    raw = torch.full((k,), -3.0, dtype=torch.float64)
    if per == "unit":
        # The diagonal says how much is given, the other entries to whom; initially evenly.
        raw = torch.diag(raw)
    raw.requires_grad_()
    outer = torch.optim.Adam([raw], lr=OUTER_RATE)
    start = torch.ones(k, dtype=torch.float64) if diagonal else torch.zeros(k, x.shape[1], dtype=torch.float64)
    head = [start.requires_grad_(), torch.zeros(k, dtype=torch.float64, requires_grad=True)]

    def inner_loss(smoothing: Any) -> Any:
        loss = log_loss(logits(head, train), smoothed_labels(y[train], mask[train], smoothing), train)
        # Without smoothing, labels may be separable; this keeps the head finite.
        return loss + DECAY * sum((value**2).sum() for value in head)

    for _ in range(steps):
        _train(head, lambda: inner_loss(_smoothing(raw.detach())))
        z = logits(head, held_out)
        loss = log_loss(z, torch.nn.functional.one_hot(y[held_out], k).double(), held_out)
        loss = loss + error_weight * differentiable_ece(z, y[held_out], weights=share[held_out])
        toward = torch.cat([part.ravel() for part in torch.autograd.grad(loss, head)])
        gradients = torch.autograd.grad(inner_loss(_smoothing(raw)), head, create_graph=True)
        flat = torch.cat([part.ravel() for part in gradients])
        # The trained head changes with the smoothing by -H⁻¹ ∂²L/∂W∂s, where H is the inner loss's Hessian.
        adjoint = _solve(partial(_product, flat, head), toward)
        raw.grad = -torch.autograd.grad(flat, raw, grad_outputs=adjoint)[0]
        outer.step()
    return _smoothing(raw).detach().numpy()


def _smoothing(raw: Any) -> Any:
    """Return the smoothing, (K,) or (K, K), from unbounded parameters."""
    import torch

    if raw.ndim == 1:
        return MAX_SMOOTHING * torch.sigmoid(raw)
    diagonal = torch.eye(len(raw), dtype=torch.bool)
    to_whom = raw.masked_fill(diagonal, -torch.inf).softmax(dim=1)
    return MAX_SMOOTHING * torch.sigmoid(raw.diagonal())[:, None] * to_whom


def _train(head: list[Any], loss_of: Callable[[], Any]) -> None:
    """Move the head close to the minimum of a loss."""
    import torch

    optimizer = torch.optim.LBFGS(head, max_iter=30, line_search_fn="strong_wolfe", tolerance_grad=1e-8)

    def closure() -> Any:
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        return loss

    optimizer.step(closure)


def _product(gradient: Any, head: list[Any], vector: Any) -> Any:
    """Return the Hessian times a vector."""
    import torch

    parts = torch.autograd.grad(gradient, head, grad_outputs=vector, retain_graph=True)
    return torch.cat([part.ravel() for part in parts])


def _solve(product: Callable[[Any], Any], right: Any) -> Any:
    """Return the solution of H x = right by 30 conjugate gradients, for positive definite H."""
    x, residual = right * 0, right.clone()
    direction, size = residual.clone(), residual @ residual
    for _ in range(30):
        if size <= 1e-16 * (right @ right):
            break
        curved = product(direction)
        step = size / (direction @ curved)
        x, residual = x + step * direction, residual - step * curved
        following = residual @ residual
        direction, size = residual + following / size * direction, following
    return x


def smoothed_labels(labels: Any, there: Any, smoothing: Any) -> Any:
    """Return target distributions, shape (n, K): 1 - s of the right option, s shared among a question's others.

    Parameters
    ----------
    labels : tensor of int, shape (n,)
    there : tensor of bool, shape (n, K)
        Which options a question has.
    smoothing : tensor, shape (K,) or (K, K)
        s of each class, shared evenly; or the share that each class gives to each option. Missing options get nothing.
    """
    import torch

    hard = torch.nn.functional.one_hot(labels, there.shape[1]).to(smoothing.dtype)
    others = there.to(smoothing.dtype) - hard
    if smoothing.ndim == 2:
        shared = smoothing[labels] * others
        return hard * (1 - shared.sum(dim=1, keepdim=True)) + shared
    count = others.sum(dim=1, keepdim=True)
    given = torch.where(count > 0, smoothing[labels][:, None], 0.0)
    return hard * (1 - given) + others * given / count.clamp_min(1)


class MetaCalibration(VectorScaling):
    """Vector scaling on labels whose smoothing is learned so that held-out questions are calibrated.

    Parameters
    ----------
    prior_precision : float, default 1.0
        As in vector scaling.
    error_weight : float, default 0.5
        Weight of the differentiable ECE, relative to the log-loss, in learning the smoothing.
    steps : int, default 60
        Steps of learning the smoothing.
    seed : int, default 0
    per : {"class", "unit"}, default "class"
        As in `learn_smoothing`.

    Attributes
    ----------
    smoothing : ndarray, shape (K,) or (K, K)
        The learned smoothing, in [0, 0.5]; see `learn_smoothing`.

    Notes
    -----
    Not available in scikit-learn, probmetrics, netcal or MAPIE.

    References
    ----------
    Bohdal, Yang and Hospedales, Meta-Calibration, TMLR 2023. To train a network's head, use `learn_smoothing`, and
    `differentiable_ece` as a regularizer.
    """

    name: ClassVar[str] = "meta_calibration"
    approximate: bool = True

    def __init__(
        self,
        prior_precision: float = 1.0,
        error_weight: float = 0.5,
        steps: int = 60,
        seed: int = 0,
        per: str = "class",
    ) -> None:
        super().__init__(prior_precision)
        if not error_weight >= 0:
            raise ValueError(f"error_weight must be at least 0, got {error_weight}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if per not in SMOOTHED:
            raise ValueError(f"per must be one of {', '.join(SMOOTHED)}, got {per!r}")
        self.error_weight, self.steps, self.seed, self.per = error_weight, steps, seed, per

    @property
    def smoothing(self) -> NDArray[np.float64]:
        """The learned smoothing for each class, or for each class and output unit."""
        return self.parameters()["smoothing"]

    def _estimate(self, sample: Sample) -> dict[str, Any]:
        import torch

        there = ~np.isneginf(sample.logits)
        smoothing = learn_smoothing(
            self._design(sample),
            sample.labels,
            there,
            weights=sample.weights,
            diagonal=True,
            error_weight=self.error_weight,
            steps=self.steps,
            seed=self.seed,
            per=self.per,
        )
        targets = smoothed_labels(
            torch.from_numpy(sample.labels.astype(np.int64)), torch.from_numpy(there), torch.from_numpy(smoothing)
        )
        return {**self._estimate_to(sample, targets.numpy()), "per": self.per, "smoothing": smoothing}

    def _read(self, reader: Any) -> dict[str, Any]:
        parameters = super()._read(reader)
        per, k = reader.choice("per", SMOOTHED), len(parameters["intercepts"])
        smoothing = reader.array("smoothing", (k,) if per == "class" else (k, k), 0.0, MAX_SMOOTHING)
        return {**parameters, "per": per, "smoothing": smoothing}
