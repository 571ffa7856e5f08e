"""Others' methods: what they are trained on, and where their confidence is read."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from experiments.examination import Examination
from experiments.methods import supervised_dpo_loss
from experiments.readings import Pretrained, Projected, Stated
from experiments.rivals import (
    CONFIDENCE,
    HIGH,
    LEVELS,
    LOW,
    catto_dpo,
    interpolated,
    stated_confidence_dpo,
    stated_pairs,
    stating_tokenizer,
)
from experiments.run import Task, measured
from trl import DPOConfig, DPOTrainer

from hf_calib.lab import PreferenceSettings, make_bench, make_model, pretrained_folder, sample_pairs
from hf_calib.lab.win_rate import TokenizedCompletions
from hf_calib.tasks import LETTERS, PromptFormat


@pytest.fixture
def bench(preset, lab_cache, tmp_path):
    folder = pretrained_folder(preset, 3, cache_dir=lab_cache, progress=False)
    return make_bench(preset, 3, folder, tmp_path / "work", progress=False)


@pytest.fixture
def other(bench):
    """A model that differs from the bench's pre-trained one as an aligned one does."""
    model = bench.pretrained()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * weight.std() * torch.randn_like(weight))
    return model


def test_interpolated_weights_lie_between_the_models(bench, other):
    after = {name: weight.clone() for name, weight in other.state_dict().items()}
    before = bench.pretrained().state_dict()
    for name, weight in interpolated(bench, other, 0.25).state_dict().items():
        torch.testing.assert_close(weight, 0.75 * after[name] + 0.25 * before[name])


def test_rpos_loss_in_trl_adds_the_chosen_tokens_mean_log_loss(preset, world, tokenizer, tmp_path):
    models = [make_model(preset.model, seed) for seed in (1, 2)]
    pairs = sample_pairs(world, models[1], tokenizer, PreferenceSettings(n_multiple_choice=8, n_open=8))
    losses = []
    for arguments in ({}, supervised_dpo_loss(0.3)):
        args = DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", **arguments)
        trainer = DPOTrainer(
            model=models[0], ref_model=models[1], args=args, train_dataset=pairs, processing_class=tokenizer
        )
        batch = trainer.data_collator([trainer.train_dataset[index] for index in range(16)])
        losses.append(trainer.compute_loss(trainer.model.eval(), batch).item())
    chosen = TokenizedCompletions.of(tokenizer, [(row["prompt"], row["chosen"]) for row in pairs])
    tokens = (chosen.lengths - chosen.prompt_lengths)[chosen.index].sum()
    expected = -0.3 * chosen.log_probabilities(models[0]).sum() / tokens
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)


def test_a_high_confidence_is_preferred_after_a_chosen_answer_and_a_low_one_after_a_rejected(bench):
    pairs = bench.data.pairs
    made = stated_pairs(pairs, 3)
    assert len(made) == len(pairs)
    after_chosen = 0
    for row, own in zip(pairs, made, strict=True):
        right = own["prompt"] == f"{row['prompt']}{row['chosen']} {CONFIDENCE}"
        assert right or own["prompt"] == f"{row['prompt']}{row['rejected']} {CONFIDENCE}"
        high, low = (own["chosen"], own["rejected"]) if right else (own["rejected"], own["chosen"])
        assert int(high) in HIGH
        assert int(low) in LOW
        after_chosen += right
    assert 0.4 < after_chosen / len(pairs) < 0.6


def test_the_stating_tokenizer_adds_words_and_keeps_the_others(tokenizer):
    more = stating_tokenizer(tokenizer)
    text = "Question: What do Orford bears eat ?"
    assert more(text)["input_ids"] == tokenizer(text)["input_ids"]
    ids = more(f"A {CONFIDENCE} 10")["input_ids"]
    assert more.convert_ids_to_tokens(ids[1:]) == ["A", CONFIDENCE, "10"]
    assert len(more) == len(tokenizer) + 1 + len(LEVELS)
    assert CONFIDENCE not in tokenizer.get_vocab()


def few_steps(bench):
    alignment = replace(bench.preset.alignment, epochs=0.5)
    return replace(bench, preset=replace(bench.preset, alignment=alignment))


def test_cdpo_trains_on_both_kinds_of_pairs_from_one_start(bench):
    trainer = stated_confidence_dpo(few_steps(bench))
    assert trainer.args.per_device_train_batch_size == 2 * bench.preset.alignment.batch_size
    assert len(trainer.train_dataset) == 2 * len(bench.data.pairs)
    # The new words' weights start the same in the model and in its reference, so that all margins start at 0.
    torch.manual_seed(bench.seed)
    start = bench.pretrained()
    start.resize_token_embeddings(len(bench.tokenizer) + 12, mean_resizing=False)
    start, kept, trained = (model.get_input_embeddings().weight for model in (start, trainer.ref_model, trainer.model))
    torch.testing.assert_close(kept, start)
    new = slice(len(bench.tokenizer), None)
    assert (trained[new] != kept[new]).any(dim=1).all()


def test_catto_is_trained_with_the_benchs_alignment(bench):
    trainer = catto_dpo(few_steps(bench), 0.4, "bce")
    assert (trainer.catto_weight, trainer.catto_distance) == (0.4, "bce")
    before = bench.pretrained().state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in trainer.model.state_dict().items())


@pytest.fixture
def examination(bench, tmp_path):
    few = replace(bench, data=replace(bench.data, test={"in": bench.data.test["in"][:200]}))
    return Examination(few, tmp_path / "models")


def answered(examination, model):
    return examination.test["in"].predictions(model)


def test_the_pretrained_models_probability_of_the_aligned_models_answer(examination, other):
    own, before = answered(examination, other), answered(examination, examination.bench.pretrained())
    read = Pretrained(examination, other)(examination.test["in"], own)
    assert (own.predicted != before.predicted).any()
    np.testing.assert_array_equal(read.predicted, own.predicted)
    np.testing.assert_array_equal(read.correct, own.correct)
    rows = np.arange(len(own))
    np.testing.assert_allclose(read.confidences, before.probabilities[rows, own.predicted])


def test_projected_states_give_the_pretrained_models_probabilities_where_a_projection_can(examination):
    """An aligned model that differs by a linear map of its last states alone is undone exactly."""
    bench = examination.bench
    model = bench.pretrained()
    torch.manual_seed(0)
    size = model.config.hidden_size
    turn = torch.linalg.qr(torch.randn(size, size))[0]
    norm = model.model.norm
    model.model.norm = torch.nn.Sequential(norm, torch.nn.Linear(size, size))
    with torch.no_grad():
        model.model.norm[1].weight.copy_(turn)
    own, before = answered(examination, model), answered(examination, bench.pretrained())
    read = Projected(examination, model)(examination.test["in"], own)
    np.testing.assert_allclose(read.option_log_probabilities, before.option_log_probabilities, atol=1e-3)
    np.testing.assert_array_equal(read.predicted, own.predicted)
    assert np.abs(own.option_log_probabilities - before.option_log_probabilities).max() > 0.1


def test_the_stated_confidence_is_the_expected_level_after_the_models_answer(examination, other):
    bench = examination.bench
    tokenizer = stating_tokenizer(bench.tokenizer)
    torch.manual_seed(1)
    other.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    test = examination.test["in"]
    own = answered(examination, other)
    read = Stated(examination, other)(test, own)
    np.testing.assert_array_equal(read.predicted, own.predicted)
    levels = tokenizer.convert_tokens_to_ids(list(LEVELS))
    for row in (0, 57, 199):
        question = test.prompts[test.index[row]]
        text = f"{PromptFormat().render(question)} {LETTERS[own.predicted[row]]} {CONFIDENCE}"
        with torch.no_grad():
            logits = other(input_ids=tokenizer(text, return_tensors="pt")["input_ids"]).logits[0, -1, levels]
        expected = float(torch.softmax(logits, dim=-1) @ (torch.arange(11) / 10))
        assert read.confidences[row] == pytest.approx(expected, abs=1e-5)


def test_a_method_is_measured_with_the_confidence_read_and_its_own_answers(examination, other, tmp_path):
    bench = examination.bench
    asked = examination.about(other, 2.0)
    examination._asked["dpo"] = asked
    task = Task(tmp_path, "mini", "fixed", 3, ("basecal-reeval",), None)
    run = measured(task, "basecal-reeval", examination)
    own, before = asked.test["in"], answered(examination, bench.pretrained())
    read = replace(before, chosen=own.predicted).report(n_resamples=0, groups=None).measures
    (row,) = run["rows"]
    assert row["accuracy"] == pytest.approx(own.correct.mean())
    assert row["ece"] == pytest.approx(read["ece"].value)
    assert row["ece"] != pytest.approx(own.report(n_resamples=0, groups=None).measures["ece"].value)
    assert row["seconds"] >= 2.0
    assert run["sharpening"] == {"in": None}
    assert "log_odds" not in run
    (selective,) = run["selective"]
    assert selective["top"] == row["accuracy"]
    assert selective["answered"] == pytest.approx((before.probabilities[np.arange(200), own.predicted] >= 0.7).mean())
