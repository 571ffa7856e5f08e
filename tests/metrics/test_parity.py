"""What other tools compute for the same predictions: this generates `metrics/PARITY.md` and pins each difference.

Rewrite the page with `HF_CALIB_WRITE_PARITY=1 python -m pytest tests/metrics/test_parity.py`.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from hf_calib.calibrators import by_name
from hf_calib.measures import brier_score, expected_calibration_error, hle_calibration_error, negative_log_likelihood

torchmetrics = pytest.importorskip("torchmetrics.functional.classification", reason="install the extra oracles")
netcal = pytest.importorskip("netcal.metrics", reason="install the extra oracles")
netcal_scaling = pytest.importorskip("netcal.scaling", reason="install the extra oracles")
lm_eval = pytest.importorskip("lm_eval.api.metrics", reason="install the extra oracles")

PAGE = Path(__file__).parents[2] / "metrics" / "PARITY.md"

# Saturated confidences, those at the edges of bins, and others.
CONFIDENCES = np.array([1.0, 1.0, 0.95, 0.97, 0.62, 0.7, 0.7, 0.55, 0.85, 0.6])
CORRECT = np.array([1, 0, 1, 1, 1, 0, 1, 0, 1, 0])
PROBABILITIES = np.stack([CONFIDENCES, 1 - CONFIDENCES], axis=1)
LABELS = 1 - CORRECT


def of_torchmetrics(n_bins):
    import torch

    return float(
        torchmetrics.binary_calibration_error(torch.tensor(CONFIDENCES), torch.tensor(CORRECT), n_bins=n_bins)
    )


def many():
    rng = np.random.default_rng(0)
    c = rng.uniform(0.3, 1, 450)
    return c, rng.random(450) < c**2


def of_lm_eval():
    return float(lm_eval.brier_score(list(zip(LABELS.tolist(), PROBABILITIES.tolist(), strict=True))))


def overconfident():
    """Return the log-probabilities of an overconfident model over three options, and the right ones."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(600, 3))
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random((600, 1)) > true.cumsum(axis=1)).sum(axis=1).clip(max=2)
    scaled = 3 * logits
    return scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True), labels


def ece_of(probabilities, labels):
    return expected_calibration_error(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels)


def netcal_temperature(dtype):
    """Return netcal's probabilities after fitting a temperature to probabilities of a number format."""
    log_probabilities, labels = overconfident()
    probabilities = np.exp(log_probabilities).astype(dtype)
    scaling = netcal_scaling.TemperatureScaling(method="mle")
    return scaling.fit(probabilities, labels, random_state=0).transform(probabilities)


def own_temperature():
    log_probabilities, labels = overconfident()
    return by_name("temperature").fit(log_probabilities, labels).transform(log_probabilities)


def proposed_for_evaluate(references, predictions, n_bins=10):
    """Return what the `ece` that is proposed for evaluate returns: netcal's, of the positive class's probability."""
    return float(netcal.ECE(bins=n_bins).measure(predictions, references.astype(np.float64)))


def binary():
    """Return an overconfident model's probabilities of the positive class, below 1/2 too, and the labels."""
    log_probabilities, labels = overconfident()
    return np.exp(log_probabilities[:, 0]), (labels == 0).astype(int)


def typed_decisions(gold, predicted):
    """Return the scores of typed decisions: Brier score and KL divergence to a distribution, clipped at 1e-9."""
    clipped = np.maximum(predicted, 1e-9)
    positive = np.where(gold > 0, gold, 1)
    kl = np.where(gold > 0, gold * np.log(positive / clipped), 0).sum(axis=1).mean()
    return float(np.square(gold - predicted).sum(axis=1).mean()), float(kl)


def rows():
    """Return what each tool computes, what hf_calib does, and why they differ."""
    c, y = many()
    p, positive = binary()
    brier, kl = typed_decisions(np.eye(2)[LABELS], np.maximum(PROBABILITIES, 1e-9))
    return [
        (
            "torchmetrics `binary_calibration_error`, 10 bins",
            of_torchmetrics(10),
            expected_calibration_error(CONFIDENCES, CORRECT),
            "a confidence of exactly 1 gets a bin of its own (#3510)",
        ),
        (
            "netcal `ECE`, 10 bins",
            float(netcal.ECE(10).measure(CONFIDENCES, CORRECT)),
            expected_calibration_error(CONFIDENCES, CORRECT),
            "none",
        ),
        (
            "evaluate, proposed `ece`, probabilities of a positive class",
            proposed_for_evaluate(positive, p),
            expected_calibration_error(np.maximum(p, 1 - p), (p >= 0.5) == positive),
            "it bins the probability of the positive class, not the confidence in the answer (#785)",
        ),
        (
            "netcal `TemperatureScaling`, ECE after the fit, float32",
            ece_of(netcal_temperature(np.float32), overconfident()[1]),
            ece_of(own_temperature(), overconfident()[1]),
            "the temperature stays at 1: the steps of its numerical gradient vanish in float32 (#48, #61)",
        ),
        (
            "Humanity's Last Exam, calibration error",
            hle_calibration_error(c, y, variant="published"),
            hle_calibration_error(c, y),
            "the last bin, which holds the most confident answers, is left out",
        ),
        (
            "Humanity's Last Exam, 150 answers",
            hle_calibration_error(c[:150], y[:150], variant="published"),
            hle_calibration_error(c[:150], y[:150]),
            "fewer than 200 answers fall into one bin, which is left out",
        ),
        (
            "lm-evaluation-harness `brier_score`",
            of_lm_eval(),
            brier_score(PROBABILITIES, LABELS),
            "none; it rejects questions with different numbers of options (#4067)",
        ),
        (
            "typed decisions, Brier score, one-hot gold",
            brier,
            brier_score(PROBABILITIES, LABELS),
            "none; with a gold distribution it is a different score",
        ),
        (
            "typed decisions, KL divergence, one-hot gold",
            kl,
            negative_log_likelihood(PROBABILITIES, LABELS),
            "probabilities are clipped at 1e-9, and one answer with probability 1 is wrong",
        ),
    ]


def page():
    lines = [
        "# Parity",
        "",
        "What other tools compute for the same predictions, and why their figures differ. Generated by",
        "`tests/metrics/test_parity.py`, which fails if a figure changes.",
        "",
        "| tool and measure | theirs | hf_calib | reason for the difference |",
        "|---|---|---|---|",
        *(f"| {name} | {theirs:.4f} | {ours:.4f} | {reason} |" for name, theirs, ours, reason in rows()),
    ]
    return "\n".join(lines) + "\n"


def test_the_page_is_what_the_tools_compute():
    if os.environ.get("HF_CALIB_WRITE_PARITY"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page()


def test_each_difference_is_there_and_only_there():
    for name, theirs, ours, reason in rows():
        assert (theirs == pytest.approx(ours, abs=1e-9)) == reason.startswith("none"), name


def test_torchmetrics_agrees_without_a_certain_answer():
    import torch

    sure = CONFIDENCES == 1
    theirs = torchmetrics.binary_calibration_error(
        torch.tensor(CONFIDENCES[~sure]), torch.tensor(CORRECT[~sure]), n_bins=10
    )
    assert float(theirs) == pytest.approx(expected_calibration_error(CONFIDENCES[~sure], CORRECT[~sure]), abs=1e-6)


def test_netcals_temperature_is_right_in_float64():
    np.testing.assert_allclose(netcal_temperature(np.float64), own_temperature(), atol=2e-4)
    log_probabilities, labels = overconfident()
    unchanged = netcal_temperature(np.float32)
    np.testing.assert_allclose(unchanged, np.exp(log_probabilities), atol=1e-6)
    assert ece_of(own_temperature(), labels) < 0.5 * ece_of(unchanged, labels)


def test_the_ece_proposed_for_evaluate_is_the_error_of_the_positive_class():
    p, positive = binary()
    assert proposed_for_evaluate(positive, p) == pytest.approx(expected_calibration_error(p, positive))
    # The examples in its documentation.
    few = np.array([0.25, 0.25, 0.75, 0.75])
    assert proposed_for_evaluate(np.array([0, 0, 1, 1]), few, n_bins=2) == pytest.approx(0.25)
    ham = np.array(["spam", "ham", "ham", "spam"]) == "ham"
    assert proposed_for_evaluate(ham, np.array([0.1, 0.9, 0.8, 0.3])) == pytest.approx(0.175)


def test_lm_eval_refuses_mixed_numbers_of_options_and_hf_calib_does_not():
    mixed = [(0, [0.7, 0.3]), (1, [0.2, 0.3, 0.5])]
    with pytest.raises(ValueError, match="inhomogeneous"):
        lm_eval.brier_score(mixed)
    expected = ((0.3**2 + 0.3**2) + (0.2**2 + 0.7**2 + 0.5**2)) / 2
    assert brier_score([[0.7, 0.3, 0.0], [0.2, 0.3, 0.5]], [0, 1]) == pytest.approx(expected)
