import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.tasks import (
    FewShotFormat,
    PromptFormat,
    Question,
    QuestionError,
    cyclic_orders,
    permute_options,
    random_orders,
)
from tests.support import questions

POOL = [
    Question("1 + 1?", ("1", "2"), 1, "sums"),
    Question("Sky?", ("blue", "red"), 0, "colours"),
    Question("2 + 2?", ("4", "5"), 0, "sums"),
    Question("Grass?", ("pink", "green"), 1, "colours"),
]
ASKED = Question("3 + 3?", ("5", "6"), 1, "sums")


def test_examples_of_the_questions_subject_stand_before_it():
    shots = FewShotFormat.choose(POOL, 2, prompt_format=PromptFormat(header="About {subject}."))
    assert shots.render(ASKED) == (
        "About sums.\n\nQuestion: 1 + 1?\nA. 1\nB. 2\nAnswer: B\n\nQuestion: 2 + 2?\nA. 4\nB. 5\nAnswer: A\n\n"
        "Question: 3 + 3?\nA. 5\nB. 6\nAnswer:"
    )
    assert FewShotFormat.choose(POOL, 1).render(ASKED, options=False) == (
        "Question: 1 + 1?\nAnswer: 2\n\nQuestion: 3 + 3?\nAnswer:"
    )


def test_a_chats_examples_are_turns():
    shots = FewShotFormat.choose(POOL[:1], 1, prompt_format=PromptFormat(chat=True, system="Hi"))
    roles = [(message["role"], message["content"].splitlines()[-1]) for message in shots.messages(ASKED)]
    cue = PromptFormat().chat_cue
    assert roles == [("system", "Hi"), ("user", cue), ("assistant", "B"), ("user", cue)]


def test_examples_may_be_drawn():
    pool = [Question(f"q{i}?", ("a", "b"), 0) for i in range(20)]
    drawn = {seed: FewShotFormat.choose(pool, 3, seed=seed).examples for seed in (0, 1)}
    assert drawn[0] != drawn[1]
    assert drawn[0] == FewShotFormat.choose(pool, 3, seed=0).examples
    assert FewShotFormat.choose(pool, 3).examples == tuple(pool[:3])


def test_what_cannot_be_shown():
    with pytest.raises(QuestionError, match=r"3 examples were asked for, and there are 2 of the subject 'sums'"):
        FewShotFormat.choose(POOL, 3)
    with pytest.raises(QuestionError, match="none is the question's, 'art'"):
        FewShotFormat.choose(POOL, 1).render(Question("a?", ("b", "c"), 0, "art"))
    with pytest.raises(QuestionError, match="needs the right answer"):
        FewShotFormat.choose([Question("a?", ("b", "c"))], 1)
    with pytest.raises(QuestionError, match="at least one example"):
        FewShotFormat()
    with pytest.raises(ValueError, match="at least one example, got 0"):
        FewShotFormat.choose(POOL, 0)


@given(st.integers(2, 8).flatmap(lambda n: st.tuples(st.just(n), st.permutations(range(n)), st.integers(0, n - 1))))
def test_a_permuted_question_keeps_its_answer(drawn):
    n, order, answer = drawn
    question = Question("q?", tuple(f"choice {i}" for i in range(n)), answer)
    permuted = permute_options(question, order)
    assert permuted.choices[permuted.answer] == question.choices[answer]
    assert [permuted.choices.index(choice) for choice in question.choices] == [order.index(i) for i in range(n)]


def test_orders():
    with pytest.raises(ValueError, match=r"\[0, 0\] is not one of the 2 options"):
        permute_options(ASKED, [0, 0])
    places = [[order.tolist().index(option) for option in range(4)] for order in cyclic_orders(4, 4)]
    assert all(sorted(column) == [0, 1, 2, 3] for column in zip(*places, strict=True))
    assert [order.tolist() for order in cyclic_orders(4, 2)] == [[0, 1, 2, 3], [2, 3, 0, 1]]
    with pytest.raises(ValueError, match="1 to 4 rotations, 5 were"):
        cyclic_orders(4, 5)
    asked = questions(30, choices=(4, 2))
    first = random_orders(asked, 0)
    assert [o.tolist() for o in random_orders(asked[:10], 0)] == [o.tolist() for o in first[:10]]
    assert [o.tolist() for o in random_orders(asked, 1)] != [o.tolist() for o in first]


@pytest.mark.parametrize("cls", [PromptFormat, FewShotFormat])
def test_a_format_with_examples_is_read_back(cls):
    shots = FewShotFormat.choose(
        [*POOL, Question("Who?", ("I", "you"), 1, "sums", "A text.")], 2, prompt_format=PromptFormat(chat=True)
    )
    for data in (shots.to_dict(), json.loads(json.dumps(shots.to_dict()))):
        assert cls.from_dict(data) == shots
    assert PromptFormat.from_dict(PromptFormat(cue="A:").to_dict()) == PromptFormat(cue="A:")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ("q", "'examples' are 'q', not a list"),
        ([1], "example 0, counted from 0, is 1; it must have the keys question, choices and answer"),
        ([{"question": "q?"}], "example 0, .* must have the keys"),
        ([{"question": "q?", "choices": ["a", "b"], "answer": 0, "weight": 1}], "may have subject and context"),
        ([POOL[0]], "example 0, counted from 0, is Question"),
        ([{"question": "q?", "choices": ["a"], "answer": 0}], "example 0, counted from 0: 1 choice given"),
        ([{"question": "q?", "choices": ["a", "b"]}], "needs the right answer"),
        ([], "at least one example"),
    ],
)
def test_examples_that_are_none(examples, message):
    with pytest.raises(ValueError, match=message):
        PromptFormat.from_dict({"examples": examples})


def test_examples_are_not_chosen_twice():
    with pytest.raises(ValueError, match="has 1 examples already"):
        FewShotFormat.choose(POOL, 1, prompt_format=FewShotFormat(examples=(POOL[0],)))


def test_examples_of_another_subject_keep_their_own_header():
    shots = FewShotFormat(header="About {subject}.", examples=tuple(POOL[::2]))
    asked = Question("Grass?", ("pink", "green"), 1, "colours")
    parts = shots.render(asked).split("\n\n")
    assert [part.splitlines()[0] for part in parts] == [
        "About sums.", "Question: 1 + 1?", "Question: 2 + 2?", "About colours.", "Question: Grass?",
    ]  # fmt: skip
    assert parts[-1].endswith("Answer:")
    chat = FewShotFormat(header="About {subject}.", examples=tuple(POOL[::2]), chat=True)
    assert [message["content"].splitlines()[0] for message in chat.messages(asked)] == [
        "About sums.", "B", "About sums.", "A", "About colours.",
    ]  # fmt: skip


@pytest.mark.parametrize("chat", [False, True])
def test_examples_without_a_subject_are_of_the_questions(chat):
    examples = (Question("1 + 1?", ("1", "2"), 1),)
    shots = FewShotFormat(header="About {subject}.", examples=examples, chat=chat)
    text = "\n".join(message["content"] for message in shots.messages(ASKED)) if chat else shots.render(ASKED)
    assert "general knowledge" not in text
    assert text.count("About sums.") == (2 if chat else 1)


def test_a_question_that_is_its_own_example_is_still_asked():
    shots = FewShotFormat(examples=(ASKED,))
    assert shots.render(ASKED).endswith("Answer:")
    assert shots.render(ASKED).count("Answer: B") == 1
