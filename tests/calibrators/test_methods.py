"""What is particular to one method: numbers by hand or by brute force, and what it refuses."""

import json

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from hf_calib.calibrators import by_name, load_calibrator
from hf_calib.calibrators.arrays import fit_array, transform_array
from hf_calib.calibrators.differentiable_ece import differentiable_ece
from hf_calib.calibrators.importance_weighted import density_ratio
from hf_calib.calibrators.meta_calibration import learn_smoothing, smoothed_labels
from hf_calib.calibrators.monotonic_network import smooth_calibration_loss
from hf_calib.calibrators.sample_consistency import consistency, vote_shares
from hf_calib.calibrators.simplex_etf import balance, simplex_etf, simplex_etf_head
from hf_calib.measures import differentiable_calibration_error

from .samples import drawn, sharpened

# Importance weights and the adaptive ensemble


def test_density_ratio_of_two_normal_distributions():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, 20_000), rng.normal(1, 1, 20_000)])[:, None]
    target = np.arange(40_000) >= 20_000
    grid = np.abs(x[:, 0]) < 1.5
    # log p(x; 1)/p(x; 0) = x - 1/2.
    assert np.log(density_ratio(x, target))[grid] == pytest.approx(x[grid, 0] - 0.5, abs=0.06)


def test_without_a_shift_the_weights_are_even_and_without_a_target_it_says_so():
    data = drawn(2000, seed=1)
    labels = data.labels.copy()
    labels[1000:] = -1
    calibrator = by_name("importance_weighted").fit(data.logits, labels, features=data.features[:, 1:])
    assert calibrator.effective_sample_size > 950
    plain = by_name("temperature").fit(data.logits[:1000], data.labels[:1000])
    assert calibrator.base.temperature == pytest.approx(plain.temperature, rel=0.03)
    for name in ("importance_weighted", "adaptive_ensemble"):
        with pytest.raises(ValueError, match=r"no question has a label"):
            by_name(name).fit(data.logits, np.full(2000, -1))
        for base in ("importance_weighted", "auto", "ensemble", "reference_agreement", "modular_conformal"):
            with pytest.raises(ValueError, match="cannot be built around"):
                by_name(name, base=base)
    with pytest.raises(ValueError, match="needs questions of the target"):
        by_name("importance_weighted").fit(data.logits, data.labels)


@pytest.mark.parametrize("name", ["importance_weighted", "adaptive_ensemble"])
def test_around_another_base_it_keeps_that_ones_promises(name, tmp_path):
    data = drawn(600, seed=2)
    labels = data.labels.copy()
    labels[400:] = -1
    calibrator = by_name(name, base="matrix", prior_precision=2.0) if name == "adaptive_ensemble" else by_name(
        name, base="matrix")  # fmt: skip
    assert not calibrator.keeps_argmax
    assert calibrator.positional
    calibrator.fit(data.logits, labels).save(tmp_path / "calibrator.json")
    loaded = load_calibrator(tmp_path)
    assert not loaded.keeps_argmax
    assert np.array_equal(loaded.transform(data.logits), calibrator.transform(data.logits))


def test_the_estimated_accuracy_is_that_of_like_questions():
    logits, labels = sharpened(6000, 3.0, seed=3)
    known = np.where(np.arange(6000) < 3000, labels, -1)
    calibrator = by_name("adaptive_ensemble").fit(logits, known)
    assert calibrator.target_accuracy == pytest.approx((logits.argmax(axis=1) == labels)[3000:].mean(), abs=0.03)


# Selective scaling and arrays


def test_arrays_are_their_predictions_one_by_one():
    rng = np.random.default_rng(4)
    logits, labels = rng.normal(0, 3, (3, 4, 5, 6)), rng.integers(4, size=(3, 5, 6))
    labels[0, 0] = -100
    calibrator = fit_array(by_name("temperature"), logits, labels, axis=1)
    flat = np.moveaxis(logits, 1, -1).reshape(-1, 4)
    kept = labels.ravel() != -100
    assert calibrator.temperature == by_name("temperature").fit(flat[kept], labels.ravel()[kept]).temperature
    result = transform_array(calibrator, torch.from_numpy(logits), axis=1)
    assert result.shape == logits.shape
    expected = np.moveaxis(calibrator.transform(flat).reshape(3, 5, 6, 4), -1, 1)
    assert np.array_equal(result.numpy(), expected)
    with pytest.raises(ValueError, match="labels must have the shape"):
        fit_array(by_name("temperature"), logits, labels[0], axis=1)


def test_selective_scaling_finds_the_mistakes_that_a_feature_gives_away():
    data = drawn(2000, seed=5)
    wrong = data.logits.argmax(axis=1) != data.labels
    features = np.column_stack([wrong + np.random.default_rng(6).normal(0, 0.1, 2000)])
    calibrator = by_name("selective_scaling").fit(data.logits, data.labels, features=features)
    right, mistaken = calibrator.temperatures
    assert right < 0.5
    assert mistaken > 10
    with pytest.raises(ValueError, match=r"fitted with 1 feature\(s\), 0 were given"):
        calibrator.transform(data.logits)


# Sample consistency


def test_votes_are_counted():
    answers, shares = vote_shares([["a", "b", "a", "a"], ["c", "c"]])
    assert answers == [["a", "b"], ["c"]]
    assert shares.tolist() == [[0.75, 0.25], [1.0, 0.0]]
    measured = consistency([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.6, 0.3, 0.1]])
    assert measured["agreement"].tolist() == [0.5, 1.0, 0.6]
    assert measured["first_second_distance"] == pytest.approx([0.0, 1.0, 0.3])
    third = 1 + (0.6 * np.log(0.6) + 0.3 * np.log(0.3) + 0.1 * np.log(0.1)) / np.log(3)
    assert measured["entropy"] == pytest.approx([0.0, 1.0, third])
    with pytest.raises(ValueError, match=r"question 1.*no samples"):
        vote_shares([["a"], []])


def test_unanimous_votes_are_not_certain():
    rng = np.random.default_rng(7)
    votes = np.zeros((400, 3))
    votes[np.arange(400), rng.integers(3, size=400)] = 1.0
    labels = np.where(rng.random(400) < 0.7, votes.argmax(axis=1), (votes.argmax(axis=1) + 1) % 3)
    p = by_name("sample_consistency").fit(votes, labels, kind="probabilities").transform(votes, kind="probabilities")
    assert p.max(axis=1) == pytest.approx(np.full(400, 0.7), abs=0.05)
    assert p.sum(axis=1) == pytest.approx(np.ones(400))
    with pytest.raises(ValueError, match=r"shape \(questions, options\)"):
        by_name("sample_consistency").fit([0.5, 0.5], [0, 1], kind="probabilities")


# Localized calibration


def test_localized_by_brute_force():
    data = drawn(120, seed=8)
    calibrator = by_name("localized", gamma=0.7, n_bins=3, prior_count=2.0)
    calibrator.fit(data.logits, data.labels, features=data.features)
    new = drawn(5, seed=9)
    got = calibrator.transform(new.logits, features=new.features).max(axis=1)
    parameters = calibrator.parameters()
    c, correct = softmax(data.logits, axis=1).max(axis=1), data.logits.argmax(axis=1) == data.labels
    phi = (data.features - data.features.mean(axis=0)) / data.features.std(axis=0)
    edges = np.sort(c)[[40, 80]]
    for row in range(5):
        p = softmax(new.logits[row]).max()
        point = (new.features[row] - data.features.mean(axis=0)) / data.features.std(axis=0)
        total = right = 0.0
        for j in range(120):
            if (c[j] >= edges).sum() == (p >= edges).sum():
                weight = np.exp(-np.linalg.norm(phi[j] - point) / parameters["gamma"])
                total, right = total + weight, right + weight * correct[j]
        prior = expit(parameters["slope"] * np.log(p / (1 - p)) + parameters["intercept"])
        expected = (right + 2 * prior) / (total + 2)
        assert got[row] == pytest.approx(max(expected, 0.25), abs=1e-9)


# The monotonic network


def test_smooth_calibration_loss_by_hand():
    p, y = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0.0, 1.0, 0.0, 1.0])
    got = smooth_calibration_loss(*map(torch.from_numpy, (p, y, np.full(4, 0.25))), 2)
    expected = np.mean([(p[i : i + 2].mean() - y[i : i + 2].mean()) ** 2 for i in range(3)])
    assert float(got) == pytest.approx(expected)


def test_the_network_learns_a_map_that_no_line_is():
    rng = np.random.default_rng(10)
    x = rng.uniform(-4, 4, 4000)
    rate = np.where(x < 0, 0.2, 0.8)
    happened = rng.random(4000) < rate
    p = by_name("monotonic_network").fit(x, happened).transform(x)
    away = np.abs(x) > 0.7
    assert np.abs(p - rate)[away].mean() < 0.04
    assert np.abs(by_name("platt").fit(x, happened).transform(x) - rate)[away].mean() > 0.07
    state = torch.random.get_rng_state()
    again = by_name("monotonic_network", steps=20).fit(x, happened).transform(x)
    assert np.array_equal(again, by_name("monotonic_network", steps=20).fit(x, happened).transform(x))
    assert torch.equal(state, torch.random.get_rng_state())


# The differentiable ECE and meta-calibration


def test_the_loss_is_the_measure():
    logits, labels = sharpened(300, 2.0, seed=11)
    logits[::3, 3] = -np.inf
    labels = np.where(labels == 3, 0, labels)
    weights = np.random.default_rng(12).random(300)
    tensor = torch.from_numpy(logits).requires_grad_()
    got = differentiable_ece(tensor, torch.from_numpy(labels), weights=torch.from_numpy(weights))
    expected = differentiable_calibration_error(softmax(logits, axis=1), labels, weights=weights)
    assert got.item() == pytest.approx(expected, abs=1e-12)
    got.backward()
    assert torch.isfinite(tensor.grad).all()
    assert tensor.grad.abs().sum() > 0


def test_smoothed_labels_stay_distributions_over_what_is_there():
    there = torch.tensor([[True, True, True], [True, True, False]])
    targets = smoothed_labels(torch.tensor([2, 0]), there, torch.tensor([0.2, 0.0, 0.4]))
    assert targets.numpy() == pytest.approx(np.array([[0.2, 0.2, 0.6], [0.8, 0.2, 0.0]]))


def test_noisy_labels_are_smoothed_more_than_clean_ones():
    rng = np.random.default_rng(13)
    y = rng.integers(2, size=400)
    x = np.column_stack([2 * y - 1.0, np.ones(400)]) + rng.normal(0, 0.05, (400, 2))
    noisy = np.where(rng.random(400) < 0.25, 1 - y, y)
    clean_smoothing = learn_smoothing(x, y, steps=25)
    wide = np.hstack([x, rng.normal(size=(400, 60))])
    assert learn_smoothing(wide, noisy, steps=25).mean() > clean_smoothing.mean() + 0.05


def test_a_unit_that_a_class_is_taken_for_gets_more_of_its_label():
    rng = np.random.default_rng(14)
    y = rng.integers(3, size=600)
    # A class-0 question in three is labeled 1, and none is labeled 2.
    noisy = np.where((y == 0) & (rng.random(600) < 1 / 3), 1, y)
    x = np.hstack([4 * np.eye(3)[y] + rng.normal(0, 0.3, (600, 3)), rng.normal(size=(600, 60))])
    learned = learn_smoothing(x, noisy, per="unit", steps=40)
    assert learned.shape == (3, 3)
    assert (np.diag(learned) == 0).all()
    assert (learned.sum(axis=1) <= 0.5).all()
    assert learned[0, 1] > 2 * learned[0, 2]
    there = torch.tensor([[True, True, True], [True, False, True]])
    targets = smoothed_labels(torch.tensor([0, 0]), there, torch.tensor([[0, 0.2, 0.1], [0, 0, 0], [0, 0, 0.0]]))
    assert targets.numpy() == pytest.approx(np.array([[0.7, 0.2, 0.1], [0.9, 0.0, 0.1]]))
    with pytest.raises(ValueError, match="per must be one of class, unit"):
        learn_smoothing(x, noisy, per="layer")


def test_smoothing_by_unit_is_saved_and_loaded(tmp_path):
    data = drawn(200, seed=15)
    calibrator = by_name("meta_calibration", per="unit", steps=5).fit(data.logits, data.labels)
    calibrator.save(tmp_path / "calibrator.json")
    loaded = load_calibrator(tmp_path)
    assert np.array_equal(loaded.smoothing, calibrator.smoothing)
    assert np.array_equal(loaded.transform(data.logits), calibrator.transform(data.logits))


# The simplex head


@pytest.mark.parametrize("k", [2, 3, 4, 26])
def test_the_frame_is_equiangular(k):
    cosines = simplex_etf(k) @ simplex_etf(k).T
    assert np.diag(cosines) == pytest.approx(np.ones(k))
    assert cosines[~np.eye(k, dtype=bool)] == pytest.approx(np.full(k * (k - 1), -1 / (k - 1)))


def test_the_head_trains_its_layer_and_not_the_frame():
    head = simplex_etf_head(6, 4, scale=3.0)
    assert {name for name, _ in head.named_parameters()} == {"projection.weight", "projection.bias"}
    assert "vertices" in head.state_dict()
    hidden = torch.randn(2, 7, 6)
    logits = head(hidden)
    assert logits.shape == (2, 7, 4)
    assert logits.abs().max() <= 3.0
    assert head(1e6 * hidden).softmax(-1).max() <= softmax([3.0, -1.0, -1.0, -1.0]).max() + 1e-6


def test_balance_is_where_mean_confidence_is_the_accuracy():
    logits, labels = sharpened(3000, 5.0, seed=14)
    sure, unsure = softmax(logits, axis=1), np.full((3000, 4), 0.2)
    unsure[np.arange(3000), logits.argmax(axis=1)] = 0.4
    share = balance(sure, unsure, labels)
    mixed = share * sure + (1 - share) * unsure
    assert 0 < share < 1
    assert mixed.max(axis=1).mean() == pytest.approx((mixed.argmax(axis=1) == labels).mean(), abs=1e-4)
    # Both too sure, one of them about nothing: the log-loss keeps what tells right from wrong.
    wild = softmax(5 * np.random.default_rng(1).normal(size=(3000, 4)), axis=1)
    share = balance(sure, wild, labels)
    losses = [-np.log((w * sure + (1 - w) * wild)[np.arange(3000), labels]).mean() for w in np.linspace(0, 1, 101)]
    assert share == pytest.approx(np.argmin(losses) / 100, abs=0.01)


# Ensembles


@pytest.mark.parametrize("order", ["pool_then_calibrate", "calibrate_then_pool"])
def test_ensembles_by_hand(order, tmp_path):
    rng = np.random.default_rng(15)
    logits, labels = sharpened(500, 2.0, seed=16)
    members = np.stack([logits + rng.normal(0, 1, logits.shape) for _ in range(3)])
    calibrator = by_name("ensemble", order=order).fit(members, labels)
    if order == "pool_then_calibrate":
        pooled = softmax(members, axis=-1).mean(axis=0)
        inner = by_name("temperature").fit(pooled, labels, kind="probabilities")
        expected = inner.transform(pooled, kind="probabilities")
    else:
        expected = np.mean([by_name("temperature").fit(m, labels).transform(m) for m in members], axis=0)
    assert calibrator.transform(members) == pytest.approx(expected, abs=1e-9)
    calibrator.save(tmp_path / "calibrator.json")
    assert np.array_equal(load_calibrator(tmp_path).transform(members), calibrator.transform(members))
    with pytest.raises(ValueError, match=r"fitted with 3 member\(s\), got 2"):
        calibrator.transform(members[:2])
    with pytest.raises(ValueError, match="cannot be built around"):
        by_name("ensemble", base="importance_weighted")


# Files


def test_large_arrays_lie_beside_as_safetensors(tmp_path):
    data = drawn(1500, seed=19)
    calibrator = by_name("localized").fit(data.logits, data.labels, features=data.features)
    path = calibrator.save(tmp_path / "calibrator.json")
    beside = tmp_path / "calibrator.safetensors"
    assert beside.is_file()
    assert path.stat().st_size < 3000
    content = beside.read_bytes()
    beside.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_calibrator(path)
    beside.unlink()
    with pytest.raises(FileNotFoundError, match=r"calibrator.safetensors"):
        load_calibrator(path)
    # A smaller calibrator in the same place leaves no old arrays behind.
    beside.write_bytes(content)
    by_name("temperature").fit(data.logits, data.labels).save(path)
    assert not beside.exists()


def test_what_could_not_be_read_back_is_not_written(tmp_path, monkeypatch):
    from hf_calib.calibrators import storage

    data = drawn(1500, seed=19)
    calibrator = by_name("localized").fit(data.logits, data.labels, features=data.features)
    monkeypatch.setattr(storage, "MAX_TENSOR_BYTES", 2**20 + 50_000)
    with pytest.raises(ValueError, match="fit it on fewer questions or features"):
        calibrator.save(tmp_path / "calibrator.json")
    assert not list(tmp_path.iterdir())


def test_more_options_than_letters_are_saved_and_loaded(tmp_path):
    data = drawn(200, k=40, seed=20)
    calibrator = by_name("isotonic_multiclass").fit(data.logits, data.labels)
    calibrator.save(tmp_path / "calibrator.json")
    assert np.array_equal(load_calibrator(tmp_path).transform(data.logits), calibrator.transform(data.logits))


def test_a_file_cannot_nest_or_name_what_it_likes(tmp_path):
    path = tmp_path / "calibrator.json"
    inner = {"method": "temperature", "parameters": {"temperature": 1.0}}
    for _ in range(30):
        inner = {"method": "ensemble", "parameters": {"order": "pool_then_calibrate", "n_members": 1,
                                                      "calibrators": [inner]}}  # fmt: skip
    for parameters in (
        inner["parameters"],
        {"base": {"method": "../../evil", "parameters": {}}, "effective_sample_size": 1.0},
        {"base": {"tensor": "../../etc/passwd"}, "effective_sample_size": 1.0},
    ):
        method = "ensemble" if "order" in parameters else "importance_weighted"
        path.write_text(json.dumps({"format_version": 1, "method": method, "parameters": parameters}))
        with pytest.raises((ValueError, FileNotFoundError)):
            load_calibrator(path)
    # However deep, and whatever is inside what.
    deep = inner
    text = json.dumps({"format_version": 1, "method": "auto", "parameters": {"base": deep}})
    for content in (text, '{"a":' * 50_000 + "1" + "}" * 50_000):
        path.write_text(content)
        with pytest.raises(ValueError):
            load_calibrator(path)


# The options beside the answer


def test_the_others_are_as_at_the_temperature_that_gives_the_answer_its_probability():
    from hf_calib.calibrators.confidence_maps import with_confidence

    rng = np.random.default_rng(20)
    logits = rng.normal(0, 3, (300, 5))
    logits -= logits.max(axis=1, keepdims=True)
    for temperature in (1.0, 1.5, 7.0, 100.0):
        expected = softmax(logits / temperature, axis=1)
        assert with_confidence(logits, expected.max(axis=1)) == pytest.approx(expected, abs=1e-7)
    assert with_confidence(logits, np.full(300, 0.05)) == pytest.approx(np.full((300, 5), 0.2))
    sharper = with_confidence(logits, softmax(logits / 0.3, axis=1).max(axis=1))
    kept = softmax(logits, axis=1)
    beside = np.argsort(kept, axis=1)[:, :-1]
    given, got = (np.take_along_axis(p, beside, axis=1) for p in (kept, sharper))
    assert got / got.sum(axis=1, keepdims=True) == pytest.approx(given / given.sum(axis=1, keepdims=True))
    certain = with_confidence(logits, np.ones(300))
    assert certain.max(axis=1) == pytest.approx(np.ones(300))


def test_logistic_maps_of_a_sharpened_model_are_nearly_its_temperature():
    logits, labels = sharpened(20_000, 3.0, seed=21)
    rows = np.arange(20_000)
    platt, temperature = (by_name(name).fit(logits, labels).transform(logits) for name in ("platt", "temperature"))
    gap = -np.log(platt[rows, labels]).mean() + np.log(temperature[rows, labels]).mean()
    assert abs(gap) < 0.01


@pytest.mark.parametrize("name", ["temperature", "vector", "isotonic", "ensemble"])
def test_probabilities_given_as_logits_are_noticed(name):
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(3), 40), rng.integers(3, size=40)
    with pytest.raises(ValueError, match='these are probabilities; pass kind="probabilities"'):
        by_name(name).fit(probabilities, labels)
    with pytest.raises(ValueError, match="these are probabilities"):
        by_name(name).fit(probabilities.round(3), labels)
    by_name(name).fit(probabilities, labels, kind="probabilities")
    by_name(name).fit(probabilities - 1, labels)  # the same as logits


@pytest.mark.parametrize("n_levels", [1, 2, 5, 9])
def test_a_spline_follows_the_accuracy_at_each_of_a_few_confidences(n_levels):
    levels, n = np.linspace(0.5, 0.95, n_levels), 200
    # Of every 200 answers, 60 to 150 are right; their order within a confidence must not matter.
    right = np.linspace(60, 150, n_levels).round().astype(int)
    correct = (np.arange(n) < right[:, None]).astype(int)
    order = np.random.default_rng(0).permutation(n * n_levels)
    confidences = np.repeat(levels, n)
    fitted = [
        by_name("spline").fit(c, y, kind="probabilities").transform(levels, kind="probabilities")
        for c, y in ((confidences, correct.ravel()), (confidences[order], correct.ravel()[order]))
    ]
    assert fitted[0] == pytest.approx(right / n, abs=0.05)
    assert fitted[0] == pytest.approx(fitted[1], abs=1e-12)


def test_a_spline_of_few_questions_has_as_many_knots():
    fitted = by_name("spline").fit([0.6, 0.8], [0, 1], kind="probabilities")
    assert fitted.transform([0.6, 0.8], kind="probabilities") == pytest.approx([0.4, 0.4])


def test_uneven_rows_are_to_be_padded():
    fitted = by_name("temperature").fit([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [0, 1, 0])
    for use in (fitted.transform, lambda rows: by_name("temperature").fit(rows, [0, 1])):
        with pytest.raises(
            ValueError, match=r"predictions must not contain lists .*; pass rows .* padded on the right"
        ):
            use([[1.0, 2.0], [1.0, 2.0, 3.0]])
    with pytest.raises(ValueError, match="labels must not contain lists of different lengths; pass one number"):
        by_name("temperature").fit([[1.0, 2.0], [1.0, 2.0]], [[0], [0, 1]])


@pytest.mark.parametrize("name", ["histogram", "scaling_binning"])
def test_a_number_of_bins_is_whole(name):
    with pytest.raises(TypeError, match="n_bins must be an integer, got float"):
        by_name(name, n_bins=2.5)
