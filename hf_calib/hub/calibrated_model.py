"""A model with everything that its calibration depends on, and its answers."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..tasks import PromptFormat, Question, TypedDecisions, as_questions
from .calibration_metadata import CalibrationMetadata

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..confidence import Predictions
    from ..measures import CalibrationReport


class CalibrationWarning(UserWarning):
    """Something differs from what the model was calibrated with, so its card's figures may not hold."""


@dataclass(frozen=True)
class Answer:
    """A model's answer to one question.

    Parameters
    ----------
    letter : str
        Letter of the option with the highest probability.
    text : str
        That option.
    index : int
        Position of that option, counted from 0.
    confidence : float
        Its probability among the options, in [1/K, 1], recalibrated if the model came with a calibrator.
    probabilities : tuple of float
        All options' probabilities; they sum to 1.
    option_mass : float or None
        The options' share of the probability of the whole vocabulary, in [0, 1]. If it is far below 1, the model would
        rather say something else. None if the options' probabilities are divided by their lengths.
    """

    letter: str
    text: str
    index: int
    confidence: float
    probabilities: tuple[float, ...] = field(repr=False)
    option_mass: float | None = field(repr=False)


@dataclass
class CalibratedModel:
    """A model with everything that its calibration depends on.

    Parameters
    ----------
    model : PreTrainedModel or PeftModel
    tokenizer : PreTrainedTokenizerBase
    prompt_format : PromptFormat
        How questions are formatted.
    calibrator : object with `transform`, or None
        Turns the model's probabilities into calibrated ones.
    metadata : CalibrationMetadata or None
        What it was calibrated with; None if the repository does not say.
    name, revision : str or None
        The Hub id or folder that it was loaded from, and the commit on the Hub.
    base_revision : str or None
        The commit on the Hub of the model under an adapter.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    prompt_format: PromptFormat
    calibrator: Any = None
    metadata: CalibrationMetadata | None = None
    name: str | None = None
    revision: str | None = None
    base_revision: str | None = None

    def __repr__(self) -> str:
        name = self.name or getattr(self.model.config, "_name_or_path", "") or type(self.model).__name__
        kind = "chat" if self.prompt_format.chat else "plain"
        return f"CalibratedModel({name!r}, {kind} prompt, calibrator={self.calibrator!r})"

    @property
    def read_by(self) -> str:
        """What confidence was read off for the card's figures, a name of `hf_calib.confidence.ways()`."""
        return self.metadata.confidence if self.metadata else "letters"

    def predict(self, questions: Any, **options: Any) -> Predictions:
        """Return the model's predictions without the calibrator.

        Parameters
        ----------
        questions : anything that `hf_calib.tasks.as_questions` takes
        **options
            Of `hf_calib.predict`.
        """
        from ..confidence import predict

        questions = as_questions(questions)
        self.warn_about_option_counts(questions)
        # A calibrator that takes features was fitted on the hidden states.
        options.setdefault("hidden_states", bool(getattr(self.calibrator, "needs_features", False)))
        options.setdefault("method", self.read_by)
        return predict(self.model, self.tokenizer, questions, prompt_format=self.prompt_format, **options)

    def confidence(self, questions: Any, **options: Any) -> list[Answer]:
        """Answer questions, each with a calibrated confidence.

        Parameters
        ----------
        questions : anything that `hf_calib.tasks.as_questions` takes
            For example `[{"question": "...", "choices": ["...", "..."]}]`.
        **options
            Of `hf_calib.predict`.

        Returns
        -------
        list of Answer

        Warns
        -----
        CalibrationWarning
            If a question's number of options differs from those that the model was calibrated on.
        """
        questions = as_questions(questions)
        predictions = self._calibrated(questions, **options)
        answers = []
        masses = predictions.option_mass if predictions.has_mass else [None] * len(predictions)
        for row, values, mass in zip(predictions.rows, predictions.probabilities, masses, strict=True):
            question = questions[int(row)]
            index = int(values.argmax())
            answers.append(
                Answer(
                    letter=question.letters[index],
                    text=question.choices[index],
                    index=index,
                    confidence=float(values[index]),
                    probabilities=tuple(map(float, values[: len(question.choices)])),
                    option_mass=None if mass is None else float(mass),
                )
            )
        return answers

    def report(self, questions: Any, *, seed: int = 0, **options: Any) -> CalibrationReport:
        """Measure the answers that `confidence` gives to questions with known answers.

        Parameters
        ----------
        questions : anything that `hf_calib.tasks.as_questions` takes
        seed : int, default 0
            Of the intervals' resampling.
        **options
            Of `hf_calib.predict`.

        Raises
        ------
        ValueError
            If an answer is not known.
        """
        return self._calibrated(as_questions(questions), **options).report(seed=seed)

    def decisions(
        self, cases: TypedDecisions | Iterable[Any], *, n_orders: int = 1
    ) -> list[dict[str, dict[str, Any]]]:
        """Answer typed decisions, each with calibrated probabilities.

        Parameters
        ----------
        cases : TypedDecisions, or iterable of Case or of mapping
            As `hf_calib.tasks.TypedDecisions` takes them, such as
            `[{"state": "...", "questions": {"refund": {"type": "noul", "instructions": "..."}}}]`.
        n_orders : int, default 1
            Average over this many rotations of each question's options.

        Returns
        -------
        list of dict
            For each case the answers by question, in the form of `POST /v1/systemone`.

        Raises
        ------
        QuestionError
            If a case cannot be read, or a prompt is too long.
        ValueError
            If the calibrator does not apply to typed decisions.
        """
        from ..confidence import LocalDecisions, LocalModel
        from ..confidence.decisions import answers_of

        asked = cases if isinstance(cases, TypedDecisions) else TypedDecisions(cases)
        source = LocalModel(self.model, self.tokenizer)
        backend = LocalDecisions(source, self.prompt_format, calibrator=self.calibrator, n_orders=n_orders)
        return [answers_of(case, own) for case, own in zip(asked, backend.decide(asked), strict=True)]

    def _calibrated(self, questions: Sequence[Question], **options: Any) -> Predictions:
        predictions = self.predict(questions, **options)
        if getattr(self.calibrator, "needs_groups", False) and self.calibrator.by == "type":
            # A question without a type is in no group that was fitted, and gets the temperature of all questions.
            types = [questions[int(row)].type or "" for row in predictions.rows]
            return predictions.calibrated(self.calibrator, groups=types)
        return predictions.calibrated(self.calibrator)

    def warn_about_option_counts(self, questions: Sequence[Question]) -> None:
        """Warn if a question's number of options differs from those of the card's figures."""
        counts = {len(question.choices) for question in questions}
        known = set(self.metadata.option_counts) if self.metadata else set()
        if known and counts - known:
            warnings.warn(
                f"Questions with {_listed(counts - known)} options: the model's card reports its calibration on "
                f"questions with {_listed(known)}; it may differ on others.",
                CalibrationWarning,
                stacklevel=3,
            )


def _listed(counts: Sequence[int] | set[int]) -> str:
    return " or ".join(map(str, sorted(counts)))
