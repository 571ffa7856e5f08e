"""Functions that this folder's scripts share: measures, their intervals over seeds, and the pages."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from hf_calib import measures as m

Results = dict[str, dict[str, float]]


def measured(probabilities, labels):
    """Return ECE, smooth ECE, NLL, Brier score and accuracy."""
    c, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    return {
        "ECE": m.expected_calibration_error(c, correct),
        "smooth ECE": m.smooth_ece(c, correct).value,
        "NLL": m.negative_log_likelihood(probabilities, labels),
        "Brier": m.brier_score(probabilities, labels),
        "accuracy": float(correct.mean()),
    }


def over_seeds(effect: Callable[[int], Results], seeds: int) -> list[dict]:
    """Return a row for each variant: the mean of each measure, with the 95% t-interval over the seeds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = [effect(seed) for seed in range(seeds)]
    rows = []
    for variant, measures in runs[0].items():
        row: dict = {"method": variant}
        for measure in measures:
            row[measure] = measure_over_runs([run[variant][measure] for run in runs])
        rows.append(row)
    return rows


def measure_over_runs(values) -> m.Measure:
    """Return the mean of a number over runs, with its 95% t-interval if there are two runs or more."""
    found = np.asarray(values, dtype=float)
    mean = float(found.mean())
    if len(found) < 2:
        return m.Measure(mean)
    half = float(student.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
    return m.Measure(mean, mean - half, mean + half)


def write_figures(page: Path, table: str, after: str = "## Measured") -> None:
    """Replace the first block of figures after a given text in a page."""
    before, rest = page.read_text(encoding="utf-8").split(after, 1)
    between, figures = rest.split("```text\n", 1)
    rest = figures.split("```", 1)[1]
    page.write_text(f"{before}{after}{between}```text\n{table}\n```{rest}", encoding="utf-8")
