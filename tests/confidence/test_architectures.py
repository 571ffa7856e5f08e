"""Every small causal architecture that transformers can build: what a model says of a question depends on it alone."""

from contextlib import suppress

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from hf_calib.confidence import Asking, LocalModel, OptionLetters, OptionTexts, predict
from hf_calib.tasks import FewShotFormat, PromptFormat
from tests.support import byte_level_tokenizer, questions

# What a configuration may call its sizes, and values at which they fit together in most architectures.
SIZES = {
    32: (
        *("hidden_size", "d_model", "n_embd", "dim_model", "embedding_size", "attention_hidden_size", "lru_width"),
        *("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"),
    ),
    64: (
        *("intermediate_size", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_inner", "d_ff", "dim_ff"),
        *("feed_forward_size", "ffn_hidden_size", "n_inner", "mamba_d_ssm"),
    ),
    4: (
        *("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_blocks"),
        *("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"),
        *("decoder_attention_heads", "linear_num_value_heads", "mamba_n_heads", "mamba_num_heads", "time_step_rank"),
        *("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"),
    ),
    2: (
        *("encoder_layers", "decoder_layers", "num_decoder_layers", "num_encoder_layers", "num_key_value_heads"),
        *("num_experts_per_tok", "linear_num_key_heads", "attn_layer_period"),
    ),
    8: (
        *(
            "head_dim",
            "dim_head",
            "rotary_dim",
            "qk_rope_head_dim",
            "qk_nope_head_dim",
            "v_head_dim",
            "sliding_window",
        ),
        *("linear_key_head_dim", "linear_value_head_dim", "mamba_d_state", "state_size", "ssm_state_size"),
    ),
    16: ("q_lora_rank", "kv_lora_rank", "qk_head_dim", "mamba_d_head", "mamba_head_dim"),
    1: (
        "attn_layer_offset",
        "n_group",
        "topk_group",
        "n_shared_experts",
        "mamba_n_groups",
        "n_groups",
        "pad_token_id",
        "bos_token_id",
    ),
    512: ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "context_length", "max_sequence_length"),
}
LAYER_TYPES = ("layer_types", "layers_block_type", "block_types", "mlp_layer_types")
# Architectures that need a size of their own.
VARIANTS = ({}, {"num_key_value_heads": 4}, {"num_key_value_heads": 4, "head_dim": 16})

# Among them recurrent ones that read padding as text, and those that number positions from the padding on.
QUICK = (
    *("llama", "gpt2", "bloom", "opt", "mpt", "gemma2", "mixtral", "mamba", "falcon_mamba", "jamba"),
    *("rwkv", "recurrent_gemma", "bart", "whisper", "roformer", "cpmant", "git", "megatron-bert"),
)
TOKENIZER = byte_level_tokenizer()
ASKED = questions(5, choices=(4, 2, 3))
SHOTS = FewShotFormat.choose(questions(3, seed=5, choices=(2,)), 1)

pytestmark = pytest.mark.filterwarnings("ignore")


class NoModelError(Exception):
    """The recipe does not make a model of a kind that works."""


def shrink(config, sizes):
    for part in list(vars(config).values()):
        if isinstance(part, PreTrainedConfig):
            shrink(part, sizes)
    for name, value in sizes.items():
        with suppress(AttributeError):  # a size that is derived from others
            if type(getattr(config, name, None)) is int:
                setattr(config, name, value)
    for name in LAYER_TYPES:
        types = vars(config).get(name)
        if isinstance(types, list):
            setattr(config, name, (list(dict.fromkeys(types)) * 4)[: config.num_hidden_layers])
    config.eos_token_id = 1
    config.is_decoder = True


def build(kind):
    """Return a tiny model of a kind."""
    sizes = {name: value for value, names in SIZES.items() for name in names} | {"vocab_size": len(TOKENIZER)}
    for variant in VARIANTS:
        try:
            config = CONFIG_MAPPING[kind]()
            shrink(config, sizes | variant)
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config).eval()
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(parameter, std=0.2)
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([[5, 6, 7]]), attention_mask=torch.ones(1, 3).long()).logits
            if logits.shape[:2] == (1, 3) and logits.isfinite().all():
                return model
            reason = "its logits are not finite"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
    raise NoModelError(f"no tiny {kind}: {reason:.200}")


def check(model):
    for side in ("left", "right"):
        alone = predict(model, TOKENIZER, ASKED, batch_size=1, padding_side=side).probabilities
        together = predict(model, TOKENIZER, ASKED, batch_size=4, padding_side=side).probabilities
        np.testing.assert_allclose(together, alone, atol=2e-4)
    local = LocalModel(model, TOKENIZER)
    for method in (OptionLetters(), OptionTexts()):
        for prompt_format in (PromptFormat(), SHOTS):
            together = method.predict(local, ASKED, prompt_format, Asking(4)).probabilities
            for row, question in enumerate(ASKED):
                alone = method.predict(local, [question], prompt_format, Asking(1)).probabilities[0]
                np.testing.assert_allclose(together[row, : len(alone)], alone, atol=2e-4)


@pytest.mark.parametrize("kind", QUICK)
def test_a_models_probabilities_do_not_depend_on_the_batch(kind):
    check(build(kind))


@pytest.mark.nightly
@pytest.mark.parametrize("kind", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING._model_mapping) - set(QUICK)))
def test_nor_do_any_others(kind):
    try:
        model = build(kind)
    except NoModelError as error:
        pytest.skip(str(error))
    check(model)
