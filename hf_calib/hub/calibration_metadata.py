"""`hf_calib.json`: what a model was calibrated with, so that `hf_calib.load` can ask and warn accordingly."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

from .._version import __version__
from ..confidence.registry import way_named
from ..tasks import PromptFormat
from ..tasks.decisions import MOST_OPTIONS
from .card_data import read_versioned_json
from .errors import InvalidFolderError

METADATA_FILE = "hf_calib.json"
CALIBRATOR_FILE = "calibrator.json"
# Next to it if the calibrator has large arrays.
CALIBRATOR_ARRAYS = "calibrator.safetensors"
METADATA_FORMAT_VERSION = 1
MAX_METADATA_BYTES = 2**20


class Saveable(Protocol):
    """An object that can be saved, such as a calibrator."""

    def save(self, path: Any) -> Any:
        """Write the calibrator to a JSON file."""


@dataclass(frozen=True)
class CalibrationMetadata:
    """The settings that a published model's figures were measured with.

    Parameters
    ----------
    prompt_format : PromptFormat
        How the questions were put.
    confidence : str, default "letters"
        What confidence is read off, a name of `hf_calib.confidence.ways()`.
    option_counts : tuple of int
        The numbers of options of the questions that it was calibrated on or, without calibration, measured on.
    base_model, base_model_revision : str, optional
        The model under the adapter, and the commit that was loaded.
    calibrator : bool
        Whether there is a fitted calibrator in `calibrator.json`.
    hf_calib_version : str
        The version that wrote the file.
    """

    prompt_format: PromptFormat = field(default_factory=PromptFormat)
    confidence: str = "letters"
    option_counts: tuple[int, ...] = ()
    base_model: str | None = None
    base_model_revision: str | None = None
    calibrator: bool = False
    hf_calib_version: str = __version__

    def to_json(self) -> str:
        """Return the text of `hf_calib.json`."""
        content = {"format_version": METADATA_FORMAT_VERSION, **asdict(self)}
        content["prompt_format"] = self.prompt_format.to_dict()
        return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def save_calibration_metadata(
    folder: str | os.PathLike[str],
    *,
    prompt_format: PromptFormat | None = None,
    confidence: str = "letters",
    option_counts: Iterable[int] = (),
    base_model: str | None = None,
    base_model_revision: str | None = None,
    calibrator: Saveable | None = None,
) -> Path:
    """Write `hf_calib.json`, and the calibrator, into an adapter's or a model's folder.

    Parameters
    ----------
    folder : path
        Created if it does not exist.
    prompt_format : PromptFormat, optional
        How the calibration questions were put; the plain prompt if None.
    confidence : str, default "letters"
        What confidence was read off, a name of `hf_calib.confidence.ways()`.
    option_counts : iterable of int
        The questions' numbers of options, in any order, with or without repetitions.
    base_model, base_model_revision : str, optional
        Id of the base model and the commit that was loaded (see `loaded_revision`). A path on this machine is left
        out.
    calibrator : object with `save(path)`, optional
        A fitted calibrator; if there is none, a previously saved one is removed.

    Returns
    -------
    Path
        Of `hf_calib.json`.
    """
    from .escaping import is_hub_id

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    metadata = CalibrationMetadata(
        prompt_format=prompt_format or PromptFormat(),
        confidence=confidence,
        option_counts=tuple(sorted({int(count) for count in option_counts})),
        base_model=base_model if base_model is not None and is_hub_id(base_model) else None,
        base_model_revision=base_model_revision,
        calibrator=calibrator is not None,
    )
    if calibrator is None:
        for name in (CALIBRATOR_FILE, CALIBRATOR_ARRAYS):
            (folder / name).unlink(missing_ok=True)
    else:
        calibrator.save(folder / CALIBRATOR_FILE)
    path = folder / METADATA_FILE
    path.write_text(metadata.to_json(), encoding="utf-8")
    return path


def has_calibrator(folder: Path) -> bool:
    """Return whether `hf_calib.json` says that a calibrator belongs to the model; its file alone does not count."""
    metadata = read_calibration_metadata(folder)
    return metadata is not None and metadata.calibrator


def add_calibrator(folder: str | os.PathLike[str], calibrator: Saveable) -> Path:
    """Write a calibrator into a folder that has an `hf_calib.json`, and note there that it belongs to the model.

    Parameters
    ----------
    folder : path
        Of an adapter or a model.
    calibrator : object with `save(path)`
        A fitted calibrator; replaces a previously saved one.

    Returns
    -------
    Path
        Of `hf_calib.json`.

    Raises
    ------
    InvalidFolderError
        If there is no `hf_calib.json`, or it is invalid.
    """
    folder = Path(folder)
    metadata = read_calibration_metadata(folder)
    if metadata is None:
        raise InvalidFolderError(
            f"{folder} has no {METADATA_FILE}, so it is not known with which prompt the calibrator was fitted.",
            "Write it first: save_calibration_metadata(folder, prompt_format=...).",
        )
    calibrator.save(folder / CALIBRATOR_FILE)
    path = folder / METADATA_FILE
    path.write_text(replace(metadata, calibrator=True).to_json(), encoding="utf-8")
    return path


def loaded_revision(
    name: str, revision: str | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> str | None:
    """Return the commit of a model that was loaded from the Hub, according to the client's cache.

    Parameters
    ----------
    name : str
        The model's id.
    revision : str, optional
        What was asked for: a branch, tag or commit.
    cache_dir : path, optional
        Where downloads are kept, instead of the client's cache.

    Returns
    -------
    str or None
        None for a local folder and for a model that was not downloaded.
    """
    from huggingface_hub import try_to_load_from_cache

    if Path(name).exists():
        return None
    path = try_to_load_from_cache(
        name, "config.json", cache_dir=None if cache_dir is None else str(cache_dir), revision=revision
    )
    return Path(path).parent.name if isinstance(path, str) else None


def read_calibration_metadata(folder: str | os.PathLike[str]) -> CalibrationMetadata | None:
    """Read `hf_calib.json`, which may come from an untrusted source.

    Returns
    -------
    CalibrationMetadata or None
        None if the folder has no such file.

    Raises
    ------
    InvalidFolderError
        If the file is too large, invalid JSON, of a newer format, or has content that `save_calibration_metadata` does
        not write.
    """
    path = Path(folder) / METADATA_FILE
    if not path.exists():
        return None
    content = read_versioned_json(path, MAX_METADATA_BYTES, METADATA_FORMAT_VERSION)
    try:
        return _parse(content)
    except (TypeError, ValueError) as error:
        raise InvalidFolderError(f"{METADATA_FILE} is not as hf_calib writes it: {error}") from error


def _parse(content: Mapping[str, Any]) -> CalibrationMetadata:
    unknown = set(content) - {entry.name for entry in fields(CalibrationMetadata)}
    if unknown:
        raise ValueError(f"unknown keys {', '.join(sorted(unknown))}")
    prompt = content.get("prompt_format")
    if not isinstance(prompt, Mapping):
        raise ValueError(f"its prompt_format is {prompt!r}, not an object")
    prompt_format = PromptFormat.from_dict(dict(prompt))
    way_named(content.get("confidence", "letters"))
    counts = content.get("option_counts", [])
    allowed = range(2, MOST_OPTIONS + 1)
    if not isinstance(counts, list) or any(type(count) is not int or count not in allowed for count in counts):
        raise ValueError(f"its option_counts are {counts!r}, not numbers from 2 to {MOST_OPTIONS}")
    for key in ("base_model", "base_model_revision", "hf_calib_version"):
        if content.get(key) is not None and not isinstance(content[key], str):
            raise ValueError(f"its {key} is {content[key]!r}, not a name")
    if not isinstance(content.get("calibrator", False), bool):
        raise ValueError(f"its calibrator is {content['calibrator']!r}, not true or false")
    return CalibrationMetadata(**{**content, "prompt_format": prompt_format, "option_counts": tuple(counts)})
