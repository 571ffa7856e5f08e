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
        Of the pre-trained model, saved by `save_pretrained`.
    tokenizer : PreTrainedTokenizerBase
    work_dir : Path
        Where the trainers may write.
    seed : int
    progress : bool
        Whether to show progress bars.
    callbacks : tuple of TrainerCallback
        Of the trainers that fine-tune an aligned model on answers.
    prompts : tuple of Question, optional
        Prompts without answers, in place of the data's.
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
        """Return the pre-trained model, loaded anew."""
        return AutoModelForCausalLM.from_pretrained(self.pretrained_folder)

    def unanswered(self) -> list[Question]:
        """Return the prompts without answers."""
        return list(self.prompts) or self.data.prompts.to_questions(answers=False)

    def _alignment(self, name: str) -> dict[str, Any]:
        # LoRA's initial weights are drawn from torch's generator by PEFT, inside the trainer.
        torch.manual_seed(self.seed)
        return alignment_arguments(self.preset.alignment, self.work_dir / name, self.seed, progress=self.progress)

    def _fine_tuning(self, name: str, settings: FineTuningSettings) -> dict[str, Any]:
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
            "logging_steps": settings.eval_steps,
            "report_to": "none",
            "disable_tqdm": not self.progress,
        }

    def _policy_and_reference(self) -> dict[str, Any]:
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
    """Draw one seed's data, and put it beside its pre-trained model; the parameters are those of `Bench`."""
    tokenizer, world = make_tokenizer(), make_world(preset, seed)
    data = sample_data(preset, world, AutoModelForCausalLM.from_pretrained(pretrained_folder), tokenizer, seed)
    return Bench(preset, data, pretrained_folder, tokenizer, work_dir, seed, progress)


def plain_dpo(bench: Bench, name: str = "dpo", **loss: Any) -> DPOTrainer:
    """Align the pre-trained model with TRL's `DPOTrainer`, as it is.

    Parameters
    ----------
    bench : Bench
    name : str, default "dpo"
        Of the folder that the trainer may write to.
    **loss
        Go to `trl.DPOConfig`, for another loss than DPO's.
    """
    args = DPOConfig(**bench._alignment(name), **loss)
    trainer = DPOTrainer(args=args, train_dataset=bench.data.pairs, **bench._policy_and_reference())
    trainer.train()
    return trainer


def calibration_aware_dpo(
    bench: Bench,
    labelled: Sequence[Question] = (),
    *,
    evaluated_on: Sequence[Question] | None = None,
    teacher: Any = None,
    **terms: Any,
) -> CalibrationAwareTrainer:
    """Align the pre-trained model with `CalibrationAwareTrainer`.

    Parameters
    ----------
    bench : Bench
    labelled : sequence of Question, optional
        Calibration questions whose answers are used; the bench's prompts without answers always are.
    evaluated_on : sequence of Question, optional
        What the trainer's own reports, before and after, are about. They change nothing in the training.
    teacher : PreTrainedModel, optional
        What the anchor keeps to; by default the model that the alignment starts from.
    **terms
        Arguments of the calibration terms, in place of the preset's.
    """
    name = f"calibration-aware-dpo-{'labelled' if labelled else 'unlabelled'}"
    args = CalibrationAwareConfig(
        **bench._alignment(name),
        calibration_batch_size=bench.preset.calibration_batch_size * (1 + bool(labelled)),
        **{**(asdict(bench.preset.labelled) if labelled else {}), **terms},
    )
    trainer = CalibrationAwareTrainer(
        args=args,
        train_dataset=bench.data.pairs,
        calibration_dataset=[*bench.unanswered(), *labelled],
        eval_calibration_dataset=evaluated_on,
        calibration_reference_model=teacher,
        **bench._policy_and_reference(),
    )
    trainer.train()
    return trainer


def calibration_aware_fine_tuning(
    bench: Bench, aligned: Any, settings: FineTuningSettings
) -> CalibrationAwareSFTTrainer:
    """Repair an aligned model with CFT, at the step that does best on held-out questions.

    Parameters
    ----------
    bench : Bench
    aligned : PreTrainedModel or PeftModel
        Its adapter, if it has one, is merged first; the model given is used up.
    settings : FineTuningSettings
    """
    args = CalibrationAwareSFTConfig(
        **bench._fine_tuning("cft", settings),
        # The error falls and rises again with the steps, so the best step is found on held-out questions, by a
        # proper score.
        eval_strategy="steps",
        eval_steps=settings.eval_steps,
        save_strategy="steps",
        save_steps=settings.eval_steps,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_calibration/nll",
        greater_is_better=False,
        per_device_eval_batch_size=512,
    )
    trainer = CalibrationAwareSFTTrainer(
        model=merged(aligned),
        args=args,
        train_dataset=bench.data.calibration.to_dataset(),
        processing_class=bench.tokenizer,
        peft_config=adapter_config(settings.lora_rank),
        eval_calibration_dataset=bench.data.held_out.to_questions(),
        callbacks=list(bench.callbacks),
    )
    trainer.train()
    return trainer


def _fine_tuned(
    bench: Bench,
    name: str,
    aligned: Any,
    questions: Sequence[Question],
    *,
    settings: FineTuningSettings | None = None,
    terms: dict[str, Any] | None = None,
    trainer_class: type[CalibrationAwareSFTTrainer] = CalibrationAwareSFTTrainer,
    **options: Any,
) -> CalibrationAwareSFTTrainer:
    settings = settings or bench.preset.long
    arguments = {**bench._fine_tuning(name, settings), "save_strategy": "no", **(terms or {})}
    args = CalibrationAwareSFTConfig(**arguments)
    trainer = trainer_class(
        model=merged(aligned),
        args=args,
        train_dataset=list(questions),
        processing_class=bench.tokenizer,
        peft_config=adapter_config(settings.lora_rank),
        callbacks=list(bench.callbacks),
        **options,
    )
    trainer.train()
    return trainer


def merged(model: Any) -> Any:
    """Return a model with its adapter, if it has one, merged into its weights; the model given is used up."""
    return model.merge_and_unload() if isinstance(model, PeftModel) else model


def fitted_temperature(bench: Bench, model: Any) -> Calibrator:
    """Fit temperature scaling on the held-out questions."""
    return fitted_calibrator(bench, model, "temperature", bench.data.held_out.to_questions())
