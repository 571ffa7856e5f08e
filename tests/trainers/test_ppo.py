"""PPO, where TRL has it, and what is said where it has not."""

import signal

import pytest
import torch
from datasets import Dataset
from transformers import LlamaForSequenceClassification, TrainerCallback, set_seed

import hf_calib
from hf_calib.trainers import CalibrationAwarePPOConfig, CalibrationAwarePPOTrainer, calibration_aware
from hf_calib.trainers.calibration_term import CalibrationTerm
from hf_calib.trainers.trl_compatibility import TrainerUnavailableError, has_ppo
from tests.support import pairs, questions, tiny_llama, training_arguments
from tests.trainers.runs import lora
from tests.trainers.test_self_evaluation import answers, callback

with_ppo = pytest.mark.skipif(not has_ppo(), reason="the installed TRL has no PPO")


@pytest.mark.skipif(has_ppo(), reason="the installed TRL has PPO")
@pytest.mark.parametrize("made", [CalibrationAwarePPOConfig, CalibrationAwarePPOTrainer])
def test_without_ppo_the_message_says_what_to_do(made):
    with pytest.raises(TrainerUnavailableError, match=r"no PPO, which was removed in 1\.13\.0.*hf-calib\[ppo\].*RLOO"):
        made("out")


def classifier(tokenizer, seed):
    """Return a model that scores sequences, with weights of its own."""
    config = tiny_llama(tokenizer).config
    config.num_labels = 1
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config)


def ppo(tokenizer, folder, *, adapter=True, **options):
    trainer_options = {
        "calibration_dataset": questions(40), "eval_calibration_dataset": questions(12, seed=4),
        **{name: options.pop(name) for name in ("calibration_dataset", "eval_calibration_dataset") if name in options},
    }  # fmt: skip
    settings = training_arguments(**{
        "response_length": 4, "num_sample_generations": 0, "total_episodes": 24, "num_ppo_epochs": 1,
        "num_mini_batches": 1, "gradient_accumulation_steps": 2, "local_rollout_forward_batch_size": 4,
        "missing_eos_penalty": 1.0, **options,
    })  # fmt: skip
    del settings["max_steps"]
    ids = [{"input_ids": tokenizer(text)["input_ids"]} for text in pairs(24)["prompt"]]
    set_seed(1)
    return CalibrationAwarePPOTrainer(
        args=CalibrationAwarePPOConfig(str(folder), **settings), processing_class=tokenizer,
        model=tiny_llama(tokenizer), ref_model=None, reward_model=classifier(tokenizer, 2),
        value_model=classifier(tokenizer, 3), train_dataset=Dataset.from_list(ids),
        eval_dataset=Dataset.from_list(ids[:8]), peft_config=lora() if adapter else None, **trainer_options,
    )  # fmt: skip


@with_ppo
@pytest.mark.parametrize("adapter", [True, False], ids=["lora", "full weights"])
def test_it_trains_with_the_terms_and_reports_calibration(adapter, tokenizer, tmp_path):
    trainer = ppo(tokenizer, tmp_path, adapter=adapter, em_weight=1.0)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "calibration/loss" in entry]
    assert len(logs) == 3  # 24 episodes, 8 a step
    assert logs[0]["calibration/anchor"] == pytest.approx(0.0, abs=1e-5)
    assert logs[2]["calibration/anchor"] > 1e-6
    assert all("objective/scores" in entry for entry in logs)
    before, after = (trainer.calibration_reports[stage] for stage in ("before", "after"))
    assert before.n == after.n == 12
    assert before.measures["nll"].value != after.measures["nll"].value
    trainer.create_model_card()
    assert "calibration-aware PPO" in (tmp_path / "README.md").read_text()


@with_ppo
def test_evaluate_measures_calibration_alone(tokenizer, tmp_path, caplog):
    trainer = ppo(tokenizer, tmp_path, eval_strategy="steps", eval_steps=1)
    assert "eval_strategy: PPO does not evaluate during training" in caplog.text
    report = hf_calib.predict(trainer.policy_model, tokenizer, questions(12, seed=4)).report()
    assert trainer.evaluate()["eval_calibration/nll"] == pytest.approx(report.measures["nll"].value, abs=1e-5)
    with pytest.raises(ValueError, match="eval_dataset: CalibrationAwarePPOTrainer has no loss to evaluate"):
        trainer.evaluate(trainer.eval_dataset)
    trainer = ppo(tokenizer, tmp_path, eval_calibration_dataset=None)
    with pytest.raises(ValueError, match="there are no questions to evaluate on"):
        trainer.evaluate()
    trainer.add_callback(hf_calib.CalibrationCallback(questions(12, seed=4)))
    with pytest.raises(ValueError, match="never evaluates, so CalibrationCallback has nothing to do"):
        trainer.train()


@with_ppo
@pytest.mark.filterwarnings("ignore:self-evaluation")
def test_its_policy_answers_its_questions_anew(tokenizer, tmp_path):
    graded = answers(tiny_llama(tokenizer), tokenizer)
    trainer = ppo(tokenizer, tmp_path, calibration_dataset=graded, eval_calibration_dataset=None)
    trainer.add_callback(refresh := callback(graded))
    trainer.train()
    assert refresh.questions.provenance["step"] == 2  # before the last of three steps
    assert list(trainer.calibration_run.questions) == list(refresh.questions)


@with_ppo
def test_the_anchor_keeps_to_ppos_own_reference(tokenizer, tmp_path):
    trainer = ppo(tokenizer, tmp_path, adapter=False)
    assert trainer.ref_model is not None
    assert trainer._calibration_term.reference_logits.__self__.model is trainer.ref_model


@with_ppo
def test_its_gradient_is_ppos_own_and_the_terms(tokenizer, tmp_path, monkeypatch):
    """Two micro-batches a step: the term's parts, each divided by accelerate, sum to its mean."""
    loss = CalibrationTerm.loss
    found = {}
    for scale in (0.0, 1.0):
        trainer = ppo(tokenizer, tmp_path, total_episodes=8, calibration_batch_size=6, eval_calibration_dataset=None)
        gradients = {}
        backward = trainer.accelerator.backward

        def spy(value, backward=backward, gradients=gradients, trainer=trainer, **kwargs):
            backward(value, **kwargs)
            named = trainer.policy_model.named_parameters()
            gradients.update({name: p.grad.clone() for name, p in named if p.grad is not None})

        trainer.accelerator.backward = spy
        with monkeypatch.context() as patch:
            patch.setattr(CalibrationTerm, "loss", lambda *args, scale=scale: scale * loss(*args))
            trainer.train()
        found[scale] = gradients
    fresh = ppo(tokenizer, tmp_path, total_episodes=8, calibration_batch_size=6, eval_calibration_dataset=None)
    fresh._calibration_term.loss(fresh.policy_model, 0, 0, 1).backward()
    expected = {name: p.grad for name, p in fresh.policy_model.named_parameters() if p.grad is not None}
    assert max(float(value.abs().max()) for value in expected.values()) > 1e-3
    for name, value in expected.items():
        torch.testing.assert_close(found[1.0][name] - found[0.0][name], value, atol=1e-4, rtol=1e-3)


@with_ppo
def test_without_questions_it_is_the_extended_trainer_to_the_last_bit(tokenizer, tmp_path):
    from trl.experimental.ppo import PPOTrainer

    weights = []
    for kind in (CalibrationAwarePPOTrainer, PPOTrainer):
        trainer = ppo(tokenizer, tmp_path, calibration_dataset=None, eval_calibration_dataset=None)
        kind.train(trainer)
        weights.append([p.detach().clone() for p in trainer.policy_model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@with_ppo
def test_it_cannot_be_resumed_or_derived_without_the_shipped_class(tokenizer, tmp_path):
    from trl.experimental.ppo import PPOTrainer

    with pytest.raises(ValueError, match="PPO cannot be resumed"):
        ppo(tokenizer, tmp_path).train(resume_from_checkpoint=str(tmp_path))
    assert calibration_aware(PPOTrainer) is CalibrationAwarePPOTrainer
    mine = type("MyPPOTrainer", (PPOTrainer,), {})
    with pytest.raises(TypeError, match="CalibrationAwarePPOTrainer"):
        calibration_aware(mine)


@with_ppo
def test_ctrl_c_saves_the_policy_and_says_that_it_cannot_be_resumed(tokenizer, tmp_path):
    class Interrupting(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            signal.raise_signal(signal.SIGINT)

    trainer = ppo(tokenizer, tmp_path)
    trainer.add_callback(Interrupting())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt, match=f"saved to {tmp_path}/checkpoint-.*PPO cannot be resumed"):
            trainer.train()
    finally:
        signal.signal(signal.SIGINT, before)
    [saved] = tmp_path.glob("checkpoint-*")
    assert (saved / "trainer_state.json").is_file()
