"""One forward that computes logits at the answers' positions only."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..tasks.collator import OptionBatch, QuestionBatch, token_positions
from .packing import Batch, LabelBatch, TextBatch

# The score of an option that a question lacks. Its exponential is zero, but the score is finite, so that a probability
# of zero times it is zero in a divergence.
ABSENT = -1e4


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
        """Return the arguments in the signature of the causal language model inside its wrappers."""
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

    def inputs(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, *, past: Any = None, keep: bool = False
    ) -> dict[str, Any]:
        """Return the keywords for a forward, which continues from a cache `past` and keeps its own with `keep`."""
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        # With virtual tokens, PEFT drops position ids with a warning.
        if self.position_ids and not self.virtual_tokens:
            inputs["position_ids"] = token_positions(attention_mask)[:, -input_ids.shape[1] :]
        if self.use_cache:
            inputs["use_cache"] = keep or past is not None
        if past is not None:
            inputs["past_key_values"] = past
        return inputs

    def packed_inputs(
        self,
        model: nn.Module,
        input_ids: torch.Tensor,
        seen: torch.Tensor,
        position_ids: torch.Tensor,
        *,
        past: Any = None,
    ) -> dict[str, Any]:
        """Return the keywords for a forward of rows that hold several texts; `seen` comes from `packed_mask`."""
        # Added to the attention scores, in the model's number format, as its kernels require.
        dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)
        inputs = self.inputs(input_ids, torch.ones_like(input_ids), past=past)
        return inputs | {"attention_mask": mask, "position_ids": position_ids}


def logits_of_tokens(
    model: nn.Module,
    arguments: ForwardArguments,
    inputs: dict[str, Any],
    rows: torch.Tensor,
    columns: torch.Tensor,
) -> torch.Tensor:
    """Run a forward, and return the logits at N positions, float32, shape (N, V).

    Parameters
    ----------
    model : torch.nn.Module
    arguments : ForwardArguments
        The model's.
    inputs : dict
        As `ForwardArguments` makes them.
    rows, columns : torch.Tensor of int64, shape (N,)
        As of `hf_calib.confidence.packing.PackedRows`.
    """
    inputs, columns = _keeping(arguments, inputs, columns)
    return model(**inputs).logits[rows, columns].float()


def _keeping(
    arguments: ForwardArguments, inputs: dict[str, Any], columns: torch.Tensor
) -> tuple[dict[str, Any], torch.Tensor]:
    """Return inputs for which the model computes logits in these columns only, and where in its output they are."""
    if not arguments.logits_to_keep:
        return inputs, columns
    kept, columns = torch.unique(columns, return_inverse=True)
    return {**inputs, "logits_to_keep": 1 if kept.tolist() == [-1] else kept}, columns


def answer_scores(model: nn.Module, batch: Batch, arguments: ForwardArguments | None = None) -> torch.Tensor:
    """Return the scores that the calibration terms use; `batch.option_ids` gives the options' columns.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model, wrapped or not.
    batch : QuestionBatch or TextBatch
    arguments : ForwardArguments, optional
        Derived from the model by default.

    Returns
    -------
    torch.Tensor of float32
        For letters, the logits of the whole vocabulary at the answer positions, shape (B, V). For texts, their
        log-probabilities divided by `batch.divisors`, shape (B, K), with -1e4 for missing options. For labels, the
        same and in the last column the log-probability of any other output, shape (B, K + 1).
    """
    if isinstance(batch, QuestionBatch):
        return answer_logits(model, batch, arguments)
    logits = text_logits(model, batch, arguments)
    log_probabilities = -F.cross_entropy(logits, batch.targets, reduction="none")
    tokens = torch.zeros_like(batch.token_mask, dtype=torch.float32).masked_scatter(
        batch.token_mask, log_probabilities
    )
    scores = (tokens.sum(dim=-1) / batch.divisors).masked_fill(~batch.option_mask, ABSENT)
    if not isinstance(batch, LabelBatch):
        return scores
    # Rounding may bring the labels' total probability to one or above.
    total = scores.logsumexp(dim=-1, keepdim=True).clamp(max=-torch.finfo(scores.dtype).eps)
    return torch.cat([scores, (-total.expm1()).log()], dim=-1)


def text_logits(model: nn.Module, batch: TextBatch, arguments: ForwardArguments | None = None) -> torch.Tensor:
    """Return the logits that predict each text token, float32, shape (N, V)."""
    arguments = arguments or ForwardArguments.of(model)
    mask = batch.attention_mask
    if mask.dim() == 2:
        inputs = arguments.inputs(batch.input_ids, mask)
    else:
        inputs = arguments.packed_inputs(model, batch.input_ids, mask, batch.position_ids)
    return logits_of_tokens(model, arguments, inputs, batch.rows, batch.columns)


def answer_logits(model: nn.Module, batch: QuestionBatch, arguments: ForwardArguments | None = None) -> torch.Tensor:
    """Return the logits of the whole vocabulary at each question's answer position.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model, wrapped or not.
    batch : QuestionBatch
        B questions, on the model's device.
    arguments : ForwardArguments, optional
        By default those of the model.

    Returns
    -------
    torch.Tensor of float32, shape (B, V)
    """
    return _answers(model, batch, arguments)[0]


def answer_logits_and_states(model: nn.Module, batch: QuestionBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits at each question's answer position, and the hidden states that they are computed from.

    Parameters
    ----------
    model, batch
        As of `answer_logits`.

    Returns
    -------
    logits : torch.Tensor of float32, shape (B, V)
    states : torch.Tensor of float32, shape (B, d)
        What goes into the output layer: the last layer's, after the final norm.

    Raises
    ------
    ValueError
        If the model names no output layer.
    """
    logits, states, _ = _answers(model, batch, None, states=True)
    assert states is not None
    return logits, states


def output_layer(model: nn.Module) -> Any:
    """Return the layer from hidden states to the vocabulary's logits, also of a wrapped model.

    Raises
    ------
    ValueError
        If there is none.
    """
    model = unwrapped(model)
    find = getattr(model, "get_output_embeddings", None)
    layer = find() if callable(find) else None
    if layer is None:
        raise ValueError(
            f"{type(model).__name__} has no output layer (get_output_embeddings), so its hidden states can't be read"
        )
    return layer


def _answers(
    model: nn.Module, batch: QuestionBatch, arguments: ForwardArguments | None, *, states: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None, Any]:
    arguments = arguments or ForwardArguments.of(model)
    if arguments.virtual_tokens:  # which must not be separated from the question's tokens by padding
        batch = batch.padded_right()
    inputs = arguments.inputs(batch.input_ids, batch.attention_mask)
    return logits_at(model, arguments, inputs, batch.answer_positions, states=states)


def logits_at(
    model: nn.Module, arguments: ForwardArguments, inputs: dict[str, Any], ends: torch.Tensor, *, states: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None, Any]:
    """Run a forward, and return its results at one position of each of B rows.

    Parameters
    ----------
    model : torch.nn.Module
    arguments : ForwardArguments
        The model's.
    inputs : dict
        As `ForwardArguments.inputs` makes them.
    ends : torch.Tensor of int64, shape (B,)
        The positions, as indices into `input_ids`.
    states : bool, default False
        Return the hidden states too.

    Returns
    -------
    logits : torch.Tensor of float32, shape (B, V)
    states : torch.Tensor of float32, shape (B, d), or None
        What goes into the output layer there.
    output : transformers.utils.ModelOutput
        All that the model returned.
    """
    # Counted from the end, since virtual tokens lengthen the output at the front.
    columns = ends - inputs["input_ids"].shape[1]
    rows = torch.arange(len(columns), device=columns.device)
    inputs, columns = _keeping(arguments, inputs, columns)
    if not states:
        output = model(**inputs)
        return output.logits[rows, columns].float(), None, output
    seen: list[torch.Tensor] = []
    handle = output_layer(model).register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        output = model(**inputs)
    finally:
        handle.remove()
    return output.logits[rows, columns].float(), seen[-1][rows, columns].float(), output


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DDP, DeepSpeed and compiled modules; adapters stay on it."""
    while isinstance(inner := getattr(model, "module", None) or getattr(model, "_orig_mod", None), nn.Module):
        model = inner
    return model


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and each of its modules back into the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


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


def option_log_probabilities(logits: torch.Tensor, batch: OptionBatch) -> torch.Tensor:
    """Return the full softmax's log-probability of each option's token.

    Parameters
    ----------
    logits : torch.Tensor, shape (B, V)
        At the answer positions.
    batch : OptionBatch

    Returns
    -------
    torch.Tensor of float32, shape (B, K)
        -inf where a question has fewer options.
    """
    log_probabilities = torch.log_softmax(logits.float(), dim=-1).gather(-1, batch.option_ids)
    return log_probabilities.masked_fill(~batch.option_mask, -torch.inf)
