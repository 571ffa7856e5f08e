"""`permute_options`: training questions with their options in a random order."""

import numpy as np

from hf_calib import CalibrationAwareConfig, CalibrationAwareTrainer
from hf_calib.tasks import Question, permute_options, random_orders
from hf_calib.trainers.calibration_arguments import CalibrationArguments
from hf_calib.trainers.questions import QuestionPreparation
from tests.support import pairs, questions, tiny_llama, training_arguments

# The first option is always the right one, which a model could learn instead of the answers.
ASKED = [Question(q.question, q.choices, 0, q.subject) for q in questions(60, choices=(4, 3))]


def prepared(tokenizer, **options):
    settings = CalibrationArguments(**options)
    return QuestionPreparation(tokenizer, tiny_llama(tokenizer).config, settings, seed=3).for_training(ASKED)


def test_options_are_in_an_order_of_the_seed_and_answers_follow(tokenizer):
    found = prepared(tokenizer, permute_options=True)
    orders = random_orders(ASKED, 3)
    assert found.questions == [permute_options(question, order) for question, order in zip(ASKED, orders, strict=True)]
    assert [item.answer for item in found.trained] == [question.answer for question in found.questions]
    right = [question.choices[question.answer] for question in found.questions]
    assert right == [question.choices[0] for question in ASKED]
    counts = np.bincount([question.answer for question in found.questions])
    assert counts.max() < 0.5 * len(ASKED)
    assert prepared(tokenizer).questions == ASKED


def test_a_trainer_trains_on_them(tokenizer, tmp_path):
    args = CalibrationAwareConfig(
        str(tmp_path), permute_options=True, anchor_weight=0.0, **training_arguments(max_steps=1)
    )
    tiny_llama(tokenizer).save_pretrained(tmp_path / "model")
    trainer = CalibrationAwareTrainer(
        model=str(tmp_path / "model"),
        args=args,
        train_dataset=pairs(8),
        calibration_dataset=ASKED,
        processing_class=tokenizer,
    )
    answers = [item.answer for item in trainer._calibration_term.questions]
    assert len(set(answers)) == 4
