import csv
import json

import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, IterableDataset, List, Value
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.tasks import Question, QuestionError, as_questions, load_questions
from tests.support import question_rows, questions

ROWS = question_rows(6, choices=(4, 3))
QUESTIONS = questions(6, choices=(4, 3))
RETURNS = 'Which\nof these, "quoted",\tis it? Ünïcode ∑ 漢\u2028字'


def write(path, rows=ROWS):
    """Write rows in the way that the file's name says, and return its path."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows({**row, "choices": json.dumps(row["choices"])} for row in rows)
    return path


@pytest.fixture(params=[".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def suffix(request):
    return request.param


def test_files_of_every_kind(tmp_path, suffix):
    assert load_questions(write(tmp_path / f"data{suffix}")) == QUESTIONS


def test_a_path_as_text(tmp_path, suffix):
    assert as_questions(str(write(tmp_path / f"data{suffix}"))) == QUESTIONS


def test_suffixes_in_capitals(tmp_path, suffix):
    write(tmp_path / f"data{suffix}").rename(tmp_path / f"DATA{suffix.upper()}")
    assert load_questions(tmp_path / f"DATA{suffix.upper()}") == QUESTIONS


def test_texts_are_read_exactly(tmp_path, suffix):
    row = {"question": RETURNS, "choices": [RETURNS, 'no, "never"\r\n'], "answer": 0, "subject": "a,b"}
    (question,) = load_questions(write(tmp_path / f"data{suffix}", [row]))
    assert question == Question(RETURNS, tuple(row["choices"]), 0, "a,b")


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_any_text_survives_a_table(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("table") / "data.csv"
    row = {"question": f"Q{text}", "choices": [f"x{text}", f"y{text}"], "answer": 1}
    assert load_questions(write(path, [row])) == [Question(row["question"], tuple(row["choices"]), 1)]


def test_an_option_a_column_with_a_byte_order_mark(tmp_path):
    path = tmp_path / "spreadsheet.csv"
    path.write_bytes("\ufeffquestion,A,B,C,answer\r\nWhich?,yes,no,,B\r\n\r\nWhat?,1,2,3,C\r\n".encode())
    assert load_questions(path) == [Question("Which?", ("yes", "no"), 1), Question("What?", ("1", "2", "3"), 2)]


@pytest.mark.parametrize("name", ["data.jsonl", "data.json"])
def test_json_with_a_byte_order_mark(tmp_path, name):
    path = write(tmp_path / name)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_questions(path) == QUESTIONS


def test_one_object_a_line_in_a_file_called_json(tmp_path):
    assert load_questions(write(tmp_path / "data.jsonl").rename(tmp_path / "data.json")) == QUESTIONS


def test_blank_lines_are_no_rows(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS) + "\n \n")
    assert load_questions(path) == QUESTIONS


def test_parquet_in_the_layout_of_the_hub(tmp_path):
    rows = [
        {"id": str(i), "question": "Q", "choices": {"text": ["w", "x"], "label": labels}, "answerKey": labels[1]}
        for i, labels in enumerate((["A", "B"], ["1", "2"]))
    ]
    assert load_questions(write(tmp_path / "data.parquet", rows)) == 2 * [Question("Q", ("w", "x"), 1)]


def test_numbered_from_one(tmp_path):
    rows = [{"question": "Q", "choices": ["w", "x"], "answer": answer} for answer in (1, 2)]
    path = write(tmp_path / "data.jsonl", rows)
    assert [question.answer for question in load_questions(path, answer_base=1)] == [0, 1]
    assert [question.answer for question in load_questions(path)] == [0, 1]
    with pytest.raises(QuestionError, match=r"data.jsonl, line 2: column 'answer': .* pass --answer-base 1"):
        load_questions(path, answer_base=0)


def test_limit(tmp_path, suffix):
    path = write(tmp_path / f"data{suffix}")
    found = load_questions(path, limit=2)
    assert found == [QUESTIONS[row] for row in found.draw.rows]
    everything = load_questions(path, limit=100)
    assert everything == QUESTIONS
    assert everything.draw is None


def test_a_limit_draws_at_random_from_all_rows_in_their_order(tmp_path):
    rows = [
        {"question": f"Q{number}", "choices": ["w", "x"], "answer": number % 2, "subject": f"s{number // 50}"}
        for number in range(100)
    ]
    path = write(tmp_path / "data.jsonl", rows)
    names = {seed: [own.question for own in load_questions(path, limit=20, seed=seed)] for seed in (0, 1)}
    assert names[0] != names[1]
    assert [own.question for own in load_questions(path, limit=20)] == names[0]
    found = load_questions(path, limit=20)
    assert {own.subject for own in found} == {"s0", "s1"}
    assert list(found.draw.rows) == sorted(found.draw.rows)
    assert [own.question for own in found] == [f"Q{row}" for row in found.draw.rows]
    assert (found.draw.of, found.draw.subjects, found.draw.seed) == (100, 2, 0)
    assert set(names[0]) < {own.question for own in load_questions(path, limit=50)}
    assert as_questions(load_questions(path), limit=20) == as_questions(rows, limit=20) == found


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_is_none(tmp_path, limit):
    with pytest.raises(ValueError, match=f"at least 1; got {limit}"):
        load_questions(write(tmp_path / "data.jsonl"), limit=limit)


def test_answers_are_counted_from_0_or_1(tmp_path):
    with pytest.raises(ValueError, match="0 or 1; got 2"):
        load_questions(write(tmp_path / "data.jsonl"), answer_base=2)
    with pytest.raises(ValueError, match="0 or 1; got -1"):
        as_questions(ROWS, answer_base=-1)


# Files that are not what they seem


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"question": "Q"\n', r"a.jsonl, line 1, column 17: Expecting"),
        (
            "a.jsonl",
            b'{"question": "Q", "choices": ["w", "x"]}\n[1]\n',
            r"a.jsonl, line 2: expected an object .* \[1\]",
        ),
        ("a.jsonl", b'{"question": ' + b"9" * 5000 + b"}", r"a.jsonl, line 1: Exceeds the limit"),
        (
            "a.jsonl",
            b'{"question": "Q", "choices": ["w", "x"], "answer": 3}',
            r"line 1: column 'answer': the answer 3",
        ),
        ("a.json", b"[1, 2]", r"a.json, row 0: expected an object with columns, found 1"),
        ("a.json", b'{"question": ["Q"]}', r"a.json holds one dict; expected a list of rows"),
        ("a.json", b'"Q"', r"a.json holds one str; expected a list"),
        ("a.json", b'[{"question": "Q"},\n oops]', r"a.json, line 2, column 2: Expecting value"),
        ("a.json", b"[]\nrubbish", r"a.json, line 2, column 1: Extra data"),
        ("a.json", b"[" * 100_000, r"a.json: .*recursion"),
        ("a.csv", b"question,A,B\nQ,w\n", r"a.csv, line 2: 2 fields, but there are the 3 columns question, A, B"),
        ("a.csv", b"question,A,B\nQ,w,x,y\n", r"a.csv, line 2: 4 fields, but there are the 3 columns"),
        (
            "a.csv",
            b'question,A,B\n"Q\nQ",w,x\n"Q,w,x\n',
            r"a.csv, line 4: unexpected end of data; check the quotation",
        ),
        ("a.csv", b'question,A,B\n"Q\nQ",w,x\n"Q"Q,w,x\n', r"a.csv, line 4: ',' expected after '\"'"),
        ("a.csv", b'question,A,B,answer\n"Q\n\nQ",w,x,A\n\n"Q\nQ",w,x,Z\n', r"a.csv, line 6: column 'answer': .*'Z'"),
        ("a.csv", b"question,A,A,B\nQ,v,w,x\n", r"a.csv, line 1: the column 'A' appears more than once"),
        ("a.csv", b"question;A;B\nQ;w;x\n", r"a.csv, line 1: 'question;A;B' is a single .* with ',' instead of ';'"),
        ("a.csv", b"question\tA\tB\nQ\tw\tx\n", r"a.csv, line 1: .* with ',' instead of '.t'"),
        ("a.tsv", b"question,A,B\nQ,w,x\n", r"a.tsv, line 1: .* with '.t' instead of ','"),
        ("a.csv", b"question,mc1_targets\nQ,rubbish\n", r"line 2: column 'mc1_targets': found 'rubbish'; expected an"),
        ("a.csv", b"question,A,B,Answer\nQ,w,x,A\n", r"a.csv, line 2: column 'Answer' looks like the answers"),
        ("a.csv", b"2 + 2?,3,4,5,6,B\n3 + 3?,6,4,5,7,A\n", r"a.csv, line 2: no layout .* the header line is missing"),
        ("a.csv", b"2 + 2?,3,4,4,6,B\n3 + 3?,6,4,5,7,A\n", r"a.csv, line 1: .* the header line is missing"),
        ("a.csv", b"question,A,B\nQ," + b"w" * 200_000 + b",x\n", r"a.csv, line 2: field larger than field limit"),
        ("a.parquet", b"not that", r"a.parquet: .*[Pp]arquet"),
        ("a.jsonl", '{"question": "für"}'.encode("latin-1"), r"a.jsonl is not in UTF-8 \(byte 0xfc"),
        ("a.json", '[{"question": "für"}]'.encode("latin-1"), r"a.json is not in UTF-8"),
        (
            "a.csv",
            "question,A,B\nfür,w,x\n".encode("latin-1"),
            r"a.csv is not in UTF-8 \(byte 0xfc .*save it as UTF-8",
        ),
        ("a.csv", "question,A,B\nQ,w,x\n".encode("utf-16"), r"a.csv is not in UTF-8"),
        ("a.txt", b"Q", r"a.txt': questions are read from .jsonl, .json, .csv, .tsv, .parquet files"),
        ("a.jsonl", b"", r"a.jsonl holds no question; give a dataset with at least one row"),
        ("a.json", b"", r"a.json holds no question"),
        ("a.json", b"[]", r"a.json holds no question"),
        ("a.csv", b"", r"a.csv holds no question"),
        ("a.csv", b"question,A,B\n", r"a.csv holds no question"),
    ],
)
def test_the_file_and_the_place_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(QuestionError, match=message):
        load_questions(tmp_path / name)


def test_a_row_of_a_parquet_file_is_named(tmp_path):
    path = write(tmp_path / "data.parquet", [*ROWS, {**ROWS[0], "answer": 9}])
    with pytest.raises(QuestionError, match=r"data.parquet, row 6: column 'answer': the answer 9 is outside"):
        load_questions(path)


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.CSV", "./missing", "/missing", "~/missing"])
def test_a_path_with_nothing_there(name):
    with pytest.raises(FileNotFoundError, match=f"no file or folder '{name}'"):
        load_questions(name)


def test_options_of_the_hub_are_not_ignored_for_files(tmp_path):
    path = write(tmp_path / "data.jsonl")
    with pytest.raises(ValueError, match=r"config and split given, but '.*data.jsonl' is on disk and has none"):
        load_questions(path, config="all", split="test")
    with pytest.raises(ValueError, match="revision given"):
        load_questions(tmp_path, revision="main")


# Folders


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    write(tmp_path / "b.csv", ROWS[2:4])
    write(tmp_path / "c.jsonl", ROWS[4:])
    write(tmp_path / "a.parquet", ROWS[:2])
    (tmp_path / "README.md").write_text("# Questions")
    (tmp_path / "dataset_infos.json").write_text('{"default": {"description": ""}}')
    (tmp_path / "._a.parquet").write_bytes(b"another system's")
    (tmp_path / "z.json").mkdir()
    assert load_questions(tmp_path) == QUESTIONS


def test_a_folder_with_several_splits_is_not_read_as_one(tmp_path):
    for name, rows in (("arc_train", ROWS[:2]), ("arc_test", ROWS[2:]), ("validation-0-of-1", ROWS[:1])):
        write(tmp_path / f"{name}.jsonl", rows)
    with pytest.raises(
        QuestionError, match=r"has the splits test, train, validation; say which one: give the path of its file, or"
    ):
        load_questions(tmp_path)
    assert load_questions(tmp_path, split="train") == QUESTIONS[:2]
    assert load_questions(tmp_path, split="test") == QUESTIONS[2:]
    assert load_questions(tmp_path, split="dev") == QUESTIONS[:1]


def test_a_folder_with_one_split_in_parts(tmp_path):
    write(tmp_path / "test-00000-of-00002.parquet", ROWS[:3])
    write(tmp_path / "test-00001-of-00002.parquet", ROWS[3:])
    assert load_questions(tmp_path) == load_questions(tmp_path, split="test") == QUESTIONS
    with pytest.raises(QuestionError, match=r"has no split 'train'; it has test"):
        load_questions(tmp_path, split="train")


def test_an_unsplit_folder_has_no_splits(tmp_path):
    write(tmp_path / "latest.jsonl")  # a word that contains the name of a split
    assert load_questions(tmp_path) == QUESTIONS
    with pytest.raises(QuestionError, match=r"has no split 'test'; it has none"):
        load_questions(tmp_path, split="test")


def test_a_folder_without_questions(tmp_path):
    (tmp_path / "README.md").write_text("# Nothing")
    with pytest.raises(QuestionError, match=r"holds no .jsonl, .json, .csv, .tsv, .parquet file"):
        load_questions(tmp_path)


def test_a_saved_dataset(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert load_questions(tmp_path / "saved") == QUESTIONS
    with pytest.raises(QuestionError, match="is one saved dataset and has no split 'test'"):
        load_questions(tmp_path / "saved", split="test")
    with pytest.raises(ValueError, match=r"saved:test: '.*saved' is a local folder, and a split after a colon"):
        load_questions(f"{tmp_path / 'saved'}:test")
    with pytest.raises(QuestionError, match=r"saved, row 0: column 'answer'"):
        load_questions(tmp_path / "saved", answer_base=1)


def test_a_saved_dataset_of_splits(tmp_path):
    DatasetDict(train=Dataset.from_list(ROWS[:2]), test=Dataset.from_list(ROWS[2:])).save_to_disk(tmp_path / "saved")
    with pytest.raises(QuestionError, match="has the splits train, test; say which one"):
        load_questions(tmp_path / "saved")
    assert load_questions(tmp_path / "saved", split="test") == QUESTIONS[2:]
    assert load_questions(tmp_path / "saved" / "train") == QUESTIONS[:2]


# The Hub


@pytest.fixture
def hub(monkeypatch):
    """Datasets by (name, config); `asked` collects what `load_dataset` was asked for."""
    asked = []
    train, test = (Dataset.from_list(rows) for rows in (ROWS[:2], ROWS[2:]))

    def load_dataset(name, config=None, *, split=None, revision=None):
        asked.append((name, config, split, revision))
        splits = DatasetDict(test=test) if name == "one/split" else DatasetDict(train=train, test=test)
        return splits if split is None else splits[split.partition("[")[0]]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("name", "options", "asked"),
    [
        ("cais/mmlu:all:test", {}, ("cais/mmlu", "all", "test", None)),
        ("cais/mmlu::test", {}, ("cais/mmlu", None, "test", None)),
        ("cais/mmlu:all:test[:100]", {}, ("cais/mmlu", "all", "test[:100]", None)),
        ("cais/mmlu", {"config": "all", "split": "test"}, ("cais/mmlu", "all", "test", None)),
        ("cais/mmlu:all", {"split": "test", "revision": "v1"}, ("cais/mmlu", "all", "test", "v1")),
        ("one/split", {}, ("one/split", None, None, None)),
    ],
)
def test_datasets_of_the_hub(hub, name, options, asked):
    loaded = load_questions(name, **options)
    assert loaded == QUESTIONS[2:]
    assert hub == [asked]
    own, config, split, _ = asked
    assert loaded.source == (own if split is None else f"{own}:{config or ''}:{split}")


def test_the_split_must_be_said_where_there_are_several(hub):
    with pytest.raises(
        QuestionError, match=r"cais/mmlu has the splits train, test; say which one, .*cais/mmlu:all:tr"
    ):
        load_questions("cais/mmlu:all")


def test_a_row_of_a_dataset_of_the_hub_is_named(hub):
    with pytest.raises(QuestionError, match=r"^cais/mmlu, row \d: column 'answer'"):
        load_questions("cais/mmlu:all:train", answer_base=1)


# What is in memory


def test_rows_questions_and_datasets_in_memory():
    dataset = Dataset.from_list(ROWS)
    for source in (ROWS, iter(ROWS), tuple(QUESTIONS), dataset, dataset.with_format("numpy")):
        assert as_questions(source) == QUESTIONS


@pytest.mark.parametrize(
    "rows", [question_rows(2), Dataset.from_list(question_rows(2)), pd.DataFrame(question_rows(2))]
)
def test_rows_in_memory_are_no_path(rows):
    with pytest.raises(
        TypeError, match=rf"^name_or_path: .* {type(rows).__name__}; pass rows in memory to as_questions"
    ):
        load_questions(rows)


def test_a_dataset_of_tensors():
    assert as_questions(Dataset.from_list(ROWS).with_format("torch")) == QUESTIONS


def test_an_iterable_dataset():
    assert as_questions(IterableDataset.from_generator(lambda: iter(ROWS))) == QUESTIONS
    assert as_questions(Dataset.from_list(ROWS).to_iterable_dataset()) == QUESTIONS


def test_class_labels_as_in_mmlu():
    features = Features(
        question=Value("string"),
        choices=List(Value("string")),
        answer=ClassLabel(names=list("ABCD")),
        subject=Value("string"),
    )
    assert as_questions(Dataset.from_list(ROWS, features=features)) == QUESTIONS


@pytest.mark.parametrize("nested", [{"text": List(Value("string")), "label": List(Value("string"))}, None])
def test_labelled_choices_as_datasets_decode_them(nested):
    nested = nested or List({"text": Value("string"), "label": Value("string")})
    choices = [{"text": w, "label": label} for w, label in (("w", "1"), ("x", "2"))]
    if isinstance(nested, dict):
        choices = {"text": ["w", "x"], "label": ["1", "2"]}
    dataset = Dataset.from_list(
        [{"question": "Q", "choices": choices, "answerKey": "2"}],
        features=Features(question=Value("string"), choices=nested, answerKey=Value("string")),
    )
    assert as_questions(dataset) == [Question("Q", ("w", "x"), 1)]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"train": ROWS, "test": ROWS}, r"mapping with the keys \['test', 'train'\]; choose one of its splits"),
        (DatasetDict(test=Dataset.from_list(ROWS)), r"mapping with the keys \['test'\]"),
        (5, "a dataset, a list of rows or a path, got int"),
        (None, "got NoneType"),
        ([*ROWS, "text"], "row 6 of the questions is a str, expected a mapping of columns"),
        ([QUESTIONS[0], ROWS[0]], "row 0 of the questions is a Question, expected a mapping"),
    ],
)
def test_sources_that_hold_no_questions(source, message):
    with pytest.raises(TypeError, match=message):
        as_questions(source)


def test_an_empty_dataset():
    for source in ([], Dataset.from_list([])):
        with pytest.raises(QuestionError, match="the dataset holds no question; give a dataset with at least one row"):
            as_questions(source)
