"""Checks of whether a reading can be trusted, which run with every evaluation.

A check has a code, whether it puts the whole reading in doubt, and a function that returns a sentence and a remedy if
it finds something. `CHECKS` lists the most serious first. All warnings that are shown come from the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from ..calibrators.temperature import HIGHEST, LOWEST
from ..confidence.registry import MAX_NEW_TOKENS
from ..measures import CalibrationReport, Finding, Measure
from ..measures.verdict import SIGNIFICANT
from ..tasks import LETTERS, Question

if TYPE_CHECKING:
    from ..confidence.predictions import Predictions

# One option is answered far more often than it is right if the excess is at least this large, and this share of the
# possible maximum.
_EXCESS, _EXCESS_SHARE = 0.25, 0.5
# If the options together have less than this, the model would rather answer something else.
_LITTLE_MASS = 0.5
# Confidence is nearly constant if nine tenths of the values are within this range.
_SPREAD = 0.02
# If answers are nearly always right, constant confidence is fine.
_NEARLY_ALL = 0.95
# If even the upper end of the accuracy's interval is below this share of the way from chance to 1, the model guesses.
_ABOVE_CHANCE = 0.3
# If even the upper end of the AUROC's interval is below this, confidence does not rank answers.
_RANKS = 0.65
# From this share on, unreadable replies dominate the figures.
_UNREAD = 0.1
# From this share on, equal predictions are suspicious.
_REPEATED = 0.1
# That many groups without a temperature are named.
_SHOWN_GROUPS = 3
# With fewer questions no figure is meaningful; with the second number most are.
_FEW, _ENOUGH = 30, 200
# An error this large should not go unnoticed; the advice is enough questions to exclude half of it.
_UNNOTICED = 0.1
# A flawless model fails a check by chance about once in a thousand runs.
_CRITICAL = NormalDist().inv_cdf(1 - 1e-3)


class Found(NamedTuple):
    """A check's result: a sentence, what to try next, and the options for it, the best first."""

    sentence: str
    remedy: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """The input of the checks.

    Parameters
    ----------
    predictions : Predictions
        On one dataset, with every answer known.
    report : CalibrationReport
        Of these predictions.
    run : mapping
        The known settings of the run: `confidence`, `prompt_format`, `has_chat_template`, `calibrator`, ...; in a
        trainer also `in_trainer`, how to apply the chat template there.
    dataset : mapping
        What is known about this dataset: `name`, `n`, `skipped_rows`, `drawn`.
    missing : mapping, optional
        What a server did not return.
    questions : sequence of (Question or None)
        The questions, one for each prediction; empty if unknown.
    """

    predictions: Predictions
    report: CalibrationReport
    run: Mapping[str, Any] = field(default_factory=dict)
    dataset: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, Any] | None = None
    questions: Sequence[Question | None] = ()

    @property
    def n(self) -> int:
        """Number of questions."""
        return len(self.predictions)

    @property
    def method(self) -> str | None:
        """How confidence was read; None if unknown."""
        return self.run.get("confidence", {}).get("name")

    @property
    def has_options(self) -> bool:
        """Whether the questions have options, so that their positions and chance are meaningful."""
        return "matcher" not in self.run.get("confidence", {})

    @property
    def in_writing(self) -> bool:
        """Whether answers were read from written replies; then the option mass is the share of readable ones."""
        return not self.has_options or self.method in ("stated", "consistency")

    @property
    def is_served(self) -> bool:
        """Whether a server was asked, which returns only the most probable tokens and scores no texts in a chat."""
        return str(self.run.get("model")).startswith("openai:")

    @cached_property
    def n_without_letters(self) -> int:
        """Number of questions for which a server returned none of the options' letters; then none has any mass."""
        if not self.is_served or self.in_writing or self.method == "text":
            return 0
        return int((self.predictions.option_mass == 0).sum())

    @property
    def lacks_letters(self) -> bool:
        """Whether a server returned no letters for most questions, so that the predictions are guesses."""
        return self.n_without_letters > self.n / 2

    @cached_property
    def groups(self) -> np.ndarray | None:
        """A number for each question, equal for identical questions; None if the questions are unknown."""
        numbers: dict[Any, int] = {}
        if not self.questions or None in self.questions or not self.has_options:
            return None
        said = [(own.context, own.question, tuple(own.choices)) for own in self.questions if own is not None]
        return np.array([numbers.setdefault(own, len(numbers)) for own in said])

    @cached_property
    def template_unused(self) -> bool:
        """Whether there is a chat template and the questions were not put through it."""
        return bool(self.run.get("has_chat_template")) and not self.in_chat

    @property
    def in_chat(self) -> bool:
        """Whether the questions were put through a chat template."""
        return bool(self.run.get("prompt_format", {}).get("chat"))

    def try_other_ways(self) -> tuple[str, tuple[str, ...]]:
        """Return advice to ask in another way, and the options for it."""
        if self.run.get("in_trainer"):
            if self.template_unused:
                return f"Try {self.run['in_trainer']}.", ()
            if self.method != "letters":
                return "Try another prompt_format.", ()
            return 'Try another prompt_format, or confidence read off the options\' texts, "text-tokens".', ()
        if self.method is None:
            return "Check the prompt that the options were asked with, and how the answers were read.", ()
        options = ["--chat-template"] if self.template_unused else []
        if not self.has_options:
            options += [] if self.method == "consistency" else ["--confidence consistency"]
        elif self.is_served and self.in_chat:
            options += [f"--confidence {way}" for way in ("stated", "consistency") if way != self.method]
        elif self.method != "text":
            options.append("--confidence text")
        elif self.run["confidence"].get("normalization") == "none":
            options.append("--confidence text-characters")
        if not options and not self.has_options:  # solved examples have options
            return "Try another model or prompt.", ()
        options = options or ["--few-shot 5 --few-shot-dataset D"]
        return f"Try {' or '.join(options)}.", tuple(options)


Condition: TypeAlias = "Callable[[Reading], Found | None]"


@dataclass(frozen=True)
class Check:
    """An entry of the list of checks.

    Parameters
    ----------
    code : str
    serious : bool
        Whether what it finds puts the whole reading in doubt; the verdict then leads with it.
    find : callable
        Returns a finding about a reading, or None.
    """

    code: str
    serious: bool
    find: Condition


def _unread(reading: Reading) -> Found | None:
    mass = reading.predictions.option_mass
    if not (reading.in_writing and reading.predictions.has_mass):
        return None
    counted = "guesses" if reading.has_options else "answers with confidence 0"
    if not reading.has_options:
        stated = str(reading.method).startswith("stated") and reading.method != "stated-levels"
        # Without any mass, a server left out "True" and "False".
        unread = int(((mass > 0) & (mass < 1 - 1e-9)).sum())
        what = "have no readable answer" + " or confidence" * stated
    elif reading.method == "stated" and reading.run["confidence"].get("top_k", 1) == 1:
        unread, what = int((mass < 1 - 1e-9).sum()), "have no readable letter or confidence"
    else:
        unread, what = int((mass == 0).sum()), "could not be read"
    if not unread:
        return None
    return Found(f"{unread:,} of {reading.n:,} replies {what}; they count as {counted}.", *_read_better(reading))


def _read_better(reading: Reading) -> tuple[str, tuple[str, ...]]:
    options = ["--chat-template"] if reading.template_unused else []
    if reading.has_options:
        options.append("--confidence letters")
    if not options:
        return "Try a model that follows instructions.", ()
    return f"Try {' or '.join(options)}.", tuple(options)


def _mostly_unread(reading: Reading) -> Found | None:
    found = _unread(reading)
    return found if found and reading.predictions.option_mass.mean() < 1 - _UNREAD else None


def _some_unread(reading: Reading) -> Found | None:
    return None if _mostly_unread(reading) else _unread(reading)


def _cut_off(reading: Reading) -> Found | None:
    replies = reading.run.get("cut_off", {}).get(reading.dataset.get("name"))
    if not replies:
        return None
    asked = reading.run["confidence"]
    limit = asked.get("max_new_tokens", MAX_NEW_TOKENS)
    option = f"--max-new-tokens {4 * limit}"
    n = f"{limit * asked.get('top_k', 1):,}"
    were = "reply was" if replies == 1 else "replies were"
    return Found(
        f"{replies:,} {were} cut off after {n} tokens; only the text up to there was graded.",
        f"Try {option}.",
        (option,),
    )


def _no_letters(reading: Reading) -> Found | None:
    if not reading.lacks_letters:
        return None
    return Found(
        f"For {reading.n_without_letters:,} of {reading.n:,} questions the server returned no option's letter; they "
        "count as guesses.",
        *reading.try_other_ways(),
    )


def _one_option(reading: Reading) -> Found | None:
    if not reading.has_options or reading.lacks_letters:
        return None
    predicted, answers = reading.predictions.predicted, reading.predictions.answers
    option = int(np.bincount(predicted).argmax())
    excess = (predicted == option).astype(float) - (answers == option)
    chosen, right = float((predicted == option).mean()), float((answers == option).mean())
    error = float(excess.std()) / math.sqrt(reading.n)
    if (
        excess.mean() <= max(_EXCESS, _EXCESS_SHARE * (1 - right))
        or excess.mean() <= _CRITICAL * error
        or reading.n < 10
    ):
        return None
    letter = LETTERS[option]
    if reading.method in ("marginalized", "p-true") or str(reading.method).startswith("letters"):
        meaning = ": the model does not answer by letter with this prompt."
    else:
        meaning = f", which is right for {right:.0%}: the answers follow the options' places, not what they say."
    return Found(f"Answers {letter} on {chosen:.0%} of questions{meaning}", *reading.try_other_ways())


def _little_mass(reading: Reading) -> Found | None:
    predictions = reading.predictions
    # The probability of a whole text is small for any model, and written answers have their own check.
    if not predictions.has_mass or reading.in_writing or reading.method == "text":
        return None
    mass = float(predictions.option_mass.mean())
    if mass >= _LITTLE_MASS or not mass:
        return None
    return Found(
        f"The options have {mass:.0%} of the probability on average: the model would rather answer something else.",
        *reading.try_other_ways(),
    )


def _at_chance(reading: Reading) -> Found | None:
    accuracy = reading.report.measures["accuracy"]
    if not reading.has_options or accuracy.low is None or accuracy.high is None:
        return None
    answers, n = reading.predictions.answers, reading.n
    chance = float((1 / reading.predictions.n_choices).mean())
    interval = f"{100 * reading.report.confidence_level:g}% interval {accuracy.low:.0%} to {accuracy.high:.0%}"
    if accuracy.high < chance:
        base = "answer_base" if reading.run.get("in_trainer") else "--answer-base"
        return Found(
            f"The accuracy, {accuracy.value:.0%} ({interval}), is below chance, {chance:.0%}: the right answers may "
            "be misread.",
            f"Check the right answers of some questions{f', and whether {base} is right' if reading.method else ''}.",
        )
    if accuracy.low <= chance:
        if accuracy.high >= chance + _ABOVE_CHANCE * (1 - chance):
            return None  # there are too few questions to tell
        return Found(
            f"The accuracy, {accuracy.value:.0%} ({interval}), cannot be distinguished from chance, {chance:.0%}.",
            *reading.try_other_ways(),
        )
    counts = np.bincount(answers)
    option, share = int(counts.argmax()), float(counts.max()) / n
    # With equally frequent right options, the most frequent one still exceeds chance a little.
    if share <= chance + _CRITICAL * math.sqrt(chance * (1 - chance) / n):
        return None
    better = reading.predictions.correct.astype(float) - (answers == option)
    if better.mean() > NormalDist().inv_cdf(0.975) * better.std() / math.sqrt(n):
        return None
    return Found(
        f"The accuracy, {accuracy.value:.0%}, cannot be distinguished from always answering {LETTERS[option]}, "
        f"{share:.0%}.",
        *reading.try_other_ways(),
    )


def _round_up(n: float) -> int:
    """Round a number of questions up to two significant digits."""
    step = 10 ** max(0, math.floor(math.log10(n)) - 1)
    return int(math.ceil(n / step) * step)


def _repeated(reading: Reading) -> Found | None:
    predictions = reading.predictions
    # Written confidences and step-wise calibrators have few values.
    if reading.in_writing or not reading.has_options or reading.run.get("calibrator") or reading.n < 10:
        return None
    if reading.lacks_letters:
        return None
    different = np.ones(reading.n, dtype=bool)
    if reading.groups is not None:  # the same question gets the same probabilities again
        different[:] = False
        different[np.unique(reading.groups, return_index=True)[1]] = True
    n = int(different.sum())
    asked = different & (predictions.confidences < 0.999)  # very confident predictions all round to 1
    rows, counts = np.unique(predictions.probabilities[asked], axis=0, return_counts=True)
    repeated = int(counts[counts > 1].sum())
    if repeated <= _REPEATED * n or _are_rounded(rows):
        return None
    if reading.groups is not None:
        return Found(
            f"{repeated:,} of {n:,} different questions got exactly the same probabilities as another one: the prompt "
            "may not show the question.",
            "Look for a prompt that cuts the questions off.",
        )
    return Found(
        f"{repeated:,} of {n:,} questions got exactly the same probabilities as another one: the prompt may not show "
        "the question, or questions occur several times.",
        "Look for repeated questions in the dataset, and for a prompt that cuts them off.",
    )


def _repeated_questions(reading: Reading) -> Found | None:
    if reading.groups is None:
        return None
    groups, answers = reading.groups, reading.predictions.answers
    first = np.unique(groups, return_index=True)[1]
    # Copies with different answers are separate observations, for example of several people.
    repeats = reading.n - len(first) if np.array_equal(answers, answers[first][groups]) else 0
    if repeats <= _REPEATED * reading.n:
        return None
    return Found(
        f"{repeats:,} of {reading.n:,} questions are repeats of others, so the intervals are too narrow.",
        "Remove the repeats from the dataset.",
    )


def _are_rounded(p: np.ndarray) -> bool:
    """Return whether probabilities, (n, K), were rounded, so that equal ones are expected."""
    positive = p[p > 0]
    few = len(np.unique(positive)) < 0.9 * len(positive)  # also if rows were normalized afterwards
    return few or bool(np.allclose(p * 1000, np.round(p * 1000), rtol=0, atol=1e-6))


def _temperatures(values: Any) -> Iterator[float]:
    """Yield the temperatures among a calibrator's parameters, including nested calibrators."""
    for key, value in values.items() if isinstance(values, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _temperatures(value)
        elif str(key).endswith("temperature") and isinstance(value, int | float):
            yield float(value)


def _at_bound(reading: Reading) -> Found | None:
    return _bound_of(reading.run.get("calibrator"))


def _bound_of(parameters: Any) -> Found | None:
    for temperature in _temperatures(parameters):
        if temperature >= HIGHEST:
            what = "which erases all confidence: the answers that it was fitted on were no better than chance."
        elif temperature <= LOWEST:
            what = "which makes every answer certain: all answers that it was fitted on were right."
        else:
            continue
        return Found(
            f"The calibrator's temperature is at its bound, {temperature:g}, {what}",
            "Fit it on more questions, or read confidence in another way.",
        )
    return None


def _constant(reading: Reading) -> Found | None:
    low, middle, high = np.quantile(reading.predictions.confidences, [0.05, 0.5, 0.95])
    if reading.n < 10 or high - low >= _SPREAD or reading.report.measures["accuracy"].value > _NEARLY_ALL:
        return None
    return Found(
        f"The confidence is nearly the same for all questions, {middle:.1%}: it carries no information about "
        "individual answers.",
        *reading.try_other_ways(),
    )


def _no_ranking(reading: Reading) -> Found | None:
    area = reading.report.measures.get("auroc")
    if area is None or area.low is None or area.high is None or area.low > 0.5 or area.high >= _RANKS:
        return None
    return Found(
        "Confidence does not rank answers: it is not significantly higher for right answers than for wrong ones "
        f"(AUROC {area.value:.2f}, interval {area.low:.2f} to {area.high:.2f}; 0.5 is chance).",
        *reading.try_other_ways(),
    )


def _unused_template(reading: Reading) -> Found | None:
    if not reading.template_unused:
        return None
    sentence = "The model has a chat template, and the questions were not put through it."
    if reading.run.get("in_trainer"):
        return Found(sentence, f"Try {reading.run['in_trainer']}.")
    return Found(sentence, "Try --chat-template.", ("--chat-template",))


def _too_few(reading: Reading) -> Found | None:
    unproven = _unproven(reading)
    if unproven is None:
        return None
    claim, needed = unproven
    sentence = f"{reading.n:,} question{' is' if reading.n == 1 else 's are'} too few {claim}."
    drawn = reading.dataset.get("drawn", {})
    if drawn:
        options = (f"--limit {min(_round_up(needed), drawn['of'])}",)
        return Found(sentence, f"Try {options[0]}.", options)
    return Found(sentence, f"Use about {_round_up(needed):,} questions.")


def _unproven(reading: Reading) -> tuple[str, float] | None:
    """Return the claim that there are too few questions for, and about how many it needs."""
    n, measures = reading.n, reading.report.measures
    if n < _FEW:
        return "for any of these figures", _ENOUGH
    accuracy, area, ece = measures["accuracy"], measures.get("auroc"), measures["ece"]
    if reading.has_options and accuracy.low is not None:
        chance = float((1 / reading.predictions.n_choices).mean())
        if accuracy.low <= chance < accuracy.value and _at_chance(reading) is None:
            return f"to tell the accuracy from chance, {chance:.0%}", n * _factor(accuracy, chance)
    if area is not None and area.low is not None and area.low <= 0.5 < area.value and _no_ranking(reading) is None:
        return (
            f"to show that confidence ranks answers (AUROC {area.value:.2f}, interval {area.low:.2f} to "
            f"{area.high:.2f}; 0.5 is chance)"
        ), n * _factor(area, 0.5)
    test = reading.report.test
    if ece.high is not None and ece.high > _UNNOTICED and test is not None and test.p_value > SIGNIFICANT:
        return f"to call the model calibrated: an ECE of {ece.high:.2f} is not excluded", n * (
            2 * ece.high / _UNNOTICED
        ) ** 2
    return None


def _factor(measure: Measure, other: float) -> float:
    """Return the factor of questions that moves an interval's lower end halfway between its value and a lower one."""
    assert measure.low is not None
    return min(100.0, (2 * (measure.value - measure.low) / (measure.value - other)) ** 2)


def _one_subject(reading: Reading) -> Found | None:
    drawn = reading.dataset.get("drawn", {})
    subjects = set(reading.predictions.subjects)
    if drawn.get("subjects", 1) < 2 or len(subjects) > 1:
        return None
    option = f"--limit {min(_round_up(10 * drawn['subjects']), drawn['of'])}"
    return Found(
        f"The questions drawn are all of one subject, {next(iter(subjects))}, of {drawn['subjects']:,}.",
        f"Try {option}.",
        (option,),
    )


def _not_returned(reading: Reading) -> Found | None:
    if reading.missing is None or reading.lacks_letters:
        return None
    own = reading.missing
    return Found(
        f"For {own['questions']:,} questions the server left out some options; each of these has a probability of at "
        f"most {own['largest_bound_of_an_option']:.2g}, and the mean confidence is between "
        f"{own['mean_confidence_at_least']:.4f} and {own['mean_confidence_at_most']:.4f}.",
        "Let the server return more of the most probable tokens.",
    )


def _skipped(reading: Reading) -> Found | None:
    skipped = reading.dataset.get("skipped_rows", 0)
    if not skipped:
        return None
    return Found(f"{skipped:,} rows could not be read and were left out.", "Correct them, or check --columns.")


def _dropped(reading: Reading) -> Found | None:
    dropped = reading.dataset.get("n", reading.n) - reading.n
    if dropped <= 0:
        return None
    return Found(f"{dropped:,} questions were left out as their prompts are too long.", "Try a larger --max-length.")


def _in_sample(reading: Reading) -> Found | None:
    if reading.dataset.get("name") not in reading.run.get("calibrator", {}).get("fitted_on_same_questions", ()):
        return None
    return Found(
        "The calibrator was fitted on these very questions, so it looks better than it is.",
        "Measure it on questions that it was not fitted on.",
    )


def _groups_not_fitted(reading: Reading) -> Found | None:
    calibrator = reading.run.get("calibrator", {})
    own = calibrator.get("groups_not_fitted", {}).get(reading.dataset.get("name"))
    if own is None:
        return None
    names = [name or f"no {calibrator['by']}" for name in own["groups"]]
    shown = ", ".join(names[:_SHOWN_GROUPS]) + (
        f" and {len(names) - _SHOWN_GROUPS} more" * (len(names) > _SHOWN_GROUPS)
    )
    return Found(
        f"The calibrator has no temperature for {own['n']:,} of {reading.n:,} questions ({shown}); they have that of "
        "all questions.",
        "Fit it on questions of these groups too.",
    )


def _skewed_labels(reading: Reading) -> Found | None:
    if reading.method != "letters-batch" or reading.run.get("permute_options"):
        return None
    predictions = reading.predictions
    for n_options in np.unique(predictions.n_choices):
        counts = np.bincount(predictions.answers[predictions.n_choices == n_options], minlength=n_options)
        n, option = int(counts.sum()), int(counts.argmax())
        chance = 1 / n_options
        if counts[option] - n * chance > _CRITICAL * math.sqrt(n * chance * (1 - chance)):
            return Found(
                f"{LETTERS[option]} is right for {counts[option] / n:.0%} of the questions with {n_options} options, "
                "and batch calibration takes all letters to be right equally often.",
                "Try --permute-options or --confidence letters-pride.",
                ("--permute-options", "--confidence letters-pride"),
            )
    return None


CHECKS = (
    Check("unread_replies", True, _mostly_unread),
    Check("letters_not_returned", True, _no_letters),
    Check("one_option", True, _one_option),
    Check("little_mass", True, _little_mass),
    Check("at_chance", True, _at_chance),
    Check("repeated_predictions", True, _repeated),
    Check("calibrator_at_bound", True, _at_bound),
    Check("calibrator_in_sample", True, _in_sample),
    Check("constant_confidence", True, _constant),
    Check("no_ranking", True, _no_ranking),
    Check("some_unread_replies", False, _some_unread),
    Check("cut_off_replies", False, _cut_off),
    Check("too_few_questions", False, _too_few),
    Check("one_subject", False, _one_subject),
    Check("chat_template_unused", False, _unused_template),
    Check("options_not_returned", False, _not_returned),
    Check("groups_not_fitted", False, _groups_not_fitted),
    Check("skewed_labels", False, _skewed_labels),
    Check("skipped_rows", False, _skipped),
    Check("repeated_questions", False, _repeated_questions),
    Check("dropped_questions", False, _dropped),
)
"""All checks, the most serious first."""


def findings(reading: Reading) -> tuple[Finding, ...]:
    """Return all findings about a reading, the most serious first."""
    found = ((check, check.find(reading)) for check in CHECKS)
    return tuple(Finding(check.code, check.serious, *own) for check, own in found if own is not None)


# A difference of the NLL below this is noise from the folds.
_WORSE = 0.01


def calibrator_findings(parameters: Mapping[str, Any], before: float, after: float) -> tuple[Finding, ...]:
    """Return the findings about a fitted calibrator.

    Parameters
    ----------
    parameters : mapping
        Of the calibrator.
    before, after : float
        NLL without the calibrator, and cross-validated with it.
    """
    found = []
    if (at_bound := _bound_of(parameters)) is not None:
        found.append(Finding("calibrator_at_bound", True, *at_bound))
    if after > before + _WORSE:
        sentence = (
            f"The calibrator makes predictions worse: cross-validated, the NLL is {after:.3f} with it and "
            f"{before:.3f} without it."
        )
        found.append(Finding("calibrator_worse", False, sentence, "Fit on more questions, or use no calibrator."))
    return tuple(found)


def says_nothing(parameters: Any) -> str | None:
    """Return why a fitted calibrator does not generalize, if all its temperatures are at a bound."""
    temperatures = list(_temperatures(parameters))
    if not temperatures or any(LOWEST < temperature < HIGHEST for temperature in temperatures):
        return None
    found = _bound_of(parameters)
    return None if found is None else found.sentence


def checked(
    predictions: Predictions, report: CalibrationReport, run: Mapping[str, Any], questions: Sequence[Question]
) -> CalibrationReport:
    """Return a report with its warnings.

    Parameters
    ----------
    predictions : Predictions
        With every answer known.
    report : CalibrationReport
        Of these predictions.
    run : mapping
        As in `Reading`.
    questions : sequence of Question
        The questions that the predictions' rows refer to.
    """
    asked = [questions[row] for row in predictions.rows]
    return replace(report, warnings=findings(Reading(predictions, report, run, questions=asked)))


def sorted_findings(found: list[Finding]) -> tuple[Finding, ...]:
    """Return findings of several datasets, the most serious first."""
    order = {check.code: place for place, check in enumerate(CHECKS)}
    return tuple(sorted(found, key=lambda finding: order.get(finding.code, len(order))))
