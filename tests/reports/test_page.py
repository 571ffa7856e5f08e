"""The page, its diagrams and its verdict."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from hf_calib.confidence.predictions import Predictions
from hf_calib.confidence.recorded import Recorded
from hf_calib.evaluation.decisions import prior_answers
from hf_calib.measures import CalibrationReport
from hf_calib.reports import DecisionMeasurement, Measurement
from hf_calib.reports.measurement import pool
from hf_calib.reports.page import (
    confident_mistakes,
    reliability_svg,
    render_decisions,
    render_page,
    risk_coverage_svg,
)
from hf_calib.tasks import Question, TypedDecisions
from tests.evaluation.test_decisions import benchmark


def answers(n=300, seed=0, power=1.0, n_subjects=4, k=3, gain=2.0):
    """Return predictions whose confidence is sharpened by `power` against calibrated ones."""
    rng = np.random.default_rng(seed)
    logits = gain * rng.normal(size=(n, k))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    right = np.array([rng.choice(k, p=row) for row in p])
    values = power * logits
    values -= np.logaddexp.reduce(values, axis=1)[:, None]
    subjects = tuple(f"subject {i % n_subjects}" for i in range(n))
    questions = tuple(
        Question(f"question {i} <b>&</b>?", tuple(f"option {i}.{j}" for j in range(k))) for i in range(n)
    )
    return Recorded(Predictions(values, right, subjects, np.arange(n)), questions)


class Checker(HTMLParser):
    """Collects the tags that are open, and what a page loads."""

    VOID = ("meta", "br", "wbr", "link", "img", "path", "rect")

    def __init__(self):
        super().__init__()
        self.open, self.loads = [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [value for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag


@pytest.mark.parametrize("n_subjects", [1, 57])
@pytest.mark.parametrize("n_datasets", [1, 2])
def test_the_page_is_well_formed_and_needs_nothing_else(n_subjects, n_datasets):
    datasets = {f"set {i}": answers(seed=i, n_subjects=n_subjects) for i in range(n_datasets)}
    page = render_page(Measurement("a <model>", datasets, {"prompt": "</script>", "from_predictions": "</script>"}))
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    assert checker.loads == []
    assert "a <model>" not in page
    assert "a &lt;model&gt;" in page
    assert "<b>&</b>" not in page
    assert '<pre class="prompt">&lt;/script&gt;</pre>' in page
    assert "From predictions" in page
    assert "</script>" not in page
    assert ("<h2>Datasets</h2>" in page) == (n_datasets == 2)
    assert "prefers-color-scheme: dark" in page
    # One row a subject, the worst first.
    table = page.split("most miscalibrated first", 1)[1].split("</table>", 1)[0]
    errors = [float(value) for value in re.findall(r"</td><td>([\d.]+)</td><td>[\d.]+ to", table)]
    assert len(errors) == n_subjects * n_datasets
    assert errors == sorted(errors, reverse=True)


def test_long_questions_and_names_fit():
    own = answers(40, power=4)
    long = tuple(Question("word " * 300 + f"<{i}>?", ("a", "b", "c")) for i in range(40))
    recorded = Recorded(replace(own.predictions, subjects=("one_<two>_three",) * 40), long)
    page = render_page(Measurement("m", {"set": recorded}))
    assert "<td>one_<wbr>&lt;two&gt;_<wbr>three</td>" in page
    mistakes = page.split("Most confident mistakes", 1)[1].split("All measures", 1)[0]
    assert mistakes.count("<summary>Full question</summary>") == mistakes.count('<div class="mistake">') > 0
    assert "word " * 100 + "…" in mistakes
    checker = Checker()
    checker.feed(page)
    assert checker.open == []


def test_the_surest_mistakes_come_first():
    recorded = answers()
    found = confident_mistakes(Measurement("m", {"one": recorded, "two": answers(seed=1)}), 5)
    everything = [
        (float(own.predictions.confidences[i]), name, i)
        for name, own in (("one", recorded), ("two", answers(seed=1)))
        for i in range(300)
        if not own.predictions.correct[i]
    ]
    assert [(m.confidence, m.dataset, m.row) for m in found] == sorted(everything, reverse=True)[:5]
    first = found[0]
    own = recorded if first.dataset == "one" else answers(seed=1)
    assert first.chosen.endswith(f"option {first.row}.{own.predictions.predicted[first.row]}")
    assert first.right.endswith(f"option {first.row}.{own.predictions.answers[first.row]}")
    assert first.right_probability < first.confidence


def test_the_reliability_diagram_shows_each_bin():
    report = answers().predictions.report()
    drawn = reliability_svg(report)
    filled = [row for row in report.bins if row["count"]]
    assert drawn.count('class="bar"') == len(filled)
    heights = [float(value) for value in re.findall(r'class="bar"[^/]*height="([\d.]+)"', drawn)]
    np.testing.assert_allclose(np.array(heights) / 300, [row["accuracy"] for row in filled], atol=1e-3)
    assert f"{filled[0]['count']:,} answers" in drawn


def test_the_risk_coverage_curve_ends_at_the_overall_risk():
    predictions = answers(n=3000).predictions
    drawn = risk_coverage_svg(predictions.confidences, predictions.correct)
    path = re.search(r'class="curve" d="M([^"]+)"', drawn)[1].split("L")
    assert len(path) <= 400
    x, y = map(float, path[-1].split(","))
    assert (x - 46) / 300 == pytest.approx(1)
    assert 1 - (y - 12) / 300 == pytest.approx(1 - predictions.correct.mean(), abs=1e-3)


@pytest.mark.parametrize(
    ("power", "n", "begins"),
    [
        (1.0, 20_000, "Well calibrated."),
        (1.0, 300, "No significant miscalibration on 300 questions."),
        (3.0, 3000, "Overconfident."),
        (0.3, 3000, "Underconfident."),
        (1.3, 20_000, "Slightly overconfident."),
    ],
)
def test_verdicts(power, n, begins):
    report = answers(n, power=power).predictions.report()
    said = report.verdict
    assert said.startswith(begins)
    assert f"right {report.measures['accuracy'].value:.0%} of the time" in said


def test_a_verdict_without_intervals():
    report = CalibrationReport.from_predictions([[0.99, 0.01]] * 50, [1] * 50, n_resamples=0)
    assert report.verdict.startswith(
        "Overconfident. It is right 0% of the time, with a mean confidence of 99% (ECE 0.990)"
    )


def test_pooling_pads_and_names():
    one, two = answers(4, k=2), answers(3, k=5)
    pooled = pool({"a": one, "b": two})
    assert pooled.option_log_probabilities.shape == (7, 5)
    assert pooled.n_choices.tolist() == [2] * 4 + [5] * 3
    assert pooled.subjects[4] == "b: subject 0"
    np.testing.assert_array_equal(pooled.confidences[:4], one.predictions.confidences)


def test_unknown_answers_are_refused():
    recorded = answers(5)
    recorded.predictions.answers[2] = -1
    with pytest.raises(ValueError, match=r"set: 1 of 5 questions have no right answer .*row 2"):
        Measurement("m", {"set": recorded})


def decisions(n=60, **changes):
    """Return a measurement of typed decisions whose answers are sharper than the gold distributions."""
    cases = benchmark(n)
    answers = [tuple(np.array(own.gold) ** 3 / (np.array(own.gold) ** 3).sum()) for own in cases.decisions]
    answers[:5] = [own[::-1] for own in answers[:5]]
    return DecisionMeasurement("a <decider>", cases, answers, [0.4] * len(answers), **changes)


def test_the_page_of_typed_decisions(tmp_path):
    run = {"prompt": "</script>", "n_orders": 4, "calibrator": {"method": "grouped_temperature", "by": "type"}}
    measurement = decisions(run=run, prior=prior_answers(benchmark(100, seed=1), benchmark(60)))
    measurement.save(tmp_path)
    page = (tmp_path / "report.html").read_text()
    checker = Checker()
    checker.feed(page)
    assert checker.open == checker.loads == []
    assert "a &lt;decider&gt;" in page
    assert "</script>" not in page
    assert "The labels have 40% of the probability" in page
    for info in ("accuracy", "kl_from_gold", "brier_from_gold", "ece", "total_variation", "score_error"):
        own = measurement.report.measures[info]
        assert f"<dd>{own.value:.3f}<small>{own.low:.3f} to {own.high:.3f}</small>" in page
    for heading, rows in (
        ("Compared with answers that ignore the state", {"this model": measurement.report, **measurement.references}),
        ("Question types", measurement.by_type),
        ("Workflows", measurement.by_workflow),
    ):
        table = page.split(f"<h2>{heading}</h2>", 1)[1].split("</table>", 1)[0]
        found = re.findall(r"<tr><td>(.+?)</td><td>(\d+)</td><td>([\d.]+)</td><td>([\d.]+)", table)
        assert found == [
            (name, str(own.n), f"{own.accuracy.value:.3f}", f"{own.kl_from_gold.value:.3f}")
            for name, own in rows.items()
        ]
    assert page.count('class="ideal"') == 4
    mistakes = page.split("Most confident mistakes", 1)[1].split("All measures", 1)[0]
    assert mistakes.count('class="mistake"') == 5
    first = measurement.cases[0].decisions[0]
    assert f"{first.name} ({first.type})" in mistakes
    assert "<td>Orders of the options</td>" in page


def test_a_page_of_labels_alone_in_one_workflow():
    row = {"state": "s", "questions": {"q": {"type": "noul", "instructions": "x"}}, "gold": {"q": "yes"}}
    measurement = DecisionMeasurement("m", TypedDecisions([row] * 30), [(0.2, 0.8)] * 30, [None] * 30)
    page = render_decisions(measurement)
    assert "Workflows" not in page
    assert "KL from gold" not in page
    assert page.count('class="ideal"') == 1
    assert "No mistakes." in page
