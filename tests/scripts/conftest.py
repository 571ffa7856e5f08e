from tests.examples.conftest import data, saved_model  # noqa: F401
