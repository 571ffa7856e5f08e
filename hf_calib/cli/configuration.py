"""Commands' arguments from a YAML file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .._suggestions import did_you_mean
from .parser import command_of


def with_configuration(arguments: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Return the arguments, with those of the `--config` file inserted after the command's name.

    Parameters
    ----------
    arguments : sequence of str
    parser : argparse.ArgumentParser
        Of all commands.

    Raises
    ------
    ValueError
        If the file is not a mapping of the command's arguments.
    FileNotFoundError
        If it does not exist.
    """
    arguments = list(arguments)
    parser, depth = command_of(arguments, parser)
    path = _value_of("--config", arguments)
    if path is None or "--config" not in parser._option_string_actions:
        return arguments
    import yaml

    try:
        settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} must hold options by name, such as 'limit: 100'")
    given = {argument.split("=", 1)[0] for argument in arguments if argument.startswith("--")}
    known = _arguments_of(parser)
    positional_given = _has_positional(arguments[depth:], parser)
    placed: list[str] = []
    added: list[str] = []
    for name, value in settings.items():
        action = known.get(str(name).replace("_", "-"))
        place = f"{path}: {name}"
        if action is None:
            raise ValueError(
                f"{path}: {' '.join(arguments[:depth])} has no option {name!r}; it has {', '.join(sorted(known))}."
                + did_you_mean(str(name).replace("_", "-"), known)
            )
        if not action.option_strings:
            if not positional_given:
                placed += _as_texts(action, value, place)
        elif not given.intersection(action.option_strings):
            added += _as_arguments(action, value, place)
    return [*arguments[:depth], *added, *placed, *arguments[depth:]]


def _arguments_of(parser: argparse.ArgumentParser) -> dict[str, argparse.Action]:
    """Return the options that a file may set for a command, by name."""
    known: dict[str, argparse.Action] = {}
    for action in parser._actions:
        names = [option[2:] for option in action.option_strings if option.startswith("--")] or [action.dest]
        if not isinstance(action, argparse._HelpAction | argparse._SubParsersAction) and names != ["config"]:
            known |= dict.fromkeys(names, action)
    return known


def _has_positional(arguments: Sequence[str], parser: argparse.ArgumentParser) -> bool:
    """Whether an argument stands among these that no option takes."""
    takes: float = 0
    for argument in arguments:
        if argument.startswith("-"):
            action = parser._option_string_actions.get(argument)
            if action is None:  # --option=value, which takes no other
                takes = 0
            elif isinstance(action.nargs, int):
                takes = action.nargs
            else:
                takes = math.inf if action.nargs in ("+", "*") else 1
        elif takes:
            takes -= 1
        else:
            return True
    return False


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    for place, argument in enumerate(arguments):
        if argument == flag and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"{flag}="):
            return argument.split("=", 1)[1]
    return None


def _as_arguments(action: argparse.Action, value: Any, place: str) -> list[str]:
    """Return an option and its value as command-line arguments."""
    flag = action.option_strings[-1]
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise ValueError(f"{place} is either true or false, got {value!r}")
        return [flag] if value else []
    texts = _as_texts(action, value, place)
    if isinstance(action, argparse._AppendAction) or action.nargs is None:
        return [f"{flag}={text}" for text in texts]
    return [flag, *texts]


def _as_texts(action: argparse.Action, value: Any, place: str) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(own, str | int | float) and not isinstance(own, bool) for own in values):
        raise ValueError(f"{place} must be a text or a number, or a list of them, got {value!r}")
    several = isinstance(action, argparse._AppendAction) or action.nargs in ("+", "*", 2)
    if not several and len(values) != 1:
        raise ValueError(f"{place} takes one value, got {len(values)}")
    return [str(own) for own in values]
