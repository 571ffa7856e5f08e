"""Where the folders outside the package are: inside it once installed, next to it in a checkout."""

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).resolve().parents[1]
# setup.cfg's package_dir puts the checkout's folders into the wheel under these names.
_INSTALLED_NAMES = {
    "metrics": "spaces",
    "model_cards": "card_templates",
    "examples/accelerate_configs": "accelerate_configs",
}


def resource_folder(name: Literal["metrics", "model_cards", "examples/accelerate_configs"]) -> Path:
    """Return a folder of the checkout that the package needs, wherever it is installed.

    Raises
    ------
    FileNotFoundError
        If the installation is incomplete.
    """
    for folder in (_PACKAGE / _INSTALLED_NAMES[name], _PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"this installation of hf_calib lacks {name}; reinstall it with pip")
