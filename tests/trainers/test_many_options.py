"""Training on questions with more options than letters: the labels' exact probabilities, computed by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hf_calib import CalibrationAwareSFTConfig, RecalibrationConfig
from hf_calib.confidence import Asking, LocalDecisions, LocalModel, OptionLetters
from hf_calib.confidence.encoded import EncodedLabels, encode_letters
from hf_calib.confidence.forward import answer_scores
from hf_calib.confidence.packing import TextCollator
from hf_calib.regularizers import em_loss
from hf_calib.tasks import PromptFormat, QuestionError, TypedDecisions, encode_questions
from hf_calib.tasks.encoding import EncodedQuestion
from hf_calib.tasks.questions import DecisionQuestion
from hf_calib.trainers import recalibrate
from hf_calib.trainers.reference_distributions import (
    ReferenceDistributions,
    ReferenceMismatchError,
    reference_distributions,
)
from tests.support import byte_level_tokenizer, questions, tiny_llama, training_arguments
from tests.tasks.small_tokenizers import byte_pairs
from tests.trainers.runs import dpo, lora, sft
from tests.trainers.test_option_texts import moved


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer()


def asked(counts=(2, 4, 40, 3, 40), seed=0, soft=True, answered=True):
    """Return questions with these numbers of options, and distributions as answers."""
    rng = np.random.default_rng(seed)
    made = []
    for number, n in enumerate(counts):
        choices = tuple(f"it {i * 7 % n}" for i in range(n))
        target = tuple(rng.dirichlet(np.ones(n)).tolist()) if soft and answered else None
        answer = int(rng.integers(n)) if answered and not soft else None
        made.append(
            DecisionQuestion(f"Which of {n} is it?", choices, answer, context=f"State {seed + number}.", target=target)
        )
    return made


def log_probabilities(model, tokenizer, question):
    """Return the log-probability of each label, one label and one token after the other, with gradient."""
    (item,) = LocalModel(model, tokenizer).encoder.labels([question], PromptFormat())
    found = []
    for option in item.options:
        total, ids = 0.0, list(item.input_ids)
        for token in option:
            total = total + model(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token]
            ids.append(token)
        found.append(total)
    return torch.stack(found)


def with_rest(values):
    """Return a distribution with the probability of all else."""
    p = values.exp()
    return torch.cat([p, (1 - p.sum())[None]])


def terms_by_hand(model, tokenizer, every, targets=None):
    """Return the mean of each term, with gradient."""
    found = {"anchor": [], "supervised": [], "brier": []}
    scores = []
    for question in every:
        values = log_probabilities(model, tokenizer, question)
        with torch.no_grad(), model.disable_adapter():
            reference = with_rest(log_probabilities(model, tokenizer, question))
        t = torch.tensor(question.target or np.eye(len(question.choices))[question.answer]).float()
        found["anchor"].append((reference * (reference.log() - with_rest(values).log())).sum())
        found["supervised"].append(-(t * values).sum())
        found["brier"].append(((values.softmax(0) - t) ** 2).sum())
        scores.append(F.pad(values, (0, 40 - len(values)), value=-torch.inf))
    terms = {name: torch.stack(values).mean() for name, values in found.items()}
    if targets is not None:
        every_score = torch.stack(scores)
        terms["em"] = em_loss(every_score.softmax(-1), every_score.isfinite(), targets).mean()
    return terms


@pytest.mark.parametrize("soft", [True, False])
def test_the_terms_and_their_gradients_are_what_their_formulas_say(tokenizer, tmp_path, soft):
    every = asked(soft=soft)
    weights = {"anchor_weight": 2.0, "supervised_weight": 3.0, "brier_weight": 1.5, "em_weight": 4.0}
    trainer = dpo(
        tokenizer, tmp_path, peft_config=lora(), calibration_dataset=every, calibration_batch_size=len(every),
        em_dataset=questions(12, seed=4, choices=(2, 3, 4, 8)), **weights,
    )  # fmt: skip
    model, term = moved(trainer.model).eval(), trainer._calibration_term
    assert {type(item) for item in term.questions} == {EncodedLabels}
    assert {type(item) for item in term.held_out} == {EncodedQuestion}
    term.loss(model, 0, 0, 1).backward()
    found = {name: own.grad.clone() for name, own in model.named_parameters() if own.grad is not None}
    logs = term.pop_logs()

    model.zero_grad()
    by_hand = terms_by_hand(model, tokenizer, every, term.targets)
    for name, value in by_hand.items():
        assert logs[f"calibration/{name}"] == pytest.approx(value.item(), rel=1e-3), name
        assert value.item() > 1e-3
    sum(weights[f"{name}_weight"] * value for name, value in by_hand.items()).backward()
    expected = {name: own.grad for name, own in model.named_parameters() if own.grad is not None}
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-4 * float(gradient.abs().max()), rtol=1e-2)


def test_up_to_26_options_are_trained_by_their_letters_to_the_last_bit(tokenizer):
    every = asked((2, 26, 4))
    assert encode_letters(every, tokenizer, PromptFormat()) == list(encode_questions(every, tokenizer))
    ordinary = questions(3)
    assert encode_letters(ordinary, tokenizer, PromptFormat()) == list(encode_questions(ordinary, tokenizer))
    # So are questions with more options if their labels are single tokens.
    pairs = [("A", chr(letter)) for letter in range(ord("A"), ord("Z") + 1)]
    pairs += [("B", chr(letter)) for letter in range(ord("A"), ord("Z") + 1)]
    whole = byte_pairs([*pairs, *(("Ġ", first + second) for first, second in pairs)])
    (item, _) = encode_letters(asked((40, 3)), whole, PromptFormat())
    assert isinstance(item, EncodedQuestion)
    assert len(set(item.option_ids)) == 40


def test_measured_and_trained_probabilities_are_the_same(tokenizer):
    model, every = tiny_llama(tokenizer).eval(), asked()
    backend = LocalModel(model, tokenizer)
    found = OptionLetters().predict(backend, every, PromptFormat(), Asking(2)).option_log_probabilities
    trainer_scores = []
    for packs_up_to, side in ((10_000, "left"), (0, "left"), (0, "right")):
        batch = TextCollator(tokenizer.pad_token_id, packs_up_to, side)(
            encode_letters(every, tokenizer, PromptFormat())
        )
        with torch.no_grad():
            trainer_scores.append(answer_scores(model, batch))
    for row, question in enumerate(every):
        n = len(question.choices)
        with torch.no_grad():
            expected = log_probabilities(model, tokenizer, question)
        np.testing.assert_allclose(found[row, :n], expected.numpy(), atol=2e-5)
        for scores in trainer_scores:
            np.testing.assert_allclose(scores[row, :n], expected.numpy(), atol=2e-5)
            assert scores[row].exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_the_loss_of_sft_is_the_cross_entropy_to_the_distributions(tokenizer, tmp_path):
    every = asked()
    trainer = sft(
        tokenizer, tmp_path, train_dataset=every, eval_dataset=asked((3, 2), seed=9),
        eval_calibration_dataset=asked((4, 30), seed=5), per_device_train_batch_size=5, max_steps=20,
        learning_rate=1e-2, logging_steps=1, permute_options=True, em_weight=0.5, em_dataset=asked((2, 30), seed=7),
    )  # fmt: skip
    shown = trainer.calibration_run.questions
    assert [own.choices for own in shown] != [own.choices for own in every]
    model = trainer.model.eval()

    def loss_by_hand(chosen):
        with torch.no_grad():
            values = [log_probabilities(model, tokenizer, own) for own in chosen]
        return np.mean([-(torch.tensor(own.target) * v).sum().item() for own, v in zip(chosen, values, strict=True)])

    rows = [trainer.train_dataset[row] for row in range(5)]
    assert trainer.compute_loss(model, trainer.data_collator(rows)).item() == pytest.approx(
        loss_by_hand(shown), rel=1e-4
    )
    before = trainer.evaluate()
    assert before["eval_loss"] == pytest.approx(loss_by_hand(asked((3, 2), seed=9)), rel=1e-4)
    trainer.train()
    floor = np.mean([-(np.array(own.target) * np.log(own.target)).sum() for own in every])
    assert loss_by_hand(shown) - floor < 1.0
    assert any("calibration/em" in entry for entry in trainer.state.log_history)
    assert set(trainer.calibration_reports) == {"before", "after"}


def test_questions_with_more_options_may_replace_others(tokenizer, tmp_path):
    trainer = dpo(tokenizer, tmp_path, peft_config=lora(), calibration_dataset=asked((3, 4)), max_steps=1)
    term = trainer._calibration_term
    term.loss(trainer.model, 0, 0, 1)
    trainer.replace_calibration_questions(asked((40, 3)))
    assert term.loss(trainer.model, 0, 0, 1).item() > 0
    assert {type(item) for item in term.questions} == {EncodedLabels}


def test_a_repair_pulls_the_labels_back_to_the_reference(tokenizer, tmp_path):
    model, reference = tiny_llama(tokenizer), tiny_llama(tokenizer, seed=3)
    every = asked((40, 3, 30, 40), answered=False)

    def distance():
        with torch.no_grad():
            ours, theirs = (
                [with_rest(log_probabilities(m.eval(), tokenizer, own)) for own in every] for m in (model, reference)
            )
        return float(np.mean([(r * (r / p).log()).sum() for p, r in zip(ours, theirs, strict=True)]))

    before = distance()
    args = RecalibrationConfig(str(tmp_path), **training_arguments(max_steps=30, learning_rate=3e-2))
    model = recalibrate(model, reference, every, tokenizer=tokenizer, args=args).model
    assert distance() < before / 3


def test_distributions_made_beforehand_give_the_same_anchor(tokenizer, tmp_path):
    reference, every = tiny_llama(tokenizer, seed=3).eval(), asked()
    reference_distributions(reference, tokenizer, every).save(tmp_path / "saved.safetensors")
    saved = ReferenceDistributions.load(tmp_path / "saved.safetensors")
    values = []
    for given in (reference, saved):
        trainer = dpo(
            tokenizer, tmp_path, peft_config=lora(), calibration_dataset=every, calibration_reference_model=given,
            anchor_weight=1.0, supervised_weight=0.0, calibration_batch_size=len(every),
        )  # fmt: skip
        values.append(trainer._calibration_term.loss(trainer.model.eval(), 0, 0, 1).item())
    assert values[0] > 1e-2
    assert values[1] == pytest.approx(values[0], rel=1e-4)
    # Letters are compared over the whole vocabulary, labels over the options and the rest.
    with pytest.raises(ReferenceMismatchError, match="lack 2 of 2 questions"):
        dpo(
            tokenizer, tmp_path, peft_config=lora(), calibration_dataset=every[:2], calibration_reference_model=saved
        )  # fmt: skip


def test_a_reference_with_another_tokenizer_is_asked_with_its_own_labels(tokenizer):
    other = byte_pairs([("Ġ", letter) for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"])
    reference, every = tiny_llama(other, seed=3).eval(), asked((40, 3))
    found = reference_distributions(
        reference, other, every, student_tokenizer=tokenizer, match_options=True, batch_size=1
    )
    for row, question in enumerate(every):
        with torch.no_grad():
            expected = log_probabilities(reference, other, question)
        n = len(question.choices)
        np.testing.assert_allclose(found.log_probabilities[row, :n], expected, atol=2e-5)
        assert found.token_ids[row].tolist() == [*range(n), *[-1] * (40 - n)]
        assert found.rest[row].item() == pytest.approx(1 - expected.exp().sum().item(), abs=1e-5)


def test_a_trained_model_decides_as_it_was_trained(tokenizer, tmp_path):
    criteria = {f"queue {number}": None for number in range(40)}
    rows = [
        {
            "state": f"Ticket {number}.",
            "questions": {"queue": {"type": "choice", "instructions": "Which queue?", "criteria": criteria}},
            "gold": {"queue": f"queue {13 * number}"},
        }
        for number in range(3)
    ]
    cases = TypedDecisions(rows)
    trainer = sft(
        tokenizer, tmp_path, train_dataset=cases, per_device_train_batch_size=3, max_steps=60, learning_rate=1e-2
    )
    trainer.train()
    answers = LocalDecisions(LocalModel(trainer.model.eval(), tokenizer)).decide(cases)
    assert [int(np.argmax(own[0].probabilities)) for own in answers] == [0, 13, 26]
    assert all(own[0].mass > 0.8 for own in answers)


def test_what_cannot_be_trained_on_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r'more than 26 options, need "answer"'):
        sft(tokenizer, tmp_path, train_dataset=asked((40,) * 2, soft=False), supervised_on="question_and_answer")
    args = CalibrationAwareSFTConfig(str(tmp_path), **training_arguments(loss_type="dft"))
    with pytest.raises(ValueError, match="with more than 26 options, the loss is a cross-entropy"):
        sft(tokenizer, tmp_path, train_dataset=asked((40,) * 2, soft=False), args=args)
    longest, shortest = (item.length for item in encode_letters(asked((40, 3)), tokenizer, PromptFormat()))
    with pytest.raises(QuestionError, match=rf"longer than {shortest} tokens \(the longest is row 0, .* {longest}\)"):
        sft(tokenizer, tmp_path, train_dataset=asked((40, 3)), calibration_max_length=shortest)


@pytest.mark.parametrize("counts", [(4, 3), (3, 30)])
def test_the_loss_of_evaluation_is_over_the_options_whatever_was_trained_on(tokenizer, tmp_path, counts):
    every = asked(counts, seed=9)
    trainer = sft(tokenizer, tmp_path, eval_dataset=every)
    model = trainer.model.eval()
    with torch.no_grad():
        values = [log_probabilities(model, tokenizer, own) for own in every]
    by_hand = np.mean([-(torch.tensor(own.target) * v).sum().item() for own, v in zip(every, values, strict=True)])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(by_hand, rel=1e-4)
    trainer = sft(tokenizer, tmp_path)
    assert trainer.evaluate({"a": every})["eval_a_loss"] == pytest.approx(by_hand, rel=1e-4)
    trainer.train()
    args = CalibrationAwareSFTConfig(str(tmp_path), **training_arguments(loss_type="dft"))
    other = sft(tokenizer, tmp_path, args=args)
    with pytest.raises(ValueError, match="with more than 26 options, the loss is a cross-entropy"):
        other.evaluate(every)
