"""What every measure of a report must have: weights, groups with both averages, an interval, and one for clusters."""

import numpy as np
import pytest

from hf_calib.measures import CATALOG, CalibrationReport

from .samples import probabilities_and_labels

N = 240


def given(n, seed=5):
    """Return a report's inputs, options that every measure needs among them."""
    rng = np.random.default_rng(seed)
    p, y = probabilities_and_labels(n, seed=seed)
    return {
        "probabilities": p,
        "labels": y,
        "option_mass": rng.random(n),
        "true_probabilities": rng.permuted(p, axis=1),
        "features": rng.random((n, 2)),
        "flips": rng.random(n),
        "most_confident_correct": rng.integers(0, 3, n) / 2,
        "gold": rng.permuted(p, axis=1),
        "ordered": np.arange(n) % 2 == 0,
    }


def rows(inputs, index):
    return {name: values[index] for name, values in inputs.items()}


def measured(inputs, **options):
    return CalibrationReport.from_predictions(**inputs, **options)


@pytest.fixture(scope="module")
def weighted():
    weights = np.random.default_rng(0).integers(0, 4, N)
    inputs = given(N)
    repeated = rows(inputs, np.repeat(np.arange(N), weights))
    return measured(inputs, weights=weights, n_resamples=0), measured(repeated, n_resamples=0)


@pytest.fixture(scope="module")
def grouped():
    inputs, rng = given(N), np.random.default_rng(1)
    groups, weights = rng.choice(list("abc"), N, p=[0.5, 0.3, 0.2]), rng.random(N)
    whole = measured(inputs, groups=groups, weights=weights, n_resamples=100, all_group_intervals=True)
    alone = {name: measured(rows(inputs, groups == name), weights=weights[groups == name]) for name in "abc"}
    return whole, alone, {name: float(weights[groups == name].sum()) for name in "abc"}


@pytest.fixture(scope="module")
def clustered():
    """The same questions five times over, taken for other ones and as one group each."""
    inputs = rows(given(100), np.tile(np.arange(100), 5))
    return measured(inputs), measured(inputs, groups=np.tile(np.arange(100), 5))


@pytest.mark.parametrize("name", CATALOG)
def test_weights_count_as_repetitions(name, weighted):
    with_weights, repeated = weighted
    if name == "rms_ce_debiased":
        # What is taken off for noise depends on the number of samples behind a weight.
        assert with_weights.measures[name].value < repeated.measures[name].value
        return
    assert with_weights.measures[name].value == pytest.approx(repeated.measures[name].value, abs=1e-9)


@pytest.mark.parametrize("name", CATALOG)
def test_groups_are_measured_alone_and_averaged_both_ways(name, grouped):
    whole, alone, weights = grouped
    values = {group: report.measures[name].value for group, report in alone.items()}
    for group, value in values.items():
        measure = whole.groups[group].measures[name]
        assert measure.value == pytest.approx(value, abs=1e-12)
        assert measure.low <= measure.value <= measure.high
    assert whole.macro[name] == pytest.approx(np.mean(list(values.values())))
    assert whole.micro[name] == pytest.approx(np.average(list(values.values()), weights=[weights[g] for g in values]))


@pytest.mark.parametrize("name", CATALOG)
def test_the_interval_holds_the_value_and_allows_for_clusters(name, clustered):
    alone, together = (report.measures[name] for report in clustered)
    for measure in (alone, together):
        assert measure.low <= measure.value <= measure.high
    assert together.value == alone.value
    # Five copies tell no more than one, so the noise is √5 times as large; but some ends are cut off at a bound.
    assert together.high - together.low > 1.15 * (alone.high - alone.low) > 0


def test_the_weighted_micro_average_of_accuracies_is_the_accuracy_and_survives_json(grouped):
    whole, _, _ = grouped
    assert whole.micro["accuracy"] == pytest.approx(whole.measures["accuracy"].value)
    assert CalibrationReport.from_dict(whole.to_dict()).micro == whole.micro
