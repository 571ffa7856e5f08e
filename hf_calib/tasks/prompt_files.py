"""Prompt formats by name, from files, and with solved examples."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .few_shot import FewShotFormat
from .loading import as_questions
from .prompts import PromptFormat
from .questions import Question

# "mmlu" is how MMLU's own evaluation begins.
NAMED_PROMPTS: dict[str, dict[str, str]] = {
    "plain": {},
    "mmlu": {
        "header": "The following are multiple choice questions (with answers) about {subject}.",
        "question": "{question}",
    },
}


def prompt_format_of(
    prompt: str | os.PathLike[str] | PromptFormat | None = None,
    *,
    chat_template: bool = False,
    few_shot: int | None = None,
    few_shot_dataset: Any = None,
    reading: Mapping[str, Any] | None = None,
) -> PromptFormat:
    """Return a prompt format, with solved examples if requested.

    Parameters
    ----------
    prompt : str, path or PromptFormat, optional
        "plain", "mmlu", a YAML or JSON file with the parts of a `PromptFormat`, or a format; by default "plain".
    chat_template : bool, default False
        Put the questions through the tokenizer's chat template.
    few_shot : int, optional
        Number of solved examples before each question.
    few_shot_dataset : anything that `as_questions` takes, optional
        The examples' dataset; each subject gets its own examples.
    reading : mapping, optional
        How the rows of `few_shot_dataset` are read: `columns`, `answer_base` and `on_bad_row` of `load_questions`.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file does not hold the parts of a format, or one of `few_shot` and `few_shot_dataset` is missing.
    """
    parts: dict[str, Any] | PromptFormat
    if prompt is None:
        parts = {}
    elif isinstance(prompt, PromptFormat):
        parts = prompt
    elif str(prompt) in NAMED_PROMPTS:
        parts = NAMED_PROMPTS[str(prompt)]
    else:
        parts = _read(prompt, "prompt", f"give a YAML or JSON file, or one of {', '.join(NAMED_PROMPTS)}")
        if not isinstance(parts, dict):
            raise ValueError(f"prompt: {prompt} must hold the parts of a prompt format by name")
    return _with_examples(parts, chat_template, few_shot, few_shot_dataset, reading)


def name_of_prompt(parts: Mapping[str, Any]) -> str:
    """Return the name in `NAMED_PROMPTS` of a format's parts, as `PromptFormat.to_dict` returns them; or "custom".

    Parts that are absent are the default ones. The chat template and solved examples make no difference.
    """
    plain = PromptFormat().to_dict()
    own = {name: parts.get(name, part) for name, part in plain.items() if name != "chat"}
    return next((name for name, named in NAMED_PROMPTS.items() if {**plain, **named}.items() >= own.items()), "custom")


def wordings_of(
    wordings: str | os.PathLike[str] | Sequence[PromptFormat] | None,
    *,
    chat_template: bool = False,
    few_shot: int | None = None,
    few_shot_dataset: Any = None,
    reading: Mapping[str, Any] | None = None,
) -> tuple[PromptFormat, ...]:
    """Return the prompt formats of other wordings, each with the same solved examples.

    Parameters
    ----------
    wordings : str, path or sequence of PromptFormat, optional
        A YAML or JSON file with a list of formats, each with its parts by name; or the formats.
    chat_template, few_shot, few_shot_dataset, reading
        As in `prompt_format_of`.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If it does not hold a list of prompt formats.
    """
    if wordings is None:
        return ()
    found: Sequence[dict[str, Any] | PromptFormat]
    if isinstance(wordings, str | os.PathLike):
        found = _read(wordings, "wordings", "give a YAML or JSON file")
        if not isinstance(found, list) or not found or not all(isinstance(parts, dict) for parts in found):
            raise ValueError(f"wordings: {wordings} must hold a list of prompt formats, each with its parts by name")
    else:
        found = wordings
    return tuple(_with_examples(own, chat_template, few_shot, few_shot_dataset, reading) for own in found)


def _with_examples(
    parts: dict[str, Any] | PromptFormat,
    chat: bool,
    few_shot: int | None,
    few_shot_dataset: Any,
    reading: Mapping[str, Any] | None,
) -> PromptFormat:
    if isinstance(parts, PromptFormat):
        prompt_format = replace(parts, chat=parts.chat or chat)
    else:
        prompt_format = PromptFormat.from_dict({**parts, "chat": True} if chat else parts)
    if (few_shot is None) != (few_shot_dataset is None):
        raise ValueError("few_shot and few_shot_dataset go together: how many examples, and where they come from")
    if few_shot is None:
        return prompt_format
    is_read = isinstance(few_shot_dataset, list) and all(isinstance(own, Question) for own in few_shot_dataset)
    pool = as_questions(few_shot_dataset, **({} if is_read else reading or {}))
    return FewShotFormat.choose(pool, few_shot, prompt_format=prompt_format)


def _read(path: str | os.PathLike[str], argument: str, advice: str) -> Any:
    import yaml

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{argument}: there is no file {str(path)!r}; {advice}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{argument}: {path} is neither YAML nor JSON: {error}") from None
