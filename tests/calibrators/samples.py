"""Predictions to fit calibrators on."""

import warnings
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from hf_calib.calibrators import by_name, calibrator_class


class Drawn(NamedTuple):
    """Logits, labels and features of n questions."""

    logits: np.ndarray
    labels: np.ndarray
    features: np.ndarray


def sharpened(n, sharpness, *, seed=0, k=4):
    """Logits that are `sharpness` times those that the labels are drawn from."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, k))
    labels = (rng.random((n, 1)) > softmax(logits, axis=1).cumsum(axis=1)).sum(axis=1).clip(0, k - 1)
    return sharpness * logits, labels


def drawn(n=400, *, sharpness=3.0, seed=0, k=4, d=3):
    """Sharpened logits with features that say something about the answer."""
    logits, labels = sharpened(n, sharpness, seed=seed, k=k)
    rng = np.random.default_rng(seed + 1000)
    features = rng.normal(size=(n, d))
    features[:, 0] += labels == logits.argmax(axis=1)
    return Drawn(logits, labels, features)


#: What each calibrator is made with in tests that only need it to work: little training.
QUICK = {
    "monotonic_network": {"steps": 40},
    "meta_calibration": {"steps": 10},
    "simplex_etf": {"steps": 40},
}


def fitted(name, data, *, labels=None, seed=0, **options):
    """Fit a calibrator by name to what it takes, without warnings."""
    calibrator = by_name(name, **{**QUICK.get(name, {}), **options})
    answers = data.labels if labels is None else labels
    if name == "reference_agreement":
        # A reference that is right about as often as it is sure.
        answers = data.logits / 3 + np.random.default_rng(seed).normal(0, 0.1, data.logits.shape)
    if calibrator_class(name).takes_unlabeled and len(answers) > 1:
        answers = np.asarray(answers).copy()
        answers[-len(answers) // 4 :] = -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return calibrator.fit(data.logits, answers, features=data.features if uses_features(name) else None)


def uses_features(name):
    """Whether the tests give a calibrator features."""
    return calibrator_class(name).needs_features


def transformed(name, calibrator, data, **options):
    """Transform with features where the calibrator needs them."""
    return calibrator.transform(data.logits, features=data.features if uses_features(name) else None, **options)
