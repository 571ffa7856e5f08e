"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..confidence.registry import DEFAULT_WAY, ways

if TYPE_CHECKING:
    from ..evaluation import AskOptions

DATASET_HELP = "a JSON(L), CSV, TSV or Parquet file, a folder of them, or a Hub dataset as name[:config[:split]]"


def add_command(
    commands: argparse._SubParsersAction,
    name: str,
    *,
    help: str,
    description: str,
    example: str,
    usage: str | None = None,
    flags_of_arguments: Mapping[str, str] | None = None,
) -> argparse.ArgumentParser:
    """Add a command whose arguments may also stand in a YAML file.

    `flags_of_arguments` has the flags of arguments with another name in Python, for messages.
    """
    parser = commands.add_parser(
        name,
        usage=None if usage is None else f"%(prog)s {usage} [options]",
        help=help,
        description=description,
        epilog=f"example: {example}",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="YAML", help="a file with these arguments by name; the command line takes precedence"
    )
    # Arguments of the Python functions that have other names here.
    parser.set_defaults(flags_of_arguments=flags_of_arguments or {})
    return parser


def add_force(parser: argparse._ActionsContainer, what: str) -> None:
    """Add the option that overrides a refusal."""
    parser.add_argument("--force", action="store_true", help=what)


def add_json(parser: argparse._ActionsContainer) -> None:
    """Add the option for output that programs read."""
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_out(parser: argparse._ActionsContainer, help: str, **more: Any) -> None:
    """Add the option for the folder that results are written into."""
    parser.add_argument("--out", type=_folder, metavar="DIR", help=help, **more)


def add_seed(parser: argparse._ActionsContainer, of: str) -> None:
    """Add the option for the seed of random numbers."""
    parser.add_argument("--seed", type=_seed, default=0, help=f"seed of {of} (default: %(default)s)")


def add_model_options(parser: argparse.ArgumentParser, *, adapter: bool = True) -> None:
    """Add the options that say how a local model is loaded and run."""
    group = parser.add_argument_group("model")
    if adapter:
        group.add_argument("--adapter", metavar="A", help="a PEFT adapter, a folder or Hub id, to put on the model")
    else:
        parser.set_defaults(adapter=None)
    group.add_argument(
        "--model-name", metavar="NAME", help="model name on the server, for --model openai:http://host:port/v1"
    )
    group.add_argument(
        "--concurrency", type=int, default=8, help="requests to a server at once (default: %(default)s)"
    )
    group.add_argument(
        "--dtype", default="auto", help="number format: bf16, fp16 or fp32 (default: as the weights were saved)"
    )
    group.add_argument("--device", help="gpu, cuda, mps or cpu (default: a GPU if there is one)")
    group.add_argument(
        "--batch-size",
        type=_batch_size,
        default=16,
        help="questions per forward pass, or auto: as many as fit into memory (default: %(default)s)",
    )
    add_length_options(group)
    add_trust(group)


def add_trust(group: argparse._ActionsContainer) -> None:
    """Add the option that trusts a model's own code."""
    group.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code from the model's or tokenizer's repository; otherwise a model that needs it is refused",
    )


def add_length_options(group: argparse._ActionsContainer) -> None:
    """Add the options on the length of prompts."""
    group.add_argument("--max-length", type=int, help="longest prompt in tokens (default: what the model allows)")
    group.add_argument(
        "--drop-too-long", action="store_true", help="drop and count longer prompts instead of stopping"
    )


def add_question_options(
    parser: argparse.ArgumentParser, *, several_methods: bool = False, free_form: bool = False
) -> None:
    """Add the options that say how questions are asked, and how confidence is read.

    `several_methods` allows several ways to read confidence, `free_form` those for questions without options only.
    """
    add_prompt_options(parser)
    offered = {name: way.help for name, way in ways().items() if free_form or way.factory is not None}
    group = parser.add_argument_group("questions")
    group.add_argument(
        "--permute-options", action="store_true", help="ask each question with its options in a random order"
    )
    group.add_argument(
        "--confidence",
        choices=tuple(offered),
        metavar="WAY",
        help="what confidence is read off. "
        + "; ".join(f"{name}: {help}" for name, help in offered.items())
        + f" (default: {DEFAULT_WAY}, or what the model was calibrated with)"
        + (". May be given several times" if several_methods else ""),
        action="append" if several_methods else "store",
    )
    group.add_argument(
        "--wordings",
        metavar="FILE",
        help="a YAML or JSON list of additional prompt formats (the parts of a PromptFormat each): every question "
        "is asked in each of them too, and the probabilities are averaged",
    )
    group.add_argument("--n-orders", type=int, metavar="N", help="orders with marginalized (default: 4)")
    group.add_argument("--n-samples", type=int, metavar="N", help="samples with consistency (default: 10)")
    group.add_argument(
        "--temperature", type=float, metavar="T", help="sampling temperature with consistency (default: 1)"
    )
    group.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help="maximum number of tokens in a written answer, including any train of thought (default: 16 with "
        "consistency, 24 with stated" + (", 32 with --free-form)" if free_form else ")"),
    )
    group.add_argument("--top-k", type=int, metavar="K", help="guesses with stated-top-k (default: 4)")
    if free_form:
        group.add_argument(
            "--base-model",
            metavar="M",
            help="folder or Hub id of the pre-trained model that scores the answers with base-tokens (default: the "
            "model without its adapter)",
        )
    group.add_argument(
        "--limit", type=int, metavar="N", help="ask N questions of each dataset, drawn at random with --seed"
    )
    add_reading_options(parser)


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how datasets are read."""
    group = parser.add_argument_group("reading datasets")
    group.add_argument(
        "--columns",
        type=_columns,
        metavar="FIELD=COLUMN,...",
        help="columns of question, choices, answer, context, subject and type, such as "
        "question=stem,choices=A+B+C,answer=gold; an empty answer= if there are none (default: those of a known "
        "layout)",
    )
    group.add_argument(
        "--answer-base",
        type=int,
        choices=(0, 1),
        help="number of the first option in the answers (default: from the layout or the whole column)",
    )
    group.add_argument(
        "--on-bad-row",
        choices=("error", "skip"),
        default="error",
        help="stop at rows that cannot be read, or skip and count them (default: %(default)s)",
    )


def add_prompt_options(parser: argparse.ArgumentParser, *, examples: bool = True, model: bool = True) -> None:
    """Add the options that say how questions are formatted, with or without solved examples.

    With `model=False`, the options that need a model are left out.
    """
    group = parser.add_argument_group("prompt")
    group.add_argument(
        "--prompt",
        metavar="FORMAT",
        help="plain, mmlu, or a YAML or JSON file with the parts of a PromptFormat (default: "
        f"{'what the model was calibrated with, or ' if model else ''}plain)",
    )
    if model:
        group.add_argument("--chat-template", action="store_true", help="put the questions through the chat template")
    if not examples:
        parser.set_defaults(few_shot=None, few_shot_dataset=None)
        return
    group.add_argument("--few-shot", type=int, metavar="K", help="show K solved examples before each question")
    group.add_argument(
        "--few-shot-dataset",
        metavar="D",
        help="dataset of the solved examples; if it has subjects, they are chosen by subject",
    )


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the output."""
    group = parser.add_argument_group("output")
    add_seed(group, "drawn questions, orders, samples and intervals")
    add_json(group)


def check_source(options: argparse.Namespace) -> None:
    """Reject a model without questions, and options about asking a model with existing predictions."""
    if options.model is not None:
        if not options.dataset:
            raise ValueError("--model needs at least one --dataset, the questions to ask")
        return
    needless = [name for name in ask_options(options) if name != "progress"]
    needless += ["dataset"] * bool(options.dataset) + ["confidence"] * (options.confidence is not None)
    if needless:
        flags = ", ".join("--" + name.replace("_", "-") for name in sorted(needless))
        raise ValueError(f"{flags}: not applicable to existing predictions; leave it out")


def reading_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options on reading rows, for `load_questions`."""
    return {name: getattr(options, name) for name in ("columns", "answer_base", "on_bad_row")}


def ask_options(options: argparse.Namespace) -> AskOptions:
    """Return the options for the functions of `hf_calib.evaluation` that differ from their defaults."""
    from dataclasses import fields

    from ..evaluation.settings import AskSettings

    given = {field.name: getattr(options, field.name, field.default) for field in fields(AskSettings)}
    given["progress"] = not options.json
    return {  # type: ignore[return-value]
        field.name: given[field.name] for field in fields(AskSettings) if given[field.name] != field.default
    }


def _columns(text: str) -> dict[str, Any]:
    from ..tasks.columns import parse_columns

    try:
        return parse_columns(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _folder(text: str) -> Path:
    path = Path(text)
    for own in (path, *path.parents):
        if own.exists() and not own.is_dir():
            raise argparse.ArgumentTypeError(f"{own} is a file; give a folder, which need not exist yet")
    return path


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(text)


def _batch_size(text: str) -> int | str:
    if text == "auto":
        return text
    size = int(text)
    if size < 1:
        raise argparse.ArgumentTypeError("must be at least 1, or auto")
    return size
