"""The inputs of the calibration metrics, for `evaluate`."""

import datasets

# float32 would move confidences across bin edges: 0.7 becomes less than 7/10.
_FLOAT = datasets.Value("float64")
_INDEX = datasets.Value("int64")

#: The probabilities of all options for each sample, and the right option's index.
PROBABILITIES = datasets.Features({"predictions": datasets.Sequence(_FLOAT), "references": _INDEX})

#: The confidence in the given answer, and whether it was right.
CONFIDENCES = datasets.Features({"predictions": _FLOAT, "references": _INDEX})


_NUMBER = datasets.Features({"references": _FLOAT})


class CheckedInputs:
    """A mixin that refuses references that `evaluate` would cast silently, missing values and empty input."""

    def add_batch(self, *, predictions=None, references=None, **kwargs):
        """Add a batch of predictions and references."""
        # `evaluate` can't tell the format of an empty batch.
        for name, values in (("predictions", predictions), ("references", references)):
            if values is None:
                raise ValueError(f"{name} is missing: a metric needs predictions and references")
            if len(values) == 0:
                raise ValueError(f"{name} is empty: a metric needs at least one sample")
            for place in _missing(values):
                raise ValueError(f"{name}[{place}] is None: leave this sample out of predictions and references")
        predictions, references = _by_position(predictions), _by_position(references)
        for row, value in _fractions(references):
            raise ValueError(f"references[{row}] is {value}{_EXPECTED}")
        super().add_batch(predictions=predictions, references=references, **kwargs)

    def add(self, *, prediction=None, reference=None, **kwargs):
        """Add one prediction and its reference."""
        for name, own in (("prediction", prediction), ("reference", reference)):
            if own is None:
                raise ValueError(f"{name} is missing: a metric needs a prediction and its reference")
        for _, value in _fractions([reference]):
            raise ValueError(f"reference is {value}{_EXPECTED}")
        super().add(prediction=prediction, reference=reference, **kwargs)


def _missing(values):
    """Yield where a value or a row, or a value of a row, is None."""
    if getattr(values, "dtype", None) not in (None, object):
        return
    for row, value in enumerate(values):
        if value is None:
            yield f"{row}"
        elif isinstance(value, list | tuple):
            yield from (f"{row}, {column}" for column, own in enumerate(value) if own is None)


_EXPECTED = (
    ": a reference must be a whole number, the right option's index or, for a confidence, 1 (the answer was right) or "
    "0 (it was wrong)"
)


def _by_position(values):
    """Return a pandas Series as an array; `evaluate` reads `values[0]`, a label that a filtered one may lack."""
    return values.to_numpy() if hasattr(values, "iloc") else values


def _fractions(references):
    """Yield the row and value of each reference that a cast to integers would truncate."""
    try:
        numbers = _NUMBER.encode_batch({"references": references})["references"]
    except (TypeError, ValueError):
        # These are not numbers, and `evaluate` raises its own error.
        return
    for row, value in enumerate(numbers):
        if value is not None and not value.is_integer():
            yield row, value
