"""A question's context: shown by every format and way to ask, and nowhere where a question has none."""

import json
from dataclasses import replace

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.confidence.elicited import about_answer
from hf_calib.tasks import (
    FewShotFormat,
    PromptFormat,
    Question,
    QuestionError,
    as_questions,
    permute_options,
    write_lm_eval_task,
)
from hf_calib.tasks.free_form import FreeFormQuestion, load_free_form_questions

STORY = "Ann gave Bob a pear.\n\nBob ate it."
ASKED = Question("Who ate?", ("Ann", "Bob"), 1, context=f" {STORY}\n")
EXAMPLE = Question("Who slept?", ("Cleo", "Dan"), 0, context="Cleo slept.")
LINES = {"context": "Passage: {context}", "question": "Q: {question}", "choice": "({letter}) {choice}"}

# Of letters alone, so that no part is found within another or within the format's own words.
words = st.text("qwxzj", min_size=6, max_size=12)


@st.composite
def asked_questions(draw):
    """Return a question and an example, all of whose texts differ."""
    texts = draw(st.lists(words, min_size=8, max_size=12, unique=True))
    texts = [f"<{text}>" for text in texts]
    asked = Question(texts[0], tuple(texts[5:]), 0, context=draw(st.sampled_from([None, texts[1]])))
    example = Question(texts[2], (texts[3], "[no]"), 0, context=draw(st.sampled_from([None, texts[4]])))
    return asked, example


def shown(question: Question) -> list[str]:
    return [text for text in (question.context, question.question, *question.choices) if text is not None]


formats = st.sampled_from([PromptFormat(), PromptFormat(**LINES, header="On {subject}:", separator="\n\n")])


def test_the_context_stands_before_the_question():
    assert PromptFormat().render(ASKED) == f"{STORY}\nQuestion: Who ate?\nA. Ann\nB. Bob\nAnswer:"
    assert PromptFormat(**LINES).render(ASKED) == f"Passage: {STORY}\nQ: Who ate?\n(A) Ann\n(B) Bob\nAnswer:"
    assert PromptFormat(header="Read.").render(ASKED, options=False) == f"Read.\n{STORY}\nQuestion: Who ate?\nAnswer:"
    assert PromptFormat(chat=True).messages(ASKED, options=False) == [
        {"role": "user", "content": f"{STORY}\nQuestion: Who ate?"}
    ]


def test_without_context_the_line_is_left_out():
    asked = replace(ASKED, context=None)
    assert PromptFormat(**LINES).render(asked) == "Q: Who ate?\n(A) Ann\n(B) Bob\nAnswer:"


def test_a_context_line_that_cannot_be_filled():
    with pytest.raises(ValueError, match=r"prompt's context line 'Passage:' lacks \{context\}"):
        PromptFormat(context="Passage:")
    with pytest.raises(ValueError, match=r"context line .* has \{subject\}, which nothing fills"):
        PromptFormat(context="{context} on {subject}")
    with pytest.raises(ValueError, match=r"prompt's question line .* has \{context\}, which nothing fills"):
        PromptFormat(question="{context} {question}")


@given(asked_questions(), formats, st.booleans(), st.booleans())
def test_every_format_shows_each_text_of_the_question_once(drawn, prompt_format, chat, few_shot):
    asked, example = drawn
    prompt_format = replace(prompt_format, chat=chat)
    if few_shot:
        prompt_format = FewShotFormat.choose([example], 1, prompt_format=prompt_format)
    for options in (True, False):
        if chat:
            text = "\n".join(own["content"] for own in prompt_format.messages(asked, options=options))
        else:
            text = prompt_format.render(asked, options=options)
        for own in (asked, example) if few_shot else (asked,):
            expected = shown(own) if options else shown(own)[: -len(own.choices)]
            assert [text.count(part) for part in expected] == [1] * len(expected)


@given(asked_questions(), st.randoms())
def test_options_in_another_order_leave_the_context_and_the_rest_as_they_are(drawn, random):
    asked, _ = drawn
    order = list(range(len(asked.choices)))
    random.shuffle(order)
    prompt_format = PromptFormat(choice="{choice}{letter}")
    lines = prompt_format.render(asked).splitlines()
    permuted = prompt_format.render(permute_options(asked, order)).splitlines()
    start = len(lines) - 1 - len(order)
    assert permuted[:start] == lines[:start]
    assert [line[:-1] for line in permuted[start:-1]] == [lines[start + i][:-1] for i in order]


def test_each_example_has_its_own_context():
    shots = FewShotFormat.choose([EXAMPLE], 1)
    assert shots.render(ASKED) == (
        "Cleo slept.\nQuestion: Who slept?\nA. Cleo\nB. Dan\nAnswer: A\n\n"
        f"{STORY}\nQuestion: Who ate?\nA. Ann\nB. Bob\nAnswer:"
    )
    chat = FewShotFormat.choose([EXAMPLE], 1, prompt_format=PromptFormat(chat=True))
    contents = [message["content"] for message in chat.messages(ASKED)]
    assert contents[0].startswith("Cleo slept.\nQuestion: Who slept?")
    assert contents[-1].startswith(f"{STORY}\nQuestion: Who ate?")


def test_a_format_with_a_context_line_survives_a_file():
    prompt_format = PromptFormat(**LINES)
    assert PromptFormat.from_dict(json.loads(json.dumps(prompt_format.to_dict()))) == prompt_format
    older = {name: value for name, value in prompt_format.to_dict().items() if name != "context"}
    assert PromptFormat.from_dict(older).context == "{context}"


def test_a_question_about_an_answer_keeps_the_context():
    assert about_answer(ASKED, 1).context == ASKED.context


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("choices", [b"a", b"b"], "choice A is b'a'"), ("context", b"Once", "found the bytes b'Once'; expected a text")],
)
def test_bytes_are_not_taken_for_text(column, value, message):
    row = {"question": "Who?", "choices": ["a", "b"], "answer": 0, column: value}
    with pytest.raises(QuestionError, match=f"row 0: column '{column}': {message}"):
        as_questions(Dataset.from_list([row]))


def test_free_form_questions_with_a_context(tmp_path):
    path = tmp_path / "asked.jsonl"
    rows = [
        {"question": "Who ate?", "answer": "Bob", "context": STORY},
        {"question": "Who slept?", "answer": "Cleo", "context": " "},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    first, second = load_free_form_questions(path)
    assert (first.context, second.context) == (STORY, None)
    assert PromptFormat().render(first, options=False) == f"{STORY}\nQuestion: Who ate?\nAnswer:"
    assert PromptFormat().render(second, options=False) == "Question: Who slept?\nAnswer:"
    with pytest.raises(QuestionError, match=r"the context is \['a'\]; it must be a text that is not empty, or None"):
        FreeFormQuestion("Who?", context=["a"])


def test_the_harness_gets_the_context_in_its_prompts(tmp_path):
    write_lm_eval_task([ASKED, EXAMPLE], tmp_path, "story")
    rows = [json.loads(line) for line in (tmp_path / "story.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["prompt"] for row in rows] == [PromptFormat().render(ASKED), PromptFormat().render(EXAMPLE)]
    assert rows[1]["context"] == "Cleo slept."
