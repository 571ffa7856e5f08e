"""Run a training script in this process, or start it with `accelerate launch`."""

from __future__ import annotations

import argparse
import importlib
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from .._suggestions import did_you_mean
from ..hub.resources import resource_folder


def run(main: Callable[..., None], parser: Any) -> None:
    """Run a script with the options of the command line.

    Parameters
    ----------
    main : callable
        Takes the parsed dataclasses.
    parser : ScriptParser

    Raises
    ------
    ValueError
        If an option belongs neither to the script nor to `accelerate launch`.
    """
    *parsed, remaining = parser.parse_args_and_config(return_remaining_strings=True)
    launch_options(remaining, parser)  # raises for unknown ones; the others took effect at launch
    main(*parsed)


def launch(name: str, arguments: Sequence[str]) -> None:
    """Start a training script with `accelerate launch`, as `trl` starts its own.

    Parameters
    ----------
    name : str
        A module of this room, such as "dpo".
    arguments : sequence of str
        The script's options and those of `accelerate launch`, in any order.

    Raises
    ------
    ValueError
        If an option is unknown.
    FileNotFoundError
        If the launch file or the --config file does not exist.
    """
    from accelerate.commands.launch import launch_command, launch_command_parser

    parser = importlib.import_module(f"{__package__}.{name}").make_parser(prog=f"hf-calib {name}")
    remaining = _unknown_to(parser, arguments)
    # Quiet, since the script's own error should be the last one.
    command = [*launch_options(remaining, parser), "--quiet", "--module", f"{__package__}.{name}", *arguments]
    options = launch_command_parser().parse_args(command)
    # Ctrl-C reaches the script too, which saves a checkpoint; wait for that. A handler, unlike SIG_IGN, is not
    # inherited.
    previous = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        launch_command(options)
    finally:
        signal.signal(signal.SIGINT, previous)


def _unknown_to(parser: Any, arguments: Sequence[str]) -> list[str]:
    """Return the options, of a --config file and of the command line, that a script's parser does not know."""
    # Without making the configs, whose checks depend on the number of processes.
    files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    files.add_argument("--config")
    given, rest = files.parse_known_args(list(arguments))
    from_file: list[str] = []
    if given.config is not None:
        settings = _yaml_mapping(Path(given.config), "--config")
        settings.pop("env", None)
        from_file = parser.set_defaults_with_config(**settings)
    return [*from_file, *parser.parse_known_args(rest)[1]]


def launch_options(remaining: Sequence[str], parser: argparse.ArgumentParser) -> list[str]:
    """Return the options of `accelerate launch` among those that are not the script's.

    Parameters
    ----------
    remaining : sequence of str
    parser : argparse.ArgumentParser
        The script's, whose options a misspelled one may resemble.

    Raises
    ------
    ValueError
        If an option is unknown.
    """
    if not remaining:
        return []
    from accelerate.commands.launch import launch_command_parser

    options = list(remaining)
    while "--accelerate_config" in options:
        place = options.index("--accelerate_config")
        if place + 1 == len(options):
            raise ValueError("--accelerate_config: name a launch file")
        options[place : place + 2] = launch_file_options(options[place + 1])
    launcher = launch_command_parser()
    _, unknown = launcher.parse_known_args([*options, "script"])
    if unknown:
        flag = unknown[0].partition("=")[0]
        suggestion = did_you_mean(flag, [*parser._option_string_actions, *launcher._option_string_actions])
        raise ValueError(
            f"{flag}: unknown option, neither of the script nor of accelerate launch.{suggestion} --help lists the "
            "options"
        )
    return options


def launch_file_options(name: str) -> list[str]:
    """Return the options of `accelerate launch` that select a launch file.

    Parameters
    ----------
    name : str
        A path, or the name of a file that comes with this package, such as "zero3".

    Raises
    ------
    FileNotFoundError
        If there is no file of that name.
    ValueError
        If it is not a YAML mapping.
    """
    folder = resource_folder("examples/accelerate_configs")
    path = Path(name).expanduser()
    if not path.is_file():
        path = folder / f"{name}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise FileNotFoundError(f"--accelerate_config: there is no file {name!r}, and the bundled ones are {names}")
    settings = _yaml_mapping(path, "--accelerate_config")
    # A launch file names its DeepSpeed file relative to the checkout; in an installation they are in one folder.
    named = (settings.get("deepspeed_config") or {}).get("deepspeed_config_file")
    beside = path.parent / Path(named or "").name
    more = ["--deepspeed_config_file", str(beside)] if named and beside.is_file() else []
    return ["--config_file", str(path), *more]


def _yaml_mapping(path: Path, option: str) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{option}: {path} is not valid YAML: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{option}: {path} is not a YAML mapping from options to values")
    return settings
