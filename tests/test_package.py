"""The package as a whole: its public names, what importing it costs, and their types."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_calib

LAZY = [
    ".".join(path.parent.relative_to(Path(hf_calib.__file__).parents[1]).parts)
    for path in sorted(Path(hf_calib.__file__).parent.rglob("__init__.pyi"))
]

# Public names whose types a user's type checker must know, written as they are used.
TYPED = ("Predictions.report", "Measurement.report", *hf_calib.__all__)


@pytest.mark.parametrize("package", LAZY)
def test_every_public_name_is_there(package):
    module = importlib.import_module(package)
    assert len(module.__all__) > 0
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = module.no_such_name


@pytest.mark.parametrize("package", [*LAZY, "hf_calib.cli", "hf_calib.measures"])
def test_importing_it_does_not_import_torch(package):
    code = (
        f"import sys, {package}; print([m for m in ('torch', 'transformers', 'trl', 'datasets') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_importing_the_package_imports_nothing_of_size():
    code = "import sys; before = set(sys.modules); import hf_calib; print(*(set(sys.modules) - before))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    outside = {name.partition(".")[0] for name in result.stdout.split()} - set(sys.stdlib_module_names)
    assert outside <= {"hf_calib", "lazy_loader"}


@pytest.mark.slow
def test_the_public_names_have_types(tmp_path):
    pytest.importorskip("mypy")
    lines = ["import hf_calib", *(f"reveal_type(hf_calib.{name})" for name in TYPED)]
    (tmp_path / "use.py").write_text("\n".join(lines) + "\n")
    # Without torch's own types the decorators of its no_grad would hide those of what they decorate. The other
    # libraries are passed over, which keeps this short and shows that the types do not depend on them.
    skipped = [
        "transformers",
        "trl",
        "datasets",
        "peft",
        "accelerate",
        "matplotlib",
        "scipy",
        "huggingface_hub",
        "safetensors",
    ]
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nignore_missing_imports = true\nfollow_imports = silent\n"
        f"[mypy-{','.join(f'{name}.*' for name in skipped)}]\nfollow_imports = skip\nfollow_imports_for_stubs = true\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "use.py"],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env={"PYTHONPATH": "", "MYPYPATH": str(Path(hf_calib.__file__).parents[1])},
    )  # fmt: skip
    revealed = re.findall(r'use\.py:(\d+): note: Revealed type is "(.*)"', done.stdout)
    assert len(revealed) == len(TYPED), done.stdout + done.stderr
    types = {TYPED[int(line) - 2]: found for line, found in revealed}
    assert {name: found for name, found in types.items() if re.search(r"^Any$|-> Any$|wrapper\[Any\]", found)} == {}
