"""Temperatures by group: against a numerical minimum, shrinkage, and from predictions to a saved file."""

import json

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

import hf_calib
from hf_calib.calibrators import GroupedTemperature, TemperatureScaling, load_calibrator
from hf_calib.cli import main
from hf_calib.confidence import Predictions


def drawn(sizes, temperatures, seed=0, k=4):
    """Return logits that are too sharp by each group's temperature, labels and groups."""
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"g{i}" for i in range(len(sizes))], sizes)
    true = rng.normal(size=(len(groups), k)) * 2
    labels = np.array([rng.choice(k, p=softmax(row)) for row in true])
    return true * np.repeat(temperatures, sizes)[:, None], labels, groups


def test_each_temperature_minimizes_its_weighted_log_loss():
    logits, labels, groups = drawn((60, 300, 140), (1.0, 3.0, 0.5))
    fitted = GroupedTemperature(shrinkage=20).fit(logits, labels, groups=groups).parameters()
    losses = {name: (groups == name) + 20 / len(groups) for name in np.unique(groups)}
    losses[None] = np.ones(len(groups))
    for name, weights in losses.items():

        def loss(log_t, weights=weights):
            return -weights @ log_softmax(logits / np.exp(log_t), axis=1)[np.arange(len(labels)), labels]

        expected = np.exp(minimize_scalar(loss, bounds=(-3, 3), method="bounded", options={"xatol": 1e-10}).x)
        found = fitted["temperature"] if name is None else fitted["groups"][name]
        assert found == pytest.approx(expected, rel=1e-5)


def test_small_groups_are_drawn_towards_all_and_large_ones_are_not():
    logits, labels, groups = drawn((10, 2000, 2000), (4.0, 2.0, 1.0))
    own = GroupedTemperature().fit(logits, labels, groups=groups).parameters()
    overall = own["temperature"]
    for name, size in (("g0", 10), ("g1", 2000), ("g2", 2000)):
        chosen = groups == name
        alone = TemperatureScaling().fit(logits[chosen], labels[chosen]).temperature
        share = (own["groups"][name] - overall) / (alone - overall)
        assert (share < 0.5) if size == 10 else (0.9 < share <= 1)
    # A group whose answers are all right has a temperature of its own only within reason.
    sure = logits.copy()
    sure[:10] = -5
    sure[np.arange(10), labels[:10]] = 5
    assert GroupedTemperature().fit(sure, labels, groups=groups).parameters()["groups"]["g0"] > 0.2


def test_transforming_divides_by_the_groups_temperature_and_unknown_groups_get_the_overall_one():
    logits, labels, groups = drawn((100, 200), (1.0, 3.0))
    calibrator = GroupedTemperature().fit(logits, labels, groups=groups)
    own = calibrator.parameters()
    asked = np.array(["g1", "g0", "new"])
    temperatures = np.array([own["groups"]["g1"], own["groups"]["g0"], own["temperature"]])
    np.testing.assert_allclose(
        calibrator.transform(logits[:3], groups=asked), softmax(logits[:3] / temperatures[:, None], axis=1), rtol=1e-12
    )
    with pytest.raises(ValueError, match="groups: the calibrator has a temperature for each subject"):
        calibrator.transform(logits[:3])
    with pytest.raises(ValueError, match="groups: there are 3 questions and 2 groups"):
        calibrator.transform(logits[:3], groups=["g0", "g1"])
    with pytest.raises(ValueError, match="shrinkage: must be a number above 0"):
        GroupedTemperature(shrinkage=0)


def test_it_is_plain_json(tmp_path):
    logits, labels, groups = drawn((100, 200), (1.0, 3.0))
    path = GroupedTemperature("type").fit(logits, labels, groups=groups).save(tmp_path / "calibrator.json")
    content = json.loads(path.read_text())["parameters"]
    assert content["by"] == "type"
    assert set(content["groups"]) == {"g0", "g1"}
    assert not path.with_suffix(".safetensors").exists()
    loaded = load_calibrator(path)
    assert loaded.by == "type"
    assert loaded.needs_groups
    content["groups"]["g0"] = -1
    path.write_text(path.read_text().replace(json.dumps(loaded.parameters()["groups"]["g0"]), "-1"))
    with pytest.raises(ValueError, match="'g0' of the calibrator 'grouped_temperature' must be in"):
        load_calibrator(path)


@pytest.fixture
def recorded(tmp_path):
    def write(name, seed):
        logits, labels, groups = drawn((300, 300), (1.0, 4.0), seed=seed)
        path = tmp_path / name
        with path.open("w") as file:
            for p, label, group in zip(softmax(logits, axis=1), labels, groups, strict=True):
                row = {"probabilities": p.tolist(), "answer": int(label), "subject": str(group)}
                asked = {"question": "?", "choices": ["a", "b", "c", "d"], "type": "choice"}
                file.write(json.dumps({**row, **asked}) + "\n")
        return path

    return write


def test_from_predictions_to_a_calibrator_that_measure_applies(recorded, tmp_path):
    held_out, new = recorded("held_out.jsonl", 1), recorded("new.jsonl", 2)
    fitted = hf_calib.calibrate(held_out, by="subject", out=tmp_path / "c")
    assert fitted.name == "grouped_temperature"
    assert list(fitted.reports) == ["none", "temperature", "grouped_temperature"]
    nll = {name: report.measures["nll"].value for name, report in fitted.reports.items()}
    assert nll["grouped_temperature"] < nll["temperature"] < nll["none"]
    own = fitted.calibrator.parameters()["groups"]
    assert own["g1"] > 2 * own["g0"]
    from hf_calib.evaluation import measure_recorded

    after = measure_recorded(new, calibrator=tmp_path / "c")
    plain = hf_calib.Measurement.load(new).predictions
    names = np.array([str(subject) for subject in plain.subjects])
    temperatures = np.array([own[name] for name in names])[:, None]
    np.testing.assert_allclose(
        after.predictions.probabilities, softmax(plain.logits / temperatures, axis=1), atol=1e-9
    )
    # Predictions know their subjects and numbers of options themselves, but not their types.
    np.testing.assert_allclose(plain.calibrated(fitted.calibrator).probabilities, after.predictions.probabilities)
    by_type = hf_calib.calibrate(held_out, by="type").calibrator
    assert set(by_type.parameters()["groups"]) == {"choice"}
    with pytest.raises(ValueError, match=r"apply it with hf_calib\.measure"):
        plain.calibrated(by_type)
    assert measure_recorded(new, calibrator=by_type).before is not None


def test_numbers_of_options_are_groups_of_predictions_too():
    with np.errstate(divide="ignore"):
        values = np.log([[0.7, 0.3, 0.0], [0.5, 0.3, 0.2]])
    predictions = Predictions(values, np.array([0, 1]), (None, None), np.arange(2))
    calibrator = GroupedTemperature("n_options").set_parameters(
        {"by": "n_options", "shrinkage": 50.0, "temperature": 1.0, "groups": {"2 options": 2.0}}
    )
    found = predictions.calibrated(calibrator).probabilities
    np.testing.assert_allclose(found[0, :2], softmax(values[0, :2] / 2))
    np.testing.assert_allclose(found[1], [0.5, 0.3, 0.2])


def test_the_command(recorded, tmp_path, capsys):
    held_out = recorded("held_out.jsonl", 1)
    words = ["calibrate", "--from-predictions", str(held_out), "--out", str(tmp_path / "c")]
    assert main([*words, "--by", "subject"]) == 0
    assert "Saved grouped_temperature" in capsys.readouterr().out
    assert main([*words, "--by", "subject", "--method", "isotonic"]) == 1
    assert "--by: groups get temperatures fitted on answers" in capsys.readouterr().err


def test_tensors_and_any_name_of_a_group(tmp_path):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(60, 3)), rng.integers(0, 3, 60)
    groups = ["tensor"] * 60
    fitted = GroupedTemperature().fit(torch.tensor(z).requires_grad_(), y, groups=groups)
    expected = fitted.transform(z, groups=groups)
    found = fitted.transform(torch.tensor(z), groups=groups)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), expected)
    assert fitted.transform(torch.tensor(z).bfloat16(), groups=groups).shape == (60, 3)
    fitted.save(tmp_path / "calibrator.json")
    np.testing.assert_array_equal(load_calibrator(tmp_path / "calibrator.json").transform(z, groups=groups), expected)


def test_a_bad_row_is_named_by_its_place_among_all_questions():
    logits, groups = np.random.default_rng(0).normal(size=(6, 3)), list("aabbcc")
    scaling = GroupedTemperature().set_parameters(
        {"by": "subject", "shrinkage": 50.0, "temperature": 1.0, "groups": {"a": 2.0, "b": 3.0}}
    )
    logits[4, 1] = np.nan
    with pytest.raises(ValueError, match="row 4, counted from 0, has a logit that is NaN"):
        scaling.transform(logits, groups=groups)
    rounded = np.tile([0.3335, 0.3335, 0.3335], (6, 1))
    with pytest.warns(UserWarning, match="6 of 6 rows of probabilities") as found:
        scaling.transform(rounded, kind="probabilities", groups=groups)
    assert len(found) == 1
