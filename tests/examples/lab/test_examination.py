"""What trained models are asked, once for all of them."""

import numpy as np
import pytest
from experiments.examination import Examination, QuestionTest

from hf_calib.confidence import predict
from hf_calib.lab import PreferenceTest, make_bench, pretrained_folder
from hf_calib.tasks import Question


def test_questions_that_differ_in_their_context_alone_are_asked_each(tokenizer):
    asked = [Question("Which?", ("a", "b"), 0, context=context) for context in (None, "a", "b", "a")]
    assert QuestionTest(tokenizer, asked).index.tolist() == [0, 1, 2, 1]


def test_predictions_are_those_of_asking_each_question(world, pretrained, tokenizer):
    drawn = world.sample_questions(3000, ("in", "unseen"), "test", seed=7).to_questions()
    test = QuestionTest(tokenizer, drawn)
    assert len(test.prompts) < len(drawn) / 2
    found, expected = test.predictions(pretrained), predict(pretrained, tokenizer, drawn, batch_size=512)
    np.testing.assert_allclose(found.option_log_probabilities, expected.option_log_probabilities, atol=1e-5)
    np.testing.assert_array_equal(found.answers, expected.answers)
    np.testing.assert_array_equal(found.rows, expected.rows)
    assert found.subjects == expected.subjects


def test_unanswered_questions_stay_unanswered(world, pretrained, tokenizer):
    asked = world.sample_questions(5, "in", "test", seed=7).to_questions(answers=False)
    assert (QuestionTest(tokenizer, asked).predictions(pretrained).answers == -1).all()


def test_a_model_is_asked_everything_and_a_shared_one_once(preset, lab_cache, tmp_path, monkeypatch):
    folder = pretrained_folder(preset, 0, cache_dir=lab_cache, progress=False)
    bench = make_bench(preset, 0, folder, tmp_path / "work", progress=False)
    examination = Examination(bench, tmp_path / "models")
    asked = examination.of(None)
    assert asked.seconds == 0
    assert {domain: len(said) for domain, said in asked.test.items()} == dict.fromkeys(bench.data.test, 1000)
    own = predict(asked.model, bench.tokenizer, bench.data.calibration.to_questions(), batch_size=512)
    assert asked.training.correct.mean() == pytest.approx(own.correct.mean())
    assert asked.wins == PreferenceTest(bench.tokenizer, bench.data.test_pairs).win_rate(asked.model)
    monkeypatch.setattr(examination, "about", None)
    assert examination.of(None) is asked
