"""A report in a sentence or two."""

from __future__ import annotations

from ..measures import CalibrationReport

# A model counts as well calibrated if its ECE and the upper end of the interval are below this.
GOOD = 0.03

# A model counts as over- or underconfident if at least this share of its ECE has that sign.
_ONE_SIDED = 0.8


def verdict(report: CalibrationReport) -> str:
    """Return whether the confidence can be trusted, in one or two sentences.

    Parameters
    ----------
    report : CalibrationReport
        With or without intervals.
    """
    measures = report.measures
    ece = measures["ece"]
    accuracy, confidence = measures["accuracy"].value, measures["confidence"].value
    size = f"ECE {ece.value:.3f}"
    if ece.low is not None and ece.high is not None:
        size += f", {100 * report.confidence_level:g}% interval {ece.low:.3f} to {ece.high:.3f}"
    says = f"It is right {accuracy:.0%} of the time, with a mean confidence of {confidence:.0%} ({size})."
    if ece.high is not None and ece.high < GOOD:
        return f"Well calibrated. {says}"
    if report.test is not None and report.test.p_value > 0.05:
        return (
            f"No significant miscalibration on {report.n:,} questions. {says} A perfectly calibrated model would "
            f"score an ECE of about {report.test.expected_error:.3f} on this sample."
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
