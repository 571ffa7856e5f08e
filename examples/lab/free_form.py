"""
Compare ways to train and to repair the confidence in free-form answers, after reinforcement learning.

The pre-trained model answers in its own words, and its true probability of being right is known. The same command
continues a run that was stopped.

python examples/lab/free_form.py --seeds 3-7 --jobs 2 --out results
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
from experiments.free_form import METHODS, SETTINGS
from experiments.free_form_run import FILES, KEYS, free_form_report, run_free_form
from experiments.results import load_rows


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    made = make_parser(__file__, __doc__)
    made.add_argument(
        "--method",
        action="append",
        choices=METHODS,
        metavar="METHOD",
        help=f"one of {', '.join(METHODS)}; may be repeated (default: all)",
    )
    add_running_options(made, presets=tuple(SETTINGS))
    add_all_seeds(made)
    add_json(made)
    return made


def free_form(options: argparse.Namespace) -> None:
    """Run what is missing, then print the report."""
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        run_free_form(
            options.out,
            options.seeds,
            preset=options.preset,
            methods=options.method or METHODS,
            jobs=options.jobs,
            cache_dir=options.cache_dir,
        )
    report = free_form_report(options.out, all_seeds=options.all_seeds)
    print_report(options, load_rows(options.out / FILES["file"], KEYS), report)


if __name__ == "__main__":
    sys.exit(run_script(parser(), free_form))
