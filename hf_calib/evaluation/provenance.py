"""What was run: the command, date, device, and a rendered prompt."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..confidence.backend import Backend
    from ..tasks import PromptFormat, Question

COMMAND: ContextVar[str | None] = ContextVar("command", default=None)
"""The running command line, set by the `hf-calib` command."""


class NotesPrompt:
    """A source of answers that records the first prompt.

    Parameters
    ----------
    backend : Backend
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._first: tuple[Question, PromptFormat, bool] | None = None

    def score_letters(
        self, stage: str, questions: Sequence[Question], prompt_format: PromptFormat, asking: Any
    ) -> Any:
        """Ask, after noting the prompt."""
        self.note(questions, prompt_format, True)
        return self._backend.score_letters(stage, questions, prompt_format, asking)

    def score_texts(
        self, stage: str, questions: Sequence[Question], prompt_format: PromptFormat, asking: Any, **options: Any
    ) -> Any:
        """Ask, after noting the prompt."""
        self.note(questions, prompt_format, options.get("list_options", False))
        return self._backend.score_texts(stage, questions, prompt_format, asking, **options)

    def generate(
        self, stage: str, questions: Sequence[Question], prompt_format: PromptFormat, asking: Any, **options: Any
    ) -> Any:
        """Ask, after noting the prompt."""
        self.note(questions, prompt_format, options.get("list_options", True))
        return self._backend.generate(stage, questions, prompt_format, asking, **options)

    def note(self, questions: Sequence[Question], prompt_format: PromptFormat, options: bool = True) -> None:
        """Record the first question and its format; `options` as in `PromptFormat.render`."""
        if self._first is None and questions:
            self._first = questions[0], prompt_format, options

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def record(self) -> dict[str, Any]:
        """Return the command, the date, the device and the prompt, as JSON values."""
        command = COMMAND.get()
        return {
            **({} if command is None else {"command": command}),
            "date": datetime.now().astimezone().isoformat(timespec="seconds"),
            "device": _device(self._backend),
            "prompt": self._prompt(),
        }

    def _prompt(self) -> str | None:
        if self._first is None:
            return None
        question, prompt_format, options = self._first
        tokenizer = getattr(self._backend, "tokenizer", None)
        if not prompt_format.chat:
            return prompt_format.render(question, options=options)
        messages = prompt_format.messages(question, options=options)
        if tokenizer is None:  # a server applies its own template
            return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
        from ..tasks.chat import answer_stem

        return answer_stem(tokenizer, messages)


def _device(backend: Any) -> str | None:
    """Return the name of a local model's device; None for a server, whose device is unknown."""
    model: Any = getattr(backend, "model", None)
    if not hasattr(model, "parameters"):
        return None
    import torch

    device = next(model.parameters()).device
    return f"{torch.cuda.get_device_name(device)} ({device})" if device.type == "cuda" else device.type
