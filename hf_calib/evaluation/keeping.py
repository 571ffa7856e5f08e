"""What a run keeps in its folder: answers as they come, and all of them once it is finished."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..confidence import Journal
from ..reports import Measurement
from .models import Processes, this_process
from .provenance import COMMAND

_PROGRESS, _ANSWERS, _RUN = ".progress", ".answers", "run.json"


class Keeper:
    """Keeps the answers of one asking of a model in a run's folder.

    Parameters
    ----------
    out : path or None
        The run's folder; without one nothing is kept.
    part : str
        What the folder calls this asking, for runs that ask more than once.
    where : Processes
        The first process writes.
    tell : callable
        Takes what is found there, as a sentence.
    """

    def __init__(self, out: str | os.PathLike[str] | None, part: str, where: Processes, tell: Any) -> None:
        self.out = None if out is None else Path(out)
        self.part = part
        self.where = where
        self.tell = tell

    def finished(self, name: str, run: Mapping[str, Any], seed: int) -> Measurement | None:
        """Return the answers of the same run, if it was finished before."""
        if self.out is None:
            return None
        folder = self.out / _ANSWERS / self.part
        try:
            found = json.loads((folder / _RUN).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        wanted = json.loads(json.dumps(dict(run)))
        if {name: found.get(name) for name in wanted} != wanted:
            return None
        measurement = Measurement.load(folder, seed=seed)
        self.tell(f"{self.out} holds all answers of this run; none is asked again. Remove {folder} to ask again.")
        skipped = {own: facts["skipped_rows"] for own, facts in found["datasets"].items()}
        datasets = {
            own: replace(recorded, skipped_rows=skipped[own]) for own, recorded in measurement.datasets.items()
        }
        return replace(measurement, name=name, datasets=datasets, run=found)

    def journal(self, run: Mapping[str, Any]) -> Journal | None:
        """Return what keeps answers as they come, with those that a stopped run left."""
        if self.out is None:
            return None
        folder = self.out / _PROGRESS / self.part
        journal = Journal(folder, run, self.where.index)
        if self.where.is_first:  # those of another run, which this one replaces
            shutil.rmtree(self.out / _ANSWERS / self.part, ignore_errors=True)
        if found := _answers_in(folder):
            self.tell(f"Going on with a run that was stopped: {found:,} answers are kept in {folder}.")
        return journal

    def keep(self, measurement: Measurement) -> None:
        """Keep all answers of a finished run, in the place of those that came one by one."""
        if self.out is None or not self.where.is_first:
            return
        from ..confidence.recorded import PREDICTIONS_FILE, write_predictions

        folder = self.out / _ANSWERS / self.part
        folder.mkdir(parents=True, exist_ok=True)
        write_predictions(folder / PREDICTIONS_FILE, measurement.datasets)
        (folder / _RUN).write_text(json.dumps(measurement.run, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(self.out / _PROGRESS / self.part, ignore_errors=True)


def save_result(result: Any, out: str | os.PathLike[str] | None, device: str | None = None, **options: Any) -> None:
    """Save a result into a folder, if one is given; options go to its `save`. Of several processes, the first does."""
    if out is not None and this_process(device).is_first:
        result.save(out, **options)
        shutil.rmtree(Path(out) / _PROGRESS, ignore_errors=True)


@contextmanager
def interruptible(out: str | os.PathLike[str] | None) -> Iterator[None]:
    """Say on an interruption how much is kept and how to go on, in the text of the `KeyboardInterrupt`."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(out)) from None


def _kept(out: str | os.PathLike[str] | None) -> str:
    if out is None:
        return "Nothing is kept; with --out DIR a run that is stopped can be resumed."
    found = _answers_in(Path(out) / _PROGRESS) + _answered_in(Path(out) / _ANSWERS)
    command = COMMAND.get()
    again = "the same call with this folder" if command is None else command
    return f"{found:,} answers are kept in {out}. Resume with: {again}"


def _answers_in(folder: Path) -> int:
    """Return how many answers the journals in a folder hold."""
    found = 0
    for path in folder.glob("**/*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found += len(json.loads(line))
            except ValueError:  # cut off; asked again
                continue
    return found


def _answered_in(folder: Path) -> int:
    """Return how many questions the finished parts of a run have answered."""
    return sum(
        facts["n"]
        for path in folder.glob(f"**/{_RUN}")
        for facts in json.loads(path.read_text(encoding="utf-8"))["datasets"].values()
    )
