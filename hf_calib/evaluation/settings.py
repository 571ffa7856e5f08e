"""How a model is loaded and asked: the options that measuring, comparing, calibrating and diagnosing share."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from .._suggestions import did_you_mean
from ..confidence.registry import SETTINGS
from ..tasks import PromptFormat
from ..tasks.columns import Columns

_NUMBER_FORMATS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


class AskOptions(TypedDict, total=False):
    """How a model is loaded and asked; the options that `measure`, `compare`, `calibrate` and `diagnose` share.

    `hf_calib.measure` documents each of them, `AskSettings` has their defaults.
    """

    tokenizer: Any
    adapter: str | os.PathLike[str] | None
    model_name: str | None
    concurrency: int
    dtype: str
    trust_remote_code: bool
    device: str | None
    batch_size: int | str
    max_length: int | None
    drop_too_long: bool
    prompt: str | os.PathLike[str] | PromptFormat | None
    chat_template: bool
    few_shot: int | None
    few_shot_dataset: Any
    wordings: str | os.PathLike[str] | Sequence[PromptFormat] | None
    permute_options: bool
    check_order: int | None
    free_form: str | None
    n_orders: int | None
    n_samples: int | None
    temperature: float | None
    max_new_tokens: int | None
    top_k: int | None
    base_model: Any
    columns: Columns | None
    answer_base: int | None
    on_bad_row: str
    limit: int | None
    progress: bool


@dataclass(frozen=True)
class AskSettings:
    """The values of `AskOptions`, with their defaults."""

    tokenizer: Any = None
    adapter: str | os.PathLike[str] | None = None
    model_name: str | None = None
    concurrency: int = 8
    dtype: str = "auto"
    trust_remote_code: bool = False
    device: str | None = None
    batch_size: int | str = 16
    max_length: int | None = None
    drop_too_long: bool = False
    prompt: str | os.PathLike[str] | PromptFormat | None = None
    chat_template: bool = False
    few_shot: int | None = None
    few_shot_dataset: Any = None
    wordings: str | os.PathLike[str] | Sequence[PromptFormat] | None = None
    permute_options: bool = False
    check_order: int | None = None
    free_form: str | None = None
    n_orders: int | None = None
    n_samples: int | None = None
    temperature: float | None = None
    max_new_tokens: int | None = None
    top_k: int | None = None
    base_model: Any = None
    columns: Columns | None = None
    answer_base: int | None = None
    on_bad_row: str = "error"
    limit: int | None = None
    progress: bool = True

    @classmethod
    def of(cls, options: AskOptions) -> AskSettings:
        """Return the settings that the options give.

        Raises
        ------
        TypeError
            If an option is unknown.
        """
        known = [field.name for field in fields(cls)]
        if unknown := [name for name in options if name not in known]:
            raise TypeError(
                f"{unknown[0]}: unknown option; see hf_calib.measure for the options."
                + did_you_mean(unknown[0], known)
            )
        return cls(**options)

    def __post_init__(self) -> None:
        known = {**_NUMBER_FORMATS, **{name: name for name in _NUMBER_FORMATS.values()}, "auto": "auto"}
        if self.dtype not in known:
            raise ValueError(
                f"dtype: {self.dtype!r} is not a number format; choose from {', '.join(known)}."
                + did_you_mean(self.dtype, known)
            )
        object.__setattr__(self, "dtype", known[self.dtype])
        if self.check_order is not None and self.check_order < 1:
            raise ValueError(f"check_order: ask in at least 1 other order of the options, got {self.check_order}")
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: must be at least 1, got {self.max_new_tokens}")

    @property
    def reading(self) -> dict[str, Any]:
        """How the rows of all datasets are read, as arguments of `hf_calib.load_questions`."""
        return {"columns": self.columns, "answer_base": self.answer_base, "on_bad_row": self.on_bad_row}

    def say(self, text: str) -> None:
        """Print on standard error what is being done, if progress is shown and this is the first process."""
        if self.progress and os.environ.get("RANK", "0") == "0":
            print(text, file=sys.stderr, flush=True)

    def of_method(self, seed: int) -> dict[str, Any]:
        """Return the settings of a way to read confidence."""
        return {**{name: getattr(self, name) for name in SETTINGS}, "seed": seed}
