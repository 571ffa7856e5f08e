"""Where the anchor's reference distribution comes from."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from accelerate.utils import is_peft_model
from torch import nn

from ..confidence.encoded import Encoded, EncodedTexts
from ..confidence.forward import ForwardArguments, answer_scores, evaluating
from ..confidence.packing import Batch, TextBatch
from ..hub.local_paths import check_local_path
from ..regularizers import anchor_divergence
from .trl_compatibility import initial_adapter_weights, prepared_for_inference, takes_reference_model

# The values of `init_lora_weights`, or their beginnings, with which PEFT moves a part of the base weights into the
# adapter, so that the base weights alone are no longer the original model.
_CHANGE_BASE_WEIGHTS = ("pissa", "olora", "corda", "loftq", "lora_ga")


class ReferenceUnavailableError(ValueError):
    """There is no reference model for the anchor."""


class Reference:
    """The model whose distribution, of the next token or over the options' texts, the anchor preserves.

    The first available of: the given `calibration_reference_model`; the trainer's own reference model (with full
    weights); the trained model with its adapter disabled, or replaced by TRL's copy of a previously trained adapter; a
    copy of the weights that training starts from.

    Parameters
    ----------
    trainer : transformers.Trainer
    model : torch.nn.Module, str or None
        The `calibration_reference_model`; a string is loaded with the trainer's `model_init_kwargs`, from its main
        branch. If its tokenizer is loaded too, the vocabulary sizes may differ by padding and added tokens; the
        reference gives no probability to tokens that only one of the two has.

    Raises
    ------
    ReferenceUnavailableError
        If there is none, it shares weights with the policy or would move with it, it has a different vocabulary, or
        the adapter's initialization changes the base weights.
    """

    def __init__(self, trainer: Any, model: Any = None) -> None:
        self.trainer = trainer
        self._width = _vocabulary_size(trainer.calibrated_model)
        if model is not None:
            self.model: nn.Module | None = prepared_for_inference(self._loaded(model), trainer)
        else:
            check_reference_stays(trainer)
            self.model = getattr(trainer, "ref_model", None)
            if self.model is None and not is_peft_model(trainer.calibrated_model):
                self.model = self._starting_weights()
        self._start_checked = False
        check_base_weights(trainer, self.model is None)
        if self.model is not None:
            self._arguments = ForwardArguments.of(self.model)

    @torch.no_grad()
    def answer_scores(self, batch: Batch) -> torch.Tensor:
        """Return the reference's `hf_calib.confidence.forward.answer_scores`, as wide as the policy's."""
        if self.model is not None:
            scores = answer_scores(self.model, batch, self._arguments)
            return scores if isinstance(batch, TextBatch) else _of_width(scores, self._width)
        if not self._start_checked:
            self.check_start(batch)
        return self._initial_scores(batch)

    def check_tokens(self, items: Sequence[Encoded]) -> None:
        """Raise a `ReferenceUnavailableError` if the questions have tokens that the reference lacks."""
        if self.model is None:
            return
        known = _vocabulary_size(self.model)
        largest = max(max(map(max, _read(item))) for item in items)
        if largest >= known:
            raise ReferenceUnavailableError(
                f"a calibration question has the token {largest}, but the reference model has {known} tokens; ask "
                "the questions without tokens that were added later, such as a chat template's: "
                'calibration_prompt="plain"'
            )

    def check_start(self, batch: Batch) -> None:
        """Check that the model with its adapter disabled is the model that training starts from.

        With sharded weights this waits for the first step; a resumed run skips it.

        Raises
        ------
        ReferenceUnavailableError
            If it differs, for example because the adapter was trained before or starts from random values.
        """
        trainer, model = self.trainer, self.trainer.calibrated_model
        if self.model is not None or (
            # Here the weights are prepared when training begins.
            (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled) and trainer.model_wrapped is trainer.model
        ):
            return
        self._start_checked = True
        if trainer.state.global_step > 0:
            return
        with torch.no_grad(), evaluating(model), trainer.accelerator.autocast():
            divergence = float(anchor_divergence(answer_scores(model, batch), self._initial_scores(batch)).max())
        exact = model.dtype in (torch.float32, torch.float64) and trainer.accelerator.mixed_precision == "no"
        # Rounding errors are far smaller, and the effect of an adapter that is not zero at the start far larger.
        if divergence > (1e-4 if exact else 1e-2):
            raise ReferenceUnavailableError(
                f"the anchor would keep to the model with its adapter disabled, which differs from the model that "
                f"training starts from (KL divergence {divergence:.2g}), because the adapter was trained before or "
                "does not start at zero. Choose what to keep to: pass calibration_reference_model= the base model, or "
                "hf_calib.reference_distributions(model, tokenizer, questions) of the model with its adapter; or use "
                "an adapter that starts at zero, such as a new LoRA with init_lora_weights=True"
            )

    def _initial_scores(self, batch: Batch) -> torch.Tensor:
        model = self.trainer.calibrated_model
        # Dropout would make the reference random; TRL disables it for DPO, but not in other trainers.
        with evaluating(model), initial_adapter_weights(self.trainer.accelerator.unwrap_model(model)):
            return answer_scores(model, batch)

    def _starting_weights(self) -> nn.Module:
        """Return a copy of the model before training."""
        parameters = self.trainer.calibrated_model.parameters()
        if self.trainer.is_fsdp_enabled or any(hasattr(parameter, "ds_id") for parameter in parameters):
            raise ReferenceUnavailableError(
                "the anchor needs a reference model; with full weights this trainer keeps none, and weights that are "
                "sharded among processes cannot be copied here. Pass `calibration_reference_model=` (the calibrated "
                "model to keep to, usually the pre-trained one), or a `peft_config`, or set anchor_weight=0"
            )
        model = self.trainer.calibrated_model
        # Constructed anew: in a deep copy, a forward that TRL patched onto the instance would run the original model.
        reference = type(model)(copy.deepcopy(model.config)).to(device=model.device, dtype=model.dtype)
        originals = dict(chain(model.named_parameters(), model.named_buffers()))
        # Includes what is not saved and has a dtype of its own, such as the frequencies of rotary embeddings.
        for name, copied in chain(reference.named_parameters(), reference.named_buffers()):
            copied.data = originals[name].detach().clone()
        return prepared_for_inference(reference.requires_grad_(False).eval(), self.trainer)

    def _loaded(self, model: Any) -> Any:
        tokenizer = reference_tokenizer(self.trainer, model)
        if isinstance(model, str):
            model = load_reference(self.trainer, model)
        trained = {id(parameter) for parameter in self.trainer.calibrated_model.parameters()}
        if any(id(parameter) in trained for parameter in model.parameters()):
            raise ReferenceUnavailableError(
                "the reference model shares weights with the model that is trained and would change with it; pass the "
                "name of a model, or copy.deepcopy(model)"
            )
        theirs = _vocabulary_size(model)
        if self._width != theirs and tokenizer is None:
            raise ReferenceUnavailableError(
                f"the reference model has a vocabulary of {theirs} tokens, the model that is trained one of "
                f"{self._width}; the anchor compares distributions over one vocabulary, so take a reference of the "
                "same family, or give its name, whose tokenizer tells whether the tokens are the same"
            )
        return model.requires_grad_(False).eval()


def _read(item: Encoded) -> tuple[tuple[int, ...], ...]:
    """Return the tokens that a model reads from a question, or predicts as its options' texts."""
    return (item.input_ids, *item.options) if isinstance(item, EncodedTexts) else (item.input_ids,)


def check_reference_stays(trainer: Any) -> None:
    """Raise a `ReferenceUnavailableError` if the trainer's own reference moves during training."""
    if getattr(trainer.args, "sync_ref_model", False):
        raise ReferenceUnavailableError(
            "sync_ref_model moves the trainer's reference toward the policy, and the anchor would follow it away "
            "from where the model was calibrated; pass `calibration_reference_model=`, or set anchor_weight=0"
        )


def check_base_weights(trainer: Any, disables_adapter: bool) -> None:
    """Check that the adapter can be disabled, if the anchor's or the trainer's own reference does so.

    Parameters
    ----------
    trainer : transformers.Trainer
    disables_adapter : bool
        Whether the anchor's reference is the model with its adapter disabled.

    Raises
    ------
    ReferenceUnavailableError
        If the initialization of the adapter has changed the base weights.
    """
    model = trainer.calibrated_model
    if not is_peft_model(model) or getattr(trainer, "ref_model", None) is not None:
        return
    used = {str(getattr(config, "init_lora_weights", True)) for config in model.peft_config.values()}
    changing = sorted(name for name in used if name.lower().startswith(_CHANGE_BASE_WEIGHTS))
    # Trainers with their own penalty keep `ref_model`, which is None if they disable the adapter.
    own = hasattr(trainer, "ref_model") and getattr(trainer.args, "beta", 1.0) != 0
    if not changing or not (own or disables_adapter):
        return
    remedy = "calibration_reference_model= the model that training starts from"
    if takes_reference_model(trainer):
        remedy = "ref_model= a copy of the model that training starts from"
    elif own:
        remedy += " and set beta=0, since the trainer's own reference is affected too"
    raise ReferenceUnavailableError(
        f"init_lora_weights={changing[0]!r} moves a part of the base weights into the adapter, so the model without "
        f"its adapter is not the one that training starts from; pass {remedy}, or use init_lora_weights=True"
    )


def load_reference(trainer: Any, name: str) -> Any:
    """Load a reference model as the trainer loads the trained model, from its main branch.

    Raises
    ------
    MissingModelError, InvalidFolderError
        If the name is a path without a model.
    """
    from transformers import AutoModelForCausalLM

    check_local_path(name)
    options = dict(getattr(trainer.args, "model_init_kwargs", None) or {})
    options.pop("revision", None)  # which belongs to the trained model's repository
    options.setdefault("dtype", trainer.calibrated_model.dtype)
    return AutoModelForCausalLM.from_pretrained(name, **options)


def reference_tokenizer(trainer: Any, name: Any) -> Any:
    """Return the tokenizer of a reference that is given by name, or None if it has none."""
    from transformers import AutoTokenizer

    if not isinstance(name, str):
        return None
    trusted = (getattr(trainer.args, "model_init_kwargs", None) or {}).get("trust_remote_code", False)
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=trusted)
    except (OSError, ValueError):  # only the weights were saved
        return None


def vocabularies_agree(ours: Any, theirs: Any) -> bool:
    """Whether the tokens that two tokenizers have in common have the same ids in both."""
    mine, others = ours.get_vocab(), theirs.get_vocab()
    tokens = {number: token for token, number in others.items()}
    return all(
        others.get(token, number) == number and tokens.get(number, token) == token for token, number in mine.items()
    )


def _vocabulary_size(model: Any) -> int:
    # DeepSpeed's engine has its own configuration.
    return getattr(model, "module", model).config.get_text_config().vocab_size


def _of_width(logits: torch.Tensor, width: int) -> torch.Tensor:
    """Return logits for `width` tokens: additional ones are left out, missing ones get no probability."""
    missing = width - logits.shape[-1]
    # Finite, so that 0 · log 0 is 0; its exponential is zero in float32.
    return logits[..., :width] if missing <= 0 else nn.functional.pad(logits, (0, missing), value=-1e4)
