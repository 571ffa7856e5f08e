"""The Hub: cards made from measurements, publishing that cannot lose work, loading what the card promises.

For trainers and scripts:

- `CalibrationCardData`, `DatasetReference`, `Evaluation`: what was measured and set.
- `render_card(data, existing=None)`, `write_card(folder, data)`: the model card, new or updated.
- `save_calibration_metadata(folder, ...)`: the prompt format, the base model's revision and the calibrator.
- `publish_adapter(folder, repo_id, ...)`, `publish_metric(name, namespace=...)`: one commit each.
- `load(name)`: model, tokenizer, prompt format and calibrator together; `ensemble([...])`: adapters on one base model.

Nothing here imports torch before a model is loaded.
"""

import importlib
from typing import TYPE_CHECKING

# Where each public name lives; imported when it is first used.
_MODULES = {
    "calibrated_model": ("Answer", "CalibratedModel", "CalibrationWarning"),
    "calibration_metadata": (
        "CalibrationMetadata",
        "loaded_revision",
        "read_calibration_metadata",
        "save_calibration_metadata",
    ),
    "card": ("merge_cards", "render_card", "write_card"),
    "card_data": ("CalibrationCardData", "DatasetReference", "Evaluation"),
    "checkpoints": ("publish_checkpoint",),
    "dataset_references": ("dataset_reference",),
    "demo": ("publish_demo",),
    "errors": (
        "CardConflictError",
        "HubError",
        "InterruptedPublicationError",
        "InvalidFolderError",
        "InvalidNamespaceError",
        "MissingModelError",
        "MissingTokenError",
        "NotYourRepositoryError",
        "PrivateInformationError",
        "RepositoryChangedError",
        "RepositoryExistsError",
        "UnsafeRepositoryError",
        "VerificationError",
    ),
    "ensembles": ("ensemble",),
    "loading": ("load",),
    "publish": ("publish_adapter", "save_published_card"),
    "spaces": ("metric_names", "metric_path", "publish_metric", "publish_metrics"),
    "transfer": ("Publication", "PublishedFile"),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Answer",
    "CalibratedModel",
    "CalibrationCardData",
    "CalibrationMetadata",
    "CalibrationWarning",
    "CardConflictError",
    "DatasetReference",
    "Evaluation",
    "HubError",
    "InterruptedPublicationError",
    "InvalidFolderError",
    "InvalidNamespaceError",
    "MissingModelError",
    "MissingTokenError",
    "NotYourRepositoryError",
    "PrivateInformationError",
    "Publication",
    "PublishedFile",
    "RepositoryChangedError",
    "RepositoryExistsError",
    "UnsafeRepositoryError",
    "VerificationError",
    "dataset_reference",
    "ensemble",
    "load",
    "loaded_revision",
    "merge_cards",
    "metric_names",
    "metric_path",
    "publish_adapter",
    "publish_checkpoint",
    "publish_demo",
    "publish_metric",
    "publish_metrics",
    "read_calibration_metadata",
    "render_card",
    "save_calibration_metadata",
    "save_published_card",
    "write_card",
]

if TYPE_CHECKING:
    from .calibrated_model import Answer, CalibratedModel, CalibrationWarning
    from .calibration_metadata import (
        CalibrationMetadata,
        loaded_revision,
        read_calibration_metadata,
        save_calibration_metadata,
    )
    from .card import merge_cards, render_card, write_card
    from .card_data import CalibrationCardData, DatasetReference, Evaluation
    from .checkpoints import publish_checkpoint
    from .dataset_references import dataset_reference
    from .demo import publish_demo
    from .ensembles import ensemble
    from .errors import (
        CardConflictError,
        HubError,
        InterruptedPublicationError,
        InvalidFolderError,
        InvalidNamespaceError,
        MissingModelError,
        MissingTokenError,
        NotYourRepositoryError,
        PrivateInformationError,
        RepositoryChangedError,
        RepositoryExistsError,
        UnsafeRepositoryError,
        VerificationError,
    )
    from .loading import load
    from .publish import publish_adapter, save_published_card
    from .spaces import metric_names, metric_path, publish_metric, publish_metrics
    from .transfer import Publication, PublishedFile


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
