"""RCFT as published, for comparison: its targets are computed once, on the training questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from hf_calib.lab.world import N_OPTIONS
from hf_calib.regularizers import BinTargets, em_loss
from hf_calib.tasks import LETTERS
from hf_calib.trainers import CalibrationAwareSFTTrainer

if TYPE_CHECKING:
    from hf_calib.confidence import Predictions

N_BINS = 10


def frozen_targets(before: Predictions) -> BinTargets:
    """Return the bins' accuracies on the training questions, computed once before training.

    Parameters
    ----------
    before : Predictions
        Of the aligned model, on the training questions.

    Returns
    -------
    BinTargets
        Ten bins, each with exactly the accuracy of its members; an empty one has no effect.
    """
    targets = BinTargets(N_BINS, momentum=0.0, prior_count=0.0)
    targets.update(torch.from_numpy(before.confidences), torch.from_numpy(before.correct))
    return targets


def published_em_loss(probabilities: torch.Tensor, targets: BinTargets, *, all_bins: bool = False) -> torch.Tensor:
    """Return the published regularizer, one value per question.

    The published code iterates over pairs of the ten left edges, 0 to 0.9, and so never reaches the last bin: an
    answer with a confidence of 0.9 or more, as most answers of an aligned model have, gets no loss. A question belongs
    to the bin of its current confidence.

    Parameters
    ----------
    probabilities : torch.Tensor, shape (B, K)
        Softmax over the options only, with gradient.
    targets : BinTargets
        See `frozen_targets`.
    all_bins : bool, default False
        Whether the last bin gets a loss too.

    Returns
    -------
    torch.Tensor of float32, shape (B,)
        The squared distance to the target, in which the other options share the rest by the published tanh rule.

    References
    ----------
    Xiao et al., Restoring Calibration for Aligned Large Language Models, ICML 2025, and the code published with it.
    """
    exists = torch.ones_like(probabilities, dtype=torch.bool)
    loss = em_loss(probabilities, exists, targets, "tanh")
    if all_bins:
        return loss
    last = targets.bin_of(probabilities.max(dim=1).values) == targets.n_bins - 1
    return loss.masked_fill(last.to(loss.device), 0.0)


class PublishedRCFTTrainer(CalibrationAwareSFTTrainer):
    """Fine-tuning on answered questions of the lab with `published_em_loss`, without gradient accumulation.

    Parameters
    ----------
    before : Predictions
        Of the aligned model, on the training questions.
    em_weight : float
        λ, 1 in the paper.
    all_bins : bool
        See `published_em_loss`.
    """

    def __init__(self, *args: Any, before: Predictions, em_weight: float, all_bins: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.targets = frozen_targets(before)
        self.published_em_weight = em_weight
        self.all_bins = all_bins
        letters = self.processing_class.convert_tokens_to_ids(list(LETTERS[:N_OPTIONS]))
        self._option_ids = torch.tensor(letters)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the supervised loss plus the published regularizer."""
        # A row's only label is the answer; the logits before it are those of the options.
        positions = (inputs["labels"] != -100).int().argmax(dim=1) - 1
        forward = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        logits = model(**forward, use_cache=False).logits
        options = logits[torch.arange(len(logits)), positions][:, self._option_ids].float()
        term = published_em_loss(torch.softmax(options, dim=-1), self.targets, all_bins=self.all_bins).mean()
        term = self.published_em_weight * term
        return (result[0] + term, result[1]) if return_outputs else result + term
