"""Distances from gold distributions, as the typed-decisions benchmark defines them."""

import numpy as np
import pytest
from scipy.stats import entropy

from hf_calib.measures import (
    CalibrationReport,
    brier_from_gold,
    expected_score_error,
    kl_from_gold,
    labels_with_ties,
    total_variation,
)


def drawn(n=200, k=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(k), n), rng.dirichlet(np.ones(k), n)


def test_by_hand():
    p, gold = [[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]], [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]
    assert kl_from_gold(p, gold) == pytest.approx((np.log(2) + 0.5 * np.log(2.5) + 0.5 * np.log(5 / 7)) / 2)
    assert brier_from_gold(p, gold) == pytest.approx((0.5 + 0.01 + 0.09 + 0.04) / 2)
    assert total_variation(p, gold) == pytest.approx((0.5 + 0.3) / 2)
    assert expected_score_error(p, gold) == pytest.approx((0.5 + 0.1) / 2)
    assert kl_from_gold(p, gold, weights=[1, 0]) == pytest.approx(np.log(2))


def test_the_divergence_is_scipys_and_zero_for_the_gold_itself():
    p, gold = drawn()
    assert kl_from_gold(p, gold) == pytest.approx(entropy(gold, p, axis=1).mean())
    for measure in (kl_from_gold, brier_from_gold, total_variation, expected_score_error):
        assert measure(gold, gold) == pytest.approx(0, abs=1e-12)
        assert measure(p, gold) > 0.05


def test_predictions_are_clipped_at_1e_9():
    assert kl_from_gold([[0.0, 1.0]], [[1.0, 0.0]]) == pytest.approx(-np.log(1e-9))
    assert kl_from_gold([[0.0, 1.0]], [[1.0, 0.0]], clip=1e-3) == pytest.approx(-np.log(1e-3))


def test_a_tie_in_the_gold_counts_as_right():
    p = [[0.2, 0.8], [0.8, 0.2], [0.2, 0.8], [0.5, 0.5]]
    gold = [[0.5, 0.5], [0.5, 0.5], [0.6, 0.4], [0.5, 0.5]]
    assert labels_with_ties(p, [0, 1, 0, 1], gold).tolist() == [1, 0, 0, 0]
    # A label that is not among the most probable options of the gold stays what it is.
    assert labels_with_ties([[0.6, 0.3, 0.1]], [2], [[0.4, 0.4, 0.2]]).tolist() == [2]


def test_the_report_has_them_with_intervals_clustered_by_case():
    rng = np.random.default_rng(1)
    p, gold = drawn(100)
    ordered = np.arange(100) % 2 == 0
    alone = CalibrationReport.from_predictions(p, gold.argmax(1), gold=gold, ordered=ordered)
    assert alone.kl_from_gold.value == pytest.approx(kl_from_gold(p, gold))
    assert alone.brier_from_gold.value == pytest.approx(brier_from_gold(p, gold))
    assert alone.total_variation.value == pytest.approx(total_variation(p, gold))
    assert alone.score_error.value == pytest.approx(expected_score_error(p[ordered], gold[ordered]))
    # Five copies of each are no more information than one.
    copies = np.repeat(np.arange(100), 5)
    options = {"gold": gold[copies], "ordered": ordered[copies]}
    clustered = CalibrationReport.from_predictions(p[copies], gold[copies].argmax(1), clusters=copies, **options)
    naive = CalibrationReport.from_predictions(p[copies], gold[copies].argmax(1), **options)
    for key in ("kl_from_gold", "brier_from_gold", "total_variation", "score_error", "accuracy"):
        one, five, wrong = (getattr(report, key) for report in (alone, clustered, naive))
        assert five.high - five.low == pytest.approx(one.high - one.low, rel=0.02)
        assert wrong.high - wrong.low < 0.6 * (five.high - five.low)
    assert clustered.clustered
    assert clustered.groups == {}
    assert "kl_from_gold" not in CalibrationReport.from_predictions(p, gold.argmax(1)).measures
    assert "score_error" not in CalibrationReport.from_predictions(p, gold.argmax(1), gold=gold).measures
    shuffled = rng.permutation(100)
    again = CalibrationReport.from_predictions(
        p[shuffled], gold.argmax(1)[shuffled], gold=gold[shuffled], clusters=shuffled // 5
    )
    plain = CalibrationReport.from_predictions(p, gold.argmax(1), gold=gold, clusters=np.arange(100) // 5)
    assert again.kl_from_gold.low == pytest.approx(plain.kl_from_gold.low)


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        ([[0.5, 0.5]], r"gold has shape \(1, 2\), but probabilities has \(2, 2\)"),
        ([[0.5, 0.5], [0.5, 0.4]], r"gold\[1\] sums to 0.9"),
        ([[0.5, 0.5], [1.5, -0.5]], r"gold\[1, 0\] is 1.5"),
    ],
)
def test_invalid_gold_is_refused(gold, message):
    p = [[0.5, 0.5], [0.2, 0.8]]
    with pytest.raises(ValueError, match=message):
        kl_from_gold(p, gold)
    with pytest.raises(ValueError, match=message):
        CalibrationReport.from_predictions(p, [0, 1], gold=gold)
    with pytest.raises(ValueError, match=r"clusters has shape \(1,\)"):
        CalibrationReport.from_predictions(p, [0, 1], clusters=[0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.9, 0.0], "labels must be integers"),
        ([0, -1], r"labels\[1\] is -1"),
        ([2, 0], r"labels\[0\] is 2"),
        ([0], r"labels has shape \(1,\), but there are 2 rows"),
    ],
)
def test_labels_with_ties_are_checked(labels, message):
    p = [[0.5, 0.5], [0.9, 0.1]]
    with pytest.raises((TypeError, ValueError), match=message):
        labels_with_ties(p, labels, p)


@pytest.mark.parametrize("clip", [-1.0, 0.0, 1.0, float("nan")])
def test_the_clip_of_the_divergence_is_above_zero(clip):
    with pytest.raises(ValueError, match="clip must be between 0 and 1"):
        kl_from_gold([[0.0, 1.0]], [[1.0, 0.0]], clip=clip)
