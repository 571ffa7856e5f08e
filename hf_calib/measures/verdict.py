"""A report in a sentence or two, and the findings that cast doubt on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .consistency import CalibrationTest
from .estimates import Measure

# A model counts as well calibrated if its ECE and the upper end of the interval are below this.
GOOD = 0.03

# A model counts as over- or underconfident if at least this share of its ECE has that sign.
_ONE_SIDED = 0.8

# Miscalibration with a p-value up to this is significant.
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Finding:
    """A reason to doubt a reading; `hf_calib.reports.checks` has the list.

    Attributes
    ----------
    code : str
        Which check found it.
    serious : bool
        Whether it puts the whole reading in doubt; then the verdict leads with it.
    sentence : str
        What was found.
    remedy : str
        What to try next.
    options : tuple of str
        Command-line options to try, the best first.
    dataset : str or None
        The dataset that it is about, if a measurement has several.
    """

    code: str
    serious: bool
    sentence: str
    remedy: str
    options: tuple[str, ...] = ()
    dataset: str | None = None

    def __str__(self) -> str:
        where = "" if self.dataset is None else f"{self.dataset}: "
        return f"{where}{self.sentence} {self.remedy}".rstrip()

    def of(self, dataset: str) -> Finding:
        """Return the same finding as one about a dataset."""
        return replace(self, dataset=dataset)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {**asdict(self), "options": list(self.options)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Finding:
        """Return the finding of a `to_dict` state."""
        return cls(**{**state, "options": tuple(state["options"])})


def verdict(
    measures: Mapping[str, Measure], test: CalibrationTest | None, n: int, level: float, findings: Sequence[Finding]
) -> str:
    """Return whether the confidence can be trusted, in a few sentences, beginning with the most serious finding.

    Parameters
    ----------
    measures : mapping of str to Measure
    test : CalibrationTest, optional
    n : int
        Number of questions.
    level : float
        Of the intervals.
    findings : sequence of Finding
        The most serious first.
    """
    ece = measures["ece"]
    accuracy, confidence = measures["accuracy"].value, measures["confidence"].value
    size = f"ECE {ece.value:.3f}"
    if ece.low is not None and ece.high is not None:
        size += f", {100 * level:g}% interval {ece.low:.3f} to {ece.high:.3f}"
    says = f"It is right {accuracy:.0%} of the time, with a mean confidence of {confidence:.0%} ({size})."
    if findings and findings[0].serious:
        return f"{findings[0]} {says}"
    if ece.high is not None and ece.high < GOOD:
        return f"Well calibrated. {says}"
    if test is not None and test.p_value > SIGNIFICANT:
        return (
            f"No significant miscalibration on {n:,} question{'' if n == 1 else 's'}. {says} Chance alone gives a "
            f"perfectly calibrated model an ECE of about {test.expected_error:.3f} on this many."
        )
    over, under = measures["overconfidence"].value, measures["underconfidence"].value
    if over >= _ONE_SIDED * (over + under):
        kind = "Overconfident"
    elif under >= _ONE_SIDED * (over + under):
        kind = "Underconfident"
    else:
        kind = "Miscalibrated, overconfident at some confidences and underconfident at others"
    degree = "" if ece.value >= 0.1 else "Slightly " if ece.value < 0.05 else "Somewhat "
    return f"{(degree + kind[0].lower() + kind[1:]) if degree else kind}. {says}"


def convention_note(conventions: Mapping[str, Mapping[str, Any]]) -> str:
    """Return what ECEs are, in a sentence.

    Parameters
    ----------
    conventions : mapping of str to mapping
        `CalibrationReport.ece_convention` of each model or set of questions by name; names are shown where there are
        several.
    """

    def each(values: Mapping[str, str], between: str) -> str:
        if len(set(values.values())) == 1:
            return next(iter(values.values()))
        *first, last = (f"{value} ({name})" for name, value in values.items())
        return f"{', '.join(first)}{between}{last}"

    n_bins = each({name: str(one["n_bins"]) for name, one in conventions.items()}, " or ")
    sizes = each({name: f"{one['n']:,}" for name, one in conventions.items()}, " and ")
    text = f"ECE: {n_bins} bins of equal width, L1, pooled over {sizes} question{'' if sizes == '1' else 's'}"
    calibrated = {
        name: f"{one['calibrated_model']:.3f}"
        for name, one in conventions.items()
        if one["calibrated_model"] is not None
    }
    if calibrated:
        text += f"; a perfectly calibrated model would score {each(calibrated, ' or ')} on average"
    fitted = [name for name, one in conventions.items() if one["in_sample"]]
    if fitted:
        which = "" if len(fitted) == len(conventions) else f" ({', '.join(fitted)})"
        text += f"; a calibrator was fitted on these questions{which}"
    return f"{text}."
