"""The expected score of a stated level of confidence."""

from __future__ import annotations

import torch

from ..tasks.collator import OptionBatch


def expected_brier_loss(logits: torch.Tensor, batch: OptionBatch) -> torch.Tensor:
    r"""Return the expected Brier score of the level that is stated, for each answer.

    With the levels' distribution p and their values v_k from 0 to 1 in equal steps,

    $$ \sum_k p_k (v_k - right)^2 $$

    which is least where all probability is on the level nearest to the probability of being right (ConfTuner,
    arXiv 2508.18847).

    Parameters
    ----------
    logits : torch.Tensor, shape (B, V)
        Where a level is stated.
    batch : OptionBatch
        The levels as options, the last one right for a right answer and the first one for a wrong one. Answers without
        a grade get 0.

    Returns
    -------
    torch.Tensor of float32, shape (B,)
        In [0, 1].
    """
    options = logits.float().gather(-1, batch.option_ids).masked_fill(~batch.option_mask, -torch.inf)
    p = torch.softmax(options, dim=-1)
    steps = (batch.option_mask.sum(dim=-1, keepdim=True) - 1).clamp(min=1)
    values = torch.arange(p.shape[-1], device=p.device) / steps
    right = batch.answers.clamp(min=0)[:, None] / steps
    loss = (p * (values - right).square()).sum(dim=-1)
    return torch.where(batch.answers >= 0, loss, torch.zeros_like(loss))
