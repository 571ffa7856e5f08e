"""`hf-calib lm-eval-task`."""

from __future__ import annotations

import argparse
import json

from .options import DATASET_HELP, add_command, add_json, add_out, add_prompt_options, add_reading_options, reading_of


def add_lm_eval_task_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "lm-eval-task",
        help="write questions as a task for lm-evaluation-harness, with ECE among its metrics",
        description="Write questions as a YAML task that lm-evaluation-harness runs with the prompts of `hf-calib "
        "measure`, and with ECE, Brier score and NLL as metrics.",
        example="hf-calib lm-eval-task --dataset cais/mmlu:anatomy:test --name anatomy --out tasks",
    )
    parser.add_argument("--dataset", required=True, help=DATASET_HELP)
    parser.add_argument("--name", required=True, help="the task's name")
    add_out(parser, "for NAME.yaml, NAME.jsonl and calibration.py", required=True)
    parser.add_argument("--texts", action="store_true", help="score the options' texts instead of their letters")
    parser.add_argument("--limit", type=int, metavar="N", help="N questions, drawn at random (seed 0)")
    add_prompt_options(parser, model=False)
    add_reading_options(parser)
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from ..tasks import load_questions, prompt_format_of, write_lm_eval_task

    questions = load_questions(options.dataset, limit=options.limit, **reading_of(options))
    prompt_format = prompt_format_of(
        options.prompt,
        few_shot=options.few_shot,
        few_shot_dataset=options.few_shot_dataset,
        reading=reading_of(options),
    )
    path = write_lm_eval_task(questions, options.out, options.name, prompt_format=prompt_format, texts=options.texts)
    if options.json:
        counts = {"n": len(questions), **({"skipped_rows": len(questions.skipped)} if questions.skipped else {})}
        print(json.dumps({"task": options.name, "yaml": str(path), **counts}))
        return
    print(f"lm_eval --include_path {options.out} --tasks {options.name}")
