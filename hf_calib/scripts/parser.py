"""The parser of a training script: TRL's, with a help text that shows the calibration options first."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from trl import DatasetMixtureConfig, ModelConfig, TrlParser

# The groups of this package's options by the classes that declare them, in the order in which they are shown.
_TITLES = {
    "DecisionArguments": "typed decisions",
    "QuestionArguments": "calibration: questions and reference",
    "CalibrationArguments": "calibration: terms and evaluation",
    "SFTCalibrationArguments": "calibration: fine-tuning on questions",
    "PreferenceArguments": "calibration of preferences",
    "RewardedScriptArguments": "rewards",
    "RecalibrationConfig": "recalibration: model and tokenizer",
}

_LAUNCHING = """\
Every option may also be set in a YAML file, --config FILE. `hf-calib COMMAND` starts the script with `accelerate
launch` and takes its options too; --accelerate_config selects a launch file by name (ddp, fsdp2, zero2, zero3,
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
            if home is None:
                title = "help"
            else:
                package = home.__module__.partition(".")[0]
                title = f"{package} {home.__name__}"
                if package == "hf_calib":
                    title = _TITLES.get(home.__name__, title)
            groups.setdefault(title, []).append(action)
        return {title: actions for title, actions in groups.items() if actions}


def _declaring_class(dataclass_type: type, name: str) -> Any:
    """Return the class that first declares a field; subclasses may change its default."""
    return [base for base in dataclass_type.__mro__ if name in vars(base).get("__annotations__", {})][-1]


def script_parser(script_arguments: type, config: type, *, description: str | None, prog: str | None) -> ScriptParser:
    """Return the parser of a script that trains on a dataset, with TRL's options for the model and for mixtures."""
    types = script_arguments, config, ModelConfig, DatasetMixtureConfig
    return ScriptParser(*types, description=description, prog=prog)
