"""The model card: what it says, what the Hub reads off it, and how it is brought up to date."""

import re
from dataclasses import replace

import numpy as np
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.hub import (
    CalibrationCardData,
    CardConflictError,
    DatasetReference,
    Evaluation,
    PrivateInformationError,
    render_card,
)
from hf_calib.hub.card import evaluation_table, merge_cards
from hf_calib.hub.escaping import escape_markdown, single_line
from hf_calib.measures import CalibrationReport, Finding
from tests.hub.cards import card_data, html, report, shown

CARD = render_card(card_data())


def without_metadata(card):
    return card.split("\n---\n", 1)[1]


def test_says_what_was_measured():
    text, tags = shown(CARD)
    before, after = report(0, 3.0).measures, report(0, 1.1).measures
    for measures in (before, after):
        for key in ("accuracy", "ece"):
            measure = measures[key]
            assert f"{measure.value:.3f} [{measure.low:.3f}, {measure.high:.3f}]" in text
    for key in ("cw_ece", "smooth_ece", "nll", "brier", "confidence", "option_mass"):
        assert f"{after[key].value:.3f}" in text
    for said in (
        "cais/mmlu, all, test (n = 300)",
        "allenai/openbookqa, test",
        "lab/tiny",
        "revision 0123abc",
        "aligned with DPO on lab/pairs (train, 4,000 rows)",
        "lab/questions (rare, train, revision fedc, 1,500 rows)",
        "learning_rate 0.0001",
        "anchor_weight 5.0",
        "Training time: 61 s",
        "Energy: 0.0123 kWh",
        "Hardware: CPU",
        "PEFT 0.21.2",
        "Calibratable.",
        "Subjects it was calibrated on: law, medicine.",
        "Per subject (2)",
        "subject 0, This model",
        "95% intervals",
        "No significant miscalibration on 300 questions. It is right 52% of the time",
        "For comparison, before calibration: ECE 0.239",
        "calibrated with Calibration-aware fine-tuning (CFT)",
        "Xiao",
        "Calibrated with questions from lab/questions",
        "4 options per question",
    ):
        assert said in text, said
    assert tags.count("table") == 7  # two sets, each with all measures and its subjects, and the settings
    assert text.index("No significant miscalibration") < text.index("A LoRA adapter")


@pytest.mark.parametrize("free_form", [False, True])
def test_a_model_calibrated_on_pairs_was_not_calibrated_on_questions(free_form):
    data = card_data(free_form=free_form, option_counts=(), subjects=())
    asked = "free-form questions" if free_form else "multiple-choice questions"
    text, _ = shown(render_card(replace(data, calibration_data=DatasetReference("preference-pairs", size=64))))
    assert f"for {asked} like those that it was measured on" in text
    assert "Calibrated with tokens from preference-pairs (64 rows)" in text
    text, _ = shown(render_card(data))
    assert f"for {asked} like those that it was calibrated on" in text
    assert "Calibrated with questions from lab/questions" in text


def test_table_in_sight_has_five_columns_and_unbroken_cells():
    for evaluation in card_data().evaluations:
        table = evaluation_table(card_data(), evaluation)["table"]
        header, _, *rows = table.splitlines()
        assert header == "| Model | n | Accuracy | Confidence | ECE |"
        assert len(rows) == len(evaluation.reports)
        for row in rows:
            cells = row.strip("| ").split(" | ")
            assert len(cells) == 5
            assert not any(" " in cell for cell in cells)  # no-break spaces alone
    folded = re.findall(r"<details>(.*?)</details>", CARD, re.DOTALL)
    assert [summary in part for part, summary in zip(folded, ["All measures", "Per subject"] * 2, strict=True)] == [
        True
    ] * 4


def test_card_of_a_model_that_nobody_calibrated_says_measured():
    data = card_data(
        method=None,
        calibration_data=None,
        subjects=(),
        alignment=None,
        preference_data=None,
        evaluations=(Evaluation(DatasetReference("cais/mmlu"), {"before": report(0, 3.0), "after": report(0)}),),
        stage_labels={"before": "other/model"},
    )
    text, _ = shown(render_card(data))
    for claim in ("Before calibration", "alibrated with", "alibrated on", "Xiao", "Citation"):
        assert claim not in text, claim
    assert "Measured with 4 options per question" in text
    assert "Nothing was done here to calibrate it" in text
    assert "For comparison, other/model: ECE" in text
    unnamed, _ = shown(render_card(replace(data, stage_labels={})))
    assert "For comparison, compared model: ECE" in unnamed
    fitted, _ = shown(render_card(data, calibrator=True))
    assert "with a fitted calibrator on top" in fitted
    assert "Nothing was done" not in fitted
    unknown = render_card(replace(data, base_model=None, base_model_revision=None, adapter_type=None))
    assert "A language model" not in unknown
    assert re.search(r"accuracy 0\.[^\n]*\.\n\nCalibration was measured on multiple-choice questions", unknown)


@pytest.mark.parametrize(
    ("method", "cited"),
    [
        (None, False),
        ("anchor", False),
        ("calibration-aware DPO, anchored to its reference", False),
        ("temperature scaling after supervised fine-tuning", False),
        ("Calibration-aware fine-tuning (CFT)", True),
        ("calibration-aware SFT, with the ECE regularizer found by EM", True),
        ("RCFT", True),
    ],
)
def test_cft_is_cited_where_it_was_used(method, cited):
    card = render_card(card_data(method=method))
    assert ("arxiv.org/abs/2505.01997" in card) is cited
    assert ("xiao2025restoring" in card) is cited
    # A citation that is no longer due goes, and one that is due comes.
    assert (
        "xiao2025restoring" in render_card(card_data(method=method), render_card(card_data(method="CFT")))
    ) is cited
    assert render_card(card_data(method=method), card) == card


def test_reasons_for_caution_are_on_the_card():
    doubtful = replace(
        report(0),
        warnings=(
            Finding("one_option", True, "Answers A on 97% of questions.", "Try --confidence text.", ()),
            Finding("low_mass", False, "Little mass on the options.", "Try --chat-template.", ()),
        ),
    )
    data = card_data(evaluations=(Evaluation(DatasetReference("cais/mmlu"), {"after": doubtful}),))
    text, _ = shown(render_card(CalibrationCardData.from_dict(data.to_dict())))
    assert "cais/mmlu (n = 300): Answers A on 97% of questions. It is right" in text
    assert "Reasons for caution: Little mass on the options." in text  # the first one is in the verdict already
    assert "--confidence" not in text  # advice for whoever measures
    assert "--chat-template" not in text
    assert "Reasons for caution" not in CARD


def test_only_what_was_measured_is_said():
    card = render_card(CalibrationCardData(model_name="bare"))
    text, _ = shown(card)
    for claim in ("ECE", "Training time", "Energy", "aligned with", "n =", "reliability"):
        assert claim not in text, claim
    assert "model-index" not in card


def test_metadata_are_the_hubs():
    card = ModelCard(CARD)
    assert card.data.library_name == "peft"
    assert card.data.base_model == "lab/tiny"
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.datasets == ["lab/pairs", "lab/questions"]
    assert card.data.metrics == ["accuracy", "ece"]
    assert card.data.license == "apache-2.0"
    assert card.data.language == "en"
    assert {"hf_calib", "calibration", "lora"} <= set(card.data.tags)
    results = {(r.dataset_type, r.metric_type): r for r in card.data.eval_results}
    assert set(results) == {
        (name, metric) for name in ("cais/mmlu", "allenai/openbookqa") for metric in ("ece", "accuracy")
    }
    ece = results["cais/mmlu", "ece"]
    assert isinstance(ece, EvalResult)
    assert ece.metric_value == pytest.approx(report(0, 1.1).measures["ece"].value, abs=1e-6)
    assert (ece.dataset_config, ece.dataset_split, ece.dataset_revision) == ("all", "test", "abc123")
    assert ece.metric_args == {"n_bins": 10}
    assert ece.source_url == "https://huggingface.co/ann/adapter/blob/main/calibration_report.json"
    assert ece.verified is None
    assert ece.verify_token is None


def test_round_trip_through_the_client_loses_nothing(tmp_path):
    (tmp_path / "README.md").write_text(CARD)
    card = ModelCard.load(tmp_path / "README.md")
    assert str(card) == CARD
    card.save(tmp_path / "again.md")
    assert (tmp_path / "again.md").read_text() == CARD
    assert ModelCardData(**yaml.safe_load(card.data.to_yaml())).to_dict() == card.data.to_dict()


def test_code_blocks_are_python():
    blocks = re.findall(r"```python\n(.*?)```", CARD, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        compile(block, "card", "exec")
    assert 'hf_calib.load("ann/adapter")' in blocks[0]
    assert len([line for line in blocks[0].splitlines() if line]) <= 5


# Names that people choose


HOSTILE = [
    "a: b <script>alert(1)</script>",
    "pi|pe",
    "two\nlines\r\n# heading",
    "- item",
    "1. item",
    "*bold* _it_ `code` ~~x~~ [a](javascript:x) ![i](y)",
    "--> <!-- hf_calib:results -->",
    "<!-- /hf_calib:results -->",
    "{{ 7 * 7 }} {% raw %}",
    "quo\"te's & &amp; \\ \\( $x$ $$y$$",
    "https://evil.example www.evil.example me@evil.example",
    "---\nlicense: evil",
    "key: [unclosed",
    "\u202egnp.exe\u202c \x00\x07 é 中文 🎉",
    "```\nfence",
    "<details><summary>x",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_come_out_as_text(name):
    data = card_data(
        model_name=name,
        hub_model_id=None,
        base_model=name,
        alignment=name,
        method=name,
        regime=name,
        hardware=name,
        calibration_data=DatasetReference(name, name, name, name),
        preference_data=DatasetReference(name),
        settings={name: name},
        subjects=(name,),
        stage_labels={"before": name},
        versions={name: name},
        tags=(name,),
        evaluations=(
            Evaluation(DatasetReference(name, name, name, name), {"before": report(0), "after": report(0, 1.1)}),
        ),
    )
    card = render_card(data)
    text, tags = shown(card)
    assert text.count(single_line(name)) >= 12
    plain_tags = set(shown(render_card(card_data()))[1])
    assert set(tags) <= plain_tags
    assert html(card).count("<table>") == 4
    assert str(ModelCard(card)) == card
    metadata = yaml.safe_load(card.split("\n---\n")[0])
    assert metadata["model-index"][0]["name"] == single_line(name)
    assert "evil" not in str(metadata.get("license"))
    assert render_card(data, card) == card
    for block in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
        compile(block, "card", "exec")


@given(st.text())
def test_any_text_comes_out_as_itself(text):
    rendered, _ = shown(f"before {escape_markdown(text)} after\n\n| {escape_markdown(text)} |\n|--|\n")
    assert rendered == " ".join(["before", *single_line(text).split(), "after", *single_line(text).split()])


# Nothing private


def test_paths_of_this_machine_stay_here(tmp_path):
    model = tmp_path / "my-model"
    model.mkdir()
    data = card_data(
        model_name=str(tmp_path / "run-3"),
        base_model=str(model),
        calibration_data=DatasetReference(str(tmp_path / "questions.jsonl")),
        preference_data=DatasetReference("~/secret/pairs.jsonl"),
        settings={
            "output_dir": str(tmp_path),
            "hub_token": "hf_secret",
            "dataset": f"{tmp_path}/x/y.csv",
            "files": [f"{tmp_path}/a.json"],
            "nested": {"path": str(model), "api_token": "x"},
        },
    )
    card = render_card(data)
    for private in (str(tmp_path), "secret", "hf_secret", "api_token"):
        assert private not in card
    for public in ("questions.jsonl", "pairs.jsonl", "y.csv", "a.json", "my-model", "run-3"):
        assert public in card
    assert "base_model" not in yaml.safe_load(card.split("\n---\n")[0])
    assert "lab/questions" not in card


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("token hf_" + "aB3" * 12, "access token"),
        ("see /home/ann/models", "home folder"),
        (r"see C:\Users\ann\x", "home folder"),
    ],
)
def test_private_text_is_refused(text, message):
    with pytest.raises(PrivateInformationError, match=message) as caught:
        render_card(card_data(regime=text))
    assert "aB3" not in str(caught.value)


def test_the_token_in_use_is_refused_whatever_it_looks_like(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "plainword")
    with pytest.raises(PrivateInformationError, match="the access token"):
        render_card(card_data(method="with plainword inside"))


# Bringing a card up to date


def test_no_news_changes_no_byte():
    assert render_card(card_data(), CARD) == CARD
    windows = CARD.replace("\n", "\r\n")
    assert render_card(card_data(), windows) == windows


def test_news_replace_our_sections_only():
    written = CARD.replace("<!-- hf_calib:usage", "My own words, with *emphasis*.\n\n<!-- hf_calib:usage", 1)
    written = written.replace("license: apache-2.0\n", "license: mit # mine\nmine: [1,   2]\n", 1) + "\nThe end."
    news = card_data(duration_seconds=500.0, settings={"learning_rate": 2e-4}, regime=None)
    updated = render_card(news, written)
    assert "My own words, with *emphasis*.\n\n<!-- hf_calib:usage" in updated
    assert updated.endswith("\nThe end.")
    assert "license: mit # mine\nmine: [1,   2]\n" in updated
    assert "Training time: 8 min" in updated
    assert "Training time: 61 s" not in updated
    assert "0.0002" in updated
    assert "Calibratable." not in updated
    assert render_card(news, updated) == updated
    assert render_card(card_data(), updated).count("Training time: 61 s") == 1


def test_card_that_somebody_wrote_keeps_every_line():
    existing = "---\nlicense: mit\ntags:\n- mine\ndatasets: their/data\n---\n\n# Mine\n\nText.\n"
    card = render_card(card_data(license=None), existing)
    assert "\n\n# Mine\n\nText.\n" in card
    metadata = yaml.safe_load(card.split("\n---\n")[0])
    assert metadata["license"] == "mit"
    assert metadata["tags"][0] == "mine"
    assert metadata["datasets"] == ["their/data", "lab/pairs", "lab/questions"]
    assert render_card(card_data(license=None), card) == card
    plain = render_card(card_data(), "# No metadata\n")
    assert "\n---\n\n# No metadata\n" in plain
    assert ModelCard(plain).data.to_dict() == ModelCard(CARD).data.to_dict()
    empty = render_card(card_data(), "---\n\n---\n# Mine\n")
    assert str(ModelCard(empty)) == empty
    assert "# Mine" in empty


def test_data_that_are_no_longer_used_leave_the_metadata():
    changed = render_card(card_data(calibration_data=DatasetReference("lab/others")), CARD)
    metadata = yaml.safe_load(changed.split("\n---\n")[0])
    assert metadata["datasets"] == ["lab/pairs", "lab/others"]
    fewer = render_card(card_data(evaluations=card_data().evaluations[:1]), CARD)
    results = yaml.safe_load(fewer.split("\n---\n")[0])["model-index"][0]["results"]
    assert [result["dataset"]["type"] for result in results] == ["cais/mmlu"]
    none = render_card(card_data(evaluations=(), base_model=None), CARD)
    metadata = yaml.safe_load(none.split("\n---\n")[0])
    assert not {"model-index", "metrics", "base_model"} & set(metadata)
    assert "hf_calib:results" not in none


def test_results_of_others_and_verified_ones_stay():
    metadata = yaml.safe_load(CARD.split("\n---\n")[0])
    results = metadata["model-index"][0]["results"]
    results[0]["metrics"].append({"type": "f1", "value": 0.5, "name": "F1"})
    results[0]["metrics"][1]["verified"] = True
    results[0]["metrics"][1]["value"] = 0.123
    results.append(
        {
            "task": {"type": "text-generation"},
            "dataset": {"name": "Theirs", "type": "theirs"},
            "metrics": [{"type": "bleu", "value": 30.0}],
        }
    )
    existing = "---\n" + yaml.safe_dump(metadata, sort_keys=False) + "---\n" + without_metadata(CARD)
    card = render_card(card_data(), existing)
    results = yaml.safe_load(card.split("\n---\n")[0])["model-index"][0]["results"]
    metrics = {metric["type"]: metric for metric in results[0]["metrics"]}
    assert metrics["f1"]["value"] == 0.5
    assert metrics["accuracy"]["value"] == 0.123
    assert metrics["accuracy"]["verified"]
    assert metrics["ece"]["value"] == pytest.approx(report(0, 1.1).measures["ece"].value, abs=1e-6)
    assert results[-1]["metrics"] == [{"type": "bleu", "value": 30.0}]
    assert render_card(card_data(), card) == card


def test_metadata_that_somebody_corrected_stay():
    edited = CARD.replace("pipeline_tag: text-generation", "pipeline_tag: question-answering", 1)
    assert "pipeline_tag: question-answering" in render_card(card_data(), edited)


def test_entries_that_do_not_change_keep_their_layout():
    existing = CARD.replace("language: en\n", "# why\nlanguage:   'en'  # here\n", 1)
    card = render_card(card_data(calibration_data=None), existing)
    assert "# why\nlanguage:   'en'  # here\n" in card
    assert yaml.safe_load(card.split("\n---\n")[0])["datasets"] == ["lab/pairs"]


def test_anchors_across_entries_survive():
    existing = "---\ndatasets: &d\n- a/b\nmine: *d\n---\nText.\n"
    card = render_card(card_data(), existing)
    metadata = yaml.safe_load(card.split("\n---\n")[0])
    assert metadata["mine"] == ["a/b"]
    assert metadata["datasets"] == ["a/b", "lab/pairs", "lab/questions"]


def test_sections_that_were_moved_stay_where_they_are():
    section = re.search(r"<!-- hf_calib:limits.*?/hf_calib:limits -->\n", CARD, re.DOTALL)[0]
    head, body = CARD.split("\n---\n", 1)
    moved = f"{head}\n---\n{section}\n{body.replace(section, '')}"
    assert render_card(card_data(), moved) == moved
    removed = CARD.replace(section, "")
    restored = render_card(card_data(), removed)
    assert (
        restored.index("hf_calib:training") < restored.index("hf_calib:limits") < restored.index("hf_calib:citation")
    )
    assert render_card(card_data(), restored) == restored


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (("<!-- /hf_calib:usage -->\n", ""), "'usage' has not ended"),
        (("<!-- /hf_calib:citation -->\n", ""), "'citation' begins but does not end"),
        (("<!-- /hf_calib:usage -->\n", "<!-- /hf_calib:usage -->\n<!-- /hf_calib:usage -->\n"), "does not begin"),
        (("license: apache-2.0", "license: ["), "invalid YAML"),
        (("model-index:\n- name:", "model-index:\n- nme:"), "cannot read the metadata"),
    ],
)
def test_damaged_cards_are_left_alone(damage, message):
    with pytest.raises(CardConflictError, match=message):
        render_card(card_data(), CARD.replace(*damage, 1))
    with pytest.raises(CardConflictError, match="second time"):
        render_card(card_data(), CARD + CARD.split("\n---\n", 1)[1])


@given(
    st.lists(st.tuples(st.integers(0, 6), st.text(st.characters(codec="utf-8", exclude_characters="\r"))), max_size=4)
)
def test_whatever_people_write_between_sections_stays(insertions):
    head, body = CARD.split("\n---\n", 1)
    starts = [0] + [match.end() for match in re.finditer(r"<!-- /hf_calib:\w+ -->\n", body)]
    for place, text in insertions:
        at = starts[place % len(starts)]
        body = f"{body[:at]}{text}\n{body[at:]}"
        starts = [0] + [match.end() for match in re.finditer(r"<!-- /hf_calib:\w+ -->\n", body)]
    existing = f"{head}\n---\n{body}"
    updated = render_card(card_data(duration_seconds=9.0), existing)
    for _, text in insertions:
        assert text in updated
    assert render_card(card_data(duration_seconds=9.0), updated) == updated
    assert render_card(card_data(), updated) == existing


def test_thresholds_that_are_reached_are_in_the_card():
    rng = np.random.default_rng(0)
    top = rng.uniform(0.5, 1, 600)
    p = np.stack([top, 1 - top], axis=1)
    sure = CalibrationReport.from_predictions(p, (rng.random(600) > top**0.2).astype(int), n_resamples=100)
    unsure = CalibrationReport.from_predictions(p, np.arange(600) % 2, n_resamples=100)
    cards = [
        render_card(card_data(evaluations=(Evaluation(DatasetReference("a/b"), {"after": own}),)))
        for own in (sure, unsure)
    ]
    assert "to new questions of this kind are right at least" not in cards[1]
    threshold = next(own for own in sure.thresholds if own.threshold)
    text = shown(cards[0])[0]
    assert f"confidence above {threshold.shown()} ({threshold.coverage:.0%} of them)" in text
    assert f"are right at least {threshold.accuracy:.0%} of the time, with 95% probability" in text


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_two_cards_with_results_by_hand_are_merged(newline):
    """A folder's card is merged into the published one, which was written from it before."""
    by_hand = """---
model-index:
- name: other
  results:
  - task:
      type: text-generation
    dataset:
      type: a/b
      name: AB
    metrics:
    - type: bleu
      value: 3
---
By hand.
""".replace("\n", newline)
    first, second = (Evaluation(DatasetReference(name), {"after": report(0)}) for name in ("one.jsonl", "two.jsonl"))
    published = render_card(card_data(evaluations=(first, second)), by_hand)
    published = merge_cards(published, published)
    changed = Evaluation(DatasetReference("one.jsonl"), {"after": report(1)})
    local = render_card(card_data(evaluations=(changed,)), published)
    merged = merge_cards(local, published)
    assert merged == local
    own, ours = yaml.safe_load(re.split(r"\n---\r?\n", merged, maxsplit=1)[0])["model-index"]
    assert [result["metrics"][0]["value"] for result in own["results"]] == [3]
    values = {metric["type"]: metric["value"] for result in ours["results"] for metric in result["metrics"]}
    assert values["ece"] == pytest.approx(report(1).measures["ece"].value, abs=1e-6)
    assert [result["dataset"]["type"] for result in ours["results"]] == ["one.jsonl"]
    assert ("\r" in merged) == (newline == "\r\n")
    assert "\r\r" not in merged
