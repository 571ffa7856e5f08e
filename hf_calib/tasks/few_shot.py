"""Prompts that show solved examples before the question."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from .prompts import PromptFormat
from .questions import Question, QuestionError, require_answers


@dataclass(frozen=True)
class FewShotFormat(PromptFormat):
    """A prompt format with solved examples before the question.

    In plain text the examples come first, each with its letter, separated by blank lines. The header comes first, and
    again when its subject changes. With a chat template each example is a user message with the assistant's answer.

    Parameters
    ----------
    examples : tuple of Question
        If the examples have several subjects, those with the question's subject are shown; otherwise all, in this
        order.
    **parts
        As in `PromptFormat`.

    Raises
    ------
    QuestionError
        If an example has no answer; when a question is rendered, if no example has its subject.
    """

    examples: tuple[Question, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.examples:
            raise QuestionError("a few-shot prompt needs at least one example")
        require_answers(self.examples, "a few-shot prompt")

    @classmethod
    def choose(
        cls,
        pool: Sequence[Question],
        n_shots: int,
        *,
        prompt_format: PromptFormat | None = None,
        seed: int | None = None,
    ) -> FewShotFormat:
        """Choose the examples from a pool of solved questions.

        Parameters
        ----------
        pool : sequence of Question
            With answers. If they have subjects, each subject gets its own examples.
        n_shots : int
            Number of examples per question, at least 1.
        prompt_format : PromptFormat, optional
            How questions are formatted; by default the plain format.
        seed : int, optional
            Draw the examples at random; by default the first ones are used, as in MMLU's own evaluation.

        Raises
        ------
        QuestionError
            If there are too few questions, in total or of a subject, or one has no answer.
        ValueError
            If `n_shots` is below 1, or the prompt format has examples already.
        """
        if n_shots < 1:
            raise ValueError(f"a few-shot prompt has at least one example, got {n_shots}")
        if isinstance(prompt_format, FewShotFormat):
            raise ValueError(
                f"prompt_format: it has {len(prompt_format.examples)} examples already; take one without examples, or "
                "choose none"
            )
        groups: dict[str | None, list[Question]] = defaultdict(list)
        for question in pool:
            groups[question.subject].append(question)
        chosen: list[Question] = []
        for subject, group in groups.items():
            if len(group) < n_shots:
                of = "" if subject is None else f" of the subject {subject!r}"
                raise QuestionError(
                    f"{n_shots} examples were asked for, and there are {len(group)}{of}; give more, or ask for fewer"
                )
            if seed is not None:
                order = np.random.default_rng(seed).permutation(len(group))
                group = [group[i] for i in order]
            chosen += group[:n_shots]
        base = prompt_format or PromptFormat()
        return cls(**{field.name: getattr(base, field.name) for field in fields(PromptFormat)}, examples=tuple(chosen))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FewShotFormat:
        """Make a format from `to_dict`'s data.

        Raises
        ------
        ValueError
            As in `PromptFormat.from_dict`, or if an example is not a question with an answer.
        """
        given = data.get("examples")
        if not isinstance(given, list | tuple):
            raise ValueError(f"the prompt format's 'examples' are {given!r}, not a list of questions")
        names = [field.name for field in fields(Question)]
        examples = []
        for place, example in enumerate(given):
            if not isinstance(example, dict) or not {"question", "choices"} <= set(example) <= set(names):
                raise ValueError(
                    f"the prompt format's example {place}, counted from 0, is {example!r}; it must have the keys "
                    f"question, choices and answer, and may have {' and '.join(names[3:])}"
                )
            try:
                examples.append(Question(**example))
            except QuestionError as error:
                raise ValueError(f"the prompt format's example {place}, counted from 0: {error}") from None
        base = PromptFormat.from_dict({key: value for key, value in data.items() if key != "examples"})
        return cls(**base.to_dict(), examples=tuple(examples))

    @cached_property
    def _by_subject(self) -> dict[str | None, tuple[Question, ...]]:
        groups: dict[str | None, list[Question]] = defaultdict(list)
        for example in self.examples:
            groups[example.subject].append(example)
        return {subject: tuple(group) for subject, group in groups.items()}

    def examples_for(self, question: Question) -> tuple[Question, ...]:
        """Return the examples for a question.

        Raises
        ------
        QuestionError
            If the examples are of several subjects, none of which is the question's.
        """
        if len(self._by_subject) == 1:
            return self.examples
        if question.subject not in self._by_subject:
            raise QuestionError(
                f"the examples are of {len(self._by_subject)} subjects, and none is the question's, "
                f"{question.subject!r}; give examples of it, or examples without subjects"
            )
        return self._by_subject[question.subject]

    def render(self, question: Question, *, options: bool = True) -> str:
        """Return the examples with their answers and the question, without a chat template."""
        if self.chat:  # each message holds one question
            return super().render(question, options=options)
        plain = PromptFormat(**{**self._parts(), "header": ""})
        solved = self._shown_with(question)
        parts: list[str] = []
        shown = ""
        for asked, answer in [*((example, _answer(example, options)) for example in solved), (question, None)]:
            if (header := self.render_header(asked)) != shown:
                parts.append(header)
                shown = header
            text = plain.render(asked, options=options)
            parts.append(text if answer is None else text + self.answer_prefix + answer)
        return "\n\n".join(parts)

    def messages(self, question: Question, *, options: bool = True) -> list[dict[str, str]]:
        """Return the conversation: for each example a user message and the assistant's answer, then the question."""
        *system, asked = super().messages(question, options=options)
        turns = []
        for example in self._shown_with(question):
            turns.append({"role": "user", "content": super().render(example, options=options)})
            turns.append({"role": "assistant", "content": _answer(example, options)})
        return [*system, *turns, asked]

    def _shown_with(self, question: Question) -> list[Question]:
        """Return a question's examples; those without a subject get the question's."""
        return [
            replace(example, subject=question.subject) if example.subject is None else example
            for example in self.examples_for(question)
        ]

    def _parts(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(PromptFormat)}


def _answer(example: Question, options: bool) -> str:
    """Return the right option's letter, or its text if the options are not listed."""
    assert example.answer is not None  # the examples' answers were checked at the start
    return example.letters[example.answer] if options else example.choices[example.answer].strip()
