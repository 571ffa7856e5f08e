"""`hf_calib.find_threshold` and `hf-calib threshold`: groups, the check on new questions, conditions, files."""

import json
from dataclasses import replace

import numpy as np
import pytest

import hf_calib
from hf_calib.calibrators import TemperatureScaling
from hf_calib.cli import main
from hf_calib.evaluation import ConfidenceThreshold, measure_recorded
from hf_calib.evaluation.grouping import groups_of
from hf_calib.measures import AccuracyThreshold, accuracy_threshold
from hf_calib.tasks import FewShotFormat, as_questions
from tests.support import question_rows, tiny_llama


def write(path, n, *, seed, exponent=0.2):
    """Write predictions of two subjects, "easy" and "hard"; of the hard one half of the answers are right."""
    rng = np.random.default_rng(seed)
    with path.open("w") as file:
        for row in range(n):
            c = float(rng.uniform(0.5, 1))
            subject = ("easy", "hard")[row % 2]
            right = rng.random() < (c**exponent if subject == "easy" else 0.5)
            record = {"probabilities": [c, 1 - c], "answer": 0 if right else 1, "subject": subject, "type": "noul"}
            file.write(json.dumps({**record, "question": f"{row}?", "choices": ["red", "blue"]}) + "\n")
    return path


@pytest.fixture
def held_out(tmp_path):
    return write(tmp_path / "held_out.jsonl", 800, seed=0)


def test_each_group_has_the_threshold_of_its_own_answers_at_a_shared_level(held_out):
    found = hf_calib.find_threshold(held_out, accuracy=0.85, by="subject")
    predictions = found_predictions(held_out)
    for name, place in (("easy", 0), ("hard", 1)):
        c, y = predictions.confidences[place::2], predictions.correct[place::2]
        assert found.thresholds[name] == accuracy_threshold(c, y, 0.85, level=0.975)
    assert found.thresholds["easy"].coverage > 0.8
    assert found.thresholds["hard"].threshold is None
    assert found.coverage == found.thresholds["easy"].n_accepted / 800
    assert "no threshold" in str(found).casefold()
    alone = hf_calib.find_threshold(held_out, accuracy=0.85)
    assert alone.thresholds[""] == accuracy_threshold(predictions.confidences, predictions.correct, 0.85)


def found_predictions(path):
    return measure_recorded(path).predictions


def test_the_check_on_new_questions_counts_those_above(held_out, tmp_path):
    new = write(tmp_path / "new.jsonl", 400, seed=1)
    worse = write(tmp_path / "worse.jsonl", 400, seed=2, exponent=3.0)
    found = hf_calib.find_threshold(held_out, accuracy=0.85, by="subject", new=new)
    predictions = found_predictions(new)
    above = predictions.confidences[::2] > found.thresholds["easy"].threshold
    check = found.checks["easy"]
    assert (check.n, check.n_accepted, check.n_correct) == (200, above.sum(), predictions.correct[::2][above].sum())
    assert check.low < check.accuracy_accepted < check.high
    assert not check.missed
    assert (found.checks["hard"].n_accepted, found.checks["hard"].coverage) == (0, 0)
    shifted = hf_calib.find_threshold(held_out, accuracy=0.85, by="subject", new=worse)
    assert shifted.checks["easy"].missed
    assert "significantly lower" in str(shifted)
    other = write(tmp_path / "other.jsonl", 100, seed=3)
    other.write_text(other.read_text().replace('"hard"', '"law"'))
    with pytest.raises(ValueError, match="by: no threshold for the subject 'law', only for easy, hard; "):
        hf_calib.find_threshold(held_out, accuracy=0.85, by="subject", new=other)
    with pytest.raises(ValueError, match=r"no threshold for the dataset 'other', only for .*; rename the dataset"):
        hf_calib.find_threshold(held_out, accuracy=0.85, by="dataset", new=other)


def test_a_guarantee_is_not_rounded(tmp_path):
    rows = [{"probabilities": [p, 1 - p], "answer": 0} for p in np.linspace(0.5, 0.9, 20_000)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = str(hf_calib.find_threshold(tmp_path / "p.jsonl", accuracy=0.995, level=0.9999))
    assert "With 99.99% probability" in text
    assert "at least 99.5% of the time" in text
    impossible = str(hf_calib.find_threshold(tmp_path / "p.jsonl", accuracy=0.99999, level=0.9))
    assert "an accuracy of 99.999% cannot be guaranteed" in impossible


def test_what_is_saved_can_be_applied(held_out, tmp_path):
    found = hf_calib.find_threshold(held_out, accuracy=0.85, by="subject", out=tmp_path / "out")
    again = hf_calib.ConfidenceThreshold.load(tmp_path / "out")
    measurement = hf_calib.Measurement.load(held_out)
    accepted = again.accepts(measurement)
    np.testing.assert_array_equal(accepted, found.accepts(measurement))
    assert accepted.sum() == found.thresholds["easy"].n_accepted
    (tmp_path / "out" / "threshold.json").write_text("{}")
    with pytest.raises(ValueError, match=r"threshold\.json is not what hf-calib threshold wrote"):
        hf_calib.ConfidenceThreshold.load(tmp_path / "out")


def test_a_calibrator_of_the_same_questions_is_refused(tmp_path, tokenizer):
    rows = question_rows(40)
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = (tiny_llama(tokenizer), tokenizer)
    fitted = hf_calib.calibrate(model, tmp_path / "q.jsonl", progress=False, force=True).calibrator
    with pytest.raises(ValueError, match="fitted on the same questions"):
        hf_calib.find_threshold(model, tmp_path / "q.jsonl", calibrator=fitted, progress=False)
    other = question_rows(40, seed=5)
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in other))
    found = hf_calib.find_threshold(
        model, tmp_path / "other.jsonl", accuracy=0.1, calibrator=fitted, new=tmp_path / "q.jsonl", progress=False
    )
    assert found.checks[""].n == 40


def test_a_calibrator_is_applied_to_recorded_answers(held_out):
    halved = TemperatureScaling().set_parameters({"temperature": 2.0})
    plain = hf_calib.find_threshold(held_out, accuracy=0.7)
    found = hf_calib.find_threshold(held_out, accuracy=0.7, calibrator=halved)
    c = plain.thresholds[""].threshold
    odds = np.sqrt(c / (1 - c))
    assert found.thresholds[""].threshold == pytest.approx(odds / (1 + odds))


def test_questions_are_grouped(tmp_path):
    measurement = hf_calib.Measurement.load(write(tmp_path / "p.jsonl", 6, seed=0))
    assert set(groups_of(measurement, "type")) == {"noul"}
    assert set(groups_of(measurement, "n_options")) == {"2 options"}
    assert set(groups_of(measurement, "dataset")) == {"p"}
    assert list(groups_of(measurement, "subject")) == ["easy", "hard"] * 3
    with pytest.raises(ValueError, match="by: 'topic' is not a way to group questions"):
        groups_of(measurement, "topic")
    bare = tmp_path / "bare.jsonl"
    bare.write_text('{"probabilities": [0.7, 0.3], "answer": 0}\n')
    for by, what in (("type", "has no type; add a column 'type'"), ("subject", "add a column 'subject'")):
        with pytest.raises(ValueError, match=f"row 0 of bare .*{what}"):
            groups_of(hf_calib.Measurement.load(bare), by)


def test_the_command(held_out, tmp_path, capsys):
    new = write(tmp_path / "new.jsonl", 400, seed=1)
    words = ["threshold", "--from-predictions", str(held_out), "--accuracy", "0.85", "--by", "subject"]
    assert main([*words, "--new", str(new), "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert max(len(line) for line in shown.splitlines() if str(tmp_path) not in line) <= 80
    assert "With 95% probability" in shown
    assert "Some groups have no threshold" in shown
    assert "in all groups at once" in " ".join(shown.split())
    assert "threshold.json" in shown
    assert main([*words, "--json", "--fail-if", "coverage<0.4"]) == 3
    captured = capsys.readouterr()
    assert "coverage<0.4 holds of hard" in captured.err
    assert "holds of easy" not in captured.err
    state = json.loads(captured.out.splitlines()[-1])
    assert state["thresholds"]["hard"]["threshold"] is None
    assert state["thresholds"]["easy"]["coverage"] > 0.4
    assert main([*words, "--fail-if", "check.accuracy<0.5"]) == 1
    assert "there is no measure 'check.accuracy'" in capsys.readouterr().err
    assert main([*words[:-2], "--accuracy", "1.5"]) == 1
    assert "--accuracy: must be above 0 and below 1, got 1.5" in capsys.readouterr().err


def test_without_a_threshold_nothing_is_promised(tmp_path, capsys):
    few = write(tmp_path / "few.jsonl", 60, seed=2)
    assert main(["threshold", "--from-predictions", str(few)]) == 0
    shown = capsys.readouterr().out
    assert "With 95% probability" not in shown
    assert "That takes at least 117 answers" in " ".join(shown.split())


def test_pages_show_thresholds(held_out):
    from hf_calib.reports.page import render_page

    page = render_page(hf_calib.Measurement.load(write(held_out, 800, seed=0, exponent=0.01)))
    assert "Confidence thresholds" in page
    assert "not reached" in page


def test_answers_that_a_calibrator_was_fitted_on_guarantee_nothing_in_files_either(held_out, tmp_path):
    hf_calib.calibrate(held_out, by="subject", out=tmp_path / "c")
    with pytest.raises(ValueError, match="fitted on the same questions"):
        hf_calib.find_threshold(held_out, calibrator=tmp_path / "c")
    noticed = measure_recorded(held_out, calibrator=tmp_path / "c")
    assert "calibrator_in_sample" in {own.code for own in noticed.warnings}
    assert noticed.report.ece_convention["in_sample"]
    other = write(tmp_path / "other.jsonl", 800, seed=1)
    assert hf_calib.find_threshold(other, accuracy=0.7, calibrator=tmp_path / "c").coverage > 0
    assert not measure_recorded(other, calibrator=tmp_path / "c").report.ece_convention["in_sample"]


def test_confidences_of_another_kind_are_refused(held_out, tmp_path, tokenizer):
    model, asked = (tiny_llama(tokenizer), tokenizer), as_questions(question_rows(40))
    letters, texts = (hf_calib.measure(model, asked, method=method) for method in ("letters", "text-tokens"))
    doubled = TemperatureScaling().set_parameters({"temperature": 2.0})
    scaled = hf_calib.measure(model, asked, calibrator=doubled)
    found = hf_calib.find_threshold(letters, accuracy=0.1)
    with pytest.raises(
        ValueError, match=r"measurement: the threshold does .*confidence\.name is 'text', not 'letters'"
    ):
        found.accepts(texts)
    with pytest.raises(ValueError, match=r'does not apply to it: its calibrator is {"method": "temp.*}, not none\.'):
        found.accepts(scaled)
    shots = FewShotFormat.choose(as_questions(question_rows(20, seed=9)), 1)
    shown, new = (
        hf_calib.measure(model, own, prompt=shots) for own in (asked, as_questions(question_rows(30, seed=2)))
    )
    hf_calib.find_threshold(shown, accuracy=0.1).save(tmp_path / "shots")
    assert len(ConfidenceThreshold.load(tmp_path / "shots").accepts(new)) == 30
    again = hf_calib.measure(model, as_questions(question_rows(30, seed=2)))
    moved = replace(again, run=again.run | {"revision": "b" * 40})
    assert len(replace(found, run=found.run | {"revision": "a" * 40}).accepts(moved)) == 30
    # Predictions in a file may be calibrated already.
    new = measure_recorded(write(tmp_path / "new.jsonl", 400, seed=1))
    with pytest.warns(UserWarning, match="new: the threshold may not apply to it: its calibrator is none, not {"):
        hf_calib.find_threshold(measure_recorded(held_out, calibrator=doubled), accuracy=0.6, new=new)


def test_a_threshold_near_1_is_shown_with_enough_digits():
    cases = {0.0: "0.000", 0.7312: "0.732", 0.731: "0.731", 0.99974: "0.99974", 0.99993: "0.999930"}
    for threshold, text in cases.items():
        own = AccuracyThreshold(0.9, 0.95, threshold, 10, 5, 5, 0.8)
        assert own.shown() == text
        assert threshold - 1e-9 <= float(own.shown()) < 1
    assert AccuracyThreshold(0.9, 0.95, None, 10, 0, 0, None).shown() is None


def test_the_check_needs_other_questions(held_out, tmp_path):
    with pytest.raises(ValueError, match="new: these are the questions on which the threshold was found"):
        hf_calib.find_threshold(held_out, new=held_out)


def test_a_group_without_new_questions_is_said(held_out, tmp_path, capsys):
    new = write(tmp_path / "new.jsonl", 400, seed=1)
    new.write_text("".join(line + "\n" for line in new.read_text().splitlines()[::2]))
    arguments = ["threshold", "--from-predictions", str(held_out), "--by", "subject", "--new", str(new)]
    assert main([*arguments, "--accuracy", "0.85"]) == 0
    assert "No new questions for hard, so the threshold is not checked there." in capsys.readouterr().out
    assert main([*arguments, "--fail-if", "check.coverage<0.1"]) == 1
    assert "'check.coverage' was not measured for hard" in capsys.readouterr().err


def test_groups_without_a_temperature_of_their_own_are_said(held_out, tmp_path):
    hf_calib.calibrate(held_out, by="subject", out=tmp_path / "c")
    new = write(tmp_path / "new.jsonl", 400, seed=1)
    known = measure_recorded(new, calibrator=tmp_path / "c")
    assert "groups_not_fitted" not in {own.code for own in known.warnings}
    new.write_text(new.read_text().replace('"hard"', '"law"'))
    [told] = [
        own for own in measure_recorded(new, calibrator=tmp_path / "c").warnings if own.code == "groups_not_fitted"
    ]
    assert "no temperature for 200 of 400 questions (law)" in told.sentence
    without = [json.loads(line) for line in new.read_text().splitlines()]
    new.write_text("".join(json.dumps({**row, "subject": None}) + "\n" for row in without))
    [told] = [
        own for own in measure_recorded(new, calibrator=tmp_path / "c").warnings if own.code == "groups_not_fitted"
    ]
    assert "400 of 400 questions (no subject)" in told.sentence
