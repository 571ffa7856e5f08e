"""Names of models that can only be local paths."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from .errors import InvalidFolderError, MissingModelError

GGUF = ".gguf"


def check_local_path(name: str) -> None:
    """Reject a model's name that looks like a path but is not a folder or a GGUF file.

    Raises
    ------
    MissingModelError
        If nothing is there.
    InvalidFolderError
        If it is another kind of file, or a GGUF file and the package that reads it is not installed.
    """
    path = Path(name)
    if path.suffix == GGUF and importlib.util.find_spec("gguf") is None:
        raise InvalidFolderError(
            f"{name} is a GGUF file, and the package gguf, which reads it, is not installed.",
            'Install it: pip install "hf-calib[gguf]"',
        )
    if path.is_dir() or (path.is_file() and path.suffix == GGUF):
        return
    if path.is_file() and path.suffix.lower() == GGUF:  # transformers recognizes the file by its name
        raise InvalidFolderError(f"{name}: the name must end in lowercase {GGUF}.", f"Rename it to {path.stem}{GGUF}.")
    if path.is_file():
        raise InvalidFolderError(
            f"{name} is a file.", f"Give the folder of the model, which holds config.json, or a {GGUF} file."
        )
    on_hub, _, file = name.partition(":")
    is_id = on_hub.count("/") <= 1 and not name.startswith((".", "~", "/")) and "\\" not in name
    if not is_id or path.is_absolute() or (path.suffix == GGUF and not file):
        raise MissingModelError(
            f"There is no {'file' if path.suffix == GGUF else 'folder'} {name!r}.",
            "Give the path of a model's folder or of a GGUF file, or an id on the Hub.",
        )
