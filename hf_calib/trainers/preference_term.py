"""The calibration of a preference's probability: its statistics, and the term that regularizes it."""

from __future__ import annotations

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..measures import BinStatistics
from ..regularizers import BinTargets, em_loss
from .preference_arguments import PreferenceArguments

# A step has few pairs, so the bins remember a hundred of them.
MOMENTUM = 0.99


class PreferenceTerm:
    """The ECE regularizer on max(σ(m), 1 - σ(m)), and the statistics of that confidence.

    The E-step needs pairs that the weights are not trained on. Each pair is scored in the first pass, before the step
    that trains on it. These scores fill the bins at the end of the step; later passes leave the bins unchanged.

    Parameters
    ----------
    arguments : PreferenceArguments
    accelerator : accelerate.Accelerator
    """

    def __init__(self, arguments: PreferenceArguments, accelerator: Accelerator) -> None:
        self.arguments = arguments
        self.accelerator = accelerator
        self.targets = BinTargets(momentum=MOMENTUM)
        self.statistics = {"train": BinStatistics(), "eval": BinStatistics()}
        self._scored: list[tuple[np.ndarray, np.ndarray]] = []

    def begin_step(self) -> None:
        """Forget the scores of a step that was not finished."""
        self._scored = []

    def loss(self, margins: torch.Tensor, first_pass: bool) -> torch.Tensor | None:
        """Record a training batch's margins, and return the weighted term's mean over them.

        Parameters
        ----------
        margins : torch.Tensor, shape (B,)
            With gradient.
        first_pass : bool
            Whether the pairs are seen for the first time.

        Returns
        -------
        torch.Tensor of float32, shape (), or None if the term has no weight.
        """
        confidences, correct = self._record(margins, "train")
        if self.arguments.preference_weight == 0:
            return None
        if first_pass:
            self._scored.append((confidences, correct))
        probability = torch.sigmoid(margins.float())
        both = torch.stack([probability, 1 - probability], dim=1)
        terms = em_loss(both, torch.ones_like(both, dtype=torch.bool), self.targets)
        return self.arguments.preference_weight * terms.mean()

    def evaluate(self, margins: torch.Tensor) -> None:
        """Record an evaluation batch's margins of all processes, without the duplicates of an uneven last batch."""
        self._record(self.accelerator.gather_for_metrics(margins.detach()), "eval")

    def _record(self, margins: torch.Tensor, mode: str) -> tuple[np.ndarray, np.ndarray]:
        values = margins.detach().double().cpu()
        confidences = torch.sigmoid(values.abs()).numpy()
        correct = (values > 0).numpy().astype(float)
        self.statistics[mode].update(confidences, correct)
        return confidences, correct

    def end_step(self) -> None:
        """Add the step's scores to the bins, the same on every process."""
        # Before a checkpoint is saved, which holds the main process's state only.
        scored, self._scored = self._scored, []
        if self.arguments.preference_weight == 0:
            return
        pairs = gather_object(scored) if self.accelerator.num_processes > 1 else scored
        if pairs:
            self.targets.update(
                torch.from_numpy(np.concatenate([pair[0] for pair in pairs])),
                torch.from_numpy(np.concatenate([pair[1] for pair in pairs])),
            )

    def pop_logs(self, mode: str) -> dict[str, float]:
        """Return accuracy, confidence and ECE since the last call, and reset them.

        Parameters
        ----------
        mode : {"train", "eval"}
            In training every process has its own pairs, in evaluation all pairs.
        """
        statistics, self.statistics[mode] = self.statistics[mode], BinStatistics()
        if mode == "train" and self.accelerator.num_processes > 1:
            everyone = gather_object([statistics])
            statistics = BinStatistics()
            for other in everyone:
                statistics = statistics.merge(other)
        if statistics.n == 0:
            return {}
        return {
            "calibration/preference_ece": statistics.error(),
            "calibration/preference_accuracy": float(statistics.correct_sums.sum()) / statistics.n,
            "calibration/preference_confidence": float(statistics.confidence_sums.sum()) / statistics.n,
        }

    def state_dict(self) -> dict:
        """Return what a resumed run needs: the bins."""
        return {"targets": self.targets.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.targets.load_state_dict(state["targets"])
