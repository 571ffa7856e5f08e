"""What speaks against trusting a measurement, in sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..tasks import LETTERS

if TYPE_CHECKING:
    from ..confidence.predictions import Predictions
    from ..measures import CalibrationReport

# With less than this on the options together, the model would rather answer something else.
LITTLE_MASS = 0.5
# One position's share of the predictions that is not explained by the right answers, and the least questions to tell.
ONE_POSITION, FEW_QUESTIONS = 0.9, 30


def missing_options(missing: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say of each dataset what a server did not return; `missing` is a run's `options_not_returned`."""
    return [
        f"{name}: of {own['questions']} questions the server did not return all options; each of those has at "
        f"most {own['largest_bound_of_an_option']:.2g}, and the mean confidence is between "
        f"{own['mean_confidence_at_least']:.4f} and {own['mean_confidence_at_most']:.4f}."
        for name, own in missing.items()
    ]


def doubts(name: str, predictions: Predictions, report: CalibrationReport) -> list[str]:
    """Say what speaks against trusting the predictions on a dataset.

    Parameters
    ----------
    name : str
        The dataset's.
    predictions : Predictions
        With every answer known.
    report : CalibrationReport
        Of these predictions.

    Returns
    -------
    list of str
        A sentence for each of: answers that could not be read, little probability on the options, one position
        chosen nearly always, and an accuracy that is not shown to be above chance.
    """
    found = []
    unread = int((predictions.option_mass == 0).sum()) if predictions.has_mass else 0
    if unread:
        found.append(f"{name}: of {len(predictions)} answers {unread} could not be read; they count as guesses.")
    mass = predictions.option_mass[predictions.option_mass > 0]
    if predictions.has_mass and len(mass) and mass.mean() < LITTLE_MASS:
        found.append(
            f"{name}: the options have {mass.mean():.1%} of the probability on average, so the model would rather "
            "answer something else; check the prompt and the chat template."
        )
    chosen, right = (np.bincount(own).max() / len(own) for own in (predictions.predicted, predictions.answers))
    if len(predictions) >= FEW_QUESTIONS and chosen > ONE_POSITION and right < ONE_POSITION:
        letter = LETTERS[int(np.bincount(predictions.predicted).argmax())]
        found.append(
            f"{name}: the model answers {letter} to {chosen:.0%} of the questions; ask with permuted options, or by "
            "the marginalized method."
        )
    chance, low = float((1 / predictions.n_choices).mean()), report.measures["accuracy"].low
    if low is not None and low <= chance:
        found.append(
            f"{name}: the accuracy, {report.measures['accuracy'].value:.1%}, is not shown to be above chance, "
            f"{chance:.1%}."
        )
    return found
