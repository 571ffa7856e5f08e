"""The supervised term: the right answer's log-loss (CFT)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..tasks.collator import OptionColumns


def answer_loss(logits: torch.Tensor, batch: OptionColumns) -> torch.Tensor:
    """Return -log p_θ(the right option) for each question: over the whole vocabulary, or over the options' texts.

    Parameters
    ----------
    logits : torch.Tensor, shape (B, V)
        At the answer positions; with option texts their scores, shape (B, K).
    batch : OptionColumns
        Questions without an answer get 0.

    Returns
    -------
    torch.Tensor of float32, shape (B,)
    """
    answered = batch.answers >= 0
    target = batch.option_ids.gather(1, batch.answers.clamp(min=0)[:, None])[:, 0]
    loss = F.cross_entropy(logits.float(), target, reduction="none")
    return torch.where(answered, loss, torch.zeros_like(loss))
