"""How a question is formatted for a model, as plain text or through its chat template."""

from __future__ import annotations

import json
import string
from dataclasses import asdict, dataclass, fields
from typing import Any

from .questions import Question

# The placeholders that each line must and may have; the header's subject is optional.
_PLACEHOLDERS = {
    "header": (set(), {"subject"}),
    "context": ({"context"}, {"context"}),
    "question": ({"question"}, {"question"}),
    "choice": ({"letter", "choice"}, {"letter", "choice"}),
}


@dataclass(frozen=True)
class PromptFormat:
    """The text that asks a multiple-choice question, ending just before the option's letter.

    Parameters
    ----------
    header : str, default ""
        First line; may contain `{subject}`, which becomes "general knowledge" for a question without subject. As in
        the other lines with placeholders, a literal brace is written twice.
    context : str, default "{context}"
        The text that the question is about; left out if a question has no context.
    question : str, default "Question: {question}"
    choice : str, default "{letter}. {choice}"
        One line per option.
    cue : str, default "Answer:"
        Last line.
    separator : str, default a newline
        Text between the parts.
    answer_prefix : str, default " "
        Text between the cue and the letter. With a chat template it follows from the template instead.
    chat : bool, default False
        Send the text as a user message, through the tokenizer's chat template.
    system : str or None, default None
        A system message, with `chat` only.
    chat_cue : str, default "Answer with the letter of the right option."
        Replaces `cue` with `chat`, where the answer begins a new turn.

    Notes
    -----
    White space around the context, the question and its choices is removed: some datasets have stray newlines, after
    which a letter is a different token than after a space.

    Examples
    --------
    >>> print(PromptFormat().render(Question("Which is a fruit?", ("apple", "chair"))))
    Question: Which is a fruit?
    A. apple
    B. chair
    Answer:
    """

    header: str = ""
    context: str = "{context}"
    question: str = "Question: {question}"
    choice: str = "{letter}. {choice}"
    cue: str = "Answer:"
    separator: str = "\n"
    answer_prefix: str = " "
    chat: bool = False
    system: str | None = None
    chat_cue: str = "Answer with the letter of the right option."

    def __post_init__(self) -> None:
        for name, (required, allowed) in _PLACEHOLDERS.items():
            found = _placeholders(name, getattr(self, name))
            for placeholder in sorted(required - found):
                raise ValueError(f"the prompt's {name} line {getattr(self, name)!r} lacks {{{placeholder}}}")
            for placeholder in sorted(found - allowed):
                raise ValueError(
                    f"the prompt's {name} line {getattr(self, name)!r} has {{{placeholder}}}, which nothing fills; "
                    "write {{ and }} for braces of its own"
                )
        if self.system is not None and not self.chat:
            raise ValueError("a system message needs chat=True; the plain prompt has no place for one")

    def render(self, question: Question, *, options: bool = True) -> str:
        """Return the text of the prompt, without a chat template and without the answer.

        Parameters
        ----------
        question : Question
        options : bool, default True
            List the options. Without them, `chat_cue`, which asks for a letter, is left out too.
        """
        parts = [self.render_header(question)] if self.header else []
        if question.context is not None:
            parts.append(self.context.format(context=question.context.strip()))
        parts.append(self.question.format(question=question.question.strip()))
        if options:
            parts.extend(
                self.choice.format(letter=letter, choice=choice.strip())
                for letter, choice in zip(question.letters, question.choices, strict=True)
            )
        if not self.chat:
            parts.append(self.cue)
        elif options:
            parts.append(self.chat_cue)
        return self.separator.join(parts)

    def render_header(self, question: Question) -> str:
        """Return the header with the question's subject."""
        return self.header.format(subject=(question.subject or "general knowledge").replace("_", " "))

    def messages(self, question: Question, *, options: bool = True) -> list[dict[str, str]]:
        """Return the question as a conversation for a chat template; `options` as in `render`."""
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return [*system, {"role": "user", "content": self.render(question, options=options)}]

    def to_dict(self) -> dict[str, Any]:
        """Return the format as JSON values, which are the same in memory and read back from a file."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> PromptFormat:
        """Return a format from the data of `to_dict`, a `FewShotFormat` if it has examples.

        Raises
        ------
        ValueError
            If there is an unknown key, or a value of the wrong type.
        """
        if "examples" in data and cls is PromptFormat:
            from .few_shot import FewShotFormat

            return FewShotFormat.from_dict(data)
        types: dict[str, Any] = {field.name: str for field in fields(cls)}
        types["system"] = (str, type(None))
        types["chat"] = bool
        for key, value in data.items():
            if key not in types:
                raise ValueError(f"a prompt format has no {key!r}; its parts are {', '.join(types)}")
            if not isinstance(value, types[key]):
                raise ValueError(f"the prompt format's {key!r} is {value!r}, of the wrong type")
        return cls(**data)


def _placeholders(name: str, template: str) -> set[str]:
    """Return the names in braces; a conversion or a format (`{choice:>9}`) counts as part of the name."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ValueError(
            f"the prompt's {name} line {template!r} cannot be filled: {error}; write {{{{ and }}}} for braces of its "
            "own"
        ) from None
    return {
        field + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
        for _, field, spec, conversion in parts
        if field is not None
    }
