"""The methods that the lab compares beyond the demo's, each a run of an ordinary trainer on the lab's data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hf_calib.calibrators import by_name
from hf_calib.confidence import predict
from hf_calib.lab import adapter_config
from hf_calib.lab.bench import Bench, fine_tuned, merged
from hf_calib.tasks import Question
from hf_calib.trainers import CalibrationAwareSFTTrainer, RecalibrationConfig, RecalibrationTrainer, recalibrate

from .published_rcft import PublishedRCFTTrainer

if TYPE_CHECKING:
    from hf_calib.calibrators import Calibrator


def smoothed_dpo_loss(label_smoothing: float) -> dict[str, Any]:
    r"""Return the arguments of a `trl.DPOConfig` for DPO with label smoothing (conservative DPO).

    Its loss on a pair with the margin z is :math:`-(1 - \epsilon) \log \sigma(z) - \epsilon \log \sigma(-z)`. TRL's
    plain loss ignores `label_smoothing`, and its robust loss uses it differently,
    :math:`(-(1 - \epsilon) \log \sigma(z) + \epsilon \log \sigma(-z)) / (1 - 2 \epsilon)`; the loss wanted is a
    weighted sum of the two.

    Parameters
    ----------
    label_smoothing : float
        Assumed probability ε, in (0, 1/2), that a preference label is flipped.

    References
    ----------
    Mitchell, A note on DPO with noisy preferences and its relationship to IPO, 2023.
    """
    return {
        "loss_type": ["sigmoid", "robust"],
        "loss_weights": [2 * (1 - label_smoothing), -(1 - 2 * label_smoothing)],
        "label_smoothing": label_smoothing,
    }


def supervised_dpo_loss(weight: float) -> dict[str, Any]:
    """Return the arguments of a `trl.DPOConfig` for DPO with the chosen completions' log-loss (RPO).

    Parameters
    ----------
    weight : float
        Weight of the mean log-loss over the chosen completions' tokens; DPO's loss has weight 1.

    References
    ----------
    Pang et al., Iterative Reasoning Preference Optimization, NeurIPS 2024.
    """
    return {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, weight]}


def long_fine_tuning(bench: Bench, aligned: Any, questions: Sequence[Question]) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model with the supervised term alone, for all steps of the preset's `long`.

    Parameters
    ----------
    bench : Bench
    aligned : PreTrainedModel or PeftModel
        Changed by the training, as in the functions below.
    questions : sequence of Question
    """
    return fine_tuned(bench, "long", aligned, questions, bench.preset.long)


def bin_regularized_fine_tuning(bench: Bench, aligned: Any) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model like `long_fine_tuning`, with the ECE regularizer on bins of held-out questions."""
    held_out = bench.data.held_out.to_questions()
    terms = {**asdict(bench.preset.regularized), "em_batch_size": len(held_out)}
    questions = bench.data.calibration.to_questions()
    return fine_tuned(bench, "rcft-bins", aligned, questions, bench.preset.long, arguments=terms, em_dataset=held_out)


def regularized_fine_tuning(bench: Bench, aligned: Any) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model with the anchor as the regularizer, and average its last weights.

    Each question's target is the pre-trained model's own answer distribution rather than the accuracy of its bin, so
    no answers need to be held out to find the targets.
    """
    return _anchored_fine_tuning(bench, "rcft", aligned, bench.data.labeled(), asdict(bench.preset.anchored))


def automatic_fine_tuning(bench: Bench, aligned: Any) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model with the trainer's ``method="auto"``, the anchor and averaged weights.

    Some of the answers are held out to detect when the model starts to memorize.
    """
    labeled, fraction = bench.data.labeled(), bench.preset.auto_fraction
    held_out = round(fraction * len(labeled))
    terms = {"method": "auto", "em_fraction": fraction, "em_batch_size": held_out, **asdict(bench.preset.anchored)}
    return _anchored_fine_tuning(bench, "auto", aligned, labeled, terms)


def _anchored_fine_tuning(
    bench: Bench, name: str, aligned: Any, questions: Sequence[Question], terms: dict[str, Any]
) -> CalibrationAwareSFTTrainer:
    return fine_tuned(
        bench,
        name,
        aligned,
        questions,
        bench.preset.anchored_training,
        arguments=terms,
        calibration_dataset=bench.unanswered(),
        calibration_reference_model=bench.pretrained(),
    )


def published_regularized_fine_tuning(
    bench: Bench, aligned: Any, *, all_bins: bool = False
) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model with RCFT as published; see `published_rcft`."""
    questions = bench.data.labeled()
    model = merged(aligned)
    return fine_tuned(
        bench,
        "rcft-published",
        model,
        questions,
        bench.preset.long,
        trainer_class=PublishedRCFTTrainer,
        before=predict(model, bench.tokenizer, questions, batch_size=512),
        em_weight=bench.preset.published_em_weight,
        all_bins=all_bins,
    )


def unlabeled_repair(bench: Bench, aligned: Any) -> RecalibrationTrainer:
    """Repair an aligned model with the anchor alone, on the prompts without answers.

    Parameters
    ----------
    bench : Bench
    aligned : PreTrainedModel or PeftModel
        Changed by the training.
    """
    settings = bench.preset.repair
    return recalibrate(
        merged(aligned),
        bench.pretrained(),
        bench.unanswered(),
        tokenizer=bench.tokenizer,
        args=RecalibrationConfig(
            **bench.fine_tuning_arguments("repair", settings), anchor_weight=bench.preset.anchor_weight
        ),
        peft_config=adapter_config(settings.lora_rank),
    )


def fitted_calibrator(bench: Bench, model: Any, name: str, questions: Sequence[Question]) -> Calibrator:
    """Fit a calibrator to a model's predictions.

    Parameters
    ----------
    bench : Bench
    model : PreTrainedModel or PeftModel
    name : str
        Name for `hf_calib.calibrators.by_name`. ``"reference_agreement"`` (DACA) is fitted to the pre-trained model's
        predictions on the same questions and needs no answers.
    questions : sequence of Question
    """
    predictions = predict(model, bench.tokenizer, questions, batch_size=512)
    labels = predictions.answers
    if name == "reference_agreement":
        reference = predict(bench.pretrained(), bench.tokenizer, questions, batch_size=512)
        labels = reference.logits
    return by_name(name).fit(predictions.logits, labels)
