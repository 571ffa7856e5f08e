"""Publishing an adapter or a model with its card, its reports and its calibrator, in one commit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .calibration_metadata import has_calibrator
from .card import CARD_FILE, PICTURE_FILE, adopt_metadata, handwritten, merge_cards, read_card, render_card
from .card_data import REPORT_FILE, CalibrationCardData
from .commands import publish_command
from .errors import CardConflictError, InvalidFolderError, VerificationError
from .escaping import check_nothing_private, is_hub_id
from .folders import ADAPTER_WEIGHTS, collect_files, outdated_files
from .transfer import (
    Destination,
    Publication,
    downloaded,
    look,
    planned,
    prepare,
    publish,
    read_content,
)
from .translation import hub_errors

if TYPE_CHECKING:
    from peft import PeftModel

CardChoice = Literal["merge", "local", "remote"]


def publish_adapter(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    collection: str | None = None,
    base_model: str | None = None,
    base_revision: str | None = None,
    card: CardChoice = "merge",
    model: PeftModel | None = None,
    commit_message: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
    again: str | None = None,
) -> Publication:
    """Publish an adapter (or a whole model) from its folder, in one commit.

    Published are the weights as safetensors, their configuration, the tokenizer if the folder has one, the card, its
    picture, `calibration_report.json`, `hf_calib.json` and the calibrator, but nothing else (checkpoints, optimizer
    states, logs, pickles). Afterwards the weights are downloaded again and compared.

    Parameters
    ----------
    folder : path
        Written by `trainer.save_model()` and `write_card`. It is not changed.
    repo_id : str
        "namespace/name".
    private : bool, optional
        Whether a new repository is private. With True, publishing to an existing public one is refused.
    revision : str, optional
        The branch to commit to, created if it does not exist.
    create_pr : bool, default False
        Propose the change as a pull request.
    tag : str, optional
        Tag for this version; an existing tag of another version is refused.
    collection : str, optional
        Slug of a collection to add the repository to.
    base_model, base_revision : str, optional
        The base model's id on the Hub and its commit, for an adapter that was trained on a local copy of it.
    card : {"merge", "local", "remote"}, default "merge"
        Which card's handwritten text to keep if the folder's and the repository's cards both have text that the other
        lacks; with "merge" that is an error.
    model : PeftModel, optional
        The model in memory, to compare with the folder's weights before uploading.
    commit_message : str, optional
    token : str, optional
        Otherwise HF_TOKEN or the stored login is used.
    endpoint : str, optional
        The Hub's address; otherwise HF_ENDPOINT or the public Hub.
    dry_run : bool, default False
        Only read, and return the `Publication` that would be made.
    again : str, optional
        The command that messages suggest after an interruption, if this publication is part of a larger one; by
        default the one that publishes this one.

    Returns
    -------
    Publication
        With every file, the published card, the commit and the address.

    Raises
    ------
    InvalidFolderError, PrivateInformationError, CardConflictError
        If the folder or its card cannot be published; nothing was sent.
    MissingTokenError, NotYourRepositoryError, InvalidNamespaceError, RepositoryExistsError
        If the repository cannot be written to; nothing was sent.
    RepositoryChangedError, InterruptedPublicationError
        If someone else committed or the connection broke; the repository is entirely old or entirely new.
    VerificationError
        If the Hub's content differs from what was sent.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if not is_hub_id(repo_id) or repo_id.count("/") != 1:
        raise InvalidFolderError(
            f"{repo_id!r} is not a repository name.",
            "Give it as NAMESPACE/NAME, for example ann/llama-dpo-calibrated.",
        )
    files = collect_files(folder, base_model, base_revision)
    if model is not None:
        check_saved_weights(folder, model)
    api = HfApi(endpoint=endpoint, token=token, library_name="hf_calib")
    options: Any = {"revision": revision, "create_pr": create_pr, "private": private, "tag": tag}
    options["collection"] = collection
    destination = Destination(
        repo_id=repo_id,
        **options,
        token=token,
        again=again
        or publish_command(
            "adapter",
            folder,
            options={**options, "dry_run": dry_run},
            repo=repo_id,
            base_model=base_model,
            base_revision=base_revision,
            card=None if card == "merge" else card,
        ),
    )
    if dry_run:
        state = look(api, destination)
    else:
        state = prepare(api, destination)
    with hub_errors(repo_id, destination.again):
        remote_card = None
        if CARD_FILE in state.files:
            with downloaded(api, destination, state.commit, CARD_FILE) as path:
                remote_card = path.read_bytes()
    text = _published_card(folder, repo_id, base_model, base_revision, remote_card, card)
    files[CARD_FILE] = text.encode("utf-8")
    if f"]({PICTURE_FILE})" in text and PICTURE_FILE not in files:
        raise InvalidFolderError(
            f"The card shows {PICTURE_FILE}, which {folder} lacks.", f"Write it again with: hf-calib card {folder}"
        )
    deleted = outdated_files(files, state.files)
    if dry_run:
        return planned(api, destination, state, files, deleted)
    message = commit_message or "Publish the adapter with its calibration"
    return publish(api, destination, state, files, deleted, message)


def save_published_card(publication: Publication, folder: str | os.PathLike[str]) -> Path:
    """Save a publication's card, picture and report in a subfolder of `folder` with the repository's name.

    Returns
    -------
    Path
        Of the card.
    """
    target = Path(folder) / publication.repo_id.rpartition("/")[2]
    target.mkdir(parents=True, exist_ok=True)
    for name in (CARD_FILE, PICTURE_FILE, REPORT_FILE):
        if name in publication.contents:
            (target / name).write_bytes(read_content(publication.contents[name]))
    return target / CARD_FILE


def check_saved_weights(folder: Path, model: PeftModel) -> None:
    """Compare an adapter's saved weights bit by bit with those in memory.

    Raises
    ------
    VerificationError
        Names the first tensor that differs.
    """
    import torch
    from peft import get_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(folder / ADAPTER_WEIGHTS)
    live = get_peft_model_state_dict(model)
    for name in sorted(saved.keys() | live.keys()):
        if name not in saved or name not in live or not torch.equal(saved[name].cpu(), live[name].detach().cpu()):
            raise VerificationError(
                f"The weights saved in {folder} are not those of the model in memory ({name} differs).",
                "Save the model into the folder again before publishing.",
            )


def _published_card(
    folder: Path, repo_id: str, base_model: str | None, base_revision: str | None, remote: bytes | None,
    choice: CardChoice,
) -> str:  # fmt: skip
    """Return the folder's card with the repository's name, merged into the published card."""
    path = folder / CARD_FILE
    local = read_card(path) if path.is_file() else None
    if (folder / REPORT_FILE).is_file():
        data = CalibrationCardData.load(folder)
        if base_model is not None:
            data = data.with_base_model(base_model, base_revision)
        data = replace(data, hub_model_id=repo_id)
        local = render_card(data, local, calibrator=has_calibrator(folder))
    if local is None:
        raise InvalidFolderError(
            f"{folder} holds neither {CARD_FILE} nor {REPORT_FILE}, so there is nothing to say about the model.",
            f"Measure it and write its card with: hf-calib card {folder}",
        )
    if remote is None:
        result = local
    else:
        result = _merge_with_remote(local, remote.decode("utf-8-sig"), repo_id, choice)
    check_nothing_private(result, CARD_FILE)
    return result


def _merge_with_remote(local: str, remote: str, repo_id: str, choice: CardChoice) -> str:
    """Merge the folder's and the repository's cards, keeping the text that people wrote in either."""
    where = f"the card in {repo_id}"
    here, there = handwritten(local, "the folder's card"), handwritten(remote, where)
    keep_local = choice == "local" or (choice == "merge" and _is_part(there, here))
    if choice == "merge" and not keep_local and not _is_part(here, there):
        raise CardConflictError(
            f"The folder's card and the one in {repo_id} each hold text that was written by hand and that the other "
            "lacks.",
            "Choose which text stays with --card local or --card remote; our sections are updated either way.",
        )
    if keep_local and here != there:
        return adopt_metadata(local, remote, where)
    return merge_cards(local, remote, where)


def _is_part(lines: list[str], whole: list[str]) -> bool:
    """Return whether all lines occur in `whole`, in the same order."""
    remaining = iter(whole)
    return all(line in remaining for line in lines)
