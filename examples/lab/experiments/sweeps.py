"""The sweeps: their settings and methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .compared import COMPARED
from .presets import EXPERIMENTS, ExperimentPreset
from .results import MEASURES

SWEEP_KEYS = (
    "seed",
    "reported",
    "world",
    "sweep",
    "method",
    "x",
    "domain",
    "n",
    *MEASURES,
    "bayes_accuracy",
    "train_accuracy",
    "train_confidence",
    "win_rate",
    "win_rate_open",
    "labels",
    "seconds",
)
"""The keys of a row of a sweep, in order.

The keys of the main experiment's rows have the same meaning here. ``x`` is the value of the setting, 0 for the two
baselines (``pretrained``, ``dpo``); ``bayes_accuracy`` is E[max p*] of the test questions; the accuracy and the mean
confidence in training are those on the method's answered training questions. Values that a sweep does not measure are
null.
"""

REINFORCED = ("grpo", "calibration-aware-grpo", "ppo", "calibration-aware-ppo")
"""The methods of ``reinforce.py``. TRL has PPO up to 1.12."""

REINFORCE_KEYS = (
    "seed",
    "reported",
    "world",
    "method",
    "domain",
    "n",
    *MEASURES,
    "reward",
    "reward_open",
    "win_rate",
    "win_rate_open",
    "seconds",
)
"""The keys of a row of ``reinforce.json``, in order.

The keys of the main experiment's rows have the same meaning here. ``reward`` is the annotator's mean reward, log p*,
of the answers given (the most probable option); ``reward_open`` is that of open replies sampled from the model,
including politeness.
"""

WORLD = "fixed"
BASELINES = ("pretrained", "dpo")


@dataclass(frozen=True)
class Change:
    """One point of a sweep: the settings of a method.

    Attributes
    ----------
    preset : ExperimentPreset
        The preset at this point.
    terms : mapping
        Weights of calibration-aware DPO that replace the preset's.
    """

    preset: ExperimentPreset
    terms: Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """A setting with its values, and the methods that are run at each value; without values, methods to compare.

    Attributes
    ----------
    title, label : str
        Titles of the figure and its x axis.
    methods : tuple of str
        Keys of `experiments.compared.COMPARED`.
    values, mini_values : tuple of float
        Values of the setting, in order, and those for the preset "mini". Empty if x is the training step, or there is
        no x.
    change : callable, optional
        From the method, the preset and the value to how it is run there.
    """

    title: str
    label: str
    methods: tuple[str, ...]
    values: tuple[float, ...] = ()
    mini_values: tuple[float, ...] = ()
    change: Callable[[str, ExperimentPreset, float], Change] | None = None

    def points(self, preset: str) -> tuple[float, ...]:
        """Return the values for a preset, by name."""
        return self.mini_values if preset == "mini" else self.values


def _questions(method: str, preset: ExperimentPreset, n: float) -> Change:
    """Return the point with this number of questions, a quarter of the answered ones held out as in the experiment."""
    total = int(n)
    if COMPARED[method].labels(preset):
        held_out = total // 4
        return Change(replace(preset, n_calibration_questions=total - held_out, n_held_out_questions=held_out), {})
    return Change(replace(preset, n_prompts=total), {})


def _weight(method: str, preset: ExperimentPreset, weight: float) -> Change:
    if method == "rcft":
        return Change(replace(preset, anchored=replace(preset.anchored, anchor_weight=weight)), {})
    if method == "rcft-bins":
        return Change(replace(preset, regularized=replace(preset.regularized, em_weight=weight)), {})
    return Change(preset, {"anchor_weight": weight})


SWEEPS: dict[str, Sweep] = {
    "questions": Sweep(
        "ECE against the number of calibration questions",
        "Calibration questions",
        (
            "dpo+temperature",
            "dpo+vector",
            "dpo+isotonic",
            "daca",
            "cft",
            "rcft",
            "repair-unlabelled",
            "calibration-aware-dpo",
            "calibration-aware-dpo-unlabelled",
        ),
        (50, 200, 800, 3000),
        (24, 120),
        _questions,
    ),
    "weight": Sweep(
        "ECE and accuracy against the weight of the calibration term",
        "λ: weight of the anchor, of the ECE regularizer (rcft-bins)",
        ("rcft", "rcft-bins", "calibration-aware-dpo", "calibration-aware-dpo-unlabelled"),
        (0.1, 0.3, 1, 3, 10, 30),
        (0.3, 5),
        _weight,
    ),
    "training": Sweep(
        "Accuracy and ECE over training",
        "Optimizer steps",
        ("cft", "long", "rcft-bins", "rcft"),
    ),
    "prompts": Sweep(
        "Unseen domains: where the anchor's prompts come from",
        "ECE",
        (
            "rcft",
            "rcft-pairs",
            "rcft-mutated",
            "rcft-synthesized",
            "rcft-half-way",
            "calibration-aware-dpo-unlabelled",
            "calibration-aware-dpo-pairs",
            "calibration-aware-dpo-synthesized",
            "calibration-aware-dpo-replies",
            "calibration-aware-dpo-whole-replies",
        ),
    ),
    "self-made": Sweep(
        "How many self-made prompts the anchor needs",
        "Prompts",
        ("calibration-aware-dpo-synthesized",),
        (50, 200, 500, 2000),
        (24, 120),
        _questions,
    ),
    "chat": Sweep(
        "Alignment on chats alone",
        "ECE",
        (
            "chat-dpo",
            "chat-calibration-aware-dpo",
            "chat-calibration-aware-dpo-synthesized",
            "chat-calibration-aware-dpo-prompts",
            "chat-calibration-aware-dpo-replies",
            "chat-calibration-aware-dpo-whole-replies",
        ),
    ),
    "reference": Sweep(
        "A reference that is itself miscalibrated",
        "ECE",
        (
            "supervised",
            "supervised-dpo",
            "supervised-calibration-aware-dpo",
            "supervised-calibration-aware-dpo-base",
        ),
    ),
}
"""The sweeps by name.

``questions`` gives each method so many questions: with answers where it uses answers, else prompts without. (Labeled
calibration-aware DPO has all its prompts without answers besides.) ``weight`` varies λ. ``training`` measures four
ways of fine-tuning on answers again and again while they go on; x is the step, and the weights are that step's own,
where ``rcft`` averages those of many at its end. ``self-made`` varies the number of prompts that the pre-trained model
writes. The others vary no number: they compare the variants of methods that `experiments.compared.VARIANTS` has.
"""


def compared_methods(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the methods in a sweep's rows, the baselines first, then in the sweep's order."""
    present = {row["method"] for row in rows}
    return [name for name in (*BASELINES, *SWEEPS[rows[0]["sweep"]].methods) if name in present]


def sweep_preset(preset: str) -> ExperimentPreset:
    """Return the fixed world's preset, with fewer test questions and pairs than the main experiment has.

    Four thousand questions suffice to distinguish the errors of the sweeps' methods, and a sweep measures about a
    hundred times.
    """
    full = EXPERIMENTS[preset][WORLD]
    return replace(full, n_test_questions=min(full.n_test_questions, 4000), n_test_pairs=min(full.n_test_pairs, 1000))


def measured_steps(steps: int) -> list[int]:
    """Return the steps of a training at which the model is measured: densely in the first sixth, then sparsely.

    The error changes fastest at first.
    """
    sixtieths = [*range(1, 11), *range(15, 61, 5)]
    return sorted({max(1, round(steps * part / 60)) for part in sixtieths})


def results_files(name: str) -> dict[str, Any]:
    """Return the arguments of `experiments.results.Results` for a sweep's rows."""
    return {"file": f"sweep_{name}.json", "runs": f"sweep_{name}_runs", "row_keys": SWEEP_KEYS}
