"""A loopback Hub for each test, and this process's client turned to it."""

import time
from types import SimpleNamespace

import huggingface_hub.constants
import huggingface_hub.file_download
import huggingface_hub.hf_api
import pytest
import transformers.utils.hub
from huggingface_hub.utils import _http
from peft import LoraConfig, get_peft_model

from tests.loopback_hub import Account, LoopbackHub
from tests.support import byte_level_tokenizer, tiny_llama

USER_TOKEN = "hf_" + "a1B2" * 8
OTHER_TOKEN = "hf_" + "c3D4" * 8


@pytest.fixture
def hub():
    user = Account("ann", USER_TOKEN, organisations=("hf_calib", "lab"))
    with LoopbackHub(user, Account("bob", OTHER_TOKEN), Account("reader", "hf_readonly", role="read")) as running:
        yield running


def turn_client_to(hub, monkeypatch, folder, xet):
    """Turn this process's client to a loopback Hub, logged in as its user, with an empty cache."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", not xet)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    # The client's plain functions, which other libraries call, are methods of this object.
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # created again, for this Hub
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setenv("HF_TOKEN", USER_TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    _http.close_session()


@pytest.fixture
def client(hub, monkeypatch, tmp_path):
    """The loopback Hub, with this process's client turned to it; large files go through LFS."""
    turn_client_to(hub, monkeypatch, tmp_path, xet=False)
    yield hub
    _http.close_session()


@pytest.fixture
def xet_client(monkeypatch, tmp_path):
    """The same with a Xet store: large files go through Xet."""
    store = tmp_path / "xet"
    store.mkdir()
    with LoopbackHub(Account("ann", USER_TOKEN, organisations=("lab",)), xet_store=store) as running:
        turn_client_to(running, monkeypatch, tmp_path, xet=True)
        yield running
        _http.close_session()


@pytest.fixture
def no_waiting(monkeypatch):
    """Take out the client's pauses between retries, and give how long they would have been."""
    waited = []
    clock = SimpleNamespace(**{**vars(time), "sleep": waited.append})
    monkeypatch.setattr(_http, "time", clock)
    monkeypatch.setattr(huggingface_hub.file_download, "time", clock)
    return waited


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A tiny base model with its tokenizer, saved."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = byte_level_tokenizer()
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def upload_base(hub, base_folder, id="lab/tiny"):
    """Put the base model on the Hub, and give its commit."""
    files = {path.name: path.read_bytes() for path in base_folder.iterdir() if path.is_file()}
    return hub.add(id, files).branches["main"]


@pytest.fixture
def base(hub, base_folder):
    """The base model's id on the Hub."""
    upload_base(hub, base_folder)
    return "lab/tiny"


def make_adapter(base_folder, seed=0):
    """Give a LoRA adapter whose weights change the base model's answers."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base_folder)
    torch.manual_seed(seed)
    adapter = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, parameter in adapter.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return adapter.eval()


@pytest.fixture
def adapter(base_folder, base):
    """An adapter in memory that names its base model by its id on the Hub."""
    model = make_adapter(base_folder)
    model.peft_config["default"].base_model_name_or_path = base
    return model


@pytest.fixture
def adapter_folder(adapter, tmp_path):
    """The adapter saved, as a trainer leaves it, with files that must not go up."""
    folder = tmp_path / "adapter"
    adapter.save_pretrained(folder)
    (folder / "training_args.bin").write_bytes(b"\x80\x04pickled")
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10" / "optimizer.pt").write_bytes(b"\x80\x04pickled")
    return folder
