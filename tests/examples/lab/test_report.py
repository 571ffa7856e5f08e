"""The report: means, paired intervals, and what it refuses."""

import json

import numpy as np
import pytest
from experiments.report import paired_difference, write_report
from experiments.results import Results, write_json
from experiments.selective import FILES, SELECTIVE_KEYS
from scipy import stats

from hf_calib.measures import BinStatistics

from .test_results import run


def add(folder, seed, method, accuracy, slope=2.0, **values):
    content = run(seed, method, accuracy=accuracy, **values)
    statistics = BinStatistics.from_predictions([0.3, 0.9, 0.9, 0.6], [False, True, False, True]).to_dict()
    for domain in ("in", "out", "unseen"):
        content.setdefault("statistics", {})[domain] = statistics
        sharpening = None if slope is None else {"slope": slope, "r_squared": 0.9}
        content.setdefault("sharpening", {})[domain] = sharpening
        content.setdefault("bayes_accuracy", {})[domain] = 0.8
        if slope is not None:
            content.setdefault("log_odds", {})[domain] = {"width": 0.25, "cells": [[1, 2, 3], [-1, -2, 1]]}
    Results(folder).add(content)


def test_paired_difference_is_scipys():
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, 6))
    measure = paired_difference(dict(enumerate(one)), {**dict(enumerate(two)), 99: 1e9})
    expected = stats.ttest_rel(one, two).confidence_interval(0.95)
    assert measure.value == pytest.approx((one - two).mean())
    assert (measure.low, measure.high) == pytest.approx((expected.low, expected.high))
    alone = paired_difference({3: 1.0}, {3: 0.25})
    assert (alone.value, alone.low) == (0.75, None)
    with pytest.raises(ValueError, match="no seed in common"):
        paired_difference({3: 1.0}, {4: 1.0})


def test_the_reported_seeds_are_averaged_and_compared(tmp_path):
    for seed, base, other in ((2, 0.9, 0.1), (3, 0.4, 0.5), (4, 0.5, 0.7)):
        add(tmp_path, seed, "dpo", base)
        add(tmp_path, seed, "cft", other)
    add(tmp_path, 5, "dpo", 0.6)
    text = write_report(tmp_path)
    assert (tmp_path / "report.md").read_text() == text
    assert "Seeds 3, 4, 5." in text
    lines = [line.split() for line in text.splitlines()]
    means = [line[:3] for line in lines if line[:1] in (["dpo"], ["cft"]) and "±" not in line]
    assert means[:2] == [["dpo", "3", "0.500"], ["cft", "2", "0.600"]]
    # +.1 and +.2: .15 with the t interval of two values, 12.706 * .05.
    assert ["cft", "2", "0.150", "[-0.485,", "0.785]"] in [line[:5] for line in lines]
    everything = write_report(tmp_path, all_seeds=True)
    assert (
        "Seeds 2, 3, 4, 5. The settings of DPO, calibration-aware DPO, CFT, RCFT and auto were chosen on 2 of them"
        in everything
    )
    by_cft = write_report(tmp_path, baseline="cft")
    assert "Differences from cft" in by_cft
    assert ["dpo", "2", "-0.150"] in [line.split()[:3] for line in by_cft.splitlines()]


def test_the_first_table_has_every_method_with_its_intervals_and_what_it_needs(tmp_path):
    for seed, shift in ((3, 0.0), (4, 0.1)):
        add(tmp_path, seed, "dpo", 0.5, ece=0.3 + shift, seconds=10.0)
        add(tmp_path, seed, "daca", 0.5, ece=0.1 + shift, seconds=12.0 + 10 * shift)
        add(tmp_path, seed, "cft", 0.6, ece=0.05, seconds=20.0, labels=42)
    table = write_report(tmp_path).split("### All methods")[1].split("```")[1]
    cells = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line[:1].isalpha()}
    # .3 and .4: .35 with the t interval of two values, 12.706 * .05.
    assert cells["dpo"][:4] == ["2", "0.350", "±", "0.635"]
    assert cells["dpo"][-3:] == ["1.00", "0", "no"]
    # 12 and 13 seconds over 10.
    assert cells["daca"][-3:] == ["1.25", "0", "yes"]
    assert cells["cft"][:4] == ["2", "0.050", "±", "0.000"]
    assert cells["cft"][-3:] == ["2.00", "42", "no"]


def test_what_confidence_is_for_is_reported_where_it_was_measured(tmp_path):
    add(tmp_path, 3, "dpo", 0.5)
    assert "What calibrated confidence is for" not in write_report(tmp_path)
    selective = Results(tmp_path, **FILES)
    for seed in (3, 4):
        rows = [{key: row.get(key, 0.25 * (seed - 2)) for key in SELECTIVE_KEYS} for row in run(seed, "dpo")["rows"]]
        rows[0]["error"] = None
        selective.add({"key": "k", "preset": "mini", "rows": rows})
    section = write_report(tmp_path).split("### What calibrated confidence is for")[1]
    lines = [line.split() for line in section.splitlines() if line.startswith("dpo ")]
    assert [line[:5] for line in lines] == [["dpo", "2", "0.375", "±", "1.588"]] * 3
    assert section.count("0.375 ± 1.588") == 3 * 7 - 1


def test_the_figures_are_those_that_the_folder_has_data_for(tmp_path):
    add(tmp_path, 3, "pretrained", 0.5, slope=1.0)
    add(tmp_path, 3, "dpo", 0.5)
    add(tmp_path, 3, "dpo+temperature", 0.5, slope=None)
    text = write_report(tmp_path)
    drawn = {path.name for path in tmp_path.glob("*.png")}
    assert drawn == {
        "accuracy_and_ece_fixed.png", "reliability_fixed.png", "sharpening_fixed.png", "collapse_fixed.png"
    }  # fmt: skip
    assert all(f"({name})" in text for name in drawn)
    # From the committed file alone, without the folder of runs.
    alone = tmp_path / "alone"
    write_json(alone / "results.json", json.loads((tmp_path / "results.json").read_text()))
    tables = write_report(alone).split("![")[0]
    assert tables == text.split("![")[0]
    assert {path.name for path in alone.glob("*.png")} == {"accuracy_and_ece_fixed.png"}


def test_what_cannot_be_reported_is_said(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path)
    add(tmp_path, 0, "dpo", 0.5)
    with pytest.raises(ValueError, match="only seeds that settings were chosen on"):
        write_report(tmp_path)
    add(tmp_path, 3, "cft", 0.5)
    with pytest.raises(ValueError, match="baseline 'dpo' has no result in the fixed world; there are cft"):
        write_report(tmp_path)
