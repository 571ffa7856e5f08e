import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.tasks import EncodedQuestion, QuestionBatch, QuestionCollator

PAD = 99

encoded = st.builds(
    lambda ids, options, answer, row: EncodedQuestion(tuple(ids), tuple(options), min(answer, len(options) - 1), row),
    st.lists(st.integers(0, 50), min_size=1, max_size=12),
    st.lists(st.integers(0, 50), min_size=2, max_size=26),
    st.integers(-1, 25),
    st.integers(0, 1000),
)
SIDES = st.sampled_from(["left", "right"])


@given(st.lists(encoded, min_size=1, max_size=6), SIDES)
def test_every_question_is_in_the_batch_unchanged(items, side):
    batch = QuestionCollator(PAD, side)(items)
    assert len(batch) == len(items)
    assert batch.input_ids.shape == (len(items), max(len(item.input_ids) for item in items))
    assert batch.option_ids.shape == (len(items), max(len(item.option_ids) for item in items))
    for row, item in enumerate(items):
        real = batch.attention_mask[row].bool()
        assert tuple(batch.input_ids[row, real].tolist()) == item.input_ids
        assert (batch.input_ids[row, ~real] == PAD).all()
        assert batch.position_ids[row, real].tolist() == list(range(len(item.input_ids)))
        assert (batch.position_ids >= 0).all()
        assert batch.answer_positions[row] == real.nonzero()[-1]
        assert tuple(batch.option_ids[row, batch.option_mask[row]].tolist()) == item.option_ids
        assert (batch.option_ids[row, ~batch.option_mask[row]] == 0).all()
        assert batch.answers[row] == item.answer


@given(st.lists(encoded, min_size=1, max_size=6))
def test_padding_is_on_the_side_asked_for(items):
    left, right = (QuestionCollator(PAD, side)(items) for side in ("left", "right"))
    assert (left.attention_mask[:, -1] == 1).all()
    assert (right.attention_mask[:, 0] == 1).all()
    assert (left.answer_positions == left.input_ids.shape[1] - 1).all()
    assert (left.attention_mask.flip(1) == right.attention_mask).all()


@given(st.lists(encoded, min_size=1, max_size=6), SIDES)
def test_padding_moved_to_the_right(items, side):
    moved, right = QuestionCollator(PAD, side)(items).padded_right(), QuestionCollator(PAD, "right")(items)
    for name, tensor in vars(right).items():
        torch.testing.assert_close(getattr(moved, name), tensor, rtol=0, atol=0, msg=name)


def test_a_batch_of_questions_of_one_length_has_no_padding():
    items = [EncodedQuestion((1, 2, 3), (4, 5), 0, row) for row in range(2)]
    left, right = (QuestionCollator(PAD, side)(items) for side in ("left", "right"))
    assert (left.attention_mask == 1).all()
    for name, tensor in vars(left).items():
        torch.testing.assert_close(getattr(right, name), tensor, rtol=0, atol=0)


def test_distributions_are_padded_and_answers_count_as_certain():
    items = [
        EncodedQuestion((1,), (4, 5, 6), 2, 0, (0.25, 0.25, 0.5)),
        EncodedQuestion((1,), (4, 5), 1, 1),
        EncodedQuestion((1,), (4, 5), -1, 2),
    ]
    batch = QuestionCollator(PAD)(items)
    assert batch.distributions.tolist() == [[0.25, 0.25, 0.5], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert batch.to("meta").distributions.is_meta
    assert QuestionCollator(PAD)(items[1:]).distributions is None


def test_a_batch_moves_to_another_device_whole():
    batch = QuestionCollator(PAD)([EncodedQuestion((1, 2), (4, 5), 0, 0)]).to("meta")
    assert isinstance(batch, QuestionBatch)
    assert {tensor.device.type for tensor in vars(batch).values() if tensor is not None} == {"meta"}


def test_another_side_is_refused():
    with pytest.raises(ValueError, match="'left' or 'right', got 'both'"):
        QuestionCollator(PAD, "both")
