"""The methods that the experiment compares, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hf_calib.lab import LabPreset

# The seeds that the presets' settings were chosen on; results are reported on others.
SETTINGS_SEEDS = (0, 1, 2)

Questions = Literal["none", "training", "held_out", "all"]


@dataclass(frozen=True)
class Method:
    """A model, and the calibrator of its probabilities.

    Attributes
    ----------
    model
        A key of `experiments.experiment.MODELS`, or None for the pre-trained model.
    trained_on
        The labeled questions that its training uses, to train on or for choices.
    calibrator
        Its name for `hf_calib.calibrators.by_name`, or None.
    fitted_on
        Which labeled questions the calibrator is fitted on; with "none", it is fitted on the prompts without answers.
    reading
        How the confidence in the model's answers is read, a key of `experiments.readings.READINGS`; None for the
        model's own probability.
    prompts
        Whether it is given the prompts without answers.
    """

    model: str | None
    trained_on: Questions = "none"
    calibrator: str | None = None
    fitted_on: Questions = "none"
    reading: str | None = None
    prompts: bool = False

    def labels(self, preset: LabPreset) -> int:
        """Count the labeled questions that the method uses, for training, fitting and choosing."""
        training, held_out = preset.n_calibration_questions, preset.n_held_out_questions
        counts = {"none": 0, "training": training, "held_out": held_out, "all": training + held_out}
        return counts[self.trained_on] + counts[self.fitted_on]


METHODS: dict[str, Method] = {
    "pretrained": Method(None),
    "dpo": Method("dpo"),
    "dpo+temperature": Method("dpo", "none", "temperature", "all"),
    "dpo+vector": Method("dpo", "none", "vector", "all"),
    "dpo+isotonic": Method("dpo", "none", "isotonic", "all"),
    "daca": Method("dpo", "none", "reference_agreement", prompts=True),
    "basecal-reeval": Method("dpo", reading="pretrained"),
    "basecal-proj": Method("dpo", reading="projected", prompts=True),
    "wise-ft-0.1": Method("wise-ft-0.1"),
    "wise-ft-0.25": Method("wise-ft-0.25"),
    "wise-ft-0.5": Method("wise-ft-0.5"),
    "wise-ft-0.75": Method("wise-ft-0.75"),
    "dpo-label-smoothing": Method("dpo-label-smoothing"),
    "dpo-robust": Method("dpo-robust"),
    "ipo": Method("ipo"),
    "rpo": Method("rpo"),
    "cdpo": Method("cdpo"),
    "cdpo-stated": Method("cdpo", reading="stated"),
    "dpo-bce": Method("dpo-bce"),
    "catto": Method("catto"),
    "cft": Method("cft", "all"),
    "long": Method("long", "all"),
    "long+temperature": Method("long-on-training", "training", "temperature", "held_out"),
    "rcft-published": Method("rcft-published", "all"),
    "rcft-published-all-bins": Method("rcft-published-all-bins", "all"),
    "rcft-bins": Method("rcft-bins", "all"),
    "rcft": Method("rcft", "all", prompts=True),
    "rcft-synthesized": Method("rcft-synthesized", "all"),
    "auto": Method("auto", "all", prompts=True),
    "repair-unlabelled": Method("repair-unlabelled", prompts=True),
    "calibration-aware-dpo": Method("calibration-aware-dpo", "all", prompts=True),
    "calibration-aware-dpo-unlabelled": Method("calibration-aware-dpo-unlabelled", prompts=True),
    "calibration-aware-dpo-pairs": Method("calibration-aware-dpo-pairs"),
    "calibration-aware-dpo-synthesized": Method("calibration-aware-dpo-synthesized"),
}
"""The methods by name, in the order of the tables.

All methods that use answers use the same number: those of the training questions and of the held-out questions. CFT
chooses its step on the held-out ones, RCFT finds its bins' targets on them, and ``long+temperature`` fits its
temperature on them; methods that need no held-out answers train, or are fitted, on both.
"""

VARIANTS: dict[str, Method] = {
    "rcft-pairs": Method("rcft-pairs", "all"),
    "rcft-mutated": Method("rcft-mutated", "all"),
    "rcft-half-way": Method("rcft-half-way", "all"),
    "calibration-aware-dpo-replies": Method("calibration-aware-dpo-replies"),
    "calibration-aware-dpo-whole-replies": Method("calibration-aware-dpo-whole-replies"),
    "chat-dpo": Method("chat-dpo"),
    "chat-calibration-aware-dpo": Method("chat-calibration-aware-dpo"),
    "chat-calibration-aware-dpo-synthesized": Method("chat-calibration-aware-dpo-synthesized"),
    "chat-calibration-aware-dpo-prompts": Method("chat-calibration-aware-dpo-prompts"),
    "chat-calibration-aware-dpo-replies": Method("chat-calibration-aware-dpo-replies"),
    "chat-calibration-aware-dpo-whole-replies": Method("chat-calibration-aware-dpo-whole-replies"),
    "supervised": Method("supervised", "all"),
    "supervised-dpo": Method("supervised-dpo", "all"),
    "supervised-calibration-aware-dpo": Method("supervised-calibration-aware-dpo", "all"),
    "supervised-calibration-aware-dpo-base": Method("supervised-calibration-aware-dpo-base", "all"),
}
"""Variants of these methods, which sweeps compare.

``rcft`` with the anchor on other prompts: those of the preference pairs, or the data's with options of other
questions (mutated); calibration-aware DPO with the anchor at one token of each pair: of the prompt (prompts), of the
chosen reply after its first token (replies), or of the whole chosen reply (whole-replies); ``rcft`` halfway back to
the pre-trained weights; alignment on the open pairs alone (chat); and alignment of a model that was first tuned on the
answers until it was overconfident: with plain DPO, with the anchor to this model, and with the anchor to the
pre-trained one (base).
"""

COMPARED = {**METHODS, **VARIANTS}
"""All methods and variants, by name."""
