"""From a model and a task to probabilities."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# torch is slow to import, and reading predictions that exist already does not need it.
_HOME = {
    "Asking": "asking",
    "ConfidenceMethod": "methods",
    "ForwardArguments": "forward",
    "Generation": "backend",
    "Journal": "journal",
    "LocalModel": "local",
    "Marginalized": "methods",
    "NonFiniteLogitsError": "forward",
    "OptionLetters": "methods",
    "OptionScores": "backend",
    "OptionTexts": "methods",
    "PTrue": "elicited",
    "SampleConsistency": "elicited",
    "ServedModel": "served",
    "ServerError": "backend",
    "StatedConfidence": "elicited",
    "Predictions": "predictions",
    "Way": "registry",
    "answer_logits": "forward",
    "confidence_method": "registry",
    "option_log_probabilities": "forward",
    "predict": "option_logits",
    "ways": "registry",
}

__all__ = [
    "Asking",
    "ConfidenceMethod",
    "ForwardArguments",
    "Generation",
    "Journal",
    "LocalModel",
    "Marginalized",
    "NonFiniteLogitsError",
    "OptionLetters",
    "OptionScores",
    "OptionTexts",
    "PTrue",
    "Predictions",
    "SampleConsistency",
    "ServedModel",
    "ServerError",
    "StatedConfidence",
    "Way",
    "answer_logits",
    "confidence_method",
    "option_log_probabilities",
    "predict",
    "ways",
]

if TYPE_CHECKING:
    from .asking import Asking
    from .backend import Generation, OptionScores, ServerError
    from .elicited import PTrue, SampleConsistency, StatedConfidence
    from .forward import ForwardArguments, NonFiniteLogitsError, answer_logits, option_log_probabilities
    from .journal import Journal
    from .local import LocalModel
    from .methods import ConfidenceMethod, Marginalized, OptionLetters, OptionTexts
    from .option_logits import predict
    from .predictions import Predictions
    from .registry import Way, confidence_method, ways
    from .served import ServedModel


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
