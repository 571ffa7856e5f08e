"""What a calibration-aware trainer adds to the loss, independent of any trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from ..calibrators.differentiable_ece import differentiable_ece
from ..confidence.cached import exact_collator
from ..confidence.encoded import Encoded
from ..confidence.forward import NonFiniteLogitsError, answer_scores, evaluating, option_log_probabilities
from ..confidence.packing import Batch, TextCollator
from ..confidence.stated_levels import StatedLevels
from ..measures import BinStatistics
from ..regularizers import (
    BinTargets,
    anchor_divergence,
    answer_loss,
    brier_loss,
    em_loss,
    expected_brier_loss,
)
from ..tasks.collator import QuestionCollator
from .calibration_arguments import CalibrationArguments
from .reference_distributions import ReferenceDistributions
from .regime_watch import RegimeWatch

logger = logging.getLogger(__name__)


@dataclass
class RunningValues:
    """The terms since the last log: sums of each term, numbers of steps, and the questions' bins."""

    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    answered_steps: int = 0
    statistics: BinStatistics = field(default_factory=BinStatistics)

    def add(self, name: str, value: float) -> None:
        """Add a share of a term's value; the shares of one step sum to its mean over questions."""
        self.sums[name] = self.sums.get(name, 0.0) + value

    def steps_of(self, name: str) -> int:
        """Return the number of steps with a question that a term acts on."""
        return self.steps if name in ("anchor", "loss") else self.answered_steps


class CalibrationTerm:
    """The calibration terms of the loss on a stream of multiple-choice questions.

    Parameters
    ----------
    questions : sequence of EncodedQuestion or of EncodedTexts
        The training questions, all of one kind, with or without answers.
    held_out : sequence of EncodedQuestion or of EncodedTexts
        Answered questions for the E-step; may be empty if the EM term has no weight.
    arguments : CalibrationArguments
        Its `calibration_batch_size` and `em_batch_size` are set.
    seed : int
        Seed of the questions' order.
    collator_of : callable
        Maps questions of one kind to their collator. `exact_collator` replaces the collator's layout by one that does
        not change the model's output.
    accelerator : accelerate.Accelerator
    reference_logits : callable or None
        Maps a batch to the reference's `answer_scores`; needed if the anchor has a weight.
    reference_distributions : ReferenceDistributions, optional
        Computed beforehand; used instead of `reference_logits`.
    reference_model : torch.nn.Module, optional
        The reference, if it is a separate model.
    """

    def __init__(
        self,
        questions: Sequence[Any],
        held_out: Sequence[Any],
        arguments: CalibrationArguments,
        seed: int,
        collator_of: Callable[[Sequence[Any]], QuestionCollator | TextCollator],
        accelerator: Accelerator,
        reference_logits: Callable[[Batch], torch.Tensor] | None,
        reference_distributions: ReferenceDistributions | None = None,
        reference_model: nn.Module | None = None,
    ) -> None:
        self.arguments = arguments
        self.collator_of = collator_of
        self.accelerator = accelerator
        self.reference_logits = reference_logits
        self.reference_distributions = reference_distributions
        self.reference_model = reference_model
        self.targets = BinTargets(arguments.em_bins, arguments.em_momentum)
        # With method="auto" the EM term acts once the model begins to memorize.
        self.watch = RegimeWatch(arguments.em_momentum) if getattr(arguments, "method", None) == "auto" else None
        self.running = RunningValues()
        self._accumulation = (-1, 0)
        self.acted = True
        self._seed = seed
        self.replace_questions(questions, held_out)

    def replace_questions(self, questions: Sequence[Any], held_out: Sequence[Any]) -> None:
        """Take other questions from the next step on; parameters as in the class.

        Raises
        ------
        ValueError
            If `reference_distributions` hold nothing for one of the questions.
        """
        if self.reference_distributions is not None:
            self.reference_distributions.require(questions)
        self.questions, self.held_out = questions, held_out
        self._collators: dict[type, QuestionCollator | TextCollator] = {}
        arguments, processes, seed = self.arguments, self.accelerator.num_processes, self._seed
        assert arguments.calibration_batch_size is not None
        assert arguments.em_batch_size is not None
        self.stream = QuestionStream(len(questions), arguments.calibration_batch_size * processes, seed)
        if held_out:
            self.held_out_stream = QuestionStream(len(held_out), arguments.em_batch_size * processes, seed + 1)
        if self.watch is not None:
            self.answered = [item for item in questions if item.answer >= 0]
            self.trained_stream = QuestionStream(len(self.answered), arguments.em_batch_size * processes, seed + 2)

    @property
    def collator(self) -> Any:
        """The collator of the training questions."""
        return self._collators.get(type(self.questions[0])) or self.collator_of(self.questions)

    def begin_step(self) -> None:
        """Start counting the parts of gradient accumulation."""
        self._accumulation = (-1, 0)
        self.acted = False

    def next_loss(self, model: nn.Module, step: int, num_parts: int) -> torch.Tensor | None:
        """Return `loss` for the next part of the step."""
        part = self._accumulation[1] + 1 if self._accumulation[0] == step else 0
        self._accumulation = (step, part)
        return self.loss(model, step, part, num_parts)

    def loss(self, model: nn.Module, step: int, part: int, num_parts: int) -> torch.Tensor | None:
        """Return this process's share of the weighted terms for one part of an optimizer step.

        The shares of all parts sum to the terms' means over the step's questions, averaged over processes as
        distributed training averages gradients, so neither accumulation nor the number of processes changes the
        update.

        Parameters
        ----------
        model : torch.nn.Module
            Wrapped, as the trainer passes it to `compute_loss`.
        step : int
            Number of the optimizer step, from 0.
        part, num_parts : int
            Which part of gradient accumulation this is, from 0.

        Returns
        -------
        torch.Tensor of float32, shape (), or None if this part has no question.

        Raises
        ------
        NonFiniteLogitsError
            If the model's or the reference's logits are not finite.
        """
        self.acted = True
        if part >= num_parts:
            return None
        indices = self.stream.global_batch(step)
        n_answered = sum(self.questions[i].answer >= 0 for i in indices)
        if part == 0:
            self.running.steps += 1
            self.running.answered_steps += n_answered > 0
            number, between = divmod(step, self.arguments.em_steps)
            if self.held_out and between == 0:
                self.expectation_step(model, number)
        processes = self.accelerator.num_processes
        share = local_slice(indices, self.accelerator.process_index, processes, part, num_parts)
        if len(share) == 0:
            return None
        items = [self.questions[i] for i in share]
        batch = self._batch(model, items)
        per_question = self._terms(model, batch, step, items)
        # A process's loss has the weight 1/processes in the averaged gradient.
        divisors = {"anchor": len(indices) / processes, "supervised": n_answered / processes}
        divisors["em"] = divisors["dece"] = divisors["brier"] = divisors["supervised"]
        total = torch.zeros((), device=self.accelerator.device)
        for name, values in per_question.items():
            term = values.sum() / max(divisors[name], 1e-12)
            total = total + self._weight(name) * term
            self.running.add(name, float(term.detach()))
        self.running.add("loss", float(total.detach()))
        return total

    def _weight(self, name: str) -> float:
        if name == "em" and self.watch is not None and not self.watch.memorizing:
            return 0.0
        return getattr(self.arguments, f"{name}_weight")

    def _terms(self, model: nn.Module, batch: Batch, step: int, items: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Return the terms that have a weight, each with one value per question."""
        arguments = self.arguments
        answered = batch.answers >= 0
        logits = answer_scores(model, batch)
        rows = [item.row for item in items]
        self._check_finite(logits, "the model", step, rows)
        terms: dict[str, torch.Tensor] = {}
        if arguments.anchor_weight > 0 and self.reference_distributions is not None:
            terms["anchor"] = self.reference_distributions.divergence(logits, items)
        elif arguments.anchor_weight > 0:
            assert self.reference_logits is not None
            reference = self.reference_logits(batch)
            self._check_finite(reference, "the reference model", step, rows)
            terms["anchor"] = anchor_divergence(logits, reference)
        if arguments.supervised_weight > 0:
            stated = arguments.calibration_confidence == StatedLevels.name
            terms["supervised"] = (expected_brier_loss if stated else answer_loss)(logits, batch)
        option_logits = logits.gather(-1, batch.option_ids).masked_fill(~batch.option_mask, -torch.inf)
        probabilities = torch.softmax(option_logits, dim=-1)
        if arguments.brier_weight > 0:
            terms["brier"] = brier_loss(probabilities, batch)
        if arguments.em_weight > 0:
            em = em_loss(probabilities, batch.option_mask, self.targets, arguments.em_sharing)
            terms["em"] = torch.where(answered, em, torch.zeros_like(em))
        if arguments.dece_weight > 0:
            # One number for all answered questions, repeated for each so that their mean equals it.
            error = differentiable_ece(option_logits[answered], batch.answers[answered]) if answered.any() else 0.0
            terms["dece"] = torch.where(answered, error, torch.zeros_like(logits[:, 0]))
        self._record(probabilities.detach(), batch, answered)
        return terms

    def _record(self, probabilities: torch.Tensor, batch: Batch, answered: torch.Tensor) -> None:
        if self.arguments.calibration_confidence == StatedLevels.name:
            last = probabilities.shape[-1] - 1
            confidences = probabilities @ torch.linspace(0, 1, last + 1, device=probabilities.device)
            right = batch.answers == last
        else:
            confidences, predicted = probabilities.max(dim=-1)
            right = predicted == batch.answers
        if bool(answered.any()):
            correct = right[answered]
            self.running.statistics.update(
                confidences[answered].double().cpu().numpy(), correct.cpu().numpy().astype(float)
            )

    @torch.no_grad()
    def expectation_step(self, model: nn.Module, number: int) -> None:
        """Refresh the bins' targets with the next batch of held-out questions, the same on every process."""
        step = number * self.arguments.em_steps
        pairs = self._scored(model, self.held_out, self.held_out_stream.global_batch(number), step)
        everyone = self._of_everyone(pairs)
        if everyone:
            self.targets.update(*(torch.from_numpy(np.concatenate(part)) for part in zip(*everyone, strict=True)))
        # Until the first pass ends, some of these were not trained on yet, which makes the gap too small.
        if self.watch is None:
            return
        trained = self._scored(model, self.answered, self.trained_stream.global_batch(number), step)
        trained_right, held_out_right = (
            torch.from_numpy(np.concatenate([right for _, right in self._of_everyone(part)]))
            for part in (trained, pairs)
        )
        if self.watch.update(trained_right, held_out_right):
            gap, low, high = self.watch.gap()
            logger.warning(
                "step %d: the model does better on the questions it is trained on than on held-out ones, by %.3f "
                "[%.3f, %.3f]; it has begun to memorize (the non-calibratable regime), and the ECE regularizer is "
                "turned on with the weight %g",
                step, gap, low, high, self.arguments.em_weight,
            )  # fmt: skip

    def _scored(
        self, model: nn.Module, questions: Sequence[Encoded], indices: np.ndarray, step: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the confidences of this process's share of the questions, and which answers were right."""
        share = local_slice(indices, self.accelerator.process_index, self.accelerator.num_processes, 0, 1)
        items = [questions[i] for i in share]
        batch = self._batch(model, items)
        with evaluating(model):
            logits = answer_scores(model, batch)
        self._check_finite(logits, "the model", step, [item.row for item in items])
        probabilities = torch.softmax(option_log_probabilities(logits, batch), dim=-1)
        confidences, predicted = probabilities.max(dim=-1)
        return [(confidences.double().cpu().numpy(), (predicted == batch.answers).cpu().numpy())]

    def _batch(self, model: nn.Module, items: Sequence[Any]) -> Batch:
        device, kind = self.accelerator.device, type(items[0])
        if kind not in self._collators:
            models = [model] if self.reference_model is None else [model, self.reference_model]
            alike = [item for item in (*self.questions, *self.held_out) if type(item) is kind]
            self._collators[kind] = exact_collator(models, alike, self.collator_of(alike), device)
        return self._collators[kind](items).to(device)  # type: ignore[arg-type]  # items of its kind

    def _of_everyone(self, pairs: list[tuple[np.ndarray, np.ndarray]]) -> list[tuple[np.ndarray, np.ndarray]]:
        # Gathered as float64 objects rather than padded tensors: exact, and in the processes' order.
        return gather_object(pairs) if self.accelerator.num_processes > 1 else pairs

    def pop_logs(self) -> dict[str, float]:
        """Return the terms' means since the last call, over all processes, and reset them.

        Terms that need answers are averaged over the steps that had any.
        """
        running, self.running = self.running, RunningValues()
        if self.accelerator.num_processes > 1:
            everyone: list[RunningValues] = gather_object([running])
            names = running.sums.keys()
            sums = {name: sum(other.sums[name] for other in everyone) / len(everyone) for name in names}
            statistics = BinStatistics()
            for other in everyone:
                statistics = statistics.merge(other.statistics)
        else:
            sums, statistics = running.sums, running.statistics
        if running.steps == 0:
            return {}
        steps = {name: running.steps_of(name) for name in sums}
        logs = {f"calibration/{name}": value / steps[name] for name, value in sums.items() if steps[name]}
        if self.watch is not None:
            logs["calibration/generalization_gap"] = self.watch.gap()[0]
            logs["calibration/memorizing"] = float(self.watch.memorizing)
        if statistics.n > 0:
            logs["calibration/accuracy"] = float(statistics.correct_sums.sum()) / statistics.n
            logs["calibration/confidence"] = float(statistics.confidence_sums.sum()) / statistics.n
            logs["calibration/ece"] = statistics.error()
        return logs

    def state_dict(self) -> dict:
        """Return what a resumed run needs; the questions' order follows from the step number."""
        state: dict = {"targets": self.targets.state_dict()}
        if self.watch is not None:
            state["watch"] = self.watch.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        """Restore what `state_dict` returned."""
        self.targets.load_state_dict(state["targets"])
        if self.watch is not None and "watch" in state:
            self.watch.load_state_dict(state["watch"])

    def _check_finite(self, logits: torch.Tensor, whose: str, step: int, rows: Sequence[int]) -> None:
        finite = torch.isfinite(logits).all(dim=-1)
        if not bool(finite.all()):
            row = rows[int((~finite).nonzero()[0])]
            raise NonFiniteLogitsError(
                f"at step {step}, {whose} gave logits that are not finite at the answer of calibration question "
                f"{row}, counted from 0; training stops before the update, and the last checkpoint is untouched. "
                "Lower the learning rate or use a wider number format"
            )


class QuestionStream:
    """An endless shuffled sequence of questions, from which each step takes the next batch.

    The sequence consists of permutations of all questions, each determined by the seed and its number. A step's
    questions follow from its number, so a resumed run continues with the same questions without saved state, and they
    do not depend on the number of processes for a given global batch.

    Parameters
    ----------
    n_questions : int
    batch_size : int
        Questions for each step over all processes.
    seed : int
    """

    def __init__(self, n_questions: int, batch_size: int, seed: int) -> None:
        if n_questions < 1 or batch_size < 1:
            raise ValueError(f"a stream needs questions and a batch size, got {n_questions} and {batch_size}")
        self.n_questions = n_questions
        self.batch_size = batch_size
        self.seed = seed
        self._permutations: dict[int, np.ndarray] = {}

    def global_batch(self, step: int) -> np.ndarray:
        """Return the indices of the questions that all processes together use in a step, shape (batch_size,)."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        rounds, offsets = np.divmod(positions, self.n_questions)
        return np.array([self._permutation(int(r))[o] for r, o in zip(rounds, offsets, strict=True)])

    def _permutation(self, number: int) -> np.ndarray:
        if number not in self._permutations:
            for old in [key for key in self._permutations if key < number - 1]:
                del self._permutations[old]
            self._permutations[number] = np.random.default_rng([self.seed, number]).permutation(self.n_questions)
        return self._permutations[number]


def local_slice(indices: np.ndarray, process: int, num_processes: int, part: int, num_parts: int) -> np.ndarray:
    """Return one process's share of a global batch, for one part of gradient accumulation.

    Shares are as even as possible. With fewer questions than parts, some parts are empty, the same ones on every
    process.
    """
    share = indices[process::num_processes]
    return np.array_split(share, num_parts)[part]
