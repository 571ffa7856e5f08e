"""Agreement with other libraries, to 1e-12 wherever the definitions are the same, and the differences pinned."""

import numpy as np
import pytest

from hf_calib import measures

from .samples import confidences_and_correct, probabilities_and_labels

pytestmark = pytest.mark.oracle

SIZES = [1, 7, 100, 5000]
BINS = [1, 5, 10, 15, 23]
NORMS = [1, 2, "max"]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("n_bins", BINS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_torchmetrics(n, n_bins, norm, dtype):
    pytest.importorskip("torchmetrics", reason="install the extra oracles")
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    c, y = confidences_and_correct(n, seed=n)
    c = c.astype(dtype)
    if dtype == "float16":
        # Rounding up to one would give a bin of its own there (see the next test).
        c = np.minimum(c, np.nextafter(np.float16(1), np.float16(0)))
    # In float16 they sum up in float16, to two digits: they get the same values in float64.
    theirs = binary_calibration_error(
        torch.tensor(c.astype(np.float64) if dtype == "float16" else c),
        torch.tensor(y.astype(int)),
        n_bins=n_bins,
        norm=norm if norm == "max" else f"l{norm}",
    )
    # In float32 they sum up in float32.
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert measures.expected_calibration_error(c, y, n_bins, norm=norm) == pytest.approx(float(theirs), abs=tolerance)


def test_torchmetrics_gives_a_confidence_of_one_a_bin_of_its_own():
    pytest.importorskip("torchmetrics", reason="install the extra oracles")
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    c, y = [0.95, 1.0], [0, 1]
    theirs = binary_calibration_error(torch.tensor(c, dtype=torch.float64), torch.tensor(y), n_bins=10)
    # Both belong to [0.9, 1]: the gap is |0.5 - 0.975|. Theirs parts them into |0 - 0.95| and |1 - 1|, half of each.
    # The bins are said to part [0, 1], and 1.0 is the most frequent confidence of a saturated softmax.
    assert measures.expected_calibration_error(c, y) == pytest.approx(0.475)
    assert float(theirs) == pytest.approx(0.475)
    c, y = [0.95, 1.0], [1, 0]
    theirs = binary_calibration_error(torch.tensor(c, dtype=torch.float64), torch.tensor(y), n_bins=10)
    assert measures.expected_calibration_error(c, y) == pytest.approx(0.475)
    assert float(theirs) == pytest.approx(0.525)


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("n_bins", BINS)
@pytest.mark.parametrize(("measure", "norm"), [("ECE", 1), ("MCE", "max")])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_netcal(n, n_bins, measure, norm, dtype):
    netcal = pytest.importorskip("netcal.metrics", reason="install the extra oracles")
    c, y = confidences_and_correct(n, seed=n)
    c = c.astype(dtype)
    # It takes the second class's probability of a binary problem.
    theirs = getattr(netcal, measure)(n_bins).measure(c, y.astype(int))
    assert measures.expected_calibration_error(c, y, n_bins, norm=norm) == pytest.approx(float(theirs), abs=1e-12)


# They compute in the type that they get.
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-4), ("float32", 1e-7), ("float64", 1e-12)])
def test_netcal_s_maximum_mean_calibration_error_is_of_confidences(dtype, tolerance):
    netcal = pytest.importorskip("netcal.metrics", reason="install the extra oracles")
    p, y = probabilities_and_labels(300)
    p = p.astype(dtype)
    theirs = netcal.MMCE().measure(p, y)
    ours = measures.kernel_calibration_error(p.max(axis=1), p.argmax(axis=1) == y)
    assert ours == pytest.approx(float(theirs), abs=tolerance)


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_relplot_at_a_bandwidth(sigma, dtype):
    relplot = pytest.importorskip("relplot", reason="install the extra oracles")
    c, y = confidences_and_correct(3000)
    c = c.astype(dtype)
    theirs = relplot.metrics.smECE_sigma(c, y.astype(float), sigma)
    # Theirs sums over 200 points with a kernel on a rounded grid; ours is within 1e-4 of the integral (see the test
    # against the integral itself), so the difference is theirs.
    assert measures.smooth_ece(c, y, bandwidth=sigma).value == pytest.approx(theirs, abs=1.5e-3)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_relplot_s_own_bandwidth(dtype):
    relplot = pytest.importorskip("relplot", reason="install the extra oracles")
    c, y = confidences_and_correct(3000)
    c = c.astype(dtype)
    # It halves [0, 1] ten times, so its bandwidth is a multiple of 1/1024.
    assert measures.smooth_ece(c, y).value == pytest.approx(relplot.smECE(c, y.astype(float)), abs=2e-3)


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("n_bins", BINS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scikit_learn_s_calibration_curve(n, n_bins, dtype):
    from sklearn.calibration import calibration_curve

    c, y = confidences_and_correct(n, seed=n)
    c = c.astype(dtype)
    accuracy, confidence = calibration_curve(y, c, n_bins=n_bins)
    statistics = measures.BinStatistics.from_predictions(c, y, n_bins)
    filled = statistics.counts > 0
    np.testing.assert_allclose(statistics.accuracy[filled], accuracy, atol=1e-12)
    np.testing.assert_allclose(statistics.mean_confidence[filled], confidence, atol=1e-12)


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("n_bins", BINS)
@pytest.mark.parametrize("norm", [1, 2, "debiased"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_uncertainty_calibration(n, n_bins, norm, dtype):
    calibration = pytest.importorskip("calibration", reason="install the extra oracles")
    c, y = confidences_and_correct(n, seed=n, skill=0.6)
    c = c.astype(dtype)
    edges = list(measures.bin_edges(n_bins)[1:])
    binned = calibration.bin(list(zip(c, y.astype(int), strict=True)), edges)
    if norm == "debiased":
        theirs = calibration.unbiased_l2_ce(binned)
        ours = measures.expected_calibration_error(c, y, n_bins, norm=2, debias=True)
    else:
        theirs = calibration.plugin_ce(binned, power=norm)
        ours = measures.expected_calibration_error(c, y, n_bins, norm=norm)
    assert ours == pytest.approx(float(theirs), abs=1e-12)


@pytest.mark.parametrize("n_bins", BINS)
def test_uncertainty_calibration_s_equal_mass_bins(n_bins):
    calibration = pytest.importorskip("calibration", reason="install the extra oracles")
    # Where the bins divide the samples, both cut the sorted samples into equal parts.
    c, y = confidences_and_correct(n_bins * 100)
    binned = calibration.bin(list(zip(c, y.astype(int), strict=True)), calibration.get_equal_bins(list(c), n_bins))
    theirs = calibration.plugin_ce(binned, power=1)
    assert measures.equal_mass_calibration_error(c, y, n_bins) == pytest.approx(float(theirs), abs=1e-12)


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("n_bins", BINS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("float64", 1e-12)])
def test_mapie_takes_the_number_of_edges_for_that_of_bins(n, n_bins, dtype, tolerance):
    mapie = pytest.importorskip("mapie.metrics.calibration", reason="install the extra oracles")
    c, y = confidences_and_correct(n, seed=n)
    c = c.astype(dtype)
    # It lays `num_bins` points from 0 to 1, which make one bin fewer. Its bins are closed on the right, which makes no
    # difference to confidences off the edges.
    theirs = mapie.expected_calibration_error(y.astype(int), c, num_bins=n_bins + 1, split_strategy="uniform")
    assert measures.expected_calibration_error(c, y, n_bins) == pytest.approx(float(theirs), abs=tolerance)
