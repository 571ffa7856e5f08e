"""How a command's datasets are read: columns by name, the answers' base, and rows that cannot be read."""

import json

import pytest

from hf_calib.cli import main
from hf_calib.confidence import predict
from hf_calib.tasks import load_questions
from tests.support import question_rows, tiny_llama

READING = ["--columns", "question=stem,choices=a+b+c+d,answer=gold,context=text", "--answer-base", "1",
           "--on-bad-row", "skip"]  # fmt: skip
COLUMNS = {"question": "stem", "choices": ("a", "b", "c", "d"), "answer": "gold", "context": "text"}

pytestmark = pytest.mark.filterwarnings("ignore:.*skipped")


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reading")
    tiny_llama(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    for name, seed in (("own", 0), ("other", 1)):
        with (folder / f"{name}.jsonl").open("w") as file:
            for number, row in enumerate(question_rows(24, seed=seed)):
                own = {"stem": row["question"], "gold": row["answer"] + 1, "text": "A text."}
                own |= dict(zip("abcd", row["choices"], strict=True))
                file.write(json.dumps(own | ({"b": ""} if number in (2, 5) else {})) + "\n")
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def result_of(capsys):
    return json.loads(capsys.readouterr().out)


def test_measure(folder, tokenizer, tmp_path, capsys):
    path = folder / "own.jsonl"
    arguments = ["measure", "--model", folder / "model", "--dataset", path, *READING]
    assert run(*arguments, "--json", "--out", tmp_path / "out") == 0
    result = result_of(capsys)
    expected = load_questions(path, columns=COLUMNS, answer_base=1, on_bad_row="skip")
    measures = predict(tiny_llama(tokenizer), tokenizer, expected).report().measures
    assert result["measures"]["nll"]["value"] == pytest.approx(measures["nll"].value, abs=1e-6)
    assert (result["n"], result["run"]["datasets"][str(path)]["skipped_rows"]) == (22, 2)
    assert "rows left out" in (tmp_path / "out" / "report.html").read_text()
    assert run(*arguments) == 0
    assert "2 rows could not be read and were left out" in " ".join(capsys.readouterr().out.split())


def test_rows_that_cannot_be_read_are_named(folder, capsys):
    path = folder / "own.jsonl"
    assert run("measure", "--model", folder / "model", "--dataset", path, *READING[:4]) == 1
    error = capsys.readouterr().err
    assert f"2 rows of {path} cannot be read" in error
    assert "line 3: columns 'a', 'b', 'c', 'd': choice B is ''" in error
    assert "line 6: " in error
    assert "--on-bad-row skip" in error


def test_without_a_mapping_one_is_suggested(folder, capsys):
    assert run("measure", "--model", folder / "model", "--dataset", folder / "own.jsonl") == 1
    assert "pass --columns question=stem,choices=a+b+c+d,answer=gold" in capsys.readouterr().err


def test_compare_calibrate_and_diagnose(folder, tmp_path, capsys):
    path, other = folder / "own.jsonl", folder / "other.jsonl"
    assert run("compare", folder / "model", f"{folder}/./model", "--dataset", path, *READING, "--json") == 0
    assert result_of(capsys)["skipped_rows"] == {str(path): 2}
    command = ["calibrate", "--model", folder / "model", "--dataset", path, "--out", tmp_path / "c", "--folds", "2"]
    assert run(*command, *READING, "--json") == 0
    assert result_of(capsys)["skipped_rows"] == {str(path): 2}
    command = ["diagnose", "--model", folder / "model", "--dataset", path, "--held-out", other]
    assert run(*command, *READING, "--json") == 0
    assert result_of(capsys)["skipped_rows"] == {str(path): 2, str(other): 2}


def test_a_task_and_few_shot_examples(folder, tmp_path, capsys):
    path = folder / "own.jsonl"
    command = ["lm-eval-task", "--dataset", path, "--name", "own", "--out", tmp_path, "--few-shot", "2"]
    assert run(*command, "--few-shot-dataset", folder / "other.jsonl", *READING, "--json") == 0
    found = result_of(capsys)
    assert (found["n"], found["skipped_rows"]) == (22, 2)


def test_options_that_cannot_be(folder, capsys):
    command = ["measure", "--model", folder / "model", "--dataset", folder / "own.jsonl"]
    with pytest.raises(SystemExit):
        run(*command, "--columns", "stem")
    assert "columns: 'stem' is not FIELD=COLUMN" in capsys.readouterr().err
    assert run(*command, "--free-form", "exact", "--confidence", "consistency", "--answer-base", "1") == 1
    assert "--free-form has none" in capsys.readouterr().err
