"""A model in this process or shared by several: scores what may follow a prompt, and samples what does."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ..tasks import (
    PromptFormat,
    Question,
    as_questions,
    handle_identical_choices,
    maximum_length,
)
from ..tasks.encoding import common_prefix, rows_that_fit
from .asking import Asking
from .backend import Generation, OptionScores
from .batching import BatchPlan, plan_batches
from .cached import LOGITS_BUDGET, CachedForward, Computed, Contents
from .encoded import EncodedOptions, PromptEncoder, padding_token
from .forward import NonFiniteLogitsError, evaluating, unwrapped
from .parsing import up_to_stop
from .predictions import Predictions
from .registry import confidence_method

# Some chat templates begin the train of thought themselves; the tag takes few tokens.
_OPENING, _OPENING_TOKENS = "<think>", 16


def predict(
    model: nn.Module,
    tokenizer: Any,
    questions: Any,
    *,
    method: str = "letters",
    prompt_format: PromptFormat | None = None,
    batch_size: int | str = 16,
    max_length: int | None = None,
    on_too_long: str = "error",
    padding_side: str = "left",
    progress: bool = True,
    hidden_states: bool = False,
) -> Predictions:
    """Ask a model multiple-choice questions and read its confidence, by default off the options' logits.

    For question x with options 1..K the confidence is max softmax(l), where l are the logits of the K option tokens
    at the answer position (Xiao et al., 2025).

    Parameters
    ----------
    model : torch.nn.Module
        A causal language model; it is in evaluation mode during the call.
    tokenizer : transformers.PreTrainedTokenizerBase
    questions : list of Question, or anything that `hf_calib.tasks.as_questions` takes
        With or without answers. Those with identical choices are asked like any other, with a warning.
    method : str, default "letters"
        What confidence is read off, a name of `hf_calib.confidence.ways()`.
    prompt_format : PromptFormat, optional
    batch_size : int or "auto", default 16
        "auto" begins with 64 and halves it when memory runs out.
    max_length : int, optional
        By default what the model and its tokenizer allow.
    on_too_long : {"error", "drop"}, default "error"
    padding_side : {"left", "right"}, default "left"
        Changes no result beyond rounding.
    progress : bool, default True
        Show a progress bar, if it takes longer than a second.
    hidden_states : bool, default False
        Keep the hidden state at each answer position too, for calibrators that take features.

    Returns
    -------
    Predictions
        In the questions' order; `rows` says which remain if prompts were dropped.

    Raises
    ------
    QuestionError
        As `hf_calib.tasks.as_questions` and `hf_calib.tasks.encode_questions`.
    NonFiniteLogitsError
        If the model's logits are not finite.
    """
    asked = as_questions(questions)
    handle_identical_choices(asked, "warn")
    source = LocalModel(model, tokenizer, max_length=max_length, on_too_long=on_too_long, padding_side=padding_side)
    asking = Asking(batch_size, progress, hidden_states=hidden_states)
    return confidence_method(method).predict(source, asked, prompt_format or PromptFormat(), asking)


class LocalModel:
    """A causal language model and its tokenizer, as a source of confidence.

    Parameters
    ----------
    model : torch.nn.Module
        Wrapped or not, as its forward must be called.
    tokenizer : transformers.PreTrainedTokenizerBase
    max_length : int, optional
        Longest prompt with its answer, in tokens; by default what the model and its tokenizer allow.
    on_too_long : {"error", "drop"}, default "error"
    padding_side, device, in_step
        As of `hf_calib.confidence.cached.CachedForward`.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        *,
        max_length: int | None = None,
        on_too_long: str = "error",
        padding_side: str = "left",
        device: torch.device | str | None = None,
        in_step: bool = False,
    ) -> None:
        if max_length is None:
            max_length = maximum_length(unwrapped(model).config, tokenizer)
        self.model = model
        self.tokenizer = tokenizer
        self.encoder = PromptEncoder(tokenizer, max_length, on_too_long)
        self.forward = CachedForward(model, padding_token(tokenizer), padding_side, device=device, in_step=in_step)

    def score_letters(
        self, stage: str, questions: Sequence[Question], prompt_format: PromptFormat, asking: Asking
    ) -> list[OptionScores | None]:
        """Return each question's letters' log-probabilities; None where the prompt was dropped."""
        asking.note(questions, prompt_format)
        items = self.encoder.letters(questions, prompt_format)
        return self._score(stage, items, len(questions), asking, states=asking.hidden_states)

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
        asking.note(questions, prompt_format, list_options=list_options)
        items = self.encoder.texts(questions, prompt_format, list_options=list_options)
        return self._score(stage, items, len(questions), asking)

    def score_answers(
        self,
        stage: str,
        questions: Sequence[Any],
        texts: Sequence[str],
        prompt_format: PromptFormat,
        asking: Asking,
    ) -> list[list[float] | None]:
        """Return the log-probability of each token of each question's answer; None where the prompt was dropped."""
        items = self.encoder.answers(questions, texts, prompt_format)
        packs = self._fit(items)

        def work(batch: list[EncodedOptions], prefix: int) -> list[list[float]]:
            return [tokens for (tokens,) in self._token_scores(batch, prefix, packs=packs)[0]]

        outcomes = self.run(stage, items, asking, work, keeps=True, packs=packs)
        placed: list[list[float] | None] = [None] * len(questions)
        for item, outcome in zip(items, outcomes, strict=True):
            placed[item.row] = outcome
        return placed

    @torch.no_grad()
    def score_cases(
        self, stage: str, cases: Sequence[Sequence[Question]], prompt_format: PromptFormat, asking: Asking
    ) -> list[list[OptionScores | None]]:
        """Return the labels' log-probabilities of each case's questions; None where the case was dropped.

        The state, which the prompts of a case share, is computed once. A case is one forward if every label is one
        token and the model accepts a mask that separates the questions.

        Parameters
        ----------
        stage, asking
            As of `Asking.run`; a batch is a case.
        cases : sequence of sequence of Question
        prompt_format : PromptFormat

        Raises
        ------
        QuestionError
            If a tokenizer can't tell a question's options apart, or a prompt is too long.
        """
        case_of = [number for number, case in enumerate(cases) for _ in case]
        items = self.encoder.labels([question for case in cases for question in case], prompt_format)
        longest: dict[int, int] = {}
        for item in items:
            case = case_of[item.row]
            longest[case] = max(longest.get(case, 0), item.length)
        kept = set(
            rows_that_fit(
                longest,
                self.encoder.max_length,
                self.encoder.on_too_long,
                what="cases",
                fix="raise the maximum length, or shorten the state",
            )
        )
        items = [item for item in items if case_of[item.row] in kept]
        batches: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            batches.setdefault(case_of[item.row], []).append(place)

        def contents(own: Sequence[EncodedOptions]) -> Contents:
            """Return the shared prefix, and the rests of the prompts, each with a token after it."""
            shared = _shared(own)
            return own[0].input_ids[:shared], [(*item.input_ids[shared:], 0) for item in own]

        def work(places: Sequence[int]) -> list[tuple[list[float], str | None]]:
            own = [items[place] for place in places]
            if self.forward.pads is False:
                return [scored for item in own for scored in self._score_batch([item], 0)]
            prefix, rests = contents(own)
            if not prefix or not self.forward.packs or _are_longer(own):
                return self._score_batch(own, len(prefix))
            ends = np.cumsum([len(rest) for rest in rests]) - 1
            logits = self.forward.read_packed([(prefix, rests)])[ends.tolist()]
            scores = _finite(own, _first_scores(own, logits))
            return [([score for (score,) in options], None) for options in scores]

        self.forward.limit(max(item.length for item in items))
        with evaluating(self.model):
            self.forward.check(max((item.input_ids for item in items), key=len), pads=True, shares=True)
            every = [contents([items[place] for place in places]) for places in batches.values()]
            shared = [content for content in every if content[0]]
            if shared:
                self.forward.check_packing(*max(shared, key=lambda content: sum(map(len, content[1]))))
            self.forward.agree(asking.num_processes)
            outcomes = asking.run(stage, list(batches.values()), work, wait=self.forward.wait)
        placed: list[OptionScores | None] = [None] * len(case_of)
        for item, (values, _) in zip(items, outcomes, strict=True):
            placed[item.row] = OptionScores(tuple(values), tuple(map(len, item.options)))
        scores = iter(placed)
        return [[next(scores) for _ in case] for case in cases]

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
            `n_samples` per question; None where the prompt was dropped.
        """
        if n_samples < 1 or max_new_tokens < 1 or temperature < 0:
            raise ValueError(
                "n_samples and max_new_tokens must be at least 1 and the temperature at least 0, got "
                f"{n_samples}, {max_new_tokens} and {temperature}"
            )
        asking.note(questions, prompt_format, list_options=list_options)
        items = self.encoder.prompts(
            questions, prompt_format, list_options=list_options, max_new_tokens=max_new_tokens
        )
        sampler = _Sampler(self, n_samples, temperature, max_new_tokens, tuple(stop), seed)
        outcomes = self.run(stage, items, asking, sampler, keeps=max_new_tokens > 1)
        placed: list[list[Generation] | None] = [None] * len(questions)
        for item, outcome in zip(items, outcomes, strict=True):
            placed[item.row] = [Generation(*sample) for sample in outcome]
        return placed

    @torch.no_grad()
    def run(
        self,
        stage: str,
        items: Sequence[Any],
        asking: Asking,
        work: Callable[[list[Any], int], Sequence[Any]],
        *,
        keeps: bool = False,
        packs: bool = False,
    ) -> list[Any]:
        """Go through prompts in batches, on all processes that share the work.

        Parameters
        ----------
        stage, asking
            As of `Asking.run`.
        items : sequence
            With the prompts' `input_ids`.
        work : callable
            Maps a batch's items and the number of first tokens that they share to an outcome for each item.
        keeps : bool, default False
            Whether `work` continues from the prompts' cache.
        packs : bool, default False
            Whether `work` reads each prompt in a row with its options instead, where the model allows it.

        Returns
        -------
        list
            The items' outcomes.
        """
        prompts = [item.input_ids for item in items]

        def planned() -> BatchPlan:
            packed = packs and self.forward.packs is not False
            return plan_batches(
                prompts,
                asking.largest_batch,
                lengths=[item.packed_length for item in items] if packed else None,
                share_prefixes=self.forward.shares is not False,
                padded=self.forward.pads is not False,
            )

        def found_out(plan: BatchPlan) -> bool:
            """Find out what the plan relies on, and return whether anything was not known."""
            # Packed rows that share nothing rely on nothing else.
            alone = packs and not any(plan.prefixes)
            if alone and self._check_packing(items, plan):
                return True
            if not (alone and self.forward.packs):
                mixes = any(len({len(prompts[i]) for i in batch}) > 1 for batch in plan.batches)
                # Without a cache, prompts are read again with their continuations, whose lengths differ.
                mixes |= keeps and self.forward.shares is False
                if self.forward.check(max(prompts, key=len), pads=mixes, shares=keeps or any(plan.prefixes)):
                    return True
            return packs and self._check_packing(items, plan)

        self.forward.limit(max(getattr(item, "length", len(item.input_ids)) for item in items))
        with evaluating(self.model):
            plan = planned()
            while found_out(plan):
                self.forward.agree(asking.num_processes)
                plan = planned()
            return asking.run(
                stage,
                plan.batches,
                lambda numbers: work([items[i] for i in numbers], plan.prefixes[numbers[0]]),
                wait=self.forward.wait,
            )

    def _check_packing(self, items: Sequence[EncodedOptions], plan: BatchPlan) -> bool:
        """Find out, from the longest rows with and without a shared prefix, whether packing is harmless."""
        order = sorted(range(len(items)), key=lambda i: items[i].packed_length)
        longest = {prefix > 0: (items[i], prefix) for i in order for prefix in [plan.prefixes[i]]}
        found = [self.forward.check_packing(item.input_ids, item.options, prefix) for item, prefix in longest.values()]
        return any(found)

    def _score(
        self, stage: str, items: list[EncodedOptions], n_questions: int, asking: Asking, *, states: bool = False
    ) -> list[OptionScores | None]:
        longer = _are_longer(items)
        packs = longer and not states and self._fit(items)
        outcomes = self.run(
            stage + "_with_states" * states,
            items,
            asking,
            lambda batch, prefix: self._score_batch(batch, prefix, states=states, packs=packs),
            keeps=longer,
            packs=packs,
        )
        placed: list[OptionScores | None] = [None] * n_questions
        for item, (values, state) in zip(items, outcomes, strict=True):
            hidden = None if state is None else np.frombuffer(base64.b64decode(state), np.float32)
            placed[item.row] = OptionScores(tuple(values), tuple(map(len, item.options)), hidden_state=hidden)
        return placed

    def _score_batch(
        self, items: Sequence[EncodedOptions], prefix: int, *, states: bool = False, packs: bool = False
    ) -> list[tuple[list[float], str | None]]:
        """Return each item's options' log-probabilities, and its hidden state in base 64, which JSON can hold."""
        scores, hidden = self._token_scores(items, prefix, states=states, packs=packs)
        kept = [None] * len(items) if hidden is None else hidden.cpu().numpy()
        return [
            ([sum(tokens) for tokens in own], None if state is None else base64.b64encode(state.tobytes()).decode())
            for own, state in zip(scores, kept, strict=True)
        ]

    def _token_scores(
        self, items: Sequence[EncodedOptions], prefix: int, *, states: bool = False, packs: bool = False
    ) -> tuple[list[list[list[float]]], torch.Tensor | None]:
        """Return the log-probability of each token of each item's options, and the items' hidden states."""
        if packs and self.forward.packs:
            return self._packed_scores(items, prefix), None
        prompts = [item.input_ids for item in items]
        computed = self.forward.read(prompts, prefix=prefix, keep=_are_longer(items), states=states)
        found = _first_scores(items, computed.logits)
        longer = [
            (row, option) for row, item in enumerate(items) for option, ids in enumerate(item.options) if len(ids) > 1
        ]
        for (row, option), further in zip(longer, self._continuations(items, longer, computed), strict=True):
            found[row][option] += further
        return _finite(items, found), computed.states

    def _packed_scores(self, items: Sequence[EncodedOptions], prefix: int) -> list[list[list[float]]]:
        """Return the log-probability of each token of each item's options, read in rows with their prompts."""
        found: list[list[list[float]]] = []
        while len(found) < len(items):
            rest = items[len(found) :]
            size = next(n for n in range(len(rest), 0, -1) if n == 1 or self._held(rest[:n], prefix) <= LOGITS_BUDGET)
            chunk = rest[:size]
            logits = self.forward.read_packed([(item.input_ids, item.options) for item in chunk], prefix)
            ids = [token for item in chunk for option in item.options for token in option]
            chosen = logits.gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0]
            scores = iter((chosen - logits.logsumexp(dim=-1)).double().tolist())
            found += [[[next(scores) for _ in option] for option in item.options] for item in chunk]
        return _finite(items, found)

    def _held(self, items: Sequence[EncodedOptions], prefix: int = 0) -> int:
        """Return how many logits packed rows hold, or elements of the mask if these are more."""
        length = max(item.packed_length for item in items)
        columns = 1 + max(item.packed_length - len(item.input_ids) for item in items)
        n_logits = max(len(items) * columns, sum(len(option) for item in items for option in item.options))
        return max(n_logits * len(self.tokenizer), len(items) * (length - prefix) * length)

    def _fit(self, items: Sequence[EncodedOptions]) -> bool:
        """Return whether each of the items can be packed within the limit of memory."""
        return all(self._held([item]) <= LOGITS_BUDGET for item in items)

    def _continuations(
        self, items: Sequence[EncodedOptions], longer: Sequence[tuple[int, int]], computed: Computed
    ) -> list[list[float]]:
        """Return the log-probability of each token after the first of each of the longer options."""
        # Options that differ in their last token alone are read once.
        alike: dict[tuple[int, tuple[int, ...]], list[int]] = {}
        for number, (row, option) in enumerate(longer):
            alike.setdefault((row, items[row].options[option][:-1]), []).append(number)
        scores: list[list[float]] = [[] for _ in longer]
        vocabulary = computed.logits.shape[1]
        order = sorted(alike, key=lambda one: -len(one[1]))
        start = 0
        while start < len(order):
            size = max(1, min(LOGITS_BUDGET // (len(order[start][1]) * vocabulary), 2 * len(items)))
            chunk = order[start : start + size]
            logits = self._chunk(items, chunk, computed)
            # All tokens of all continuations at once: few kernels, and one wait for an accelerator.
            wanted = [
                (number, place, column, token)
                for place, one in enumerate(chunk)
                for number in alike[one]
                for column, token in enumerate(items[one[0]].options[longer[number][1]][1:])
            ]
            numbers, *index = zip(*wanted, strict=True)
            places, columns, tokens = (torch.tensor(values, device=logits.device) for values in index)
            found = logits[places, columns, tokens] - logits.logsumexp(-1)[places, columns]
            for number, score in zip(numbers, found.double().tolist(), strict=True):
                scores[number].append(score)
            start += size
        return scores

    def _chunk(
        self, items: Sequence[EncodedOptions], chunk: Sequence[tuple[int, tuple[int, ...]]], computed: Computed
    ) -> torch.Tensor:
        """Return the logits after each token of R continuations, float32, shape (R, T, V), padded on the right."""
        rows, tokens = [row for row, _ in chunk], [ids for _, ids in chunk]
        if computed.cache is not None:
            return self.forward.continue_from(computed, rows, tokens)[0].float()
        whole = self.forward.read_whole([items[row].input_ids for row in rows], tokens)
        return nn.utils.rnn.pad_sequence(list(whole), batch_first=True)


def _are_longer(items: Sequence[EncodedOptions]) -> bool:
    """Return whether any option has more than one token."""
    return any(len(ids) > 1 for item in items for ids in item.options)


def _first_scores(items: Sequence[EncodedOptions], logits: torch.Tensor) -> list[list[list[float]]]:
    """Return the log-probability of the first token of each item's options."""
    width = max(len(item.options) for item in items)
    first = [[ids[0] for ids in item.options] + [0] * (width - len(item.options)) for item in items]
    chosen = logits.gather(1, torch.tensor(first, device=logits.device))
    scores = (chosen - logits.logsumexp(dim=-1, keepdim=True)).double().tolist()
    return [[[score] for score in row[: len(item.options)]] for item, row in zip(items, scores, strict=True)]


def _finite(items: Sequence[EncodedOptions], scores: list[list[list[float]]]) -> list[list[list[float]]]:
    """Return the options' scores once they are checked."""
    for item, own in zip(items, scores, strict=True):
        _check_finite(np.array([sum(tokens) for tokens in own]), item.row)
    return scores


def _shared(items: Sequence[EncodedOptions]) -> int:
    """Return how many first tokens all prompts share, less than the shortest has; 0 for one prompt."""
    first, *others = (item.input_ids for item in items)
    return min((min(common_prefix(first, other), len(other) - 1, len(first) - 1) for other in others), default=0)


def _check_finite(values: np.ndarray, row: int) -> None:
    if not np.isfinite(values).all():
        raise NonFiniteLogitsError(
            f"the model's logits at the answer of row {row}, counted from 0, are not finite; its weights have "
            "diverged, or the number format is too narrow (try bfloat16 or float32)"
        )


def base_under_adapter(source: Any) -> LocalModel:
    """Return the model under a source's PEFT adapter, as a source of its own that shares the weights.

    Raises
    ------
    ValueError
        If the source is not a local model with an adapter.
    """
    model = getattr(source, "model", None)
    if not isinstance(model, nn.Module) or not hasattr(unwrapped(model), "disable_adapter"):
        raise ValueError(
            "base_model: the model has no PEFT adapter to take off; give the pre-trained model that is to score the "
            "answers as base_model (--base-model)"
        )
    return _WithoutAdapter(
        model,
        source.tokenizer,
        max_length=source.encoder.max_length,
        on_too_long=source.encoder.on_too_long,
        device=source.forward.device,
        in_step=source.forward.in_step,
    )


class _WithoutAdapter(LocalModel):
    """A model with its PEFT adapter disabled whenever it is run."""

    def run(self, *args: Any, **options: Any) -> list[Any]:
        with cast("Any", unwrapped(self.model)).disable_adapter():
            return super().run(*args, **options)


class _Sampler:
    """Samples answers to a batch of prompts, each prompt read once for all its samples."""

    def __init__(
        self,
        source: LocalModel,
        n_samples: int,
        temperature: float,
        max_new_tokens: int,
        stop: tuple[str, ...],
        seed: int,
    ) -> None:
        self.source, self.n_samples, self.temperature = source, n_samples, temperature
        self.max_new_tokens, self.stop, self.seed = max_new_tokens, stop, seed
        configured = getattr(getattr(unwrapped(source.model), "generation_config", None), "eos_token_id", None)
        ends = configured if isinstance(configured, list) else [configured]
        self.ends = {end for end in (*ends, source.tokenizer.eos_token_id) if end is not None}

    def __call__(self, items: Sequence[EncodedOptions], prefix: int) -> list[list[tuple[str, bool, float | None]]]:
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
        openings = list(map(self._opening, prompts))
        written: list[list[int]] = [[] for _ in rows]
        texts: list[tuple[str, bool]] = [("", False)] * len(rows)
        sums = np.zeros(len(rows))
        logits = computed.logits[torch.tensor(rows, device=computed.logits.device)]
        alive = list(range(len(rows)))
        for step in range(self.max_new_tokens):
            tokens = self._choose(logits, draws[alive, step], [items[rows[i]].row for i in alive])
            if self.n_samples > 1:
                chosen = torch.tensor(tokens, device=logits.device)[:, None]
                sums[alive] += logits.double().log_softmax(-1).gather(-1, chosen)[:, 0].cpu().numpy()
            still = []
            for place, (i, token) in enumerate(zip(alive, tokens, strict=True)):
                written[i].append(token)
                texts[i] = self._text(written[i], openings[rows[i]])
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
        log_probabilities = sums.tolist() if self.n_samples > 1 else [None] * len(rows)
        samples = [(*text, value) for text, value in zip(texts, log_probabilities, strict=True)]
        return [samples[start : start + self.n_samples] for start in range(0, len(rows), self.n_samples)]

    def _choose(self, logits: torch.Tensor, draws: np.ndarray, rows: Sequence[int]) -> list[int]:
        finite = logits.logsumexp(-1).isfinite()
        if not bool(finite.all()):
            _check_finite(np.array([np.nan]), rows[int((~finite).nonzero()[0])])
        if self.temperature == 0:
            return logits.argmax(-1).tolist()
        # The inverse distribution function at the sample's own random number, independent of the rest of the batch.
        cumulative = torch.softmax(logits.double() / self.temperature, dim=-1).cumsum(-1)
        at = torch.tensor(draws, device=logits.device)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, at, right=True)[:, 0].clamp(max=logits.shape[1] - 1).tolist()

    def _opening(self, prompt: Sequence[int]) -> str:
        """Return the tag with which a chat template begins a train of thought at the end of a prompt, if it does."""
        end = self.source.tokenizer.decode(prompt[-_OPENING_TOKENS:])
        return _OPENING if end.rstrip().endswith(_OPENING) else ""

    def _text(self, ids: list[int], opening: str) -> tuple[str, bool]:
        """Return what was written so far, up to the first stop, and whether it has ended."""
        ended = ids[-1] in self.ends
        text = opening + self.source.tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
        text, stopped = up_to_stop(text, self.stop)
        return text, ended or stopped
