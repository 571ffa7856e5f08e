"""Evaluation with a calibrator, cross-validated, in the trainers and on their cards."""

import pytest

from hf_calib.calibrators import by_name
from hf_calib.calibrators.cross_validation import cross_validate
from hf_calib.measures import CalibrationReport
from hf_calib.trainers.publishing import card_data
from tests.support import questions

from .test_terms import make

ASKED = questions(60, seed=3, choices=(3, 4))


@pytest.mark.parametrize("name", ["temperature", "vector", "isotonic", "auto", "adaptive_ensemble"])
def test_evaluation_reports_what_cross_validation_gives(tokenizer, tmp_path, name):
    trainer = make(tokenizer, tmp_path, eval_calibration_dataset=ASKED, eval_calibrator=name, max_steps=1)
    metrics = trainer.evaluate()
    asked = trainer._evaluator.predictions()
    held_out = cross_validate(lambda: by_name(name), asked.option_log_probabilities, asked.answers)
    expected = CalibrationReport.from_predictions(held_out.probabilities, asked.answers)
    # Steps of a fit may lie on the edge of a bin, from which the last digit moves them.
    as_reported = asked.with_probabilities(held_out.probabilities).report()
    assert metrics["eval_calibration/calibrated_nll"] == pytest.approx(expected.measures["nll"].value, rel=1e-9)
    assert metrics["eval_calibration/calibrated_ece"] == pytest.approx(as_reported.measures["ece"].value, abs=1e-9)
    assert metrics["eval_calibration/nll"] != metrics["eval_calibration/calibrated_nll"]
    assert metrics["eval_calibration/calibrated_option_mass"] == pytest.approx(metrics["eval_calibration/option_mass"])
    if name == "temperature":
        assert "calibrated" not in trainer.calibration_reports
        trainer.train()
        (evaluation,) = card_data(trainer.calibration_run, trainer, "m", None, None).evaluations
        assert evaluation.stages[-2:] == ("after", "calibrated")
        trainer.create_model_card()
        assert "with the calibrator temperature" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_the_final_model_is_calibrated_not_the_last_evaluated_one(tokenizer, tmp_path):
    trainer = make(
        tokenizer, tmp_path, eval_calibration_dataset=ASKED, eval_calibrator="temperature", average_weights=1.0,
        eval_strategy="steps", eval_steps=1, max_steps=3,
    )  # fmt: skip
    trainer.train()
    final = trainer._evaluator.calibrated_report(trainer._evaluator.predictions())
    assert trainer.calibration_reports["calibrated"].to_dict() == final.to_dict()


def test_too_few_questions_are_refused_before_training(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"^eval_calibrator: cross-validation needs at least 5 questions, got 4"):
        make(tokenizer, tmp_path, eval_calibration_dataset=questions(4), eval_calibrator="temperature")


@pytest.mark.parametrize("name", ["localized", "reference_agreement", "modular_conformal", "importance_weighted", "x"])
def test_what_cannot_be_fitted_on_answers_alone_is_refused_before_training(tokenizer, tmp_path, name):
    with pytest.raises(ValueError, match=r"needs more than predictions|no calibrator 'x'"):
        make(tokenizer, tmp_path, eval_calibration_dataset=ASKED, eval_calibrator=name)
