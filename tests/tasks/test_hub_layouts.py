"""Rows as the datasets on the Hub have them: each is read with the right answer, and with all of its text."""

import csv
import json
import warnings
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_calib.tasks import QuestionError, as_questions, is_question_layout, load_questions
from hf_calib.tasks.layouts import LAYOUTS, layout_of


@dataclass(frozen=True)
class Case:
    """A row, the text of the right choice, and the columns whose text is not shown."""

    row: dict
    right: str | None
    context: str | None = None
    question: str = "Which is it?"
    hidden: tuple[str, ...] = field(default=())
    subject: str | None = None


Q = "Which is it?"
LIST = ["one", "two", "three", "four"]


def named(template, values, marks="1234"):
    return {template.format(mark): value for mark, value in zip(marks, values, strict=False)}


CASES = {
    "mmlu": Case({"question": Q, "subject": "law", "choices": LIST, "answer": 0}, "one", subject="law"),
    "mmlu_auxiliary_train": Case(
        {"train": {"question": Q, "subject": "", "choices": LIST, "answer": 1}}, "two", hidden=("train",)
    ),
    "mmlu_pro": Case(
        {"question_id": 7, "question": Q, "options": LIST, "answer": "C", "answer_index": 2,
         "cot_content": "A: Let's think step by step.", "category": "business", "src": "ori_mmlu"},
        "three", subject="business", hidden=("cot_content",),
    ),
    "mmlu_prox": Case(
        {"question_id": 7, "question": Q, **named("option_{}", LIST, "0123"), **dict.fromkeys(
            (f"option_{i}" for i in range(4, 10)), None), "answer": "D", "answer_index": 3, "category": "law",
         "cot_content": "", "src": "x"},
        "four", subject="law",
    ),
    "mmlu_redux_ok": Case(
        {"question": Q, "choices": LIST, "answer": 1, "error_type": "ok", "correct_answer": None, "source": None,
         "potential_reason": None},
        "two",
    ),
    "mmlu_redux_corrected_by_index": Case(
        {"question": Q, "choices": LIST, "answer": 1, "error_type": "wrong_groundtruth", "correct_answer": "2",
         "source": None, "potential_reason": "It is two, not one."},
        "three", hidden=("potential_reason",),
    ),
    "mmlu_redux_corrected_by_letter": Case(
        {"question": Q, "choices": LIST, "answer": 1, "error_type": "wrong_groundtruth", "correct_answer": "D"}, "four"
    ),
    "mmlu_redux_corrected_by_text": Case(
        {"question": Q, "choices": LIST, "answer": 1, "error_type": "wrong_groundtruth", "correct_answer": "one"},
        "one",
    ),
    "gpqa": Case(
        {"Pre-Revision Explanation": "Of no use here.", "Question": Q, "Correct Answer": "one",
         **named("Incorrect Answer {}", LIST[1:], "123"), "Explanation": "It is so because it is.",
         "Subdomain": "Organic", "High-level domain": "Chemistry"},
        "one", subject="Chemistry", hidden=("Explanation", "Pre-Revision Explanation", "Subdomain"),
    ),
    "sciq": Case(
        {"question": Q, **named("distractor{}", LIST[1:], "312"), "correct_answer": "one", "support": "All is one."},
        "one", context="All is one.",
    ),
    "truthful_qa": Case(
        {"question": Q, "mc1_targets": {"choices": LIST, "labels": [1, 0, 0, 0]},
         "mc2_targets": {"choices": [*LIST, "five"], "labels": [1, 1, 0, 0, 0]}},
        "one", hidden=("mc2_targets",),
    ),
    "truthful_qa_json": Case({"question": Q, "mc1_targets": {"one": 1, "two": 0}}, "one"),
    "agieval": Case(
        {"passage": "It says so there.", "question": Q, "options": ["(A)one", "(B)two", "(C)three", "(D)four"],
         "label": "B", "other": None, "explanation": None},
        "two", context="It says so there.",
    ),
    "agieval_lm_eval": Case(
        {"query": f"Q: {Q} Answer Choices: (A)one (B)two (C)three (D)four\nA: Among A through D, the answer is",
         "choices": ["(A)one", "(B)two", "(C)three", "(D)four"], "gold": [2]},
        "three", question=f"Q: {Q}", hidden=("query",),
    ),
    "agieval_chinese": Case(
        {"query": "问题：是哪个? 选项：(A)one (B)two\n答案：从A到B, 我们应选择", "choices": ["(A)one", "(B)two"],
         "gold": [1]},
        "two", question="问题：是哪个?", hidden=("query",),
    ),
    "med_qa": Case(
        {"question": Q, "answer": "two", "options": dict(zip("ABCD", LIST, strict=True)), "meta_info": "step1",
         "answer_idx": "B", "metamap_phrases": ["a long phrase"]},
        "two", hidden=("metamap_phrases",),
    ),
    "med_qa_bigbio": Case(
        {"meta_info": "step1", "question": Q, "answer_idx": "B", "answer": "two",
         "options": [{"key": key, "value": value} for key, value in zip("ABCD", LIST, strict=True)]},
        "two",
    ),
    "med_qa_hf": Case(
        {"id": "1", "sent1": Q, "sent2": "", **named("ending{}", LIST, "0123"), "label": 1}, "two"
    ),
    "medmcqa": Case(
        {"id": "x", "question": Q, **named("op{}", LIST, "abcd"), "cop": 3, "choice_type": "single",
         "exp": "It is the last one.", "subject_name": "Anatomy", "topic_name": None},
        "four", subject="Anatomy", hidden=("exp",),
    ),
    "medmcqa_withheld": Case(
        {"question": Q, **named("op{}", LIST, "abcd"), "cop": -1, "subject_name": "Anatomy"}, None, subject="Anatomy"
    ),
    "medmcqa_three": Case(
        {"question": Q, **named("op{}", [*LIST[:3], ""], "abcd"), "cop": 2, "subject_name": "A"}, "three", subject="A"
    ),
    "hellaswag": Case(
        {"ind": 4, "activity_label": "Removing ice from a car", "ctx_a": "A man", "ctx_b": "then he", "ctx":
         "A man then he", "endings": LIST, "source_id": "s~v_1", "split_type": "indomain", "label": "3"},
        "four", question="Removing ice from a car: A man then he",
    ),
    "hellaswag_test": Case(
        {"activity_label": "Ice", "ctx_a": "A", "ctx_b": "", "ctx": "A", "endings": LIST, "label": ""}, None,
        question="Ice: A",
    ),
    "swag": Case(
        {"video-id": "v", "startphrase": "He walks. He then", "sent1": "He walks.", "sent2": "He then",
         "gold-source": "gold", **named("ending{}", LIST, "0123"), "label": 2},
        "three", question="He walks. He then",
    ),
    "winogrande": Case(
        {"sentence": "The _ is big.", "option1": "cat", "option2": "dog", "answer": "1"}, "cat",
        question="The _ is big.",
    ),
    "piqa": Case({"goal": Q, "sol1": "twist it off", "sol2": "hit it hard", "label": 1}, "hit it hard"),
    "copa": Case(
        {"premise": "The man fell.", "choice1": "He slept.", "choice2": "It hurt.", "question": "effect", "idx": 0,
         "label": 1},
        "It hurt.", question="The man fell. What happened as a result?", hidden=("question",),
    ),
    "siqa": Case(
        {"context": "Tracy went home.", "question": Q, **named("answer{}", LIST[:3], "ABC"), "label": "2"},
        "two", context="Tracy went home.",
    ),
    "boolq": Case({"question": "is it so", "answer": True, "passage": "It is so."}, "yes", "It is so.", "is it so"),
    "super_glue_boolq": Case(
        {"question": "is it so", "passage": "It is not.", "idx": 0, "label": 0}, "no", "It is not.", "is it so"
    ),
    "race": Case(
        {"example_id": "high1.txt", "article": "A long text.", "answer": "D", "question": Q, "options": LIST},
        "four", context="A long text.",
    ),
    "openbookqa": Case(
        {"id": "7", "question_stem": Q, "choices": {"text": LIST, "label": list("ABCD")}, "answerKey": "C"}, "three"
    ),
    "openbookqa_additional": Case(
        {"id": "7", "question_stem": Q, "choices": {"text": LIST, "label": list("ABCD")}, "answerKey": "C",
         "fact1": "the sun is a star", "humanScore": 1.0, "clarity": 2.0, "turkIdAnonymized": "b356d338b7"},
        "three", context="the sun is a star",
    ),
    "arc": Case(
        {"id": "x", "question": Q, "choices": {"text": LIST, "label": list("1234")}, "answerKey": "2"}, "two"
    ),
    "commonsense_qa": Case(
        {"id": "x", "question": Q, "question_concept": "revolving door", "choices": {"label": list("ABCD"), "text":
         LIST}, "answerKey": "A"},
        "one", hidden=("question_concept",),
    ),
    "quartz": Case(
        {"id": "q", "question": Q, "choices": {"text": ["A", "B"], "label": ["A", "B"]}, "answerKey": "B",
         "para": "More X means less Y.", "para_id": "p"},
        "B", context="More X means less Y.",
    ),
    "belebele": Case(
        {"link": "https://x", "question_number": 1, "flores_passage": "A passage here.", "question": Q,
         **named("mc_answer{}", LIST), "correct_answer_num": "2", "dialect": "eng_Latn", "ds": "2023-05-03"},
        "two", context="A passage here.",
    ),
    "global_mmlu": Case(
        {"sample_id": "a/b/0", "subject": "law", "subject_category": "Social", "question": Q,
         **named("option_{}", LIST, "abcd"), "answer": "C", "required_knowledge": "[]", "culture": "[]"},
        "three", subject="law",
    ),
    "m_mmlu": Case({"id": "1", "instruction": Q, **named("option_{}", LIST, "abcd"), "answer": "B"}, "two"),
    "cmmlu": Case({"": "0", "Question": Q, **named("{}", LIST, "ABCD"), "Answer": "C"}, "three"),
    "mmmlu": Case(
        {"Unnamed: 0": 0, "Question": Q, **named("{}", LIST, "ABCD"), "Answer": "C", "Subject": "law"},
        "three", subject="law",
    ),
    "ceval": Case(
        {"id": 0, "question": Q, **named("{}", LIST, "ABCD"), "answer": "D", "explanation": "It is the last one."},
        "four", hidden=("explanation",),
    ),
    "kmmlu": Case(
        {"question": Q, "answer": 3, **named("{}", LIST, "ABCD"), "Category": "Law", "Human Accuracy": 0.5},
        "three", subject="Law",
    ),
    "arabic_mmlu": Case(
        {"ID": 1, "Subject": "Law", "Context": "Some context here.", "Question": Q, "Answer Key": "B",
         **named("Option {}", [*LIST, None], "12345")},
        "two", context="Some context here.", subject="Law",
    ),
    "aqua_rat": Case(
        {"question": Q, "options": ["A)one", "B)two", "C)three"], "rationale": "We add one and one.", "correct": "B"},
        "two", hidden=("rationale",),
    ),
    "math_qa": Case(
        {"Problem": Q, "Rationale": "We add one and one.", "options":
         "a ) rs . 400 , b ) 2 , 500 , c ) none of these", "correct": "b", "annotated_formula": "add(1, 2)",
         "linear_formula": "add(n0,n1)|", "category": "gain"},
        "2 , 500", hidden=("Rationale", "options"), subject="gain",
    ),
    "logiqa": Case({"context": "All men.", "query": Q, "options": LIST, "correct_option": 2}, "three", "All men."),
    "logiqa_eleuther": Case(
        {"label": "c", "context": "All men.", "question": Q, "options": LIST}, "three", "All men."
    ),
    "logiqa2": Case(
        {"id": 1, "answer": 2, "text": "All men are so.", "type": {"Categorical Reasoning": True}, "question": Q,
         "options": LIST},
        "three", context="All men are so.",
    ),
    "reclor": Case(
        {"context": "All men.", "question": Q, "answers": LIST, "label": 1, "id_string": "t"}, "two", "All men."
    ),
    "cosmos_qa": Case(
        {"id": "3", "context": "A good day.", "question": Q, **named("answer{}", LIST, "0123"), "label": 1},
        "two", context="A good day.",
    ),
    "quail": Case(
        {"id": "f", "context_id": "f", "question_id": "1", "domain": "fiction", "metadata": {"author": "A", "title":
         "A long title indeed", "url": "u"}, "context": "Once upon a time.", "question": Q, "question_type": "x",
         "answers": LIST, "correct_answer_id": 1},
        "two", context="Once upon a time.", hidden=("metadata",),
    ),
    "quality": Case(
        {"article": "A long story.", "question": Q, "options": LIST, "answer": 1, "hard": True}, "two", "A long story."
    ),
    "quality_labels": Case(
        {"article": "A long story.", "question": Q, "options": LIST, "gold_label": 2, "writer_label": 1,
         "question_unique_id": "5_A"},
        "two", context="A long story.",
    ),
    "quality_raw": Case(
        {"article_id": "5", "article": "A long story.", "questions": [
            {"question": Q, "options": LIST, "gold_label": 4, "writer_label": 1, "difficult": 0}]},
        "four", context="A long story.", hidden=("questions",),
    ),
    "bigbench": Case(
        {"idx": 0, "inputs": Q, "targets": ["two"], "multiple_choice_targets": LIST, "multiple_choice_scores":
         [0, 1, 0, 0]},
        "two",
    ),
    "bigbench_listed": Case(
        {"inputs": f"{Q}\n  choice: two\n  choice: one\nA:", "targets": ["one"],
         "multiple_choice_targets": ["one", "two"], "multiple_choice_scores": [1, 0]},
        "one", hidden=("inputs",),
    ),
    "supergpqa": Case(
        {"uuid": "u", "question": Q, "options": LIST, "answer": "three", "answer_letter": "C", "discipline": "Law",
         "field": "f", "subfield": "s", "difficulty": "hard", "is_calculation": False},
        "three", subject="Law",
    ),
    "kaggle_llm": Case({"id": 0, "prompt": Q, **named("{}", [*LIST, "five"], "ABCDE"), "answer": "E"}, "five"),
    "head_qa": Case(
        {"name": "Cuaderno", "year": "2013", "category": "biology", "qid": 1, "qtext": Q, "ra": 3, "answers":
         [{"aid": i + 1, "atext": text} for i, text in enumerate(LIST)]},
        "three", subject="biology",
    ),
    "dream": Case(
        {"id": 0, "dialogue_id": "5", "dialogue": ["M: Hello there.", "W: Hi."], "question": Q, "choice": LIST[:3],
         "answer": "two"},
        "two", context="M: Hello there.\nW: Hi.",
    ),
    "musr": Case(
        {"narrative": "A dark night it was.", "question": Q, "choices": "['one', 'two']", "answer_index": 1,
         "answer_choice": "two"},
        "two", context="A dark night it was.", hidden=("choices",),
    ),
    "science_qa": Case(
        {"image": None, "question": Q, "choices": LIST, "answer": 0, "hint": "Look at the plant.", "task": "t",
         "grade": "g", "subject": "law", "topic": "t", "skill": "Name the parts", "lecture": "A plant has parts.",
         "solution": "It is one."},
        "one", context="Look at the plant.", subject="law", hidden=("lecture", "solution", "skill"),
    ),
}  # fmt: skip


def read(row, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".* is not in the prompts")
        warnings.filterwarnings("ignore", message="answer_base")
        return as_questions([row], **options)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_right_choice(case):
    (question,) = read(case.row)
    assert (None if question.answer is None else question.choices[question.answer]) == case.right
    assert (question.question, question.context, question.subject) == (case.question, case.context, case.subject)
    assert is_question_layout(case.row)


@pytest.mark.parametrize("nested", [json.dumps, str])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_right_choice_in_a_table(case, nested, tmp_path):
    """A CSV file holds lists and objects as JSON, or as Python writes them."""
    cells = {
        name: "" if value is None else nested(value) if isinstance(value, list | dict) else value
        for name, value in case.row.items()
    }
    with (tmp_path / "q.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(cells))
        table.writeheader()
        table.writerow(cells)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (question,) = load_questions(tmp_path / "q.csv")
    (expected,) = read(case.row)
    assert (question.question, question.choices) == (expected.question, expected.choices)
    assert question.answer == expected.answer


def test_every_layout_has_a_case():
    assert {id(layout_of(case.row)) for case in CASES.values()} == {id(layout) for layout in LAYOUTS.values()}


@pytest.mark.parametrize(
    ("name", "columns", "found"),
    [
        ("hellaswag", {"subject": "activity_label"}, {"subject": "Removing ice from a car"}),
        ("boolq", {"context": "passage"}, {}),
        ("race", {"context": "article"}, {}),
        ("mmlu_redux_corrected_by_text", {"subject": "error_type"}, {"subject": "wrong_groundtruth"}),
    ],
)
def test_a_mapped_column_still_marks_its_layout(name, columns, found):
    (plain,), (mapped,) = read(CASES[name].row), read(CASES[name].row, columns=columns)
    assert mapped == replace(plain, **found)


def texts(value):
    if isinstance(value, dict):
        return [text for part in value.values() for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return [value] if isinstance(value, str) else []


@given(st.data())
@settings(max_examples=30)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_text_is_lost(case, data):
    """Whatever words a row has in the columns that are shown, they are in the question."""
    words = st.text(st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=0x24F), min_size=3, max_size=12)
    row = json.loads(json.dumps(case.row))
    for name, value in row.items():
        if name in case.hidden or name not in (layout_of(row).question, *layout_of(row).context_columns(row)):
            continue
        if isinstance(value, str):
            row[name] = f"{value} {data.draw(words)}"
        elif isinstance(value, list):
            row[name] = [f"{part} {data.draw(words)}" for part in value]
    (question,) = read(row)
    shown = "\n".join([question.question, question.context or "", *question.choices])
    for name in (layout_of(row).question, *layout_of(row).context_columns(row)):
        if name not in case.hidden:
            assert all(text in shown for text in texts(row.get(name)))
    assert (None if question.answer is None else question.choices[question.answer]) == case.right


@pytest.mark.parametrize("error", ["wrong_groundtruth", "no_correct_answer", "multiple_correct_answers"])
def test_a_question_of_mmlu_redux_without_a_right_answer_is_a_bad_row(error):
    row = {**CASES["mmlu_redux_ok"].row, "error_type": error, "correct_answer": "something else"}
    with pytest.raises(QuestionError, match=f"row 0: column 'error_type': '{error}', and 'correct_answer' is 'someth"):
        read(row)


def test_a_question_with_several_right_targets_is_a_bad_row():
    for name, column in (("bigbench", "multiple_choice_scores"), ("truthful_qa", "mc1_targets")):
        row = dict(CASES[name].row)
        marks = [1, 1, 0, 0]
        row[column] = {"choices": LIST, "labels": marks} if column == "mc1_targets" else marks
        with pytest.raises(QuestionError, match="2 of the choices are marked as right"):
            read(row)


def test_a_passage_without_choices_needs_an_answer_that_is_true_or_false():
    with pytest.raises(QuestionError, match="row 0: column 'answer': 'in 1990' is neither true nor false"):
        read({"question": "When?", "passage": "It was then.", "answer": "in 1990"})


def test_an_article_with_several_questions():
    asked = [{"question": f"Q{i}", "options": LIST, "gold_label": i} for i in (1, 2, 3)]
    asked[1]["options"] = ["one", ""]
    with pytest.raises(QuestionError, match=r"row 0, question 1: column 'options': choice B is ''"):
        read({"article": "A story.", "questions": asked})
    with pytest.warns(UserWarning, match="skipped 1 of 3 rows"):
        found = as_questions([{"article": "A story.", "questions": asked}], on_bad_row="skip")
    assert [(q.question, q.context, q.answer) for q in found] == [("Q1", "A story.", 0), ("Q3", "A story.", 2)]


def test_an_article_with_lists_of_the_questions_parts():
    row = {"article": "A story.", "questions": ["Q1", "Q2"], "options": [LIST, LIST[::-1]], "answers": ["A", "D"]}
    for columns in (None, {"answer": "answers"}):
        found = as_questions([{**row, "id": "high1.txt"}], columns=columns)
        assert [(q.question, q.context, q.choices[q.answer]) for q in found] == [
            ("Q1", "A story.", "one"),
            ("Q2", "A story.", "one"),
        ]
    with pytest.raises(QuestionError, match=r"^columns: 'id', given for 'subject', is not a column of the questions "):
        as_questions([{**row, "id": "high1.txt"}], columns={"subject": "id"})


@pytest.mark.parametrize("name", ["gpqa", "sciq", "truthful_qa"])
def test_the_place_of_the_right_choice_depends_on_the_row_alone(name):
    layout = layout_of(CASES[name].row)
    rows = [{**CASES[name].row, layout.question: f"Question {i}?"} for i in range(60)]
    found = as_questions(rows)
    places = [question.answer for question in found]
    assert set(places) == {0, 1, 2, 3}
    assert all(question.choices[question.answer] == "one" for question in found)
    assert list(as_questions(rows[::-1]))[::-1] == found
    assert as_questions(rows[5:6]) == found[5:6]


def test_boolq_in_a_table():
    rows = [{"question": "is it", "passage": "Text.", "answer": answer} for answer in ("True", "FALSE", "yes", "")]
    assert [question.answer for question in as_questions(rows)] == [1, 0, 1, None]
