"""What a calibrator was fitted on, so that applying it to something else is noticed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

# Limits for names from a file, which may come from an untrusted source.
_LONGEST_NAME = 1000
_BASE = {
    "base_weights": "weights of the model under the adapter are",
    "base_revision": "revision of the model under the adapter is",
}


@dataclass(frozen=True)
class FittedOn:
    """The model, the way of asking and the questions that a calibrator was fitted on.

    Parameters
    ----------
    n : int
        Number of questions.
    datasets : mapping of str to (str or None)
        Each dataset's name and, if known, the digest of its questions.
    model : str, optional
        The model's id on the Hub, or its folder's name; None if unknown.
    revision : str, optional
        The commit of the model on the Hub.
    weights : str, optional
        A digest of the model's weights, prefixed with its kind and a colon.
    base_weights, base_revision : str, optional
        For an adapter: the digest of its base model's files, and the base model's commit on the Hub.
    asking : mapping of str to Any
        How the questions were asked: `confidence`, `prompt_format`, `permute_options`, `n_orders`; empty if
        unknown.
    """

    n: int
    datasets: Mapping[str, str | None] = field(default_factory=dict)
    model: str | None = None
    revision: str | None = None
    weights: str | None = None
    asking: Mapping[str, Any] = field(default_factory=dict)
    base_weights: str | None = None
    base_revision: str | None = None

    def mismatches(self, other: FittedOn) -> list[str]:
        """Return how another model, or way of asking it, differs; unknown properties are ignored.

        The same weights are the same model under any name. Datasets may differ: that is what a calibrator is for.
        """
        found = []
        if not self._is_model_of(other):
            found.append(f"the model is {_described(other)}, not {_described(self)}")
        for name, what in _BASE.items():
            mine, theirs = getattr(self, name), getattr(other, name)
            if None not in (mine, theirs) and mine != theirs:
                found.append(f"the {what} {theirs:.14}, not {mine:.14}")
        if self.asking and other.asking:
            mine, theirs = _flat(self.asking), _flat(other.asking)
            found += [
                f"{name} is {theirs.get(name)!r:.100}, not {mine.get(name)!r:.100}"
                for name in sorted({*mine, *theirs})
                if mine.get(name) != theirs.get(name)
            ]
        return found

    def _is_model_of(self, other: FittedOn) -> bool:
        if self.weights is not None and other.weights is not None:
            mine, theirs = (own.weights.partition(":")[0] for own in (self, other) if own.weights)
            if mine == theirs:  # digests of the same kind
                return self.weights == other.weights
        if self.model is not None and other.model is not None and self.model != other.model:
            return False
        return None in (self.revision, other.revision) or self.revision == other.revision

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; without the model under an adapter if it is unknown."""
        values = {**asdict(self), "datasets": dict(self.datasets), "asking": dict(self.asking)}
        return {name: value for name, value in values.items() if name not in _BASE or value is not None}

    @classmethod
    def from_dict(cls, values: Any) -> FittedOn:
        """Check and read what `to_dict` returned, which may come from an untrusted file.

        Raises
        ------
        ValueError
            If something is missing, unknown or of the wrong kind; the message names it.
        """
        names = {"n", "datasets", "model", "revision", "weights", "asking"}
        if not isinstance(values, dict) or set(values) - set(_BASE) != names:
            raise ValueError(f"fitted_on must hold {', '.join(sorted(names))}, got {values!r:.100}")
        if not isinstance(values["n"], int) or isinstance(values["n"], bool) or values["n"] < 1:
            raise ValueError(f"n of fitted_on must be a number of questions, got {values['n']!r:.100}")
        texts = {name: values.get(name) for name in ("model", "revision", "weights", *_BASE)}
        if not isinstance(values["datasets"], dict) or not isinstance(values["asking"], dict):
            raise ValueError("datasets and asking of fitted_on must be objects")
        texts |= {f"dataset {name!r:.100}": digest for name, digest in values["datasets"].items()}
        for name, text in texts.items():
            if text is not None and not (isinstance(text, str) and len(text) <= _LONGEST_NAME):
                raise ValueError(f"{name} of fitted_on must be a short text or null, got {text!r:.100}")
        return cls(**values)


def _described(own: FittedOn) -> str:
    name = own.model or "another one"
    if own.revision is not None:
        return f"{name} at revision {own.revision}"
    return name if own.weights is None else f"{name} (weights {own.weights[:14]})"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted names, without seeds."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif name != "seed":
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat
