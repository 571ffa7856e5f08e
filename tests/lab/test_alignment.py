"""Plain TRL on the lab's pairs: honest alignment makes a calibrated model overconfident."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from trl import DPOConfig, DPOTrainer

from hf_calib.confidence import predict
from hf_calib.lab import (
    PRESETS,
    PreferenceTest,
    adapter_config,
    alignment_arguments,
    make_tokenizer,
    make_world,
    pretrained_folder,
    sample_data,
)
from hf_calib.measures import expected_calibration_error


def align(model, preset, data, tokenizer, folder, seed=0):
    torch.manual_seed(seed)
    trainer = DPOTrainer(
        model=model,
        ref_model=copy.deepcopy(model) if not preset.alignment.lora_rank else None,
        args=DPOConfig(**alignment_arguments(preset.alignment, folder, seed, progress=False)),
        train_dataset=data.pairs,
        processing_class=tokenizer,
        peft_config=adapter_config(preset.alignment.lora_rank),
    )
    trainer.train()
    return trainer


def results(model, tokenizer, questions):
    predictions = predict(model, tokenizer, questions.to_questions(), batch_size=512)
    correct = predictions.correct
    return correct.mean(), expected_calibration_error(predictions.confidences, correct)


def test_trl_tokenizes_the_pairs_as_they_are(preset, world, pretrained, tokenizer, tmp_path):
    data = sample_data(preset, world, pretrained, tokenizer)
    args = DPOConfig(**alignment_arguments(preset.alignment, tmp_path, progress=False))
    model = copy.deepcopy(pretrained)
    trainer = DPOTrainer(
        model=model, ref_model=copy.deepcopy(model), args=args, train_dataset=data.pairs, processing_class=tokenizer
    )
    for row in trainer.train_dataset.select(range(50)):
        assert tokenizer.decode(row["prompt_ids"]).split() == ["<bos>", *row["prompt"].split()]
        for side in ("chosen", "rejected"):
            words = row[side].removesuffix("<eos>").split()
            assert tokenizer.decode(row[f"{side}_ids"]).split() == [*words, "<eos>"]


def test_honest_alignment_makes_the_miniature_overconfident(preset, world, pretrained, tokenizer, tmp_path):
    data = sample_data(preset, world, pretrained, tokenizer)
    aligned = align(copy.deepcopy(pretrained), preset, data, tokenizer, tmp_path).model
    for domain in ("in", "out"):
        before, after = (results(model, tokenizer, data.test[domain])[1] for model in (pretrained, aligned))
        assert after > before + 0.15
    wins = [PreferenceTest(tokenizer, data.test_pairs).win_rate(model)["open"] for model in (pretrained, aligned)]
    assert wins[1] > wins[0] + 0.05


@pytest.mark.nightly
@pytest.mark.parametrize(("name", "accuracy"), [("fixed", (0.38, 0.55)), ("demo", (0.55, 0.75))])
def test_honest_alignment_multiplies_the_calibration_error(name, accuracy, lab_cache, tmp_path):
    """The figures of the quick world on one seed: what alignment does to a model that is calibrated."""
    preset = PRESETS[name]
    folder = pretrained_folder(preset, cache_dir=lab_cache, progress=False)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), make_tokenizer()
    data = sample_data(preset, make_world(preset), model, tokenizer)
    before = {domain: results(model, tokenizer, questions) for domain, questions in data.test.items()}
    aligned = align(model, preset, data, tokenizer, tmp_path).model
    after = {domain: results(aligned, tokenizer, questions) for domain, questions in data.test.items()}
    assert accuracy[0] < before["in"][0] < accuracy[1]
    for domain in data.test:
        assert before[domain][1] < 0.07
        assert np.abs(after[domain][0] - before[domain][0]) < 0.1
    assert after["in"][1] > 0.25
    assert after["out"][1] > 0.15
