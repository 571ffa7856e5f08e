"""`hf-calib lab`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

from ..lab.compared import METHODS
from ..lab.presets import EXPERIMENTS, WORLDS
from ..lab.sweeps import REINFORCED, SWEEPS
from .options import add_command, add_json


def add_lab_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = commands.add_parser(
        "lab",
        help="compare ways to calibrate, over seeds, where the true probabilities are known",
        description="Compare pre-trained, aligned and recalibrated models over seeds, in a synthetic world whose true "
        "probabilities are known.",
        epilog="example: hf-calib lab run --seeds 0-7 --jobs 2 --out results",
    )
    actions = parser.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION", help="what to do")
    _add_run_parser(actions)
    _add_sweep_parser(actions)
    _add_reinforce_parser(actions)
    _add_report_parser(actions)


def _add_run_parser(actions: argparse._SubParsersAction) -> None:
    parser = add_command(
        actions,
        "run",
        help="train and measure; goes on where it stopped",
        description="Train and measure every method on every seed, writing each result as soon as it is there. What "
        "the folder has already is not run again, unless its settings changed. Then write the report.",
        example="hf-calib lab run --seeds 0-7 --jobs 2 --out results",
    )
    parser.add_argument(
        "--seeds",
        type=seeds,
        required=True,
        help="such as 0-7 or 3,5-7; settings were chosen on 0 to 2, and results are reported on others",
    )
    parser.add_argument(
        "--world",
        action="append",
        choices=WORLDS,
        help="options in a fixed order, or shuffled; may be given twice (default: both)",
    )
    parser.add_argument(
        "--method",
        action="append",
        choices=tuple(METHODS),
        metavar="METHOD",
        help="only this one; may be given several times (default: all of them)",
    )
    _add_running_options(parser)
    _add_report_options(parser)
    parser.set_defaults(run=_run)


def _add_sweep_parser(actions: argparse._SubParsersAction) -> None:
    parser = add_command(
        actions,
        "sweep",
        help="vary one setting; goes on where it stopped",
        description="Vary one setting on a few seeds of the world with options in a fixed order: the number of "
        "calibration questions, the weight of the calibration term, or how long is trained; or compare variants: "
        "where the anchor's prompts come from, and a start that is itself miscalibrated (reference). What the "
        "folder has already is not run again, unless its settings changed. Then write the table and the figure.",
        example="hf-calib lab sweep questions --seeds 3-5 --jobs 2 --out results",
    )
    parser.add_argument("sweep", choices=tuple(SWEEPS), help="what is varied or compared")
    parser.add_argument("--seeds", type=seeds, required=True, help="such as 3-5")
    parser.add_argument(
        "--method",
        action="append",
        metavar="METHOD",
        help="only this one of the sweep's; may be given several times (default: all of them)",
    )
    _add_running_options(parser)
    _add_all_seeds(parser)
    parser.set_defaults(run=_sweep)


def _add_reinforce_parser(actions: argparse._SubParsersAction) -> None:
    parser = add_command(
        actions,
        "reinforce",
        help="align by reinforcement learning; goes on where it stopped",
        description="Train the pre-trained model on its own replies, with the annotator's reward, in the world with "
        "options in a fixed order: plainly and calibration-aware. PPO takes TRL 1.12 or before "
        "(pip install 'hf-calib[ppo]').",
        example="hf-calib lab reinforce --seeds 3 --preset mini --out results",
    )
    parser.add_argument("--seeds", type=seeds, required=True, help="such as 3-5")
    parser.add_argument(
        "--method",
        action="append",
        choices=REINFORCED,
        metavar="METHOD",
        help=f"of {', '.join(REINFORCED)}; may be given several times (default: the first two)",
    )
    _add_running_options(parser)
    add_json(parser)
    parser.set_defaults(run=_reinforce)


def _add_report_parser(actions: argparse._SubParsersAction) -> None:
    parser = add_command(
        actions,
        "report",
        help="make the tables and figures again",
        description="Make tables and figures of results: the mean over the reported seeds, and each method's "
        "difference from a baseline with its paired 95% interval over seeds.",
        example="hf-calib lab report results --baseline dpo+temperature",
    )
    parser.add_argument("out", type=Path, metavar="DIR", help="what `hf-calib lab run` or `sweep` wrote")
    _add_report_options(parser)
    parser.set_defaults(run=_report)


def _add_running_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--preset",
        choices=tuple(EXPERIMENTS),
        default="full",
        help="sizes, and what is trained: adapters or the full weights; mini is a miniature for a quick look "
        "(default: %(default)s)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes, each on one thread (default: 1)")
    parser.add_argument("--cache-dir", help="where pre-trained models are kept (default: the user's cache)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results and the report")


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--baseline", default="dpo", metavar="METHOD", help="what the others are compared to (default: %(default)s)"
    )
    _add_all_seeds(parser)


def _add_all_seeds(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--all-seeds", action="store_true", help="report the seeds too that settings were chosen on, and say so"
    )
    add_json(parser)


def seeds(text: str) -> list[int]:
    """Read seeds: numbers and ranges with both ends, separated by commas."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        try:
            low = int(first)
            high = int(last) if dash else low
        except ValueError:
            raise argparse.ArgumentTypeError(f"{part!r} is neither a number nor a range such as 0-7") from None
        if high < low:
            raise argparse.ArgumentTypeError(f"the range {part!r} runs backwards")
        found += range(low, high + 1)
    return found


def _run(options: argparse.Namespace) -> None:
    from ..lab.run import run_experiment

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
        _report(options)
    except ValueError as error:  # only part was run; the results are there
        print(f"no report yet: {error}", file=sys.stderr)


def _sweep(options: argparse.Namespace) -> None:
    from ..lab.sweep_report import load_sweep_rows, write_sweep_report
    from ..lab.sweep_run import run_sweep

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
        text = write_sweep_report(options.out, all_seeds=options.all_seeds)
        print(json.dumps({"sweeps": {"rows": load_sweep_rows(options.out), "report": text}}) if options.json else text)
    except ValueError as error:  # the results are there
        print(f"no report yet: {error}", file=sys.stderr)


def _reinforce(options: argparse.Namespace) -> int:
    from ..lab.reinforcement_run import FILES, REINFORCE_KEYS, reinforcement_report, run_reinforcement
    from ..lab.results import load_rows
    from ..trainers.trl_compatibility import TrainerUnavailableError

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
        print(f"hf-calib lab reinforce: {error}", file=sys.stderr)
        return 1
    report = reinforcement_report(options.out)
    rows = load_rows(options.out / FILES["file"], REINFORCE_KEYS)
    print(json.dumps({"rows": rows, "report": report}) if options.json else report)
    return 0


def _report(options: argparse.Namespace) -> None:
    from ..lab.report import write_report
    from ..lab.results import RESULTS_FILE, load_rows
    from ..lab.sweep_report import has_sweeps, load_sweep_rows, write_sweep_report

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
