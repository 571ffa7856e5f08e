"""Multiple-choice questions as the training data of an SFT trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from transformers import AutoConfig, AutoTokenizer
from trl import SFTConfig

from ..tasks import (
    PromptFormat,
    Question,
    as_questions,
    encode_questions,
    handle_identical_choices,
    is_question_layout,
    maximum_length,
    require_answers,
)
from .calibration_arguments import CalibrationArguments
from .question_stream import held_out_split


def are_questions(dataset: Any) -> bool:
    """Whether a dataset holds multiple-choice questions rather than text."""
    if dataset is None:
        return False
    if isinstance(dataset, Dataset | IterableDataset):
        # A stream may not know its columns beforehand; then it is text.
        return is_question_layout(dataset.column_names or ())
    return True


@dataclass(frozen=True)
class SupervisedQuestions:
    """Questions made ready for an SFT trainer.

    Parameters
    ----------
    questions : list of Question
        Those that are trained on.
    held_out : list of Question or None
        Those set aside for the E-step; `None` where none had to be.
    """

    questions: list[Question]
    held_out: list[Question] | None
    tokenizer: Any
    prompt_format: PromptFormat
    max_length: int | None
    settings: CalibrationArguments

    @classmethod
    def prepare(
        cls,
        source: Any,
        model: Any,
        args: Any,
        settings: CalibrationArguments,
        processing_class: Any,
        prompt_format: PromptFormat | None,
        split: bool,
    ) -> SupervisedQuestions:
        """Read the questions, find the tokenizer, and set some aside where `split` says so.

        Raises
        ------
        QuestionError
            If a question has no answer, or they are too few to split.
        """
        questions = as_questions(source)
        require_answers(questions, "supervised training on questions")
        questions, _ = handle_identical_choices(questions, settings.calibration_identical_choices)
        if getattr(args, "packing", False):
            raise ValueError(
                "packing=True would put several questions into one sequence, where each sees the ones before it; set "
                "packing=False, which costs little since questions are padded to the longest of their batch"
            )
        held_out = None
        if split:
            seed = args.seed if args is not None else SFTConfig.seed
            kept, aside = held_out_split(len(questions), settings.em_fraction, seed)
            questions, held_out = [questions[i] for i in kept], [questions[i] for i in aside]
        options = _loading_options(model, args)
        if processing_class is None:
            processing_class = AutoTokenizer.from_pretrained(
                model if isinstance(model, str) else model.config.name_or_path, **options
            )
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        use_chat_template(tokenizer, getattr(args, "chat_template_path", None))
        config = AutoConfig.from_pretrained(model, **options) if isinstance(model, str) else model.config
        limits = [
            settings.calibration_max_length,
            getattr(args, "max_length", SFTConfig.max_length),  # plain TrainingArguments have none
            maximum_length(config, tokenizer),
        ]
        return cls(
            questions,
            held_out,
            tokenizer,
            prompt_format or PromptFormat(chat=settings.calibration_prompt == "chat"),
            min((limit for limit in limits if limit is not None), default=None),
            settings,
        )

    @property
    def answers_only(self) -> bool:
        """Whether the supervised loss is on the answer alone."""
        return getattr(self.settings, "supervised_on", "answer") == "answer"

    def dataset(self, questions: Sequence[Question] | None = None) -> Dataset:
        """Return token ids, with labels on the right option's token, or on every token.

        Parameters
        ----------
        questions : sequence of Question, optional
            Others than those to train on, for an evaluation set.
        """
        encoded = encode_questions(
            self.questions if questions is None else questions,
            self.tokenizer,
            self.prompt_format,
            max_length=self.max_length,
            on_too_long=self.settings.calibration_on_too_long,
        )
        input_ids = [[*item.input_ids, item.option_ids[item.answer]] for item in encoded]
        labels = input_ids
        if self.answers_only:
            labels = [[-100] * (len(ids) - 1) + ids[-1:] for ids in input_ids]
        return Dataset.from_dict({"input_ids": input_ids, "labels": labels})

    def evaluation_sets(self, source: Any) -> Any:
        """Return an `eval_dataset`, or each of a dict of them, with questions made ready and all else as it is.

        Raises
        ------
        QuestionError
            If a question has no answer.
        """
        if isinstance(source, Mapping):
            return {name: self.evaluation_sets(part) for name, part in source.items()}
        if not are_questions(source):
            return source
        questions = as_questions(source)
        require_answers(questions, "evaluating the supervised loss")
        return self.dataset(questions)


def use_chat_template(tokenizer: Any, path: str | None) -> None:
    """Give a tokenizer the chat template of a .jinja file, as the SFT trainer will, before questions are put.

    Raises
    ------
    ValueError
        If the path is not that of such a file.
    """
    if path is None:
        return
    file = Path(path)
    if file.suffix not in (".jinja", ".j2") or not file.is_file():
        raise ValueError(
            f"chat_template_path {path!r} is no .jinja or .j2 file; questions are put before a template could be "
            "cloned from another model's tokenizer, so save it to such a file first"
        )
    tokenizer.chat_template = file.read_text(encoding="utf-8")


def _loading_options(model: Any, args: Any) -> dict[str, Any]:
    """Return how the trainer will load the model of this name, as far as its tokenizer and configuration go."""
    options = {"trust_remote_code": getattr(args, "trust_remote_code", False)}
    revision = (getattr(args, "model_init_kwargs", None) or {}).get("revision")
    return options if revision is None or not isinstance(model, str) else {**options, "revision": revision}
