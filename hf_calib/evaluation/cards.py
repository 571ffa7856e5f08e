"""Cards of models that were trained elsewhere, measured here."""

from __future__ import annotations

import os
import warnings
from dataclasses import astuple, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, cast

from ..confidence import confidence_method
from ..hub import (
    CalibratedModel,
    CalibrationCardData,
    CalibrationWarning,
    DatasetReference,
    Evaluation,
    dataset_reference,
    load,
    read_calibration_metadata,
    save_calibration_metadata,
    write_card,
)
from ..hub.calibration_metadata import CALIBRATOR_FILE, METADATA_FILE, has_calibrator
from ..hub.card import CARD_FILE, check_card, drafted_tags
from ..hub.card_data import AFTER, BASE, BEFORE, CALIBRATED, REPORT_FILE, SCALED, read_json
from ..hub.digests import calibrator_digest
from ..hub.errors import InvalidFolderError
from ..hub.folders import ADAPTER_CONFIG, MAX_CONFIG_BYTES
from ..tasks import PromptFormat, load_questions, require_answers
from ..tasks.columns import Columns
from ..tasks.drawing import questions_digest, sample
from .diagnosing import diagnose, is_same_source
from .digests import folder_digests
from .fitted import check_fits
from .measuring import as_calibrator, measure
from .provenance import versions_of
from .regime_text import regime_sample, regime_text

if TYPE_CHECKING:
    from peft import PeftModel

    from ..calibrators.protocol import BaseCalibrator
    from ..measures import CalibrationReport
    from .settings import AskOptions

# Far below the precision of a card.
_ROUNDING = 1e-5
# Figures that follow from those of another stage, and are outdated when these change.
_DERIVED = {SCALED: BEFORE, CALIBRATED: AFTER}
_VERSIONS_OF = ("hf-calib", "transformers", "peft", "datasets", "torch")


def measure_and_write_card(
    folder: str | os.PathLike[str],
    dataset: str | Path,
    *,
    before: str | None = None,
    prompt_format: PromptFormat | None = None,
    calibrator: str | os.PathLike[str] | None = None,
    force: bool = False,
    in_domain: bool | None = None,
    task_id: str | None = None,
    trained_on: str | Path | None = None,
    columns: Columns | None = None,
    answer_base: int | None = None,
    on_bad_row: str = "error",
    limit: int | None = None,
    seed: int = 0,
    facts: dict[str, Any] | None = None,
    batch_size: int = 16,
    max_length: int | None = None,
    drop_too_long: bool = False,
    progress: bool = False,
    **load_options: Any,
) -> Path:
    """Measure a saved adapter or model on a question set, and write its card, report and `hf_calib.json`.

    Measured are the model, with its calibrator if it has one; for an adapter, also the base model; and the model in
    `before`, if given. An existing card keeps text that people wrote and results on other sets.

    Parameters
    ----------
    folder : path
        Of the adapter or model.
    dataset : str or path
        As in `hf_calib.tasks.load_questions`; every question needs its answer.
    before : str, optional
        Another model to compare with, such as the aligned one before calibration: a Hub id or a folder. The card uses
        this name.
    prompt_format : PromptFormat, optional
        Prompt format, if the folder's `hf_calib.json` does not name one; by default the plain prompt.
    calibrator : path, optional
        A fitted calibrator's file, or the folder that `hf-calib calibrate` wrote. It is saved with the model,
        replacing an existing one, and the model is measured with it.
    force : bool, default False
        Accept, with a warning, a calibrator that was fitted on another model, prompt or way of reading confidence.
    in_domain : bool, optional
        Whether the questions are of the kind that the model was calibrated on.
    task_id : str, optional
        The registered benchmark's task on the Hub, if the questions are one, or several separated by commas; then the
        accuracy, or the measure that a task is named after ("accuracy,brier,ece"), is also written as an
        evaluation-result file.
    trained_on : str or path, optional
        The questions with answers that the model was fine-tuned on. At most a thousand of them, drawn at random, are
        asked too, and the card states the regime (see `hf_calib.diagnose`).
    columns, answer_base, on_bad_row
        How the rows of `dataset` and `trained_on` are read, as in `hf_calib.tasks.load_questions`. The card states the
        number of skipped rows.
    limit : int, optional
        Largest number of questions of `dataset`, drawn at random.
    seed : int, default 0
        Seed of that draw and of the intervals' resampling.
    facts : dict, optional
        Fields of `CalibrationCardData` that cannot be measured: alignment, method, license, ...
    batch_size, max_length, drop_too_long, progress
        As in `hf_calib.measure`.
    **load_options
        Of `hf_calib.load`.

    Returns
    -------
    Path
        Of the card.

    Raises
    ------
    InvalidFolderError
        If the folder holds no adapter or model, or its `hf_calib.json` names a different prompt format.
    CardConflictError
        If the existing card's markers or metadata are damaged; then nothing is measured.
    hf_calib.tasks.QuestionError
        If the questions cannot be read or lack answers.
    ValueError
        If `trained_on` equals `dataset`, `task_id` is given without a dataset on the Hub, the calibrator was fitted on
        something else, the card has figures on other questions in a file of the same name, or on another set that
        were measured before the weights, the base model, the calibrator, the prompt format or the way of reading
        confidence changed, or it compares with another model on another set.
    """
    if trained_on is not None and is_same_source(dataset, trained_on):
        raise ValueError(
            f"trained_on: {trained_on} is also the dataset to measure on, and the regime shows only on new questions; "
            "give another dataset"
        )
    if task_id is not None and not DatasetReference.parse(dataset).on_hub:
        raise ValueError(
            f"task_id: {dataset} is not a dataset on the Hub, so its results belong to no benchmark; give the "
            "benchmark as namespace/name[:config[:split]], or leave the task out"
        )
    folder = Path(folder)
    check_card(folder / CARD_FILE)
    metadata = read_calibration_metadata(folder)
    if metadata is not None and prompt_format not in (None, metadata.prompt_format):
        raise InvalidFolderError(
            f"{METADATA_FILE} in {folder} records another prompt format than the one given, so the card's figures "
            "would not be those of the model that `hf_calib.load` returns.",
            "Leave the prompt format out, or measure another one with: hf-calib measure",
        )
    if metadata is None and calibrator is None and (folder / CALIBRATOR_FILE).exists():
        raise ValueError(
            f"calibrator: {folder / CALIBRATOR_FILE} is there, but no {METADATA_FILE} says that it belongs to the "
            f"model; pass --calibrator {folder} to use it, or move it elsewhere"
        )
    reading: dict[str, Any] = {"columns": columns, "answer_base": answer_base, "on_bad_row": on_bad_row}
    every = load_questions(dataset, **reading)
    questions = sample(every, limit, seed)
    require_answers(questions, "measuring calibration")
    set_measured = replace(dataset_reference(questions, size=len(questions)), sha256=questions_digest(every))
    _check_file_names(folder, set_measured)
    with warnings.catch_warnings():
        # A model that was trained elsewhere has no `hf_calib.json` yet; it is written below.
        warnings.simplefilter("ignore", CalibrationWarning)
        model = load(folder, prompt_format=prompt_format, **load_options)
    fitted = None if calibrator is None else as_calibrator(calibrator)
    identity = {**folder_digests(str(folder)), "base_revision": model.base_revision}
    _check_other_sets(folder, set_measured, model, identity, fitted)
    if fitted is not None:
        own: dict[str, Any] = {
            "model": str(folder),
            **identity,
            "prompt_format": model.prompt_format.to_dict(),
            "confidence": confidence_method(model.read_by).to_dict(),
            "permute_options": False,
        }
        check_fits(fitted, own, force=force)
        model = replace(model, calibrator=fitted)
    options: AskOptions = {
        "batch_size": batch_size,
        "max_length": max_length,
        "drop_too_long": drop_too_long,
        "progress": progress,
    }

    def measured(own: CalibratedModel) -> CalibrationReport:
        return measure(own, {str(dataset): questions}, method=model.read_by, seed=seed, **options).report

    facts = {**(facts or {}), "weights": identity["weights"], "base_weights": identity["base_weights"]}
    if model.base_revision is not None:
        facts["base_model_revision"] = model.base_revision
    if before is not None:
        facts["stage_labels"] = _labels_with_before(folder, set_measured, before)
    model.warn_about_option_counts(questions)
    reports = {AFTER: measured(model)}
    plain = replace(model, calibrator=None)
    if (folder / ADAPTER_CONFIG).exists():
        with cast("PeftModel", model.model).disable_adapter():
            reports[_stage_under_adapter(folder)] = measured(plain)
    if before is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CalibrationWarning)
            other = load(before, prompt_format=model.prompt_format, **load_options)
        reports[BEFORE] = measured(other)
    reference = replace(set_measured, size=reports[AFTER].n, task_id=task_id)
    if trained_on is not None:
        known = load_questions(trained_on, **reading)
        require_answers(known, "telling the regime")
        trained = [known[i] for i in regime_sample(len(known))]
        facts["regime"] = regime_text(diagnose(trained, questions, model=plain, **options), len(known), reference)
    counts = metadata.option_counts if metadata else tuple(sorted({len(question.choices) for question in questions}))
    data = _merged(folder, model, Evaluation(reference, reports, in_domain), counts, facts)
    if metadata is None or fitted is not None:
        save_calibration_metadata(
            folder,
            prompt_format=model.prompt_format,
            confidence=model.read_by,
            option_counts=counts,
            base_model=data.base_model if data.base_model_on_hub else None,
            base_model_revision=data.base_model_revision,
            calibrator=fitted,
        )
    if data.weights is not None:
        data = replace(data, calibrator=calibrator_digest(folder))
    return write_card(folder, data)


def _check_file_names(folder: Path, dataset: DatasetReference) -> None:
    """Raise a ValueError if the card has figures on other questions that a file of the same name holds."""
    if not (folder / REPORT_FILE).exists() or dataset.on_hub or dataset.revision is not None:
        return
    for own in CalibrationCardData.load(folder).evaluations:
        if own.dataset.is_same_set(dataset) and own.dataset.sha256 not in (None, dataset.sha256):
            raise ValueError(
                f"dataset: the card in {folder} already has figures on different questions under the name "
                f"{dataset.name}. To keep both, rename the file; to replace the figures, delete their entry from "
                f'"evaluations" in {folder / REPORT_FILE}'
            )


def _check_other_sets(
    folder: Path,
    dataset: DatasetReference,
    model: CalibratedModel,
    identity: dict[str, str | None],
    fitted: BaseCalibrator | None,
) -> None:
    """Raise a ValueError if the card's figures on other sets are of other weights, or of a model asked otherwise."""
    if not (folder / REPORT_FILE).exists():
        return
    data = CalibrationCardData.load(folder)
    others = [str(own.dataset) for own in data.evaluations if not own.dataset.is_same_set(dataset)]
    changed = ["weights"] * (data.weights not in (None, identity["weights"]))
    changed += ["base model"] * _base_changed(data, identity["base_weights"], identity["base_revision"])
    new_calibrator = fitted is not None and not _is_saved(fitted, folder)
    added_or_removed = data.calibrator not in (None, calibrator_digest(folder))
    changed += ["calibrator"] * (new_calibrator or added_or_removed)
    changed += _changes_in_asking(data, model)
    if others and changed:
        raise ValueError(
            f"{folder / REPORT_FILE} has figures on {', '.join(others)} that were measured before the "
            f"{' and the '.join(changed)} changed; delete it and measure all sets again"
        )


def _base_changed(data: CalibrationCardData, base_weights: str | None, base_revision: str | None) -> bool:
    """Return whether the model under an adapter is known to differ from the one in a report."""
    known = ((data.base_weights, base_weights), (data.base_model_revision, base_revision))
    return any(None not in pair and pair[0] != pair[1] for pair in known)


def _changes_in_asking(data: CalibrationCardData, model: CalibratedModel) -> list[str]:
    """Return what a report records otherwise than a model is asked now."""
    changed = ["prompt format"] * (data.prompt_format not in (None, model.prompt_format.to_dict()))
    return changed + ["way of reading confidence"] * (data.confidence != model.read_by)


def _is_saved(calibrator: BaseCalibrator, folder: Path) -> bool:
    """Return whether a calibrator is the one that is saved with the model in a folder."""
    if not has_calibrator(folder):
        return False
    with TemporaryDirectory() as scratch:
        calibrator.save(Path(scratch) / CALIBRATOR_FILE)
        return all(
            (folder / file.name).is_file() and (folder / file.name).read_bytes() == file.read_bytes()
            for file in Path(scratch).iterdir()
        )


def _stage_under_adapter(folder: Path) -> str:
    """Return what the model under an adapter is: the base model, or the aligned one that the adapter calibrates.

    It is the latter if a trainer's report has figures before and after calibration but none of a base model.
    """
    if not (folder / REPORT_FILE).exists():
        return BASE
    known = [evaluation.reports for evaluation in CalibrationCardData.load(folder).evaluations]
    return BEFORE if any(BEFORE in reports and BASE not in reports for reports in known) else BASE


def _labels_with_before(folder: Path, dataset: DatasetReference, before: str) -> dict[str, str]:
    """Return the card's names of the stages, including the model to compare with.

    Raises
    ------
    ValueError
        If the card compares with a different model on another set; a card has only one name for it.
    """
    name = Path(before).name if Path(before).exists() else before
    if not (folder / REPORT_FILE).exists():
        return {BEFORE: name}
    data = CalibrationCardData.load(folder)
    labels = dict(data.stage_labels)
    others = [own for own in data.evaluations if BEFORE in own.reports and not own.dataset.is_same_set(dataset)]
    if not others:
        return labels | {BEFORE: name}
    known = labels.get(BEFORE)  # a trainer's card gives none: it compares with the model before calibration
    if known not in (None, name):
        raise ValueError(
            f"before: the card in {folder} compares with {known} on {others[0].dataset}, and this run with {name}; "
            f"compare with {known} here too, or delete {REPORT_FILE} there and measure all sets again"
        )
    return labels


def _merged(
    folder: Path,
    model: CalibratedModel,
    evaluation: Evaluation,
    option_counts: tuple[int, ...],
    facts: dict[str, Any],
) -> CalibrationCardData:
    """Add an evaluation to the folder's report, replacing one on the same set, or start a report."""
    versions = versions_of(_VERSIONS_OF)
    if (folder / REPORT_FILE).exists():
        data = CalibrationCardData.load(folder)
        asked_otherwise = bool(_changes_in_asking(data, model))
        evaluations = list(data.evaluations)
        same = [place for place, known in enumerate(evaluations) if known.dataset.is_same_set(evaluation.dataset)]
        if same:
            known = evaluations[same[0]]
            # Figures that cannot be measured from this folder are kept if they are of the same questions and prompts,
            # as are those that did not change.
            news = {
                stage: report
                for stage, report in evaluation.reports.items()
                if stage not in known.reports or not _agree(known.reports[stage], report)
            }
            same_questions = _same_questions(known, evaluation) and not asked_otherwise
            kept = {
                stage: report
                for stage, report in known.reports.items()
                if stage in evaluation.reports or (same_questions and _DERIVED.get(stage) not in news)
            }
            reports = {**kept, **news}
            in_domain = known.in_domain if evaluation.in_domain is None else evaluation.in_domain
            dataset = replace(evaluation.dataset, task_id=evaluation.dataset.task_id or known.dataset.task_id)
            evaluations[same[0]] = Evaluation(dataset, reports, in_domain)
        else:
            evaluations.append(evaluation)
        changes: dict[str, Any] = {"prompt_format": model.prompt_format.to_dict(), "confidence": model.read_by}
        if len(evaluations) == 1 and data.versions.keys() <= versions.keys():  # a trainer's are those of the training
            changes["versions"] = versions
        base_changed = _base_changed(data, facts["base_weights"], facts.get("base_model_revision"))
        if asked_otherwise or base_changed or data.weights not in (None, facts["weights"]):
            changes["regime"] = None
        changes |= facts
        if data.weights is None:  # a trainer's report, which stays the same if nothing else changed
            del changes["weights"], changes["base_weights"]
        return replace(data, evaluations=tuple(evaluations), **changes)
    adapter_type = base_model = None
    if (folder / ADAPTER_CONFIG).exists():
        config = read_json(folder / ADAPTER_CONFIG, MAX_CONFIG_BYTES)
        kind = str(config.get("peft_type", "adapter"))
        adapter_type = {"LORA": "LoRA"}.get(kind, kind)
        base_model = config.get("base_model_name_or_path")
        if not isinstance(base_model, str):
            raise InvalidFolderError(f"{ADAPTER_CONFIG} in {folder} names no base model.")
    values = {
        "model_name": folder.absolute().name,
        "base_model": base_model,
        "adapter_type": adapter_type,
        "prompt_format": model.prompt_format.to_dict(),
        "confidence": model.read_by,
        "option_counts": option_counts,
        "tags": drafted_tags(folder / CARD_FILE),
        "versions": versions,
        "evaluations": (evaluation,),
    }
    return CalibrationCardData(**{**values, **facts})


def _same_questions(known: Evaluation, measured: Evaluation) -> bool:
    """Return whether two evaluations on a set are of the same questions, as far as that is recorded."""
    one, other = known.dataset, measured.dataset
    if None not in (one.sha256, other.sha256) and one.sha256 != other.sha256:
        return False
    same_sample = (one.sample_of, one.sample_seed) == (other.sample_of, other.sample_seed)
    return same_sample and known.reports[AFTER].n == measured.reports[AFTER].n


def _agree(known: CalibrationReport, measured: CalibrationReport) -> bool:
    """Return whether two reports on a set differ only by rounding, as with another batch size.

    Only continuous measures are compared; those based on bins or ranks may jump.
    """
    if (known.n, known.measures.keys()) != (measured.n, measured.measures.keys()):
        return False
    if [finding.code for finding in known.warnings] != [finding.code for finding in measured.warnings]:
        return False
    return all(
        abs(one - other) <= _ROUNDING if one is not None and other is not None else one is other
        for name in ("accuracy", "confidence", "nll", "brier")
        for one, other in zip(astuple(known.measures[name]), astuple(measured.measures[name]), strict=True)
    )
