"""Probabilities that were rounded to three decimals, with ones and zeros among them, in every calibrator."""

import warnings

import numpy as np
import pytest
from scipy.special import softmax

from hf_calib.calibrators import by_name, calibrator_class, names
from hf_calib.calibrators.inputs import check_predictions
from hf_calib.calibrators.protocol import BaseCalibrator
from hf_calib.measures.validation import ROUNDING

from .samples import QUICK, sharpened, uses_features

NAMES = [name for name in names() if issubclass(calibrator_class(name), BaseCalibrator)]


def rounded(k, n=120, seed=3):
    logits, labels = sharpened(n, 6.0, seed=seed, k=k)
    p = softmax(logits, axis=1).round(3)
    p[0], labels[0] = np.eye(k)[0], 0
    # The right option was rounded to zero.
    p[1], labels[1] = np.eye(k)[0], k - 1
    p[2], labels[2] = np.eye(k)[-1], 0
    return p, labels


def fit_and_transform(name, p, labels, new):
    answers = labels
    if name == "reference_agreement":
        answers = np.where(p > 0, p, 0)
    elif calibrator_class(name).takes_unlabeled:
        answers = labels.copy()
        answers[-20:] = -1
    phi = np.random.default_rng(0).normal(size=(len(p), 2)) if uses_features(name) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        calibrator = by_name(name, **QUICK.get(name, {})).fit(p, answers, kind="probabilities", features=phi)
        features = None if phi is None else np.tile(phi[0], (len(new), 1))
        return calibrator.transform(new, kind="probabilities", features=features)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [2, 4])
def test_rounded_zeros_and_ones(name, k):
    p, labels = rounded(k)
    assert (p == 0).any() & (p == 1).any()
    result = fit_and_transform(name, p, labels, p)
    assert np.isfinite(result).all()
    assert ((result >= 0) & (result <= 1)).all()
    assert result.sum(axis=1) == pytest.approx(np.ones(len(p)))
    # A calibrator that softens every answer leaves none at 1 where two options are there.
    if name == "temperature":
        assert result.max() < 1


@pytest.mark.parametrize("name", NAMES)
def test_what_is_a_hair_outside_is_what_it_was_before_rounding(name):
    p, labels = rounded(2)
    off = p + np.where(p == 1, 2.3e-16, 0) - np.where(p == 0, 1e-17, 0)
    assert (off > 1).any() & (off < 0).any()
    np.testing.assert_array_equal(fit_and_transform(name, off, labels, off), fit_and_transform(name, p, labels, p))


@pytest.mark.parametrize("name", [name for name in NAMES if calibrator_class(name).takes_events])
def test_events_of_probability_0_and_1(name):
    if name == "reference_agreement":
        pytest.skip("takes predictions for labels")
    p, labels = rounded(2)
    result = fit_and_transform(name, p[:, 1], labels, np.array([0.0, 0.25, 1.0, 1.0000000000000002]))
    assert ((result >= 0) & (result <= 1)).all()
    assert result[2] == result[3]


def test_which_zeros_are_options():
    p = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]
    logits, _ = check_predictions(p, "probabilities")
    floor = np.log(ROUNDING)
    np.testing.assert_allclose(logits, [[0, floor, -np.inf], [floor, floor, 0], [0, 0, -np.inf], [floor, 0, -np.inf]])


def test_a_label_makes_options_of_the_zeros_up_to_it():
    p = np.array([[1.0, 0.0, 0.0, 0.0], [0.7, 0.2, 0.1, 0.0]])
    p = np.repeat(p, [1, 9], axis=0)
    calibrator = by_name("temperature").fit(p, [3, *[0] * 7, 1, 2], kind="probabilities")
    written_out = p.copy()
    written_out[0, 1:] = 1e-6
    logits = np.log(np.where(written_out > 0, written_out, 1), where=written_out > 0, out=np.full(p.shape, -np.inf))
    expected = by_name("temperature").fit(logits, [3, *[0] * 7, 1, 2]).parameters()["temperature"]
    assert calibrator.parameters()["temperature"] == pytest.approx(expected, rel=1e-6)
    assert calibrator.transform(p, kind="probabilities")[1, 3] == 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [[1.01, 0.0], [0.51, 0.5], [-0.001, 1.0]])
def test_more_than_rounding_is_refused_with_the_row(name, bad):
    p, labels = rounded(2)
    p[5] = bad
    with pytest.raises(ValueError, match="row 5, counted from 0"):
        fit_and_transform(name, p, labels, p)


def test_normalizing_is_said():
    p = np.array([[0.333, 0.433, 0.233], [0.5, 0.25, 0.25], [0.6, 0.3, 0.1]])
    with pytest.warns(UserWarning, match=r"1 of 3 rows .* sums up to 0.001 away from 1.* divided by its sum"):
        by_name("temperature").fit(p, [2, 0, 0], kind="probabilities")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        by_name("temperature").fit(softmax(p, axis=1).astype(np.float32), [2, 0, 0], kind="probabilities")
