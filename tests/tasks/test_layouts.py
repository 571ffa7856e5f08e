"""The layouts of the datasets on the Hub, and the ways in which rows of them go wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.tasks import LETTERS, Question, QuestionError, as_questions, is_question_layout, parse_columns
from hf_calib.tasks.columns import suggestion

MMLU = {"question": "Which?", "subject": "anatomy", "choices": ["w", "x", "y", "z"], "answer": 2}
OPENBOOKQA = {
    "id": "7-980",
    "question_stem": "Which?",
    "choices": {"text": ["w", "x", "y", "z"], "label": ["A", "B", "C", "D"]},
    "answerKey": "C",
}
ARC = {
    "id": "NYSEDREGENTS_1",
    "question": "Which?",
    "choices": {"text": ["w", "x", "y", "z"], "label": ["1", "2", "3", "4"]},
    "answerKey": "3",
}
MEDMCQA = {
    "id": "e9ad",
    "question": "Which?",
    "opa": "w",
    "opb": "x",
    "opc": "y",
    "opd": "z",
    "cop": 2,
    "choice_type": "single",
    "exp": None,
    "subject_name": "anatomy",
    "topic_name": None,
}
COMMONSENSE_QA = {
    "id": "1afa",
    "question": "Which?",
    "question_concept": "revolving door",
    "choices": {"label": ["A", "B", "C", "D", "E"], "text": ["w", "x", "y", "z", "v"]},
    "answerKey": "C",
}


def read(row: dict, **options) -> Question:
    (question,) = as_questions([row], **options)
    return question


@pytest.mark.parametrize("row", [MMLU, MEDMCQA], ids=["mmlu", "medmcqa"])
def test_layouts_with_a_subject(row):
    assert read(row) == Question("Which?", ("w", "x", "y", "z"), 2, "anatomy")


@pytest.mark.parametrize("row", [OPENBOOKQA, ARC], ids=["openbookqa", "arc"])
def test_layouts_without_a_subject(row):
    assert read(row) == Question("Which?", ("w", "x", "y", "z"), 2)


def test_commonsense_qa_has_five_options_and_its_concepts_are_not_subjects():
    assert read(COMMONSENSE_QA) == Question("Which?", ("w", "x", "y", "z", "v"), 2)
    assert read({**COMMONSENSE_QA, "answerKey": ""}).answer is None


def test_labels_are_read_whatever_they_are():
    for labels, key in (
        (["A", "B", "C", "D"], "D"),
        (["1", "2", "3", "4"], "4"),
        ([1, 2, 3, 4], 4),
        (list("PQRS"), "S"),
    ):
        row = {**ARC, "choices": {"text": ["w", "x", "y", "z"], "label": labels}, "answerKey": key}
        assert read(row).answer == 3


def test_labelled_choices_as_a_list_of_mappings():
    choices = [{"label": "A", "text": "w"}, {"label": "B", "text": "x"}]
    assert read({"question": "Which?", "choices": choices, "answerKey": "B"}) == Question("Which?", ("w", "x"), 1)


def test_labelled_choices_without_a_column_of_answers():
    assert read({"question": "Which?", "choices": ARC["choices"]}) == Question("Which?", ("w", "x", "y", "z"))
    assert read({"question_stem": "Which?", "choices": ARC["choices"]}).answer is None


def test_plain_choices_with_an_answer_key():
    assert read({"question": "Which?", "choices": ["w", "x"], "answerKey": "B"}).answer == 1


def test_an_option_a_column_with_padding_on_the_right():
    row = {"question": "Which?", "A": "w", "B": "x", "C": "", "D": None, "answer": "B"}
    assert read(row) == Question("Which?", ("w", "x"), 1)


def test_a_gap_among_the_options_columns():
    with pytest.raises(QuestionError, match=r"row 0: columns 'A', 'B', 'D': the options' columns must be A, B, C"):
        read({"question": "Which?", "A": "w", "B": "x", "D": "z"})


def test_layouts_may_differ_from_row_to_row():
    rows = [MMLU, ARC, {key: ARC[key] for key in ("question", "choices")}, MEDMCQA, OPENBOOKQA, MMLU]
    assert [question.answer for question in as_questions(rows)] == [2, 2, None, 2, 2, 2]


@pytest.mark.parametrize(
    "columns",
    [MMLU, OPENBOOKQA, ARC, MEDMCQA, COMMONSENSE_QA, ["question", "A", "B"]],
    ids=lambda columns: len(columns),
)
def test_question_layouts_are_recognised(columns):
    assert is_question_layout(columns)


@pytest.mark.parametrize("columns", [["prompt", "chosen", "rejected"], ["text"], ["question", "A"], []])
def test_other_data_is_not_taken_for_questions(columns):
    assert not is_question_layout(columns)


# Answers


@pytest.mark.parametrize(
    "answer",
    [
        [2],
        ["C"],
        "(C)",
        "(c)",
        "[C]",
        "C)",
        "C.",
        "( C )",
        2,
        "2",
        "C",
        "c",
        " C ",
        2.0,
        "2.0",
        "+2",
        np.int64(2),
        np.int8(2),
        np.float32(2.0),
        np.array(2),
    ],
    ids=lambda answer: f"{type(answer).__name__} {answer}",
)
def test_the_answer_as_an_index_or_a_letter(answer):
    assert read({**MMLU, "answer": answer}).answer == 2


@pytest.mark.parametrize("answer", [None, "", "  ", -1, "-1", -1.0, float("nan"), np.float32("nan")])
@pytest.mark.parametrize("base", [0, 1])
def test_answers_that_are_not_known(answer, base):
    assert read({**MMLU, "answer": answer}, answer_base=base).answer is None
    assert read({**ARC, "answerKey": answer}, answer_base=base).answer is None


def test_a_withheld_answer_of_medmcqa():
    assert read({**MEDMCQA, "cop": -1}).answer is None


def test_questions_without_a_column_of_answers():
    assert read({"question": "Which?", "choices": ["w", "x"]}) == Question("Which?", ("w", "x"))


@given(st.integers(2, 26).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_all_ways_to_give_an_answer_mean_the_same(case):
    n_choices, answer = case
    choices = [f"choice {i}" for i in range(n_choices)]

    def answer_of(value, base=0):
        return read({"question": "Q", "choices": choices, "answer": value}, answer_base=base).answer

    assert answer_of(answer) == answer_of(LETTERS[answer]) == answer_of(str(answer)) == answer
    assert answer_of(answer + 1, base=1) == answer_of(f"{answer + 1}.0", base=1) == answer
    assert answer_of(LETTERS[answer], base=1) == answer
    labelled = {"text": choices, "label": [str(i + 1) for i in range(n_choices)]}
    assert read({"question": "Q", "choices": labelled, "answerKey": str(answer + 1)}).answer == answer


@pytest.mark.parametrize(
    ("answer", "base", "message"),
    [
        (4, 0, r"the answer 4 is outside the 4 choices, which are counted 0 to 3; if .* from 1, pass --answer-base 1"),
        (5, 0, r"the answer 5 is outside the 4 choices, which are counted 0 to 3; correct the data, or leave out"),
        (0, 1, r"the answer 0 is outside the 4 choices, which are counted 1 to 4; if .* from 0, pass --answer-base 0"),
        (5, 1, r"the answer 5 is outside the 4 choices, which are counted 1 to 4; correct the data"),
        (-2, 0, r"the answer -2 is outside"),
        (10**30, 0, r"the answer 1000000000000000000000000000000 is outside"),
        ("E", 0, r"the answer 'E' is outside the 4 choices, which are A to D"),
        ("9" * 5000, 0, r"the answer '999999.*\.\.\. is neither a letter \(A to D\), nor an index"),
        ("x", 0, r"the answer 'x' is outside the 4 choices"),
        ("Bern", 0, r"the answer 'Bern' is neither a letter \(A to D\), nor an index, nor the text"),
        ("²", 0, r"the answer '²' is neither"),
        ("--1", 0, r"the answer '--1' is neither"),
        ("1.5", 0, r"the answer '1.5' is neither"),
        (1.5, 0, r"the answer is 1.5; expected an index, a letter, or nothing"),
        (float("inf"), 0, r"the answer is inf"),
        (True, 0, r"the answer is True"),
        (np.True_, 0, r"the answer is True"),
        ([1, 2], 0, r"found 2 answers, \[1, 2\]; a question has one right choice"),
    ],
)
def test_answers_that_cannot_be_one(answer, base, message):
    with pytest.raises(QuestionError, match=r"^row 0: column 'answer': " + message):
        read({**MMLU, "answer": answer}, answer_base=base)


def test_an_answer_that_is_the_text_of_two_options():
    with pytest.raises(QuestionError, match=r"the answer 'w' is the text of 2 choices; give the letter of one"):
        read({"question": "Q", "choices": ["w", "w", "y", "z"], "answer": "w"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ARC, "answerKey": "E"}, r"column 'answerKey': the answer 'E' is the label of none of the choices"),
        ({**ARC, "answerKey": "0"}, r"column 'answerKey': the answer '0' is the label of none"),
        (
            {**ARC, "choices": {"text": ["w", "x"], "label": ["A", "A"]}, "answerKey": "A"},
            r"column 'answerKey': the answer 'A' is the label of several of the choices, whose labels are \['A', ",
        ),
        ({**ARC, "choices": {"text": ["w", "x"], "label": ["A"]}}, r"column 'choices': 2 texts have 1 labels"),
        ({**ARC, "choices": {"text": ["w"]}}, r"column 'choices': found a mapping with 'text'; expected 'text' and"),
        ({**MEDMCQA, "cop": 5}, r"column 'cop': the answer 5 is outside"),
        ({**MEDMCQA, "opb": None}, r"columns 'opa', 'opb', 'opc', 'opd': choice B is None"),
        ({**MMLU, "question": ""}, r"column 'question': the question is ''"),
        ({**OPENBOOKQA, "question_stem": None}, r"column 'question_stem': the question is None"),
        ({**MMLU, "choices": ["w", ""]}, r"column 'choices': choice B is ''"),
        ({**MMLU, "choices": ["w", float("nan")]}, r"column 'choices': choice B is nan"),
        ({**MMLU, "choices": ["w", ["x"]]}, r"column 'choices': choice B is \['x'\]"),
        ({**MMLU, "choices": []}, r"column 'choices': 0 choices given"),
        ({**MMLU, "choices": ["w"]}, r"column 'choices': 1 choice given"),
        ({**MMLU, "choices": list(map(str, range(27)))}, r"column 'choices': 27 choices given"),
        ({**MMLU, "choices": None}, r"column 'choices': found None; expected a list of texts"),
        ({**MMLU, "choices": 5}, r"column 'choices': found 5; expected a list"),
        ({**MMLU, "choices": "yes, no"}, r"column 'choices': 'yes, no' is a text; write the choices as a JSON list"),
        ({**MMLU, "choices": "3"}, r"column 'choices': found 3; expected a list"),
        ({**MMLU, "choices": str(np.array(["w", "x"]))}, "column 'choices': .* lacks a comma between two strings"),
        ({**MMLU, "choices": "['w' 'x',\n 'y']"}, "column 'choices': .* lacks a comma between two strings"),
        ({**MMLU, "choices": "[" * 100_000}, r"column 'choices': '\[\[\["),
        ({"question": "Q", "A": "w", "B": "x", "C": "", "answer": "C"}, r"column 'answer': the answer 'C' is outside"),
        ({"question": "Q", "A": "", "B": ""}, r"columns 'A', 'B': 0 choices given"),
    ],
)
def test_the_row_and_the_column_are_named(row, message):
    with pytest.raises(QuestionError, match=r"^row 1: " + message):
        as_questions([MMLU, row])


def test_numbers_among_the_choices_become_text():
    assert read({**MMLU, "choices": [1990, 2.5, "never", True]}).choices == ("1990", "2.5", "never", "True")


def test_choices_as_json():
    assert read({**MMLU, "choices": '["w", "x", "y"]'}).choices == ("w", "x", "y")


def test_choices_as_an_array():
    assert read({**MMLU, "choices": np.array(["w", "x", "y"])}).choices == ("w", "x", "y")


@pytest.mark.parametrize("subject", [None, "", float("nan")])
def test_a_subject_that_is_missing(subject):
    assert read({**MMLU, "subject": subject}).subject is None


def test_a_subject_that_is_a_number():
    assert read({**MMLU, "subject": 7}).subject == "7"


# Columns


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            ["Question", "choices"],
            r"fits the columns 'Question', 'choices'; pass --columns question=Question,choices=",
        ),
        (
            ["id", "question", "answers"],
            r"'answers'; pass --free-form exact if the questions have no options, or --columns question=question,"
            r"choices=answers if 'answers' holds the options\.",
        ),
        (["question", "answer", "context", "subject"], r"pass --free-form exact if the questions have no options\."),
        (["question", "choice", "answer"], r"pass --columns question=question,choices=choice,answer=answer\."),
        (["stem", "opt1", "opt2", "gold"], r"pass --columns question=stem,choices=opt1\+opt2,answer=gold\."),
        (["Query", "Candidates", "label", "Story"], r"question=Query,choices=Candidates,answer=label,context=Story\."),
        (["prompt", "chosen", "rejected"], r"'rejected'; name them with --columns question=...,choices=...,answer="),
        (["question", "answer", "wrong1", "wrong2"], r"--columns question=.*choices=right\+wrong,answer=right\)"),
        (["question", "answer", "distractors"], r"--columns question=.*choices=right\+wrong,answer=right\)"),
        ([], r"fits the columns \(there are none\)"),
        ([" question", "choices"], r"""pass --columns '\{"question": " question", "choices": "choices"\}'"""),
        (
            ["My question", "a", "b", "Right answer"],
            r"--columns 'question=My question,choices=a\+b,answer=Right answer'",
        ),
        (["id", "state", "questions", "gold"], r"'gold'; these look like .* measure --task typed-decisions reads\."),
        (["What is 2 + 2?", "3", "4", "B"], r"look like a row, so the header line is missing; add one"),
    ],
)
def test_columns_that_fit_no_layout(columns, message):
    with pytest.raises(QuestionError, match=message):
        read(dict.fromkeys(columns, "x"))


NAMES = ["question", "Question", "stem", "prompt", "text", "answer", "label", "gold_label", "key", "correct_answer",
         "options", "choice", "answers", "A", "B", "C", "option_a", "option_b", "answer1", "answer2", "correct1",
         "correct2", "passage", "context", "id", "ending0", "ending1"]  # fmt: skip


@given(st.lists(st.sampled_from(NAMES), unique=True, max_size=12))
def test_a_suggestion_names_no_column_twice(columns):
    text = suggestion(columns)
    if text is None:
        return
    found = parse_columns(text.removeprefix("--columns "))
    names = [name for value in found.values() for name in ([value] if isinstance(value, str) else value)]
    assert len(set(names)) == len(names)
    assert set(names) <= set(columns)


@pytest.mark.parametrize(
    "name",
    [
        "answers", "Answer", "anwser", "answer ", "answer_key", "label", "answer_idx", "labels", "key", "solution",
        "correct_answer", "gold_label", "gold_index", "ground_truth", "correct_index", "rightOption", "target",
    ],
)  # fmt: skip
def test_a_column_that_looks_like_answers_is_not_taken_for_their_absence(name):
    row = {"question": "Which?", "choices": ["w", "x"], name: 0}
    with pytest.raises(
        QuestionError, match=rf"row 0: column '{name}' looks like the answers, but is not read; pass --c"
    ):
        read(row)
    assert read(row, columns={"answer": name}).answer == 0
    assert read(row, columns={"answer": None}).answer is None
    # Withheld answers are none.
    assert read({**row, name: -1}).answer is None


def test_a_column_with_letters_or_texts_of_options_looks_like_answers():
    for values in (["A", "B"], ["w", "y"]):
        rows = [
            {"question": "Q", "choices": ["w", "x"], "outcome": values[0]},
            {"question": "Q", "choices": ["y", "z"], "outcome": values[1]},
        ]
        with pytest.raises(QuestionError, match="column 'outcome' looks like the answers"):
            as_questions(rows)
    rows[0]["outcome"] = "something else"
    assert [question.answer for question in as_questions(rows)] == [None, None]


def test_answers_that_are_empty_where_another_column_has_them():
    rows = [{"question": "Q", "choices": ["w", "x"], "answer": None, "gold": gold} for gold in (0, 1)]
    with pytest.raises(
        QuestionError, match="column 'gold' looks like the answers, but 'answer', which is read, is empty"
    ):
        as_questions(rows)
    rows[0]["answer"] = 1
    assert [question.answer for question in as_questions(rows)] == [1, None]


def test_a_column_of_answers_under_another_name_in_other_layouts():
    with pytest.raises(QuestionError, match=r"column 'label' looks like the answers"):
        read({**{key: value for key, value in MEDMCQA.items() if key != "cop"}, "label": 1})
    with pytest.raises(QuestionError, match=r"column 'answerkey' looks like the answers"):
        read({"question_stem": "Q", "choices": ARC["choices"], "answerkey": "3"})


def test_a_misspelt_column_of_subjects():
    row = {"question": "Which?", "choices": ["w", "x"], "answer": 1, "Subject": "law"}
    with pytest.raises(QuestionError, match=r"\('Subject'\?\); pass --columns subject=Subject, or --columns subject="):
        read(row)
    assert read(row, columns={"subject": "Subject"}).subject == "law"
    assert read(row, columns={"subject": None}).subject is None


def test_other_columns_are_left_alone():
    row = {**MMLU, "answer_index": 2, "explanation": "...", "label": "x", "difficulty": 3}
    assert read(row) == read(MMLU)


def test_a_later_row_with_other_columns_is_named():
    with pytest.raises(QuestionError, match=r"^row 1: no layout"):
        as_questions([MMLU, {"prompt": "x"}])


def test_initials_are_no_letters_of_options():
    for choices in (["A.D.", "B.C."], ["A.D. 100", "B.C. 100"]):
        assert read({"question": "Which era?", "choices": choices}).choices == tuple(choices)
    assert read({"question": "Which?", "choices": ["A.red", "B.blue"]}).choices == ("red", "blue")
