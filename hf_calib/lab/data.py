"""The data of an experiment in the lab."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..tasks import Question
from .names import DOMAINS, Domain
from .preferences import sample_pairs
from .presets import LabPreset
from .world import LabQuestions, World

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn
    from transformers import PreTrainedTokenizerBase

# A stream of random numbers for each set, so that the size of one does not change the others.
CALIBRATION, HELD_OUT, PROMPTS, TEST = range(4)
TRAIN_PAIRS, TEST_PAIRS = range(2)


@dataclass(frozen=True)
class LabData:
    """The data of one seed.

    Attributes
    ----------
    world
        The world that the data is about.
    pairs
        The preference pairs to align on, about the domains ``"in"`` and ``"out"`` and the entities for training.
    calibration
        Labeled questions of the domain ``"in"`` to train on, about entities for training.
    held_out
        More labeled questions, for choices and fits that need held-out answers.
    prompts
        Questions of the domains ``"in"`` and ``"out"`` whose answers no method may use.
    test
        For each domain, the questions that results are reported on, about entities for testing.
    test_pairs
        Held-out pairs of both kinds, of the domains ``"in"`` and ``"out"``, about entities for testing.
    """

    world: World
    pairs: Dataset
    calibration: LabQuestions
    held_out: LabQuestions
    prompts: LabQuestions
    test: dict[Domain, LabQuestions]
    test_pairs: Dataset

    def labeled(self) -> list[Question]:
        """Return all questions whose answers a method may use: those to train on, then those held out."""
        return self.calibration.to_questions() + self.held_out.to_questions()


def sample_data(
    preset: LabPreset,
    world: World,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    seed: int = 0,
) -> LabData:
    """Return the data of an experiment, drawn at random.

    Parameters
    ----------
    preset
        The sizes.
    world
        What the data is about.
    model, tokenizer
        The pre-trained model, whose answers the multiple-choice pairs compare.
    seed
        Determines the data, together with the world's seed.
    """
    held_out_pairs = replace(preset.preferences, n_multiple_choice=preset.n_test_pairs, n_open=preset.n_test_pairs)
    return LabData(
        world=world,
        pairs=sample_pairs(world, model, tokenizer, preset.preferences, seed=(seed, TRAIN_PAIRS)),
        **sample_training_questions(preset, world, seed),
        test={
            domain: world.sample_questions(preset.n_test_questions, domain, "test", (seed, TEST, index))
            for index, domain in enumerate(DOMAINS)
        },
        test_pairs=sample_pairs(world, model, tokenizer, held_out_pairs, entities="test", seed=(seed, TEST_PAIRS)),
    )


def sample_training_questions(preset: LabPreset, world: World, seed: int = 0) -> dict[str, LabQuestions]:
    """Return the `calibration`, `held_out` and `prompts` of a `LabData`, in the preset's sizes."""
    return {
        "calibration": world.sample_questions(preset.n_calibration_questions, "in", "train", (seed, CALIBRATION)),
        "held_out": world.sample_questions(preset.n_held_out_questions, "in", "train", (seed, HELD_OUT)),
        "prompts": world.sample_questions(preset.n_prompts, ("in", "out"), "train", (seed, PROMPTS)),
    }
