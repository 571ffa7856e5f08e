"""Predictions that a command needs: asked of a model, or read from where they are kept."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..confidence.backend import Backend
    from ..confidence.recorded import Recorded

PREDICTIONS_FILE = "predictions.parquet"
PROGRESS = ".progress"


def answered_by(
    options: argparse.Namespace,
    model: str | None,
    recorded: str | None,
    datasets: list[str],
    out: Path | None,
    *,
    hidden_states: bool = False,
) -> dict[str, Recorded] | None:
    """Return a model's predictions by dataset, or those of a file or folder; None on all processes but the first.

    Raises
    ------
    ValueError
        If datasets are missing or needless, or an answer is not known.
    """
    check_source(model, datasets)
    if model is None:
        assert recorded is not None
        return read_answered(recorded)
    asked = ask_model(options, model, datasets, None if out is None else out / PROGRESS, hidden_states=hidden_states)
    return None if asked is None else asked[0]


def check_source(model: str | None, datasets: list[str]) -> None:
    """Refuse a model without questions, and questions without a model."""
    if (model is None) == bool(datasets):
        raise ValueError("--model needs at least one --dataset, and predictions that exist already need none")


def read_answered(path: str) -> dict[str, Recorded]:
    """Return predictions of a file, or of the folder that `hf-calib measure` wrote."""
    from ..confidence.recorded import read_predictions

    return read_predictions(Path(path) / PREDICTIONS_FILE if Path(path).is_dir() else path)


def skipped_rows(answered: Mapping[str, Recorded]) -> dict[str, dict[str, int]]:
    """Return, for a result, how many rows of each dataset were left out; nothing where none was."""
    skipped = {name: own.skipped_rows for name, own in answered.items() if own.skipped_rows}
    return {"skipped_rows": skipped} if skipped else {}


def ask_model(
    options: argparse.Namespace,
    model: str,
    names: list[str],
    progress: Path | None,
    *,
    method_name: str | None = None,
    backend: Backend | None = None,
    hidden_states: bool = False,
) -> tuple[dict[str, Recorded], dict[str, Any]] | None:
    """Ask a model the datasets' questions, and say what exactly was run; None on all processes but the first.

    Parameters
    ----------
    options : argparse.Namespace
    model : str
    names : list of str
        Of the datasets.
    progress : path or None
        Where what was answered is kept until the end.
    method_name : str, optional
        Another way to read confidence than the options'.
    backend : Backend, optional
        The model, if it is open already.
    hidden_states : bool, default False
        Keep the hidden states at the answers' positions, for calibrators that take features. What was answered is not
        kept for another try then.

    Raises
    ------
    ValueError
        If hidden states are asked for and the options say to ask in a way that has none.
    """
    from ..confidence import Asking, Journal
    from . import asking as steps

    prompt_format = steps.prompt_format_of(options)
    name = method_name or options.confidence
    where = steps.this_process(options.device)

    def asking_of(run: dict[str, Any]) -> Asking:
        journal = None if progress is None else Journal(progress, run, where.index)
        return Asking(options.batch_size, not options.json, journal, where.index, where.count)

    if getattr(options, "free_form", None) is not None:
        settings = steps.free_form_settings(name, options)
        words = steps.load_free_form(names, options.limit)
        run = steps.describe(
            model, options, words, prompt_format, {"name": name, "matcher": options.free_form, **settings}
        )
        asking = asking_of(run)
        backend = backend or steps.open_model(model, options, where)
        answered = steps.ask_free_form(backend, words, prompt_format, settings, options.free_form, asking)
        return None if where.index else (answered, run)
    method = steps.method_of(name, options)
    datasets = steps.load_datasets(names, options)
    run = steps.describe(model, options, datasets, prompt_format, steps.settings_of(method))
    if hidden_states:
        steps.check_has_hidden_states(model, options, where)
        opened = backend or steps.open_model(model, options, where)
        return steps.ask_for_hidden_states(opened, datasets, prompt_format, options), run
    asking = asking_of(run)
    answered = steps.ask(
        backend or steps.open_model(model, options, where),
        datasets,
        prompt_format,
        method,
        asking,
        permutation_seed=options.seed if options.permute_options else None,
    )
    return None if where.index else (answered, run)
