"""Stated confidence trained with the expected Brier score."""

import numpy as np
import pytest
import torch

from hf_calib import (
    SelfEvaluationCallback,
    SelfEvaluationQuestions,
    StatedConfidenceConfig,
    StatedConfidenceTrainer,
)
from hf_calib.confidence.stated_levels import LEVELS
from hf_calib.regularizers import expected_brier_loss
from hf_calib.tasks import QuestionError
from hf_calib.tasks.collator import QuestionBatch
from tests.confidence.test_stated_levels import with_words
from tests.support import tiny_llama, training_arguments
from tests.trainers.test_self_evaluation import answers, even_sum, graded  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:self-evaluation")


def trained(tokenizer, folder, graded, *, reference=None, peft_config=None, callbacks=(), evaluated=True, **options):  # noqa: F811
    torch.manual_seed(1)
    args = StatedConfidenceConfig(str(folder), **training_arguments(**options))
    model = tiny_llama(tokenizer)
    trainer = StatedConfidenceTrainer(
        model, args, graded, tokenizer, reference, callbacks=list(callbacks),
        eval_calibration_dataset=graded if evaluated else None,
    )  # fmt: skip
    trainer.train()
    return trainer


def test_the_loss_is_the_expected_brier_score():
    logits = torch.randn(4, 7)
    batch = QuestionBatch(
        *[torch.zeros(4, 1, dtype=torch.long)] * 2,
        answer_positions=torch.zeros(4, dtype=torch.long),
        option_ids=torch.tensor([[1, 3, 5], [1, 3, 5], [6, 0, 0], [1, 3, 5]]),
        option_mask=torch.tensor([[True] * 3, [True] * 3, [True, True, False], [True] * 3]),
        answers=torch.tensor([2, 0, 1, -1]),
    )
    expected = []
    for row, (ids, right) in enumerate((([1, 3, 5], 1.0), ([1, 3, 5], 0.0), ([6, 0], 1.0))):
        p = torch.softmax(logits[row, ids], -1)
        values = torch.linspace(0, 1, len(ids))
        expected.append(float((p * (values - right) ** 2).sum()))
    np.testing.assert_allclose(expected_brier_loss(logits, batch), [*expected, 0.0], atol=1e-6)


def test_it_is_least_where_the_level_is_the_truth():
    """Of 100 answers of which 70 are right, all probability goes to the level nearest to .7."""
    n, right = 100, 70
    logits = torch.zeros(11, requires_grad=True)
    batch = QuestionBatch(
        *[torch.zeros(n, 1, dtype=torch.long)] * 2,
        answer_positions=torch.zeros(n, dtype=torch.long),
        option_ids=torch.arange(11).expand(n, 11),
        option_mask=torch.ones(n, 11, dtype=torch.bool),
        answers=torch.tensor([10] * right + [0] * (n - right)),
    )
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        expected_brier_loss(logits.expand(n, 11), batch).mean().backward()
        optimizer.step()
    p = torch.softmax(logits.detach(), -1)
    assert int(p.argmax()) == 7
    assert p[7] > 0.9


def test_the_stated_confidence_becomes_calibrated(graded, tokenizer, tmp_path):  # noqa: F811
    trainer = trained(tokenizer, tmp_path, graded, max_steps=60, per_device_train_batch_size=16, logging_steps=20)
    before, after = (trainer.calibration_reports[stage].measures for stage in ("before", "after"))
    share = graded.balance["right"] / len(graded)
    assert before["accuracy"].value == after["accuracy"].value == pytest.approx(share)
    assert after["brier"].value < before["brier"].value - 0.1
    assert after["ece"].value < before["ece"].value
    logs = [entry for entry in trainer.state.log_history if "calibration/supervised" in entry]
    assert logs[-1]["calibration/supervised"] < logs[0]["calibration/supervised"]
    assert logs[0]["calibration/accuracy"] == pytest.approx(share, abs=0.15)
    trainer.create_model_card()
    text = (tmp_path / "README.md").read_text()
    assert "stated-confidence training" in text
    assert f"graded by 'even_sum'; {graded.describe()}" in text
    # Levels have neither places nor a chance level, and which answers are right is not trained.
    assert "Answers A on" not in text
    assert "repeats of others" not in text
    assert trainer.calibration_run.regime is None
    assert trainer.calibration_run.confidence == "stated-levels"
    assert "measured on free-form questions, with confidence read off the mean level of confidence" in text


def test_the_anchor_keeps_to_the_model_as_it_was(graded, tokenizer, tmp_path):  # noqa: F811
    free, anchored = (
        trained(tokenizer, tmp_path, graded, max_steps=20, anchor_weight=weight, evaluated=False)
        for weight in (0.0, 100.0)
    )
    start = tiny_llama(tokenizer)

    def moved(trainer):
        parameters = zip(trainer.model.parameters(), start.parameters(), strict=True)
        ids = torch.tensor([tokenizer("Confidence (0 to 9): ")["input_ids"]])
        with torch.no_grad():
            assert any(not torch.equal(one, other) for one, other in parameters)
            return float((trainer.model(ids).logits[0, -1] - start(ids).logits[0, -1]).abs().mean())

    assert anchored.calibration_run.terms == ("anchor", "supervised")
    assert moved(anchored) < moved(free)


def test_answers_are_trained_only_where_that_is_asked_for(graded, tokenizer, tmp_path):  # noqa: F811
    def log_loss(model):
        """The right answers' mean log-loss, one by one."""
        losses = []
        for answer in graded.answers:
            if answer.right:
                prompt = tokenizer(f"Question: {answer.question.question}\nAnswer:")["input_ids"]
                whole = tokenizer(f"Question: {answer.question.question}\nAnswer: {answer.text}")["input_ids"]
                ids = torch.tensor([whole])
                with torch.no_grad():
                    logits = model(ids).logits[0, len(prompt) - 1 : -1]
                losses.append(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))
        return float(torch.stack(losses).sum()) / 100

    without, with_ = (
        trained(tokenizer, tmp_path, graded, max_steps=20, answer_weight=weight, evaluated=False)
        for weight in (0.0, 1.0)
    )
    assert log_loss(with_.model.eval()) < 0.7 * log_loss(tiny_llama(tokenizer))
    assert log_loss(with_.model) < 0.7 * log_loss(without.model.eval())


def test_levels_that_are_not_measured_are_warned_about(graded, tmp_path):  # noqa: F811
    tokenizer = with_words(LEVELS["percent"])
    args = StatedConfidenceConfig(str(tmp_path), scale="digits", **training_arguments())
    with pytest.warns(UserWarning, match="'digits' trains levels from 0 to 9, but hf-calib measure .* from 0 to 100"):
        StatedConfidenceTrainer(tiny_llama(tokenizer), args, graded, tokenizer)


def test_accumulation_does_not_change_the_update(graded, tokenizer, tmp_path):  # noqa: F811
    options = {"answer_weight": 1.0, "anchor_weight": 0.5, "evaluated": False}
    whole, parts = (
        trained(
            tokenizer, tmp_path, graded, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size,
            **options,
        )
        for size in (8, 2)
    )  # fmt: skip
    for one, other in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0.0)


def test_the_answers_are_refreshed(graded, tokenizer, tmp_path):  # noqa: F811
    refresh = SelfEvaluationCallback(graded, 2, matcher=even_sum)
    trainer = trained(tokenizer, tmp_path, graded, callbacks=[refresh], evaluated=False)
    given = [question.given for question in trainer.calibration_run.questions]
    assert given == [answer.text for answer in refresh.questions.answers]
    assert given != [answer.text for answer in graded.answers]


def test_bad_input_is_refused(graded, tokenizer, tmp_path):  # noqa: F811
    args = StatedConfidenceConfig(str(tmp_path), **training_arguments())
    with pytest.raises(TypeError, match="answers: expected SelfEvaluationQuestions, got list"):
        StatedConfidenceTrainer(tiny_llama(tokenizer), args, list(graded), tokenizer)
    with pytest.raises(TypeError, match="eval_calibration_dataset: expected SelfEvaluationQuestions"):
        StatedConfidenceTrainer(tiny_llama(tokenizer), args, graded, tokenizer, eval_calibration_dataset=list(graded))
    with pytest.raises(ValueError, match="em_weight: this term acts on a question's options"):
        StatedConfidenceConfig(str(tmp_path), em_weight=1.0, **training_arguments())
    for options, message in (
        ({"brier_weight": 1.0}, "brier_weight: this term acts on a question's options"),
        ({"permute_options": True}, "permute_options: levels of confidence cannot be permuted"),
        ({"calibration_confidence": "text"}, "calibration_confidence: 'text' does not apply to levels"),
    ):
        with pytest.raises(ValueError, match=message):
            StatedConfidenceConfig(str(tmp_path), **options, **training_arguments())
    with pytest.raises(ValueError, match="reference: has no effect without the anchor"):
        StatedConfidenceTrainer(tiny_llama(tokenizer), args, graded, tokenizer, tiny_llama(tokenizer))
    chat = StatedConfidenceConfig(str(tmp_path), calibration_prompt="chat", **training_arguments())
    with pytest.raises(ValueError, match="calibration_prompt: 'chat' does not fit graded answers"):
        StatedConfidenceTrainer(tiny_llama(tokenizer), chat, graded, tokenizer)
    nothing = StatedConfidenceConfig(str(tmp_path), supervised_weight=0.0, **training_arguments())
    with pytest.raises(
        ValueError, match="anchor_weight: the weights of all terms are 0, so there is nothing to train"
    ):
        StatedConfidenceTrainer(tiny_llama(tokenizer), nothing, graded, tokenizer)
    with pytest.raises(ValueError, match="answer_weight must be a finite, nonnegative number, got -1"):
        StatedConfidenceConfig(str(tmp_path), answer_weight=-1, **training_arguments())
    wrong = SelfEvaluationQuestions([answer for answer in graded.answers if not answer.right], graded.provenance)
    args = StatedConfidenceConfig(str(tmp_path), answer_weight=1.0, **training_arguments())
    with pytest.raises(QuestionError, match="answer_weight: no answer is right"):
        StatedConfidenceTrainer(tiny_llama(tokenizer), args, wrong, tokenizer)
    args = StatedConfidenceConfig(str(tmp_path), scale="percent", **training_arguments())
    with pytest.raises(
        QuestionError, match="this tokenizer does not have these levels as single tokens; percent: the level '10' is"
    ):
        StatedConfidenceTrainer(tiny_llama(tokenizer), args, graded, tokenizer)
