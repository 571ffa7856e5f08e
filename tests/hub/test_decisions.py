"""What the repository of a decision model says."""

import json

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_calib.confidence import save_temperatures
from hf_calib.hub import write_decision_results
from hf_calib.hub.decisions import BENCHMARK
from hf_calib.hub.folders import collect_files
from hf_calib.reports import DecisionMeasurement
from hf_calib.tasks import TypedDecisions
from tests.evaluation.test_decisions import benchmark


def measured(source=f"{BENCHMARK}:all:test", **run):
    cases = TypedDecisions(benchmark(20), source)
    answers = [tuple(0.9 * p + 0.1 / len(own.gold) for p in own.gold) for own in cases.decisions]
    return DecisionMeasurement("m", cases, answers, [None] * len(answers), run)


def test_the_results_file_has_an_entry_per_leaderboard(tmp_path):
    result = measured(temperatures={"noul": 2.0})
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
    assert "zero-shot, not trained on the benchmark" in first
    write_decision_results(tmp_path, measured())
    assert (tmp_path / "README.md").read_text() == first
    (tmp_path / "README.md").write_text(first + "\nMore words.\n")
    write_decision_results(tmp_path, measured(n_orders=4))
    changed = (tmp_path / "README.md").read_text()
    assert changed.count("## Typed decisions") == 1
    assert "averaged over 4 orders" in changed
    assert "More words." in changed


@pytest.mark.parametrize(("source", "run"), [("cases.jsonl", {}), (f"{BENCHMARK}:all:test", {"limit": 20})])
def test_other_data_and_parts_of_the_benchmark_are_not_its_results(tmp_path, source, run):
    write_decision_results(tmp_path, measured(source, **run))
    assert not (tmp_path / ".eval_results").exists()
    assert "## Typed decisions" in (tmp_path / "README.md").read_text()


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


def test_the_temperatures_and_the_results_are_published_with_the_adapter(tmp_path, adapter_folder):
    save_temperatures({"noul": 2.0}, adapter_folder)
    write_decision_results(adapter_folder, measured())
    files = collect_files(adapter_folder, None, None)
    assert "decision_temperatures.json" in files
    assert ".eval_results/typed-decisions.yaml" in files
