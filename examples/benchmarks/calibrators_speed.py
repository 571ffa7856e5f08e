"""Time to fit and apply temperature scaling, compared with other libraries if they are installed.

OMP_NUM_THREADS=1 python examples/benchmarks/calibrators_speed.py
"""

import argparse
import importlib.util
import time
import warnings

import numpy as np
from scipy.special import softmax

from hf_calib.calibrators import TemperatureScaling, by_name
from hf_calib.reports import render_table


def best_time(function, repeats=7):
    """Return the smallest of several CPU times in seconds, hardly affected by other processes, and the result."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        result = function()
        times.append(time.process_time() - start)
    return min(times), result


def scikit_learn(logits, labels):
    """Return a call of scikit-learn's temperature scaling; its result is the temperature."""
    from sklearn.calibration import _TemperatureScaling

    return lambda: float(1 / _TemperatureScaling().fit(logits, labels).beta_)


def probmetrics(logits, labels):
    """Return a call of probmetrics' temperature scaling."""
    import torch
    from probmetrics.calibrators import TemperatureScalingCalibrator
    from probmetrics.distributions import CategoricalLogits

    torch.set_num_threads(1)
    z, y = CategoricalLogits(torch.from_numpy(logits)), torch.from_numpy(labels)

    def fit():
        calibrator = TemperatureScalingCalibrator()
        calibrator.fit_torch(z, y)
        return float(1 / calibrator.invtemp_)

    return fit


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, help="questions")
    parser.add_argument("--options", type=int, default=4)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    true = rng.normal(size=(arguments.n, arguments.options))
    labels = (rng.random((arguments.n, 1)) > softmax(true, axis=1).cumsum(axis=1)).sum(axis=1)
    logits = 2.5 * true
    fits = {"hf_calib": lambda: TemperatureScaling().fit(logits, labels).temperature}
    if importlib.util.find_spec("sklearn"):
        fits["scikit-learn"] = scikit_learn(logits, labels)
    if importlib.util.find_spec("probmetrics"):
        fits["probmetrics"] = probmetrics(logits, labels)
    rows = []
    for by, function in fits.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seconds, temperature = best_time(function)
        rows.append({"what": "fit temperature", "by": by, "ms": 1e3 * seconds, "temperature": temperature})
    calibrator = TemperatureScaling().fit(logits, labels)
    transforms = {"hf_calib": lambda: calibrator.transform(logits), "scipy's softmax": lambda: softmax(logits, axis=1)}
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
        tensor = torch.from_numpy(logits)
        transforms["torch's softmax"] = lambda: torch.softmax(tensor, dim=1)
        transforms["hf_calib, a tensor"] = lambda: calibrator.transform(tensor)
    for by, function in transforms.items():
        rows.append({"what": "transform", "by": by, "ms": 1e3 * best_time(function)[0]})
    for name in ("vector", "matrix", "dirichlet", "platt", "beta", "isotonic", "histogram", "spline"):
        seconds, fitted = best_time(lambda name=name: by_name(name).fit(logits, labels), repeats=1)
        rows.append({"what": f"fit {name}", "by": "hf_calib", "ms": 1e3 * seconds})
        rows.append(
            {
                "what": f"transform {name}",
                "by": "hf_calib",
                "ms": 1e3 * best_time(lambda fitted=fitted: fitted.transform(logits), 3)[0],
            }
        )
    print(f"{arguments.n:,} questions, {arguments.options} options, one thread\n")
    print(render_table(rows, digits=2))


if __name__ == "__main__":
    main()
