"""The documentation: examples in docstrings run, public names are documented, and the README works anywhere."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

import hf_calib

PACKAGE = Path(hf_calib.__file__).parent
README = Path(__file__).parents[1] / "README.md"
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_the_examples_in_docstrings_run(module):
    assert doctest.testmod(importlib.import_module(module)).failed == 0


@pytest.mark.parametrize("name", [name for name in hf_calib.__all__ if not name.startswith("__")])
def test_every_public_name_has_a_docstring(name):
    documented = getattr(hf_calib, name).__doc__
    assert documented
    assert not documented.startswith(f"{name}(")  # what dataclasses write by themselves


def test_the_readme_has_absolute_links_and_narrow_tables():
    text = README.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert targets
    assert all(target.startswith("https://") for target in targets)
    here = "https://github.com/hf-calib/hf_calib/blob/main/"
    raw = "https://raw.githubusercontent.com/hf-calib/hf_calib/main/"
    inside = [t.removeprefix(here).removeprefix(raw) for t in targets if t.startswith((here, raw))]
    for path, _, section in (target.partition("#") for target in inside):
        assert (README.parent / path).is_file()
        headings = [line for line in (README.parent / path).read_bytes().splitlines() if line.startswith(b"#")]
        assert not section or section in [line.decode().strip("# ").lower().replace(" ", "-") for line in headings]
    assert all(line.count("|") <= 6 for line in text.splitlines() if line.startswith("|"))
