"""Read multiple-choice questions from the Hub, from files and folders, and from memory."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .columns import Columns
from .decisions import TypedDecisions
from .drawing import QuestionList, check_limit, sample
from .files import READERS, PlacedRow, PlacedRowOrError, file_rows_and_errors, struct_rows
from .questions import Question, QuestionError
from .reading import read_questions


def load_questions(
    name_or_path: str | Path,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    columns: Columns | None = None,
    answer_base: int | None = None,
    on_bad_row: str = "error",
    limit: int | None = None,
    seed: int = 0,
) -> QuestionList[Question]:
    """Load multiple-choice questions from a file, a folder of files, or a dataset on the Hub.

    Parameters
    ----------
    name_or_path : str or Path
        A JSON, JSON Lines, CSV, TSV or Parquet file; a folder of such files (read in the order of their names), or one
        written by `save_to_disk`; or a dataset's name on the Hub. A Hub name may include the config and split,
        `"cais/mmlu:all:test"`.
    config, revision : str, optional
        Config and revision of a Hub dataset.
    split : str, optional
        Split of a Hub dataset or of a folder; may be left out if there is only one. A folder's files belong to the
        split that is a word in their name, as in `test-00000-of-00001.parquet`.
    columns : mapping, optional
        The columns of "question", "choices", "answer", "context", "subject" and "type", if they differ from the known
        layouts: `{"question": "stem", "choices": ("A", "B", "C"), "answer": "gold"}`. Other fields are found as usual;
        `None` means that there is no such column. Choices may be one column or several; if the answer's column is
        among several, it holds the right choice, and the choices are shuffled. Several columns of context are shown
        one after the other.
    answer_base : {0, 1}, optional
        The number of the first option, if answers are numbers without labels. By default it follows from the dataset's
        layout, the column's type or its values.
    on_bad_row : {"error", "skip"}, default "error"
        Whether to stop at rows that cannot be read, or to leave them out and list them in `skipped`.
    limit : int, optional
        Return at most `limit` questions, drawn at random from all and kept in the file's order. All rows are read, so
        a question's answer does not depend on it; rows that are skipped are not drawn.
    seed : int, default 0
        Seed of the draw. With the same seed, a smaller sample is part of a larger one.

    Returns
    -------
    QuestionList
        A list of `Question`, in the file's order; its `draw` says how a sample was drawn.

    Raises
    ------
    QuestionError
        If the columns fit no known layout, an unused column looks like the answers, the answers' base is
        contradictory, rows are wrong (the message names the file, rows and columns), there are several splits to
        choose from, or there is no question.
    FileNotFoundError
        If the name looks like a path and nothing is there.
    ValueError
        If an option is out of range, or does not apply to a file or folder.
    TypeError
        If it is neither a name nor a path.

    Warns
    -----
    UserWarning
        About columns with text that are not shown, skipped rows, and answers whose base is unclear.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(
            f"name_or_path: expected a name or a path, got {type(name_or_path).__name__}; pass rows in memory to "
            "as_questions, and a DataFrame as df.to_dict('records')"
        )
    check_limit(limit)
    rows, zero_based = rows_of(name_or_path, config, split, revision)
    questions = read_questions(
        rows,
        str(name_or_path),
        columns=columns,
        answer_base=answer_base,
        on_bad_row=on_bad_row,
        limit=limit,
        seed=seed,
        zero_based=zero_based,
    )
    questions.source = source_name(name_or_path, config, split)
    return questions


def source_name(name_or_path: str | Path, config: str | None, split: str | None) -> str:
    """Return a path, or a Hub dataset's name with its config and split: `"cais/mmlu:all:test"`."""
    if Path(name_or_path).expanduser().exists():
        return str(name_or_path)
    name, config, split = _parts(str(name_or_path), config, split)
    parts = [config or "", *([] if split is None else [split])]
    return name if config is None and split is None else ":".join([name, *parts])


def _parts(name: str, config: str | None, split: str | None) -> tuple[str, str | None, str | None]:
    """Return a Hub dataset's name, config and split, which the name may carry."""
    name, *parts = name.split(":", 2)  # a split may contain a colon, test[:100]
    return name, (parts[0] or config) if parts else config, parts[1] if len(parts) > 1 else split


def rows_of(
    name_or_path: str | Path, config: str | None = None, split: str | None = None, revision: str | None = None
) -> tuple[Iterable[PlacedRowOrError], Collection[str]]:
    """Return the rows of a file, a folder or a Hub dataset with their places, and its columns of class labels.

    Parameters and errors as of `load_questions`.
    """
    path = Path(name_or_path).expanduser()
    rows: Iterable[PlacedRowOrError]
    zero_based: Collection[str] = ()
    if path.exists():
        options = {"config": config, "revision": revision, **({} if path.is_dir() else {"split": split})}
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise ValueError(f"{' and '.join(given)} given, but {str(path)!r} is on disk and has none; leave it out")
        if path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
            dataset = _saved(path, split)
            rows, zero_based = _dataset_rows(dataset, str(path)), _class_labels(dataset)
        else:
            rows = _folder_rows(path, split) if path.is_dir() else file_rows_and_errors(path)
    elif Path(folder := str(name_or_path).split(":", 1)[0]).is_dir():
        raise ValueError(
            f"{name_or_path}: {folder!r} is a local folder, and a split after a colon works only for datasets on the "
            "Hub; give the path of the split's folder or file (or split= in Python), or rename the folder"
        )
    elif is_path(str(name_or_path)):
        raise FileNotFoundError(f"there is no file or folder {str(name_or_path)!r} to read questions from")
    else:
        dataset = _from_hub(str(name_or_path), config, split, revision)
        rows = _dataset_rows(dataset, str(name_or_path).split(":", 1)[0])
        zero_based = _class_labels(dataset)
    return rows, zero_based


def as_questions(
    source: Any,
    *,
    columns: Columns | None = None,
    answer_base: int | None = None,
    on_bad_row: str = "error",
    limit: int | None = None,
    seed: int = 0,
) -> QuestionList[Question]:
    """Return a list of `Question` from any source of multiple-choice questions.

    Parameters
    ----------
    source : list of Question, TypedDecisions, iterable of mappings, datasets.Dataset, str or Path
        Rows in any of the known layouts; a string or path is given to `load_questions`.
    columns, answer_base, on_bad_row, limit, seed
        As in `load_questions`.

    Raises
    ------
    QuestionError
        If the rows fit no layout, a row is wrong, or there are no rows.
    ValueError
        If an option is out of range, or applies to rows while `source` holds questions already.
    TypeError
        If `source` is none of the above.
    """
    if isinstance(source, str | Path):
        reading: dict[str, Any] = {"columns": columns, "answer_base": answer_base, "on_bad_row": on_bad_row}
        return load_questions(source, **reading, limit=limit, seed=seed)
    check_limit(limit)
    if isinstance(source, TypedDecisions):
        source = source.questions()
    if isinstance(source, Mapping):
        raise TypeError(
            f"questions were given as a mapping with the keys {sorted(map(str, source))}; choose one of its splits"
        )
    if not isinstance(source, Iterable):
        raise TypeError(f"questions must be a dataset, a list of rows or a path, got {type(source).__name__}")
    rows: list[Any] = list(source)
    if rows and all(isinstance(row, Question) for row in rows):
        if columns is not None or answer_base is not None:
            raise ValueError("columns and answer_base say how rows are read, but these are questions already")
        read = source if isinstance(source, QuestionList) else QuestionList(rows)
        return sample(QuestionList(rows, source=read.source, skipped=read.skipped, draw=read.draw), limit, seed)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {number} of the questions is a {type(row).__name__}, expected a mapping of columns")
    return read_questions(
        [(f"row {number}", row) for number, row in enumerate(rows)],
        "the dataset",
        columns=columns,
        answer_base=answer_base,
        on_bad_row=on_bad_row,
        limit=limit,
        seed=seed,
        zero_based=_class_labels(source),
    )


def _class_labels(dataset: Any) -> list[str]:
    """Return the columns of class labels, which always count from 0."""
    features = getattr(dataset, "features", None)
    if not features:
        return []
    from datasets import ClassLabel

    return [name for name, feature in features.items() if isinstance(feature, ClassLabel)]


def _dataset_rows(dataset: Iterable[Any], name: str) -> Iterator[PlacedRow]:
    for number, row in enumerate(struct_rows(dataset)):
        yield f"{name}, row {number}", row


# Folders

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}

# Descriptions that older versions of the datasets library wrote next to the data.
_ABOUT_DATASETS = ("dataset_info.json", "dataset_infos.json")


def _folder_rows(folder: Path, split: str | None) -> Iterator[PlacedRowOrError]:
    files = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in READERS
        and path.is_file()
        and not path.name.startswith(".")
        and path.name not in _ABOUT_DATASETS
    )
    if not files:
        raise QuestionError(f"the folder {str(folder)!r} holds no {', '.join(READERS)} file")
    # Reading train.csv and test.csv together would measure a model on its training data.
    splits = {path: _split_of(path) for path in files}
    chosen = _chosen_split(sorted({name for name in splits.values() if name is not None}), split, str(folder))
    for file in files:
        if chosen is None or splits[file] == chosen:
            yield from file_rows_and_errors(file)


def _split_of(path: Path) -> str | None:
    words = re.split(r"[^a-z]+", path.stem.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def _chosen_split(splits: list[str], split: str | None, source: str) -> str | None:
    """Return the split to read, or `None` for everything."""
    if split is not None:
        wanted = split if split in splits else _SPLITS.get(split)
        if wanted not in splits:
            raise QuestionError(f"{source} has no split {split!r}; it has {', '.join(splits) or 'none'}")
        return wanted
    if len(splits) > 1:
        raise QuestionError(
            f"{source} has the splits {', '.join(splits)}; say which one: give the path of its file, or of a folder "
            "with only its files (in Python, split=)"
        )
    return None


def _saved(folder: Path, split: str | None) -> Any:
    from datasets import Dataset, load_from_disk

    dataset = load_from_disk(str(folder))
    if isinstance(dataset, Dataset):
        if split is not None:
            raise QuestionError(f"{str(folder)!r} is one saved dataset and has no split {split!r}; leave it out")
        return dataset
    chosen = _chosen_split(list(dataset), split, str(folder))
    return dataset[chosen] if chosen is not None else next(iter(dataset.values()))


# The Hub


def is_path(name: str) -> bool:
    """Return whether a name that does not exist on disk can only be a path."""
    path = Path(name)
    on_hub = name.split(":", 1)[0]
    return path.suffix.lower() in READERS or path.is_absolute() or name.startswith((".", "~")) or on_hub.count("/") > 1


def require_hub_dataset(name: str) -> None:
    """Check with one short request whether the Hub has a dataset; the client would retry for half a minute.

    Parameters
    ----------
    name : str
        Without config and split.

    Raises
    ------
    FileNotFoundError
        If there is no readable dataset of this name.
    ConnectionError
        If it cannot be reached.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    # The base of every error of the client's HTTP library.
    transport_error: type[BaseException] = HfHubHTTPError.__bases__[0]
    if constants.HF_HUB_OFFLINE:  # only the cache is read
        return
    try:
        HfApi().dataset_info(name, timeout=_PATIENCE)
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise FileNotFoundError(
            f"{name!r} is not a file or folder here, and the Hub has no dataset of this name that may be read: "
            f"{str(error).splitlines()[0]}; check the name, and log in with `hf auth login` for a private one"
        ) from error
    except HfHubHTTPError:
        return  # the client reports any other answer of the Hub
    except (transport_error, OSError) as error:
        raise ConnectionError(
            f"{name!r} is not a file or folder here, and the Hub cannot be reached ({error}); give a path, or set "
            "HF_HUB_OFFLINE=1 to read a dataset that was downloaded before"
        ) from error


_PATIENCE = 10.0  # seconds


def _from_hub(name: str, config: str | None, split: str | None, revision: str | None) -> Any:
    from datasets import DatasetDict, load_dataset
    from huggingface_hub import constants

    name, config, split = _parts(name, config, split)
    try:
        require_hub_dataset(name)
        dataset = load_dataset(name, config, split=split, revision=revision)
    except (ConnectionError, FileNotFoundError) as error:
        if not constants.HF_HUB_OFFLINE:
            raise
        raise ConnectionError(
            f"{name!r} is not a file or folder here, and with HF_HUB_OFFLINE only downloaded datasets are read; "
            "give a path, or unset HF_HUB_OFFLINE"
        ) from error
    if isinstance(dataset, DatasetDict):
        if len(dataset) != 1:
            raise QuestionError(
                f"{name} has the splits {', '.join(dataset)}; say which one, such as {name}:{config or ''}:"
                f"{next(iter(dataset))}"
            )
        return next(iter(dataset.values()))
    return dataset
