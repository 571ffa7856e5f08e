"""Multiple-choice questions prepared for a trainer: read, checked, split and encoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from transformers import AutoTokenizer

from ..confidence import confidence_method
from ..confidence.encoded import (
    Encoded,
    EncodedLabels,
    EncodedTexts,
    encode_letters,
    encode_texts,
    padding_token,
)
from ..confidence.methods import OptionTexts
from ..confidence.packing import TextCollator
from ..confidence.stated_levels import StatedLevels, encode_levels
from ..tasks import (
    PromptFormat,
    Question,
    QuestionError,
    as_questions,
    handle_identical_choices,
    is_question_layout,
    maximum_length,
    permute_options,
    random_orders,
    require_answers,
)
from ..tasks.collator import QuestionCollator
from ..tasks.encoding import EncodedQuestion
from .calibration_arguments import CalibrationArguments


@dataclass(frozen=True)
class PreparedQuestions:
    """Questions that are ready to train on.

    Parameters
    ----------
    questions : list of Question
        All of them; an item's `row` is an index into this list.
    trained : list of EncodedQuestion or of EncodedTexts
        The training questions.
    held_out : the same
        The questions of the E-step, from this list or from an `em_dataset`.
    """

    questions: list[Question]
    trained: list[Any]
    held_out: list[Any]

    @property
    def answered(self) -> list[Any]:
        """The training questions with answers."""
        return [item for item in self.trained if item.answer >= 0]

    def n_used(self, em_dataset: Any = None) -> int:
        """Return the number of questions that are used, without those of a given `em_dataset`."""
        return len(self.trained) + (len(self.held_out) if em_dataset is None else 0)

    def of(self, items: Sequence[Encoded]) -> list[Question]:
        """Return the questions that items were encoded from."""
        return [self.questions[item.row] for item in items]


class QuestionPreparation:
    """Reads, checks, splits and encodes the questions of one trainer.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase or transformers.ProcessorMixin
    model_config : transformers.PretrainedConfig
    settings : CalibrationArguments
    seed : int, default 0
        Seed of the held-out split.
    prompt_format : PromptFormat, optional
        By default the one that `calibration_prompt` selects.
    max_length : int, optional
        The trainer's limit, in tokens, on prompts without `calibration_max_length` and on supervised rows.

    Attributes
    ----------
    method : ConfidenceMethod
        How confidence is read, selected by `calibration_confidence` in the settings.
    """

    def __init__(
        self,
        tokenizer: Any,
        model_config: Any,
        settings: CalibrationArguments,
        *,
        seed: int = 0,
        prompt_format: PromptFormat | None = None,
        max_length: int | None = None,
    ) -> None:
        self.tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        self.settings = settings
        self.method = confidence_method(settings.calibration_confidence)
        self.seed = seed
        self.prompt_format = prompt_format or PromptFormat(chat=settings.calibration_prompt == "chat")
        chosen = max_length if settings.calibration_max_length is None else settings.calibration_max_length
        limits = chosen, maximum_length(model_config, self.tokenizer)
        self.max_length = min((limit for limit in limits if limit is not None), default=None)
        self._row_length = max_length

    def collator_of(self, items: Sequence[Encoded]) -> QuestionCollator | TextCollator:
        """Return a collator for encoded questions of one kind."""
        pad = padding_token(self.tokenizer)
        return TextCollator(pad) if isinstance(items[0], EncodedTexts) else QuestionCollator(pad)

    def encode(self, questions: Sequence[Question], *, drop_too_long: bool = False) -> list[Any]:
        """Return the questions as token ids.

        Parameters
        ----------
        questions : sequence of Question
        drop_too_long : bool, default False
            Leave out questions that are too long with a warning, whatever `calibration_on_too_long` is.

        Returns
        -------
        list of EncodedQuestion, of EncodedTexts or of EncodedLabels
            `EncodedTexts` with option texts; for letters, see `encode_letters`.

        Raises
        ------
        QuestionError
            If a prompt is too long or an option's letter is not a single token.
        """
        on_too_long = "drop" if drop_too_long else self.settings.calibration_on_too_long
        limits: Any = {"max_length": self.max_length, "on_too_long": on_too_long}
        if isinstance(self.method, OptionTexts):
            return encode_texts(questions, self.tokenizer, self.method, self.prompt_format, **limits)
        if isinstance(self.method, StatedLevels):
            return encode_levels(questions, self.tokenizer, self.prompt_format, **limits)
        return list(encode_letters(questions, self.tokenizer, self.prompt_format, **limits))

    def for_evaluation(self, source: Any) -> list[Question]:
        """Read questions to measure calibration on.

        Raises
        ------
        QuestionError
            If a question has no answer.
        """
        questions = as_questions(source)
        require_answers(questions, "evaluating calibration")
        handle_identical_choices(questions, "warn")
        return questions

    def for_training(
        self,
        questions: Sequence[Question],
        em_dataset: Any = None,
        *,
        prompts: Sequence[Question] = (),
        drop_too_long: bool = False,
    ) -> PreparedQuestions:
        """Check, encode and split questions to train on.

        Parameters
        ----------
        questions : sequence of Question
        em_dataset : dataset, list of rows, str or Path, optional
            Answered questions for the E-step; by default some of the questions are held out if it needs any.
        prompts : sequence of Question
            Additional questions, used without answers for the anchor.
        drop_too_long : bool, default False
            As in `encode`.

        Raises
        ------
        QuestionError
            If the questions lack the answers that the terms need.
        """
        settings = self.settings
        kept, _ = handle_identical_choices(questions, settings.calibration_identical_choices)
        kept = [*kept, *prompts]
        if settings.permute_options:
            orders = random_orders(kept, self.seed)
            kept = [permute_options(question, order) for question, order in zip(kept, orders, strict=True)]
        encoded = self.encode(kept, drop_too_long=drop_too_long)
        answered = [i for i, item in enumerate(encoded) if item.answer >= 0]
        if settings.anchor_weight == 0 and not answered:
            raise QuestionError(
                "calibration_dataset: no question has an answer, so only the anchor could use them, but anchor_weight "
                "is 0; raise anchor_weight, or pass questions with answers"
            )
        if settings.em_weight == 0:
            return PreparedQuestions(kept, encoded, [])
        if not answered:
            raise QuestionError(
                "em_weight: the ECE regularizer acts on calibration questions with answers, but none has one; set "
                "em_weight=0, or pass questions with answers as calibration_dataset"
            )
        if em_dataset is not None:
            held_out = as_questions(em_dataset)
            require_answers(held_out, "the E-step")
            return PreparedQuestions(kept, encoded, self.encode(held_out))
        if len(answered) < 2:
            raise QuestionError(
                f"em_weight: the E-step holds out some of the questions with answers, but {len(answered)} of "
                f"{len(encoded)} have one; pass more questions or an em_dataset, or set em_weight=0"
            )
        _, aside = held_out_split(len(answered), settings.em_fraction, self.seed)
        chosen = {answered[i] for i in aside}
        trained = [item for i, item in enumerate(encoded) if i not in chosen]
        return PreparedQuestions(kept, trained, [encoded[i] for i in sorted(chosen)])

    @property
    def answers_only(self) -> bool:
        """Whether the supervised loss is on the answer only."""
        return getattr(self.settings, "supervised_on", "answer") == "answer"

    def supervised_rows(self, items: Sequence[Any]) -> Dataset:
        """Return answered questions as an SFT dataset, labeled on the answer's token or on every token.

        With option texts or labels, and if any question has a distribution instead of a single right answer, each row
        also has the fields of its encoded question, because its loss is over all options.

        Raises
        ------
        QuestionError
            If a row is longer than the trainer's `max_length`.
        ValueError
            If every token is labeled, and a question has a distribution or labels of several tokens.
        """
        self._check_rows(items)
        if isinstance(self.method, OptionTexts):
            return Dataset.from_list([_row_of_texts(item) for item in items])
        if any(item.target is not None or isinstance(item, EncodedLabels) for item in items):
            if not self.answers_only:
                raise ValueError(
                    "supervised_on: questions with a distribution as their answer, or with more than 26 options, need "
                    '"answer", got "question_and_answer"'
                )
            row_of = _row_of_texts if isinstance(items[0], EncodedLabels) else _row_of_options
            return Dataset.from_list([row_of(item) for item in items])
        input_ids = [[*item.input_ids, item.option_ids[item.answer]] for item in items]
        labels = [[-100] * (len(ids) - 1) + ids[-1:] for ids in input_ids] if self.answers_only else input_ids
        return Dataset.from_dict({"input_ids": input_ids, "labels": labels})

    def _check_rows(self, items: Sequence[Any]) -> None:
        """Raise if TRL would cut off the answer of a row."""
        if self._row_length is None:
            return
        for item in items:
            length = len(item.input_ids) + _answer_length(item)
            if length > self._row_length:
                raise QuestionError(
                    f"max_length: question {item.row}, counted from 0, has {length} tokens with its answer, but TRL "
                    f"truncates rows to {self._row_length} tokens; raise max_length, or leave longer questions out "
                    'with a lower calibration_max_length and calibration_on_too_long="drop"'
                )

    def supervised_evaluation(self, source: Any) -> Any:
        """Return an `eval_dataset`, or each of a dict of them, with questions as SFT rows and all else unchanged.

        Raises
        ------
        QuestionError
            If a question has no answer.
        """
        if isinstance(source, Mapping):
            return {name: self.supervised_evaluation(part) for name, part in source.items()}
        if not are_questions(source):
            return source
        questions = as_questions(source)
        require_answers(questions, "evaluating the supervised loss")
        return self.supervised_rows(self.encode(questions))


def chosen_format(
    prompt_format: PromptFormat | None, of_answers: PromptFormat | None, settings: CalibrationArguments
) -> PromptFormat:
    """Return the format of a trainer's questions: the given one, that of graded answers, or by `calibration_prompt`.

    Parameters
    ----------
    prompt_format : PromptFormat or None
        The trainer's argument.
    of_answers : PromptFormat or None
        The format of questions about graded answers; None for other questions.
    settings : CalibrationArguments

    Raises
    ------
    ValueError
        If `calibration_prompt` is "chat" but the graded answers were generated without the chat template.
    """
    if prompt_format is not None:
        return prompt_format
    if of_answers is None:
        return PromptFormat(chat=settings.calibration_prompt == "chat")
    if settings.calibration_prompt == "chat" and not of_answers.chat:
        raise ValueError(
            "calibration_prompt: 'chat' does not fit graded answers that were generated without the chat template; "
            "leave it out, or generate them with prompt_format=PromptFormat(chat=True)"
        )
    return of_answers


def held_out_split(n_questions: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split 0 .. n - 1 at random into (kept, held out), each in increasing order, at least one question in both.

    Raises
    ------
    ValueError
        If there are fewer than two questions.
    """
    if n_questions < 2:
        raise ValueError(f"{n_questions} question(s) with an answer cannot be split into training and held-out ones")
    # A tag of its own keeps the split independent of the stream's permutations with the same seed.
    order = np.random.default_rng([seed, 0x5EED]).permutation(n_questions)
    n_held_out = min(max(round(fraction * n_questions), 1), n_questions - 1)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def _answer_length(item: Any) -> int:
    return len(item.options[item.answer]) if isinstance(item, EncodedTexts) else 1


def _row_of_texts(item: EncodedTexts) -> dict[str, Any]:
    right = item.options[item.answer]
    labels = [*[-100] * len(item.input_ids), *right]
    column = "encoded_labels" if isinstance(item, EncodedLabels) else "encoded_texts"
    return {"input_ids": [*item.input_ids, *right], "labels": labels, column: asdict(item)}


def _row_of_options(item: EncodedQuestion) -> dict[str, Any]:
    right = item.option_ids[item.answer]
    labels = [*[-100] * len(item.input_ids), right]
    return {"input_ids": [*item.input_ids, right], "labels": labels, "encoded_question": asdict(item)}


def are_questions(dataset: Any) -> bool:
    """Return whether a dataset holds multiple-choice questions rather than text."""
    if dataset is None:
        return False
    if isinstance(dataset, Dataset | IterableDataset):
        # A stream may not know its columns before it is read.
        return is_question_layout(dataset.column_names or next(iter(dataset), {}))
    return True


def tokenizer_of(model: Any, argument: str, **options: Any) -> Any:
    """Return the tokenizer of a loaded model, from where the model was loaded.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
    argument : str
        The argument in which a tokenizer can be passed instead.
    **options
        Of `AutoTokenizer.from_pretrained`.

    Raises
    ------
    ValueError
        If the model was not loaded from anywhere.
    """
    name = model.config.name_or_path
    if not name:
        raise ValueError(f"{argument}: the model has no name to load a tokenizer from; pass {argument}=...")
    return AutoTokenizer.from_pretrained(name, **options)


def use_chat_template(tokenizer: Any, path: str | None) -> None:
    """Return a tokenizer the chat template of a .jinja file, as the SFT trainer will, before questions are formatted.

    Raises
    ------
    ValueError
        If the path is not that of a template file.
    """
    if path is None:
        return
    file = Path(path)
    if file.suffix not in (".jinja", ".j2") or not file.is_file():
        raise ValueError(
            f"chat_template_path: {path!r} is not a .jinja or .j2 file; questions are formatted before a template "
            "could be cloned from another model's tokenizer, so save the template to a file and pass that"
        )
    tokenizer.chat_template = file.read_text(encoding="utf-8")
