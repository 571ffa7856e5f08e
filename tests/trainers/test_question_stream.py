import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.trainers.calibration_term import QuestionStream, local_slice
from hf_calib.trainers.questions import held_out_split


@given(st.integers(1, 50), st.integers(1, 20), st.integers(0, 5))
def test_every_question_comes_once_before_any_comes_again(n, batch_size, seed):
    stream = QuestionStream(n, batch_size, seed)
    steps = -(-3 * n // batch_size)
    order = np.concatenate([stream.global_batch(step) for step in range(steps)])
    for start in range(0, 3 * n, n):
        assert sorted(order[start : start + n]) == list(range(n))


@given(st.integers(1, 30), st.integers(1, 8), st.lists(st.integers(0, 40), min_size=1, max_size=10))
def test_a_step_depends_on_its_number_alone(n, batch_size, steps):
    stream = QuestionStream(n, batch_size, 3)
    for step in steps:
        assert np.array_equal(stream.global_batch(step), QuestionStream(n, batch_size, 3).global_batch(step))


def test_rounds_and_seeds_differ():
    stream = QuestionStream(100, 100, 0)
    assert not np.array_equal(stream.global_batch(0), stream.global_batch(1))
    assert not np.array_equal(stream.global_batch(0), QuestionStream(100, 100, 1).global_batch(0))


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 9))
def test_shares_partition_the_batch(n, processes, parts):
    indices = np.arange(n)
    shares = [local_slice(indices, p, processes, part, parts) for p in range(processes) for part in range(parts)]
    assert sorted(np.concatenate(shares)) == list(range(n))


@given(st.integers(2, 500), st.floats(0.01, 0.99), st.integers(0, 9))
def test_the_split_is_a_partition_of_about_the_fraction(n, fraction, seed):
    kept, held_out = held_out_split(n, fraction, seed)
    assert sorted([*kept, *held_out]) == list(range(n))
    assert len(kept) >= 1
    assert len(held_out) >= 1
    assert abs(len(held_out) - fraction * n) <= 1


def test_what_cannot_be_streamed_or_split_is_refused():
    with pytest.raises(ValueError, match="needs questions"):
        QuestionStream(0, 4, 0)
    with pytest.raises(ValueError, match="cannot be split"):
        held_out_split(1, 0.5, 0)
