"""Adapters that were trained with more tokens than their base model has."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import hf_calib
from hf_calib.cli import main
from hf_calib.hub import InvalidFolderError, MissingModelError, load
from tests.support import question_rows, questions, tiny_llama

ADDED = ["<think>", "</think>", "<tool>"]
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}


@pytest.fixture(scope="module", params=["untied", "tied"])
def base_of(request, tmp_path_factory):
    """The folder of a base model without the added tokens."""
    folder = tmp_path_factory.mktemp(request.param)
    from tests.support import byte_level_tokenizer

    tokenizer = byte_level_tokenizer()
    tiny_llama(tokenizer, tie_word_embeddings=request.param == "tied").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def config_of(kind, new, tied):
    if kind == "modules_to_save":
        return LoraConfig(**LORA, modules_to_save=["embed_tokens"] if tied else ["embed_tokens", "lm_head"])
    if kind == "trainable_token_indices":
        return LoraConfig(**LORA, trainable_token_indices={"embed_tokens": new})
    if kind == "embedding in LoRA":
        return LoraConfig(**{**LORA, "target_modules": ["q_proj", "embed_tokens", *([] if tied else ["lm_head"])]})
    return LoraConfig(**LORA)


def save_adapter(folder, base, kind, seed=0, multiple=None, **options):
    """Train, in effect, an adapter on a base model with added tokens, and save it as TRL does."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(ADDED)
    model = AutoModelForCausalLM.from_pretrained(base)
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=multiple)
    new = tokenizer.convert_tokens_to_ids(ADDED)
    adapter = get_peft_model(model, config_of(kind, new, model.config.tie_word_embeddings))
    with torch.no_grad():
        for parameter in adapter.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn_like(parameter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapter.save_pretrained(folder, **options)
    tokenizer.save_pretrained(folder)
    return adapter.eval(), tokenizer


KINDS = ["modules_to_save", "trainable_token_indices", "plain LoRA", "embedding in LoRA"]
TOKENS = torch.tensor([[5, 17, 60, 9, 33]])


def with_new(tokenizer):
    new = torch.tensor([tokenizer.convert_tokens_to_ids(ADDED)])
    return torch.cat([TOKENS, new, TOKENS], dim=1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_auto_peft(base_of, tmp_path, kind):
    trained, tokenizer = save_adapter(tmp_path / "a", base_of, kind)
    loaded = load(tmp_path / "a")
    tokens = with_new(tokenizer)
    with torch.no_grad():
        logits = loaded.model(tokens).logits
        expected = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "a").eval()(tokens).logits
        torch.testing.assert_close(logits, expected, rtol=0, atol=0)
        torch.testing.assert_close(logits, trained(tokens).logits, rtol=0, atol=1e-5)
    assert len(loaded.tokenizer) == len(tokenizer)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_members_of_an_ensemble_answer_as_each_does_alone(base_of, tmp_path, kind):
    folders = [tmp_path / name for name in ("one", "two", "three")]
    for seed, folder in enumerate(folders):
        save_adapter(folder, base_of, kind, seed)
    asked = questions(6)
    members = hf_calib.ensemble(folders)
    for _ in range(2):
        logs = members.log_probabilities(asked)
        for place, folder in enumerate(folders):
            alone = load(folder).predict(asked).option_log_probabilities
            np.testing.assert_allclose(logs[place], alone, atol=1e-5)
    assert np.abs(logs[0] - logs[1]).max() > 1e-3


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS[1:])
def test_members_that_bring_their_tokens_differently_are_refused(base_of, tmp_path, kind):
    save_adapter(tmp_path / "one", base_of, KINDS[0])
    save_adapter(tmp_path / "two", base_of, kind)
    with pytest.raises(InvalidFolderError, match=r"two comes with other tokens or embeddings than .*one"):
        hf_calib.ensemble([tmp_path / "one", tmp_path / "two"])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.nightly) for kind in KINDS[1:])])
def test_every_command_loads_them(base_of, tmp_path, capsys, kind):
    save_adapter(tmp_path / "a", base_of, kind)
    for name, seed in (("q.jsonl", 0), ("r.jsonl", 1)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in question_rows(8, seed=seed)))
    adapter, dataset, other = str(tmp_path / "a"), str(tmp_path / "q.jsonl"), str(tmp_path / "r.jsonl")
    report = load(adapter).report(hf_calib.tasks.load_questions(dataset))
    commands = {
        "measure": ["--model", adapter, "--dataset", dataset],
        "calibrate": ["--model", adapter, "--dataset", dataset, "--out", f"{tmp_path}/c", "--folds", "2", "--force"],
        "diagnose": ["--model", adapter, "--dataset", dataset, "--held-out", other],
        "compare": [str(base_of), adapter, "--dataset", dataset],
        "card": [adapter, "--dataset", dataset],
    }
    for command, arguments in commands.items():
        assert main([command, *arguments, "--json"]) == 0, capsys.readouterr().err
        result = json.loads(capsys.readouterr().out)
        if command == "measure":
            assert result["measures"]["nll"]["value"] == pytest.approx(report.measures["nll"].value, abs=1e-6)
    assert main(["measure", "--model", str(base_of), "--adapter", adapter, "--dataset", dataset, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["measures"]["nll"]["value"] == pytest.approx(
        report.measures["nll"].value, abs=1e-6
    )


@pytest.mark.filterwarnings("ignore")
def test_embeddings_padded_beyond_the_tokenizer(base_of, tmp_path):
    trained, tokenizer = save_adapter(tmp_path / "a", base_of, "plain LoRA", multiple=64)
    assert trained.get_input_embeddings().weight.shape[0] > len(tokenizer)
    with torch.no_grad():
        logits, expected = (model(TOKENS).logits for model in (load(tmp_path / "a").model, trained))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_added_tokens_without_weights_are_refused(base_of, tmp_path):
    save_adapter(tmp_path / "a", base_of, "plain LoRA", save_embedding_layers=False)
    with pytest.raises(InvalidFolderError, match=r"added tokens' rows of embed_tokens.*newly initialized"):
        load(tmp_path / "a")


@pytest.mark.filterwarnings("ignore")
def test_trained_tokens_without_the_rest_of_the_embeddings(base_of, tmp_path):
    trained, tokenizer = save_adapter(tmp_path / "a", base_of, "trainable_token_indices", save_embedding_layers=False)
    if not trained.config.tie_word_embeddings:
        with pytest.raises(InvalidFolderError, match="rows of lm_head"):
            load(tmp_path / "a")
        return
    with torch.no_grad():
        logits, expected = (model(with_new(tokenizer)).logits for model in (load(tmp_path / "a").model, trained))
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_members_with_other_tokens_are_refused(base_of, tmp_path):
    for name in ("one", "two"):
        _, tokenizer = save_adapter(tmp_path / name, base_of, "plain LoRA")
    tokenizer = AutoTokenizer.from_pretrained(base_of)
    tokenizer.add_tokens(["<a>", "<b>", "<c>"])
    tokenizer.save_pretrained(tmp_path / "two")
    with pytest.raises(InvalidFolderError, match=r"two comes with other tokens or embeddings than .*one"):
        hf_calib.ensemble([tmp_path / "one", tmp_path / "two"])


# Adapters that do not fit


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_do_not_cover_the_adapter_are_refused(base_of, tmp_path, kind):
    for name in ("one", "two"):
        save_adapter(tmp_path / name, base_of, kind)
    path = tmp_path / "two" / "adapter_model.safetensors"
    weights = load_file(path)
    del weights[next(key for key in weights if "layers.1.self_attn.q_proj.lora_B" in key)]
    save_file(weights, path)
    with pytest.raises(InvalidFolderError, match=r"do not cover it.*layers\.1\.self_attn\.q_proj\.lora_B"):
        load(tmp_path / "two")
    with pytest.raises(InvalidFolderError, match=r"two do not cover it.*layers\.1\.self_attn\.q_proj\.lora_B"):
        hf_calib.ensemble([tmp_path / "one", tmp_path / "two"])


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_of_another_model_is_refused(base_of, tmp_path):
    save_adapter(tmp_path / "a", base_of, "modules_to_save")
    tokenizer = AutoTokenizer.from_pretrained(base_of)
    tiny_llama(tokenizer, hidden_size=64).save_pretrained(tmp_path / "wide")
    with pytest.raises(InvalidFolderError, match="does not fit its base model"):
        load(tmp_path / "a", base_model=tmp_path / "wide")
    with pytest.raises(InvalidFolderError, match="is not an adapter for"):
        load(base_of, base_model=tmp_path / "wide")


@pytest.mark.parametrize("task", ["SEQ_CLS", "TOKEN_CLS", "FEATURE_EXTRACTION", "SEQ_2_SEQ_LM"])
def test_an_adapter_of_another_task_is_refused(base_of, tmp_path, task):
    get_peft_model(AutoModelForCausalLM.from_pretrained(base_of), LoraConfig(**LORA)).save_pretrained(tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task_type": task}))
    with pytest.raises(InvalidFolderError, match=f"task_type '{task}'"):
        load(tmp_path / "a")


@pytest.mark.filterwarnings("ignore")
def test_a_base_model_that_is_not_there_says_how_to_give_it(base_of, tmp_path, capsys):
    base = tmp_path / "moved"
    shutil.copytree(base_of, base)
    adapter = tmp_path / "a"
    save_adapter(adapter, base, "plain LoRA")
    shutil.move(base, tmp_path / "there")
    with pytest.raises(MissingModelError, match=r"--model BASE --adapter .*base_model=BASE") as raised:
        load(adapter)
    assert str(base) in str(raised.value)
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in question_rows(4)))
    asked = ["--dataset", str(tmp_path / "q.jsonl"), "--json"]
    assert main(["measure", "--model", str(adapter), *asked]) == 1
    assert f"--model BASE --adapter {adapter}" in capsys.readouterr().err
    assert main(["measure", "--model", str(tmp_path / "there"), "--adapter", str(adapter), *asked]) == 0
