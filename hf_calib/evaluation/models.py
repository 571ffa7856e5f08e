"""Models to ask, given by name, loaded, or served."""

from __future__ import annotations

import atexit
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from .._suggestions import did_you_mean
from ..hub.local_paths import check_local_path
from .digests import adapters_in_use, folder_digests, tensors_digest, tokenizer_digest

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from ..calibrators.protocol import BaseCalibrator
    from ..confidence.backend import Backend
    from ..hub import CalibratedModel
    from ..tasks import PromptFormat
    from .settings import AskSettings

Model: TypeAlias = (
    "str | os.PathLike[str] | nn.Module | tuple[nn.Module, PreTrainedTokenizerBase] | CalibratedModel | Backend"
)
"""A Hub id, folder or `openai:http://host:port/v1`; a model loaded with its tokenizer; or a source of answers."""

# Prefix of a server's address.
SERVED = "openai:"
# A model's commit on the Hub, and that of the model under an adapter.
COMMITS = ("revision", "base_revision")


@dataclass(frozen=True)
class Processes:
    """The index of this process, and the number of processes."""

    index: int = 0
    count: int = 1
    local_index: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process writes and prints."""
        return self.index == 0


def this_process(device: str | None = None) -> Processes:
    """Join the processes that torchrun or `accelerate launch` started, if any.

    Parameters
    ----------
    device : str, optional
        The requested device; with "cpu" the processes communicate through gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    from accelerate import PartialState

    first = not PartialState._shared_state
    state = PartialState(cpu=device == "cpu")
    if first:
        atexit.register(state.destroy_process_group)
    return Processes(state.process_index, state.num_processes, state.local_process_index)


@dataclass(frozen=True)
class ModelSource:
    """A model that is opened when it is first asked.

    Attributes
    ----------
    name : str
        Its name in results.
    identity : dict
        Its identity as JSON values: `model`, `model_name`, `adapter`, the digests of its files, `weights` (of the
        adapter, if there is one), `base_weights` and `configuration`, and the commits on the Hub, `revision` and
        `base_revision`.
    open : callable
        Returns the source of answers; takes whether it needs a chat template, so that a model without one is rejected
        before it is loaded.
    is_local : bool
        Whether it is a `LocalModel`, which has hidden states.
    prompt_format : PromptFormat, optional
        The prompt that it was calibrated with.
    read_by : str, optional
        What confidence was read off in its calibration, a name of `hf_calib.confidence.ways()`.
    calibrator : BaseCalibrator, optional
        The calibrator that came with it.
    """

    name: str
    identity: dict[str, Any]
    open: Callable[[bool], Backend]
    is_local: bool = True
    prompt_format: PromptFormat | None = None
    read_by: str | None = None
    calibrator: BaseCalibrator | None = None

    _opened: list[Backend] = field(default_factory=list, init=False, repr=False)

    @property
    def published(self) -> dict[str, Any]:
        """What identifies it without a path of this machine: its id and commits on the Hub, or its weights' digest."""
        weights = self.identity["weights"]
        commits = {name: self.identity[name] for name in COMMITS if name in self.identity}
        return {"name": self.identity["model"] if weights is None else self.name, "weights": weights, **commits}

    def opened(self, chat: bool = False) -> Backend:
        """Return the source of answers, opened once; `chat` says whether it needs a chat template."""
        if not self._opened:
            self._opened.append(self.open(chat))
        return self._opened[0]


def model_source(model: Model, settings: AskSettings, where: Processes) -> ModelSource:
    """Return a model to ask.

    Raises
    ------
    ValueError
        If an option does not apply to this kind of model, or a required one is missing.
    TypeError
        If it is not a model.
    """
    if isinstance(model, str | os.PathLike):
        if str(model).startswith(SERVED):
            return _served(str(model), settings)
        return _named(str(model), settings, where)
    from ..hub import CalibratedModel

    if isinstance(model, CalibratedModel):
        refuse(settings, "a loaded CalibratedModel", "tokenizer", *_LOADING)
        own = {"prompt_format": model.prompt_format, "read_by": model.read_by, "calibrator": model.calibrator}
        return _loaded(model.model, model.tokenizer, settings, model.name, model.revision, **own)
    if hasattr(model, "score_letters"):
        refuse(settings, "a model that can be asked already", "tokenizer", *_LOADING, "max_length", "drop_too_long")
        return _asked_already(model)
    refuse(settings, "a loaded model", *_LOADING)
    if isinstance(model, tuple) and len(model) == 2:
        refuse(settings, "a pair of model and tokenizer", "tokenizer")
        return _loaded(*model, settings)
    if not hasattr(model, "forward"):
        raise TypeError(
            "model: give a Hub id, a folder, openai:http://host:port/v1, (model, tokenizer), or a source of answers "
            f"such as ServedModel; got {type(model).__name__}"
        )
    if settings.tokenizer is None:
        raise ValueError("tokenizer: a loaded model needs it; pass it as tokenizer=..., or give (model, tokenizer)")
    return _loaded(model, settings.tokenizer, settings)


def base_source(model: Model | None, settings: AskSettings) -> ModelSource | None:
    """Return the base model that scores another model's answers, loaded like that model; None if there is none.

    Raises
    ------
    ValueError, TypeError
        If it is not a model, or a served one, which does not tell the probabilities of given tokens.
    """
    if model is None:
        return None
    own = ["max_length", "drop_too_long", "progress"]
    if isinstance(model, str | os.PathLike):
        own += ["dtype", "trust_remote_code", "device"]
    try:
        chosen = type(settings)(**{name: getattr(settings, name) for name in own})
        source = None if str(model).startswith(SERVED) else model_source(model, chosen, this_process(settings.device))
    except (ValueError, TypeError) as error:
        raise type(error)(f"base_model: {error}") from error
    if source is None or not source.is_local:
        raise ValueError(
            "base_model: a server does not return the probabilities of given tokens; give a folder, a Hub id, or "
            "(model, tokenizer)"
        )
    return source


_LOADING = ("adapter", "model_name", "concurrency", "dtype", "trust_remote_code", "device")


def refuse(settings: AskSettings, what: str, *names: str) -> None:
    """Raise a ValueError if one of the options differs from its default."""
    defaults = {field.name: field.default for field in fields(settings)}
    given = [name for name in names if getattr(settings, name) != defaults[name]]
    if given:
        raise ValueError(f"{', '.join(given)}: does not apply to {what}; leave it out")


def _served(address: str, settings: AskSettings) -> ModelSource:
    from ..confidence import ServedModel

    needless = ("tokenizer", "adapter", "dtype", "trust_remote_code", "device", "max_length", "drop_too_long")
    refuse(settings, "a served model", *needless)
    name = settings.model_name
    if name is None:
        raise ValueError(
            "model_name: a served model needs its name on the server; pass it (--model-name), or pass a "
            "hf_calib.confidence.ServedModel, which has one"
        )
    identity = _identity(address, model_name=name)
    return ModelSource(
        name,
        identity,
        lambda chat: ServedModel(address.removeprefix(SERVED), name, concurrency=settings.concurrency),
        is_local=False,
    )


def _named(model: str, settings: AskSettings, where: Processes) -> ModelSource:
    refuse(settings, "a model given by name, which brings its own", "tokenizer")
    adapter = None if settings.adapter is None else str(settings.adapter)
    for name in (model, adapter):
        if name is not None:
            check_local_path(name)
    if "torch" not in sys.modules:
        settings.say("Starting PyTorch")
    device: Any = _device(settings.device, where)

    def open_it(chat: bool) -> Backend:
        from ..confidence import LocalModel
        from ..hub import CalibrationWarning
        from ..hub.loading import load_parts

        with warnings.catch_warnings():
            # Any model can be measured, so it need not say what it was calibrated with.
            warnings.simplefilter("ignore", CalibrationWarning)
            # By commit, since the Hub may have a new one by now.
            revision, base_revision = (commits.get(name) for name in COMMITS)
            options = {**where_from, "dtype": settings.dtype}
            loaded = load_parts(adapter or model, revision, base, base_revision, None, options, chat=chat)
        loaded.model.to(device)
        return LocalModel(loaded.model, loaded.tokenizer, **_lengths(settings))

    from ..hub.loading import calibrated_with

    where_from = {"token": None, "cache_dir": None, "trust_remote_code": settings.trust_remote_code}
    own: dict[str, Any] = {}
    base = None if adapter is None else model
    metadata, calibrator, commits = calibrated_with(adapter or model, base, where_from)
    if metadata is not None:
        own = {"prompt_format": metadata.prompt_format, "read_by": metadata.confidence, "calibrator": calibrator}
    digests = folder_digests(adapter or model, base)
    identity = _identity(model, model_name=settings.model_name, adapter=adapter, **digests, **commits)
    return ModelSource(settings.model_name or Path(adapter or model).name, identity, open_it, **own)


def _loaded(
    model: Any, tokenizer: Any, settings: AskSettings, name: str | None = None, revision: str | None = None, **own: Any
) -> ModelSource:
    if not hasattr(model, "forward") or not hasattr(tokenizer, "get_vocab"):
        given = f"{type(model).__name__} and {type(tokenizer).__name__}"
        raise TypeError(f"model: expected a loaded model and its loaded tokenizer, but got {given}")

    def open_it(chat: bool) -> Backend:
        from ..confidence import LocalModel

        return LocalModel(model, tokenizer, **_lengths(settings))

    return _with_weights(model, tokenizer, open_it, name, revision, **own)


def _asked_already(backend: Any) -> ModelSource:
    model = getattr(backend, "model", None)
    if isinstance(model, str):  # a served model's name on its server
        address = SERVED + str(getattr(backend, "base_url", ""))
        return ModelSource(model, _identity(address, model_name=model), lambda chat: backend, is_local=False)
    if model is None:
        name = type(backend).__name__
        return ModelSource(name, _identity(name), lambda chat: backend, is_local=False)
    return _with_weights(model, getattr(backend, "tokenizer", None), lambda chat: backend)


def _with_weights(
    model: Any, tokenizer: Any, open_it: Callable[[bool], Backend], loaded_from: str | None = None,
    revision: str | None = None, **own: Any,
) -> ModelSource:  # fmt: skip
    configured = loaded_from or getattr(getattr(model, "config", None), "name_or_path", "") or None
    if loaded_from is None and not adapters_in_use(model):  # with one, the configuration names the base model
        loaded_from = configured
    configuration = None if tokenizer is None else tokenizer_digest(tokenizer)
    identity = _identity(loaded_from, weights=tensors_digest(model), configuration=configuration, revision=revision)
    name = Path(configured).name if configured else type(model).__name__
    return ModelSource(name, identity, open_it, **own)


def _identity(
    model: str | None, *, model_name: str | None = None, adapter: str | None = None, weights: str | None = None,
    base_weights: str | None = None, configuration: str | None = None, **commits: str | None,
) -> dict[str, Any]:  # fmt: skip
    return {
        "model": model,
        "model_name": model_name,
        "adapter": adapter,
        "weights": weights,
        "base_weights": base_weights,
        "configuration": configuration,
        **{name: commit for name, commit in commits.items() if commit is not None},
    }


def _device(asked: str | None, where: Processes) -> str:
    """Return the device to put a model on.

    Raises
    ------
    ValueError
        If there is no such device, or PyTorch does not support it here.
    """
    import torch

    gpus = [name for name in ("cuda", "mps") if getattr(torch, name).is_available()]
    if asked in (None, "gpu"):
        if asked == "gpu" and not gpus:
            raise ValueError("device: PyTorch finds no GPU on this machine; pass cpu, or leave it out")
        asked = gpus[0] if gpus else "cpu"
    kind, _, index = asked.partition(":")
    if kind not in _DEVICES or (index and not index.isdigit()):
        raise ValueError(
            f"device: there is no device {asked!r}; choose from gpu, {', '.join(_DEVICES)}, or one GPU of several, "
            f"such as cuda:1.{did_you_mean(kind, ('gpu', *_DEVICES))}"
        )
    if kind != "cpu" and kind not in gpus:
        raise ValueError(f"device: PyTorch finds no {kind} device on this machine; pass cpu, or leave it out")
    if kind == "cuda" and int(index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device: there is no {asked}; this machine's GPUs are cuda:0 to cuda:{torch.cuda.device_count() - 1}"
        )
    return f"cuda:{where.local_index}" if asked == "cuda" else asked


_DEVICES = ("cuda", "mps", "cpu")


def _lengths(settings: AskSettings) -> dict[str, Any]:
    return {"max_length": settings.max_length, "on_too_long": "drop" if settings.drop_too_long else "error"}
