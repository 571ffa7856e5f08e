"""Typed decisions measured: the benchmark's figures, its reference rows, temperatures, and the command."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from hf_calib import measure_decisions
from hf_calib.calibrators import GroupedTemperature, load_calibrator
from hf_calib.cli import main
from hf_calib.confidence import LocalDecisions, LocalModel, ServedDecisions
from hf_calib.evaluation import CalibratorMismatchWarning, fit_temperatures
from hf_calib.evaluation.decisions import decision_backend, prior_answers
from hf_calib.hub import save_calibration_metadata
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
    assert saved["references"]["uniform"]["measures"]["kl_from_gold"]["value"] == pytest.approx(
        np.mean([np.log(len(own.gold)) + sum(p * np.log(p) for p in own.gold if p > 0) for own in cases.decisions])
    )
    rows = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    assert len(rows) == 40
    assert rows[1]["answers"]["customers choice 0"]["gold"].keys() == {"a", "b", "c", "d"}
    with pytest.raises(QuestionError, match="has no gold answer"):
        measured(
            TypedDecisions([{"state": "s", "questions": {"q": {"type": "noul", "instructions": "x"}}}]), [(0.5, 0.5)]
        )


def test_labels_without_distributions_and_cases_without_a_workflow_are_told():
    noul, choice = {"type": "noul", "instructions": "x"}, {"type": "choice", "instructions": "y"}
    row = {"state": "s", "questions": {"n": noul, "c": {**choice, "criteria": {"a": None, "b": None}}}}
    gold = {"c": {"probabilities": {"a": 0.5, "b": 0.5}}, "n": "yes"}
    rows = [{**row, "gold": gold, "workflow": "w"}, {**row, "gold": gold}]
    result = measured(TypedDecisions(rows), [(0.5, 0.5)] * 4)
    assert "kl_from_gold" not in result.report.measures
    assert "kl_from_gold" in result.by_type["choice"].measures
    assert "2 of 4 decisions have a label but no gold distribution" in str(result)
    assert {name: own.n for name, own in result.by_workflow.items()} == {"w": 2, "no workflow": 2}
    whole = measured(benchmark(2), [own.gold for own in benchmark(2).decisions])
    assert "no gold distribution" not in str(whole)


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
    fitted = fit_temperatures(before)
    found = fitted.parameters()["groups"]
    for kind, power in sharp.items():
        assert found[kind] == pytest.approx(power, rel=0.2)
    saved = load_calibrator(fitted.save(tmp_path / "calibrator.json"))
    assert saved.by == "type"

    after = before.calibrated(saved)
    assert after.run["calibrator"]["groups"] == found
    with pytest.raises(ValueError, match="calibrator: one was already applied"):
        after.calibrated(saved)
    assert after.report.ece.value < 0.5 * before.report.ece.value
    assert after.report.accuracy.value == before.report.accuracy.value
    with pytest.raises(ValueError, match="measurement: a calibrator was already applied"):
        fit_temperatures(replace(before, run={"calibrator": {"method": "temperature"}}))


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


def temperatures(**groups):
    return GroupedTemperature("type").set_parameters(
        {"by": "type", "shrinkage": 50.0, "temperature": 1.0, "groups": groups}
    )


def test_the_command_measures_resumes_and_applies_the_calibrator_that_comes_with_the_model(folder, tmp_path, capsys):
    arguments = [
        "measure", "--task", "typed-decisions", "--model", str(folder / "model"), "--dataset",
        str(folder / "cases.jsonl"), "--json",
    ]  # fmt: skip
    assert main([*arguments, "--out", str(tmp_path / "out"), "--fail-if", "kl_from_gold>0"]) == 3
    plain = json.loads(capsys.readouterr().out)
    assert plain["decisions"] == 60
    assert "calibrator" not in plain["run"]
    assert (tmp_path / "out" / "decisions.jsonl").is_file()
    fitted = temperatures(choice=2.0, noul=0.5)
    own = tmp_path / "own"
    shutil.copytree(folder / "model", own)
    save_calibration_metadata(own, prompt_format=PromptFormat(chat=True), calibrator=fitted)
    arguments[4] = str(own)
    assert main(arguments) == 0
    chat = json.loads(capsys.readouterr().out)
    assert chat["run"]["prompt_format"]["chat"]
    assert chat["run"]["calibrator"]["groups"] == {"choice": 2.0, "noul": 0.5}
    assert main([*arguments, "--chat-template"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == chat["figures"]
    with pytest.warns(CalibratorMismatchWarning, match=r"^prompt: the calibrator of own is not applied"):
        assert main([*arguments, "--prompt", "plain"]) == 0
    assert json.loads(capsys.readouterr().out)["figures"] == plain["figures"]
    arguments[4] = str(folder / "model")
    fitted.save(tmp_path / "calibrator.json")
    assert main([*arguments, "--calibrator", str(tmp_path)]) == 0
    scaled = json.loads(capsys.readouterr().out)
    confidence = {
        kind: [run["by_type"][kind]["measures"]["confidence"]["value"] for run in (plain, scaled)]
        for kind in ("score", "noul", "choice")
    }
    assert confidence["score"][1] == pytest.approx(confidence["score"][0])
    assert confidence["noul"][1] > confidence["noul"][0] + 0.001
    assert confidence["choice"][1] < confidence["choice"][0] - 0.001
    more = ["--chat-template", "--limit", "3", "--n-orders", "2", "--prior-from", arguments[6]]
    assert main([*arguments[:-1], *more, "--out", str(tmp_path / "chat")]) == 0
    out = capsys.readouterr().out
    assert "3 cases, 15 decisions" in out
    assert "(prior)" in out
    page = tmp_path / "chat" / "report.html"
    assert f"Wrote {page}" in out
    assert "&lt;|user|&gt;\n{&#34;n&#34;: " in page.read_text()


def test_a_finished_run_is_not_repeated(folder, tmp_path, capsys):
    model, cases, out = str(folder / "model"), folder / "cases.jsonl", tmp_path / "out"
    first = measure_decisions(model, cases, out=out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalDecisions, "decide", None)
        again = measure_decisions(model, cases, out=out, prior_from=cases)
    assert f"{out} already holds this run's answers, so nothing is asked again" in capsys.readouterr().err
    assert (again.probabilities, again.masses, again.run) == (first.probabilities, first.masses, first.run)
    assert "prior" in json.loads((out / "decisions.json").read_text())["references"]
    assert measure_decisions(model, cases, out=out, chat_template=True).run["prompt_format"]["chat"]
    fitted = temperatures(choice=2.0)
    calibrated = measure_decisions(model, cases, out=out, chat_template=True, calibrator=fitted)
    assert measure_decisions(model, cases, out=out, chat_template=True).probabilities != calibrated.probabilities
    (out / "decisions.jsonl").write_text("{}\n")
    assert measure_decisions(model, cases, out=out).probabilities == first.probabilities


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--confidence", "text"], "--confidence: does not apply to typed decisions"),
        (["--conventions"], "--conventions: does not apply to typed decisions"),
        (["--few-shot", "2"], "few_shot: does not apply to typed decisions"),
        (["--permute-options"], "permute_options: does not apply"),
        (["--calibrator", "none.json"], "none.json"),
        (["--max-length", "20"], "longer than 20 tokens"),
    ],
)
def test_what_does_not_apply_is_refused(folder, more, message, capsys):
    arguments = ["--model", str(folder / "model"), "--dataset", str(folder / "cases.jsonl")]
    assert main(["measure", "--task", "typed-decisions", *arguments, *more]) == 1
    error = capsys.readouterr().err
    assert message.replace("few_shot", "--few-shot").replace("permute_options", "--permute-options") in error


def test_an_openai_server_is_not_one_of_typed_decisions(folder, capsys):
    arguments = ["--model", "openai:http://127.0.0.1:9/v1", "--dataset", str(folder / "cases.jsonl")]
    for more in ([], ["--model-name", "x"]):
        assert main(["measure", "--task", "typed-decisions", *arguments, *more]) == 1
        assert "is not a server of typed decisions; write systemone:" in capsys.readouterr().err


def test_the_chat_template_is_advised_only_where_it_is_not_used():
    cases = benchmark(3)
    answers = [own.gold for own in cases.decisions]

    def advice(**run):
        found = DecisionMeasurement("m", cases, answers, [0.1] * len(answers), run).warnings
        (own,) = (finding for finding in found if finding.code == "low_label_mass")
        return own

    plain = advice(prompt_format=PromptFormat().to_dict())
    assert "Use the chat template" in plain.remedy
    assert plain.options == ("--chat-template",)
    for own in (advice(prompt_format=PromptFormat(chat=True).to_dict()), advice(model="systemone:http://host")):
        assert "chat template" not in own.remedy
        assert own.options == ()


def test_options_of_typed_decisions_are_refused_for_questions(folder, capsys):
    assert main(["measure", "--model", "m", "--dataset", "d", "--prior-from", "t"]) == 1
    assert "--prior-from: does not apply to multiple-choice questions" in capsys.readouterr().err


def test_a_calibrator_is_checked_before_it_is_applied(folder, tmp_path):
    cases, model = folder / "cases.jsonl", str(folder / "model")
    fitted = fit_temperatures(measure_decisions(model, cases, progress=False))
    assert fitted.fitted_on.n == 60
    measured = measure_decisions(model, cases, calibrator=fitted, progress=False)
    assert measured.run["calibrator"]["groups"] == fitted.parameters()["groups"]
    with pytest.raises(ValueError, match=r"it was not fitted on what it is applied to: prompt_format\.chat"):
        measure_decisions(model, cases, calibrator=fitted, chat_template=True, progress=False)
    with pytest.warns(CalibratorMismatchWarning, match="chat"):
        measure_decisions(model, cases, calibrator=fitted, force=True, chat_template=True, progress=False)
    own = tmp_path / "own"
    shutil.copytree(folder / "model", own)
    save_calibration_metadata(own, calibrator=fitted)
    assert "calibrator" in measure_decisions(str(own), cases, progress=False).run
    for options in ({"calibrator": fitted}, {}):
        with pytest.raises(ValueError, match="n_orders is 2, not 1"):
            measure_decisions(str(own), cases, n_orders=2, progress=False, **options)
    by_subject = {"by": "subject", "shrinkage": 50.0, "temperature": 1.0, "groups": {"a": 1.0}}
    with pytest.raises(ValueError, match="it has a temperature for each subject; typed decisions are grouped by type"):
        LocalDecisions(local(folder), calibrator=GroupedTemperature().set_parameters(by_subject))
    with pytest.raises(ValueError, match="calibrator: does not apply to a server"):
        measure_decisions("systemone:http://127.0.0.1:9", cases, calibrator=fitted)
    with pytest.raises(ValueError, match="calibrator: does not apply to a source of decisions"):
        measure_decisions(LocalDecisions(local(folder)), cases, calibrator=fitted)


def test_a_prompt_through_the_chat_template_begins_with_the_state(folder):
    cases = benchmark(1)
    source = local(folder)
    item = source.encoder.labels(cases[0].questions(), PromptFormat(chat=True))[0]
    assert source.tokenizer.decode(item.input_ids).startswith('<|user|>\n{"n": 0}\nQuestion: ')


def test_a_run_knows_which_source_of_decisions_it_asked():
    tokenizer = byte_level_tokenizer()
    sources = [LocalDecisions(LocalModel(tiny_llama(tokenizer, seed=seed), tokenizer)) for seed in (0, 1)]
    sources += [ServedDecisions(f"systemone:http://127.0.0.1:{port}", "m") for port in (1, 2)]
    identities = [decision_backend(source)[2] for source in sources]
    assert len({json.dumps(own, sort_keys=True) for own in identities}) == 4
    again = decision_backend(LocalDecisions(LocalModel(tiny_llama(tokenizer), tokenizer)))[2]
    assert again == identities[0]
