"""Question sets in dataset repositories, laid out as the benchmarks that people use are."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from hf_calib.hub import dataset_reference
from hf_calib.tasks import as_questions

LAYOUTS = {
    "lab/mmlu": (
        "all",
        [
            {"question": "One?", "subject": "algebra", "choices": ["a", "b", "c", "d"], "answer": 2},
            {"question": "Two?", "subject": "law", "choices": ["e", "f", "g", "h"], "answer": 0},
        ],
        [2, 0],
    ),
    "lab/openbookqa": (
        "main",
        [
            {
                "id": "7-1",
                "question_stem": "One?",
                "choices": {"text": ["a", "b", "c", "d"], "label": ["A", "B", "C", "D"]},
                "answerKey": "B",
            }
        ],
        [1],
    ),
    # datasets' own cache has this one's name in snake case.
    "lab/ARC-Tasks": (
        "ARC-Challenge",
        [
            {
                "id": "x",
                "question": "One?",
                "choices": {"text": ["a", "b", "c"], "label": ["1", "2", "3"]},
                "answerKey": "3",
            }
        ],
        [2],
    ),
}
READ = """
import json, sys
from datasets import load_dataset
from hf_calib.hub import dataset_reference
from hf_calib.tasks import as_questions, load_questions
read = {}
for name, config in json.loads(sys.argv[1]).items():
    dataset = load_dataset(name, config, split="test")
    questions = load_questions(f"{name}:{config}:test")
    assert as_questions(dataset) == questions
    named, given = dataset_reference(f"{name}:{config}:test"), dataset_reference(dataset)
    assert named == given, (named, given)
    read[name] = {"rows": list(dataset), "answers": [q.answer for q in questions], "revision": named.revision}
print(json.dumps(read))
"""


def parquet(rows):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


@pytest.fixture
def commits(client):
    """Each set with its test split and another, in a configuration beside another one; and its commit."""
    commits = {}
    for name, (config, rows, _) in LAYOUTS.items():
        splits = [{"split": split, "path": f"{config}/{split}-*"} for split in ("train", "test")]
        other = [{"split": "test", "path": "other/test-*"}]
        card = {
            "configs": [{"config_name": config, "data_files": splits}, {"config_name": "other", "data_files": other}]
        }
        files = {
            f"{config}/{split}-00000-of-00001.parquet": parquet(rows * n) for split, n in (("train", 3), ("test", 1))
        }
        files["other/test-00000-of-00001.parquet"] = parquet(rows * 2)
        repository = client.add(name, {"README.md": f"---\n{json.dumps(card)}\n---\n", **files}, "dataset")
        commits[name] = repository.branches["main"]
    return commits


def test_layouts_of_the_benchmarks_load_from_the_hub(client, commits, tmp_path):
    environment = {**os.environ, **client.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    wanted = json.dumps({name: config for name, (config, _, _) in LAYOUTS.items()})
    command = [sys.executable, "-c", READ, wanted]
    for offline in ("0", "1"):  # and once more from the cache
        environment["HF_HUB_OFFLINE"] = offline
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        for name, read in json.loads(done.stdout.splitlines()[-1]).items():
            assert read == {"rows": LAYOUTS[name][1], "answers": LAYOUTS[name][2], "revision": commits[name]}


def test_sets_that_are_on_no_hub(tmp_path):
    rows = LAYOUTS["lab/mmlu"][1]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert str(dataset_reference(path, 2)) == "questions.jsonl"
    in_memory = dataset_reference(as_questions(rows), 2)
    assert (in_memory.name, in_memory.revision, in_memory.size) == ("in-memory-questions", None, 2)
    # Neither the name of the file's format, which datasets calls it by, nor one that no cache confirms.
    read = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    assert str(dataset_reference(read, 2)) == "in-memory-questions, train"
    file = {"filename": f"/cache/lab___arc-tasks/main/0.0.0/{'a' * 40}/arc-tasks-test.arrow"}
    assert str(dataset_reference(SimpleNamespace(split="test", cache_files=[file]))) == "in-memory-questions, test"
