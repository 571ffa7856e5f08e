"""PPO that keeps the model calibrated, if TRL has PPO."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .calibration_arguments import CalibrationArguments
from .callbacks import CalibrationStateCallback
from .mixin import CalibrationMixin
from .trl_compatibility import UnavailablePPO, has_ppo, ppo_classes

logger = logging.getLogger(__name__)

_Trainer: Any
_Config: Any
_Trainer, _Config = ppo_classes() if has_ppo() else (UnavailablePPO, UnavailablePPO)


@dataclass
class CalibrationAwarePPOConfig(CalibrationArguments, _Config):
    """`trl.experimental.ppo.PPOConfig` with the arguments of the calibration terms, `CalibrationArguments`.

    Parameters
    ----------
    trust_remote_code : bool, default False
        Whether a script may run code from a model's repository when it loads the model.

    Raises
    ------
    TrainerUnavailableError
        If the installed TRL has no PPO, which was removed in 1.13.0.
    """

    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether code from a model's repository may be run."}
    )


class CalibrationAwarePPOTrainer(CalibrationMixin, _Trainer):
    """`trl.experimental.ppo.PPOTrainer` with the calibration terms of `CalibrationMixin`.

    TRL's loop is unchanged: the terms are added when it calls `accelerator.backward`. The anchor's reference is PPO's
    own, and the questions are not prompts: nothing is generated for them. As in TRL, a run cannot be resumed, and
    `eval_strategy` is ignored: nothing is evaluated during training. With an `eval_calibration_dataset`, calibration
    is measured before and after training, and whenever `evaluate()` is called.

    Raises
    ------
    TrainerUnavailableError
        If the installed TRL has no PPO, which was removed in 1.13.0.
    """

    _evaluates_datasets = False
    _not_resumed = "PPO cannot be resumed, but a new run can start from the policy saved there"

    @property
    def calibrated_model(self) -> Any:
        """The policy, without the wrapper that adds the value model."""
        return self.policy_model

    def model_to_ask(self) -> nn.Module:
        """Return the policy."""
        return self.calibrated_model

    def _add_calibration_callbacks(self) -> None:
        super()._add_calibration_callbacks()
        self.remove_callback(CalibrationStateCallback)
        if self._evaluator is not None and self.args.eval_strategy != "no" and self.accelerator.is_main_process:
            logger.warning(
                "eval_strategy: PPO does not evaluate during training; calibration is measured before and after "
                "training, and whenever evaluate() is called"
            )

    def train(self, resume_from_checkpoint: str | bool | None = None) -> Any:
        """Train as the extended trainer does; `calibration_reports` then has "before" and "after".

        Raises
        ------
        ValueError
            If a checkpoint to resume from is passed.
        """
        if resume_from_checkpoint:
            raise ValueError(
                "resume_from_checkpoint: PPO cannot be resumed, since TRL's loop always starts from the first step; "
                "load the checkpoint's policy as `model` and start a new run, or use CalibrationAwareRLOOTrainer, "
                "which can be resumed"
            )
        if self._calibration_term is None:
            return super().train()
        self._micro_batches = 0
        backward = self.accelerator.backward

        def backward_with_terms(loss: torch.Tensor, **kwargs: Any) -> None:
            term = self._next_term(None)
            # accelerate divides by the accumulation steps; the parts of the terms sum to their mean.
            backward(loss if term is None else loss + term * self.args.gradient_accumulation_steps, **kwargs)

        self.accelerator.backward = backward_with_terms
        try:
            return super().train()
        finally:
            self.accelerator.backward = backward

    def _takes_separate_backward(self) -> bool:
        # TRL's loop never recomputes activations, so no separate backward is required.
        if self.calibration_arguments.separate_backward:
            raise ValueError(
                "separate_backward: PPO's loop has one backward per step, to which the terms are added; leave it out"
            )
        return False

    def _next_term(self, model: Any) -> torch.Tensor | None:
        assert self._calibration_term is not None
        parts = self.args.gradient_accumulation_steps
        step, part = divmod(self._micro_batches, parts)
        self._micro_batches += 1
        return self._calibration_term.loss(self.calibrated_model, step, part, parts)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as the extended trainer does, with the calibration terms' means since the last log."""
        if self._calibration_term is not None and "objective/kl" in logs:
            logs.update(self._calibration_term.pop_logs())
        super().log(logs, start_time)
