"""Publishing and loading through Xet, as far as the client's local store goes."""

import os
import subprocess
import sys

import pytest
from huggingface_hub import snapshot_download

from hf_calib.hub import InterruptedPublicationError, publish_adapter, write_card
from tests.hub.cards import card_data
from tests.hub.conftest import make_adapter
from tests.loopback_hub import Fault

pytest.importorskip("hf_xet")


@pytest.fixture
def folder(base_folder, tmp_path):
    adapter = make_adapter(base_folder)
    adapter.peft_config["default"].base_model_name_or_path = "lab/tiny"
    adapter.save_pretrained(tmp_path / "adapter")
    write_card(tmp_path / "adapter", card_data())
    return tmp_path / "adapter"


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def test_push_no_news_and_second_version(xet_client, folder, base_folder, tmp_path):
    first = publish_adapter(folder, "ann/adapter", tag="v1")
    repository = xet_client.repository("ann/adapter")
    entry = repository.find("main").files["adapter_model.safetensors"]
    assert entry.xet_hash
    assert not xet_client.store.large_files  # nothing went through LFS
    assert not publish_adapter(folder, "ann/adapter", tag="v1").changed
    make_adapter(base_folder, seed=5).save_pretrained(tmp_path / "other")
    (folder / "adapter_model.safetensors").write_bytes(weights(tmp_path / "other"))
    second = publish_adapter(folder, "ann/adapter", tag="v2")
    assert len(repository.history()) == 3
    for name, commit in (("v1", first.commit), ("v2", second.commit)):
        assert repository.tags[name] == commit
    code = "from huggingface_hub import snapshot_download; print(snapshot_download('ann/adapter', revision='v1'))"
    environment = {**os.environ, **xet_client.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    old = done.stdout.splitlines()[-1]
    with open(os.path.join(old, "adapter_model.safetensors"), "rb") as file:
        assert file.read() != weights(folder)
    new = snapshot_download("ann/adapter", cache_dir=tmp_path / "fresh")
    with open(os.path.join(new, "adapter_model.safetensors"), "rb") as file:
        assert file.read() == weights(folder)


def test_private_branch_and_pull_request(xet_client, folder):
    publish_adapter(folder, "ann/secret", private=True, revision="next")
    assert "adapter_model.safetensors" in xet_client.repository("ann/secret").find("next").files
    publish_adapter(folder, "ann/secret", create_pr=True)
    assert "adapter_model.safetensors" in xet_client.repository("ann/secret").find("refs/pr/1").files


@pytest.mark.nightly  # the client tries again for minutes
def test_store_that_cannot_be_reached(xet_client, folder):
    xet_client.fail(Fault("xet-write-token", status=500, times=999))
    with pytest.raises(InterruptedPublicationError, match=r"Continue with: hf-calib publish adapter"):
        publish_adapter(folder, "ann/adapter")
    assert set(xet_client.repository("ann/adapter").find("main").files) == {".gitattributes"}
    xet_client.heal()
    assert publish_adapter(folder, "ann/adapter").changed
