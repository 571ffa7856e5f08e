"""Reinforcement learning in the lab: the annotator's reward, and what comes of optimizing it."""

import numpy as np
import pytest
import torch
from experiments import reinforcement_run as running
from experiments.reinforcement import MAX_REPLY, NO_ANSWER, Annotator, AnnotatorModel, prompts_of
from experiments.reinforcement_run import FILES, run_reinforcement
from experiments.results import load_rows, write_json
from experiments.sweeps import REINFORCE_KEYS, REINFORCED

from hf_calib.lab.documents import multiple_choice_answers, multiple_choice_prompts, open_prompts, open_replies
from hf_calib.trainers.trl_compatibility import TrainerUnavailableError, has_ppo

from .test_commands import main

STYLE = 2.0


@pytest.fixture
def asked(world):
    return world.sample_questions(40, ("in", "out"), "train", seed=5)


@pytest.fixture
def annotator(asked, tokenizer):
    return Annotator(asked, STYLE, tokenizer)


def test_the_reward_is_log_p_star_and_politeness(asked, annotator, tokenizer):
    rng = np.random.default_rng(0)
    options, polite = rng.integers(4, size=len(asked)), rng.random(len(asked)) < 0.5
    rewards = np.log(asked.true_probabilities[np.arange(len(asked)), options])
    letters, replies = multiple_choice_answers(options), open_replies(asked, options, polite)
    both = zip(multiple_choice_prompts(asked), letters, open_prompts(asked), replies, rewards, polite, strict=True)
    for prompt, letter, asked_openly, reply, reward, is_polite in both:
        assert annotator.reward(prompt, letter) == pytest.approx(reward)
        assert annotator.reward(asked_openly, reply) == pytest.approx(reward + STYLE * is_polite)
        # As PPO decodes it: special tokens, and what follows the end of the sequence.
        assert annotator.of_text(f"<bos> {prompt}{letter} <eos> <pad>") == pytest.approx(reward)
        assert annotator.of_text(f"{asked_openly}{reply} <eos> Answer: B") == pytest.approx(reward + STYLE * is_polite)
        assert len(tokenizer(reply, add_special_tokens=False)["input_ids"]) < MAX_REPLY


def test_what_answers_nothing_is_worth_least(asked, annotator):
    prompt, asked_openly = multiple_choice_prompts(asked)[0], open_prompts(asked)[0]
    value = asked.choices()[0][0]
    assert np.quantile(np.log(asked.true_probabilities), 0.02) > NO_ANSWER
    for reply in ("", " E", " A A", " A Assistant:", f" {value}"):
        assert annotator.reward(prompt, reply) == NO_ANSWER
    for reply in ("", " A", f" {value}", f" Sure ! {value} .", f" {value} . .", " Sure !"):
        assert annotator.reward(asked_openly, reply) == NO_ANSWER
    # A polite reply about others isn't one to this question.
    other = next(index for index, text in enumerate(asked.sentences()) if text != asked.sentences()[0])
    assert annotator.reward(asked_openly, f" Sure ! {asked.sentences()[other]} {value} .") == NO_ANSWER
    with pytest.raises(KeyError):
        annotator.reward("Question: What do you want ?\nAnswer:", " A")


def test_the_reward_model_has_the_shape_that_ppo_reads(asked, annotator, tokenizer):
    model = AnnotatorModel(annotator, tokenizer)
    prompts = prompts_of(asked)[:6]
    texts = [prompt + (" A" if index % 2 == 0 else " Sure !") for index, prompt in enumerate(prompts)]
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    states = getattr(model, model.base_model_prefix)(inputs["input_ids"], inputs["attention_mask"]).hidden_states[-1]
    scores = model.score(states)
    assert scores.shape == (*inputs["input_ids"].shape, 1)
    expected = [annotator.of_text(text) for text in texts]
    torch.testing.assert_close(scores[:, -1, 0], torch.tensor(expected))
    assert expected[1] == NO_ANSWER < expected[0]


@pytest.mark.skipif(has_ppo(), reason="the installed TRL has PPO")
def test_without_ppo_the_message_says_what_to_do(tmp_path, capsys):
    with pytest.raises(TrainerUnavailableError, match=r"hf-calib\[ppo\]"):
        run_reinforcement(tmp_path / "out", [3], preset="mini", methods=["grpo", "ppo"])
    assert not (tmp_path / "out").exists()
    command = ["--seeds", "3", "--preset", "mini", "--method", "ppo", "--out", tmp_path]
    assert main("reinforce", *command) == 1
    assert "hf-calib[ppo]" in capsys.readouterr().err


@pytest.mark.nightly
def test_a_run_is_not_run_again(monkeypatch, lab_cache, tmp_path):
    made = []

    def reinforced(name, bench, settings):
        made.append(name)
        return bench.pretrained()

    monkeypatch.setattr(running, "reinforced", reinforced)
    for _ in range(2):
        path = run_reinforcement(tmp_path, [0], preset="mini", cache_dir=lab_cache)
    assert made == list(REINFORCED[:2])
    rows = load_rows(path, REINFORCE_KEYS)
    assert [row["method"] for row in rows[:3]] == ["pretrained"] * 3
    assert path.name == FILES["file"]
    # The same model, so the same measures: replies are sampled from one seed.
    keys = ("ece", "reward", "reward_open", "win_rate")
    assert [[row[key] for key in keys] for row in rows[:3]] == [[row[key] for key in keys] for row in rows[3:6]]


@pytest.mark.nightly
@pytest.mark.parametrize(
    "algorithm", ["grpo", pytest.param("ppo", marks=pytest.mark.skipif(not has_ppo(), reason="no PPO"))]
)
def test_plain_reinforcement_makes_overconfident_and_its_sister_does_not(algorithm, lab_cache, tmp_path):
    methods = [algorithm, f"calibration-aware-{algorithm}"]
    path = run_reinforcement(tmp_path, [3], preset="mini", methods=methods, cache_dir=lab_cache)
    found = {(row["method"], row["domain"]): row for row in load_rows(path, REINFORCE_KEYS)}
    before, plain, aware = (found[name, "out"] for name in ("pretrained", *methods))
    assert plain["ece"] > before["ece"] + 0.05
    assert plain["confidence"] > before["confidence"] + 0.08
    assert aware["ece"] < plain["ece"] / 2
    assert plain["reward_open"] > before["reward_open"] + 0.3
    assert aware["reward_open"] > plain["reward_open"] - 0.3


def test_the_report_has_means_over_seeds_with_intervals(tmp_path):
    rows = [
        dict.fromkeys(REINFORCE_KEYS, 0.5)
        | {
            "seed": seed,
            "reported": True,
            "world": "fixed",
            "method": "grpo",
            "domain": domain,
            "ece": 0.1 + seed / 10,
        }
        for seed in (3, 4)
        for domain in ("in", "out", "unseen")
    ]
    write_json(tmp_path / FILES["file"], rows)
    report = running.reinforcement_report(tmp_path)
    assert report.startswith("Seeds 3, 4.")
    # .45 with the t interval of two values, 12.706 * .05.
    lines = [line.split() for line in report.splitlines() if line.startswith("grpo")]
    assert [line[:8] for line in lines] == [
        ["grpo", "2", "0.500", "[0.500,", "0.500]", "0.450", "[-0.185,", "1.085]"]
    ] * 3
