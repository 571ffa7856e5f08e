"""Training datasets whose columns TRL misreads: how they are recognized and converted."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

logger = logging.getLogger(__name__)

Row = Mapping[str, Any]
Rows = TypeVar("Rows", bound="Dataset | IterableDataset")

_PAIRS = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("chosen_answer", "rejected_answer"),
    ("response_j", "response_k"),
)
KINDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "preference": _PAIRS,
    "unpaired_preference": (("completion",), ("response",), *_PAIRS, ("messages",), ("conversations",)),
    "text": (("completion",), ("messages",), ("conversations",)),
    "prompt_only": ((),),
}
"""The columns of the answers or of the whole conversation, by kind of training; the first present ones are used."""

PROMPTS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "question": ("context", "question"),
    "instruction": ("instruction", "input"),
    "query": ("query",),
    "conversations": ("conversations",),
    "conversation": ("conversation",),
    "input": ("input",),
    "context": ("context",),
}
"""The columns that make up the prompt, in order, by the one that is required; the first present one is used."""

SYSTEM = ("system", "system_prompt", "system_message")
"""Columns of the system message, which comes before the prompt."""

HISTORY = "history"
"""The column of earlier turns (messages, or pairs of a question and its answer), which come before the prompt."""

_CONVERSATIONS = ("messages", "conversations")
_PREPARED = {
    "input_ids",
    "prompt_ids",
    "completion_ids",
    "chosen_ids",
    "rejected_ids",
    "chosen_input_ids",
    "images",
    "image",
}
"""Columns of datasets that are left to TRL: tokens and images."""
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard", "model", "bot"), "assistant"),
    **{role: role for role in ("system", "tool", "function", "developer")},
}


class DatasetError(ValueError):
    """A training dataset cannot be used as it is; the message says which, why, and what to do."""


@dataclass(frozen=True)
class DatasetLayout:
    """Which columns of a dataset hold what.

    Parameters
    ----------
    before : tuple of str
        The columns of the system message and of the earlier turns.
    prompt : tuple of str
        The columns of the prompt; empty if the answers or the conversation begin with it.
    answers : tuple of str
        The columns of the chosen and the rejected answer, of the completion, or of the conversation.
    targets : tuple of str
        What TRL calls the columns of the answers.
    """

    before: tuple[str, ...]
    prompt: tuple[str, ...]
    answers: tuple[str, ...]
    targets: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        return self.before + self.prompt + self.answers

    def __str__(self) -> str:
        parts = []
        if self.before + self.prompt:
            parts.append(f"{_listing(self.before + self.prompt)} as the prompt")
        if self.answers:
            read_as = "conversation" if self.targets == ("messages",) else " and ".join(self.targets)
            parts.append(f"{_listing(self.answers)} as {read_as}")
        return ", and ".join(parts)


def as_trl_dataset(dataset: Rows, kind: str = "preference", *, source: str = "the dataset") -> Rows:
    """Return a dataset with the columns that TRL reads; the same object if it has them already.

    Recognized are a prompt in `question`, `instruction` (with `input`), `query`, `context` or `conversations`; a
    `system` message and a `history` before it; answers under the names that other datasets use; ShareGPT messages
    (`from` and `value`); and answers that are whole conversations and repeat the prompt. Texts stay texts, joined by
    blank lines; if one column holds messages, the others become messages too.

    Parameters
    ----------
    dataset : datasets.Dataset or datasets.IterableDataset
    kind : {"preference", "unpaired_preference", "text", "prompt_only"}, default "preference"
        The training data: pairs (DPO, reward modeling), completions with a label or pairs (KTO), texts (SFT), or
        prompts (GRPO, RLOO).
    source : str, default "the dataset"
        For the messages.

    Raises
    ------
    DatasetError
        If a row cannot be read, or has an empty prompt while columns with text are not used.
    """
    from datasets import Dataset

    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    layout = layout_of(dataset, kind)
    if layout is None:
        _require_prompts(dataset, kind, source)
        return dataset
    columns = column_names(dataset)
    unused = _unused_text(dataset, columns, layout.columns)
    if int(os.environ.get("RANK", 0)) == 0:
        rest = f"; not used: {_listing(unused)}" if unused else ""
        logger.warning("%s: read %s%s", source, layout, rest)
    read: Any = dataset
    options: dict[str, Any] = {}
    if isinstance(dataset, Dataset):
        read, options = dataset.with_format(None), {"desc": "Converting the columns"}
    return read.map(
        _converted,
        with_indices=True,
        fn_kwargs={"layout": layout, "source": source},
        remove_columns=[name for name in columns if name in layout.columns],
        **options,
    )


def check_layout(dataset: Any, kind: str, source: str) -> None:
    """Check that TRL reads a trainer's dataset as intended.

    Raises
    ------
    DatasetError
        If it has to be converted, or has an empty prompt while columns with text are not used.
    """
    columns = set(column_names(dataset))
    layout = layout_of(dataset, kind)
    if layout is None and kind != "text" and not _PREPARED & columns:
        required = {"preference": {"chosen", "rejected"}, "prompt_only": {"prompt"}}.get(kind)
        if required is None:
            required = {"chosen", "rejected"} if "chosen" in columns else {"prompt", "completion", "label"}
        if not required <= columns:
            raise DatasetError(
                f"{source} has the columns {_listing(column_names(dataset))}; expected {_listing(sorted(required))}. "
                "Rename the columns accordingly"
            )
    if layout is not None:
        raise DatasetError(
            f"{source}: the columns {_listing(layout.columns)} are not in the form that TRL reads; convert them with "
            f'hf_calib.as_trl_dataset(dataset, "{kind}"), which reads {layout}'
        )
    _require_prompts(dataset, kind, source)


def check_layouts(kind: str | None, args: Iterable[Any], kwargs: Mapping[str, Any]) -> None:
    """Check all datasets among a trainer's arguments with `check_layout`, except those of an unknown kind."""
    from datasets import Dataset, IterableDataset

    if kind is None or kwargs.get("formatting_func") is not None:
        return
    for name, value in [*(("the dataset", value) for value in args), *kwargs.items()]:
        parts = value.items() if isinstance(value, Mapping) else [(None, value)]
        for part, dataset in parts:
            if isinstance(dataset, Dataset | IterableDataset):
                check_layout(dataset, kind, name if part is None else f"{name}[{part!r}]")


def layout_of(dataset: Any, kind: str) -> DatasetLayout | None:
    """Return the layout to convert a dataset from, or None if TRL reads it or the layout is unknown."""
    columns = column_names(dataset)
    answers = next((names for names in KINDS[kind] if set(names) <= set(columns)), None)
    first = next(_rows(dataset, columns), None)
    if answers is None or first is None or any(first[name] is None for name in answers):
        return None
    if (
        (kind == "unpaired_preference" and len(answers) == 1 and "label" not in columns)
        or (kind == "prompt_only" and "prompt" not in columns)
        or (kind == "text" and "text" in columns)
        or _PREPARED & set(columns)
    ):
        return None
    conversation = answers[0] in _CONVERSATIONS if answers else False
    before = tuple(
        name
        for name in (*SYSTEM, HISTORY)
        if name in columns and any(_has_text(row[name]) for row in _rows(dataset, [name]))
    )
    main = None if conversation else next((name for name in PROMPTS if name in columns), None)
    prompt = () if main is None else tuple(name for name in PROMPTS[main] if name in columns)
    given = [first[name] for name in answers]
    if main != "prompt" and len(answers) == 2 and _begin_with(given, [first[name] for name in prompt]):
        prompt = ()
    if conversation and kind == "text":
        targets: tuple[str, ...] = ("messages",)
    else:
        targets = {2: ("chosen", "rejected"), 1: ("completion",), 0: ()}[len(answers)]
    if before or (conversation and kind != "text"):
        return DatasetLayout(before, prompt, answers, targets)
    values = given + [first[name] for name in prompt]
    messages = [value for value in values if _is_messages(value)]
    readable = (
        # TRL renames the keys of conversations for SFT, but not the roles.
        all(_is_standard(value, renamed=kind == "text") for value in messages)
        and (answers == targets or conversation)
        and prompt in ((), ("prompt",))
        and len(messages) in (0, len(values))
    )
    if readable and prompt and messages and given:
        start = list(first["prompt"])
        readable = not all(list(value)[: len(start)] == start for value in given)
    return None if readable else DatasetLayout(before, prompt, answers, targets)


def _converted(row: Row, index: int, layout: DatasetLayout, source: str) -> dict[str, Any]:
    try:
        missing = [name for name in layout.answers if row[name] is None]
        if missing:
            raise DatasetError(f"there is no {missing[0]!r}; complete or remove the row")
        before = [row[name] for name in layout.before if _has_text(row[name])]
        prompt = [row[name] for name in layout.prompt if row[name] is not None]
        answers = [row[name] for name in layout.answers]
        turns = [value for value in before if not isinstance(value, str)]
        chat = turns or any(_is_messages(value) for value in [*prompt, *answers])
        return _in_messages(row, layout) if chat else _in_text(before, prompt, answers, layout)
    except DatasetError as error:
        raise DatasetError(f"{source}, row {index}, counted from 0: {error}") from None


def _in_text(before: list[str], prompt: list[Any], answers: list[Any], layout: DatasetLayout) -> dict[str, Any]:
    for value in [*prompt, *answers]:
        if not isinstance(value, str):
            raise DatasetError(f"found {value!r}; expected a text or messages")
    separate = layout.prompt != ("prompt",)
    if not layout.prompt and len(answers) == 2 and HISTORY not in layout.before:
        # As TRL does without a prompt: the beginning that both answers share, up to a space.
        shared = _shared_text(answers).removesuffix(" ")
        prompt, answers, separate = [shared], [answer[len(shared) :] for answer in answers], False
    text = "\n\n".join(part for part in [*before, *prompt] if part.strip())
    if not text.strip():
        raise DatasetError(f"the prompt is empty ({_listing(layout.before + layout.prompt)})")
    if separate and not text[-1].isspace() and not any(answer[:1].isspace() for answer in answers):
        text += "\n\n"
    return {"prompt": text, **dict(zip(layout.targets, answers, strict=True))}


def _in_messages(row: Row, layout: DatasetLayout) -> dict[str, Any]:
    before = [turn for name in layout.before if _has_text(row[name]) for turn in _earlier_turns(name, row[name])]
    given = [row[name] for name in layout.prompt if _has_text(row[name])]
    if any(map(_is_messages, given)):
        if len(given) > 1:
            raise DatasetError(f"{_listing(layout.prompt)}: only one of these columns may hold messages")
        prompt = _messages(given[0])
    else:
        prompt = [{"role": "user", "content": "\n\n".join(given)}] if given else []
    answers = [
        _messages(row[name]) if _is_messages(row[name]) else [{"role": "assistant", "content": row[name]}]
        for name in layout.answers
    ]
    if layout.targets == ("messages",):
        return {"messages": _joined(before, answers[0])}
    if any(_is_whole(answer) for answer in answers):
        shared = _shared_turns(answers)
        if not shared:
            raise DatasetError(f"{_listing(layout.answers)} do not begin with the same turn")
        if prompt and not _holds(shared, prompt):
            raise DatasetError(
                f"the conversations in {_listing(layout.answers)} do not begin with the prompt in "
                f"{_listing(layout.prompt)}, {str(prompt[0]['content'])[:80]!r}; correct or remove the row"
            )
        prompt, answers = shared, [answer[len(shared) :] for answer in answers]
    prompt = _joined(before, prompt)
    if not any(message["role"] != "system" for message in prompt):
        raise DatasetError(f"the prompt is empty ({_listing(layout.before + layout.prompt) or 'no column holds one'})")
    return {"prompt": prompt, **dict(zip(layout.targets, answers, strict=True))}


def _earlier_turns(name: str, value: Any) -> list[dict[str, Any]]:
    if _is_messages(value):
        return _messages(value)
    if isinstance(value, str) and name in SYSTEM:
        return [{"role": "system", "content": value}]
    if isinstance(value, list) and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in value):
        roles = ("user", "assistant")
        return [{"role": role, "content": text} for pair in value for role, text in zip(roles, pair, strict=True)]
    raise DatasetError(f"{name!r} holds {str(value)[:80]!r}; expected messages or pairs of a question and its answer")


def _joined(before: list[dict[str, Any]], turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return turns after earlier ones, with one system message."""
    if before and turns and before[0]["role"] == turns[0]["role"] == "system":
        if before[0]["content"].strip() != turns[0]["content"].strip():
            raise DatasetError("there is a system message in a column of its own and another one in the conversation")
        turns = turns[1:]
    return before + turns


def _shared_turns(answers: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the turns that all conversations begin with; all but the last turn of a single one."""
    length = min(len(answer) for answer in answers) - 1
    shared = 0
    while shared < length and all(answer[shared] == answers[0][shared] for answer in answers):
        shared += 1
    return answers[0][:shared]


def _holds(shared: list[dict[str, Any]], prompt: list[dict[str, Any]]) -> bool:
    """Whether a conversation begins with these messages, or the one text given is among its user turns."""
    if len(prompt) > 1:
        return shared[: len(prompt)] == prompt
    return any(_same(turn, prompt[0]) for turn in shared)


def _same(turn: dict[str, Any], other: dict[str, Any]) -> bool:
    mine, its = turn["content"], other["content"]
    alike = mine.strip() == its.strip() if isinstance(mine, str) and isinstance(its, str) else mine == its
    return turn["role"] == other["role"] and alike


def _begin_with(answers: list[Any], prompt: list[Any]) -> bool:
    """Whether both answers of a pair begin with the prompt, so that TRL finds it there."""
    if all(_is_messages(answer) for answer in answers):
        return all(_is_whole(_messages(answer)) for answer in answers)
    if not all(isinstance(value, str) for value in [*answers, *prompt]):
        return False
    shared, parts = _shared_text(answers), [part.strip() for part in prompt if part.strip()]
    return bool(parts) and all(part in shared for part in parts)


def _shared_text(answers: Sequence[str]) -> str:
    """Return the characters that all answers begin with."""
    return os.path.commonprefix(answers)  # noqa: RUF071 (characters are what is meant)


def _is_whole(conversation: list[dict[str, Any]]) -> bool:
    return conversation[0]["role"] in ("system", "user")


def _has_text(value: Any) -> bool:
    return bool(value.strip()) if isinstance(value, str) else isinstance(value, list | Mapping) and bool(value)


def _is_messages(value: Any) -> bool:
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, Mapping) and ("role" in first or "from" in first)


def _is_standard(value: Any, renamed: bool) -> bool:
    """Whether messages have the keys and roles that TRL and chat templates know."""
    if not isinstance(value, list):
        return False
    roles = [message.get("role") or (message.get("from") if renamed else None) for message in value]
    return all(isinstance(role, str) and _ROLES.get(role, role) == role for role in roles)


def _messages(value: Any) -> list[dict[str, Any]]:
    """Return messages with TRL's keys and roles."""
    read = []
    for message in [value] if isinstance(value, Mapping) else value:
        role = message.get("role") or message.get("from")
        if message.get("role") is None:
            if not isinstance(role, str) or role not in _ROLES:
                raise DatasetError(
                    f"the message {str(dict(message))[:80]} is from {role!r}; known: {', '.join(_ROLES)}"
                )
            message = {"content": message.get("value")}
        kept = {key: part for key, part in message.items() if key not in ("from", "value")}
        read.append({**kept, "role": _ROLES.get(str(role), role)})
    return read


def _require_prompts(dataset: Any, kind: str, source: str) -> None:
    """Raise a `DatasetError` if a pair has no prompt while a column with text is not used."""
    columns = column_names(dataset)
    pair = kind in ("preference", "unpaired_preference") and {"chosen", "rejected"} <= set(columns)
    if not pair or _PREPARED & set(columns):
        return
    used = [name for name in ("prompt", "chosen", "rejected") if name in columns]
    unused = _unused_text(dataset, columns, used)
    if not unused:
        return
    for index, row in enumerate(_rows(dataset, used)):
        pair_of = row["chosen"], row["rejected"]
        if "prompt" in row:
            empty = not _has_text(row["prompt"])
        elif all(isinstance(answer, str) for answer in pair_of):
            empty = not _shared_text(pair_of).strip()
        else:
            empty = all(pair_of) and pair_of[0][0] != pair_of[1][0]
        if empty:
            raise DatasetError(
                f"{source}, row {index}, counted from 0: the prompt is empty, and the text in {_listing(unused)} "
                "would not be used; rename the column that holds the prompt to 'prompt', or remove the columns that "
                "are not needed"
            )


def _unused_text(dataset: Any, columns: Iterable[str], used: Iterable[str]) -> list[str]:
    """Return the unused columns with text other than identifiers and numbers."""
    rest = [name for name in columns if name not in used and not name.lower().endswith("id")]
    first = next(_rows(dataset, rest), {})
    return [
        name
        for name in rest
        if _is_messages(first[name]) or (isinstance(first[name], str) and any(map(str.isalpha, first[name])))
    ]


def _rows(dataset: Any, columns: Iterable[str]) -> Iterator[Row]:
    """Iterate over the rows, or over a stream's first rows."""
    from datasets import Dataset

    columns = list(columns)
    if not columns:
        return iter(())
    if isinstance(dataset, Dataset):
        return iter(dataset.with_format(None).select_columns(columns))
    return ({name: row.get(name) for name in columns} for row in islice(dataset, 100))


def column_names(dataset: Any) -> list[str]:
    """Return the columns of a dataset, or of a stream's first row."""
    if dataset.column_names is not None:
        return list(dataset.column_names)
    return list(next(iter(dataset), {}))


def _listing(columns: Iterable[str]) -> str:
    return ", ".join(map(repr, columns))
