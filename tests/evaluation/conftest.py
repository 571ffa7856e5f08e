"""Cards are written for models on a loopback Hub."""

from tests.hub.conftest import adapter, adapter_folder, base, base_folder, client, hub  # noqa: F401
