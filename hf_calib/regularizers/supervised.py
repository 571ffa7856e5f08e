"""The supervised terms: the log-loss of the right answer (CFT) or of a distribution, and the Brier score."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..tasks.collator import OptionBatch


def answer_loss(logits: torch.Tensor, batch: OptionBatch) -> torch.Tensor:
    """Return -log p_θ(the right option) for each question: over the whole vocabulary, or over the options' texts.

    Of a question with a distribution in place of the one right answer, it is the cross-entropy to it,
    -Σ_k t_k log p_θ(option k).

    Parameters
    ----------
    logits : torch.Tensor, shape (B, V)
        At the answer positions; for option texts and labels, the scores of
        `hf_calib.confidence.forward.answer_scores`.
    batch : OptionBatch
        Questions without an answer get 0.

    Returns
    -------
    torch.Tensor of float32, shape (B,)
    """
    if batch.distributions is not None:
        options = F.log_softmax(logits.float(), dim=-1).gather(-1, batch.option_ids)
        return -(batch.distributions * options.masked_fill(~batch.option_mask, 0.0)).sum(dim=-1)
    answered = batch.answers >= 0
    target = batch.option_ids.gather(1, batch.answers.clamp(min=0)[:, None])[:, 0]
    loss = F.cross_entropy(logits.float(), target, reduction="none")
    return torch.where(answered, loss, torch.zeros_like(loss))


def brier_loss(probabilities: torch.Tensor, batch: OptionBatch) -> torch.Tensor:
    """Return the squared distance of each question's distribution over the options to its answer, in [0, 2].

    Parameters
    ----------
    probabilities : torch.Tensor, shape (B, K)
        Softmax over the options only, with gradient.
    batch : OptionBatch
        Its distributions, or the right options as certain. Questions without an answer get 0.

    Returns
    -------
    torch.Tensor of float32, shape (B,)
    """
    answered = batch.answers >= 0
    targets = batch.distributions
    if targets is None:
        targets = F.one_hot(batch.answers.clamp(min=0), batch.option_mask.shape[1]).float()
    squares = ((probabilities.float() - targets) ** 2).masked_fill(~batch.option_mask, 0.0).sum(dim=-1)
    return torch.where(answered, squares, torch.zeros_like(squares))
