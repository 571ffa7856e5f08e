"""Others' methods of keeping a model calibrated through alignment."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset, concatenate_datasets

from hf_calib.lab.bench import Bench
from hf_calib.trainers import CalibrationAwareConfig

from .catto import CATTODPOTrainer, Distance

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CONFIDENCE = "Confidence:"
LEVELS = tuple(str(level) for level in range(11))
# What the authors' data state after an answer, in tenths: a high confidence, and a low one.
HIGH, LOW = range(7, 11), range(4)


def catto_dpo(bench: Bench, weight: float, distance: Distance = "absolute") -> CATTODPOTrainer:
    """Align the pre-trained model with CATTO, or with binary cross-entropy in its place; see `catto`."""
    args = CalibrationAwareConfig(**bench.alignment_arguments("catto"))
    trainer = CATTODPOTrainer(
        args=args,
        train_dataset=bench.data.pairs,
        catto_weight=weight,
        catto_distance=distance,
        **bench.policy_and_reference(),
    )
    trainer.train()
    return trainer


def interpolated(bench: Bench, model: Any, share: float) -> Any:
    """Average a model's weights with the pre-trained model's (WiSE-FT); the model given is used up.

    Parameters
    ----------
    bench : Bench
    model : PreTrainedModel
    share : float
        Of the pre-trained weights, in [0, 1].

    References
    ----------
    Wortsman et al., Robust fine-tuning of zero-shot models, CVPR 2022.
    """
    with torch.no_grad():
        for weight, before in zip(model.parameters(), bench.pretrained().parameters(), strict=True):
            weight.lerp_(before, share)
    return model


def stating_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a copy of the lab's tokenizer that also knows `CONFIDENCE` and `LEVELS`."""
    made = copy.deepcopy(tokenizer)
    made.add_tokens([CONFIDENCE, *LEVELS])
    return made


def stated_pairs(pairs: Dataset, seed: int) -> Dataset:
    """Return for each pair one in which the same answer is followed by a high and by a low stated confidence.

    The answer is the pair's chosen one, after which the high confidence is preferred, or its rejected one, after
    which the low confidence is, at even odds.

    Parameters
    ----------
    pairs : datasets.Dataset
        With the columns `prompt`, `chosen` and `rejected`; others are kept.
    seed : int
    """
    rng = np.random.default_rng([seed, 13])
    rows = []
    for row in pairs:
        high, low = f" {rng.choice(HIGH)}", f" {rng.choice(LOW)}"
        right = bool(rng.integers(2))
        answered = f"{row['prompt']}{row['chosen' if right else 'rejected']} {CONFIDENCE}"
        better, worse = (high, low) if right else (low, high)
        rows.append({**row, "prompt": answered, "chosen": better, "rejected": worse})
    return Dataset.from_list(rows)


def stated_confidence_dpo(bench: Bench) -> Any:
    r"""Align the pre-trained model with CDPO, which also trains a confidence that is stated after the answer.

    Its loss is :math:`L(y_c, y_r) + \frac{1}{2} (L(h \mid y_c; l \mid y_c) + L(l \mid y_r; h \mid y_r))`, each L that
    of DPO, with a high (h) and a low (l) confidence stated after the chosen and the rejected answer. Its mean over the
    pairs is here that over twice as many pairs, the additional ones by `stated_pairs`, in batches twice as large.

    References
    ----------
    Leng et al., Taming Overconfidence in LLMs: Reward Calibration in RLHF, ICLR 2025, and the code published with it.
    """
    from trl import DPOConfig, DPOTrainer

    arguments = bench.alignment_arguments("cdpo")
    arguments["per_device_train_batch_size"] *= 2
    tokenizer = stating_tokenizer(bench.tokenizer)
    options = bench.policy_and_reference()
    models = [options["model"], options["ref_model"]]
    for model in models:
        # The new words' weights are random, and must be the same in both.
        torch.manual_seed(bench.seed)
        if model is not None:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    pairs = concatenate_datasets([bench.data.pairs, stated_pairs(bench.data.pairs, bench.seed)])
    trainer = DPOTrainer(
        args=DPOConfig(**arguments), train_dataset=pairs, **{**options, "processing_class": tokenizer}
    )
    trainer.train()
    return trainer
