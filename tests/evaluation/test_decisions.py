"""Typed decisions measured: the benchmark's figures, its reference rows, temperatures, and the command."""

import json

import numpy as np
import pytest

from hf_calib import measure_decisions
from hf_calib.cli import main
from hf_calib.confidence import LocalDecisions, LocalModel, read_temperatures, save_temperatures
from hf_calib.confidence.decisions import Decided
from hf_calib.evaluation import fit_temperatures
from hf_calib.evaluation.decisions import prior_answers
from hf_calib.reports import DecisionMeasurement
from hf_calib.tasks import PromptFormat, QuestionError, TypedDecisions
from tests.support import byte_level_tokenizer, tiny_llama

WORKFLOWS = ("agents", "customers", "invoices", "incidents")


def benchmark(n=400, seed=0):
    """Cases in the shape of the benchmark's test set: of 400 cases 600 choices, 600 nouls and 800 scores."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        workflow = WORKFLOWS[number % 4]
        kinds = ["choice"] * (1 + number % 2) + ["noul"] * (2 - number % 2) + ["score"] * 2
        questions, gold = {}, {}
        for place, kind in enumerate(kinds):
            name = f"{workflow} {kind} {place}"
            options = {"choice": ["a", "b", "c", "d"], "noul": ["false", "true"], "score": ["0", "1", "2", "3"]}[kind]
            criteria = {"choice": dict.fromkeys(options), "noul": None, "score": ["none", "low", "mid", "high"]}[kind]
            questions[name] = {"type": kind, "instructions": f"Question {place}?", "criteria": criteria}
            p = rng.dirichlet(np.linspace(2.0, 1.0, len(options)))
            gold[name] = {"probabilities": dict(zip(options, p.tolist(), strict=True))}
        rows.append(
            {"id": str(number), "workflow": workflow, "state": {"n": number}, "questions": questions, "gold": gold}
        )
    return TypedDecisions(rows)


def measured(cases, probabilities):
    return DecisionMeasurement("m", cases, probabilities, [None] * len(probabilities))


def test_the_figures_are_the_benchmarks():
    cases = benchmark(100)
    rng = np.random.default_rng(3)
    answers = [tuple(rng.dirichlet(np.ones(len(own.options)))) for own in cases.decisions]
    figures = measured(cases, answers).figures
    right, kl, brier, top = [], [], [], []
    for own, p in zip(cases.decisions, answers, strict=True):
        right.append(own.gold[int(np.argmax(p))] == max(own.gold))
        kl.append(sum(g * np.log(g / max(q, 1e-9)) for g, q in zip(own.gold, p, strict=True)))
        brier.append(sum((g - q) ** 2 for g, q in zip(own.gold, p, strict=True)))
        top.append(max(p))
    bins = np.minimum((np.array(top) * 10).astype(int), 9)
    ece = sum(abs(np.sum(np.array(right)[bins == b]) - np.sum(np.array(top)[bins == b])) for b in range(10)) / len(top)
    assert figures["accuracy"].value == pytest.approx(np.mean(right))
    assert figures["kl_from_gold"].value == pytest.approx(np.mean(kl))
    assert figures["brier"].value == pytest.approx(np.mean(brier))
    assert figures["ece"].value == pytest.approx(ece)
    assert all(own.low < own.value < own.high for own in figures.values())


def test_the_reference_rows_on_data_of_the_benchmarks_shape():
    training, cases = benchmark(1200, seed=1), benchmark()
    assert {kind: sum(own.type == kind for own in cases.decisions) for kind in ("choice", "noul", "score")} == {
        "choice": 600,
        "noul": 600,
        "score": 800,
    }
    gold = [own.gold for own in cases.decisions]
    perfect = DecisionMeasurement("gold", cases, gold, [None] * 2000, prior=prior_answers(training, cases))
    uniform, prior = perfect.references["uniform"].measures, perfect.references["prior"].measures
    kl = np.mean([np.log(len(g)) + sum(q * np.log(q) for q in g) for g in gold])
    assert uniform["kl_from_gold"].value == pytest.approx(kl)
    brier = np.mean([sum((q - 1 / len(g)) ** 2 for q in g) for g in gold])
    assert uniform["brier_from_gold"].value == pytest.approx(brier)
    # Without a preference the first option is taken.
    assert uniform["accuracy"].value == pytest.approx(np.mean([g[0] == max(g) for g in gold]))
    # The prior knows what is usual, which the uniform answer does not.
    assert prior["kl_from_gold"].value < uniform["kl_from_gold"].value
    assert prior["accuracy"].value >= uniform["accuracy"].value
    assert prior["ece"].value == pytest.approx(abs(prior["accuracy"].value - prior["confidence"].value), abs=0.02)
    assert perfect.report.accuracy.value == 1.0
    assert perfect.report.kl_from_gold.value == pytest.approx(0, abs=1e-12)
    text = str(perfect)
    assert "(uniform)" in text
    assert "(prior)" in text
    with pytest.raises(QuestionError, match="no training case has the question"):
        prior_answers(benchmark(1), cases)


def test_the_prior_matches_options_by_name():
    question = {"type": "choice", "instructions": "x", "criteria": {"a": None, "b": None}}
    turned = {**question, "criteria": {"b": None, "a": None}}
    gold = {"q": {"probabilities": {"a": 0.9, "b": 0.1}}}
    training = TypedDecisions([{"state": "s", "questions": {"q": question}, "gold": gold}])
    cases = TypedDecisions([{"state": "s", "questions": {"q": turned}, "gold": gold}])
    assert prior_answers(training, cases)[0] == pytest.approx((0.1, 0.9))


def test_results_by_type_and_workflow(tmp_path):
    cases = benchmark(40)
    rng = np.random.default_rng(0)
    answers = [tuple(rng.dirichlet(np.ones(len(own.options)))) for own in cases.decisions]
    result = measured(cases, answers)
    assert {name: own.n for name, own in result.by_type.items()} == {"choice": 60, "noul": 60, "score": 80}
    assert {name: own.n for name, own in result.by_workflow.items()} == dict.fromkeys(WORKFLOWS, 50)
    assert "score_error" in result.by_type["score"].measures
    assert "score_error" not in result.by_type["noul"].measures
    result.save(tmp_path)
    saved = json.loads((tmp_path / "decisions.json").read_text())
    assert saved["figures"]["ece"]["value"] == pytest.approx(result.report.ece.value)
    assert set(saved["by_type"]) == {"choice", "noul", "score"}
    rows = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    assert rows[1]["answers"]["customers choice 0"]["gold"].keys() == {"a", "b", "c", "d"}
    with pytest.raises(QuestionError, match="has no gold answer"):
        measured(
            TypedDecisions([{"state": "s", "questions": {"q": {"type": "noul", "instructions": "x"}}}]), [(0.5, 0.5)]
        )


def test_temperatures_calibrate_each_type_and_keep_every_answer(tmp_path):
    rng = np.random.default_rng(0)
    cases, sharp = benchmark(400), {"choice": 3.0, "noul": 0.5, "score": 2.0}
    rows, answers = [], []
    for case in cases:
        labels = {own.name: own.options[rng.choice(len(own.options), p=own.gold)] for own in case.decisions}
        rows.append(
            {
                "state": case.state,
                "workflow": case.workflow,
                "questions": {own.name: own.to_dict() for own in case.decisions},
                "gold": labels,
            }
        )
        for own in case.decisions:
            p = np.array(own.gold) ** sharp[own.type]
            answers.append(tuple(p / p.sum()))
    drawn = TypedDecisions(rows)
    before = measured(drawn, answers)
    found = fit_temperatures(before)
    for kind, power in sharp.items():
        assert found[kind] == pytest.approx(power, rel=0.2)

    class Backend:
        def decide(self, cases, asking=None):
            from hf_calib.confidence.decisions import scaled

            given = iter(answers)
            return [
                [Decided(scaled(np.array(next(given)), found[own.type])) for own in case.decisions] for case in cases
            ]

    after = measure_decisions(Backend(), drawn)
    assert after.report.ece.value < 0.5 * before.report.ece.value
    assert after.report.accuracy.value == before.report.accuracy.value
    save_temperatures(found, tmp_path)
    assert read_temperatures(tmp_path) == found
    for content, message in (
        ('{"box": 1.0}', "no question type 'box'"),
        ('{"noul": -1}', "must be a positive number"),
        ('{"noul": "1"}', "must be a positive number"),
        ("[1]", "expected one number per question type"),
        ("{", "is invalid JSON"),
    ):
        (tmp_path / "decision_temperatures.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_temperatures(tmp_path)
    with pytest.raises(FileNotFoundError, match="temperatures: there is no file"):
        read_temperatures(tmp_path / "none.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decisions")
    tokenizer = byte_level_tokenizer(chat=True)
    tiny_llama(tokenizer, positions=2048).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    with (folder / "cases.jsonl").open("w") as file:
        for case in benchmark(12):
            gold = {
                own.name: {"probabilities": dict(zip(own.options, own.gold, strict=True))} for own in case.decisions
            }
            row = {
                "id": case.name,
                "workflow": case.workflow,
                "state": case.state,
                "questions": {own.name: own.to_dict() for own in case.decisions},
                "gold": gold,
            }
            file.write(json.dumps(row) + "\n")
    return folder


def local(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    return LocalModel(AutoModelForCausalLM.from_pretrained(folder / "model"), tokenizer)


def test_rotations_are_averaged_in_the_options_own_order(folder):
    source, cases = local(folder), benchmark(2)
    (case, _) = LocalDecisions(source, n_orders=10).decide(cases)
    for own, decision in zip(case, cases[0].decisions, strict=True):
        k = len(decision.options)
        total = np.zeros(k)
        for shift in range(k):
            order = np.roll(np.arange(k), -shift)
            turned = (
                {decision.options[place]: decision.criteria[decision.options[place]] for place in order}
                if (decision.type == "choice")
                else None
            )
            if turned is None:
                continue
            question = {"type": "choice", "instructions": decision.instructions, "criteria": turned}
            ((answer,),) = LocalDecisions(source).decide(
                TypedDecisions([{"state": cases[0].state, "questions": {"q": question}}])
            )
            total[order] += np.array(answer.probabilities) / k
        if decision.type == "choice":
            np.testing.assert_allclose(own.probabilities, total, atol=1e-5)
        assert sum(own.probabilities) == pytest.approx(1)


def test_the_command_measures_resumes_and_reads_the_temperatures_next_to_the_weights(folder, tmp_path, capsys):
    arguments = [
        "measure", "--task", "typed-decisions", "--model", str(folder / "model"), "--dataset",
        str(folder / "cases.jsonl"), "--json",
    ]  # fmt: skip
    assert main([*arguments, "--out", str(tmp_path / "out"), "--fail-if", "kl_from_gold>0"]) == 3
    plain = json.loads(capsys.readouterr().out)
    assert plain["decisions"] == 60
    assert plain["run"]["temperatures"] == {}
    assert (tmp_path / "out" / "decisions.jsonl").is_file()
    save_temperatures({"choice": 2.0, "noul": 0.5}, folder / "model")
    try:
        assert main(arguments) == 0
    finally:
        (folder / "model" / "decision_temperatures.json").unlink()
    scaled = json.loads(capsys.readouterr().out)
    assert scaled["run"]["temperatures"] == {"choice": 2.0, "noul": 0.5}
    assert scaled["by_type"]["score"]["measures"] == plain["by_type"]["score"]["measures"]
    assert scaled["by_type"]["noul"]["measures"]["confidence"] != plain["by_type"]["noul"]["measures"]["confidence"]
    assert (
        main([*arguments[:-1], "--chat-template", "--limit", "3", "--n-orders", "2", "--prior-from", arguments[6]])
        == 0
    )
    out = capsys.readouterr().out
    assert "3 cases, 15 decisions" in out
    assert "(prior)" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--confidence", "text"], "--confidence: does not apply to typed decisions"),
        (["--few-shot", "2"], "few_shot: does not apply to typed decisions"),
        (["--permute-options"], "permute_options: does not apply"),
        (["--temperatures", "none.json"], "there is no file 'none.json'"),
        (["--max-length", "20"], "longer than 20 tokens"),
    ],
)
def test_what_does_not_apply_is_refused(folder, more, message, capsys):
    arguments = ["--model", str(folder / "model"), "--dataset", str(folder / "cases.jsonl")]
    assert main(["measure", "--task", "typed-decisions", *arguments, *more]) == 1
    error = capsys.readouterr().err
    assert message.replace("few_shot", "--few-shot").replace("permute_options", "--permute-options") in error


def test_options_of_typed_decisions_are_refused_for_questions(folder, capsys):
    assert main(["measure", "--model", "m", "--dataset", "d", "--temperatures", "t"]) == 1
    assert "--temperatures: does not apply to multiple-choice questions" in capsys.readouterr().err


def test_a_prompt_through_the_chat_template_begins_with_the_state(folder):
    cases = benchmark(1)
    source = local(folder)
    item = source.encoder.labels(cases[0].questions(), PromptFormat(chat=True))[0]
    assert source.tokenizer.decode(item.input_ids).startswith('<|user|>\n{"n": 0}\nQuestion: ')
