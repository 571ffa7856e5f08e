"""`hf-calib completion`."""

from __future__ import annotations

import argparse
import json

from .options import add_command, add_json

SHELLS = ("bash", "zsh", "tcsh", "fish")


def add_completion_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command's parser."""
    parser = add_command(
        commands,
        "completion",
        help="print a shell completion script",
        description="Print a script that completes the commands and options of hf-calib in a shell.",
        example='eval "$(hf-calib completion bash)"',
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    add_json(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    import shtab

    from . import make_parser

    script = shtab.complete(make_parser(), shell=options.shell)
    print(json.dumps({"shell": options.shell, "script": script}) if options.json else script)
