"""Measure a model's calibration on questions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from ..reports import Measurement
from ..reports.measurement import recorded_run
from .asking import Datasets, ask
from .fitted import check_fits, fitted_on_same_questions, own_calibrator
from .grouping import groups_of
from .keeping import interruptible, save_result
from .models import ModelSource, model_source, this_process
from .settings import AskOptions, AskSettings

if TYPE_CHECKING:
    from ..calibrators.protocol import BaseCalibrator
    from ..confidence import ConfidenceMethod
    from .models import Model


def measure(
    model: Model | ModelSource,
    dataset: Datasets,
    *,
    method: str | ConfidenceMethod | None = None,
    calibrator: BaseCalibrator | str | os.PathLike[str] | None = None,
    force: bool = False,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **options: Unpack[AskOptions],
) -> Measurement:
    """Measure a model's calibration on multiple-choice questions, or on questions without options.

    Parameters
    ----------
    model : str, path, module, pair, CalibratedModel or Backend
        A Hub id or a folder of a causal language model or adapter, or a GGUF file (`model.gguf`, on the Hub
        `namespace/name:file.gguf`); `openai:http://host:port/v1` with `model_name`; a
        loaded model with `tokenizer`, or `(model, tokenizer)`; what `hf_calib.load` returns; or a source of answers,
        such as `hf_calib.confidence.ServedModel`. A model that was calibrated, whose folder or repository has a
        `hf_calib.json`, is asked with the method, prompt and calibrator that this names.
    dataset : str, path, list of Question, datasets.Dataset, list of str, or mapping
        A file, folder or Hub dataset as `hf_calib.load_questions` takes it, or questions in memory; several by their
        names; or by names of your own, `{"law": "law.jsonl", "own": questions}`. Every question needs its answer.
    method : str or ConfidenceMethod, optional
        What confidence is read off; `hf_calib.confidence.ways()` lists the names. By default what the model was
        calibrated with, or the options' letters.
    calibrator : BaseCalibrator or path, optional
        A fitted calibrator to apply to the answers, instead of one that comes with the model. The measurement without
        it is in `.before`.
    force : bool, default False
        Apply a calibrator that was fitted on another model, prompt or way of reading confidence, with a warning.
    out : path, optional
        A folder for report.json, report.html, predictions.parquet and reliability_diagram.png; with a calibrator, also
        before/, the same without it. Started again with the same folder, a stopped run resumes, and a finished one
        asks nothing.
    seed : int, default 0
        Seed of the questions drawn for `limit`, random orders, samples and the intervals' resampling.
    **options
        For a model given by name:

        - adapter: a PEFT adapter, a folder or Hub id, to put on the model.
        - model_name: a served model's name on its server.
        - concurrency: requests to a server at once, default 8.
        - dtype: number format of the weights: bf16, fp16 or fp32; by default as they were saved.
        - trust_remote_code: run Python code from the model's repository, default False.
        - device: gpu, cuda, cuda:1, mps or cpu; by default a GPU if there is one.

        For a loaded model:

        - tokenizer: its tokenizer.

        How questions are asked:

        - prompt: "plain", "mmlu", a `PromptFormat`, or a YAML or JSON file with its parts; by default what the model
          was calibrated with, or "plain".
        - chat_template: put the questions through the chat template, default False.
        - few_shot, few_shot_dataset: how many solved examples to show before each question, and where from.
        - wordings: further prompt formats, a file or a sequence; the probabilities are averaged over all.
        - permute_options: ask each question with its options in a random order, default False.
        - check_order: ask every question in so many other, random orders of its options too, and report the share of
          answers that change (`flip_rate`).
        - free_form: "exact", "contains" or "numeric": the questions have no options, and an answer is right if it
          matches so.
        - n_orders, n_samples, temperature, top_k: settings of the methods that have them.
        - max_new_tokens: maximum number of tokens in a written answer, including any train of thought; by default 32
          for questions without options, otherwise 16 for consistency and 24 for stated confidence.
        - base_model: the pre-trained model that scores the answers with `method="base-tokens"`, given like `model`; by
          default the model without its adapter.
        - columns, answer_base, on_bad_row: how the rows of all datasets are read, as `hf_calib.load_questions` takes
          it.
        - limit: largest number of questions per dataset, drawn at random with the seed.

        How the work is done:

        - batch_size: questions in one forward, default 16, or "auto": as many as the memory holds.
        - max_length: longest prompt in tokens, by default what the model allows.
        - drop_too_long: drop longer prompts with a warning instead of stopping, default False.
        - progress: show a progress bar, or print a line at intervals if there is no terminal, default True.

    Returns
    -------
    Measurement
        With `.report`, `.predictions`, `.verdict` and `.save(folder)`; under torchrun or accelerate launch, which
        share the work, on every process.

    Raises
    ------
    QuestionError
        If questions cannot be read or lack answers.
    ValueError
        If an option does not fit the model or the method, the calibrator was fitted on something else, or `out`
        holds the beginning of another run.

    Warns
    -----
    CalibratorMismatchWarning
        If the model comes with a calibrator that is not applied, since another method or prompt is given.

    Examples
    --------
    >>> import hf_calib
    >>> measured = hf_calib.measure("your/model", "allenai/openbookqa:main:test")  # doctest: +SKIP
    >>> measured.verdict  # doctest: +SKIP
    'Overconfident. It is right 61% of the time and says 78% on average (ECE 0.172, 95% interval 0.131 to 0.214).'
    >>> measured.save("report")  # doctest: +SKIP
    """
    settings = AskSettings.of(options)
    source = model if isinstance(model, ModelSource) else model_source(model, settings, this_process(settings.device))
    given = None if calibrator is None else as_calibrator(calibrator)
    fitted = given or own_calibrator(source, method, settings)
    check = None if given is None else partial(check_fits, given, force=force)

    def finish(measurement: Measurement) -> Measurement:
        return measurement if fitted is None else calibrated(measurement, fitted)

    with interruptible(out):
        return ask(
            source,
            dataset,
            method=method,
            seed=seed,
            out=out,
            hidden_states=fitted is not None and fitted.needs_features,
            check=check,
            finish=finish,
            **options,
        )


def measure_recorded(
    path: str | os.PathLike[str] | Sequence[str],
    kind: str = "predictions",
    *,
    calibrator: BaseCalibrator | str | os.PathLike[str] | None = None,
    force: bool = False,
    out: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Measurement:
    """Measure existing predictions.

    Parameters
    ----------
    path : str, path or sequence of str
        In the form that the kind's reader takes.
    kind : {"predictions", "lm_eval", "helm", "lighteval", "inspect"}, default "predictions"
        A file that `hf_calib.confidence.recorded.read_predictions` reads, lm-evaluation-harness's samples, a run
        folder of HELM, lighteval's details, or Inspect's logs.
    calibrator, force, out, seed
        As in `measure`.

    Returns
    -------
    Measurement

    Raises
    ------
    FileNotFoundError, ValueError
        If they cannot be read, an answer is unknown, or the calibrator was fitted on something else.
    """
    from ..confidence.recorded import read_predictions
    from ..confidence.recorded_helm import read_helm
    from ..confidence.recorded_inspect import read_inspect
    from ..confidence.recorded_lighteval import read_lighteval
    from ..confidence.recorded_lm_eval import read_lm_eval

    readers: dict[str, Any] = {
        "predictions": read_predictions,
        "lm_eval": read_lm_eval,
        "helm": read_helm,
        "lighteval": read_lighteval,
        "inspect": read_inspect,
    }
    if kind not in readers:
        raise ValueError(f"kind: {kind!r} is not a kind of recorded predictions; choose from {', '.join(readers)}")
    first = path if isinstance(path, str | os.PathLike) else path[0]
    run = {f"from_{kind}": str(path) if isinstance(path, str | os.PathLike) else list(path)}
    if kind == "predictions" and Path(first).is_dir():  # what `measure` saved, which says how it was asked
        saved = Measurement.load(Path(first), seed=seed)
        measurement = replace(saved, run={**saved.run, **run})
    else:
        datasets = readers[kind](path)
        measurement = Measurement(Path(first).stem, datasets, recorded_run(datasets, **run), {"seed": seed})
    if calibrator is not None:
        fitted = as_calibrator(calibrator)
        check_fits(fitted, measurement.run, force=force)
        measurement = calibrated(measurement, fitted)
    save_result(measurement, out)
    return measurement


def as_calibrator(calibrator: BaseCalibrator | str | os.PathLike[str]) -> BaseCalibrator:
    """Return a fitted calibrator for options, read from its file or folder if a path is given.

    Raises
    ------
    FileNotFoundError, ValueError
        If it cannot be read, or is a calibrator for numbers.
    """
    from ..calibrators import load_calibrator
    from ..calibrators.protocol import BaseCalibrator

    fitted: Any = load_calibrator(calibrator) if isinstance(calibrator, str | os.PathLike) else calibrator
    if not isinstance(fitted, BaseCalibrator):
        raise ValueError(f"the calibrator {fitted.name!r} is for numbers, not for options; use it in Python")
    return fitted


def calibrated(measurement: Measurement, calibrator: BaseCalibrator) -> Measurement:
    """Return the measurement of the same answers with a calibrator applied.

    A calibrator with a temperature for each subject or type has one of all questions for those without.

    Raises
    ------
    ValueError
        If the calibrator needs hidden states and the predictions have none.
    """
    from ..calibrators.grouped_temperature import GroupedTemperature
    from ..calibrators.storage import described

    groups, unknown = {}, {}
    if isinstance(calibrator, GroupedTemperature) and calibrator.needs_groups:
        for name, own in measurement.datasets.items():
            groups[name] = groups_of(replace(measurement, datasets={name: own}), calibrator.by, missing="")
            new = groups[name][~np.isin(groups[name], list(calibrator.parameters()["groups"]))]
            if len(new):
                unknown[name] = {"n": len(new), "groups": np.unique(new).tolist()}
    datasets = {
        name: replace(own, predictions=own.predictions.calibrated(calibrator, groups=groups.get(name)))
        for name, own in measurement.datasets.items()
    }
    applied = {"method": calibrator.name, **described(calibrator.parameters())}
    same = fitted_on_same_questions(calibrator, measurement.run)
    applied |= {"fitted_on_same_questions": same} if same else {}
    applied |= {"groups_not_fitted": unknown} if unknown else {}
    run = {**measurement.run, "calibrator": applied}
    return replace(measurement, datasets=datasets, run=run, before=measurement)
