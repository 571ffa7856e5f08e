"""Checkpoints that are not a whole language model, or that would run code, are refused with advice."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM, T5Config

import hf_calib
from hf_calib.cli import main
from hf_calib.hub import InvalidFolderError, UnsafeRepositoryError, load
from tests.support import byte_level_tokenizer, question_rows, tiny_llama


@pytest.fixture
def tokenizer():
    return byte_level_tokenizer()


@pytest.fixture
def folder(tokenizer, tmp_path):
    folder = tmp_path / "model"
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def dataset(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in question_rows(6)))
    return path


def change(path, **values):
    content = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def edit_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# Weights that do not cover the model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architectures", ["as saved", None, ["LlamaForCausalLM"]])
def test_a_reward_model(tokenizer, tmp_path, dataset, capsys, tied, architectures):
    config = tiny_llama(tokenizer, tie_word_embeddings=tied).config
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    if architectures != "as saved":
        change(tmp_path / "reward" / "config.json", architectures=architectures)
    with pytest.raises(InvalidFolderError, match=r"LlamaForSequenceClassification|lm_head|score"):
        load(tmp_path / "reward")
    assert main(["measure", "--model", str(tmp_path / "reward"), "--dataset", str(dataset)]) == 1
    assert "reward" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["lm_head.weight", "model.norm.weight", "model.layers.1.mlp.up_proj.weight"])
def test_missing_weights(folder, key):
    edit_weights(folder, lambda weights: weights.pop(key))
    with pytest.raises(InvalidFolderError, match=rf"do not cover LlamaForCausalLM: {re.escape(key)} would be newly"):
        load(folder)


def test_fewer_layers_than_the_configuration_says(folder):
    change(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(InvalidFolderError, match=r"do not cover .*model\.layers\.2.* and \d+ more would be newly"):
        load(folder)


@pytest.mark.parametrize("options", [{}, {"ignore_mismatched_sizes": True}])
def test_weights_of_other_shapes(folder, options):
    change(folder / "config.json", intermediate_size=48)
    with pytest.raises(InvalidFolderError, match=r"mlp\.(down|gate|up)_proj|shapes"):
        load(folder, **options)


def test_tied_weights_are_covered(tokenizer, tmp_path):
    model = tiny_llama(tokenizer, tie_word_embeddings=True).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    tokens = torch.arange(8)[None]
    assert torch.equal(load(tmp_path).model(tokens).logits, model(tokens).logits)


@pytest.mark.filterwarnings("ignore")
def test_a_base_model_is_held_to_the_same(folder, tmp_path):
    get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(folder), LoraConfig(task_type="CAUSAL_LM")
    ).save_pretrained(tmp_path / "a")
    edit_weights(folder, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(InvalidFolderError, match=r"do not cover .*lm_head\.weight"):
        load(tmp_path / "a")
    with pytest.raises(InvalidFolderError, match=r"do not cover .*lm_head\.weight"):
        hf_calib.ensemble([tmp_path / "a", tmp_path / "a"])


def test_models_of_other_kinds(tokenizer, tmp_path):
    BertForMaskedLM(
        BertConfig(vocab_size=400, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    ).save_pretrained(tmp_path / "bert")
    config = T5Config(vocab_size=400, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    for name, message in (("bert", "BertForMaskedLM, which has no language-modeling head"), ("t5", "is a T5For")):
        tokenizer.save_pretrained(tmp_path / name)
        with pytest.raises(InvalidFolderError, match=message):
            load(tmp_path / name)


# Pickles


def run_hint(error, folder):
    command = next(line for line in str(error).splitlines() if line.startswith("python -c"))
    words = shlex.split(command)
    done = subprocess.run([sys.executable, *words[1:]], cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore")
def test_pickled_weights_come_with_the_command_that_converts_them(folder, tmp_path):
    expected = load(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsafeRepositoryError, match=r"only as pickles \(pytorch_model.bin\)") as raised:
        load(folder)
    run_hint(raised.value, tmp_path)
    converted = load(tmp_path / "model-safetensors")
    tokens = torch.arange(8)[None]
    assert torch.equal(converted.model(tokens).logits, expected.model(tokens).logits)
    assert converted.tokenizer.get_vocab() == expected.tokenizer.get_vocab()


@pytest.mark.filterwarnings("ignore")
def test_a_pickled_adapter_comes_with_the_command_that_converts_it(folder, tmp_path):
    adapter = tmp_path / "a"
    get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(folder), LoraConfig(task_type="CAUSAL_LM")
    ).save_pretrained(adapter)
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(UnsafeRepositoryError, match="pickles") as raised:
        load(adapter)
    run_hint(raised.value, adapter)
    load(adapter)


def test_no_weights_at_all(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidFolderError, match=r"no weights: no model\.safetensors"):
        load(folder)


# Code

MODEL_CODE = """
import pathlib
pathlib.Path(__file__).with_name("ran").touch()
pathlib.Path({mark!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own-llama"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
TOKENIZER_CODE = """
import pathlib
pathlib.Path({mark!r}).touch()
from transformers import PreTrainedTokenizerFast
class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "ran"


@pytest.fixture
def own_model(folder, mark):
    (folder / "own.py").write_text(MODEL_CODE.format(mark=str(mark)))
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    change(folder / "config.json", model_type="own-llama", architectures=["OwnModel"], auto_map=auto_map)
    return folder


@pytest.fixture
def own_tokenizer(folder, mark):
    (folder / "own_tokens.py").write_text(TOKENIZER_CODE.format(mark=str(mark)))
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "own_tokens.OwnTokenizer"]},
    )
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["own_model", "own_tokenizer"])
def test_custom_code_runs_only_where_it_is_trusted(request, kind, mark, dataset, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    expected = load(request.getfixturevalue("folder")).model(torch.arange(8)[None]).logits
    plain = str(shutil.copytree(request.getfixturevalue("folder"), tmp_path / "plain"))
    folder = str(request.getfixturevalue(kind))
    with pytest.raises(UnsafeRepositoryError, match=r"--trust-remote-code.*trust_remote_code=True"):
        load(folder)
    data = ["--dataset", str(dataset), "--json"]
    other = tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in question_rows(6, seed=1)))
    commands = [
        ["measure", "--model", folder, *data],
        ["calibrate", "--model", folder, *data, "--out", str(tmp_path / "c"), "--folds", "2"],
        ["diagnose", "--model", folder, *data, "--held-out", str(other)],
        ["compare", folder, plain, *data],
        ["card", folder, *data],
    ]
    for command in commands:
        assert main(command) == 1
        assert "--trust-remote-code" in capsys.readouterr().err
    assert not mark.exists()
    loaded = load(folder, trust_remote_code=True)
    assert mark.exists()
    assert torch.equal(loaded.model(torch.arange(8)[None]).logits, expected)
    for command in commands:
        if command[0] != "compare":
            assert main([*command, "--trust-remote-code"]) == 0, capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_the_code_of_a_base_model_is_not_run_either(own_model, mark, tmp_path):
    base = load(own_model, trust_remote_code=True).model
    get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(tmp_path / "a")
    mark.unlink()
    for call in (load, lambda name, **options: hf_calib.ensemble([name, name], **options)):
        with pytest.raises(UnsafeRepositoryError, match="--trust-remote-code"):
            call(tmp_path / "a")
        call(tmp_path / "a", trust_remote_code=True)


@pytest.mark.filterwarnings("ignore::hf_calib.hub.CalibrationWarning")
def test_a_model_that_transformers_knows_is_loaded_without_its_code(folder, mark):
    (folder / "own.py").write_text(MODEL_CODE.format(mark=str(mark)))
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "own.OwnModel"})
    with pytest.warns(UserWarning, match="not run: transformers' own class for 'llama'"):
        load(folder)
    assert not mark.exists()
