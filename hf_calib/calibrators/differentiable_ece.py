"""The expected calibration error as a loss: soft bins and soft ranks, in torch."""

from __future__ import annotations

from typing import Any


def differentiable_ece(
    logits: Any,
    labels: Any,
    *,
    n_bins: int = 15,
    bin_temperature: float = 0.01,
    rank_temperature: float = 0.01,
    weights: Any = None,
) -> Any:
    """Return the differentiable expected calibration error (DECE) of option logits.

    The same number as `hf_calib.measures.differentiable_calibration_error`, with gradients, to add to a loss.

    Parameters
    ----------
    logits : tensor of float, shape (n, K)
        -inf for missing options.
    labels : tensor of int, shape (n,)
    n_bins : int, default 15
    bin_temperature, rank_temperature : float, default 0.01
        Softness of bins and ranks, positive.
    weights : tensor of float, shape (n,), optional

    Returns
    -------
    tensor, scalar
        In [0, 1].

    References
    ----------
    Bohdal, Yang and Hospedales, Meta-Calibration: Learning of Model Calibration Using Differentiable Expected
    Calibration Error, TMLR 2023, section 3.
    """
    import torch

    p = logits.softmax(dim=1)
    right = p.gather(1, labels[:, None])
    # The right option itself contributes σ(0) = 1/2 to the sum.
    rank = 0.5 + torch.sigmoid((p - right) / rank_temperature).sum(dim=1)
    accuracy = (2 - rank).clamp_min(0)
    confidence = p.max(dim=1).values
    steps = torch.arange(1, n_bins + 1, dtype=p.dtype, device=p.device)
    edges = torch.arange(1, n_bins, dtype=p.dtype, device=p.device) / n_bins
    offsets = torch.cat([torch.zeros(1, dtype=p.dtype, device=p.device), edges.cumsum(0)])
    membership = ((confidence[:, None] * steps - offsets) / bin_temperature).softmax(dim=1)
    share = torch.full_like(confidence, 1 / len(confidence)) if weights is None else weights / weights.sum()
    return (membership * (share * (accuracy - confidence))[:, None]).sum(dim=0).abs().sum()
