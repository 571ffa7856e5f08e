"""Each metric's folder holds copies of the modules that it needs, and works wherever it is unpacked."""

import runpy
import shutil
import subprocess
import sys

import pytest

import hf_calib
from hf_calib.hub import InvalidFolderError

from .conftest import METRICS, NAMES

ROOT = METRICS.parent
SCRIPT = ROOT / ".ci" / "fix_copies.py"


def test_copies_are_up_to_date():
    outdated = [path.relative_to(ROOT).as_posix() for path in runpy.run_path(str(SCRIPT))["outdated"]()]
    assert not outdated, f"{', '.join(outdated)}: run `make fix-copies`"


def test_nothing_is_a_link():
    """Links become text files where git checks out without them, and in archives."""
    for folder in ("hf_calib", "metrics", "tests", "examples", "model_cards", ".ci"):
        links = [path for path in (ROOT / folder).rglob("*") if path.is_symlink() and "__pycache__" not in path.parts]
        assert not links


@pytest.fixture
def checkout(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    for part in (".ci", "metrics", "hf_calib/measures"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=ignored)
    return tmp_path


def fix(checkout):
    done = subprocess.run([sys.executable, checkout / ".ci" / "fix_copies.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_fixing_copies_what_changed_and_is_missing_and_deletes_what_nothing_imports(checkout):
    assert fix(checkout) == []
    ece = checkout / "metrics" / "ece"
    original = checkout / "hf_calib" / "measures" / "binning.py"
    original.write_text(original.read_text() + "\n# changed\n")
    (ece / "space.py").unlink()
    (ece / "smooth.py").write_text("")
    (ece / "own.py").write_text("")
    changed = [f"copied metrics/{name}/binning.py" for name in NAMES]
    assert sorted(fix(checkout)) == sorted([*changed, "copied metrics/ece/space.py", "deleted metrics/ece/smooth.py"])
    assert (ece / "binning.py").read_bytes() == original.read_bytes()
    assert (ece / "space.py").read_bytes() == (METRICS / "ece" / "space.py").read_bytes()
    assert (ece / "own.py").exists()
    assert fix(checkout) == []


def test_modules_that_a_copy_imports_are_copied_too(checkout):
    metric = checkout / "metrics" / "ece" / "ece.py"
    metric.write_text(metric.read_text() + "\nfrom .classwise import classwise_statistics\n")
    assert fix(checkout) == ["copied metrics/ece/classwise.py", "copied metrics/ece/ranking.py"]


def test_folders_load_from_an_unpacked_archive(tmp_path):
    import evaluate

    archive = shutil.make_archive(str(tmp_path / "metrics"), "zip", METRICS)
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    for name in NAMES:
        metric = evaluate.load(str(tmp_path / "unpacked" / name), cache_dir=str(tmp_path))
        results = metric.compute(predictions=[[0.75, 0.25], [0.25, 0.75]], references=[0, 1])
        assert 0 <= next(iter(results.values())) < 1


@pytest.mark.parametrize("name", NAMES)
def test_metric_path_is_what_evaluate_loads(name, tmp_path):
    import evaluate

    path = hf_calib.metric_path(name)
    assert type(path) is str
    results = evaluate.load(path, cache_dir=str(tmp_path)).compute(predictions=[[0.75, 0.25]], references=[0])
    assert {"risk_coverage": "aurc"}.get(name, name) in results


def test_metric_path_of_an_unknown_name_lists_the_names():
    with pytest.raises(InvalidFolderError, match=r"no metric 'cwece'\. Did you mean 'cw_ece'\?\n.*brier, cw_ece, ece"):
        hf_calib.metric_path("cwece")
    with pytest.raises(InvalidFolderError, match=r"no metric 'accuracy'\.\n.*brier, cw_ece, ece"):
        hf_calib.metric_path("accuracy")


def test_metric_path_needs_no_torch():
    code = "import sys, hf_calib; hf_calib.metric_path('ece'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "False\n", done.stderr
