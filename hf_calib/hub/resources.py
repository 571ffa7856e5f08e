"""Folders that are next to the package in a checkout, and inside it once installed."""

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parents[1]
# setup.cfg's package_dir maps the checkout's folders to these names in the wheel.
_INSTALLED_NAMES = {
    "metrics": "spaces",
    "model_cards": "card_templates",
    "examples/accelerate_configs": "accelerate_configs",
}


def resource_folder(name: Literal["metrics", "model_cards", "examples/accelerate_configs"]) -> Path:
    """Return the location of one of these folders.

    Raises
    ------
    FileNotFoundError
        If the installation is incomplete.
    """
    for folder in (_PACKAGE / _INSTALLED_NAMES[name], _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"this installation of hf_calib lacks {name}; reinstall it with pip")
