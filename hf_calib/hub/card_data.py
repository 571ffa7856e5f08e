"""The data of a model card and a calibration report: measurements and settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InvalidFolderError
from .escaping import is_hub_id, public_name

if TYPE_CHECKING:
    from ..measures import CalibrationReport

REPORT_FILE = "calibration_report.json"
REPORT_FORMAT_VERSION = 1
# A report holds a few hundred numbers per set and subject; a larger file is not a report.
MAX_REPORT_BYTES = 32 * 2**20

BASE, BEFORE, SCALED, AFTER, CALIBRATED = "base", "before", "temperature_scaled", "after", "calibrated"
STAGES = (BASE, BEFORE, SCALED, AFTER, CALIBRATED)
# The label of the stage before a training that was not for calibration.
BEFORE_TRAINING = "Before training"

# The name of calibration data that are tokens of the preference pairs, not questions.
PREFERENCE_PAIRS = "preference-pairs"

# Arguments with places, people or secrets, which configure a run rather than a method.
_UNPUBLISHED_SETTINGS = {
    "hub_token", "push_to_hub_token", "output_dir", "logging_dir", "run_name", "resume_from_checkpoint",
    "hub_model_id", "push_to_hub_model_id", "push_to_hub_organization", "deepspeed", "project", "trackio_space_id",
}  # fmt: skip


@dataclass(frozen=True)
class DatasetReference:
    """A reference to data, exact enough to load them again.

    Parameters
    ----------
    name : str
        Id on the Hub (`"cais/mmlu"`) or a file's name; of a local path only the last part is kept.
    config, split, revision : str, optional
        As `datasets.load_dataset` takes them; the revision is the commit that was read.
    size : int, optional
        Number of rows used.
    task_id : str, optional
        The registered benchmark's task on the Hub, if this set is one, or several separated by commas; then the
        accuracy, or the measure that a task is named after, is also written to an evaluation-result file.
    skipped : int, optional
        Number of unreadable rows that were left out.
    origin : str, optional
        How a model wrote the data, or what else the data were used for.
    sample_of, sample_seed : int, optional
        The number of rows that a random sample was drawn from, and the seed of the draw; None if all rows were used.
    sha256 : str, optional
        Digest of all questions, from which a sample may have been drawn.
    """

    name: str
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    size: int | None = None
    task_id: str | None = None
    skipped: int | None = None
    origin: str | None = None
    sample_of: int | None = None
    sample_seed: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", public_name(str(self.name)))

    @classmethod
    def parse(cls, source: str | os.PathLike[str], size: int | None = None) -> DatasetReference:
        """Parse an argument of `hf_calib.tasks.load_questions`: a path, or `name[:config[:split]]` on the Hub."""
        if Path(source).exists():
            return cls(Path(source).name, size=size)
        name, *parts = str(source).split(":", 2)  # a split may contain a colon, test[:100]
        config, split = (*parts, None, None)[:2]
        return cls(name, config=config or None, split=split or None, size=size)

    @property
    def task_ids(self) -> tuple[str, ...]:
        """The benchmark's tasks, one by one."""
        return tuple(own.strip() for own in (self.task_id or "").split(",") if own.strip())

    @property
    def on_hub(self) -> bool:
        """Whether the name is a valid id on the Hub, with its namespace."""
        return "/" in self.name and is_hub_id(self.name)

    def is_same_set(self, other: DatasetReference) -> bool:
        """Whether the Hub would treat results on both as results on one set."""
        return all(getattr(self, key) == getattr(other, key) for key in ("name", "config", "split", "revision"))

    def __str__(self) -> str:
        parts = [self.name, *(part for part in (self.config, self.split) if part)]
        return ", ".join(parts)


@dataclass(frozen=True)
class Evaluation:
    """The reports of one question set, before and after.

    Parameters
    ----------
    dataset : DatasetReference
        The questions.
    reports : mapping from stage to CalibrationReport
        Stages are `"base"` (the pre-trained model), `"before"` (the aligned model before calibration, or another model
        compared with), `"temperature_scaled"` (that model with temperature scaling, the baseline), `"after"` (the
        card's model, always present) and `"calibrated"` (the same with a calibrator, cross-validated).
    in_domain : bool, optional
        Whether questions of this kind were in the calibration data.
    """

    dataset: DatasetReference
    reports: Mapping[str, CalibrationReport]
    in_domain: bool | None = None

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages with reports, in chronological order."""
        return tuple(stage for stage in STAGES if stage in self.reports)

    def __post_init__(self) -> None:
        unknown = set(self.reports) - set(STAGES)
        if unknown or AFTER not in self.reports:
            problem = f"unknown stages {sorted(unknown)}" if unknown else 'no report for the stage "after"'
            raise ValueError(f"The evaluation on {self.dataset} has {problem}; stages are {', '.join(STAGES)}.")


@dataclass(frozen=True)
class CalibrationCardData:
    """The content of a model card, collected by a trainer's callback or read from `calibration_report.json`.

    Parameters
    ----------
    model_name : str
        The card's title; of a local path, only the last part is kept.
    hub_model_id : str, optional
        The repository, `"namespace/name"`, for the lines that show how to load it.
    description : str, optional
        A description of the model, if "an adapter of its base model" is not enough.
    base_model, base_model_revision : str, optional
        Id on the Hub and the commit that was loaded. Of a local path, only the last part is published.
    base_model_is_local : bool, optional
        By default inferred from `base_model`.
    alignment : str, optional
        The model's alignment method, before or during calibration: "DPO", "PPO", ...
    preference_data, calibration_data : DatasetReference, optional
        The pairs it was aligned on, and the questions (or `PREFERENCE_PAIRS`) it was calibrated on.
    method : str, optional
        The name of the calibration method.
    settings : mapping, optional
        Hyperparameters that differ from their defaults. Those with places, people or secrets are left out.
    evaluations : sequence of Evaluation
        One for each question set, the most important one first.
    weights : str, optional
        Digest of the weights that `hf-calib card` measured, used to detect changes of the weights.
    base_weights : str, optional
        For an adapter, the digest of its base model's weights if the base model is a local folder.
    calibrator : str, optional
        Digest of the calibrator that `hf-calib card` measured the model with, or "none".
    stage_labels : mapping, optional
        Names of the stages in tables, e.g. `{"before": "DPO"}`.
    regime : str, optional
        The verdict on the calibratable or non-calibratable regime, as a sentence.
    prompt_format : mapping, optional
        The prompt the options' probabilities were read with.
    confidence : str, default "letters"
        What confidence was read off, a name of `hf_calib.confidence.ways()`.
    free_form : bool, default False
        Whether the questions have no options.
    option_counts : tuple of int
        The calibration questions' numbers of options.
    subjects : tuple of str
        The calibration questions' subjects.
    label_free : bool, optional
        Whether the calibration questions had no answers.
    adapter_type : str, optional
        Such as "LoRA"; None for full weights.
    hardware : str, optional
        For example "1 x NVIDIA H100" or "CPU, 2 threads".
    duration_seconds, energy_kwh : float, optional
        Of the training.
    versions : mapping from library to version
    license, language : str, optional
        The Hub's identifiers, e.g. "apache-2.0" and "en".
    tags : tuple of str
        More tags for the Hub.
    """

    model_name: str
    evaluations: tuple[Evaluation, ...] = ()
    weights: str | None = None
    base_weights: str | None = None
    calibrator: str | None = None
    hub_model_id: str | None = None
    description: str | None = None
    base_model: str | None = None
    base_model_revision: str | None = None
    base_model_is_local: bool | None = None
    alignment: str | None = None
    preference_data: DatasetReference | None = None
    calibration_data: DatasetReference | None = None
    method: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    stage_labels: Mapping[str, str] = field(default_factory=dict)
    regime: str | None = None
    prompt_format: Mapping[str, Any] | None = None
    confidence: str = "letters"
    free_form: bool = False
    option_counts: tuple[int, ...] = ()
    subjects: tuple[str, ...] = ()
    label_free: bool | None = None
    adapter_type: str | None = None
    hardware: str | None = None
    duration_seconds: float | None = None
    energy_kwh: float | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    license: str | None = None
    language: str | None = None
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not str(self.model_name).strip():
            raise ValueError("A card needs a model_name.")
        base_model, is_local = self.base_model, self.base_model_is_local
        if is_local is None and base_model is not None:
            is_local = not is_hub_id(base_model)
        settings = {name: _public_setting(value) for name, value in self.settings.items() if _is_method_setting(name)}
        for name, value in {
            "model_name": public_name(str(self.model_name)),
            "base_model": None if base_model is None else public_name(base_model),
            "base_model_is_local": is_local,
            "settings": settings,
            "evaluations": tuple(self.evaluations),
            "option_counts": tuple(self.option_counts),
            "subjects": tuple(self.subjects),
            "tags": tuple(self.tags),
        }.items():
            object.__setattr__(self, name, value)
        datasets = [evaluation.dataset for evaluation in self.evaluations]
        for dataset in datasets:
            if sum(dataset.is_same_set(other) for other in datasets) > 1:
                raise ValueError(
                    f"The evaluation on {dataset} appears twice; give one report per stage for each set of questions."
                )
        if self.hub_model_id is not None and not is_hub_id(self.hub_model_id):
            raise ValueError(f"hub_model_id must be 'namespace/name' on the Hub, got {self.hub_model_id!r}.")

    @property
    def base_model_on_hub(self) -> bool:
        """Whether the base model's name is an id on the Hub."""
        return self.base_model is not None and not self.base_model_is_local

    def stage_label(self, stage: str) -> str:
        """Return a stage's name in tables."""
        before = "Before calibration" if self.method or self.calibration_data else "Compared model"
        defaults = {BASE: "Base model", BEFORE: before, AFTER: "This model"}
        defaults[SCALED] = f"{self.stage_labels.get(BEFORE, defaults[BEFORE])} + temperature scaling"
        defaults[CALIBRATED] = "This model, calibrated"
        return self.stage_labels.get(stage, defaults[stage])

    def stage_in_sentence(self, stage: str) -> str:
        """Return a stage's name for use inside a sentence, where default names start with a small letter."""
        label = self.stage_label(stage)
        given = self.stage_labels.get(stage) not in (None, BEFORE_TRAINING)
        return label if given or stage == SCALED else label[0].lower() + label[1:]

    def to_dict(self) -> dict[str, Any]:
        """Return the data as JSON values, which `from_dict` reads."""
        result = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        result["evaluations"] = [
            {
                "dataset": asdict(evaluation.dataset),
                "in_domain": evaluation.in_domain,
                "reports": {stage: evaluation.reports[stage].to_dict() for stage in evaluation.stages},
            }
            for evaluation in self.evaluations
        ]
        for name in ("preference_data", "calibration_data"):
            result[name] = None if result[name] is None else asdict(result[name])
        for name in ("settings", "stage_labels", "versions"):
            result[name] = dict(result[name])
        return {name: value for name, value in result.items() if value not in (None, (), [], {})}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CalibrationCardData:
        """Return the data from the values of `to_dict`.

        Raises
        ------
        ValueError
            If a key is unknown, missing or of the wrong kind, naming it.
        """
        from ..measures import CalibrationReport

        unknown = set(values) - {entry.name for entry in fields(cls)}
        if unknown:
            raise ValueError(f"Unknown keys in the card's data: {', '.join(sorted(map(str, unknown)))}.")
        result = dict(values)
        try:
            result["evaluations"] = tuple(
                Evaluation(
                    dataset=DatasetReference(**entry["dataset"]),
                    in_domain=entry.get("in_domain"),
                    reports={s: CalibrationReport.from_dict(report) for s, report in entry["reports"].items()},
                )
                for entry in result.get("evaluations", ())
            )
            for name in ("preference_data", "calibration_data"):
                if result.get(name) is not None:
                    result[name] = DatasetReference(**result[name])
            return cls(**result)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"The card's data are not in the form that to_dict gives: {error!r}.") from error

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `calibration_report.json` into a folder, deterministically."""
        path = Path(folder) / REPORT_FILE
        path.write_text(self.to_json(), encoding="utf-8")
        return path

    def to_json(self) -> str:
        """Return the text of `calibration_report.json`."""
        content = {"format_version": REPORT_FORMAT_VERSION, **self.to_dict()}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def with_base_model(self, base_model: str, revision: str | None) -> CalibrationCardData:
        """Return the data with the base model's id on the Hub, for a model that was trained on a local copy."""
        return replace(self, base_model=base_model, base_model_revision=revision, base_model_is_local=False)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> CalibrationCardData:
        """Read `calibration_report.json` from a folder.

        Raises
        ------
        InvalidFolderError
            If the file is missing, too large, invalid JSON, of a newer format, or has other keys.
        """
        path = Path(folder) / REPORT_FILE
        content = read_versioned_json(path, MAX_REPORT_BYTES, REPORT_FORMAT_VERSION)
        try:
            return cls.from_dict(content)
        except ValueError as error:
            raise InvalidFolderError(f"{path.name} is not a calibration report: {error}") from error


def read_versioned_json(path: Path, max_bytes: int, format_version: int) -> dict[str, Any]:
    """Read a JSON object that hf_calib wrote, as `read_json` does, and check its format version."""
    content = read_json(path, max_bytes)
    version = content.pop("format_version", None)
    if version != format_version:
        raise InvalidFolderError(
            f"{path.name} has format version {version!r}; this hf_calib reads {format_version}.",
            "Upgrade with: pip install --upgrade hf-calib",
        )
    return content


def read_json(path: Path, max_bytes: int) -> dict[str, Any]:
    """Read a JSON object from a file, which may come from an untrusted source.

    Raises
    ------
    InvalidFolderError
        If the file is missing, larger than `max_bytes`, nested too deeply, or not a JSON object.
    """
    if not path.is_file():
        raise InvalidFolderError(f"There is no {path.name} in {path.parent.name or path.parent}.")
    size = path.stat().st_size
    if size > max_bytes:
        raise InvalidFolderError(f"{path.name} has {size:,} bytes; no such file needs more than {max_bytes:,}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidFolderError(f"{path.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidFolderError(f"{path.name} holds a {type(content).__name__}, not an object.")
    return content


def _is_method_setting(name: str) -> bool:
    return name not in _UNPUBLISHED_SETTINGS and "token" not in name.split("_")


def _public_setting(value: Any) -> Any:
    """Return a setting as a JSON value without local folders."""
    if isinstance(value, Mapping):
        return {str(key): _public_setting(entry) for key, entry in value.items() if _is_method_setting(str(key))}
    if isinstance(value, (list, tuple, set, frozenset)):
        entries = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [_public_setting(entry) for entry in entries]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else str(value)
    return public_name(str(getattr(value, "value", value)))
