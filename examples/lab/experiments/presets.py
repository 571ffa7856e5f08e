"""The sizes and settings of the lab's experiments."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from hf_calib.lab import PRESETS
from hf_calib.lab.presets import FineTuningSettings, LabeledSettings, LabPreset


@dataclass(frozen=True)
class RegularizedSettings:
    """RCFT with bins: the terms of long fine-tuning, with the bins found on held-out questions.

    Parameters
    ----------
    em_weight, em_steps, em_momentum, em_sharing
        As in `hf_calib.trainers.CalibrationArguments`. Each E-step sees all held-out questions.
    """

    em_weight: float = 5.0
    em_steps: int = 10
    em_momentum: float = 0.7
    em_sharing: str = "uniform"


@dataclass(frozen=True)
class AnchoredSettings:
    """Long fine-tuning with the anchor and averaged weights.

    Chosen on seeds 0 and 1; see `hf_calib.trainers.CalibrationArguments`.
    """

    anchor_weight: float = 0.5
    average_weights: float = 0.6


_LONG = FineTuningSettings(steps=600, learning_rate=2e-3, lora_rank=16)
_ANCHORED = FineTuningSettings(steps=600, eval_steps=50, lora_rank=16)
_REPAIR = FineTuningSettings(steps=300, batch_size=32)


@dataclass(frozen=True)
class ExperimentPreset(LabPreset):
    """A lab preset with the settings of the methods that only the experiments run.

    Parameters
    ----------
    long
        Fine-tuning that goes on until the questions are memorized.
    regularized
        The terms of RCFT with bins, which trains as `long` does.
    anchored, anchored_training
        The terms of fine-tuning with the anchor, and how it is trained.
    auto_fraction
        Share of the answers that the trainer's ``method="auto"`` holds out to detect memorization.
    repair
        Repair with the anchor alone.
    published_em_weight
        λ of RCFT as published.
    label_smoothing
        Assumed probability that a preference label is flipped, in DPO with label smoothing and in robust DPO.
    rpo_weight
        Weight of the chosen completions' log-loss in DPO regularized with it.
    catto_weight, bce_weight
        λ of CATTO, and of DPO with binary cross-entropy in its place.
    """

    long: FineTuningSettings = _LONG
    regularized: RegularizedSettings = field(default_factory=RegularizedSettings)
    anchored: AnchoredSettings = field(default_factory=AnchoredSettings)
    anchored_training: FineTuningSettings = _ANCHORED
    auto_fraction: float = 0.1
    repair: FineTuningSettings = _REPAIR
    published_em_weight: float = 1.0
    label_smoothing: float = 0.1
    rpo_weight: float = 1.0
    catto_weight: float = 0.1
    bce_weight: float = 0.1


def _experiment(preset: LabPreset, **changes: Any) -> ExperimentPreset:
    return ExperimentPreset(**{entry.name: getattr(preset, entry.name) for entry in fields(preset)} | changes)


def _headline(preset: LabPreset, **changes: Any) -> ExperimentPreset:
    """Test on enough questions and pairs that a difference of half a point exceeds the noise."""
    return _experiment(preset, n_test_questions=20_000, n_test_pairs=10_000, **changes)


WORLDS = ("fixed", "shuffled")
"""The kinds of world: options in a fixed order, or in a random one."""

_FIXED, _DEMO, _SHUFFLED = PRESETS["fixed"], PRESETS["demo"], PRESETS["shuffled"]

# Full weights. With half as many calibration questions per step as in the demo, a step costs a sixth more than DPO's.
_FULL = {"calibration_batch_size": 16}

_MINI = _experiment(
    PRESETS["mini"],
    long=FineTuningSettings(steps=60, learning_rate=2e-3, lora_rank=16),
    anchored_training=FineTuningSettings(steps=60, eval_steps=20, lora_rank=16),
    repair=FineTuningSettings(steps=60, batch_size=32),
)

EXPERIMENTS: dict[str, dict[str, ExperimentPreset]] = {
    # The main comparison.
    "full": {
        "fixed": _headline(
            _FIXED,
            labeled=LabeledSettings(anchor_weight=1.5, supervised_weight=2.0, em_weight=12.0, em_momentum=0.8),
            **_FULL,
        ),
        "shuffled": _headline(
            _SHUFFLED,
            labeled=LabeledSettings(anchor_weight=3.0, supervised_weight=3.0, em_weight=5.0, em_momentum=0.95),
            **_FULL,
        ),
    },
    # Aligned with adapters. The rare domain is more frequent, so that the model is calibrated on it before alignment.
    "adapters": {
        "fixed": _headline(_DEMO),
        "shuffled": _headline(replace(_SHUFFLED, corpus=_DEMO.corpus, alignment=_DEMO.alignment)),
    },
    "mini": {"fixed": _MINI, "shuffled": replace(_MINI, shuffled=True)},
}
"""The settings of the experiments, by preset and by kind of world."""
