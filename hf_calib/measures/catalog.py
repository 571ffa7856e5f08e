"""The catalog of measures: what each is called, what it means, which direction is better and where it is shown.

Reports, tables, pages, cards, logs and thresholds read it. To add a measure, add an entry here, with a function of a
`Battery` that computes it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from .battery import ACCURACY, COVERAGE, LOW_MASS, Battery
from .estimates import Measure

#: Where a measure can be shown besides a report's table and JSON, which hold all of them: on a terminal's screen,
#: among the key figures at the top of the page, in the tables of the model card, in a trainer's log, in comparisons of
#: models, in comparisons of calibrators, and in tables with one row per dataset or subject.
Place = Literal["terminal", "page", "card", "log", "models", "calibrators", "groups"]


@dataclass(frozen=True)
class MeasureInfo:
    """The description of a measure.

    Attributes
    ----------
    key : str
        Its name in reports, logs and conditions such as `--fail-if "ece>0.05"`.
    label : str
        Its full name, for the row of a table.
    short : str
        Its name in a sentence or a column's header.
    meaning : str
        An explanation in one line.
    direction : {"lower", "higher"} or None
        Which values are better; None if neither.
    shown : tuple of str
        Where it is shown besides the report's table and JSON.
    compute : callable
        Takes a `Battery` and returns the value with its interval, or None where the sample lacks what it needs.
    """

    key: str
    label: str
    short: str
    meaning: str
    direction: Literal["lower", "higher"] | None
    compute: Callable[[Battery], Measure | None]
    shown: tuple[Place, ...] = ()


_MEASURES = (
    MeasureInfo(
        "accuracy",
        "Accuracy",
        "accuracy",
        "share of right answers",
        "higher",
        Battery.accuracy,
        ("terminal", "page", "card", "log", "models", "calibrators", "groups"),
    ),
    MeasureInfo(
        "confidence",
        "Mean confidence",
        "confidence",
        "mean probability of the chosen option",
        None,
        Battery.confidence,
        ("terminal", "page", "card", "log", "models", "calibrators", "groups"),
    ),
    MeasureInfo(
        "signed_gap",
        "Mean confidence - accuracy",
        "confidence - accuracy",
        "positive for an overconfident model, negative for an underconfident one",
        None,
        Battery.signed_gap,
    ),
    MeasureInfo(
        "ece",
        "Expected calibration error (ECE)",
        "ECE",
        "mean gap between confidence and accuracy over equal-width bins of the confidence",
        "lower",
        Battery.ece,
        ("terminal", "page", "card", "log", "models", "calibrators", "groups"),
    ),
    MeasureInfo(
        "ece_raw",
        "ECE of the raw probabilities",
        "raw ECE",
        "ECE of the probabilities in the whole vocabulary, not normalized over the options; given where these have "
        f"less than {LOW_MASS:.0%} of it",
        "lower",
        Battery.ece_raw,
        ("terminal", "page", "card"),
    ),
    MeasureInfo(
        "overconfidence",
        "ECE due to overconfidence",
        "overconfidence",
        "part of the ECE from bins where confidence exceeds accuracy",
        "lower",
        Battery.overconfidence,
    ),
    MeasureInfo(
        "underconfidence",
        "ECE due to underconfidence",
        "underconfidence",
        "part of the ECE from bins where accuracy exceeds confidence",
        "lower",
        Battery.underconfidence,
    ),
    MeasureInfo(
        "ece_equal_mass",
        "ECE, equal-mass bins",
        "equal-mass ECE",
        "ECE over bins with the same number of answers each",
        "lower",
        Battery.ece_equal_mass,
    ),
    MeasureInfo(
        "tce",
        "Target calibration error (TCE)",
        "TCE",
        "mean gap between the confidence and the true probability of the chosen option, known for synthetic data only",
        "lower",
        Battery.tce,
        ("card",),
    ),
    MeasureInfo(
        "ece_true",
        "ECE with true probabilities",
        "ECE (true)",
        "ECE with the true probability in place of the label",
        "lower",
        Battery.ece_true,
        ("card",),
    ),
    MeasureInfo(
        "cw_ece",
        "Classwise ECE (cw-ECE)",
        "cw-ECE",
        "ECE of each option's probability, averaged over the options",
        "lower",
        Battery.cw_ece,
        ("card", "log", "models"),
    ),
    MeasureInfo(
        "ace",
        "Adaptive calibration error (ACE)",
        "ACE",
        "classwise ECE over equal-mass bins",
        "lower",
        Battery.ace,
    ),
    MeasureInfo(
        "smooth_ece",
        "Smooth ECE",
        "smooth ECE",
        "calibration error with kernel smoothing in place of bins",
        "lower",
        Battery.smooth_ece,
        ("page", "card", "log"),
    ),
    MeasureInfo(
        "mce",
        "Maximum calibration error (MCE)",
        "MCE",
        "largest gap of a bin",
        "lower",
        Battery.mce,
    ),
    MeasureInfo(
        "rms_ce",
        "Root mean square calibration error",
        "RMS calibration error",
        "root of the mean squared gap over equal-width bins",
        "lower",
        Battery.rms_ce,
    ),
    MeasureInfo(
        "rms_ce_debiased",
        "Root mean square, debiased",
        "debiased RMS calibration error",
        "root mean square calibration error, corrected for the noise of finite samples",
        "lower",
        Battery.rms_ce_debiased,
    ),
    MeasureInfo(
        "ks",
        "Kolmogorov-Smirnov calibration error",
        "KS error",
        "largest cumulative gap over the answers sorted by confidence",
        "lower",
        Battery.ks,
    ),
    MeasureInfo(
        "kernel_ce",
        "Maximum mean calibration error (MMCE)",
        "MMCE",
        "gaps of all pairs of answers, weighted by a kernel of their confidences",
        "lower",
        Battery.kernel_ce,
    ),
    MeasureInfo(
        "lce",
        "Local calibration error (LCE)",
        "LCE",
        "mean gap among questions with similar features and confidences",
        "lower",
        Battery.lce,
    ),
    MeasureInfo(
        "dece",
        "Differentiable ECE (DECE)",
        "DECE",
        "ECE with soft bins and a soft accuracy, usable as a loss",
        "lower",
        Battery.dece,
    ),
    MeasureInfo(
        "nll",
        "Negative log-likelihood (NLL)",
        "NLL",
        "mean negative log-probability of the right option, in nats",
        "lower",
        Battery.nll,
        ("page", "card", "log", "models", "calibrators"),
    ),
    MeasureInfo(
        "brier",
        "Brier score",
        "Brier score",
        "squared distance between the probabilities and the right answer, summed over the options",
        "lower",
        Battery.brier,
        ("terminal", "page", "card", "log", "models"),
    ),
    MeasureInfo(
        "brier_reliability",
        "Brier reliability of the confidence",
        "reliability",
        "calibration part of the confidence's Brier score",
        "lower",
        Battery.brier_reliability,
    ),
    MeasureInfo(
        "brier_resolution",
        "Brier resolution of the confidence",
        "resolution",
        "how much the bins' accuracies differ, subtracted in the confidence's Brier score",
        "higher",
        Battery.brier_resolution,
    ),
    MeasureInfo(
        "brier_uncertainty",
        "Brier uncertainty of the confidence",
        "uncertainty",
        "accuracy × (1 - accuracy), which no change of the confidence can reduce",
        None,
        Battery.brier_uncertainty,
    ),
    MeasureInfo(
        "kl_from_gold",
        "KL divergence from gold",
        "KL from gold",
        "KL(gold ‖ prediction) in nats, where gold distributions are given; predictions below 1e-9 count as 1e-9",
        "lower",
        Battery.kl_from_gold,
    ),
    MeasureInfo(
        "brier_from_gold",
        "Brier score against gold",
        "Brier from gold",
        "squared distance between the probabilities and the gold distribution, summed over the options",
        "lower",
        Battery.brier_from_gold,
    ),
    MeasureInfo(
        "total_variation",
        "Total variation from gold",
        "total variation",
        "half the sum of the distances between the probabilities and the gold distribution",
        "lower",
        Battery.total_variation,
    ),
    MeasureInfo(
        "score_error",
        "Expected-score error",
        "score error",
        "distance between the expected level and the gold one, for questions with ordered levels",
        "lower",
        Battery.score_error,
    ),
    MeasureInfo(
        "auroc",
        "AUROC of the confidence",
        "AUROC",
        "probability that a right answer has a higher confidence than a wrong one",
        "higher",
        Battery.auroc,
        ("terminal", "page", "models"),
    ),
    MeasureInfo(
        "aurc",
        "Area under risk-coverage curve (AURC)",
        "AURC",
        "mean error rate over all shares of the most confident answers",
        "lower",
        Battery.aurc,
    ),
    MeasureInfo(
        "excess_aurc",
        "Excess AURC (E-AURC)",
        "E-AURC",
        "AURC above that of a perfect ranking with the same accuracy",
        "lower",
        Battery.excess_aurc,
    ),
    MeasureInfo(
        "accuracy_at_coverage",
        f"Accuracy at {COVERAGE:.0%} coverage",
        f"accuracy at {COVERAGE:.0%} coverage",
        f"accuracy of the {COVERAGE:.0%} most confident answers",
        "higher",
        Battery.accuracy_at_coverage,
    ),
    MeasureInfo(
        "coverage_at_accuracy",
        f"Coverage at {ACCURACY:.0%} accuracy",
        f"coverage at {ACCURACY:.0%} accuracy",
        f"largest share of the most confident answers that reaches {ACCURACY:.0%} accuracy",
        "higher",
        Battery.coverage_at_accuracy,
    ),
    MeasureInfo(
        "option_mass",
        "Probability mass on the options",
        "option mass",
        "share of the probability over the whole vocabulary that falls on the options",
        None,
        Battery.option_mass,
        ("page", "card", "log"),
    ),
    MeasureInfo(
        "flip_rate",
        "Flip rate under permuted options",
        "flip rate",
        "share of answers that change when the options are put in another order",
        "lower",
        Battery.flip_rate,
        ("terminal", "page", "card"),
    ),
    MeasureInfo(
        "confidence_at_k",
        "Confidence@k",
        "Confidence@k",
        "accuracy of the most probable of k sampled answers, whereas accuracy is that of the most frequent one",
        "higher",
        Battery.confidence_at_k,
        ("page", "card"),
    ),
)

#: Every measure by its key, in the order of a report.
CATALOG: Mapping[str, MeasureInfo] = {info.key: info for info in _MEASURES}


def shown_in(place: Place) -> tuple[MeasureInfo, ...]:
    """Return the measures that are shown in a place, in the catalog's order."""
    return tuple(info for info in CATALOG.values() if place in info.shown)
