"""Vision-language models, saved with random weights, measured on text."""

import json

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from hf_calib.cli import main
from hf_calib.confidence import predict
from hf_calib.hub import InvalidFolderError, load
from hf_calib.tasks import PromptFormat, load_questions
from tests.support import byte_level_tokenizer, question_rows

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
          "image_size": 28, "patch_size": 14}  # fmt: skip
QWEN_VISION = {"depth": 1, "embed_dim": 32, "num_heads": 4, "hidden_size": 32, "patch_size": 14}
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
KINDS = {
    "qwen2_vl": {"text": {"rope_parameters": MROPE}, "vision": QWEN_VISION},
    "qwen2_5_vl": {
        "text": {"rope_parameters": MROPE},
        "vision": {"depth": 1, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "out_hidden_size": 32},
    },
    "mistral3": {"text": {"model_type": "mistral", "head_dim": 8}, "vision": {"model_type": "pixtral", **VISION}},
    "gemma3": {
        "text": {"model_type": "gemma3_text", "head_dim": 8, "query_pre_attn_scalar": 8},
        "vision": {"model_type": "siglip_vision_model", **VISION},
        "top": {"mm_tokens_per_image": 1},
    },
    "llava": {"text": {"model_type": "llama"}, "vision": {"model_type": "clip_vision_model", **VISION}},
    "llava_next": {"text": {"model_type": "mistral"}, "vision": {"model_type": "clip_vision_model", **VISION}},
    "idefics3": {"text": {"model_type": "llama"}, "vision": VISION, "top": {"pad_token_id": 0}},
    "smolvlm": {"text": {"model_type": "llama"}, "vision": VISION, "top": {"pad_token_id": 0}},
    "internvl": {
        "text": {"model_type": "qwen2"},
        "vision": {**VISION, "image_size": [28, 28], "patch_size": [14, 14]},
    },
    "paligemma": {
        "text": {"model_type": "gemma", "head_dim": 8},
        "vision": {"model_type": "siglip_vision_model", **VISION, "projection_dim": 32},
        "top": {"projection_dim": 32},
    },
}


def save_model(kind, folder):
    tokenizer = byte_level_tokenizer(chat=True)
    parts = KINDS[kind]
    text = {**SIZES, "vocab_size": len(tokenizer), **parts["text"]}
    config = AutoConfig.for_model(
        kind, text_config=text, vision_config=parts["vision"], image_token_id=2, image_token_index=2,
        tie_word_embeddings=False, **parts.get("top", {}),
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.AutoModelForImageTextToText.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "q.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in question_rows(8, choices=(4, 3))))
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "paligemma"])
def test_a_multimodal_model_is_measured_as_predict_does(kind, tmp_path, dataset, capsys):
    model, tokenizer = save_model(kind, tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert type(loaded.model) is type(model)
    questions = load_questions(dataset)
    expected = predict(model, tokenizer, questions)
    # Alone, without padding, in the model's own forward.
    for place, question in enumerate(questions[:2]):
        ids = tokenizer(PromptFormat().render(question), return_tensors="pt").input_ids
        with torch.no_grad():
            logs = model(input_ids=ids).logits[0, -1].float().log_softmax(-1)
        letters = [tokenizer(f" {letter}").input_ids[-1] for letter in question.letters]
        assert logs[letters].numpy() == pytest.approx(
            expected.option_log_probabilities[place, : len(letters)], abs=1e-4
        )
    assert main(["measure", "--model", str(tmp_path / "model"), "--dataset", str(dataset), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])["measures"]
    for name, measure in expected.report().measures.items():
        if name in ("accuracy", "confidence", "nll"):
            assert measured[name]["value"] == pytest.approx(measure.value, abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_an_adapter_on_a_multimodal_model(tmp_path, dataset, capsys):
    model, tokenizer = save_model("llava", tmp_path / "model")
    base = type(model).from_pretrained(tmp_path / "model")
    adapter = get_peft_model(base, LoraConfig(target_modules=r".*language_model.*q_proj", task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    adapter.save_pretrained(tmp_path / "adapter")
    expected = predict(adapter.eval(), tokenizer, load_questions(dataset)).report()
    assert main(["measure", "--model", str(tmp_path / "adapter"), "--dataset", str(dataset), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out.splitlines()[-1])["measures"]
    assert measured["nll"]["value"] == pytest.approx(expected.measures["nll"].value, abs=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_prompt_read_in_both_directions_is_refused(tmp_path):
    save_model("paligemma", tmp_path)
    with pytest.raises(InvalidFolderError, match="both directions"):
        load(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_the_chat_template_of_an_older_processor_is_used(tmp_path, dataset):
    _, tokenizer = save_model("qwen2_vl", tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": tokenizer.chat_template}))
    assert load(tmp_path).tokenizer.chat_template == tokenizer.chat_template
