import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.tasks import LETTERS, Question, QuestionError, handle_identical_choices, require_answers


def test_a_question_is_as_it_was_given():
    question = Question("Which?", ("yes", "no"), 1, "law")
    assert (question.question, question.choices, question.answer, question.subject) == (
        "Which?",
        ("yes", "no"),
        1,
        "law",
    )
    assert question.letters == "AB"


def test_choices_become_a_tuple_and_numpy_answers_integers():
    question = Question("Which?", ["yes", "no"], np.int64(1))
    assert question.choices == ("yes", "no")
    assert type(question.answer) is int
    assert hash(question) == hash(Question("Which?", ("yes", "no"), 1))


@given(st.integers(2, 26))
def test_two_to_twenty_six_choices_are_lettered(n_choices):
    question = Question("Which?", tuple(map(str, range(n_choices))), n_choices - 1)
    assert question.letters == LETTERS[:n_choices]
    assert pickle.loads(pickle.dumps(question)) == question


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", ("a", "b")), r"the question is ''; it must be a text that is not empty"),
        ((" \n", ("a", "b")), r"the question is ' \\n'"),
        ((None, ("a", "b")), r"the question is None"),
        ((5, ("a", "b")), r"the question is 5"),
        (("Q", ()), r"0 choices given; a multiple-choice question has at least two"),
        (("Q", ("a",)), r"1 choice given"),
        (("Q", tuple(map(str, range(27)))), r"27 choices given; .* A to Z, so at most 26"),
        (("Q", ("a", " ")), r"choice B is ' '; every choice must be a text that is not empty"),
        (("Q", ("a", "b", None)), r"choice C is None"),
        (("Q", (1, "b")), r"choice A is 1"),
        (("Q", "yes"), r"the choices are 'yes'; they must be a sequence of texts"),
        (("Q", None), r"the choices are None"),
        (("Q", ("a", "b"), 2), r"the answer 2 is outside the 2 choices \(0 to 1, counted from 0\)"),
        (("Q", ("a", "b"), -1), r"the answer -1 is outside"),
        (("Q", ("a", "b"), 10**400), r"is outside the 2 choices"),
        (("Q", ("a", "b"), "A"), r"the answer is 'A'; it must be the right choice's index, or None"),
        (("Q", ("a", "b"), True), r"the answer is True"),
        (("Q", ("a", "b"), 1.0), r"the answer is 1.0"),
        (("Q", ("a", "b"), 0, 7), r"the subject is 7; it must be a text, or None"),
        (
            ("Q\ud800", ("a", "b")),
            r"the question: '\\ud800' at position 1 is half of a character .* use valid Unicode",
        ),
        (("Q", ("a", "b\udc00")), r"choice B: '\\udc00' at position 1 is half of a character"),
        (("Q", ("a", "b"), 0, "\ud800"), r"the subject: '\\ud800' at position 0 is half"),
        (("Q", ("a", "b"), 0, None, "\ud800"), r"the context: '\\ud800' at position 0 is half"),
    ],
)
def test_what_is_not_a_question_is_refused(arguments, message):
    with pytest.raises(QuestionError, match=message):
        Question(*arguments)


def test_require_answers_names_the_rows_without_one():
    questions = [Question("Q", ("a", "b"), 0 if row % 2 else None) for row in range(30)]
    with pytest.raises(QuestionError, match=r"the E-step needs .* 15 of 30 have none \(rows 0, 2, .*, 18 and 5 more,"):
        require_answers(questions, "the E-step")
    require_answers(questions[1::2], "the E-step")


@pytest.fixture
def some_identical():
    different, same, same_as_shown = ("a", "b"), ("a", "a"), ("a", "a ")
    return [Question("Q", choices, 0) for choices in (different, same, different, same_as_shown)]


def test_identical_choices_are_kept_with_a_warning_that_names_the_rows(some_identical):
    with pytest.warns(UserWarning, match=r"2 of 4 questions have two identical choices \(rows 1, 3, .*they are kept"):
        kept, rows = handle_identical_choices(some_identical)
    assert kept == some_identical
    assert rows == [1, 3]


def test_identical_choices_are_skipped_and_counted(some_identical):
    with pytest.warns(UserWarning, match=r"2 of 4 .* left out"):
        kept, rows = handle_identical_choices(some_identical, "skip")
    assert kept == [some_identical[0], some_identical[2]]
    assert rows == [1, 3]


def test_identical_choices_are_an_error_when_asked_for(some_identical):
    with pytest.raises(QuestionError, match=r"2 of 4 .*rows 1, 3.*skip them or correct the data"):
        handle_identical_choices(some_identical, "error")


def test_skipping_everything_is_an_error(some_identical):
    with pytest.raises(QuestionError, match="skipping them leaves no question"):
        handle_identical_choices(some_identical[1:2], "skip")


def test_different_choices_bring_no_warning(recwarn):
    questions = [Question("Q", ("a", "A"), 0)]
    assert handle_identical_choices(questions, "error") == (questions, [])
    assert not recwarn.list


def test_an_unknown_action_is_refused(some_identical):
    with pytest.raises(ValueError, match="'warn', 'skip' or 'error', got 'drop'"):
        handle_identical_choices(some_identical, "drop")


def test_reading_questions_does_not_import_torch():
    code = "import sys, hf_calib.tasks; assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
