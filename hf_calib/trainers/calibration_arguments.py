"""The arguments of the calibration terms, added to those of the extended TRL trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any, ClassVar

from ..confidence.registry import way_named
from ..regularizers.targets import SHARING_RULES
from .best_metric import set_direction

# The names in `hf_calib.confidence.ways()` of the ways to read confidence that a loss can act on.
TRAINABLE = ("letters", "text", "text-characters", "text-tokens")


def check_confidence(
    confidence: str, argument: str = "calibration_confidence", trainable: tuple[str, ...] = TRAINABLE
) -> None:
    """Raise a ValueError that names the argument unless a loss can act on confidence read in this way."""
    if confidence not in trainable:
        raise ValueError(f"{argument} must be one of {', '.join(trainable)}; got {confidence!r}")


def check_weight(name: str, value: Any) -> None:
    """Raise a ValueError that names the argument unless its value is a finite, nonnegative number."""
    if not (isinstance(value, Real) and 0 <= float(value) < float("inf")):
        raise ValueError(f"{name} must be a finite, nonnegative number, got {value!r}")


@dataclass
class CalibrationArguments:
    r"""
    Arguments of the calibration terms, to be mixed into a TRL config.

    The loss of a calibration-aware trainer is

    $$ L_{trainer} + w_{anchor} KL(p_{ref} \| p_\theta) + w_{sup} (-\log p_\theta(y)) + w_{em} \| p_\theta - t \|^2
    + w_{dece} DECE + w_{brier} \| p_\theta - y \|^2 $$

    where all terms but the first are means over a batch of multiple-choice questions. With
    `calibration_confidence="letters"`, $p_\theta$ is the next-token distribution at the answer position, of which the
    last three terms take the options' share; with option texts it is the distribution over the options throughout.
    Questions without an answer only have the anchor.

    Parameters
    ----------
    **Terms:** what is added to the loss

    anchor_weight : float, default 1.0
        Weight of the anchor, the divergence from the reference model's distribution. Needs no answers. This term
        keeps a model calibrated through alignment, in all domains of the prompts and beyond
        (`examples/lab/report.md`: calibration-aware-dpo-unlabelled). On Gemma 3 270M, weights of 1, 5 and 20
        preserved the calibration about equally well, and the larger the weight, the smaller the reward margin. At the
        learning rate that suits plain DPO best, a weight of 1 cost no reward accuracy on held-out pairs and 2 cost
        0.01 (three seeds each); 5 cost 0.07 (one seed; `examples/real_models/README.md`).
    supervised_weight : float, default 1.0
        Weight of the supervised term, the right answer's log-loss (CFT). Of questions with a distribution in place of
        the one right answer (`DecisionQuestion`), it is the cross-entropy to the distribution. With questions as the
        SFT trainer's `train_dataset`, the trainer's own loss is this term, and its weight is 1.
    brier_weight : float, default 0.0
        Weight of the Brier score: the squared distance to the right answer or to the distribution.
    em_weight : float, default 0.0
        Weight of the ECE regularizer (RCFT; 1 in the paper).
    dece_weight : float, default 0.0
        Weight of the differentiable ECE (Meta-Calibration) of the answered questions in one forward per device, so it
        changes slightly with the number of devices and accumulation steps. It is computed on the training questions
        and has no effect once these are memorized.

    **Questions:** how they are asked and batched

    calibration_confidence : {"letters", "text", "text-characters", "text-tokens"}, default "letters"
        What confidence is read off, in training, evaluation and the card alike, as `method` of `hf_calib.measure`: the
        options' letters, or their texts, with each text's log-probability as it is or divided by its length. Small
        models are often better with option texts than with letters (`examples/real_models/README.md`).
    calibration_batch_size : int, optional
        Questions per device and optimizer step, spread over the steps of gradient accumulation. By default half the
        trainer's own samples per device and step.
    calibration_prompt : {"plain", "chat"}, default "plain"
        Prompt format; "chat" uses the tokenizer's chat template. A trainer's `prompt_format` takes precedence.
    calibration_max_length : int, optional
        Longest prompt, in tokens. By default the trainer's `max_length`, and never more than the model allows.
    calibration_on_too_long : {"error", "drop"}, default "error"
        What to do with longer prompts; they are never truncated.
    calibration_identical_choices : {"warn", "skip", "error"}, default "warn"
        What to do with training questions that have two options with the same text.
    self_made_questions : int, default 500
        Number of questions that the reference writes with `calibration_dataset="self"`. More of them keep domains
        calibrated that few of them are about (`examples/lab/README.md`: sweep `self-made`).
    permute_options : bool, default False
        Put the options of each training question in a random order, drawn once from the seed, so that no letter is
        right more often than others. `hf-calib measure --check-order` shows how much the order matters to a model, and
        `examples/real_models/permuting.py` measures what this option changes.

    **E-step:** how the ECE regularizer finds its targets

    em_fraction : float, default 0.2
        Share of the answered questions that is held out for the E-step, and not trained on, if no `em_dataset` is
        given.
    em_steps : int, default 5
        Optimizer steps between two E-steps.
    em_batch_size : int, optional
        Questions per device and E-step; by default twice `calibration_batch_size`.
    em_momentum : float, default 0.9
        Factor that an E-step applies to the bins' older counts.
    em_bins : int, default 10
        Number of equal-width confidence bins.
    em_sharing : {"proportional", "tanh", "uniform"}, default "proportional"
        How the options below the top one share the mass that the target leaves them; "tanh" is the paper's rule.

    **Evaluation:** what is reported

    eval_calibrator : str, optional
        Name of a calibrator, such as "temperature" or "auto". `evaluate` then also reports `calibrated_{measure}`,
        cross-validated on the evaluation questions: a cheaper alternative to compare the training with.

    **Memory and weights**

    separate_backward : bool, default False
        Run the backward of the terms separately, before the trainer's own forward, so that the activations of the
        questions and of the trainer's samples are never held at the same time. The update is the same up to rounding.
        Always on where recomputed activations (`gradient_checkpointing`) require it: in distributed training.
    average_weights : float, default 0.0
        Share of the optimizer steps, at the end of training, over which the trained weights are averaged. It raises
        the accuracy and calibration of long fine-tuning on few answers. Cannot be combined with
        `load_best_model_at_end` or with sharded weights (ZeRO-3, FSDP).

    Notes
    -----
    The questions' order and the held-out split follow from the trainer's `seed`.

    `examples/lab/README.md` lists the result that each default was chosen by, and the defaults that no experiment
    chose. `examples/benchmarks/README.md` reports the E-steps' time and the memory that `separate_backward` saves.
    """

    # What `calibration_confidence` may be.
    trainable_confidence: ClassVar[tuple[str, ...]] = TRAINABLE

    # Terms
    anchor_weight: float = field(
        default=1.0,
        metadata={"help": "Weight of the anchor: KL to the reference's distribution. Needs no answers."},
    )
    supervised_weight: float = field(default=1.0, metadata={"help": "Weight of the right answer's log-loss (CFT)."})
    brier_weight: float = field(
        default=0.0, metadata={"help": "Weight of the Brier score against the answer or its distribution."}
    )
    em_weight: float = field(
        default=0.0, metadata={"help": "Weight of the ECE regularizer found by EM (RCFT; 1 in the paper)."}
    )
    dece_weight: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the differentiable ECE of the answered questions in a forward pass (Meta-Calibration)."
        },
    )

    # Questions
    calibration_confidence: str = field(
        default="letters",
        metadata={
            "help": "What confidence is read off: "
            + ", ".join(f"{way_named(name).help} ({name})" for name in TRAINABLE)
            + ".",
            "choices": list(TRAINABLE),
        },
    )
    calibration_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Questions per device and optimizer step, spread over gradient accumulation. Default: half the "
            "trainer's own samples."
        },
    )
    calibration_prompt: str = field(
        default="plain",
        metadata={
            "help": "Prompt format of the questions: plain, or the tokenizer's chat template.",
            "choices": ["plain", "chat"],
        },
    )
    calibration_max_length: int | None = field(
        default=None, metadata={"help": "Longest prompt in tokens. Default: the trainer's max_length."}
    )
    calibration_on_too_long: str = field(
        default="error",
        metadata={"help": "What to do with longer prompts; they are never truncated.", "choices": ["error", "drop"]},
    )
    calibration_identical_choices: str = field(
        default="warn",
        metadata={
            "help": "What to do with training questions that have two identical options.",
            "choices": ["warn", "skip", "error"],
        },
    )

    self_made_questions: int = field(
        default=500, metadata={"help": "Number of questions that the reference writes with calibration_dataset=self."}
    )
    permute_options: bool = field(
        default=False,
        metadata={"help": "Put the options of each training question in a random order, drawn once from the seed."},
    )

    # E-step
    em_fraction: float = field(
        default=0.2,
        metadata={"help": "Share of the answered questions held out for the E-step if no em_dataset is given."},
    )
    em_steps: int = field(default=5, metadata={"help": "Optimizer steps between two E-steps."})
    em_batch_size: int | None = field(
        default=None,
        metadata={"help": "Questions per device and E-step. Default: twice calibration_batch_size."},
    )
    em_momentum: float = field(
        default=0.9, metadata={"help": "Factor that an E-step applies to the bins' older counts."}
    )
    em_bins: int = field(default=10, metadata={"help": "Number of equal-width confidence bins."})
    em_sharing: str = field(
        default="proportional",
        metadata={
            "help": "How the options below the top one share the mass that the target leaves them.",
            "choices": list(SHARING_RULES),
        },
    )

    # Evaluation
    eval_calibrator: str | None = field(
        default=None,
        metadata={
            "help": "Name of a calibrator (temperature, auto) whose cross-validated results evaluation also reports."
        },
    )

    # Memory and weights
    separate_backward: bool = field(
        default=False,
        metadata={"help": "Run the backward of the terms before the trainer's own forward, which saves memory."},
    )
    average_weights: float = field(
        default=0.0,
        metadata={"help": "Share of the steps, at the end of training, over which the weights are averaged."},
    )

    def __post_init__(self) -> None:
        set_direction(self)
        # The TRL config that this is mixed into has a __post_init__ of its own.
        parent = getattr(super(), "__post_init__", None)
        if parent is not None:
            parent()
        self.check_calibration_arguments()

    def check_calibration_arguments(self) -> None:
        """Raise a ValueError that names the first argument with an invalid value."""
        for name in ("anchor_weight", "supervised_weight", "brier_weight", "em_weight", "dece_weight"):
            check_weight(name, getattr(self, name))
        optional = ("calibration_batch_size", "calibration_max_length", "em_batch_size")
        for name in (*optional, "em_steps", "em_bins", "self_made_questions"):
            value = getattr(self, name)
            if not (value is None and name in optional) and not (isinstance(value, Integral) and int(value) >= 1):
                raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
        if not (isinstance(self.em_fraction, Real) and 0 < self.em_fraction < 1):
            raise ValueError(f"em_fraction must lie between 0 and 1, got {self.em_fraction!r}")
        if not (isinstance(self.average_weights, Real) and 0 <= self.average_weights <= 1):
            raise ValueError(f"average_weights must be a share between 0 and 1, got {self.average_weights!r}")
        if not (isinstance(self.em_momentum, Real) and 0 <= self.em_momentum < 1):
            raise ValueError(f"em_momentum must be in [0, 1), got {self.em_momentum!r}")
        check_confidence(self.calibration_confidence, trainable=self.trainable_confidence)
        for name, choices in (
            ("calibration_prompt", ("plain", "chat")),
            ("calibration_on_too_long", ("error", "drop")),
            ("calibration_identical_choices", ("warn", "skip", "error")),
            ("em_sharing", SHARING_RULES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
