"""The lab's language models: about a hundred thousand parameters, in the transformers format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .presets import ModelSettings
from .tokenizer import BOS, EOS, MAX_LENGTH, PAD, vocabulary

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def make_model(settings: ModelSettings | None = None, seed: int = 0, *, free_form: bool = False) -> LlamaForCausalLM:
    """Make a lab model with random weights: a small Llama.

    Llama was chosen over GPT-2 for three reasons: with the same size and training it learned the rare domain far
    better (accuracy .53 vs. .42 on seed 0), its positions are relative, so padding on the left does not change them,
    and its linear layers are those that adapters are usually put on.

    Parameters
    ----------
    settings
        Its size.
    seed
        Of the weights; torch's global generator is left as it was.
    free_form
        As in `hf_calib.lab.tokenizer.vocabulary`.

    Returns
    -------
    transformers.LlamaForCausalLM
        In float32 on the CPU; `save_pretrained` and `from_pretrained` work as usual.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = settings or ModelSettings()
    words = vocabulary(free_form=free_form)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=settings.hidden_size,
        intermediate_size=settings.intermediate_size,
        num_hidden_layers=settings.n_layers,
        num_attention_heads=settings.n_heads,
        num_key_value_heads=settings.n_heads,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=settings.initializer_range,
        tie_word_embeddings=True,
        pad_token_id=words.index(PAD),
        bos_token_id=words.index(BOS),
        eos_token_id=words.index(EOS),
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)
