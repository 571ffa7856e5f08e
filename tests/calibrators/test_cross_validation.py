import numpy as np
import pytest

from hf_calib.calibrators import TemperatureScaling
from hf_calib.calibrators.cross_validation import cross_validate


def test_each_question_is_calibrated_by_a_fit_without_it():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(53, 3)) * 3, rng.integers(3, size=53)
    found = cross_validate(TemperatureScaling, logits, labels, n_folds=4, seed=1)
    assert sorted(np.bincount(found.folds)) == [13, 13, 13, 14]
    for fold in range(4):
        held_out = found.folds == fold
        expected = TemperatureScaling().fit(logits[~held_out], labels[~held_out]).transform(logits[held_out])
        np.testing.assert_allclose(found.probabilities[held_out], expected)


@pytest.mark.parametrize("n_folds", [1, 6])
def test_wrong_numbers_of_folds(n_folds):
    with pytest.raises(
        ValueError, match=r"folds: 5 questions cannot be divided into . folds; pass a number from 2 to"
    ):
        cross_validate(TemperatureScaling, np.zeros((5, 2)), np.zeros(5, int), n_folds=n_folds)
