"""Loading a published model with everything that its calibration depends on."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..tasks import PromptFormat
from .calibrated_model import CalibratedModel, CalibrationWarning
from .calibration_metadata import (
    CALIBRATOR_ARRAYS,
    CALIBRATOR_FILE,
    METADATA_FILE,
    CalibrationMetadata,
    read_calibration_metadata,
)
from .card_data import read_json
from .errors import InvalidFolderError, MissingModelError, UnsafeRepositoryError
from .escaping import is_hub_id
from .folders import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MAX_CONFIG_BYTES,
    MODEL_CONFIG,
    PICKLES,
    TOKENIZER_FILES,
    check_calibrator,
    check_weights,
)
from .language_models import check_adapter_task, load_language_model, load_tokenizer, put_adapter
from .local_paths import check_local_path

if TYPE_CHECKING:
    from ..calibrators.protocol import BaseCalibrator

# The files that loading reads; a repository's other files, such as code, are not downloaded.
_FETCHED = (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    METADATA_FILE,
    CALIBRATOR_FILE,
    CALIBRATOR_ARRAYS,
    MODEL_CONFIG,
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    *TOKENIZER_FILES,
)
# Also downloaded if the caller trusts the repository's code.
_CODE = ("*.py", "*.tiktoken")
_KNOWN_LIBRARIES = {"transformers", "peft"}


def load(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    base_model: str | os.PathLike[str] | None = None,
    base_revision: str | None = None,
    prompt_format: PromptFormat | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
    **model_options: Any,
) -> CalibratedModel:
    """Load a model with the prompt format and calibrator that its figures were measured with.

    Parameters
    ----------
    name : str or path
        "namespace/name" on the Hub, or a folder.
    revision : str, optional
        A branch, tag or commit.
    base_model, base_revision : str, optional
        A different base model under the adapter, or a different commit, than in calibration.
    prompt_format : PromptFormat, optional
        A different prompt than in calibration.
    token : str, optional
        For private repositories.
    cache_dir : path, optional
        Where downloads are kept, instead of the client's cache.
    trust_remote_code : bool, default False
        Whether Python code in the repository, or in one that it names, may be run. Otherwise a repository that needs
        it, since transformers has no class for the model or tokenizer, is rejected.
    **model_options
        Of transformers' `from_pretrained` for the model: `dtype`, `device_map`, ...

    Returns
    -------
    CalibratedModel
        In evaluation mode; `.confidence(questions)` returns answers.

    Raises
    ------
    UnsafeRepositoryError
        If the repository's weights are pickles, it needs untrusted code, or its configuration names code to import or
        a local path.
    MissingModelError
        If the folder, repository, revision or base model does not exist.
    InvalidFolderError
        If there is no adapter or language model, the weights are incomplete (no newly initialized weights are
        accepted), or a file is damaged.

    Warns
    -----
    CalibrationWarning
        If the prompt format, the base model or its revision differs from calibration, or the repository does not say
        what was used.

    Examples
    --------
    >>> model = load("someone/llama-dpo-calibrated")  # doctest: +SKIP
    >>> model.confidence([{"question": "Which is a fruit?", "choices": ["chair", "apple"]}])  # doctest: +SKIP
    [Answer(letter='B', text='apple', index=1, confidence=0.93)]
    """
    return load_parts(
        name, revision, base_model, base_revision, prompt_format,
        {"token": token, "cache_dir": cache_dir, "trust_remote_code": trust_remote_code, **model_options},
    )  # fmt: skip


def load_parts(
    name: str | os.PathLike[str],
    revision: str | None,
    base_model: str | os.PathLike[str] | None,
    base_revision: str | None,
    prompt_format: PromptFormat | None,
    options: dict[str, Any],
    adapter_name: str = "default",
    *,
    chat: bool = False,
) -> CalibratedModel:
    """Load as `load` does; the adapter gets the given name in the model.

    With `chat`, a model without a chat template is rejected before its weights are loaded.
    """
    folder, is_local = fetch(name, revision, options)
    metadata, calibrator = _calibrated_with(folder, name)
    if metadata is None:
        warnings.warn(
            f"{name} has no {METADATA_FILE}, so it is not known with which prompt it was calibrated; the plain one is "
            "used.",
            CalibrationWarning,
            stacklevel=3,
        )
    elif prompt_format is not None and prompt_format != metadata.prompt_format:
        warnings.warn(
            f"{name} was calibrated with a prompt format that differs from the one given; with the latter, its "
            "confidence may be miscalibrated.",
            CalibrationWarning,
            stacklevel=3,
        )
    shared = {key: options[key] for key in ("token", "cache_dir", "trust_remote_code")}
    if (folder / ADAPTER_CONFIG).is_file():
        config = checked_adapter_config(folder, name, is_local, base_model)
        base = config["base_model_name_or_path"]
        base_folder, commit = _fetch_base(name, metadata, config, base_model, base_revision, options)
        own = any((folder / file).is_file() for file in TOKENIZER_FILES)
        tokenizer = load_tokenizer(folder, name, shared) if own else load_tokenizer(base_folder, base, shared)
        _check_template(tokenizer, name, chat)
        model = load_language_model(base_folder, base, options)
        _check_base(name, metadata, base, commit)
        model = put_adapter(model, folder, name, adapter_name, tokenizer if own else None)
    else:
        commit = None
        if base_model is not None:
            raise InvalidFolderError(
                f"{name} holds no {ADAPTER_CONFIG}, so it is not an adapter for {base_model}.",
                "Give a whole model by itself: --model DIR.",
            )
        if folder.is_dir() and not (folder / MODEL_CONFIG).is_file():
            raise InvalidFolderError(
                f"{name} holds neither {ADAPTER_CONFIG} nor {MODEL_CONFIG}.",
                "Give the folder that model.save_pretrained or trainer.save_model wrote.",
            )
        tokenizer = load_tokenizer(folder, name, shared)
        _check_template(tokenizer, name, chat)
        model = load_language_model(folder, name, options)
    model.eval()
    return CalibratedModel(
        model=model,
        tokenizer=tokenizer,
        prompt_format=prompt_format or (metadata.prompt_format if metadata else PromptFormat()),
        calibrator=calibrator,
        metadata=metadata,
        name=str(name),
        revision=None if is_local else _commit_of(folder, name),
        base_revision=commit,
    )


def calibrated_with(
    name: str, base_model: str | None, options: dict[str, Any]
) -> tuple[CalibrationMetadata | None, BaseCalibrator | None, dict[str, str]]:
    """Return what a model was calibrated with, its calibrator, and its commits on the Hub, without loading it.

    The commits are `revision` and, of the model under an adapter, `base_revision`; what is local has none.
    """
    # With the model's configuration: if no file matched, `snapshot_download` would create no folder.
    files = (METADATA_FILE, CALIBRATOR_FILE, CALIBRATOR_ARRAYS, MODEL_CONFIG, ADAPTER_CONFIG)
    folder, is_local = fetch(name, None, options, files)
    commits = {} if is_local else {"revision": _commit_of(folder, name)}
    if folder.is_file():  # a GGUF file, next to an hf_calib.json about other weights
        return None, None, commits
    metadata, calibrator = _calibrated_with(folder, name)
    if (folder / ADAPTER_CONFIG).is_file():
        config = _adapter_config(folder, name, is_local, base_model)
        _, commit = _fetch_base(name, metadata, config, base_model, None, options, (MODEL_CONFIG,))
        commits |= {} if commit is None else {"base_revision": commit}
    return metadata, calibrator, commits


def _commit_of(folder: Path, name: Any) -> str:
    """Return the commit of a repository's folder, or of a GGUF file in it, in the client's cache."""
    _, _, file = str(name).partition(":")
    return folder.parents[len(Path(file).parts) - 1].name if file else folder.name


def _calibrated_with(folder: Path, name: Any) -> tuple[CalibrationMetadata | None, BaseCalibrator | None]:
    metadata = read_calibration_metadata(folder)
    if metadata is None or not metadata.calibrator:
        return metadata, None
    from ..calibrators import load_calibrator

    check_calibrator(folder, name)
    return metadata, load_calibrator(folder / CALIBRATOR_FILE)


def fetch(
    name: Any, revision: str | None, options: dict[str, Any], files: Sequence[str] | None = None
) -> tuple[Path, bool]:
    """Return the folder with the files to load, or the GGUF file, and whether it is local.

    Raises
    ------
    MissingModelError
        If the folder, repository or revision does not exist, or the Hub cannot be reached.
    InvalidFolderError
        If it is another kind of file, or a folder is given with a revision.
    """
    check_local_path(str(name))
    if Path(name).exists():
        if revision is not None:
            raise InvalidFolderError(f"{name} is a local path and has no revisions; omit the revision {revision!r}.")
        return Path(name), True
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, file = str(name).partition(":")
    every = [*_FETCHED, *(_CODE if options["trust_remote_code"] else ())]
    patterns = [file] if file else list(files or every)
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            token=options["token"],
            cache_dir=options["cache_dir"],
            allow_patterns=patterns,
        )
    except LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            why, how = "HF_HUB_OFFLINE is set, and it was not downloaded before", "unset HF_HUB_OFFLINE"
        else:
            why, how = f"the Hub cannot be reached ({error.__cause__ or error})", "connect to the network"
        raise MissingModelError(
            f"{name} is not a folder here, and it cannot be fetched from the Hub: {why}.",
            f"Give the path of a folder, or {how}.",
        ) from error
    except RevisionNotFoundError as error:
        raise MissingModelError(
            f"Revision {revision!r} of {repository} does not exist on the Hub.",
            "Check the branch, tag or commit on its page; it may have been deleted.",
        ) from error
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise MissingModelError(
            f"{name} is not a folder here, and it cannot be fetched from the Hub: {error}",
            "Give the path of a folder, or an id on the Hub that you may read (private ones after `hf auth login`).",
        ) from error
    fetched = Path(folder) / file
    if not fetched.exists():
        what = f"no file {file!r}" if file else f"neither {MODEL_CONFIG} nor {ADAPTER_CONFIG}"
        how = "" if file else f", or name a file in it: {repository}:file.gguf"
        raise MissingModelError(f"The repository {repository} has {what}.", f"Check its name on the Hub{how}.")
    return fetched, False


def check_adapter_config(config: dict[str, Any], name: str, is_local: bool) -> None:
    """Reject an adapter's configuration that requires more than applying weights to a model.

    Raises
    ------
    UnsafeRepositoryError
        If it names a library to import or, in a repository from the Hub, a base model outside the Hub.
    InvalidFolderError
        If it names no base model.
    """
    mapping = config.get("auto_mapping") or {}
    if not isinstance(mapping, dict):
        raise InvalidFolderError(
            f"{ADAPTER_CONFIG} of {name} gives auto_mapping as {mapping!r}, which is not an object."
        )
    library = mapping.get("parent_library", "transformers")
    if str(library).partition(".")[0] not in _KNOWN_LIBRARIES:
        raise UnsafeRepositoryError(
            f"{ADAPTER_CONFIG} of {name} asks to import {library!r}, which could run anything.",
            "If you trust its author, load it with PEFT and `import_allowlist`.",
        )
    if config.get("megatron_config") is not None:
        raise UnsafeRepositoryError(f"{ADAPTER_CONFIG} of {name} asks to import {config.get('megatron_core')!r}.")
    for key in ("base_model_name_or_path", "tokenizer_name_or_path"):
        value = config.get(key)
        if value is not None and not isinstance(value, str):
            raise InvalidFolderError(f"{ADAPTER_CONFIG} of {name} gives {key} as {value!r}, which is not a name.")
        if value is not None and not is_local and not is_hub_id(value):
            raise UnsafeRepositoryError(
                f"{ADAPTER_CONFIG} of {name} names {value!r} as its {key}, which is not a name on the Hub.",
                f"If you know which model its author means, give it: --model BASE --adapter {name}, in Python "
                "load(..., base_model=BASE).",
            )
    if not config.get("base_model_name_or_path"):
        raise InvalidFolderError(
            f"{ADAPTER_CONFIG} of {name} names no base model.",
            f"Give one: --model BASE --adapter {name}, in Python load(..., base_model=BASE).",
        )


def checked_adapter_config(folder: Path, name: Any, is_local: bool, base_model: Any = None) -> dict[str, Any]:
    """Return an adapter's configuration, with the requested base model, after checking that loading it runs no code.

    Raises
    ------
    UnsafeRepositoryError, InvalidFolderError
        As `load`.
    """
    config = _adapter_config(folder, name, is_local, base_model)
    check_adapter_task(config, name)
    _check_no_pickle(folder, name)
    check_weights(folder / ADAPTER_WEIGHTS)
    return config


def _adapter_config(folder: Path, name: Any, is_local: bool, base_model: Any) -> dict[str, Any]:
    config = read_json(folder / ADAPTER_CONFIG, MAX_CONFIG_BYTES)
    if base_model is not None:
        config["base_model_name_or_path"] = str(base_model)
    check_adapter_config(config, str(name), is_local or base_model is not None)
    return config


def _fetch_base(
    name: Any, metadata: CalibrationMetadata | None, config: dict[str, Any], base_model: Any,
    base_revision: str | None, options: dict[str, Any], files: Sequence[str] | None = None,
) -> tuple[Path, str | None]:  # fmt: skip
    """Return the folder of the model under an adapter, and its commit on the Hub; None for a local one."""
    base = config["base_model_name_or_path"]
    wanted = base_revision
    if wanted is None and base_model is None:  # another base model has other commits
        wanted = (metadata.base_model_revision if metadata else None) or config.get("revision")
    try:
        folder, is_local = fetch(base, None if Path(base).exists() else wanted, options, files)
    except MissingModelError as error:
        source = "was given" if base_model is not None else f"is what its {ADAPTER_CONFIG} names"
        raise MissingModelError(
            f"The base model of {name} was not found; {base!r} {source}. {error.message}",
            f"Pass its location: --model BASE --adapter {name}, in Python load({str(name)!r}, base_model=BASE).",
        ) from error
    if folder.is_dir() and not (folder / MODEL_CONFIG).is_file():
        raise InvalidFolderError(f"The base model {base} of {name} holds no {MODEL_CONFIG}.")
    return folder, None if is_local else _commit_of(folder, base)


def _check_base(name: Any, metadata: CalibrationMetadata | None, base: str, loaded: str | None) -> None:
    """Warn if the base model under an adapter differs from the one that it was calibrated on."""
    calibrated = metadata.base_model_revision if metadata else None
    other_base = metadata is not None and metadata.base_model not in (None, base)
    if other_base or (calibrated is not None and loaded not in (None, calibrated)):
        warnings.warn(
            f"{name} was calibrated on {metadata.base_model if metadata else base} at revision {calibrated}, but "
            f"the base model that was loaded is {base} at revision {loaded}; its confidence may be miscalibrated.",
            CalibrationWarning,
            stacklevel=4,
        )


def _check_template(tokenizer: Any, name: Any, chat: bool) -> None:
    if chat and not getattr(tokenizer, "chat_template", None):
        raise InvalidFolderError(
            f"the tokenizer of {name} has no chat template for --chat-template (in Python chat_template=True); leave "
            "it out, or save the tokenizer with a template"
        )


def _check_no_pickle(folder: Path, name: Any) -> None:
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UnsafeRepositoryError(
            f"{name} has no {ADAPTER_WEIGHTS}. Weights in another form ({', '.join(PICKLES)}) are pickles, which can "
            "run anything when they are opened, and are not loaded.",
            "If you trust its author, convert adapter_model.bin, in the adapter's folder:\n"
            "python -c 'import torch; from safetensors.torch import save_file; "
            f'save_file(torch.load("{PICKLES[0]}", weights_only=True), "{ADAPTER_WEIGHTS}")\'',
        )
