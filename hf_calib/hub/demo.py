"""Publishing the demo's base model and adapter."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .calibration_metadata import save_calibration_metadata
from .card import write_card
from .card_data import AFTER, BASE, REPORT_FILE, CalibrationCardData, Evaluation
from .commands import publish_command
from .errors import InvalidFolderError
from .folders import collect_files
from .namespaces import namespace_of
from .publish import publish_adapter
from .transfer import Content, Publication, read_content
from .translation import after_publishing

_ABOUT = "A small language model, pre-trained in a synthetic world whose true probabilities are known"


def publish_demo(
    folder: str | os.PathLike[str],
    *,
    namespace: str | None = None,
    dry_run: bool = False,
    again: str | None = None,
    **options: Any,
) -> list[Publication]:
    """Publish the base model and every model based on it from a folder that `hf-calib demo` wrote.

    The base model is published first, with a card made from its figures in the others' reports, which then name its
    published commit. The folder is not changed.

    Parameters
    ----------
    folder : path
        The demo's output.
    namespace : str, optional
        By default the logged-in user. The repositories are `namespace/lab-base-model` and, for each adapter or model,
        `namespace/` and its card's title; with a preset other than the demo's, both names include the preset's.
    dry_run : bool, default False
        As for `publish_adapter`.
    again : str, optional
        The command that messages suggest after an interruption; by default the one that publishes the demo.
    **options
        Of `publish_adapter`: private, revision, create_pr, tag, collection, token, endpoint.

    Returns
    -------
    list of Publication
        The base model's, then the others'.

    Raises
    ------
    InvalidFolderError
        If the folder does not hold a demo.
    HubError
        As `publish_adapter`. The message says what is already published.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    models = sorted(path.parent for path in folder.glob(f"*/{REPORT_FILE}"))
    reports = [CalibrationCardData.load(model) for model in models]
    bases = {report.base_model for report in reports}
    base = folder / str(next(iter(bases), None))
    if len(bases) != 1 or not base.is_dir():
        raise InvalidFolderError(
            f"{folder} does not hold one base model and models on it with their reports, so it is not what the demo "
            "writes.",
            f"Make it with: hf-calib demo --out {folder}",
        )
    collect_files(base, None, None)  # so that errors name this folder and not its copy
    api = HfApi(endpoint=options.get("endpoint"), token=options.get("token"), library_name="hf_calib")
    namespace = namespace_of(namespace, api, options.get("token"))
    base_id = f"{namespace}/{base.name}"
    options["dry_run"] = dry_run
    options["again"] = again or publish_command("demo", folder, options=options, namespace=namespace)
    with tempfile.TemporaryDirectory() as scratch:
        described = Path(shutil.copytree(base, Path(scratch) / base.name))
        _describe_base(described, reports[0])
        publication = publish_adapter(described, base_id, **options)
        published = [replace(publication, contents=_kept(publication.contents, base))]
    for model, data in zip(models, reports, strict=True):
        with after_publishing([] if dry_run else [publication.repo_id for publication in published]):
            published.append(
                publish_adapter(
                    model,
                    f"{namespace}/{data.model_name}",
                    base_model=base_id,
                    base_revision=published[0].commit,
                    **options,
                )
            )
    return published


def _kept(contents: Mapping[str, Content], folder: Path) -> dict[str, Content]:
    """Return contents that outlive the copy of a folder: weights by their original path, everything else as bytes."""
    return {
        path: folder / path if path.endswith(".safetensors") else read_content(content)
        for path, content in contents.items()
    }


def _describe_base(folder: Path, adapter: CalibrationCardData) -> None:
    evaluations = tuple(
        Evaluation(evaluation.dataset, {AFTER: evaluation.reports[BASE]})
        for evaluation in adapter.evaluations
        if BASE in evaluation.reports
    )
    label = adapter.stage_labels.get(BASE)
    data = CalibrationCardData(
        model_name=folder.name,
        description=_ABOUT,
        evaluations=evaluations,
        stage_labels={AFTER: f"{label} (this model)"} if label else {},
        option_counts=adapter.option_counts,
        prompt_format=adapter.prompt_format,
        versions=adapter.versions,
        license="apache-2.0",
        language="en",
    )
    save_calibration_metadata(folder, option_counts=adapter.option_counts)
    write_card(folder, data)
