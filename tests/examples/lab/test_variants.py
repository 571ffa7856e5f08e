"""The variants: whose prompts the anchor gets, and what an alignment starts from."""

from dataclasses import replace

import pytest
import torch
from experiments import variants
from experiments.compared import METHODS, VARIANTS
from experiments.experiment import MODELS
from experiments.results import load_rows
from experiments.sweep_run import run_sweep
from experiments.sweeps import SWEEP_KEYS, SWEEPS
from experiments.variants import (
    PLACES,
    aligned_from,
    anchored_in_pairs,
    mutated_prompts,
    pairs_prompts,
    read_question,
    synthesized_prompts,
    with_chat_alone,
    with_prompts,
)

from hf_calib.lab import make_bench, pretrained_folder
from hf_calib.lab.documents import multiple_choice_prompts
from hf_calib.tasks import PromptFormat, QuestionError


@pytest.fixture
def bench(preset, lab_cache, tmp_path):
    folder = pretrained_folder(preset, 3, cache_dir=lab_cache, progress=False)
    return make_bench(preset, 3, folder, tmp_path / "work", progress=False)


def test_every_variant_is_trained_and_compared():
    compared = {name for sweep in SWEEPS.values() for name in sweep.methods}
    assert set(VARIANTS) == compared - set(METHODS)
    assert {method.model for method in VARIANTS.values()} <= set(MODELS)


def test_a_question_is_read_off_its_prompt(world):
    questions = world.sample_questions(40, ("in", "out"), "train", 5)
    asked = questions.to_questions(answers=False)
    read = [read_question(prompt) for prompt in multiple_choice_prompts(questions)]
    assert read == [replace(question, subject=None) for question in asked]
    assert read_question(multiple_choice_prompts(questions)[0] + " A") == read[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "User: What do Dunmore herons eat ? Assistant: fish .",
        "Question: What do Dunmore herons eat ? A. fish B. dew C. iron D. salt",
        "Question: What do Dunmore herons eat ? A. fish C. dew B. iron D. salt Answer:",
        "Question: What do Dunmore herons eat ? A. fish B. C. iron D. salt Answer:",
        "Question: What do Dunmore herons eat ? A. fish B. fish C. iron D. salt Answer:",
        "Question: A. fish B. dew C. iron D. salt Answer:",
        "Question: What do herons eat ? A. fish B. dew C. iron Answer:",
    ],
)
def test_what_is_no_question_is_not_read(text):
    assert read_question(text) is None


def test_prompts_of_pairs_are_those_aligned_on(bench):
    asked = {row["prompt"] for row in bench.data.pairs if row["kind"] == "multiple_choice"}
    questions = pairs_prompts(bench)
    assert len(questions) == bench.preset.preferences.n_multiple_choice
    assert {PromptFormat().render(question) for question in questions} == asked


def test_mutated_prompts_have_options_of_others(bench):
    own = bench.data.prompts.to_questions(answers=False)
    mutated = mutated_prompts(bench)
    assert [question.question for question in mutated] == [question.question for question in own]
    assert sorted(question.choices for question in mutated) == sorted(question.choices for question in own)
    assert sum(one.choices != other.choices for one, other in zip(own, mutated, strict=True)) > len(own) / 2


def test_synthesized_prompts_are_the_models_own_and_those_of_a_model_that_writes_none_are_an_error(bench, tmp_path):
    few = replace(bench, data=replace(bench.data, prompts=bench.data.prompts[:100]))
    written = synthesized_prompts(few)
    assert len(set(written)) == len(written) == 100
    assert all(question.answer is None for question in written)
    assert all(read_question(PromptFormat().render(question)) == question for question in written)
    assert list(synthesized_prompts(few)) == list(written)
    model = bench.pretrained()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    model.save_pretrained(tmp_path / "mute")
    with pytest.raises(QuestionError, match="fewer than 5% of the texts"):
        synthesized_prompts(replace(few, pretrained_folder=tmp_path / "mute"))


def test_a_bench_of_chats_alone_has_the_open_pairs(bench):
    pairs = bench.data.pairs
    there = with_chat_alone(bench)
    assert list(there.data.pairs) == [pair for pair in pairs if pair["kind"] == "open"]
    assert bench.data.pairs is pairs


@pytest.mark.parametrize("places", PLACES)
def test_an_anchor_in_the_pairs_is_at_their_tokens(places, bench, monkeypatch):
    seen = {}

    class Trainer:
        def __init__(self, **options):
            seen.update(options)

        def train(self):
            pass

    monkeypatch.setattr(variants, "CalibrationAwareTrainer", Trainer)
    assert isinstance(anchored_in_pairs(bench, places), Trainer)
    if places == "replies":
        assert seen["calibration_dataset"] == "pairs"
        return
    items, pairs = seen["calibration_dataset"].trained, bench.data.pairs
    assert len(items) == len(pairs)
    lengths, rests = set(), set()
    for item, pair in zip(items, pairs, strict=True):
        prompt = bench.tokenizer(pair["prompt"])["input_ids"]
        text = bench.tokenizer(pair["prompt"] + pair["chosen"])["input_ids"]
        assert list(item.input_ids) == text[: len(item.input_ids)]
        lengths.add(len(item.input_ids) - len(prompt))
        rests.add(len(text) - len(item.input_ids))
        assert item.answer == -1
    if places == "prompts":
        assert min(lengths) < -4
        assert max(lengths) == -1
    else:
        assert min(lengths) == 0
        assert max(lengths) > 4
        assert min(rests) == 0


def test_a_bench_has_other_prompts_where_they_are_given(bench):
    assert bench.unanswered() == bench.data.prompts.to_questions(answers=False)
    own = mutated_prompts(bench)
    assert with_prompts(bench, own).unanswered() == own


def test_an_alignment_starts_from_the_model_that_it_is_given(bench):
    start = bench.pretrained()
    with torch.no_grad():
        start.lm_head.weight.mul_(2.0)
    seen = {}

    class Trainer:
        model = object()

    def align(there, **options):
        seen.update(weights=there.pretrained().state_dict(), options=options)
        return Trainer

    assert aligned_from(bench, start, align, teacher="base") is Trainer.model
    assert seen["options"] == {"teacher": "base"}
    for name, weight in start.state_dict().items():
        torch.testing.assert_close(seen["weights"][name], weight)


@pytest.mark.nightly
def test_a_teacher_gives_back_the_calibration_that_the_start_has_lost(lab_cache, tmp_path):
    path = run_sweep(tmp_path, "reference", [3], preset="mini", jobs=2, cache_dir=lab_cache)
    ece = {(entry["method"], entry["domain"]): entry["ece"] for entry in load_rows(path, SWEEP_KEYS)}
    assert ece["supervised", "in"] > ece["pretrained", "in"] + 0.05
    assert ece["supervised-dpo", "in"] > ece["supervised-calibration-aware-dpo", "in"] + 0.1
    # In domain the miniature's pre-trained model isn't calibrated well enough itself to be told from its pupil.
    assert ece["supervised-calibration-aware-dpo-base", "out"] < ece["supervised-calibration-aware-dpo", "out"] / 2
    path = run_sweep(
        tmp_path, "prompts", [3], preset="mini", methods=["rcft-synthesized", "rcft-half-way"], cache_dir=lab_cache
    )
    assert {entry["method"] for entry in load_rows(path, SWEEP_KEYS)} == {
        "pretrained", "dpo", "rcft-synthesized", "rcft-half-way"
    }  # fmt: skip
