"""A small world whose true probabilities are known, and models that learn it on a laptop."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# Imported on first use: the world and the presets need only NumPy, the rest torch and transformers.
_MODULES = {
    "arguments": ("adapter_config", "alignment_arguments"),
    "bench": ("Bench", "make_bench", "plain_dpo"),
    "corpus": ("Corpus", "make_corpus"),
    "data": ("LabData", "sample_data"),
    "model": ("make_model",),
    "names": ("DOMAINS", "Relation"),
    "preferences": ("sample_pairs",),
    "presets": (
        "PRESETS",
        "AlignmentSettings",
        "CorpusSettings",
        "LabPreset",
        "ModelSettings",
        "PreferenceSettings",
        "PretrainingSettings",
    ),
    "pretraining": ("load_pretrained", "make_world", "pretrain", "pretrained_folder"),
    "tokenizer": ("make_tokenizer",),
    "win_rate": ("PreferenceTest",),
    "world": ("LabQuestions", "World"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DOMAINS",
    "PRESETS",
    "AlignmentSettings",
    "Bench",
    "Corpus",
    "CorpusSettings",
    "LabData",
    "LabPreset",
    "LabQuestions",
    "ModelSettings",
    "PreferenceSettings",
    "PreferenceTest",
    "PretrainingSettings",
    "Relation",
    "World",
    "adapter_config",
    "alignment_arguments",
    "load_pretrained",
    "make_bench",
    "make_corpus",
    "make_model",
    "make_tokenizer",
    "make_world",
    "plain_dpo",
    "pretrain",
    "pretrained_folder",
    "sample_data",
    "sample_pairs",
]

if TYPE_CHECKING:
    from .arguments import adapter_config, alignment_arguments
    from .bench import Bench, make_bench, plain_dpo
    from .corpus import Corpus, make_corpus
    from .data import LabData, sample_data
    from .model import make_model
    from .names import DOMAINS, Relation
    from .preferences import sample_pairs
    from .presets import (
        PRESETS,
        AlignmentSettings,
        CorpusSettings,
        LabPreset,
        ModelSettings,
        PreferenceSettings,
        PretrainingSettings,
    )
    from .pretraining import load_pretrained, make_world, pretrain, pretrained_folder
    from .tokenizer import make_tokenizer
    from .win_rate import PreferenceTest
    from .world import LabQuestions, World


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
