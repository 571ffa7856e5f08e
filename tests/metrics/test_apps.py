"""The Spaces' pages, started and driven in a headless browser."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from hf_calib.hub.spaces import space_files
from hf_calib.hub.transfer import read_content

from .conftest import NAMES

pytest.importorskip("gradio", reason="the pages need the extra apps")
webdriver = pytest.importorskip("selenium.webdriver", reason="driving the pages needs the extra apps")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
HEADINGS = {
    "ece": "Expected calibration error:",
    "cw_ece": "Classwise expected calibration error:",
    "smooth_ece": "Smooth expected calibration error:",
    "brier": "Brier score:",
    "risk_coverage": "Area under the risk-coverage curve:",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium with its chromedriver on this machine"),
]


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = BROWSER
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def app(request, tmp_path_factory):
    """Write out what a metric's Space would hold, and start its app where this package is not."""
    folder = tmp_path_factory.mktemp(request.param)
    write_space(request.param, folder / "space")
    (folder / "start").mkdir()
    (folder / "start" / "sitecustomize.py").write_text("import sys\nsys.modules['hf_calib'] = None\n")
    with started(sys.executable, folder, PYTHONPATH=str(folder / "start")) as url:
        yield request.param, url


@pytest.fixture
def page(app, browser):
    """Open the page of a metric's app."""
    name, url = app
    open_page(browser, url)
    return name


def write_space(name, folder):
    """Write out exactly the files that are uploaded."""
    for path, content in space_files(name, "ann").items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(read_content(content))


def open_page(browser, url):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    browser.get(url)
    WebDriverWait(browser, 60).until(lambda driver: driver.find_elements(By.ID, "measure"))


@contextmanager
def started(python, folder, **changes):
    """Start the app in `folder`/space with an interpreter that lacks this package; give the address of its page."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "HF_HOME": str(folder),
        "HF_EVALUATE_OFFLINE": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_SERVER_NAME": "127.0.0.1",
        **changes,
    }
    # Otherwise the page could lean on this package here and fail where it is published.
    absent = subprocess.run(
        [python, "-c", "import hf_calib"], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert "ModuleNotFoundError" in absent.stderr
    log = (folder / "log").open("w")
    app = subprocess.Popen(
        [python, "app.py"], cwd=folder / "space", env=environment, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        # A busy machine may take minutes to import what the page needs.
        last = time.monotonic() + 400
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert app.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < last, "the page's server didn't start"
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/"
    finally:
        app.terminate()
        app.wait(30)
        log.close()


@pytest.fixture(scope="module")
def required(tmp_path_factory):
    """Make an environment with a metric's requirements and the Gradio that its Space names, and nothing else."""
    made = {}

    def python_for(folder):
        requirements = (folder / "requirements.txt").read_text()
        version = re.search(r"^sdk_version: (\S+)$", (folder / "README.md").read_text(), re.MULTILINE)[1]
        if (requirements, version) not in made:
            place = tmp_path_factory.mktemp("environment")
            subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
            python = str(place / "bin" / "python")
            install = [python, "-m", "pip", "install", "-q", "-r", str(folder / "requirements.txt")]
            done = subprocess.run([*install, f"gradio=={version}"], capture_output=True, text=True, timeout=1200)
            if done.returncode and re.search("connection|resolve|temporary failure|timed out", done.stderr, re.I):
                pytest.skip(f"no package registry can be reached: {done.stderr.splitlines()[-1]}")
            assert done.returncode == 0, done.stderr
            made[requirements, version] = python
        return made[requirements, version]

    return python_for


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_app_starts_in_an_environment_with_only_its_requirements(name, required, browser, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    write_space(name, tmp_path / "space")
    with started(required(tmp_path / "space"), tmp_path) as url:
        open_page(browser, url)
        browser.find_element("id", "measure").click()
        shown(browser, HEADINGS[name])
        WebDriverWait(browser, 60).until(lambda driver: driver.find_elements("css selector", "#diagram svg"))


def shown(browser, words):
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda driver: words in driver.find_element("tag name", "body").text)


@pytest.mark.parametrize("app", ["ece"], indirect=True)
def test_page_opens_with_the_result_of_its_example(page, browser):
    shown(browser, HEADINGS[page])
    shown(browser, "10 samples")
    shown(browser, "Right 50% of the time, with a mean confidence of 68%.")
    assert browser.find_elements("css selector", "#diagram svg")


@pytest.mark.parametrize(
    "app",
    [name if name == "ece" else pytest.param(name, marks=pytest.mark.nightly) for name in NAMES],
    indirect=True,
)
def test_a_table_gives_the_number_its_interval_and_the_diagram(page, browser):
    browser.find_element("id", "measure").click()
    shown(browser, HEADINGS[page])
    shown(browser, "95% interval")
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda driver: driver.find_elements("css selector", "#diagram svg"))


@pytest.mark.parametrize("app", ["ece"], indirect=True)
def test_a_table_that_can_t_be_read_is_explained(page, browser):
    table = browser.find_element("css selector", "#table textarea")
    table.clear()
    table.send_keys("score,right\n0.5,1")
    browser.find_element("id", "measure").click()
    shown(browser, "The columns are 'score', 'right'")
    assert HEADINGS[page] not in browser.find_element("tag name", "body").text
    assert not browser.find_elements("css selector", "#diagram svg")


@pytest.mark.parametrize("app", ["ece"], indirect=True)
def test_a_file_is_measured_in_place_of_the_table(page, browser, tmp_path):
    from selenium.webdriver.support.ui import WebDriverWait

    file = tmp_path / "answers.csv"
    file.write_text("confidence,correct\n0.9,1\n0.6,0\n0.8,1\n0.3,0\n")
    browser.find_element("css selector", "input[type=file]").send_keys(str(file))
    WebDriverWait(browser, 60).until(lambda driver: driver.find_elements("css selector", "a[download='answers.csv']"))
    browser.find_element("id", "measure").click()
    shown(browser, f"{HEADINGS[page]} {(0.1 + 0.6 + 0.2 + 0.3) / 4:.4f}")
    shown(browser, "4 samples")
