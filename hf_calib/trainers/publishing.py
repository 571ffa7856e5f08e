"""How a calibration-aware trainer describes and publishes its model."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import logging
import os
import shutil
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import is_peft_model
from huggingface_hub import HfApi
from transformers.integrations import CodeCarbonCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..hub import (
    CalibrationCardData,
    CalibrationWarning,
    DatasetReference,
    Evaluation,
    HubError,
    Publication,
    loaded_revision,
    publish_adapter,
    publish_checkpoint,
    save_calibration_metadata,
    write_card,
)
from ..hub.calibration_metadata import CALIBRATOR_FILE
from ..hub.card import CARD_FILE
from ..hub.card_data import BEFORE_TRAINING
from ..hub.translation import hub_errors
from .run import CalibrationRun
from .trl_compatibility import tag_names

if TYPE_CHECKING:
    Base: Any  # the trainer that the mixin extends
else:
    Base = object

logger = logging.getLogger(__name__)

# The files of a checkpoint that belong to the model: weights, configuration and tokenizer, none of them a pickle.
_MODEL_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".txt"}

# Arguments about monitoring and hardware, which are not part of the method. TRL's `gradient_checkpointing` is the
# older name of `activation_checkpointing`.
NOT_METHOD = (
    "logging", "log_", "eval", "save", "report", "disable_tqdm", "debug", "use_cpu", "dataloader", "hub", "push",
    "ddp", "fsdp", "deepspeed", "gradient_checkpointing", "metric_for", "greater_is", "load_best", "regime",
)  # fmt: skip

VERSIONS_OF = ("hf-calib", "trl", "transformers", "peft", "datasets", "accelerate", "torch")


class PublishingMixin(Base):
    """The part of `CalibrationMixin` that writes the model card and publishes.

    A trainer with neither calibration terms nor questions behaves like the trainer that it extends.
    """

    _calibration_term: Any
    _evaluator: Any
    _supervised_by_trainer: bool
    calibrated_model: Any
    calibration_run: CalibrationRun

    @property
    def _is_calibration_aware(self) -> bool:
        return self._calibration_term is not None or self._evaluator is not None or self._supervised_by_trainer

    def create_model_card(
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: Any = None,
        *,
        license: str | None = None,
        language: str | None = None,
    ) -> None:
        """Write the model card into the output folder, with what `hf_calib.load` needs.

        Text that was added to an existing card by hand is kept. During training, when the card is written at every
        checkpoint, a failure to write it is a warning and does not end the run.

        Parameters
        ----------
        model_name : str, optional
            The card's title; otherwise the repository's or the output folder's name.
        dataset_name : str, optional
            The dataset of the extended trainer's own loss.
        tags : str or list of str, optional
            More tags for the Hub.
        license, language : str, optional
            The Hub's identifiers, e.g. "apache-2.0" and "en".

        Raises
        ------
        CardConflictError, PrivateInformationError
            If the existing card is damaged, or the new one would contain something private.

        Warns
        -----
        CalibrationWarning
            If the folder holds a fitted calibrator, which is removed because it was fitted to another model.
        """
        if not self._is_calibration_aware:
            super().create_model_card(model_name, dataset_name, tags)
            return
        if not self.is_world_process_zero():
            return
        data = card_data(self.calibration_run, self, model_name, dataset_name, tags, license, language)
        folder = Path(self.args.output_dir)
        if (folder / CALIBRATOR_FILE).exists():
            warnings.warn(
                f"{folder / CALIBRATOR_FILE} was fitted to the model previously in this folder, and is removed. Fit "
                f"one to the new model with `hf-calib calibrate`, and add it with: hf-calib card {folder} "
                "--dataset D --calibrator DIR",
                CalibrationWarning,
                stacklevel=2,
            )
        # Before the card, which mentions a calibrator if there is one.
        save_calibration_metadata(
            folder,
            prompt_format=self.prompt_format,
            confidence=self.calibration_run.confidence,
            option_counts=data.option_counts,
            base_model=data.base_model if data.base_model_on_hub else None,
            base_model_revision=data.base_model_revision,
        )
        try:
            write_card(folder, data)
        except HubError as error:
            if not self.is_in_train:
                raise
            warnings.warn(f"the model card was not written; training continues. {error}", stacklevel=2)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Save as the extended trainer does, but leave an existing card unchanged.

        Overridden because PEFT replaces the tags of an existing card when it saves an adapter.
        """
        card = Path(output_dir or self.args.output_dir) / CARD_FILE
        written = card.read_bytes() if self._is_calibration_aware and card.is_file() else None
        super()._save(output_dir, state_dict)
        if written is not None:
            card.write_bytes(written)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Create the repository as the extended trainer does, before training if `push_to_hub` is set.

        Raises
        ------
        HubError
            One of its subclasses, if the repository cannot be created or written to.
        """
        name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        with hub_errors(name, "trainer.push_to_hub()"):
            super().init_hf_repo(token, private)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        *,
        base_model: str | None = None,
        base_revision: str | None = None,
        **kwargs: Any,
    ) -> Publication | Future[Publication] | Any:
        """Save the model, write its card, and publish both with `hf_calib.hub.publish_adapter`, in one commit.

        Checkpoints, logs and pickles (such as `training_args.bin`) are not uploaded.

        Parameters
        ----------
        commit_message, blocking, token, revision, private
            As in transformers.
        base_model, base_revision : str, optional
            The base model's id on the Hub and its commit, for an adapter trained on a local copy.
        **kwargs
            For `create_model_card`.

        Returns
        -------
        Publication, or a future of it if `blocking` is false; None on all processes but the first.

        Raises
        ------
        HubError
            One of its subclasses, as `hf_calib.hub.publish_adapter`.
        """
        if not self._is_calibration_aware:
            return super().push_to_hub(commit_message, blocking, token, revision, private, **kwargs)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        self._finish_current_push()  # it reads the files that are replaced below
        # First, so that nothing is lost if the repository cannot be written to.
        self.save_model(_internal_call=True)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        sharded = self.is_deepspeed_enabled or self.is_fsdp_enabled
        model = self.accelerator.unwrap_model(self.calibrated_model)
        options: dict[str, Any] = {
            "private": private,
            "revision": revision if revision is not None else self.args.hub_revision,
            "base_model": base_model,
            "base_revision": base_revision,
            "model": model if is_peft_model(model) and not sharded else None,
            "commit_message": commit_message,
            "token": token,
        }
        if blocking:
            return publish_adapter(self.args.output_dir, self.hub_model_id, **options)
        return HfApi().run_as_future(publish_adapter, self.args.output_dir, self.hub_model_id, **options)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Publish a checkpoint's model in the background, for the hub strategies that ask for it.

        Overridden because the extended trainer uploads its whole output folder, including pickled arguments. With the
        strategies "checkpoint" and "all_checkpoints", the checkpoints are uploaded with their optimizer's state after
        the same checks as the model (see `publish_checkpoint`).
        """
        if not self._is_calibration_aware:
            super()._push_from_checkpoint(checkpoint_folder)
            return
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        if self.push_in_progress is not None and not self.push_in_progress.is_done():
            if not self.args.hub_always_push:
                return
            self._finish_current_push()  # it reads the files that are replaced below
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        for path in Path(checkpoint_folder).iterdir():
            if path.suffix in _MODEL_SUFFIXES and path.name != TRAINER_STATE_NAME:
                shutil.copy(path, Path(self.args.output_dir) / path.name)
        message = f"Training in progress, step {self.state.global_step}"
        api = HfApi()
        jobs: list[Future] = [
            api.run_as_future(
                publish_adapter,
                self.args.output_dir,
                self.hub_model_id,
                revision=self.args.hub_revision,
                commit_message=message,
                token=self.args.hub_token,
            )
        ]
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = self.args.hub_strategy == HubStrategy.CHECKPOINT
            jobs.append(
                api.run_as_future(
                    publish_checkpoint,
                    checkpoint_folder,
                    self.hub_model_id,
                    "last-checkpoint" if last else Path(checkpoint_folder).name,
                    revision=self.args.hub_revision,
                    commit_message=f"{message}, checkpoint",
                    token=self.args.hub_token,
                )
            )
        for job in jobs:
            job.add_done_callback(_warn_of_failure)
        self.push_in_progress: PushInProgress | None = PushInProgress(jobs)  # type: ignore[arg-type]  # its default is what is typed


def _warn_of_failure(job: Future) -> None:
    error = None if job.cancelled() else job.exception()
    if error is not None:
        logger.warning("a checkpoint was not published; training continues. %s", error)


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
    revision = (getattr(trainer.args, "model_init_kwargs", None) or {}).get("revision")
    own_tags = {tags} if isinstance(tags, str) else set(tags or ())
    own_tags |= {*tag_names(type(trainer)), *(getattr(model, "model_tags", None) or ())}
    repository = trainer.hub_model_id or trainer.args.hub_model_id or ""
    return CalibrationCardData(
        model_name=model_name or repository.split("/")[-1] or Path(trainer.args.output_dir).absolute().name or "model",
        # Until the repository exists, a name without a namespace does not identify it.
        hub_model_id=repository if "/" in repository else None,
        base_model=base_model,
        base_model_revision=loaded_revision(base_model, revision) if base_model else None,
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
    labels = {} if run.method else {"before": BEFORE_TRAINING}
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
