"""`hf-calib demo`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext, redirect_stdout

from .options import add_command, add_json, add_out, add_seed


def add_demo_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "demo",
        help="align, measure and recalibrate a small model in a synthetic world",
        description="Pre-train a small language model in a synthetic world whose true probabilities are known, align "
        "it with plain DPO and with calibration-aware DPO, repair the overconfident one, and compare them all.",
        example="hf-calib demo --out demo",
    )
    add_out(
        parser, "folder for the table, the picture, the adapter and its card (default: %(default)s)", default="demo"
    )
    add_seed(parser, "the world, the model and the data")
    parser.add_argument(
        "--preset", default="demo", choices=("demo", "mini"), help="sizes; 'mini' is a miniature for a quick look"
    )
    parser.add_argument("--cache-dir", help="cache of the pre-trained model (default: inside --out)")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..lab.demo import run_demo

    # With --json, the steps are printed on standard error.
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        results = run_demo(options.out, preset=options.preset, seed=options.seed, cache_dir=options.cache_dir)
    if options.json:
        reports = {
            method: {domain: report.to_dict() for domain, report in own.items()} for method, own in results.items()
        }
        print(json.dumps(reports))
