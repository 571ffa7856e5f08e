"""The metadata that people wrote into a card, of every kind that YAML has, outlive its updates."""

import re

import pytest
import yaml

from hf_calib.hub import CardConflictError, render_card
from tests.hub.cards import card_data

CARD = render_card(card_data())
OTHER = card_data(
    base_model="lab/other", license="mit", language="de", duration_seconds=500.0, alignment="KTO", adapter_type=None
)

THEIRS = {
    "a list of base models": "base_model: [lab/one, lab/two]",
    "a block list of base models": "base_model:\n- lab/one\n# the second\n- lab/two  # merged",
    "a mapping as base model": "base_model:\n  name: lab/one\n  revision: abc",
    "another base model": "base_model: lab/one",
    "a list of libraries": "library_name: [mlx, peft]",
    "another library": "library_name: mlx",
    "a list of licenses": "license: [mit, apache-2.0]",
    "a license of their own": "license: other\nlicense_name: ours\nlicense_link: LICENSE.md",
    "languages": "language:\n  - en\n  - ko",
    "a language that YAML reads as false": "language: 'no'",
    "datasets": "datasets:\n- their/data\n- their/more  # half of it",
    "a dataset in one word": "datasets: their/data",
    "datasets as mappings": "datasets:\n- name: their/data\n  split: train",
    "a mapping of datasets": "datasets: {their/data: train}",
    "tags in brackets": "tags: [mine, 'and: mine', 7]",
    "metrics": "metrics:\n  - bleu",
    "a mapping of what is unknown": "mine:\n  deep: {er: [1, 2.5, null, true]}\n  text: |\n    a\n    b\nlast: 1",
    "a text at the end": "text: |\n  two\n  lines",
    "quotes": "title: \"It's 'quoted'\"\n'quoted key': \"x\"\nplain: it's",
    "keys that are not text": "7: one\n2024-01-01: day\ntrue: yes\nnull: nothing\n2.5: half",
    "widgets": "widget:\n- text: Which?\n  example_title: One\ninference:\n  parameters: {temperature: 0.7}",
    "dates and numbers": "date: 2024-01-01\nversion: 1.10\noctal: 0o14\nhex: 0xFF\nbig: 1e30",
    "nothing": "empty:\nnone: ~\nlist: []\nmap: {}\ntext: ''",
    "unicode": "title: 한국어 — Ωmega 🎉",
    "anchors": "one: &a [x, y]\ntwo: *a\nthree: {<<: {k: v}, l: 1}",
    "long text": "description: >-\n  " + "word " * 60 + "\n  more",
    "a draft of the results": "model-index:\n- name: Theirs\n  note: keep\n  results:\n"
    "  - task: {type: text-generation}\n    dataset: {type: theirs, name: Theirs}\n    metrics:\n"
    "    - {type: bleu, value: 30.0, name: BLEU}",
    "an evaluation of the same questions": "model-index:\n- name: Theirs\n  results:\n"
    "  - task: {type: multiple-choice}\n    dataset: {type: cais/mmlu, name: MMLU, config: all, split: test}\n"
    "    metrics:\n    - {type: accuracy, value: 0.9, name: Their accuracy}\n    - {type: ece, value: 0.3}",
}

# Where an entry gets ours too, or its layout cannot stay.
REWRITTEN = (
    "a list of base models",
    "a dataset in one word",
    "a mapping of datasets",
    "tags in brackets",
    "a text at the end",
    "anchors",
)


def metadata_of(card):
    return yaml.safe_load(re.split(r"\r?\n---[ \t]*\r?\n", card, maxsplit=1)[0])


def contains(new, old):
    """Whether all that was there is there still: of lists and results at least the entries."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and contains(new[key], value) for key, value in old.items())
    if isinstance(old, list):
        return isinstance(new, list) and all(any(contains(one, entry) for one in new) for entry in old)
    return new == old and type(new) is type(old)


def kept(new, key, old):
    value = new[key]
    if key in ("datasets", "tags", "metrics") and not isinstance(old, list):
        return isinstance(value, list) and value[0] == old
    return contains(value, old)


@pytest.mark.parametrize("newline", ["\n", pytest.param("\r\n", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("name", THEIRS)
def test_what_people_wrote_stays_through_updates(name, newline):
    text = f"---\n{THEIRS[name]}\n---\n\n# Mine\n\nText.\n".replace("\n", newline)
    theirs = yaml.safe_load(THEIRS[name])
    card = text
    for data in (card_data(), OTHER, card_data(evaluations=()), card_data(base_model=None, license=None)):
        card = render_card(data, card)
        new = metadata_of(card)
        for key, value in theirs.items():
            assert kept(new, key, value), (key, value, new.get(key))
        assert {"hf_calib", "calibration"} <= set(new["tags"])
        assert f"# Mine{newline}{newline}Text.{newline}" in card
        assert render_card(data, card) == card
        if newline == "\r\n":
            assert "\n" not in card.replace("\r\n", "")
    for line in THEIRS[name].splitlines():
        if name not in REWRITTEN and "model-index" not in THEIRS[name]:
            assert line.rstrip() in [one.rstrip() for one in card.splitlines()], line


@pytest.mark.parametrize("name", THEIRS)
def test_what_people_write_into_our_card_stays(name):
    theirs = yaml.safe_load(THEIRS[name])
    head, body = CARD.split("\n---\n", 1)
    metadata = {**yaml.safe_load(head), **theirs}
    card = f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n{body}"
    new = metadata_of(render_card(OTHER, card))
    for key, value in theirs.items():
        assert kept(new, key, value), (key, value, new.get(key))


def test_a_list_of_base_models_follows_ours():
    edited = CARD.replace("base_model: lab/tiny\n", "base_model:\n- lab/one  # first\n- lab/tiny\n", 1)
    assert "base_model:\n- lab/one  # first\n- lab/tiny\n" in render_card(card_data(), edited)
    assert metadata_of(render_card(OTHER, edited))["base_model"] == ["lab/one", "lab/other"]
    assert metadata_of(render_card(card_data(base_model=None), edited))["base_model"] == ["lab/one"]


def test_ours_follow_what_is_measured():
    new = metadata_of(render_card(OTHER, CARD))
    assert (new["base_model"], new["license"], new["language"]) == ("lab/other", "mit", "de")
    assert new["library_name"] == "transformers"
    place = CARD.replace("base_model: lab/tiny\n", "base_model: /home/ann/tiny\n", 1)
    assert metadata_of(render_card(card_data(), place))["base_model"] == "lab/tiny"


def test_an_adapter_says_how_it_is_related_to_its_base_model():
    assert metadata_of(CARD)["base_model_relation"] == "adapter"
    for other in (card_data(adapter_type=None), card_data(base_model=None)):
        assert "base_model_relation" not in metadata_of(render_card(other))
    merged = CARD.replace("base_model_relation: adapter", "base_model_relation: merge", 1)
    assert metadata_of(render_card(card_data(), merged))["base_model_relation"] == "merge"


def test_results_of_another_model_are_not_ours():
    theirs = yaml.safe_load(THEIRS["an evaluation of the same questions"])["model-index"][0]
    existing = "---\n" + THEIRS["an evaluation of the same questions"] + "\n---\n\nText.\n"
    index = metadata_of(render_card(card_data(), existing))["model-index"]
    assert index[0] == theirs
    assert index[1] == yaml.safe_load(CARD.split("\n---\n")[0])["model-index"][0]
    again = metadata_of(render_card(card_data(model_name="Renamed"), render_card(card_data(), existing)))[
        "model-index"
    ]
    assert [entry["name"] for entry in again] == ["Theirs", "Renamed"]


def test_comments_stay():
    existing = (
        "---\n# on top\nlicense: mit  # chosen\n# about tags\ntags:\n# of mine\n- mine  # first\n\n"
        "- calibration # ours too\n# about the rest\nmine: 1\n# at the end\n---\nText.\n"
    )
    card = render_card(card_data(), existing)
    for comment in ("# on top\nlicense: mit  # chosen\n", "# about tags\ntags:\n# of mine\n- mine  # first\n",
                    "- calibration # ours too\n", "# about the rest\nmine: 1\n", "# at the end\n"):  # fmt: skip
        assert comment in card, card
    commented = CARD.replace("license: apache-2.0\n", "# why\nlicense: apache-2.0  # since 2024\n", 1)
    assert "# why\nlicense: mit  # since 2024\n" in render_card(OTHER, commented)
    commented = CARD.replace("- lab/questions\n", "- lab/questions\n# all of them\n- mine/own  # by hand\n", 1)
    updated = render_card(card_data(calibration_data=None), commented)
    assert "# all of them\n- mine/own  # by hand\n" in updated or "- mine/own  # by hand\n" in updated
    assert "- lab/questions" not in updated


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("block", ["", "---\n---\n", "---\n\n---\n", "---\n# a comment\n---\n"])
def test_cards_without_metadata(block, newline):
    card = render_card(card_data(), (block + "# Mine\n\nText.\n").replace("\n", newline))
    assert metadata_of(card) == yaml.safe_load(CARD.split("\n---\n")[0])
    assert f"# Mine{newline}{newline}Text.{newline}" in card
    assert card.count("---" + newline) - card.count("--- |") == 2
    assert render_card(card_data(), card) == card
    assert ("# a comment" in card) == ("a comment" in block)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("license: [mit", "invalid YAML"),
        ("license: mit\n  tags: x", "invalid YAML"),
        ("\tlicense: mit", "invalid YAML"),
        ("- a\n- b", "are a list, not a mapping"),
        ("just words", "are a str, not a mapping"),
        ("license: mit\ntags: [a]\nlicense: apache-2.0", "have license more than once"),
        ("model-index: 3", "huggingface_hub cannot read"),
    ],
)
def test_invalid_metadata_are_refused(block, message):
    with pytest.raises(CardConflictError, match=f"The metadata of the existing card.*{message}|{message}.*existing"):
        render_card(card_data(), f"---\n{block}\n---\n# Mine\n")


def test_metadata_without_an_end_are_refused():
    with pytest.raises(CardConflictError, match="no such line at their end"):
        render_card(card_data(), "---\nlicense: mit\n\n# Mine\n")
    # A line across the page is none.
    assert "---\n\nText.\n" in render_card(card_data(), "---\n\nText.\n")
