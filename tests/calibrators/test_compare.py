"""The comparison's command on small predictions."""

import csv
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from hf_calib.calibrators import by_name
from hf_calib.measures import negative_log_likelihood

from .samples import drawn

SCRIPT = Path(__file__).parents[2] / "examples" / "calibrators" / "compare.py"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("compare_calibrators", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


def run(compare, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare.py", *map(str, arguments)])
    compare.main()


def half_width(values):
    interval = ttest_1samp(values, 0).confidence_interval()
    return (interval.high - interval.low) / 2


def differences(rows, name, setting, base_setting):
    """Log-loss less that of temperature scaling with 50 labels, by seed."""
    nll = {(row["calibrator"], row["setting"], row["seed"]): row["NLL"] for row in rows if row["labels"] == 50}
    return [nll[name, setting, seed] - nll["temperature", base_setting, seed] for seed in (0, 1)]


def test_intervals_of_several_worlds_are_over_worlds(compare):
    runs = [
        {"predictions": "lab", "world": world, "seed": seed, "setting": "in domain", "labels": 30, "tested on": 5,
         "calibrator": "temperature", **dict.fromkeys(compare.MEASURES, world + seed / 10), "fit ms": 1.0}
        for world in range(3)
        for seed in range(4)
    ]  # fmt: skip
    (line,) = compare.table(runs)
    assert (line["runs"], line["NLL"]) == (12, pytest.approx(1.15))
    assert line["NLL ±"] == pytest.approx(half_width([0.15, 1.15, 2.15]))


def test_every_row_is_what_its_calibrator_gives(compare, monkeypatch, tmp_path, capsys):
    parts = {}
    for name, data in (("a", drawn(300, seed=1)), ("b", drawn(200, seed=2)), ("far", drawn(200, seed=3, sharpness=6))):
        parts |= {f"{name}_logits": data.logits, f"{name}_labels": data.labels, f"{name}_features": data.features}
    np.savez(tmp_path / "given.npz", **parts)
    chosen = ["temperature", "localized", "importance_weighted", "modular_conformal", "reference_agreement"]
    run(compare, monkeypatch, "--predictions", tmp_path / "given.npz", "--source", "a", "b", "--target", "far",
        "--sizes", 50, 200, 3000, "--seeds", 2, "--calibrators", *chosen, "--shown", 50, 200,
        "--out", tmp_path / "rows.json", "--table", tmp_path / "table.csv")  # fmt: skip
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert {row["calibrator"] for row in rows} == {"none", "temperature", "localized", "importance_weighted"}
    assert {row["setting"] for row in rows} == {"in domain", "shifted", "unlabeled target"}
    assert {row["labels"] for row in rows} == {0, 50, 200}
    (row,) = [row for row in rows if row["calibrator"] == "temperature" and row["setting"] == "in domain"
              and row["labels"] == 50 and row["seed"] == 1]  # fmt: skip
    order = np.random.default_rng(1).permutation(500)
    logits = np.concatenate([parts["a_logits"], parts["b_logits"]])[order]
    labels = np.concatenate([parts["a_labels"], parts["b_labels"]])[order]
    p = by_name("temperature").fit(logits[:50], labels[:50]).transform(logits[200:])
    assert row["NLL"] == pytest.approx(negative_log_likelihood(p, labels[200:]))
    assert row["fit ms"] > 0
    with open(tmp_path / "table.csv", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    (line,) = [line for line in lines if line["calibrator"] == "temperature" and line["setting"] == "in domain"
               and line["labels"] == "50"]  # fmt: skip
    losses = [row["NLL"] for row in rows if row["calibrator"] == "temperature" and row["setting"] == "in domain"
              and row["labels"] == 50]  # fmt: skip
    assert float(line["NLL"]) == pytest.approx(np.mean(losses), abs=1e-4)
    assert float(line["NLL ±"]) == pytest.approx(half_width(losses), abs=1e-4)
    assert (line["runs"], line["tested on"]) == ("2", "300")
    gaps = differences(rows, "importance_weighted", "unlabeled target", "shifted")
    (line,) = [line for line in lines if line["calibrator"] == "importance_weighted" and line["labels"] == "50"
               and line["setting"] == "unlabeled target"]  # fmt: skip
    assert float(line["NLL - temperature"]) == pytest.approx(np.mean(gaps), abs=1e-4)
    assert float(line["NLL - temperature ±"]) == pytest.approx(half_width(gaps), abs=1e-4)
    printed = capsys.readouterr().out
    assert f"{np.mean(gaps):+.4f} ± {half_width(gaps):.4f}" in printed
    assert "unlabeled target: log-loss / ECE by the number of labels" in printed
    assert f"| temperature | {np.mean(losses):.3f} / " in printed
    with pytest.raises(SystemExit, match="has no other_logits"):
        run(compare, monkeypatch, "--predictions", tmp_path / "given.npz", "--source", "other")


@pytest.mark.nightly
def test_on_the_labs_aligned_model(compare, monkeypatch, tmp_path):
    chosen = ("temperature", "reference_agreement", "localized")
    run(compare, monkeypatch, "--lab", "mini", "--lab-questions", 600, "--sizes", 100, 300, "--seeds", 2,
        "--calibrators", *chosen, "--out", tmp_path / "rows.json")  # fmt: skip
    rows = json.loads((tmp_path / "rows.json").read_text())
    mean = {name: np.mean([row["ECE"] for row in rows if row["calibrator"] == name and row["setting"] == "in domain"])
            for name in ("none", "temperature", "reference_agreement")}  # fmt: skip
    assert mean["temperature"] < mean["none"] / 2
    assert mean["reference_agreement"] < mean["none"]
    assert any(row["calibrator"] == "localized" for row in rows)


@pytest.mark.nightly
def test_alignment_makes_the_calibration_worse_where_the_model_can_answer(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    alignment = importlib.import_module("alignment")
    comparison = alignment.compared("mini", 0)
    for task in ("in", "out"):
        verdicts = {own.measure: own.verdict for own in comparison.differences["aligned", task, "letters"]}
        assert verdicts["ece"] == verdicts["nll"] == verdicts["brier"] == "worse"
    (row,) = (
        row for row in alignment.verdicts_of([comparison]) if (row["task"], row["read off"]) == ("in", "letters")
    )
    assert row["ECE"] == "1 / 0 / 0"
    rows = alignment.table_of([comparison])
    assert {(row["task"], row["read off"]) for row in rows} == {
        (task, way.name) for task in ("in", "out") for way in alignment.WAYS
    }
    assert next(row for row in rows if row["read off"] == "consistency")["NLL before"] is None
