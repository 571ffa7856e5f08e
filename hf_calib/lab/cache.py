"""A cache of folders named by a hash of everything that determines their content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parents[1]


def cache_directory(cache_dir: str | Path | None = None) -> Path:
    """Return the cache's folder: the argument, or ``HF_CALIB_CACHE``, or a folder of `huggingface_hub`'s assets."""
    chosen = cache_dir or os.environ.get("HF_CALIB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from huggingface_hub import cached_assets_path

    return Path(cached_assets_path("hf_calib", namespace="lab"))


def source_digest(paths: Iterable[str], package: Path = PACKAGE) -> str:
    """Return a hash of the source of files, which are named relative to the package's folder."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        # Line ends may differ between checkouts.
        source = (package / path).read_text(encoding="utf-8")
        digest.update(f"{path}\0{len(source)}\0{source}".encode())
    return digest.hexdigest()


def library_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the installed versions of libraries."""
    return {name: version(name) for name in names}


def cache_key(made_of: Mapping[str, Any]) -> str:
    """Return a hash of data that JSON can hold, as 32 hexadecimal digits."""
    canonical = json.dumps(made_of, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def cached_folder(
    name: str, made_of: Mapping[str, Any], make: Callable[[Path], None], cache_dir: str | Path | None = None
) -> Path:
    """Return a folder of the cache, after creating it if it does not exist.

    It gets its name only once it is complete: `make` fills a temporary folder next to it, which is then renamed. If
    two processes make the same folder at the same time, the first to finish wins.

    Parameters
    ----------
    name
        The folder's name.
    made_of
        Everything that determines its content; written into it as ``made_of.json``.
    make
        Called with a folder, which it fills.
    cache_dir
        See `cache_directory`.

    Returns
    -------
    pathlib.Path
        The folder.
    """
    root = cache_directory(cache_dir)
    folder = root / name
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=root))
    try:
        make(unfinished)
        (unfinished / "made_of.json").write_text(json.dumps(made_of, indent=2) + "\n", encoding="utf-8")
        try:
            unfinished.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder
