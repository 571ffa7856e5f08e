"""The questions of `calibration_dataset="self"`, which the anchor's reference writes before training."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..confidence import Asking, LocalModel
from ..evaluation.synthesis import SynthesizedQuestions, Writing, written
from .reference import ReferenceUnavailableError, check_reference_stays, load_reference, reference_tokenizer
from .reference_distributions import read_distributions
from .trl_compatibility import initial_adapter_weights

SELF = "self"
"""The `calibration_dataset` that the reference writes."""

FILE = "questions.jsonl"
"""Where a trainer keeps these questions in its output folder."""


def is_self(source: Any) -> bool:
    """Return whether a `calibration_dataset` is to be written by the reference."""
    return isinstance(source, str) and source == SELF


def self_made_questions(trainer: Any, reference: Any = None) -> SynthesizedQuestions:
    """Let a trainer's reference write questions, or read them from its output folder if an earlier run wrote them.

    The processes of distributed training share the writing, and each gets all questions.

    Parameters
    ----------
    trainer : CalibrationMixin
        Before training.
    reference : PreTrainedModel, str or None
        Its `calibration_reference_model`. By default the trainer's own reference model, or else the model that
        training starts from, without a new adapter.

    Raises
    ------
    ValueError
        If the anchor has no weight, or the output folder holds questions of a run with other settings.
    ReferenceUnavailableError
        If the reference is known by its distributions alone, moves during training, or has sharded weights.
    QuestionError
        If the reference cannot write questions.
    """
    args, settings, accelerator = trainer.args, trainer.calibration_arguments, trainer.accelerator
    if settings.anchor_weight == 0:
        raise ValueError(
            f"calibration_dataset={SELF!r}: questions that a model writes have no answers, so only the anchor can use "
            "them, but anchor_weight is 0; raise it, or pass questions with answers"
        )
    if read_distributions(reference) is not None:
        raise ReferenceUnavailableError(
            f"calibration_dataset={SELF!r}: distributions computed beforehand cannot write questions; pass the "
            "questions that they were computed on, or a model as calibration_reference_model"
        )
    if reference is None:
        check_reference_stays(trainer)
    model = trainer.calibrated_model
    given: Any = getattr(trainer, "ref_model", None) if reference is None else reference
    config = (model if reference is None else reference).config if not isinstance(reference, str) else None
    name = reference if config is None else config.name_or_path or config.model_type
    writing = Writing(settings.self_made_questions, seed=args.seed)
    tokenizer = reference_tokenizer(trainer, reference) or trainer.processing_class

    def whole(writer: Any) -> Any:
        if trainer.is_fsdp_enabled or any(hasattr(parameter, "ds_id") for parameter in writer.parameters()):
            raise ReferenceUnavailableError(
                f"calibration_dataset={SELF!r}: weights that are sharded among processes cannot write questions here; "
                f'write them beforehand in one process, hf_calib.synthesize_questions("{name}", None, {writing.n})'
                f'.save("{FILE}"), and pass that file'
            )
        return writer

    def opened() -> LocalModel:
        writer = whole(model if given is None else load_reference(trainer, given) if isinstance(given, str) else given)
        device = accelerator.device
        # A quantized or dispatched model that is there already cannot be moved.
        if next(writer.parameters()).device.type != device.type:
            writer.to(device)
        return LocalModel(writer, getattr(tokenizer, "tokenizer", tokenizer), device=device)

    identity = {"name": name}
    if config is not None and not config.name_or_path:  # it was not loaded, and others have the same type
        identity["weights_sha256"] = _digest(whole(model if given is None else given))
    asking = Asking("auto", not args.disable_tqdm, None, accelerator.process_index, accelerator.num_processes)
    at_start = initial_adapter_weights(accelerator.unwrap_model(model)) if given is None else nullcontext()
    with at_start, accelerator.autocast():
        return written(opened, writing, asking, identity, Path(args.output_dir) / FILE)


def _digest(model: Any) -> str:
    """Return a digest of some rows of a model's embeddings."""
    weights = model.get_input_embeddings().weight.detach()
    rows = weights[:: max(1, len(weights) // 64)]
    return hashlib.sha256(rows.float().cpu().numpy().tobytes()).hexdigest()
