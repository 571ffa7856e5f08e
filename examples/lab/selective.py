"""
Show what calibrated confidence is for on saved measurements: selective answering and Confidence@k.

A measurement is a folder that hf-calib measure wrote with --out, or a file of predictions, of any model.

python examples/lab/selective.py before after --error 0.3 --samples 5
"""

import argparse
import json
import sys
from pathlib import Path

from experiments.command_line import make_parser, run_script
from experiments.selective import MEASURES, SAMPLES, TOLERATED_ERROR, legend, selective_measures

from hf_calib.reports import Measurement, render_table


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    made = make_parser(__file__, __doc__)
    made.add_argument("measurements", type=Path, nargs="+", metavar="MEASUREMENT", help="folder of hf-calib measure")
    made.add_argument(
        "--error", type=float, default=TOLERATED_ERROR, help="share of wrong answers tolerated (default: %(default)s)"
    )
    made.add_argument(
        "--samples", type=int, default=SAMPLES, metavar="K", help="answers sampled per question (default: %(default)s)"
    )
    made.add_argument("--json", action="store_true", help="print the rows as JSON")
    return made


def show(options: argparse.Namespace) -> None:
    """Print a row for each measurement and dataset."""
    if not 0 < options.error < 1:
        raise ValueError(f"--error: {options.error} is not between 0 and 1")
    if options.samples < 1:
        raise ValueError(f"--samples: {options.samples} is less than 1")
    rows = []
    for folder in options.measurements:
        for name, recorded in Measurement.load(folder).datasets.items():
            measured = selective_measures(recorded.predictions, error=options.error, samples=options.samples)
            rows.append({"measurement": str(folder), "dataset": name, "n": len(recorded.predictions), **measured})
    if options.json:
        print(json.dumps(rows))
        return
    print(render_table([{MEASURES.get(key, key): value for key, value in row.items()} for row in rows]))
    print("\n" + legend(options.error, options.samples))


if __name__ == "__main__":
    sys.exit(run_script(parser(), show))
