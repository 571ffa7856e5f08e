"""Digests that show whether a model has changed since it was asked."""

from __future__ import annotations

import hashlib
import string
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..hub.digests import files_digest

if TYPE_CHECKING:
    from torch import nn


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


def tensors_digest(model: nn.Module) -> str:
    """Return a digest of loaded weights, from a sum over each row of each tensor, and of which adapters are on."""
    import torch

    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    digest = hashlib.sha256()
    for adapters in adapters_in_use(model):
        digest.update(repr(adapters).encode())
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        if not tensor.is_meta and tensor.numel():
            rows = tensor.detach().reshape(tensor.shape[0] if tensor.ndim else 1, -1).contiguous()
            # The sum of the numbers' bits as integers does not depend on the order of adding.
            bits = rows.view(integers[rows.element_size()])
            digest.update(bits.sum(dim=1, dtype=torch.int64).cpu().numpy().tobytes())
    return f"tensors:{digest.hexdigest()}"


def adapters_in_use(model: nn.Module) -> list[tuple[Any, ...]]:
    """Return for each layer with PEFT adapters whether they are off, which are active, and their scales."""
    if "peft" not in sys.modules:
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [
        (name, layer.disable_adapters, tuple(layer.active_adapters), getattr(layer, "scaling", None))
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    ]


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of a loaded tokenizer's chat template and special tokens, and of how it encodes a sample."""
    encoded = tokenizer(string.printable)["input_ids"]
    content = (getattr(tokenizer, "chat_template", None), getattr(tokenizer, "special_tokens_map", None), encoded)
    return f"tokenizer:{hashlib.sha256(repr(content).encode()).hexdigest()}"
