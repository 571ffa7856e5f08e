from .asking import (
    Asking as Asking,
)
from .backend import (
    Generation as Generation,
    OptionScores as OptionScores,
    ServerError as ServerError,
)
from .debiased import (
    BatchCalibrated as BatchCalibrated,
    ContentFreeLetters as ContentFreeLetters,
    PriDe as PriDe,
    TextsOverPrior as TextsOverPrior,
)
from .decisions import (
    Decided as Decided,
    LocalDecisions as LocalDecisions,
)
from .elicited import (
    PTrue as PTrue,
    SampleConsistency as SampleConsistency,
    StatedConfidence as StatedConfidence,
)
from .forward import (
    ForwardArguments as ForwardArguments,
    NonFiniteLogitsError as NonFiniteLogitsError,
    answer_logits as answer_logits,
    option_log_probabilities as option_log_probabilities,
)
from .journal import (
    Journal as Journal,
)
from .local import (
    LocalModel as LocalModel,
    predict as predict,
)
from .methods import (
    ConfidenceMethod as ConfidenceMethod,
    Marginalized as Marginalized,
    OptionLetters as OptionLetters,
    OptionTexts as OptionTexts,
)
from .predictions import (
    Predictions as Predictions,
)
from .registry import (
    Way as Way,
    confidence_method as confidence_method,
    ways as ways,
)
from .served import (
    ServedModel as ServedModel,
)
from .served_decisions import (
    ServedDecisions as ServedDecisions,
)
from .stated_levels import (
    StatedLevels as StatedLevels,
)
