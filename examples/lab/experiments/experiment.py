"""How each model that the experiment compares is trained, and what determines a result."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM

from hf_calib.lab import bench as lab
from hf_calib.lab.bench import Bench
from hf_calib.lab.cache import PACKAGE, cache_key, cached_folder, library_versions, source_digest

from . import methods, rivals, variants
from .compared import COMPARED
from .presets import ExperimentPreset

LIBRARIES = ("torch", "transformers", "trl", "peft", "numpy")

# The fields of the preset that every model's data depends on.
_DATA = ("preferences", "n_calibration_questions", "n_held_out_questions", "n_prompts", "n_test_pairs")

# The files that determine training with a calibration term, in addition to the settings.
_TERMS = (
    "experiments/methods.py",
    "experiments/published_rcft.py",
    "lab/bench.py",
    "regularizers/anchor.py",
    "regularizers/em.py",
    "regularizers/supervised.py",
    "regularizers/targets.py",
    "trainers/calibration_term.py",
    "trainers/recalibration.py",
    "trainers/questions.py",
    "trainers/weight_averaging.py",
)


def code_digest(paths: Iterable[str]) -> str:
    """Hash source files of the package and, where their names begin with ``experiments/``, of this folder."""
    own = {path for path in paths if path.startswith("experiments/")}
    return source_digest(set(paths) - own) + source_digest(own, Path(__file__).resolve().parents[1])


@dataclass(frozen=True)
class TrainedModel:
    """How a model is made.

    Attributes
    ----------
    train
        Maps the bench and the model that it starts from to the trained model.
    settings
        The fields of `ExperimentPreset` that it depends on, in addition to those that all models depend on.
    start
        The model that it starts from, by name; None for the pre-trained one.
    sources
        The files whose code it depends on.
    """

    train: Callable[[Bench, Any], Any]
    settings: tuple[str, ...] = ("alignment",)
    start: str | None = None
    sources: tuple[str, ...] = ()


def _on_aligned(train: Callable[[Bench, Any], Any], *settings: str) -> TrainedModel:
    return TrainedModel(lambda bench, aligned: train(bench, aligned).model, ("alignment", *settings), "dpo", _TERMS)


def _averaged(share: float, start: str) -> TrainedModel:
    """Average the weights of a model by name, of which `share` is kept, with the pre-trained model's."""

    def train(bench: Bench, model: Any) -> Any:
        return rivals.interpolated(bench, model, 1 - share)

    return TrainedModel(train, (), start, ("experiments/rivals.py",))


def _rivals() -> dict[str, TrainedModel]:
    """Return the models of others' methods that are not losses of TRL alone."""

    def catto(weight: str, distance: rivals.Distance) -> TrainedModel:
        def train(bench: Bench, _: Any) -> Any:
            return rivals.catto_dpo(bench, getattr(bench.preset, weight), distance).model

        return TrainedModel(train, ("alignment", weight), sources=("experiments/catto.py", "experiments/rivals.py"))

    return {
        **{f"wise-ft-{share:g}": _averaged(share, "dpo") for share in (0.1, 0.25, 0.5, 0.75)},
        "cdpo": TrainedModel(
            lambda bench, _: rivals.stated_confidence_dpo(bench).model, sources=("experiments/rivals.py",)
        ),
        "dpo-bce": catto("bce_weight", "bce"),
        "catto": catto("catto_weight", "absolute"),
    }


def _variants() -> dict[str, TrainedModel]:
    """Return the models of `experiments.compared.VARIANTS`, and those of methods with the anchor on other prompts."""
    sources = (*_TERMS, "experiments/variants.py", "evaluation/synthesis.py", "trainers/pair_positions.py")
    prompts = {
        "pairs": variants.pairs_prompts,
        "mutated": variants.mutated_prompts,
        "synthesized": variants.synthesized_prompts,
    }

    def fine_tuned(source: str) -> TrainedModel:
        def train(bench: Bench, aligned: Any) -> Any:
            there = variants.with_prompts(bench, prompts[source](bench))
            return methods.regularized_fine_tuning(there, aligned).model

        return TrainedModel(train, ("alignment", "anchored", "anchored_training"), "dpo", sources)

    def aligned(source: str) -> TrainedModel:
        def train(bench: Bench, _: Any) -> Any:
            there = variants.with_prompts(bench, prompts[source](bench))
            return lab.calibration_aware_dpo(there).model

        return TrainedModel(train, ("alignment", "calibration_batch_size"), None, sources)

    def tuned_first(align: Callable[..., Any], *settings: str, base: bool = False) -> TrainedModel:
        def train(bench: Bench, start: Any) -> Any:
            options = {"teacher": bench.pretrained()} if base else {}
            return variants.aligned_from(bench, start, align, **options)

        return TrainedModel(train, ("alignment", *settings), "supervised", sources)

    aware = lab.calibration_aware_dpo

    def in_pairs(places: str) -> Callable[[Bench], Any]:
        return lambda bench: variants.anchored_in_pairs(bench, places)

    def other(align: Callable[[Bench], Any], change: Callable[[Bench], Bench] = lambda bench: bench) -> TrainedModel:
        settings = ("alignment", "calibration_batch_size")
        return TrainedModel(lambda bench, _: align(change(bench)).model, settings, None, sources)

    def in_chat(align: Callable[[Bench], Any]) -> TrainedModel:
        return other(align, variants.with_chat_alone)

    return {
        **{f"rcft-{source}": fine_tuned(source) for source in prompts},
        **{f"calibration-aware-dpo-{source}": aligned(source) for source in ("pairs", "synthesized")},
        "rcft-half-way": _averaged(0.5, "rcft"),
        "chat-dpo": in_chat(lab.plain_dpo),
        "chat-calibration-aware-dpo": in_chat(aware),
        "chat-calibration-aware-dpo-synthesized": in_chat(
            lambda bench: aware(variants.with_prompts(bench, variants.synthesized_prompts(bench)))
        ),
        **{f"chat-calibration-aware-dpo-{places}": in_chat(in_pairs(places)) for places in variants.PLACES},
        "calibration-aware-dpo-replies": other(in_pairs("replies")),
        "calibration-aware-dpo-whole-replies": other(in_pairs("whole-replies")),
        "supervised": TrainedModel(lambda bench, _: variants.supervised(bench), ("long",), None, sources),
        "supervised-dpo": tuned_first(lab.plain_dpo),
        "supervised-calibration-aware-dpo": tuned_first(aware, "calibration_batch_size"),
        "supervised-calibration-aware-dpo-base": tuned_first(aware, "calibration_batch_size", base=True),
    }


MODELS: dict[str, TrainedModel] = {
    "dpo": TrainedModel(lambda bench, _: lab.plain_dpo(bench).model),
    "dpo-label-smoothing": TrainedModel(
        lambda bench, _: (
            lab.plain_dpo(bench, "smoothed", **methods.smoothed_dpo_loss(bench.preset.label_smoothing)).model
        ),
        ("alignment", "label_smoothing"),
    ),
    "dpo-robust": TrainedModel(
        lambda bench, _: (
            lab.plain_dpo(bench, "robust", loss_type="robust", label_smoothing=bench.preset.label_smoothing).model
        ),
        ("alignment", "label_smoothing"),
    ),
    "ipo": TrainedModel(lambda bench, _: lab.plain_dpo(bench, "ipo", loss_type="ipo").model),
    "rpo": TrainedModel(
        lambda bench, _: lab.plain_dpo(bench, "rpo", **methods.supervised_dpo_loss(bench.preset.rpo_weight)).model,
        ("alignment", "rpo_weight"),
    ),
    **_rivals(),
    "cft": _on_aligned(
        lambda bench, aligned: lab.calibration_aware_fine_tuning(bench, aligned, bench.preset.fine_tuning),
        "fine_tuning",
    ),
    "long": _on_aligned(lambda bench, aligned: methods.long_fine_tuning(bench, aligned, bench.data.labeled()), "long"),
    "long-on-training": _on_aligned(
        lambda bench, aligned: methods.long_fine_tuning(bench, aligned, bench.data.calibration.to_questions()),
        "long",
    ),
    "rcft-published": _on_aligned(methods.published_regularized_fine_tuning, "long", "published_em_weight"),
    "rcft-published-all-bins": _on_aligned(
        lambda bench, aligned: methods.published_regularized_fine_tuning(bench, aligned, all_bins=True),
        "long",
        "published_em_weight",
    ),
    "rcft-bins": _on_aligned(methods.bin_regularized_fine_tuning, "long", "regularized"),
    "rcft": _on_aligned(methods.regularized_fine_tuning, "anchored", "anchored_training"),
    "auto": _on_aligned(methods.automatic_fine_tuning, "anchored", "anchored_training", "auto_fraction"),
    "repair-unlabelled": _on_aligned(methods.unlabeled_repair, "repair"),
    "calibration-aware-dpo": TrainedModel(
        lambda bench, _: lab.calibration_aware_dpo(bench, bench.data.labeled()).model,
        ("alignment", "calibration_batch_size", "labeled"),
        sources=_TERMS,
    ),
    "calibration-aware-dpo-unlabelled": TrainedModel(
        lambda bench, _: lab.calibration_aware_dpo(bench).model,
        ("alignment", "calibration_batch_size"),
        sources=_TERMS,
    ),
    **_variants(),
}
"""The models that are trained, by name."""


def model_is_made_of(name: str | None, preset: ExperimentPreset, pretrained_folder: Path, seed: int) -> dict[str, Any]:
    """Return everything that determines a trained model, as data that JSON can hold."""
    # The folder's name is a hash of everything that determines the pre-trained model.
    made_of: dict[str, Any] = {"model": name, "pretrained": pretrained_folder.name, "seed": seed}
    if name is None:
        return made_of
    model = MODELS[name]
    settings = _settings(preset, (*_DATA, *model.settings))
    start = None if model.start is None else cache_key(model_is_made_of(model.start, preset, pretrained_folder, seed))
    libraries, code = library_versions(LIBRARIES), code_digest(model.sources)
    return {**made_of, "settings": settings, "start": start, "libraries": libraries, "code": code}


def method_is_made_of(name: str, preset: ExperimentPreset, pretrained_folder: Path, seed: int) -> dict[str, Any]:
    """Return everything that determines a method's results, as data that JSON can hold."""
    method = COMPARED[name]
    sources = (path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "calibrators").glob("*.py"))
    reading = code_digest(["experiments/rivals.py"]) if method.reading else None
    return {
        "method": asdict(method),
        "model": model_is_made_of(method.model, preset, pretrained_folder, seed),
        "settings": _settings(preset, (*_DATA, "n_test_questions")),
        "code": source_digest(sources) if method.calibrator else reading,
    }


def _settings(preset: ExperimentPreset, names: Iterable[str]) -> dict[str, Any]:
    values = asdict(preset)
    known = [field.name for field in fields(preset)]
    return {name: values[name] for name in known if name in set(names)}


@dataclass(frozen=True)
class Trained:
    """A trained model, and the CPU time of its training, including the models that it starts from."""

    model: Any
    seconds: float


def trained(name: str | None, bench: Bench, models: Path) -> Trained:
    """Return a model, after training it unless the folder has it already.

    Parameters
    ----------
    name : str or None
        A key of `MODELS`, or None for the pre-trained model, which takes no time.
    bench : Bench
    models : Path
        Where trained models are kept, with their adapters merged.
    """
    if name is None:
        return Trained(bench.pretrained(), 0.0)
    recipe = MODELS[name]

    def make(folder: Path) -> None:
        start = trained(recipe.start, bench, models) if recipe.start else Trained(None, 0.0)
        begun = time.process_time()
        model = lab.merged(recipe.train(bench, start.model))
        seconds = start.seconds + time.process_time() - begun
        model.save_pretrained(folder)
        (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")

    made_of = model_is_made_of(name, bench.preset, bench.pretrained_folder, bench.seed)
    folder = cached_folder(f"{name}-{cache_key(made_of)}", made_of, make, models)
    seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
    return Trained(AutoModelForCausalLM.from_pretrained(folder), seconds)
