"""The layouts of published multiple-choice datasets.

A layout is an entry of `LAYOUTS`; most only name their columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .answers import GivenAnswer, is_missing
from .choices import parsed_cell, without_letters
from .columns import Columns, are_free_form, as_names, context_columns, listing, near_miss, suggestion
from .files import looks_like_row
from .questions import LETTERS, QuestionError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """The column names of one family of datasets.

    Parameters
    ----------
    question : str
        The question's column.
    choices : tuple of str
        The column with all choices, or one column per choice, of which those after the second may be absent.
    answer : tuple of str, default ("answerKey", "answer")
        Names of the answer's column, of which the first present one is used; it may be absent. If it is one of the
        choices' columns, that column holds the right choice, and the choices are shuffled.
    context : tuple of str, optional
        Columns with the text that the question is about.
    other_contexts : bool, default True
        Whether columns with a usual name (`columns.CONTEXTS`) are read as context too.
    subject : tuple of str, default ("subject",)
        Names of the subject's column, of which the first present one is used; it may be absent.
    type : tuple of str, default ("type",)
        Name of the column with the kind of question; it may be absent.
    ignored : tuple of str, optional
        Columns that are left out on purpose: explanations, parts of used columns, other forms of the answer.
    requires : tuple of str, optional
        The columns by which the layout is recognized; by default those of the question and of the first two choices.
    base : {0, 1}, optional
        The first choice's number in the answers; by default inferred from the column's values.
    prepare : callable, optional
        Turns a row into the rows that the other fields describe.
    is_first_right : bool, default False
        Whether the right choice has the same position in each row, so that the choices must be shuffled.
    """

    question: str = "question"
    choices: tuple[str, ...] = ("choices",)
    answer: tuple[str, ...] = ("answerKey", "answer")
    context: tuple[str, ...] = ()
    other_contexts: bool = True
    subject: tuple[str, ...] = ("subject",)
    type: tuple[str, ...] = ("type",)
    ignored: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    base: int | None = None
    prepare: Callable[[Row], Iterable[Row]] | None = None
    is_first_right: bool = False

    def fits(self, columns: Iterable[str]) -> bool:
        """Whether a dataset with these columns has this layout."""
        return set(self.requires or (self.question, *self.choices[:2])) <= set(columns)

    def answer_column(self, columns: Iterable[str]) -> str | None:
        """Return the column that holds the answer, if there is one."""
        return next((name for name in self.answer if name in columns), None)

    def choice_columns(self, columns: Iterable[str]) -> list[str]:
        """Return the columns that hold the choices."""
        return [name for name in self.choices if name in columns]

    def context_columns(self, columns: Iterable[str]) -> list[str]:
        """Return the columns of the context, in the order in which they are shown."""
        columns = list(columns)
        taken = {self.question, *self.choices, *self.answer, *self.ignored, *self.context}
        others = context_columns(columns) if self.other_contexts else []
        return [name for name in self.context if name in columns] + [name for name in others if name not in taken]

    def used(self, columns: Iterable[str]) -> set[str]:
        """Return the columns that are read or left out on purpose."""
        return {
            self.question,
            *self.choices,
            *self.answer,
            *self.context_columns(columns),
            *self.subject,
            *self.type,
            *self.ignored,
            *self.requires,
        }


# Preparing rows


def _nested(row: Row) -> list[Row]:
    """Unpack the rows of MMLU's auxiliary_train, which are nested in a column."""
    question = parsed_cell(row["train"])
    if not isinstance(question, Mapping):
        raise QuestionError(f"column 'train': found {question!r:.80}; expected a question with its own columns")
    return [question]


_ARTICLE_ANSWERS = ("gold_label", "gold_labels", "answers", "answer")


def _of_article(row: Row) -> Iterator[Row]:
    """Unpack the articles of QuALITY and of RACE's files, with a list of questions or lists of their parts each."""
    row = {name: cell if name == "article" else parsed_cell(cell) for name, cell in row.items()}
    questions = row["questions"]
    if isinstance(questions, Mapping):  # a list of mappings, as datasets stores it
        questions = [dict(zip(questions, values, strict=True)) for values in zip(*questions.values(), strict=True)]
    for place, question in enumerate(questions):
        if isinstance(question, Mapping):
            yield {"article": row["article"], **question}
            continue
        parts = {"question": question, "options": row["options"][place]}
        labels = {name: row[name][place] for name in _ARTICLE_ANSWERS if row.get(name) is not None}
        yield {"article": row["article"], **parts, **labels}


def _redux(row: Row) -> list[Row]:
    """Use the answers of MMLU-Redux that its annotators corrected."""
    error, corrected = row["error_type"], row.get("correct_answer")
    if error == "wrong_groundtruth" and not is_missing(corrected):
        given = GivenAnswer(str(corrected), tuple(map(str, parsed_cell(row["choices"]))))
        readings = {index for index in (given.at(0), given.by_text) if index is not None}
        if len(readings) == 1:
            return [{**row, "answer": readings.pop()}]
    if error in ("wrong_groundtruth", "no_correct_answer", "multiple_correct_answers"):
        raise QuestionError(
            f"column 'error_type': {error!r}, and 'correct_answer' is {corrected!r}, not one of the choices, so the "
            "question has no right answer"
        )
    return [row]


def _activity(row: Row) -> list[Row]:
    """Begin HellaSwag's texts with their activity, as in its own evaluation."""
    return [{**row, "ctx": f"{row['activity_label']}: {row['ctx']}"}]


def _two_sentences(row: Row) -> list[Row]:
    return [{**row, "sent1": " ".join(str(row[name]) for name in ("sent1", "sent2") if not is_missing(row[name]))}]


def _yes_no(row: Row) -> list[Row]:
    plain = dict(row)
    for name in ("answer", "label"):
        if name in row and not is_missing(row[name]):
            words = {"true": 1, "yes": 1, "1": 1, "false": 0, "no": 0, "0": 0, "-1": -1}
            plain[name] = words.get(str(row[name]).strip().lower())
            if plain[name] is None:
                raise QuestionError(
                    f"column {name!r}: {row[name]!r:.80} is neither true nor false, which a question with a passage "
                    "and without choices has; name the choices' columns with --columns choices=..."
                )
    return [{**plain, "choices": ["no", "yes"]}]


def _one_target(row: Row) -> list[Row]:
    """Read TruthfulQA's targets with a single right answer."""
    targets = parsed_cell(row["mc1_targets"])
    if not isinstance(targets, Mapping):
        raise QuestionError(f"column 'mc1_targets': found {targets!r:.80}; expected an object with choices and labels")
    if not {"choices", "labels"} <= set(targets):  # as in its first version
        targets = {"choices": list(targets), "labels": list(targets.values())}
    return [{**row, "mc1_targets": targets["choices"], "mc1_targets.labels": _only_one(targets["labels"])}]


def _scored(row: Row) -> list[Row]:
    """Read a BIG-bench task, without the choices that its input may list too."""
    targets, scores = (parsed_cell(row[f"multiple_choice_{name}"]) for name in ("targets", "scores"))
    choices = [str(choice).strip() for choice in targets]
    lines = str(row["inputs"]).splitlines()
    listed = [line for line in lines if re.match(r"\s*choice:", line)]
    text = row["inputs"]
    if sorted(line.split(":", 1)[1].strip() for line in listed) == sorted(choices):
        text = re.sub(r"\s*\n\s*A:\s*$", "", "\n".join(line for line in lines if line not in listed))
    answer = _only_one(scores)
    return [{**row, "inputs": text, "multiple_choice_scores": answer}]


def _only_one(labels: Sequence[Any]) -> int | None:
    right = [place for place, label in enumerate(labels) if label == 1]
    if len(right) > 1:
        raise QuestionError(f"{len(right)} of the choices are marked as right; a question has one right choice")
    return right[0] if right else None


def _unlisted(row: Row) -> list[Row]:
    """Read AGIEval in its evaluation form, without the choices that its query lists too."""
    query, *listed = re.split(r"Answer Choices:|选项：", str(row["query"]), maxsplit=1)
    if listed and all(str(choice).strip() in listed[0] for choice in without_letters(parsed_cell(row["choices"]))):
        return [{**row, "query": query.strip()}]
    return [row]


def _plausible(row: Row) -> list[Row]:
    """Write COPA's questions out in full."""
    asked = {"cause": "What was the cause of this?", "effect": "What happened as a result?"}
    return [{**row, "question": f"{row['premise']} {asked.get(row['question'], row['question'])}"}]


def _columns(name: str, marks: Iterable[object]) -> tuple[str, ...]:
    return tuple(name.format(mark) for mark in marks)


_EXPLANATIONS = ("explanation", "rationale", "cot_content", "solution", "lecture")

LAYOUTS = {
    "cais/mmlu:auxiliary_train": Layout(requires=("train",), base=0, prepare=_nested),
    "QuALITY, RACE's files": Layout(
        choices=("options",),
        answer=_ARTICLE_ANSWERS,
        ignored=("questions", "writer_label"),
        requires=("article", "questions"),
        base=1,
        prepare=_of_article,
    ),
    "edinburgh-dawg/mmlu-redux": Layout(
        answer=("answer",),
        ignored=("correct_answer", "potential_reason"),
        requires=("question", "choices", "answer", "error_type"),
        base=0,
        prepare=_redux,
    ),
    "Idavidrein/gpqa": Layout(
        "Question",
        ("Correct Answer", *_columns("Incorrect Answer {}", (1, 2, 3))),
        ("Correct Answer",),
        subject=("High-level domain",),
        ignored=("Explanation",),
    ),
    "allenai/sciq": Layout(
        choices=("correct_answer", *_columns("distractor{}", (1, 2, 3))), answer=("correct_answer",)
    ),
    "truthfulqa/truthful_qa": Layout(
        choices=("mc1_targets",),
        answer=("mc1_targets.labels",),
        ignored=("mc2_targets", "mc0_targets"),
        base=0,
        prepare=_one_target,
        is_first_right=True,
    ),
    "tasksource/bigbench": Layout(
        "inputs",
        ("multiple_choice_targets",),
        ("multiple_choice_scores",),
        ignored=("targets",),
        requires=("inputs", "multiple_choice_targets", "multiple_choice_scores"),
        base=0,
        prepare=_scored,
    ),
    "hails/agieval": Layout("query", ("choices",), ("gold",), base=0, prepare=_unlisted),
    "lucasmccabe/logiqa": Layout("query", ("options",), ("correct_option",), base=0),
    "baber/logiqa2": Layout(
        choices=("options",),
        answer=("answer",),
        context=("text",),
        ignored=("type",),
        requires=("text", "question", "options", "answer", "type"),
        base=0,
    ),
    "GBaker/MedQA, bigbio/med_qa": Layout(
        choices=("options",),
        answer=("answer_idx",),
        ignored=("answer", "meta_info", "metamap_phrases"),
        requires=("question", "options", "answer_idx"),
    ),
    "m-a-p/SuperGPQA": Layout(
        choices=("options",),
        answer=("answer_letter",),
        subject=("discipline",),
        ignored=("answer",),
        requires=("question", "options", "answer_letter"),
    ),
    "emozilla/quality": Layout(
        choices=("options",), answer=("answer",), requires=("article", "question", "options", "answer", "hard"), base=0
    ),
    "tasksource/QuALITY": Layout(
        choices=("options",), answer=("gold_label",), requires=("article", "question", "options", "gold_label"), base=1
    ),
    "deepmind/aqua_rat": Layout(
        choices=("options",), answer=("correct",), requires=("question", "options", "correct"), ignored=_EXPLANATIONS
    ),
    "allenai/math_qa": Layout(
        "Problem",
        ("options",),
        ("correct",),
        subject=("category",),
        ignored=("Rationale", "annotated_formula", "linear_formula"),
    ),
    "AGIEval, EleutherAI/logiqa": Layout(
        choices=("options",),
        answer=("label",),
        ignored=("other", *_EXPLANATIONS),
        requires=("question", "options", "label"),
    ),
    "TIGER-Lab/MMLU-Pro": Layout(
        choices=("options",),
        subject=("category",),
        ignored=("answer_index", "src", *_EXPLANATIONS),
        requires=("question", "options", "cot_content"),
    ),
    "li-lab/MMLU-ProX": Layout(
        choices=_columns("option_{}", range(10)), subject=("category",), ignored=("answer_index", "src", "cot_content")
    ),
    "ehovy/race": Layout(choices=("options",), ignored=("answer_index",)),
    "openlifescienceai/medmcqa": Layout(
        choices=_columns("op{}", "abcd"),
        answer=("cop", "answerKey", "answer"),
        subject=("subject_name",),
        ignored=("exp", "topic_name", "choice_type"),
        base=0,
    ),
    "Rowan/hellaswag": Layout(
        "ctx",
        ("endings",),
        ("label",),
        ignored=("activity_label", "ctx_a", "ctx_b"),
        requires=("ctx", "endings", "activity_label"),
        base=0,
        prepare=_activity,
    ),
    "allenai/swag, GBaker/MedQA-USMLE-4-options-hf": Layout(
        "sent1",
        _columns("ending{}", range(5)),
        ("label",),
        ignored=("sent2", "startphrase"),
        requires=("sent1", "sent2", "ending0", "ending1"),
        base=0,
        prepare=_two_sentences,
    ),
    "allenai/winogrande": Layout("sentence", _columns("option{}", (1, 2)), ("answer",), base=1),
    "ybisk/piqa": Layout("goal", _columns("sol{}", (1, 2)), ("label",), base=0),
    "super_glue:copa": Layout(
        choices=_columns("choice{}", (1, 2)),
        answer=("label",),
        ignored=("premise",),
        requires=("premise", "choice1", "choice2", "question"),
        base=0,
        prepare=_plausible,
    ),
    "allenai/social_i_qa": Layout(choices=_columns("answer{}", "ABC"), answer=("label",), base=1),
    "allenai/cosmos_qa": Layout(choices=_columns("answer{}", range(4)), answer=("label",), base=0),
    "facebook/belebele": Layout(choices=_columns("mc_answer{}", range(1, 5)), answer=("correct_answer_num",), base=1),
    "textmachinelab/quail": Layout(
        choices=("answers",),
        answer=("correct_answer_id",),
        ignored=("metadata", "question_type"),
        requires=("question", "answers", "correct_answer_id"),
        base=0,
    ),
    "reclor": Layout(
        choices=("answers",), answer=("label",), requires=("context", "question", "answers", "label"), base=0
    ),
    "head_qa": Layout("qtext", ("answers",), ("ra",), subject=("category",), ignored=("name",)),
    "dream": Layout(choices=("choice",), answer=("answer",), requires=("dialogue", "question", "choice")),
    "TAUR-Lab/MuSR": Layout(
        answer=("answer_index",),
        ignored=("answer_choice",),
        requires=("narrative", "question", "choices", "answer_index"),
        base=0,
    ),
    "derek-thomas/ScienceQA": Layout(
        answer=("answer",),
        context=("hint",),
        ignored=(*_EXPLANATIONS, "task", "grade", "skill", "image"),
        requires=("question", "choices", "hint", "lecture"),
        base=0,
    ),
    "MBZUAI/ArabicMMLU": Layout("Question", _columns("Option {}", range(1, 6)), ("Answer Key",), subject=("Subject",)),
    "CohereForAI/Global-MMLU, alexandrainst/m_mmlu": Layout(
        choices=_columns("option_{}", "abcdefghij"), ignored=("required_knowledge", "time_sensitive")
    ),
    "alexandrainst/m_mmlu": Layout("instruction", _columns("option_{}", "abcde"), ("answer", "answer_key")),
    "haonan-li/cmmlu, openai/MMMLU": Layout("Question", tuple(LETTERS), ("Answer",), subject=("Subject",)),
    "HAERAE-HUB/KMMLU": Layout(
        choices=tuple(LETTERS),
        answer=("answer",),
        subject=("Category",),
        requires=("question", "A", "B", "Human Accuracy"),
        base=1,
    ),
    "Kaggle LLM Science Exam": Layout("prompt", tuple(LETTERS)),
    "allenai/openbookqa": Layout("question_stem", context=("fact1",)),
    "cais/mmlu, allenai/ai2_arc, commonsense_qa, allenai/quartz": Layout(
        ignored=("question_concept", "input_formatted")
    ),
    "question, A, B, ...": Layout(choices=tuple(LETTERS)),
    # Without choices, so after all layouts with choices.
    "google/boolq": Layout(answer=("answer",), requires=("question", "passage", "answer"), base=0, prepare=_yes_no),
    "super_glue:boolq": Layout(answer=("label",), requires=("question", "passage", "label"), base=0, prepare=_yes_no),
}
"""By the datasets that use them; the first that fits is used."""


def is_question_layout(columns: Iterable[str]) -> bool:
    """Whether rows with these columns can be read as multiple-choice questions."""
    columns = list(columns)
    return any(layout.fits(columns) for layout in LAYOUTS.values())


def option_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns that hold the options of multiple-choice questions; empty if no layout fits."""
    columns = list(columns)
    found = (layout.choice_columns(columns) for layout in LAYOUTS.values() if layout.fits(columns))
    return next(found, [])


def layout_of(columns: Iterable[str], mapping: Columns | None = None) -> Layout:
    """Return the layout of a dataset with these columns.

    Parameters
    ----------
    columns : iterable of str
    mapping : mapping, optional
        The columns of some fields, instead of the layout's. If it has the question and the choices, no layout is
        needed.

    Raises
    ------
    QuestionError
        If none fits, or the subject's column seems to be misspelled; the message lists the columns found and the
        mapping to pass.
    """
    columns = list(columns)
    mapping = dict(mapping or {})
    given = {field: as_names(names) for field, names in mapping.items()}
    if {"question", "choices"} <= set(given):
        layout: Layout | None = Layout()
    else:
        # Mapped columns have the names that layouts use too; by its own name, one may still mark a layout.
        known = {*columns, *(field for field, names in given.items() if set(names[:1]) & set(columns))}
        layout = next((layout for layout in LAYOUTS.values() if layout.fits(known)), None)
    if layout is None:
        guess = suggestion(columns)
        if looks_like_row(columns):
            advice = "these look like a row, so the header line is missing; add one, such as question,A,B,C,D,answer"
        elif are_free_form(columns):
            advice = "pass --free-form exact if the questions have no options"
            advice += f", or {guess} if 'answers' holds the options" if "answers" in columns else ""
        elif {"state", "questions"} <= set(columns):
            advice = "these look like cases of typed decisions, which hf-calib measure --task typed-decisions reads"
        elif guess is not None:
            advice = f"pass {guess}"
        else:
            advice = (
                "name them with --columns question=...,choices=...,answer=... (where the right choice has a column of "
                "its own, choices=right+wrong,answer=right)"
            )
        raise QuestionError(
            f"no layout of multiple-choice questions fits the columns {listing(columns)}; {advice}. "
            "Expected: question, choices (a list) or A, B, C, ..., answer (index or letter; optional), context, "
            "subject and type (optional); or the layout of a known dataset, such as cais/mmlu"
        )
    if "subject" not in given and not set(layout.subject) & set(columns) and layout.subject:
        wrong = near_miss([column for column in columns if column not in layout.used(columns)], layout.subject)
        if wrong is not None:
            raise QuestionError(
                f"there is no column {' or '.join(map(repr, layout.subject))} among {listing(columns)} "
                f"({wrong!r}?); pass --columns subject={wrong}, or --columns subject= if it is something else"
            )
    if not given:
        return layout
    changes: dict[str, Any] = dict(given)
    if "question" in given:
        (changes["question"],) = given["question"]
    if "context" in given:
        changes["other_contexts"] = False
    if {"answer", "choices"} & set(given):
        changes |= {"base": None, "is_first_right": False}
    return replace(layout, **changes)
