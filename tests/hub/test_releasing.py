"""The commands of RELEASING.md, run as written against a Hub on this machine."""

import io
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hf_calib import __version__
from tests.hub.conftest import USER_TOKEN
from tests.hub.test_demo import demo  # noqa: F401  # a fixture
from tests.hub.test_packaging import checkout  # noqa: F401  # a fixture
from tests.loopback_hub import Account, LoopbackHub

ROOT = Path(__file__).resolve().parents[2]


def commands(heading):
    section = (ROOT / "RELEASING.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```bash\n(.*?)```", section, re.DOTALL))


def run(script, hub, home, folder):
    environment = {**os.environ, **hub.environment(home, USER_TOKEN), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
    bin_folder = str(Path(sys.executable).parent)
    environment["PATH"] = f"{bin_folder}{os.pathsep}{environment['PATH']}"
    command = ["bash", "-euo", "pipefail", "-c", script]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=900)


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("bash") is None, reason="the commands are for bash")
def test_the_hubs_commands_do_what_they_say(demo, tmp_path):  # noqa: F811
    script = commands("To the Hub")
    with LoopbackHub(Account("ann", USER_TOKEN, organisations=("hf-calib",))) as hub:
        done = run(script, hub, tmp_path / "home", demo.parent)
        assert done.returncode == 0, done.stderr
        spaces = {name for kind, name in hub.store.repositories if kind == "space"}
        assert {"hf-calib/ece", "hf-calib/smooth_ece"} <= spaces
        for kind, name in (("space", "hf-calib/ece"), ("model", "hf-calib/hf-calib-demo")):
            assert f"v{__version__}" in hub.repository(name, kind).tags
        assert "{'ece': 0.35" in done.stdout
        assert done.stdout.splitlines()[-1] == "hf-calib/lab-base-model"
        before = {key: len(r.history()) for key, r in hub.store.repositories.items()}
        again = run(script, hub, tmp_path / "other", demo.parent)
        assert again.returncode == 0, again.stderr
        assert {key: len(r.history()) for key, r in hub.store.repositories.items()} == before


class Index(ThreadingHTTPServer):
    """A package index on the loopback address that takes uploads."""

    def __init__(self):
        self.uploads = {}
        super().__init__(("127.0.0.1", 0), UploadHandler)


class UploadHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        for part in BytesParser(policy=default).parsebytes(head + body).iter_parts():
            if part.get_filename():
                self.server.uploads[part.get_filename()] = part.get_payload(decode=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def index():
    server = Index()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.nightly
@pytest.mark.skipif(shutil.which("bash") is None or shutil.which("git") is None, reason="the commands are for both")
def test_the_packages_commands_do_what_they_say(checkout, index, tmp_path):  # noqa: F811
    """Tagged, built, checked and uploaded, with the build tools from the package index."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    who = {f"GIT_{role}_{key}": "ann" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    environment = {
        **os.environ,
        **who,
        "PATH": f"{tmp_path / 'venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "TWINE_REPOSITORY_URL": f"http://127.0.0.1:{index.server_port}/legacy/",
        "TWINE_USERNAME": "__token__",
        "TWINE_PASSWORD": "secret",
        "NO_PROXY": "127.0.0.1",
    }
    environment.pop("PYTHONPATH", None)

    def bash(script):
        command = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, timeout=900)
        if done.returncode and "No matching distribution" in done.stderr:
            pytest.skip("no package registry can be reached")
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    bash("git init -q . && git add -A && git commit -qm first && git init -q --bare ../remote.git")
    bash("git remote add origin ../remote.git && git push -q origin HEAD")
    told = bash(commands("The package"))
    assert told.count("PASSED") == 2
    assert bash("git ls-remote --tags origin").split() == [
        bash("git rev-parse HEAD").strip(),
        f"refs/tags/v{__version__}",
    ]
    name = f"hf_calib-{__version__}"
    wheel = f"{name}-py3-none-any.whl"
    assert index.uploads.keys() == {f"{name}.tar.gz", wheel}
    for file, content in index.uploads.items():
        assert content == (checkout / "dist" / file).read_bytes()
    # The wheel is built from the source distribution, so both have what is published.
    with zipfile.ZipFile(io.BytesIO(index.uploads[wheel])) as archive:
        held = set(archive.namelist())
    assert {"hf_calib/card_templates/model_card.md.jinja", "hf_calib/spaces/ece/app.py", "hf_calib/py.typed"} <= held


def test_the_packages_files_are_where_the_release_says():
    assert (ROOT / "CHANGELOG.md").is_file()
    assert f'"{__version__}"' in (ROOT / "hf_calib" / "_version.py").read_text()
    assert (ROOT / "model_cards" / "README.md").is_file()
