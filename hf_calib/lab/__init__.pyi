from .arguments import (
    adapter_config as adapter_config,
    alignment_arguments as alignment_arguments,
)
from .bench import (
    Bench as Bench,
    make_bench as make_bench,
    plain_dpo as plain_dpo,
)
from .corpus import (
    Corpus as Corpus,
    make_corpus as make_corpus,
)
from .data import (
    LabData as LabData,
    sample_data as sample_data,
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
    AlignmentSettings as AlignmentSettings,
    CorpusSettings as CorpusSettings,
    LabPreset as LabPreset,
    ModelSettings as ModelSettings,
    PRESETS as PRESETS,
    PreferenceSettings as PreferenceSettings,
    PretrainingSettings as PretrainingSettings,
)
from .pretraining import (
    load_pretrained as load_pretrained,
    make_world as make_world,
    pretrain as pretrain,
    pretrained_folder as pretrained_folder,
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
