"""An ensemble of adapters of one base model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .ensemble import EnsembleCalibration

if TYPE_CHECKING:
    import torch

    from ..confidence import Predictions
    from ..tasks import PromptFormat, Question


class AdapterEnsemble:
    """An ensemble whose members are adapters of one model in memory, so M members take one model and M adapters.

    Parameters
    ----------
    model : peft.PeftModel
        With the adapters loaded (`PeftModel.from_pretrained`, then `load_adapter` with other names).
    tokenizer : PreTrainedTokenizerBase
    adapters : sequence of str, optional
        Names of the adapters to use; by default all of the model's.
    calibrator : EnsembleCalibration, optional
        By default pooling followed by temperature scaling.
    prompt_format : PromptFormat, optional
        Default format of the questions; by default the plain prompt.
    embeddings : sequence of dict of str to Tensor, optional
        For each adapter, values of the base model's parameters that belong to it, by name: embeddings of added tokens.

    Raises
    ------
    ValueError
        If the model has no adapter, or none with one of the names.

    Examples
    --------
    >>> model = PeftModel.from_pretrained(base, "run-0", adapter_name="0")  # doctest: +SKIP
    >>> model.load_adapter("run-1", adapter_name="1")  # doctest: +SKIP
    >>> members = AdapterEnsemble(model, tokenizer).fit(held_out)  # doctest: +SKIP
    >>> members.probabilities(questions)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        adapters: Sequence[str] | None = None,
        calibrator: EnsembleCalibration | None = None,
        prompt_format: PromptFormat | None = None,
        embeddings: Sequence[Mapping[str, torch.Tensor]] | None = None,
    ) -> None:
        there = list(getattr(model, "peft_config", {}))
        names = there if adapters is None else list(adapters)
        unknown = [name for name in names if name not in there]
        if unknown or not names:
            raise ValueError(f"adapters: the model has {there}; got {unknown or 'none'}")
        self.model, self.tokenizer, self.adapters = model, tokenizer, tuple(names)
        self.calibrator = calibrator or EnsembleCalibration()
        self.prompt_format = prompt_format
        self.embeddings = tuple(embeddings or ({} for _ in names))

    def log_probabilities(self, questions: Iterable[Question], **options: Any) -> NDArray[np.float64]:
        """Ask every member the questions.

        Parameters
        ----------
        questions : iterable of Question
        **options
            Of `hf_calib.predict`, such as prompt_format and batch_size.

        Returns
        -------
        ndarray of float64, shape (M, n, K)
            Logarithms of the options' probabilities; -inf for missing options.
        """
        return np.stack([own.option_log_probabilities for own in self._predictions(questions, **options)])

    def _predictions(self, questions: Iterable[Question], **options: Any) -> list[Predictions]:
        from ..confidence import predict

        asked = list(questions)
        options.setdefault("prompt_format", self.prompt_format)
        members = []
        with _active_adapter_kept(self.model):
            for name, own in zip(self.adapters, self.embeddings, strict=True):
                self.model.set_adapter(name)
                for path, value in own.items():
                    self.model.get_parameter(path).data.copy_(value)
                members.append(predict(self.model, self.tokenizer, asked, **options))
        return members

    def fit(self, questions: Iterable[Question], **options: Any) -> AdapterEnsemble:
        """Fit the calibrator on held-out questions with answers, and return self.

        Raises
        ------
        ValueError
            If a question has no answer.
        """
        from ..tasks import require_answers

        asked = list(questions)
        require_answers(asked, "calibrating an ensemble")
        members = self._predictions(asked, **options)
        self.calibrator.fit(np.stack([own.logits for own in members]), members[0].answers)
        return self

    def probabilities(self, questions: Iterable[Question], **options: Any) -> NDArray[np.float64]:
        """Return the ensemble's calibrated probabilities, shape (n, K)."""
        first, *others = self._predictions(questions, **options)
        return first.calibrated(self.calibrator, *others).probabilities


@contextmanager
def _active_adapter_kept(model: Any) -> Iterator[None]:
    active = model.active_adapter
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    try:
        yield
    finally:
        model.set_adapter(active)
        # Setting an adapter makes its weights trainable, so the previous state is restored.
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(trained[name])
