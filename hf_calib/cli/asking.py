"""From options to predictions: load what is asked, and ask it."""

from __future__ import annotations

import argparse
import atexit
import hashlib
import importlib.metadata
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..confidence import Asking, ConfidenceMethod
    from ..confidence.backend import Backend
    from ..confidence.recorded import Recorded
    from ..tasks import PromptFormat, Question
    from ..tasks.free_form import FreeFormQuestion

# Ways to read confidence in answers in words, as `predict_free_form` is told.
FREE_FORM_METHODS: dict[str, dict[str, Any]] = {
    "consistency": {"method": "agreement"},
    "consistency-entropy": {"method": "entropy"},
    "consistency-distance": {"method": "distance"},
    "stated": {"method": "stated"},
    "stated-words": {"method": "stated", "scale": "words"},
    "stated-top-k": {"method": "stated", "top_k": 4},
    "p-true": {"method": "p-true"},
}

# Ways that give a distribution over the options, which can be averaged over wordings.
_DISTRIBUTIONS = ("letters", "text", "text-characters", "text-tokens", "marginalized", "stated-top-k", "consistency")

# What stands before a server's address.
SERVED = "openai:"

_VERSIONS_OF = ("hf-calib", "transformers", "peft", "datasets", "torch", "numpy")

# As MMLU's own evaluation begins.
_PROMPTS: dict[str, dict[str, str]] = {
    "mmlu": {
        "header": "The following are multiple choice questions (with answers) about {subject}.",
        "question": "{question}",
    }
}


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many."""

    index: int = 0
    count: int = 1


def this_process(device: str | None) -> Processes:
    """Join the processes that torchrun or `accelerate launch` started, if they did."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    from accelerate import PartialState

    first = not PartialState._shared_state
    state = PartialState(cpu=device == "cpu")
    if first:
        atexit.register(state.destroy_process_group)
    return Processes(state.process_index, state.num_processes)


def load_datasets(names: list[str], limit: int | None) -> dict[str, list[Question]]:
    """Load each dataset, with every answer known."""
    from ..tasks import handle_identical_choices, load_questions, require_answers

    datasets: dict[str, list[Question]] = {}
    for name in names:
        if name in datasets:
            raise ValueError(f"the dataset {name!r} is given twice")
        datasets[name] = load_questions(name, limit=limit)
        require_answers(datasets[name], f"measuring calibration on {name}")
        handle_identical_choices(datasets[name], "warn")
    return datasets


def load_free_form(names: list[str], limit: int | None) -> dict[str, list[FreeFormQuestion]]:
    """Load each dataset of questions without options, with every answer known."""
    from ..tasks.free_form import load_free_form_questions

    datasets = {}
    for name in names:
        datasets[name] = load_free_form_questions(name, limit=limit)
        missing = [row for row, question in enumerate(datasets[name]) if not question.answers]
        if missing:
            raise ValueError(f"{name}: {len(missing)} questions have no answer (the first is row {missing[0]})")
    return datasets


def ask_free_form(
    backend: Backend,
    datasets: dict[str, list[FreeFormQuestion]],
    prompt_format: PromptFormat,
    settings: dict[str, Any],
    matcher: str,
    asking: Asking,
) -> dict[str, Recorded]:
    """Ask questions without options; the answer given becomes the first of two options, a right one the second."""
    from ..confidence.free_form import predict_free_form
    from ..confidence.recorded import Recorded
    from ..tasks import Question
    from ..tasks.free_form import MATCHERS

    answered = {}
    for number, (name, questions) in enumerate(datasets.items()):
        found = predict_free_form(
            backend,
            questions,
            prompt_format,
            asking.for_part(f"set{number}_"),
            matcher=MATCHERS[matcher],
            **settings,
        )
        shown = [
            Question(
                questions[row].question,
                (text or "(nothing)", " or ".join(questions[row].answers)),
                context=questions[row].context,
            )
            for row, text in zip(found.predictions.rows, found.texts, strict=True)
        ]
        answered[name] = Recorded(found.predictions, tuple(shown))
    return answered


def prompt_format_of(options: argparse.Namespace) -> PromptFormat:
    """Return the prompt format that the options describe, examples included."""
    parts: dict[str, Any] = {}
    if options.prompt in _PROMPTS:
        parts = _PROMPTS[options.prompt]
    elif options.prompt is not None:
        parts = _read(Path(options.prompt), "a prompt format", f"give a file, or one of {', '.join(_PROMPTS)}")
        if not isinstance(parts, dict):
            raise ValueError(f"{options.prompt} must hold the parts of a prompt format by name")
    return _with_examples(parts, options)


def wordings_of(options: argparse.Namespace) -> tuple[PromptFormat, ...]:
    """Return the further prompt formats that the options describe, each with the examples too."""
    if options.wordings is None:
        return ()
    found = _read(Path(options.wordings), "a list of prompt formats", "give a YAML or JSON file")
    if not isinstance(found, list) or not found or not all(isinstance(parts, dict) for parts in found):
        raise ValueError(f"{options.wordings} must hold a list of prompt formats, each with its parts by name")
    return tuple(_with_examples(parts, options) for parts in found)


def _with_examples(parts: dict[str, Any], options: argparse.Namespace) -> PromptFormat:
    from ..tasks import FewShotFormat, PromptFormat, load_questions

    if options.chat_template:
        parts = {**parts, "chat": True}
    prompt_format = PromptFormat.from_dict(parts)
    if (options.few_shot is None) != (options.few_shot_dataset is None):
        raise ValueError("--few-shot and --few-shot-dataset go together: how many examples, and where from")
    if options.few_shot is None:
        return prompt_format
    return FewShotFormat.choose(
        load_questions(options.few_shot_dataset), options.few_shot, prompt_format=prompt_format
    )


def _read(path: Path, what: str, advice: str) -> Any:
    import yaml

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r} with {what}; {advice}")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is neither YAML nor JSON: {error}") from None


def method_of(name: str, options: argparse.Namespace) -> ConfidenceMethod:
    """Return the way to read confidence of that name on the command line, as the options set it."""
    from ..confidence import (
        Marginalized,
        OptionLetters,
        OptionTexts,
        PTrue,
        SampleConsistency,
        StatedConfidence,
    )

    sampled = {**_given(options, "n_samples", "temperature"), "seed": options.seed}
    orders = _given(options, "n_orders")
    methods: dict[str, Callable[[], ConfidenceMethod]] = {
        "letters": OptionLetters,
        "text": OptionTexts,
        "text-characters": lambda: OptionTexts("characters"),
        "text-tokens": lambda: OptionTexts("tokens"),
        "marginalized": lambda: Marginalized(**orders),
        "p-true": PTrue,
        "stated": StatedConfidence,
        "stated-words": lambda: StatedConfidence(scale="words"),
        "stated-top-k": lambda: StatedConfidence(**{"top_k": 4, **_given(options, "top_k")}),
        "consistency": lambda: SampleConsistency(**sampled),
        "consistency-entropy": lambda: SampleConsistency(measure="entropy", **sampled),
        "consistency-distance": lambda: SampleConsistency(measure="distance", **sampled),
    }
    wordings = wordings_of(options)
    if not wordings:
        return methods[name]()
    if name not in _DISTRIBUTIONS:
        raise ValueError(
            f"--wordings averages distributions over the options, and {name} gives none; with it go "
            f"{', '.join(_DISTRIBUTIONS)}"
        )
    if name == "marginalized":
        return Marginalized(formats=wordings, **orders)
    return Marginalized(methods[name](), n_orders=1, formats=wordings)


def free_form_settings(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return what `predict_free_form` is told of the way to read confidence of that name.

    Raises
    ------
    ValueError
        If it makes no sense without options.
    """
    if name not in FREE_FORM_METHODS:
        raise ValueError(f"--free-form needs --confidence {', '.join(FREE_FORM_METHODS)}; got {name}")
    if options.wordings is not None:
        raise ValueError("--wordings averages distributions over options, and --free-form has none")
    settings = dict(FREE_FORM_METHODS[name])
    if name.startswith("consistency"):
        settings |= {**_given(options, "n_samples", "temperature"), "seed": options.seed}
    elif name == "stated-top-k":
        settings |= _given(options, "top_k")
    return settings


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def open_model(model: str, options: argparse.Namespace, where: Processes) -> Backend:
    """Load a local model, on its device, or reach a served one."""
    if model.startswith(SERVED):
        from ..confidence import ServedModel

        if options.model_name is None:
            raise ValueError("a served model needs --model-name, its name at the server")
        return ServedModel(model.removeprefix(SERVED), options.model_name, concurrency=options.concurrency)
    import torch

    from ..confidence import LocalModel
    from ..hub import CalibrationWarning, load

    with warnings.catch_warnings():
        # Any model can be measured; that it does not say what it was calibrated with is no news here.
        warnings.simplefilter("ignore", CalibrationWarning)
        if options.adapter is None:
            loaded = load(model, dtype=options.dtype)
        else:
            loaded = load(options.adapter, base_model=model, dtype=options.dtype)
    device: Any = options.device or (f"cuda:{where.index}" if torch.cuda.is_available() else "cpu")
    loaded.model.to(device)
    return LocalModel(
        loaded.model,
        loaded.tokenizer,
        max_length=options.max_length,
        on_too_long="drop" if options.drop_too_long else "error",
    )


def describe(
    model: str,
    options: argparse.Namespace,
    datasets: Mapping[str, Sequence[Question | FreeFormQuestion]],
    prompt_format: PromptFormat,
    confidence: dict[str, Any],
) -> dict[str, Any]:
    """Return what exactly is run, as JSON values."""
    return {
        "model": model,
        "model_name": options.model_name,
        "adapter": options.adapter,
        "weights": _state_of(options.adapter) if options.adapter else _state_of(model),
        "datasets": {name: {"n": len(own), "sha256": _digest(own)} for name, own in datasets.items()},
        "prompt_format": prompt_format.to_dict(),
        "confidence": confidence,
        "permute_options": options.permute_options,
        "max_length": options.max_length,
        "drop_too_long": options.drop_too_long,
        "dtype": options.dtype,
        "seed": options.seed,
        "versions": {name: importlib.metadata.version(name) for name in _VERSIONS_OF},
    }


def settings_of(method: ConfidenceMethod) -> dict[str, Any]:
    """Return a way to read confidence with its settings, as JSON values."""
    settings: dict[str, Any] = {"name": method.name}
    if not is_dataclass(method) or isinstance(method, type):
        return settings
    from ..confidence import ConfidenceMethod

    for field in fields(method):
        value = getattr(method, field.name)
        if isinstance(value, ConfidenceMethod):
            value = settings_of(value)
        elif isinstance(value, tuple):
            value = [part.to_dict() for part in value]
        settings[field.name] = value
    return settings


def _digest(questions: Sequence[Question | FreeFormQuestion]) -> str:
    content = [asdict(question) for question in questions]
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def _state_of(model: str) -> str | None:
    """Return what tells a folder's weights from others; None for a model on the Hub."""
    folder = Path(model)
    if not folder.is_dir():
        return None
    files = sorted(folder.glob("*.safetensors"))
    state = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def check_has_hidden_states(model: str, options: argparse.Namespace, where: Processes) -> None:
    """Raise a ValueError if questions are to be asked in a way that gives no hidden states."""
    hindered = {
        f"--confidence {options.confidence}": options.confidence != "letters",
        "--wordings": options.wordings is not None,
        "--permute-options": options.permute_options,
        "--batch-size auto": not isinstance(options.batch_size, int),
        "a served model": model.startswith(SERVED),
        "several processes": where.count > 1,
    }
    found = [what for what, there in hindered.items() if there]
    if found:
        raise ValueError(
            "a calibrator on features takes the hidden states of a local model at the letters' position, in one "
            f"process; they can't be had with {', '.join(found)}"
        )


def ask_for_hidden_states(
    backend: Any,
    datasets: Mapping[str, Sequence[Question]],
    prompt_format: PromptFormat,
    options: argparse.Namespace,
) -> dict[str, Recorded]:
    """Ask a local model all datasets' questions, and keep the hidden states at the answers' positions."""
    from ..confidence import predict
    from ..confidence.recorded import Recorded

    answered = {}
    for name, questions in datasets.items():
        predictions = predict(
            backend.model,
            backend.tokenizer,
            questions,
            prompt_format=prompt_format,
            batch_size=options.batch_size,
            max_length=options.max_length,
            on_too_long="drop" if options.drop_too_long else "error",
            progress=not options.json,
            hidden_states=True,
        )
        answered[name] = Recorded(predictions, tuple(questions[row] for row in predictions.rows))
    return answered


def ask(
    backend: Backend,
    datasets: dict[str, list[Question]],
    prompt_format: PromptFormat,
    method: ConfidenceMethod,
    asking: Asking,
    *,
    permutation_seed: int | None = None,
) -> dict[str, Recorded]:
    """Ask all datasets' questions, in random orders of their options if a seed for those is given."""
    from ..confidence.recorded import Recorded
    from ..tasks import permute_options, random_orders

    answered = {}
    for number, (name, questions) in enumerate(datasets.items()):
        own = asking.for_part(f"set{number}_")
        if permutation_seed is None:
            predictions = method.predict(backend, questions, prompt_format, own)
        else:
            orders = random_orders(questions, permutation_seed)
            asked = [permute_options(question, order) for question, order in zip(questions, orders, strict=True)]
            predictions = method.predict(backend, asked, prompt_format, own).with_options_back(orders)
        answered[name] = Recorded(predictions, tuple(questions[row] for row in predictions.rows))
    return answered
