"""Publishing a training checkpoint, to resume from, in a folder of its model's repository."""

from __future__ import annotations

import json
import os
from pathlib import Path

from .card import CARD_FILE
from .escaping import check_nothing_private, public_name
from .folders import collect_files
from .transfer import Content, Destination, Publication, prepare, publish

TRAINER_STATE = "trainer_state.json"
TRAINING_ARGUMENTS = "training_args.bin"
_TEXTS = {".json", ".jsonl", ".md", ".txt", ".yaml", ".yml"}


def publish_checkpoint(
    folder: str | os.PathLike[str],
    repo_id: str,
    path_in_repo: str,
    *,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | None = None,
) -> Publication:
    """Publish a checkpoint's folder with the optimizer's state, in one commit, after the checks of `publish_adapter`.

    An earlier checkpoint in the same place is replaced. PEFT's unfilled card and the pickled arguments, which resuming
    does not read and which contain local paths, are not published; the best checkpoint's path in `trainer_state.json`
    is reduced to its last part.

    Parameters
    ----------
    folder : path
        As transformers' `Trainer` saved it. It is not changed.
    repo_id : str
        "namespace/name", which must exist.
    path_in_repo : str
        The folder in the repository.
    revision, commit_message, token
        As for `publish_adapter`.

    Raises
    ------
    InvalidFolderError
        If weights are missing, pickled or damaged, or the base model is not a repository on the Hub; nothing was sent.
    PrivateInformationError
        If a file contains a token or a local path; nothing was sent.
    HubError
        As `publish_adapter`.
    """
    from huggingface_hub import HfApi

    files = {f"{path_in_repo}/{path}": content for path, content in _checkpoint_files(Path(folder)).items()}
    api = HfApi(token=token, library_name="hf_calib")
    destination = Destination(repo_id, revision=revision, token=token, again="the next save, which sends its own")
    state = prepare(api, destination)
    outdated = tuple(path for path in state.files if path.startswith(f"{path_in_repo}/") and path not in files)
    return publish(api, destination, state, files, outdated, commit_message or "Publish a checkpoint")


def _checkpoint_files(folder: Path) -> dict[str, Content]:
    """Collect a checkpoint's files, after checking all text."""
    files = collect_files(folder, None, None)
    # These include vocabularies, which may hold any text; all other text was written by the run.
    known = set(files)
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or name in known or path.name == TRAINING_ARGUMENTS:
            continue
        files[name] = _state(path) if path.name == TRAINER_STATE else path
        if path.suffix in _TEXTS:
            content = files[name]
            text = content.decode() if isinstance(content, bytes) else content.read_text(encoding="utf-8")
            check_nothing_private(text, name)
    return {name: content for name, content in files.items() if Path(name).name != CARD_FILE}


def _state(path: Path) -> bytes:
    state = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(best := state.get("best_model_checkpoint"), str):
        state["best_model_checkpoint"] = public_name(best)
    # Formatted like transformers' own file, so that a state without a path is published unchanged.
    return (json.dumps(state, indent=2, sort_keys=True) + "\n").encode()
