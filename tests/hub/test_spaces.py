"""Publishing the metrics as Spaces, and loading them with evaluate on a machine without this package."""

import json
import os
import re
import shlex
import subprocess
import sys

import huggingface_hub
import pytest

from hf_calib.cli import main
from hf_calib.hub import (
    InterruptedPublicationError,
    InvalidFolderError,
    InvalidNamespaceError,
    MissingTokenError,
    NotYourRepositoryError,
    metric_names,
    publish_metric,
    publish_metrics,
    spaces,
)
from tests.hub.conftest import USER_TOKEN
from tests.loopback_hub import Fault

USE = """
import json, sys
sys.modules["hf_calib"] = None  # as on a machine that does not have it
import evaluate
metrics = [evaluate.load(sys.argv[1], **options) for options in json.loads(sys.argv[2])]
values = dict(predictions=[0.9, 0.6, 0.8, 0.3], references=[1, 0, 1, 0], n_bins=10)
print(json.dumps([metric.compute(**values) for metric in metrics]))
"""


def use(client, home, *versions, name="hf_calib/ece"):
    """Load a metric in a fresh process, once with each of the options in `versions`, and compute with it."""
    environment = {**os.environ, **client.environment(home), "HF_HUB_OFFLINE": "0", "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", USE, name, json.dumps(versions or [{}])],
        env=environment,
        cwd=home,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_published_metric_loads_without_this_package(client, tmp_path):
    publication = publish_metric("ece", namespace="hf_calib", tag="v0.1.0")
    assert publication.url == f"{client.url}/spaces/hf_calib/ece"
    assert client.repository("hf_calib/ece", "space").sdk == "gradio"
    files = client.files("hf_calib/ece", "space")
    assert {"ece.py", "app.py", "README.md", "requirements.txt"} <= set(files)
    expected = pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)
    published = client.repository("hf_calib/ece", "space")
    published.branches["next"] = published.branches["main"]
    later = {"ece.py": "raise RuntimeError('a later version')", "binning.py": "raise RuntimeError"}
    client.add("hf_calib/ece", later, "space")
    results = use(client, tmp_path, {"revision": "v0.1.0"}, {"revision": "next"})
    assert [result["ece"] for result in results] == [expected, expected]
    assert any("/resolve/v0.1.0/ece.py" in request.path for request in client.log)


def test_files_are_whole():
    for name in metric_names():
        files = spaces.space_files(name, "hf_calib")
        folder = spaces.resource_folder("metrics") / name
        for path, content in files.items():
            assert content == (folder / path).read_bytes()
        assert not any("__pycache__" in path for path in files)


def test_files_name_the_namespace_that_they_are_published_under():
    files = spaces.space_files("ece", "hf-calib")
    assert b"hf-calib/ece" in files["README.md"]
    assert not any(b"hf_calib/ece" in content for content in files.values())


def test_every_metric_and_no_news(client):
    first = publish_metrics(namespace="ann")
    assert [publication.repo_id for publication in first] == [f"ann/{name}" for name in metric_names()]
    assert all(publication.changed for publication in first)
    again = publish_metrics(namespace="ann")
    assert not any(publication.changed for publication in again)
    assert [p.commit for p in again] == [p.commit for p in first]


def test_fault_in_the_middle_names_the_command_for_all(client, no_waiting, capsys):
    names = [f"ann/{name}" for name in metric_names()]
    client.fail(Fault(f"/api/spaces/{names[2]}/commit/", cut_upload=0.5, times=99))
    with pytest.raises(InterruptedPublicationError) as caught:
        publish_metrics(namespace="ann", tag="v1", token=USER_TOKEN)
    assert f"Published already: {names[0]}, {names[1]}.\n" in str(caught.value)
    assert USER_TOKEN not in str(caught.value)
    client.heal()
    command = re.search(r"hf-calib (publish .*)", str(caught.value))[1]
    assert main(shlex.split(command)) == 0, capsys.readouterr().err
    for name in names:
        assert "app.py" in client.files(name, "space")
        assert "v1" in client.repository(name, "space").tags
    client.fail(Fault(f"/api/spaces/{names[2]}", status=500, times=99))
    with pytest.raises(InterruptedPublicationError, match=r"publish metrics .*--dry-run") as caught:
        publish_metrics(namespace="ann", dry_run=True)
    assert "Published already" not in str(caught.value)


def test_module_that_is_no_longer_needed_goes(client):
    client.add("ann/ece", {"old.py": "", "notes.md": ""}, "space")
    publication = publish_metric("ece", namespace="ann")
    assert publication.deleted == ("old.py",)
    assert "notes.md" in client.files("ann/ece", "space")


def test_dry_run_sends_nothing(client, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    publication = publish_metric("ece", namespace="hf_calib", dry_run=True)
    assert publication.card.startswith("---\ntitle")
    assert not client.store.repositories
    assert not any(request.authenticated for request in client.log)


def test_who_may_publish(client, monkeypatch):
    with pytest.raises(InvalidFolderError, match=r"no metric 'eec'. Did you mean 'ece'\?\n.*: brier, cw_ece, ece, "):
        publish_metric("eec")
    with pytest.raises(NotYourRepositoryError, match=r"logged in as ann(.|\n)*Publish to --namespace ann, join"):
        publish_metric("ece", namespace="bob")
    with pytest.raises(InvalidNamespaceError, match=r"instead: --namespace hf-calib\Z"):
        publish_metric("ece", namespace="hf_calib", endpoint="https://huggingface.co")
    client.fail(Fault("/api/spaces/ann/ece/commit/", status=403, times=99))
    with pytest.raises(NotYourRepositoryError, match=r"another namespace \(--namespace NAMESPACE\)"):
        publish_metric("ece", namespace="ann")
    client.heal()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(MissingTokenError, match="hf_calib/ece"):
        publish_metric("ece", namespace="hf_calib")
    with pytest.raises(MissingTokenError, match=r"--namespace: .* nobody is logged in(.|\n)*--namespace ann"):
        publish_metric("ece")
    assert set(client.files("ann/ece", "space")) <= {"README.md", ".gitattributes"}


def test_the_default_namespace_is_the_users(client):
    assert publish_metric("ece").repo_id == "ann/ece"
    assert 'evaluate.load("ann/ece")' in client.files("ann/ece", "space")["README.md"].decode()
    assert {publication.repo_id for publication in publish_metrics(dry_run=True)} >= {"ann/ece", "ann/brier"}


@pytest.mark.parametrize(
    ("namespace", "error", "message"),
    [("bob", NotYourRepositoryError, "logged in as ann"), ("a_b", InvalidNamespaceError, "Use 'a-b' instead")],
)
def test_a_dry_run_checks_the_namespace(client, monkeypatch, namespace, error, message):
    if error is InvalidNamespaceError:
        monkeypatch.setattr("hf_calib.hub.namespaces.PUBLIC_HUB", client.url)
    with pytest.raises(error, match=message):
        publish_metric("ece", namespace=namespace, dry_run=True)


def test_a_dry_run_works_without_the_hub(client, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.warns(UserWarning, match="The Hub cannot be reached for ann/ece"):
        publication = publish_metric("ece", namespace="ann", dry_run=True)
    assert {"README.md", "ece.py"} <= {file.path for file in publication.files}
    with pytest.raises(MissingTokenError, match="the Hub did not return it"):
        publish_metric("ece", dry_run=True)
    assert not client.store.repositories.get(("space", "hf_calib/ece"))


README = "---\ntitle: X\nsdk: gradio\nsdk_version: 6.0.0\napp_file: app.py\n---\n"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"app.py": None}, "lacks app.py"),
        ({"README.md": "# X"}, "lack title, sdk, sdk_version, app_file"),
        ({"README.md": "---\na: [\n---\n"}, "not valid YAML"),
        ({"x.py": "from .helper import f"}, r"imports \['helper'\]"),
        ({"x.py": "from ..other import f"}, "imports"),
        ({"x.py": "from . import helper"}, r"imports \['helper'\]"),
        ({"x.py": "import hf_calib.measures"}, "imports hf_calib"),
        ({"x.py": "def f():\n    from hf_calib import load"}, "imports hf_calib"),
    ],
)
def test_space_that_could_not_start_is_refused(tmp_path, monkeypatch, files, message):
    root = tmp_path / "package" / "metrics"
    (root / "x").mkdir(parents=True)
    for name, content in {"x.py": "", "app.py": "", "README.md": README, "requirements.txt": "", **files}.items():
        if content is not None:
            (root / "x" / name).write_text(content)
    monkeypatch.setattr(spaces, "resource_folder", lambda name: root)
    with pytest.raises(InvalidFolderError, match=message):
        spaces.space_files("x", "ann")


def test_link_out_of_the_package_is_refused(tmp_path, monkeypatch):
    root = tmp_path / "package" / "metrics"
    (root / "x").mkdir(parents=True)
    for name, content in {"x.py": "", "app.py": "", "README.md": README, "requirements.txt": ""}.items():
        (root / "x" / name).write_text(content)
    (tmp_path / "secret.py").write_text("")
    (root / "x" / "helper.py").symlink_to(tmp_path / "secret.py")
    monkeypatch.setattr(spaces, "resource_folder", lambda name: root)
    with pytest.raises(InvalidFolderError, match="outside this package"):
        spaces.space_files("x", "ann")
