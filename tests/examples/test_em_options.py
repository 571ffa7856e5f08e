"""The comparison of the ECE regularizer's options: what it compares, and what it makes of the runs."""

import json
from dataclasses import fields

import numpy as np
import pytest
from scipy import stats

from hf_calib.trainers import CalibrationArguments
from tests.examples.scripts import script


@pytest.fixture(scope="module")
def module():
    return script("benchmarks/em_options")


def test_every_option_of_the_e_step_is_compared_with_its_default(module):
    defaults = {field.name: field.default for field in fields(CalibrationArguments) if field.name.startswith("em_")}
    # The weight has values of its own there, and the batch's default follows from another option.
    assert module.OPTIONS.keys() == defaults.keys() - {"em_weight", "em_batch_size"}
    for name, (default, *others) in module.OPTIONS.items():
        assert default == defaults[name]
        assert others
        assert default not in others


def test_a_difference_is_paired_over_seeds(module):
    own, default = {0: 0.10, 1: 0.14, 2: 0.20}, {0: 0.09, 1: 0.10, 2: 0.17}
    interval = stats.ttest_1samp(np.array([0.01, 0.04, 0.03]), 0).confidence_interval()
    assert module.difference(own, default) == f"+0.027 [{interval.low:+.3f}, {interval.high:+.3f}]"
    assert module.difference({0: 0.10}, {0: 0.12}) == "-0.020"


def test_the_table_has_means_of_each_value(module):
    rows = [
        {"seed": seed, "steps": 1, "method": method, "option": option, "value": value, "accuracy": 0.5,
         "ece": 0.1 * seed + (option == "em_bins"), "nll": 1.0}
        for seed in range(2) for method, option, value in module.cases()
    ]  # fmt: skip
    found = {(row["method"], row["option"], row["value"]): row for row in module.table(rows)}
    assert found["RCFT", "default", ""]["ece"] == pytest.approx(0.05)
    assert found["RCFT", "default", ""]["ece less the default's"] == ""
    assert found["RCFT", "em_bins", "20"]["ece"] == pytest.approx(1.05)
    assert found["RCFT", "em_bins", "20"]["ece less the default's"] == "+1.000 [+1.000, +1.000]"


@pytest.mark.nightly
def test_a_run_that_was_stopped_goes_on(module, monkeypatch, tmp_path, capsys):
    cases = [("RCFT", "default", None), ("RCFT", "em_bins", 5), ("DPO", "default", None), ("DPO", "em_weight", 0.0)]
    monkeypatch.setattr(module, "cases", lambda: cases)
    arguments = ["--out", str(tmp_path / "rows.jsonl"), "--seeds", "1", "--steps", "3"]
    module.main(arguments)
    written = (tmp_path / "rows.jsonl").read_text()
    rows = [json.loads(line) for line in written.splitlines()]
    assert [(row["method"], row["option"], row["value"]) for row in rows] == cases
    assert len({row["nll"] for row in rows}) == 4  # they are different models
    assert capsys.readouterr().out.count("em_bins") == 1
    (tmp_path / "rows.jsonl").write_text("".join(line + "\n" for line in written.splitlines()[:3]))
    module.main(arguments)
    assert (tmp_path / "rows.jsonl").read_text() == written  # the last one again, to the last digit
    with pytest.raises(SystemExit, match="runs of 3 steps"):
        module.main([*arguments, "--steps", "4"])
