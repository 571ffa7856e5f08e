"""Digests that show whether a model has changed since it was asked."""

from __future__ import annotations

import hashlib
import os
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

# Numbers per tensor to read: enough to detect training.
_SAMPLED = 256
# Bytes per block of a file.
_BLOCK = 4096


def folder_digests(model: str, base_model: str | None = None) -> dict[str, str | None]:
    """Return digests of a model's local files; None where there are none, as for a model on the Hub.

    Parameters
    ----------
    model : str
        The folder, GGUF file or Hub id of a model or an adapter.
    base_model : str, optional
        The adapter's base model; by default the one that the adapter names.

    Returns
    -------
    dict
        weights, base_weights (of an adapter's base model) and configuration, which includes the tokenizer.

    Raises
    ------
    InvalidFolderError
        If the adapter's configuration is damaged.
    """
    from ..hub.card_data import read_json
    from ..hub.folders import ADAPTER_CONFIG, MAX_CONFIG_BYTES, MODEL_CONFIG, TOKENIZER_FILES

    config = Path(model) / ADAPTER_CONFIG
    if base_model is None and config.is_file():
        named = read_json(config, MAX_CONFIG_BYTES).get("base_model_name_or_path")
        base_model = named if isinstance(named, str) else None
    folders = [Path(own) for own in (model, base_model) if own is not None and Path(own).is_dir()]
    # Includes the code of models that bring their own.
    names = (MODEL_CONFIG, "generation_config.json", ADAPTER_CONFIG, *TOKENIZER_FILES, "*.py")
    digest = hashlib.sha256()
    for file in [file for folder in folders for name in names for file in sorted(folder.glob(name))]:
        digest.update(f"{file.name} {file.stat().st_size}".encode())
        digest.update(file.read_bytes())
    return {
        "weights": files_digest(model),
        "base_weights": None if base_model is None else files_digest(base_model),
        "configuration": f"files:{digest.hexdigest()}" if folders else None,
    }


def files_digest(model: str | os.PathLike[str]) -> str | None:
    """Return a digest of the weights in a folder or GGUF file, independent of its path; None for a Hub model.

    Evenly spaced blocks of each file are read, since training changes all weights.
    """
    path = Path(model)
    if not path.exists():
        return None
    digest = hashlib.sha256()
    for file in sorted(path.glob("*.safetensors")) if path.is_dir() else [path]:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            for start in range(0, size, max(_BLOCK, size // _SAMPLED)):
                content.seek(start)
                digest.update(content.read(_BLOCK))
    return f"files:{digest.hexdigest()}"


def tensors_digest(model: nn.Module) -> str:
    """Return a digest of loaded weights, from evenly spaced numbers of each tensor."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if not tensor.is_meta:
            values = tensor.detach().flatten()
            digest.update(values[:: max(1, values.numel() // _SAMPLED)].float().cpu().numpy().tobytes())
    return f"tensors:{digest.hexdigest()}"


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of a loaded tokenizer's chat template and special tokens, and of how it encodes a sample."""
    encoded = tokenizer(string.printable)["input_ids"]
    content = (getattr(tokenizer, "chat_template", None), getattr(tokenizer, "special_tokens_map", None), encoded)
    return f"tokenizer:{hashlib.sha256(repr(content).encode()).hexdigest()}"
