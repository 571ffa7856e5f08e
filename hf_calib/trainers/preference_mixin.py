"""The mixin that reports and regularizes the calibration of a preference's probability."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import TrainerCallback

from .callbacks import StateCallback
from .preference_arguments import PreferenceArguments
from .preference_term import PreferenceTerm
from .trl_compatibility import TaggedTrainer

if TYPE_CHECKING:
    Base: Any  # the trainer that the mixin extends
else:
    Base = object


class PreferenceMixin(TaggedTrainer, Base):
    """Adds preference calibration, as `PreferenceArguments` describes it, to a trainer on pairs.

    It needs no additional forward: the margins are computed from the trainer's. Unless it is requested, training is
    bit-identical to the extended trainer's.
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
                    "use_liger_kernel: preference calibration reads the margins off the model's outputs, which TRL's "
                    "Liger loss does not return; set use_liger_kernel=False, or preference_calibration=False"
                )
            if getattr(settings, "ld_alpha", None) is not None:
                raise ValueError(
                    "ld_alpha: cannot be combined with preference calibration, which weights all tokens of a "
                    "completion equally; leave ld_alpha out, or set preference_calibration=False and "
                    "preference_weight=0"
                )
            self._preference_term = PreferenceTerm(settings, self.accelerator)
            self.add_callback(PreferenceRunCallback(self._preference_term, lambda: self.callback_handler.callbacks))
            self.add_callback(PreferenceStateCallback())

    @abstractmethod
    def _preference_margins(self, outputs: list[Any], inputs: dict[str, Any]) -> torch.Tensor:
        """Return the margins m of a batch, with gradient, from the outputs of the trainer's forward passes."""

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
        term = self._preference_term.loss(margins, (self.state.epoch or 0.0) < 1.0)
        if term is None:
            return result
        return (result[0] + term, result[1]) if return_outputs else result + term

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the extended trainer does, with the calibration of the preference's probability."""
        if self._preference_term is not None and self.model.training and "loss" in logs:
            logs.update(self._preference_term.pop_logs("train"))
        super().log(logs, start_time)

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """Run the extended trainer's evaluation loop, and add the calibration of the preference's probability."""
        if self._preference_term is not None:
            self._preference_term.pop_logs("eval")
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._preference_term is not None:
            found = self._preference_term.pop_logs("eval")
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        return output


class PreferenceStateCallback(StateCallback):
    """Keeps the preference's bins."""


class PreferenceRunCallback(TrainerCallback):
    """Fills the preference's bins after each step, and restores them in a resumed run."""

    def __init__(self, term: PreferenceTerm, callbacks: Callable[[], Iterable[TrainerCallback]]) -> None:
        self.term, self.callbacks = term, callbacks

    def on_train_begin(self, args, state, control, **kwargs):
        """Restore the state from the checkpoint."""
        saved = PreferenceStateCallback.begin(self.callbacks(), state, self.term.state_dict)
        if saved is not None:
            self.term.load_state_dict(saved)

    def on_step_begin(self, args, state, control, **kwargs):
        """Start a step."""
        # transformers may begin a step twice when it retries with a smaller batch.
        self.term.begin_step()

    def on_step_end(self, args, state, control, **kwargs):
        """Add the step's scores to the bins."""
        self.term.end_step()


@contextmanager
def recorded_outputs(*models: nn.Module | None) -> Iterator[list[Any]]:
    """Collect what the models' forward passes return, in order.

    Parameters
    ----------
    *models : torch.nn.Module or None
        The same model may be given twice, alone and inside a wrapper; a nested forward pass is recorded once.
    """
    outputs: list[Any] = []
    starts: list[int] = []

    def enter(module: nn.Module, args: Any) -> None:
        starts.append(len(outputs))

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        del outputs[starts.pop() :]  # of a model inside a wrapper, such as DDP's or a compiled model
        outputs.append(output)

    hooks = []
    for model in {id(model): model for model in models if model is not None}.values():
        hooks += [model.register_forward_pre_hook(enter), model.register_forward_hook(leave)]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def sequence_log_probabilities(output: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """Return the log-probability of each completion, shape (2 B,).

    Parameters
    ----------
    output
        Of one forward, with the tokens' log-probabilities or the logits.
    inputs : dict
        The batch: `input_ids` and `completion_mask`, of shape (2 B, L), the chosen answers in the first half.
    """
    mask = inputs["completion_mask"][:, 1:]
    log_probabilities = getattr(output, "log_probs", None)
    if log_probabilities is None:
        logits = output.logits[:, -inputs["input_ids"].shape[1] : -1].float()
        targets = inputs["input_ids"][:, 1:, None]
        log_probabilities = logits.gather(-1, targets)[..., 0] - logits.logsumexp(dim=-1)
    # An adapter's virtual tokens precede the input's own.
    return (log_probabilities[:, -mask.shape[1] :].float() * mask).sum(dim=-1)
