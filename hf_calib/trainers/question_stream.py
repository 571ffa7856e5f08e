"""Which questions an optimizer step sees, as a function of the step alone."""

from __future__ import annotations

import numpy as np


class QuestionStream:
    """An endless shuffled sequence of questions, from which each step takes the next batch.

    The sequence consists of permutations of all questions, each determined by the seed and its number. A step's
    questions follow from its number, so a resumed run continues with the same questions without saved state, and they
    do not depend on the number of processes for a given global batch.

    Parameters
    ----------
    n_questions : int
    batch_size : int
        Questions for each step over all processes.
    seed : int
    """

    def __init__(self, n_questions: int, batch_size: int, seed: int) -> None:
        if n_questions < 1 or batch_size < 1:
            raise ValueError(f"a stream needs questions and a batch size, got {n_questions} and {batch_size}")
        self.n_questions = n_questions
        self.batch_size = batch_size
        self.seed = seed
        self._permutations: dict[int, np.ndarray] = {}

    def global_batch(self, step: int) -> np.ndarray:
        """Return the indices of the questions that all processes together use in a step, shape (batch_size,)."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        rounds, offsets = np.divmod(positions, self.n_questions)
        return np.array([self._permutation(int(r))[o] for r, o in zip(rounds, offsets, strict=True)])

    def _permutation(self, number: int) -> np.ndarray:
        if number not in self._permutations:
            for old in [key for key in self._permutations if key < number - 1]:
                del self._permutations[old]
            self._permutations[number] = np.random.default_rng([self.seed, number]).permutation(self.n_questions)
        return self._permutations[number]


def local_slice(indices: np.ndarray, process: int, num_processes: int, part: int, num_parts: int) -> np.ndarray:
    """Return one process's share of a global batch, for one part of gradient accumulation.

    Shares are as even as possible. With fewer questions than parts, some parts are empty, the same ones on every
    process.
    """
    share = indices[process::num_processes]
    return np.array_split(share, num_parts)[part]


def held_out_split(n_questions: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split 0 .. n - 1 at random into (kept, held out), each in increasing order, at least one question in both.

    Raises
    ------
    ValueError
        If there are fewer than two questions.
    """
    if n_questions < 2:
        raise ValueError(f"{n_questions} question(s) with an answer cannot be split into training and held-out ones")
    # A tag of its own keeps the split independent of the stream's permutations with the same seed.
    order = np.random.default_rng([seed, 0x5EED]).permutation(n_questions)
    n_held_out = min(max(round(fraction * n_questions), 1), n_questions - 1)
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])
