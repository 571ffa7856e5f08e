"""Calibrators that no library has, against their definitions, computed plainly or by another library's parts."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.calibration import _TemperatureScaling
from sklearn.linear_model import LogisticRegression

from hf_calib.calibrators import by_name
from hf_calib.calibrators.differentiable_ece import differentiable_ece
from hf_calib.calibrators.meta_calibration import DECAY, MAX_SMOOTHING, OUTER_RATE, learn_smoothing, smoothed_labels

from .samples import drawn, sharpened


def temperature(logits, labels, weights=None):
    return 1 / _TemperatureScaling().fit(logits, labels, sample_weight=weights).beta_


def relative_entropy(logits):
    p = softmax(logits, axis=1)
    return -(p * np.log(p)).sum(axis=1) / np.log(logits.shape[1])


def standardized(columns, like):
    return (columns - like.mean(axis=0)) / like.std(axis=0)


def test_the_monotonic_network_is_the_integral_of_its_density():
    logits, labels = sharpened(500, 3.0, seed=30, k=2)
    scores = logits[:, 1] - logits[:, 0]
    calibrator = by_name("monotonic_network", steps=60).fit(scores, labels)
    parameters = calibrator.parameters()
    low, high, densities = parameters["low"], parameters["high"], parameters["densities"]
    nodes = np.linspace(low, high, len(densities))
    assert (densities > 0).all()
    assert densities.max() > 1.2 * densities.min()
    new = np.linspace(low - 1, high + 1, 11)
    for score, probability in zip(new, calibrator.transform(new), strict=True):
        # np.interp holds both ends' values beyond them, as the network does.
        fine = np.linspace(low, score, 20_001)
        area = np.trapezoid(np.interp(fine, nodes, densities), fine)
        expected = np.clip(expit(parameters["intercept"] + area), 1 / 502, 501 / 502)
        assert probability == pytest.approx(expected, abs=1e-6)


def test_the_adaptive_ensemble_by_its_definition():
    data, target = drawn(700, seed=31), drawn(300, seed=32, sharpness=2.2)
    everything = np.concatenate([data.logits, target.logits])
    calibrator = by_name("adaptive_ensemble").fit(everything, np.concatenate([data.labels, np.full(300, -1)]))
    correct = data.logits.argmax(axis=1) == data.labels
    a = correct.mean()
    # As many labeled questions lie at or above the threshold of certainty as were answered rightly.
    threshold = np.sort(relative_entropy(data.logits))[correct.sum() - 1]
    estimated = (relative_entropy(target.logits) <= threshold).mean()
    easy, hard = (1 + a) / 2, a / 2
    alpha = np.clip((estimated - hard) / (easy - hard), 0, 1)
    assert 0 < alpha < 1
    assert (calibrator.target_accuracy, calibrator.alpha) == pytest.approx((estimated, alpha), abs=1e-12)
    parts = []
    for accuracy in (easy, hard):
        weights = np.where(correct, accuracy / a, (1 - accuracy) / (1 - a))
        parts.append(softmax(target.logits / temperature(data.logits, data.labels, weights), axis=1))
    assert calibrator.transform(target.logits) == pytest.approx(alpha * parts[0] + (1 - alpha) * parts[1], abs=1e-6)


@pytest.mark.parametrize("max_weight", [20.0, 2.0])
def test_importance_weighting_is_a_classifiers_odds_and_a_weighted_fit(max_weight):
    data, target = drawn(700, seed=33), drawn(400, seed=34, sharpness=2.0)
    features = np.concatenate([data.features, target.features + 0.4])
    logits = np.concatenate([data.logits, target.logits])
    calibrator = by_name("importance_weighted", max_weight=max_weight)
    calibrator.fit(logits, np.concatenate([data.labels, np.full(400, -1)]), features=features)
    columns = np.column_stack([logit(softmax(logits, axis=1).max(axis=1)), relative_entropy(logits), features])
    assert np.abs(columns[:, 0]).max() < 20  # where it is cut off
    is_target = np.arange(1100) >= 700
    classifier = LogisticRegression(C=1.0, tol=1e-12, solver="newton-cholesky", max_iter=1000)
    odds = classifier.fit(standardized(columns, columns), is_target).predict_proba(standardized(columns, columns))
    ratio = (odds[:700, 1] / odds[:700, 0]) * 700 / 400
    capped = np.minimum(ratio, max_weight * ratio.mean())
    assert (capped < ratio).any() == (max_weight == 2.0)
    assert calibrator.effective_sample_size == pytest.approx(capped.sum() ** 2 / (capped**2).sum(), rel=1e-5)
    expected = temperature(data.logits, data.labels, capped)
    assert calibrator.base.temperature == pytest.approx(expected, rel=1e-6)


def test_selective_scaling_is_two_temperatures_about_a_selectors_threshold():
    data = drawn(800, seed=35)
    calibrator = by_name("selective_scaling", prior_precision=2.0)
    calibrator.fit(data.logits, data.labels, features=data.features)
    wrong = data.logits.argmax(axis=1) != data.labels
    columns = np.column_stack(
        [logit(softmax(data.logits, axis=1).max(axis=1)), relative_entropy(data.logits), data.features]
    )
    x = np.column_stack([standardized(columns, columns), np.ones(800)])
    precision = np.array([2.0] * 5 + [1e-3])

    def loss(beta):
        return (np.logaddexp(0, x @ beta) - wrong * (x @ beta)).sum() + 0.5 * precision @ beta**2

    beta = minimize(loss, np.zeros(6), method="BFGS", options={"gtol": 1e-5}).x
    scores = x @ beta
    suspicious = scores > np.sort(scores)[(~wrong).sum() - 1]
    assert suspicious.sum() == wrong.sum()
    expected = [temperature(data.logits[rows], data.labels[rows]) for rows in (~suspicious, suspicious)]
    assert calibrator.temperatures == pytest.approx(expected, rel=1e-6)
    p = softmax(data.logits / np.where(suspicious, expected[1], expected[0])[:, None], axis=1)
    assert calibrator.transform(data.logits, features=data.features) == pytest.approx(p, abs=1e-6)


def test_sample_consistency_is_a_logistic_regression_on_three_measures():
    rng = np.random.default_rng(36)
    p = softmax(rng.normal(0, 1.5, (500, 4)), axis=1)
    votes = np.stack([np.bincount(rng.choice(4, 10, p=row), minlength=4) for row in p]) / 10
    labels = np.array([rng.choice(4, p=row) for row in p])
    ordered = np.sort(votes, axis=1)
    logs = np.log(np.where(votes > 0, votes, 1.0))
    distinct = np.maximum((votes > 0).sum(axis=1), 2)
    entropy = 1 + (votes * logs).sum(axis=1) / np.log(distinct)
    columns = np.column_stack([ordered[:, -1], entropy, ordered[:, -1] - ordered[:, -2]])
    x = standardized(columns, columns)
    correct = votes.argmax(axis=1) == labels
    # Half a right and half a wrong answer more, at the average.
    classifier = LogisticRegression(C=1.0, tol=1e-12, solver="newton-cholesky", max_iter=1000).fit(
        np.vstack([x, np.zeros((2, 3))]), np.append(correct, [1, 0]), np.append(np.ones(500), [0.5, 0.5])
    )
    calibrator = by_name("sample_consistency").fit(votes, labels, kind="probabilities")
    got = calibrator.transform(votes, kind="probabilities")[np.arange(500), votes.argmax(axis=1)]
    expected = classifier.predict_proba(x)[:, 1]
    # The answer stays the most probable option: with few votes it may not go as low as the regression says.
    free = expected > 0.5
    assert free.sum() > 100
    assert got[free] == pytest.approx(expected[free], abs=1e-6)


def test_the_simplex_head_by_its_definition():
    data, new = drawn(300, seed=37), drawn(40, seed=38)
    calibrator = by_name("simplex_etf", steps=50, scale=3.0).fit(data.logits, data.labels, features=data.features)
    parameters = calibrator.parameters()
    vertices = np.full((4, 4), -1 / 4)
    np.fill_diagonal(vertices, 3 / 4)
    vertices *= np.sqrt(4 / 3)
    for row, got in enumerate(calibrator.transform(new.logits, features=new.features)):
        x = (new.features[row] - data.features.mean(axis=0)) / data.features.std(axis=0)
        h = parameters["projection"] @ x + parameters["bias"]
        fixed = softmax(3.0 * vertices @ h / np.sqrt(1 + h @ h))
        expected = calibrator.share * softmax(new.logits[row]) + (1 - calibrator.share) * fixed
        assert got == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("per", ["class", "unit"])
def test_smoothing_goes_down_the_gradient_that_retraining_shows(per):
    rng = np.random.default_rng(39)
    n, k, d = 90, 3, 4
    y = rng.integers(k, size=n)
    x = rng.normal(size=(n, d)) + 0.8 * np.eye(k, d)[y]
    order = np.random.default_rng(0).permutation(n)
    train, held_out = order[:45], order[45:]

    def smoothing_of(raw):
        if per == "class":
            return MAX_SMOOTHING * expit(raw)
        shares = softmax(np.where(np.eye(k, dtype=bool), -np.inf, raw), axis=1)
        return MAX_SMOOTHING * expit(np.diag(raw))[:, None] * shares

    def outer(raw):
        """Train the head to the end, and say how calibrated it is on the other half."""
        everything = torch.ones(len(train), k, dtype=torch.bool)
        targets = smoothed_labels(torch.tensor(y[train]), everything, torch.tensor(smoothing_of(raw))).numpy()

        def inner(theta):
            w, b = theta[: k * d].reshape(k, d), theta[k * d :]
            z = log_softmax(x[train] @ w.T + b, axis=1)
            residual = (np.exp(z) - targets) / len(train)
            gradient = np.concatenate([(residual.T @ x[train]).ravel(), residual.sum(axis=0)])
            return -(targets * z).sum() / len(train) + DECAY * theta @ theta, gradient + 2 * DECAY * theta

        theta = minimize(inner, np.zeros(k * d + k), jac=True, method="BFGS", options={"gtol": 1e-10}).x
        z = torch.tensor(x[held_out] @ theta[: k * d].reshape(k, d).T + theta[k * d :])
        answers = torch.tensor(y[held_out])
        return float(torch.nn.functional.cross_entropy(z, answers) + 0.5 * differentiable_ece(z, answers))

    raw = torch.full((k,), -3.0, dtype=torch.float64) if per == "class" else -3.0 * torch.eye(k, dtype=torch.float64)
    optimizer = torch.optim.Adam([raw], lr=OUTER_RATE)
    for steps in (1, 2, 3):
        raw.grad = torch.zeros_like(raw)
        for place in np.ndindex(tuple(raw.shape)):
            nudge = np.zeros(tuple(raw.shape))
            nudge[place] = 1e-3  # wide enough that the inner minimizer's rounding does not show
            raw.grad[place] = (outer(raw.numpy() + nudge) - outer(raw.numpy() - nudge)) / 2e-3
        optimizer.step()
        got = learn_smoothing(x, y, steps=steps, per=per)
        assert got == pytest.approx(smoothing_of(raw.numpy()), rel=1e-3)
