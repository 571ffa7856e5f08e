"""The standard calibrators against the libraries that have them, and against brute force where none has."""

import warnings

import numpy as np
import pytest
from scipy.interpolate import make_lsq_spline
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.calibration import _sigmoid_calibration, _TemperatureScaling
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from hf_calib.calibrators import by_name

from .samples import sharpened

LOGITS, LABELS = sharpened(600, 2.5, seed=20)
PROBABILITIES = softmax(LOGITS, axis=1)
CONFIDENCE = PROBABILITIES.max(axis=1)
CORRECT = (LOGITS.argmax(axis=1) == LABELS).astype(float)
WEIGHTS = np.random.default_rng(21).random(600) + 0.1
SCORES = logit(CONFIDENCE)


def test_temperature_is_scikit_learns():
    for weights in (None, WEIGHTS):
        theirs = _TemperatureScaling().fit(LOGITS, LABELS, sample_weight=weights)
        ours = by_name("temperature").fit(LOGITS, LABELS, weights=weights)
        assert ours.temperature == pytest.approx(1 / theirs.beta_, rel=1e-6)
        assert ours.transform(LOGITS) == pytest.approx(theirs.predict(LOGITS), abs=1e-6)


def test_platt_is_scikit_learns():
    a, b = _sigmoid_calibration(SCORES, CORRECT)
    ours = by_name("platt").fit(SCORES, CORRECT == 1)
    # Theirs stops at a coarser tolerance, so the losses are compared too.
    assert (ours.slope, ours.intercept) == pytest.approx((-a, -b), abs=2e-4)
    best = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(*platt_rows())
    assert (ours.slope, ours.intercept) == pytest.approx((best.coef_[0, 0], best.intercept_[0]), abs=1e-6)


def platt_rows():
    """Platt's soft targets as pairs of weighted rows, which a library takes."""
    positive, negative = CORRECT.sum(), (1 - CORRECT).sum()
    targets = np.where(CORRECT > 0, (positive + 1) / (positive + 2), 1 / (negative + 2))
    x = np.concatenate([SCORES, SCORES])[:, None]
    y = np.concatenate([np.ones(600), np.zeros(600)])
    return x, y, np.concatenate([targets, 1 - targets])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_beta_is_a_logistic_regression_on_two_logarithms(weights):
    design = np.column_stack([np.log(CONFIDENCE), -np.log1p(-CONFIDENCE)])
    theirs = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cholesky").fit(design, CORRECT, weights)
    p = expit(SCORES)
    ours = by_name("beta", prior_precision=0).fit(SCORES, CORRECT == 1, weights=weights)
    assert (theirs.coef_ >= 0).all()
    assert ours.coefficients == pytest.approx((*theirs.coef_[0], theirs.intercept_[0]), rel=1e-6, abs=1e-6)
    assert ours.transform(p, kind="probabilities") == pytest.approx(theirs.predict_proba(design)[:, 1], abs=1e-6)


def test_beta_keeps_a_coefficient_at_zero_as_the_bounded_minimum_is():
    rng = np.random.default_rng(3)
    c = rng.uniform(0.01, 0.99, 800)
    happened = rng.random(800) < 0.2 + 0.6 * (1 - np.abs(2 * c - 1)) * (c < 0.5) + 0.5 * (c >= 0.5)
    design = np.column_stack([np.log(c), -np.log1p(-c), np.ones(800)])

    def loss(theta):
        eta = design @ theta
        return np.mean(np.logaddexp(0, eta) - happened * eta)

    oracle = minimize(
        loss, [1, 1, 0], method="SLSQP", bounds=[(0, None), (0, None), (None, None)], options={"ftol": 1e-15}
    )
    ours = by_name("beta", prior_precision=0).fit(c, happened, kind="probabilities")
    assert min(ours.coefficients[:2]) == 0
    assert loss(np.array(ours.coefficients)) <= oracle.fun + 1e-9


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_isotonic_is_scikit_learns(weights):
    theirs = IsotonicRegression(out_of_bounds="clip").fit(CONFIDENCE, CORRECT, weights)
    ours = by_name("isotonic").fit(CONFIDENCE, CORRECT == 1, kind="probabilities", weights=weights)
    grid = np.linspace(0, 1, 500)
    expected = np.clip(theirs.predict(grid), 1 / 602, 601 / 602)
    assert ours.transform(grid, kind="probabilities") == pytest.approx(expected, abs=1e-6)


def test_multiclass_isotonic_is_scikit_learns_one_against_the_rest():
    ours = by_name("isotonic_multiclass").fit(PROBABILITIES, LABELS, kind="probabilities")
    fresh = softmax(sharpened(300, 2.5, seed=22)[0], axis=1)
    columns = []
    for k in range(4):
        theirs = IsotonicRegression().fit(PROBABILITIES[:, k], k == LABELS)
        values = np.clip(theirs.y_thresholds_, 1 / 602, 601 / 602)
        columns.append(np.interp(fresh[:, k], theirs.X_thresholds_, values))
    expected = np.column_stack(columns)
    expected /= expected.sum(axis=1, keepdims=True)
    assert ours.transform(fresh, kind="probabilities") == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("name", ["matrix", "dirichlet"])
def test_matrix_and_dirichlet_are_multinomial_logistic_regressions(name, weights):
    x = np.log(PROBABILITIES) if name == "dirichlet" else LOGITS - LOGITS.mean(axis=1, keepdims=True)
    theirs = LogisticRegression(C=np.inf, tol=1e-12, solver="newton-cg", max_iter=5000).fit(x, LABELS, weights)
    ours = by_name(name, prior_precision=0).fit(LOGITS, LABELS, weights=weights)
    assert ours.transform(LOGITS) == pytest.approx(theirs.predict_proba(x), abs=1e-6)


@pytest.mark.parametrize("name", ["vector", "matrix"])
def test_the_prior_is_in_the_units_of_the_log_likelihood(name):
    centered = LOGITS - LOGITS.mean(axis=1, keepdims=True)
    start = np.ones(4) if name == "vector" else np.eye(4)
    calibrator = by_name(name, prior_precision=30.0).fit(LOGITS, LABELS)

    def loss(theta):
        w, b = theta[: start.size].reshape(start.shape), theta[start.size :]
        z = (centered * w if name == "vector" else centered @ w.T) + b
        nll = -log_softmax(z, axis=1)[np.arange(600), LABELS].sum()
        return nll + 15 * (((w - start) ** 2).sum() + (b**2).sum())

    oracle = minimize(loss, np.concatenate([start.ravel(), np.zeros(4)]), method="BFGS", options={"gtol": 1e-5})
    w, b = oracle.x[: start.size].reshape(start.shape), oracle.x[start.size :]
    expected = softmax((centered * w if name == "vector" else centered @ w.T) + b, axis=1)
    assert calibrator.transform(LOGITS) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("scheme", ["equal_width", "equal_mass"])
def test_histogram_by_hand(scheme):
    ours = by_name("histogram", n_bins=7, scheme=scheme).fit(CONFIDENCE, CORRECT == 1, kind="probabilities")
    order = np.argsort(CONFIDENCE)
    if scheme == "equal_mass":
        members = [order[b * 600 // 7 : (b + 1) * 600 // 7] for b in range(7)]
    else:
        members = [np.flatnonzero(np.minimum((CONFIDENCE * 7).astype(int), 6) == b) for b in range(7)]
    out = ours.transform(CONFIDENCE, kind="probabilities")
    for rows in members:
        if len(rows):
            n = len(rows)
            expected = np.clip(CORRECT[rows].mean(), 1 / (n + 2), (n + 1) / (n + 2))
            assert out[rows] == pytest.approx(np.full(n, expected), abs=1e-12)


def test_scaling_binning_by_hand():
    platt = by_name("platt").fit(SCORES, CORRECT == 1)
    scaled = expit(platt.slope * SCORES + platt.intercept)
    ours = by_name("scaling_binning", n_bins=8).fit(SCORES, CORRECT == 1).transform(SCORES)
    order = np.argsort(scaled)
    for b in range(8):
        rows = order[b * 75 : (b + 1) * 75]
        assert ours[rows] == pytest.approx(np.full(75, scaled[rows].mean()), abs=1e-12)


def test_spline_is_the_least_squares_natural_spline_by_another_basis():
    order = np.argsort(CONFIDENCE)
    n = len(order)
    t = np.arange(n + 1) / n
    height = np.concatenate([[0], np.cumsum(CORRECT[order])]) / n
    knots = np.linspace(0, 1, 6)
    # All cubic splines with these knots, less those whose second derivative is not 0 at the ends.
    padded = np.concatenate([[0] * 3, knots, [1] * 3])
    basis = make_lsq_spline(t, np.zeros(n + 1), padded)
    size = len(basis.c)
    columns = np.column_stack([type(basis)(padded, np.eye(size)[i], 3)(t) for i in range(size)])
    ends = np.column_stack([type(basis)(padded, np.eye(size)[i], 3)([0.0, 1.0], 2) for i in range(size)])
    null = np.linalg.svd(ends)[2][2:].T
    c = null @ np.linalg.lstsq(columns @ null, height, rcond=None)[0]
    slopes = type(basis)(padded, c, 3)(t[1:], 1)
    ours = by_name("spline").fit(CONFIDENCE, CORRECT == 1, kind="probabilities")
    x = ours.parameters()["x"]
    place = np.abs(CONFIDENCE[order][:, None] - x).argmin(axis=0)
    assert ours.parameters()["values"] == pytest.approx(np.clip(slopes[place], 1 / 602, 601 / 602), abs=1e-6)


def test_adaptive_temperature_is_the_minimum():
    entropy = -(PROBABILITIES * np.log(PROBABILITIES)).sum(axis=1) / np.log(4)
    ours = by_name("adaptive_temperature", prior_precision=0).fit(LOGITS, LABELS)

    def loss(theta):
        temperature = np.exp(theta[0] + theta[1] * np.log(entropy))
        return -log_softmax(LOGITS / temperature[:, None], axis=1)[np.arange(600), LABELS].mean()

    oracle = minimize(loss, [0, 0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-16})
    expected = softmax(LOGITS / np.exp(oracle.x[0] + oracle.x[1] * np.log(entropy))[:, None], axis=1)
    assert ours.transform(LOGITS) == pytest.approx(expected, abs=1e-6)


def test_reference_agreement_minimises_the_cross_entropy_where_both_agree():
    reference = LOGITS / 2.5 + np.random.default_rng(5).normal(0, 0.5, LOGITS.shape)
    agree = reference.argmax(axis=1) == LOGITS.argmax(axis=1)
    target = softmax(reference, axis=1)[agree]
    ours = by_name("reference_agreement").fit(LOGITS, reference)

    def loss(log_temperature):
        return -(target * log_softmax(LOGITS[agree] / np.exp(log_temperature[0]), axis=1)).sum(axis=1).mean()

    oracle = minimize(loss, [0.0], method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-15})
    assert np.log(ours.temperature) == pytest.approx(oracle.x[0], abs=1e-6)
    assert ours.agreement == pytest.approx(agree.mean())
    # It finds nearly the temperature that the labels give.
    assert ours.temperature == pytest.approx(by_name("temperature").fit(LOGITS, LABELS).temperature, rel=0.2)
    with pytest.raises(ValueError, match="agree on no question"):
        by_name("reference_agreement").fit(LOGITS, -LOGITS)
    with pytest.raises(ValueError, match="same shape"):
        by_name("reference_agreement").fit(LOGITS, LABELS[:, None].repeat(3, axis=1))


@pytest.mark.parametrize("name", ["temperature", "reference_agreement", "ensemble"])
def test_separable_data_without_a_prior_warn(name):
    labels = [[9.0, 0.0], [9.0, 0.0]] if name == "reference_agreement" else [0, 0]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        by_name(name).fit([[2e-3, 1e-3], [3e-3, 0.0]], labels)
    assert "every answer is right" in str(caught[0].message)
    assert caught[0].filename == __file__
