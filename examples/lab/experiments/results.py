"""The experiment's results: a file for each finished run, and one tidy file of all their rows."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .compared import METHODS

MEASURES = ("accuracy", "confidence", "ece", "tce", "ece_true", "cw_ece", "smooth_ece", "nll", "brier", "option_mass")
"""The measures of a report that a row has."""

ROW_KEYS = (
    "seed",
    "reported",
    "world",
    "method",
    "domain",
    "n",
    *MEASURES,
    "win_rate",
    "win_rate_open",
    "train_accuracy",
    "labels",
    "seconds",
)
"""The keys of every row, in order: what was run, what was measured, and what it cost."""

RESULTS_FILE = "results.json"


class Results:
    """A folder of results to which several processes may add at once.

    ``runs/`` has a file for each finished run of a method, with a key made from its settings; ``results.json`` is the
    list of all their rows, rewritten after each run. Both are written atomically.

    Parameters
    ----------
    folder : Path
    file : str, default "results.json"
        The file of the rows.
    runs : str, default "runs"
        The folder of the finished runs.
    row_keys : tuple of str, default ROW_KEYS
        The keys of every row, in order.
    """

    def __init__(
        self, folder: Path, *, file: str = RESULTS_FILE, runs: str = "runs", row_keys: tuple[str, ...] = ROW_KEYS
    ) -> None:
        self.folder = folder
        self.runs = folder / runs
        self.file = folder / file
        self.row_keys = row_keys

    def _path(self, world: str, seed: int, method: str) -> Path:
        return self.runs / f"{world}-{seed}-{method}.json"

    def has(self, world: str, seed: int, method: str, key: str) -> bool:
        """Whether a method has been run with the settings that a key was made from."""
        path = self._path(world, seed, method)
        return path.is_file() and json.loads(path.read_text(encoding="utf-8"))["key"] == key

    def check_preset(self, preset: str) -> None:
        """Raise a ValueError if the folder holds results of another preset."""
        for path in sorted(self.runs.glob("*.json")):
            other = json.loads(path.read_text(encoding="utf-8"))["preset"]
            if other != preset:
                raise ValueError(
                    f"{self.folder} holds results of the preset {other!r}, and rows of two presets can't be compared; "
                    f"give {preset!r} another folder"
                )

    def add(self, run: Mapping[str, Any]) -> None:
        """Add a finished run, or replace the earlier run of the same method, world and seed.

        Parameters
        ----------
        run : mapping
            ``key``, ``preset``, ``rows`` with exactly the row's keys, and what else the figures need. A run that
            isn't all of what its method did has a ``name`` of its own.

        Raises
        ------
        ValueError
            If a row has other keys.
        """
        for row in run["rows"]:
            if tuple(row) != self.row_keys:
                raise ValueError(f"a row must have the keys {', '.join(self.row_keys)}, got {', '.join(row)}")
        first = run["rows"][0]
        write_json(self._path(first["world"], first["seed"], run.get("name", first["method"])), run)
        self._write_rows()

    def drop(self, world: str, seed: int, method: str) -> None:
        """Remove a run with outdated settings, if there is one."""
        self._path(world, seed, method).unlink(missing_ok=True)
        self._write_rows()

    def _write_rows(self) -> None:
        from filelock import FileLock

        self.runs.mkdir(parents=True, exist_ok=True)
        # Without the lock, a slow process could overwrite a newer list with an older one.
        with FileLock(self.folder / f".{self.file.stem}.lock"):
            rows = [row for run in load_runs(self.folder, self.runs.name) for row in run["rows"]]
            write_json(self.file, rows)


def load_runs(folder: Path, runs: str = "runs") -> list[dict[str, Any]]:
    """Read all finished runs of a folder, ordered by world, seed and the methods' order in the tables."""
    order = {name: place for place, name in enumerate(METHODS)}
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (folder / runs).glob("*.json")]

    def place(run: dict[str, Any]) -> tuple[str, int, int, float]:
        row = run["rows"][0]
        return row["world"], row["seed"], order.get(row["method"], len(order)), row.get("x", 0)

    return sorted(found, key=place)


def load_rows(path: Path, row_keys: tuple[str, ...] = ROW_KEYS) -> list[dict[str, Any]]:
    """Read the rows of a results file.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If it isn't a list of rows with these keys.
    """
    rows = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not rows:
        raise ValueError(f"{path} must hold a list of rows, and at least one")
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != set(row_keys):
            raise ValueError(f"{path}: row {index} must have the keys {', '.join(row_keys)}")
    return rows


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1, allow_nan=False)
            file.write("\n")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
