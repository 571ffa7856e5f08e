"""One seed's world, data and model, and the trainings that the demo and the experiments run on it."""

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
)
from .arguments import adapter_config, alignment_arguments
from .data import LabData, sample_data
from .presets import FineTuningSettings, LabPreset
from .pretraining import make_world
from .tokenizer import make_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..calibrators import Calibrator


@dataclass(frozen=True)
class Bench:
    """One seed's world, data and pre-trained model, on which methods are run.

    Parameters
    ----------
    preset : LabPreset
    data : LabData
    pretrained_folder : Path
        Folder of the pre-trained model, as saved by `save_pretrained`.
    tokenizer : PreTrainedTokenizerBase
    work_dir : Path
        Where the trainers may write.
    seed : int
    progress : bool
        Whether to show progress bars.
    callbacks : tuple of TrainerCallback
        Callbacks for the trainers that fine-tune an aligned model on answers.
    prompts : tuple of Question, optional
        Prompts without answers that replace those of `data`.
    """

    preset: LabPreset
    data: LabData
    pretrained_folder: Path
    tokenizer: PreTrainedTokenizerBase
    work_dir: Path
    seed: int = 0
    progress: bool = True
    callbacks: tuple[TrainerCallback, ...] = ()
    prompts: tuple[Question, ...] = ()

    def pretrained(self) -> Any:
        """Return a fresh copy of the pre-trained model."""
        return AutoModelForCausalLM.from_pretrained(self.pretrained_folder)

    def unanswered(self) -> list[Question]:
        """Return the prompts without answers."""
        return list(self.prompts) or self.data.prompts.to_questions(answers=False)

    def alignment_arguments(self, name: str) -> dict[str, Any]:
        """Return the arguments of an alignment's config, and seed the initial weights of its adapters.

        Parameters
        ----------
        name : str
            The folder inside `work_dir` that the trainer may write to.
        """
        # Inside the trainer, PEFT draws LoRA's initial weights from torch's generator.
        torch.manual_seed(self.seed)
        return alignment_arguments(self.preset.alignment, self.work_dir / name, self.seed, progress=self.progress)

    def fine_tuning_arguments(self, name: str, settings: FineTuningSettings) -> dict[str, Any]:
        """Return the arguments of a fine-tuning's config, and seed the initial weights of its adapters."""
        torch.manual_seed(self.seed)
        return {
            "output_dir": str(self.work_dir / name),
            "max_steps": settings.steps,
            "per_device_train_batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "seed": self.seed,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "save_strategy": "no",
            "logging_steps": settings.eval_steps,
            "report_to": "none",
            "disable_tqdm": not self.progress,
        }

    def policy_and_reference(self) -> dict[str, Any]:
        """Return the model, the reference model and the adapters of a DPO trainer, as its arguments."""
        rank = self.preset.alignment.lora_rank
        return {
            "model": self.pretrained(),
            "ref_model": None if rank else self.pretrained(),
            "peft_config": adapter_config(rank),
            "processing_class": self.tokenizer,
        }


def make_bench(
    preset: LabPreset, seed: int, pretrained_folder: Path, work_dir: Path, *, progress: bool = True
) -> Bench:
    """Return a `Bench` with freshly drawn data; the parameters are those of `Bench`."""
    tokenizer, world = make_tokenizer(), make_world(preset, seed)
    data = sample_data(preset, world, AutoModelForCausalLM.from_pretrained(pretrained_folder), tokenizer, seed)
    return Bench(preset, data, pretrained_folder, tokenizer, work_dir, seed, progress)


def plain_dpo(bench: Bench, name: str = "dpo", **loss: Any) -> DPOTrainer:
    """Align the pre-trained model with TRL's unchanged `DPOTrainer`.

    Parameters
    ----------
    bench : Bench
    name : str, default "dpo"
        The folder that the trainer may write to.
    **loss
        Arguments of `trl.DPOConfig` that choose another loss.
    """
    args = DPOConfig(**bench.alignment_arguments(name), **loss)
    trainer = DPOTrainer(args=args, train_dataset=bench.data.pairs, **bench.policy_and_reference())
    trainer.train()
    return trainer


def calibration_aware_dpo(
    bench: Bench,
    labeled: Sequence[Question] = (),
    *,
    evaluated_on: Sequence[Question] | None = None,
    teacher: Any = None,
    **terms: Any,
) -> CalibrationAwareTrainer:
    """Align the pre-trained model with `CalibrationAwareTrainer`.

    Parameters
    ----------
    bench : Bench
    labeled : sequence of Question, optional
        Calibration questions with answers, added to the bench's prompts without answers.
    evaluated_on : sequence of Question, optional
        Questions for the trainer's reports before and after. They do not affect the training.
    teacher : PreTrainedModel, optional
        The anchor's reference; by default the model that the alignment starts from.
    **terms
        Arguments of the calibration terms that replace the preset's.
    """
    name = f"calibration-aware-dpo-{'labeled' if labeled else 'unlabeled'}"
    args = CalibrationAwareConfig(
        **bench.alignment_arguments(name),
        calibration_batch_size=bench.preset.calibration_batch_size * (1 + bool(labeled)),
        **{**(asdict(bench.preset.labeled) if labeled else {"anchor_weight": bench.preset.anchor_weight}), **terms},
    )
    trainer = CalibrationAwareTrainer(
        args=args,
        train_dataset=bench.data.pairs,
        calibration_dataset=[*bench.unanswered(), *labeled],
        eval_calibration_dataset=evaluated_on,
        calibration_reference_model=teacher,
        **bench.policy_and_reference(),
    )
    trainer.train()
    return trainer


def calibration_aware_fine_tuning(
    bench: Bench, aligned: Any, settings: FineTuningSettings
) -> CalibrationAwareSFTTrainer:
    """Repair an aligned model with CFT, at the step that does best on held-out questions.

    The parameters are those of `fine_tuned`.
    """
    # The error falls and then rises again, so the best step is found on held-out questions, by a proper score.
    best_step = {
        "eval_strategy": "steps",
        "eval_steps": settings.eval_steps,
        "save_strategy": "steps",
        "save_steps": settings.eval_steps,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_calibration/nll",
        "greater_is_better": False,
        "per_device_eval_batch_size": 512,
    }
    return fine_tuned(
        bench,
        "cft",
        aligned,
        bench.data.calibration.to_questions(),
        settings,
        arguments=best_step,
        eval_calibration_dataset=bench.data.held_out.to_questions(),
    )


def fine_tuned(
    bench: Bench,
    name: str,
    aligned: Any,
    questions: Sequence[Question],
    settings: FineTuningSettings,
    *,
    arguments: dict[str, Any] | None = None,
    trainer_class: type[CalibrationAwareSFTTrainer] = CalibrationAwareSFTTrainer,
    **options: Any,
) -> CalibrationAwareSFTTrainer:
    """Fine-tune an aligned model on answered questions with new adapters, and return the trainer.

    Parameters
    ----------
    bench : Bench
    name : str
        The folder that the trainer may write to.
    aligned : PreTrainedModel or PeftModel
        Its adapter, if it has one, is merged first, which changes the model itself.
    questions : sequence of Question
    settings : FineTuningSettings
    arguments : dict, optional
        Further arguments of the `CalibrationAwareSFTConfig`.
    trainer_class : type, default CalibrationAwareSFTTrainer
    **options
        Further arguments of the trainer.
    """
    trainer = trainer_class(
        model=merged(aligned),
        args=CalibrationAwareSFTConfig(**{**bench.fine_tuning_arguments(name, settings), **(arguments or {})}),
        train_dataset=list(questions),
        processing_class=bench.tokenizer,
        peft_config=adapter_config(settings.lora_rank),
        callbacks=list(bench.callbacks),
        **options,
    )
    trainer.train()
    return trainer


def merged(model: Any) -> Any:
    """Return a model with its adapter, if it has one, merged into its weights; the model itself is changed."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def fitted_temperature(bench: Bench, model: Any) -> Calibrator:
    """Return temperature scaling, fitted on the held-out questions."""
    predictions = predict(model, bench.tokenizer, bench.data.held_out.to_questions(), batch_size=512)
    return by_name("temperature").fit(predictions.logits, predictions.answers)
