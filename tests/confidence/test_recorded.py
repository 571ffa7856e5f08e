"""Predictions read from files: our own, tables, lm-evaluation-harness's and HELM's."""

import json

import numpy as np
import pytest

from hf_calib.confidence import predict
from hf_calib.confidence.recorded import Recorded, read_predictions, write_predictions
from hf_calib.confidence.recorded_helm import read_helm
from hf_calib.confidence.recorded_lm_eval import read_lm_eval
from hf_calib.reports import Measurement
from hf_calib.tasks import QuestionError
from tests.support import questions

ASKED = questions(7, choices=(4, 2, 3))


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_is_written_is_read_back(model, tokenizer, tmp_path):
    predictions = predict(model, tokenizer, ASKED)
    path = tmp_path / "predictions.parquet"
    write_predictions(path, {"one": Recorded(predictions, tuple(ASKED)), "two": Recorded(predictions, tuple(ASKED))})
    read = read_predictions(path)
    assert list(read) == ["one", "two"]
    for recorded in read.values():
        back = recorded.predictions
        np.testing.assert_array_equal(back.option_log_probabilities, predictions.option_log_probabilities)
        assert back.answers.tolist() == predictions.answers.tolist()
        assert back.rows.tolist() == predictions.rows.tolist()
        assert back.subjects == predictions.subjects
        assert [(q.question, q.choices, q.answer) for q in recorded.questions] == [
            (q.question, q.choices, q.answer) for q in ASKED
        ]


def test_the_parquet_file_has_the_columns_that_are_promised(model, tokenizer, tmp_path):
    import pyarrow.parquet

    predictions = predict(model, tokenizer, ASKED)
    write_predictions(tmp_path / "p.parquet", {"set": Recorded(predictions, tuple(ASKED))})
    rows = pyarrow.parquet.read_table(tmp_path / "p.parquet").to_pylist()
    assert len(rows) == 7
    for place, row in enumerate(rows):
        n = len(ASKED[place].choices)
        assert row["probabilities"] == predictions.probabilities[place, :n].tolist()
        assert row["option_mass"] == pytest.approx(predictions.option_mass[place])
        assert (row["answer"], row["subject"], row["row"]) == (ASKED[place].answer, ASKED[place].subject, place)
        assert row["correct"] == (row["predicted"] == row["answer"])


TABLES = {
    "list.jsonl": '{"probabilities": [0.7, 0.3], "answer": "A", "subject": "x"}\n'
    '{"probabilities": [0.1, 0.2, 0.7], "answer": 0, "subject": null}\n',
    "json.csv": 'probabilities,answer,subject\n"[0.7, 0.3]",A,x\n"[0.1,0.2,0.7]",0,\n',
    "columns.csv": "p_A,p_B,p_C,answer,subject\n0.7,0.3,,A,x\n0.1,0.2,0.7,0,\n",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_other_tools(tmp_path, name):
    (tmp_path / name).write_text(TABLES[name])
    (recorded,) = read_predictions(tmp_path / name).values()
    predictions = recorded.predictions
    np.testing.assert_allclose(predictions.probabilities, [[0.7, 0.3, 0], [0.1, 0.2, 0.7]])
    assert predictions.answers.tolist() == [0, 0]
    assert predictions.subjects == ("x", None)
    assert predictions.n_choices.tolist() == [2, 3]
    assert not predictions.has_mass


def test_a_question_that_occurs_twice_is_named_with_its_file(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [{"p_A": 1, "p_B": 0, "answer": 0, "row": 3}] * 2)
    with pytest.raises(QuestionError, match=r"p\.jsonl: the question of row 3 occurs twice"):
        read_predictions(path)


def test_answers_may_be_the_texts_of_choices(tmp_path):
    row = {"probabilities": [0.7, 0.3], "choices": ["Paris", "Rome"], "answer": "Rome", "predicted": "Rome"}
    path = write_lines(tmp_path / "p.jsonl", [row, row | {"question": "Capital of France?", "answer": "Paris"}])
    (recorded,) = read_predictions(path).values()
    assert recorded.predictions.answers.tolist() == [1, 0]
    assert recorded.predictions.predicted.tolist() == [1, 1]
    assert recorded.questions[1].answer == 0


def test_an_option_with_probability_nought_is_still_an_option(tmp_path):
    path = write_lines(tmp_path / "p.jsonl", [{"probabilities": [1.0, 0.0], "answer": 1, "option_mass": 0.5}])
    predictions = read_predictions(path)["p"].predictions
    assert predictions.n_choices.tolist() == [2]
    assert predictions.option_mass == pytest.approx([0.5])


@pytest.mark.parametrize(
    "row",
    [
        {"p_A": "1.0000000000000002", "p_B": "0.0"},
        {"p_A": "1.0000001", "p_B": "-1e-17"},
        {"probabilities": [1.0000000000000002, 0.0]},
        {"probabilities": [1.0, -1e-9], "option_mass": 1.0000000000000002},
    ],
)
def test_a_probability_a_hair_outside_counts_as_0_or_1(tmp_path, row):
    (recorded,) = read_predictions(write_lines(tmp_path / "p.jsonl", [{**row, "answer": "A"}])).values()
    assert recorded.predictions.probabilities.tolist() == [[1.0, 0.0]]
    assert recorded.predictions.option_mass.tolist() == [1.0]


def test_rounded_rows_are_normalized_and_that_is_said(tmp_path):
    (tmp_path / "p.csv").write_text("p_A,p_B,p_C,answer\n0.5,0.25,0.25,A\n0.333,0.333,0.333,B\n0.334,0.334,0.333,A\n")
    with pytest.warns(UserWarning, match=r"p.csv, line 3: the probabilities sum to 0.999, .* \(2 such row"):
        (recorded,) = read_predictions(tmp_path / "p.csv").values()
    np.testing.assert_allclose(recorded.predictions.probabilities[1], 1 / 3)


def test_rounded_zeros_have_finite_logits_in_their_order(tmp_path):
    (tmp_path / "p.csv").write_text("p_A,p_B,p_C,answer\n1.000,0.000,,B\n0.999,0.001,0.000,C\n0,0,1,A\n")
    (recorded,) = read_predictions(tmp_path / "p.csv").values()
    weights = np.exp(recorded.predictions.logits)
    np.testing.assert_allclose(weights, [[1, 1e-6, 0], [1, 0.001 / 0.999, 1e-6], [1e-6, 1e-6, 1]])
    assert recorded.predictions.probabilities[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"p_A": 1.01, "p_B": 0, "answer": 0}, "column 'p_A': 1.01 is not"),
        ({"p_A": 0.7, " p_B": 0.3, "answer": 0}, "there are spaces around the name of the column ' p_B'"),
        ({"p_A": 1, "p_B": 0, "answer": 0, "row": "abc"}, "column 'row': 'abc' is not a whole number"),
        ({"p_A": 1, "p_B": 0, "answer": 0, "row": 0.5}, "column 'row': 0.5 is not a whole number"),
        ({"p_A": 1, "p_B": 0, "answer": 0, "row": -1}, "column 'row': -1 is not a whole number"),
        ({"p_A": 0.99, "p_B": -0.001, "answer": 0}, "column 'p_B': -0.001 is not"),
        ({"probabilities": [0.504, 0.5], "answer": 0}, "sum to 1.004"),
        ({"probabilities": [0.5, 0.5], "answer": 0, "option_mass": 1.01}, "column 'option_mass': 1.01"),
        ({"answer": 0}, "no column 'probabilities'"),
        ({"p_A": 0.1, "p_C": 0.9, "answer": "C"}, "column 'p_B' is missing, but there is a column 'p_C'"),
        ({"p_B": 0.1, "p_C": 0.9, "answer": "C"}, "column 'p_A' is missing, but there is a column 'p_C'"),
        ({"probabilities": [0.5, 0.5]}, "no column 'answer'"),
        ({"probabilities": [0.5, 0.6], "answer": 0}, "sum to 1.1"),
        ({"probabilities": [0.5, "x"], "answer": 0}, "'x' is not a number"),
        ({"probabilities": [-0.5, 1.5], "answer": 0}, "not a number from 0 to 1"),
        ({"probabilities": [1.0], "answer": 0}, "at least two"),
        ({"probabilities": [0.5, 0.5], "answer": 2}, "outside the 2 choices, which are counted 0 to 1$"),
        ({"log_probabilities": [0.5, -1.0], "answer": 1}, "not a number from -inf to 0"),
        ({"probabilities": "0.5", "answer": 0}, "expected a list"),
        ({"probabilities": None, "answer": 0}, "column 'probabilities' is empty"),
        (
            {"p_A": 70, "p_B": 30, "answer": 0},
            "column 'p_A': 70 is not .*; give a probability or a share, not a percentage",
        ),
        (
            {"probabilities": [0.5, 0.5], "answer": 0, "flip_rate": 0.5},
            r"column 'flip_rate' has a value in this row but is empty in \S+p.jsonl, line 1; fill it in",
        ),
    ],
)
def test_wrong_rows_are_named(tmp_path, row, message):
    good = {"probabilities": [0.5, 0.5], "answer": 0}
    with pytest.raises(QuestionError, match=rf"line 2: .*{message}"):
        read_predictions(write_lines(tmp_path / "p.jsonl", [good, row]))


@pytest.mark.parametrize("column", ["option_mass", "flip_rate", "most_confident_correct"])
def test_a_number_that_a_row_lacks(tmp_path, column):
    rows = [{"probabilities": [0.5, 0.5], "answer": 0, "dataset": name} for name in "aab"]
    rows[0][column] = rows[1][column] = 0.5
    read_predictions(write_lines(tmp_path / "p.jsonl", rows))  # another dataset may lack it
    rows[2]["dataset"] = "a"
    with pytest.raises(
        QuestionError, match=rf"line 3: column '{column}' is empty in this row but has a value in \S+p.jsonl, line 1"
    ):
        read_predictions(write_lines(tmp_path / "p.jsonl", rows))


# lm-evaluation-harness


def sample(doc_id, target, scores, texts=None, *, choices=("x", "y", "z"), acc=None, context="Q: a?\nAnswer:"):
    texts = texts or [" " + letter for letter in "ABC"]
    best = scores.index(max(scores))
    return {
        "doc_id": doc_id,
        "doc": {"question": f"question {doc_id}", "choices": list(choices), "answer": target},
        "target": str(target),
        "arguments": {f"gen_args_{i}": {"arg_0": context, "arg_1": text} for i, text in enumerate(texts)},
        "resps": [[[str(score), "False"]] for score in scores],
        "filtered_resps": [[str(score), str(i == best)] for i, score in enumerate(scores)],
        "filter": "none",
        "acc": float(best == target) if acc is None else acc,
    }


def test_lm_eval_samples(tmp_path):
    name = "samples_mmlu_anatomy_2026-05-01T10-00-00.123456.jsonl"
    write_lines(tmp_path / name, [sample(1, 2, [-3.0, -2.0, -0.5]), sample(0, 1, [-1.0, -2.0, -4.0])])
    (task,) = read_lm_eval([tmp_path]).items()
    assert task[0] == "mmlu_anatomy"
    predictions = task[1].predictions
    np.testing.assert_array_equal(predictions.option_log_probabilities, [[-1, -2, -4], [-3, -2, -0.5]])
    assert predictions.answers.tolist() == [1, 2]
    assert predictions.subjects == ("mmlu_anatomy",) * 2
    assert predictions.has_mass
    assert task[1].questions[0].choices == ("x", "y", "z")


def test_options_texts_have_no_mass(tmp_path):
    texts = sample(0, 1, [-15.0, -14.0, -16.0], [" a red stone", " a blue stone", " sand"])
    (recorded,) = read_lm_eval([write_lines(tmp_path / "samples_texts.jsonl", [texts])]).values()
    assert not recorded.predictions.has_mass
    assert "probability on average" not in str(Measurement("m", {"texts": recorded}).report.verdict)
    contexts = sample(0, 1, [-1.0, -2.0], [" A", " A"])
    contexts["arguments"]["gen_args_1"]["arg_0"] = "Another context"
    (recorded,) = read_lm_eval([write_lines(tmp_path / "samples_contexts.jsonl", [contexts])]).values()
    assert not recorded.predictions.has_mass


def test_lm_eval_targets_may_be_texts_or_indices(tmp_path):
    texts = [" 1", " 2", " 0"]
    indices = [
        sample(i, i, scores, texts) for i, scores in enumerate([[-1.0, -2, -3], [-1.0, -2, -3], [-1.0, -2, -3]])
    ]
    path = write_lines(tmp_path / "samples_a.jsonl", indices)
    assert read_lm_eval([path])["a"].predictions.answers.tolist() == [0, 1, 2]
    by_text = [
        {**sample(0, 0, [-1.0, -2, -3], texts, acc=0.0), "target": "2"},
        {**sample(1, 0, [-1.0, -2, -3], texts, acc=1.0), "target": "1"},
    ]
    path = write_lines(tmp_path / "samples_b.jsonl", by_text)
    assert read_lm_eval([path])["b"].predictions.answers.tolist() == [1, 0]


def test_lm_eval_unconditional_requests_are_left_out(tmp_path):
    line = sample(0, 1, [-1.0, -2.0])
    line["arguments"] = {f"gen_args_{i}": {"arg_0": "" if i > 1 else "Q", "arg_1": " AB"[1:][i % 2]} for i in range(4)}
    line["filtered_resps"] = [["-1.0", "True"], ["-2.0", "False"], ["-5.0", "False"], ["-6.0", "False"]]
    predictions = read_lm_eval([write_lines(tmp_path / "samples_t.jsonl", [line])])["t"].predictions
    np.testing.assert_array_equal(predictions.option_log_probabilities, [[-1, -2]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filtered_resps": ["text"]}, "not log-likelihoods"),
        ({"doc_id": None}, "line 2: this is not a sample as lm-evaluation-harness logs it"),
        ({"arguments": None}, "line 2: this is not a sample as lm-evaluation-harness logs it"),
        ({"acc": "yes"}, "line 2: this is not a sample as lm-evaluation-harness logs it"),
        ({"target": "7"}, "'7' is neither the index nor the text"),
        ({"doc_id": 0}, r"samples_\S+\.jsonl: the question of row 0 occurs twice"),
        ({"filter": "other"}, "several filters"),
        ({"arguments": {}}, "0 requests have 3 responses"),
        ({"acc": 0.4}, "line 2: acc is 0.4, which suggests that several options are right"),
        ({"filtered_resps": [["nan", "False"]] * 3}, r"line 2: log-likelihoods contain NaN: \[nan, nan, nan\]"),
    ],
)
def test_lm_eval_lines_that_cannot_be_read(tmp_path, change, message):
    lines = [sample(0, 1, [-1.0, -2, -3]), {**sample(1, 1, [-1.0, -2, -3]), **change}]
    with pytest.raises(QuestionError, match=message):
        read_lm_eval([write_lines(tmp_path / "samples_t.jsonl", lines)])


# HELM


def instance(number, right=1):
    return {
        "id": f"id{number}",
        "input": {"text": f"question {number}"},
        "references": [
            {"output": {"text": text}, "tags": ["correct"] if index == right else []}
            for index, text in enumerate(("one", "two words"))
        ],
    }


def helm_run(tmp_path, method, requests, name="mmlu:subject=anatomy,model=m"):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "scenario_state.json").write_text(
        json.dumps({"adapter_spec": {"method": method}, "request_states": requests})
    )
    return tmp_path


def joint(number, top):
    return {
        "instance": instance(number),
        "output_mapping": {"A": "two words", "B": "one"},
        "result": {"completions": [{"text": " A", "tokens": [{"text": " A", "logprob": -0.1, "top_logprobs": top}]}]},
    }


def test_helm_joint(tmp_path):
    requests = [joint(0, {" A": -0.5, "A": -3.0, " B": -2.0}), joint(1, {" A": -2.0, " B": -0.5, " C": -4})]
    (recorded,) = read_helm(helm_run(tmp_path, "multiple_choice_joint", requests)).values()
    values = recorded.predictions.option_log_probabilities
    np.testing.assert_allclose(values, [[-2.0, np.logaddexp(-0.5, -3.0)], [-0.5, -2.0]])
    assert recorded.predictions.answers.tolist() == [1, 1]
    assert recorded.predictions.subjects == ("anatomy", "anatomy")
    assert recorded.predictions.has_mass


def test_helm_separate(tmp_path):
    def request(number, index, tokens):
        return {
            "instance": instance(number),
            "reference_index": index,
            "request_mode": "original",
            "result": {"completions": [{"tokens": [{"text": text, "logprob": value} for text, value in tokens]}]},
        }

    requests = [
        request(0, 0, [("question 0", -9.0), (" one", -1.5)]),
        request(0, 1, [("question 0", -9.0), (" two", -1.0), (" words", -0.25)]),
    ]
    (recorded,) = read_helm(helm_run(tmp_path, "multiple_choice_separate_original", requests)).values()
    np.testing.assert_allclose(recorded.predictions.option_log_probabilities, [[-1.5, -1.25]])
    assert not recorded.predictions.has_mass
    twice = helm_run(tmp_path / "mmlu:subject=anatomy,model=m", "multiple_choice_separate_original", requests * 2, "b")
    with pytest.raises(QuestionError, match="instance id0: option 0 was scored several times"):
        read_helm(twice / "b")


def test_helm_reads_each_question_once_and_without_perturbations(tmp_path):
    top = {" A": -0.5, " B": -2.0}
    perturbed = joint(0, {" A": -2.0, " B": -0.5})
    perturbed["instance"] = {**perturbed["instance"], "perturbation": {"name": "typos"}}
    (recorded,) = read_helm(helm_run(tmp_path, "multiple_choice_joint", [perturbed, joint(0, top)])).values()
    np.testing.assert_allclose(recorded.predictions.option_log_probabilities, [[-2.0, -0.5]])
    folder = helm_run(tmp_path, "multiple_choice_joint", [joint(0, top), joint(0, top)], "twice")
    with pytest.raises(QuestionError, match="instance id0: it was asked 2 times in one trial"):
        read_helm(folder / "twice")


@pytest.mark.parametrize(
    ("requests", "message"),
    [
        (None, "scenario_state.json is not a scenario state of HELM: TypeError"),
        ([1], "scenario_state.json is not a scenario state of HELM: AttributeError"),
        ([{}], "scenario_state.json is not a scenario state of HELM: KeyError"),
        ([{**joint(0, {}), "result": None}], "instance id0 is not as HELM writes it: TypeError"),
        ([joint(0, {" A": "x"})], "instance id0 is not as HELM writes it: ValueError"),
    ],
)
def test_helm_that_is_damaged(tmp_path, requests, message):
    with pytest.raises(QuestionError, match=message):
        read_helm(helm_run(tmp_path, "multiple_choice_joint", requests))


def test_helm_without_the_letters_probabilities(tmp_path):
    with pytest.raises(QuestionError, match="instance id0: the log-probability of B was not returned"):
        read_helm(helm_run(tmp_path, "multiple_choice_joint", [joint(0, {" A": -0.5})]))
    with pytest.raises(FileNotFoundError):
        read_helm(tmp_path / "nothing")
