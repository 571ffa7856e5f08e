"""The sweeps: what each point changes, going on where a run stopped, and what comes of real ones."""

import json
from dataclasses import replace

import numpy as np
import pytest
from experiments import sweep_run as running
from experiments.compared import METHODS
from experiments.experiment import MODELS
from experiments.presets import EXPERIMENTS, ExperimentPreset
from experiments.results import load_rows, write_json
from experiments.sweep_report import mean_over_seeds, write_sweep_report
from experiments.sweep_run import run_sweep, with_questions_of
from experiments.sweeps import BASELINES, SWEEP_KEYS, SWEEPS, Change, measured_steps, sweep_preset
from scipy import stats

from hf_calib.lab import sample_data


def row(seed, method, x, domain, sweep="questions", **values):
    filled = dict.fromkeys(SWEEP_KEYS, 0.5) | {
        "seed": seed, "reported": seed > 2, "world": "fixed", "sweep": sweep, "method": method, "x": x,
        "domain": domain, "n": 10, "labels": 0, **values,
    }  # fmt: skip
    return {key: filled[key] for key in SWEEP_KEYS}


def rows_of(sweep, seed, method, x, **values):
    return [row(seed, method, x, domain, sweep, **values) for domain in ("in", "out", "unseen")]


def test_each_method_gets_as_many_questions_as_the_point_says():
    sweep, preset = SWEEPS["questions"], ExperimentPreset()
    for method in sweep.methods:
        for n in sweep.values:
            there = sweep.change(method, preset, n)
            assert not there.terms
            if METHODS[method].labels(preset):
                assert METHODS[method].labels(there.preset) == n
                assert there.preset.n_held_out_questions == n // 4
                assert there.preset.n_prompts == preset.n_prompts
            else:
                assert there.preset == replace(preset, n_prompts=n)


def test_the_weights_are_those_of_the_anchor_and_of_the_regularizer():
    change, preset = SWEEPS["weight"].change, ExperimentPreset()
    anchored = replace(preset, anchored=replace(preset.anchored, anchor_weight=3))
    in_bins = replace(preset, regularized=replace(preset.regularized, em_weight=3))
    for method, there in (("rcft", anchored), ("rcft-bins", in_bins)):
        assert change(method, preset, 3) == Change(there, {})


def test_a_weight_decides_what_its_method_is_trained_with():
    change, preset = SWEEPS["weight"].change, ExperimentPreset()
    for method in SWEEPS["weight"].methods:
        there = change(method, preset, 3)
        if not there.terms:
            settings = MODELS[METHODS[method].model].settings
            assert any(getattr(there.preset, name) != getattr(preset, name) for name in settings)


def test_the_weight_of_calibration_aware_dpo_is_a_term_of_its_own():
    change, preset = SWEEPS["weight"].change, ExperimentPreset()
    for method in ("calibration-aware-dpo", "calibration-aware-dpo-unlabelled"):
        there = change(method, preset, 3)
        assert there.preset == preset
        assert there.terms == {"anchor_weight": 3}


def test_measured_steps_are_dense_at_first_and_end_with_the_training():
    assert measured_steps(600) == [*range(10, 101, 10), *range(150, 601, 50)]
    assert measured_steps(60) == [*range(1, 11), *range(15, 61, 5)]
    assert measured_steps(3) == [1, 2, 3]


def test_a_sweep_has_fewer_tests_than_the_experiment():
    assert sweep_preset("full").n_test_questions == 4000
    assert sweep_preset("mini") == EXPERIMENTS["mini"]["fixed"]


def test_the_number_of_self_made_prompts_is_that_of_the_prompts():
    sweep, preset = SWEEPS["self-made"], ExperimentPreset()
    for n in sweep.values:
        assert sweep.change(sweep.methods[0], preset, n) == Change(replace(preset, n_prompts=n), {})


def test_only_the_questions_to_calibrate_on_change(preset, world, pretrained, tokenizer):
    small = replace(preset, n_test_questions=20, n_test_pairs=8)
    data = sample_data(small, world, pretrained, tokenizer, 3)
    fewer = replace(small, n_calibration_questions=9, n_held_out_questions=3, n_prompts=5)
    changed = with_questions_of(data, fewer, 3)
    assert changed.pairs is data.pairs
    assert changed.test is data.test
    assert [len(changed.calibration), len(changed.held_out), len(changed.prompts)] == [9, 3, 5]
    again = sample_data(fewer, world, pretrained, tokenizer, 3)
    assert changed.labeled() == again.labeled()
    assert changed.prompts.to_questions() == again.prompts.to_questions()
    assert changed.labeled() != with_questions_of(data, fewer, 4).labeled()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sweep": "depth"}, "no sweep 'depth'"),
        ({"preset": "big"}, "no preset 'big'"),
        ({"methods": ["ipo"]}, "no method 'ipo'"),
        ({"methods": []}, "at least one method"),
        ({"seeds": []}, "seeds must be"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_sweep(tmp_path / "out", **{"sweep": "questions", "seeds": [3], **arguments})
    assert not (tmp_path / "out").exists()


@pytest.fixture
def measured_points(monkeypatch):
    """Stand in for training: what would have been run, in order."""
    points = []

    def rows(task, method, x, examination):
        if (method, x) == ("daca", 120) and ("daca", 120) not in points:
            points.append(("daca", 120))
            raise KeyboardInterrupt
        points.append((method, x))
        return rows_of(task.sweep, task.seed, method, x)

    monkeypatch.setattr(running, "_rows", rows)
    return points


def test_a_stopped_sweep_goes_on_and_changed_settings_run_again(measured_points, monkeypatch, lab_cache, tmp_path):
    options = {"preset": "mini", "methods": ["dpo+temperature", "daca"], "cache_dir": lab_cache}
    everything = [*((name, 0) for name in BASELINES), *((m, x) for m in options["methods"] for x in (24, 120))]
    with pytest.raises(KeyboardInterrupt):
        run_sweep(tmp_path, "questions", [0], **options)
    assert measured_points == everything
    path = run_sweep(tmp_path, "questions", [0], **options)
    assert measured_points == [*everything, ("daca", 120)]
    found = [(entry["method"], entry["x"]) for entry in load_rows(path, SWEEP_KEYS)[::3]]
    assert sorted(found) == sorted(everything)
    assert found[:2] == [(name, 0) for name in BASELINES]
    run_sweep(tmp_path, "questions", [0], **options)
    assert len(measured_points) == len(everything) + 1
    # Where the number of prompts isn't swept over, its change runs again what depends on it; so everything else.
    changed = replace(EXPERIMENTS["mini"]["fixed"], n_test_questions=40)
    monkeypatch.setitem(EXPERIMENTS, "mini", {"fixed": changed})
    run_sweep(tmp_path, "questions", [0], **options)
    assert measured_points[len(everything) + 1 :] == everything
    with pytest.raises(ValueError, match="another folder"):
        run_sweep(tmp_path, "questions", [0], preset="full")


def test_the_mean_over_seeds_has_scipys_interval():
    values = np.random.default_rng(0).random(5)
    measure = mean_over_seeds([{"seed": seed, "ece": value} for seed, value in enumerate(values)], "ece")
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert measure.value == pytest.approx(values.mean())
    assert (measure.low, measure.high) == pytest.approx((expected.low, expected.high))


def written(folder, name, points):
    """Write rows of three seeds; points are method, x and the columns' values."""
    rows = [
        entry
        for seed in (2, 3, 4)
        for method, x, values in points
        for entry in rows_of(name, seed, method, x, **{key: value + seed / 100 for key, value in values.items()})
    ]
    write_json(folder / f"sweep_{name}.json", rows)


def test_tables_and_figures_are_made_of_the_reported_seeds(tmp_path):
    baselines = [("pretrained", 0, {"ece": 0.02}), ("dpo", 0, {"ece": 0.4})]
    swept = [("cft", x, {"ece": 0.9 / x, "accuracy": 0.3}) for x in (5, 10)]
    written(tmp_path, "questions", [*baselines, *swept, ("rcft", 5, {"ece": 0.1})])
    written(tmp_path, "weight", [*baselines, *swept])
    training = [(m, x, {"train_accuracy": 0.3 + x / 20, "ece": 0.3}) for m in ("cft", "long") for x in (0, 5, 10)]
    written(tmp_path, "training", [*baselines, *training])
    variants = [(name, 0, {"ece": 0.06, "accuracy": 0.5}) for name in ("rcft-pairs", "rcft")]
    written(tmp_path, "prompts", [*variants, *baselines])
    for name in ("chat", "reference"):
        written(tmp_path, name, [*baselines, (SWEEPS[name].methods[0], 0, {"ece": 0.3})])
    written(tmp_path, "self-made", [*baselines, *((SWEEPS["self-made"].methods[0], x, {"ece": 0.3}) for x in (5, 10))])
    text = write_sweep_report(tmp_path)
    assert (tmp_path / "sweeps.md").read_text() == text
    assert text.count("Seeds 3, 4, options in a fixed order.") == 7
    assert "ECE in domain (pretrained 0.055, dpo 0.435), mean" in text
    lines = [line.split() for line in text.splitlines()]
    # .18 + .03 and .18 + .04: .215 with the t interval of two values, 12.706 * .005.
    assert ["cft", "0.215", "[0.151,", "0.279]", "0.125", "[0.061,", "0.189]"] in lines
    assert ["rcft", "0.135", "[0.071,", "0.199]", "-"] in lines
    # .06 + .03 and .06 + .04, the same in every domain.
    three = ["0.095", "[0.031,", "0.159]"] * 3
    assert any(line[:10] == ["rcft-pairs", *three] for line in lines)
    compared = [line[0] for line in lines if line]
    assert [name for name in compared if name in ("rcft", "rcft-pairs")][-2:] == ["rcft", "rcft-pairs"]
    # .5 is the critical accuracy, which training passes at the second point.
    assert "E[max p*] is 0.500" in text
    assert [line[5] for line in lines if line[:5] == ["long", "past", "the", "critical", "accuracy"]] == ["5"]
    assert {path.name for path in tmp_path.glob("*.png")} == {f"sweep_{name}.png" for name in SWEEPS}
    everything = write_sweep_report(tmp_path, all_seeds=True)
    assert "Seeds 2, 3, 4, options" in everything


def test_what_cannot_be_reported_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"sweep\.py"):
        write_sweep_report(tmp_path)
    write_json(tmp_path / "sweep_weight.json", rows_of("weight", 0, "dpo", 0))
    with pytest.raises(ValueError, match="only seeds that settings were chosen on"):
        write_sweep_report(tmp_path)
    write_json(tmp_path / "sweep_weight.json", [{"seed": 3}])
    with pytest.raises(ValueError, match="row 0 must have the keys"):
        write_sweep_report(tmp_path)


@pytest.mark.nightly
def test_real_sweeps_in_miniature(lab_cache, tmp_path):
    options = {"preset": "mini", "cache_dir": lab_cache}
    path = run_sweep(tmp_path, "questions", [3], methods=["dpo+isotonic", "repair-unlabelled"], jobs=2, **options)
    found = {(entry["method"], entry["x"], entry["domain"]): entry for entry in load_rows(path, SWEEP_KEYS)}
    assert len(found) == 3 * (2 + 2 * 2)
    base = found["pretrained", 0, "in"]
    assert found["dpo", 0, "in"]["ece"] > base["ece"] + 0.1
    assert found["dpo+isotonic", 24, "in"]["labels"] == 24
    assert found["dpo+isotonic", 120, "in"]["nll"] < found["dpo+isotonic", 24, "in"]["nll"]
    assert found["repair-unlabelled", 24, "in"]["labels"] == 0
    assert found["repair-unlabelled", 120, "out"]["ece"] < found["dpo", 0, "out"]["ece"] - 0.1
    assert found["repair-unlabelled", 120, "in"]["seconds"] > found["dpo", 0, "in"]["seconds"] > 0

    path = run_sweep(tmp_path, "weight", [3], methods=["calibration-aware-dpo-unlabelled"], **options)
    found = {(entry["method"], entry["x"], entry["domain"]): entry for entry in load_rows(path, SWEEP_KEYS)}
    points = [("dpo", 0), ("calibration-aware-dpo-unlabelled", 0.3), ("calibration-aware-dpo-unlabelled", 5)]
    eces = [found[(*point, "in")]["ece"] for point in points]
    assert eces == sorted(eces, reverse=True)

    path = run_sweep(tmp_path, "training", [3], methods=["long"], **options)
    entries = [entry for entry in load_rows(path, SWEEP_KEYS) if entry["domain"] == "in"]
    dpo = next(entry for entry in entries if entry["method"] == "dpo")
    course = [entry for entry in entries if entry["method"] == "long"]
    assert [entry["x"] for entry in course] == [0, *measured_steps(60)]
    for measure in ("accuracy", "ece", "nll", "train_accuracy"):
        assert course[0][measure] == pytest.approx(dpo[measure], abs=1e-6)
    assert course[-1]["train_accuracy"] > course[0]["train_accuracy"] + 0.1
    assert course[-1]["win_rate"] is None
    write_sweep_report(tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"sweep_{name}.png" for name in ("questions", "training", "weight")
    }
    assert len(json.loads((tmp_path / "sweep_training.json").read_text())) == 3 * (2 + 21)
