"""The docstrings' examples."""

import doctest
import importlib
import pkgutil

import pytest

from hf_calib import evaluation


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(evaluation.__path__)])
def test_the_docstrings_examples_run(name):
    assert doctest.testmod(importlib.import_module(f"hf_calib.evaluation.{name}")).failed == 0
