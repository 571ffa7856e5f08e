"""Load the datasets that a training script's options name: on the Hub, in a file or in a folder."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..tasks import as_questions, is_question_layout, load_questions, parse_columns
from ..tasks.files import file_rows
from ..tasks.loading import is_path, require_hub_dataset
from ..trainers.dataset_layouts import DatasetError, as_trl_dataset, column_names
from ..trainers.pair_positions import PAIRS
from ..trainers.self_made import SELF

_BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".tsv": "csv", ".parquet": "parquet"}

PREFERENCE_COLUMNS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"))
"""Columns of preference pairs. A missing prompt is the text that both answers begin with."""

UNPAIRED_COLUMNS = (("prompt", "completion", "label"), *PREFERENCE_COLUMNS)
"""Columns of a dataset for KTO. Preference pairs are split into wanted and unwanted completions."""

PROMPT_COLUMNS = (("prompt",),)
"""Columns of a dataset for a trainer that generates its own answers. Free-form questions become prompts."""


def text_columns(text_field: str = "text") -> tuple[tuple[str, ...], ...]:
    """Return the sets of columns of which a dataset for supervised fine-tuning has one."""
    return (("prompt", "completion"), ("messages",), ("conversations",), (text_field,), ("input_ids",))


def load_splits(name: str, *, config: str | None = None, streaming: bool = False) -> Mapping[str, Any]:
    """Load a training dataset with all its splits.

    Parameters
    ----------
    name : str
        A JSON, JSON Lines, CSV, TSV or Parquet file, which is one split, "train"; a folder of files of one kind,
        with the splits that `datasets` finds in their names, or one written by `save_to_disk`; or a dataset's name
        on the Hub. A CSV's fields are text, whatever they look like.
    config : str, optional
        Which part of a Hub dataset.
    streaming : bool, default False
        As `datasets.load_dataset` takes it.

    Returns
    -------
    mapping from split to datasets.Dataset or datasets.IterableDataset

    Raises
    ------
    DatasetError
        If a file is of another kind, a folder mixes kinds or is empty, or a file cannot be read.
    FileNotFoundError
        If the name looks like a path and nothing is there.
    """
    from datasets import Dataset, load_dataset, load_from_disk
    from datasets.exceptions import DatasetGenerationError

    path = Path(name).expanduser()
    if not path.exists():
        if is_path(name):
            raise FileNotFoundError(f"there is no file or folder {name!r} to read the dataset from")
        require_hub_dataset(name)
        return load_dataset(name, name=config, streaming=streaming)
    if config is not None:
        raise DatasetError(f"dataset_config {config!r} is given, but {name!r} is on disk and has none; leave it out")
    if path.is_dir() and _is_saved(path):
        saved = load_from_disk(str(path))
        return {"train": saved} if isinstance(saved, Dataset) else saved
    files = _data_files(path)
    suffix = files[0].suffix.lower()
    options: dict[str, Any] = {"data_dir": str(path)} if path.is_dir() else {"data_files": {"train": str(path)}}
    if _BUILDERS[suffix] == "csv":
        options |= _all_text(files[0], "\t" if suffix == ".tsv" else ",")
    if not any(file.stat().st_size for file in files):
        raise DatasetError(f"{name} is empty; give a dataset with at least one row")
    try:
        return load_dataset(_BUILDERS[suffix], streaming=streaming, **options)
    except DatasetGenerationError as error:
        raise DatasetError(f"{name} cannot be read as {suffix[1:]}: {error.__cause__ or error}") from error
    except ValueError as error:
        if "corresponds to no data" not in str(error):
            raise
        raise DatasetError(f"{name} holds no row; give a dataset with at least one") from None


def published_name(name: str | None) -> str | None:
    """Return a dataset's name as a card may show it: only the last part of a local path."""
    return Path(name).name if name is not None and Path(name).expanduser().exists() else name


def training_datasets(
    script_args: Any, training_args: Any, dataset_args: Any, formats: Iterable[tuple[str, ...]]
) -> tuple[Any, Any]:
    """Load a script's training and evaluation datasets, as TRL's scripts do, convert them where needed and check them.

    Parameters
    ----------
    script_args : CalibrationScriptArguments
    training_args : transformers.TrainingArguments
    dataset_args : trl.DatasetMixtureConfig
    formats : iterable of tuple of str
        The sets of columns of which a dataset must have one.

    Returns
    -------
    train_dataset, eval_dataset
        The latter is `None` where the trainer does not evaluate, or has only calibration questions to evaluate on.

    Raises
    ------
    DatasetError
        If no dataset is named, a split is missing or empty, the columns fit no format, or a value is missing.
    """
    formats = tuple(formats)
    if dataset_args.datasets:
        from trl import get_dataset

        source, splits = "the mixture of datasets", get_dataset(dataset_args)
    elif script_args.dataset_name:
        source = script_args.dataset_name
        splits = load_splits(source, config=script_args.dataset_config, streaming=script_args.dataset_streaming)
    else:
        raise DatasetError("no training data; give --dataset_name, or `datasets` in a --config file")
    train = _split(splits, script_args.dataset_train_split, source, "dataset_train_split")
    chat = getattr(training_args, "calibration_prompt", "plain") == "chat"
    train = _readable(train, formats, source, chat)
    if not _evaluates(script_args, training_args, splits):
        return train, None
    held_out = _split(splits, script_args.dataset_test_split, source, "dataset_test_split")
    return train, _readable(held_out, formats, f"{source}, split {script_args.dataset_test_split}", chat)


def training_questions(script_args: Any, training_args: Any) -> tuple[Any, Any] | None:
    """Read a script's training dataset as multiple-choice questions, if that is what it holds.

    A file is returned by name, so that `hf_calib.load_questions` reads it and can name the line of an error.

    Parameters
    ----------
    script_args, training_args
        As in `training_datasets`.

    Returns
    -------
    train_questions, eval_questions, or None if the dataset holds something else
        What `hf_calib.tasks.as_questions` takes. The latter may be `None`, as in `training_datasets`.
    """
    name = script_args.dataset_name
    if name is None or script_args.dataset_streaming:
        return None
    path = Path(name).expanduser()
    reading = _reading(script_args)
    if path.is_file():
        _, first = next(iter(file_rows(*_data_files(path))), (None, {}))
        if reading["columns"] is None and not is_question_layout(first):
            return None
        questions = name if reading == _AS_FOUND else load_questions(path, **reading)
        only = {"train": questions}
        train = _split(only, script_args.dataset_train_split, name, "dataset_train_split")
        # Without a test split, the trainer may hold out questions of its own.
        return train, None if training_args.eval_strategy == "no" else only.get(script_args.dataset_test_split)
    splits = load_splits(name, config=script_args.dataset_config)
    train = _split(splits, script_args.dataset_train_split, name, "dataset_train_split")
    if reading["columns"] is None and not is_question_layout(column_names(train)):
        return None
    if not _evaluates(script_args, training_args, splits):
        return as_questions(train, **reading), None
    held_out = _split(splits, script_args.dataset_test_split, name, "dataset_test_split")
    return as_questions(train, **reading), as_questions(held_out, **reading)


def calibration_questions(script_args: Any) -> dict[str, Any]:
    """Return a script's question sets as the keyword arguments of a calibration-aware trainer.

    The trainer reads them, unless the script has options for reading them.

    Parameters
    ----------
    script_args : QuestionArguments

    Raises
    ------
    ValueError
        If `calibration_columns` or another of these arguments is invalid.
    hf_calib.tasks.QuestionError
        If a set cannot be read.
    """
    own, held_out = _reading(script_args), _reading(script_args, "eval_")
    sets = {"calibration_dataset": own, "eval_calibration_dataset": held_out, "em_dataset": own}
    return {
        name: source if source in (None, SELF, PAIRS) or reading == _AS_FOUND else load_questions(source, **reading)
        for name, reading in sets.items()
        for source in [getattr(script_args, name)]
    }


_AS_FOUND = {"columns": None, "answer_base": None, "on_bad_row": "error"}


def _reading(script_args: Any, prefix: str = "") -> dict[str, Any]:
    """Return the options of `load_questions` for a question set; those without the prefix are the default."""
    columns, base = (
        getattr(script_args, f"{prefix}{name}" if getattr(script_args, f"{prefix}{name}") is not None else name)
        for name in ("calibration_columns", "calibration_answer_base")
    )
    return {
        "columns": None if columns is None else parse_columns(columns),
        "answer_base": base,
        "on_bad_row": script_args.calibration_on_bad_row,
    }


def check_dataset(dataset: Any, formats: Iterable[tuple[str, ...]], source: str) -> None:
    """Check that a dataset has rows, the columns of one of the formats, and no missing values in them.

    Parameters
    ----------
    dataset : datasets.Dataset or datasets.IterableDataset
    formats : iterable of tuple of str
        The first that fits is used.
    source : str
        For the messages.

    Raises
    ------
    DatasetError
        The message names the columns found, those expected and near misses; or the row and the column.
    """
    from datasets import Dataset

    formats = tuple(formats)
    columns = column_names(dataset)
    if isinstance(dataset, Dataset) and len(dataset) == 0:
        raise DatasetError(f"{source} holds no row; give a dataset with at least one")
    expected = list(dict.fromkeys(name for names in formats for name in names))
    hints = list(_near_misses(columns, expected))
    fitting = next((names for names in formats if set(names) <= set(columns)), None)
    # With a misspelled prompt column, a dataset would be taken for one without prompts.
    if fitting is None or any(meant in names for _, meant in hints for names in formats if set(fitting) < set(names)):
        ways = "; or ".join(" and ".join(map(repr, names)) for names in formats)
        guesses = " ".join(f"{column!r} for {meant!r}?" for column, meant in hints)
        raise DatasetError(
            f"{source} has the columns {', '.join(map(repr, columns)) or '(none)'}"
            f"{f' ({guesses})' if guesses else ''}; expected {ways}. Rename the columns accordingly"
        )
    if isinstance(dataset, Dataset):
        for name in fitting:
            _require_fields(dataset, name, source)


def _readable(dataset: Any, formats: tuple[tuple[str, ...], ...], source: str, chat: bool) -> Any:
    """Return a dataset with the columns of one of the formats; free-form questions become prompts."""
    from datasets import Dataset

    from ..rewards import confidence_prompts
    from ..tasks.free_form import free_form_questions
    from ..trainers.stated_evaluator import is_free_form

    names = {name for columns in formats for name in columns}
    columns = column_names(dataset)
    if (
        formats == PROMPT_COLUMNS
        and isinstance(dataset, Dataset)
        and "prompt" not in columns
        and is_free_form(columns)
    ):
        dataset = confidence_prompts(free_form_questions(dataset), chat=chat)
    kinds = {"label": "unpaired_preference", "chosen": "preference", "completion": "text", "prompt": "prompt_only"}
    dataset = as_trl_dataset(dataset, next(kind for name, kind in kinds.items() if name in names), source=source)
    check_dataset(dataset, formats, source)
    return dataset


def _require_fields(dataset: Any, column: str, source: str) -> None:
    values = dataset.data.column(column) if dataset._indices is None else None
    if values is not None and values.null_count == 0:
        return
    missing = [row for row, value in enumerate(dataset[column]) if value is None]
    if missing:
        others = len(missing) - 1
        raise DatasetError(
            f"{source}, row {missing[0]}, counted from 0: {column!r} is missing"
            f"{f', as in {others} more row' + 's' * (others > 1) if others else ''}; complete or remove the row"
        )


def _near_misses(columns: Iterable[str], expected: Iterable[str]) -> Iterator[tuple[str, str]]:
    columns = list(columns)
    missing = [name for name in expected if name not in columns]
    for column in columns:
        close = difflib.get_close_matches(column.strip().lower(), missing, n=1, cutoff=0.82)
        if close and column not in expected:
            yield column, close[0]


def _split(splits: Mapping[str, Any], name: str, source: str, argument: str) -> Any:
    if name not in splits:
        raise DatasetError(
            f"{source} has no split {name!r}; it has {', '.join(map(str, splits))}; choose one with --{argument}"
        )
    return splits[name]


def _evaluates(script_args: Any, training_args: Any, splits: Mapping[str, Any]) -> bool:
    if training_args.eval_strategy == "no":
        return False
    return script_args.dataset_test_split in splits or getattr(script_args, "eval_calibration_dataset", None) is None


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _data_files(path: Path) -> list[Path]:
    """Return the data files of a folder, or the one file, all of one kind."""
    if path.is_file():
        if path.suffix.lower() not in _BUILDERS:
            raise DatasetError(f"{str(path)!r}: datasets are read from {', '.join(_BUILDERS)} files")
        return [path]
    files = sorted(
        file for file in path.rglob("*") if file.suffix.lower() in _BUILDERS and not file.name.startswith(".")
    )
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) != 1:
        found = f"both {' and '.join(sorted(kinds))}" if kinds else f"no {', '.join(_BUILDERS)}"
        raise DatasetError(f"the folder {str(path)!r} holds {found} files; give one with files of one kind")
    return files


def _all_text(file: Path, delimiter: str) -> dict[str, Any]:
    """Return options that keep a table's fields as they are written, such as "NA" and "1.50"."""
    from datasets import Features, Value

    with file.open(encoding="utf-8-sig", newline="") as lines:
        header = next(csv.reader(lines, delimiter=delimiter), [])
    return {
        "sep": delimiter,
        "keep_default_na": False,
        "encoding": "utf-8-sig",
        "features": Features({name: Value("string") for name in header}),
    }
