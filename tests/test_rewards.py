"""Rewards for stated confidence: what is read, what it is worth, and what is refused."""

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.confidence.parsing import EXPRESSIONS, read_stated_answer, whole_confidence
from hf_calib.rewards import (
    answer_reward,
    brier_reward,
    confidence_format_reward,
    confidence_prompts,
    get_answer_reward,
    get_brier_reward,
    get_confidence_format_reward,
    get_log_score_reward,
    log_score_reward,
)
from hf_calib.tasks import QuestionError
from hf_calib.tasks.free_form import FreeFormQuestion


def tagged(answer, confidence):
    return f"<answer>{answer}</answer>\n<confidence>{confidence}</confidence>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.8", 0.8), ("80", 0.8), ("80%", 0.8), (" 80 % .", 0.8), ("80 percent", 0.8), ("8/10", 0.8), (".8", 0.8),
        ("80 out of 100", 0.8), ("1", 1.0), ("1.0", 1.0), ("1%", 0.01), ("0", 0.0), ("100", 1.0), ("0.5%", 0.005),
        ("Very likely", 0.9), ("almost certain.", 0.95), ("120", None), ("120%", None), ("11/10", None),
        ("-0.5", None), ("0.8 or 0.9", None), ("about 80%", None), ("", None), ("nan", None), ("0,8", None),
    ],
)  # fmt: skip
def test_a_confidence_is_the_whole_text(text, expected):
    assert whole_confidence(text) == (None if expected is None else pytest.approx(expected))


@given(st.integers(0, 100))
def test_every_percentage_is_read_in_each_form(percent):
    for text in (f"{percent}%", f"{percent / 100:.2f}", f"{percent}/100", f"{percent} percent"):
        assert whole_confidence(text) == pytest.approx(percent / 100)


@given(st.text(max_size=60))
def test_any_text_gives_a_confidence_between_0_and_1_or_none(text):
    for whole in (text, f"<confidence>{text}</confidence>", f"Confidence: {text}"):
        confidence = read_stated_answer(whole).confidence
        assert confidence is None or 0 <= confidence <= 1
        assert brier_reward(completions=[whole], solution=["x"])[0] >= -1


@pytest.mark.parametrize(
    ("text", "answer", "confidence", "well_formed"),
    [
        (tagged("Paris", "80%"), "Paris", 0.8, True),
        ("so\n<ANSWER> Paris\nFrance </Answer> and <Confidence>likely</CONFIDENCE>\n", "Paris\nFrance", 0.7, True),
        ("[answer]Paris[/answer][confidence].8[/confidence]", "Paris", 0.8, True),
        ("I think\nAnswer: Paris\nConfidence: 80%", "Paris", 0.8, True),
        ("**Answer:** Paris\n**Confidence:** 80%", "Paris", 0.8, True),
        ("<think><answer>Rome</answer></think>" + tagged("Paris", 1), "Paris", 1.0, True),
        ("In <answer> tags and <confidence> tags: " + tagged("Paris", "80%"), "Paris", 0.8, True),
        ("In [answer] tags: [answer]Paris[/answer][confidence]1[/confidence]", "Paris", 1.0, True),
        ("<think>Perhaps " + tagged("Rome", "90%"), None, None, False),
        ("<think>a</think>" + tagged("Paris", "80%") + "<think>or", "Paris", 0.8, True),
        (tagged("Paris", "80%") + " done", "Paris", 0.8, False),
        ("<confidence>80%</confidence><answer>Paris</answer>", "Paris", 0.8, False),
        (tagged("", "80%"), None, 0.8, False),
        (tagged("Paris", "quite"), "Paris", None, False),
        (tagged("Paris", "80%") + tagged("Rome", "20%"), None, None, False),
        ("<answer>Paris</answer>", "Paris", None, False),
        ("<confidence>80%</confidence>", None, 0.8, False),
        ("Paris, 80%", None, None, False),
        ("", None, None, False),
    ],
)
def test_what_is_read_of_a_completion(text, answer, confidence, well_formed):
    found = read_stated_answer(text)
    assert (found.answer, found.confidence, found.well_formed) == (answer, confidence, well_formed)
    assert confidence_format_reward(completions=[text]) == [float(well_formed)]


def test_a_style_of_ones_own_reads_no_other():
    lines = "Answer: Paris\nConfidence: 80%"
    assert get_confidence_format_reward("lines")(completions=[lines, tagged("Paris", 1)]) == [1.0, 0.0]
    assert get_brier_reward(style="tags")(completions=[lines], solution=["Paris"]) == [-1.0]
    with pytest.raises(ValueError, match="style: 'xml' is not one of auto, tags, brackets, lines"):
        get_brier_reward(style="xml")


def test_the_brier_reward_with_correctness_is_rlcrs():
    completions = [tagged("Paris", q) for q in (0, 0.5, 1)] * 2
    solution = ["Paris"] * 3 + ["Rome"] * 3
    right = answer_reward(completions=completions, solution=solution)
    assert right == [1, 1, 1, 0, 0, 0]
    assert brier_reward(completions=completions, solution=solution) == [-1, -0.25, 0, 0, -0.25, -1]


def test_the_log_score_is_clipped():
    completions = [tagged("Paris", q) for q in (0, 0.25, 1)] * 2 + ["Paris"]
    solution = ["Paris"] * 3 + ["Rome"] * 4
    expected = [0.01, 0.25, 0.99, 0.99, 0.75, 0.01, 0.01]
    assert log_score_reward(completions=completions, solution=solution) == pytest.approx(list(map(math.log, expected)))
    assert get_log_score_reward(clip=0.1)(completions=["x"], solution=["y"]) == [math.log(0.1)]
    with pytest.raises(ValueError, match=r"clip: must lie between 0 and 0\.5, got 0"):
        get_log_score_reward(clip=0.0)


@pytest.mark.parametrize("reward", [brier_reward, log_score_reward])
@given(truth=st.floats(0.02, 0.98), other=st.floats(0, 1))
def test_the_truth_is_the_best_thing_to_say(reward, truth, other):
    def expected(q):
        right, wrong = reward(completions=[tagged("a", q)] * 2, solution=["a", "b"])
        return truth * right + (1 - truth) * wrong

    assert expected(f"{truth:.6f}") >= expected(f"{other:.6f}") - 1e-4
    missing = [reward(completions=["<answer>a</answer>"], solution=[own])[0] for own in "ab"]
    assert max(missing) <= expected(f"{other:.6f}") + 1e-9 or other > 0.98 or other < 0.02
    assert missing[0] == missing[1] == min(missing)


def test_conversations_parts_and_several_right_answers():
    spoken = [[{"role": "assistant", "content": tagged("4", "80%")}]]
    parts = [[{"role": "assistant", "content": [{"type": "text", "text": tagged("4", "80%")}]}]]
    for completions in (spoken, parts):
        assert brier_reward(completions=completions, answers=[[4, "four"]]) == pytest.approx([-0.04])
        assert brier_reward(completions, ["5"]) == pytest.approx([-0.64])
    assert brier_reward(completions=[[{"role": "assistant", "content": None}]], solution=["4"]) == [-1.0]
    broken = [{"role": "assistant", "content": 5}]
    for wrong in (5, None, [], broken):
        with pytest.raises(TypeError, match="brier_reward: completion 1, counted from 0: expected a text or a list"):
            brier_reward(completions=["x", wrong], solution=["4", "4"])
    image = [{"role": "assistant", "content": [{"type": "image", "text": None}]}]
    assert brier_reward(completions=[image], solution=["4"]) == [-1.0]


def test_unknown_right_answers_are_left_out():
    for unknown in (None, "", [], float("nan"), [None], ["", " "], [float("nan")]):
        for said in ("4", "None", "nan"):
            assert brier_reward(completions=[tagged(said, 1)], solution=[unknown]) == [None]
            assert answer_reward(completions=[tagged(said, 1)], solution=[unknown]) == [None]


@pytest.mark.parametrize("value", [4, 4.0, "4", [4], [4.0, None], np.array(["3", "4"]), np.int64(4), torch.tensor(4)])
def test_right_answers_may_be_numbers_and_arrays(value):
    assert answer_reward(completions=[tagged("4", 1), tagged("5", 1)], solution=[value] * 2) == [1.0, 0.0]


@pytest.mark.parametrize("value", [{"value": "4", "aliases": ["4"]}, [["4"]], {"4"}])
def test_right_answers_of_another_kind_are_refused(value):
    with pytest.raises(
        ValueError, match="answer_reward: completion 1, counted from 0, column 'answers': the right answer is a "
    ):
        answer_reward(completions=[tagged("4", 1)] * 2, answers=["4", value])


def test_matchers_and_columns():
    completions = [tagged("It is Paris", 1)]
    assert answer_reward(completions=completions, solution=["Paris"]) == [0.0]
    assert get_answer_reward("contains")(completions=completions, solution=["Paris"]) == [1.0]
    assert get_answer_reward(lambda one, other: True, column="gold")(completions=completions, gold=["x"]) == [1.0]
    with pytest.raises(ValueError, match=r"brier_reward: the dataset has no column 'solution' .*its columns: 'gold'"):
        brier_reward(completions=completions, prompts=["x"], gold=["x"], trainer_state=None)
    with pytest.raises(ValueError, match="no column 'gold'"):
        get_brier_reward(column="gold")(completions=completions, solution=["Paris"])
    with pytest.raises(ValueError, match="1 completions, but the column 'solution' has 2 rows"):
        brier_reward(completions=completions, solution=["a", "b"])
    with pytest.raises(ValueError, match=r"answer_reward: completion 0, .*raised ZeroDivisionError"):
        get_answer_reward(lambda one, other: 1 / 0)(completions=completions, solution=["a"])
    with pytest.raises(ValueError, match="is not a way to match answers"):
        get_brier_reward("exakt")
    for wrong in (None, 5):
        with pytest.raises(ValueError, match=f"matcher: {wrong} is not a way to match answers"):
            get_brier_reward(wrong)


def test_any_correctness_reward_may_grade():
    seen = {}

    def correctness(completions, prompts, level, **kwargs):
        seen.update(prompts=prompts, level=level)
        return [None, 1, 0.5]

    reward = get_brier_reward(correctness_reward=correctness)
    completions = [tagged("a", 0.5)] * 3
    assert reward(completions=completions, prompts=["p"] * 3, level=[1, 2, 3]) == [None, -0.25, 0]
    assert seen == {"prompts": ["p"] * 3, "level": [1, 2, 3]}
    with pytest.raises(ValueError, match="returned 2 for completion 0"):
        get_brier_reward(correctness_reward=lambda **kwargs: [2])(completions=["x"])
    with pytest.raises(ValueError, match="returned 2 values for 1 completions"):
        get_brier_reward(correctness_reward=lambda **kwargs: [1, 1])(completions=["x"])
    with pytest.raises(ValueError, match="returned 'yes' for completion 0"):
        get_brier_reward(correctness_reward=lambda **kwargs: ["yes"])(completions=["x"])
    with pytest.raises(ValueError, match="returned None for 1 completions"):
        get_brier_reward(correctness_reward=lambda **kwargs: None)(completions=["x"])
    with pytest.raises(
        ValueError, match=r"brier_reward: correctness cannot be called with .*, 'solution': missing .*'level'; add"
    ):
        reward(completions=["x"], prompts=["p"], solution=["x"])

    async def later(completions, **kwargs):
        return [1.0]

    for wrong in (later, "accuracy_reward"):
        with pytest.raises(TypeError, match="correctness_reward: expected a function that returns a list of rewards"):
            get_brier_reward(correctness_reward=wrong)
    with pytest.raises(ValueError, match="column: 'gold' has no effect with a correctness_reward"):
        get_log_score_reward(correctness_reward=answer_reward, column="gold")


def test_missing_confidence_is_logged_and_rewards_can_be_pickled():
    logged = {}
    reward = pickle.loads(pickle.dumps(brier_reward))
    reward(completions=["x", tagged("a", 1)], solution=["a", "a"], log_metric=logged.__setitem__)
    assert logged == {"confidence/missing": 0.5}
    assert reward.__name__ == "brier_reward"


@pytest.mark.parametrize("style", ["tags", "brackets", "lines"])
def test_prompts_show_the_form_that_is_read(style, tmp_path):
    asked = [FreeFormQuestion("Capital of France?", ("Paris", "paris"), context="A land.")]
    row = confidence_prompts(asked, style=style)[0]
    assert row["answers"] == ["Paris", "paris"]
    (message,) = row["prompt"]
    assert message["content"].startswith("A land.\nQuestion: Capital of France?\n")
    assert get_confidence_format_reward(style)(completions=[message["content"].partition("this form:\n")[2]]) == [1.0]
    assert confidence_prompts(asked, chat=False, style=style)[0]["prompt"] == message["content"] + "\n"
    with pytest.raises(ValueError, match="style: 'auto' is not one of tags, brackets, lines"):
        confidence_prompts(asked, style="auto")
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "a?", "answers": ["b"]}\n')
    assert confidence_prompts(path)[0]["answers"] == ["b"]
    with pytest.raises(TypeError, match="questions: row 0 is a dict; give FreeFormQuestion objects"):
        confidence_prompts([{"question": "a?", "answers": ["b"]}])
    with pytest.raises(QuestionError, match="questions: there is none"):
        confidence_prompts([])
    with pytest.warns(UserWarning, match="1 of 2 questions have no right answer; their completions get no reward"):
        assert len(confidence_prompts([*asked, FreeFormQuestion("Open?")])) == 2


def test_words_are_those_of_the_package():
    for words, value in EXPRESSIONS.items():
        assert whole_confidence(words.upper()) == value
