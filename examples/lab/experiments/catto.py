"""CATTO and DPO with binary cross-entropy, to compare with: calibration of each token of the preference pairs."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from hf_calib.confidence.forward import output_layer, unwrapped
from hf_calib.trainers import CalibrationAwareTrainer
from hf_calib.trainers.preference_mixin import recorded_outputs, sequence_log_probabilities

Distance = Literal["absolute", "bce"]

# Logits held at once: 64 million, 256 MB in float32.
_LOGITS_AT_ONCE = 2**26
# What lies between a completion's log-probabilities computed in two ways, in nats a token, is rounding up to this.
_ROUNDING = 0.1


def token_losses(
    logits: torch.Tensor, labels: torch.Tensor, chosen: torch.Tensor, distance: Distance = "absolute"
) -> torch.Tensor:
    r"""Return CATTO's loss of each token of chosen and rejected completions.

    With the top probability :math:`c_t` and :math:`z_t = \sigma(p_t(y_t) - \max_{v \ne y_t} p_t(v))`, a smooth
    stand-in for whether the model would have written the token :math:`y_t`, the loss is :math:`|c_t - z_t|` for a
    token of a chosen completion and :math:`|c_t - (1 - z_t)|` for one of a rejected completion. The gradient goes
    through both.

    Parameters
    ----------
    logits : torch.Tensor, shape (N, V)
        That predict each token.
    labels : torch.Tensor of int64, shape (N,)
        The tokens.
    chosen : torch.Tensor of bool, shape (N,)
        Which of them belong to chosen completions.
    distance : {"absolute", "bce"}
        "bce" has the binary cross-entropy of :math:`c_t` against the same target in place of the distance.

    Returns
    -------
    torch.Tensor of float32, shape (N,)

    References
    ----------
    Parikh et al., CATTO: Balancing Preferences and Confidence in Language Models, 2026, arXiv 2601.23096.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=-1)
    probabilities = log_probabilities.exp()
    column = labels[:, None]
    others = probabilities.scatter(-1, column, 0.0).max(dim=-1).values
    agreement = torch.sigmoid(probabilities.gather(-1, column)[:, 0] - others)
    target = torch.where(chosen, agreement, 1 - agreement)
    top, place = log_probabilities.max(dim=-1, keepdim=True)
    if distance == "absolute":
        return (top[:, 0].exp() - target).abs()
    rest = log_probabilities.scatter(-1, place, -torch.inf).logsumexp(dim=-1)
    return -target * top[:, 0] - (1 - target) * rest


class CATTODPOTrainer(CalibrationAwareTrainer):
    """DPO with CATTO's term: the mean of `token_losses` over each completion's tokens, then over the pairs.

    The term is computed from the hidden states of the trainer's own forward, for the completions' tokens only, so it
    costs one more projection to the vocabulary and no forward. It needs no questions; a `calibration_dataset` adds the
    anchor, as in the extended trainer. Trained in one process or with DDP.

    Parameters
    ----------
    catto_weight : float, default 0.1
        λ. The default is the published one. At 0 training is bit-identical to the extended trainer's.
    catto_distance : {"absolute", "bce"}
        See `token_losses`.

    Raises
    ------
    ValueError
        If the weight is negative or not finite, the distance is unknown, or, in the first step, the model does more
        to its logits than its output layer (as Gemma 2 caps them).
    """

    def __init__(
        self, *args: Any, catto_weight: float = 0.1, catto_distance: Distance = "absolute", **kwargs: Any
    ) -> None:
        if not 0.0 <= catto_weight < float("inf"):
            raise ValueError(f"catto_weight must be a finite, nonnegative number, got {catto_weight}")
        if catto_distance not in ("absolute", "bce"):
            raise ValueError(f"catto_distance must be 'absolute' or 'bce', got {catto_distance!r}")
        super().__init__(*args, **kwargs)
        self.catto_weight = catto_weight
        self.catto_distance = catto_distance
        self._logits_are_known = False

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the extended trainer's loss, plus CATTO's term while training."""
        options = {"return_outputs": return_outputs, "num_items_in_batch": num_items_in_batch}
        if self.catto_weight == 0 or not self.model.training:
            return super().compute_loss(model, inputs, **options)
        with recorded_outputs(self.model) as outputs, recorded_outputs(_backbone(self.model)) as states:
            result = super().compute_loss(model, inputs, **options)
        # The policy's forward is the first; the reference's and those of the calibration terms follow.
        term = self.catto_weight * self._catto_term(states[0].last_hidden_state, inputs, outputs[0])
        return (result[0] + term, result[1]) if return_outputs else result + term

    def _catto_term(self, states: torch.Tensor, inputs: dict[str, Any], output: Any) -> torch.Tensor:
        mask = inputs["completion_mask"][:, 1:].bool()
        labels = inputs["input_ids"][:, 1:][mask]
        # An adapter's virtual tokens precede the input's own.
        states = states[:, -mask.shape[1] - 1 : -1][mask]
        chosen = (torch.arange(len(mask), device=mask.device) < len(mask) // 2)[:, None].expand_as(mask)[mask]
        layer = output_layer(_causal_model(self.model))
        if not self._logits_are_known:
            self._check_logits(layer, states, labels, mask, sequence_log_probabilities(output, inputs))
            self._logits_are_known = True

        def some(states: torch.Tensor, labels: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
            return token_losses(layer(states), labels, chosen, self.catto_distance)

        rows = max(1, _LOGITS_AT_ONCE // layer.weight.shape[0])
        parts = zip(states.split(rows), labels.split(rows), chosen.split(rows), strict=True)
        losses = torch.cat([checkpoint(some, *part, use_reentrant=False) for part in parts])
        tokens = torch.zeros(mask.shape, device=losses.device).masked_scatter(mask, losses)
        completions = tokens.sum(dim=1) / mask.sum(dim=1).clamp(min=1)
        return completions.view(2, -1).mean(dim=1).sum()

    @torch.no_grad()
    def _check_logits(
        self, layer: Any, states: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor, expected: torch.Tensor
    ) -> None:
        """Compare the completions' log-probabilities with those that the extended trainer computed."""
        rows = max(1, _LOGITS_AT_ONCE // layer.weight.shape[0])
        found = torch.cat(
            [
                -nn.functional.cross_entropy(layer(some).float(), label, reduction="none")
                for some, label in zip(states.split(rows), labels.split(rows), strict=True)
            ]
        )
        sums = torch.zeros(mask.shape, device=found.device).masked_scatter(mask, found).sum(dim=1)
        distance = float((sums - expected.detach()).abs().div(mask.sum(dim=1).clamp(min=1)).max())
        if not distance <= _ROUNDING:
            raise ValueError(
                f"model: the log-probabilities of {type(_causal_model(self.model)).__name__} are not those of its "
                f"output layer's logits (they differ by {distance:.2g} nats per token), as where logits are capped or "
                "scaled; CATTO's term would be wrong for it"
            )


def _causal_model(model: nn.Module) -> Any:
    model = unwrapped(model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _backbone(model: nn.Module) -> nn.Module:
    return _causal_model(model).base_model
