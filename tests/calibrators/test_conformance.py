"""What every calibrator promises, asked of each of them."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax

from hf_calib.calibrators import NotFittedError, by_name, calibrator_class, load_calibrator, names
from hf_calib.calibrators.protocol import BaseCalibrator

from .samples import QUICK, Drawn, drawn, fitted, sharpened, transformed, uses_features

NAMES = [name for name in names() if issubclass(calibrator_class(name), BaseCalibrator)]
_FITTED = {}


def once(name):
    """A fitted calibrator that no test changes."""
    if name not in _FITTED:
        _FITTED[name] = fitted(name, drawn())
    return _FITTED[name]


def with_features(logits, seed=0):
    return Drawn(logits, np.zeros(len(logits), dtype=int), np.random.default_rng(seed).normal(size=(len(logits), 3)))


finite_logits = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 6), st.integers(2, 4)),
    elements=st.one_of(st.floats(-30, 30), st.floats(allow_nan=False, allow_infinity=False), st.just(0.0)),
)


@pytest.mark.parametrize("name", NAMES)
@given(logits=finite_logits)
def test_outputs_are_probabilities_and_the_argmax_is_kept_where_promised(name, logits):
    calibrator = once(name)
    probabilities = transformed(name, calibrator, with_features(logits))
    assert probabilities.shape == logits.shape
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(logits)), abs=1e-9)
    if calibrator.keeps_argmax:
        assert (probabilities.argmax(axis=1) == logits.argmax(axis=1)).all()


@pytest.mark.parametrize("name", [name for name in NAMES if calibrator_class(name).monotonic])
def test_a_higher_confidence_never_becomes_a_lower_one(name):
    calibrator = fitted(name, drawn(k=2))
    # The whole range and far beyond what was seen.
    log_odds = np.sort(np.concatenate([np.linspace(0, 40, 3001), np.geomspace(1e-9, 1e300, 400)]))
    logits = np.column_stack([log_odds, np.zeros_like(log_odds)])
    confidence = transformed(name, calibrator, with_features(logits))[:, 0]
    assert (np.diff(confidence) >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_gives_the_same_bits(name, tmp_path):
    data = drawn(300, seed=5)
    calibrator = fitted(name, data)
    path = calibrator.save(tmp_path / "new" / "calibrator.json")
    loaded = load_calibrator(path.parent)
    new = drawn(200, seed=6)
    assert type(loaded) is type(calibrator)
    assert np.array_equal(transformed(name, loaded, new), transformed(name, calibrator, new))
    assert {file.suffix for file in path.parent.iterdir()} <= {".json", ".safetensors"}
    # Saving what was loaded gives the same file.
    again = loaded.save(tmp_path / "again" / "calibrator.json")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_absent_options_stay_at_zero_and_padding_changes_nothing(name):
    data = drawn(400, k=3, seed=7)
    data.logits[::2, 2] = -np.inf
    data.labels[::2] = data.logits[::2, :2].argmax(axis=1)
    padded = data._replace(logits=np.column_stack([data.logits, np.full(400, -np.inf)]))
    calibrator = fitted(name, padded) if name != "reference_agreement" else once(name)
    probabilities = transformed(name, calibrator, padded)
    assert (probabilities[np.isneginf(padded.logits)] == 0).all()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(400))
    if name != "reference_agreement":
        short = transformed(name, fitted(name, data), data)
        assert probabilities[:, :3] == pytest.approx(short, abs=0.1 if calibrator.approximate else 1e-5)
    from_probabilities = transformed(name, calibrator, padded._replace(logits=softmax(padded.logits, axis=1)),
                                     kind="probabilities")  # fmt: skip
    assert from_probabilities == pytest.approx(probabilities, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_in_tensors_out(name):
    data = drawn(100, seed=8)
    calibrator = once(name)
    expected = transformed(name, calibrator, data)
    tensors = Drawn(*(torch.from_numpy(part) for part in data))
    result = transformed(name, calibrator, tensors)
    assert isinstance(result, torch.Tensor)
    assert result.dtype == torch.float64
    assert np.array_equal(result.numpy(), expected)
    half = transformed(name, calibrator, tensors._replace(logits=tensors.logits.bfloat16().requires_grad_()))
    assert (half >= 0).all()
    assert half.sum(dim=1).numpy() == pytest.approx(np.ones(100))
    if name != "reference_agreement":
        options = QUICK.get(name, {})
        features = tensors.features if uses_features(name) else None
        labels = tensors.labels.clone()
        if calibrator_class(name).takes_unlabeled:
            labels[-25:] = -1
        by_tensors = by_name(name, **options).fit(tensors.logits, labels, features=features)
        assert np.array_equal(transformed(name, by_tensors, data), transformed(name, fitted(name, data), data))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["one sample", "one class", "all right", "all wrong", "separable", "constant"])
def test_degenerate_data_end_in_a_sensible_fit_or_a_clear_error(name, case):
    n = 1 if case == "one sample" else 60
    data = drawn(n, seed=9)
    logits, labels = data.logits.copy(), data.labels.copy()
    if case == "one class":
        labels[:] = 1
    if case in ("all right", "separable"):
        labels = logits.argmax(axis=1)
    if case == "all wrong":
        labels = logits.argmin(axis=1)
    if case == "separable":
        # Right above a confidence and wrong under it.
        wrong = np.sort(logits, axis=1)[:, -1] < 3
        labels = np.where(wrong, logits.argmin(axis=1), labels)
    if case == "constant":
        logits[:] = [1.0, 0.0, 0.0, 0.0]
    given = Drawn(logits, labels, data.features)
    try:
        calibrator = fitted(name, given)
    except ValueError as error:
        assert "give" in str(error) or "needs" in str(error)  # noqa: PT017
        return
    probabilities = transformed(name, calibrator, given)
    assert np.isfinite(probabilities).all()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(n))


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_two_is_the_question_given_twice(name):
    if name == "reference_agreement" or calibrator_class(name).approximate or calibrator_class(name).takes_unlabeled:
        pytest.skip("tested apart, or random in how it is fitted")
    data = drawn(300, seed=10)
    twice = np.repeat(np.arange(300), np.where(np.arange(300) < 100, 2, 1))
    weights = np.where(np.arange(300) < 100, 2.0, 1.0)
    options = {"prior_precision": 1e-6} if hasattr(by_name(name), "prior_precision") else {}
    if name == "localized":
        # Left out one at a time, a question given twice is its own neighbor.
        options = {"gamma": 0.5}
    features = data.features if uses_features(name) else None
    weighted = by_name(name, **options).fit(data.logits, data.labels, features=features, weights=weights)
    repeated = by_name(name, **options).fit(
        data.logits[twice], data.labels[twice], features=None if features is None else features[twice]
    )
    # Bins of equal mass, priors and bounds by the number of questions may move a little.
    assert transformed(name, weighted, data) == pytest.approx(transformed(name, repeated, data), abs=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_a_question_of_weight_zero_does_not_matter_for_the_fit(name):
    if calibrator_class(name).approximate or calibrator_class(name).takes_unlabeled:
        pytest.skip("tested apart, or random in how it is fitted")
    data = drawn(300, seed=11)
    if name == "reference_agreement":
        labels = data.logits / 3
        wrong = labels.copy()
        wrong[:50] *= 20
    else:
        labels = data.labels
        wrong = labels.copy()
        wrong[:50] = data.logits[:50].argmin(axis=1)
    weights = np.where(np.arange(300) < 50, 0.0, 1.0)
    features = data.features if uses_features(name) else None
    one = by_name(name).fit(data.logits, labels, features=features, weights=weights)
    other = by_name(name).fit(data.logits, wrong, features=features, weights=weights)
    assert transformed(name, one, data) == pytest.approx(transformed(name, other, data), abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_before_fitting_it_says_so(name, tmp_path):
    calibrator = by_name(name)
    with pytest.raises(NotFittedError, match="call fit first"):
        calibrator.transform([[1.0, 2.0]])
    with pytest.raises(NotFittedError, match="call fit first"):
        calibrator.save(tmp_path / "calibrator.json")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_parameters_of_a_stranger_are_refused(name):
    calibrator = once(name)
    content = json.loads(json.dumps(calibrator.parameters(), default=lambda array: array.tolist()))
    by_name(name).set_parameters(content)
    for key in content:
        for evil in ("__import__('os').system('id')", None, {"$": 1}, [[["x"]]], float("nan")):
            if key == "groups" and evil == {"$": 1}:  # a group called $ with a temperature of 1
                continue
            with pytest.raises(ValueError):
                by_name(name).set_parameters({**content, key: evil})
        with pytest.raises(ValueError, match="missing"):
            by_name(name).set_parameters({k: v for k, v in content.items() if k != key})
    with pytest.raises(ValueError, match="no parameter"):
        by_name(name).set_parameters({**content, "more": 1})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore:overflow")
def test_what_is_accepted_of_a_stranger_gives_probabilities(name):
    calibrator = once(name)
    content = json.loads(json.dumps(calibrator.parameters(), default=lambda array: array.tolist()))
    data = drawn(20, seed=16)
    data.logits[0] = [1e300, -1e300, 0.0, 1.0]
    for key, value in content.items():
        if isinstance(value, str | bool | dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
            continue
        shape = np.shape(value)
        for extreme in (-1e308, -1e100, -1.0, 0.0, 1e-300, 1.0, 1e15, 1e100, 1e308):
            changed = np.full(shape, extreme).tolist() if shape else extreme
            stranger = by_name(name)
            try:
                stranger.set_parameters({**content, key: changed})
            except ValueError:
                continue
            probabilities = transformed(name, stranger, data)
            assert ((probabilities >= 0) & (probabilities <= 1)).all()
            assert probabilities.sum(axis=1) == pytest.approx(np.ones(20))


@pytest.mark.parametrize("name", NAMES)
def test_it_lowers_the_log_loss_of_overconfident_predictions(name):
    data, new = drawn(1500, seed=12), drawn(1500, seed=13)
    calibrator = fitted(name, data)
    before, after = softmax(new.logits, axis=1), transformed(name, calibrator, new)
    rows = np.arange(1500)
    assert -np.log(after[rows, new.labels]).mean() < -np.log(before[rows, new.labels]).mean() - 0.2


@pytest.mark.parametrize("name", [name for name in NAMES if calibrator_class(name).positional])
def test_more_options_than_were_seen_are_refused(name):
    data = drawn(100, k=5, seed=14)
    with pytest.raises(ValueError, match="up to 4 options"):
        transformed(name, once(name), data)


@pytest.mark.parametrize("name", [name for name in NAMES if calibrator_class(name).needs_features])
def test_features_that_are_needed_are_asked_for(name):
    with pytest.raises(ValueError, match="needs features"):
        by_name(name).fit([[1.0, 2.0]], [0])
    with pytest.raises(ValueError, match="needs features"):
        once(name).transform([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"3 feature\(s\), 2 were given"):
        once(name).transform([[1.0, 2.0]], features=[[1.0, 2.0]])


@pytest.mark.parametrize("name", NAMES)
def test_events_in_events_out(name):
    if name == "reference_agreement" or not calibrator_class(name).takes_events:
        pytest.skip("not for events")
    rows = slice(300) if calibrator_class(name).takes_unlabeled else slice(0)
    logits, labels = sharpened(1500, 3.0, k=2, seed=15)
    scores = logits[:, 1] - logits[:, 0]
    features = np.random.default_rng(0).normal(size=(1500, 3)) if uses_features(name) else None
    calibrator = by_name(name, **QUICK.get(name, {})).fit(
        scores, np.where(np.arange(1500) < (rows.stop or 0), -1, labels), features=features
    )
    p = calibrator.transform(scores, features=features)
    assert p.shape == (1500,)
    loss = -np.log(np.where(labels == 1, p, 1 - p)).mean()
    raw = np.logaddexp(0, np.where(labels == 1, -scores, scores)).mean()
    assert loss < raw - 0.05
