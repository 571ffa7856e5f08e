"""`hf-calib card`."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import nullcontext, redirect_stdout

from ..evaluation.thresholds import check_names
from .options import (
    DATASET_HELP,
    add_command,
    add_force,
    add_json,
    add_length_options,
    add_prompt_options,
    add_reading_options,
    add_seed,
    add_trust,
    reading_of,
)
from .thresholds import add_threshold, exit_code


def add_card_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "card",
        help="measure a model that was trained elsewhere and write its model card",
        description="Measure a saved adapter or model on multiple-choice questions, with the base model under it for "
        "comparison, and write its card, reliability diagram and report into its folder. An existing card keeps "
        "what people wrote in it.",
        example="hf-calib card my-adapter --dataset questions.jsonl --before my-dpo-adapter",
    )
    parser.add_argument("folder", metavar="DIR", help="folder of the adapter or model")
    parser.add_argument("--dataset", required=True, help=DATASET_HELP)
    parser.add_argument("--before", metavar="MODEL", help="another model to compare with: a folder or a Hub id")
    parser.add_argument("--calibrator", metavar="DIR", help="a fitted calibrator to save with the model and apply")
    add_force(parser, "accept a calibrator that was fitted on another model, prompt or way of reading confidence")
    parser.add_argument(
        "--trained-on", metavar="D", help="the answered questions that it was fine-tuned on, to diagnose the regime"
    )
    domain = parser.add_mutually_exclusive_group()
    domain.add_argument(
        "--in-domain", action="store_true", default=None, help="the model was calibrated on questions of this kind"
    )
    domain.add_argument(
        "--out-of-domain",
        dest="in_domain",
        action="store_false",
        help="the model was not calibrated on such questions",
    )
    parser.add_argument("--name", dest="model_name", help="the card's title (default: the folder's name)")
    parser.add_argument("--alignment", help="what it was aligned with, for example DPO")
    parser.add_argument("--method", help="how it was calibrated")
    parser.add_argument("--license", help="the Hub's identifier, for example apache-2.0")
    parser.add_argument("--language", help="for example en")
    parser.add_argument(
        "--task-id",
        metavar="TASK",
        help="task ids of the benchmark on the Hub, separated by commas, such as accuracy,brier,ece",
    )
    # A published prompt format holds no examples.
    add_prompt_options(parser, examples=False)
    parser.add_argument("--batch-size", type=int, default=16, help="questions per forward pass (default: %(default)s)")
    add_length_options(parser)
    add_trust(parser)
    add_reading_options(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="ask N questions, drawn at random with --seed")
    add_seed(parser, "drawn questions and of the intervals")
    add_json(parser)
    add_threshold(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from ..evaluation import measure_and_write_card
    from ..hub import CalibrationCardData, dataset_reference
    from ..measures import CATALOG
    from ..tasks import prompt_format_of

    check_names(options.fail_if, CATALOG)
    facts = {
        name: value
        for name in ("model_name", "alignment", "method", "license", "language")
        if (value := getattr(options, name)) is not None
    }
    with redirect_stdout(sys.stderr) if options.json else nullcontext():
        path = measure_and_write_card(
            options.folder,
            options.dataset,
            before=options.before,
            prompt_format=prompt_format_of(options.prompt, chat_template=options.chat_template)
            if options.prompt or options.chat_template
            else None,
            calibrator=options.calibrator,
            force=options.force,
            in_domain=options.in_domain,
            task_id=options.task_id,
            trained_on=options.trained_on,
            limit=options.limit,
            **reading_of(options),
            seed=options.seed,
            facts=facts,
            batch_size=options.batch_size,
            max_length=options.max_length,
            drop_too_long=options.drop_too_long,
            progress=True,
            trust_remote_code=options.trust_remote_code,
        )
    data = CalibrationCardData.load(options.folder)
    own = dataset_reference(options.dataset)
    (evaluation,) = (one for one in data.evaluations if one.dataset.is_same_set(own))
    reports = {stage: report.to_dict() for stage, report in evaluation.reports.items()}
    print(json.dumps({"card": str(path), "reports": reports}) if options.json else f"Wrote {path}")
    values = {name: measure.value for name, measure in evaluation.reports["after"].measures.items()}
    return exit_code("card", options.fail_if, {"": values})
