"""The methods that the lab compares, each a run of an ordinary trainer on the lab's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DPOConfig, DPOTrainer

from ..calibrators import by_name
from ..confidence import predict
from ..tasks import Question
from ..trainers import (
    CalibrationAwareConfig,
    CalibrationAwareSFTConfig,
    CalibrationAwareSFTTrainer,
    CalibrationAwareTrainer,
    RecalibrationConfig,
    RecalibrationTrainer,
    recalibrate,
)
from .arguments import adapter_config, alignment_arguments
from .data import LabData, sample_data
from .presets import FineTuningSettings, LabPreset
from .pretraining import make_world
from .published_rcft import PublishedRCFTTrainer
from .tokenizer import make_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..calibrators import Calibrator


def smoothed_dpo_loss(label_smoothing: float) -> dict[str, Any]:
    r"""Return the arguments of a `trl.DPOConfig` for DPO with label smoothing (conservative DPO).

    Its loss on a pair with the margin z is :math:`-(1 - \epsilon) \log \sigma(z) - \epsilon \log \sigma(-z)`. TRL's
    `label_smoothing` says nothing to its plain loss, and means something else to the robust one,
    :math:`(-(1 - \epsilon) \log \sigma(z) + \epsilon \log \sigma(-z)) / (1 - 2 \epsilon)`; but of these two it is a
    weighted sum.

    Parameters
    ----------
    label_smoothing : float
        The probability ε, in (0, 1/2), with which a preference is taken to be the wrong way round.

    References
    ----------
    Mitchell, A note on DPO with noisy preferences and its relationship to IPO, 2023.
    """
    return {
        "loss_type": ["sigmoid", "robust"],
        "loss_weights": [2 * (1 - label_smoothing), -(1 - 2 * label_smoothing)],
        "label_smoothing": label_smoothing,
    }


def long_fine_tuning(bench: Bench, aligned: Any, questions: Sequence[Question]) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model on answered questions for all the steps of the preset's `long`, with no other term.

    Parameters
    ----------
    bench : Bench
    aligned : PreTrainedModel or PeftModel
        Used up, as by the functions below.
    questions : sequence of Question
    """
    return _fine_tuned(bench, "long", aligned, questions)


def bin_regularized_fine_tuning(bench: Bench, aligned: Any) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model for as long with the ECE regulariser, its bins from the held-out questions."""
    held_out = bench.data.held_out.to_questions()
    terms = {**asdict(bench.preset.regularized), "em_batch_size": len(held_out)}
    return _fine_tuned(
        bench, "rcft-bins", aligned, bench.data.calibration.to_questions(), terms=terms, em_dataset=held_out
    )


def regularized_fine_tuning(bench: Bench, aligned: Any) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model for as long with the anchor as the regulariser, and average its last weights.

    The target that a question's confidence is pulled to is the pre-trained model's own answer to it, rather than the
    accuracy of the bin that it falls into, so no answer has to be held out to find the targets.
    """
    return _anchored_fine_tuning(bench, "rcft", aligned, bench.data.labelled(), asdict(bench.preset.anchored))


def automatic_fine_tuning(bench: Bench, aligned: Any) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model as the trainer's ``method="auto"`` does, with the anchor and averaged weights.

    A tenth of the answers is held out, and says when the model begins to memorise.
    """
    labelled = bench.data.labelled()
    fraction = 0.1
    held_out = round(fraction * len(labelled))
    terms = {"method": "auto", "em_fraction": fraction, "em_batch_size": held_out, **asdict(bench.preset.anchored)}
    return _anchored_fine_tuning(bench, "auto", aligned, labelled, terms)


def _anchored_fine_tuning(
    bench: Bench, name: str, aligned: Any, questions: Sequence[Question], terms: dict[str, Any]
) -> CalibrationAwareSFTTrainer:
    return _fine_tuned(
        bench,
        name,
        aligned,
        questions,
        settings=bench.preset.anchored_training,
        terms=terms,
        calibration_dataset=bench.unanswered(),
        calibration_reference_model=bench.pretrained(),
    )


def published_regularized_fine_tuning(
    bench: Bench, aligned: Any, *, all_bins: bool = False
) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model for as long with RCFT as published; see `published_rcft`."""
    questions = bench.data.labelled()
    model = merged(aligned)
    return _fine_tuned(
        bench,
        "rcft-published",
        model,
        questions,
        trainer_class=PublishedRCFTTrainer,
        before=predict(model, bench.tokenizer, questions, batch_size=512),
        em_weight=bench.preset.published_em_weight,
        all_bins=all_bins,
    )


def unlabelled_repair(bench: Bench, aligned: Any) -> RecalibrationTrainer:
    """Repair an aligned model with the anchor alone, on the prompts without answers.

    Parameters
    ----------
    bench : Bench
    aligned : PreTrainedModel or PeftModel
        Used up.
    """
    settings = bench.preset.repair
    return recalibrate(
        merged(aligned),
        bench.pretrained(),
        bench.unanswered(),
        tokenizer=bench.tokenizer,
        args=RecalibrationConfig(**bench._fine_tuning("repair", settings), save_strategy="no"),
        peft_config=adapter_config(settings.lora_rank),
    )


def fitted_calibrator(bench: Bench, model: Any, name: str, questions: Sequence[Question]) -> Calibrator:
    """Fit a calibrator to a model's predictions.

    Parameters
    ----------
    bench : Bench
    model : PreTrainedModel or PeftModel
    name : str
        What `hf_calib.calibrators.by_name` knows it by. ``"reference_agreement"`` (DACA) is fitted to the pre-trained
        model's predictions of the same questions, and needs no answers.
    questions : sequence of Question
    """
    predictions = predict(model, bench.tokenizer, questions, batch_size=512)
    labels = predictions.answers
    if name == "reference_agreement":
        reference = predict(bench.pretrained(), bench.tokenizer, questions, batch_size=512)
        labels = reference.option_log_probabilities
    return by_name(name).fit(predictions.option_log_probabilities, labels)
