"""
Vary one setting over a few seeds, or compare variants of methods, in the world with options in a fixed order.

questions: number of calibration questions; weight: weight of the calibration term; training: length of the training;
prompts: source of the anchor's prompts; self-made: number of prompts that the model writes; chat: alignment on open
pairs alone; reference: a start that is itself miscalibrated. The same command continues a run that was stopped.

python examples/lab/sweep.py questions --seeds 3-5 --jobs 2 --out results
"""

import argparse
import sys
from contextlib import nullcontext, redirect_stdout

from experiments.command_line import (
    add_all_seeds,
    add_json,
    add_running_options,
    make_parser,
    print_report,
    run_script,
)
from experiments.sweep_report import load_sweep_rows, write_sweep_report
from experiments.sweep_run import run_sweep
from experiments.sweeps import SWEEPS


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    made = make_parser(__file__, __doc__)
    made.add_argument("sweep", choices=SWEEPS, help="what to vary or compare")
    made.add_argument(
        "--method", action="append", metavar="METHOD", help="may be repeated (default: all methods of the sweep)"
    )
    add_running_options(made)
    add_all_seeds(made)
    add_json(made)
    return made


def sweep(options: argparse.Namespace) -> None:
    """Run what is missing, then write and print the report of all sweeps."""
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        run_sweep(
            options.out,
            options.sweep,
            options.seeds,
            preset=options.preset,
            methods=options.method,
            jobs=options.jobs,
            cache_dir=options.cache_dir,
        )
    try:
        report = write_sweep_report(options.out, all_seeds=options.all_seeds)
    except ValueError as error:  # only seeds that settings were chosen on; their results are kept
        print(f"no report yet: {error}", file=sys.stderr)
    else:
        print_report(options, load_sweep_rows(options.out), report)


if __name__ == "__main__":
    sys.exit(run_script(parser(), sweep))
