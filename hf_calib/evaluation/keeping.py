"""What a run keeps in its folder: answers as they come, and the finished measurement."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..confidence import Journal
from ..reports import Measurement
from .models import Processes, this_process
from .provenance import COMMAND
from .settings import AskSettings

_PROGRESS = ".progress"


def finished(
    folder: str | os.PathLike[str] | None, name: str, run: Mapping[str, Any], seed: int, settings: AskSettings
) -> Measurement | None:
    """Return a folder's measurement of the same run, without its calibrator if it has one."""
    if folder is None or not Measurement.is_saved(folder):
        return None
    try:
        saved = Measurement.load(Path(folder), seed=seed)
    except (OSError, ValueError):  # damaged, or written by something else; replaced at the end of this run
        return None
    saved = saved.before or saved
    if not is_same_run(saved.run, run):
        return None
    say_finished(folder, settings)
    return Measurement(name, saved.datasets, saved.run, saved.report_options)


def is_same_run(saved: Mapping[str, Any], run: Mapping[str, Any]) -> bool:
    """Return whether a saved run's record agrees with a run, and both have a calibrator or neither does."""
    wanted = json.loads(json.dumps(dict(run)))
    return {key: saved.get(key) for key in wanted} == wanted and ("calibrator" in saved) == ("calibrator" in wanted)


def say_finished(folder: str | os.PathLike[str], settings: AskSettings) -> None:
    """Say that a run is not repeated."""
    settings.say(f"{folder} already holds this run's answers, so nothing is asked again. Delete it to ask again.")


def journal(
    folder: str | os.PathLike[str] | None, run: Mapping[str, Any], where: Processes, settings: AskSettings
) -> Journal | None:
    """Return a journal for answers as they come, with those of a stopped run."""
    if folder is None:
        return None
    place = Path(folder) / _PROGRESS
    kept = Journal(place, run, where.index)
    if found := _answers_in(place):
        settings.say(f"Resuming a stopped run: {found:,} answers are kept in {place}.")
    return kept


def save_result(result: Any, out: str | os.PathLike[str] | None, device: str | None = None, **options: Any) -> None:
    """Save a result into a folder, if one is given; options go to its `save`. Of several processes, the first does."""
    if out is not None and this_process(device).is_first:
        result.save(out, **options)
        remove_journal(out)


def remove_journal(folder: str | os.PathLike[str]) -> None:
    """Remove the answers that were kept as they came, once the measurement is saved."""
    shutil.rmtree(Path(folder) / _PROGRESS, ignore_errors=True)


@contextmanager
def interruptible(
    out: str | os.PathLike[str] | None, measured: Mapping[Any, Measurement] | None = None
) -> Iterator[None]:
    """Add to a `KeyboardInterrupt` how much is kept and how to resume.

    `measured` holds the finished parts of the run.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_kept(out, measured or {})) from None


def _kept(out: str | os.PathLike[str] | None, measured: Mapping[Any, Measurement]) -> str:
    if out is None:
        return "Nothing is kept; with --out DIR a run that is stopped can be resumed."
    found = sum(_answers_in(place) for place in Path(out).glob(f"**/{_PROGRESS}"))
    found += sum(len(own.predictions) for own in measured.values())
    command = COMMAND.get()
    again = "the same call with this folder" if command is None else command
    return f"{found:,} answers are kept in {out}. Resume with: {again}"


def _answers_in(folder: Path) -> int:
    """Return how many answers a journal holds."""
    found = 0
    for path in folder.glob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                found += len(json.loads(line))
            except ValueError:  # cut off; asked again
                continue
    return found
