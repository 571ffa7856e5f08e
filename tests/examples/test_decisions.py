"""The script that trains a decision model: what it trains, saves and reports, and the lab's cases."""

import json

import numpy as np
import pytest
import yaml

from hf_calib import measure_decisions
from hf_calib.confidence import read_temperatures
from hf_calib.tasks import TypedDecisions, encode_questions
from tests.evaluation.test_decisions import benchmark
from tests.examples.scripts import run_here, script, write


def rows(n, seed=0):
    return [
        {
            "id": case.name,
            "workflow": case.workflow,
            "state": case.state,
            "questions": {own.name: own.to_dict() for own in case.decisions},
            "gold": {
                own.name: {"probabilities": dict(zip(own.options, own.gold, strict=True))} for own in case.decisions
            },
        }
        for case in benchmark(n, seed)
    ]


def test_it_trains_an_adapter_and_saves_the_temperatures_it_reports_with(saved_model, tmp_path, capsys):
    train = write(tmp_path / "train.jsonl", rows(24))
    test = write(tmp_path / "test.jsonl", rows(12, seed=1))
    out = tmp_path / "out"
    run_here(
        "decisions",
        model_name_or_path=saved_model,
        dataset_name=train,
        test_dataset=test,
        output_dir=out,
        use_peft=True,
        em_weight=1.0,
        brier_weight=0.5,
        orders=2,
        seed=3,
    )
    printed = capsys.readouterr().out
    assert "before" in printed
    assert "after, temperatures" in printed
    found = read_temperatures(out)
    assert set(found) == {"choice", "noul", "score"}
    again = measure_decisions(str(saved_model), test, adapter=str(out), progress=False)
    assert again.run["temperatures"] == found
    saved = json.loads((out / "decisions.json").read_text())
    for name, own in again.figures.items():
        assert saved["figures"][name]["value"] == pytest.approx(own.value, abs=1e-4)
    plain = measure_decisions(str(saved_model), test, adapter=str(out), temperatures={}, progress=False)
    assert plain.figures["accuracy"].value == again.figures["accuracy"].value
    assert plain.figures["ece"].value != again.figures["ece"].value
    card = (out / "README.md").read_text()
    assert {"decision-model", "typed-decisions", "calibration"} <= set(yaml.safe_load(card.split("---")[1])["tags"])
    assert str(tmp_path) not in card
    assert not (out / ".eval_results").exists()


def test_cases_are_split_whole_and_copies_are_permuted():
    from hf_calib.scripts.decisions import split_cases, training_questions

    cases = benchmark(20)
    trained, held_out = split_cases(cases, 0.25, seed=1)
    assert (len(trained), len(held_out)) == (15, 5)
    assert {case.name for case in trained}.isdisjoint(case.name for case in held_out)
    questions = training_questions(trained, 3)
    assert len(questions) == 3 * 75
    assert questions[:75] == trained.questions()
    assert questions[75:150] != questions[150:]
    with pytest.raises(ValueError, match="leaves one of the two parts empty"):
        split_cases(cases[:2], 0.1)


def test_the_labs_cases_have_the_worlds_probabilities():
    from hf_calib.lab import World

    lab = script("lab/decisions")
    world = World(0, **lab.SIZES)
    cases, truths = lab.make_cases(world, 300, "train", 0)
    assert isinstance(cases, TypedDecisions)
    assert len(truths) == 1500
    right = 0.0
    for own, p in zip(cases.decisions, truths, strict=True):
        teacher = p**lab.TEACHER_POWER
        np.testing.assert_allclose(own.gold, teacher / teacher.sum())
        right += p[own.label]
    # The labels are drawn from the truth, not from the teacher.
    expected = np.mean([(p**2).sum() for p in truths])
    hesitant = np.mean([(np.array(own.gold) * p).sum() for own, p in zip(cases.decisions, truths, strict=True)])
    assert abs(right / 1500 - expected) < 0.02 < expected - hesitant
    train, test = ({case.state for case in lab.make_cases(world, 200, name, 0)[0]} for name in ("train", "test"))
    assert train.isdisjoint(test)
    tokenizer = lab.make_tokenizer([cases])
    items = encode_questions(cases.questions()[:50], tokenizer)
    assert all(tokenizer.unk_token_id not in item.input_ids for item in items)
