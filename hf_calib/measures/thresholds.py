"""The confidence above which answers reach an accuracy, with a guarantee for new questions."""

from dataclasses import asdict, dataclass
from math import ceil, floor, log, log10

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .validation import check_correct, check_unit_interval

#: Number of tested shares of the answers, equally spaced up to all answers.
N_CANDIDATES = 20

#: The accuracies for which pages and cards show thresholds.
SHOWN_ACCURACIES = (0.8, 0.9, 0.95)


@dataclass(frozen=True)
class AccuracyThreshold:
    """A confidence above which answers reach an accuracy; see `accuracy_threshold`.

    Attributes
    ----------
    accuracy : float
        The accuracy to reach, in (0, 1).
    level : float
        Probability that the answers to new questions above the threshold reach it.
    threshold : float or None
        Answers with a higher confidence are accepted, and all answers at 0; None if no threshold reaches the accuracy.
    n, n_accepted, n_correct : int
        Number of answers, of those above the threshold, and of the right ones among these.
    accuracy_low : float or None
        Lower bound of the accuracy above the threshold on new questions, at the same level. It accounts for all
        thresholds that were tried.
    """

    accuracy: float
    level: float
    threshold: float | None
    n: int
    n_accepted: int
    n_correct: int
    accuracy_low: float | None

    @property
    def coverage(self) -> float:
        """Share of the answers above the threshold, in [0, 1]; 0 without a threshold."""
        return self.n_accepted / self.n

    @property
    def accuracy_accepted(self) -> float:
        """Accuracy of the answers above the threshold; NaN without one."""
        return self.n_correct / self.n_accepted if self.n_accepted else float("nan")

    def shown(self, digits: int = 3) -> str | None:
        """Return the threshold rounded up to `digits` decimals, or more where it would become 1; None without one."""
        if self.threshold is None:
            return None
        if self.threshold < 1:
            digits = max(digits, 1 - floor(log10(1 - self.threshold)))
        scale = 10**digits
        # The product is rounded, so the comparison decides.
        steps = floor(self.threshold * scale)
        while steps / scale < self.threshold:
            steps += 1
        return f"{steps / scale:.{digits}f}"

    def accepts(self, confidences: ArrayLike) -> NDArray[np.bool_]:
        """Return which answers are above the threshold, as a mask of shape (n,)."""
        c = check_unit_interval(confidences, "confidences")
        if self.threshold is None:
            return np.zeros(len(c), dtype=bool)
        return np.ones(len(c), dtype=bool) if self.threshold == 0 else c > self.threshold

    def to_dict(self) -> dict[str, float | int | None]:
        """Return plain values that JSON can hold, including the coverage."""
        return {**asdict(self), "coverage": self.coverage}

    @classmethod
    def from_dict(cls, state: dict[str, float | int | None]) -> "AccuracyThreshold":
        """Return the threshold of a `to_dict` state."""
        return cls(**{key: value for key, value in state.items() if key != "coverage"})  # type: ignore[arg-type]


def accuracy_threshold(
    confidences: ArrayLike, correct: ArrayLike, accuracy: float, *, level: float = 0.95
) -> AccuracyThreshold:
    """Return the lowest confidence above which answers to new questions reach an accuracy, with a guarantee.

    With a probability of at least `level` over the drawing of these answers, the answers to new questions whose
    confidence is above the threshold have at least this accuracy, whatever the distribution of the confidences. The
    answers must be independent draws from the distribution that the threshold is used on, and the confidences must not
    come from a fit on the same answers.

    The thresholds that are tried accept fixed shares of the answers: 5%, 10%, ..., 100%. Given a threshold, the
    answers above it are independent draws, so the number of right ones is binomial, and an exact test decides whether
    the accuracy is reached. The error probability is divided by the number of thresholds (Bonferroni), so among those
    that pass, the one that accepts the most answers can be chosen.

    Parameters
    ----------
    confidences : array_like of shape (n,)
        As in `expected_calibration_error`.
    correct : array_like of shape (n,)
        Whether the answer is right: booleans, or 0 and 1.
    accuracy : float
        The accuracy to reach, in (0, 1).
    level : float, default 0.95
        Probability of the guarantee, in (0, 1).

    Raises
    ------
    TypeError, ValueError
        If an argument is outside its range, or the input is invalid; the message names the value and its position.

    References
    ----------
    Angelopoulos et al., *Learn then Test: Calibrating Predictive Algorithms to Achieve Risk Control*, 2021
    (arXiv 2110.01052); Geifman, El-Yaniv, *Selective Classification for Deep Neural Networks*, NeurIPS 2017; Clopper,
    Pearson, *The use of confidence or fiducial limits illustrated in the case of the binomial*, Biometrika 26 (1934).

    Examples
    --------
    >>> confidences = np.linspace(0.5, 0.999, 1000)
    >>> found = accuracy_threshold(confidences, confidences > 0.6, 0.95)
    >>> round(found.threshold, 3), found.coverage
    (0.599, 0.8)
    """
    from scipy.special import bdtr, betaincinv

    for name, value in (("accuracy", accuracy), ("level", level)):
        if not 0 < value < 1:
            raise ValueError(f"{name}: must be above 0 and below 1, got {value}")
    c = check_unit_interval(confidences, "confidences")
    right = check_correct(correct, len(c))
    partly = np.flatnonzero((right != 0) & (right != 1))
    if partly.size:
        raise ValueError(
            f"correct[{partly[0]}] is {float(right[partly[0]])!r}, but the guarantee needs whether each answer is "
            "right: pass booleans, or 0 and 1"
        )
    n = len(c)
    error = (1 - level) / N_CANDIDATES
    ascending = np.sort(c)
    best = AccuracyThreshold(accuracy, level, None, n, 0, 0, None)
    for rank in {floor(n * step / N_CANDIDATES) for step in range(1, N_CANDIDATES + 1)} - {0}:
        everything = rank == n
        threshold = 0.0 if everything else float(ascending[n - rank - 1])
        if threshold == 0 and not everything:  # 0 stands for all answers
            continue
        accepted = np.ones(n, dtype=bool) if everything else c > threshold
        size, hits = int(accepted.sum()), int(right[accepted].sum())
        # The probability of so few wrong answers if the accuracy were just missed.
        if size > best.n_accepted and bdtr(size - hits, size, 1 - accuracy) <= error:
            low = float(betaincinv(hits, size - hits + 1, error))
            best = AccuracyThreshold(accuracy, level, threshold, n, size, hits, low)
    return best


def answers_needed(accuracy: float, level: float = 0.95) -> int:
    """Return the smallest number of answers, all of them right, with which `accuracy_threshold` finds a threshold."""
    return ceil(log((1 - level) / N_CANDIDATES) / log(accuracy))
