"""
Align by reinforcement learning on the annotator's reward, plain and calibration-aware.

The pre-trained model is trained on its own replies, in the world with options in a fixed order. PPO requires TRL 1.12
or older (pip install 'hf-calib[ppo]'). The same command resumes a stopped run.

python examples/lab/reinforce.py --seeds 3-7 --jobs 2 --out results
"""

import argparse
import sys
from contextlib import nullcontext, redirect_stdout

from experiments.command_line import add_json, add_running_options, make_parser, print_report, run_script
from experiments.reinforcement_run import FILES, reinforcement_report, run_reinforcement
from experiments.results import load_rows
from experiments.sweeps import REINFORCE_KEYS, REINFORCED

from hf_calib.trainers.trl_compatibility import TrainerUnavailableError


def parser() -> argparse.ArgumentParser:
    """Return the parser of the arguments."""
    made = make_parser(__file__, __doc__)
    made.add_argument(
        "--method",
        action="append",
        choices=REINFORCED,
        metavar="METHOD",
        help=f"one of {', '.join(REINFORCED)}; may be repeated (default: the first two)",
    )
    add_running_options(made)
    add_json(made)
    return made


def reinforce(options: argparse.Namespace) -> None:
    """Run what is missing, then print the report."""
    try:
        with redirect_stdout(sys.stderr) if options.json else nullcontext():
            run_reinforcement(
                options.out,
                options.seeds,
                preset=options.preset,
                methods=options.method or REINFORCED[:2],
                jobs=options.jobs,
                cache_dir=options.cache_dir,
            )
    except TrainerUnavailableError as error:
        raise ValueError(str(error)) from None
    print_report(options, load_rows(options.out / FILES["file"], REINFORCE_KEYS), reinforcement_report(options.out))


if __name__ == "__main__":
    sys.exit(run_script(parser(), reinforce))
