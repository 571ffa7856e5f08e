"""The files of a folder to publish: weights without pickles, tokenizer, card, picture, calibrator, reports."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..tasks import PromptFormat
from .calibration_metadata import (
    CALIBRATOR_ARRAYS,
    CALIBRATOR_FILE,
    METADATA_FILE,
    CalibrationMetadata,
    read_calibration_metadata,
)
from .card import CARD_FILE, EVALUATION_RESULTS, PICTURE_FILE
from .card_data import REPORT_FILE, CalibrationCardData, read_json
from .decisions import RESULTS_FILE as DECISION_RESULTS
from .digests import calibrator_digest, files_digest
from .errors import InvalidFolderError
from .escaping import check_nothing_private, is_hub_id
from .transfer import Content

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MODEL_CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
)
CALIBRATION_FILES = (
    CARD_FILE,
    PICTURE_FILE,
    REPORT_FILE,
    METADATA_FILE,
    CALIBRATOR_FILE,
    CALIBRATOR_ARRAYS,
    DECISION_RESULTS,
)
MAX_CONFIG_BYTES = 4 * 2**20
_MODEL_FILES = (MODEL_CONFIG, "generation_config.json", "model.safetensors.index.json")
_WEIGHTS = re.compile(r"adapter_model\.safetensors|model(-\d{5}-of-\d{5})?\.safetensors")
PICKLES = ("adapter_model.bin", "pytorch_model.bin")
# Vocabularies may hold any text; text about a run is checked for private information.
_CHECKED = {*CALIBRATION_FILES, *_MODEL_FILES, ADAPTER_CONFIG, TOKENIZER_CONFIG} - {
    PICTURE_FILE,
    CALIBRATOR_ARRAYS,
}


def collect_files(folder: Path, base_model: str | None, base_revision: str | None) -> dict[str, Content]:
    """Collect the files of a folder to publish.

    Parameters
    ----------
    folder : Path
        Of an adapter (`adapter_config.json`) or of a whole model (`config.json`).
    base_model, base_revision : str, optional
        The base model's id on the Hub for an adapter trained on a local copy.

    Returns
    -------
    dict from path in the repository to content

    Raises
    ------
    InvalidFolderError
        If weights are missing, pickled or damaged, the base model is a local path, a JSON file is broken, or the
        report's figures were measured before the weights, calibrator, prompt format or reading changed.
    PrivateInformationError
        If a file contains a token or a local path.
    """
    if not folder.is_dir():
        raise InvalidFolderError(f"There is no folder {folder}.", "Give the folder that the model was saved into.")
    names = [name for name in (*TOKENIZER_FILES, *CALIBRATION_FILES, EVALUATION_RESULTS) if (folder / name).is_file()]
    files: dict[str, Content] = {}
    if (folder / ADAPTER_CONFIG).is_file():
        files[ADAPTER_CONFIG] = _adapter_config(folder, base_model, base_revision)
        weights = [ADAPTER_WEIGHTS]
    elif (folder / MODEL_CONFIG).is_file():
        names += [name for name in _MODEL_FILES if (folder / name).is_file()]
        weights = _model_weights(folder)
    else:
        raise InvalidFolderError(
            f"{folder} holds neither {ADAPTER_CONFIG} nor {MODEL_CONFIG}, so it is not a saved adapter or model.",
            "Save into it with `trainer.save_model()` or `model.save_pretrained(...)`.",
        )
    for name in weights:
        check_weights(folder / name)
    files |= {name: folder / name for name in sorted([*names, *weights])}
    metadata = read_calibration_metadata(folder)
    if metadata is not None and metadata.calibrator:
        check_calibrator(folder, folder)
    data = CalibrationCardData.load(folder) if REPORT_FILE in files else None
    if data is not None:
        _check_figures(folder, data, metadata)
    if base_model is not None:
        if metadata is not None:
            rebased = replace(metadata, base_model=base_model, base_model_revision=base_revision)
            files[METADATA_FILE] = rebased.to_json().encode()
        if data is not None:
            files[REPORT_FILE] = data.with_base_model(base_model, base_revision).to_json().encode()
    for name, content in files.items():
        if name in _CHECKED:
            text = content.decode("utf-8") if isinstance(content, bytes) else content.read_text(encoding="utf-8")
            check_nothing_private(text, name)
    return files


def _check_figures(folder: Path, data: CalibrationCardData, metadata: CalibrationMetadata | None) -> None:
    """Reject a report whose figures are known to be of other weights, or of a model that was asked otherwise."""
    changed = []
    if data.weights is not None:
        changed += ["weights"] * (data.weights != files_digest(folder))
        changed += ["calibrator"] * (data.calibrator not in (None, calibrator_digest(folder)))
    if metadata is not None:
        if data.prompt_format is not None:
            changed += ["prompt format"] * (PromptFormat.from_dict(dict(data.prompt_format)) != metadata.prompt_format)
        changed += ["way of reading confidence"] * (data.confidence != metadata.confidence)
    if changed and data.evaluations:
        raise InvalidFolderError(
            f"The figures in {folder / REPORT_FILE} were measured before the {' and the '.join(changed)} changed.",
            f"Measure again with: hf-calib card {folder} --dataset D",
        )


def outdated_files(files: Mapping[str, Content], remote: Mapping[str, Any]) -> tuple[str, ...]:
    """Return files of an earlier publication to delete, since loading would mix them with the new ones."""
    ours = {*TOKENIZER_FILES, *CALIBRATION_FILES, EVALUATION_RESULTS, *_MODEL_FILES, ADAPTER_CONFIG, *PICKLES}
    ours -= {CARD_FILE}
    return tuple(path for path in remote if path not in files and (path in ours or _WEIGHTS.fullmatch(path)))


def check_calibrator(folder: Path, name: Any) -> None:
    """Reject a folder whose metadata mention a calibrator that is missing."""
    if not (folder / CALIBRATOR_FILE).is_file():
        raise InvalidFolderError(
            f"{METADATA_FILE} of {name} says that it was calibrated with a calibrator, but there is no "
            f"{CALIBRATOR_FILE}.",
            "Save it again: save_calibration_metadata(folder, calibrator=...).",
        )


def check_weights(path: Path) -> None:
    """Reject weights that are missing, pickled or truncated."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        pickled = [name for name in PICKLES if (path.parent / name).is_file()]
        if pickled:
            raise InvalidFolderError(
                f"{path.parent} holds its weights as a pickle ({pickled[0]}), which runs code when it is opened.",
                "Save them again with `model.save_pretrained(folder)`, which writes safetensors.",
            )
        raise InvalidFolderError(f"{path.parent} lacks {path.name}.", "Save the model into it again.")
    try:
        with safe_open(path, framework="numpy") as tensors:
            if not tensors.keys():
                raise InvalidFolderError(f"{path} holds no tensor.", "Save the model into its folder again.")
    except SafetensorError as error:
        raise InvalidFolderError(
            f"{path} is damaged or cut off ({error}).", "Save the model into its folder again."
        ) from error


def _model_weights(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    shards = sorted(set(read_json(index, MAX_CONFIG_BYTES).get("weight_map", {}).values()))
    if not shards or not all(isinstance(shard, str) and _WEIGHTS.fullmatch(shard) for shard in shards):
        raise InvalidFolderError(
            f"{index.name} lists no weight files of this folder.", "Save the model into it again."
        )
    return shards


def _adapter_config(folder: Path, base_model: str | None, base_revision: str | None) -> Content:
    path = folder / ADAPTER_CONFIG
    config = read_json(path, MAX_CONFIG_BYTES)
    named = config.get("base_model_name_or_path")
    if base_model is None and isinstance(named, str) and is_hub_id(named) and base_revision is None:
        return path
    if base_model is None and not (isinstance(named, str) and is_hub_id(named)):
        raise InvalidFolderError(
            f"The adapter in {folder.name} was trained on a base model that is not a repository on the Hub "
            f"({named!r}), so nobody else could load it.",
            "Name the published base model: --base-model NAMESPACE/NAME",
        )
    if base_model is not None:
        config["base_model_name_or_path"] = base_model
    if base_revision is not None:
        config["revision"] = base_revision
    return (json.dumps(config, indent=2, sort_keys=True) + "\n").encode()
