"""Digests of a model's files, by which a report or a calibrator recognizes the model that it is about."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from .calibration_metadata import CALIBRATOR_ARRAYS, CALIBRATOR_FILE, has_calibrator


def files_digest(model: str | os.PathLike[str]) -> str | None:
    """Return a digest of the weights in a folder or GGUF file, independent of its path; None for a Hub model.

    A calibrator that is saved with the model does not count.
    """
    path = Path(model)
    if not path.exists():
        return None
    files = [path]
    if path.is_dir():
        files = [file for file in sorted(path.glob("*.safetensors")) if file.name != CALIBRATOR_ARRAYS]
    return _digest(files)


def calibrator_digest(folder: Path) -> str:
    """Return a digest of the calibrator that belongs to the model in a folder; "none" if there is none."""
    names = (CALIBRATOR_FILE, CALIBRATOR_ARRAYS)
    return _digest(folder / name for name in names if (folder / name).is_file()) if has_calibrator(folder) else "none"


def _digest(files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"files:{digest.hexdigest()}"
