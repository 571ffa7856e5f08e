"""Every way to read a model's confidence, by name: what it is, what it takes, and how it is made.

This module imports neither NumPy nor torch, so that `--help` is instant. To add a way, add an entry to `_WAYS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._suggestions import did_you_mean

if TYPE_CHECKING:
    from ..tasks import PromptFormat
    from .methods import ConfidenceMethod

# Settings of a way that are given by name; `seed` always has a value, so a way without samples ignores it.
SETTINGS = ("n_orders", "n_samples", "temperature", "max_new_tokens", "top_k", "base_model")

# The longest answer to a question without options, in tokens, by default.
MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class Way:
    """A registered way to read confidence.

    Parameters
    ----------
    help : str
        What the confidence is read off, in a short phrase.
    factory : callable or None
        Returns a `ConfidenceMethod`, given settings by name; None where the way is for questions without options only.
    settings : tuple of str
        The settings that it takes, of `SETTINGS` and "seed", for questions with options; see `takes`.
    gives_distribution : bool, default True
        Whether each option gets a probability of its own, so that probabilities can be averaged over wordings.
    free_form : mapping, optional
        The arguments of `predict_free_form`, for questions without options; None where the way needs options.
    """

    help: str
    factory: Callable[..., ConfidenceMethod] | None
    settings: tuple[str, ...] = ()
    gives_distribution: bool = True
    free_form: Mapping[str, Any] | None = field(default=None, kw_only=True)

    def takes(self, free_form: bool) -> tuple[str, ...]:
        """Return the settings that it takes, for questions with options or without."""
        return tuple(dict.fromkeys((*self.settings, "max_new_tokens"))) if free_form else self.settings


def _made_by(module: str, name: str, **fixed: Any) -> Callable[..., ConfidenceMethod]:
    """Return a factory that imports its class when it is called."""

    def factory(**settings: Any) -> ConfidenceMethod:
        made_by = getattr(importlib.import_module(f".{module}", __package__), name)
        return made_by(**{**fixed, **settings})

    return factory


_SAMPLED = ("n_samples", "temperature", "max_new_tokens", "seed")

_WAYS = {
    "letters": Way("the options' letters", _made_by("methods", "OptionLetters")),
    "text": Way("the options' texts", _made_by("methods", "OptionTexts")),
    "text-characters": Way(
        "the options' texts, mean log-probability per character",
        _made_by("methods", "OptionTexts", normalization="characters"),
    ),
    "text-tokens": Way(
        "the options' texts, mean log-probability per token",
        _made_by("methods", "OptionTexts", normalization="tokens"),
    ),
    "marginalized": Way(
        "the letters' mean over orders of the options, one forward pass each",
        _made_by("methods", "Marginalized"),
        ("n_orders",),
    ),
    "marginalized-geometric": Way(
        "the letters' geometric mean over orders of the options, one forward pass each",
        _made_by("methods", "Marginalized", mean="geometric"),
        ("n_orders",),
    ),
    "letters-pride": Way(
        "the letters' probabilities divided by a prior from a few of the questions (PriDe), one forward pass, "
        "and K - 1 more for each of those few",
        _made_by("debiased", "PriDe"),
        ("seed",),
    ),
    "letters-batch": Way(
        "the letters' probabilities divided by their means over all questions, one forward pass",
        _made_by("debiased", "BatchCalibrated"),
    ),
    "letters-content-free": Way(
        "the letters' probabilities divided by those for questions without content, one forward pass, and 3 more "
        "for each subject shown",
        _made_by("debiased", "ContentFreeLetters"),
    ),
    "text-pmi": Way(
        "the texts' probabilities divided by those of the texts alone (PMI), two forward passes",
        _made_by("debiased", "TextsOverPrior", prior="none"),
    ),
    "text-pmi-domain": Way(
        "the texts' probabilities divided by those after the prompt's last line (domain-conditional PMI), two forward "
        "passes",
        _made_by("debiased", "TextsOverPrior", prior="cue"),
    ),
    "text-content-free": Way(
        "the texts' probabilities divided by those after questions without content, four forward passes",
        _made_by("debiased", "TextsOverPrior", prior="content-free"),
    ),
    "p-true": Way(
        "whether the model calls its answer true",
        _made_by("elicited", "PTrue"),
        gives_distribution=False,
        free_form={"method": "p-true"},
    ),
    "stated": Way(
        "the percentage that the model states",
        _made_by("elicited", "StatedConfidence"),
        ("max_new_tokens",),
        gives_distribution=False,
        free_form={"method": "stated"},
    ),
    "stated-words": Way(
        "what the model states in words",
        _made_by("elicited", "StatedConfidence", scale="words"),
        ("max_new_tokens",),
        gives_distribution=False,
        free_form={"method": "stated", "scale": "words"},
    ),
    "stated-top-k": Way(
        "the percentages of several guesses",
        _made_by("elicited", "StatedConfidence", top_k=4),
        ("max_new_tokens", "top_k"),
        free_form={"method": "stated", "top_k": 4},
    ),
    "stated-levels": Way(
        "the mean level of confidence that the model would state after its answer",
        _made_by("stated_levels", "StatedLevels"),
        gives_distribution=False,
        free_form={"method": "levels"},
    ),
    "consistency": Way(
        "the share of samples that agree",
        _made_by("elicited", "SampleConsistency"),
        _SAMPLED,
        free_form={"method": "agreement"},
    ),
    "consistency-entropy": Way(
        "the entropy of the samples",
        _made_by("elicited", "SampleConsistency", measure="entropy"),
        _SAMPLED,
        gives_distribution=False,
        free_form={"method": "entropy"},
    ),
    "consistency-distance": Way(
        "the first answer's share of the samples minus the second's",
        _made_by("elicited", "SampleConsistency", measure="distance"),
        _SAMPLED,
        gives_distribution=False,
        free_form={"method": "distance"},
    ),
    "base-tokens": Way(
        "the mean probability that a base model gives the tokens of a free-form answer, one forward of that model",
        None,
        ("base_model",),
        gives_distribution=False,
        free_form={"method": "base-tokens"},
    ),
}
DEFAULT_WAY = next(iter(_WAYS))


def ways() -> Mapping[str, Way]:
    """Return the registered ways by name, the default first."""
    return _WAYS


def way_named(name: str) -> Way:
    """Return the way of a name.

    Raises
    ------
    ValueError
        If there is none; the message lists the names.
    """
    if name not in _WAYS:
        raise ValueError(
            f"method: there is no way to read confidence called {name!r}; choose from {', '.join(_WAYS)}."
            + did_you_mean(name, _WAYS)
        )
    return _WAYS[name]


def name_of(recorded: Mapping[str, Any]) -> str:
    """Return the registered name of a method from what its `to_dict` recorded.

    Settings that a user chooses, such as the number of samples, make no difference. If no entry matches, the recorded
    name is returned.
    """
    for name, way in _WAYS.items():
        if way.factory is None:
            continue
        own = way.factory().to_dict()
        fixed = own.keys() - {*way.settings, "seed"}
        if recorded["name"] == own["name"] and all(recorded.get(key, own[key]) == own[key] for key in fixed):
            return name
    return recorded["name"]


def confidence_method(name: str, *, wordings: Sequence[PromptFormat] = (), **settings: Any) -> ConfidenceMethod:
    """Return the way of a name, ready to ask with.

    Parameters
    ----------
    name : str
        One of `ways()`.
    wordings : sequence of PromptFormat
        Further prompt formats; the probabilities are averaged over all of them.
    **settings
        `n_orders`, `n_samples`, `temperature`, `max_new_tokens`, `top_k`, `seed`; None stands for the default.

    Raises
    ------
    ValueError
        If there is no such way, it is for questions without options only, it does not take a setting, or it gives no
        distribution to average over wordings.

    Examples
    --------
    >>> confidence_method("consistency", n_samples=5)
    SampleConsistency(n_samples=5, measure='agreement', temperature=1.0, max_new_tokens=16, seed=0)
    """
    way = way_named(name)
    if way.factory is None:
        raise ValueError(f"method: {name} reads confidence off free-form answers; also give free_form")
    method = way.factory(**_taken(name, settings, free_form=False))
    if not wordings:
        return method
    if not way.gives_distribution:
        able = ", ".join(other for other, own in _WAYS.items() if own.gives_distribution)
        raise ValueError(f"wordings: averaging needs a probability of each option, and {name} gives none; use {able}")
    from dataclasses import replace

    from .methods import Marginalized

    if isinstance(method, Marginalized):
        return replace(method, formats=tuple(wordings))
    return Marginalized(method, n_orders=1, formats=tuple(wordings))


def free_form_settings(name: str, **settings: Any) -> dict[str, Any]:
    """Return the arguments of `predict_free_form` for the way of a name.

    Raises
    ------
    ValueError
        If the way needs options, or does not take a setting.
    """
    way = way_named(name)
    if way.free_form is None:
        able = ", ".join(other for other, own in _WAYS.items() if own.free_form is not None)
        raise ValueError(f"free_form: confidence read by {name} needs options; use {able}")
    return {**way.free_form, **_taken(name, settings, free_form=True)}


def _taken(name: str, settings: Mapping[str, Any], *, free_form: bool) -> dict[str, Any]:
    """Return the settings that were given, after checking that the way takes them."""
    taken = _WAYS[name].takes(free_form)
    given = {key: value for key, value in settings.items() if value is not None}
    for key in given:
        if key not in (*SETTINGS, "seed"):
            raise TypeError(f"{key!r} is not a setting of a way to read confidence; choose from {', '.join(SETTINGS)}")
        if key not in taken and key != "seed":
            able = ", ".join(other for other, own in _WAYS.items() if key in own.takes(free_form))
            raise ValueError(f"{key}: confidence read by {name} has no such setting; it goes with {able}")
    return {key: value for key, value in given.items() if key in taken}
