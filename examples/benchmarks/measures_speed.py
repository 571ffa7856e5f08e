"""Time and memory of the measures, on one thread, compared with other libraries if they are installed.

OMP_NUM_THREADS=1 python examples/benchmarks/measures_speed.py
"""

import argparse
import importlib.util
import time
import tracemalloc

import numpy as np

from hf_calib.measures import CalibrationReport, CalibrationStream, expected_calibration_error, smooth_ece
from hf_calib.reports import render_table


def best_time(function, repeats=3):
    """Return the smallest of several CPU times of this thread in seconds, and the result."""
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        result = function()
        times.append(time.thread_time() - start)
    return min(times), result


def numpy_bincounts(confidences, correct, n_bins=10):
    """Return the bin index and three counts, without any checks."""
    index = np.minimum((confidences * n_bins).astype(np.int64), n_bins - 1)
    counts = np.bincount(index, minlength=n_bins)
    gaps = np.bincount(index, correct, n_bins) - np.bincount(index, confidences, n_bins)
    return float(np.abs(gaps).sum() / counts.sum())


def torchmetrics_ece(confidences, correct):
    """Return a call of torchmetrics' ECE on one thread."""
    import torch
    from torchmetrics.functional.classification import binary_calibration_error

    torch.set_num_threads(1)
    c, y = torch.from_numpy(confidences), torch.from_numpy(correct.astype(np.int64))
    return lambda: float(binary_calibration_error(c, y, n_bins=10))


def netcal_ece(confidences, correct):
    """Return a call of netcal's ECE."""
    from netcal.metrics import ECE

    labels = correct.astype(np.int64)
    return lambda: float(ECE(10).measure(confidences, labels))


def relplot_smooth_ece(confidences, correct):
    """Return a call of relplot's smooth ECE."""
    import relplot

    labels = correct.astype(float)
    return lambda: float(relplot.smECE(confidences, labels))


def compare(name, ours, others):
    """Yield a row for our function and for each of the others."""
    seconds, value = best_time(ours)
    yield {"what": name, "by": "hf_calib", "seconds": seconds, "times ours": 1.0, "value": value}
    for by, function in others.items():
        other, result = best_time(function)
        yield {"what": name, "by": by, "seconds": other, "times ours": other / seconds, "value": result}


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=10_000_000, help="confidences for the ECE")
    parser.add_argument("--n_report", type=int, default=1_000_000, help="samples for smooth ECE and the report")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)

    c = rng.random(arguments.n)
    y = rng.random(arguments.n) < c**2
    others = {"NumPy: index, 3 bincounts": lambda: numpy_bincounts(c, y)}
    if importlib.util.find_spec("torchmetrics"):
        others["torchmetrics"] = torchmetrics_ece(c, y)
    if importlib.util.find_spec("netcal"):
        others["netcal"] = netcal_ece(c, y)
    rows = list(compare(f"ECE of {arguments.n:,}", lambda: expected_calibration_error(c, y), others))

    few, right = c[: arguments.n_report], y[: arguments.n_report]
    others = {"relplot": relplot_smooth_ece(few, right)} if importlib.util.find_spec("relplot") else {}
    rows += compare(f"smooth ECE of {len(few):,}", lambda: smooth_ece(few, right).value, others)

    logits = rng.normal(0, 2, (arguments.n_report, 4))
    p = np.exp(logits)
    p /= p.sum(axis=1, keepdims=True)
    labels = rng.integers(0, 4, len(p))

    def report(**options):
        return CalibrationReport.from_predictions(p, labels, **options).measures["ece"].value

    reports = {
        "without intervals": lambda: (
            CalibrationReport.from_predictions(p, labels, n_resamples=0).measures["ece"].value
        ),
        "1,000 resamples": lambda: report(n_resamples=1000),
    }
    times = {by: best_time(function) for by, function in reports.items()}
    plain = times["without intervals"][0]
    for by, (seconds, value) in times.items():
        rows.append(
            {
                "what": f"report of {len(p):,}",
                "by": by,
                "seconds": seconds,
                "times ours": seconds / plain,
                "value": value,
            }
        )
    print(render_table(rows, digits=4))

    stream = CalibrationStream().update(p[:100_000], labels[:100_000])
    tracemalloc.start()
    for _ in range(20):
        stream.update(p[:100_000], labels[:100_000])
    held, peak = tracemalloc.get_traced_memory()
    print(f"\nstream of 2,100,000: {held / 2**20:.1f} MiB more held than after 100,000, peak {peak / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
