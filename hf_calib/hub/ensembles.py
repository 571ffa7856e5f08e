"""Loading several published adapters on one base model, as an ensemble."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .calibrated_model import CalibrationWarning
from .calibration_metadata import read_calibration_metadata
from .card_data import read_json
from .errors import InvalidFolderError
from .folders import ADAPTER_CONFIG, MAX_CONFIG_BYTES, TOKENIZER_FILES
from .language_models import add_adapter, embedding_names, embedding_shapes, load_tokenizer
from .loading import checked_adapter_config, fetch, load_parts

if TYPE_CHECKING:
    import torch

    from ..calibrators.adapters import AdapterEnsemble
    from .calibrated_model import CalibratedModel


def ensemble(
    names: Sequence[str | os.PathLike[str]],
    *,
    base_model: str | os.PathLike[str] | None = None,
    token: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    trust_remote_code: bool = False,
    **model_options: Any,
) -> AdapterEnsemble:
    """Load adapters of one base model as an ensemble that holds the base model once.

    Parameters
    ----------
    names : sequence of str or path
        At least two adapters, each "namespace/name" on the Hub, optionally with "@revision", or a folder.
    base_model, token, cache_dir, trust_remote_code, **model_options
        As `load` takes them.

    Returns
    -------
    AdapterEnsemble
        Its members are named "0", "1", ... in the order given. `fit` it on held-out questions, then ask for
        `probabilities`.

    Raises
    ------
    ValueError
        If there are fewer than two adapters.
    UnsafeRepositoryError, InvalidFolderError
        As `load`; also for a repository without an adapter, or with one of another base model or tokenizer.

    Warns
    -----
    CalibrationWarning
        As `load`; also if an adapter was calibrated with another prompt format than the first one, which is used.

    Examples
    --------
    >>> members = ensemble(["someone/run-0", "someone/run-1@v2"]).fit(held_out)  # doctest: +SKIP
    >>> members.probabilities(questions)  # doctest: +SKIP
    """
    from peft import PeftModel

    from ..calibrators.adapters import AdapterEnsemble

    if isinstance(names, str | os.PathLike) or len(names) < 2:
        raise ValueError("an ensemble needs at least two adapters: ensemble([first, second, ...])")
    members = [_name_and_revision(name) for name in names]
    options = {"token": token, "cache_dir": cache_dir, "trust_remote_code": trust_remote_code, **model_options}
    first = load_parts(members[0][0], members[0][1], base_model, None, None, options, adapter_name="0")
    if not isinstance(first.model, PeftModel):
        raise InvalidFolderError(f"{names[0]} is a whole model; an ensemble's members are adapters of one model.")
    bases, folders = [], []
    for name, revision in members:
        folder, is_local = fetch(name, revision, options)
        if not (folder / ADAPTER_CONFIG).is_file():
            raise InvalidFolderError(f"{name} holds no {ADAPTER_CONFIG}; an ensemble's members are adapters.")
        bases.append(checked_adapter_config(folder, name, is_local, base_model)["base_model_name_or_path"])
        folders.append(folder)
        metadata = read_calibration_metadata(folder)
        if metadata is not None and metadata.prompt_format != first.prompt_format:
            warnings.warn(
                f"{name} was calibrated with another prompt format than {names[0]}, whose format is used.",
                CalibrationWarning,
                stacklevel=2,
            )
    for (name, _), base in zip(members, bases, strict=True):
        if base != bases[0]:
            raise InvalidFolderError(
                f"{name} is an adapter of {base}, and {members[0][0]} one of {bases[0]}.",
                "Adapters of one base model can share it; pool others with the calibrator 'ensemble'.",
            )
    for (name, _), folder in zip(members, folders, strict=True):
        _check_vocabulary(first, members[0][0], name, folder, folders[0], options)
    brought = []
    for place, folder in enumerate(folders):
        if place:
            add_adapter(first.model, folder, members[place][0], str(place))
        brought.append({name: own.detach().clone() for name, own in _embeddings(first.model).items()})
    first.model.set_adapter("0")
    first.model.eval()
    return AdapterEnsemble(
        first.model,
        first.tokenizer,
        [str(place) for place in range(len(folders))],
        prompt_format=first.prompt_format,
        embeddings=_differing(brought),
    )


def _check_vocabulary(
    first: CalibratedModel, first_name: Any, name: Any, folder: Path, first_folder: Path, options: dict[str, Any]
) -> None:
    """Reject a member whose tokens differ from the first one's."""
    both = (folder, first_folder)
    shapes = [embedding_shapes(first.model, own) for own in both]
    configs = [read_json(own / ADAPTER_CONFIG, MAX_CONFIG_BYTES) for own in both]
    trained = [[config.get(key) for key in ("modules_to_save", "trainable_token_indices")] for config in configs]
    tokenizers = [any((own / file).is_file() for file in TOKENIZER_FILES) for own in both]
    shared = {key: options[key] for key in ("token", "cache_dir", "trust_remote_code")}
    same_tokens = tokenizers[0] == tokenizers[1] and (
        not tokenizers[0] or load_tokenizer(folder, name, shared).get_vocab() == first.tokenizer.get_vocab()
    )
    if same_tokens and shapes[0] == shapes[1] and trained[0] == trained[1]:
        return
    raise InvalidFolderError(
        f"{name} comes with other tokens or embeddings than {first_name}, so they cannot share one base model.",
        "Measure each by itself, and pool their predictions with the calibrator 'ensemble'.",
    )


def _embeddings(model: Any) -> dict[str, torch.nn.Parameter]:
    """Return the input and output embeddings of an adapter with added tokens, by name."""
    names = set(embedding_names(model).values())
    return {path: own for path, own in model.named_parameters() if names.intersection(path.split("."))}


def _differing(brought: list[dict[str, torch.Tensor]]) -> list[dict[str, torch.Tensor]]:
    """Return each member's embeddings that differ between members."""
    import torch

    differing = [path for path, one in brought[0].items() if not all(torch.equal(one, own[path]) for own in brought)]
    return [{path: own[path] for path in differing} for own in brought]


def _name_and_revision(name: str | os.PathLike[str]) -> tuple[str | os.PathLike[str], str | None]:
    if Path(name).is_dir() or "@" not in str(name):
        return name, None
    place, _, revision = str(name).partition("@")
    return place, revision
