"""The label-free repair of a model that was aligned elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from ..hub import dataset_reference
from ..tasks import as_questions
from .mixin import CalibrationMixin
from .recalibration_config import RecalibrationConfig
from .supervised_questions import use_chat_template
from .trl_compatibility import tag_names


class _TermsOnlyTrainer(Trainer):
    """A trainer without a loss of its own."""

    loss_is_scaled_for_ga = False
    _name = "recalibration"

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return torch.zeros((), device=self.accelerator.device)


class RecalibrationTrainer(CalibrationMixin, _TermsOnlyTrainer):  # type: ignore[misc]  # the mixin has TRL's signatures
    """Draws a model's answers to multiple-choice questions back to those of a calibrated reference.

    Its only loss is that of the calibration terms, by default the anchor alone, which needs no answers.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        The model to repair, whose trainable weights are trained.
    args : RecalibrationConfig
    prompts : dataset, list of rows, str or Path
        Multiple-choice questions, with answers or without.
    reference : PreTrainedModel, str, Path or ReferenceDistributions
        The calibrated model, usually the pre-trained one; or what it was asked beforehand.
    processing_class : transformers.PreTrainedTokenizerBase
    **kwargs
        For `CalibrationMixin` and `transformers.Trainer`, such as `eval_calibration_dataset`.
    """

    _tag_names = tag_names(_TermsOnlyTrainer)
    _plain_method = "recalibration"
    _takes_own_forward = False
    _starting_stage = "before"

    def __init__(
        self, model: Any, args: RecalibrationConfig, prompts: Any, reference: Any, processing_class: Any, **kwargs: Any
    ) -> None:
        questions = as_questions(prompts)
        args.remove_unused_columns = False
        use_chat_template(processing_class, args.chat_template_path)
        # Every part of an optimizer step then has a question, so that every backward has something to go through.
        args.calibration_batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
        super().__init__(
            model=model,
            args=args,
            # The questions come from the term's own stream; these rows only count the steps of an epoch.
            train_dataset=Dataset.from_dict({"row": range(len(questions))}),
            data_collator=lambda rows: {"row": torch.tensor([row["row"] for row in rows])},
            processing_class=processing_class,
            calibration_dataset=questions,
            calibration_reference_model=reference,
            **kwargs,
        )
        self._calibration_source = dataset_reference(prompts, len(questions))


def recalibrate(
    model: Any,
    reference: Any,
    prompts: Any,
    *,
    tokenizer: Any = None,
    args: RecalibrationConfig | None = None,
    peft_config: PeftConfig | None = None,
    **kwargs: Any,
) -> RecalibrationTrainer:
    """Repair the calibration of an aligned model without labels, by keeping to a reference on prompts.

    Parameters
    ----------
    model : PreTrainedModel, PeftModel or str
        The aligned model; a string is loaded with the default options.
    reference : PreTrainedModel, str, Path or ReferenceDistributions
        The calibrated model, usually the pre-trained one, of the same vocabulary.
    prompts : dataset, list of rows, str or Path
        Multiple-choice questions; answers are not needed.
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        By default the model's own.
    args : RecalibrationConfig, optional
        By default three epochs at its defaults, into the folder "recalibrated".
    peft_config : peft.PeftConfig, optional
        By default LoRA of rank 16 on all linear layers; a model that has an adapter goes on training it.
    **kwargs
        For `RecalibrationTrainer`, such as `eval_calibration_dataset`.

    Returns
    -------
    RecalibrationTrainer
        After training: its `model` is the repaired one, its `calibration_reports` say what it was before and after.
        The model is not saved yet.

    Raises
    ------
    ReferenceUnavailableError, ReferenceMismatchError
        If the reference's vocabulary is another, or its distributions are of other questions.
    QuestionError
        If the prompts are no questions.

    Examples
    --------
    >>> trainer = recalibrate("OLMo-2-1124-7B-DPO", "OLMo-2-1124-7B", "prompts.jsonl")  # doctest: +SKIP
    >>> trainer.save_model()  # doctest: +SKIP
    """
    args = args if args is not None else RecalibrationConfig("recalibrated")
    if isinstance(model, str):
        name, model = model, AutoModelForCausalLM.from_pretrained(model)
        tokenizer = tokenizer if tokenizer is not None else AutoTokenizer.from_pretrained(name)
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(model.config.name_or_path)
    if not isinstance(model, PeftModel):
        default = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, peft_config if peft_config is not None else default)
    elif peft_config is not None:
        raise ValueError("the model has an adapter already, which goes on being trained; merge it or drop peft_config")
    elif not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("no weight of the model is trainable; load its adapter with is_trainable=True, or merge it")
    trainer = RecalibrationTrainer(model, args, prompts, reference, tokenizer, **kwargs)
    trainer.train()
    return trainer
