import doctest
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from hf_calib import measures
from tests.measures.samples import probabilities_and_labels

from .conftest import METRICS, NAMES


@pytest.fixture(scope="module")
def predictions():
    return probabilities_and_labels(300)


def expected_results(name, p, y):
    c, right = p.max(axis=1), p.argmax(axis=1) == y
    return {
        "ece": {"ece": measures.expected_calibration_error(c, right)},
        "cw_ece": {"cw_ece": measures.classwise_calibration_error(p, y)},
        "smooth_ece": dict(zip(("smooth_ece", "bandwidth"), measures.smooth_ece(c, right), strict=True)),
        "brier": {"brier": measures.brier_score(p, y)},
        "risk_coverage": {"aurc": measures.aurc(c, right), "excess_aurc": measures.excess_aurc(c, right)},
    }[name]


def bare_environment(home):
    return {"HF_HOME": str(home), "HF_EVALUATE_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(home)}


def test_all_five_are_there():
    assert NAMES == ["brier", "cw_ece", "ece", "risk_coverage", "smooth_ece"]


@pytest.mark.parametrize("name", NAMES)
def test_a_probability_a_hair_above_1_counts_as_1(name, load):
    exact, y = [[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]], [0, 1, 0]
    off = [[1.0000000000000002, -1e-17], [0.25, 0.75], [0.0, 1.0000001]]
    assert load(name).compute(predictions=off, references=y) == load(name).compute(predictions=exact, references=y)
    with pytest.raises(ValueError, match=r"1\.01"):
        load(name).compute(predictions=[[1.01, 0.0]], references=[0])


@pytest.mark.parametrize("name", NAMES)
def test_compute_gives_what_the_package_gives(name, load, predictions):
    p, y = predictions
    assert load(name).compute(predictions=p, references=y) == expected_results(name, p, y)


@pytest.mark.parametrize("name", NAMES)
def test_parts_added_give_the_same(name, load, predictions):
    p, y = predictions
    metric = load(name)
    metric.add(prediction=p[0], reference=y[0])
    metric.add_batch(predictions=p[1:100], references=y[1:100])
    metric.add_batch(predictions=p[100:].tolist(), references=y[100:].tolist())
    assert metric.compute() == pytest.approx(expected_results(name, p, y), abs=1e-15)


@pytest.mark.parametrize("name", ["ece", "smooth_ece", "risk_coverage"])
def test_confidences_and_zero_or_one_work_too(name, load, predictions):
    p, y = predictions
    right = (p.argmax(axis=1) == y).astype(int)
    assert load(name).compute(predictions=p.max(axis=1), references=right) == expected_results(name, p, y)


@pytest.mark.parametrize("name", NAMES)
def test_columns_of_a_filtered_table(name, load, predictions):
    p, y = predictions
    table = pd.DataFrame({"p": p.tolist(), "y": y, "weight": np.linspace(1, 2, len(y))}).iloc[100:]
    given = {"predictions": table["p"], "references": table["y"], "sample_weight": table["weight"]}
    plain = {argument: column.tolist() for argument, column in given.items()}
    assert load(name).compute(**given) == load(name).compute(**plain)


@pytest.mark.parametrize("name", NAMES)
def test_weights_and_the_interval(name, load, predictions):
    p, y = predictions
    weights = np.random.default_rng(0).random(300)
    results = load(name).compute(predictions=p, references=y, sample_weight=weights, confidence_level=0.95)
    key = {"risk_coverage": "aurc"}.get(name, name)
    assert 0 <= results[f"{key}_low"] < results[key] < results[f"{key}_high"]
    report = measures.CalibrationReport.from_predictions(p, y, weights=weights).measures[key]
    assert results[key] == pytest.approx(report.value, abs=1e-15)
    assert (results[f"{key}_low"], results[f"{key}_high"]) == pytest.approx((report.low, report.high), abs=1e-12)


def test_answers_that_are_all_right_give_the_area_an_interval_too(load):
    results = load("risk_coverage").compute(predictions=[0.9, 0.8, 0.7], references=[1, 1, 1], confidence_level=0.95)
    assert results["aurc"] == results["excess_aurc"] == results["aurc_low"] == 0
    # In 5% of samples three answers are right where a share 1 - 0.05^(1/3) is wrong, in the worst order at that.
    share = 1 - 0.05 ** (1 / 3)
    assert results["aurc_high"] == pytest.approx(share * (1 - np.log(share)))
    assert type(results["aurc_high"]) is float


@pytest.mark.parametrize("name", ["brier", "risk_coverage", "smooth_ece"])
@pytest.mark.parametrize("level", [95, 1.0, 0, -0.5])
def test_a_level_that_is_no_probability_is_named(load, name, level):
    with pytest.raises(ValueError, match="confidence_level must be between 0 and 1, got"):
        load(name).compute(predictions=[[0.8, 0.2], [0.4, 0.6]], references=[0, 1], confidence_level=level)


def test_options_of_each(load, predictions):
    p, y = predictions
    c, right = p.max(axis=1), p.argmax(axis=1) == y
    ece = load("ece").compute(predictions=p, references=y, n_bins=7, norm=2, return_bins=True)
    statistics = measures.BinStatistics.from_predictions(c, right, 7)
    assert ece == {"ece": statistics.error(2), "bins": list(statistics.rows())}
    classwise = load("cw_ece").compute(predictions=p, references=y, threshold=0.2, return_bins=True)
    assert classwise["cw_ece"] == measures.classwise_calibration_error(p, y, threshold=0.2)
    assert len(classwise["bins"]) == 4
    brier = load("brier").compute(predictions=p, references=y, decomposition=True)
    assert brier["resolution"] == measures.brier_decomposition(c, right).resolution
    risk = load("risk_coverage").compute(predictions=p, references=y, coverage=0.5, accuracy=0.9, return_curve=True)
    assert risk["accuracy_at_coverage"] == measures.accuracy_at_coverage(c, right, 0.5)
    assert risk["coverage_at_accuracy"] == measures.coverage_at_accuracy(c, right, 0.9)
    assert risk["curve"]["risk"] == measures.risk_coverage_curve(c, right).risk.tolist()
    smooth = load("smooth_ece").compute(predictions=p, references=y, bandwidth=0.1)
    assert smooth["smooth_ece"] == measures.smooth_ece(c, right, bandwidth=0.1).value


def test_a_confidence_on_an_edge_stays_there(load):
    # In float32 0.7 would fall into the bin below.
    bins = load("ece").compute(predictions=[0.7, 0.3, 1.0], references=[1, 0, 1], return_bins=True)["bins"]
    assert [row["count"] for row in bins] == [0, 0, 0, 1, 0, 0, 0, 1, 0, 1]


BAD = [
    ([[0.5, 0.6]], [0], r"probabilities\[0\] sums to 1.1"),
    ([[1.5, -0.5]], [0], r"probabilities\[0, 0\] is 1.5"),
    ([[float("nan"), 0.5]], [0], r"probabilities\[0, 0\] is NaN"),
    ([[0.5, 0.5], [0.2, 0.3, 0.5]], [0, 0], r"probabilities\[1\] has 3 values and probabilities\[0\] has 2"),
    ([[0.5, 0.5]], [2], r"references\[0\] is 2, and 1 of 1 references are"),
    ([], [], "predictions is empty"),
    ([[0.5, 0.5], None], [0, 1], r"predictions\[1\] is None"),
    ([[0.5, 0.5], [0.5, None]], [0, 1], r"predictions\[1, 1\] is None"),
    ([[0.5, 0.5], [0.5, 0.5]], [0, None], r"references\[1\] is None"),
    ([[0.5, 0.5]], [0, 1], "Mismatch in the number of predictions"),
]


@pytest.mark.parametrize(("predictions", "references", "message"), BAD)
@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_named(name, load, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        load(name).compute(predictions=predictions, references=references)


@pytest.mark.parametrize("name", ["ece", "smooth_ece", "risk_coverage"])
def test_bad_confidences_are_named(name, load):
    with pytest.raises(ValueError, match=r"references\[1\] is 3, but for a list of confidences"):
        load(name).compute(predictions=[0.5, 0.5], references=[0, 3])
    with pytest.raises(ValueError, match=r"predictions\[1\] is None: leave this sample out"):
        load(name).compute(predictions=[0.5, None], references=[0, 1])
    with pytest.raises(ValueError, match=r"confidences\[0\] is 1.5"):
        load(name).compute(predictions=[1.5, 0.5], references=[0, 1])


@pytest.mark.parametrize("name", NAMES)
def test_missing_predictions_or_references_are_named(name, load):
    p = [[0.9, 0.1], [0.4, 0.6]]
    with pytest.raises(ValueError, match="predictions is missing: a metric needs predictions and references"):
        load(name).compute(probabilities=p, references=[0, 1])
    with pytest.raises(ValueError, match="references is missing"):
        load(name).add_batch(predictions=p)
    with pytest.raises(ValueError, match="reference is missing: a metric needs a prediction and its reference"):
        load(name).add(prediction=p[0])


@pytest.mark.parametrize("name", NAMES)
def test_fractional_references_are_refused_and_not_truncated(name, load):
    metric, p = load(name), [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]]
    for references in ([0, 1, 0.75], np.array([0, 1, 0.75], dtype=np.float32)):
        for method in (metric.compute, metric.add_batch):
            with pytest.raises(ValueError, match=r"references\[2\] is 0\.75: a reference must be a whole number"):
                method(predictions=p, references=references)
    with pytest.raises(ValueError, match=r"reference is 0\.5: a reference must be a whole number"):
        metric.add(prediction=p[0], reference=0.5)
    for unusable in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"references\[0\] is (nan|inf)"):
            metric.compute(predictions=p, references=[unusable, 1, 0])
    # What was refused has left nothing behind.
    metric.add(prediction=p[0], reference=0.0)
    metric.add_batch(predictions=p[1:], references=[1.0, 1.0])
    assert metric.compute() == load(name).compute(predictions=p, references=[0, 1, 1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["bool", "int8", "uint8", "float16", "float32", "bfloat16 tensor", "bool tensor"])
def test_whole_references_of_every_type_are_taken(name, kind, load):
    import torch

    p = [[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]]
    kind, *tensor = kind.split()
    y = torch.tensor([0, 1, 0], dtype=getattr(torch, kind)) if tensor else np.array([0, 1, 0], dtype=kind)
    expected = load(name).compute(predictions=p, references=[0, 1, 0])
    assert load(name).compute(predictions=p, references=y) == expected
    assert load(name).compute(predictions=p, references=list(y)) == expected


def test_they_combine(load, predictions, tmp_path):
    import evaluate

    p, y = predictions
    together = evaluate.combine([load(name) for name in NAMES])
    expected = {}
    for name in NAMES:
        expected.update(expected_results(name, p, y))
    assert together.compute(predictions=p, references=y) == expected


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_run(name, load, monkeypatch):
    import evaluate

    metric = load(name)
    monkeypatch.setattr(evaluate, "load", {f"hf_calib/{name}": metric}.__getitem__)
    card = (METRICS / name / "README.md").read_text(encoding="utf-8")
    for text in (metric.inputs_description, "\n".join(re.findall(r"```python\n(>>>.*?)```", card, re.DOTALL))):
        test = doctest.DocTestParser().get_doctest(text, {"evaluate": evaluate}, name, None, 0)
        assert len(test.examples) >= 2
        assert doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test).failed == 0


@pytest.mark.parametrize("name", NAMES)
def test_the_card_has_what_a_space_and_a_metric_card_need(name):
    import yaml

    text = (METRICS / name / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["sdk"] == "gradio"
    assert front["app_file"] == "app.py"
    assert front["tags"] == ["evaluate", "metric"]
    assert set(front) >= {"title", "sdk_version", "pinned", "description"}
    for section in ("Metric description", "How to use", "Inputs", "Output values", "Examples", "Limitations and bias"):
        assert f"# {section}\n" in text
    for argument in ("predictions", "references", "sample_weight", "confidence_level"):
        assert f"**{argument}**" in text
    needed = (METRICS / name / "requirements.txt").read_text(encoding="utf-8").split()
    assert ("scipy>=1.13" in needed) == (name != "ece")


def test_they_work_where_the_package_is_not_installed(tmp_path):
    code = f"""
import sys
sys.modules["hf_calib"] = None
import evaluate
for name in {NAMES}:
    metric = evaluate.load(f"{METRICS}/{{name}}", cache_dir=sys.argv[1])
    print(sorted(metric.compute(predictions=[[0.75, 0.25], [0.5, 0.5]], references=[0, 1], confidence_level=0.9)))
"""
    environment = {
        "HF_HOME": str(tmp_path),
        "HF_EVALUATE_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2] == "['ece', 'ece_high', 'ece_low']"


@pytest.mark.distributed
def test_two_processes_give_what_one_gives(tmp_path, predictions):
    p, y = predictions
    np.savez(tmp_path / "data.npz", p=p, y=y)
    code = f"""
import sys, numpy as np, evaluate
rank = int(sys.argv[1])
data = np.load("{tmp_path}/data.npz")
for name in {NAMES}:
    metric = evaluate.load(f"{METRICS}/{{name}}", num_process=2, process_id=rank, experiment_id=f"test-{{name}}",
                           cache_dir="{tmp_path}/cache")
    part = slice(rank, None, 2)
    metric.add_batch(predictions=data["p"][part], references=data["y"][part])
    results = metric.compute()
    assert (results is None) == (rank == 1)
    if results:
        print(next(iter(results.values())))
"""
    environment = {
        "HF_HOME": str(tmp_path),
        "HF_EVALUATE_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for rank in (0, 1)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    values = [float(line) for line in outputs[0][0].split()]
    for name, value in zip(NAMES, values, strict=True):
        assert value == pytest.approx(next(iter(expected_results(name, p, y).values())), abs=1e-12)


def test_a_trainer_s_compute_metrics(load, tmp_path):
    """A classifier's Trainer measures its evaluation set with the metric."""
    import torch
    from datasets import Dataset
    from transformers import Trainer, TrainingArguments

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = torch.nn.Linear(3, 4)

        def forward(self, x, labels):
            logits = self.linear(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    torch.manual_seed(0)
    metric = load("ece")

    def compute_metrics(prediction):
        p = torch.softmax(torch.tensor(prediction.predictions, dtype=torch.float64), dim=-1).numpy()
        return metric.compute(predictions=p, references=prediction.label_ids)

    x = torch.randn(40, 3)
    labels = torch.randint(4, (40,))
    model = Classifier()
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(tmp_path), per_device_eval_batch_size=16, use_cpu=True, report_to=[]),
        eval_dataset=Dataset.from_dict({"x": x.tolist(), "labels": labels.tolist()}).with_format("torch"),
        compute_metrics=compute_metrics,
    )
    p = torch.softmax(model(x, labels)["logits"].double(), dim=-1).detach().numpy()
    expected = measures.expected_calibration_error(p.max(axis=1), p.argmax(axis=1) == labels.numpy())
    assert trainer.evaluate()["eval_ece"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["ece", "smooth_ece", "risk_coverage"])
def test_both_forms_of_the_same_answers_give_the_same(name, load, predictions):
    p, y = predictions
    options = {"confidence_level": 0.9, "sample_weight": np.random.default_rng(0).random(len(y))}
    given = load(name).compute(predictions=p, references=y, **options)
    # As plain lists and with whole-number floats, which people have after a comparison in pandas.
    right = [float(p[i].argmax() == y[i]) for i in range(len(y))]
    assert load(name).compute(predictions=p.max(axis=1).tolist(), references=right, **options) == given
