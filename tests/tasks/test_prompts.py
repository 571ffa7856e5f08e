import json
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.tasks import LETTERS, PromptFormat, Question

QUESTION = Question("  Which is a fruit?\n", (" apple\n", "chair"), 0, "food_science")


def test_the_plain_prompt():
    assert PromptFormat().render(QUESTION) == "Question: Which is a fruit?\nA. apple\nB. chair\nAnswer:"


def test_every_part_of_the_prompt():
    prompt_format = PromptFormat(
        header="On {subject}.", question="Q: {question}", choice="({letter}) {choice}", cue="A:", separator="\n\n"
    )
    assert prompt_format.render(QUESTION) == (
        "On food science.\n\nQ: Which is a fruit?\n\n(A) apple\n\n(B) chair\n\nA:"
    )


def test_the_header_of_a_question_without_a_subject():
    assert PromptFormat(header="On {subject}.").render(Question("Q", ("a", "b"))).startswith("On general knowledge.\n")


def test_the_chat_prompt_asks_for_the_letter_in_place_of_the_cue():
    prompt_format = PromptFormat(chat=True, system="Be brief.")
    text = "Question: Which is a fruit?\nA. apple\nB. chair\nAnswer with the letter of the right option."
    assert prompt_format.messages(QUESTION) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": text},
    ]
    assert PromptFormat(chat=True).messages(QUESTION) == [{"role": "user", "content": text}]


@given(st.text(min_size=1), st.lists(st.text(min_size=1), min_size=2, max_size=26))
def test_texts_with_braces_and_anything_else_are_shown_as_they_are(text, choices):
    text, choices = f"{{question}}{text}.", [f"{{letter}}{choice}." for choice in choices]
    rendered = PromptFormat().render(Question(text, tuple(choices)))
    lines = [f"Question: {text}", *(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False))]
    assert rendered == "\n".join([*lines, "Answer:"])


def test_braces_of_the_lines_own_are_written_twice():
    prompt_format = PromptFormat(header="{{json}}", choice='{{"{letter}": "{choice}"}}')
    assert prompt_format.render(QUESTION).splitlines()[::2] == ["{json}", '{"A": "apple"}', "Answer:"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"question": "Q:"}, r"prompt's question line 'Q:' lacks \{question\}"),
        ({"question": "{{question}}"}, r"lacks \{question\}"),
        ({"choice": "{choice}"}, r"prompt's choice line '\{choice\}' lacks \{letter\}"),
        ({"choice": "{letter}"}, r"lacks \{choice\}"),
        ({"header": "On {topic}"}, r"header line 'On \{topic\}' has \{topic\}, which nothing fills; write \{\{ and"),
        ({"question": "{question} {subject}"}, r"has \{subject\}, which nothing fills"),
        ({"header": "{subject.__class__}"}, r"has \{subject.__class__\}"),
        ({"header": "{subject!r}"}, r"has \{subject!r\}"),
        ({"choice": "{letter} {choice:>1000000000}"}, r"has \{choice:>1000000000\}|lacks \{choice\}"),
        ({"header": "{"}, r"header line '\{' cannot be filled"),
        ({"header": "{}"}, r"has \{\}"),
        ({"system": "Be brief."}, r"a system message needs chat=True"),
    ],
)
def test_lines_that_cannot_be_filled(parts, message):
    with pytest.raises(ValueError, match=message):
        PromptFormat(**parts)


@given(st.builds(PromptFormat, cue=st.text(), separator=st.text(string.printable), answer_prefix=st.text()))
def test_formats_survive_a_file(prompt_format):
    assert PromptFormat.from_dict(json.loads(json.dumps(prompt_format.to_dict()))) == prompt_format


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"cues": "A:"}, r"has no 'cues'; its parts are header, context, question, choice, cue"),
        ({"cue": 5}, r"'cue' is 5, of the wrong type"),
        ({"chat": "yes"}, r"'chat' is 'yes'"),
        ({"cue": None}, r"'cue' is None"),
    ],
)
def test_data_that_is_no_format(data, message):
    with pytest.raises(ValueError, match=message):
        PromptFormat.from_dict(data)


def test_a_system_message_may_be_none():
    assert PromptFormat.from_dict({"system": None}) == PromptFormat()
