"""Ways to read the confidence in an aligned model's answers elsewhere than off its options' probabilities."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from hf_calib.confidence import Predictions, predict
from hf_calib.confidence.encoded import padding_token
from hf_calib.confidence.forward import evaluating
from hf_calib.tasks import LETTERS, PromptFormat

from .examination import BATCH_SIZE, Examination, QuestionTest
from .rivals import CONFIDENCE, LEVELS, stating_tokenizer


class Pretrained:
    """BaseCal-ReEval: the aligned model answers, and the pre-trained model's probability of it is the confidence.

    Parameters
    ----------
    examination : Examination
    model : PreTrainedModel
        The aligned one.

    References
    ----------
    Tan et al., BaseCal: Unsupervised Confidence Calibration via Base Model Signals, 2026, arXiv 2601.03042.
    """

    def __init__(self, examination: Examination, model: Any) -> None:
        self.model = examination.bench.pretrained()

    def __call__(self, test: QuestionTest, answered: Predictions) -> Predictions:
        """Return an aligned model's answers to a test with other confidences."""
        return replace(test.predictions(self.model), chosen=answered.predicted)


class Projected:
    """BaseCal-Proj: the same with the aligned model's hidden states projected to the pre-trained model's.

    The projection is linear, with an intercept, and fitted by least squares on the prompts without answers; the
    pre-trained model's output layer makes probabilities of its result. Parameters as in `Pretrained`.
    """

    def __init__(self, examination: Examination, model: Any) -> None:
        bench = examination.bench
        self.model, self.tokenizer = model, bench.tokenizer
        before, prompts = bench.pretrained(), bench.unanswered()
        states, targets = (self._states(asked, prompts) for asked in (model, before))
        self.projection = np.linalg.lstsq(states, targets[:, :-1], rcond=None)[0]
        self.head = before.get_output_embeddings().weight.detach().double().numpy()

    def _states(self, model: Any, prompts: Any) -> np.ndarray:
        """Return the hidden states at the answer positions and a column of ones, shape (n, d + 1)."""
        asked = predict(model, self.tokenizer, prompts, batch_size=BATCH_SIZE, hidden_states=True)
        assert asked.hidden_states is not None
        return np.concatenate([asked.hidden_states.astype(float), np.ones((len(asked), 1))], axis=1)

    def __call__(self, test: QuestionTest, answered: Predictions) -> Predictions:
        """Return an aligned model's answers to a test with other confidences."""
        logits = torch.from_numpy(self._states(self.model, test.prompts) @ self.projection @ self.head.T)
        letters = self.tokenizer.convert_tokens_to_ids(list(LETTERS[: answered.probabilities.shape[1]]))
        scores = torch.log_softmax(logits, dim=-1)[:, letters].numpy()[test.index]
        return replace(answered, option_log_probabilities=scores, chosen=answered.predicted)


class Stated:
    """The confidence that a model trained by `stated_confidence_dpo` states after its answer, in expectation.

    Parameters as in `Pretrained`.
    """

    def __init__(self, examination: Examination, model: Any) -> None:
        self.model, self.tokenizer = model, stating_tokenizer(examination.bench.tokenizer)

    def __call__(self, test: QuestionTest, answered: Predictions) -> Predictions:
        """Return an aligned model's answers to a test with other confidences."""
        # Of each prompt any of the places that it was drawn for.
        first = np.unique(test.index, return_index=True)[1]
        letters = answered.predicted[first]
        texts = [
            f"{PromptFormat().render(prompt)} {LETTERS[letter]} {CONFIDENCE}"
            for prompt, letter in zip(test.prompts, letters, strict=True)
        ]
        stated = self._expected_levels(texts)[test.index]
        counts = np.full(len(stated), answered.probabilities.shape[1])
        return Predictions.from_answers(
            answered.predicted, stated, counts, answered.answers, answered.subjects, answered.rows
        )

    def _expected_levels(self, texts: list[str]) -> np.ndarray:
        levels = self.tokenizer.convert_tokens_to_ids(list(LEVELS))
        found = []
        for start in range(0, len(texts), BATCH_SIZE):
            ids = self.tokenizer(texts[start : start + BATCH_SIZE])["input_ids"]
            ends = torch.tensor([len(row) - 1 for row in ids])
            padded = torch.full((len(ids), int(ends.max()) + 1), padding_token(self.tokenizer))
            for row, own in zip(padded, ids, strict=True):
                row[: len(own)] = torch.tensor(own)
            with evaluating(self.model), torch.inference_mode():
                logits = self.model(input_ids=padded, attention_mask=torch.arange(padded.shape[1]) <= ends[:, None])
            shares = torch.softmax(logits.logits[torch.arange(len(ids)), ends][:, levels].double(), dim=-1)
            found.append(shares @ torch.linspace(0, 1, len(LEVELS), dtype=torch.float64))
        return torch.cat(found).numpy()


READINGS: dict[str, Callable[[Examination, Any], Callable[[QuestionTest, Predictions], Predictions]]] = {
    "pretrained": Pretrained,
    "projected": Projected,
    "stated": Stated,
}
"""Ways to read the confidence in an aligned model's answers, as `experiments.compared.Method.reading` names them."""
