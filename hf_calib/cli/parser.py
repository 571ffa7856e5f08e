"""A parser whose errors suggest corrections."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import NoReturn

from .._suggestions import did_you_mean


class CommandParser(argparse.ArgumentParser):
    """An `ArgumentParser` that suggests a similar command, option or choice for a misspelled one."""

    def error(self, message: str) -> NoReturn:
        """Print the message with a suggestion, and exit with 2."""
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            suggestion = did_you_mean(wrong[1], re.findall(r"[^\s,']+", wrong[2]))
            message += suggestion and f".{suggestion}"
        super().error(message)


def command_of(arguments: Sequence[str], parser: argparse.ArgumentParser) -> tuple[argparse.ArgumentParser, int]:
    """Return the parser of the command that the arguments begin with, and how many words name it."""
    depth = 0
    while depth < len(arguments):
        commands = next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None)
        if commands is None or arguments[depth] not in commands.choices:
            break
        parser = commands.choices[arguments[depth]]
        depth += 1
    return parser, depth


def check_options(arguments: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Reject an unknown option before reporting other errors.

    argparse reports missing required arguments first, and unknown ones without the command's options.
    """
    command, depth = command_of(arguments, parser)
    known = command._option_string_actions
    for argument in arguments[depth:]:
        if argument == "--":
            return
        flag = argument.partition("=")[0]
        if re.fullmatch(r"--?[A-Za-z][\w-]*", flag) and flag not in known:
            command.error(f"unknown option {flag}.{did_you_mean(flag, known)}")
