"""A card's files in its folder, and the data behind it read back."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, parse_eval_result_entries

from hf_calib.hub import (
    CalibrationCardData,
    DatasetReference,
    Evaluation,
    InvalidFolderError,
    render_card,
    write_card,
)
from hf_calib.hub.card_data import REPORT_FILE
from hf_calib.measures import CalibrationReport
from tests.hub.cards import card_data, report
from tests.hub.conftest import make_adapter
from tests.hub.test_card import CARD, without_metadata


def test_written_card_has_picture_and_report(tmp_path):
    path = write_card(tmp_path, card_data())
    assert path.read_text() == CARD
    assert (tmp_path / "reliability_diagram.png").read_bytes().startswith(b"\x89PNG")
    assert CalibrationCardData.load(tmp_path).to_dict() == card_data().to_dict()
    assert render_card(CalibrationCardData.load(tmp_path)) == CARD
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write_card(tmp_path, card_data())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_registered_benchmarks_get_an_evaluation_result_file(tmp_path):
    write_card(tmp_path, card_data())
    assert not (tmp_path / ".eval_results").exists()
    registered = Evaluation(DatasetReference("cais/mmlu", "all", "test", "abc", task_id="mmlu"), {"after": report(0)})
    local = Evaluation(DatasetReference("questions.jsonl", task_id="mine"), {"after": report(0)})
    write_card(tmp_path, card_data(evaluations=(registered, local)))
    entries = yaml.safe_load((tmp_path / ".eval_results" / "hf_calib.yaml").read_text())
    (entry,) = parse_eval_result_entries(entries)
    assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("cais/mmlu", "mmlu", "abc")
    assert entry.value == pytest.approx(report(0).measures["accuracy"].value, abs=1e-6)
    assert entry.source_url.endswith("/ann/adapter/blob/main/calibration_report.json")
    assert entry.verify_token is None


def test_tasks_that_are_named_after_measures_get_these(tmp_path):
    dataset = DatasetReference("LocalLLaMA/typed-decisions", "all", "test", task_id="accuracy, ece,brier,overall")
    write_card(tmp_path, card_data(evaluations=(Evaluation(dataset, {"after": report(0)}),)))
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / ".eval_results" / "hf_calib.yaml").read_text()))
    assert [entry.task_id for entry in entries] == ["accuracy", "ece", "brier", "overall"]
    for entry, key in zip(entries, ("accuracy", "ece", "brier", "accuracy"), strict=True):
        assert entry.value == pytest.approx(report(0).measures[key].value, abs=1e-6)


def test_distances_from_gold_are_written_where_there_is_gold_and_left_out_elsewhere(tmp_path):
    rng = np.random.default_rng(0)
    gold, p = rng.dirichlet(np.ones(3), 60), rng.dirichlet(np.ones(3), 60)
    found = CalibrationReport.from_predictions(p, gold.argmax(axis=1), gold=gold, n_resamples=100)
    dataset = DatasetReference("LocalLLaMA/typed-decisions", "all", "test", task_id="accuracy,kl_from_gold,kl,brier")
    write_card(tmp_path, card_data(evaluations=(Evaluation(dataset, {"after": found}),)))
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / ".eval_results" / "hf_calib.yaml").read_text()))
    kl = (gold * np.log(gold / p)).sum(axis=1).mean()
    expected = (found.accuracy.value, kl, kl, np.square(gold - p).sum(axis=1).mean())
    assert [entry.task_id for entry in entries] == ["accuracy", "kl_from_gold", "kl", "brier"]
    assert [entry.value for entry in entries] == pytest.approx(expected, abs=1e-6)
    with pytest.warns(UserWarning, match=r"typed-decisions, all, test has no kl_from_gold, .* the task 'kl'"):
        write_card(tmp_path, card_data(evaluations=(Evaluation(dataset, {"after": report(0)}),)))
    entries = parse_eval_result_entries(yaml.safe_load((tmp_path / ".eval_results" / "hf_calib.yaml").read_text()))
    assert [entry.task_id for entry in entries] == ["accuracy", "brier"]
    assert entries[1].value == pytest.approx(report(0).brier.value, abs=1e-6)


def test_a_task_without_a_finite_value_gets_no_entry(tmp_path):
    certain = CalibrationReport.from_predictions([[0.9, 0.1], [1.0, 0.0]], [0, 0], n_resamples=0)
    dataset = DatasetReference("ann/benchmark", "all", "test", task_id="accuracy,auroc")
    with pytest.warns(UserWarning, match="has no auroc"):
        write_card(tmp_path, card_data(evaluations=(Evaluation(dataset, {"after": certain}),)))
    [entry] = yaml.safe_load((tmp_path / ".eval_results" / "hf_calib.yaml").read_text())
    assert entry["dataset"]["task_id"] == "accuracy"


def test_names_with_dollars_are_drawn(tmp_path):
    write_card(tmp_path, card_data(stage_labels={"before": r"$\frac{"}))
    assert (tmp_path / "reliability_diagram.png").exists()


def test_the_clients_unfilled_template_is_replaced(tmp_path):
    template = ModelCard.from_template(ModelCardData())
    (tmp_path / "README.md").write_text(str(template) + "\n### Framework versions\n\n- PEFT 0.21.2\n")
    assert "More Information Needed" not in write_card(tmp_path, card_data()).read_text()
    filled = str(template).replace("[More Information Needed]", "I wrote this.", 1)
    (tmp_path / "README.md").write_text(filled)
    assert "I wrote this." in write_card(tmp_path, card_data()).read_text()


def test_saving_with_peft_leaves_the_card_as_it_is(tmp_path, base_folder):
    write_card(tmp_path, card_data())
    before = without_metadata((tmp_path / "README.md").read_text())
    make_adapter(base_folder).save_pretrained(tmp_path)
    assert without_metadata((tmp_path / "README.md").read_text()).strip() == before.strip()
    write_card(tmp_path, card_data())
    card = (tmp_path / "README.md").read_text()
    assert str(base_folder) not in card
    assert yaml.safe_load(card.split("\n---\n")[0])["base_model"] == "lab/tiny"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "format version None"),
        ('{"format_version": 9}', "format version 9"),
        ('{"format_version": 1}', "not a calibration report"),
        ('{"format_version": 1, "model_name": "x", "evil": 1}', "Unknown keys .* evil"),
        ('{"format_version": 1, "model_name": "x", "evaluations": [{"dataset": {"nme": "x"}}]}', "not in the form"),
        ('{"format_version": 1, "model_name": "x", "evaluations": 3}', "not in the form"),
        ('{"format_version": 1, "model_name": " "}', "model_name"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_reports_of_strangers(tmp_path, content, message):
    (tmp_path / REPORT_FILE).write_text(content)
    with pytest.raises(InvalidFolderError, match=message):
        CalibrationCardData.load(tmp_path)


def test_a_report_that_is_a_bomb_is_not_read(tmp_path):
    with (tmp_path / REPORT_FILE).open("wb") as file:
        file.truncate(2**40)  # a sparse terabyte
    with pytest.raises(InvalidFolderError, match=r"1,099,511,627,776 bytes"):
        CalibrationCardData.load(tmp_path)


def test_evaluations_say_what_is_wrong_with_them():
    with pytest.raises(ValueError, match="no report for the stage"):
        Evaluation(DatasetReference("a/b"), {"before": report()})
    with pytest.raises(ValueError, match="unknown stages"):
        Evaluation(DatasetReference("a/b"), {"after": report(), "later": report()})
    with pytest.raises(ValueError, match="hub_model_id"):
        card_data(hub_model_id="not a name")
    same = Evaluation(DatasetReference("a/b"), {"after": report()})
    with pytest.raises(ValueError, match="twice"):
        card_data(evaluations=(same, same))


def test_importing_needs_no_torch():
    code = (
        "import sys, hf_calib.hub as hub\n"
        "hub.render_card, hub.publish_adapter, hub.publish_metric\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_are_json(tmp_path):
    data = card_data(settings={"a": float("inf"), "b": {3, 1}, "c": (1, None, True)})
    again = CalibrationCardData.from_dict(json.loads(json.dumps(data.to_dict())))
    assert render_card(again) == render_card(data)
