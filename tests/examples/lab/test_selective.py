"""Selective answering and choosing among samples, against counts by hand."""

import json
from dataclasses import replace

import numpy as np
import pytest
from experiments.command_line import run_script
from experiments.selective import (
    MEASURES,
    SAMPLES,
    SELECTIVE_KEYS,
    sampled_options,
    selective_measures,
    selective_rows,
)

from hf_calib.confidence import Predictions
from hf_calib.measures import coverage_at_accuracy
from tests.examples.scripts import script

from .test_results import run


def predictions_of(probabilities, answers):
    n = len(answers)
    return Predictions(np.log(probabilities), np.asarray(answers), (None,) * n, np.arange(n))


def test_who_trusts_the_confidence_answers_these_and_errs_so_often():
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.75, 0.25], [0.6, 0.4], [0.55, 0.45]])
    found = selective_measures(predictions_of(p, [0, 0, 1, 0, 0]))
    assert found["answered"] == pytest.approx(3 / 5)
    assert found["error"] == pytest.approx(1 / 3)
    assert found["top"] == pytest.approx(4 / 5)
    # All five are right often enough, .8 of them.
    assert found["answerable"] == 1.0
    assert tuple(found) == tuple(MEASURES)
    other = selective_measures(replace(predictions_of(p, [0, 0, 1, 0, 0]), chosen=np.array([0, 1, 0, 0, 0])))
    assert (other["answered"], other["error"]) == (pytest.approx(2 / 5), 0.5)
    assert [other[key] for key in ("one_sample", "majority", "most_confident")] == [None] * 3
    assert other["top"] == pytest.approx(3 / 5)
    level = selective_measures(predictions_of(np.full((4, 2), 0.5), [0, 1, 0, 1]))
    assert (level["answered"], level["error"]) == (0.0, None)


def test_samples_are_drawn_from_the_probabilities():
    p = np.tile([0.1, 0.2, 0.7], (4000, 1))
    drawn = sampled_options(p, 5, seed=3)
    assert drawn.shape == (4000, 5)
    shares = np.bincount(drawn.ravel(), minlength=3) / drawn.size
    assert shares == pytest.approx([0.1, 0.2, 0.7], abs=0.01)
    np.testing.assert_array_equal(sampled_options(p, 5, seed=3), drawn)
    certain = np.tile([0.0, 1.0, 0.0], (5, 1))
    assert (sampled_options(certain, 4, seed=0) == 1).all()


def test_the_majority_and_the_most_confident_are_those_by_hand():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1, 1], size=300)
    answers = rng.integers(4, size=300)
    found = selective_measures(predictions_of(p, answers), seed=7)
    drawn = sampled_options(p, SAMPLES, 7)
    majority, confident, one = [], [], []
    for row, (own, answer) in enumerate(zip(drawn, answers, strict=True)):
        counts = np.bincount(own, minlength=4)
        most = np.flatnonzero(counts == counts.max())
        majority.append(np.mean(most == answer))
        best = max(set(own.tolist()), key=lambda option: p[row, option])
        confident.append(best == answer)
        one.append(own[0] == answer)
    assert found["majority"] == pytest.approx(np.mean(majority))
    assert found["most_confident"] == pytest.approx(np.mean(confident))
    assert found["one_sample"] == pytest.approx(np.mean(one))


def test_votes_of_samples_are_no_probabilities_to_sample_from():
    probabilities = np.array([[0.6, 0.4], [0.8, 0.2]])
    voted = replace(predictions_of(probabilities, [0, 1]), most_confident_correct=np.array([1.0, 0.0]))
    found = selective_measures(voted)
    assert [found[name] for name in ("one_sample", "majority", "most_confident")] == [None] * 3
    assert found["top"] == 0.5


def test_rows_belong_to_the_comparisons_rows():
    rng = np.random.default_rng(1)
    answers = {d: predictions_of(rng.dirichlet([1] * 4, size=50), rng.integers(4, size=50)) for d in "abc"}
    common = [{**row, "domain": d} for row, d in zip(run(seed=4)["rows"], "abc", strict=True)]
    rows = selective_rows(common, answers)
    assert [row["domain"] for row in rows] == list("abc")
    for row in rows:
        assert tuple(row) == SELECTIVE_KEYS
        own = answers[row["domain"]]
        assert row["top"] == pytest.approx(own.correct.mean())
        assert row["answerable"] == coverage_at_accuracy(own.confidences, own.correct, 0.7)


def test_the_script_prints_what_saved_measurements_are_good_for(tmp_path, capsys):
    rng = np.random.default_rng(2)
    expected = {}
    for name in ("before", "after"):
        own = predictions_of(rng.dirichlet([1] * 4, size=40), rng.integers(4, size=40))
        rows = zip(own.probabilities.tolist(), own.answers.tolist(), strict=True)
        lines = [json.dumps({"probabilities": p, "answer": answer}) for p, answer in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
        expected[str(tmp_path / f"{name}.jsonl")] = selective_measures(own, error=0.5, samples=3)
    module = script("lab/selective")

    def main(*arguments):
        code = run_script(module.parser(), module.show, [*expected, *arguments])
        return code, capsys.readouterr()

    code, printed = main("--error", "0.5", "--samples", "3", "--json")
    assert code == 0
    rows = json.loads(printed.out)
    for row, (name, measures) in zip(rows, expected.items(), strict=True):
        assert (row["measurement"], row["n"]) == (name, 40)
        assert {key: row[key] for key in MEASURES} == pytest.approx(measures)
    code, printed = main("--samples", "3")
    assert code == 0
    assert "Confidence@3" in printed.out
    assert "at least 0.7" in printed.out
    for wrong, message in ((("--error", "1"), "--error: 1.0 is not between"), (("--samples", "0"), "--samples: 0 is")):
        code, printed = main(*wrong)
        assert code == 1
        assert message in printed.err
