"""One forward that computes logits at the answers' positions only."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..tasks.collator import OptionColumns, QuestionBatch


class NonFiniteLogitsError(FloatingPointError):
    """A model returned infinite or undefined logits at an answer's position."""


@dataclass(frozen=True)
class ForwardArguments:
    """What a model's forward takes.

    Parameters
    ----------
    logits_to_keep, position_ids, use_cache : bool
        Whether it has the argument of that name.
    virtual_tokens : bool, default False
        Whether an adapter (prompt tuning and its like) puts virtual tokens before the input.
    """

    logits_to_keep: bool
    position_ids: bool
    use_cache: bool
    virtual_tokens: bool = False

    @classmethod
    def of(cls, model: nn.Module) -> ForwardArguments:
        """Read them off the signature of the causal language model inside its wrappers."""
        # Wrappers (DDP, DeepSpeed, compiled modules, PEFT) pass keywords through, so the innermost model decides.
        virtual_tokens = False
        while True:
            inner = getattr(model, "module", None) or getattr(model, "_orig_mod", None)
            unwrap = getattr(model, "get_base_model", None)
            if inner is None and callable(unwrap):
                virtual_tokens |= getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
                inner = unwrap()
            if not isinstance(inner, nn.Module):
                break
            model = inner
        parameters = inspect.signature(model.forward).parameters
        return cls(
            logits_to_keep="logits_to_keep" in parameters,
            position_ids="position_ids" in parameters,
            use_cache="use_cache" in parameters,
            virtual_tokens=virtual_tokens,
        )

    def inputs(self, batch: Any) -> dict[str, Any]:
        """Return the keywords for a forward of a batch."""
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        # With virtual tokens PEFT leaves positions out, with a warning.
        if self.position_ids and not self.virtual_tokens:
            inputs["position_ids"] = batch.position_ids
        if self.use_cache:
            inputs["use_cache"] = False
        return inputs


def answer_logits(model: nn.Module, batch: QuestionBatch, arguments: ForwardArguments | None = None) -> torch.Tensor:
    """Return the logits of the whole vocabulary at each question's answer position.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model, wrapped or not.
    batch : QuestionBatch
        B questions, on the model's device.
    arguments : ForwardArguments, optional
        Found from the model when not given.

    Returns
    -------
    torch.Tensor of float32, shape (B, V)
    """
    logits, rows, columns = _forward(model, batch, arguments or ForwardArguments.of(model))
    return logits[rows, columns].float()


def answer_logits_and_states(
    model: nn.Module, batch: QuestionBatch, arguments: ForwardArguments | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits at each question's answer position, and the hidden states that they are computed from.

    Parameters
    ----------
    model, batch, arguments
        As of `answer_logits`.

    Returns
    -------
    logits : torch.Tensor of float32, shape (B, V)
    states : torch.Tensor of float32, shape (B, d)
        What goes into the output layer: the last layer's, after the final norm.

    Raises
    ------
    ValueError
        If the model has no output layer that it names.
    """
    seen: list[torch.Tensor] = []
    handle = output_layer(model).register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        logits, rows, columns = _forward(model, batch, arguments or ForwardArguments.of(model))
    finally:
        handle.remove()
    return logits[rows, columns].float(), seen[-1][rows, columns].float()


def output_layer(model: nn.Module) -> Any:
    """Return the layer from hidden states to the vocabulary's logits, also of a wrapped model.

    Raises
    ------
    ValueError
        If there is none.
    """
    while isinstance(inner := getattr(model, "module", None) or getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    find = getattr(model, "get_output_embeddings", None)
    layer = find() if callable(find) else None
    if layer is None:
        raise ValueError(
            f"{type(model).__name__} names no output layer (get_output_embeddings), so its hidden states can't be read"
        )
    return layer


def _forward(
    model: nn.Module, batch: QuestionBatch, arguments: ForwardArguments
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits (B, positions, V), and the row and the column of each question's answer in them."""
    if arguments.virtual_tokens:  # which stand next to the question's own only where no padding comes between
        batch = batch.padded_right()
    inputs = arguments.inputs(batch)
    # Counted from the end, since virtual tokens lengthen what comes out at the front.
    positions = batch.answer_positions - batch.input_ids.shape[1]
    rows = torch.arange(len(batch), device=positions.device)
    if not arguments.logits_to_keep:
        return model(**inputs).logits, rows, positions
    kept, columns = torch.unique(positions, return_inverse=True)
    inputs["logits_to_keep"] = 1 if kept.tolist() == [-1] else kept
    return model(**inputs).logits, rows, columns


def same_to_rounding(logits: torch.Tensor, other: torch.Tensor, model: nn.Module) -> bool:
    """Whether a model's logits at a position, computed in two ways, differ by rounding alone.

    Rounding grows from layer to layer, but stays well below the root of the number format's precision, relative to
    the spread of the logits.
    """
    device = logits.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    else:
        dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    precision = torch.finfo(dtype).eps
    if device != "cpu":
        precision = max(precision, 2**-10)  # accelerators may compute float32 as TF32
    return bool((logits - other).abs().max() <= precision**0.5 * logits.std())


def option_log_probabilities(logits: torch.Tensor, batch: OptionColumns) -> torch.Tensor:
    """Return the full softmax's log-probability of each option's token.

    Parameters
    ----------
    logits : torch.Tensor, shape (B, V)
        At the answer positions.
    batch : OptionColumns

    Returns
    -------
    torch.Tensor of float32, shape (B, K)
        -inf where a question has fewer options.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=-1).gather(-1, batch.option_ids)
    return log_probabilities.masked_fill(~batch.option_mask, -torch.inf)
