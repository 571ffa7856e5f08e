"""Against libraries that are not among the tests' own requirements; `pip install .[oracles]` brings them."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from hf_calib.calibrators import by_name

from .samples import sharpened

pytestmark = pytest.mark.oracle


def test_temperature_is_probmetrics():
    calibrators = pytest.importorskip("probmetrics.calibrators")
    distributions = pytest.importorskip("probmetrics.distributions")
    import torch

    logits, labels = sharpened(600, 2.5, seed=20)
    theirs = calibrators.TemperatureScalingCalibrator()
    theirs.fit_torch(distributions.CategoricalLogits(torch.from_numpy(logits)), torch.from_numpy(labels))
    ours = by_name("temperature").fit(logits, labels)
    assert ours.temperature == pytest.approx(1 / theirs.invtemp_, abs=1e-6)


def test_conformal_intervals_are_mapies():
    regression = pytest.importorskip("mapie.regression")
    scores = pytest.importorskip("mapie.conformity_scores")
    from sklearn.base import BaseEstimator, RegressorMixin

    class Given(RegressorMixin, BaseEstimator):
        """A regressor whose prediction is its feature."""

        def fit(self, x, y):
            self.fitted_ = True
            return self

        def predict(self, x):
            return np.asarray(x)[:, 0]

    rng = np.random.default_rng(0)
    mean = rng.normal(size=199)
    y = mean + rng.exponential(size=199)
    for level in (0.5, 0.8, 0.9):
        theirs = regression.SplitConformalRegressor(
            Given().fit(mean[:, None], y),
            confidence_level=level,
            conformity_score=scores.AbsoluteConformityScore(sym=False),
            prefit=True,
        ).conformalize(mean[:, None], y)
        expected = theirs.predict_interval(np.array([[0.0], [1.0]]))[1][..., 0]
        ours = by_name("modular_conformal", interpolation="step").fit(mean, y).interval([0.0, 1.0], level)
        assert ours == pytest.approx(expected, abs=1e-6)


def test_beta_is_betacals():
    betacal = pytest.importorskip("betacal")
    rng = np.random.default_rng(1)
    p = rng.random(500)
    happened = rng.random(500) < expit(2 * np.log(p) - 0.5 * np.log1p(-p))
    theirs = betacal.BetaCalibration("abm").fit(p[:, None], happened).predict(p)
    ours = by_name("beta", prior_precision=0).fit(p, happened, kind="probabilities").transform(p, kind="probabilities")
    # Theirs stops early, at scikit-learn's default tolerance: ours is near it, and fits no worse.
    assert ours == pytest.approx(theirs, abs=2e-3)

    def loss(q):
        return -np.where(happened, np.log(q), np.log1p(-q)).mean()

    assert loss(ours) <= loss(theirs) + 1e-12


def test_temperature_and_beta_are_netcals_maps():
    scaling = pytest.importorskip("netcal.scaling")
    logits, labels = sharpened(600, 2.5, seed=20)
    p = softmax(logits, axis=1)
    c, right = p.max(axis=1), p.argmax(axis=1) == labels
    theirs, ours = scaling.TemperatureScaling(), by_name("temperature").fit(logits, labels)
    theirs.fit(p, labels)
    # Theirs is minimized to about five digits; what is fitted agrees as far, and at our number the maps are one.
    assert ours.temperature == pytest.approx(1 / theirs.temperature[0], rel=1e-5)
    assert log_loss(ours.transform(logits), labels) <= log_loss(theirs.transform(p), labels) + 1e-12
    theirs._sites["weights"]["values"] = np.array([1 / ours.temperature])
    assert ours.transform(logits) == pytest.approx(theirs.transform(p), abs=1e-9)

    theirs, ours = scaling.BetaCalibration(), by_name("beta", prior_precision=0).fit(c, right, kind="probabilities")
    theirs.fit(c, right.astype(int))
    q = ours.transform(c, kind="probabilities")
    assert q == pytest.approx(theirs.transform(c), abs=5e-5)
    pair = np.column_stack([1 - q, q])
    assert log_loss(pair, right) <= log_loss(np.column_stack([1 - theirs.transform(c), theirs.transform(c)]), right)
    theirs._sites["weights"]["values"], theirs._sites["bias"]["values"] = np.split(np.array(ours.coefficients), [2])
    assert q == pytest.approx(theirs.transform(c), abs=1e-9)


def log_loss(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), np.asarray(labels).astype(int)]).mean()


def test_histogram_and_isotonic_are_netcals():
    binning = pytest.importorskip("netcal.binning")
    logits, labels = sharpened(600, 2.5, seed=20)
    p = softmax(logits, axis=1)
    c, right = p.max(axis=1), p.argmax(axis=1) == labels
    new = softmax(sharpened(300, 2.5, seed=21)[0], axis=1).max(axis=1)
    for name, theirs, options in (
        ("histogram", binning.HistogramBinning(10), {"scheme": "equal_width"}),
        ("isotonic", binning.IsotonicRegression(), {}),
    ):
        theirs.fit(c, right.astype(int))
        ours = by_name(name, **options).fit(c, right, kind="probabilities")
        # Ours keeps values within what the questions can show, so where theirs are 0 or 1 they differ.
        between = c[(theirs.transform(c) > 0) & (theirs.transform(c) < 1)]
        seen = new[(new >= between.min()) & (new <= between.max())]
        assert len(seen) > 200
        assert ours.transform(seen, kind="probabilities") == pytest.approx(theirs.transform(seen), abs=1e-6)


@pytest.mark.parametrize(("scheme", "strategy"), [("equal_width", "uniform"), ("equal_mass", "quantile")])
def test_histogram_is_probmetrics(scheme, strategy):
    calibrators = pytest.importorskip("probmetrics.calibrators.binning")
    logits, labels = sharpened(600, 2.5, seed=20)
    p = softmax(logits, axis=1)
    c, right = p.max(axis=1), p.argmax(axis=1) == labels
    pair = np.column_stack([1 - c, c])
    theirs = calibrators.BinaryHistogramBinningCalibrator(n_bins=10, strategy=strategy).fit(pair, right.astype(int))
    ours = by_name("histogram", scheme=scheme).fit(c, right, kind="probabilities").transform(c, kind="probabilities")
    expected = theirs.predict_proba(pair)[:, 1]
    assert len(np.unique(expected)) > 5
    # Ours keeps values within what a bin's questions can show; none of these bins is of one kind alone.
    inside = (expected > 0.05) & (expected < 0.95)
    assert inside.mean() > 0.9
    assert ours[inside] == pytest.approx(expected[inside], abs=1e-6)


@pytest.mark.parametrize("name", ["vector", "matrix"])
def test_vector_and_matrix_scaling_are_probmetrics_as_far_as_it_goes(name):
    calibrators = pytest.importorskip("probmetrics.calibrators")
    distributions = pytest.importorskip("probmetrics.distributions")
    import torch

    logits, labels = sharpened(600, 2.5, seed=20)
    centered = logits - logits.mean(axis=1, keepdims=True)
    given = distributions.CategoricalLogits(torch.from_numpy(centered))
    theirs = {"vector": calibrators.VectorScalingCalibrator, "matrix": calibrators.MatrixScalingCalibrator}[name]()
    theirs.fit_torch(given, torch.from_numpy(labels))
    expected = theirs.predict_proba_torch(given).get_probs().numpy()
    ours = by_name(name, prior_precision=0).fit(logits, labels).transform(logits)
    # Theirs starts in single precision and stops there; ours is near it, and fits no worse.
    assert ours == pytest.approx(expected, abs=1e-3)
    assert log_loss(ours, labels) <= log_loss(expected, labels) + 1e-9
