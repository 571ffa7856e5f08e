"""A run that was cut off goes on from its checkpoint as if nothing had happened, bit for bit."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer

from hf_calib.trainers.calibration_term import CalibrationTerm
from hf_calib.trainers.interruption import last_complete_checkpoint
from tests.support import pairs, questions, tiny_llama, training_arguments
from tests.trainers.runs import dpo, grpo, kto, lora, reward, rloo, sft

HELD_OUT = questions(9, seed=4)
SETTINGS = {
    "em_weight": 1.0, "em_steps": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2,
    "calibration_batch_size": 3, "logging_steps": 1, "save_strategy": "steps", "save_steps": 3,
    "lr_scheduler_type": "constant", "max_steps": 6, "eval_calibration_dataset": HELD_OUT, "eval_strategy": "steps",
    "eval_steps": 3,
}  # fmt: skip


def run(make, tokenizer, folder, monkeypatch, *, resume=None, **options):
    """Train; return by step the logs, the questions seen and the EM bins, and the weights at the end."""
    trainer = make(tokenizer, folder, peft_config=lora(lora_dropout=0.3), **{**SETTINGS, **options})
    seen = {}
    loss = CalibrationTerm.loss

    def spy(term, model, step, part, num_parts):
        value = loss(term, model, step, part, num_parts)
        entry = seen.setdefault(step + 1, {"parts": [], "bins": None, "loss": []})
        entry["parts"].append(part)
        entry["questions"] = term.stream.global_batch(step).tolist()
        entry["bins"] = term.state_dict()
        entry["loss"].append(None if value is None else float(value.detach()))
        return value

    with monkeypatch.context() as patch:
        patch.setattr(CalibrationTerm, "loss", spy)
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    logs = {}
    for entry in trainer.state.log_history:
        if "train_runtime" not in entry:
            # TRL counts its tokens from where a run was resumed.
            timing = ("runtime", "per_second", "num_tokens", "step_time")
            kept = {key: value for key, value in entry.items() if not key.endswith(timing)}
            logs.setdefault(entry["step"], {}).update(kept)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    return trainer, logs, seen, weights


@pytest.mark.parametrize(
    ("make", "restore"),
    [
        (dpo, False),
        (sft, True),
        pytest.param(dpo, True, marks=pytest.mark.nightly),
        pytest.param(sft, False, marks=pytest.mark.nightly),
        pytest.param(kto, False, marks=pytest.mark.nightly),
        # Every step generates anew unless steps_per_generation says otherwise, so that every step ends on a boundary.
        pytest.param(grpo, False, marks=pytest.mark.slow),
        pytest.param(rloo, False, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_is_the_uninterrupted_one(make, restore, tokenizer, tmp_path, monkeypatch):
    options = {"restore_callback_states_from_checkpoint": restore}
    whole = run(make, tokenizer, tmp_path / "whole", monkeypatch, **options)
    run(make, tokenizer, tmp_path / "cut", monkeypatch, max_steps=4, **options)  # its last checkpoint is at step 3
    assert (tmp_path / "cut" / "checkpoint-3").is_dir()
    resumed = run(make, tokenizer, tmp_path / "cut", monkeypatch, resume=tmp_path / "cut" / "checkpoint-3", **options)
    assert sorted(resumed[2]) == [4, 5, 6]
    for step in resumed[2]:
        assert resumed[2][step] == whole[2][step]
        assert resumed[1][step] == whole[1][step]
    assert whole[2][6]["parts"] == [0, 1]
    assert sum(whole[2][6]["bins"]["targets"]["counts"]) > 0
    assert all(torch.equal(resumed[3][name], whole[3][name]) for name in whole[3])
    # What the card tells of the run is whole again too.
    assert resumed[0].calibration_history == whole[0].calibration_history
    for stage in ("before", "after"):
        assert resumed[0].calibration_reports[stage].to_dict() == whole[0].calibration_reports[stage].to_dict()


def test_a_report_on_other_questions_is_not_restored(tokenizer, tmp_path, monkeypatch, caplog):
    run(dpo, tokenizer, tmp_path, monkeypatch, max_steps=3)
    options = {"resume": tmp_path / "checkpoint-3", "max_steps": 4, "eval_calibration_dataset": questions(12, seed=4)}
    with caplog.at_level(logging.WARNING, logger="hf_calib"):
        trainer, *_ = run(dpo, tokenizer, tmp_path, monkeypatch, **options)
    assert list(trainer.calibration_reports) == ["after"]
    assert "eval_calibration_dataset: the checkpoint was measured on other questions" in caplog.text


def test_a_checkpoint_saved_after_resuming_holds_the_bins(tokenizer, tmp_path, monkeypatch):
    run(dpo, tokenizer, tmp_path, monkeypatch, max_steps=3)
    trainer, *_ = run(
        dpo, tokenizer, tmp_path, monkeypatch, max_steps=6, resume=tmp_path / "checkpoint-3",
        restore_callback_states_from_checkpoint=True,
    )  # fmt: skip
    state = json.loads((tmp_path / "checkpoint-6" / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"]["CalibrationStateCallback"]["attributes"]["saved"]
    assert saved["term"] == trainer._calibration_term.state_dict()


def test_going_on_from_a_checkpoint_of_the_extended_trainer(tokenizer, tmp_path, monkeypatch):
    settings = training_arguments(save_strategy="steps", save_steps=2, max_steps=2, logging_steps=1)
    torch.manual_seed(1)
    DPOTrainer(
        model=tiny_llama(tokenizer), args=DPOConfig(str(tmp_path), **settings), train_dataset=pairs(64),
        processing_class=tokenizer, peft_config=lora(lora_dropout=0.3),
    ).train()  # fmt: skip
    trainer, logs, seen, _ = run(
        dpo, tokenizer, tmp_path, monkeypatch, resume=tmp_path / "checkpoint-2", max_steps=4, save_steps=2
    )
    assert sorted(seen) == [3, 4]
    assert logs[4]["calibration/em"] > 0
    assert "before" not in trainer.calibration_reports  # it was not measured
    assert (tmp_path / "checkpoint-4" / "trainer_state.json").is_file()


def grpo_in_pairs(tokenizer, folder, **options):
    """Two optimizer steps from each generation, of which a checkpoint at step 4 follows a whole one."""
    return grpo(tokenizer, folder, steps_per_generation=4, **{**options, "save_steps": 4})


@pytest.mark.slow
def test_generations_of_several_steps_are_resumed_on_their_boundary(tokenizer, tmp_path, monkeypatch):
    options = {"eval_strategy": "no", "max_steps": 6}
    whole = run(grpo_in_pairs, tokenizer, tmp_path / "whole", monkeypatch, **options)
    run(grpo_in_pairs, tokenizer, tmp_path / "cut", monkeypatch, **{**options, "max_steps": 5})
    checkpoint = tmp_path / "cut" / "checkpoint-4"
    resumed = run(grpo_in_pairs, tokenizer, tmp_path / "cut", monkeypatch, resume=checkpoint, **options)
    assert sorted(resumed[2]) == [5, 6]
    for step in resumed[2]:
        assert resumed[2][step] == whole[2][step]
        assert resumed[1][step] == whole[1][step]
    assert all(torch.equal(resumed[3][name], whole[3][name]) for name in whole[3])


class Interrupting(TrainerCallback):
    """Presses Ctrl-C in the midst of a step."""

    def __init__(self, step, times=1):
        self.step, self.times = step, times

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)


def plain_settings(make):
    settings = {"logging_steps": 1, "save_strategy": "no", "lr_scheduler_type": "constant", "max_steps": 3}
    return settings if make is reward else settings | {"peft_config": lora(lora_dropout=0.3), "anchor_weight": 1.0}


@pytest.fixture
def ctrl_c():
    """Handle Ctrl-C as a program in the foreground does; in the background it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
@pytest.mark.parametrize(
    "make", [dpo, sft, reward, *(pytest.param(each, marks=pytest.mark.slow) for each in (kto, grpo, rloo))]
)
def test_ctrl_c_saves_and_says_where(make, tokenizer, tmp_path):
    whole = make(tokenizer, tmp_path / "whole", **plain_settings(make))
    whole.train()
    cut = make(tokenizer, tmp_path / "cut", **plain_settings(make))
    cut.add_callback(Interrupting(2))
    handler = signal.getsignal(signal.SIGINT)
    where = tmp_path / "cut" / "checkpoint-2"
    with pytest.raises(
        KeyboardInterrupt, match=f'after step 2 and saved to {where}.*resume_from_checkpoint="{where}"'
    ):
        cut.train()
    assert signal.getsignal(signal.SIGINT) is handler
    assert cut.state.global_step == 2
    resumed = make(tokenizer, tmp_path / "cut", **plain_settings(make))
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.log_history[-2]["loss"] == whole.state.log_history[-2]["loss"]
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_twice_stops_at_once(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, callbacks=[Interrupting(1, times=2)], **plain_settings(sft))
    with pytest.raises(KeyboardInterrupt) as raised:
        trainer.train()
    assert not raised.value.args
    assert not list(tmp_path.glob("checkpoint-*"))


def test_a_program_s_own_handler_is_left_alone(tokenizer, tmp_path):
    calls = []
    before = signal.signal(signal.SIGINT, lambda number, frame: calls.append(number))
    try:
        sft(tokenizer, tmp_path, callbacks=[Interrupting(1)], **plain_settings(sft)).train()
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == [signal.SIGINT]


def test_a_checkpoint_cut_off_while_it_was_written_is_passed_over(tmp_path):
    with pytest.raises(ValueError, match="no complete checkpoint"):
        last_complete_checkpoint(tmp_path)
    for step, state in ((9, "{}"), (10, "{}"), (11, '{"global_step": 1'), (12, None)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if state is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-best").mkdir()
    assert last_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")


SCRIPT = """
import sys
from pathlib import Path
from tests.support import byte_level_tokenizer
from tests.trainers import test_resume
name, folder = sys.argv[1:]
options = {"max_steps": 400, "save_strategy": "steps", "save_steps": 1}
test_resume.killed(name, byte_level_tokenizer(), Path(folder), **options).train()
"""


def killed(name, tokenizer, folder, **options):
    """Return the trainer of a run that is to be killed, or to be compared with that."""
    settings = {**SETTINGS, "save_strategy": "no", "eval_strategy": "no", "save_total_limit": 3, **options}
    if name == "reward":
        kept = {key: settings[key] for key in settings if not key.startswith(("em_", "eval_", "calibration_"))}
        return reward(tokenizer, folder, **kept)
    return {"dpo": dpo, "sft": sft, "kto": kto}[name](
        tokenizer, folder, peft_config=lora(lora_dropout=0.3), **settings
    )


@pytest.fixture
def one_thread():
    """As the run that is killed has: more would sum in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "name", ["dpo", *(pytest.param(name, marks=pytest.mark.nightly) for name in ("sft", "kto", "reward"))]
)
def test_kill_at_any_moment(name, tokenizer, tmp_path):
    folder = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, name, str(folder)], cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not (folder / "checkpoint-4").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    last = int(last_complete_checkpoint(folder).split("-")[-1])
    resumed, whole = (killed(name, tokenizer, where, max_steps=last + 3) for where in (folder, tmp_path / "whole"))
    # Making a trainer seeds its dropout, and the other's training draws from that.
    seeded = torch.get_rng_state()
    resumed.train(resume_from_checkpoint=True)
    torch.set_rng_state(seeded)
    whole.train()
    logs = [
        {
            entry["step"]: {key: value for key, value in entry.items() if not key.endswith("num_tokens")}
            for entry in trainer.state.log_history if "loss" in entry
        }
        for trainer in (resumed, whole)
    ]  # fmt: skip
    for step in range(last + 1, last + 4):
        assert logs[0][step] == logs[1][step]
    terms = [
        trainer._preference_term if name == "reward" else trainer._calibration_term for trainer in (resumed, whole)
    ]
    assert terms[0].state_dict() == terms[1].state_dict()
    for ours, theirs in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
