"""What the terms add to the loss, against a computation by hand."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig

from hf_calib import CalibrationAwareConfig, CalibrationAwareTrainer
from hf_calib.confidence import NonFiniteLogitsError
from hf_calib.measures import differentiable_calibration_error, expected_calibration_error
from hf_calib.tasks import Question, QuestionError, encode_questions
from hf_calib.trainers.publishing import card_data
from hf_calib.trainers.reference import ReferenceUnavailableError
from tests.support import pairs, questions, tiny_llama, training_arguments


def make(tokenizer, folder, *, model=None, lora=True, data=None, **options):
    trainer_options = {
        key: options.pop(key)
        for key in ("eval_calibration_dataset", "em_dataset", "calibration_reference_model", "ref_model", "callbacks")
        if key in options
    }
    torch.manual_seed(1)
    model = model or tiny_llama(tokenizer)
    return CalibrationAwareTrainer(
        model=model,
        args=CalibrationAwareConfig(str(folder), **training_arguments(**options)),
        train_dataset=pairs(64),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=4, task_type="CAUSAL_LM") if lora else None,
        calibration_dataset=data if data is not None else questions(40),
        **trainer_options,
    )


def logits_by_hand(model, tokenizer, asked):
    """Each question alone, without padding, all positions."""
    encoded = encode_questions(asked, tokenizer)
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([item.input_ids])).logits[0, -1].float() for item in encoded]
    return torch.stack(rows), encoded


def test_the_terms_are_what_their_formulas_say(tokenizer, tmp_path):
    asked = questions(12, choices=(3, 4)) + questions(4, seed=9, answered=False)
    trainer = make(
        tokenizer, tmp_path, data=asked, calibration_batch_size=16, anchor_weight=2.0, supervised_weight=3.0
    )
    with torch.no_grad():  # away from the reference, where the anchor is zero
        for name, parameter in trainer.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.3)
    trainer.model.train()
    loss = trainer._calibration_term.loss(trainer.model, 0, 0, 1)

    trainer.model.eval()
    policy, encoded = logits_by_hand(trainer.model, tokenizer, asked)
    with trainer.model.disable_adapter():
        reference, _ = logits_by_hand(trainer.model, tokenizer, asked)
    p_ref = reference.softmax(-1)
    anchor = (p_ref * (reference.log_softmax(-1) - policy.log_softmax(-1))).sum(-1).mean()
    targets = torch.tensor([item.option_ids[item.answer] for item in encoded[:12]])
    supervised = F.cross_entropy(policy[:12], targets)
    assert float(loss) == pytest.approx(float(2 * anchor + 3 * supervised), rel=1e-5)
    assert float(anchor) > 1e-3


def test_the_differentiable_ece_is_the_measure_on_the_answered_questions(tokenizer, tmp_path):
    asked = questions(12, choices=(3, 4)) + questions(4, seed=9, answered=False)
    weights = {"anchor_weight": 0.0, "supervised_weight": 0.0, "dece_weight": 2.0}
    trainer = make(tokenizer, tmp_path, data=asked, calibration_batch_size=16, **weights)
    trainer.model.eval()
    loss = trainer._calibration_term.loss(trainer.model, 0, 0, 1)
    logits, encoded = logits_by_hand(trainer.model, tokenizer, asked[:12])
    p = np.zeros((12, 4))
    for row, item in enumerate(encoded):
        p[row, : len(item.option_ids)] = logits[row, list(item.option_ids)].softmax(-1).numpy()
    expected = differentiable_calibration_error(p, np.array([question.answer for question in asked[:12]]))
    assert float(loss) == pytest.approx(2 * expected, rel=1e-4)
    loss.backward()
    gradients = [p.grad for name, p in trainer.model.named_parameters() if "lora_B" in name and p.grad is not None]
    assert gradients
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
    assert trainer._calibration_term.pop_logs()["calibration/dece"] == pytest.approx(expected, rel=1e-4)
    assert "with the differentiable ECE" in card_data(trainer.calibration_run, trainer, "m", None, None).method
    with pytest.raises(ValueError, match="dece_weight must be"):
        CalibrationAwareConfig(str(tmp_path), **training_arguments(dece_weight=-1.0))


@pytest.mark.parametrize("lora", [True, False], ids=["lora", "full weights"])
@pytest.mark.parametrize("em_weight", [0.0, 1.0])
def test_gradient_accumulation_changes_nothing(tokenizer, tmp_path, lora, em_weight):
    """One batch of eight and four batches of two give the same update, whatever share of questions each gets."""

    def trained(batch_size, accumulation):
        model = tiny_llama(tokenizer)
        trainer = make(
            tokenizer,
            tmp_path / f"{batch_size}",
            model=model,
            lora=lora,
            ref_model=None if lora else tiny_llama(tokenizer),
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            calibration_batch_size=6,
            em_weight=em_weight,
            optim="sgd",
            learning_rate=0.1,
            max_steps=3,
            logging_steps=1,
            data=questions(20, choices=(3, 4)) + questions(10, seed=5, answered=False),
        )
        trainer.train()
        logs = [entry["calibration/loss"] for entry in trainer.state.log_history if "calibration/loss" in entry]
        return torch.cat([p.detach().flatten() for p in trainer.model.parameters() if p.requires_grad]), logs

    whole, whole_logs = trained(8, 1)
    parts, part_logs = trained(2, 4)
    assert torch.allclose(whole, parts, atol=2e-5)
    assert part_logs == pytest.approx(whole_logs, rel=1e-3)


def test_questions_without_answers_get_the_anchor_alone(tokenizer, tmp_path):
    trainer = make(tokenizer, tmp_path, data=questions(20, answered=False), logging_steps=1, em_weight=0.0)
    trainer.train()
    logs = trainer.state.log_history[1]
    assert logs["calibration/anchor"] > 0.0
    assert logs.keys().isdisjoint({"calibration/supervised", "calibration/ece"})


def test_logged_means_are_over_the_steps_with_answers(tokenizer, tmp_path):
    data = [*questions(1), *questions(3, seed=1, answered=False)]
    options = {"max_steps": 4, "logging_steps": 4, "learning_rate": 0.0, "calibration_batch_size": 1}
    found = []
    for asked in (data, data[:1]):
        trainer = make(tokenizer, tmp_path, data=asked, brier_weight=1.0, **options)
        trainer.train()
        found.append(next(entry for entry in trainer.state.log_history if "calibration/loss" in entry))
    mixed, answered = found
    for name in ("calibration/supervised", "calibration/brier"):
        assert mixed[name] == pytest.approx(answered[name], rel=1e-5)
    assert mixed["calibration/loss"] < answered["calibration/loss"] / 3


def test_the_anchor_is_zero_at_the_start_and_holds_the_model_back(tokenizer, tmp_path):
    def last(weight):
        trainer = make(
            tokenizer,
            tmp_path / str(weight),
            data=questions(20, answered=False),
            max_steps=15,
            logging_steps=1,
            anchor_weight=weight,
        )
        trainer.train()
        return [entry["calibration/anchor"] for entry in trainer.state.log_history if "calibration/anchor" in entry]

    loose, tight = last(1e-6), last(20.0)
    assert loose[0] == pytest.approx(0.0, abs=1e-6)
    assert tight[-1] < 0.5 * loose[-1]


def test_the_em_term_uses_held_out_questions_only(tokenizer, tmp_path):
    asked = questions(40) + questions(10, seed=3, answered=False)
    trainer = make(tokenizer, tmp_path, data=asked, em_weight=1.0, em_fraction=0.25)
    term = trainer._calibration_term
    trained, held_out = ({item.row for item in part} for part in (term.questions, term.held_out))
    assert trained.isdisjoint(held_out)
    assert trained | held_out == set(range(50))
    assert len(held_out) == 10
    assert max(held_out) < 40


def test_the_e_step_bins_the_held_out_answers(tokenizer, tmp_path):
    trainer = make(tokenizer, tmp_path, em_weight=1.0, em_dataset=questions(30, seed=8), em_batch_size=30)
    term = trainer._calibration_term
    trainer.model.train()
    term.expectation_step(trainer.model, 0)
    assert trainer.model.training
    trainer.model.eval()
    logits, encoded = logits_by_hand(trainer.model, tokenizer, questions(30, seed=8))
    options = torch.tensor([item.option_ids for item in encoded])
    confidences, predicted = logits.gather(1, options).softmax(-1).max(-1)
    correct = predicted.numpy() == np.array([item.answer for item in encoded])
    bins = np.minimum((confidences.double().numpy() * 10).astype(int), 9)
    assert np.array_equal(term.targets.counts.numpy(), np.bincount(bins, minlength=10))
    assert np.array_equal(term.targets.correct.numpy(), np.bincount(bins, correct, minlength=10))


def test_the_running_ece_is_that_of_the_questions_since_the_last_log(tokenizer, tmp_path):
    trainer = make(tokenizer, tmp_path, logging_steps=3, calibration_batch_size=7)
    seen = []
    record = trainer._calibration_term._record

    def spy(probabilities, batch, answered):
        confidences, predicted = probabilities.max(-1)
        seen.extend(zip(confidences.double().tolist(), (predicted == batch.answers).tolist(), strict=True))
        record(probabilities, batch, answered)

    trainer._calibration_term._record = spy
    trainer.train()
    confidences, correct = map(np.array, zip(*seen, strict=True))
    logs = next(entry for entry in trainer.state.log_history if "calibration/ece" in entry)
    assert len(confidences) == 21
    assert logs["calibration/ece"] == pytest.approx(expected_calibration_error(confidences, correct))
    assert logs["calibration/accuracy"] == pytest.approx(correct.mean())
    assert logs["calibration/confidence"] == pytest.approx(confidences.mean())


def test_a_given_reference_model_is_kept_to(tokenizer, tmp_path):
    teacher = tiny_llama(tokenizer, seed=5)
    trainer = make(
        tokenizer, tmp_path, calibration_reference_model=teacher, data=questions(8, answered=False),
        calibration_batch_size=8, anchor_weight=5.0,
    )  # fmt: skip
    trainer.model.train()
    loss = trainer._calibration_term.loss(trainer.model, 0, 0, 1)
    trainer.model.eval()
    policy, _ = logits_by_hand(trainer.model, tokenizer, questions(8, answered=False))
    target, _ = logits_by_hand(teacher, tokenizer, questions(8, answered=False))
    expected = F.kl_div(policy.log_softmax(-1), target.log_softmax(-1), log_target=True, reduction="batchmean")
    assert float(loss) == pytest.approx(5 * float(expected), rel=1e-5)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_full_weights_use_the_trainers_own_reference(tokenizer, tmp_path):
    reference = tiny_llama(tokenizer, seed=7)
    trainer = make(tokenizer, tmp_path, lora=False, ref_model=reference, data=questions(8, answered=False))
    trainer.model.train()
    assert float(trainer._calibration_term.loss(trainer.model, 0, 0, 1)) > 0.1


def test_a_reference_that_follows_the_model_is_refused(tokenizer, tmp_path):
    with pytest.raises(ReferenceUnavailableError, match="sync_ref_model"):
        make(tokenizer, tmp_path, lora=False, ref_model=tiny_llama(tokenizer), sync_ref_model=True)


def test_a_reference_with_another_vocabulary_is_refused(tokenizer, tmp_path):
    from tests.support import byte_level_tokenizer

    other = tiny_llama(byte_level_tokenizer(vocab_size=300))
    with pytest.raises(ReferenceUnavailableError, match="vocabulary of"):
        make(tokenizer, tmp_path, calibration_reference_model=other)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": [], "em_weight": 0.0}, QuestionError, "no question"),
        ({"data": [{"question": "a?", "choice": ["b", "c"]}]}, QuestionError, r"pass --columns .*choices=choice"),
        ({"data": questions(5, answered=False), "anchor_weight": 0.0}, QuestionError, "anchor_weight is 0"),
        (
            {"data": questions(5, answered=False), "em_weight": 1.0},
            QuestionError,
            "em_weight: .* but none has one; set",
        ),
        (
            {"data": questions(5, answered=False), "em_weight": 1.0, "em_dataset": questions(4)},
            QuestionError,
            "em_weight: .* but none has one; set",
        ),
        ({"data": questions(5), "calibration_max_length": 5}, QuestionError, "longer than 5 tokens"),
        ({"data": questions(5), "max_length": 5}, QuestionError, "longer than 5 tokens"),
        ({"data": questions(5), "calibration_prompt": "chat"}, ValueError, "no chat template"),
        ({"data": questions(5), "eval_calibration_dataset": questions(5, answered=False)}, QuestionError, "none"),
        (
            {"data": [Question("q?", ("x", "x"), 0)], "calibration_identical_choices": "error"},
            QuestionError,
            "identical",
        ),
    ],
)
def test_bad_questions_are_named(tokenizer, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        make(tokenizer, tmp_path, **options)


def test_long_questions_are_dropped_and_counted_if_asked_for(tokenizer, tmp_path):
    asked = [*questions(5), Question("word " * 200 + "?", ("a", "b"), 0)]
    with pytest.warns(UserWarning, match="1 of 6 prompts"):
        trainer = make(tokenizer, tmp_path, data=asked, calibration_max_length=150, calibration_on_too_long="drop")
    assert len(trainer._calibration_term.questions) == 5
    assert trainer.calibration_run.calibration_source.size == 5


def test_calibration_questions_may_be_longer_than_the_trainers_own_data(tokenizer, tmp_path):
    long = Question("word " * 60 + "?", ("a", "b"), 0)
    trainer = make(tokenizer, tmp_path, data=[*questions(3), long], max_length=64, calibration_max_length=400)
    assert max(len(item.input_ids) for item in trainer._calibration_term.questions) > 64


def test_the_bins_are_as_asked_for(tokenizer, tmp_path):
    trainer = make(tokenizer, tmp_path, em_weight=1.0, em_bins=4, em_momentum=0.7)
    targets = trainer._calibration_term.targets
    assert (targets.n_bins, targets.momentum) == (4, 0.7)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("anchor_weight", -1.0),
        ("em_weight", float("nan")),
        ("em_fraction", 1.0),
        ("em_momentum", 1.0),
        ("em_steps", 0),
        ("em_bins", 0),
        ("self_made_questions", 0),
        ("calibration_batch_size", 0),
        ("em_sharing", "fair"),
        ("calibration_prompt", "poem"),
        ("anchor_weight", "1"),
        ("supervised_weight", None),
        ("calibration_batch_size", 1.5),
        ("em_batch_size", "8"),
        ("em_steps", 2.5),
        ("em_bins", None),
        ("em_fraction", "0.2"),
        ("average_weights", None),
        ("preference_weight", "1"),
    ],
)
def test_arguments_out_of_range_are_named(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name} must .* {value!r}$"):
        CalibrationAwareConfig(str(tmp_path), **training_arguments(), **{name: value})


@pytest.mark.parametrize("em_weight", [0.0, 1.0])
def test_logits_that_are_not_finite_stop_the_run_and_leave_the_checkpoint(tokenizer, tmp_path, em_weight):
    from transformers import TrainerCallback

    class Break(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 2:
                with torch.no_grad():
                    next(p for n, p in model.named_parameters() if "lora_B" in n).fill_(float("nan"))

    trainer = make(
        tokenizer,
        tmp_path,
        callbacks=[Break()],
        max_steps=5,
        save_strategy="steps",
        save_steps=2,
        em_weight=em_weight,
        em_steps=2,
    )
    with pytest.raises(NonFiniteLogitsError, match="at step 2, the model gave logits that are not finite"):
        trainer.train()
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "checkpoint-2" / "adapter_model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in saved.values())


@pytest.mark.parametrize(
    ("options", "rest"),
    [
        ({}, ""),
        ({"dece_weight": 0.5}, "; dece_weight=0.5 has no effect"),
        (
            {"dece_weight": 1.0, "brier_weight": 2.0},
            "; brier_weight=2 and dece_weight=1 have no effect",
        ),
    ],
)
def test_terms_that_get_no_answers_are_said_once(options, rest, tokenizer, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="hf_calib"):
        make(tokenizer, tmp_path, data=questions(9, answered=False), **options).train()
    said = [record.getMessage() for record in caplog.records if "has an answer" in record.getMessage()]
    assert said == [f"None of the 9 calibration questions has an answer: only the anchor acts{rest}"]


@pytest.mark.parametrize(
    ("data", "options"),
    [
        (questions(9, answered=False), {"supervised_weight": 0.0}),
        (questions(8, answered=False) + questions(1), {}),
    ],
)
def test_nothing_is_said_where_every_term_acts(data, options, tokenizer, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="hf_calib"):
        make(tokenizer, tmp_path, data=data, **options)
    assert "has an answer" not in caplog.text
