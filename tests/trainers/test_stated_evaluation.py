"""The confidence stated in free-form answers, reported by trainers and the callback."""

import json

import numpy as np
import pytest
from datasets import Dataset

from hf_calib import CalibrationCallback
from hf_calib.confidence import LocalModel
from hf_calib.confidence.backend import Generation
from hf_calib.rewards import answer_reward, brier_reward, confidence_prompts, get_answer_reward, get_brier_reward
from hf_calib.tasks import QuestionError
from hf_calib.tasks.free_form import FreeFormQuestion
from hf_calib.trainers.stated_evaluator import stated_prompts
from tests.support import byte_level_tokenizer, questions
from tests.trainers.runs import dpo, grpo, lora, rloo

ASKED = [FreeFormQuestion(f"What is number {n}?", (f"n{n}",)) for n in range(4)]
COMPLETIONS = [
    "<answer>n0</answer><confidence>95%</confidence>",
    "<answer>n1</answer><confidence>30%</confidence>",
    "<answer>no</answer><confidence>80%</confidence>",
    "<answer>no</answer>",
]
CONFIDENCES, RIGHT = np.array([0.95, 0.3, 0.8, 0.0]), np.array([1, 1, 0, 0])


@pytest.fixture
def scripted(monkeypatch):
    """Let every model give the completions above, and return what it was asked."""
    asked = []

    def generate(self, stage, prompts, prompt_format, asking, **options):
        asked.append(([prompt.prompt for prompt in prompts], options))
        return [[Generation(text, True)] for text in COMPLETIONS]

    monkeypatch.setattr(LocalModel, "generate", generate)
    return asked


def check(metrics, prefix):
    assert metrics[f"{prefix}/accuracy"] == 0.5
    assert metrics[f"{prefix}/confidence"] == pytest.approx(CONFIDENCES.mean())
    # Each of the four is alone in its bin.
    assert metrics[f"{prefix}/ece"] == pytest.approx(np.abs(CONFIDENCES - RIGHT).mean())
    assert metrics[f"{prefix}/missing_confidence"] == 0.25


@pytest.mark.parametrize("make", [grpo, rloo])
def test_evaluate_reports_the_ece_of_stated_confidence(make, scripted, tokenizer, tmp_path):
    trainer = make(
        tokenizer, tmp_path, eval_calibration_dataset=ASKED, peft_config=lora(), max_completion_length=7,
        reward_funcs=[answer_reward, brier_reward],
        train_dataset=confidence_prompts(ASKED * 4, chat=False), max_steps=2,
    )  # fmt: skip
    check(trainer.evaluate(), "eval_calibration")
    assert scripted[0][0] == confidence_prompts(ASKED, chat=False)["prompt"]
    assert scripted[0][1] == {"max_new_tokens": 7, "list_options": False}
    trainer.train()
    assert set(trainer.calibration_reports) == {"before", "after"}
    assert trainer.calibration_run.confidence == "stated"
    assert trainer.calibration_run.regime is None
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "measured on free-form questions, with confidence read off the percentage that the model states" in card
    assert "it says nothing about multiple-choice answers" in card
    assert "options per question" not in card
    assert "- multiple-choice" not in card


def test_the_trainers_own_reward_grades(scripted, tokenizer, tmp_path):
    always = get_answer_reward(lambda answer, right: True)
    trainer = grpo(
        tokenizer, tmp_path, eval_calibration_dataset=ASKED, peft_config=lora(), reward_funcs=[always],
        train_dataset=confidence_prompts(ASKED * 4, chat=False),
    )  # fmt: skip
    assert trainer.evaluate()["eval_calibration/accuracy"] == 1.0


def test_any_column_and_any_correctness_reward_may_grade(scripted, tokenizer, tmp_path):
    def knows_the_prompt(prompts, completions, gold, **kwargs):
        return [float(prompt == f"What is {own}?") for prompt, own in zip(prompts, gold, strict=True)]

    # A right answer of 0 is one too.
    asked = Dataset.from_list([{"prompt": f"What is {n}?", "gold": n} for n in range(4)])
    for reward, accuracy in (
        (get_brier_reward(correctness_reward=knows_the_prompt), 1.0),
        (get_answer_reward(column="gold"), 0.0),
    ):
        trainer = grpo(
            tokenizer, tmp_path, eval_calibration_dataset=asked, peft_config=lora(), reward_funcs=[reward],
            train_dataset=asked,
        )  # fmt: skip
        assert trainer.evaluate()["eval_calibration/accuracy"] == accuracy


def test_the_callback_reports_it_in_any_trainer(scripted, tokenizer, tmp_path):
    callback = CalibrationCallback(ASKED, prefix="eval_stated")
    trainer = dpo(
        tokenizer, tmp_path, callbacks=[callback], peft_config=lora(), max_steps=1,
        eval_calibration_dataset=questions(8), metric_for_best_model="eval_stated/ece",
    )  # fmt: skip
    metrics = trainer.evaluate()
    check(metrics, "eval_stated")
    assert "eval_calibration/ece" in metrics
    check(callback.history[0], "eval_stated")
    assert scripted[0][1]["max_new_tokens"] == 256


def test_a_random_model_states_nothing(tokenizer, tmp_path):
    trainer = grpo(tokenizer, tmp_path, eval_calibration_dataset=ASKED, peft_config=lora(), max_completion_length=3)
    metrics = trainer.evaluate()
    assert metrics["eval_calibration/missing_confidence"] == 1.0
    assert metrics["eval_calibration/confidence"] == metrics["eval_calibration/accuracy"] == 0.0


def test_long_prompts_are_dropped_if_asked_for(tokenizer, tmp_path):
    asked = [FreeFormQuestion("word " * 200, ("n",)), *ASKED]
    with pytest.warns(UserWarning, match="1 of 5 prompts with their answers are longer"):
        trainer = grpo(
            tokenizer, tmp_path, eval_calibration_dataset=asked, peft_config=lora(), max_completion_length=3,
            calibration_on_too_long="drop",
        )  # fmt: skip
    assert trainer.evaluate_calibration().n == 4


def test_prompts_are_asked_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    chat = [{"prompt": [{"role": "user", "content": "a?"}], "solution": "b", "level": 1}]
    for source in (chat, Dataset.from_list(chat)):
        (prompt,) = stated_prompts(source, chat=False)
        assert prompt.prompt == chat[0]["prompt"]
        assert prompt.columns == {"solution": "b", "level": 1}
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"question": "a?", "answers": ["b"]}) + "\n")
    for source in (path, str(path), "~/q.jsonl", [{"question": "a?", "answer": "b"}]):
        (prompt,) = stated_prompts(source, chat=True)
        assert prompt.columns["answers"] == ["b"]
        assert prompt.prompt[0]["role"] == "user"


def test_questions_with_options_are_left_to_others(tmp_path):
    rows = [{"question": "a?", "choices": ["b", "c"], "answer": 0}]
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(rows[0]) + "\n")
    unknown = [{"question": "a?", "others": ["b", "c"], "answer": "d"}]
    for source in (questions(3), rows, Dataset.from_list(rows), path, "cais/mmlu:all:test", unknown, []):
        assert stated_prompts(source, chat=False) is None


def test_bad_input_is_refused(tokenizer, tmp_path):
    with pytest.raises(QuestionError, match="row 1, counted from 0: there is no right answer"):
        stated_prompts([{"prompt": "a", "solution": "b"}, {"prompt": "c", "solution": None}], chat=False)
    with pytest.raises(QuestionError, match="row 0, counted from 0: there is no right answer in 'solution', and"):
        stated_prompts([{"prompt": "a", "solution": [None], "answers": ["b"]}], chat=False)
    with pytest.raises(QuestionError, match="row 1, counted from 0: its prompt is a list, but that of row 0 is a str"):
        stated_prompts([{"prompt": "a", "answer": "b"}, {"prompt": [{"content": "c"}], "answer": "d"}], chat=False)
    for row, message in (
        ({"prompt": None}, "row 1, counted from 0: the prompt is None; give a nonempty text or list of messages"),
        ({"prompt": " "}, "row 1, counted from 0: the prompt is ' '"),
        ({"prompt": []}, r"row 1, counted from 0: the prompt is \[\]"),
        ({"prompt": 3}, "row 1, counted from 0: the prompt is 3"),
        ({"answer": "d"}, "row 1, counted from 0: the prompt is None"),
        ("c", "row 1, counted from 0: expected a row with a 'prompt', got a str"),
        (
            {"prompt": "c", "answer": {"text": "d"}},
            "row 1, counted from 0, column 'answer': the right answer is a",
        ),
    ):
        with pytest.raises(QuestionError, match=message):
            stated_prompts([{"prompt": "a", "answer": "b"}, row], chat=False)
    with pytest.raises(QuestionError, match="row 1, counted from 0: expected a row with a 'question', got a str"):
        stated_prompts([{"question": "a?", "answer": "b"}, "c"], chat=False)
    messages = confidence_prompts(ASKED)
    with pytest.raises(ValueError, match="no chat template"):
        grpo(tokenizer, tmp_path, eval_calibration_dataset=messages, peft_config=lora())
    grpo(
        byte_level_tokenizer(chat=True), tmp_path, eval_calibration_dataset=messages, peft_config=lora(),
        max_completion_length=3,
    ).evaluate()  # fmt: skip


@pytest.mark.parametrize(("scale", "warned"), [("group", True), ("batch", True), (False, False)])
def test_scaled_rewards_of_confidence_are_warned_about(scale, warned, tokenizer, tmp_path, caplog):
    asked = confidence_prompts(ASKED * 4, chat=False)
    own = {"train_dataset": asked, "scale_rewards": scale}
    grpo(tokenizer, tmp_path, reward_funcs=[answer_reward, brier_reward], **own)
    assert (f"scale_rewards: {scale!r} divides rewards" in caplog.text) == warned
    assert ("the confidence trained with brier_reward to extremes" in caplog.text) == warned
    caplog.clear()
    grpo(tokenizer, tmp_path, reward_funcs=[answer_reward], **own)
    assert "scale_rewards" not in caplog.text
    # TRL then normalizes each reward by itself, whatever scale_rewards is.
    own["multi_objective_aggregation"] = "normalize_then_sum"
    grpo(tokenizer, tmp_path, reward_funcs=[answer_reward, brier_reward], **own)
    assert "multi_objective_aggregation: 'normalize_then_sum' divides rewards" in caplog.text
