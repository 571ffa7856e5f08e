"""The experiment: which methods there are, what decides a result, and going on where a run stopped."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from experiments import run as running
from experiments.compared import COMPARED, METHODS
from experiments.experiment import MODELS, method_is_made_of
from experiments.methods import smoothed_dpo_loss
from experiments.presets import EXPERIMENTS, ExperimentPreset
from experiments.results import load_rows
from experiments.run import run_experiment
from experiments.selective import SELECTIVE_KEYS
from trl import DPOConfig, DPOTrainer

from hf_calib.confidence import predict
from hf_calib.lab import PreferenceSettings, make_bench, make_model, pretrained_folder, sample_pairs
from hf_calib.lab.win_rate import TokenizedCompletions

from .test_results import run as finished


def test_each_preset_has_both_worlds_and_measures_enough():
    for name, worlds in EXPERIMENTS.items():
        assert {world: preset.shuffled for world, preset in worlds.items()} == {"fixed": False, "shuffled": True}
        sizes = {(preset.n_test_questions, preset.n_test_pairs) for preset in worlds.values()}
        assert sizes == {(20_000, 10_000)} or name == "mini"


def test_the_methods_that_use_answers_use_equally_many():
    preset = ExperimentPreset(n_calibration_questions=30, n_held_out_questions=12)
    assert {name: method.labels(preset) for name, method in METHODS.items()} == {
        **dict.fromkeys(METHODS, 0),
        **dict.fromkeys(("dpo+temperature", "dpo+vector", "dpo+isotonic", "cft", "long", "long+temperature"), 42),
        **dict.fromkeys(("rcft-published", "rcft-published-all-bins", "rcft-bins", "rcft", "rcft-synthesized"), 42),
        **dict.fromkeys(("auto", "calibration-aware-dpo"), 42),
    }
    assert {method.model for method in COMPARED.values()} == {None, *MODELS}


def test_smoothed_dpo_has_its_loss_in_trl(preset, world, tokenizer, tmp_path):
    models = [make_model(preset.model, seed) for seed in (1, 2)]
    few = PreferenceSettings(n_multiple_choice=8, n_open=8)
    pairs = sample_pairs(world, models[1], tokenizer, few)
    losses = smoothed_dpo_loss(0.2)
    args = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", beta=0.3, **losses)
    trainer = DPOTrainer(
        model=models[0], ref_model=models[1], args=args, train_dataset=pairs, processing_class=tokenizer
    )
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(16)])
    loss = trainer.compute_loss(trainer.model.eval(), batch).item()
    scores = [
        [
            TokenizedCompletions.of(tokenizer, [(row["prompt"], row[side]) for row in pairs]).log_probabilities(model)
            for side in ("chosen", "rejected")
        ]
        for model in models
    ]
    margins = 0.3 * ((scores[0][0] - scores[0][1]) - (scores[1][0] - scores[1][1]))
    assert np.abs(margins).max() > 0.05
    expected = 0.8 * np.log1p(np.exp(-margins)) + 0.2 * np.log1p(np.exp(margins))
    assert loss == pytest.approx(expected.mean(), rel=1e-4)


def test_a_setting_changes_the_keys_of_what_depends_on_it(tmp_path):
    preset = ExperimentPreset()

    def changed(**settings):
        other = replace(preset, **settings)
        return {
            name
            for name in METHODS
            if method_is_made_of(name, preset, tmp_path, 3) != method_is_made_of(name, other, tmp_path, 3)
        }

    dpo = {name for name, method in METHODS.items() if method.model is not None}
    assert changed() == set()
    assert changed(long=replace(preset.long, steps=7)) == {
        "long", "long+temperature", "rcft-bins", "rcft-published", "rcft-published-all-bins"
    }  # fmt: skip
    assert changed(regularized=replace(preset.regularized, em_steps=7)) == {"rcft-bins"}
    anchored = {"rcft", "rcft-synthesized", "auto"}
    assert changed(anchored=replace(preset.anchored, anchor_weight=7)) == anchored
    assert changed(anchored_training=replace(preset.anchored_training, steps=7)) == anchored
    assert changed(fine_tuning=replace(preset.fine_tuning, steps=7)) == {"cft"}
    assert changed(auto_fraction=0.2) == {"auto"}
    assert changed(label_smoothing=0.2) == {"dpo-label-smoothing", "dpo-robust"}
    assert changed(rpo_weight=0.2) == {"rpo"}
    assert changed(catto_weight=0.2) == {"catto"}
    assert changed(bce_weight=0.2) == {"dpo-bce"}
    assert changed(alignment=replace(preset.alignment, beta=0.2)) == dpo
    assert changed(n_held_out_questions=7) == set(METHODS)
    # Another pre-trained model is another folder.
    assert method_is_made_of("dpo", preset, tmp_path, 3) != method_is_made_of("dpo", preset, tmp_path / "b", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "big"}, "no preset 'big'"),
        ({"worlds": ["flat"]}, "no world 'flat'"),
        ({"worlds": []}, "at least one world"),
        ({"methods": ["dpo", "ppo"]}, "no method 'ppo'"),
        ({"seeds": []}, "seeds must be"),
        ({"seeds": [3, 3]}, "seeds must be"),
        ({"seeds": [-1]}, "seeds must be"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ],
)
def test_wrong_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_experiment(tmp_path / "out", **{"seeds": [3], **arguments})
    assert not (tmp_path / "out").exists()


@pytest.fixture
def measured_names(monkeypatch):
    """Stand in for training: what would have been run, in order."""
    names = []

    def measured(task, name, examination):
        if name == "ipo" and "ipo" not in names:
            names.append("ipo")
            raise KeyboardInterrupt
        names.append(name)
        run = finished(task.seed, name, world=task.world)
        selective = [{key: row.get(key, 0.5) for key in SELECTIVE_KEYS} for row in run["rows"]]
        return {"rows": run["rows"], "selective": selective}

    monkeypatch.setattr(running, "measured", measured)
    return names


def test_a_stopped_run_goes_on_and_changed_settings_run_again(measured_names, monkeypatch, lab_cache, tmp_path):
    options = {
        "worlds": ["fixed"], "preset": "mini", "methods": ["dpo", "dpo-label-smoothing", "ipo"], "cache_dir": lab_cache
    }  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        run_experiment(tmp_path, [0], **options)
    assert {row["method"] for row in load_rows(tmp_path / "results.json")} == {"dpo", "dpo-label-smoothing"}
    measured_names[:] = ["ipo"]
    path = run_experiment(tmp_path, [0], **options)
    assert measured_names == ["ipo", "ipo"]
    assert len(load_rows(path)) == 9
    run_experiment(tmp_path, [0], **options)
    assert measured_names == ["ipo", "ipo"]
    changed = replace(EXPERIMENTS["mini"]["fixed"], label_smoothing=0.2)
    monkeypatch.setitem(EXPERIMENTS, "mini", {"fixed": changed})
    run_experiment(tmp_path, [0], **options)
    assert measured_names == ["ipo", "ipo", "dpo-label-smoothing"]
    with pytest.raises(ValueError, match="another folder"):
        run_experiment(tmp_path, [0], worlds=["fixed"], preset="full")


def test_a_method_that_fails_is_named(monkeypatch, lab_cache, tmp_path, capsys):
    def fails(task, name, examination):
        raise FloatingPointError("the loss is nan")

    monkeypatch.setattr(running, "measured", fails)
    with pytest.raises(FloatingPointError):
        run_experiment(tmp_path, [0], worlds=["fixed"], preset="mini", methods=["ipo"], cache_dir=lab_cache)
    assert "fixed, seed 0: ipo failed: the loss is nan" in capsys.readouterr().out


def test_what_is_written_is_what_the_models_do(preset, lab_cache, pretrained, tokenizer, tmp_path):
    """Against the report of the pre-trained model and a temperature searched for by brute force."""
    threads = torch.get_num_threads()
    path = run_experiment(
        tmp_path, [0], worlds=["fixed"], preset="mini", methods=["pretrained", "dpo+temperature"], cache_dir=lab_cache
    )
    assert torch.get_num_threads() == threads
    rows = {(row["method"], row["domain"]): row for row in load_rows(path)}
    folder = pretrained_folder(preset, cache_dir=lab_cache, progress=False)
    bench = make_bench(preset, 0, folder, tmp_path, progress=False)
    for domain in ("in", "out", "unseen"):
        questions = bench.data.test[domain]
        predictions = predict(pretrained, tokenizer, questions.to_questions())
        report = predictions.report(true_probabilities=questions.true_probabilities, n_resamples=0)
        row = rows["pretrained", domain]
        for name in ("accuracy", "ece", "tce", "ece_true", "nll", "option_mass"):
            assert row[name] == pytest.approx(report.measures[name].value, abs=1e-6)
        assert row["reported"] is False
        assert row["n"] == preset.n_test_questions
        assert row["labels"] == row["seconds"] == 0
        scaled = rows["dpo+temperature", domain]
        assert scaled["labels"] == preset.n_calibration_questions + preset.n_held_out_questions
        assert scaled["seconds"] > 0
    # DPO costs calibration; after temperature scaling in domain little of that is left there.
    assert rows["dpo+temperature", "in"]["ece"] < 0.12
    assert rows["dpo+temperature", "in"]["nll"] > rows["pretrained", "in"]["nll"]
    assert rows["dpo+temperature", "in"]["win_rate_open"] > rows["pretrained", "in"]["win_rate_open"]
