"""Settings and small models that the tests share. No test leaves the machine or downloads weights."""

import gc
import os

# Read by the libraries when they are imported.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_UPDATE_DOWNLOAD_COUNTS"] = "0"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
for name in ("HF_TOKEN", "HF_ENDPOINT", "WANDB_API_KEY"):
    os.environ.pop(name, None)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile("default", deadline=None, max_examples=50)
settings.register_profile("nightly", deadline=None, max_examples=10_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_collection_finish():
    """Exclude all objects loaded so far from garbage collection, which runs at the start and end of every training.

    With thousands of tests in memory, it would take longer than training a small model.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Nothing that a test makes lands in the user's caches, and nothing there changes a test."""
    os.environ["HF_CALIB_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    # A run killed while DeepSpeed compiled leaves a lock in the user's folder, and every later run would wait for it.
    # One folder for all processes of this run: compiling takes a minute, more under load.
    run = tmp_path_factory.getbasetemp()
    run = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run
    os.environ["TORCH_EXTENSIONS_DIR"] = str(run / "torch_extensions")
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def tokenizer():
    from tests.support import byte_level_tokenizer

    return byte_level_tokenizer()


@pytest.fixture
def model(tokenizer):
    from tests.support import tiny_llama

    return tiny_llama(tokenizer)
