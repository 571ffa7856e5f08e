from .arguments import (
    adapter_config as adapter_config,
    alignment_arguments as alignment_arguments,
)
from .compared import (
    METHODS as METHODS,
    Method as Method,
)
from .corpus import (
    Corpus as Corpus,
    make_corpus as make_corpus,
)
from .data import (
    LabData as LabData,
    sample_data as sample_data,
)
from .evaluation import (
    evaluate as evaluate,
)
from .model import (
    make_model as make_model,
)
from .names import (
    DOMAINS as DOMAINS,
    Relation as Relation,
)
from .preferences import (
    sample_pairs as sample_pairs,
)
from .presets import (
    EXPERIMENTS as EXPERIMENTS,
    PRESETS as PRESETS,
    AlignmentSettings as AlignmentSettings,
    CorpusSettings as CorpusSettings,
    LabPreset as LabPreset,
    ModelSettings as ModelSettings,
    PreferenceSettings as PreferenceSettings,
    PretrainingSettings as PretrainingSettings,
)
from .pretraining import (
    load_pretrained as load_pretrained,
    make_world as make_world,
    pretrain as pretrain,
    pretrained_folder as pretrained_folder,
)
from .report import (
    write_report as write_report,
)
from .run import (
    run_experiment as run_experiment,
)
from .sweep_report import (
    write_sweep_report as write_sweep_report,
)
from .sweep_run import (
    run_sweep as run_sweep,
)
from .sweeps import (
    SWEEPS as SWEEPS,
    Sweep as Sweep,
)
from .tokenizer import (
    make_tokenizer as make_tokenizer,
)
from .win_rate import (
    PreferenceTest as PreferenceTest,
)
from .world import (
    LabQuestions as LabQuestions,
    World as World,
)
