"""What lighteval and Inspect saved, read back: probabilities, answers, and what cannot be read."""

import json
import zipfile

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from hf_calib.cli import main
from hf_calib.confidence.recorded_inspect import read_inspect
from hf_calib.confidence.recorded_lighteval import read_lighteval
from hf_calib.tasks.questions import QuestionError

LOGS = np.log([[0.6, 0.1, 0.2], [0.05, 0.3, 0.25]])


def details(logs=LOGS, gold=(0, 2), **changes):
    rows = []
    for number, (values, answer) in enumerate(zip(logs, gold, strict=True)):
        doc = {"query": f"Question {number}?", "choices": [" red", " green", " blue"], "gold_index": [answer]}
        rows.append(
            {
                "doc": {**doc, **changes},
                "model_response": {"logprobs": list(values), "text": []},
                "metric": {"acc": 1.0},
            }
        )
    return rows


def write_details(path, rows):
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("around", ["", "__"])
def test_lighteval(around, tmp_path):
    rows = [{f"{around}{name}{around}": value for name, value in row.items()} for row in details()]
    name = "details_lighteval|arc:easy|0_2026-05-01T10-00-00.123456.parquet"
    write_details(tmp_path / name, rows)
    (recorded,) = read_lighteval([tmp_path]).values()
    assert list(read_lighteval([tmp_path / name])) == ["lighteval|arc:easy|0"]
    np.testing.assert_allclose(recorded.predictions.option_log_probabilities, LOGS)
    assert recorded.predictions.answers.tolist() == [0, 2]
    assert not recorded.predictions.has_mass
    letters = write_details(tmp_path / "letters.parquet", details(choices=[" A", " B", " C"]))
    (recorded,) = read_lighteval([letters]).values()
    assert recorded.predictions.has_mass
    assert recorded.predictions.option_mass == pytest.approx([0.9, 0.6])
    (recorded,) = read_lighteval([tmp_path / name]).values()
    assert recorded.questions[1].question == "Question 1?"
    assert recorded.questions[1].choices == ("red", "green", "blue")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"example": "old"}], "lighteval 0.10 or newer"),
        (details(logs=LOGS[:, :2]), "row 0: 3 choices have 2 log-probabilities"),
        (details(gold_index=[0, 1]), "expected the index of exactly one choice"),
        (details(gold=(0, 3)), "row 1: the answer 3 is outside the 3 options"),
    ],
)
def test_lighteval_that_cannot_be_read(rows, message, tmp_path):
    with pytest.raises(QuestionError, match=message):
        read_lighteval([write_details(tmp_path / "details_x.parquet", rows)])


def test_lighteval_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no details_\*\.parquet"):
        read_lighteval([tmp_path])
    write_details(tmp_path / "details_x_2026-05-01T10-00-00.1.parquet", details())
    write_details(tmp_path / "details_x_2026-05-02T10-00-00.1.parquet", details())
    with pytest.raises(QuestionError, match="'x' occurs in two files"):
        read_lighteval([tmp_path])


def token(text, **letters):
    top = [{"token": f" {letter}", "logprob": float(np.log(p))} for letter, p in letters.items()]
    return {"token": text, "logprob": -0.1, "top_logprobs": top or None}


def sample(tokens=None, *, name=1, epoch=1, target="B", answer="B"):
    output = {"choices": [{"logprobs": None if tokens is None else {"content": tokens}}]}
    return {
        "id": name, "epoch": epoch, "input": f"Question {name}?", "choices": ["red", "green", "blue"],
        "target": target, "output": output, "scores": {"choice": {"value": "C", "answer": answer}},
    }  # fmt: skip


SAID = [token("A"), token(" guess. "), token("ANSWER"), token(": "), token(" B", A=0.1, B=0.7, C=0.05)]


def write_log(path, samples, **run):
    header = {"eval": {"task": "colours", **run}}
    if path.suffix == ".json":
        path.write_text(json.dumps({**header, "samples": samples}))
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("header.json", json.dumps(header))
            for own in samples:
                file.writestr(f"samples/{own['id']}_epoch_{own['epoch']}.json", json.dumps(own))
    return path


@pytest.mark.parametrize("suffix", [".json", ".eval"])
def test_inspect_with_log_probabilities(suffix, tmp_path):
    samples = [sample(SAID), sample([token("C", A=0.2, C=0.5, B=0.1)], name=2, target=["A"], answer="C")]
    recorded = read_inspect([write_log(tmp_path / f"log{suffix}", samples)])["colours"]
    expected = np.log([[0.1, 0.7, 0.05], [0.2, 0.1, 0.5]])
    np.testing.assert_allclose(recorded.predictions.option_log_probabilities, expected)
    assert recorded.predictions.answers.tolist() == [1, 0]
    assert recorded.questions[0].choices == ("red", "green", "blue")


def test_inspect_samples_are_in_the_datasets_order(tmp_path):
    said = [token("B", A=0.2, B=0.7, C=0.1)]
    samples = [sample(said, name=name) for name in range(1, 13)]
    expected = [f"Question {name}?" for name in range(1, 13)]
    for suffix in (".json", ".eval"):
        recorded = read_inspect([write_log(tmp_path / f"log{suffix}", samples)])["colours"]
        assert [own.question for own in recorded.questions] == expected
    ids = [7, 3, *(name for name in range(1, 13) if name not in (3, 7))]
    recorded = read_inspect([write_log(tmp_path / "log.eval", samples, dataset={"sample_ids": ids})])["colours"]
    assert [own.question for own in recorded.questions] == [f"Question {name}?" for name in ids]


def test_inspect_letters_that_were_not_returned_have_no_probability(tmp_path):
    log = write_log(tmp_path / "log.json", [sample([token("B", A=0.2, B=0.7)])])
    with pytest.warns(UserWarning, match="of 1 samples not all letters are among the returned tokens"):
        recorded = read_inspect([log])["colours"]
    assert recorded.predictions.option_log_probabilities[0, 2] == -np.inf


def test_inspect_epochs_are_samples(tmp_path):
    epochs = [sample(name=1, epoch=i + 1, answer=answer) for i, answer in enumerate(["B", "B", "A", "nothing"])]
    with pytest.warns(UserWarning, match="1 of 4 replies do not answer with an option's letter"):
        recorded = read_inspect([write_log(tmp_path / "log.eval", epochs)])["colours"]
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(recorded.predictions.option_log_probabilities, np.log([[0.25, 0.5, 0.0]]))
    assert recorded.predictions.option_mass[0] == pytest.approx(0.75)
    for own in epochs:
        own["scores"] = None
    with pytest.raises(QuestionError, match="sample 1: it was not scored"):
        read_inspect([write_log(tmp_path / "log.json", epochs)])


def test_inspect_epochs_and_log_probabilities_are_not_mixed(tmp_path):
    samples = [sample(SAID), sample(SAID, epoch=2), sample(SAID, name=2)]
    with pytest.raises(QuestionError, match="sample 2: it has 1 epoch, and other samples have up to 2; run inspect"):
        read_inspect([write_log(tmp_path / "log.json", samples)])


def test_inspect_scorers_without_an_answer_do_not_count(tmp_path):
    latency = {"latency": {"value": 0.3, "answer": None}}
    epochs = [sample(epoch=1 + number) for number in range(3)]
    for own in [*epochs, shuffled := sample(SAID, answer="A"), read := sample(SAID)]:
        own["scores"] |= latency
    recorded = read_inspect([write_log(tmp_path / "log.json", epochs)])["colours"]
    assert recorded.predictions.probabilities.tolist() == [[0, 1, 0]]
    with pytest.raises(QuestionError, match="the choices were shuffled"):
        read_inspect([write_log(tmp_path / "log.json", [shuffled])])
    read_inspect([write_log(tmp_path / "log.json", [read])])
    read_inspect([write_log(tmp_path / "log.json", [{**read, "scores": latency}])])
    epochs[0]["scores"]["second"] = {"answer": "A"}
    with pytest.raises(QuestionError, match="sample 1: its scorers read different answers, A and B"):
        read_inspect([write_log(tmp_path / "log.json", epochs)])


def test_inspect_samples_with_the_same_id_are_not_taken_for_epochs(tmp_path):
    with pytest.raises(QuestionError, match=r"sample 1: it occurs several times in an epoch \(epochs \[1, 1\]\)"):
        read_inspect([write_log(tmp_path / "log.json", [sample(SAID), sample(SAID)])])


def test_an_inspect_run_that_did_not_finish_is_said(tmp_path):
    log = write_log(tmp_path / "log.json", [sample(SAID)])
    log.write_text(json.dumps({**json.loads(log.read_text()), "status": "error"}))
    with pytest.warns(UserWarning, match="did not finish .* only the 1 samples"):
        read_inspect([log])


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (sample(), "no log-probabilities and only one epoch"),
        (sample(SAID, answer="A"), "the choices were shuffled"),
        (sample(SAID, target="D"), "'D' is not the letter of one of 3 choices"),
        (sample([token("A"), token("B")]), "2 tokens of the reply 'AB' may be the answer"),
        ({**sample(SAID), "output": {"choices": []}}, r"sample 1: there is no reply; run inspect eval-retry"),
        (
            {**sample(SAID), "output": None, "error": {"message": "timeout"}},
            r"sample 1: there is no reply \('timeout'\); run",
        ),
        (sample([{**token("B"), "top_logprobs": [{"token": "B", "logprob": None}]}]), "not as Inspect writes it"),
    ],
)
def test_inspect_that_cannot_be_read(own, message, tmp_path):
    with pytest.raises(QuestionError, match=message):
        read_inspect([write_log(tmp_path / "log.json", [own])])


def test_what_is_no_log(tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(QuestionError, match="is not a log of Inspect"):
        read_inspect([tmp_path / "other.json"])
    with pytest.raises(FileNotFoundError, match=r"no \*\.eval or \*\.json at"):
        read_inspect([tmp_path / "none.eval"])


def test_the_command_reads_both(tmp_path, capsys):
    write_details(tmp_path / "details_x.parquet", details())
    write_log(tmp_path / "log.json", [sample(SAID), sample(SAID, name=2, target="A")])
    for words, accuracy in (
        (["--from-lighteval", str(tmp_path / "details_x.parquet")], 0.5),
        (["--from-inspect", str(tmp_path / "log.json")], 0.5),
    ):
        assert main(["measure", *words, "--json"]) == 0
        state = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert state["n"] == 2
        assert state["measures"]["accuracy"]["value"] == accuracy
