"""The arguments that every calibration-aware trainer has beside those of the TRL trainer that it extends."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..regularizers.targets import SHARING_RULES
from .best_metric import set_direction


@dataclass
class CalibrationArguments:
    r"""
    Arguments of the calibration terms, to be mixed into a TRL config.

    The loss of a calibration-aware trainer is

    $$ L_{trainer} + w_{anchor} KL(p_{ref} \| p_\theta) + w_{sup} (-\log p_\theta(y)) + w_{em} \| p_\theta - t \|^2
    + w_{dece} DECE $$

    where all but the first are means over a batch of multiple-choice questions, at the answer position. Questions
    without an answer have the anchor alone.

    Parameters
    ----------
    anchor_weight : float, default 5.0
        Weight of the anchor, the divergence from the reference model's next-token distribution. Needs no answers.
        Above 0 it is what keeps a model calibrated through alignment, in all domains of the prompts and beyond them
        (`examples/lab/report.md`: calibration-aware-dpo-unlabelled).
    supervised_weight : float, default 1.0
        Weight of the supervised term (CFT).
    em_weight : float, default 0.0
        Weight of the ECE regulariser (RCFT; 1 in the paper).
    dece_weight : float, default 0.0
        Weight of the differentiable ECE (Meta-Calibration) of the answered questions that a device has in a forward;
        so it changes a little with the number of devices and the accumulation steps. It sees the questions that are
        trained on, and comes to nothing where these are known by heart.
    supervised_on : {"answer", "question_and_answer"}, default "answer"
        The tokens that the supervised term is taken over.
    calibration_batch_size : int, optional
        Questions a device for each optimizer step, spread over the steps of gradient accumulation. By default half
        as many as the trainer's own samples a device and step.
    calibration_prompt : {"plain", "chat"}, default "plain"
        How questions are put; "chat" uses the tokenizer's chat template. A trainer's `prompt_format` goes before.
    calibration_max_length : int, optional
        Longest prompt, in tokens. By default the trainer's `max_length`, and never more than the model allows.
    calibration_on_too_long : {"error", "drop"}, default "error"
        What to do with longer ones; they are never truncated.
    calibration_identical_choices : {"warn", "skip", "error"}, default "warn"
        What to do in training with questions that have two options of the same text.
    eval_calibrator : str, optional
        Name of a calibrator, such as "temperature" or "auto", that `evaluate` also reports with, as
        `calibrated_{measure}`: cross-validated on the evaluation questions, each from a fit without it. Where it does
        as well as the training, it is the cheaper way.
    regime_questions : int, default 1000
        After training, where there are questions to evaluate on and answers were trained on, so many of the latter
        are asked too, drawn at random, for the regime on the model card (see `hf_calib.diagnose`). 0 leaves it out.
    calibration_seed : int, optional
        Seed of the questions' order and of the held-out split; by default the trainer's `seed`.
    em_fraction : float, default 0.2
        Share of the answered questions that is set aside for the E-step where no `em_dataset` is given; the weights
        are not trained on them.
    em_steps : int, default 5
        Optimizer steps from one E-step to the next.
    em_batch_size : int, optional
        Questions a device for each E-step; by default twice `calibration_batch_size`.
    em_momentum : float, default 0.9
        Weight that an E-step leaves to the bins' earlier counts.
    em_bins : int, default 10
        Number of confidence bins.
    em_binning : {"width", "mass"}, default "width"
        Bins of equal width, or that hold equally many of the recent questions each.
    em_min_count : float, default 0.0
        A bin that was seen less often than this (in the exponential average) pulls nowhere. A bin pulls little while
        it was seen seldom in any case.
    em_warmup_steps : int, default 0
        Optimizer steps over which the EM term's weight grows linearly from 0; the bins fill meanwhile.
    em_source : {"held_out", "first_pass"}, default "held_out"
        Where the E-step's questions come from: a held-out split or the `em_dataset`; or the questions that are
        trained on themselves, each scored in the first pass before it is trained on, after which the bins stay. The
        latter sets no question aside.
    em_sharing : {"proportional", "tanh", "uniform"}, default "proportional"
        How the options below the top one share the mass that the target leaves them.
    separate_backward : bool, default False
        Take the terms' backward by itself, before the extended trainer's forward, so that the activations of the
        questions and those of the trainer's own samples are never held at once. The update is the same to rounding.
        Not under DeepSpeed and FSDP, where a step has one backward.
    average_weights : float, default 0.0
        Share of the optimizer steps, at the end of training, whose mean the trained weights become. Against noise in
        the last weights: it raises accuracy and calibration of long fine-tuning on few answers. Not with
        `load_best_model_at_end`, and not where weights are sharded (ZeRO-3, FSDP).

    Notes
    -----
    `examples/benchmarks/README.md` has the options of the E-step compared with other values than their defaults
    (`em_options.py` there compares them again), the E-steps' time, and the memory that `separate_backward` saves. The
    weights of the anchor and of the ECE regulariser are swept over by `hf-calib lab sweep weight`; `average_weights`
    is part of `rcft` in `examples/lab/report.md`.
    """

    # Terms
    anchor_weight: float = field(
        default=5.0,
        metadata={"help": "Weight of the anchor: KL to the reference's next-token distribution. Needs no answers."},
    )
    supervised_weight: float = field(default=1.0, metadata={"help": "Weight of the right answer's log-loss (CFT)."})
    em_weight: float = field(
        default=0.0, metadata={"help": "Weight of the ECE regulariser found by EM (RCFT; 1 in the paper)."}
    )
    dece_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of the differentiable ECE of a forward's answered questions (Meta-Calibration)."},
    )
    supervised_on: str = field(
        default="answer",
        metadata={
            "help": "Tokens the supervised term is taken over.",
            "choices": ["answer", "question_and_answer"],
        },
    )

    # Questions
    calibration_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Questions a device for each optimizer step, spread over gradient accumulation. Half of the "
            "trainer's own samples by default."
        },
    )
    calibration_prompt: str = field(
        default="plain",
        metadata={
            "help": "How questions are put: plainly, or through the tokenizer's chat template.",
            "choices": ["plain", "chat"],
        },
    )
    calibration_max_length: int | None = field(
        default=None, metadata={"help": "Longest prompt in tokens. The trainer's max_length by default."}
    )
    calibration_on_too_long: str = field(
        default="error",
        metadata={"help": "What to do with longer prompts; they are never truncated.", "choices": ["error", "drop"]},
    )
    calibration_identical_choices: str = field(
        default="warn",
        metadata={
            "help": "What to do in training with questions that have two identical choices.",
            "choices": ["warn", "skip", "error"],
        },
    )
    eval_calibrator: str | None = field(
        default=None,
        metadata={
            "help": "Name of a calibrator that evaluation reports with too, cross-validated (temperature, auto)."
        },
    )
    regime_questions: int = field(
        default=1000,
        metadata={"help": "Questions trained on that are asked after training, for the regime on the card; 0: none."},
    )
    calibration_seed: int | None = field(
        default=None, metadata={"help": "Seed of the questions' order and split. The trainer's seed by default."}
    )

    # E-step
    em_fraction: float = field(
        default=0.2,
        metadata={"help": "Share of the answered questions set aside for the E-step where no em_dataset is given."},
    )
    em_steps: int = field(default=5, metadata={"help": "Optimizer steps from one E-step to the next."})
    em_batch_size: int | None = field(
        default=None,
        metadata={"help": "Questions a device for each E-step. Twice calibration_batch_size by default."},
    )
    em_momentum: float = field(
        default=0.9, metadata={"help": "Weight that an E-step leaves to the bins' earlier counts."}
    )
    em_bins: int = field(default=10, metadata={"help": "Number of confidence bins."})
    em_binning: str = field(
        default="width",
        metadata={"help": "Bins of equal width, or of equal mass.", "choices": ["width", "mass"]},
    )
    em_min_count: float = field(default=0.0, metadata={"help": "A bin seen less often than this pulls nowhere."})
    em_warmup_steps: int = field(
        default=0, metadata={"help": "Optimizer steps over which the EM term's weight grows linearly from 0."}
    )
    em_source: str = field(
        default="held_out",
        metadata={
            "help": "The E-step's questions: held-out ones, or those trained on, each scored in the first pass before "
            "it is trained on.",
            "choices": ["held_out", "first_pass"],
        },
    )
    em_sharing: str = field(
        default="proportional",
        metadata={
            "help": "How the options below the top one share the mass that the target leaves them.",
            "choices": list(SHARING_RULES),
        },
    )

    # Memory and weights
    separate_backward: bool = field(
        default=False,
        metadata={"help": "Take the terms' backward before the trainer's own forward, which needs less memory."},
    )
    average_weights: float = field(
        default=0.0,
        metadata={"help": "Share of the steps, at the end, whose mean the trained weights become."},
    )

    def __post_init__(self) -> None:
        set_direction(self)
        # The TRL config that this is mixed into has a __post_init__ of its own.
        parent = getattr(super(), "__post_init__", None)
        if parent is not None:
            parent()
        self.check_calibration_arguments()

    def check_calibration_arguments(self) -> None:
        """Raise a ValueError that names the first argument out of its range."""
        for name in ("anchor_weight", "supervised_weight", "em_weight", "dece_weight"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number that is not negative, got {getattr(self, name)}")
        for name in ("calibration_batch_size", "calibration_max_length", "em_batch_size", "em_steps", "em_bins"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("em_min_count", "em_warmup_steps", "regime_questions"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a finite number that is not negative, got {getattr(self, name)}")
        if not 0.0 < self.em_fraction < 1.0:
            raise ValueError(f"em_fraction must lie between 0 and 1, got {self.em_fraction}")
        if not 0.0 <= self.average_weights <= 1.0:
            raise ValueError(f"average_weights must be a share between 0 and 1, got {self.average_weights}")
        if not 0.0 <= self.em_momentum < 1.0:
            raise ValueError(f"em_momentum must be in [0, 1), got {self.em_momentum}")
        for name, choices in (
            ("supervised_on", ("answer", "question_and_answer")),
            ("calibration_prompt", ("plain", "chat")),
            ("calibration_on_too_long", ("error", "drop")),
            ("calibration_identical_choices", ("warn", "skip", "error")),
            ("em_sharing", SHARING_RULES),
            ("em_binning", ("width", "mass")),
            ("em_source", ("held_out", "first_pass")),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
