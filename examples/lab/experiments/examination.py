"""The questions that every trained model of a bench is asked, each prompt once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hf_calib.confidence import Predictions, predict
from hf_calib.lab.bench import Bench
from hf_calib.lab.names import Domain
from hf_calib.lab.win_rate import PreferenceTest
from hf_calib.tasks import Question

from .experiment import trained

BATCH_SIZE = 512


class QuestionTest:
    """Questions for several models, each prompt once even if it was drawn several times.

    With options in a fixed order, only a tenth of twenty thousand drawn prompts are distinct.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        The models'.
    questions : sequence of Question
    """

    def __init__(self, tokenizer: Any, questions: list[Question]) -> None:
        places: dict[Question, int] = {}
        prompts = [replace(asked, answer=None, subject=None) for asked in questions]
        self.index = np.array([places.setdefault(prompt, len(places)) for prompt in prompts])
        self.tokenizer, self.prompts = tokenizer, list(places)
        self.answers = np.array([-1 if asked.answer is None else asked.answer for asked in questions])
        self.subjects = tuple(asked.subject for asked in questions)

    def predictions(self, model: Any) -> Predictions:
        """Return the same as `hf_calib.predict` for all the questions."""
        once = predict(model, self.tokenizer, self.prompts, batch_size=BATCH_SIZE).subset(self.index)
        return replace(once, answers=self.answers, subjects=self.subjects, rows=np.arange(len(self.answers)))


@dataclass(frozen=True)
class Asked:
    """A trained model and its predictions, which several methods may use.

    Attributes
    ----------
    model
        The model.
    seconds
        Processor time of its training.
    test
        Its predictions of the test questions, by domain.
    training
        Its predictions of the questions that methods train on.
    wins
        Its win rate, by kind of pair.
    """

    model: Any
    seconds: float
    test: dict[Domain, Predictions]
    training: Predictions
    wins: dict[str, float]


class Examination:
    """Asks models all questions, and caches the results of models that several methods start from.

    Parameters
    ----------
    bench : Bench
        Source of the test questions, training questions and held-out pairs.
    models : Path
        Where trained models are kept.
    """

    def __init__(self, bench: Bench, models: Path) -> None:
        data, tokenizer = bench.data, bench.tokenizer
        self.bench, self.models = bench, models
        self.test = {domain: QuestionTest(tokenizer, asked.to_questions()) for domain, asked in data.test.items()}
        self.training = QuestionTest(tokenizer, data.calibration.to_questions())
        self.pairs = PreferenceTest(tokenizer, data.test_pairs)
        self._asked: dict[str | None, Asked] = {}

    def of(self, name: str | None) -> Asked:
        """Ask a model, by its name in `experiments.experiment.MODELS`; train it first if it isn't there."""
        if name not in self._asked:
            result = trained(name, self.bench, self.models)
            self._asked[name] = self.about(result.model, result.seconds)
        return self._asked[name]

    def about(self, model: Any, seconds: float) -> Asked:
        """Ask a model whose training took this many seconds."""
        return Asked(
            model,
            seconds,
            {domain: test.predictions(model) for domain, test in self.test.items()},
            self.training.predictions(model),
            self.pairs.win_rate(model, batch_size=BATCH_SIZE),
        )
