"""What a calibration-aware trainer knows for its model card."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import is_peft_model
from transformers.integrations import CodeCarbonCallback

from ..hub import CalibrationCardData, DatasetReference, Evaluation, loaded_revision
from .trl_compatibility import trainer_name

# How a run was watched and where it ran, which is not part of the method. TRL's `gradient_checkpointing` is an older
# name of `activation_checkpointing`.
NOT_METHOD = (
    "logging", "log_", "eval", "save", "report", "disable_tqdm", "debug", "use_cpu", "dataloader", "hub", "push",
    "ddp", "fsdp", "deepspeed", "gradient_checkpointing", "metric_for", "greater_is", "load_best", "regime",
)  # fmt: skip

VERSIONS_OF = ("hf-calib", "trl", "transformers", "peft", "datasets", "accelerate", "torch")


def card_data(
    trainer: Any,
    model_name: str | None = None,
    dataset_name: str | None = None,
    tags: Any = None,
    license: str | None = None,
    language: str | None = None,
) -> CalibrationCardData:
    """Collect what was measured and set in a run of a calibration-aware trainer.

    Parameters
    ----------
    trainer : CalibrationMixin
    model_name, dataset_name, tags
        As TRL's `create_model_card` takes them; the dataset is the one of the trainer's own loss.
    license, language
        As transformers' takes them.
    """
    evaluations: tuple[Evaluation, ...] = ()
    reports = trainer.calibration_reports
    if "after" in reports:
        stages = {"after": reports["after"]}
        if "before" in reports:
            stages[trainer._starting_stage] = reports["before"]
        if "calibrated" in reports:
            stages["calibrated"] = reports["calibrated"]
        evaluations = (Evaluation(trainer._evaluation_source, stages),)
    questions = trainer._calibration_questions
    base_model = trainer.calibrated_model.config.name_or_path or None
    own_tags = {tags} if isinstance(tags, str) else set(tags or ())
    own_tags |= {*trainer._tag_names, *(getattr(trainer.calibrated_model, "model_tags", None) or ())}
    repository = trainer.hub_model_id or trainer.args.hub_model_id or ""
    return CalibrationCardData(
        model_name=model_name or repository.split("/")[-1] or Path(trainer.args.output_dir).absolute().name or "model",
        # Whose repository a bare name means is known once it is made.
        hub_model_id=repository if "/" in repository else None,
        base_model=base_model,
        base_model_revision=loaded_revision(base_model) if base_model else None,
        alignment=trainer._alignment,
        method=_method(trainer),
        preference_data=DatasetReference(dataset_name) if dataset_name and trainer._alignment else None,
        calibration_data=trainer._calibration_source,
        settings=changed_settings(trainer),
        evaluations=evaluations,
        stage_labels=_stage_labels(trainer),
        regime=trainer._regime,
        prompt_format=trainer.prompt_format.to_dict(),
        option_counts=tuple(sorted({len(question.choices) for question in questions})),
        subjects=tuple(sorted({question.subject for question in questions if question.subject is not None})),
        label_free=all(question.answer is None for question in questions) if questions else None,
        adapter_type=_adapter_type(trainer.calibrated_model),
        hardware=_hardware(trainer),
        duration_seconds=trainer._seconds,
        energy_kwh=_energy(trainer),
        versions={name: importlib.metadata.version(name) for name in VERSIONS_OF},
        license=license,
        language=language,
        tags=tuple(sorted(own_tags)),
    )


def _stage_labels(trainer: Any) -> dict[str, str]:
    calibrator = trainer.calibration_arguments.eval_calibrator
    return {} if calibrator is None else {"calibrated": f"This model, with the calibrator {calibrator}"}


def changed_settings(trainer: Any) -> dict[str, Any]:
    """Return the arguments that differ from their defaults, and the weights of the terms in any case."""
    changed = {}
    for field in dataclasses.fields(trainer.args):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        value = getattr(trainer.args, field.name)
        if not field.init or field.name.startswith(NOT_METHOD) or value == default:
            continue
        if isinstance(value, bool | int | float | str | list | dict):
            changed[field.name] = value
    term = trainer._calibration_term
    if term is not None:
        weights = [f"{name}_weight" for name in _active_terms(term)]
        for name in (*weights, "calibration_batch_size"):
            changed[name] = getattr(term.arguments, name)
    return changed


def _active_terms(term: Any) -> list[str]:
    """Return the terms that had a weight and questions to act on."""
    answered = any(item.answer >= 0 for item in term.questions)
    return [
        name
        for name in ("anchor", "supervised", "em", "dece")
        if getattr(term.arguments, f"{name}_weight") > 0 and (answered or name == "anchor")
    ]


def _method(trainer: Any) -> str | None:
    term = trainer._calibration_term
    if term is None:
        return trainer._plain_method
    names = {
        "anchor": "anchored to its reference",
        "supervised": "supervised by the right answers",
        "em": "with the ECE regularizer found by EM",
        "dece": "with the differentiable ECE",
    }
    active = _active_terms(term)
    if trainer._supervised_by_trainer:
        active.insert(0, "supervised")
    return f"calibration-aware {trainer_name(type(trainer))}, {', '.join(names[name] for name in active)}"


def _adapter_type(model: Any) -> str | None:
    if not is_peft_model(model):
        return None
    names = {"LORA": "LoRA"}
    kind = model.active_peft_config.peft_type.value
    return names.get(kind, kind)


def _hardware(trainer: Any) -> str:
    count = trainer.accelerator.num_processes
    device = trainer.accelerator.device
    if device.type == "cuda":
        return f"{count} x {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"CPU, {count} process{'es' if count > 1 else ''} of {torch.get_num_threads()} threads"
    return f"{count} x {device.type}"


def _energy(trainer: Any) -> float | None:
    """Return what the run took in kWh, if codecarbon's callback watched it on all of its machines."""
    if trainer.accelerator.num_processes != int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        return None  # each machine's first process measures its own machine alone
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, CodeCarbonCallback):
            final = getattr(callback.tracker, "final_emissions_data", None)
            return None if final is None else float(final.energy_consumed)
    return None
