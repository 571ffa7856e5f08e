import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.confidence.forward import answer_logits
from hf_calib.regularizers import answer_loss
from hf_calib.tasks import QuestionCollator, encode_questions
from tests.regularizers.batches import VOCABULARY, batch_of
from tests.support import questions, tiny_gpt2, tiny_llama

SIDES = st.sampled_from(["left", "right"])
ANSWERS = st.lists(st.integers(-1, 1), min_size=1, max_size=6)


@given(ANSWERS, SIDES, st.integers(0, 1000), st.floats(0.1, 30))
def test_the_answers_loss_by_hand(answers, side, seed, scale):
    batch = batch_of(answers, n_choices=(2, 4, 3), side=side, seed=seed)
    logits = scale * torch.randn(len(answers), VOCABULARY, generator=torch.Generator().manual_seed(seed))
    losses = answer_loss(logits, batch)
    assert losses.shape == (len(answers),)
    for row, answer in enumerate(answers):
        exact = logits[row].double()
        expected = torch.logsumexp(exact, 0) - exact[batch.option_ids[row, answer]] if answer >= 0 else torch.zeros(())
        assert losses[row].item() == pytest.approx(expected.item(), abs=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=["rotary", "absolute"])
def test_the_loss_is_that_of_the_model_on_the_text_with_its_answer(tokenizer, make, side):
    model = make(tokenizer).eval()
    items = encode_questions(questions(5, choices=(4, 2)), tokenizer).items
    batch = QuestionCollator(tokenizer.pad_token_id, side)(items)
    with torch.no_grad():
        of_answer = answer_loss(answer_logits(model, batch), batch)
        for row, item in enumerate(items):
            ids = torch.tensor([[*item.input_ids, item.option_ids[item.answer]]])
            labels = ids.clone()
            labels[:, :-1] = -100
            torch.testing.assert_close(of_answer[row], model(input_ids=ids, labels=labels).loss, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_questions_without_an_answer_have_no_gradient(side):
    batch = batch_of([-1, 1, -1], side=side)
    logits = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(0), requires_grad=True)
    answer_loss(logits, batch).sum().backward()
    assert (logits.grad[[0, 2]] == 0).all()
    assert (logits.grad[1] != 0).any()


def test_half_precision_is_widened():
    batch = batch_of([0, 1])
    logits = torch.randn(2, VOCABULARY, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert answer_loss(logits, batch).dtype == torch.float32
    torch.testing.assert_close(answer_loss(logits, batch), answer_loss(logits.float(), batch))
