"""The supervised loss on answers: of letters, with logits at one position per question, or of option texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers.modeling_outputs import CausalLMOutput

from ..confidence.cached import exact_collator
from ..confidence.encoded import Encoded, EncodedLabels, EncodedTexts
from ..confidence.forward import answer_logits, answer_scores
from ..confidence.packing import TextCollator
from ..regularizers import answer_loss
from ..tasks.collator import QuestionBatch, QuestionCollator
from ..tasks.encoding import EncodedQuestion
from .trl_compatibility import log_supervised_metrics

if TYPE_CHECKING:
    Base: Any  # trl.SFTTrainer, which the mixin extends
else:
    Base = object


class AnswerLossMixin(Base):
    """Computes an SFT trainer's loss on questions: of letters from the logits at one position per question.

    TRL's own loss skips the logits of unlabeled positions on GPUs but not on CPUs. The loss and the logged metrics
    are the same to rounding. With option texts or labels, and with distributions as answers, the loss is the
    cross-entropy over the options. For any other loss or data, the trainer's own computation is used.
    """

    _padding_side: str | None = None  # of the prompts, once it is known
    _answers_only = False  # whether the training data are questions with labels on the answer's token only
    # The training questions, if their options have several tokens or their answers are distributions.
    _option_items: Sequence[Encoded] = ()

    @cached_property
    def _option_collators(self) -> dict[type, TextCollator | QuestionCollator]:
        """The collator of each kind of question."""
        return {}

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean log-loss of the answers, or their sum over `num_items_in_batch`."""
        if "encoded" in inputs:
            return self._loss_over_options(model, inputs["encoded"], return_outputs, num_items_in_batch)
        batch = _batch_of(inputs) if self._answers_only and not return_outputs and self._is_plain() else None
        if batch is None:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        if self._padding_side is None:
            self._padding_side = _harmless_side(model, batch)
        if self._padding_side == "right":
            batch = batch.padded_right()
        logits = answer_logits(model, batch)
        losses = answer_loss(logits, batch)
        self._log_answers(logits.detach(), batch, inputs["attention_mask"])
        return self._mean(losses, num_items_in_batch)

    def _mean(self, losses: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        if num_items_in_batch is None:
            return losses.mean()
        loss = losses.sum() / torch.as_tensor(num_items_in_batch)
        # The count covers all processes, while distributed training averages the gradients.
        return loss * self.accelerator.num_processes if self.args.average_tokens_across_devices else loss

    def _loss_over_options(
        self, model: Any, items: Sequence[Encoded], return_outputs: bool, num_items_in_batch: Any
    ) -> Any:
        device, kind = self.accelerator.device, type(items[0])
        if kind not in self._option_collators:
            alike = [item for item in (*self._option_items, *items) if type(item) is kind]
            collator = self._questions.collator_of(alike)
            self._option_collators[kind] = exact_collator([model], alike, collator, device)
        batch = self._option_collators[kind](items).to(device)  # type: ignore[arg-type]  # items of its kind
        scores = answer_scores(model, batch)
        loss = self._mean(answer_loss(scores, batch), num_items_in_batch)
        options = scores.detach().gather(-1, batch.option_ids).masked_fill(~batch.option_mask, -torch.inf)
        right = (options.argmax(dim=-1) == batch.answers).double()
        n_right, n = self.accelerator.gather_for_metrics(
            torch.stack([right.sum(), torch.ones_like(right).sum()])[None]
        ).sum(dim=0).tolist()  # fmt: skip
        n_tokens = torch.tensor(sum(map(_n_tokens, items)), device=device)
        log_supervised_metrics(self, {"option_accuracy": n_right / n}, n_tokens, n_labels=int(n))
        return (loss, CausalLMOutput(loss=loss, logits=scores)) if return_outputs else loss

    def _is_plain(self) -> bool:
        """Return whether the configured loss is the plain log-loss."""
        args = self.args
        return (
            getattr(args, "loss_type", None) in (None, "nll", "chunked_nll")
            and self.label_smoother is None
            and self.compute_loss_func is None
            and not self.aux_loss_enabled
            and not args.use_liger_kernel
            and args.n_gpu <= 1
            and getattr(self.accelerator, "parallelism_config", None) is None
        )

    def _log_answers(self, logits: torch.Tensor, batch: QuestionBatch, attention_mask: torch.Tensor) -> None:
        """Add the metrics that TRL logs with its loss."""
        log_probabilities = logits.log_softmax(dim=-1)
        entropy = -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
        right = logits.argmax(dim=-1) == batch.option_ids[:, 0]
        sums = torch.stack([entropy.sum(), right.sum(), attention_mask.new_tensor(len(batch))]).double()
        entropy_sum, n_right, n = self.accelerator.gather_for_metrics(sums[None]).sum(dim=0).tolist()
        metrics = {"entropy": entropy_sum / n, "mean_token_accuracy": n_right / n}
        log_supervised_metrics(self, metrics, attention_mask.sum())


def _encoded_texts(kind: type[EncodedTexts], fields: dict[str, Any]) -> EncodedTexts:
    return kind(
        row=fields["row"],
        input_ids=tuple(fields["input_ids"]),
        options=tuple(map(tuple, fields["options"])),
        divisors=tuple(fields["divisors"]),
        answer=fields["answer"],
        target=_target(fields),
    )


def _encoded_question(fields: dict[str, Any]) -> EncodedQuestion:
    return EncodedQuestion(
        tuple(fields["input_ids"]), tuple(fields["option_ids"]), fields["answer"], fields["row"], _target(fields)
    )


def has_options(dataset: Any) -> bool:
    """Return whether a dataset, or one in a mapping of datasets, has rows that `OptionRowCollator` collates."""
    if isinstance(dataset, Mapping):
        return any(map(has_options, dataset.values()))
    return not OptionRowCollator.READERS.keys().isdisjoint(getattr(dataset, "column_names", None) or ())


class OptionRowCollator:
    """Collates rows of `QuestionPreparation.supervised_rows` that have options, and leaves others to `collator`."""

    READERS: ClassVar[dict[str, Callable[[dict[str, Any]], Encoded]]] = {
        "encoded_texts": partial(_encoded_texts, EncodedTexts),
        "encoded_labels": partial(_encoded_texts, EncodedLabels),
        "encoded_question": _encoded_question,
    }

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return a batch."""
        column = next((name for name in self.READERS if name in rows[0]), None)
        if column is None:
            return self.collator(rows)
        items = [self.READERS[column](row[column]) for row in rows]
        # One item per question for transformers to count; it skips the first column, as in labels that are shifted.
        return {"labels": torch.tensor([[-100, item.answer] for item in items]), "encoded": items}


def _target(fields: dict[str, Any]) -> tuple[float, ...] | None:
    return None if fields["target"] is None else tuple(fields["target"])


def _n_tokens(item: Encoded) -> int:
    return len(item.input_ids) + (sum(map(len, item.options)) if isinstance(item, EncodedTexts) else 1)


def _harmless_side(model: Any, batch: QuestionBatch) -> str:
    """Return the side on which the prompts can be padded without changing the model's output."""
    row = int(batch.attention_mask.sum(dim=1).argmax())
    ids = batch.input_ids[row][batch.attention_mask[row].bool()].tolist()
    item = EncodedQuestion(tuple(ids), tuple(batch.option_ids[row].tolist()), 0, row)
    return exact_collator([model], [item], QuestionCollator(ids[0]), batch.input_ids.device).padding_side


def _batch_of(inputs: dict[str, torch.Tensor]) -> QuestionBatch | None:
    """Return the prompts, padded on the left, with the labeled token as the only option; None for other samples."""
    mask, labels = inputs.get("attention_mask"), inputs.get("labels")
    if mask is None or labels is None or labels.shape != mask.shape:
        return None
    ids, length = inputs["input_ids"], mask.shape[1]
    sizes, start = mask.sum(dim=1), mask.argmax(dim=1)
    last = start + sizes - 1
    labeled = labels != -100
    if not bool(((labeled.sum(dim=1) == 1) & labeled.gather(1, last[:, None])[:, 0]).all()):
        return None
    # The last token is the answer; nothing is predicted from it.
    columns = torch.arange(length - 1, device=ids.device)
    columns = (columns + (start + sizes - length)[:, None]) % length
    targets = labels.gather(1, last[:, None])
    return QuestionBatch(
        input_ids=ids.gather(1, columns),
        attention_mask=mask.gather(1, columns),
        answer_positions=torch.full_like(last, length - 2),
        option_ids=targets,
        option_mask=torch.ones_like(targets, dtype=torch.bool),
        answers=torch.zeros_like(last),
    )
