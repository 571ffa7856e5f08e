from .collator import (
    QuestionBatch as QuestionBatch,
    QuestionCollator as QuestionCollator,
)
from .columns import (
    parse_columns as parse_columns,
)
from .decisions import (
    Case as Case,
    Decision as Decision,
    TypedDecisions as TypedDecisions,
)
from .drawing import (
    QuestionList as QuestionList,
)
from .encoding import (
    EncodedQuestion as EncodedQuestion,
    EncodedQuestions as EncodedQuestions,
    encode_questions as encode_questions,
    maximum_length as maximum_length,
)
from .few_shot import (
    FewShotFormat as FewShotFormat,
)
from .layouts import (
    is_question_layout as is_question_layout,
)
from .lm_eval import (
    write_lm_eval_task as write_lm_eval_task,
)
from .loading import (
    as_questions as as_questions,
    load_questions as load_questions,
)
from .permuting import (
    cyclic_orders as cyclic_orders,
    other_orders as other_orders,
    permute_options as permute_options,
    random_orders as random_orders,
)
from .prompt_files import (
    prompt_format_of as prompt_format_of,
    wordings_of as wordings_of,
)
from .prompts import (
    PromptFormat as PromptFormat,
)
from .questions import (
    LETTERS as LETTERS,
    DecisionQuestion as DecisionQuestion,
    Question as Question,
    QuestionError as QuestionError,
    handle_identical_choices as handle_identical_choices,
    require_answers as require_answers,
)
