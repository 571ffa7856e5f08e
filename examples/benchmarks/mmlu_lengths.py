"""Made-up questions with the lengths of MMLU's, for benchmarks without a data set."""

from __future__ import annotations

# Quantiles of the plain prompt's length over MMLU's 14,042 test questions, counting each word and each run of
# punctuation marks as a token: (share of the questions, tokens). The mean is 98; the options make up a third.
QUANTILES = (
    (0.0, 19), (0.05, 29), (0.1, 33), (0.2, 40), (0.3, 47), (0.4, 55), (0.5, 66), (0.6, 81), (0.7, 97), (0.75, 105),
    (0.8, 125), (0.85, 170), (0.9, 223), (0.95, 293), (0.975, 352), (0.99, 431), (1.0, 933),
)  # fmt: skip
# The prompt's tokens besides the words: "Question:", "?", "A.", ..., a number for each option, "Answer:".
_FIXED = 2 + 1 + 4 * 3 + 2
WORDS = ("the", "cell", "law", "river", "of", "energy", "trade", "which", "is", "state", "most", "than")


def lengths(n: int, seed: int):
    """Return n prompts' lengths in tokens, spread evenly over MMLU's distribution and shuffled, shape (n,)."""
    import numpy as np

    shares, tokens = zip(*QUANTILES, strict=True)
    places = (np.random.default_rng(seed).permutation(n) + 0.5) / n
    return np.interp(places, shares, tokens).round().astype(int)


def questions(n: int, seed: int):
    """Return n questions with four options, whose plain prompts have these lengths."""
    import numpy as np

    from hf_calib import Question

    rng = np.random.default_rng([seed, 1])
    made = []
    for length in lengths(n, seed):
        text = rng.choice(WORDS, size=max(length - _FIXED, 5))
        option = max(len(text) // 13, 1)
        choices = tuple(" ".join([*text[i * option : (i + 1) * option], str(i)]) for i in range(4))
        made.append(Question(" ".join(text[4 * option :]) + "?", choices, int(rng.integers(4))))
    return made


def tokenizer():
    """Return a tokenizer whose tokens are these words and punctuation marks."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<eos>", "<unk>", *WORDS, "Question", "Answer", *"ABCD0123:.?"]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
