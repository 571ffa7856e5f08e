"""Calibrators on arrays of predictions of any shape, such as pixels of images or tokens of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from .inputs import like, to_numpy


def fit_array(
    calibrator: Any, predictions: Any, labels: Any, *, axis: int = -1, ignore_label: int = -100, **options: Any
) -> Any:
    """Fit a calibrator on every prediction of an array.

    Parameters
    ----------
    calibrator : Calibrator
    predictions : array_like or tensor, shape (..., K, ...)
        Options along one axis, such as (images, classes, height, width) with axis 1 or (sequences, tokens, vocabulary)
        with axis -1.
    labels : array_like or tensor of int
        The same shape without that axis.
    axis : int, default -1
        Axis of the options.
    ignore_label : int, default -100
        Label of predictions to leave out, such as padding and borders.
    **options
        Options of `fit`, such as kind.

    Returns
    -------
    Calibrator
        The one given.

    Raises
    ------
    ValueError
        If the shapes do not match.
    """
    rows, shape = _rows(predictions, axis)
    answers = np.asarray(to_numpy(labels))
    if answers.shape != shape:
        raise ValueError(f"labels must have the shape {shape}, that of the predictions without axis {axis}; "
                         f"got {answers.shape}")  # fmt: skip
    kept = answers.ravel() != ignore_label
    return calibrator.fit(rows[kept], answers.ravel()[kept], **options)


def transform_array(calibrator: Any, predictions: Any, *, axis: int = -1, **options: Any) -> Any:
    """Return an array's calibrated probabilities in the same shape; parameters as in `fit_array`."""
    rows, shape = _rows(predictions, axis)
    result = calibrator.transform(rows, **options)
    return like(np.moveaxis(result.reshape(*shape, rows.shape[1]), -1, axis).copy(), predictions)


def _rows(predictions: Any, axis: int) -> tuple[Any, tuple[int, ...]]:
    values = np.moveaxis(np.asarray(to_numpy(predictions)), axis, -1)
    return values.reshape(-1, values.shape[-1]), values.shape[:-1]
