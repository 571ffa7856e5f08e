"""What the repository of a decision model says."""

import json

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard

import hf_calib
from hf_calib import measure_decisions
from hf_calib.evaluation.decisions import decision_backend
from hf_calib.hub import (
    InvalidFolderError,
    add_calibrator,
    publish_adapter,
    read_calibration_metadata,
    save_calibration_metadata,
    write_decision_results,
)
from hf_calib.hub.decisions import BENCHMARK, remove_decision_results
from hf_calib.hub.folders import collect_files
from hf_calib.reports import DecisionMeasurement
from hf_calib.tasks import PromptFormat, TypedDecisions
from tests.evaluation.test_decisions import benchmark, temperatures
from tests.support import byte_level_tokenizer


def measured(source=f"{BENCHMARK}:all:test", **run):
    cases = TypedDecisions(benchmark(20), source)
    answers = [tuple(0.9 * p + 0.1 / len(own.gold) for p in own.gold) for own in cases.decisions]
    return DecisionMeasurement("m", cases, answers, [None] * len(answers), run)


def test_the_results_file_has_an_entry_per_leaderboard(tmp_path):
    result = measured(calibrator={"method": "grouped_temperature", "by": "type"})
    write_decision_results(tmp_path, result, training="LoRA on the training split", revision="abc", date="2026-11-26")
    text = (tmp_path / ".eval_results" / "typed-decisions.yaml").read_text()
    assert "date: '2026-11-26'" in text
    entries = yaml.safe_load(text)
    assert [entry["dataset"] for entry in entries] == [
        {"id": BENCHMARK, "task_id": name, "revision": "abc"} for name in ("accuracy", "kl_from_gold", "brier", "ece")
    ]
    for entry, own in zip(entries, result.figures.values(), strict=True):
        assert entry["value"] == pytest.approx(own.value, abs=5e-5)
        assert entry["source"]["name"].startswith("hf_calib ")
        for said in (
            "LoRA on the training split",
            "100 decisions",
            "one temperature per question type",
            "95% interval",
        ):
            assert said in entry["notes"]


def test_the_card_keeps_what_people_wrote_and_is_updated_in_place(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: mit\ntags:\n- mine\n---\n# My model\n\nWords.\n")
    write_decision_results(tmp_path, measured())
    first = (tmp_path / "README.md").read_text()
    card = ModelCard.load(tmp_path / "README.md")
    assert set(card.data.tags) == {"mine", "decision-model", "typed-decisions", "calibration"}
    assert card.data.license == "mit"
    assert "# My model\n\nWords." in first
    assert "| ECE, 10 equal-width bins of the top probability, pooled over decisions |" in first
    assert "Measured on LocalLLaMA/typed-decisions:all:test: 20 cases, 100 decisions. Intervals" in first
    write_decision_results(tmp_path, measured())
    assert (tmp_path / "README.md").read_text() == first
    (tmp_path / "README.md").write_text(first + "\nMore words.\n")
    write_decision_results(tmp_path, measured(n_orders=4))
    changed = (tmp_path / "README.md").read_text()
    assert changed.count("## Typed decisions") == 1
    assert "averaged over 4 orders" in changed
    assert "More words." in changed


@pytest.mark.parametrize(
    "source",
    ["cases.jsonl", *(f"{BENCHMARK}{part}" for part in (":all:train", ":invoices:test", ":all:test[:5]", ""))],
)
def test_other_data_and_parts_of_the_benchmark_are_not_its_results(tmp_path, source):
    write_decision_results(tmp_path, measured(source))
    assert not (tmp_path / ".eval_results").exists()
    assert "## Typed decisions" in (tmp_path / "README.md").read_text()


def test_some_cases_of_the_test_set_are_not_its_results(tmp_path):
    whole = measured()
    cases = whole.cases[:5]
    n = len(cases.decisions)
    part = DecisionMeasurement("m", cases, whole.probabilities[:n], whole.masses[:n])
    # As the training script measures with --limit: what it was measured on is named again.
    write_decision_results(tmp_path, part, f"{BENCHMARK}:all:test")
    assert not (tmp_path / ".eval_results").exists()
    assert "## Typed decisions" in (tmp_path / "README.md").read_text()


def test_results_of_an_earlier_measurement_do_not_stay(tmp_path):
    write_decision_results(tmp_path, measured())
    write_decision_results(tmp_path, measured("cases.jsonl"))
    assert not list(tmp_path.glob(".eval_results/*"))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# My model\n\nWords.\n")
    write_decision_results(tmp_path, measured())
    remove_decision_results(tmp_path)
    assert not list(tmp_path.glob(".eval_results/*"))
    assert (tmp_path / "README.md").read_text().endswith("\n# My model\n\nWords.\n")


def test_no_path_of_the_machine_is_published(tmp_path):
    data = tmp_path / "secret" / "cases.jsonl"
    data.parent.mkdir()
    data.write_text(json.dumps({}))
    write_decision_results(tmp_path / "model", measured(str(data)))
    card = (tmp_path / "model" / "README.md").read_text()
    assert "Measured on cases.jsonl" in card
    assert "secret" not in card


def test_labels_alone_are_refused(tmp_path):
    row = {"state": "s", "questions": {"q": {"type": "noul", "instructions": "x"}}, "gold": {"q": "yes"}}
    result = DecisionMeasurement("m", TypedDecisions([row]), [(0.5, 0.5)], [None])
    with pytest.raises(ValueError, match="measurement: the leaderboards compare with gold distributions"):
        write_decision_results(tmp_path, result)


@pytest.fixture
def trained(client, adapter_folder, base):
    """An adapter for typed decisions with a chat prompt and one temperature per type."""
    byte_level_tokenizer(chat=True).save_pretrained(adapter_folder)
    write_decision_results(adapter_folder, measured())
    save_calibration_metadata(adapter_folder, prompt_format=PromptFormat(chat=True), base_model=base)
    add_calibrator(adapter_folder, temperatures(choice=2.0, noul=0.5, score=3.0))
    return adapter_folder


def test_an_adapter_on_the_hub_is_asked_as_its_folder_is(trained, tmp_path):
    publish_adapter(trained, "ann/decider")
    cases = benchmark(3)
    local = measure_decisions(str(trained), cases)
    served = measure_decisions("ann/decider", cases)
    assert local.run["calibrator"]["groups"] == {"choice": 2.0, "noul": 0.5, "score": 3.0}
    assert local.run["prompt_format"]["chat"]
    for name in ("calibrator", "prompt_format"):
        assert served.run[name] == local.run[name]
    np.testing.assert_allclose(np.concatenate(served.probabilities), np.concatenate(local.probabilities), atol=1e-6)
    loaded = hf_calib.load("ann/decider")
    plain = measure_decisions((loaded.model, loaded.tokenizer), cases, chat_template=True)
    for own, scaled, decision in zip(plain.probabilities, served.probabilities, cases.decisions, strict=True):
        p = np.array(own) ** (1 / local.run["calibrator"]["groups"][decision.type])
        np.testing.assert_allclose(scaled, p / p.sum(), atol=1e-6)
    again = measure_decisions(loaded, cases)
    np.testing.assert_allclose(np.concatenate(again.probabilities), np.concatenate(local.probabilities), atol=1e-6)
    answers = [own for case in loaded.decisions(cases) for own in case.values()]
    for answer, own in zip(answers, local.probabilities, strict=True):
        given = [1 - answer["noul"], answer["noul"]] if answer["type"] == "noul" else answer["probabilities"].values()
        np.testing.assert_allclose(list(given), own, atol=1e-6)
    questions = cases.questions()
    assert [own.confidence for own in loaded.confidence(questions[:5])] == pytest.approx(
        [max(own) for own in local.probabilities[:5]], abs=1e-6
    )
    # A question without a type gets the temperature of all, 1 here.
    asked = [{"question": "Which?", "choices": ["a", "b"], "answer": 0}]
    (answer,) = loaded.confidence(asked)
    assert answer.confidence == pytest.approx(loaded.predict(asked).confidences[0])
    plain = hf_calib.measure("ann/decider", asked)
    assert plain.predictions.confidences[0] == pytest.approx(answer.confidence)


def test_a_server_takes_the_settings_of_an_adapter_on_the_hub(trained, base):
    publish_adapter(trained, "ann/decider")
    for model, adapter in (("ann/decider", None), (base, "ann/decider")):
        name, backend, run = decision_backend(model, adapter=adapter, progress=False)
        assert name == "decider"
        assert backend.prompt_format.chat
        assert backend.calibrator.parameters()["groups"] == run["calibrator"]["groups"] != {}


def test_a_calibrator_needs_to_know_the_prompt(tmp_path):
    with pytest.raises(InvalidFolderError, match=r"has no hf_calib\.json"):
        add_calibrator(tmp_path, temperatures(noul=2.0))


def test_questions_with_many_options_can_be_named_in_the_metadata(tmp_path):
    save_calibration_metadata(tmp_path, option_counts=[2, 255])
    assert read_calibration_metadata(tmp_path).option_counts == (2, 255)


def test_the_temperatures_and_the_results_are_published_with_the_adapter(trained):
    files = collect_files(trained, None, None)
    assert {"calibrator.json", "hf_calib.json", ".eval_results/typed-decisions.yaml"} <= set(files)
