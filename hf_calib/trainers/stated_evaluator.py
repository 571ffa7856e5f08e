"""Measure the confidence that a model states in free-form answers during training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset
from torch import nn

from ..confidence import Asking, LocalModel, Predictions
from ..confidence.encoded import PromptEncoder
from ..rewards import COLUMNS, AnswerReward, brier_reward, confidence_prompts, known_answers
from ..tasks import PromptFormat, QuestionError, is_question_layout
from ..tasks.files import READERS, file_rows
from ..tasks.free_form import FreeFormQuestion, free_form_questions, load_free_form_questions
from .evaluator import CalibrationEvaluator
from .questions import QuestionPreparation

# For trainers that generate nothing themselves.
MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class StatedPrompt:
    """A prompt in the form that generating trainers take.

    Parameters
    ----------
    prompt : str or list of dict
        A text, or messages.
    columns : dict
        The row's other columns, including the right answers.
    """

    prompt: str | list[dict[str, str]]
    columns: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _AsGiven(PromptFormat):
    """Renders prompts as they are."""

    def render(self, question: Any, *, options: bool = True) -> str:
        return question.prompt

    def messages(self, question: Any, *, options: bool = True) -> list[dict[str, str]]:
        return question.prompt


def stated_prompts(source: Any, *, chat: bool, columns: Sequence[str] = COLUMNS) -> list[StatedPrompt] | None:
    """Return prompts of free-form questions that ask for confidence; None if the source holds something else.

    Parameters
    ----------
    source : iterable of FreeFormQuestion, dataset, list of rows, str or Path
        Rows with a `prompt` and one of `columns` are asked as they are. Rows with a `question` and an
        `answer` or `answers`, but no options, are asked in the form of `hf_calib.rewards.confidence_prompts`.
    chat : bool
        Ask questions through the chat template.
    columns : sequence of str, default `hf_calib.rewards.COLUMNS`
        The columns that may hold the right answers, of which the first that exists counts; if empty, none is required.

    Raises
    ------
    QuestionError
        If a row has no prompt or no right answer, or some prompts are texts and others are messages.
    """
    rows: list[Any]
    if isinstance(source, str | Path):
        path = Path(source).expanduser()
        if not path.is_file() or path.suffix.lower() not in READERS:
            return None
        _, first = next(file_rows(path), (None, {}))
        if not is_free_form(first):
            return None
        prompts_given = "prompt" in first
        rows = [row for _, row in file_rows(path)] if prompts_given else list(load_free_form_questions(path))
    elif isinstance(source, Dataset | IterableDataset):
        if not is_free_form(source.column_names or ()):
            return None
        rows = list(source)
    elif isinstance(source, Sequence):
        rows = list(source)
    else:
        return None
    if not rows:
        return None
    if isinstance(rows[0], Mapping):
        if not is_free_form(rows[0]):
            return None
        if "prompt" not in rows[0]:
            rows = free_form_questions(rows)
    if isinstance(rows[0], FreeFormQuestion):
        rows = list(confidence_prompts(rows, chat=chat))
    elif not isinstance(rows[0], Mapping):
        return None
    prompts = [_prompt(f"row {number}, counted from 0", row) for number, row in enumerate(rows)]
    name = next((name for name in columns if any(name in prompt.columns for prompt in prompts)), None)
    for number, prompt in enumerate(prompts):
        place = f"row {number}, counted from 0"
        try:
            known = known_answers(None if name is None else prompt.columns.get(name))
        except QuestionError as error:
            raise QuestionError(f"{place}, column {name!r}: {error}") from None
        if columns and not known:
            there = repr(name) if name else " or ".join(map(repr, columns))
            raise QuestionError(
                f"{place}: there is no right answer in {there}, and evaluating stated confidence needs one; complete "
                "or remove the row"
            )
        if isinstance(prompt.prompt, str) != isinstance(prompts[0].prompt, str):
            raise QuestionError(
                f"{place}: its prompt is a {type(prompt.prompt).__name__}, but that of row 0 is a "
                f"{type(prompts[0].prompt).__name__}; give either texts or messages in all rows"
            )
    return prompts


def _prompt(place: str, row: Any) -> StatedPrompt:
    if not isinstance(row, Mapping):
        raise QuestionError(f"{place}: expected a row with a 'prompt', got a {type(row).__name__}")
    prompt: Any = row.get("prompt")
    is_text = isinstance(prompt, str) and bool(prompt.strip())
    if not is_text and not (isinstance(prompt, list) and prompt and all(isinstance(own, Mapping) for own in prompt)):
        raise QuestionError(f"{place}: the prompt is {prompt!r:.80}; give a nonempty text or list of messages")
    return StatedPrompt(prompt, {name: value for name, value in row.items() if name != "prompt"})


def evaluator_of(
    trainer: Any,
    source: Any,
    preparation: QuestionPreparation,
    model: Callable[[], nn.Module],
    batch_size: int,
    **options: Any,
) -> CalibrationEvaluator:
    """Return a trainer's evaluator for questions with options or for free-form questions.

    Parameters
    ----------
    trainer : transformers.Trainer
    source
        As in `stated_prompts` and `QuestionPreparation.for_evaluation`.
    preparation, model, batch_size, **options
        As in `CalibrationEvaluator`.
    """
    others = (preparation, model, trainer.accelerator, batch_size)
    reward = grading_reward(trainer)
    prompts = stated_prompts(source, chat=preparation.prompt_format.chat, columns=reward.columns)
    if prompts is None:
        return CalibrationEvaluator(preparation.for_evaluation(source), *others, **options)
    # GRPO and RLOO limit answers to the length that they have in training.
    max_new_tokens = getattr(trainer.args, "max_completion_length", None) or MAX_NEW_TOKENS
    return StatedEvaluator(prompts, reward, max_new_tokens, *others, **options)


def is_free_form(columns: Iterable[str]) -> bool:
    """Return whether columns are those of free-form questions or prompts rather than of questions with options."""
    names = set(columns)
    if "prompt" in names:
        return not is_question_layout(names)
    # Any other column may hold options.
    answers = names & {"answer", "answers"}
    return "question" in names and bool(answers) and names - answers <= {"question", "subject", "context"}


def grading_reward(trainer: Any) -> AnswerReward:
    """Return the reward that grades a trainer's answers: its first from `hf_calib.rewards`, or the default."""
    own = (reward for reward in getattr(trainer, "reward_funcs", ()) if isinstance(reward, AnswerReward))
    return next(own, brier_reward)


class StatedEvaluator(CalibrationEvaluator):
    """Lets a model answer prompts greedily, and reads the confidence that it states.

    A missing or malformed confidence counts as 0, as in `hf-calib measure --free-form ... --confidence stated`.

    Parameters
    ----------
    prompts : sequence of StatedPrompt
    reward : AnswerReward
        Reads and grades the answers.
    max_new_tokens : int
    *arguments, **options
        As in `CalibrationEvaluator`, after its questions.

    Attributes
    ----------
    missing : float
        Share of the last answers without a readable confidence.
    """

    asks_options = False

    def __init__(
        self,
        prompts: Sequence[StatedPrompt],
        reward: AnswerReward,
        max_new_tokens: int,
        *arguments: Any,
        **options: Any,
    ) -> None:
        self.reward = reward
        self.max_new_tokens = max_new_tokens
        self.missing = float("nan")
        self._format = _AsGiven(chat=not isinstance(prompts[0].prompt, str))
        super().__init__(prompts, *arguments, **options)  # type: ignore[arg-type]

    def _check(self) -> None:
        preparation = self.preparation
        on_too_long = preparation.settings.calibration_on_too_long
        encoder = PromptEncoder(preparation.tokenizer, preparation.max_length, on_too_long)
        encoder.prompts(self.questions, self._format, list_options=False, max_new_tokens=self.max_new_tokens)

    def _described(self) -> dict[str, Any]:
        return {
            "confidence": {"name": "stated", "matcher": self.reward.__name__},
            "prompt_format": {"chat": self._format.chat},
        }

    def _ask(self, source: LocalModel, questions: Sequence[Any], asking: Asking) -> Predictions:
        written = source.generate(
            "stated", questions, self._format, asking, max_new_tokens=self.max_new_tokens, list_options=False
        )
        rows = [row for row, samples in enumerate(written) if samples is not None]
        texts = [samples[0].text for samples in written if samples is not None]
        chat = self._format.chat
        completions = [[{"role": "assistant", "content": text}] if chat else text for text in texts]
        names = {name for row in rows for name in questions[row].columns}
        columns = {name: [questions[row].columns.get(name) for row in rows] for name in names}
        columns["prompts"] = [questions[row].prompt for row in rows]
        stated = self.reward.read(completions)
        rights = self.reward.rights(completions, stated, columns)
        for row, right in zip(rows, rights, strict=True):
            if right is None:
                raise QuestionError(
                    f"row {row}, counted from 0: {self.reward.__name__} cannot tell whether the answer is right; "
                    "correct the row's right answer or remove it"
                )
        self.missing = sum(own.confidence is None for own in stated) / len(stated)
        return Predictions.from_answers(
            np.zeros(len(rows), dtype=np.int64),
            [own.confidence or 0.0 for own in stated],
            np.full(len(rows), 2),
            [0 if right and right >= 0.5 else 1 for right in rights],
            (None,) * len(rows),
            np.array(rows),
        )

    def extra_measures(self, prefix: str) -> dict[str, float]:
        """Return additional values to log, `{prefix}/missing_confidence`."""
        return {f"{prefix}/missing_confidence": self.missing}
