"""
Compare all methods over seeds, where the true probabilities are known, and write the report.

Every method is trained and measured on every seed. Each result is written as soon as it is finished. The same command
resumes a stopped run, and reruns methods whose settings changed.

python examples/lab/run.py --seeds 3-7 --world shuffled --jobs 2 --out results
"""

import argparse
import sys
from contextlib import nullcontext, redirect_stdout

from experiments.command_line import (
    add_all_seeds,
    add_baseline,
    add_json,
    add_running_options,
    make_parser,
    print_report,
    run_script,
)
from experiments.compared import METHODS
from experiments.presets import WORLDS
from experiments.report import write_report
from experiments.results import RESULTS_FILE, load_rows
from experiments.run import run_experiment


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    made = make_parser(__file__, __doc__)
    made.add_argument(
        "--world", action="append", choices=WORLDS, help="option order; may be repeated (default: both worlds)"
    )
    made.add_argument(
        "--method", action="append", choices=METHODS, metavar="METHOD", help="may be repeated (default: all methods)"
    )
    add_running_options(made)
    add_baseline(made)
    add_all_seeds(made)
    add_json(made)
    return made


def compare(options: argparse.Namespace) -> None:
    """Run the missing methods, then write and print the report."""
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        run_experiment(
            options.out,
            options.seeds,
            worlds=options.world or WORLDS,
            preset=options.preset,
            methods=options.method,
            jobs=options.jobs,
            cache_dir=options.cache_dir,
        )
    try:
        report = write_report(options.out, baseline=options.baseline, all_seeds=options.all_seeds)
    except ValueError as error:  # only a part was run; its results are kept
        print(f"no report yet: {error}", file=sys.stderr)
    else:
        print_report(options, load_rows(options.out / RESULTS_FILE), report)


if __name__ == "__main__":
    sys.exit(run_script(parser(), compare))
