"""Interrupted runs: Ctrl-C saves first, and an incomplete checkpoint is skipped."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging

if TYPE_CHECKING:
    Base: Any  # the trainer that the mixin extends
else:
    Base = object

logger = logging.get_logger(__name__)

STATE_FILE = "trainer_state.json"  # which is written last


class InterruptionMixin(Base):
    """Saves a checkpoint at the end of the step when a run is stopped by Ctrl-C, and reports where.

    A second Ctrl-C stops at once, without saving. Outside the main thread, and if the program handles the signal
    itself, nothing is changed.
    """

    # What the checkpoint can be used for, if the run cannot be resumed from it.
    _not_resumed: str | None = None

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train as the extended trainer does; `resume_from_checkpoint=True` means the last complete checkpoint.

        Raises
        ------
        KeyboardInterrupt
            After Ctrl-C; its message says where the run was saved.
        """
        given = {
            **dict(zip(("resume_from_checkpoint", "trial", "ignore_keys_for_eval"), args, strict=False)),
            **kwargs,
        }
        if given.get("resume_from_checkpoint") is True:
            given["resume_from_checkpoint"] = last_complete_checkpoint(self.args.output_dir)
        with _saving_when_interrupted(self, self._not_resumed):
            return super().train(**given)


def last_complete_checkpoint(folder: str | Path) -> str:
    """Return the last checkpoint of a folder that was written completely.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = [path for path in Path(folder).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.name.split("-")[-1].isdigit()]
    for path in sorted(found, key=lambda path: -int(path.name.split("-")[-1])):
        try:
            json.loads((path / STATE_FILE).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            logger.warning("skipping %s, which is incomplete; it may be deleted", path)
            continue
        return str(path)
    raise ValueError(
        f"resume_from_checkpoint: {folder} has no complete checkpoint; pass a checkpoint's folder, or start a new run"
    )


class _SaveAndStop(TrainerCallback):
    """Saves at the end of the step in which a signal arrives, and raises when that is done."""

    def __init__(self, accelerator: Any, not_resumed: str | None) -> None:
        self.accelerator, self.not_resumed = accelerator, not_resumed
        self.asked = self.saving = False

    def handle(self, number: int, frame: Any) -> None:
        """Note the signal; a second one stops at once."""
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        logger.warning("interrupted: saving at the end of this step; press Ctrl-C again to stop without saving")

    def on_step_end(self, args, state, control, **kwargs):
        """Request a checkpoint, on every process."""
        accelerator = self.accelerator
        asked = self.asked
        if accelerator.num_processes > 1:
            # The signal may reach the processes during different steps.
            asked = bool(accelerator.reduce(torch.tensor(float(asked), device=accelerator.device)) > 0)
        if asked:
            self.saving = control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        """Stop, now that the checkpoint is complete."""
        if not self.saving:
            return
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        then = self.not_resumed or f'resume with resume_from_checkpoint="{folder}"'
        message = f"interrupted after step {state.global_step} and saved to {folder}; {then}"
        logger.warning(message)
        raise KeyboardInterrupt(message)


@contextmanager
def _saving_when_interrupted(trainer: Any, not_resumed: str | None) -> Iterator[None]:
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    callback = _SaveAndStop(trainer.accelerator, not_resumed)
    trainer.add_callback(callback)
    signal.signal(signal.SIGINT, callback.handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        trainer.remove_callback(callback)
