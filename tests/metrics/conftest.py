import sys
from pathlib import Path

import pytest

METRICS = Path(__file__).parents[2] / "metrics"
NAMES = sorted(path.name for path in METRICS.iterdir() if (path / f"{path.name}.py").is_file())


@pytest.fixture(scope="session", autouse=True)
def modules_cache(tmp_path_factory):
    """Modules are copied into a cache of the tests' own, and evaluate asks nobody for them."""
    import evaluate

    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp("evaluate")
    # Other tests may have loaded metrics from the user's cache.
    patch.setattr(sys, "path", [place for place in sys.path if place != str(evaluate.config.HF_MODULES_CACHE)])
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        patch.delitem(sys.modules, name)
    patch.setattr(evaluate.config, "HF_MODULES_CACHE", cache / "modules")
    patch.setattr(evaluate.config, "HF_METRICS_CACHE", cache / "metrics")
    patch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", True)
    yield
    patch.undo()


@pytest.fixture
def load(tmp_path):
    """Load a metric from its folder, with a cache of its own for what is added."""
    import evaluate

    return lambda name, **options: evaluate.load(str(METRICS / name), cache_dir=str(tmp_path), **options)
