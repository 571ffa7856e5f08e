"""The questions of `calibration_dataset="self"`, which the anchor's reference writes before training."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ..confidence import Asking, LocalModel
from ..evaluation.synthesis import SynthesizedQuestions, Writing, written
from .reference import ReferenceUnavailableError, load_reference, reference_tokenizer
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
        If the reference is known by its distributions alone, or its weights are sharded.
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
    writing = Writing(settings.self_made_questions, seed=args.seed)
    model = trainer.calibrated_model if reference is None else reference
    name = model if isinstance(model, str) else model.config.name_or_path or model.config.model_type
    shows = not args.disable_tqdm
    asking = Asking("auto", shows, None, accelerator.process_index, accelerator.num_processes)
    tokenizer = reference_tokenizer(trainer, reference) or trainer.processing_class

    own = getattr(trainer, "ref_model", None) if reference is None else reference
    starts = own is None

    def opened() -> LocalModel:
        writer = load_reference(trainer, own) if isinstance(own, str) else model if starts else own
        if trainer.is_fsdp_enabled or any(hasattr(parameter, "ds_id") for parameter in writer.parameters()):
            raise ReferenceUnavailableError(
                f"calibration_dataset={SELF!r}: weights that are sharded among processes cannot write questions here; "
                f'write them beforehand in one process, hf_calib.synthesize_questions("{name}", None, {writing.n})'
                f'.save("{FILE}"), and pass that file'
            )
        device = accelerator.device
        return LocalModel(writer.to(device), getattr(tokenizer, "tokenizer", tokenizer), device=device)

    adapted = accelerator.unwrap_model(trainer.calibrated_model)
    with initial_adapter_weights(adapted) if starts else nullcontext(), accelerator.autocast():
        return written(opened, writing, asking, {"name": name}, Path(args.output_dir) / FILE)
