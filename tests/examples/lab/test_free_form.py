"""The comparison of ways to train confidence in free-form answers."""

from dataclasses import replace

import numpy as np
import pytest
from experiments import free_form_run as running
from experiments.free_form import (
    DOMAINS,
    METHODS,
    READINGS,
    SETTINGS,
    FreeFormBench,
    Trained,
    read,
    with_temperature,
)
from experiments.free_form_run import FILES, KEYS, TRAINED, free_form_report, run_free_form
from experiments.results import load_rows, write_json

from hf_calib.confidence import LocalModel
from hf_calib.confidence.backend import Generation
from hf_calib.lab import make_model, make_tokenizer, make_world
from hf_calib.lab.documents import stated_replies
from hf_calib.lab.presets import PretrainingSettings

from .test_commands import main


def tiny():
    """Return settings of the experiment whose model learns little more than the form of a reply."""
    mini = SETTINGS["mini"]
    preset = replace(mini.preset, pretraining=PretrainingSettings(80, 64, 5e-3, warmup_steps=10))
    return replace(mini, preset=preset, n_rewarded=40, n_graded=40, n_fit=40, n_test=60, n_samples=2, steps=2)


@pytest.fixture
def bench(tmp_path):
    settings = replace(SETTINGS["mini"], n_fit=200, n_test=300)
    world = make_world(settings.preset, 3)
    return FreeFormBench(settings, world, tmp_path, make_tokenizer(free_form=True), tmp_path, 3)


@pytest.fixture
def model():
    return make_model(free_form=True)


def test_answers_are_rewarded_and_graded_about_different_entities(bench):
    def entities(questions):
        return set(zip(questions.species.tolist(), questions.regions.tolist(), strict=True))

    rewarded, graded, fit = bench.rewarded(), bench.graded(), bench.fit()
    assert (len(rewarded), len(graded), len(fit)) == (300, 300, 200)
    assert not entities(rewarded) & entities(graded)
    assert entities(fit) <= entities(graded)
    assert not (entities(graded) | entities(rewarded)) & entities(bench.test("trained"))
    relations = set(bench.world.relations_in(DOMAINS["unseen"]).tolist())
    assert not relations & set(np.concatenate([rewarded.relations, graded.relations]).tolist())
    assert set(bench.test("unseen").relations.tolist()) == relations


def answering(monkeypatch, bench, questions, level):
    """Let every model answer a question's first value, and state a level."""
    first = dict(
        zip(
            (question.question for question in questions.to_free_form()),
            zip(
                questions.choices(),
                stated_replies(questions, np.zeros(len(questions), int), np.full(len(questions), level)),
                strict=True,
            ),
            strict=True,
        )
    )
    asked = []

    def generate(self, name, questions, prompt_format, asking, *, n_samples=1, **options):
        asked.extend(question.question for question in questions)
        found = []
        for question in questions:
            choices, reply = first[question.question]
            text = reply if name == "stated" else f" {choices[0]}"
            found.append([Generation(text, True)] * n_samples)
        return found

    monkeypatch.setattr(LocalModel, "generate", generate)
    return asked


@pytest.mark.parametrize("reading", READINGS)
def test_an_answer_is_read_with_its_true_probability_and_each_question_asked_once(reading, bench, model, monkeypatch):
    questions = bench.test("trained")
    asked = answering(monkeypatch, bench, questions, level=13)
    found = read(bench, model, questions, reading)
    assert len(set(asked)) == len(asked) < len(questions)
    np.testing.assert_allclose(found.true_probabilities[:, 0], questions.true_probabilities[:, 0])
    np.testing.assert_allclose(found.true_probabilities.sum(axis=1), 1)
    np.testing.assert_array_equal(found.predictions.correct, questions.answers == 0)
    expected = {"stated": 0.65, "agreement": 1.0}
    if reading in expected:
        np.testing.assert_allclose(found.predictions.confidences, expected[reading])
    else:
        assert len(set(found.predictions.confidences.round(9))) > 1


def test_an_unreadable_reply_is_a_wrong_answer_without_confidence(bench, model, monkeypatch):
    questions = bench.test("trained")
    said = [Generation("<answer> stones </answer> <confidence> very </confidence>", True)]
    monkeypatch.setattr(
        LocalModel, "generate", lambda self, name, questions, *args, **options: [said] * len(questions)
    )
    found = read(bench, model, questions, "stated")
    assert not found.predictions.correct.any()
    np.testing.assert_array_equal(found.predictions.confidences, 0)
    np.testing.assert_array_equal(found.true_probabilities[:, 0], 0)


def test_a_temperature_changes_the_confidence_and_no_answer(bench, model, monkeypatch):
    questions = bench.test("trained")
    every = bench.world.sample_questions(4000, ("in", "out"), "all")
    # With the least level, all answers are less probably right than wrong.
    answering(monkeypatch, bench, every, level=2)
    measured = read(bench, model, questions, "stated")
    (found,) = with_temperature(bench, model, "stated", [measured])
    np.testing.assert_array_equal(found.predictions.correct, measured.predictions.correct)
    before, after = measured.predictions.confidences[0], found.predictions.confidences[0]
    right = read(bench, model, bench.fit(), "stated").predictions.correct.mean()
    assert abs(after - right) < abs(before - right)


@pytest.mark.slow
def test_a_run_is_continued_where_it_stopped(tmp_path, monkeypatch):
    made = []

    def trained(name):
        def train(bench, start):
            made.append(name)
            if name == "stated-levels" and made.count(name) == 1:
                raise KeyboardInterrupt
            return start

        return train

    recipes = {name: Trained(own.start, trained(name)) for name, own in running.MODELS.items()}
    monkeypatch.setattr(running, "MODELS", recipes)
    arguments = {"preset": "mini", "settings": tiny(), "cache_dir": tmp_path / "cache"}
    with pytest.raises(KeyboardInterrupt):
        run_free_form(tmp_path, [3], **arguments)
    path = run_free_form(tmp_path, [3], **arguments)
    assert made == [*METHODS[1:], "stated-levels"]
    rows = load_rows(path, KEYS)
    temperature = [f"{name}+temperature" for name in ("pretrained", "grpo")]
    assert {row["method"] for row in rows} == {*METHODS, *temperature}
    assert len(rows) == (len(METHODS) + 2) * len(READINGS) * len(DOMAINS)
    # Nothing was trained, so all models are the pre-trained one.
    firsts = [row["ece"] for row in rows if (row["reading"], row["domain"]) == ("p-true", "trained")]
    assert len(set(firsts)) == 2
    with pytest.raises(ValueError, match=r"'mini'.*another folder"):
        run_free_form(tmp_path, [3], preset="full")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "seeds must be"),
        ({"seeds": [3], "preset": "huge"}, "no preset 'huge'"),
        ({"seeds": [3], "methods": ["ppo"]}, "no method 'ppo'"),
        ({"seeds": [3], "jobs": 0}, "jobs must be"),
    ],
)
def test_what_cannot_be_run_is_refused(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_free_form(tmp_path, **arguments)


def rows_of(seeds, **eces):
    """Return rows in which each method has an ECE, in every reading."""
    return [
        dict.fromkeys(KEYS, 0.5)
        | {"seed": seed, "reported": seed > 2, "world": "free-form", "n": 100}
        | {"method": method.replace("_", "-"), "reading": reading, "domain": domain, "ece": ece + seed / 1000}
        for method, ece in eces.items()
        for seed in seeds
        for reading in READINGS
        for domain in DOMAINS
    ]


def test_the_report_has_means_with_intervals_and_checks_the_claims(tmp_path):
    eces = dict.fromkeys((name.replace("-", "_") for name in TRAINED), 0.02) | {"stated_levels": 0.1}
    write_json(tmp_path / FILES["file"], rows_of((2, 3, 4, 5), pretrained=0.01, grpo=0.2, **eces))
    report = free_form_report(tmp_path)
    assert "Seeds 3, 4, 5;" in report
    # .204, and the t interval of .203, .204 and .205.
    assert "0.204 [0.202, 0.206]" in report
    verdicts = {line.split(":")[0]: line.split()[-1] for line in report.splitlines() if ": ECE" in line}
    assert verdicts == {
        **{f"grpo ({reading})": "yes" for reading in ("stated", "levels", "p-true")},
        **{f"{method} ({reading})": "yes" for method, reading in TRAINED.items()},
        "stated-levels (levels)": "NO",
    }
    assert (tmp_path / "free_form.md").read_text(encoding="utf-8") == report
    assert "Seeds 2, 3, 4, 5;" in free_form_report(tmp_path, all_seeds=True)


def test_seeds_that_settings_were_chosen_on_are_not_reported(tmp_path):
    write_json(tmp_path / FILES["file"], rows_of((0, 1), pretrained=0.01))
    with pytest.raises(ValueError, match="--all-seeds"):
        free_form_report(tmp_path)


@pytest.mark.nightly
def test_reinforcement_raises_the_error_and_trained_confidence_is_informative(tmp_path, capsys):
    assert main("free_form", "--seeds", "3", "--preset", "mini", "--out", tmp_path) == 0
    assert "What it was to show" in capsys.readouterr().out
    rows = load_rows(tmp_path / FILES["file"], KEYS)
    found = {(row["method"], row["reading"]): row for row in rows if row["domain"] == "trained"}
    for reading in ("levels", "p-true"):
        assert found["grpo", reading]["ece"] > found["pretrained", reading]["ece"]
    for method in ("stated-levels", "self-evaluation", "self-evaluation-anchor"):
        assert found[method, TRAINED[method]]["auroc"] > 0.5
