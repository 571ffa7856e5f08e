"""The claims that the comparison tests, checked against its results, each with its margin over seeds."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_calib.measures import Measure
from hf_calib.measures.sampling import t_quantile
from hf_calib.reports import render_table
from hf_calib.reports.table import Cell

# Maps a method, a row's key and a domain to the value, of one seed or the mean over seeds.
Lookup = Callable[[str, str, str], float]

DPO, PRETRAINED, CFT = "dpo", "pretrained", "cft"
UNLABELED, LABELED = "calibration-aware-dpo-unlabelled", "calibration-aware-dpo"
REPAIR, LONG, SCALED = "repair-unlabelled", "long", "long+temperature"
WINS = {"win_rate": "win rate", "win_rate_open": "open win rate"}


@dataclass(frozen=True)
class Claim:
    """A claim that the experiment tests.

    Attributes
    ----------
    text
        What is measured, and the target.
    methods
        The methods that it is about.
    shown
        Computes what is measured from the means over seeds.
    margin
        Computes by how much the target is exceeded from one seed's values; the claim holds if the mean over seeds is
        nonnegative.
    """

    text: str
    methods: tuple[str, ...]
    shown: Callable[[Lookup], float]
    margin: Callable[[Lookup], float]


def _at_most(text: str, method: str, key: str, domain: str, bar: float) -> Claim:
    def shown(value: Lookup) -> float:
        return value(method, key, domain)

    return Claim(f"{text}, at most {bar:g}", (method,), shown, lambda value: bar - shown(value))


def difference(text: str, method: str, other: str, key: str, domain: str, least: float) -> Claim:
    """Claim that a method's value exceeds another's by at least so much."""

    def shown(value: Lookup) -> float:
        return value(method, key, domain) - value(other, key, domain)

    said = f"{text} less that of {other}, at least {least:g}"
    return Claim(said, (method, other), shown, lambda value: shown(value) - least)


def share(text: str, method: str, other: str, key: str, domain: str, most: float) -> Claim:
    """Claim that a method's value is at most such a share of another's."""
    return Claim(
        f"{text} over that of {other}, at most {most:.3g}",
        (method, other),
        lambda value: value(method, key, domain) / value(other, key, domain),
        lambda value: most * value(other, key, domain) - value(method, key, domain),
    )


def _overconfidence() -> Iterator[Claim]:
    yield Claim(
        "dpo: ECE in domain over that of pretrained, at least 5",
        (DPO, PRETRAINED),
        lambda value: value(DPO, "ece", "in") / value(PRETRAINED, "ece", "in"),
        lambda value: value(DPO, "ece", "in") - 5 * value(PRETRAINED, "ece", "in"),
    )
    yield Claim(
        "dpo: distance of the accuracy in domain from that of pretrained, under 0.04",
        (DPO, PRETRAINED),
        lambda value: abs(value(DPO, "accuracy", "in") - value(PRETRAINED, "accuracy", "in")),
        lambda value: 0.04 - abs(value(DPO, "accuracy", "in") - value(PRETRAINED, "accuracy", "in")),
    )


def _fine_tuning() -> Iterator[Claim]:
    yield share("cft: ECE in domain", CFT, DPO, "ece", "in", 0.12)
    yield difference("cft: accuracy in domain", CFT, DPO, "accuracy", "in", 0.0)
    for key, name in WINS.items():
        yield difference(f"cft: {name}", CFT, DPO, key, "in", -0.01)


def _prevention() -> Iterator[Claim]:
    for domain in ("in", "out"):
        yield from _kept(domain)
    for key, name in WINS.items():
        yield difference(f"{UNLABELED}: {name}", UNLABELED, DPO, key, "in", -0.005)
    yield difference(f"{LABELED}: accuracy in domain", LABELED, DPO, "accuracy", "in", 0.05)
    for domain, bar in (("in", 0.04), ("out", 0.03)):
        yield _at_most(f"{LABELED}: ECE, {domain}", LABELED, "ece", domain, bar)
    for method in (UNLABELED, LABELED):
        yield share(f"{method}: seconds", method, DPO, "seconds", "in", 1.2)
    for domain, bar in (("in", 0.05), ("out", 0.03)):
        yield _at_most(f"{REPAIR}: ECE, {domain}", REPAIR, "ece", domain, bar)
    for key, name in WINS.items():
        yield difference(f"{REPAIR}: {name}", REPAIR, DPO, key, "in", -0.01)


def _kept(domain: str) -> Iterator[Claim]:
    def more_error(value: Lookup) -> float:
        return value(UNLABELED, "ece", domain) - value(PRETRAINED, "ece", domain)

    yield Claim(
        f"{UNLABELED}: ECE, {domain}, less that of {PRETRAINED}, at most 0.015",
        (UNLABELED, PRETRAINED),
        more_error,
        lambda value: 0.015 - more_error(value),
    )
    for other in (PRETRAINED, DPO):
        yield difference(f"{UNLABELED}: accuracy, {domain},", UNLABELED, other, "accuracy", domain, -0.005)


def _regularized() -> Iterator[Claim]:
    for method in ("rcft", "auto"):
        yield difference(f"{method}: accuracy in domain", method, LONG, "accuracy", "in", -0.005)
        yield share(f"{method}: ECE in domain", method, LONG, "ece", "in", 1 / 3)
        for key, name in (("nll", "NLL"), ("brier", "Brier score")):
            yield share(f"{method}: {name} in domain", method, SCALED, key, "in", 1.0)


def _unseen() -> Iterator[Claim]:
    for method in (UNLABELED, LABELED, REPAIR):
        yield share(f"{method}: ECE, unseen domain", method, "dpo+temperature", "ece", "unseen", 0.5)
        yield difference(f"{method}: accuracy, unseen domain", method, DPO, "accuracy", "unseen", 0.0)


CLAIMS: dict[str, tuple[Claim, ...]] = {
    "Honest alignment makes overconfident": tuple(_overconfidence()),
    "Calibration-aware fine-tuning repairs it": tuple(_fine_tuning()),
    "Calibration-aware DPO prevents it, and label-free repair undoes it": tuple(_prevention()),
    "Regularized fine-tuning is as accurate as long fine-tuning, and calibrated": tuple(_regularized()),
    "It carries to domains of which no prompt was seen": tuple(_unseen()),
}
"""All claims, grouped by what they show together."""


def claims_table(rows: Sequence[dict[str, Any]], claims: Iterable[Claim] | None = None) -> str:
    """Check all claims whose methods were run against the rows of one kind of world.

    Parameters
    ----------
    rows : sequence of dict
        Of a results file.
    claims : iterable of Claim, optional
        By default those of `CLAIMS`.

    Returns
    -------
    str
        A table with each claim, the mean over seeds of what was measured, the margin to the target with its 95%
        interval over seeds (paired by seed), and whether the mean reaches the target. Empty if no claim's methods were
        all run.
    """
    table: list[dict[str, Cell]] = []
    for claim in itertools.chain(*CLAIMS.values()) if claims is None else claims:
        checked = _checked(claim, rows)
        if checked is not None:
            table.append(checked)
    return render_table(table) if table else ""


def _checked(claim: Claim, rows: Sequence[dict[str, Any]]) -> dict[str, Cell] | None:
    values = {(row["seed"], row["method"], row["domain"]): row for row in rows if row["method"] in claim.methods}
    run = [{seed for seed, method, _ in values if method == name} for name in claim.methods]
    seeds = sorted(set.intersection(*run))
    if not seeds:
        return None

    def of_seed(seed: int) -> Lookup:
        return lambda method, key, domain: values[seed, method, domain][key]

    def mean(method: str, key: str, domain: str) -> float:
        return float(np.mean([values[seed, method, domain][key] for seed in seeds]))

    margins = np.array([claim.margin(of_seed(seed)) for seed in seeds])
    margin = Measure(float(margins.mean()))
    if len(seeds) > 1:
        half = t_quantile(0.95, len(seeds) - 1) * float(margins.std(ddof=1)) / len(seeds) ** 0.5
        margin = Measure(margin.value, margin.value - half, margin.value + half)
    return {
        "claim": claim.text,
        "seeds": len(seeds),
        "measured": claim.shown(mean),
        "margin": margin,
        "reached": "yes" if margin.value >= 0 else "NO",
    }
