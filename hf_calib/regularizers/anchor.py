"""The anchor: stay with the reference model's distribution, of the next token or over the options' texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def anchor_divergence(policy_logits: torch.Tensor, reference_logits: torch.Tensor) -> torch.Tensor:
    """Return KL(p_ref ‖ p_θ) over the whole vocabulary, a question at a time.

    Preference alignment starts from a reference that is calibrated. Keeping to its next-token distribution on
    multiple-choice prompts keeps that calibration, the options' ranking and the raw mass on the options alike, and
    needs no answers.

    Parameters
    ----------
    policy_logits, reference_logits : torch.Tensor, shape (B, V)
        At the answer positions; for option texts and labels, the scores of
        `hf_calib.confidence.forward.answer_scores`. No gradient flows into the reference.

    Returns
    -------
    torch.Tensor of float32, shape (B,)
        In nats, at least 0 up to rounding.

    Raises
    ------
    ValueError
        If the two vocabularies differ in size.
    """
    if policy_logits.shape != reference_logits.shape:
        raise ValueError(
            f"the policy's logits have the shape {tuple(policy_logits.shape)}, the reference's "
            f"{tuple(reference_logits.shape)}; both models must have one vocabulary"
        )
    policy = F.log_softmax(policy_logits.float(), dim=-1)
    reference = F.log_softmax(reference_logits.detach().float(), dim=-1)
    return F.kl_div(policy, reference, log_target=True, reduction="none").sum(dim=-1)


def coarse_anchor_divergence(
    policy_logits: torch.Tensor,
    token_ids: torch.Tensor,
    log_probabilities: torch.Tensor,
    rest_log_probability: torch.Tensor,
) -> torch.Tensor:
    r"""Return the anchor's divergence from a reference of which only some tokens' probabilities are kept.

    All other tokens count as one, "the rest". With r the mass of the rest in the reference,

    $$ KL(p_{ref} \| p_\theta) = \text{this} + r \, KL(p_{ref}(\cdot | rest) \| p_\theta(\cdot | rest)) $$

    by the chain rule, so this is never above the whole divergence, and short of it by at most r times the largest
    log-ratio $\log p_{ref}(v | rest) / p_\theta(v | rest)$ of any other token v.

    Parameters
    ----------
    policy_logits : torch.Tensor, shape (B, V)
    token_ids : torch.Tensor of int64, shape (B, k)
        The tokens that are kept, different ones in each row; -1 where a row has fewer.
    log_probabilities : torch.Tensor, shape (B, k)
        The reference's, natural logarithms.
    rest_log_probability : torch.Tensor, shape (B,)
        Logarithm of the mass of all other tokens; -inf where there is none.

    Returns
    -------
    torch.Tensor of float32, shape (B,)
        In nats, at least 0 up to rounding.
    """
    logits = policy_logits.float()
    kept = token_ids >= 0
    index = token_ids.clamp(min=0)
    total = logits.logsumexp(dim=-1)
    policy = logits.gather(-1, index) - total[:, None]
    reference = log_probabilities.float().masked_fill(~kept, 0.0)
    terms = (reference.exp() * (reference - policy)).masked_fill(~kept, 0.0).sum(dim=-1)
    # Added in place of a scatter of -inf, which a padded column could put on a kept token's place.
    is_kept = torch.zeros_like(logits, dtype=torch.int).scatter_add_(1, index, kept.int()) > 0
    rest = logits.masked_fill(is_kept, -torch.inf).logsumexp(dim=-1) - total
    has_rest = torch.isfinite(rest_log_probability)
    rest_reference = rest_log_probability.float().masked_fill(~has_rest, 0.0)
    rest_term = rest_reference.exp() * (rest_reference - rest.masked_fill(~has_rest, 0.0))
    return terms + rest_term.masked_fill(~has_rest, 0.0)
