"""Groups of questions, each with its own threshold or temperature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..calibrators.grouped_temperature import GROUPINGS
from ..tasks import Question

if TYPE_CHECKING:
    from ..reports import Measurement


def groups_of(measurement: Measurement, by: str) -> np.ndarray:
    """Return the name of each question's group, shape (n,), in the order of `measurement.predictions`.

    Parameters
    ----------
    measurement : Measurement
    by : {"subject", "type", "n_options", "dataset"}
        The subject; the kind of answer, see `question_type`; the number of options; or the dataset.

    Raises
    ------
    ValueError
        If `by` is unknown, or the predictions lack what it needs.
    """
    if by not in GROUPINGS:
        raise ValueError(f"by: {by!r} is not a way to group questions; choose from {', '.join(GROUPINGS)}")
    names: list[str] = []
    for dataset, recorded in measurement.datasets.items():
        predictions = recorded.predictions
        if by == "dataset":
            names += [dataset] * len(predictions)
        elif by == "n_options":
            names += [f"{k} options" for k in predictions.n_choices]
        elif by == "subject":
            for row, subject in zip(predictions.rows, predictions.subjects, strict=True):
                if subject is None:
                    raise ValueError(
                        f"by: the question in row {row} of {dataset} (counted from 0) has no subject; add a column "
                        "'subject', or group by n_options"
                    )
                names.append(subject)
        else:
            for row, question in zip(predictions.rows, recorded.questions, strict=True):
                if question is None:
                    raise ValueError(
                        f"by: the type needs the options' texts, and row {row} of {dataset} (counted from 0) has "
                        "none; add a column 'choices', or group by n_options"
                    )
                names.append(question_type(question))
    return np.array(names)


def question_type(question: Question) -> str:
    """Return "yes or no", "score" or "choice": the kind of answer that a question has.

    A question is "yes or no" if its two options are yes and no, or true and false; it is a "score" if its options are
    consecutive integers.

    Examples
    --------
    >>> question_type(Question("Is it a fruit?", ("Yes", "No")))
    'yes or no'
    >>> question_type(Question("How good is it?", ("1", "2", "3")))
    'score'
    """
    texts = [choice.strip().rstrip(".").casefold() for choice in question.choices]
    if sorted(texts) in (["no", "yes"], ["false", "true"]):
        return "yes or no"
    return "score" if _consecutive(texts) else "choice"


def _consecutive(texts: Sequence[str]) -> bool:
    try:
        numbers = sorted(int(text) for text in texts)
    except ValueError:
        return False
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))
