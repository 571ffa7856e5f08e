"""Groups of questions, each with its own threshold or temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..calibrators.grouped_temperature import GROUPINGS

if TYPE_CHECKING:
    from ..reports import Measurement


def groups_of(measurement: Measurement, by: str, *, missing: str | None = None) -> np.ndarray:
    """Return the name of each question's group, shape (n,), in the order of `measurement.predictions`.

    Parameters
    ----------
    measurement : Measurement
    by : {"subject", "type", "n_options", "dataset"}
        The subject or type that the data give, the number of options, or the dataset.
    missing : str, optional
        The group of questions without a subject or type.

    Raises
    ------
    ValueError
        If `by` is unknown, or a question has no subject or type and `missing` is not given.
    """
    if by not in GROUPINGS:
        raise ValueError(f"by: {by!r} is not a way to group questions; choose from {', '.join(GROUPINGS)}")
    names: list[str] = []
    for dataset, recorded in measurement.datasets.items():
        predictions = recorded.predictions
        if by == "dataset":
            names += [dataset] * len(predictions)
            continue
        if by == "n_options":
            names += [f"{k} options" for k in predictions.n_choices]
            continue
        types = [None if question is None else question.type for question in recorded.questions]
        for row, name in zip(predictions.rows, predictions.subjects if by == "subject" else types, strict=True):
            if name is None and missing is None:
                raise ValueError(
                    f"by: the question in row {row} of {dataset} (counted from 0) has no {by}; add a column '{by}'"
                    f"{' (in saved predictions, question and choices too)' * (by == 'type')}, or group by n_options"
                )
            names.append(str(missing if name is None else name))
    return np.array(names)
