"""Confidence in free-form answers in the lab: what reinforcement does to it, and what training it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase
from trl import GRPOConfig, GRPOTrainer

from hf_calib import SelfEvaluationQuestions, self_evaluation_questions
from hf_calib.calibrators import by_name
from hf_calib.confidence import Asking, LocalModel, Predictions
from hf_calib.confidence.free_form import predict_free_form
from hf_calib.confidence.parsing import read_stated_answer
from hf_calib.lab.arguments import adapter_config
from hf_calib.lab.bench import merged
from hf_calib.lab.documents import (
    FREE_FORM,
    STATED,
    stated_prompts,
)
from hf_calib.lab.presets import (
    FIXED,
    CorpusSettings,
    FineTuningSettings,
    LabPreset,
    PretrainingSettings,
)
from hf_calib.lab.world import LabQuestions, World
from hf_calib.rewards import answer_reward, brier_reward, confidence_format_reward
from hf_calib.tasks import QuestionList
from hf_calib.tasks.free_form import FreeFormQuestion
from hf_calib.trainers import (
    RecalibrationConfig,
    RecalibrationTrainer,
    StatedConfidenceConfig,
    StatedConfidenceTrainer,
)

from .reinforcement import trainer_arguments

# The longest reply, "<answer> fish </answer> <confidence> 80 </confidence>", and the end of the sequence.
MAX_REPLY = 8
BATCH_SIZE = 512
# Streams of random numbers for the questions.
REWARDED, GRADED, FIT, TEST = range(20, 24)

DOMAINS = {"trained": ("in", "out"), "unseen": ("unseen",)}
"""The domains that results are reported on: those of the training questions, and the one that no method sees."""

READINGS = ("stated", "levels", "p-true", "agreement")
"""The confidence stated in the reply, the mean level after the answer, P(True), and agreement of ten samples."""


@dataclass(frozen=True)
class FreeFormSettings:
    """The sizes and settings of the experiment, chosen on seeds 0 and 1.

    Parameters
    ----------
    preset
        The world and the pre-training.
    n_rewarded, n_graded, n_fit, n_test
        Questions for reinforcement learning, for graded answers to train confidence on, to fit temperatures on, and to
        measure each domain on.
    n_samples
        Samples per question, for their agreement.
    steps, batch_size, replies, learning_rate, beta
        Of GRPO: optimizer steps, replies per step and per question, and the weight of the divergence from the
        pre-trained model.
    fine_tuning
        Training of P(True) and of the levels, with adapters.
    anchor_weight
        Of the divergence from the pre-trained model's P(True).
    """

    preset: LabPreset
    n_rewarded: int = 3000
    n_graded: int = 8000
    n_fit: int = 500
    n_test: int = 20_000
    n_samples: int = 10
    steps: int = 300
    batch_size: int = 512
    replies: int = 16
    learning_rate: float = 1e-3
    beta: float = 0.0
    fine_tuning: FineTuningSettings = field(
        default_factory=lambda: FineTuningSettings(steps=200, learning_rate=3e-4, lora_rank=8)
    )
    anchor_weight: float = 1.0


_PRESET = replace(
    FIXED,
    n_species=16,
    n_regions=16,
    # Each relation equally often, and free-form texts alone.
    corpus=CorpusSettings(multiple_choice_share=0.0, in_share=0.2, free_form_share=1.0),
    pretraining=PretrainingSettings(steps=1000, learning_rate=5e-3),
)

SETTINGS: dict[str, FreeFormSettings] = {
    "full": FreeFormSettings(_PRESET),
    "mini": FreeFormSettings(
        replace(_PRESET, n_species=8, n_regions=8, pretraining=PretrainingSettings(200, 64, 5e-3, warmup_steps=30)),
        n_rewarded=300,
        n_graded=300,
        n_fit=100,
        n_test=1000,
        steps=20,
        batch_size=64,
        fine_tuning=FineTuningSettings(steps=20),
    ),
}
"""The settings by preset."""


@dataclass(frozen=True)
class FreeFormBench:
    """One seed's world and pre-trained model.

    Parameters
    ----------
    settings : FreeFormSettings
    world : World
    folder : Path
        Of the pre-trained model.
    tokenizer : PreTrainedTokenizerBase
    work_dir : Path
        Where the trainers may write.
    seed : int
    """

    settings: FreeFormSettings
    world: World
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    work_dir: Path
    seed: int

    def pretrained(self) -> Any:
        """Return a fresh copy of the pre-trained model."""
        return AutoModelForCausalLM.from_pretrained(self.folder)

    def rewarded(self) -> LabQuestions:
        """Return the questions that reinforcement learning trains on, about half of the entities for training."""
        return self._about_half(self.settings.n_rewarded, REWARDED, 0)

    def graded(self) -> LabQuestions:
        """Return the questions, about the other half, whose answers are graded to train confidence."""
        return self._about_half(self.settings.n_graded, GRADED, 1)

    def fit(self) -> LabQuestions:
        """Return the questions, about that half too, that temperatures are fitted on."""
        return self._about_half(self.settings.n_fit, FIT, 1)

    def _about_half(self, n: int, stream: int, half: int) -> LabQuestions:
        # Drawn from all until n are about this half, whose share varies.
        drawn = self.world.sample_questions(4 * n, DOMAINS["trained"], "train", (self.seed, stream))
        return drawn[np.flatnonzero((drawn.species + drawn.regions) % 2 == half)[:n]]

    def test(self, domain: str) -> LabQuestions:
        """Return the test questions of one of `DOMAINS`."""
        return self.world.sample_questions(self.settings.n_test, DOMAINS[domain], "test", (self.seed, TEST))

    def arguments(self, name: str) -> dict[str, Any]:
        """Return the arguments that all trainers share, and seed the initial weights of adapters."""
        torch.manual_seed(self.seed)
        return trainer_arguments(self.work_dir / name, self.seed)


def reinforced(bench: FreeFormBench, model: Any, *, calibrated: bool) -> Any:
    """Train a model with GRPO on its replies, which state an answer and a confidence.

    Parameters
    ----------
    bench : FreeFormBench
    model : PreTrainedModel
        It is used up.
    calibrated : bool
        Reward the stated confidence with its Brier score as well (RLCR), and not the right answer alone.
    """
    settings, questions = bench.settings, bench.rewarded()
    asked = zip(stated_prompts(questions), questions.to_free_form(), strict=True)
    rows = [{"prompt": prompt, "answers": list(question.answers)} for prompt, question in asked]
    # The format's reward keeps a readable confidence in the replies.
    rewards = [answer_reward, confidence_format_reward, *([brier_reward] if calibrated else [])]
    args = GRPOConfig(
        **bench.arguments("grpo"),
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        max_steps=settings.steps,
        num_generations=settings.replies,
        max_completion_length=MAX_REPLY,
        beta=settings.beta,
        # If outcomes are random, dividing by the rewards' standard deviation pushes confidence to extremes
        # (Bereket and Leskovec, arXiv 2508.11800).
        **({"scale_rewards": "none"} if calibrated else {}),
    )
    trainer = GRPOTrainer(
        model=model,
        reward_funcs=rewards,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=bench.tokenizer,
    )
    trainer.train()
    return trainer.model


def graded(bench: FreeFormBench, model: Any) -> SelfEvaluationQuestions:
    """Return a model's answers to the questions for grading, graded by the answers that were drawn."""
    return self_evaluation_questions(
        model,
        bench.tokenizer,
        QuestionList(bench.graded().to_free_form()),
        max_new_tokens=MAX_REPLY,
        prompt_format=FREE_FORM,
        batch_size=BATCH_SIZE,
        progress=False,
    )


def self_evaluating(bench: FreeFormBench, model: Any, *, anchored: bool) -> Any:
    """Train P(True) on a model's own graded answers.

    Parameters
    ----------
    bench : FreeFormBench
    model : PreTrainedModel
        It is used up.
    anchored : bool
        Keep to the pre-trained model's P(True) as well.
    """
    answers = graded(bench, model)
    args = RecalibrationConfig(
        **_fine_tuning_arguments(bench, "self-evaluation"),
        supervised_weight=1.0,
        anchor_weight=bench.settings.anchor_weight if anchored else 0.0,
    )
    trainer = RecalibrationTrainer(
        get_peft_model(model, adapter_config(bench.settings.fine_tuning.lora_rank)),
        args,
        answers,
        bench.pretrained() if anchored else None,
        bench.tokenizer,
        prompt_format=answers.prompt_format,
    )
    trainer.train()
    return merged(trainer.model)


def stating(bench: FreeFormBench, model: Any) -> Any:
    """Train the levels that a model states after its own graded answers; the model is used up."""
    answers = graded(bench, model)
    trainer = StatedConfidenceTrainer(
        get_peft_model(model, adapter_config(bench.settings.fine_tuning.lora_rank)),
        StatedConfidenceConfig(**_fine_tuning_arguments(bench, "stated-confidence")),
        answers,
        bench.tokenizer,
    )
    trainer.train()
    return merged(trainer.model)


def _fine_tuning_arguments(bench: FreeFormBench, name: str) -> dict[str, Any]:
    settings = bench.settings.fine_tuning
    return {
        **bench.arguments(name),
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.batch_size,
        "learning_rate": settings.learning_rate,
    }


@dataclass(frozen=True)
class Trained:
    """How a trained model comes about.

    Parameters
    ----------
    start : str
        The model that it starts from: "pretrained" or another of `MODELS`.
    train : callable
        From the bench and the model that it starts from, which is used up, to the trained one.
    """

    start: str
    train: Callable[[FreeFormBench, Any], Any]


MODELS: dict[str, Trained] = {
    "grpo": Trained("pretrained", lambda bench, start: reinforced(bench, start, calibrated=False)),
    "grpo-brier": Trained("pretrained", lambda bench, start: reinforced(bench, start, calibrated=True)),
    "self-evaluation": Trained("grpo", lambda bench, start: self_evaluating(bench, start, anchored=False)),
    "self-evaluation-anchor": Trained("grpo", lambda bench, start: self_evaluating(bench, start, anchored=True)),
    "stated-levels": Trained("grpo", lambda bench, start: stating(bench, start)),
}
"""The models that are trained, by name."""

METHODS = ("pretrained", *MODELS)
"""The models that are compared."""


@dataclass(frozen=True)
class Reading:
    """What a model answered to questions, and its confidence.

    Parameters
    ----------
    predictions : Predictions
        Of two options: that the answer given is right, which is the one chosen, and that it is not.
    true_probabilities : ndarray, shape (n, 2)
        The true probabilities of these two.
    """

    predictions: Predictions
    true_probabilities: np.ndarray


def read(bench: FreeFormBench, model: Any, questions: LabQuestions, reading: str) -> Reading:
    """Let a model answer, and read its confidence; each question is asked once, however often it was drawn.

    Parameters
    ----------
    bench : FreeFormBench
    model : PreTrainedModel
    questions : LabQuestions
    reading : str
        One of `READINGS`.
    """
    drawn = questions.to_free_form()
    places: dict[str, int] = {}
    index = [places.setdefault(question.question, len(places)) for question in drawn]
    asked = QuestionList([FreeFormQuestion(question) for question in places])
    backend, asking = LocalModel(model.eval(), bench.tokenizer), Asking(BATCH_SIZE, False)
    if reading == "stated":
        written = backend.generate("stated", asked, STATED, asking, max_new_tokens=MAX_REPLY, list_options=False)
        found = [read_stated_answer(samples[0].text) for samples in written if samples is not None]
        # As the trainers and the command line count a confidence that is missing or malformed.
        texts = [own.answer or "" for own in found]
        confidences = np.array([own.confidence or 0.0 for own in found])
    else:
        answered = predict_free_form(
            backend,
            asked,
            FREE_FORM,
            asking,
            method=reading,
            n_samples=bench.settings.n_samples,
            max_new_tokens=MAX_REPLY,
            seed=bench.seed,
        )
        texts, confidences = list(answered.texts), answered.predictions.probabilities[:, 0]
    given = [texts[place] for place in index]
    choices = questions.choices()
    true = np.array(
        [
            p[values.index(text)] if text in values else 0.0
            for p, values, text in zip(questions.true_probabilities, choices, given, strict=True)
        ]
    )
    right = [text in question.answers for text, question in zip(given, drawn, strict=True)]
    n = len(drawn)
    predictions = Predictions.from_answers(
        np.zeros(n, dtype=np.int64),
        confidences[index],
        np.full(n, 2),
        np.where(right, 0, 1),
        (None,) * n,
        np.arange(n),
    )
    return Reading(predictions, np.stack([true, 1 - true], axis=1))


def with_temperature(bench: FreeFormBench, model: Any, reading: str, measured: Sequence[Reading]) -> list[Reading]:
    """Return readings with the temperature that fits best on the questions for fitting, read in the same way."""
    held_out = read(bench, model, bench.fit(), reading).predictions
    calibrator = by_name("temperature").fit(held_out.logits, held_out.answers)
    return [replace(own, predictions=own.predictions.calibrated(calibrator)) for own in measured]
