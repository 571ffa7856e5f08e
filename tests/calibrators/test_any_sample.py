"""What every calibrator promises, fitted on any sample there may be."""

import tempfile
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hf_calib.calibrators import by_name, calibrator_class, load_calibrator, names
from hf_calib.calibrators.protocol import BaseCalibrator

from .samples import uses_features

NAMES = [name for name in names() if issubclass(calibrator_class(name), BaseCalibrator)]
FEWEST_STEPS = {"monotonic_network": {"steps": 3}, "meta_calibration": {"steps": 1}, "simplex_etf": {"steps": 3}}
# A fit takes a hundred times as long as a transform.
FEWER = settings(max_examples=max(settings.default.max_examples // 3, 1))

anything = st.floats(allow_nan=False, allow_infinity=False)
# Ties are frequent, and so are numbers that occur.
numbers = st.one_of(st.integers(-2, 2).map(float), st.floats(-30, 30), anything)


class Given(NamedTuple):
    """What a calibrator is fitted on, and new predictions."""

    logits: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    weights: np.ndarray | None
    new: np.ndarray
    new_features: np.ndarray


@st.composite
def samples(draw, most_options=4):
    n, m, k = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(2, most_options))
    logits, new = (draw(hnp.arrays(np.float64, (rows, k), elements=numbers)) for rows in (n, m))
    for array in (logits, new):
        there = draw(hnp.arrays(np.int64, len(array), elements=st.integers(2, k)))
        array[np.arange(k) >= there[:, None]] = -np.inf
    labels = draw(hnp.arrays(np.int64, n, elements=st.integers(0, k - 1))) % np.isfinite(logits).sum(axis=1)
    measured = numbers.map(lambda number: np.clip(number, -1e150, 1e150))
    features, new_features = (draw(hnp.arrays(np.float64, (rows, 2), elements=measured)) for rows in (n, m))
    weights = draw(st.none() | hnp.arrays(np.float64, n, elements=st.floats(0, 1e6)))
    return Given(logits, labels, features, weights, new, new_features)


def fitted_or_refused(name, data):
    """Return a fitted calibrator, or None if it says clearly why it can't be."""
    labels = data.labels
    if name == "reference_agreement":
        labels = data.logits[::-1] if np.isfinite(data.logits).all() else data.logits
    elif calibrator_class(name).takes_unlabeled:
        labels = np.where(np.arange(len(labels)) % 3 == 1, -1, labels)
    features = data.features if uses_features(name) else None
    calibrator = by_name(name, **FEWEST_STEPS.get(name, {}))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return calibrator.fit(data.logits, labels, features=features, weights=data.weights)
        except ValueError as error:
            told = ("give", "needs", "all weights are 0", "agree on no", "add a constant")
            assert any(word in str(error) for word in told)  # noqa: PT017
            return None


@pytest.mark.parametrize("name", NAMES)
@FEWER
@given(data=samples())
def test_outputs_are_probabilities_the_argmax_stays_and_a_file_gives_the_same_bits(name, data):
    calibrator = fitted_or_refused(name, data)
    if calibrator is None:
        return
    features = data.new_features if uses_features(name) else None
    probabilities = calibrator.transform(data.new, features=features)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(data.new)), abs=1e-9)
    if name != "sample_consistency":
        # An answer that no sample gave may be right.
        assert (probabilities[np.isneginf(data.new)] == 0).all()
    if calibrator.keeps_argmax:
        assert (probabilities.argmax(axis=1) == data.new.argmax(axis=1)).all()
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_calibrator(calibrator.save(f"{folder}/calibrator.json"))
    assert np.array_equal(loaded.transform(data.new, features=features), probabilities)


@pytest.mark.parametrize("name", [name for name in NAMES if calibrator_class(name).monotonic])
@FEWER
@given(data=samples(most_options=2), scores=hnp.arrays(np.float64, 20, elements=numbers))
def test_a_higher_confidence_never_becomes_a_lower_one(name, data, scores):
    calibrator = fitted_or_refused(name, data)
    if calibrator is None:
        return
    log_odds = np.sort(np.abs(scores))
    confidence = calibrator.transform(np.column_stack([log_odds, np.zeros(20)]))[:, 0]
    assert (np.diff(confidence) >= 0).all()


@pytest.mark.parametrize("name", [name for name in NAMES if calibrator_class(name).takes_events])
@FEWER
@given(data=samples(most_options=2), scores=hnp.arrays(np.float64, 4, elements=numbers))
def test_events_get_probabilities(name, data, scores):
    if name == "reference_agreement":
        return
    events = data._replace(logits=data.logits[:, 0])
    calibrator = fitted_or_refused(name, events)
    if calibrator is None:
        return
    features = np.repeat(data.new_features[:1], 4, axis=0) if uses_features(name) else None
    probabilities = calibrator.transform(scores, features=features)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    if calibrator.monotonic:
        assert (np.diff(probabilities[np.argsort(scores)]) >= 0).all()
