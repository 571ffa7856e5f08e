"""Coverage, quantiles and files of modular conformal calibration."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm

from hf_calib.calibrators import NotFittedError, by_name, load_calibrator
from hf_calib.calibrators.modular_conformal import SCORES


def regression(n, rng):
    x = rng.uniform(0, 2, n)
    noise = rng.exponential(size=n) - 1
    mean, deviation = x**2, 0.3 + 0.3 * x
    return mean, deviation, mean + 2 * deviation * noise


def predictions(kind, mean, deviation):
    if kind == "point":
        return mean
    if kind == "gaussian":
        return np.column_stack([mean, deviation])
    return norm.ppf([0.1, 0.4, 0.6, 0.9], mean[:, None], deviation[:, None])


SCORED = [(kind, score) for kind, scores in SCORES.items() for score in scores]


@pytest.mark.parametrize(("kind", "score"), SCORED)
def test_intervals_cover_as_often_as_they_say(kind, score):
    rng = np.random.default_rng(17)
    covered, trials = 0, 1500
    for _ in range(trials):
        mean, deviation, y = regression(20, rng)
        base = predictions(kind, mean, deviation)
        calibrator = by_name("modular_conformal", predictor=kind, interpolation="step", score=score).fit(
            base[:19], y[:19]
        )
        low, high = calibrator.interval(base[19:], 0.8)[0]
        covered += low <= y[19] <= high
    # Exactly 16 of 20 ranks: the 2nd to the 18th of 19 scores, so at least 80%, and no more than a rank above.
    assert binomtest(covered, trials, 0.8, alternative="less").pvalue > 1e-3
    assert binomtest(covered, trials, 0.85, alternative="greater").pvalue > 1e-3


@pytest.mark.parametrize(("kind", "score"), SCORED)
@pytest.mark.parametrize("interpolation", ["step", "linear"])
def test_quantiles_invert_the_distribution_function(kind, score, interpolation, tmp_path):
    rng = np.random.default_rng(18)
    mean, deviation, y = regression(300, rng)
    base = predictions(kind, mean, deviation)
    calibrator = by_name("modular_conformal", predictor=kind, interpolation=interpolation, score=score)
    calibrator.fit(base[:200], y[:200])
    quantiles = calibrator.transform(base[200:])
    assert (np.diff(quantiles, axis=1) >= 0).all()
    for column, level in enumerate(calibrator.levels):
        share = calibrator.cdf(base[200:], quantiles[:, column])
        if interpolation == "linear":
            assert share == pytest.approx(np.full(100, level), abs=1e-9)
        else:
            # A value computed back and forth may fall a last bit under the step that it stands on.
            assert (np.abs(share - level) <= 1 / 201 + 1e-9).all()
    places = calibrator.cdf(base[200:], y[200:])
    assert abs((places <= 0.5).mean() - 0.5) < 0.15
    drawn_values = calibrator.sample(base[200:201], 20_000, seed=1)[0]
    assert np.quantile(drawn_values, 0.25) == pytest.approx(quantiles[0, 1], abs=0.05)
    calibrator.save(tmp_path / "calibrator.json")
    loaded = load_calibrator(tmp_path)
    assert np.array_equal(loaded.transform(base), calibrator.transform(base))
    assert np.array_equal(loaded.cdf(base, y), calibrator.cdf(base, y))


def test_tensors_in_tensors_out():
    mean, deviation, y = regression(60, np.random.default_rng(19))
    base = np.column_stack([mean, deviation])
    calibrator = by_name("modular_conformal", predictor="gaussian").fit(*map(torch.from_numpy, (base, y)))
    assert np.array_equal(calibrator.transform(base), by_name("modular_conformal", predictor="gaussian")
                          .fit(base, y).transform(base))  # fmt: skip
    given = torch.from_numpy(base)
    for result, expected in (
        (calibrator.transform(given, kind="gaussian"), calibrator.transform(base)),
        (calibrator.cdf(given, torch.from_numpy(y)), calibrator.cdf(base, y)),
        (calibrator.interval(given), calibrator.interval(base)),
        (calibrator.sample(given, 3), calibrator.sample(base, 3)),
    ):
        assert isinstance(result, torch.Tensor)
        assert isinstance(expected, np.ndarray)
        assert np.array_equal(result.numpy(), expected)


def test_what_it_is_told_of_another_kind_is_refused():
    calibrator = by_name("modular_conformal").fit([0.0, 1.0], [1.0, 1.0])
    for method in (calibrator.fit, lambda *given, **options: calibrator.transform(given[0], **options)):
        with pytest.raises(ValueError, match="made for 'point' predictions, kind is 'logits'"):
            method([0.0, 1.0], [1.0, 1.0], kind="logits")
    with pytest.raises(ValueError, match="n_samples must be at least 1"):
        calibrator.sample([0.0], 0)
    with pytest.raises(NotFittedError, match="call fit first"):
        by_name("modular_conformal").transform([0.0])


def test_fitted_again_it_takes_as_many_quantiles_as_it_is_given():
    calibrator = by_name("modular_conformal", predictor="quantiles").fit([[0.0, 1.0]], [0.5])
    assert calibrator.fit([[0.0, 1.0, 2.0]], [0.5]).transform([[0.0, 1.0, 2.0]]).shape == (1, 5)


def test_levels_that_few_outcomes_cannot_show_are_infinite():
    calibrator = by_name("modular_conformal", interpolation="step").fit([0.0, 0.0, 0.0], [1.0, 2.0, 3.0])
    assert calibrator.interval([5.0], 0.9).tolist() == [[-np.inf, np.inf]]
    assert calibrator.interval([5.0], 0.5).tolist() == [[6.0, 8.0]]
    assert calibrator.quantile([0.0], [0.05, 0.5, 0.9]).tolist() == [[-np.inf, 2.0, np.inf]]


@pytest.mark.parametrize(
    ("predictor", "base", "labels", "message"),
    [
        ("point", [[1.0, 2.0]], [1.0], "cannot have the shape"),
        ("gaussian", [[1.0, 0.0]], [1.0], "row 0"),
        ("quantiles", [[1.0, 1.0]], [1.0], "row 0"),
        ("point", [1.0], [np.nan], "no finite label"),
        ("point", [1.0, 2.0], [1.0], "2 predictions were given"),
        ("point", [], [], "at least one"),
    ],
)
def test_modular_conformal_names_bad_input(predictor, base, labels, message):
    with pytest.raises(ValueError, match=message):
        by_name("modular_conformal", predictor=predictor).fit(base, labels)


def test_modular_conformal_refuses_a_strangers_parameters():
    content = by_name("modular_conformal").fit([0.0, 1.0], [1.0, 1.0]).parameters()
    content = json.loads(json.dumps(content, default=lambda array: array.tolist()))
    for change in ({"scores": [2.0, 1.0]}, {"mass": [-1.0, 1.0]}, {"levels": [0.5, 0.2]}, {"predictor": "exec"},
                   {"extra": 1}):  # fmt: skip
        with pytest.raises(ValueError):
            by_name("modular_conformal").set_parameters({**content, **change})


def test_scores_by_hand():
    base, y = np.array([[1.0, 2.0, 4.0]]), np.array([3.0])
    for kind, score, given, expected in (
        ("gaussian", "residual", base[:, :2], 2.0),
        ("gaussian", "scaled", base[:, :2], 1.0),
        ("quantiles", "residual", base, 1.0),
        ("quantiles", "place", base, 1.5),
    ):
        fitted = by_name("modular_conformal", predictor=kind, score=score).fit(given, y)
        assert fitted.parameters()["scores"].tolist() == [expected]
    with pytest.raises(ValueError, match="the score of 'point' must be one of residual"):
        by_name("modular_conformal", score="scaled")


@pytest.mark.parametrize("interpolation", ["linear", "step"])
def test_values_of_the_distribution_are_checked(interpolation):
    fitted = by_name("modular_conformal", interpolation=interpolation).fit([0.0, 1.0, 2.0], [0.5, 1.0, 1.5])
    assert fitted.cdf([0.0, 1.0], 0.5) == pytest.approx(fitted.cdf([0.0, 1.0], [0.5, 0.5]))
    with pytest.raises(ValueError, match=r"values\[1\] is NaN"):
        fitted.cdf([0.0, 1.0], [0.5, np.nan])
    with pytest.raises(ValueError, match=r"values has shape \(3,\), but there are 2 predictions"):
        fitted.cdf([0.0, 1.0], [0.5, 0.5, 0.5])
