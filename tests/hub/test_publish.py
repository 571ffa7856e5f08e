"""Publishing an adapter with the real client to a loopback Hub."""

import huggingface_hub
import pytest
import torch
from huggingface_hub import HfApi

from hf_calib.hub import (
    InterruptedPublicationError,
    InvalidFolderError,
    InvalidNamespaceError,
    MissingTokenError,
    NotYourRepositoryError,
    VerificationError,
    publish_adapter,
    save_calibration_metadata,
    write_card,
)
from tests.hub.cards import card_data
from tests.hub.conftest import OTHER_TOKEN, make_adapter
from tests.loopback_hub import Fault

CARD = "---\nlicense: mit\n---\n\nBy hand.\n"


@pytest.fixture
def folder(adapter_folder):
    (adapter_folder / "README.md").write_text(CARD)
    return adapter_folder


def test_everything_goes_up_in_one_commit(client, folder):
    publication = publish_adapter(folder, "ann/adapter", tag="v1")
    repository = client.repository("ann/adapter")
    assert len(repository.history()) == 2  # the repository's own first commit, and ours
    assert set(client.files("ann/adapter")) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    for name, content in client.files("ann/adapter").items():
        assert content == (folder / name).read_bytes()
    assert publication.changed
    assert publication.commit == repository.branches["main"] == repository.tags["v1"]
    assert publication.url == f"{client.url}/ann/adapter"
    assert {file.path: file.size for file in publication.files} == {
        path: len(content) for path, content in client.files("ann/adapter").items()
    }


def test_second_push_without_news_makes_no_commit(client, folder):
    first = publish_adapter(folder, "ann/adapter")
    client.log.clear()
    second = publish_adapter(folder, "ann/adapter")
    assert not second.changed
    assert second.commit == first.commit
    assert not any("/commit/" in request.path or "/_lfs/" in request.path for request in client.log)


def test_second_version_replaces_the_first_and_its_outdated_files(client, folder, base_folder, tmp_path):
    (folder / "hf_calib.json").write_text('{"format_version": 1, "prompt_format": {}}')
    publish_adapter(folder, "ann/adapter", tag="v1")
    client.add("ann/adapter", {"adapter_model.bin": b"pickle", "notes.txt": "theirs"})
    (folder / "hf_calib.json").unlink()
    make_adapter(base_folder, seed=1).save_pretrained(tmp_path / "other")
    weights = (tmp_path / "other" / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    publication = publish_adapter(folder, "ann/adapter", tag="v2")
    files = client.files("ann/adapter")
    assert files["adapter_model.safetensors"] == weights
    assert files["notes.txt"] == b"theirs"
    assert publication.deleted == ("adapter_model.bin", "hf_calib.json")
    assert not {"adapter_model.bin", "hf_calib.json"} & set(files)
    assert "hf_calib.json" in client.files("ann/adapter", revision="v1")


def test_collection_that_cannot_be_added_to(client, folder, no_waiting):
    with pytest.raises(NotYourRepositoryError) as caught:
        publish_adapter(folder, "ann/adapter", collection="ann/nowhere-0")
    first, last = str(caught.value).splitlines()
    assert first.startswith("ann/adapter was published, but not added to the collection ann/nowhere-0. ")
    assert "the collection ann/nowhere-0 does not exist" in first
    assert "(--collection NAMESPACE/TITLE-ID)" in last
    assert "adapter_model.safetensors" in client.files("ann/adapter")
    slug = HfApi(endpoint=client.url).create_collection("Calibrated", namespace="ann").slug
    for fault, kind, words in (
        ({"status": 403}, NotYourRepositoryError, "may not write to the collection ann/calibrated-0"),
        ({"status": 500}, InterruptedPublicationError, "Continue with: hf-calib publish adapter"),
        ({"cut_upload": 0.5}, InterruptedPublicationError, "Continue with: hf-calib publish adapter"),
    ):
        client.fail(Fault("/items", times=99, **fault))
        with pytest.raises(kind, match=r"ann/adapter was published, but not added") as caught:
            publish_adapter(folder, "ann/adapter", collection=slug)
        assert words in str(caught.value)
        client.heal()


def test_dry_run_sends_nothing(client, folder):
    publication = publish_adapter(folder, "ann/adapter", dry_run=True)
    assert publication.card == CARD
    assert {file.path for file in publication.files} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert all(file.changed for file in publication.files)
    assert not client.store.repositories.get(("model", "ann/adapter"))
    assert all(request.method in ("GET", "HEAD") for request in client.log)


def test_without_a_token(client, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(MissingTokenError, match=r"ann/adapter needs a token(.|\n)*hf auth login"):
        publish_adapter(folder, "ann/adapter")
    with pytest.raises(MissingTokenError, match="did not accept the token"):
        publish_adapter(folder, "ann/adapter", token="hf_expired")
    with pytest.raises(MissingTokenError, match="is read-only"):
        publish_adapter(folder, "ann/adapter", token="hf_readonly")
    assert not client.store.repositories.get(("model", "ann/adapter"))


def test_to_a_repository_that_is_not_yours(client, folder):
    client.add("bob/adapter", {"README.md": CARD})
    with pytest.raises(
        NotYourRepositoryError, match=r"logged in as ann, a member of hf_calib, lab(.|\n)*--repo ann/adapter"
    ):
        publish_adapter(folder, "bob/adapter")
    with pytest.raises(NotYourRepositoryError, match="logged in as bob"):
        publish_adapter(folder, "ann/adapter", token=OTHER_TOKEN)
    assert set(client.files("bob/adapter")) == {"README.md"}


def test_namespace_that_the_public_hub_does_not_allow(client, folder):
    with pytest.raises(InvalidNamespaceError, match=r"'hf_calib' cannot be(.|\n)*: --repo hf-calib/adapter"):
        publish_adapter(folder, "hf_calib/adapter", endpoint="https://huggingface.co")
    # Another Hub answers for itself.
    assert publish_adapter(folder, "hf_calib/adapter").changed


@pytest.mark.parametrize("name", ["adapter", "a/b/c", "../adapter", "ann/ad apter"])
def test_no_repository_name(client, folder, name):
    with pytest.raises(InvalidFolderError, match="NAMESPACE/NAME"):
        publish_adapter(folder, name)


def test_folder_without_what_is_needed(client, folder, tmp_path):
    with pytest.raises(InvalidFolderError, match=r"There is no folder"):
        publish_adapter(tmp_path / "nowhere", "ann/adapter")
    with pytest.raises(InvalidFolderError, match=r"neither adapter_config.json nor config.json"):
        publish_adapter(tmp_path, "ann/adapter")
    (folder / "README.md").unlink()
    with pytest.raises(InvalidFolderError, match=r"neither README.md nor calibration_report.json"):
        publish_adapter(folder, "ann/adapter")


def test_pickled_missing_and_damaged_weights(client, folder):
    weights = folder / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-10])
    with pytest.raises(InvalidFolderError, match="damaged or cut off"):
        publish_adapter(folder, "ann/adapter")
    weights.unlink()
    with pytest.raises(InvalidFolderError, match=r"lacks adapter_model.safetensors"):
        publish_adapter(folder, "ann/adapter")
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04pickled")
    with pytest.raises(InvalidFolderError, match="as a pickle"):
        publish_adapter(folder, "ann/adapter")
    assert not client.store.repositories.get(("model", "ann/adapter"))


def test_base_model_on_this_machine_only(client, base_folder, tmp_path):
    folder = tmp_path / "adapter"
    make_adapter(base_folder).save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    with pytest.raises(InvalidFolderError, match="--base-model NAMESPACE/NAME"):
        publish_adapter(folder, "ann/adapter")
    publish_adapter(folder, "ann/adapter", base_model="lab/tiny")
    config = client.files("ann/adapter")["adapter_config.json"].decode()
    assert '"base_model_name_or_path": "lab/tiny"' in config
    assert str(base_folder) not in config
    write_card(folder, card_data(base_model=str(base_folder), base_model_revision=None))
    save_calibration_metadata(folder, base_model=str(base_folder))
    publish_adapter(folder, "ann/adapter", base_model="lab/tiny", base_revision="c0ffee", card="local")
    files = client.files("ann/adapter")
    for name in ("adapter_config.json", "README.md", "hf_calib.json", "calibration_report.json"):
        assert "lab/tiny" in files[name].decode()
        assert "c0ffee" in files[name].decode()
    assert str(base_folder) in (folder / "adapter_config.json").read_text()  # the folder stays as it was


def test_weights_are_compared_with_the_model_in_memory(client, folder, adapter):
    assert publish_adapter(folder, "ann/adapter", model=adapter).changed
    with torch.no_grad():
        next(p for n, p in adapter.named_parameters() if "lora_B" in n).add_(1e-3)
    with pytest.raises(VerificationError, match=r"lora_B.weight differs"):
        publish_adapter(folder, "ann/other", model=adapter)
    assert not client.store.repositories.get(("model", "ann/other"))


def test_what_the_hub_holds_is_compared_with_what_was_sent(client, folder, monkeypatch):
    original = client.store.apply

    def corrupt(files, operations, xet_hash):
        from tests.loopback_hub.store import Entry

        result = original(files, operations, xet_hash)
        return {**result, "adapter_config.json": Entry.small(b"{}")} if "README.md" in result else result

    monkeypatch.setattr(client.store, "apply", corrupt)
    with pytest.raises(VerificationError, match=r"does not hold what it should in: adapter_config.json"):
        publish_adapter(folder, "ann/adapter")


def test_client_is_the_one_that_users_have():
    assert int(huggingface_hub.__version__.split(".")[0]) >= 1
