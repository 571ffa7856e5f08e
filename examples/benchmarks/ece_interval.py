"""Coverage and width of the ECE's interval, and false alarms and power of the calibration test, by simulation.

python examples/benchmarks/ece_interval.py --repeats 2000
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from hf_calib.measures import BinStatistics, calibration_error_interval, calibration_test
from hf_calib.reports import render_table

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.measures.sources import CALIBRATED, MISCALIBRATED, population_error


def simulate(draw, truth, n, repeats, tests, seed=0):
    """Return coverage and mean width of this interval and the percentile bootstrap's, and the test's rejections."""
    rng = np.random.default_rng(seed)
    below, above, widths, percentile, percentile_widths, rejected = [], [], [], [], [], []
    for repeat in range(repeats):
        c, y = draw(n, rng)
        statistics = BinStatistics.from_predictions(c, y)
        low, high = calibration_error_interval(statistics)
        assert low <= statistics.error() <= high
        # For a calibrated source this sum over the bins is 0 up to rounding.
        below.append(high < truth - 1e-12)
        above.append(low > truth + 1e-12)
        widths.append(high - low)
        # Resampling gives the bins' gaps this noise, apart from the normal approximation.
        noise = rng.multivariate_normal(np.zeros(10), statistics.gap_covariance, 500, method="eigh")
        ends = np.quantile(np.abs(statistics.gaps + noise).sum(axis=1), [0.025, 0.975])
        percentile.append(ends[0] <= truth <= ends[1])
        percentile_widths.append(ends[1] - ends[0])
        # The test draws hundreds of data sets, so it may be run on fewer repeats.
        if repeat < tests:
            rejected.append(calibration_test(c, y, n_resamples=400).p_value <= 0.05)
    return {
        "coverage": 1 - float(np.mean(below)) - float(np.mean(above)),
        "lies above": float(np.mean(above)),
        "lies below": float(np.mean(below)),
        "width": float(np.mean(widths)),
        "percentile's coverage": float(np.mean(percentile)),
        "its width": float(np.mean(percentile_widths)),
        "test rejects": float(np.mean(rejected)) if rejected else None,
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=500)
    parser.add_argument("--tests", type=int, default=100, help="number of repeats on which the test is run too")
    parser.add_argument("--sizes", type=int, nargs="+", default=[300, 3000, 30_000])
    parser.add_argument("--sources", nargs="+", default=[*CALIBRATED, *MISCALIBRATED])
    arguments = parser.parse_args()
    rows, sources = [], {**CALIBRATED, **MISCALIBRATED}
    for name in arguments.sources:
        truth = population_error(sources[name])
        for n in arguments.sizes:
            found = simulate(sources[name], truth, n, arguments.repeats, arguments.tests)
            rows.append({"source": name, "ECE": truth, "n": n, **found})
            print(f"{name}, {n:,} samples", file=sys.stderr)
    print(render_table(rows, digits=4))


if __name__ == "__main__":
    main()
