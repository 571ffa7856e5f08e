"""Keep self-evaluation questions up to date with the model in training."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..confidence import Asking, LocalModel
from ..evaluation.graded_answers import Sampling, SelfEvaluationQuestions
from ..evaluation.self_evaluation import answered_and_graded
from ..tasks.drawing import QuestionList
from ..tasks.free_form import Matcher, as_free_form_questions
from .calibration_callback import calling_trainer
from .mixin import CalibrationMixin

logger = logging.getLogger(__name__)

_FILE = "self_evaluation.parquet"


class SelfEvaluationCallback(TrainerCallback):
    """Lets the model answer its questions again at regular steps, and trains on the new graded answers.

    The questions, the sampling and the matcher are those of the first answers, but samples are drawn anew. Checkpoints
    hold the current answers, so a resumed run continues with them.

    Parameters
    ----------
    questions : SelfEvaluationQuestions
        The trainer's `calibration_dataset`.
    every : int
        Optimizer steps between two refreshes.
    asked : path or iterable of FreeFormQuestion, optional
        The questions to answer; by default those that `questions` answer.
    matcher : callable, optional
        Needed if `questions` were graded by a custom matcher, since they hold only its name.
    batch_size : int, optional
        Questions per device; by default the trainer's `per_device_eval_batch_size`.

    Attributes
    ----------
    questions : SelfEvaluationQuestions
        The current questions; their provenance has the "step" at which they were answered.

    Raises
    ------
    TypeError
        If `questions` are not `SelfEvaluationQuestions`.
    ValueError
        If `every` is not a whole number of at least 1, or the matcher is unknown; when training starts, if the trainer
        has no calibration questions or another number of them.

    Examples
    --------
    >>> graded = self_evaluation_questions(model, tokenizer, "triviaqa.jsonl")  # doctest: +SKIP
    >>> refresh = SelfEvaluationCallback(graded, every=50)  # doctest: +SKIP
    >>> trainer = CalibrationAwareTrainer(  # doctest: +SKIP
    ...     model, train_dataset=pairs, calibration_dataset=graded, callbacks=[refresh]
    ... )
    """

    def __init__(
        self,
        questions: SelfEvaluationQuestions,
        every: int,
        *,
        asked: Any = None,
        matcher: str | Matcher | None = None,
        batch_size: int | None = None,
    ) -> None:
        if not isinstance(questions, SelfEvaluationQuestions):
            raise TypeError(
                f"questions: expected SelfEvaluationQuestions, got {type(questions).__name__}; make them with "
                "self_evaluation_questions, or read them with SelfEvaluationQuestions.load"
            )
        if not isinstance(every, int | np.integer) or every < 1:
            raise ValueError(f"every: must be an integer of at least 1, in optimizer steps, got {every!r}")
        self.questions = self._initial = questions
        self.every = int(every)
        self.sampling = Sampling.from_dict(questions.provenance, matcher)
        answered = {answer.row: answer.question for answer in questions.answers}
        own = QuestionList([answered[row] for row in sorted(answered)], source=questions.source)
        self.asked = as_free_form_questions(own if asked is None else asked)
        self.batch_size = batch_size
        self.trainer: Any = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Find the trainer, and continue with a checkpoint's answers if a run is resumed."""
        self.trainer = calling_trainer(self)
        if not isinstance(self.trainer, CalibrationMixin):
            raise ValueError(
                f"callbacks: {type(self.trainer).__name__} has no calibration questions that SelfEvaluationCallback "
                "could refresh; use a calibration-aware trainer with the answers as calibration_dataset"
            )
        run = self.trainer.calibration_run
        if run.questions and len(run.questions) != len(self._initial):
            raise ValueError(
                f"questions: the trainer has {len(run.questions)} calibration questions, but SelfEvaluationCallback "
                f"has {len(self._initial)}; a refresh replaces all of them, so pass the same questions as "
                "calibration_dataset"
            )
        if self.trainer.has_precomputed_reference:
            raise ValueError(
                "calibration_reference_model: its distributions were computed beforehand, for the first answers only, "
                "so the answers cannot be refreshed; pass a reference model with the same tokenizer, or leave it out "
                "and set anchor_weight=0"
            )
        current = self._initial  # the callback may have been used in another run
        if state.global_step > 0 and run.resumed_from is not None:
            if (run.resumed_from / _FILE).exists():
                current = SelfEvaluationQuestions.load(run.resumed_from / _FILE)
            else:
                logger.warning("%s has no %s; training continues with the initial answers", run.resumed_from, _FILE)
        # At once, so that a trainer that cannot take new questions raises its error before training.
        self._take(current)

    def on_step_end(self, args, state, control, **kwargs):
        """Answer and grade anew if it is due."""
        if state.global_step % self.every == 0 and state.global_step < state.max_steps:
            self._take(self.answer(state.global_step))

    def on_save(self, args, state, control, **kwargs):
        """Keep the current answers in the checkpoint."""
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        if state.is_world_process_zero and folder.is_dir():
            self.questions.save(folder / _FILE)

    def answer(self, step: int) -> SelfEvaluationQuestions:
        """Return the current model's graded answers, the same on every process."""
        trainer = self.trainer
        accelerator = trainer.accelerator
        tokenizer = getattr(trainer.processing_class, "tokenizer", trainer.processing_class)
        backend = LocalModel(
            trainer.model_to_ask(), tokenizer, device=accelerator.device, in_step=accelerator.num_processes > 1
        )
        asking = Asking(
            self.batch_size or trainer.args.per_device_eval_batch_size,
            progress=not trainer.args.disable_tqdm,
            process_index=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
        sampling = replace(self.sampling, seed=self.sampling.seed + step)
        with accelerator.autocast():
            return answered_and_graded(
                backend, self.asked, sampling, asking, self.questions.provenance["model"], step=step
            )

    def _take(self, questions: SelfEvaluationQuestions) -> None:
        self.questions = questions
        self.trainer.replace_calibration_questions(questions)
