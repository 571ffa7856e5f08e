"""The label-free repair of a model that was aligned elsewhere."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from ..evaluation.graded_answers import prompt_format_of_answers
from ..hub import dataset_reference
from ..hub.local_paths import check_local_path
from ..tasks import as_questions
from .calibration_arguments import CalibrationArguments
from .mixin import CalibrationMixin
from .pair_positions import is_pairs, no_pairs
from .questions import chosen_format, tokenizer_of, use_chat_template
from .self_made import is_self


@dataclass
class RecalibrationConfig(CalibrationArguments, TrainingArguments):
    """`transformers.TrainingArguments` with `CalibrationArguments`, and the defaults of a label-free repair.

    `per_device_train_batch_size` is the number of questions.

    Parameters
    ----------
    supervised_weight : float, default 0.0
        At 0, answers are not used, even if the prompts have them.
    learning_rate : float, default 1e-4
        Higher than transformers' default, since a repair usually trains an adapter.
    trust_remote_code : bool, default False
        Whether a script may run code from the model's repository when it loads the model.
    chat_template_path : str, optional
        A .jinja file with the chat template, for a tokenizer without one; read by `RecalibrationTrainer`.
    """

    supervised_weight: float = field(default=0.0, metadata={"help": "Weight of the right answer's log-loss."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The initial learning rate."})
    trust_remote_code: bool = field(
        default=False, metadata={"help": "Whether code from the model's repository may be run."}
    )
    chat_template_path: str | None = field(
        default=None, metadata={"help": "A .jinja file with the chat template, for a tokenizer without one."}
    )


def check_config(args: Any, expected: type) -> None:
    """Raise a TypeError unless `args` are of the config class that a trainer expects."""
    if not isinstance(args, expected):
        raise TypeError(f"args: expected a {expected.__name__}, got {type(args).__name__}")


class _TermsOnlyTrainer(Trainer):
    """A trainer without a loss of its own."""

    loss_is_scaled_for_ga = False

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return torch.zeros((), device=self.accelerator.device)


class RecalibrationTrainer(CalibrationMixin, _TermsOnlyTrainer):  # type: ignore[misc]  # the mixin has TRL's signatures
    """Pulls a model's answers to multiple-choice questions back to those of a calibrated reference.

    Its only loss is the calibration terms, by default just the anchor, which needs no answers.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
        The model to repair; its trainable weights are trained.
    args : RecalibrationConfig
    prompts : dataset, list of rows, str or Path
        Multiple-choice questions, with answers or without; or "self", to let the reference write them.
    reference : PreTrainedModel, str, Path, ReferenceDistributions or None
        The calibrated model, usually the pre-trained one; or its answers, computed beforehand. If None, the anchor
        keeps the model close to where training starts, and another term must be active.
    processing_class : transformers.PreTrainedTokenizerBase
    **kwargs
        Passed to `CalibrationMixin` and `transformers.Trainer`, such as `eval_calibration_dataset`.

    Raises
    ------
    TypeError
        If `args` are not a `RecalibrationConfig`.
    ValueError
        If no weight is trainable, no term has a weight, `reference` is None although the anchor is the only term, or
        an `eval_dataset` is given.
    """

    _method_name = _method_without_terms = "recalibration"
    _takes_own_forward = False
    _evaluates_datasets = False
    _aligns = False
    _always_has_reference = True

    def __init__(
        self, model: Any, args: RecalibrationConfig, prompts: Any, reference: Any, processing_class: Any, **kwargs: Any
    ) -> None:
        check_config(args, RecalibrationConfig)
        if isinstance(model, nn.Module) and not any(weight.requires_grad for weight in model.parameters()):
            raise ValueError("model: no weight is trainable; load its adapter with is_trainable=True, or merge it")
        if kwargs.get("eval_dataset") is not None:
            raise self._no_loss_on("eval_dataset")
        if is_pairs(prompts):
            raise no_pairs(self)
        questions = prompts if is_self(prompts) else as_questions(prompts)
        n_questions = args.self_made_questions if is_self(prompts) else len(questions)
        # Gives every part of an optimizer step a question, so that every backward has a graph.
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps
        if args.calibration_batch_size not in (None, batch_size):
            raise ValueError(
                f"calibration_batch_size={args.calibration_batch_size}: this trainer uses {batch_size} questions per "
                "step and device (per_device_train_batch_size times gradient_accumulation_steps); change those "
                "arguments instead, and leave out calibration_batch_size"
            )
        args = copy.copy(args)
        args.calibration_batch_size = batch_size
        args.remove_unused_columns = False
        use_chat_template(processing_class, args.chat_template_path)
        kwargs["prompt_format"] = chosen_format(kwargs.get("prompt_format"), prompt_format_of_answers(prompts), args)
        super().__init__(
            model=model,
            args=args,
            # The questions come from the term's stream; these rows only determine the number of steps.
            train_dataset=Dataset.from_dict({"row": range(n_questions)}),
            data_collator=lambda rows: {"row": torch.tensor([row["row"] for row in rows])},
            processing_class=processing_class,
            calibration_dataset=questions,
            calibration_reference_model=reference,
            **kwargs,
        )
        if self._calibration_term is None and not self._takes_own_forward:
            raise ValueError(
                "anchor_weight: the weights of all terms are 0, so there is nothing to train; set anchor_weight or "
                "supervised_weight above 0"
            )
        if reference is None and self.calibration_run.terms == ("anchor",) and not self._takes_own_forward:
            raise ValueError(
                "reference: None leaves nothing to train, because the anchor is the only active term and keeps the "
                "model unchanged; pass the calibrated model, or answered questions with supervised_weight above 0"
            )
        if not is_self(prompts):  # as_questions drops a dataset's origin
            used = self.calibration_run.calibration_source
            self.calibration_run.calibration_source = dataset_reference(prompts, used.size if used else n_questions)


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
    """Repair the calibration of an aligned model without labels, by anchoring it to a reference on prompts.

    Parameters
    ----------
    model : PreTrainedModel, PeftModel, str or Path
        The aligned model; a name or folder is loaded with the default options.
    reference : PreTrainedModel, str, Path or ReferenceDistributions
        The calibrated model, usually the pre-trained one, with the same vocabulary.
    prompts : dataset, list of rows, str or Path
        Multiple-choice questions; answers are not needed. With "self", the reference writes them.
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        By default the model's own.
    args : RecalibrationConfig, optional
        By default three epochs, into the folder "recalibrated".
    peft_config : peft.PeftConfig, optional
        By default LoRA of rank 16 on all linear layers. A model that already has an adapter keeps training it.
    **kwargs
        Passed to `RecalibrationTrainer`, such as `eval_calibration_dataset`.

    Returns
    -------
    RecalibrationTrainer
        After training. Its `model` is the repaired one, and its `calibration_reports` has "before" and "after". The
        model is not saved yet.

    Raises
    ------
    ReferenceUnavailableError, ReferenceMismatchError
        If the reference has a different vocabulary, or its distributions belong to other questions.
    QuestionError
        If the prompts are not questions.
    TypeError, ValueError
        If no tokenizer is given, and the model's configuration has no `name_or_path`; and as `RecalibrationTrainer`.

    Examples
    --------
    >>> trainer = recalibrate("OLMo-2-1124-7B-DPO", "OLMo-2-1124-7B", "prompts.jsonl")  # doctest: +SKIP
    >>> trainer.save_model()  # doctest: +SKIP
    """
    args = args if args is not None else RecalibrationConfig("recalibrated")
    if isinstance(model, str | Path):
        name = str(model)
        check_local_path(name)
        model = AutoModelForCausalLM.from_pretrained(name)
        tokenizer = tokenizer if tokenizer is not None else AutoTokenizer.from_pretrained(name)
    if tokenizer is None:
        tokenizer = tokenizer_of(model, "tokenizer")
    if not isinstance(model, PeftModel):
        default = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, peft_config if peft_config is not None else default)
    elif peft_config is not None:
        raise ValueError("peft_config: the model already has an adapter; merge that, or leave peft_config out")
    trainer = RecalibrationTrainer(model, args, prompts, reference, tokenizer, **kwargs)
    trainer.train()
    return trainer
