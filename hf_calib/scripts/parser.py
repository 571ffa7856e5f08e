"""The parser of a training script: TRL's, with a help text that shows the calibration options first."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from trl import TrlParser

from ..trainers import CalibrationArguments, PreferenceArguments
from .arguments import QuestionArguments

_TITLES = {
    QuestionArguments: "calibration: questions and reference",
    CalibrationArguments: "calibration: terms and evaluation",
    PreferenceArguments: "calibration of preferences",
}

_LAUNCHING = """\
Every option may also be set in a YAML file, --config FILE. `hf-calib COMMAND` starts the script with `accelerate
launch`, whose options it takes too; --accelerate_config selects a launch file by name (ddp, fsdp2, zero2, zero3,
zero3_offload) or by path.
"""


class ScriptParser(TrlParser):
    """`trl.TrlParser` whose help groups the options by the class that declares them, calibration first.

    Parameters
    ----------
    *dataclass_types : type
    description : str or None
    prog : str, optional
    """

    def __init__(self, *dataclass_types: Any, description: str | None, prog: str | None = None) -> None:
        super().__init__(
            dataclass_types,
            prog=prog,
            usage="%(prog)s [--config FILE] [options]",
            description=description,
            epilog=_LAUNCHING,
        )

    def format_help(self) -> str:
        """Return the help text."""
        formatter = self.formatter_class(prog=self.prog)
        formatter.add_usage(self.usage, [], [])
        formatter.add_text(self.description)
        for title, actions in self._grouped().items():
            formatter.start_section(title)
            formatter.add_arguments(actions)
            formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()

    def _grouped(self) -> dict[str, list[argparse.Action]]:
        homes = {
            field.name: _declaring_class(dataclass_type, field.name)
            for dataclass_type in self.dataclass_types
            for field in dataclasses.fields(dataclass_type)
        }
        groups: dict[str, list[argparse.Action]] = {title: [] for title in _TITLES.values()}
        for action in self._actions:
            home = homes.get(action.dest)
            title = (
                "help" if home is None else _TITLES.get(home, f"{home.__module__.partition('.')[0]} {home.__name__}")
            )
            groups.setdefault(title, []).append(action)
        return groups


def _declaring_class(dataclass_type: type, name: str) -> Any:
    """Return the class that first declares a field; subclasses may change its default."""
    return [base for base in dataclass_type.__mro__ if name in vars(base).get("__annotations__", {})][-1]
