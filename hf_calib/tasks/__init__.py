"""What is asked: multiple-choice questions, where they come from, and how they are put to a model."""

from .columns import parse_columns
from .encoding import EncodedQuestion, EncodedQuestions, encode_questions, maximum_length
from .few_shot import FewShotFormat
from .layouts import is_question_layout
from .lm_eval import write_lm_eval_task
from .loading import as_questions, load_questions
from .permuting import cyclic_orders, permute_options, random_orders
from .prompt_files import prompt_format_of, wordings_of
from .prompts import PromptFormat
from .questions import LETTERS, Question, QuestionError, handle_identical_choices, require_answers
from .reading import QuestionList

__all__ = [
    "LETTERS",
    "EncodedQuestion",
    "EncodedQuestions",
    "FewShotFormat",
    "PromptFormat",
    "Question",
    "QuestionBatch",
    "QuestionCollator",
    "QuestionError",
    "QuestionList",
    "as_questions",
    "cyclic_orders",
    "encode_questions",
    "handle_identical_choices",
    "is_question_layout",
    "load_questions",
    "maximum_length",
    "parse_columns",
    "permute_options",
    "prompt_format_of",
    "random_orders",
    "require_answers",
    "wordings_of",
    "write_lm_eval_task",
]


def __getattr__(name: str):
    # The collator needs torch, which is slow to import and which reading a dataset doesn't need.
    if name in ("QuestionBatch", "QuestionCollator"):
        from . import collator

        return getattr(collator, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
