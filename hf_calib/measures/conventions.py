"""The calibration error under the usual conventions, side by side, among them that of Humanity's Last Exam."""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .consistency import calibration_test
from .errors import expected_calibration_error
from .ranking import equal_mass_calibration_error
from .samples import group_codes, of_length
from .smooth import smooth_ece
from .validation import as_floats, check_correct, check_range, check_unit_interval

Array = NDArray[np.float64]
_Error = Callable[[Array, NDArray], float]

_EQUAL_WIDTH = ((10, "hf_calib"), (15, "Guo, torchmetrics"), (20, ""))

# Number of draws of a calibrated model's answers; the mean calibration error over them is precise to a few percent.
_DRAWS = 100


class Convention(NamedTuple):
    """A calibration error under one convention; see `ece_conventions`."""

    name: str
    value: float
    calibrated: float
    n: int
    who: str


def hle_calibration_error(
    confidences: ArrayLike,
    correct: ArrayLike,
    *,
    bin_size: int = 100,
    variant: Literal["corrected", "published"] = "corrected",
) -> float:
    """Return the root mean square calibration error of Humanity's Last Exam, in [0, 1].

    The answers are sorted by confidence and split into bins of `bin_size`; the last bin also holds the remainder. The
    published code leaves out the last bin, with the most confident answers, so its error is 0 for 100 to 199 answers.
    The corrected variant counts all bins. Both depend on the order of answers with equal confidence, which is kept.

    Parameters
    ----------
    confidences, correct
        As in `expected_calibration_error`.
    bin_size : int, default 100
    variant : {"corrected", "published"}, default "corrected"

    Raises
    ------
    ValueError
        If the bin size is not an integer of at least 1, the variant is unknown, or the published variant gets fewer
        answers than one bin holds.

    References
    ----------
    Phan et al., *Humanity's Last Exam*, 2025 (arXiv 2501.14249); the code is `calib_err` of Hendrycks et al., *Deep
    Anomaly Detection with Outlier Exposure*, ICLR 2019.

    Examples
    --------
    >>> confidences, correct = np.full(150, 0.9), np.zeros(150)
    >>> hle_calibration_error(confidences, correct, variant="published")
    0.0
    >>> round(hle_calibration_error(confidences, correct), 3)
    0.9
    """
    if not isinstance(bin_size, (int, np.integer)) or bin_size < 1:
        raise ValueError(f"bin_size: must be an integer of at least 1, got {bin_size!r}")
    if variant not in ("corrected", "published"):
        raise ValueError(f"variant: {variant!r} is unknown; choose from corrected, published")
    c = check_unit_interval(confidences, "confidences").astype(np.float64)
    y = check_correct(correct, len(c))
    if variant == "published" and len(c) < bin_size:
        raise ValueError(
            f"variant: the published error has no bin for {len(c)} answers; give at least {bin_size}, or use "
            "'corrected'"
        )
    order = np.argsort(c, kind="stable")
    starts = np.arange(max(len(c) // bin_size, 1)) * bin_size
    sizes = np.diff(np.append(starts, len(c)))
    gaps = np.add.reduceat((c - y)[order], starts) / sizes
    last = len(starts) - (variant == "published")
    return float(np.sqrt((sizes[:last] / len(c)) @ np.square(gaps[:last])))


def confidence_at_k(confidences: ArrayLike, correct: ArrayLike) -> float:
    """Return the accuracy of giving the most confident of k sampled answers to each question, in [0, 1].

    Parameters
    ----------
    confidences : array_like of shape (n, k)
        Confidence of each sample, in [0, 1].
    correct : array_like of shape (n, k)
        Whether each sample is right. Among equally confident samples, the share of right ones counts.

    Raises
    ------
    TypeError, ValueError
        If the shapes differ, there is no sample, or a value is out of range; the message names its position.

    References
    ----------
    CATTO, arXiv 2601.23096.

    Examples
    --------
    >>> confidence_at_k([[0.9, 0.4], [0.5, 0.5]], [[1, 0], [1, 0]])
    0.75
    """
    values, right = as_floats(confidences, "confidences"), as_floats(correct, "correct")
    if values.ndim != 2 or values.shape != right.shape:
        raise ValueError(
            f"confidences: expected two arrays of shape (n, k), got {values.shape} and {right.shape} for correct"
        )
    if not values.size:
        raise ValueError(f"confidences is empty, its shape is {values.shape}: a measure needs at least one sample")
    values, right = check_range(values, "confidences"), check_range(right, "correct")
    top = values == values.max(axis=1, keepdims=True)
    return float(((right * top).sum(axis=1) / top.sum(axis=1)).mean())


def ece_conventions(
    confidences: ArrayLike,
    correct: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    option_mass: ArrayLike | None = None,
    seed: int = 0,
) -> list[Convention]:
    """Return the calibration error of the same answers under the usual conventions.

    Parameters
    ----------
    confidences, correct
        As in `expected_calibration_error`.
    groups : array_like of shape (n,), optional
        Each question's group, for the mean of the groups' errors.
    option_mass : array_like of shape (n,), optional
        Total probability of the options before normalization, for the error of the probabilities that were not
        normalized over the options.
    seed : int, default 0
        Seed of the answers that are drawn for a calibrated model.

    Returns
    -------
    list of Convention
        Each has the value; the mean value of a perfectly calibrated model with the same confidences and number of
        answers, which is above 0 because the estimates are biased; the number n of answers; and who uses the
        convention.

    Raises
    ------
    TypeError, ValueError
        If the input is invalid; the message names the value and its position.
    """
    c = check_unit_interval(confidences, "confidences").astype(np.float64)
    y = np.asarray(check_correct(correct, len(c)))
    rng = np.random.default_rng([seed, 1])  # not the stream that the data may have been drawn with

    def equal_width(name: str, n_bins: int, who: str, values: Array = c) -> Convention:
        test = calibration_test(values, y, n_bins, seed=seed)  # the same numbers as in reports
        return Convention(name, test.error, test.expected_error, len(values), who)

    def row(name: str, error: _Error, who: str) -> Convention:
        drawn = [error(c, rng.random(len(c)) < c) for _ in range(_DRAWS)]
        return Convention(name, error(c, y), float(np.mean(drawn)), len(c), who)

    found = [equal_width(f"{n_bins} equal-width bins", n_bins, who) for n_bins, who in _EQUAL_WIDTH]
    found += [row(*one) for one in _conventions(len(c))]
    if groups is not None:
        names, codes = group_codes(groups, len(c))

        def of_groups(values: Array, right: NDArray) -> float:
            return float(
                np.mean([expected_calibration_error(values[codes == g], right[codes == g]) for g in range(len(names))])
            )

        found.append(
            row(
                f"10 bins, mean over {len(names)} group{'' if len(names) == 1 else 's'}",
                of_groups,
                "tables by subject",
            )
        )
    if option_mass is not None:
        raw = c * of_length(check_unit_interval(option_mass, "option_mass"), len(c), "option_mass")
        found.append(equal_width("10 bins, raw probability", 10, "", raw))
    return found


def _conventions(n: int) -> Iterator[tuple[str, _Error, str]]:
    for n_bins in (10, 15):
        yield (
            f"{n_bins} equal-mass bins",
            lambda c, y, k=n_bins: equal_mass_calibration_error(c, y, k),  # type: ignore[misc]
            "Nguyen, O'Connor",
        )
    yield (
        "15 equal-mass bins, debiased L2",
        lambda c, y: equal_mass_calibration_error(c, y, 15, norm=2, debias=True),
        "Kumar et al.",
    )
    yield "smooth, no bins", lambda c, y: smooth_ece(c, y).value, "Błasiok, Nakkiran"
    yield "100 per bin, L2", hle_calibration_error, "HLE, corrected"
    if n >= 100:
        yield (
            "100 per bin, L2, no last bin",
            lambda c, y: hle_calibration_error(c, y, variant="published"),
            "HLE",
        )
