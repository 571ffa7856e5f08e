"""`calibration_dataset="pairs"`: the anchor acts on tokens of the preference pairs themselves."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from hf_calib.scripts.arguments import QuestionArguments
from hf_calib.scripts.data import calibration_questions
from hf_calib.trainers import pair_positions, recalibrate
from tests.support import pairs, questions, tiny_llama
from tests.trainers.runs import dpo, kto, lora, sft


def on_pairs(tokenizer, folder, **options):
    """Return a DPO trainer whose anchor acts on its own pairs."""
    return dpo(tokenizer, folder, **{"calibration_dataset": "pairs", "peft_config": lora(), **options})


def positions(trainer):
    """Return the tokens before each position, by row."""
    return {item.row: item.input_ids for item in trainer._calibration_term.questions}


@pytest.mark.parametrize("seed", [0, 1])
def test_each_position_is_after_the_first_and_before_the_last_token_of_a_chosen_reply(seed, tokenizer, tmp_path):
    trainer = on_pairs(tokenizer, tmp_path, seed=seed)
    found = positions(trainer)
    assert sorted(found) == list(range(64))
    lengths = set()
    for row, known in found.items():
        pair = trainer.train_dataset[row]
        prompt, reply = pair["prompt_ids"], pair["chosen_ids"]
        n_replied = len(known) - len(prompt)
        assert list(known) == prompt + reply[:n_replied]
        assert 1 <= n_replied <= len(reply) - 1
        lengths.add((n_replied, len(reply) - 1))
    # The first and the last possible position are drawn.
    assert 1 in {n for n, _ in lengths}
    assert any(n == most for n, most in lengths)


def test_positions_follow_from_the_seed(tokenizer, tmp_path):
    first, again = on_pairs(tokenizer, tmp_path), on_pairs(tokenizer, tmp_path)
    assert positions(first) == positions(again)
    assert positions(first) != positions(on_pairs(tokenizer, tmp_path, seed=1))


def test_the_term_is_the_divergence_of_the_next_token_by_hand(tokenizer, tmp_path):
    trainer = on_pairs(tokenizer, tmp_path, model=tiny_llama(tokenizer), calibration_batch_size=6, anchor_weight=2.0)
    model, term = trainer.model, trainer._calibration_term
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    loss = term.loss(model, 0, 0, 1).detach()
    rows = term.stream.global_batch(0)
    divergences = []
    with torch.no_grad():
        for i in rows:
            known = torch.tensor([term.questions[i].input_ids])
            policy = model(known).logits[0, -1].double().log_softmax(-1)
            with model.disable_adapter():
                reference = model(known).logits[0, -1].double().log_softmax(-1)
            divergences.append(float((reference.exp() * (reference - policy)).sum()))
    assert len(rows) == 6
    assert min(divergences) > 1e-3
    assert float(loss) == pytest.approx(2.0 * np.mean(divergences), rel=1e-4)


def test_training_keeps_to_the_reference_in_the_replies(tokenizer, tmp_path):
    divergences = {}
    for weight in (1e-6, 20.0):
        trainer = on_pairs(tokenizer, tmp_path / str(weight), anchor_weight=weight, max_steps=15)
        trainer.train()
        assert trainer.calibration_run.terms == ("anchor",)
        term = trainer._calibration_term
        with torch.no_grad():
            divergences[weight] = float(term.loss(trainer.model, 0, 0, 1)) / weight
        assert any("calibration/anchor" in row for row in trainer.state.log_history)
    assert divergences[20.0] < 0.5 * divergences[1e-6]


def test_a_resumed_run_trains_as_one_that_was_not_stopped(tokenizer, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    first = on_pairs(tokenizer, tmp_path, **options)
    first.train()
    again = on_pairs(tokenizer, tmp_path, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for own, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_positions_stay_within_the_length_limit(tokenizer, tmp_path):
    longest = max(map(len, positions(on_pairs(tokenizer, tmp_path)).values()))
    limited = positions(on_pairs(tokenizer, tmp_path, max_length=longest - 2))
    assert max(map(len, limited.values())) <= longest - 3  # and the predicted token
    with pytest.raises(ValueError, match="no chosen reply has a second token within max_length=3; raise max_length"):
        on_pairs(tokenizer, tmp_path, calibration_max_length=3)


def test_replies_of_one_token_have_no_position(tokenizer, tmp_path, monkeypatch, caplog):
    short = [{"prompt": "Is it?", "chosen": "", "rejected": " It is not."}]
    trainer = on_pairs(tokenizer, tmp_path, train_dataset=Dataset.from_list([*pairs(10), *short, *pairs(3)]))
    assert len(trainer.train_dataset[10]["chosen_ids"]) == 1  # the end of the text
    assert sorted(positions(trainer)) == [*range(10), 11, 12, 13]
    assert "calibration_dataset='pairs': 1 of 14 chosen replies have no second token" in caplog.text
    caplog.clear()
    monkeypatch.setattr(pair_positions, "MOST", 5)
    few = positions(on_pairs(tokenizer, tmp_path))
    assert "chosen replies" not in caplog.text
    assert len(few) == 5
    assert sorted(few) != list(range(5))


def test_the_card_says_what_the_anchor_acted_on(tokenizer, tmp_path):
    trainer = on_pairs(tokenizer, tmp_path, eval_calibration_dataset=questions(20, seed=3))
    trainer.train()
    trainer.evaluate()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "Calibration data: preference-pairs (64 rows); one token of each chosen reply" in card
    assert "Calibrated with tokens from preference-pairs (64 rows)" in card
    assert "calibration-aware DPO, anchored to its reference" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_weight": 0.0}, "calibration_dataset='pairs': .* anchor_weight is 0; raise it"),
        ({"em_weight": 1.0}, "em_weight: has no effect with calibration_dataset='pairs'"),
        ({"brier_weight": 1.0}, "brier_weight: has no effect with calibration_dataset='pairs'"),
        ({"em_dataset": questions(10)}, "em_dataset: needs"),
    ],
)
def test_arguments_without_effect_are_errors(options, message, tokenizer, tmp_path):
    with pytest.raises(ValueError, match=message):
        on_pairs(tokenizer, tmp_path, **options)


def test_another_reference_is_an_error(tokenizer, tmp_path):
    with pytest.raises(
        ValueError, match="calibration_reference_model: has no effect with calibration_dataset='pairs'"
    ):
        on_pairs(tokenizer, tmp_path, calibration_reference_model=tiny_llama(tokenizer, seed=7))


def test_a_trainer_without_pairs_in_memory_is_an_error(tokenizer, tmp_path):
    message = "has no text preference pairs in memory; use a DPO trainer"
    with pytest.raises(ValueError, match=f"CalibrationAwareKTOTrainer {message}"):
        kto(tokenizer, tmp_path, calibration_dataset="pairs", peft_config=lora())
    with pytest.raises(ValueError, match=f"CalibrationAwareSFTTrainer {message}"):
        sft(tokenizer, tmp_path, calibration_dataset="pairs", anchor_weight=1.0)
    with pytest.raises(ValueError, match=f"RecalibrationTrainer {message}"):
        recalibrate(tiny_llama(tokenizer), tiny_llama(tokenizer), "pairs", tokenizer=tokenizer)
    with pytest.raises(ValueError, match=f"CalibrationAwareTrainer {message}"):
        on_pairs(tokenizer, tmp_path, train_dataset=pairs(64).to_iterable_dataset())


def test_the_scripts_leave_the_word_to_the_trainer():
    arguments = QuestionArguments(calibration_dataset="pairs", calibration_on_bad_row="skip")
    assert calibration_questions(arguments)["calibration_dataset"] == "pairs"
