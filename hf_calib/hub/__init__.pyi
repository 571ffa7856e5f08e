from .calibrated_model import (
    Answer as Answer,
    CalibratedModel as CalibratedModel,
    CalibrationWarning as CalibrationWarning,
)
from .calibration_metadata import (
    CalibrationMetadata as CalibrationMetadata,
    add_calibrator as add_calibrator,
    loaded_revision as loaded_revision,
    read_calibration_metadata as read_calibration_metadata,
    save_calibration_metadata as save_calibration_metadata,
)
from .card import (
    merge_cards as merge_cards,
    render_card as render_card,
    write_card as write_card,
)
from .card_data import (
    CalibrationCardData as CalibrationCardData,
    DatasetReference as DatasetReference,
    Evaluation as Evaluation,
)
from .checkpoints import (
    publish_checkpoint as publish_checkpoint,
)
from .dataset_references import (
    dataset_reference as dataset_reference,
)
from .demo import (
    publish_demo as publish_demo,
)
from .decisions import (
    write_decision_results as write_decision_results,
)
from .ensembles import (
    ensemble as ensemble,
)
from .errors import (
    CardConflictError as CardConflictError,
    HubError as HubError,
    InterruptedPublicationError as InterruptedPublicationError,
    InvalidFolderError as InvalidFolderError,
    InvalidNamespaceError as InvalidNamespaceError,
    MissingModelError as MissingModelError,
    MissingTokenError as MissingTokenError,
    NotYourRepositoryError as NotYourRepositoryError,
    PrivateInformationError as PrivateInformationError,
    RepositoryChangedError as RepositoryChangedError,
    RepositoryExistsError as RepositoryExistsError,
    UnsafeRepositoryError as UnsafeRepositoryError,
    VerificationError as VerificationError,
)
from .loading import (
    load as load,
)
from .publish import (
    publish_adapter as publish_adapter,
    save_published_card as save_published_card,
)
from .spaces import (
    metric_names as metric_names,
    metric_path as metric_path,
    publish_metric as publish_metric,
    publish_metrics as publish_metrics,
)
from .transfer import (
    Publication as Publication,
    PublishedFile as PublishedFile,
)
