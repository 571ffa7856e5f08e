"""The script that trains a decision model: what it trains, saves and reports, and the lab's cases."""

import json

import numpy as np
import pytest
import yaml

import hf_calib
from hf_calib import measure_decisions
from hf_calib.hub import write_decision_results
from hf_calib.tasks import TypedDecisions, encode_questions
from tests.evaluation.test_decisions import benchmark
from tests.examples.scripts import EXAMPLES, run_here, script, write
from tests.hub.test_decisions import measured
from tests.support import tiny_llama


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
    loaded = hf_calib.load(out)
    found = loaded.calibrator.parameters()
    assert set(found["groups"]) == {"choice", "noul", "score"}
    again = measure_decisions(str(saved_model), test, adapter=str(out), progress=False)
    assert again.run["calibrator"]["groups"] == found["groups"]
    saved = json.loads((out / "decisions.json").read_text())
    for name, own in again.figures.items():
        assert saved["figures"][name]["value"] == pytest.approx(own.value, abs=1e-4)
    plain = measure_decisions((loaded.model, loaded.tokenizer), test, progress=False)
    assert plain.figures["accuracy"].value == again.figures["accuracy"].value
    assert plain.figures["ece"].value != again.figures["ece"].value
    card = (out / "README.md").read_text()
    assert {"decision-model", "typed-decisions", "calibration"} <= set(yaml.safe_load(card.split("---")[1])["tags"])
    assert str(tmp_path) not in card
    assert "one temperature per question type" in card
    assert not (out / ".eval_results").exists()


def test_it_trains_on_questions_with_more_options_than_letters(saved_model, tmp_path, capsys):
    many = rows(10)
    for number, row in enumerate(many):
        # Each case has its own options, so the training cases give no mean answer to the test cases' questions.
        queues = {f"q {number} {i}": None for i in range(40)}
        row["questions"]["queue"] = {"type": "choice", "instructions": "Which queue?", "criteria": queues}
        row["gold"]["queue"] = f"q {number} 3"
    train, test = write(tmp_path / "train.jsonl", many[:8]), write(tmp_path / "test.jsonl", many[8:])
    out = tmp_path / "out"
    run_here(
        "decisions",
        model_name_or_path=saved_model,
        dataset_name=train,
        test_dataset=test,
        output_dir=out,
        use_peft=True,
        anchor_weight=0.5,
        em_weight=1.0,
        brier_weight=0.5,
        orders=2,
        max_steps=2,
    )
    printed = capsys.readouterr().out
    assert "Left out the reference row for the mean answer of the training cases: case 0" in printed
    assert "after, temperatures" in printed
    again = measure_decisions(str(saved_model), test, adapter=str(out), progress=False)
    saved = json.loads((out / "decisions.json").read_text())
    assert saved["figures"]["accuracy"]["value"] == pytest.approx(again.figures["accuracy"].value, abs=1e-4)
    assert {len(p) for p in again.probabilities} == {2, 4, 40}


def test_a_test_set_with_labels_alone_is_measured_without_a_card(saved_model, tmp_path, capsys):
    labeled = [{**row, "gold": {name: next(iter(own["probabilities"])) for name, own in row["gold"].items()}}
               for row in rows(6, seed=1)]  # fmt: skip
    write_decision_results(tmp_path / "out", measured())  # of weights that are replaced
    run_here(
        "decisions",
        model_name_or_path=saved_model,
        dataset_name=write(tmp_path / "train.jsonl", rows(8)),
        test_dataset=write(tmp_path / "test.jsonl", labeled),
        output_dir=tmp_path / "out",
        use_peft=True,
        max_steps=1,
    )
    assert "The card has no figures: 30 of 30 test decisions have no gold distribution." in capsys.readouterr().out
    assert (tmp_path / "out" / "decisions.json").is_file()
    assert "## Typed decisions" not in (tmp_path / "out" / "README.md").read_text()
    assert not list(tmp_path.glob("out/.eval_results/*"))


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


def test_the_labs_parts_share_no_animal():
    from hf_calib.lab import World

    lab = script("lab/decisions")
    world = World(0, **lab.SIZES)
    entities = lab.entities_of(world)
    assert sorted(np.concatenate(list(entities.values())).tolist()) == list(range(144))
    assert {name: len(own) for name, own in entities.items()} == {"train": 72, "held_out": 36, "test": 36}


@pytest.fixture
def real(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES / "real_models"))
    return script("real_models/decisions")


def test_the_rules_of_the_real_models_cases_fix_the_probabilities(real):
    cases = real.make_cases(n=300)
    assert len(cases) == 900
    right = expected = 0.0
    for own in cases.decisions:
        right += own.gold[own.label]
        expected += sum(p * p for p in own.gold)
    assert right == pytest.approx(expected, rel=0.03)
    # The same facts have the same probabilities.
    seen = {}
    for case in cases:
        golds = [own.gold for own in case.decisions]
        assert seen.setdefault((case.workflow, case.state_text), golds) == golds
    assert len(seen) < 900
    first = real.make_cases(n=5)
    assert [case.state for case in first][:5] == [case.state for case in cases][:5]


def test_each_case_is_tested_once_by_a_model_that_did_not_see_it(real):
    places = [real.places_of(fold, 300) for fold in range(real.FOLDS)]
    assert sorted(place for own in places for place in own["test"]) == list(range(300))
    for own in places:
        assert {name: len(part) for name, part in own.items()} == {"train": 180, "held_out": 60, "test": 60}
        assert sorted(place for part in own.values() for place in part) == list(range(300))


def test_the_folds_of_the_real_models_are_reported_together(real, tmp_path, capsys):
    settings = {"cases": 10, "seed": 0, "steps": 1, "batch_size": 4, "chat": False}
    cases = real.make_cases(0, 10)
    for fold in range(real.FOLDS):
        (tmp_path / f"fold{fold}").mkdir()
        own = cases.at(real.places_of(fold, 30)["test"]).decisions
        for arm in ["prior", *(arm for name in real.MODELS for arm in (name, f"{name}, temperatures"))]:
            answers = [
                decision.gold if arm == "fine-tuned" else (1, *[0] * (len(decision.gold) - 1)) for decision in own
            ]
            content = {"settings": settings, "probabilities": answers, "masses": [1.0] * len(own)}
            (tmp_path / f"fold{fold}" / f"{arm}.json").write_text(json.dumps(content))
    real.main(["--out", str(tmp_path), "--report"])
    table = capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["fine-tuned"]["kl_from_gold"]["value"] == pytest.approx(0, abs=1e-9)
    assert summary["zero-shot"]["kl_from_gold"]["value"] > 1
    assert summary["fine-tuned"]["decisions"] == 90
    assert summary["prior"]["exact_accuracy"] == pytest.approx(np.mean([max(own.gold) for own in cases.decisions]))
    assert f"| fine-tuned | 30 | {summary['fine-tuned']['accuracy']['value']:.3f} [" in table
    (tmp_path / "fold3" / "debiased.json").unlink()
    real.main(["--out", str(tmp_path), "--report"])
    assert "| debiased | 24 | " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="has no finished fold"):
        real.main(["--out", str(tmp_path / "none"), "--report"])


def test_the_committed_times_are_those_of_the_text():
    folder = EXAMPLES / "real_models"
    story = " ".join((folder / "README.md").read_text(encoding="utf-8").split())
    times = {
        name: json.loads((folder / "results" / "decisions" / name / "throughput.json").read_text())["seconds_per_case"]
        for name in ("smollm2", "gemma")
    }
    (one, each), (other, others) = (own.values() for own in times.values())
    assert (
        f"takes SmolLM2 {one:.2f} seconds of one core with one request per case and {each:.2f} with one per question, "
        f"a ratio of {each / one:.1f}; Gemma takes {other:.2f} and {others:.2f}, a ratio of {others / other:.1f}"
    ) in story


@pytest.mark.slow
def test_the_arms_of_a_real_models_fold(real, saved_model, tmp_path):
    arguments = ["--model", str(saved_model), "--out", str(tmp_path), "--folds", "1"]
    real.main([*arguments, "--cases", "5", "--steps", "2", "--batch-size", "4"])
    found = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "fold1").glob("*.json")}
    assert len(found) == 9
    assert all(len(own["probabilities"]) == 9 for own in found.values())
    for name in real.MODELS:
        scaled = found[f"{name}, temperatures"]
        assert scaled["temperatures"]["by"] == "type"
        for one, two in zip(found[name]["probabilities"], scaled["probabilities"], strict=True):
            assert np.argmax(one) == np.argmax(two)
    assert len({json.dumps(own["probabilities"]) for own in found.values()}) == 9


def test_a_fold_of_other_settings_or_another_model_is_not_continued(real, saved_model, tmp_path, tokenizer):
    arguments = ["--out", str(tmp_path / "out"), "--folds", "0", "--cases", "5"]
    fold = real.Fold(real.make_parser().parse_args(["--model", str(saved_model), *arguments]), 0)
    fold.keep("prior", [])
    with pytest.raises(SystemExit, match=r"--out: .*prior\.json is from a run with other settings \(steps\)"):
        real.main(["--model", str(saved_model), *arguments, "--steps", "2"])
    tiny_llama(tokenizer, seed=5).save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit, match=r"--out: .*prior\.json is from a run with other settings \(source\)"):
        real.main(["--model", str(tmp_path / "other"), *arguments])
