"""How often models agree with the annotator on held-out preference pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TokenizedCompletions:
    """Tokenized prompts with completions, without duplicates, to be scored by several models.

    Attributes
    ----------
    input_ids
        ``(m, L)``: each prompt with its completion and the end-of-sequence token, padded on the right.
    lengths, prompt_lengths
        ``(m,)``: number of tokens in total, and in the prompt.
    index
        ``(n,)``: the row of each given text.
    """

    input_ids: np.ndarray
    lengths: np.ndarray
    prompt_lengths: np.ndarray
    index: np.ndarray

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, str]]) -> TokenizedCompletions:
        """Return n prompts and their completions as tokens.

        Raises
        ------
        ValueError
            If a prompt's tokens don't begin those of the prompt with its completion.
        """
        from ..confidence.encoded import padding_token

        places: dict[tuple[str, str], int] = {}
        index = np.array([places.setdefault(text, len(places)) for text in texts])
        prompts = tokenizer([prompt for prompt, _ in places])["input_ids"]
        wholes = tokenizer([prompt + completion + tokenizer.eos_token for prompt, completion in places])["input_ids"]
        for place, (prompt, whole) in enumerate(zip(prompts, wholes, strict=True)):
            if whole[: len(prompt)] != prompt:
                row = int(np.argmax(index == place))
                raise ValueError(
                    f"the tokens of prompt {row}, {texts[row][0]!r}, are not the first of those of the prompt with "
                    "its completion; end the prompt where a token ends"
                )
        lengths = np.array([len(whole) for whole in wholes])
        input_ids = np.full((len(wholes), lengths.max()), padding_token(tokenizer))
        for row, whole in zip(input_ids, wholes, strict=True):
            row[: len(whole)] = whole
        return cls(input_ids, lengths, np.array([len(prompt) for prompt in prompts]), index)

    def log_probabilities(self, model: nn.Module, *, batch_size: int = 512) -> np.ndarray:
        """Return the log-probability of each completion after its prompt, ``(n,)``, with the end-of-sequence token.

        Parameters
        ----------
        model
            Put into evaluation mode during the call.
        batch_size
            Texts per forward; texts of similar length are batched together.
        """
        import torch

        from ..confidence.forward import ForwardArguments, evaluating, logits_of_tokens

        # Texts with prompts of the same length share the columns whose logits are needed.
        order = np.lexsort([-self.prompt_lengths, -self.lengths])
        scores = np.empty(len(order))
        device = next(model.parameters()).device
        arguments = ForwardArguments.of(model)
        with evaluating(model), torch.inference_mode():
            for start in range(0, len(order), batch_size):
                chosen = order[start : start + batch_size]
                input_ids = torch.from_numpy(self.input_ids[chosen, : self.lengths[chosen[0]]]).to(device)
                columns = torch.arange(input_ids.shape[1], device=device)
                attended = columns < torch.from_numpy(self.lengths[chosen])[:, None].to(device)
                counted = attended & (columns >= torch.from_numpy(self.prompt_lengths[chosen])[:, None].to(device))
                row, column = counted[:, 1:].nonzero(as_tuple=True)
                inputs = {"input_ids": input_ids, "attention_mask": attended}
                logits = logits_of_tokens(model, arguments, inputs, row, column)
                of_tokens = torch.log_softmax(logits, dim=-1).gather(-1, input_ids[row, column + 1, None])[:, 0]
                of_texts = torch.zeros(len(chosen), dtype=torch.float64, device=device)
                scores[chosen] = of_texts.index_add(0, row, of_tokens.double()).cpu().numpy()
        return scores[self.index]


class PreferenceTest:
    """Held-out preference pairs, tokenized once for several models.

    Parameters
    ----------
    tokenizer
        The models'.
    pairs
        Rows of text with ``prompt``, ``chosen``, ``rejected`` and ``kind``.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pairs: Iterable[Mapping[str, str]]) -> None:
        rows = list(pairs)
        texts = [(row["prompt"], row[side]) for side in ("chosen", "rejected") for row in rows]
        self.completions = TokenizedCompletions.of(tokenizer, texts)
        self.kinds = np.array([row["kind"] for row in rows])

    def prefers_chosen(self, model: nn.Module, *, batch_size: int = 512) -> np.ndarray:
        """Return for each pair whether a model gives the chosen completion a higher log-probability.

        A completion's log-probability is the sum over its tokens, with the end-of-sequence token, as in DPO.

        Returns
        -------
        numpy.ndarray
            ``(n,)`` of bool. A tie is False.
        """
        chosen, rejected = self.completions.log_probabilities(model, batch_size=batch_size).reshape(2, -1)
        return chosen > rejected

    def win_rate(self, model: nn.Module, *, batch_size: int = 512) -> dict[str, float]:
        """Return the share of pairs, for each ``kind``, in which a model prefers the chosen completion."""
        wins = self.prefers_chosen(model, batch_size=batch_size)
        return {str(kind): float(wins[self.kinds == kind].mean()) for kind in np.unique(self.kinds)}
