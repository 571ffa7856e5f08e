"""The effect that each method is there for, on few seeds; the figures over ten are in `examples/calibrators`."""

import importlib
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "calibrators" / "effects.py"


@pytest.fixture(scope="module")
def effects():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module("effects")


# Method, measure, the variant with less of it, the one with more, by how much at least.
CLAIMS = [
    ("adaptive_ensemble", "ECE", "harder: adaptive_ensemble", "harder: temperature", 0.05),
    ("ensemble", "ECE", "pool then calibrate", "calibrate then pool", 0.08),
    ("ensemble", "NLL", "pool then calibrate", "one member, calibrated", 0.1),
    ("importance_weighted", "ECE", "importance_weighted", "temperature, source labels", 0.05),
    ("localized", "LCE", "localized", "temperature", 0.05),
    ("localized", "NLL", "localized", "temperature", 0.005),
    ("meta_calibration", "ECE", "log-loss + DECE on the training set", "log-loss", 0.02),
    ("meta_calibration", "ECE", "smoothing learned on held-out halves", "log-loss", 0.1),
    ("modular_conformal", "mean |level - share|", "gaussian, linear", "as it is", 0.08),
    ("modular_conformal", "width", "gaussian, step", "point, step", 0.08),
    ("monotonic_network", "NLL", "monotonic_network", "temperature", 0.1),
    ("monotonic_network", "NLL", "monotonic_network", "platt", 0.005),
    ("monotonic_network", "NLL", "rewards: monotonic_network", "rewards: platt", 0.005),
    ("reference_agreement", "ECE", "reference_agreement", "as it is", 0.2),
    ("sample_consistency", "Brier", "sample_consistency", "stated confidence", 0.1),
    ("sample_consistency", "ECE", "sample_consistency", "agreement", 0.05),
    ("selective_scaling", "ECE", "selective_scaling", "temperature", 0.015),
    ("selective_scaling", "ECE", "tokens: selective_scaling", "tokens: temperature", 0.01),
    ("simplex_etf", "ECE", "simplex_etf", "learned head", 0.03),
]
# What takes long and no claim here is about.
QUICK = {"meta_calibration": {"by_unit": False}}
_RUNS = {}


@pytest.mark.parametrize(("method", "measure", "less", "more", "margin"), CLAIMS)
def test_effect(effects, method, measure, less, more, margin):
    if method not in _RUNS:
        _RUNS[method] = [effects.EFFECTS[method](seed, **QUICK.get(method, {})) for seed in range(2)]
    gaps = [run[more][measure] - run[less][measure] for run in _RUNS[method]]
    assert min(gaps) > margin


def test_every_method_has_its_page(effects):
    folder = SCRIPT.parent
    for method in effects.EFFECTS:
        page = (folder / f"{method}.md").read_text(encoding="utf-8")
        assert "## When it helps" in page
        assert "## When it doesn't" in page


def test_intervals_over_seeds_are_students(effects):
    from scipy.stats import ttest_1samp

    rows = effects.over_seeds(lambda seed: {"a": {"x": float(seed**2)}}, 5)
    interval = ttest_1samp(np.arange(5) ** 2.0, 0).confidence_interval()
    assert (rows[0]["x"].low, rows[0]["x"].high) == pytest.approx(tuple(interval))
