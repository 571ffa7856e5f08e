"""The histogram of the options' log-odds."""

import numpy as np
import pytest
from experiments.log_odds import draw_collapse, log_odds_histogram

from hf_calib.confidence import Predictions


def predictions(scores):
    scores = np.asarray(scores, dtype=float)
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return Predictions(
        log_probabilities, np.zeros(len(scores), dtype=int), (None,) * len(scores), np.arange(len(scores))
    )


def test_the_counts_are_numpys():
    rng = np.random.default_rng(0)
    one = rng.normal(scale=2, size=(400, 4))
    other = 3 * one + rng.normal(size=one.shape)
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (one, other))
    edges = np.arange(-160, 161) / 4
    expected, _, _ = np.histogram2d(x.ravel(), y.ravel(), bins=edges)
    histogram = log_odds_histogram(predictions(one), predictions(other))
    assert histogram["width"] == 0.25
    found = np.zeros((320, 320))
    for column, row, count in histogram["cells"]:
        found[column + 160, row + 160] = count
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("method", "drawn"), [("dpo", True), ("ipo", False)])
def test_only_what_is_shown_is_drawn(method, drawn, tmp_path):
    run = {
        "rows": [{"method": method}],
        "sharpening": {"in": {"slope": 2.0, "r_squared": 0.9}},
        "log_odds": {"in": {"width": 0.25, "cells": [[1, 2, 3], [-1, -2, 1]]}},
    }
    assert draw_collapse([run], tmp_path / "a.png") is drawn
    assert (tmp_path / "a.png").exists() is drawn
    # As runs from before this was kept.
    assert not draw_collapse([{key: run[key] for key in ("rows", "sharpening")}], tmp_path / "b.png")
