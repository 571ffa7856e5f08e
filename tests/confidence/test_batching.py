import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.confidence import Asking
from hf_calib.confidence.batching import plan_batches
from hf_calib.tasks.encoding import common_prefix

prompts = st.lists(
    st.builds(
        lambda stem, tail: tuple([stem] * 40) + tuple(tail),
        st.integers(0, 2),
        st.lists(st.integers(0, 3), min_size=1, max_size=30),
    ),
    min_size=1,
    max_size=30,
)


# Prompts' lengths in tokens at every fiftieth of 500 questions, in order: OpenBookQA's test set, and one from MMLU's.
LENGTHS = {
    "OpenBookQA": [
        *(32, 37, 39, 41, 43, 43, 44, 45, 46, 47, 49, 50, 50, 52, 52, 53, 53, 55, 56, 58, 59, 60, 61, 62, 63, 65, 67),
        *(68, 71, 72, 74, 75, 76, 77, 78, 80, 81, 82, 84, 86, 87, 88, 90, 94, 97, 100, 108, 116, 129, 206),
    ],
    "MMLU": [
        *(
            45,
            48,
            52,
            56,
            58,
            62,
            64,
            69,
            72,
            73,
            75,
            78,
            82,
            83,
            86,
            89,
            93,
            99,
            102,
            105,
            107,
            111,
            115,
            119,
            121,
            124,
        ),
        *(
            129,
            136,
            143,
            145,
            152,
            158,
            164,
            171,
            175,
            180,
            188,
            194,
            200,
            213,
            238,
            271,
            310,
            354,
            429,
            487,
            564,
            647,
        ),
        *(758, 1193),
    ],
}


def real_prompts(name, n=500, stem=3):
    """Return token sequences of a set's lengths that have their first `stem` tokens in common."""
    rng = np.random.default_rng(0)
    lengths = np.interp(np.linspace(0, 49, n), range(50), LENGTHS[name]).astype(int)
    return [(*range(stem), *map(int, rng.integers(1000, 2000, length - 3))) for length in lengths]


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("batch_size", [4, 16, 64, 128, 500])
def test_plain_prompts_fill_their_batches(name, batch_size):
    prompts = real_prompts(name)
    plan = plan_batches(prompts, batch_size)
    assert len(plan.batches) == -(-len(prompts) // batch_size)
    assert set(plan.prefixes) == {0}


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("batch_size", [4, 16, 64, 128, 500])
def test_a_few_prompts_that_share_much_leave_the_others_batches_full(name, batch_size):
    prompts = [*real_prompts(name), *((*range(150), 5000 + i) for i in range(3))]
    plan = plan_batches(prompts, batch_size)
    assert len(plan.batches) <= -(-len(prompts) // batch_size) + 1


@pytest.mark.parametrize("batch_size", [4, 16, 128])
def test_examples_before_every_question_are_computed_once_for_each_subject(batch_size):
    plain = real_prompts("OpenBookQA", stem=0)
    prompts = [(*[row % 5] * 400, *prompt) for row, prompt in enumerate(plain)]
    plan = plan_batches(prompts, batch_size)
    assert all(prefix >= 400 for prefix in plan.prefixes)
    assert len(plan.batches) == 5 * -(-100 // batch_size)


def test_few_prompts_are_not_split_for_the_little_that_is_shared():
    prompts = [(*[row % 4] * 40, row) for row in range(8)]
    assert plan_batches(prompts, 8).batches == (tuple(range(8)),)


@given(prompts, st.integers(1, 7), st.booleans())
def test_without_padding_a_batch_has_one_length(prompts, batch_size, share):
    plan = plan_batches(prompts, batch_size, share_prefixes=share, padded=False)
    assert sorted(i for batch in plan.batches for i in batch) == list(range(len(prompts)))
    assert all(len({len(prompts[i]) for i in batch}) == 1 and len(batch) <= batch_size for batch in plan.batches)


@given(prompts, st.integers(1, 7), st.booleans())
def test_every_prompt_is_in_one_batch_with_a_prefix_that_its_batch_shares(prompts, batch_size, share):
    plan = plan_batches(prompts, batch_size, share_prefixes=share)
    assert sorted(i for batch in plan.batches for i in batch) == list(range(len(prompts)))
    for batch in plan.batches:
        assert 1 <= len(batch) <= batch_size
        (prefix,) = {plan.prefixes[i] for i in batch}
        assert len({prompts[i][:prefix] for i in batch}) == 1
        assert all(prefix < len(prompts[i]) for i in batch)
        assert share or prefix == 0


def test_prompts_that_share_little_are_not_grouped():
    prompts = [tuple(range(i, i + 50)) for i in range(20)]
    assert set(plan_batches(prompts, 4).prefixes) == {0}
    shared = [(*range(100), i) for i in range(20)]
    assert set(plan_batches(shared, 4).prefixes) == {100}


@given(st.lists(st.integers(0, 1)), st.lists(st.integers(0, 1)), st.none() | st.integers(0, 5))
def test_common_prefix(first, second, limit):
    expected = 0
    while expected < min(len(first), len(second)) and first[expected] == second[expected]:
        expected += 1
    assert common_prefix(first, second, limit) == (expected if limit is None else min(expected, limit))


def test_a_batch_that_memory_does_not_hold_is_halved():
    sizes = []

    def work(numbers):
        sizes.append(len(numbers))
        if len(numbers) > 10:
            raise RuntimeError("CUDA out of memory.")
        return [2 * number for number in numbers]

    batches = [list(range(start, start + 50)) for start in (0, 50)]
    assert Asking("auto").run("stage", batches, work) == [2 * i for i in range(100)]
    assert sizes.count(64) == 0
    assert [size for size in sizes if size > 10] == [50, 25, 12]
    with pytest.raises(RuntimeError, match="out of memory"):
        Asking(50).run("stage", batches, work)


def test_other_faults_are_not_hidden():
    def work(numbers):
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        Asking("auto").run("stage", [[0, 1]], work)
    with pytest.raises(ValueError, match="at least 1"):
        Asking(0)
