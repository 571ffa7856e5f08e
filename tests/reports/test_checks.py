"""Each check: a reading that triggers it and one that does not, and that calibrated models rarely trigger any."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from hf_calib.confidence import Predictions
from hf_calib.confidence.recorded import Recorded
from hf_calib.measures import CalibrationReport, Finding
from hf_calib.reports import Measurement
from hf_calib.reports.checks import CHECKS, Reading, calibrator_findings, findings
from hf_calib.tasks import Question

LETTERS = {"confidence": {"name": "letters"}}
TEXT = {"confidence": {"name": "text", "normalization": "none"}}
STATED = {"confidence": {"name": "stated", "top_k": 1}}
SERVED_CHAT = {"model": "openai:http://localhost:8000/v1", "prompt_format": {"chat": True}}


def calibrated(n: int, k: int = 4, alpha: float = 0.3, seed: int = 0, mass: float = 1.0) -> Predictions:
    """Return predictions of a model whose answers are right as often as it is confident."""
    rng = np.random.default_rng(seed)
    p = np.maximum(rng.dirichlet(np.full(k, alpha), size=n), 1e-12)
    p /= p.sum(axis=1, keepdims=True)
    answers = (rng.random((n, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=k - 1)
    return Predictions(np.log(p * mass), answers, (None,) * n, np.arange(n))


def with_answers(predictions: Predictions, answers: Any) -> Predictions:
    return replace(predictions, answers=np.asarray(answers))


def confident(n: int, chosen: Any, confidence: Any, answers: Any, k: int = 4, mass: float = 1.0) -> Predictions:
    """Return predictions with a chosen option and the confidence in it."""
    rows = np.arange(n)
    c = np.broadcast_to(confidence, n)
    p = np.repeat((1 - c)[:, None] / (k - 1), k, axis=1)
    p[rows, chosen] = c
    return Predictions(np.log(p * mass), np.asarray(answers), (None,) * n, rows)


def found(predictions: Predictions, run: dict[str, Any] | None = None, **more: Any) -> dict[str, Finding]:
    report = predictions.report(n_resamples=200)
    return {own.code: own for own in findings(Reading(predictions, report, LETTERS if run is None else run, **more))}


def balanced(n: int, k: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.arange(n) % k)


def spread(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.4, 0.95, n)


def test_every_check_has_a_code_of_its_own_and_the_serious_ones_come_first():
    assert len({check.code for check in CHECKS}) == len(CHECKS)
    assert [check.serious for check in CHECKS] == sorted((check.serious for check in CHECKS), reverse=True)


def test_one_option_answered_far_more_often_than_it_is_right():
    n, answers = 200, balanced(200)
    chosen = np.where(np.arange(n) < 198, 0, 1)
    own = found(confident(n, chosen, spread(n), answers), LETTERS | {"has_chat_template": True})["one_option"]
    assert own.serious
    assert str(own) == (
        "Answers A on 99% of questions: the model does not answer by letter with this prompt. "
        "Try --chat-template or --confidence text."
    )
    assert own.options == ("--chat-template", "--confidence text")
    assert "one_option" not in found(calibrated(200))
    # If the option is right that often, answering it is not a fault.
    assert "one_option" not in found(confident(n, chosen, spread(n), np.where(np.arange(n) % 20, 0, 1)))


def test_the_advice_depends_on_how_the_model_was_asked():
    guess = confident(100, np.zeros(100, int), spread(100), balanced(100))
    chat = {"has_chat_template": True, "prompt_format": {"chat": True}}
    assert found(guess, LETTERS | chat)["one_option"].options == ("--confidence text",)
    assert found(guess, TEXT)["one_option"].options == ("--confidence text-characters",)
    assert found(guess, {})["one_option"].options == ()
    # Solved examples have options.
    sampled = {"confidence": {"name": "consistency", "method": "agreement", "matcher": "exact"}}
    constant = found(confident(100, np.zeros(100, int), 0.5, balanced(100)), sampled)["constant_confidence"]
    assert (constant.remedy, constant.options) == ("Try another model or prompt.", ())
    # A server scores no texts in a chat.
    for run, options in ((LETTERS, ["stated", "consistency"]), (STATED, ["consistency"])):
        expected = tuple(f"--confidence {way}" for way in options)
        assert found(guess, run | SERVED_CHAT)["one_option"].options == expected
    trainer = LETTERS | {"has_chat_template": True, "in_trainer": "calibration_prompt='chat'"}
    assert found(guess, trainer)["one_option"].remedy == "Try calibration_prompt='chat'."


def test_an_accuracy_at_chance():
    guess = confident(400, balanced(400, seed=5), spread(400), balanced(400))
    assert "cannot be distinguished from chance, 25%" in found(guess)["at_chance"].sentence
    assert "at_chance" not in found(calibrated(400))
    below = confident(200, (balanced(200) + 1) % 4, spread(200), balanced(200))
    assert "is below chance, 25%" in found(below)["at_chance"].sentence
    trainer = LETTERS | {"in_trainer": "calibration_prompt='chat'"}
    answer_bases = ((LETTERS, "whether --answer-base is right."), (trainer, "whether answer_base is right."))
    for run, base in (*answer_bases, ({}, "some questions.")):
        assert found(below, run)["at_chance"].remedy.endswith(base)
    # Free-form answers have no chance level.
    assert "at_chance" not in found(guess, {"confidence": {"name": "p-true", "matcher": "exact"}})


def test_an_accuracy_of_always_answering_the_most_frequent_option():
    answers = np.where(np.arange(400) % 10 < 7, 0, 1)
    rng = np.random.default_rng(0)
    chosen = np.where(rng.random(400) < 0.7, answers, 1 - answers)
    own = found(confident(400, chosen, spread(400), answers, k=2))["at_chance"]
    assert "cannot be distinguished from always answering A, 70%" in own.sentence
    assert "at_chance" not in found(confident(400, answers, spread(400), answers, k=2))


def test_little_mass_on_the_options():
    assert "23% of the probability" in found(calibrated(200, mass=0.23))["little_mass"].sentence
    assert "little_mass" not in found(calibrated(200, mass=0.6))
    # A whole text has little probability under any model.
    assert "little_mass" not in found(calibrated(200, mass=1e-6), TEXT)


def test_confidence_that_does_not_rank_answers():
    answers = balanced(400)
    chosen = np.where(np.random.default_rng(2).random(400) < 0.6, answers, (answers + 1) % 4)
    assert "AUROC" in found(confident(400, chosen, spread(400), answers))["no_ranking"].sentence
    assert "no_ranking" not in found(calibrated(400))


def test_confidence_that_is_nearly_constant():
    answers = balanced(200)
    chosen = np.where(np.arange(200) % 2, answers, (answers + 1) % 4)
    confidence = 0.5 + np.random.default_rng(0).uniform(0, 0.01, 200)
    assert (
        "nearly the same for all questions, 50."
        in found(confident(200, chosen, confidence, answers))["constant_confidence"].sentence
    )
    assert "constant_confidence" not in found(calibrated(200))
    # A model that is nearly always right may be nearly always sure.
    assert "constant_confidence" not in found(confident(200, answers, 0.99, answers))


def test_stated_replies_that_could_not_be_read():
    n = 100
    answers = balanced(n)
    read = np.arange(n) >= 30
    chosen, confidences = np.where(read, answers, -1), spread(n)

    def stated(chosen: Any, confidences: Any) -> Predictions:
        return Predictions.from_answers(chosen, confidences, [4] * n, answers, (None,) * n, np.arange(n))

    own = found(stated(chosen, confidences), STATED)
    assert own["unread_replies"].serious
    assert own["unread_replies"].sentence.startswith("30 of 100 replies")
    assert "some_unread_replies" not in own
    few = stated(np.where(np.arange(n) < 2, -1, answers), confidences)
    assert not found(few, STATED)["some_unread_replies"].serious
    # A letter without a percentage is half a reply.
    assert found(stated(answers, np.where(read, confidences, np.nan)), STATED)["unread_replies"].sentence.startswith(
        "30 of 100 replies have no readable letter or confidence"
    )
    assert not found(stated(answers, confidences), STATED).keys() & {"unread_replies", "some_unread_replies"}


def test_a_chat_template_that_was_not_used():
    run = LETTERS | {"has_chat_template": True}
    own = found(calibrated(1000), run)["chat_template_unused"]
    assert (own.serious, own.options) == (False, ("--chat-template",))
    assert not found(calibrated(1000), run | {"prompt_format": {"chat": True}})
    assert not found(calibrated(1000), LETTERS | {"has_chat_template": False})


def test_too_few_questions_for_the_claim():
    assert "10 questions are too few for any" in found(calibrated(10))["too_few_questions"].sentence
    own = found(calibrated(100, alpha=1.0), dataset={"drawn": {"of": 500, "subjects": 1, "seed": 0}})
    assert own["too_few_questions"].options == ("--limit 500",)
    assert "too_few_questions" not in found(calibrated(3000))
    # A few hundred are enough to call a model overconfident that is never right.
    wrong = confident(100, balanced(100), 0.99, (balanced(100) + 1) % 4)
    assert "too_few_questions" not in found(wrong)


def test_a_sample_of_one_subject():
    asked = replace(calibrated(200), subjects=("law",) * 200)
    drawn = {"drawn": {"of": 5000, "subjects": 57, "seed": 0}}
    own = found(asked, dataset=drawn)["one_subject"]
    assert own.sentence == "The questions drawn are all of one subject, law, of 57."
    assert own.options == ("--limit 570",)
    assert "one_subject" not in found(replace(asked, subjects=("law", "art") * 100), dataset=drawn)
    assert "one_subject" not in found(asked)


def test_a_calibrator_at_its_bound():
    run = LETTERS | {"calibrator": {"method": "auto", "base": {"method": "temperature", "temperature": 1000.0}}}
    assert "erases all confidence" in found(calibrated(200), run)["calibrator_at_bound"].sentence
    assert "every answer certain" in calibrator_findings({"temperature": 0.001}, 1.0, 0.9)[0].sentence
    assert calibrator_findings({"temperature": 2.0}, 1.0, 0.9) == ()


def test_a_calibrator_that_makes_predictions_worse():
    (worse,) = calibrator_findings({"temperature": 2.0}, 0.9593, float("inf"))
    assert worse.sentence.endswith("cross-validated, the NLL is inf with it and 0.959 without it.")
    assert calibrator_findings({"temperature": 2.0}, 0.9593, 0.9610) == ()


def test_predictions_that_repeat():
    one = calibrated(100)
    again = one.subset(np.arange(100) % 40)
    again = replace(again, rows=np.arange(100))
    assert found(again)["repeated_predictions"].sentence.startswith("100 of 100 questions got exactly the same")
    assert "repeated_predictions" not in found(one)
    # Rounded probabilities, written confidences and calibrators with steps have few values.
    p = np.round(again.probabilities, 2) + 1e-30
    assert "repeated_predictions" not in found(replace(again, option_log_probabilities=np.log(np.minimum(p, 1))))
    assert "repeated_predictions" not in found(again, STATED)
    assert "repeated_predictions" not in found(again, LETTERS | {"calibrator": {"method": "isotonic"}})


def test_different_questions_and_repeated_ones_are_told_apart():
    one, rows = calibrated(100), np.arange(100) % 40
    same = replace(one.subset(rows), rows=np.arange(100))
    asked = [Question(f"Question {row}", ("a", "b", "c", "d")) for row in rows]
    own = found(same, questions=asked)
    assert "repeated_predictions" not in own  # the same question gets the same probabilities
    assert own["repeated_questions"].sentence == (
        "60 of 100 questions are repeats of others, so the intervals are too narrow."
    )
    assert not own["repeated_questions"].serious
    others = [Question(f"Question {row}", ("a", "b", "c", "d")) for row in range(100)]
    own = found(same, questions=others)
    assert own["repeated_predictions"].sentence.startswith("100 of 100 different questions got exactly the same")
    assert "repeated_questions" not in own
    assert "repeated_questions" not in found(
        with_answers(same, balanced(100)), questions=asked
    )  # several answers each


def test_what_a_dataset_lacks():
    own = found(calibrated(1000), dataset={"n": 1010, "skipped_rows": 3})
    assert own["skipped_rows"].sentence == "3 rows could not be read and were left out."
    assert own["dropped_questions"].sentence.startswith("10 questions were left out")
    missing = {
        "questions": 2,
        "largest_bound_of_an_option": 0.01,
        "mean_confidence_at_least": 0.4,
        "mean_confidence_at_most": 0.5,
    }
    assert "For 2 questions the server" in found(calibrated(1000), missing=missing)["options_not_returned"].sentence
    assert not found(calibrated(1000), dataset={"n": 1000, "skipped_rows": 0})


def test_a_server_that_returned_no_letters():
    predictions = calibrated(100)
    values = np.where(np.arange(100)[:, None] < 60, -np.inf, predictions.option_log_probabilities)
    silent = replace(predictions, option_log_probabilities=values, option_counts=np.full(100, 4))
    missing = {
        "questions": 60,
        "largest_bound_of_an_option": 1e-4,
        "mean_confidence_at_least": 0.4,
        "mean_confidence_at_most": 0.5,
    }
    own = found(silent, LETTERS | SERVED_CHAT, missing=missing)
    assert next(iter(own)) == "letters_not_returned"
    assert own["letters_not_returned"].serious
    assert own["letters_not_returned"].sentence.startswith("For 60 of 100 questions the server returned no option's")
    assert own["letters_not_returned"].options == ("--confidence stated", "--confidence consistency")
    assert not own.keys() & {"one_option", "repeated_predictions", "options_not_returned"}
    for other, run in ((predictions, LETTERS | SERVED_CHAT), (silent, LETTERS), (silent, TEXT | SERVED_CHAT)):
        assert "letters_not_returned" not in found(other, run)


@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize(("n", "runs"), [(30, 24), (100, 24), (1000, 6), (10_000, 2)])
def test_calibrated_models_rarely_put_their_reading_in_doubt(n, runs, k):
    alarms = 0
    for seed in range(runs):
        predictions = calibrated(n, k, alpha=(0.1, 0.3, 1.0)[seed % 3], seed=seed)
        own = found(predictions)
        alarms += any(finding.serious for finding in own.values())
        if n >= 3000:
            assert not own
    assert alarms <= (2 if n <= 100 else 0)


def shown(page: str) -> str:
    """Return the text of a page."""
    return html.unescape(re.sub("<[^>]+>", "", page))


@cache
def measurement(n: int = 200) -> Measurement:
    chosen = np.where(np.arange(n) < n - 2, 0, 1)
    predictions = confident(n, chosen, spread(n), balanced(n), mass=0.2)
    run = LETTERS | {"has_chat_template": True, "datasets": {"d": {"n": n, "sha256": "0" * 64, "skipped_rows": 0}}}
    return Measurement("m", {"d": Recorded(predictions, (None,) * n)}, run, {"n_resamples": 200})


def test_the_verdict_leads_with_the_most_serious_warning_and_is_the_same_everywhere(tmp_path):
    own = measurement()
    assert own.verdict.startswith("Answers A on 99% of questions: the model does not answer by letter")
    assert [finding.code for finding in own.warnings][:3] == ["one_option", "little_mass", "at_chance"]
    own.save(tmp_path)
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["verdict"] == own.verdict
    assert [finding["code"] for finding in saved["warnings"]] == [finding.code for finding in own.warnings]
    assert {"code", "serious", "sentence", "remedy", "options", "dataset"} == set(saved["warnings"][0])
    page = shown(own_page := (tmp_path / "report.html").read_text())
    assert '<span class="option">--chat-template</span>' in own_page
    assert page.count(own.warnings[0].sentence) == 1
    assert own.verdict in page
    assert all(finding.sentence in page for finding in own.warnings)
    assert " ".join(str(own).split()).count(own.verdict) == 1
    assert own.verdict in shown(own._repr_html_())
    assert CalibrationReport.from_dict(saved).warnings == own.warnings
    assert CalibrationReport.from_dict(saved).verdict == own.verdict


def test_warnings_of_several_datasets_name_theirs():
    good, bad = calibrated(3000), measurement().predictions
    datasets = {"good": Recorded(good, (None,) * 3000), "bad": Recorded(bad, (None,) * 200)}
    own = Measurement("m", datasets, LETTERS, {"n_resamples": 200})
    assert own.verdict.startswith("bad: Answers A on 99% of questions")
    assert {finding.dataset for finding in own.warnings} == {"bad"}
    assert own.reports["good"].warnings == ()


def test_batch_calibration_is_told_of_skewed_labels():
    predictions = calibrated(400)
    batch = {"confidence": {"name": "letters-batch"}}
    even, skewed = balanced(400), np.where(np.arange(400) % 3 < 2, 1, balanced(400))
    assert "skewed_labels" not in found(with_answers(predictions, even), batch)
    told = found(with_answers(predictions, skewed), batch)["skewed_labels"]
    assert "B is right for 7" in told.sentence
    assert not told.serious
    for other in (LETTERS, batch | {"permute_options": True}):
        assert "skewed_labels" not in found(with_answers(predictions, skewed), other)


def test_no_threshold_is_shown_where_the_calibrator_was_fitted_on_the_same_questions():
    recorded = Recorded(confident(300, 0, 0.9, np.zeros(300, dtype=int)), (None,) * 300)
    fitted = {"calibrator": {"method": "temperature", "fitted_on_same_questions": ["one"]}}
    for datasets in ({"one": recorded}, {"one": recorded, "two": recorded}):
        assert Measurement("m", datasets, fitted).report.thresholds == ()
        assert [own.coverage for own in Measurement("m", datasets).report.thresholds] == [1, 1, 1]
