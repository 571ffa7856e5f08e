"""The callbacks of a calibration-aware trainer."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..evaluation import diagnose
from ..evaluation.regime_text import regime_sample, regime_text
from ..measures import CalibrationReport
from .calibration_term import CalibrationTerm
from .evaluator import CalibrationEvaluator
from .run import CalibrationRun

logger = logging.getLogger(__name__)


class StateCallback(TrainerCallback, ExportableState):
    """Saves what a resumed run needs in a checkpoint's `trainer_state.json`, under the class's name."""

    def __init__(self) -> None:
        self.source: Callable[[], dict[str, Any]] | None = None

    def state(self) -> dict[str, Any]:
        """Return the state in the form that transformers saves."""
        return {"args": {}, "attributes": {"saved": self.source() if self.source is not None else None}}

    @classmethod
    def begin(
        cls, callbacks: Iterable[TrainerCallback], state: Any, source: Callable[[], dict[str, Any]]
    ) -> dict[str, Any] | None:
        """Connect this class's callback among `callbacks` to its source, and return its state from the checkpoint."""
        # transformers may have replaced the callback by a copy from the checkpoint, so it is looked up here.
        for callback in callbacks:
            if isinstance(callback, cls):
                callback.source = source
        # A checkpoint of the extended trainer has no entry, but saving expects one.
        entry = state.stateful_callbacks.setdefault(cls.__name__, {})
        return entry.get("attributes", {}).get("saved") if isinstance(entry, dict) and state.global_step > 0 else None


class CalibrationStateCallback(StateCallback):
    """Keeps the calibration term, the report before training and the history of evaluations."""


class CalibrationRunCallback(TrainerCallback):
    """Measures the model before a run's first step and after its last, and restores a resumed run.

    Parameters
    ----------
    run : CalibrationRun
        Filled in.
    evaluator : CalibrationEvaluator or None
    term : CalibrationTerm or None
    callbacks : callable
        Returns the trainer's callbacks, including a `CalibrationStateCallback` if the trainer can be resumed.
    settings : mapping from str to Any
        The calibration arguments that the trainer was constructed with.
    """

    def __init__(
        self,
        run: CalibrationRun,
        evaluator: CalibrationEvaluator | None,
        term: CalibrationTerm | None,
        callbacks: Callable[[], Iterable[TrainerCallback]],
        settings: Mapping[str, Any],
    ) -> None:
        self.run, self.evaluator, self.term = run, evaluator, term
        self.callbacks = callbacks
        self.settings = settings

    def on_train_begin(self, args, state, control, **kwargs):
        """Restore the state from the checkpoint, or measure the model before training."""
        for name, given in self.settings.items():
            if (now := getattr(args, name, given)) != given:
                raise ValueError(
                    f"{name}: changed from {given!r} to {now!r} after the trainer was constructed, which has no "
                    "effect; construct a new trainer with the new value"
                )
        saved = CalibrationStateCallback.begin(self.callbacks(), state, self._state)
        if saved is not None:
            self._restore(saved)
        elif state.global_step == 0 and self.evaluator is not None:
            self.run.reports["before"] = self.evaluator.report(self.evaluator.predictions())

    def on_step_begin(self, args, state, control, **kwargs):
        """Start counting the parts of gradient accumulation."""
        # transformers may begin a step twice when it retries with a smaller batch.
        if self.term is not None:
            self.term.begin_step()

    def on_step_end(self, args, state, control, **kwargs):
        """Raise if the step did not use the calibration terms."""
        if self.term is not None and not self.term.acted:
            raise RuntimeError(
                f"{self.run.trainer}: the trainer does not call compute_loss, so the calibration terms have no "
                "effect; use another trainer, or train without calibration_dataset and repair the model afterwards "
                "with hf_calib.recalibrate"
            )

    def on_train_end(self, args, state, control, **kwargs):
        """Measure the final model, and diagnose its regime if it was trained on answers."""
        run, term = self.run, self.term
        if term is not None and term.watch is not None and not term.watch.memorizing:
            run.terms = tuple(name for name in run.terms if name != "em")  # it was never turned on
            run.settings.pop("em_weight", None)
        if self.evaluator is None:
            return
        asked = self.evaluator.predictions()
        run.reports["after"] = self.evaluator.report(asked)
        if self.evaluator.calibrator is not None:
            run.reports["calibrated"] = self.evaluator.calibrated_report(asked)
        n = len(run.trained_on)
        if n == 0 or not self.evaluator.asks_options:
            return
        assert run.evaluation_source is not None
        known = self.evaluator.predictions([run.trained_on[i] for i in regime_sample(n)])
        run.regime = regime_text(diagnose(known, asked), n, run.evaluation_source)

    def _state(self) -> dict[str, Any]:
        before = self.run.reports.get("before")
        return {
            "term": self.term.state_dict() if self.term is not None else None,
            "before": before.to_dict() if before is not None else None,
            "questions": self._digest(),
            "history": self.run.history,
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        if self.term is not None and saved["term"] is not None:
            self.term.load_state_dict(saved["term"])
        if saved["before"] is not None:
            if saved.get("questions") == self._digest():
                self.run.reports["before"] = CalibrationReport.from_dict(saved["before"])
            else:
                logger.warning(
                    "eval_calibration_dataset: the checkpoint was measured on other questions, so its report from "
                    "before training is left out; pass the same questions to compare with it"
                )
        self.run.history[:] = saved["history"]

    def _digest(self) -> str | None:
        """Return a digest of the evaluation questions."""
        if self.evaluator is None:
            return None
        return hashlib.sha256(repr(list(self.evaluator.questions)).encode()).hexdigest()
