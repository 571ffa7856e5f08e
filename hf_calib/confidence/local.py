"""A model in this process: scores what may follow a prompt, and samples what does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..tasks import PromptFormat, Question, maximum_length
from .asking import Asking, on_every_process
from .backend import Generation, OptionScores
from .batching import plan_batches
from .cached import LOGITS_BUDGET, CachedForward, Computed
from .encoded import EncodedOptions, PromptEncoder
from .forward import NonFiniteLogitsError
from .option_logits import evaluating, padding_token


class LocalModel:
    """A causal language model and its tokenizer, as a source of confidence.

    Parameters
    ----------
    model : torch.nn.Module
    tokenizer : transformers.PreTrainedTokenizerBase
    max_length : int, optional
        Of a prompt with its answer, in tokens; by default what the model and its tokenizer allow.
    on_too_long : {"error", "drop"}, default "error"
    """

    def __init__(
        self, model: nn.Module, tokenizer: Any, *, max_length: int | None = None, on_too_long: str = "error"
    ) -> None:
        if max_length is None:
            max_length = maximum_length(model.config, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.encoder = PromptEncoder(tokenizer, max_length, on_too_long)
        self.forward = CachedForward(model, padding_token(tokenizer))

    def score_letters(
        self, stage: str, questions: Sequence[Question], prompt_format: PromptFormat, asking: Asking
    ) -> list[OptionScores | None]:
        """Return each question's letters' log-probabilities; None where the prompt was dropped."""
        return self._score(stage, self.encoder.letters(questions, prompt_format), len(questions), asking)

    def score_texts(
        self,
        stage: str,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
        *,
        list_options: bool = False,
    ) -> list[OptionScores | None]:
        """Return the log-probabilities of each question's options' texts; None where the prompt was dropped."""
        items = self.encoder.texts(questions, prompt_format, list_options=list_options)
        return self._score(stage, items, len(questions), asking)

    def generate(
        self,
        stage: str,
        questions: Sequence[Question],
        prompt_format: PromptFormat,
        asking: Asking,
        *,
        n_samples: int = 1,
        temperature: float = 0.0,
        max_new_tokens: int = 32,
        stop: Sequence[str] = (),
        list_options: bool = True,
        seed: int = 0,
    ) -> list[list[Generation] | None]:
        """Sample answers; a temperature of 0 takes the most probable token each time.

        A question's samples depend on the seed and its row alone, not on the batch that it is in.

        Returns
        -------
        list of (list of Generation) or None
            `n_samples` a question; None where the prompt was dropped.
        """
        if n_samples < 1 or max_new_tokens < 1 or temperature < 0:
            raise ValueError(
                "n_samples and max_new_tokens must be at least 1 and the temperature at least 0, got "
                f"{n_samples}, {max_new_tokens} and {temperature}"
            )
        items = self.encoder.prompts(
            questions, prompt_format, list_options=list_options, max_new_tokens=max_new_tokens
        )
        sampler = _Sampler(self, items, n_samples, temperature, max_new_tokens, tuple(stop), seed)
        outcomes = self._run(stage, items, asking, sampler)
        placed: list[list[Generation] | None] = [None] * len(questions)
        for item, outcome in zip(items, outcomes, strict=True):
            placed[item.row] = [Generation(*sample) for sample in outcome]
        return placed

    def _score(
        self, stage: str, items: list[EncodedOptions], n_questions: int, asking: Asking
    ) -> list[OptionScores | None]:
        outcomes = self._run(stage, items, asking, self._score_batch)
        placed: list[OptionScores | None] = [None] * n_questions
        for item, outcome in zip(items, outcomes, strict=True):
            placed[item.row] = OptionScores(tuple(outcome), tuple(map(len, item.options)))
        return placed

    @torch.no_grad()
    def _run(self, stage: str, items: list[EncodedOptions], asking: Asking, work: Any) -> list[Any]:
        prompts = [item.input_ids for item in items]
        with evaluating(self.model):
            self.forward.check(prompts)
            plan = plan_batches(
                prompts,
                asking.largest_batch,
                share_prefixes=on_every_process(self.forward.shares, asking.num_processes),
                padded=on_every_process(self.forward.pads, asking.num_processes),
            )
            return asking.run(
                stage,
                plan.batches,
                lambda numbers: work([items[i] for i in numbers], plan.prefixes[numbers[0]]),
            )

    def _score_batch(self, items: Sequence[EncodedOptions], prefix: int) -> list[list[float]]:
        longer = [
            (row, option) for row, item in enumerate(items) for option, ids in enumerate(item.options) if len(ids) > 1
        ]
        computed = self.forward.read([item.input_ids for item in items], prefix=prefix, keep=bool(longer))
        log_sums = computed.logits.logsumexp(dim=-1)
        scores = []
        for row, item in enumerate(items):
            first = torch.tensor([ids[0] for ids in item.options], device=computed.logits.device)
            scores.append((computed.logits[row, first] - log_sums[row]).double().cpu().numpy())
        for (row, option), score in zip(longer, self._continuations(items, longer, computed), strict=True):
            scores[row][option] += score
        for item, values in zip(items, scores, strict=True):
            _check_finite(values, item.row)
        return [values.tolist() for values in scores]

    def _continuations(
        self, items: Sequence[EncodedOptions], longer: Sequence[tuple[int, int]], computed: Computed
    ) -> list[float]:
        """Return the log-probability of the tokens after the first of each of the longer options."""
        scores = [0.0] * len(longer)
        vocabulary = computed.logits.shape[1]
        order = sorted(range(len(longer)), key=lambda i: -len(items[longer[i][0]].options[longer[i][1]]))
        start = 0
        while start < len(order):
            row, option = longer[order[start]]
            width = len(items[row].options[option]) - 1
            size = max(1, min(LOGITS_BUDGET // (width * vocabulary), 2 * len(items)))
            chunk = [longer[i] for i in order[start : start + size]]
            for i, score in zip(order[start : start + size], self._chunk(items, chunk, computed), strict=True):
                scores[i] = score
            start += size
        return scores

    def _chunk(
        self, items: Sequence[EncodedOptions], chunk: Sequence[tuple[int, int]], computed: Computed
    ) -> Iterable[float]:
        options = [items[row].options[option] for row, option in chunk]
        if computed.cache is not None:
            rows = [row for row, _ in chunk]
            logits, _, _ = self.forward.continue_from(computed, rows, [ids[:-1] for ids in options])
            for number, ids in enumerate(options):
                targets = torch.tensor(ids[1:], device=logits.device)
                own = logits[number, : len(targets)].float()
                yield float((own.gather(1, targets[:, None])[:, 0] - own.logsumexp(-1)).double().sum())
            return
        # Without a cache: one forward for each further token.
        for (row, _), ids in zip(chunk, options, strict=True):
            prompts = [(*items[row].input_ids, *ids[:n]) for n in range(1, len(ids))]
            total = 0.0
            for prompt, target in zip(prompts, ids[1:], strict=True):
                logits = self.forward.read([prompt]).logits[0]
                total += float((logits[target] - logits.logsumexp(-1)).double())
            yield total


def _check_finite(values: np.ndarray, row: int) -> None:
    if not np.isfinite(values).all():
        raise NonFiniteLogitsError(
            f"the model's logits at the answer of row {row}, counted from 0, are not finite; its weights have "
            "diverged, or the number format is too narrow (try bfloat16 or float32)"
        )


class _Sampler:
    """Samples answers to a batch of prompts, each prompt read once for all its samples."""

    def __init__(
        self,
        source: LocalModel,
        items: Sequence[EncodedOptions],
        n_samples: int,
        temperature: float,
        max_new_tokens: int,
        stop: tuple[str, ...],
        seed: int,
    ) -> None:
        self.source, self.n_samples, self.temperature = source, n_samples, temperature
        self.max_new_tokens, self.stop, self.seed = max_new_tokens, stop, seed
        configured = getattr(getattr(source.model, "generation_config", None), "eos_token_id", None)
        ends = configured if isinstance(configured, list) else [configured]
        self.ends = {end for end in (*ends, source.tokenizer.eos_token_id) if end is not None}

    def __call__(self, items: Sequence[EncodedOptions], prefix: int) -> list[list[tuple[str, bool]]]:
        forward = self.source.forward
        prompts = [item.input_ids for item in items]
        computed = forward.read(prompts, prefix=prefix, keep=self.max_new_tokens > 1)
        rows = [row for row in range(len(items)) for _ in range(self.n_samples)]
        draws = np.concatenate(
            [
                np.random.default_rng([self.seed, item.row]).random((self.n_samples, self.max_new_tokens))
                for item in items
            ]
        )
        written: list[list[int]] = [[] for _ in rows]
        texts: list[tuple[str, bool]] = [("", False)] * len(rows)
        logits = computed.logits[torch.tensor(rows, device=computed.logits.device)]
        alive = list(range(len(rows)))
        for step in range(self.max_new_tokens):
            tokens = self._choose(logits, draws[alive, step], [items[rows[i]].row for i in alive])
            still = []
            for place, (i, token) in enumerate(zip(alive, tokens, strict=True)):
                written[i].append(token)
                texts[i] = self._text(written[i])
                if not texts[i][1]:
                    still.append((place, i))
            if not still or step + 1 == self.max_new_tokens:
                break
            alive = [i for _, i in still]
            if computed.cache is None:
                logits = forward.read([(*prompts[rows[i]], *written[i]) for i in alive]).logits
                continue
            sources = [rows[i] for i in alive] if step == 0 else [place for place, _ in still]
            following, cache, mask = forward.continue_from(
                computed, sources, [written[i][-1:] for i in alive], keep=True
            )
            logits = following[:, -1].float()
            computed = Computed(logits, cache, mask)
        return [texts[start : start + self.n_samples] for start in range(0, len(rows), self.n_samples)]

    def _choose(self, logits: torch.Tensor, draws: np.ndarray, rows: Sequence[int]) -> list[int]:
        finite = logits.logsumexp(-1).isfinite()
        if not bool(finite.all()):
            _check_finite(np.array([np.nan]), rows[int((~finite).nonzero()[0])])
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        # The inverse of the distribution function at a number of the sample's own, whatever else is in the batch.
        cumulative = torch.softmax(logits.double() / self.temperature, dim=-1).cumsum(-1)
        at = torch.tensor(draws, device=logits.device)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=logits.shape[1] - 1).tolist()

    def _text(self, ids: list[int]) -> tuple[str, bool]:
        """Return what was written so far, up to the first stop, and whether it has ended."""
        ended = ids[-1] in self.ends
        text = self.source.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
        # A stop before the answer's first character is white space that leads to it.
        lead = len(text) - len(text.lstrip())
        cuts = [text.find(stop, lead) for stop in self.stop if text.find(stop, lead) >= 0]
        return (text[: min(cuts)], True) if cuts else (text, ended)
