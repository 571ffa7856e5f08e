"""A journal of answers on disk, so that a killed run can be resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_FINGERPRINT = "run.json"


class Journal:
    """Outcomes of a run by stage and request, appended as they come.

    Each process writes its own files, one line per batch, so that at most one incomplete line is lost.

    Parameters
    ----------
    folder : path
        Created if necessary.
    fingerprint : mapping
        Everything that the outcomes depend on, as JSON values.
    process_index : int, default 0

    Raises
    ------
    ValueError
        If the folder holds answers of another run; the message names what differs. A run without any answers, such as
        a rejected one, is replaced.
    """

    def __init__(self, folder: str | Path, fingerprint: Mapping[str, Any], process_index: int = 0) -> None:
        self.folder = Path(folder)
        self.process_index = process_index
        path = self.folder / _FINGERPRINT
        wanted = json.loads(json.dumps(dict(fingerprint)))
        if not any(self.folder.glob("*.jsonl")):
            self.folder.mkdir(parents=True, exist_ok=True)
            # Written to another file and moved, since another process may be reading it.
            aside = self.folder / f"{_FINGERPRINT}.{process_index}"
            aside.write_text(json.dumps(wanted, indent=2) + "\n", encoding="utf-8")
            aside.replace(path)
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            raise ValueError(f"{path} is missing or damaged; remove {self.folder} to start over") from None
        differing = sorted(key for key in {*wanted, *found} if wanted.get(key) != found.get(key))
        commits_differ = differing and set(differing) <= {"revision", "base_revision"}
        if commits_differ and not any(own.get(key) is None for own in (found, wanted) for key in differing):
            was, now = ({key: own[key] for key in differing} for own in (found, wanted))
            raise ValueError(
                f"{self.folder} holds answers of an unfinished run, but the model has since changed on the Hub "
                f"(then {_listed(was)}; now {_listed(now)}); write to another folder, or remove this one to ask all "
                "questions again"
            )
        if differing:
            raise ValueError(
                f"{self.folder} holds the beginning of a run that differs in {', '.join(differing)}; finish that one, "
                "write to another folder, or remove it"
            )

    def read(self, stage: str) -> dict[int, Any]:
        """Return the outcomes of a stage by the requests' numbers, whichever process wrote them."""
        outcomes: dict[int, Any] = {}
        for path in sorted(self.folder.glob(f"{stage}-*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                try:
                    entries = json.loads(line)
                except ValueError:  # incomplete after a kill; asked again
                    continue
                outcomes.update((int(number), outcome) for number, outcome in entries)
        return outcomes

    def append(self, stage: str, outcomes: Mapping[int, Any]) -> None:
        """Write the outcomes of a batch."""
        path = self.folder / f"{stage}-{self.process_index}.jsonl"
        # Begin on a new line if the last one is incomplete.
        cut_off = path.exists() and not _ends_a_line(path)
        with path.open("a", encoding="utf-8") as file:
            file.write("\n" * cut_off + json.dumps(list(outcomes.items())) + "\n")

    def remove(self) -> None:
        """Remove the journal after its outcomes were saved elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _listed(commits: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {str(commit)[:12]}" for name, commit in commits.items())


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        if file.seek(0, 2) == 0:
            return True
        file.seek(-1, 2)
        return file.read(1) == b"\n"
