"""`hf-calib compare`, `calibrate` and `diagnose`."""

import json
import re
import warnings

import numpy as np
import pytest
from scipy.special import softmax

from hf_calib.calibrators import TemperatureScaling, by_name, load_calibrator, names
from hf_calib.calibrators.cross_validation import cross_validate
from hf_calib.cli import main
from hf_calib.confidence import predict
from hf_calib.evaluation import CalibratorMismatchWarning
from hf_calib.reports import differences
from hf_calib.tasks import load_questions
from tests.support import question_rows, tiny_llama


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    for seed in (0, 1, 2):
        tiny_llama(tokenizer, seed=seed).save_pretrained(folder / f"model{seed}")
        tokenizer.save_pretrained(folder / f"model{seed}")
    for name, seed in (("one", 0), ("two", 1)):
        with (folder / f"{name}.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in question_rows(20, seed=seed, choices=(4, 3)))
    return folder


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_three_models_two_tasks_two_ways(folder, tmp_path, tokenizer, capsys):
    models = [folder / f"model{seed}" for seed in (0, 1, 2)]
    sets = [folder / "one.jsonl", folder / "two.jsonl"]
    assert (
        run(
            *("compare", *models, "--dataset", sets[0], "--dataset", sets[1], "--out", tmp_path),
            *("--confidence", "letters", "--confidence", "text"),
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    result = json.loads((tmp_path / "comparison.json").read_text())
    assert result["base"] == "model0"
    cells = {(cell["model"], cell["task"], cell["confidence"]): cell for cell in result["comparisons"]}
    assert len(cells) == 2 * 2 * 2
    questions = load_questions(sets[1])
    base, other = (predict(tiny_llama(tokenizer, seed=seed), tokenizer, questions) for seed in (0, 2))
    expected = {own.measure: own for own in differences(base, other)}
    found = cells["model2", str(sets[1]), "letters"]["differences"]
    for name, own in expected.items():
        assert found[name]["base"] == pytest.approx(own.base, abs=1e-5)
        assert found[name]["difference"]["low"] == pytest.approx(own.difference.low, abs=1e-4)
    header = next(line for line in printed.splitlines() if line.startswith("measure"))
    assert header.split()[1:3] == ["model0", "model1"]
    assert "n = 20" in printed
    page = (tmp_path / "comparison.html").read_text()
    for cell in cells.values():
        scores = [cell[name]["calibrated_model"] for name in ("base_ece_convention", "ece_convention")]
        note = (
            "ECE: 10 bins of equal width, L1, pooled over 20 questions; a perfectly calibrated model would score "
            f"{scores[0]:.3f} (model0) or {scores[1]:.3f} ({cell['model']}) on average."
        )
        assert note in " ".join(printed.split())
        assert note in page
    assert page.count("<h2>") == 9
    assert "What was run" in page
    assert str(models[2]) in page
    assert "Compared with model0, model2 is" in page
    assert not (tmp_path / ".progress").exists()


def test_folders_that_were_measured(folder, tmp_path, capsys):
    for seed in (0, 1):
        run(
            "measure",
            "--model",
            folder / f"model{seed}",
            "--dataset",
            folder / "one.jsonl",
            "--out",
            tmp_path / f"m{seed}",
        )
    capsys.readouterr()
    assert run("compare", tmp_path / "m0", tmp_path / "m1", "--json") == 0
    recorded = json.loads(capsys.readouterr().out)
    assert run("compare", folder / "model0", folder / "model1", "--dataset", folder / "one.jsonl", "--json") == 0
    asked = json.loads(capsys.readouterr().out)
    assert recorded["comparisons"][0]["differences"] == asked["comparisons"][0]["differences"]
    assert recorded["comparisons"][0]["confidence"] == "letters"
    # What came from elsewhere does not say how it was read.
    elsewhere = json.loads((tmp_path / "m1" / "report.json").read_text())
    (tmp_path / "m1" / "report.json").write_text(json.dumps({**elsewhere, "run": {"from_predictions": "p.parquet"}}))
    assert run("compare", tmp_path / "m0", tmp_path / "m1", "--json") == 0
    (cell,) = json.loads(capsys.readouterr().out)["comparisons"]
    for name in ("model", "task", "confidence", "n", "differences"):
        assert cell[name] == recorded["comparisons"][0][name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a"], "at least one other model"),
        (["a", "a", "--dataset", "d"], "given twice"),
        (["a", "b"], "at least one --dataset"),
    ],
)
def test_wrong_comparisons(arguments, message, capsys):
    assert run("compare", *arguments) == 1
    assert message in capsys.readouterr().err


# calibrate


def test_calibrate_and_measure_with_it(folder, tmp_path, tokenizer, capsys):
    options = ["--model", folder / "model0", "--dataset", folder / "one.jsonl"]
    # The model is at chance, so its best temperature is at the end of the range.
    assert run("calibrate", *options, "--out", tmp_path / "c") == 1
    refused = capsys.readouterr()
    assert "calibrator   accuracy" in refused.out
    assert "Saved" not in refused.out
    assert "not saved, since the fit does not generalize" in refused.err
    assert "UserWarning" not in refused.err
    assert not (tmp_path / "c" / "calibrator.json").exists()
    assert run("calibrate", *options, "--out", tmp_path / "c", "--force") == 0
    *printed, saved = capsys.readouterr().out.splitlines()
    note = " ".join(" ".join(printed).split())
    assert re.search(r"calibrated model would score 0\.\d{3} \(none\) or 0\.\d{3} \(temperature\) on average\.", note)
    assert saved.endswith(str(tmp_path / "c"))
    assert max(map(len, printed)) <= 80
    questions = load_questions(folder / "one.jsonl")
    predictions = predict(tiny_llama(tokenizer), tokenizer, questions)
    fitted = TemperatureScaling().fit(predictions.option_log_probabilities, predictions.answers)
    saved = json.loads((tmp_path / "c" / "calibration.json").read_text())
    assert saved["parameters"]["temperature"] == pytest.approx(fitted.temperature, rel=1e-3)
    assert saved["cross_validated"]["none"]["measures"]["ece"]["value"] == pytest.approx(
        predictions.report().measures["ece"].value, abs=1e-5
    )
    assert run("measure", *options, "--calibrator", tmp_path / "c", "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    expected = fitted.transform(predictions.option_log_probabilities)
    assert measured["measures"]["confidence"]["value"] == pytest.approx(expected.max(axis=1).mean(), abs=1e-4)
    assert measured["measures"]["option_mass"]["value"] == pytest.approx(predictions.option_mass.mean(), abs=1e-5)
    assert measured["run"]["calibrator"]["method"] == "temperature"
    before = measured["before"]["measures"]["confidence"]["value"]
    assert before == pytest.approx(predictions.confidences.mean(), abs=1e-4)
    assert run("measure", *options, "--calibrator", tmp_path / "c") == 0
    shown = capsys.readouterr().out
    rows = [line.split()[0] for line in shown.splitlines() if line.startswith(("before ", "after "))]
    assert rows == ["before", "after"]
    assert "average; a calibrator was fitted on these questions (after)." in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    other = ["--model", folder / "model1", "--dataset", folder / "one.jsonl"]
    assert run("measure", *other, "--calibrator", tmp_path / "c") == 1
    assert "the model is model1" in capsys.readouterr().err
    with pytest.warns(CalibratorMismatchWarning, match="the model is model1"):
        assert run("measure", *other, "--calibrator", tmp_path / "c", "--force") == 0


def write_predictions(path, n=400, sharpness=4.0, seed=0):
    """Predictions that are sharper than what their answers are drawn from; the latter are returned."""
    rng = np.random.default_rng(seed)
    p = softmax(rng.normal(size=(n, 3)), axis=1)
    sharp = softmax(sharpness * np.log(p), axis=1)
    with path.open("w") as file:
        for row, own in zip(p, sharp, strict=True):
            file.write(json.dumps({"probabilities": own.tolist(), "answer": int(rng.choice(3, p=row))}) + "\n")
    return p


@pytest.fixture
def recorded(tmp_path):
    write_predictions(tmp_path / "p.jsonl")
    return ["--from-predictions", tmp_path / "p.jsonl", "--out", tmp_path / "c"]


def test_of_several_calibrators_the_best_by_cross_validation_is_kept(recorded, tmp_path, capsys):
    methods = ["temperature", "vector", "isotonic", "localized", "modular_conformal"]
    assert run("calibrate", *recorded, "--method", *methods, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    own = result["cross_validated"]
    assert set(own) == {"none", "temperature", "vector", "isotonic"}
    assert "needs features" in result["refused"]["localized"]
    assert "is for numbers" in result["refused"]["modular_conformal"]
    assert own[result["method"]]["measures"]["nll"]["value"] == min(
        report["measures"]["nll"]["value"] for name, report in own.items() if name != "none"
    )
    assert own[result["method"]]["measures"]["ece"]["value"] < own["none"]["measures"]["ece"]["value"] / 2
    assert run("calibrate", *recorded, "--method", "alchemy") == 1
    assert "alchemy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("temperature", ("--target-predictions",), "--target-predictions: the calibrator 'temperature' does not use"),
        ("importance_weighted", (), "--target-predictions: the calibrator 'importance_weighted' needs the model's"),
        ("temperature", ("--reference-predictions",), "--reference-predictions: the calibrator 'temperature' does no"),
        ("reference_agreement", (), "--reference-predictions: the calibrator 'reference_agreement' needs the pre-tra"),
    ],
)
def test_predictions_that_a_calibrator_needs_or_does_not_use_are_named(
    recorded, tmp_path, monkeypatch, capsys, method, options, message
):
    monkeypatch.setattr("hf_calib.evaluation.calibrating.ask", lambda *_, **__: pytest.fail("the model was asked"))
    more = [word for option in options for word in (option, recorded[1])]
    for source in (recorded, ["--model", "m", "--dataset", "d", "--out", tmp_path / "c"]):
        assert run("calibrate", *source, *more, "--method", method) == 1
        assert message in capsys.readouterr().err


def test_of_several_calibrators_those_without_their_predictions_are_refused(recorded, capsys):
    assert run("calibrate", *recorded, "--method", "temperature", "importance_weighted", "--json") == 0
    refused = json.loads(capsys.readouterr().out)["refused"]["importance_weighted"]
    assert "needs the model's predictions for new questions" in refused


@pytest.mark.parametrize(
    "name",
    ["adaptive_ensemble", "adaptive_temperature", "beta", "dirichlet", "ensemble", "histogram", "isotonic",
     "isotonic_multiclass", "matrix", "platt", "sample_consistency", "scaling_binning", "selective_scaling", "spline",
     "vector", *(pytest.param(name, marks=pytest.mark.slow) for name in ("meta_calibration", "monotonic_network"))],
)  # fmt: skip
def test_every_calibrator_that_needs_answers_alone_goes_through_the_commands(recorded, tmp_path, capsys, name):
    assert run("calibrate", *recorded, "--method", name, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["method"] == name
    assert load_calibrator(tmp_path / "c").name == name
    assert result["cross_validated"][name]["measures"]["ece"]["value"] < 0.15
    write_predictions(tmp_path / "new.jsonl", seed=1)
    assert run("measure", "--from-predictions", tmp_path / "new.jsonl", "--calibrator", tmp_path / "c", "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["run"]["calibrator"]["method"] == name
    assert measured["measures"]["ece"]["value"] < 0.15


@pytest.mark.parametrize("name", ["localized", "simplex_etf"])
def test_calibrators_on_features_get_the_models_hidden_states(folder, tmp_path, tokenizer, capsys, name):
    options = ["--model", folder / "model0", "--dataset", folder / "one.jsonl", "--dataset", folder / "two.jsonl"]
    assert run("calibrate", *options, "--method", name, "--out", tmp_path / "c", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["method"], result["n"]) == (name, 40)
    questions = [question for part in ("one", "two") for question in load_questions(folder / f"{part}.jsonl")]
    asked = predict(tiny_llama(tokenizer), tokenizer, questions, hidden_states=True)
    fitted = by_name(name).fit(asked.option_log_probabilities, asked.answers, features=asked.hidden_states)
    expected = fitted.transform(asked.option_log_probabilities, features=asked.hidden_states)
    held_out = cross_validate(
        lambda: by_name(name), asked.option_log_probabilities, asked.answers, features=asked.hidden_states
    )
    nll = -np.log(held_out.probabilities[np.arange(40), asked.answers]).mean()
    assert result["cross_validated"][name]["measures"]["nll"]["value"] == pytest.approx(nll, rel=1e-3)
    assert run("measure", *options, "--calibrator", tmp_path / "c", "--json") == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["measures"]["confidence"]["value"] == pytest.approx(expected.max(axis=1).mean(), abs=1e-3)
    assert run("calibrate", *options, "--method", name, "--out", tmp_path / "c", "--confidence", "text") == 1
    assert "are not available with confidence read by text" in capsys.readouterr().err


def test_a_calibrator_of_numbers_is_refused_for_options(recorded, tmp_path, capsys):
    by_name("modular_conformal").fit([0.0, 1.0], [1.0, 1.0]).save(tmp_path / "c" / "calibrator.json")
    assert run("measure", "--from-predictions", recorded[1], "--calibrator", tmp_path / "c") == 1
    assert "is for numbers" in capsys.readouterr().err


def test_auto_takes_what_the_comparison_recommends(recorded, tmp_path, capsys):
    assert run("calibrate", *recorded, "--method", "auto") == 0
    assert "auto chose temperature: there are 400 labels" in capsys.readouterr().out
    write_predictions(tmp_path / "far.jsonl", sharpness=1.0, seed=2)
    target = ["--target-predictions", tmp_path / "far.jsonl"]
    assert run("calibrate", *recorded, *target, "--method", "auto") == 0
    assert "auto chose adaptive_ensemble" in capsys.readouterr().out
    assert run("calibrate", *recorded, *target, "--method", "importance_weighted", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cross_validated"]["importance_weighted"]["n"] == 400
    assert run("calibrate", *recorded, *target, "--method", "temperature") == 1
    assert "does not use a target's questions" in capsys.readouterr().err
    write_predictions(tmp_path / "reference.jsonl", sharpness=1.0)
    reference = ["--reference-predictions", tmp_path / "reference.jsonl"]
    for method in ("auto", "reference_agreement"):
        assert run("calibrate", *recorded, *reference, "--method", method, "--json") == 0
        result = json.loads(capsys.readouterr().out)
        assert load_calibrator(tmp_path / "c").transform([[1.0, 0.0]]).shape == (1, 2)
        assert result["cross_validated"][method]["measures"]["ece"]["value"] < 0.1
    assert run("calibrate", *recorded, *reference, *target, "--method", "auto") == 1
    assert "without --target-predictions" in capsys.readouterr().err
    write_predictions(tmp_path / "reference.jsonl", n=300)
    assert run("calibrate", *recorded, *reference, "--method", "auto") == 1
    assert "asked 300 questions and the model 400" in capsys.readouterr().err
    # As many, but one of the first file's questions is missing here.
    rows = [
        json.loads(line) | {"row": row} for row, line in enumerate((tmp_path / "p.jsonl").read_text().splitlines())
    ]
    for name, kept in (("one", rows[1:]), ("other", rows[:-1])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    two = ("--from-predictions", tmp_path / "one.jsonl", "--reference-predictions", tmp_path / "other.jsonl")
    assert run("calibrate", *map(str, two), "--method", "reference_agreement", "--out", str(tmp_path / "o")) == 1
    assert "question 1 is from row 0 with" in capsys.readouterr().err
    # The same rows and answers, but another question in one of them.
    for name in ("one", "other"):
        texts = [row | {"question": f"q{row['row']}", "choices": list("abc")} for row in rows]
        texts[3]["question"] = name
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    assert run("calibrate", *map(str, two), "--method", "reference_agreement", "--out", str(tmp_path / "o")) == 1
    assert "question 4 is 'other' (options a, b, c), but the model's is 'one'" in capsys.readouterr().err


# diagnose


def test_diagnose(folder, tmp_path, tokenizer, capsys):
    sets = [folder / "one.jsonl", folder / "two.jsonl"]
    options = ["diagnose", "--model", folder / "model0", "--dataset", sets[0], "--held-out", sets[1]]
    assert run(*options, "--out", tmp_path) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Regime: ")
    assert max(map(len, printed.splitlines())) <= 80
    saved = json.loads((tmp_path / "diagnosis.json").read_text())
    train, test = (predict(tiny_llama(tokenizer), tokenizer, load_questions(own)) for own in sets)
    assert saved["training"]["accuracy"] == train.correct.mean()
    assert saved["training"]["bound"] == pytest.approx(abs(train.correct.mean() - train.confidences.mean()), abs=1e-5)
    assert saved["gap"] == pytest.approx(train.correct.mean() - test.correct.mean())
    scores = [own.report().test.expected_error for own in (train, test)]
    note = f"would score {scores[0]:.3f} (fine-tuned on) or {scores[1]:.3f} (new) on average."
    assert note in " ".join(printed.split())


@pytest.mark.parametrize(
    ("accuracies", "regime", "method"), [((90, 50), "non-calibratable", "rcft"), ((50, 50), "calibratable", "cft")]
)
def test_diagnose_from_predictions(tmp_path, capsys, accuracies, regime, method):
    for name, right in zip(("train", "test"), accuracies, strict=True):
        rows = ["p_A,p_B,answer"] + [f"0.8,0.2,{int(i >= 10 * right)}" for i in range(1000)]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
    assert run("diagnose", "--from-predictions", tmp_path / "train.csv", tmp_path / "test.csv", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["regime"], result["method"]) == (regime, method)


def test_wrong_diagnoses(tmp_path, capsys):
    unanswered = [tmp_path / "one.csv", tmp_path / "other.csv"]
    for path in unanswered:
        path.write_text("p_A,p_B,answer\n0.8,0.2,0\n0.7,0.3,\n")
    for arguments, message in (
        ([], "either --model or --from-predictions"),
        (["--from-predictions", *unanswered], f"diagnose: {unanswered[0]}: row 1 has no answer"),
        (["--model", "m", "--dataset", "d"], "--held-out"),
        (["--model", "m", "--dataset", "d", "--held-out", "d"], "the same questions"),
    ):
        assert run("diagnose", *arguments) == 1
        assert message in capsys.readouterr().err


ROUNDED = """p_A,p_B,answer
0.700,0.300,A
0.600,0.400,B
0.800,0.200,A
1.000,0.000,A
0.550,0.450,A
0.900,0.100,A
0.300,0.700,B
0.200,0.800,A
0.650,0.350,B
0.750,0.250,A
1.000,0.000,B
1.0000000000000002,0.0,A
"""


def test_rounded_predictions_go_through_every_command(tmp_path, capsys):
    texts = {"one": ROUNDED, "two": ROUNDED.replace("0.700,0.300", "0.701,0.299")}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.csv").write_text(text)
        assert run("measure", "--from-predictions", tmp_path / name / "p.csv", "--out", tmp_path / f"m_{name}") == 0
    report = json.loads((tmp_path / "m_one" / "report.json").read_text())
    # A right option without any probability.
    assert report["measures"]["nll"]["value"] == "inf"
    assert run("compare", tmp_path / "m_one", tmp_path / "m_two") == 0
    assert run("diagnose", "--from-predictions", tmp_path / "m_one", tmp_path / "two" / "p.csv") == 0
    printed = capsys.readouterr()
    assert "nan" not in printed.out.lower()
    assert not printed.err


@pytest.mark.parametrize("method", sorted(set(names()) - {"localized", "simplex_etf", "modular_conformal"}))
def test_rounded_predictions_can_be_calibrated(tmp_path, capsys, method):
    (tmp_path / "p.csv").write_text(ROUNDED)
    arguments = ["--from-predictions", tmp_path / "p.csv"]
    if method == "reference_agreement":
        arguments += ["--reference-predictions", tmp_path / "p.csv"]
    if method in ("adaptive_ensemble", "importance_weighted"):
        arguments += ["--target-predictions", tmp_path / "p.csv"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        code = run("calibrate", *arguments, "--method", method, "--folds", 2, "--out", tmp_path / "c", "--json")
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert json.loads(printed.out)["cross_validated"][method]["measures"]["nll"]["value"] < 100
    assert run("measure", *arguments[:2], "--calibrator", tmp_path / "c", "--json") == 0
    assert json.loads(capsys.readouterr().out)["measures"]["nll"]["value"] < 100
