"""The datasets of a script, by name: what is read, and what is said of what cannot be."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
from datasets import Dataset, DatasetDict

from hf_calib.hub import dataset_reference
from hf_calib.scripts.arguments import QuestionArguments
from hf_calib.scripts.data import (
    PREFERENCE_COLUMNS,
    DatasetError,
    calibration_questions,
    check_dataset,
    load_splits,
    published_name,
    text_columns,
    training_datasets,
    training_questions,
)
from tests.examples.scripts import write
from tests.support import pairs, question_rows

PAIRS = [
    {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
    {"prompt": "Not available is", "chosen": "NA", "rejected": "1.50"},
]


def arguments(name, **options):
    script = {
        "dataset_name": None if name is None else str(name), "dataset_config": None, "dataset_streaming": False,
        "dataset_train_split": "train", "dataset_test_split": "test", "eval_calibration_dataset": None,
        **{field.name: field.default for field in fields(QuestionArguments) if field.name not in options},
    }  # fmt: skip
    trainer = {"eval_strategy": options.pop("eval_strategy", "no")}
    return SimpleNamespace(**{**script, **options}), SimpleNamespace(**trainer)


def read_training(name, formats, **options):
    return training_datasets(*arguments(name, **options), SimpleNamespace(datasets=[]), formats)


def read_pairs(name, **options):
    return read_training(name, PREFERENCE_COLUMNS, **options)


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, suffix):
    path = write(tmp_path / f"pairs{suffix}", PAIRS)
    splits = load_splits(str(path))
    assert list(splits) == ["train"]
    assert list(splits["train"]) == PAIRS


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_a_folder_has_the_splits_of_its_files(tmp_path, suffix):
    write(tmp_path / f"train{suffix}", list(pairs(4)))
    write(tmp_path / f"test{suffix}", list(pairs(2, seed=1)))
    train, held_out = read_pairs(tmp_path, eval_strategy="steps")
    assert list(train) == list(pairs(4))
    assert list(held_out) == list(pairs(2, seed=1))
    assert read_pairs(tmp_path)[1] is None


def test_a_folder_written_by_save_to_disk_is_read(tmp_path):
    DatasetDict({"train": pairs(3), "test": pairs(2)}).save_to_disk(tmp_path / "both")
    pairs(3).save_to_disk(tmp_path / "one")
    assert len(load_splits(str(tmp_path / "both"))["test"]) == 2
    assert len(load_splits(str(tmp_path / "one"))["train"]) == 3


def test_a_stream_is_checked_too(tmp_path):
    path = write(tmp_path / "pairs.jsonl", PAIRS)
    train, _ = read_pairs(path, dataset_streaming=True)
    assert list(train) == PAIRS
    path = write(tmp_path / "bad.jsonl", [{"prompt": "a", "chosn": "b", "rejected": "c"}])
    with pytest.raises(DatasetError, match="'chosn' for 'chosen'"):
        read_pairs(path, dataset_streaming=True)


def test_a_test_split_is_needed_unless_there_are_calibration_questions(tmp_path):
    path = write(tmp_path / "pairs.jsonl", PAIRS)
    with pytest.raises(DatasetError, match=r"no split 'test'; it has train; choose one with --dataset_test_split"):
        read_pairs(path, eval_strategy="steps")
    assert read_pairs(path, eval_strategy="steps", eval_calibration_dataset="questions.jsonl")[1] is None
    with pytest.raises(DatasetError, match=r"no split 'training'; it has train; choose one with --dataset_train_spl"):
        read_pairs(path, dataset_train_split="training")


def test_a_misspelt_prompt_does_not_pass_for_pairs_without_prompts():
    rows = Dataset.from_list([{"promt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(DatasetError, match=r"the data has the columns .*\('promt' for 'prompt'\?\)"):
        check_dataset(rows, PREFERENCE_COLUMNS, "the data")
    check_dataset(Dataset.from_list([{"chosen": "b", "rejected": "c"}]), PREFERENCE_COLUMNS, "the data")
    other = {"prompt_id": "7", "chosen": "b", "rejected": "c", "score_chosen": 1.0}
    check_dataset(Dataset.from_list([other]), PREFERENCE_COLUMNS, "the data")


@pytest.mark.parametrize("columns", [("body",), ("messages",), ("prompt", "completion"), ("conversations",)])
def test_the_formats_of_text_are_those_of_trl(columns):
    check_dataset(Dataset.from_list([dict.fromkeys(columns, "x")]), text_columns("body"), "the data")


def test_the_text_field_is_the_one_that_was_set():
    with pytest.raises(DatasetError, match=r"expected 'prompt' and 'completion'; or 'messages'; or .* or 'body'"):
        check_dataset(Dataset.from_list([{"text": "x"}]), text_columns("body"), "the data")


def test_a_missing_field_is_named_with_its_row(tmp_path):
    path = write(tmp_path / "pairs.jsonl", [*PAIRS, {"prompt": "a", "chosen": "b"}, {"chosen": "b", "prompt": "c"}])
    with pytest.raises(DatasetError, match=r"row 2, counted from 0: 'rejected' is missing, as in 1 more row"):
        read_pairs(path)
    shuffled = load_splits(str(path))["train"].select([2, 0])
    with pytest.raises(DatasetError, match=r"row 0, counted from 0: 'rejected' is missing; complete"):
        check_dataset(shuffled, PREFERENCE_COLUMNS, "the data")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_an_empty_file_is_refused(tmp_path, suffix):
    (tmp_path / f"empty{suffix}").touch()
    with pytest.raises(DatasetError, match=r"empty.* is empty; give a dataset with at least one row"):
        read_pairs(tmp_path / f"empty{suffix}")


def test_a_table_without_rows_is_refused(tmp_path):
    (tmp_path / "header.csv").write_text("prompt,chosen,rejected\n")
    with pytest.raises(DatasetError, match=r"header\.csv holds no row"):
        read_pairs(tmp_path / "header.csv")


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file or folder './none'"):
        load_splits("./none")
    (tmp_path / "notes.txt").write_text("a")
    with pytest.raises(DatasetError, match=r"notes\.txt': datasets are read from \.jsonl"):
        load_splits(str(tmp_path / "notes.txt"))
    with pytest.raises(DatasetError, match=r"holds no \.jsonl"):
        load_splits(str(tmp_path))
    (tmp_path / "broken.jsonl").write_text('{"prompt": "a", \n')
    with pytest.raises(DatasetError, match=r"broken\.jsonl cannot be read as jsonl"):
        load_splits(str(tmp_path / "broken.jsonl"))
    write(tmp_path / "pairs.csv", PAIRS)
    with pytest.raises(DatasetError, match=r"holds both \.csv and \.jsonl files; give one"):
        load_splits(str(tmp_path))
    with pytest.raises(DatasetError, match="dataset_config 'main' is given, but"):
        load_splits(str(tmp_path / "pairs.csv"), config="main")
    with pytest.raises(DatasetError, match="no training data; give --dataset_name"):
        read_pairs(None)


def test_a_card_names_a_local_dataset_without_its_place(tmp_path):
    path = write(tmp_path / "pairs.jsonl", PAIRS)
    assert published_name(str(path)) == "pairs.jsonl"
    assert published_name("trl-lib/ultrafeedback_binarized") == "trl-lib/ultrafeedback_binarized"
    assert published_name(None) is None


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_questions_are_told_from_text(tmp_path, suffix):
    path = write(tmp_path / f"questions{suffix}", question_rows(3))
    assert training_questions(*arguments(path)) == (str(path), None)
    evaluated = arguments(path, eval_strategy="steps", dataset_test_split="train")
    assert training_questions(*evaluated) == (str(path), str(path))
    with pytest.raises(DatasetError, match="has no split 'validation'; it has train; choose one with --dataset_train"):
        training_questions(*arguments(path, dataset_train_split="validation"))
    path = write(tmp_path / f"text{suffix}", [{"text": "a"}])
    assert training_questions(*arguments(path)) is None


def test_a_folder_of_questions_has_splits(tmp_path):
    write(tmp_path / "train.jsonl", question_rows(3))
    write(tmp_path / "test.jsonl", question_rows(2, seed=1))
    train, held_out = training_questions(*arguments(tmp_path, eval_strategy="steps"))
    assert [question.question for question in train] == [row["question"] for row in question_rows(3)]
    assert len(held_out) == 2
    assert training_questions(*arguments(tmp_path))[1] is None


OWN = [{"stem": "Which?", "opts": ["w", "x"], "gold": 1}, {"stem": "", "opts": ["w", "x"], "gold": 2}]


def test_questions_are_left_for_the_trainer_to_read():
    asked = QuestionArguments(calibration_dataset="a/b:c:train", eval_calibration_dataset="a/b:c:test")
    assert calibration_questions(asked) == {
        "calibration_dataset": "a/b:c:train", "eval_calibration_dataset": "a/b:c:test", "em_dataset": None,
    }  # fmt: skip


def test_questions_are_read_as_the_script_is_told(tmp_path):
    own = write(tmp_path / "own.jsonl", OWN)
    held_out = write(tmp_path / "held_out.jsonl", [{"stem": "Which?", "opts": ["w", "x"], "right": 0}])
    asked = QuestionArguments(
        calibration_dataset=str(own),
        em_dataset=str(own),
        eval_calibration_dataset=str(held_out),
        calibration_columns="question=stem,choices=opts,answer=gold",
        calibration_answer_base=1,
        eval_calibration_columns="question=stem,choices=opts,answer=right",
        eval_calibration_answer_base=0,
    )
    with pytest.raises(ValueError, match=r"own.jsonl, line 2: column 'stem'"):
        calibration_questions(asked)
    asked.calibration_on_bad_row = "skip"
    with pytest.warns(UserWarning, match="skipped 1 of 2"):
        found = calibration_questions(asked)
    assert [[question.answer for question in questions] for questions in found.values()] == [[0], [0], [0]]
    # A card says what was skipped.
    reference = dataset_reference(found["calibration_dataset"], 1)
    assert (reference.name, reference.size, reference.skipped) == ("own.jsonl", 1, 1)
    assert dataset_reference(found["eval_calibration_dataset"], 1).skipped is None


def test_questions_to_train_on_are_read_as_the_script_is_told(tmp_path):
    columns = "question=stem,choices=opts,answer=gold"
    path = write(tmp_path / "own.jsonl", OWN[:1])
    found, _ = training_questions(*arguments(path, calibration_columns=columns, calibration_answer_base=1))
    assert [question.answer for question in found] == [0]
    folder = tmp_path / "folder"
    folder.mkdir()
    write(folder / "train.jsonl", OWN[:1])
    write(folder / "test.jsonl", OWN[:1])
    options = {"calibration_columns": columns, "calibration_answer_base": 0, "eval_strategy": "steps"}
    assert [part[0].answer for part in training_questions(*arguments(folder, **options))] == [1, 1]
