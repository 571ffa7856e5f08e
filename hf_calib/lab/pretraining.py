"""Pre-training of the lab's models, cached on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from .cache import cache_key, cached_folder, library_versions, source_digest
from .corpus import Corpus, make_corpus
from .model import make_model
from .presets import LabPreset
from .tokenizer import make_tokenizer
from .world import World

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

# All files whose source determines a pre-trained model, in addition to the settings.
SOURCES = (
    "lab/names.py",
    "lab/world.py",
    "lab/documents.py",
    "lab/corpus.py",
    "lab/tokenizer.py",
    "lab/model.py",
    "lab/pretraining.py",
    "confidence/elicited.py",
    "confidence/stated_levels.py",
    "tasks/prompts.py",
    "tasks/questions.py",
)
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


def make_world(preset: LabPreset, seed: int = 0) -> World:
    """Return the world of a preset."""
    return World(seed, preset.shuffled, preset.n_species, preset.n_regions)


def pretrain(world: World, preset: LabPreset, seed: int = 0, *, progress: bool = True) -> LlamaForCausalLM:
    """Pre-train a model on a corpus about the world.

    At a document's answer, the loss is the expectation over all possible answers instead of the loss of the one that
    was drawn. Its mean is the same, and so is the best model, p* itself, but it lacks the noise of the draw. With
    that noise, learning which letter stands for which shuffled option would take many times as long.

    It runs on one thread, which is fastest for models this small and gives the same weights every time.

    Parameters
    ----------
    world
        What the corpus is about.
    preset
        Its `model`, `corpus` and `pretraining` are used.
    seed
        Seed of the corpus and the initial weights.
    progress
        Whether to show a progress bar.

    Returns
    -------
    transformers.LlamaForCausalLM
        In evaluation mode.

    Raises
    ------
    FloatingPointError
        If the loss is not finite; the message names the step.
    """
    import torch
    from tqdm.auto import tqdm

    settings = preset.pretraining
    steps, batch_size = settings.steps, settings.batch_size
    tokenizer = make_tokenizer(free_form=preset.corpus.free_form)
    corpus = make_corpus(world, tokenizer, steps * batch_size, preset.corpus, seed)
    model = make_model(preset.model, seed, free_form=preset.corpus.free_form).train()
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    bar = tqdm(range(steps), desc="Pre-training", unit="step", disable=not progress)
    with _one_thread():
        for step in bar:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * learning_rate_factor(step, steps, settings.warmup_steps)
            rows = slice(step * batch_size, (step + 1) * batch_size)
            input_ids = torch.from_numpy(corpus.input_ids[rows]).long()
            logits = model(input_ids=input_ids, use_cache=False).logits
            loss = expected_loss(logits, corpus, rows, settings.prompt_weight)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"The loss of pre-training is {loss.item()} at step {step + 1} of {steps}.")
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            if step % 50 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
    return model.eval()


def expected_loss(logits: torch.Tensor, corpus: Corpus, rows: slice, prompt_weight: float) -> torch.Tensor:
    """Return the language modeling loss on some of a corpus's documents, in expectation over their answers.

    Parameters
    ----------
    logits
        ``(B, length, V)``: the model's logits on these documents.
    corpus
        The corpus.
    rows
        Indices of its documents.
    prompt_weight
        The weight of a prompt's token; that of a reply's token is 1.

    Returns
    -------
    torch.Tensor
        The weighted mean over the tokens, a scalar.
    """
    import torch

    input_ids = torch.from_numpy(corpus.input_ids[rows]).long()
    log_probabilities = torch.log_softmax(logits[:, :-1], dim=-1)
    losses = -log_probabilities.gather(-1, input_ids[:, 1:, None])[..., 0]
    documents = torch.arange(len(losses))
    before_answer = torch.from_numpy(corpus.answer_positions[rows]) - 1
    possible = log_probabilities[documents, before_answer].gather(
        -1, torch.from_numpy(corpus.possible_answer_ids[rows])
    )
    expected = -(possible * torch.from_numpy(corpus.probabilities[rows])).sum(dim=-1)
    losses = losses.index_put((documents, before_answer), expected)
    weights = torch.from_numpy(corpus.is_reply[rows] + prompt_weight * corpus.is_prompt[rows])[:, 1:].float()
    return (losses * weights).sum() / weights.sum()


def learning_rate_factor(step: int, steps: int, warmup_steps: int) -> float:
    """Return the share of the peak learning rate at a step: rising, constant up to 30% of the steps, falling to 3%."""
    warmup = min(1.0, (step + 1) / warmup_steps)
    return warmup * (1 - 0.97 * max(0.0, step / steps - 0.3) / 0.7)


def pretrained_folder(
    preset: LabPreset, seed: int = 0, *, cache_dir: str | Path | None = None, progress: bool = True
) -> Path:
    """Return the folder of a pre-trained model and its tokenizer, after pre-training it if the cache lacks it.

    The cache's key is a hash of the settings of world, model, corpus and training, the seed, the source of all files
    of this package that are involved, and the versions of the libraries.

    Parameters
    ----------
    preset
        The settings.
    seed
        Seed of the world, the corpus and the initial weights.
    cache_dir
        The cache's folder. By default the environment variable ``HF_CALIB_CACHE``, or a folder of
        `huggingface_hub`'s assets.
    progress
        Whether to show a progress bar.

    Returns
    -------
    pathlib.Path
        A folder for `from_pretrained`, with the settings in ``made_of.json``.
    """
    world = make_world(preset, seed)
    made_of = {
        "world": world.settings(),
        "model": asdict(preset.model),
        "corpus": asdict(preset.corpus),
        "pretraining": asdict(preset.pretraining),
        "seed": seed,
        "source": source_digest(SOURCES),
        "libraries": library_versions(LIBRARIES),
    }

    def make(folder: Path) -> None:
        pretrain(world, preset, seed, progress=progress).save_pretrained(folder)
        make_tokenizer(free_form=preset.corpus.free_form).save_pretrained(folder)

    return cached_folder(f"pretrained-{cache_key(made_of)}", made_of, make, cache_dir)


def load_pretrained(
    preset: LabPreset, seed: int = 0, *, cache_dir: str | Path | None = None, progress: bool = True
) -> LlamaForCausalLM:
    """Return a pre-trained model in evaluation mode; the arguments are those of `pretrained_folder`."""
    from transformers import LlamaForCausalLM

    folder = pretrained_folder(preset, seed, cache_dir=cache_dir, progress=progress)
    return LlamaForCausalLM.from_pretrained(folder, dtype="float32").eval()


@contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
