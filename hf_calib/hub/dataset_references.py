"""References to the data that questions or pairs were read from, with the commit of a dataset on the Hub."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..tasks import QuestionList
from .card_data import DatasetReference

_COMMIT = re.compile(r"[0-9a-f]{40}")
# The cache folder of the datasets library: [NAMESPACE___]NAME/CONFIG/VERSION/COMMIT/. The namespace is the Hub's; the
# name is in snake case, so the commit is used instead.
_CACHED = re.compile(r"(?:^|[/\\])(?:([^/\\]+)___)?[^/\\]+[/\\]([^/\\]+)[/\\][^/\\]+[/\\]([0-9a-f]{40})[/\\]")
_IN_MEMORY = QuestionList.name_in_memory


def dataset_reference(source: Any, size: int | None = None) -> DatasetReference:
    """Return the most exact known reference to the data that were read.

    Parameters
    ----------
    source : str, path, datasets.Dataset or list
        An argument of `hf_calib.tasks.as_questions`, or what it or `load_questions` returned. A name on the Hub may
        include config and split; its revision is the commit that `datasets` reads. For a dataset in memory, these are
        known if it came from the Hub and is still in the client's cache; otherwise the name is left out.
    size : int, optional
        Number of rows used.
    """
    if isinstance(source, QuestionList):
        read = DatasetReference(source.name_in_memory, size=size)
        if source.source is not None:
            read = dataset_reference(source.source, size)
        drawn: dict[str, Any] = {}
        if source.draw is not None:
            drawn = {"sample_of": source.draw.of, "sample_seed": source.draw.seed}
        return replace(read, skipped=len(source.skipped) or None, origin=source.origin, **drawn)
    if isinstance(source, str | os.PathLike):
        reference = DatasetReference.parse(source, size=size)
        if Path(source).exists():
            return reference
        revision = _commit(reference.name, reference.config)
        return DatasetReference(reference.name, reference.config, reference.split, revision, size)
    split = getattr(source, "split", None)
    split = None if split is None else str(split)
    for file in getattr(source, "cache_files", ()):
        if cached := _CACHED.search(file["filename"]):
            namespace, config, revision = cached.groups()
            if name := _name_on_hub(namespace, revision):
                return DatasetReference(name, config, split, revision, size)
    return DatasetReference(_IN_MEMORY, split=split, size=size)


def _name_on_hub(namespace: str | None, commit: str) -> str | None:
    """Return the id, spelled as on the Hub, of the cached repository that has this commit."""
    from huggingface_hub import constants

    pattern = f"datasets--{namespace}--*" if namespace else "datasets--*"
    found = {
        folder.parent.parent.name.removeprefix("datasets--").replace("--", "/", 1)
        for folder in Path(constants.HF_HUB_CACHE).glob(f"{pattern}/snapshots/{commit}")
    }
    return found.pop() if len(found) == 1 else None


def _commit(name: str, config: str | None) -> str | None:
    """Return the commit of a dataset that `datasets` reads: the newest on the Hub or, offline, in the cache."""
    from datasets import load_dataset_builder

    try:
        found = load_dataset_builder(name, config).hash
    except (OSError, ValueError):  # deleted since it was read
        return None
    return found if found and _COMMIT.fullmatch(found) else None
