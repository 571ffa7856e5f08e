"""The mixin that reports and regularizes the calibration of a preference's probability."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from .preference_arguments import PreferenceArguments
from .preference_margins import recorded_outputs
from .preference_term import PreferenceTerm

if TYPE_CHECKING:
    Base: Any  # whichever trainer the mixin is put before
else:
    Base = object


class PreferenceMixin(Base):
    """Adds preference calibration, as `PreferenceArguments` describe it, to a trainer on pairs.

    It takes no forward of its own: the margins are read off those of the trainer. Without it being asked for,
    training is the extended trainer's to the last bit.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._preference_term: PreferenceTerm | None = None
        super().__init__(*args, **kwargs)
        settings = self.args
        if not isinstance(settings, PreferenceArguments):
            return
        if settings.preference_calibration or settings.preference_weight > 0:
            if getattr(settings, "use_liger_kernel", False) and getattr(self, "use_liger_kernel", False):
                raise ValueError(
                    "preference calibration reads the margins off the model's outputs, which this TRL's Liger loss "
                    "does not return; set use_liger_kernel=False, or preference_calibration=False"
                )
            self._preference_term = PreferenceTerm(settings, self.accelerator)
            self.add_callback(PreferenceRunCallback(self))
            self.add_callback(PreferenceStateCallback())

    @abstractmethod
    def _preference_margins(self, outputs: list[Any], inputs: dict[str, Any]) -> torch.Tensor:
        """Return the margins m of a batch, with gradient, from the outputs of the trainer's forwards."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the extended trainer's loss, plus the regularizer of the preference while training."""
        options = {"return_outputs": return_outputs, "num_items_in_batch": num_items_in_batch}
        if self._preference_term is None:
            return super().compute_loss(model, inputs, **options)
        with recorded_outputs(model, self.model, getattr(self, "ref_model", None)) as outputs:
            result = super().compute_loss(model, inputs, **options)
        margins = self._preference_margins(outputs, inputs)
        if not self.model.training:
            self._preference_term.evaluate(margins)
            return result
        term = self._preference_term.loss(margins, self.state.global_step, (self.state.epoch or 0.0) < 1.0)
        if term is None:
            return result
        return (result[0] + term, result[1]) if return_outputs else result + term

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the extended trainer does, with how calibrated the preference's probability was."""
        if self._preference_term is not None and self.model.training and "loss" in logs:
            logs.update(self._preference_term.pop_logs("train"))
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Run the extended trainer's loop, and add the calibration of the preference's probability."""
        if self._preference_term is not None:
            self._preference_term.pop_logs("eval")
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._preference_term is not None:
            found = self._preference_term.pop_logs("eval")
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output


class PreferenceStateCallback(TrainerCallback, ExportableState):
    """Puts the preference's bins into the checkpoint's `trainer_state.json`."""

    def __init__(self) -> None:
        self.trainer: PreferenceMixin | None = None

    def state(self) -> dict[str, Any]:
        """Return the state, in the form that transformers writes."""
        term = self.trainer._preference_term if self.trainer is not None else None
        return {"args": {}, "attributes": {"saved": term.state_dict() if term is not None else None}}


class PreferenceRunCallback(TrainerCallback):
    """Restores the preference's bins in a resumed run."""

    def __init__(self, trainer: PreferenceMixin) -> None:
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        """Restore what the checkpoint holds."""
        name = PreferenceStateCallback.__name__
        # transformers may have replaced the callback by a copy made from the checkpoint, so it is looked up.
        for callback in self.trainer.callback_handler.callbacks:
            if isinstance(callback, PreferenceStateCallback):
                callback.trainer = self.trainer
        entry = state.stateful_callbacks.get(name)
        # A checkpoint of the extended trainer has no entry, and saving expects one.
        state.stateful_callbacks.setdefault(name, {})
        saved = entry["attributes"].get("saved") if isinstance(entry, dict) and "attributes" in entry else None
        if state.global_step > 0 and saved is not None:
            assert self.trainer._preference_term is not None
            self.trainer._preference_term.load_state_dict(saved)
