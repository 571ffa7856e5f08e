"""The embedded default: a small world whose true probabilities are known, and models that learn it on a laptop."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

# Imported when they are first used: the world and the presets need NumPy only, the rest torch and transformers.
_MODULES = {
    "arguments": ("adapter_config", "alignment_arguments"),
    "compared": ("METHODS", "Method"),
    "corpus": ("Corpus", "make_corpus"),
    "data": ("LabData", "sample_data"),
    "evaluation": ("evaluate",),
    "model": ("make_model",),
    "names": ("DOMAINS", "Relation"),
    "preferences": ("sample_pairs",),
    "presets": (
        "EXPERIMENTS",
        "PRESETS",
        "AlignmentSettings",
        "CorpusSettings",
        "LabPreset",
        "ModelSettings",
        "PreferenceSettings",
        "PretrainingSettings",
    ),
    "pretraining": ("load_pretrained", "make_world", "pretrain", "pretrained_folder"),
    "report": ("write_report",),
    "run": ("run_experiment",),
    "sweep_report": ("write_sweep_report",),
    "sweep_run": ("run_sweep",),
    "sweeps": ("SWEEPS", "Sweep"),
    "tokenizer": ("make_tokenizer",),
    "win_rate": ("PreferenceTest",),
    "world": ("LabQuestions", "World"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DOMAINS",
    "EXPERIMENTS",
    "METHODS",
    "PRESETS",
    "SWEEPS",
    "AlignmentSettings",
    "Corpus",
    "CorpusSettings",
    "LabData",
    "LabPreset",
    "LabQuestions",
    "Method",
    "ModelSettings",
    "PreferenceSettings",
    "PreferenceTest",
    "PretrainingSettings",
    "Relation",
    "Sweep",
    "World",
    "adapter_config",
    "alignment_arguments",
    "evaluate",
    "load_pretrained",
    "make_corpus",
    "make_model",
    "make_tokenizer",
    "make_world",
    "pretrain",
    "pretrained_folder",
    "run_experiment",
    "run_sweep",
    "sample_data",
    "sample_pairs",
    "write_report",
    "write_sweep_report",
]

if TYPE_CHECKING:
    from .arguments import adapter_config, alignment_arguments
    from .compared import METHODS, Method
    from .corpus import Corpus, make_corpus
    from .data import LabData, sample_data
    from .evaluation import evaluate
    from .model import make_model
    from .names import DOMAINS, Relation
    from .preferences import sample_pairs
    from .presets import (
        EXPERIMENTS,
        PRESETS,
        AlignmentSettings,
        CorpusSettings,
        LabPreset,
        ModelSettings,
        PreferenceSettings,
        PretrainingSettings,
    )
    from .pretraining import load_pretrained, make_world, pretrain, pretrained_folder
    from .report import write_report
    from .run import run_experiment
    from .sweep_report import write_sweep_report
    from .sweep_run import run_sweep
    from .sweeps import SWEEPS, Sweep
    from .tokenizer import make_tokenizer
    from .win_rate import PreferenceTest
    from .world import LabQuestions, World


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
