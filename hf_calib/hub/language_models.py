"""Loading a language model from a folder, with complete weights and without running its code."""

from __future__ import annotations

import json
import re
import struct
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .card_data import read_json
from .errors import InvalidFolderError, UnsafeRepositoryError
from .folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MAX_CONFIG_BYTES, MODEL_CONFIG, TOKENIZER_CONFIG
from .local_paths import GGUF

# In the order in which they are tried. Multimodal models answer text-only questions too.
_AUTO_CLASSES = ("AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForMultimodalLM")
_OTHER_TASKS = re.compile(
    r"For(Sequence|Token|Image|Audio)Classification|ForQuestionAnswering|ForMultipleChoice|ForMaskedLM|Reward|ForScore"
)
_OTHER_HEADS = re.compile(r"(^|\.)(score|classifier|qa_outputs|reward_head)\.(\w+\.)*(weight|bias)$")
_GIVE = "Give the checkpoint of the language model itself, not that of a reward model, a classifier or a part of it."
_ADAPTER_TASKS = (None, "CAUSAL_LM")
_PICKLES = ("pytorch_model*.bin", "model*.bin", "*.pth", "*.pt", "*.ckpt")
_SHOWN = 3
_TRUST = "--trust-remote-code, in Python load(..., trust_remote_code=True)"


def load_language_model(folder: Path, name: Any, options: dict[str, Any]) -> Any:
    """Load a causal or a multimodal language model.

    Parameters
    ----------
    folder : Path
        With the configuration and safetensors weights; or a GGUF file, whose weights are dequantized.
    name : str or path
        What to call it in messages.
    options : dict
        Of `from_pretrained`; `trust_remote_code` is True or False.

    Raises
    ------
    InvalidFolderError
        If it is not a language model, or its weights are incomplete.
    UnsafeRepositoryError
        If it needs its own code and `trust_remote_code` is False, or its weights are pickles.
    """
    import transformers

    if folder.suffix == GGUF:
        return _load_gguf(folder, name, options)
    config = read_json(folder / MODEL_CONFIG, MAX_CONFIG_BYTES)
    own_code = config.get("auto_map")
    if own_code and not options["trust_remote_code"]:
        _check_native(config, name)
    parsed = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=options["trust_remote_code"])
    auto_class = _auto_class(parsed, own_code if options["trust_remote_code"] else None, name)
    _check_safetensors(folder, name, auto_class)
    try:
        model, info = getattr(transformers, auto_class).from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **options
        )
    except RuntimeError as error:
        if "size" not in str(error):
            raise
        raise InvalidFolderError(
            f"The weights of {name} do not have the shapes that its {MODEL_CONFIG} says: {error}",
            "Save the model and its configuration together: model.save_pretrained(folder).",
        ) from error
    mismatched = [key if isinstance(key, str) else key[0] for key in info["mismatched_keys"]]
    _check_covered(model, name, {*info["missing_keys"], *mismatched}, info["unexpected_keys"])
    return model


def load_tokenizer(folder: Path, name: Any, options: dict[str, Any]) -> Any:
    """Load a tokenizer, with the chat template of the processor that it was saved with.

    Raises
    ------
    UnsafeRepositoryError
        If it needs code of its own and `trust_remote_code` is False.
    """
    from transformers import AutoTokenizer

    if folder.suffix == GGUF:
        with _reading_gguf(name):
            return AutoTokenizer.from_pretrained(folder.parent, gguf_file=folder.name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except ValueError as error:
        if options["trust_remote_code"] or "trust_remote_code" not in str(error):
            raise
        raise _needs_code(name, f"the tokenizer in {TOKENIZER_CONFIG}") from error
    template = folder / "chat_template.json"
    if tokenizer.chat_template is None and template.is_file():
        tokenizer.chat_template = read_json(template, MAX_CONFIG_BYTES).get("chat_template")
    return tokenizer


def _load_gguf(file: Path, name: Any, options: dict[str, Any]) -> Any:
    """Load a model from a GGUF file, with its weights dequantized."""
    from transformers import AutoModelForCausalLM, GgufConfig

    with _reading_gguf(name):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            **options,
        )
    model, info = loaded
    _check_covered(model, name, set(info["missing_keys"]), info["unexpected_keys"])
    return model


@contextmanager
def _reading_gguf(name: Any) -> Iterator[None]:
    """Raise an `InvalidFolderError` where a GGUF file is damaged, or of a kind that transformers does not read."""
    try:
        yield
    except (ValueError, KeyError, IndexError, OverflowError, struct.error) as error:
        raise InvalidFolderError(
            f"{name} cannot be read as a GGUF model ({type(error).__name__}: {str(error).rstrip('.')}).",
            "If it is damaged or cut off, download it again; otherwise use a file with a tokenizer, of a model that "
            "transformers supports.",
        ) from error


def put_adapter(model: Any, folder: Path, name: Any, adapter_name: str, tokenizer: Any) -> Any:
    """Put an adapter on its base model, after adding the tokens that the adapter was trained with.

    Parameters
    ----------
    model : PreTrainedModel
    folder : Path
        Of the adapter, whose configuration was checked.
    name : str or path
        What to call it in messages.
    adapter_name : str
    tokenizer : PreTrainedTokenizerBase or None
        The adapter's own, if it has one.

    Returns
    -------
    PeftModel

    Raises
    ------
    InvalidFolderError
        If its weights are incomplete, including those of added tokens, or do not fit the base model.
    """
    from peft import PeftModel

    config = read_json(folder / ADAPTER_CONFIG, MAX_CONFIG_BYTES)
    _add_tokens(model, folder, name, config, tokenizer)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*Found missing adapter keys")
            return PeftModel.from_pretrained(model, folder, adapter_name=adapter_name)
    except (UserWarning, KeyError) as problem:
        raise _uncovered_adapter(name, str(problem)) from problem
    except RuntimeError as error:
        raise _unfit_adapter(name, error) from error


def add_adapter(model: Any, folder: Path, name: Any, adapter_name: str) -> None:
    """Load another adapter of the same base model; parameters and errors as in `put_adapter`."""
    others = set(model.peft_config)
    try:
        result = model.load_adapter(folder, adapter_name=adapter_name)
    except KeyError as problem:
        raise _uncovered_adapter(name, str(problem)) from problem
    except RuntimeError as error:
        raise _unfit_adapter(name, error) from error
    # PEFT lists the other adapters' weights too; the adapter's name is among the last parts of a weight's name.
    missing = [key for key in result.missing_keys if others.isdisjoint(key.split(".")[-3:])]
    if missing:
        raise _uncovered_adapter(name, _listed(missing))


def embedding_shapes(model: Any, folder: Path) -> dict[str, list[int]]:
    """Return the shapes of the input and output embeddings among an adapter's weights, by key."""
    from safetensors import safe_open

    names = set(embedding_names(model).values())
    with safe_open(folder / ADAPTER_WEIGHTS, framework="pt") as tensors:
        keys = [key for key in tensors.keys() if names.intersection(key.split("."))]  # noqa: SIM118
        return {key: tensors.get_slice(key).get_shape() for key in keys}


def embedding_names(model: Any) -> dict[str, str]:
    """Return the module names of a model's "input" and "output" embeddings; for tied ones only the input's."""
    layers = {"input": model.get_input_embeddings(), "output": model.get_output_embeddings()}
    if layers["output"] is not None and layers["output"].weight is layers["input"].weight:
        del layers["output"]
    found: dict[str, str] = {}
    for path, module in model.named_modules():
        found |= {kind: path.rpartition(".")[2] for kind, layer in layers.items() if layer is module}
    return found


def check_adapter_task(config: dict[str, Any], name: Any) -> None:
    """Reject an adapter for a task other than language modeling."""
    task = config.get("task_type")
    if task not in _ADAPTER_TASKS:
        raise InvalidFolderError(
            f"{ADAPTER_CONFIG} of {name} has task_type {task!r}, so it is not an adapter of a causal language model "
            "(CAUSAL_LM), and it says nothing about the options' probabilities.",
            "Give the adapter of the language model.",
        )


def _check_native(config: dict[str, Any], name: Any) -> None:
    """Reject a model that transformers has no class for; otherwise warn that its own code is not run."""
    from transformers import CONFIG_MAPPING

    if config.get("model_type") not in CONFIG_MAPPING:
        raise _needs_code(name, f"the model in {MODEL_CONFIG}")
    warnings.warn(
        f"{name} comes with code of its own (auto_map in {MODEL_CONFIG}), which is not run: transformers' own class "
        f"for {config['model_type']!r} is used. To run the model's code, pass {_TRUST}.",
        stacklevel=5,
    )


def _needs_code(name: Any, what: str) -> UnsafeRepositoryError:
    return UnsafeRepositoryError(
        f"{name} needs Python code of its own for {what} (auto_map), which could do anything and is not run unasked.",
        f"If you have read the code and trust it, pass {_TRUST}.",
    )


def _auto_class(config: Any, own_code: Any, name: Any) -> str:
    """Return the name of the transformers class for a configuration."""
    import transformers
    from transformers.models.auto import modeling_auto

    saved_as = [str(architecture) for architecture in config.architectures or ()]
    if saved_as and all(_OTHER_TASKS.search(architecture) for architecture in saved_as):
        raise InvalidFolderError(
            f"{name} was saved as {', '.join(saved_as)}, which has no language-modeling head that answers questions.",
            "Give a causal language model. To score a reward model, use it in TRL.",
        )
    if getattr(config.get_text_config(), "use_bidirectional_attention", None) in (True, "all"):
        raise InvalidFolderError(
            f"{name} attends to its prompt in both directions (use_bidirectional_attention), so it is not a causal "
            "language model.",
            "Give a decoder that answers after the prompt.",
        )
    mappings = {
        auto: getattr(modeling_auto, table, {})
        for auto, table in zip(
            _AUTO_CLASSES,
            (
                "MODEL_FOR_CAUSAL_LM_MAPPING",
                "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
                "MODEL_FOR_MULTIMODAL_LM_MAPPING",
            ),
            strict=True,
        )
        if hasattr(transformers, auto)
    }
    if isinstance(own_code, dict):
        fitting = [auto for auto in _AUTO_CLASSES if auto in own_code]
    else:
        fitting = [auto for auto, mapping in mappings.items() if type(config) in mapping]
        # A configuration may fit a text model and a multimodal one; the saved one is used.
        exact = [auto for auto in fitting if mappings[auto][type(config)].__name__ in saved_as]
        fitting = exact or fitting
        decoder = "AutoModelForCausalLM" in fitting or not config.is_encoder_decoder
        fitting = fitting if decoder else []
    if not fitting:
        raise InvalidFolderError(
            f"{name} is a {' or '.join(saved_as) or config.model_type} model, which transformers has no causal or "
            "image-text-to-text language model for.",
            "Give a decoder that answers after the prompt.",
        )
    return fitting[0]


def _check_safetensors(folder: Path, name: Any, auto_class: str) -> None:
    """Reject a model without safetensors weights."""
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern)) or _pickles_on_hub(name)
    if not pickles:
        raise InvalidFolderError(
            f"{name} has no weights: no model.safetensors.", "Save them with model.save_pretrained(folder)."
        )
    target = f"{Path(name).absolute().name}-safetensors"
    source, target = json.dumps(str(name)), json.dumps(target)
    raise UnsafeRepositoryError(
        f"{name} has its weights only as pickles ({', '.join(pickles[:_SHOWN])}), which can run anything when they "
        "are opened, and are not loaded.",
        f"If you trust its author, convert them, and give {target} in its place:\n"
        f"python -c 'from transformers import AutoTokenizer, {auto_class} as M; "
        f"M.from_pretrained({source}).save_pretrained({target}); "
        f"AutoTokenizer.from_pretrained({source}).save_pretrained({target})'",
    )


def _pickles_on_hub(name: Any) -> list[str]:
    """Return the pickles in a repository; none if the Hub cannot be reached."""
    from fnmatch import fnmatch

    from huggingface_hub import list_repo_files
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if Path(name).is_dir():
        return []
    try:
        files = list_repo_files(str(name))
    except (HfHubHTTPError, OfflineModeIsEnabled, ConnectionError):
        return []
    return [file for file in files if any(fnmatch(file, pattern) for pattern in _PICKLES)]


def _check_covered(model: Any, name: Any, missing: set[str], unexpected: Iterable[str]) -> None:
    """Reject a model with newly initialized weights, or whose files are a classifier's."""
    unused = list(unexpected)
    heads = [key for key in unused if _OTHER_HEADS.search(key)]
    if not missing and heads:
        # With tied embeddings, a classifier's files are complete for a language model.
        raise InvalidFolderError(
            f"{name} holds {_listed(heads)}, the head of a reward model or classifier, so it is not a language model.",
            _GIVE,
        )
    if not missing:
        return
    raise InvalidFolderError(
        f"The weights of {name} do not cover {type(model).__name__}: {_listed(missing)} would be newly initialized"
        + (f", and {_listed(unused)} would not be used" if unused else "")
        + ".",
        _GIVE,
    )


def _add_tokens(model: Any, folder: Path, name: Any, config: dict[str, Any], tokenizer: Any) -> None:
    """Return the base model the tokens that an adapter was trained with, all of whose embeddings the adapter holds."""
    size = model.get_input_embeddings().weight.shape[0]
    names = embedding_names(model)
    saved = {
        own: shape[0]
        for key, shape in embedding_shapes(model, folder).items()
        for own in names.values()
        if own in key.split(".") and key.endswith(".weight") and "lora" not in key
    }
    wanted = max(saved.values()) if saved else max(size, 0 if tokenizer is None else len(tokenizer))
    if wanted == size:
        return
    # The new rows keep their initial values until the adapter's weights replace them.
    model.resize_token_embeddings(wanted, mean_resizing=False)
    trained = _trained_tokens(config)
    new = set(range(size, wanted))
    bare = [own for own in names.values() if own not in saved and not new <= trained.get(own, set())]
    if bare:
        raise InvalidFolderError(
            f"{name} comes with a tokenizer of {wanted} tokens, its base model has {size}, and the adapter's weights "
            f"do not hold the added tokens' rows of {' and '.join(bare)}, which would be newly initialized.",
            "Save the adapter with model.save_pretrained(folder, save_embedding_layers=True), or give a base model "
            "that has these tokens.",
        )


def _trained_tokens(config: dict[str, Any]) -> dict[str, set[int]]:
    """Return the tokens whose rows an adapter replaces, by embedding."""
    given = config.get("trainable_token_indices") or {}
    if isinstance(given, list):
        given = {"embed_tokens": given}
    return {str(key).rpartition(".")[2]: set(indices) for key, indices in given.items()}


def _uncovered_adapter(name: Any, what: str) -> InvalidFolderError:
    return InvalidFolderError(
        f"The weights of the adapter {name} do not cover it; it would be partly newly initialized: {what[:500]}",
        f"Save the adapter again with its {ADAPTER_CONFIG}: model.save_pretrained(folder).",
    )


def _unfit_adapter(name: Any, error: RuntimeError) -> InvalidFolderError:
    return InvalidFolderError(
        f"The adapter {name} does not fit its base model: {str(error)[:500]}",
        "Give the base model that it was trained on: --model BASE --adapter DIR.",
    )


def _listed(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
