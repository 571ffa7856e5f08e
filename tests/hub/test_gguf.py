"""Models in GGUF files."""

import json

import numpy as np
import pytest
import torch

from hf_calib.cli import main
from hf_calib.hub import InvalidFolderError, load
from hf_calib.hub.local_paths import check_local_path
from tests.support import byte_level_tokenizer, question_rows, tiny_llama


def write_gguf(path, model, tokenizer):
    """Write a Llama and its byte-level BPE tokenizer as llama.cpp's converter does."""
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    vocabulary = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary)
    special = set(tokenizer.all_special_tokens) | {"<|user|>", "<|assistant|>", "<|system|>"}
    writer.add_token_types([3 if token in special else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)
    names = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    parts = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    heads = config.num_attention_heads
    for name, tensor in model.state_dict().items():
        values = tensor.numpy().astype(np.float32)
        if name not in names:
            layer, part = name.removeprefix("model.layers.").removesuffix(".weight").split(".", 1)
            names[name] = f"blk.{layer}.{parts[part]}.weight"
            if part in ("self_attn.q_proj", "self_attn.k_proj"):  # rotary halves interleaved, as llama.cpp keeps them
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names[name], np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A folder with the same model saved by transformers and as GGUF, and questions."""
    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = byte_level_tokenizer(chat=True)
    model = tiny_llama(tokenizer).eval()
    write_gguf(folder / "tiny.gguf", model, tokenizer)
    model.save_pretrained(folder / "saved")
    tokenizer.save_pretrained(folder / "saved")
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in question_rows(8)))
    return folder


def test_weights_tokenizer_and_chat_template_come_from_the_file(models):
    with pytest.warns(UserWarning, match="has no hf_calib.json"):
        one, other = load(models / "tiny.gguf"), load(models / "saved")
    ids = torch.tensor([other.tokenizer("Question: What colour is the river?")["input_ids"]])
    assert one.tokenizer("Question: What colour is the river?")["input_ids"] == ids[0].tolist()
    assert one.tokenizer.chat_template == other.tokenizer.chat_template
    with torch.no_grad():
        torch.testing.assert_close(one.model(ids).logits.float(), other.model(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [[], ["--chat-template"]])
def test_it_measures_as_the_saved_model_does(models, capsys, options):
    found = []
    for name in ("tiny.gguf", "saved"):
        line = ["measure", "--model", models / name, "--dataset", models / "q.jsonl", "--json", *options]
        assert main([str(word) for word in line]) == 0
        found.append(json.loads(capsys.readouterr().out)["measures"]["ece"]["value"])
    assert found[0] == pytest.approx(found[1], abs=1e-4)


@pytest.mark.parametrize("kept", [20, 0.5, -100])
def test_a_file_that_is_cut_off_is_named(models, tmp_path, capsys, kept):
    content = (models / "tiny.gguf").read_bytes()
    part = tmp_path / "part.gguf"
    part.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(
        InvalidFolderError, match=r"part\.gguf cannot be read as a GGUF model \(.*\n.*download it again"
    ):
        load(part)
    assert main(["measure", "--model", str(part), "--dataset", str(models / "q.jsonl")]) == 1
    assert "part.gguf cannot be read as a GGUF model" in capsys.readouterr().err


def test_without_the_package_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in (tmp_path / "x.gguf", "someone/model:x.gguf"):
        with pytest.raises(InvalidFolderError, match=r'pip install "hf-calib\[gguf\]"'):
            check_local_path(str(name))


def test_a_file_that_is_not_there(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    with pytest.raises(FileNotFoundError, match=r"There is no file .gone\.gguf."):
        check_local_path("gone.gguf")
    check_local_path("someone/model:x.gguf")  # on the Hub


def test_a_name_in_capitals(tmp_path):
    (tmp_path / "MODEL.GGUF").touch()
    with pytest.raises(InvalidFolderError, match=r"must end in lowercase \.gguf\.\nRename it to MODEL\.gguf"):
        check_local_path(str(tmp_path / "MODEL.GGUF"))
