"""The model card's data from a run of a calibration-aware trainer."""

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
from .run import CalibrationRun
from .trl_compatibility import tag_names

# Arguments about monitoring and hardware, which are not part of the method. TRL's `gradient_checkpointing` is the
# older name of `activation_checkpointing`.
NOT_METHOD = (
    "logging", "log_", "eval", "save", "report", "disable_tqdm", "debug", "use_cpu", "dataloader", "hub", "push",
    "ddp", "fsdp", "deepspeed", "gradient_checkpointing", "metric_for", "greater_is", "load_best", "regime",
)  # fmt: skip

VERSIONS_OF = ("hf-calib", "trl", "transformers", "peft", "datasets", "accelerate", "torch")


def card_data(
    run: CalibrationRun,
    trainer: Any,
    model_name: str | None = None,
    dataset_name: str | None = None,
    tags: Any = None,
    license: str | None = None,
    language: str | None = None,
) -> CalibrationCardData:
    """Collect the settings and measurements of a run for its model card.

    Parameters
    ----------
    run : CalibrationRun
    trainer : transformers.Trainer
        The trainer of the run.
    model_name, dataset_name, tags
        As in TRL's `create_model_card`; `dataset_name` is the dataset of the trainer's own loss.
    license, language
        As in transformers.
    """
    evaluations: tuple[Evaluation, ...] = ()
    if "after" in run.reports:
        names = {"after": "after", "before": run.starting_stage, "calibrated": "calibrated"}
        stages = {name: run.reports[stage] for stage, name in names.items() if stage in run.reports}
        assert run.evaluation_source is not None
        evaluations = (Evaluation(run.evaluation_source, stages),)
    questions, model = run.questions, trainer.calibrated_model
    base_model = model.config.name_or_path or None
    own_tags = {tags} if isinstance(tags, str) else set(tags or ())
    own_tags |= {*tag_names(type(trainer)), *(getattr(model, "model_tags", None) or ())}
    repository = trainer.hub_model_id or trainer.args.hub_model_id or ""
    return CalibrationCardData(
        model_name=model_name or repository.split("/")[-1] or Path(trainer.args.output_dir).absolute().name or "model",
        # Until the repository exists, a name without a namespace does not identify it.
        hub_model_id=repository if "/" in repository else None,
        base_model=base_model,
        base_model_revision=loaded_revision(base_model) if base_model else None,
        alignment=run.alignment,
        method=run.method,
        preference_data=DatasetReference(dataset_name) if dataset_name and run.alignment else None,
        calibration_data=run.calibration_source,
        settings=changed_settings(trainer.args) | run.settings,
        evaluations=evaluations,
        stage_labels=_stage_labels(run),
        regime=run.regime,
        prompt_format=run.prompt_format.to_dict(),
        confidence=run.confidence,
        free_form=run.free_form,
        option_counts=() if run.free_form else tuple(sorted({len(question.choices) for question in questions})),
        subjects=tuple(sorted({question.subject for question in questions if question.subject is not None})),
        label_free=all(question.answer is None for question in questions) if questions else None,
        adapter_type=_adapter_type(model),
        hardware=_hardware(trainer.accelerator),
        duration_seconds=run.seconds,
        energy_kwh=_energy(trainer),
        versions={name: importlib.metadata.version(name) for name in VERSIONS_OF},
        license=license,
        language=language,
        tags=tuple(sorted(own_tags)),
    )


def _stage_labels(run: CalibrationRun) -> dict[str, str]:
    labels = {} if run.method else {"before": "Before training"}
    return labels | ({"calibrated": f"This model, with the calibrator {run.calibrator}"} if run.calibrator else {})


def changed_settings(args: Any) -> dict[str, Any]:
    """Return the training arguments that belong to the method and differ from their defaults."""
    changed = {}
    for field in dataclasses.fields(args):
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        value = getattr(args, field.name)
        if not field.init or field.name.startswith(NOT_METHOD) or value == default:
            continue
        if isinstance(value, bool | int | float | str | list | dict):
            changed[field.name] = value
    return changed


def _adapter_type(model: Any) -> str | None:
    if not is_peft_model(model):
        return None
    names = {"LORA": "LoRA"}
    kind = model.active_peft_config.peft_type.value
    return names.get(kind, kind)


def _hardware(accelerator: Any) -> str:
    count, device = accelerator.num_processes, accelerator.device
    if device.type == "cuda":
        return f"{count} x {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU, {count} process{'es' * (count > 1)} with {threads} thread{'s' * (threads > 1)}"
    return f"{count} x {device.type}"


def _energy(trainer: Any) -> float | None:
    """Return the energy of the run in kWh, if codecarbon's callback measured it on all machines."""
    if trainer.accelerator.num_processes != int(os.environ.get("LOCAL_WORLD_SIZE", "1")):
        return None  # each machine's first process measures only its machine
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, CodeCarbonCallback):
            final = getattr(callback.tracker, "final_emissions_data", None)
            return None if final is None else float(final.energy_consumed)
    return None
