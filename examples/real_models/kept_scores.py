"""A source of answers that keeps every score in a file, so that several ways to read confidence share forwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_calib.confidence import Asking, LocalModel, OptionScores
from hf_calib.tasks import PromptFormat, Question

# Batches scored at once; what has been scored is on disk after each.
CHUNK = 2


class KeptScores:
    """Scores of a model's options, read from a file where they are known.

    Parameters
    ----------
    source : LocalModel
    identity : str
        Of the model; scores of other models in the file are not used.
    file : path
        JSON Lines, one score of a question per line.
    """

    def __init__(self, source: LocalModel, identity: str, file: str | Path) -> None:
        self.source = source
        self.identity = identity
        self.file = Path(file)
        self.known: dict[str, OptionScores] = {}
        if self.file.is_file():
            kept = self.file.read_text(encoding="utf-8")
            for line in kept.splitlines():
                try:
                    key, values, n_tokens = json.loads(line)
                except ValueError:  # incomplete after a kill; asked again
                    continue
                self.known[key] = OptionScores(tuple(values), tuple(n_tokens))
            if kept and not kept.endswith("\n"):
                with self.file.open("a", encoding="utf-8") as lines:
                    lines.write("\n")

    def score_letters(
        self, stage: str, questions: Sequence[Question], prompt_format: PromptFormat, asking: Asking
    ) -> list[OptionScores | None]:
        """Return each question's letters' log-probabilities."""
        return self._scores("letters", self.source.score_letters, questions, prompt_format, asking)

    def score_texts(
        self,
        stage: str,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
        *,
        list_options: bool = False,
    ) -> list[OptionScores | None]:
        """Return the log-probabilities of each question's options' texts."""
        return self._scores(
            f"texts, options listed: {list_options}",
            self.source.score_texts,
            questions,
            prompt_format,
            asking,
            list_options=list_options,
        )

    def _scores(
        self,
        kind: str,
        score: Any,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
        **options: Any,
    ) -> list[OptionScores | None]:
        keys = [_key(self.identity, kind, question, prompt_format) for question in questions]
        missing = list({key: row for row, key in enumerate(keys) if key not in self.known}.values())
        size = CHUNK * asking.largest_batch
        for start in range(0, len(missing), size):
            rows = missing[start : start + size]
            found = score(
                "scores", [questions[row] for row in rows], prompt_format, Asking(asking.batch_size), **options
            )
            with self.file.open("a", encoding="utf-8") as lines:
                for row, own in zip(rows, found, strict=True):
                    self.known[keys[row]] = own
                    lines.write(json.dumps([keys[row], own.log_probabilities, own.n_tokens]) + "\n")
        return [self.known[key] for key in keys]


def _key(identity: str, kind: str, question: Question, prompt_format: PromptFormat) -> str:
    asked = [
        identity,
        kind,
        type(prompt_format).__name__,
        prompt_format.to_dict(),
        {**asdict(question), "answer": None},
    ]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def opened(model: str, file: str | Path) -> KeptScores:
    """Return a model from a folder or the Hub, in 32-bit floating point, on a GPU if there is one."""
    import torch
    from common import source_of
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if torch.cuda.is_available():
        loaded.to("cuda")
    return KeptScores(LocalModel(loaded, AutoTokenizer.from_pretrained(model)), source_of(model), file)
