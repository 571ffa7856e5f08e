"""Rewards that make a model state its confidence truthfully, with the signature of `trl.rewards`.

The functions are ready to use; `get_brier_reward` and the other `get_` functions return variants with another matcher,
correctness reward or style. All accept plain and conversational completions. With `accuracy_reward` or
`answer_reward`, `brier_reward` is the reward of RLCR, and `log_score_reward` that of Rewarding Doubt.

With GRPO, pass ``scale_rewards="none"``: if the outcomes of a question are random, dividing by the standard deviation
of a group's rewards pushes stated confidence to extremes (Bereket and Leskovec).

References
----------
Damani et al., *Beyond Binary Rewards: Training LMs to Reason about Their Uncertainty* (RLCR), arXiv 2507.16806.
Stangel et al., *Rewarding Doubt*, arXiv 2503.02623.
Bereket and Leskovec, *Uncalibrated Reasoning: GRPO Induces Overconfidence for Stochastic Outcomes*, arXiv 2508.11800.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .confidence.parsing import StatedAnswer, check_style, read_stated_answer
from .tasks.answers import is_missing
from .tasks.free_form import FreeFormQuestion, Matcher, answer_texts, as_free_form_questions, grade, matcher_named

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "answer_reward",
    "brier_reward",
    "confidence_format_reward",
    "confidence_prompts",
    "get_answer_reward",
    "get_brier_reward",
    "get_confidence_format_reward",
    "get_log_score_reward",
    "log_score_reward",
]

COLUMNS = ("solution", "answers", "answer")
"""The columns with right answers; the first that exists is used."""


def completion_text(completion: Any) -> str:
    """Return the text of a completion, plain or conversational.

    Parameters
    ----------
    completion : str or list of dict
        A text; or messages, of which the last one's content is returned, which may be a list of parts.

    Raises
    ------
    TypeError
        If the completion is neither.
    """
    if isinstance(completion, str):
        return completion
    if isinstance(completion, Sequence) and completion and all(isinstance(part, Mapping) for part in completion):
        content = completion[-1].get("content")
        if isinstance(content, str | None):
            return content or ""
        if isinstance(content, Sequence) and all(isinstance(part, Mapping) for part in content):
            return "".join(part.get("text") or "" for part in content)
    raise TypeError(f"expected a text or a list of messages, got {completion!r:.80}")


class _Reward:
    """The base of the rewards. A class rather than a closure, so that it can be pickled."""

    def __init__(self, name: str, style: str) -> None:
        check_style(style)
        self.__name__ = name
        self.style = style

    def read(self, completions: Sequence[Any]) -> list[StatedAnswer]:
        """Return the answer and confidence of each completion."""
        found = []
        for row, completion in enumerate(completions):
            try:
                found.append(read_stated_answer(completion_text(completion), self.style))
            except TypeError as error:
                raise TypeError(f"{self.__name__}: completion {row}, counted from 0: {error}") from None
        return found


class _FormatReward(_Reward):
    def __call__(self, completions: Sequence[Any], **columns: Any) -> list[float]:
        return [float(stated.well_formed) for stated in self.read(completions)]


class AnswerReward(_Reward):
    """A reward for right answers, and the base of the rewards that need to know whether an answer is right."""

    def __init__(self, name: str, style: str, matcher: str | Matcher, column: str | None) -> None:
        super().__init__(name, style)
        self.matcher = matcher_named(matcher)
        self.columns: tuple[str, ...] = COLUMNS if column is None else (column,)

    def __call__(
        self, completions: Sequence[Any], solution: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        return self.rights(completions, self.read(completions), _given(solution, columns))

    def rights(
        self, completions: Sequence[Any], stated: Sequence[StatedAnswer], columns: Mapping[str, Any]
    ) -> list[float | None]:
        """Return 1 for a right answer, 0 for a wrong or missing one, and None if no right answer is known.

        Parameters
        ----------
        completions : sequence
        stated : sequence of StatedAnswer
            What `read` returns for the completions.
        columns : mapping from str to sequence
            The dataset's columns.
        """
        name = next((name for name in self.columns if columns.get(name) is not None), None)
        if name is None:
            raise ValueError(
                f"{self.__name__}: the dataset has no column {' or '.join(map(repr, self.columns))} with the right "
                f"answers (its columns: {_listed(columns)}); add one, or name it with get_{self.__name__}(column=...)"
            )
        if len(columns[name]) != len(stated):
            raise ValueError(
                f"{self.__name__}: {len(stated)} completions, but the column {name!r} has {len(columns[name])} rows"
            )
        rewards: list[float | None] = []
        for row, (own, value) in enumerate(zip(stated, columns[name], strict=True)):
            try:
                answers = known_answers(value)
                right = own.answer is not None and grade(own.answer, answers, self.matcher)
            except ValueError as error:
                raise ValueError(
                    f"{self.__name__}: completion {row}, counted from 0, column {name!r}: {error}"
                ) from error
            rewards.append(float(right) if answers else None)
        return rewards


def known_answers(value: Any) -> list[str]:
    """Return the right answers in a cell, without empty ones.

    Raises
    ------
    QuestionError
        If it is neither a text, nor a number, nor a list of these.
    """
    return [answer for answer in answer_texts(value) if not is_missing(answer)]


def _given(solution: Sequence[Any] | None, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Return a dataset's columns, including the one that TRL's rewards also take as second argument."""
    return dict(columns) if solution is None else {"solution": solution, **columns}


# What TRL passes in addition to the dataset's columns.
_NO_COLUMNS = ("prompts", "completion_ids", "trainer_state", "log_extra", "log_metric", "environments")


def _listed(columns: Mapping[str, Any]) -> str:
    return ", ".join(repr(name) for name in columns if name not in _NO_COLUMNS) or "none"


class ScoreReward(AnswerReward):
    """A score of the stated confidence, given whether the answer is right."""

    def __init__(
        self,
        name: str,
        style: str,
        matcher: str | Matcher,
        column: str | None,
        correctness_reward: Callable[..., Sequence[float | None]] | None,
        clip: float | None = None,
    ) -> None:
        super().__init__(name, style, matcher, column)
        if correctness_reward is not None:
            if not callable(correctness_reward) or inspect.iscoroutinefunction(correctness_reward):
                raise TypeError(
                    f"correctness_reward: expected a function that returns a list of rewards, such as "
                    f"trl.rewards.accuracy_reward, got {correctness_reward!r:.80}"
                )
            if column is not None:
                raise ValueError(
                    f"column: {column!r} has no effect with a correctness_reward, which gets all columns; leave one "
                    "of them out"
                )
            self.columns = ()
        self.correctness_reward = correctness_reward
        self.clip = clip

    def __call__(
        self, completions: Sequence[Any], solution: Sequence[Any] | None = None, **columns: Any
    ) -> list[float | None]:
        columns = _given(solution, columns)
        stated = self.read(completions)
        rights = self.rights(completions, stated, columns)
        if callable(log_metric := columns.get("log_metric")) and stated:
            log_metric("confidence/missing", sum(own.confidence is None for own in stated) / len(stated))
        return [
            None if right is None else self._score(own.confidence, float(right))
            for own, right in zip(stated, rights, strict=True)
        ]

    def rights(
        self, completions: Sequence[Any], stated: Sequence[StatedAnswer], columns: Mapping[str, Any]
    ) -> list[float | None]:
        """Return the correctness reward, from 0 to 1; without one, grade as `AnswerReward` does."""
        if self.correctness_reward is None:
            return super().rights(completions, stated, columns)
        name = getattr(self.correctness_reward, "__name__", "correctness_reward")
        given = {"completions": completions, **columns}
        try:
            inspect.signature(self.correctness_reward).bind(**given)
        except TypeError as error:
            raise ValueError(
                f"{self.__name__}: {name} cannot be called with the dataset's columns, {_listed(columns)}: {error}; "
                "add the column"
            ) from None
        rights = self.correctness_reward(**given)
        self._check(rights, name, len(completions))
        return list(rights)

    def _score(self, confidence: float | None, right: float) -> float:
        if self.clip is None:
            return -1.0 if confidence is None else -((confidence - right) ** 2)
        if confidence is None:
            return math.log(self.clip)
        p = min(max(confidence, self.clip), 1 - self.clip)
        return right * math.log(p) + (1 - right) * math.log(1 - p)

    def _check(self, rights: Any, name: str, n: int) -> None:
        if not hasattr(rights, "__len__") or len(rights) != n:
            returned = f"{len(rights)} values" if hasattr(rights, "__len__") else repr(rights)
            raise ValueError(f"{self.__name__}: {name} returned {returned} for {n} completions")
        for row, right in enumerate(rights):
            if right is not None and (isinstance(right, str) or not 0 <= right <= 1):
                raise ValueError(
                    f"{self.__name__}: {name} returned {right!r} for completion {row}, counted from 0; it must be "
                    "between 0 (wrong) and 1 (right), or None if that is unknown"
                )


def get_answer_reward(
    matcher: str | Matcher = "exact", *, column: str | None = None, style: str = "auto"
) -> AnswerReward:
    """Return a reward of 1 for a right answer, 0 for a wrong or missing one, and None if no right answer is known.

    Unlike `trl.rewards.accuracy_reward`, it compares only the stated answer, and accepts any text.

    Parameters
    ----------
    matcher : {"exact", "contains", "numeric"} or callable, default "exact"
        How an answer is compared with the right ones.
    column : str, optional
        The dataset's column with the right answer or a list of them; by default the first of `COLUMNS` that exists.
    style : {"auto", "tags", "brackets", "lines"}, default "auto"
        How the answer and the confidence are marked, as in `hf_calib.confidence.parsing.read_stated_answer`.

    Raises
    ------
    ValueError
        If there is no such matcher or style. The reward raises it if the column is missing or the matcher fails.
    """
    return AnswerReward("answer_reward", style, matcher, column)


def get_brier_reward(
    matcher: str | Matcher = "exact",
    *,
    correctness_reward: Callable[..., Sequence[float | None]] | None = None,
    column: str | None = None,
    style: str = "auto",
) -> AnswerReward:
    """Return the reward -(q - right)², from -1 to 0, for a stated confidence q.

    A missing or malformed confidence gets -1, the lowest reward that any confidence can get, so stating one is never
    penalized. A missing answer, or one of several, counts as wrong. If no right answer is known, the reward is None,
    which TRL ignores.

    Parameters
    ----------
    matcher, column, style
        As in `get_answer_reward`.
    correctness_reward : callable, optional
        A reward with TRL's signature, from 0 to 1, that grades completions instead of the matcher.

    Raises
    ------
    ValueError
        As in `get_answer_reward`, and if both `column` and `correctness_reward` are given. The reward also raises it
        if `correctness_reward` returns invalid values.

    Examples
    --------
    >>> completions = ["<answer>Paris</answer><confidence>80%</confidence>", "<answer>Rome</answer>"]
    >>> [round(reward, 3) for reward in get_brier_reward()(completions=completions, solution=["Paris", "Paris"])]
    [-0.04, -1.0]
    """
    return ScoreReward("brier_reward", style, matcher, column, correctness_reward)


def get_log_score_reward(
    matcher: str | Matcher = "exact",
    *,
    correctness_reward: Callable[..., Sequence[float | None]] | None = None,
    column: str | None = None,
    style: str = "auto",
    clip: float = 0.01,
) -> AnswerReward:
    """Return the reward for a stated confidence q: log q for a right answer and log(1 - q) for a wrong one.

    A missing or malformed confidence gets the lowest reward, log `clip`; otherwise as in `get_brier_reward`.

    Parameters
    ----------
    matcher, correctness_reward, column, style
        As in `get_brier_reward`.
    clip : float, default 0.01
        Confidence is clipped to [clip, 1 - clip], so that the reward is finite.

    Raises
    ------
    ValueError
        As in `get_brier_reward`, and if `clip` is not between 0 and 0.5.
    """
    if not 0 < clip < 0.5:
        raise ValueError(f"clip: must lie between 0 and 0.5, got {clip}")
    return ScoreReward("log_score_reward", style, matcher, column, correctness_reward, clip)


def get_confidence_format_reward(style: str = "auto") -> Callable[..., list[float]]:
    """Return a reward of 1 for exactly one answer, then one readable confidence and nothing else; 0 otherwise.

    Parameters
    ----------
    style : {"auto", "tags", "brackets", "lines"}, default "auto"
        As in `get_answer_reward`. Text may stand before the answer and between the two.

    Raises
    ------
    ValueError
        If there is no such style.
    """
    return _FormatReward("confidence_format_reward", style)


_MARKS = {
    "tags": ("<answer>{}</answer>", "<confidence>{}</confidence>"),
    "brackets": ("[answer]{}[/answer]", "[confidence]{}[/confidence]"),
    "lines": ("Answer: {}", "Confidence: {}"),
}


def confidence_prompts(
    questions: str | Path | Iterable[FreeFormQuestion], *, chat: bool = True, style: str = "tags"
) -> Dataset:
    """Return questions as a dataset for GRPO and RLOO, each with a request to state a confidence.

    Parameters
    ----------
    questions : path or iterable of FreeFormQuestion
        A path is read by `hf_calib.tasks.free_form.load_free_form_questions`.
    chat : bool, default True
        Make prompts of messages, which the trainer formats with the chat template, rather than of text.
    style : {"tags", "brackets", "lines"}, default "tags"
        How the answer and the confidence are to be marked.

    Returns
    -------
    datasets.Dataset
        With the columns `prompt` and `answers`.

    Raises
    ------
    QuestionError
        If the questions cannot be read, or there are none.
    TypeError
        If they are not free-form questions.
    ValueError
        If there is no such style.

    Warns
    -----
    UserWarning
        If questions have no right answer; their completions get no reward.

    Examples
    --------
    >>> print(confidence_prompts([FreeFormQuestion("Capital of France?", ("Paris",))], chat=False)[0]["prompt"])
    Question: Capital of France?
    Answer in a few words, then state the probability that your answer is right, from 0% to 100%, in this form:
    <answer>your answer</answer>
    <confidence>50%</confidence>
    <BLANKLINE>
    """
    from datasets import Dataset

    if style not in _MARKS:
        raise ValueError(f"style: {style!r} is not one of {', '.join(_MARKS)}")
    asked = as_free_form_questions(questions)
    unknown = sum(not question.answers for question in asked)
    if unknown:
        warnings.warn(
            f"{unknown} of {len(asked)} questions have no right answer; their completions get no reward",
            stacklevel=2,
        )
    answer, confidence = _MARKS[style]
    request = (
        "Answer in a few words, then state the probability that your answer is right, from 0% to 100%, in this form:\n"
        f"{answer.format('your answer')}\n{confidence.format('50%')}"
    )
    rows = []
    for question in asked:
        parts = [] if question.context is None else [question.context.strip()]
        text = "\n".join([*parts, f"Question: {question.question.strip()}", request])
        prompt = [{"role": "user", "content": text}] if chat else f"{text}\n"
        rows.append({"prompt": prompt, "answers": list(question.answers)})
    return Dataset.from_list(rows)


answer_reward = get_answer_reward()
brier_reward = get_brier_reward()
log_score_reward = get_log_score_reward()
confidence_format_reward = get_confidence_format_reward()
