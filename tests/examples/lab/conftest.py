"""The lab's experiments are scripts with a package next to them, and use the same miniature as the lab's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples" / "lab"))

from tests.lab.conftest import lab_cache, preset, pretrained, tokenizer, world  # noqa: F401
