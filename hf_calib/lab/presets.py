"""The sizes and settings of the lab's experiments, from a miniature of a minute to the main one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class ModelSettings:
    """The size of a lab model.

    Parameters
    ----------
    hidden_size, n_layers, n_heads, intermediate_size
        As in `transformers.LlamaConfig`.
    initializer_range
        Standard deviation of the initial weights. Wider than the usual 0.02, which learns the rare domain later.
    """

    hidden_size: int = 64
    n_layers: int = 2
    n_heads: int = 4
    intermediate_size: int = 128
    initializer_range: float = 0.08


@dataclass(frozen=True)
class CorpusSettings:
    """The composition of the pre-training corpus.

    Parameters
    ----------
    multiple_choice_share
        The share of documents that are multiple-choice questions with their answers. Those that are neither these nor
        free-form questions are open questions with a reply, terse or polite with equal probability.
    in_share, unseen_share
        The share of documents about the domains ``"in"`` (rare) and ``"unseen"``; the others are about ``"out"``.
    free_form_share
        The share of documents with free-form questions, a quarter each: answers, verdicts on proposed answers, levels
        of confidence in given answers, and answers with a stated confidence.
    answer_power
        Answers in free-form documents are drawn from this power of p*: above 1, people mostly give the likeliest one.
        Otherwise a model would see too few texts about the answers that it gives greedily to be calibrated on them.
    level_noise
        How far authors misjudge their confidence: the standard deviation that is added to the log-odds of p*.
    """

    multiple_choice_share: float = 0.6
    in_share: float = 0.025
    unseen_share: float = 0.2
    free_form_share: float = 0.0
    answer_power: float = 3.0
    level_noise: float = 0.5

    @property
    def free_form(self) -> bool:
        """Whether the vocabulary needs the words of free-form questions."""
        return self.free_form_share > 0


@dataclass(frozen=True)
class PretrainingSettings:
    """How a lab model is pre-trained: AdamW on a stream of fresh documents, each seen once.

    Parameters
    ----------
    steps, batch_size
        Optimizer steps, and documents in each.
    learning_rate
        Its peak. The rate rises over `warmup_steps`, is constant up to 30% of the steps and falls linearly to 3%.
    prompt_weight
        The weight of a prompt's token in the loss; that of an answer's token is 1.
    """

    steps: int = 1000
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 100
    prompt_weight: float = 0.1
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0


@dataclass(frozen=True)
class PreferenceSettings:
    """The preference pairs to draw.

    Parameters
    ----------
    n_multiple_choice, n_open
        Number of pairs of each kind.
    temperature
        Temperature at which the two letters of a multiple-choice pair are sampled from the model.
    style_weight
        What politeness adds to log p*, the annotator's reward of an open reply.
    """

    n_multiple_choice: int = 2000
    n_open: int = 2000
    temperature: float = 1 / 0.7
    style_weight: float = 2.0


@dataclass(frozen=True)
class AlignmentSettings:
    """How a model is aligned with DPO on the pairs.

    Parameters
    ----------
    lora_rank
        The rank of the adapters on all linear layers; 0 trains the full weights.
    """

    epochs: float = 2.0
    batch_size: int = 64
    learning_rate: float = 5e-4
    beta: float = 0.1
    lora_rank: int = 0


@dataclass(frozen=True)
class FineTuningSettings:
    """How an aligned model is fine-tuned on labeled questions (CFT), with adapters.

    Parameters
    ----------
    steps, batch_size
        Optimizer steps, and questions in each.
    eval_steps
        Steps between evaluations on the held-out questions; the best of these steps is kept.
    """

    steps: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    eval_steps: int = 10
    lora_rank: int = 8


@dataclass(frozen=True)
class LabeledSettings:
    """The terms of calibration-aware DPO if some of its questions have answers.

    The anchor alone would keep the confidence at the reference's while the answers raise the accuracy, so the ECE
    regularizer lets the confidence follow. Chosen on seeds 0 to 2.

    Parameters
    ----------
    anchor_weight, supervised_weight, em_weight, em_momentum, average_weights
        As in `hf_calib.trainers.CalibrationArguments`.
    """

    anchor_weight: float = 3.0
    supervised_weight: float = 2.0
    em_weight: float = 5.0
    em_momentum: float = 0.95
    average_weights: float = 0.0


@dataclass(frozen=True)
class LabPreset:
    """The sizes and settings of a whole experiment, without the seed and the cache.

    Parameters
    ----------
    shuffled, n_species, n_regions
        Arguments of `hf_calib.lab.World`.
    n_calibration_questions, n_held_out_questions
        Questions of the domain ``"in"`` with answers, to train on, and for choices and fits.
    n_prompts
        Questions of the domains ``"in"`` and ``"out"`` without answers.
    n_test_questions, n_test_pairs
        Held-out questions of each domain, and held-out pairs of each kind.
    calibration_batch_size
        Questions per step of calibration-aware DPO: so many without answers, and as many with answers if given.
    anchor_weight
        Weight of the anchor in calibration-aware DPO without answers, and in the repair without answers.
    labeled
        The terms of calibration-aware DPO if some of its questions have answers.
    fine_tuning
        CFT, which stops at its best step.
    """

    shuffled: bool = False
    n_species: int = 32
    n_regions: int = 32
    model: ModelSettings = field(default_factory=ModelSettings)
    corpus: CorpusSettings = field(default_factory=CorpusSettings)
    pretraining: PretrainingSettings = field(default_factory=PretrainingSettings)
    preferences: PreferenceSettings = field(default_factory=PreferenceSettings)
    alignment: AlignmentSettings = field(default_factory=AlignmentSettings)
    n_calibration_questions: int = 1500
    n_held_out_questions: int = 500
    n_prompts: int = 2000
    n_test_questions: int = 4000
    n_test_pairs: int = 2000
    calibration_batch_size: int = 32
    anchor_weight: float = 5.0
    labeled: LabeledSettings = field(default_factory=LabeledSettings)
    fine_tuning: FineTuningSettings = field(default_factory=FineTuningSettings)


FIXED = LabPreset()

PRESETS: dict[str, LabPreset] = {
    # The quick world, aligned with full weights.
    "fixed": FIXED,
    # The same with adapters, which are published; it is pre-trained on the domain "in" for longer, so that the
    # model is calibrated on it before it is aligned.
    "demo": replace(
        FIXED,
        corpus=CorpusSettings(in_share=0.04),
        pretraining=PretrainingSettings(steps=1500, learning_rate=3e-3),
        alignment=AlignmentSettings(learning_rate=2e-3, lora_rank=16),
    ),
    # The main experiment: a deeper model, trained for longer, learns which letter stands for which shuffled option.
    "shuffled": replace(
        FIXED,
        shuffled=True,
        model=ModelSettings(n_layers=3),
        pretraining=PretrainingSettings(steps=2500, learning_rate=3e-3),
    ),
    # A miniature for tests: with a quarter of the entities, it takes seconds to learn enough to become overconfident.
    "mini": replace(
        FIXED,
        n_species=16,
        n_regions=16,
        corpus=CorpusSettings(in_share=0.3),
        pretraining=PretrainingSettings(steps=250, batch_size=64, learning_rate=5e-3, warmup_steps=30),
        preferences=PreferenceSettings(n_multiple_choice=400, n_open=400),
        alignment=AlignmentSettings(learning_rate=1e-3),
        n_calibration_questions=300,
        n_held_out_questions=200,
        n_prompts=400,
        n_test_questions=1000,
        n_test_pairs=200,
    ),
}
"""The presets by name."""
