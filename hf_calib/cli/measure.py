"""`hf-calib measure`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..evaluation.thresholds import check_names
from .options import (
    DATASET_HELP,
    add_command,
    add_force,
    add_model_options,
    add_out,
    add_question_options,
    add_report_options,
    ask_options,
    check_source,
)
from .output import WIDTH, calibrators_table, print_json
from .thresholds import add_threshold, exit_code

if TYPE_CHECKING:
    from ..reports import Measurement
    from ..reports.table import Cell


def add_measure_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "measure",
        usage="(--model M --dataset D | --from-... FILE)",
        help="measure a model's calibration on multiple-choice questions or typed decisions",
        description="Ask a causal language model multiple-choice questions, read its confidence, and report accuracy, "
        "calibration error and more, with 95% intervals. With --out, a stopped run resumes when it is started again. "
        "torchrun or accelerate launch distribute the work. Existing predictions can be measured too.",
        example="hf-calib measure --model gpt2 --dataset cais/mmlu:all:test --out report --fail-if 'ece>0.05'",
        flags_of_arguments={"method": "--confidence", "matcher": "--free-form"},
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--model",
        help="a folder, a GGUF file, or the Hub id of a causal language model or adapter (namespace/name, or "
        "namespace/name:file.gguf); or openai:http://host:port/v1",
    )
    source.add_argument(
        "--from-predictions",
        metavar="FILE",
        help="a Parquet, CSV or JSONL file with the columns probabilities (or p_A, p_B, ...) and answer",
    )
    source.add_argument(
        "--from-lm-eval", metavar="FILE", nargs="+", help="lm-evaluation-harness's samples_*.jsonl (--log_samples)"
    )
    source.add_argument("--from-helm", metavar="DIR", help="a run folder of HELM, with its scenario_state.json")
    source.add_argument("--from-lighteval", metavar="FILE", nargs="+", help="lighteval's details_*.parquet")
    source.add_argument(
        "--from-inspect", metavar="FILE", nargs="+", help="logs of Inspect (--top-logprobs 20, or several --epochs)"
    )
    parser.add_argument(
        "--task",
        choices=("questions", "typed-decisions"),
        default="questions",
        help="what to ask: multiple-choice questions, or cases of typed questions, for which --model may be a server: "
        "systemone:http://host:port (vLLM), decisions:... (SGLang, OpenAI) or openrouter:... (default: %(default)s)",
    )
    parser.add_argument(
        "--prior-from",
        metavar="D",
        help="with typed decisions: training cases, whose mean answers serve as a reference",
    )
    parser.add_argument("--dataset", action="append", default=[], help=f"{DATASET_HELP}; may be given several times")
    parser.add_argument(
        "--calibrator",
        metavar="DIR",
        help="a calibrator to apply before measuring, saved by `hf-calib calibrate` (default: the one that comes with "
        "the model)",
    )
    add_force(parser, "apply a calibrator that was fitted on another model, prompt or way of reading confidence")
    add_out(parser, "folder for report.json, report.html, predictions.parquet, ...")
    parser.add_argument(
        "--free-form",
        choices=("exact", "contains", "numeric"),
        help="ask questions without options, and match the answers to the right ones in this way; with --confidence "
        "consistency, stated, stated-levels, p-true or base-tokens",
    )
    parser.add_argument(
        "--check-order",
        type=int,
        metavar="K",
        help="also ask each question with its options in K other orders, and report the share of answers that change",
    )
    add_question_options(parser, free_form=True)
    add_model_options(parser)
    add_report_options(parser)
    parser.add_argument(
        "--conventions",
        action="store_true",
        help="print the ECE under the usual conventions, each with the value of a perfectly calibrated model",
    )
    parser.add_argument("--all", action="store_true", help="print all measures, warnings, bins and subjects")
    add_threshold(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..evaluation import measure, measure_recorded, this_process
    from ..measures import CATALOG

    check_source(options)
    check_names(options.fail_if, CATALOG)
    if options.task == "typed-decisions":
        return _run_decisions(options)
    if options.prior_from is not None:
        raise ValueError("--prior-from: does not apply to multiple-choice questions; leave it out")
    how = {"calibrator": options.calibrator, "force": options.force, "out": options.out, "seed": options.seed}
    if options.model is None:
        for kind in ("lm_eval", "helm", "lighteval", "inspect", "predictions"):
            if (path := getattr(options, f"from_{kind}")) is not None:
                measurement = measure_recorded(path, kind, **how)
    else:
        measurement = measure(options.model, options.dataset, method=options.confidence, **how, **ask_options(options))
    if not this_process(options.device).is_first:  # another process prints
        return 0
    conventions = [row._asdict() for row in measurement.conventions()] if options.conventions else None
    if options.json:
        extra = {} if conventions is None else {"conventions": conventions}
        print_json({**measurement.to_dict(), **extra}, options)
    else:
        _print(measurement, options.out, options.all)
        if conventions is not None:
            print(f"\n{conventions_table(conventions)}")
    return exit_code("measure", options.fail_if, {"": measurement.values()})


def _run_decisions(options: argparse.Namespace) -> int:
    from ..evaluation import measure_decisions, this_process
    from ..reports.measurement import PAGE_FILE

    if options.model is None or len(options.dataset) != 1:
        raise ValueError("--task typed-decisions needs --model and one --dataset")
    needless = [name for name in ("all", "conventions", "confidence") if getattr(options, name)]
    if needless:
        flags = ", ".join(f"--{name}" for name in needless)
        raise ValueError(f"{flags}: does not apply to typed decisions; leave it out")
    measurement = measure_decisions(
        options.model,
        options.dataset[0],
        calibrator=options.calibrator,
        force=options.force,
        prior_from=options.prior_from,
        out=options.out,
        seed=options.seed,
        **ask_options(options),
    )
    if not this_process(options.device).is_first:  # another process prints
        return 0
    if options.json:
        print_json(measurement.to_dict(), options)
    else:
        print(measurement)
        if options.out is not None:
            print(f"\nWrote {options.out / PAGE_FILE}")
    return exit_code("measure", options.fail_if, {"": measurement.values()})


def _print(measurement: Measurement, out: Path | None, everything: bool) -> None:
    from ..measures import shown_in
    from ..reports import render_table
    from ..reports.terminal import show

    show(measurement, out)
    if measurement.before is not None:
        print(f"\n{before_and_after(measurement)}")
    if not everything:
        return
    print("\n" + textwrap.fill(measurement.verdict, WIDTH, break_on_hyphens=False))
    for finding in measurement.warnings:
        print("\n" + textwrap.fill(f"! {finding}", WIDTH, break_on_hyphens=False))
    print(f"\n{measurement.report}")
    if len(measurement.datasets) > 1:
        rows: list[dict[str, Cell]] = [
            {
                "dataset": name if len(name) <= 34 else "…" + name[-33:],
                "n": report.n,
                **{info.short: report.measures[info.key].value for info in shown_in("groups")},
            }
            for name, report in measurement.reports.items()
        ]
        print()
        print(render_table(rows))


def conventions_table(conventions: Sequence[Mapping[str, Any]]) -> str:
    """Return a table of the ECE under several conventions, with the number n of questions."""
    from ..reports import render_table

    return render_table(
        [
            {
                "convention": own["name"],
                "ECE": own["value"],
                "if calibrated": own["calibrated"],
                "n": own["n"],
                "used by": own["who"],
            }
            for own in conventions
        ]
    )


def before_and_after(measurement: Measurement) -> str:
    """Return a table of the main measures without and with the calibrator, and what its ECEs are."""
    from ..measures.verdict import convention_note

    assert measurement.before is not None
    stages = {
        "before": measurement.before.report,
        f"after ({measurement.run['calibrator']['method']})": measurement.report,
    }
    note = convention_note({name.split()[0]: report.ece_convention for name, report in stages.items()})
    return f"{calibrators_table(stages)}\n{textwrap.fill(note, WIDTH)}"
