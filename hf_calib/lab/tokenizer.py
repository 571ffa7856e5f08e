"""A tokenizer with one token for each word of the lab's world."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .names import REGIONS, RELATIONS, SPECIES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS, UNK = "<pad>", "<bos>", "<eos>", "<unk>"
FRAME_WORDS = "Question: What do ? A. B. C. D. Answer: A B C D User: Assistant: Sure ! .".split()  # noqa: SIM905
MAX_LENGTH = 64


def vocabulary() -> list[str]:
    """List the tokens in the order of their ids."""
    values = [value for relation in RELATIONS for value in relation.values]
    verbs = [relation.verb for relation in RELATIONS]
    return [PAD, BOS, EOS, UNK, *FRAME_WORDS, *SPECIES, *REGIONS, *verbs, *values]


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Make the lab's tokenizer.

    It splits text at whitespace and gives each word of the world a token; other words become ``<unk>``. A
    post-processor puts ``<bos>`` in front, as those of Llama do, so library code that tokenizes text needs to know
    nothing of the lab.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    ids = {word: index for index, word in enumerate(vocabulary())}
    backend = Tokenizer(WordLevel(ids, unk_token=UNK))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, ids[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=MAX_LENGTH,
        padding_side="right",
    )
