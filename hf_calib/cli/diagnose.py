"""`hf-calib diagnose`."""

from __future__ import annotations

import argparse
import json
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from .options import DATASET_HELP, add_command, add_model_options, add_question_options, add_report_options
from .predictions import PROGRESS
from .thresholds import add_threshold, check_names, exit_code, flattened

if TYPE_CHECKING:
    from ..regimes import Diagnosis
    from ..reports.table import Cell

_WIDTH = 80

_PARTS = ("training", "new")


def add_diagnose_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "diagnose",
        usage="(--model M --dataset D --held-out D | ...)",
        help="tell whether a fine-tuned model can be calibrated at no cost, and with which method",
        description="Ask a model the questions that it was fine-tuned on and new ones of the same kind, and tell the "
        "regime: calibratable, where plain supervised fine-tuning (CFT) suffices, or not, since it has begun to "
        "memorise.",
        example="hf-calib diagnose --model my/model --dataset train.jsonl --held-out test.jsonl",
    )
    parser.add_argument("--model", help="a folder or the Hub id of a causal language model or adapter")
    parser.add_argument(
        "--from-predictions",
        nargs=2,
        metavar=("TRAIN", "HELD_OUT"),
        help="predictions on the two sets that exist already: files, or folders that `hf-calib measure` wrote",
    )
    parser.add_argument("--dataset", metavar="D", help=f"what it was fine-tuned on: {DATASET_HELP}")
    parser.add_argument("--held-out", metavar="D", help="new questions of the same kind")
    parser.add_argument(
        "--critical-accuracy",
        type=float,
        metavar="ACC",
        help="E[max p*] where it is known (default: the accuracy on the new questions, a lower estimate)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="for diagnosis.json")
    add_question_options(parser)
    add_model_options(parser)
    add_report_options(parser)
    add_threshold(parser, "gap_low>0.02", several=" (also new.ece, training.accuracy, ...)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..regimes import diagnose
    from ..reports.measurement import pool
    from .predictions import ask_model, read_answered, skipped_rows

    if (options.model is None) == (options.from_predictions is None):
        raise ValueError("give either --model or --from-predictions")
    check_names(options.fail_if, _names())
    skipped: dict[str, dict[str, int]] = {}
    progress = None if options.out is None else options.out / PROGRESS
    if options.model is not None:
        if options.dataset is None or options.held_out is None:
            raise ValueError("--model needs --dataset, what it was fine-tuned on, and --held-out, new questions")
        if options.dataset == options.held_out:
            raise ValueError("--dataset and --held-out are the same questions; new ones show what was memorised")
        asked = ask_model(options, options.model, [options.dataset, options.held_out], progress)
        if asked is None:  # another process prints
            return 0
        train, held_out = (asked[0][name].predictions for name in (options.dataset, options.held_out))
        skipped = skipped_rows(asked[0])
    else:
        train, held_out = (pool(read_answered(path)) for path in options.from_predictions)
    diagnosis = diagnose(train, held_out, critical_accuracy=options.critical_accuracy)
    result = {**diagnosis.to_dict(), **skipped}
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(result, indent=2, allow_nan=False) + "\n"
        (options.out / "diagnosis.json").write_text(text, encoding="utf-8")
        shutil.rmtree(options.out / PROGRESS, ignore_errors=True)
    if options.json:
        print(json.dumps(result))
    else:
        _print(diagnosis)
    return exit_code("diagnose", options.fail_if, {"": flattened(diagnosis.to_dict())})


def _names() -> list[str]:
    """Return the numbers that a diagnosis has."""
    from dataclasses import fields

    from ..regimes import Diagnosis, SetSummary

    own = [field.name for field in fields(Diagnosis) if field.type == "float"]
    return [*own, *(f"{part}.{field.name}" for part in _PARTS for field in fields(SetSummary))]


def _print(diagnosis: Diagnosis) -> None:
    from ..measures import Measure
    from ..reports import render_table

    print(f"Regime: {diagnosis.regime}; use {diagnosis.method}\n")
    print(textwrap.fill(f"{diagnosis.reasons} {diagnosis.advice}", _WIDTH), end="\n\n")
    rows: list[dict[str, Cell]] = [
        {
            "questions": name,
            "n": part.n,
            "accuracy": Measure(part.accuracy, part.low, part.high),
            "confidence": part.confidence,
            "ECE": part.ece,
            "|acc - conf|": part.bound,
        }
        for name, part in (("fine-tuned on", diagnosis.training), ("new", diagnosis.new))
    ]
    print(render_table(rows))
    print(f"\nGeneralisation gap {diagnosis.gap:+.3f} [{diagnosis.gap_low:+.3f}, {diagnosis.gap_high:+.3f}]")
    print("No binning gives an ECE below |accuracy - mean confidence|.")
