"""The results file: whole, tidy, and safe with several writers."""

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from experiments.results import ROW_KEYS, Results, load_rows, write_json


def run(seed=3, method="dpo", key="k", world="fixed", **values):
    identity = {"seed": seed, "reported": seed > 2, "world": world, "method": method}
    rows = []
    for domain in ("in", "out", "unseen"):
        row = dict.fromkeys(ROW_KEYS, 0.5) | {"n": 10, "labels": 0, **identity, "domain": domain, **values}
        rows.append({name: row[name] for name in ROW_KEYS})
    return {"key": key, "preset": "mini", "rows": rows}


def test_a_row_has_the_keys_that_were_agreed_on(tmp_path):
    agreed = (
        "seed reported world method domain n accuracy confidence ece tce ece_true cw_ece smooth_ece nll brier "
        "option_mass win_rate win_rate_open train_accuracy labels seconds"
    )
    assert " ".join(ROW_KEYS) == agreed
    wrong = run()
    wrong["rows"][1]["more"] = 1
    with pytest.raises(ValueError, match="a row must have the keys"):
        Results(tmp_path).add(wrong)


def test_a_run_is_there_with_its_settings_only(tmp_path):
    results = Results(tmp_path)
    assert not results.has("fixed", 3, "dpo", "k")
    results.add(run())
    assert results.has("fixed", 3, "dpo", "k")
    assert not results.has("fixed", 3, "dpo", "other")
    assert not results.has("shuffled", 3, "dpo", "k")
    results.add(run(key="other", accuracy=0.75))
    assert [row["accuracy"] for row in load_rows(results.file)] == [0.75] * 3
    results.drop("fixed", 3, "dpo")
    assert json.loads(results.file.read_text()) == []


def test_rows_are_in_one_order_whatever_came_first(tmp_path):
    results = Results(tmp_path)
    for arguments in ((10, "cft"), (4, "dpo"), (10, "dpo"), (4, "pretrained")):
        results.add(run(*arguments))
    found = [(row["seed"], row["method"]) for row in load_rows(results.file)[::3]]
    assert found == [(4, "pretrained"), (4, "dpo"), (10, "dpo"), (10, "cft")]


def test_rows_of_two_presets_are_not_mixed(tmp_path):
    results = Results(tmp_path)
    results.add(run())
    results.check_preset("mini")
    with pytest.raises(ValueError, match=r"'mini'.*give 'full' another folder"):
        results.check_preset("full")


def test_a_file_that_is_no_results_file_is_refused(tmp_path):
    for content in ({}, [], [1], [{"seed": 1}]):
        write_json(tmp_path / "results.json", content)
        with pytest.raises(ValueError, match="must"):
            load_rows(tmp_path / "results.json")


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, [1])
    with pytest.raises(ValueError):
        write_json(path, [float("nan")])
    assert json.loads(path.read_text()) == [1]
    assert list(tmp_path.iterdir()) == [path]


def _add(folder, seed):
    results = Results(folder)
    for method in ("pretrained", "dpo", "cft", "long"):
        results.add(run(seed, method))


def test_writers_at_once_lose_nothing(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(_add, [tmp_path] * 6, range(6)))
    rows = load_rows(tmp_path / "results.json")
    assert {(row["seed"], row["method"]) for row in rows} == {
        (seed, method) for seed in range(6) for method in ("pretrained", "dpo", "cft", "long")
    }
