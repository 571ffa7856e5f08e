"""How a calibration-aware trainer describes and publishes its model."""

from __future__ import annotations

import logging
import shutil
import warnings
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import is_peft_model
from huggingface_hub import HfApi
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import HubStrategy
from transformers.utils import PushInProgress

from ..hub import (
    CalibrationWarning,
    HubError,
    Publication,
    publish_adapter,
    publish_checkpoint,
    save_calibration_metadata,
    write_card,
)
from ..hub.calibration_metadata import CALIBRATOR_FILE
from ..hub.card import CARD_FILE
from ..hub.translation import hub_errors
from .card import card_data
from .run import CalibrationRun

if TYPE_CHECKING:
    Base: Any  # the trainer that the mixin extends
else:
    Base = object

logger = logging.getLogger(__name__)

# The files of a checkpoint that belong to the model: weights, configuration and tokenizer, none of them a pickle.
_MODEL_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".txt"}


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
