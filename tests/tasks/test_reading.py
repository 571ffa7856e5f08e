"""What all rows of a dataset decide together: the answers' base, bad rows, what is left out, the user's mapping."""

import json
import warnings

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.tasks import (
    LETTERS,
    Question,
    QuestionError,
    QuestionList,
    as_questions,
    load_questions,
    parse_columns,
    permute_options,
)
from hf_calib.tasks.choices import drawn_order, without_letters

KMMLU = """question,answer,A,B,C,D,Category,Human Accuracy
2 + 2 = ?,2,3,4,5,6,Math,0.5
Capital of France?,1,Paris,Rome,Oslo,Bern,Geo,0.5
Colour of snow?,1,white,black,red,blue,Sci,0.5
Largest planet?,4,Mars,Venus,Earth,Jupiter,Sci,0.5
"""


def rows(*answers, n=4, **more):
    return [
        {"question": f"Q{i}?", "choices": [f"{w} {i}" for w in "wxyz"[:n]], "answer": answer, **more}
        for i, answer in enumerate(answers)
    ]


def indices(questions):
    return [question.answer for question in questions]


def write(path, content):
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    return path


# The answers' base


@pytest.mark.parametrize("columns", ["Category,Human Accuracy", "x1,x2"])
def test_kmmlu_counts_from_one(tmp_path, columns):
    path = tmp_path / "kmmlu.csv"
    path.write_text(KMMLU.replace("Category,Human Accuracy", columns))
    right = [question.choices[question.answer] for question in load_questions(path)]
    assert right == ["4", "Paris", "white", "Jupiter"]
    for limit in (1, 2, 3):
        found = load_questions(path, limit=limit)
        assert [question.choices[question.answer] for question in found] == [right[row] for row in found.draw.rows]


@pytest.mark.parametrize("kind", [int, str, float])
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([1, 2, 4], [0, 1, 3]),
        ([4], [3]),
        ([0, 1, 2], [0, 1, 2]),
        ([0], [0]),
        ([3, 0, 3, 1], [3, 0, 3, 1]),
        ([-1, 4, 1], [None, 3, 0]),
        ([-1, 0, 3], [None, 0, 3]),
    ],
)
def test_the_base_is_found_from_the_whole_column(kind, answers, expected, recwarn):
    assert indices(as_questions(rows(*map(kind, answers)))) == expected
    assert not recwarn


def test_a_base_that_nothing_tells_is_said():
    with pytest.warns(UserWarning, match=r"answers run from 1 to 3 in column 'answer' of 'the d.*--answer-base"):
        assert indices(as_questions(rows(1, 3))) == [1, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert indices(as_questions(rows(1, 3), answer_base=1)) == [0, 2]
        assert indices(as_questions(rows(1, 3), answer_base=0)) == [1, 3]


def test_answers_that_fit_neither_base(tmp_path):
    path = write(tmp_path / "q.jsonl", rows(0, 4, 1))
    for on_bad_row in ("error", "skip"):
        with pytest.raises(QuestionError, match=r"^answer_base: answers run from 0 to 4 in .*q.jsonl'"):
            load_questions(path, on_bad_row=on_bad_row)
    with pytest.warns(UserWarning, match="skipped 1 of 3"):
        assert indices(load_questions(path, answer_base=0, on_bad_row="skip")) == [0, 1]


@pytest.mark.parametrize(
    ("row", "value", "found"),
    [
        ({"goal": "Q", "sol1": "w", "sol2": "x", "label": 2}, 2, 1),
        ({"sentence": "_", "option1": "w", "option2": "x", "answer": "0"}, 0, 0),
    ],
)
def test_answers_that_contradict_their_layout(row, value, found):
    message = rf"answers run from {value} to .*, but this layout counts from {1 - found}; pass --answer-base {found}"
    with pytest.raises(QuestionError, match=message):
        as_questions([row], on_bad_row="skip")
    assert as_questions([row], answer_base=found)[0].answer == value - found


def test_class_labels_count_from_zero(tmp_path, recwarn):
    features = Features(
        question=Value("string"), choices=List(Value("string")), answer=ClassLabel(names=["1", "2", "3", "4"])
    )
    dataset = Dataset.from_list(rows(1, 2), features=features)
    dataset.save_to_disk(tmp_path / "saved")
    assert indices(as_questions(dataset)) == indices(load_questions(tmp_path / "saved")) == [1, 2]
    assert not recwarn


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=30), st.sampled_from([0, 1]), st.integers(1, 30), st.booleans()
)
def test_a_limit_never_changes_an_answer(tmp_path_factory, answers, base, limit, as_text):
    answers = [*answers, 0, 3]  # the ends, which tell the base
    given_as = [str(answer + base) if as_text else answer + base for answer in answers]
    path = write(tmp_path_factory.mktemp("limit") / "q.jsonl", rows(*given_as))
    assert indices(load_questions(path)) == answers
    found = load_questions(path, limit=limit)
    assert indices(found) == ([answers[row] for row in found.draw.rows] if limit < len(answers) else answers)


# Answers as texts


def test_answers_as_the_texts_of_options():
    data = rows("w 0", "z 1", None, " y 3 ")
    assert indices(as_questions(data)) == [0, 3, None, 2]
    data[1]["answer"] = "something else"
    with pytest.raises(QuestionError, match="row 1: column 'answer': the answer 'something else' is not the text"):
        as_questions(data)
    data[1] |= {"choices": ["same", "same", "x"], "answer": "same"}
    with pytest.raises(QuestionError, match="row 1: column 'answer': the answer 'same' is not the text of exactly"):
        as_questions(data)


def test_texts_that_look_like_numbers():
    choices = ["3", "4", "5", "6"]
    arithmetic = [
        {"question": "2 + 2?", "choices": choices, "answer": "4"},
        {"question": "?", "choices": choices, "answer": "3"},
    ]
    with pytest.raises(QuestionError, match=r"answer_base: every answer in .* is both the text of an opt"):
        as_questions(arithmetic)
    assert indices(as_questions(arithmetic, answer_base=1)) == [3, 2]
    words = [
        {"question": "?", "choices": ["cat", "dog", "4", "none"], "answer": answer} for answer in ("cat", "4", "dog")
    ]
    assert indices(as_questions(words)) == [0, 2, 1]
    # The same option either way.
    same = [{"question": "?", "choices": ["1", "2", "3"], "answer": answer} for answer in (1, 3)]
    assert indices(as_questions(same)) == [0, 2]
    letters = [{"question": "?", "choices": ["A", "B"], "answer": answer} for answer in ("A", "B")]
    assert indices(as_questions(letters)) == [0, 1]
    # Some are the text of an option and could be the number or the letter of another, and some only the text.
    sums = [{"question": "?", "choices": choices, "answer": "4"}, {"question": "?", "choices": ["10", "20", "30"]}]
    sums[1]["answer"] = "20"
    assert indices(as_questions(sums)) == indices(as_questions(sums, on_bad_row="skip")) == [1, 1]
    blood = [
        {"question": "?", "choices": own, "answer": own[at]}
        for own, at in ((["AB", "A", "B", "O"], 3), (["O", "A", "B", "AB"], 1))
    ]
    assert indices(as_questions(blood)) == indices(as_questions(blood, on_bad_row="skip")) == [3, 1]
    # A single number that is out of range is an error where the others can only be numbers.
    mixed = [{"question": "?", "choices": ["w", "x", "5"], "answer": answer} for answer in (0, 2, 1, 5)]
    with pytest.raises(QuestionError, match=r"row 3: .*the answer 5 is outside the 3 choices"):
        as_questions(mixed)
    with pytest.raises(QuestionError, match="answer_base"):
        as_questions([{"question": "?", "choices": ["B", "A"], "answer": "A"}])


# Options that carry their own letters


LETTERED = ["({}) {}", "({}){}", "{}) {}", "{} ) {}", "{}. {}", "[{}] {}", "{}: {}", " ({}) {}", "（{}）{}", "{}、{}"]


@given(
    st.sampled_from(LETTERED),
    st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1), min_size=2, max_size=8),
    st.booleans(),
)
def test_letters_of_the_options_own_are_stripped(style, texts, lower):
    letters = LETTERS.lower() if lower and style not in ("{}、{}",) else LETTERS
    choices = [style.format(letter, text) for letter, text in zip(letters, texts, strict=False)]
    (question,) = as_questions([{"question": "Q", "choices": choices, "answer": "B"}])
    assert list(question.choices) == texts
    assert question.answer == 1
    for option in permute_options(question, range(len(texts))[::-1]).choices:
        assert option in texts


@pytest.mark.parametrize(
    "choices",
    [
        ["A", "B"], ["A.", "B."], ["(A)", "(B)"], ["A. Smith", "C. Jones"], ["(A) x", "B) y"], ["(A) x", "y"],
        ["(B) x", "(C) y"], ["a.m.", "b.c."], ["A bat", "B sides"], ["AB", "BC"], ["1. x", "2. y"],
    ],
)  # fmt: skip
def test_other_texts_are_left_as_they_are(choices):
    assert without_letters(choices) == choices
    (question,) = as_questions([{"question": "Q", "choices": choices, "answer": 0}])
    assert list(question.choices) == choices


@pytest.mark.parametrize("answer", ["A", "a", "(A)", "A. red", "red", 1])
def test_lettered_options_that_are_out_of_order(answer):
    row = {"question": "Q", "choices": ["C. tan", "A. red", "B. sky"], "answer": answer}
    (question,) = as_questions([row], answer_base=0)
    assert (question.choices, question.answer) == (("tan", "red", "sky"), 1)


def test_lettered_options_in_one_text_and_their_answers():
    short = [{"question": "Q", "choices": ["A. x", "B. y"], "answer": answer} for answer in ("B. y", "B", "A. x")]
    assert indices(as_questions(short)) == [1, 1, 0]
    for answer in ("B", "(B) two", "two", "(B)"):
        for choices in (["(A) one", "(B) two"], "(A) one, (B) two", "a ) one , b ) two", "A. one\nB. two"):
            row = {"question": "Q", "choices": choices, "answer": answer}
            if answer == "(B) two" and choices[0] != "(A) one":
                continue
            (question,) = as_questions([row])
            assert (question.choices, question.answer) == (("one", "two"), 1)


def test_options_that_mean_none_are_text(tmp_path):
    path = tmp_path / "none.csv"
    path.write_text("question,A,B,C,D,answer\nHow many?,None,Two,One,Three,A\nWhich?,NA,nan,null,N/A,B\n")
    assert load_questions(path) == [
        Question("How many?", ("None", "Two", "One", "Three"), 0),
        Question("Which?", ("NA", "nan", "null", "N/A"), 1),
    ]


@given(st.text(min_size=1), st.lists(st.text(min_size=1), min_size=2, max_size=6, unique=True), st.randoms())
def test_a_drawn_order_depends_on_the_texts_alone(question, choices, random):
    order = drawn_order(question, choices)
    assert sorted(order) == list(range(len(choices)))
    shuffled = random.sample(choices, len(choices))
    assert [shuffled[i] for i in drawn_order(question, shuffled)] == [choices[i] for i in order]


# Bad rows

BAD = [
    {"question": "Q1?", "choices": ["#15", "#16", "#17", "#18"], "answer": "A"},
    {"question": "Q2?", "choices": ["#15", "#16", "#17", ""], "answer": "A"},
    {"question": "Q3?", "choices": ["a", "b", "c"], "answer": "D"},
]


def test_all_bad_rows_are_named(tmp_path):
    path = write(tmp_path / "bad.jsonl", BAD)
    with pytest.raises(
        QuestionError, match=r"(?s)^2 rows of .*l cannot be read:\n.*line 2: column 'choices'.*line 3: col"
    ):
        load_questions(path)
    many = write(tmp_path / "many.jsonl", BAD[:1] + 25 * BAD[1:2])
    with pytest.raises(QuestionError, match=r"(?s)^25 rows .*line 11: [^\n]*\n  and 15 more\n.*--on-bad-row skip"):
        load_questions(many)
    with pytest.raises(QuestionError, match=r"(?s)^2 rows of the dataset .*row 1: .*row 2: "):
        as_questions(BAD)


def test_bad_rows_are_skipped_and_counted(tmp_path):
    path = write(tmp_path / "bad.jsonl", BAD)
    with path.open("a") as file:
        file.write('{"question": \n{"prompt": "of another kind"}\n[1]\n')
    with pytest.warns(UserWarning, match="skipped 5 of 6 rows"):
        found = load_questions(path, on_bad_row="skip")
    assert isinstance(found, QuestionList)
    assert found == [Question("Q1?", ("#15", "#16", "#17", "#18"), 0)]
    assert [place.split(": ")[0].split("line ")[1] for place in found.skipped] == ["2", "3", "4, column 13", "5", "6"]
    assert found.source == str(path)
    assert as_questions(found).skipped == found.skipped


def test_a_table_with_rows_of_other_lengths(tmp_path):
    path = tmp_path / "bad.csv"
    path.write_text("question,A,B,answer\nQ1,w,x,A\nQ2,w,x,y,A\nQ3,w,x,B\n")
    with pytest.raises(QuestionError, match=r"bad.csv, line 3: 5 fields"):
        load_questions(path)
    with pytest.warns(UserWarning, match="skipped 1 of 3"):
        assert indices(load_questions(path, on_bad_row="skip")) == [0, 1]


def test_where_no_row_is_left(tmp_path):
    with pytest.raises(QuestionError, match="2 rows of the dataset cannot be read"):
        as_questions(BAD[1:], on_bad_row="skip")
    with pytest.raises(QuestionError, match="row 0: no layout"):
        as_questions([{"prompt": "x"}, {"prompt": "y"}], on_bad_row="skip")
    with pytest.raises(ValueError, match="on_bad_row is 'error' or 'skip'; got 'drop'"):
        as_questions(BAD, on_bad_row="drop")


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(1, 30), st.sampled_from([0, 1]))
def test_skipping_and_limits_change_no_other_row(tmp_path_factory, good, limit, base):
    answers = [i % 4 for i in range(len(good))]
    data = rows(*(answer + base for answer in answers))
    for row, is_good in zip(data, good, strict=True):
        row["question"] = row["question"] if is_good else ""
    data += rows(base, 3 + base)  # the ends, which tell the base
    path = write(tmp_path_factory.mktemp("skip") / "q.jsonl", data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        everything = load_questions(path, on_bad_row="skip")
        first = load_questions(path, on_bad_row="skip", limit=limit)
    assert indices(everything) == [answer for answer, is_good in zip(answers, good, strict=True) if is_good] + [0, 3]
    assert first == ([everything[row] for row in first.draw.rows] if limit < len(everything) else everything)
    assert everything.skipped == first.skipped
    assert len(everything.skipped) == good.count(False)


# Context


def test_the_text_that_a_question_is_about():
    row = {
        "context": "The key is under the mat.",
        "question": "Where is the key?",
        "choices": ["mat", "pot"],
        "answer": 0,
    }
    assert as_questions([row])[0].context == "The key is under the mat."
    for name in ("passage", "article", "support", "para", "Passage", "story"):
        renamed = {name: row["context"], **{key: value for key, value in row.items() if key != "context"}}
        assert as_questions([renamed])[0].context == row["context"]
    assert as_questions([{**row, "context": " "}])[0].context is None
    assert as_questions([{**row, "passage": "More."}])[0].context == "The key is under the mat.\n\nMore."
    assert as_questions([{**row, "context": ["One.", "Two."]}])[0].context == "One.\nTwo."
    with pytest.raises(QuestionError, match="row 0: column 'context': found a mapping with 'title'"):
        as_questions([{**row, "context": {"title": "x"}}])


def test_text_that_is_not_shown_is_named_once():
    more = {"scenario": "The key is under the mat.", "hint": "Look under the mat.", "passage": "Text."}
    with pytest.warns(UserWarning, match="is not in the prompts") as caught:
        found = as_questions(rows(0, 3, **more))
    assert found[0].context == "Text."
    (message,) = [str(warning.message) for warning in caught]
    assert "columns 'scenario', 'hint' is not in the prompts" in message
    assert "pass --columns context=passage+scenario+hint" in message
    with pytest.warns(UserWarning, match="column 'hint' is not in"):
        shown = as_questions(rows(0, 3, **more), columns={"context": ("passage", "scenario")})
    assert shown[0].context == "Text.\n\nThe key is under the mat."


@pytest.mark.parametrize(
    "column",
    [
        {"id": "a long id indeed"}, {"explanation": "It is so since it is."}, {"source": "a book on things"},
        {"difficulty": "hard"}, {"url": "https://example.org"}, {"cot_content": "Let's think step by step."},
        {"score": 0.5}, {"answer_index": 2}, {"note": None},
    ],
)  # fmt: skip
def test_columns_that_need_no_warning(column, recwarn):
    assert indices(as_questions(rows(0, 3, **column))) == [0, 3]
    assert not recwarn


def test_text_without_spaces_is_text():
    with pytest.warns(UserWarning, match="column 'scene' is not in the prompts"):
        as_questions(rows(0, 3, scene="钥匙在门口的垫子下面，没有人知道它在那里。"))


# The user's mapping


OWN = {"stem": "Which?", "options": ["w", "x", "y"], "gold": 3, "text": "It says so there.", "part": "law"}


def test_columns_by_name():
    columns = {"question": "stem", "choices": "options", "answer": "gold", "context": "text", "subject": "part"}
    expected = Question("Which?", ("w", "x", "y"), 2, "law", "It says so there.")
    assert as_questions([OWN], columns=columns) == [expected]
    assert as_questions([OWN], columns=columns, answer_base=1) == [expected]
    text = "question=stem,choices=options,answer=gold,context=text,subject=part"
    assert parse_columns(text) == parse_columns(json.dumps(columns)) == columns


def test_a_column_an_option():
    row = {"q": "Which?", "one": "w", "two": "x", "three": None, "key": "B"}
    columns = {"question": "q", "choices": ["one", "two", "three"], "answer": "key"}
    assert as_questions([row], columns=columns) == [Question("Which?", ("w", "x"), 1)]
    assert parse_columns("question=q,choices=one+two+three,answer=key") == {
        **columns,
        "choices": ("one", "two", "three"),
    }


def test_the_right_choice_in_a_column_of_its_own():
    data = [{"q": f"Q{i}?", "right": "r", "wrong": ["v", "w", "x"]} for i in range(40)]
    found = as_questions(data, columns={"question": "q", "choices": ["right", "wrong"], "answer": "right"})
    assert all(question.choices[question.answer] == "r" for question in found)
    assert set(indices(found)) == {0, 1, 2, 3}
    in_text = [{**row, "wrong": nested(row["wrong"])} for row in data for nested in (str, json.dumps)]
    found = as_questions(in_text, columns={"question": "q", "choices": ["right", "wrong"], "answer": "right"})
    assert all(sorted(question.choices) == ["r", "v", "w", "x"] for question in found)


def test_a_list_of_one_answer_as_text():
    rows = [{"question": "Q?", "choices": ["a", "b"], "answer": answer} for answer in ("[1]", "['A']", '["b"]', "[]")]
    assert indices(as_questions(rows, answer_base=0)) == [1, 0, 1, None]
    with pytest.raises(QuestionError, match=r"column 'answer': found 2 answers, \[0, 1\]"):
        as_questions([{**rows[0], "answer": "[0, 1]"}])
    own = {"question": "Q?", "choices": ["[0]", "[1]", "[2]"]}  # where it is an option's text
    assert indices(as_questions([{**own, "answer": "[1]"}, {**own, "answer": "[2]"}])) == [1, 2]


def test_part_of_a_mapping_completes_a_layout():
    row = {"question": "Which?", "choices": ["w", "x"], "gold_index": 1, "scene": "It says so there."}
    columns = {"answer": "gold_index", "context": "scene"}
    assert as_questions([row], columns=columns, answer_base=0) == [
        Question("Which?", ("w", "x"), 1, context="It says so there.")
    ]
    row = {"stem": "Which?", "choices": {"text": ["w", "x"], "label": ["1", "2"]}, "answerKey": "2"}
    assert as_questions([row], columns={"question": "stem"}) == [Question("Which?", ("w", "x"), 1)]
    siqa = {"context": "c", "question": "q", "answerA": "w", "answerB": "x", "answerC": "y", "label": "2"}
    assert as_questions([siqa], columns={"context": None}) == [Question("q", ("w", "x", "y"), 1)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"stem": "question"},
            "columns: 'stem' is not a field; the fields are question, choices, answer, context",
        ),
        ({"question": ""}, "columns: 'question' is ''; expected the name of a column"),
        ({"question": ("a", "b")}, "columns: 'question' has 2 columns, a, b; give one"),
        ({"choices": ("a", "a")}, "columns: 'choices' names a column twice"),
        ({"choices": None}, "columns: 'choices' has no column, and every question needs one"),
        ({"answer": "gld"}, "columns: there is no column 'gld', given for 'answer', among"),
        ({"context": ("text", "para")}, "columns: there is no column 'para', given for 'context', among"),
    ],
)
def test_mappings_that_cannot_be(columns, message):
    whole = {"question": "stem", "choices": "options", "answer": "gold"}
    with pytest.raises(ValueError, match=message):
        as_questions([OWN], columns=columns if "stem" in columns else {**whole, **columns})


@pytest.mark.parametrize("text", ["question", "question=a,stem", "{", '{"question": 5}', "x=y"])
def test_mappings_that_cannot_be_read(text):
    with pytest.raises(ValueError, match="columns: "):
        parse_columns(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question=a,question=b", "columns: 'question' is given twice"),
        ('{"question": "a", "question": "b"}', "columns: .* the key 'question' appears more than once"),
    ],
)
def test_a_field_is_given_once(text, message):
    with pytest.raises(ValueError, match=message):
        parse_columns(text)


def test_questions_are_not_read_twice():
    questions = as_questions(rows(0, 3))
    assert as_questions(questions) == questions
    with pytest.raises(ValueError, match="columns and answer_base say how rows are read"):
        as_questions(questions, answer_base=1)
