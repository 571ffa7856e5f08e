"""A reference's distributions, computed once and saved, so that a large teacher is loaded only once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..confidence import Asking, LocalModel, NonFiniteLogitsError, confidence_method
from ..confidence.encoded import Encoded, EncodedLabels, EncodedTexts, encode_letters, encode_texts
from ..confidence.forward import ABSENT
from ..confidence.methods import OptionTexts
from ..regularizers import anchor_divergence, coarse_anchor_divergence
from ..tasks import PromptFormat, Question, QuestionError, as_questions
from ..tasks.encoding import EncodedQuestion
from .calibration_arguments import check_confidence
from .reference import load_reference, reference_tokenizer, vocabularies_agree

logger = logging.getLogger(__name__)

_FORMAT = "hf_calib reference distributions, version 1"


class ReferenceMismatchError(ValueError):
    """The questions or the tokenizer differ from those that the reference was asked with."""


@dataclass(frozen=True, eq=False)
class ReferenceDistributions:
    """The reference's most probable tokens, their probabilities, and the remaining mass, for each of n questions.

    With option texts, the options take the place of the tokens, and no mass remains. With labels of several tokens,
    the options take their place too, and the remaining mass is that of any other output.

    Parameters
    ----------
    keys : tuple of str
        Digest of each question's tokens.
    token_ids : torch.Tensor of int32, shape (n, k)
        The options' tokens and the most probable others, padded with -1.
    log_probabilities : torch.Tensor of float32, shape (n, k)
        Natural logarithms, padded with -inf.
    rest : torch.Tensor of float32, shape (n,)
        Mass of all other tokens, in [0, 1]. The anchor underestimates the divergence by this mass times the divergence
        among those tokens; see `hf_calib.regularizers.coarse_anchor_divergence`.
    confidence : str, default "letters"
        What the reference's confidence was read off.
    """

    keys: tuple[str, ...]
    token_ids: torch.Tensor
    log_probabilities: torch.Tensor
    rest: torch.Tensor
    confidence: str = "letters"

    def __post_init__(self) -> None:
        object.__setattr__(self, "_rows", {key: row for row, key in enumerate(self.keys)})

    def __len__(self) -> int:
        return len(self.keys)

    def __str__(self) -> str:
        if self.confidence != "letters":
            return f"{len(self)} reference distributions over the options, confidence read by {self.confidence}"
        return (
            f"{len(self)} reference distributions of {self.token_ids.shape[1]} tokens each; the rest's mass is "
            f"{float(self.rest.mean()):.2e} on average and {float(self.rest.max()):.2e} at most, and the anchor falls "
            "short of the whole divergence by that times the divergence within the rest"
        )

    def require(self, items: Sequence[Encoded]) -> None:
        """Raise a `ReferenceMismatchError` if a question is missing."""
        missing = [item.row for item in items if _key(item) not in self._rows]  # type: ignore[attr-defined]
        if missing:
            raise ReferenceMismatchError(
                f"the reference distributions lack {len(missing)} of {len(items)} questions (the first is row "
                f"{missing[0]}, counted from 0), because they were computed on other questions, with another "
                f"prompt or tokenizer, or with confidence read in another way (theirs: {self.confidence}); recompute "
                "them with hf_calib.reference_distributions"
            )

    def divergence(self, policy_logits: torch.Tensor, items: Sequence[Encoded]) -> torch.Tensor:
        """Return the anchor's divergence for each question, float32, shape (B,).

        Parameters
        ----------
        policy_logits : torch.Tensor, shape (B, V), (B, K) with option texts or (B, K + 1) with labels
            The policy's `hf_calib.confidence.forward.answer_scores` for the same questions.
        items : sequence of EncodedQuestion or of EncodedTexts
            The B questions.
        """
        rows = torch.tensor([self._rows[_key(item)] for item in items])  # type: ignore[attr-defined]
        device = policy_logits.device
        if self.confidence != "letters":
            reference = self.log_probabilities[rows, : policy_logits.shape[1]].clamp(min=ABSENT)
            return anchor_divergence(policy_logits, reference.to(device))
        return coarse_anchor_divergence(
            policy_logits,
            self.token_ids[rows].long().to(device),
            self.log_probabilities[rows].to(device),
            self.rest[rows].log().to(device),
        )

    def save(self, path: str | Path) -> None:
        """Write the distributions to a safetensors file."""
        from safetensors.torch import save_file

        tensors = {name: getattr(self, name).contiguous() for name in ("token_ids", "log_probabilities", "rest")}
        metadata = {"format": _FORMAT, "keys": json.dumps(self.keys), "confidence": self.confidence}
        save_file(tensors, str(path), metadata=metadata)

    @classmethod
    def load(cls, path: str | Path) -> ReferenceDistributions:
        """Read a file that `save` wrote.

        Raises
        ------
        ReferenceMismatchError
            If the file holds something else.
        """
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ReferenceMismatchError(
                    f"{path} does not hold reference distributions; make them with hf_calib.reference_distributions"
                )
            tensors = {name: file.get_tensor(name) for name in ("token_ids", "log_probabilities", "rest")}
        confidence = metadata.get("confidence", "letters")
        return cls(tuple(json.loads(metadata["keys"])), **tensors, confidence=confidence)


def reference_distributions(
    model: nn.Module,
    tokenizer: Any,
    questions: Any,
    *,
    top_k: int = 256,
    student_tokenizer: Any = None,
    match_options: bool = False,
    confidence: str = "letters",
    prompt_format: PromptFormat | None = None,
    batch_size: int = 16,
) -> ReferenceDistributions:
    """Return a reference model's distributions, for any number of runs that are anchored to it.

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model, the teacher.
    tokenizer : transformers.PreTrainedTokenizerBase
        The teacher's.
    questions : dataset, list of rows, str or Path
        In any layout of `hf_calib.tasks.as_questions`, with or without answers.
    top_k : int, default 256
        Number of tokens to keep in addition to the options'.
    student_tokenizer : transformers.PreTrainedTokenizerBase, optional
        Tokenizer of the model to be trained, if it differs.
    match_options : bool, default False
        If the vocabularies differ, keep only the options' probabilities, whose tokens can be matched; the anchor then
        preserves these and the remaining mass. Option texts need no matching.
    confidence : str, default "letters"
        What confidence is read off; see `calibration_confidence` of the trainers.
    prompt_format : PromptFormat, optional
    batch_size : int, default 16

    Raises
    ------
    ReferenceMismatchError
        If the vocabularies differ and `match_options` is false.
    QuestionError
        As `hf_calib.tasks.encode_questions`, for example if an option is not a single token in one of the
        vocabularies.
    NonFiniteLogitsError
        If the model's logits are not finite.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    check_confidence(confidence, "confidence")
    asked = as_questions(questions)
    student = student_tokenizer if student_tokenizer is not None else tokenizer
    method = confidence_method(confidence)
    chosen_format = prompt_format or PromptFormat()
    if isinstance(method, OptionTexts):
        texts = encode_texts(asked, student, method, chosen_format)
        return _over_options(model, tokenizer, asked, texts, confidence, chosen_format, batch_size)
    same = student is tokenizer or student.get_vocab() == tokenizer.get_vocab()
    if not same and not match_options:
        raise ReferenceMismatchError(
            "the reference has another vocabulary than the model to be trained, and next-token distributions cannot "
            "be compared; take a reference of the same family, or pass match_options=True to compare the options' "
            "probabilities alone"
        )
    source = LocalModel(model, tokenizer)
    theirs = encode_letters(asked, tokenizer, chosen_format, max_length=source.encoder.max_length)
    ours = theirs if same else encode_letters(asked, student, chosen_format)
    if isinstance(theirs[0], EncodedLabels) or isinstance(ours[0], EncodedLabels):
        return _over_options(model, tokenizer, asked, ours, confidence, chosen_format, batch_size)
    width = max(len(item.option_ids) for item in ours) + (top_k if same else 0)
    token_ids = torch.full((len(ours), width), -1, dtype=torch.int32)
    log_probabilities = torch.full((len(ours), width), -torch.inf)
    rest = torch.zeros(len(ours))

    def keep(items: Sequence[EncodedQuestion], prefix: int) -> list[None]:
        logits = source.forward.read([item.input_ids for item in items], prefix=prefix).logits
        for item, values in zip(items, logits.double().log_softmax(dim=-1).cpu(), strict=True):
            row = item.row
            if not bool(torch.isfinite(values).all()):
                raise NonFiniteLogitsError(
                    f"the reference's logits at the answer of row {row}, counted from 0, are not finite"
                )
            kept = torch.tensor(item.option_ids)
            if same:
                others = values.clone().index_fill_(0, kept, -torch.inf)
                kept = torch.cat([kept, others.topk(min(top_k, len(others) - len(kept))).indices])
            names = kept if same else torch.tensor(ours[row].option_ids)
            token_ids[row, : len(names)] = names.int()
            log_probabilities[row, : len(names)] = values[kept].float()
            # One minus the sum would lose a small remainder to rounding.
            values[kept] = -torch.inf
            rest[row] = values.exp().sum().float()
        return [None] * len(items)

    source.run("reference", theirs, Asking(batch_size), keep)
    return ReferenceDistributions(tuple(_key(item) for item in ours), token_ids, log_probabilities, rest)


def _over_options(
    model: nn.Module,
    tokenizer: Any,
    questions: Sequence[Question],
    items: Sequence[Encoded],
    confidence: str,
    prompt_format: PromptFormat,
    batch_size: int,
) -> ReferenceDistributions:
    """Return a reference's distributions over the options; `items` are the questions encoded for the student."""
    method = confidence_method(confidence)
    found = method.predict(LocalModel(model, tokenizer), questions, prompt_format, Asking(batch_size))
    values, rest = torch.from_numpy(found.option_log_probabilities), torch.zeros(len(items))
    if isinstance(method, OptionTexts):
        values = values.log_softmax(dim=-1)
    else:
        rest = (1 - values.exp().sum(dim=-1)).clamp(min=0).float()
    token_ids = torch.full(values.shape, -1, dtype=torch.int32)
    for row, item in enumerate(items):
        names = range(len(item.options)) if isinstance(item, EncodedTexts) else item.option_ids
        token_ids[row, : len(names)] = torch.tensor(names, dtype=torch.int32)
    return ReferenceDistributions(tuple(map(_key, items)), token_ids, values.float(), rest, confidence)


def read_distributions(reference: Any) -> ReferenceDistributions | None:
    """Return the distributions if `calibration_reference_model` is or names them, or None if it is a model."""
    if isinstance(reference, ReferenceDistributions):
        return reference
    if isinstance(reference, str | Path) and Path(reference).suffix == ".safetensors":
        return ReferenceDistributions.load(reference)
    return None


def matched_distributions(
    trainer: Any, name: Any, questions: Sequence[Question], tokenizer: Any, confidence: str = "letters"
) -> ReferenceDistributions | None:
    """Ask a reference that is given by name and has a different tokenizer, by matching the options' tokens.

    With option texts, which need no matching, the questions' tokens are compared.

    Returns None if it is not a name, or has the same tokens as the trained model.

    Raises
    ------
    ReferenceMismatchError
        If the options cannot be matched, or weights are sharded.
    """
    theirs, ours = reference_tokenizer(trainer, name), tokenizer
    if theirs is None or _agree(ours, theirs, questions, trainer.prompt_format, confidence):
        return None
    how = "match_options=True" if confidence == "letters" else f'confidence="{confidence}"'
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled:
        raise ReferenceMismatchError(
            f"{name} has another tokenizer than the model that is trained; under DeepSpeed and FSDP ask it "
            "beforehand, in one process: hf_calib.reference_distributions(reference, its_tokenizer, questions, "
            f'student_tokenizer=tokenizer, {how}).save("reference.safetensors"), and give that file as '
            "calibration_reference_model"
        )
    model = load_reference(trainer, name).to(trainer.accelerator.device)
    try:
        found = reference_distributions(
            model, theirs, questions, student_tokenizer=ours, match_options=True, confidence=confidence,
            prompt_format=trainer.prompt_format,
        )  # fmt: skip
    except QuestionError as error:
        raise ReferenceMismatchError(
            f"{name} has another tokenizer than the model that is trained, and its tokens for the options cannot be "
            f"matched: {error}. Take a reference of the same family"
        ) from error
    if confidence != "letters":
        return found  # nothing is left out: the anchor only covers the options
    logger.warning(
        "%s has another tokenizer than the model that is trained: the anchor keeps to its probabilities of the "
        "options and to the mass of all else",
        name,
    )
    return found


def _agree(
    ours: Any, theirs: Any, questions: Sequence[Question], prompt_format: PromptFormat, confidence: str
) -> bool:
    """Return whether two models may be compared token by token."""
    method = confidence_method(confidence)
    if not isinstance(method, OptionTexts):
        return vocabularies_agree(ours, theirs)
    return encode_texts(questions, ours, method, prompt_format) == encode_texts(
        questions, theirs, method, prompt_format
    )


def _key(item: Encoded) -> str:
    named = [item.options, item.divisors] if isinstance(item, EncodedTexts) else [item.option_ids]
    return hashlib.sha256(json.dumps([item.input_ids, *named]).encode()).hexdigest()[:32]
