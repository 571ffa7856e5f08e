"""Publishing the metrics as self-contained Spaces for `evaluate.load`."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import yaml

from .._suggestions import did_you_mean
from .card_metadata import CardParts
from .commands import publish_command
from .errors import InvalidFolderError
from .namespaces import OWN_NAMESPACE, namespace_of
from .resources import resource_folder
from .transfer import (
    Content,
    Destination,
    Publication,
    look,
    planned,
    prepare,
    publish,
    read_content,
)
from .translation import after_publishing

_REQUIRED = ("app.py", "README.md", "requirements.txt")


def metric_names() -> list[str]:
    """Return the names of this package's metrics, each a folder that can become a Space."""
    folder = resource_folder("metrics")
    return sorted(path.name for path in folder.iterdir() if (path / f"{path.name}.py").is_file())


def metric_path(name: str) -> str:
    """Return the folder of one of this package's metrics, for `evaluate.load`.

    Parameters
    ----------
    name : str
        One of `metric_names()`.

    Raises
    ------
    InvalidFolderError
        If there is no metric of that name.

    Examples
    --------
    >>> import evaluate, hf_calib
    >>> ece = evaluate.load(hf_calib.metric_path("ece"))
    >>> ece.compute(predictions=[0.75, 0.75, 0.25, 0.25], references=[1, 1, 0, 0], n_bins=2)
    {'ece': 0.25}
    """
    names = metric_names()
    if name not in names:
        raise InvalidFolderError(
            f"There is no metric {name!r}.{did_you_mean(name, names)}",
            f"The metrics of this package are: {', '.join(names)}",
        )
    return str(resource_folder("metrics") / name)


def publish_metric(
    name: str,
    *,
    namespace: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    collection: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
    dry_run: bool = False,
    again: str | None = None,
) -> Publication:
    """Publish a metric as the Space `namespace/name`, for `evaluate.load("namespace/name")`.

    Parameters
    ----------
    name : str
        One of `metric_names()`.
    namespace : str, optional
        The user or organization, by default the logged-in user. The Space's files name it in their examples.
    private, revision, create_pr, tag, collection, token, endpoint, dry_run, again
        As for `publish_adapter`.

    Returns
    -------
    Publication

    Raises
    ------
    InvalidFolderError
        If there is no such metric, or its folder lacks a file that the Space needs.
    HubError
        As `publish_adapter`.
    """
    from huggingface_hub import HfApi

    metric_path(name)  # an unknown name is reported first
    api = HfApi(endpoint=endpoint, token=token, library_name="hf_calib")
    namespace = namespace_of(namespace, api, token)
    files = space_files(name, namespace)
    options: Any = {"revision": revision, "create_pr": create_pr, "private": private, "tag": tag}
    options["collection"] = collection
    destination = Destination(
        repo_id=f"{namespace}/{name}",
        repo_type="space",
        **options,
        token=token,
        again=again
        or publish_command(
            "metric",
            name,
            options={**options, "dry_run": dry_run},
            namespace=namespace,
        ),
    )
    if dry_run:
        return planned(api, destination, look(api, destination), files)
    state = prepare(api, destination)
    deleted = tuple(path for path in state.files if path.endswith(".py") and path not in files)
    sdk = _front_matter(files["README.md"], name)["sdk"]
    return publish(api, destination, state, files, deleted, f"Publish the metric {name}", space_sdk=sdk)


def publish_metrics(
    *, namespace: str | None = None, dry_run: bool = False, again: str | None = None, **options: Any
) -> list[Publication]:
    """Publish every metric; `options` are those of `publish_metric`.

    Raises
    ------
    HubError
        As `publish_metric`. The message says which ones are already published.
    """
    from huggingface_hub import HfApi

    options["dry_run"] = dry_run
    token = options.get("token")
    namespace = namespace_of(namespace, HfApi(endpoint=options.get("endpoint"), token=token), token)
    again = again or publish_command("metrics", options=options, namespace=namespace)
    published: list[Publication] = []
    for name in metric_names():
        with after_publishing([] if dry_run else [publication.repo_id for publication in published]):
            published.append(publish_metric(name, namespace=namespace, again=again, **options))
    return published


def space_files(name: str, namespace: str) -> dict[str, Content]:
    """Return the content of a metric's Space, the files of its folder.

    Returns
    -------
    dict from path in the Space to content

    Raises
    ------
    InvalidFolderError
        If there is no such metric, a file is missing, a link leads outside this package, or the module imports
        something that the Space lacks.
    """
    folder = Path(metric_path(name)).resolve()
    files: dict[str, Content] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") or part == "__pycache__" for part in relative.parts) or not path.is_file():
            continue
        if not path.resolve().is_relative_to(folder.parents[1]):
            raise InvalidFolderError(f"{name}/{relative} links to {path.resolve()}, outside this package.")
        text = path.read_text(encoding="utf-8")
        files[relative.as_posix()] = re.sub(rf"\b{OWN_NAMESPACE}/(?={name}\b)", f"{namespace}/", text).encode()
    missing = [file for file in _REQUIRED if file not in files]
    if missing:
        raise InvalidFolderError(f"The metric {name} lacks {', '.join(missing)}, so its Space could not start.")
    _front_matter(files["README.md"], name)
    for file, content in files.items():
        if file.endswith(".py"):
            _check_imports(name, file, read_content(content).decode(), files)
    return files


def _front_matter(readme: Content, name: str) -> dict[str, str]:
    try:
        metadata = yaml.safe_load(CardParts.split(read_content(readme).decode(), f"{name}/README.md").yaml) or {}
    except yaml.YAMLError as error:
        raise InvalidFolderError(f"The metadata of {name}/README.md are not valid YAML: {error}") from error
    missing = [key for key in ("title", "sdk", "sdk_version", "app_file") if not metadata.get(key)]
    if missing:
        raise InvalidFolderError(f"The metadata of {name}/README.md lack {', '.join(missing)}.")
    return metadata


def _check_imports(name: str, path: str, source: str, files: dict[str, Content]) -> None:
    """Check that a file of a Space finds its imports there, without this package."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            absent = [module for module in modules if f"{module.replace('.', '/')}.py" not in files]
            if node.level > 1 or absent:
                raise InvalidFolderError(f"{name}/{path} imports {absent or modules}, which its Space would not have.")
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        if any(module.partition(".")[0] == "hf_calib" for module in imported):
            raise InvalidFolderError(f"{name}/{path} imports hf_calib, which a Space does not have.")
