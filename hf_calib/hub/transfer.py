"""Publishing as one commit, which is verified afterwards."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

from .errors import (
    HubError,
    InterruptedPublicationError,
    NotYourRepositoryError,
    RepositoryExistsError,
    UnreachableHubError,
    VerificationError,
)
from .namespaces import check_namespace, check_write_access
from .translation import hub_errors

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

Content = bytes | Path


@dataclass(frozen=True)
class Destination:
    """The destination of a publication.

    Parameters
    ----------
    repo_id : str
        "namespace/name".
    repo_type : {"model", "space"}
    revision : str, optional
        The branch, created if it does not exist; by default the main one.
    create_pr : bool
        Propose the change as a pull request.
    private : bool, optional
        Whether a new repository is private. With True, an existing one must be private already.
    tag : str, optional
        Tag for the publication.
    collection : str, optional
        Slug of a collection to add the repository to.
    again : str
        The command to continue with after an interruption.
    """

    repo_id: str
    repo_type: str = "model"
    revision: str | None = None
    create_pr: bool = False
    private: bool | None = None
    tag: str | None = None
    collection: str | None = None
    again: str = "the same command"
    token: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class PublishedFile:
    """A file of a publication: its path in the repository, its size in bytes, and whether it is new."""

    path: str
    size: int
    changed: bool


@dataclass(frozen=True)
class Publication:
    """A publication, or in a dry run a planned one.

    Parameters
    ----------
    repo_id, repo_type : str
    files : tuple of PublishedFile
        All files of the publication.
    deleted : tuple of str
        Files of an earlier publication that are no longer part of it.
    card : str
        The published README.md.
    commit : str or None
        The publication's commit; in a dry run the repository's current one, if any.
    url : str
        Of the repository or the pull request.
    changed : bool
        False if the repository had the same content already, so that no commit was made.
    tag : str or None
    contents : mapping from path to bytes or local path
        The files' contents.
    """

    repo_id: str
    repo_type: str
    files: tuple[PublishedFile, ...]
    deleted: tuple[str, ...]
    card: str
    commit: str | None
    url: str
    changed: bool
    tag: str | None = None
    contents: Mapping[str, Content] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class RemoteState:
    """The content of a repository at one commit; empty if the repository does not exist."""

    commit: str | None = None
    private: bool | None = None
    files: Mapping[str, RepoFile] = field(default_factory=dict)


def read_content(content: Content) -> bytes:
    """Return the bytes of a content."""
    return content if isinstance(content, bytes) else content.read_bytes()


def file_size(content: Content) -> int:
    """Return a content's size in bytes."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def holds(remote: RepoFile, content: Content) -> bool:
    """Return whether a file on the Hub has exactly this content, by the Hub's checksum."""
    size = file_size(content)
    if remote.size != size:
        return False
    if remote.lfs is not None:
        return remote.lfs.sha256 == _digest(content, hashlib.sha256())
    return remote.blob_id == _digest(content, hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False))


def _digest(content: Content, digest: Any) -> str:
    if isinstance(content, bytes):
        digest.update(content)
    else:
        with content.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def read_remote(api: HfApi, destination: Destination) -> RemoteState:
    """Return the current content of the repository's branch."""
    look = partial(api.repo_info, destination.repo_id, repo_type=destination.repo_type, token=destination.token)
    try:
        info = look(revision=destination.revision)
    except RevisionNotFoundError:
        info = look()  # a new branch starts from main
    except RepositoryNotFoundError:
        return RemoteState()
    return RemoteState(commit=info.sha, private=info.private, files=_list_files(api, destination, info.sha))


def _list_files(api: HfApi, destination: Destination, commit: str | None) -> dict[str, RepoFile]:
    from huggingface_hub import RepoFile

    entries = api.list_repo_tree(
        destination.repo_id,
        repo_type=destination.repo_type,
        revision=commit,
        token=destination.token,
        recursive=True,
    )
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


@contextmanager
def downloaded(api: HfApi, destination: Destination, commit: str | None, path: str) -> Iterator[Path]:
    """Download a file at a commit, bypassing caches, for the duration of the context."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(
            api.hf_hub_download(
                destination.repo_id,
                path,
                repo_type=destination.repo_type,
                revision=commit,
                token=destination.token,
                cache_dir=folder,
            )
        )


def look(api: HfApi, destination: Destination) -> RemoteState:
    """Check a destination and read its content for a dry run, which also works without a login or the Hub.

    Raises
    ------
    InvalidNamespaceError, MissingTokenError, NotYourRepositoryError
        If the Hub does not allow the namespace, or the logged-in user may not write to it.

    Warns
    -----
    UserWarning
        If the Hub cannot be reached.
    """
    check_namespace(destination.repo_id, api.endpoint, destination.again)
    try:
        with hub_errors(destination.repo_id, destination.again):
            if get_token() is not None or destination.token is not None:
                check_write_access(
                    api, destination.repo_id, destination.token, destination.create_pr, destination.again
                )
            return read_remote(api, destination)
    except UnreachableHubError as error:
        warnings.warn(f"{error.message} The repository's current content is unknown.", stacklevel=3)
        return RemoteState()


def prepare(api: HfApi, destination: Destination) -> RemoteState:
    """Check the destination and read its content, before anything is created or uploaded.

    Raises
    ------
    InvalidNamespaceError, MissingTokenError, NotYourRepositoryError
        If it cannot be written to.
    RepositoryExistsError
        If a private publication was requested but the repository is public, or the tag names another commit.
    """
    with hub_errors(destination.repo_id, destination.again):
        check_namespace(destination.repo_id, api.endpoint, destination.again)
        check_write_access(api, destination.repo_id, destination.token, destination.create_pr, destination.again)
        state = read_remote(api, destination)
    if destination.private and state.private is False:
        raise RepositoryExistsError(
            f"{destination.repo_id} exists and is public, but a private publication was asked for.",
            "Publish to another name, or make it private in its settings first.",
        )
    return state


def publish(
    api: HfApi, destination: Destination, state: RemoteState, files: Mapping[str, Content], deleted: tuple[str, ...],
    message: str, space_sdk: str | None = None,
) -> Publication:  # fmt: skip
    """Commit the files in one commit, verify the Hub's content, and tag it.

    Parameters
    ----------
    files : mapping from path in the repository to content
        The content that the repository should have; unchanged files are not sent again.
    deleted : tuple of str
        Paths to delete in the same commit.

    Raises
    ------
    HubError
        One of its subclasses; the repository is then entirely old or entirely new.
    """
    changed = changed_files(state, files)
    with hub_errors(destination.repo_id, destination.again):
        if state.commit is None:
            api.create_repo(
                destination.repo_id,
                repo_type=destination.repo_type,
                private=destination.private,
                space_sdk=space_sdk,
                token=destination.token,
                exist_ok=True,
            )
            state = read_remote(api, destination)
        tagged = _tagged_commit(api, destination)
        if tagged is not None and (changed or deleted or tagged != state.commit):
            raise RepositoryExistsError(
                f"The tag {destination.tag} of {destination.repo_id} names commit {tagged[:8]} already, which does "
                "not hold what is to be published; a published version does not change afterwards.",
                "Give this one another name (--tag NAME), or publish it without a tag.",
            )
        _make_branch(api, destination, state)
        commit, url = state.commit, _url(api, destination)
        if changed or deleted:
            commit, url = _commit(
                api, destination, state, {path: files[path] for path in changed}, deleted, message, url
            )
        verify(api, destination, commit, files, deleted)
        if destination.tag is not None and tagged is None:
            api.create_tag(
                destination.repo_id,
                tag=destination.tag,
                revision=commit,
                repo_type=destination.repo_type,
                token=destination.token,
            )
    _add_to_collection(api, destination)
    return _described(destination, files, deleted, changed, commit, url)


def changed_files(state: RemoteState, files: Mapping[str, Content]) -> list[str]:
    """List the files that the repository does not hold with this content."""
    return [
        path for path, content in files.items() if path not in state.files or not holds(state.files[path], content)
    ]


def planned(
    api: HfApi,
    destination: Destination,
    state: RemoteState,
    files: Mapping[str, Content],
    deleted: tuple[str, ...] = (),
) -> Publication:
    """Return what `publish` would publish; parameters as there."""
    return _described(destination, files, deleted, changed_files(state, files), state.commit, _url(api, destination))


def _described(
    destination: Destination,
    files: Mapping[str, Content],
    deleted: tuple[str, ...],
    changed: list[str],
    commit: str | None,
    url: str,
) -> Publication:
    card = files.get("README.md", b"")
    return Publication(
        repo_id=destination.repo_id,
        repo_type=destination.repo_type,
        files=tuple(PublishedFile(path, file_size(content), path in changed) for path, content in files.items()),
        deleted=deleted,
        card=read_content(card).decode("utf-8"),
        commit=commit,
        url=url,
        changed=bool(changed or deleted),
        tag=destination.tag,
        contents=files,
    )


def verify(
    api: HfApi, destination: Destination, commit: str | None, files: Mapping[str, Content], deleted: tuple[str, ...]
) -> None:
    """Compare the Hub's content at a commit with what was to be published; weights are downloaded for this.

    Raises
    ------
    VerificationError
        Names the files that differ.
    """
    held = _list_files(api, destination, commit)
    wrong = [path for path, content in files.items() if path not in held or not holds(held[path], content)]
    wrong += [path for path in deleted if path in held]
    for path, content in files.items():
        if path.endswith(".safetensors") and path not in wrong:
            with downloaded(api, destination, commit, path) as copy:
                if _digest(copy, hashlib.sha256()) != _digest(content, hashlib.sha256()):
                    wrong.append(path)
    if wrong:
        raise VerificationError(
            f"After the publication, {destination.repo_id} does not hold what it should in: {', '.join(wrong)}.",
            f"Publish again: {destination.again}",
        )


def _add_to_collection(api: HfApi, destination: Destination) -> None:
    """Add a published repository to the destination's collection, if it has one.

    Raises
    ------
    HubError
        One of its subclasses; the message says that the repository itself was published.
    """
    slug = destination.collection
    if slug is None:
        return
    try:
        with hub_errors(f"the collection {slug}", destination.again):
            api.add_collection_item(
                slug,
                item_id=destination.repo_id,
                item_type=destination.repo_type,  # type: ignore[arg-type]
                exists_ok=True,
                token=destination.token,
            )
    except HubError as error:
        hint = error.hint
        if isinstance(error, NotYourRepositoryError):
            hint = (
                "Give a collection that the token may write to by its slug, the end of its address "
                f"(--collection NAMESPACE/TITLE-ID), and run again: {destination.again}"
            )
        raise type(error)(
            f"{destination.repo_id} was published, but not added to the collection {slug}. {error.message}", hint
        ) from error


def _url(api: HfApi, destination: Destination) -> str:
    return f"{api.endpoint}/{'spaces/' if destination.repo_type == 'space' else ''}{destination.repo_id}"


def _make_branch(api: HfApi, destination: Destination, state: RemoteState) -> None:
    if destination.revision in (None, "main") or str(destination.revision).startswith("refs/"):
        return
    api.create_branch(
        destination.repo_id,
        repo_type=destination.repo_type,
        branch=str(destination.revision),
        revision=state.commit,
        token=destination.token,
        exist_ok=True,
    )


def _commit(
    api: HfApi, destination: Destination, state: RemoteState, files: Mapping[str, Content], deleted: tuple[str, ...],
    message: str, url: str,
) -> tuple[str, str]:  # fmt: skip
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [CommitOperationAdd(path, content) for path, content in files.items()]
    operations += [CommitOperationDelete(path) for path in deleted]
    try:
        # `upload_folder` may split a publication into several commits; `create_commit` never does.
        info = api.create_commit(
            destination.repo_id,
            operations,
            commit_message=message,
            repo_type=destination.repo_type,
            revision=destination.revision,
            create_pr=destination.create_pr,
            parent_commit=state.commit,
            token=destination.token,
        )
    except Exception as error:
        landed = _landed_commit(api, destination, state, files, deleted, error)
        if landed is None:
            raise
        return landed, url
    return info.oid, info.pr_url or url


def _landed_commit(
    api: HfApi, destination: Destination, state: RemoteState, files: Mapping[str, Content], deleted: tuple[str, ...],
    error: Exception,
) -> str | None:  # fmt: skip
    """Find a commit that was made although the Hub's answer was lost."""
    if destination.create_pr or (isinstance(error, HfHubHTTPError) and error.response.status_code < 500):
        return None
    try:
        with hub_errors(destination.repo_id, destination.again):
            now = read_remote(api, destination)
    except InterruptedPublicationError:
        return None
    if now.commit == state.commit or changed_files(now, files) or any(path in now.files for path in deleted):
        return None
    return now.commit


def _tagged_commit(api: HfApi, destination: Destination) -> str | None:
    if destination.tag is None:
        return None
    refs = api.list_repo_refs(destination.repo_id, repo_type=destination.repo_type, token=destination.token)
    return {ref.name: ref.target_commit for ref in refs.tags}.get(destination.tag)
