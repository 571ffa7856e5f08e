"""What was run: the command, date, device, and a rendered prompt."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable
from contextvars import ContextVar
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..tasks import PromptFormat, Question

COMMAND: ContextVar[str | None] = ContextVar("command", default=None)
"""The running command line, set by the `hf-calib` command."""


_ASKING = ("hf-calib", "transformers", "peft", "datasets", "torch", "numpy")


def versions_of(packages: Iterable[str] = _ASKING) -> dict[str, str]:
    """Return the versions of packages, by default of those that a model's answers depend on."""
    return {name: importlib.metadata.version(name) for name in packages}


def record(backend: Any, asked: tuple[Question, PromptFormat, bool] | None = None) -> dict[str, Any]:
    """Return the command, the date, the device and the first prompt, as JSON values.

    Parameters
    ----------
    backend : Backend
        What was asked.
    asked : tuple, optional
        The first question, its format, and whether its options were listed.
    """
    command = COMMAND.get()
    return {
        **({} if command is None else {"command": command}),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "device": _device(backend),
        "prompt": None if asked is None else _prompt(backend, *asked),
    }


def _prompt(backend: Any, question: Question, prompt_format: PromptFormat, list_options: bool) -> str:
    if not prompt_format.chat:
        return prompt_format.render(question, options=list_options)
    messages = prompt_format.messages(question, options=list_options)
    tokenizer = getattr(backend, "tokenizer", None)
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
