"""
Write the tables and figures of a folder of results again.

The report has the means over the reported seeds, and each method's difference from a baseline with its paired 95%
interval over seeds.

python examples/lab/report.py results --baseline dpo+temperature
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from experiments.command_line import add_all_seeds, add_baseline, add_json, make_parser, run_script
from experiments.report import write_report
from experiments.results import RESULTS_FILE, load_rows
from experiments.sweep_report import has_sweeps, load_sweep_rows, write_sweep_report


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    made = make_parser(__file__, __doc__)
    made.add_argument("out", type=Path, metavar="DIR", help="folder that run.py or sweep.py wrote to")
    add_baseline(made)
    add_all_seeds(made)
    add_json(made)
    return made


def report(options: argparse.Namespace) -> None:
    """Write and print the reports of the folder's results: the sweeps and the comparison."""
    found: dict[str, Any] = {}
    if has_sweeps(options.out):
        text = write_sweep_report(options.out, all_seeds=options.all_seeds)
        found["sweeps"] = {"rows": load_sweep_rows(options.out), "report": text}
    if (options.out / RESULTS_FILE).exists() or not found:
        text = write_report(options.out, baseline=options.baseline, all_seeds=options.all_seeds)
        found |= {"rows": load_rows(options.out / RESULTS_FILE), "report": text}
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(part["report"] for part in (found.get("sweeps"), found) if part and "report" in part))


if __name__ == "__main__":
    sys.exit(run_script(parser(), report))
