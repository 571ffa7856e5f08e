"""Typed decisions: what is read, how it is asked, and what is refused."""

import json

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from datasets import Dataset

from hf_calib.tasks import Case, Decision, PromptFormat, QuestionError, TypedDecisions, as_questions, permute_options
from hf_calib.tasks.questions import DecisionQuestion

QUESTIONS = {
    "outcome": {
        "type": "choice",
        "instructions": "How did the run end?",
        "criteria": {"success": "All steps passed.", "failure": None},
    },
    "review": {
        "type": "noul",
        "instructions": {"ask": "Does it need review?"},
        "criteria": {"true": "By a person"},
    },
    "risk": {"type": "score", "instructions": "How risky is it?", "criteria": ["none", "some", "high"]},
}
GOLD = {
    "outcome": {"type": "choice", "probabilities": {"failure": 0.25, "success": 0.75}, "label": "success"},
    "review": {"probabilities": {"true": 0.5, "false": 0.5}, "label": "true", "label_agreement": 0.5},
    "risk": {"probabilities": {"0": 0.1, "1": 0.2, "2": 0.7}, "score": 1.6},
}
ROW = {"id": "a1", "workflow": "agents", "state": {"run": 7}, "questions": QUESTIONS, "gold": GOLD}


def encoded(row):
    """As in the benchmark's Parquet files."""
    return {key: json.dumps(value) if isinstance(value, dict) else value for key, value in row.items()}


def changed(**changes):
    return {**ROW, **changes}


def test_a_case_has_its_options_in_the_order_of_the_question():
    case = Case.from_dict(ROW)
    outcome, review, risk = case.decisions
    assert (case.name, case.workflow, case.state_text) == ("a1", "agents", '{"run": 7}')
    assert outcome.options == ("success", "failure")
    assert outcome.texts == ("success: All steps passed.", "failure")
    assert outcome.gold == (0.75, 0.25)
    assert review.options == ("false", "true")
    assert review.texts == ("No", "Yes: By a person")
    assert review.label == 1
    assert risk.options == ("0", "1", "2")
    assert risk.gold == (0.1, 0.2, 0.7)
    assert risk.label == 2  # where there is none, the first of the most probable


def test_a_label_that_pandas_wrote_as_a_float():
    case = Case.from_dict({**ROW, "gold": {"risk": 2.0}})
    assert case.decisions[2].label == 2
    with pytest.raises(QuestionError, match=r"question 'risk': gold: the label 1\.5 is not one of"):
        Case.from_dict({**ROW, "gold": {"risk": 1.5}})


def test_every_form_of_the_data_is_read_alike(tmp_path):
    plain = TypedDecisions([ROW])
    (tmp_path / "cases.jsonl").write_text(json.dumps(ROW) + "\n")
    (tmp_path / "cases.json").write_text(json.dumps([ROW]))
    parquet.write_table(arrow.Table.from_pylist([encoded(ROW)]), tmp_path / "cases.parquet")
    for name in ("cases.jsonl", "cases.json", "cases.parquet"):
        assert list(TypedDecisions.load(tmp_path / name)) == list(plain)
    # A state of plain text stays what it is, encoded or not.
    text = TypedDecisions([changed(state="7"), encoded(changed(state="x")) | {"state": json.dumps("7")}])
    assert [case.state for case in text] == ["7", "7"]


def test_a_limit_draws_cases_and_keeps_their_order(tmp_path):
    rows = [changed(id=str(number)) for number in range(20)]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = TypedDecisions.load(tmp_path / "cases.jsonl", limit=5, seed=1)
    numbers = [int(case.name) for case in drawn]
    assert len(drawn) == 5
    assert numbers == sorted(numbers) != list(range(5))
    assert drawn.source == str(tmp_path / "cases.jsonl")
    assert (drawn.n_of_source, drawn[:2].n_of_source, TypedDecisions(rows).n_of_source) == (20, 20, 20)


def test_all_prompts_of_a_case_begin_with_its_state():
    questions = TypedDecisions([ROW]).questions()
    prompts = [PromptFormat().render(question) for question in questions]
    assert all(prompt.startswith('{"run": 7}\nQuestion: ') for prompt in prompts)
    assert prompts[2].endswith("Question: How risky is it?\nA. none\nB. some\nC. high\nAnswer:")
    assert prompts[1].startswith('{"run": 7}\nQuestion: {"ask": "Does it need review?"}\nA. No\nB. Yes')
    assert [question.type for question in questions] == ["choice", "noul", "score"]
    assert as_questions(TypedDecisions([ROW])) == questions


def test_permuted_options_keep_their_probabilities():
    task = TypedDecisions([changed(id=str(number)) for number in range(8)])
    orders = set()
    for question, plain in zip(task.questions(permute=3), task.questions(), strict=True):
        assert dict(zip(question.choices, question.target, strict=True)) == dict(
            zip(plain.choices, plain.target, strict=True)
        )
        assert question.choices[question.answer] == plain.choices[plain.answer]
        orders.add(question.choices)
    assert len(orders) > 3
    assert task.questions(permute=3) == task.questions(permute=3) != task.questions(permute=4)
    turned = permute_options(DecisionQuestion("q", ("a", "b", "c"), target=(0.2, 0.5, 0.3)), [2, 0, 1])
    assert (turned.target, turned.answer) == ((0.3, 0.2, 0.5), 2)


def test_up_to_255_options():
    criteria = {f"option {number}": None for number in range(255)}
    decision = Decision("d", "choice", "Which?", criteria)
    assert len(decision.question("state").choices) == 255
    with pytest.raises(QuestionError, match="2 to 255 options, got 256"):
        Decision("d", "choice", "Which?", {**criteria, "more": None})
    with pytest.raises(QuestionError, match=r"^choices: 255 choices need labels of more than one letter, which"):
        PromptFormat().render(decision.question("state"))


TWICE = '{"q": {"type": "noul", "instructions": "x"}, "q": {"type": "noul", "instructions": "y"}}'


@pytest.mark.parametrize("name", ["cases.jsonl", "cases.json", "cases.parquet"])
def test_a_name_that_is_there_twice_is_refused(name, tmp_path):
    path = tmp_path / name
    if name.endswith("parquet"):
        parquet.write_table(arrow.table({"state": ['"s"'], "questions": [TWICE]}), path)
    else:
        row = f'{{"state": "s", "questions": {TWICE}}}'
        path.write_text(f"[{row}]" if name.endswith("json") else row + "\n")
    with pytest.raises(QuestionError, match=rf"{name}.*the key 'q' appears more than once"):
        TypedDecisions.load(path)


def test_names_that_are_the_same_text_are_refused():
    with pytest.raises(QuestionError, match="criteria: options have the same name as text: 1, '1'"):
        Decision("d", "choice", "Which?", {1: None, "1": None})


def choices(*options, **others):
    return {
        "state": "s",
        "questions": {"q": {"type": "choice", "instructions": "x", "criteria": dict(options)}, **others},
    }


STRUCTS = {
    "options": (
        [choices(("a", "1"), ("b", "2")), choices(("c", "3"), ("d", "4"))],
        "question 'q': .* 'c', 'd' may be",
    ),
    "questions": (
        [choices(("a", "1"), ("b", "2")), choices(("a", "1"), ("b", "2"), r={"type": "noul", "instructions": "y"})],
        "question 'r': .* 'r' may be another row's; store questions, state and gold as JSON-encoded strings",
    ),
}


@pytest.mark.parametrize("name", STRUCTS)
def test_questions_and_options_of_other_rows_are_not_taken_from_structs(name, tmp_path):
    rows, message = STRUCTS[name]
    parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / "cases.parquet")
    with pytest.raises(QuestionError, match=f"cases.parquet, row 0: {message}"):
        TypedDecisions.load(tmp_path / "cases.parquet")
    dataset = Dataset.from_list(rows)
    with pytest.raises(QuestionError, match=f"row 0: {message}"):
        TypedDecisions(dataset)
    dataset.save_to_disk(tmp_path / "saved")
    with pytest.raises(QuestionError, match=f"saved, row 0: {message}"):
        TypedDecisions.load(tmp_path / "saved")
    assert len(TypedDecisions(rows)) == 2
    # Structs in which nothing is missing are read as they are.
    parquet.write_table(arrow.Table.from_pylist(rows[:1]), tmp_path / "cases.parquet")
    assert TypedDecisions.load(tmp_path / "cases.parquet")[0] == TypedDecisions(rows)[0]


REFUSED = {
    "no state": ({"questions": QUESTIONS}, "state is missing"),
    "empty state": (changed(state=" "), "the state is empty"),
    "state of a number": (changed(state=3), "the state: expected a text, an object or an array, got int"),
    "no questions": (changed(questions={}, gold=None), "the case has no questions"),
    "questions in a list": (changed(questions=[]), "questions: expected an object of named questions, got list"),
    "invalid JSON": (encoded(ROW) | {"gold": "{"}, "gold: expected a JSON-encoded string"),
    "deep JSON": (encoded(ROW) | {"state": "[" * 100_000}, "state: expected a JSON-encoded string"),
    "unknown type": (
        changed(questions={"q": {"type": "box", "instructions": "x"}}, gold=None),
        "question 'q': the type is 'box'; choose from choice, noul, score",
    ),
    "no instructions": (changed(questions={"q": {"type": "noul"}}, gold=None), "instructions is missing"),
    "one option": (
        changed(questions={"q": {"type": "choice", "instructions": "x", "criteria": {"a": None}}}, gold=None),
        "2 to 255 options, got 1",
    ),
    "eleven levels": (
        changed(questions={"q": {"type": "score", "instructions": "x", "criteria": ["l"] * 11}}, gold=None),
        "2 to 10 levels, got 11",
    ),
    "other noul criteria": (
        changed(questions={"q": {"type": "noul", "instructions": "x", "criteria": {"maybe": "y"}}}, gold=None),
        "descriptions of true and false",
    ),
    "gold of another question": (changed(gold={"nothing": "true"}), "there is no question called 'nothing'"),
    "gold without an option": (
        changed(gold={"outcome": {"probabilities": {"success": 1.0}}}),
        r"probabilities are for \['success'\], but the options are \['failure', 'success'\]",
    ),
    "gold that sums to less": (
        changed(gold={"outcome": {"probabilities": {"success": 0.5, "failure": 0.4}}}),
        "the gold distribution sums to 0.9",
    ),
    "negative gold": (
        changed(gold={"outcome": {"probabilities": {"success": 1.5, "failure": -0.5}}}),
        "probabilities must be between 0 and 1",
    ),
    "unknown label": (changed(gold={"risk": 3}), "the label 3 is not one of the options 0, 1, 2"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_case_is_refused_with_its_place(name, tmp_path):
    row, message = REFUSED[name]
    with pytest.raises(QuestionError, match=f"row 1: .*{message}"):
        TypedDecisions([ROW, row])
    (tmp_path / "cases.jsonl").write_text(json.dumps(ROW) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(QuestionError, match=f"cases.jsonl, line 2: .*{message}"):
        TypedDecisions.load(tmp_path / "cases.jsonl")


def test_a_target_is_a_distribution_over_the_choices():
    with pytest.raises(QuestionError, match="the target has 2 probabilities for 3 options"):
        DecisionQuestion("q", ("a", "b", "c"), target=(0.5, 0.5))
    with pytest.raises(QuestionError, match="as many different labels"):
        DecisionQuestion("q", ("a", "b"), labels=("x", "x"))


def test_no_cases_are_refused(tmp_path):
    (tmp_path / "cases.jsonl").write_text("")
    with pytest.raises(QuestionError, match="there is no case"):
        TypedDecisions.load(tmp_path / "cases.jsonl")
