"""Prompts through chat templates: the letter stands where the template puts the assistant's answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_calib.confidence.encoded import PromptEncoder
from hf_calib.tasks import FewShotFormat, PromptFormat, Question, encode_questions
from tests.support import byte_level_tokenizer, questions
from tests.tasks.small_tokenizers import around, sentence_pieces

QUESTION = Question("Which is a fruit?", ("apple", "chair"))

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_2 = (
    "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content | trim }} [/INST]"
    "{% else %} {{ m.content | trim }} </s>{% endif %}{% endfor %}"
)
GEMMA = (
    "<s>{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# The generation prompt lets the model choose whether to think; a finished turn shows an empty train of thought.
THINKS_OR_NOT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The generation prompt makes the model think; a finished turn shows the answer only.
ALWAYS_THINKS = (
    "{% for m in messages %}{% if m.role == 'user' %}<User>{{ m.content }}{% endif %}{% if m.role == 'assistant' %}"
    "<Assistant>{{ m.content.split('</think>')[-1] }}<eos>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<Assistant><think>\n{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m.content }}<|END_OF_A_TURN|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
QUESTIONS_ONLY = (
    "{% for m in messages %}{% if m.role == 'user' %}Q: {{ m.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
REFUSES_ANSWERS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no') }}{% endif %}Q: {{ m.content }}\n"
    "{% endfor %}A:"
)


def text_of(item, tokenizer) -> str:
    return tokenizer.decode(item.input_ids, clean_up_tokenization_spaces=False)


def with_template(template: str):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "end", "option"),
    [
        (CHATML, "option.<|im_end|>\n<|im_start|>assistant\n", "A"),
        (LLAMA_2, "option. [/INST]", "ĠA"),
        (GEMMA, "option.<end_of_turn>\n<start_of_turn>model\n", "A"),
        (THINKS_OR_NOT, "<|im_start|>assistant\n<think>\n\n</think>\n\n", "A"),
        (ALWAYS_THINKS, "option.<Assistant>", "A"),
        (CHANNELS, "<|END_OF_A_TURN|><|start|>assistant<|channel|>final<|message|>", "A"),
        (QUESTIONS_ONLY, "option.\nA:", "A"),
        (REFUSES_ANSWERS, "option.\nA:", "A"),
    ],
    ids=["ChatML", "Llama 2", "Gemma", "thinks or not", "always thinks", "channels", "questions only", "no answers"],
)
def test_the_prompt_ends_where_a_finished_answer_would_begin(template, end, option):
    tokenizer = with_template(template)
    (item,) = encode_questions([QUESTION], tokenizer, PromptFormat(chat=True))
    text = text_of(item, tokenizer)
    assert text.endswith(end)
    assert text.count("Which is a fruit?\nA. apple\nB. chair\nAnswer with the letter of the right option.") == 1
    assert tokenizer.convert_ids_to_tokens(item.option_ids[0]) == option


@pytest.mark.parametrize("template", [CHATML, LLAMA_2, GEMMA, THINKS_OR_NOT, ALWAYS_THINKS, CHANNELS])
def test_prompt_and_option_begin_the_conversation_with_that_answer(template):
    tokenizer = with_template(template)
    prompt_format = PromptFormat(chat=True)
    asked = questions(4, choices=(2, 6, 4))
    for item, question in zip(encode_questions(asked, tokenizer, prompt_format), asked, strict=True):
        for letter, option in zip(question.letters, item.option_ids, strict=True):
            answer = {"role": "assistant", "content": letter}
            whole = tokenizer.apply_chat_template([*prompt_format.messages(question), answer], tokenize=False)
            assert whole.startswith(tokenizer.decode([*item.input_ids, option], clean_up_tokenization_spaces=False))


@pytest.mark.parametrize(("joined", "end"), [(True, ["]", "▁A"]), (False, ["▁", "A"])])
def test_the_space_after_llama_2s_bracket_with_sentence_pieces(joined, end):
    tokenizer = sentence_pieces(space_with_letter=joined)
    tokenizer.chat_template = LLAMA_2
    (item,) = encode_questions([QUESTION], tokenizer, PromptFormat(chat=True))
    assert tokenizer.convert_ids_to_tokens([item.input_ids[-1], item.option_ids[0]]) == end


def test_a_template_that_writes_special_tokens_gets_none_added():
    tokenizer = around("<s> $A <eos>")
    tokenizer.chat_template = LLAMA_2
    (item,) = encode_questions([QUESTION], tokenizer, PromptFormat(chat=True))
    assert item.input_ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.eos_token_id not in item.input_ids


def test_a_system_message():
    tokenizer = with_template(CHATML)
    (item,) = encode_questions([QUESTION], tokenizer, PromptFormat(chat=True, system=" Be brief. "))
    assert text_of(item, tokenizer).startswith("<|im_start|>system\n Be brief. <|im_end|>\n<|im_start|>user\n")


def test_a_template_that_refuses_system_messages():
    with pytest.raises(ValueError, match=r"refuses the question: System role not supported; .* or no system message"):
        encode_questions([QUESTION], with_template(GEMMA), PromptFormat(chat=True, system="Be brief."))


def test_a_template_that_leaves_out_system_messages():
    with pytest.raises(
        ValueError,
        match=r"of '' leaves out or changes the system message; set tokenizer\.chat_template .*or no system message",
    ):
        encode_questions([QUESTION], with_template(QUESTIONS_ONLY), PromptFormat(chat=True, system="Be brief."))


def test_a_chat_prompt_without_a_template():
    with pytest.raises(ValueError, match=r"has no chat template; use the plain prompt \(chat=False\), or set"):
        encode_questions([QUESTION], byte_level_tokenizer(), PromptFormat(chat=True))


def test_the_plain_prompt_leaves_a_chat_template_alone():
    tokenizer = with_template(CHATML)
    assert encode_questions([QUESTION], tokenizer) == encode_questions([QUESTION], byte_level_tokenizer())


# A text is read one character at a time, in which nothing of type "text" is found.
PARTS_FIRST_ITEM = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
PARTS_ATTRIBUTES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if 'text' in c %}{{ c.text }}"
    "{% endif %}{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PARTS_SELECTED = (
    "{% for m in messages %}{{ m.role | upper }}: {% for c in m.content | selectattr('type', 'equalto', 'text') %}"
    "{{ c['text'] | trim }}{% endfor %} {% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
PARTS_CONCATENATED = (
    "{% for m in messages %}[{{ m.role }}] {{ '' + m['content'][0]['text'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
# Both forms are taken.
EITHER = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STRIPPED = CHATML.replace("{{ m.content }}", "{{ m.content.strip() }}")
TEXTS = {"ChatML": CHATML, "trims": GEMMA, "strips": STRIPPED, "either": EITHER, "thinks": THINKS_OR_NOT}
PARTS = {
    "first item": PARTS_FIRST_ITEM,
    "attributes": PARTS_ATTRIBUTES,
    "selected": PARTS_SELECTED,
    "concatenated": PARTS_CONCATENATED,
}


def altered(content: str) -> str:
    return CHATML.replace("{{ m.content }}", content)


SPOILT = {
    "no content": altered(""),
    "upper case": altered("{{ m.content | upper }}"),
    "beginning": altered("{{ m.content[:20] }}"),
    "Python": altered("{{ [m.content] }}"),
    "JSON": altered("{{ m.content | tojson }}"),
    "characters": altered("{% for c in m.content %}{{ c }} {% endfor %}"),
    "one line": altered("{{ m.content.split() | join(' ') }}"),
    "escapes": altered("{{ m.content | e }}"),
    "not the last": (
        "{% set n = messages | selectattr('role', 'equalto', 'user') | list | length %}{% for m in messages %}"
        "{% if m.role == 'assistant' or loop.index0 < 2 * n - 2 %}{{ m.content }}\n{% endif %}{% endfor %}A:"
    ),
    "twice": altered("{{ m.content }} {{ m.content }}"),
    "nothing": "{{ '' }}Answer:",
}
BRACED = Question("Is 4 < 5 & 'so' on?", ("4", "5"), 0, context="4 apples,\n5 pears")
EXAMPLE = Question("2 + 2 < 5?", ("4", "A"), 0, context="Sums & more")


@pytest.mark.parametrize("template", {**TEXTS, **PARTS}.values(), ids={**TEXTS, **PARTS})
@pytest.mark.parametrize("few_shot", [False, True])
def test_every_message_is_in_the_prompt_once(template, few_shot):
    tokenizer = with_template(template)
    prompt_format = PromptFormat(chat=True, system=None if template is GEMMA else " Be brief. ")
    if few_shot:
        prompt_format = FewShotFormat.choose([EXAMPLE], 1, prompt_format=prompt_format)
    for options in (True, False):
        encoder = PromptEncoder(tokenizer)
        (item,) = encoder.texts([BRACED], prompt_format, list_options=options)
        for text in (text_of(item, tokenizer), *([encoded(BRACED, tokenizer, prompt_format)] if options else [])):
            for message in prompt_format.messages(BRACED, options=options):
                if len(message["content"]) > 1:
                    assert text.count(message["content"].strip()) == 1


def encoded(question, tokenizer, prompt_format):
    (item,) = encode_questions([question], tokenizer, prompt_format)
    return text_of(item, tokenizer)


@given(
    st.lists(st.text("ab4<&'\"{}\n ", min_size=1).filter(str.strip), min_size=3, max_size=6, unique=True),
    st.sampled_from([*TEXTS.values(), *PARTS.values()]),
    st.booleans(),
)
def test_whatever_the_texts_are(texts, template, few_shot):
    question = Question(texts[0], tuple(texts[2:] + texts[:1]), context=texts[1])
    prompt_format = PromptFormat(chat=True)
    if few_shot:
        prompt_format = FewShotFormat.choose([EXAMPLE], 1, prompt_format=prompt_format)
    text = encoded(question, with_template(template), prompt_format)
    assert text.count(prompt_format.messages(question)[-1]["content"].strip()) == 1


@pytest.mark.parametrize("template", SPOILT.values(), ids=SPOILT)
@pytest.mark.parametrize("few_shot", [False, True])
def test_a_template_that_spoils_the_question(template, few_shot):
    tokenizer = with_template(template)
    tokenizer.name_or_path = "some/model"
    prompt_format = PromptFormat(chat=True)
    if few_shot:
        prompt_format = FewShotFormat.choose([EXAMPLE], 1, prompt_format=prompt_format)
    for ask in (
        lambda: encode_questions([BRACED], tokenizer, prompt_format),
        lambda: PromptEncoder(tokenizer).texts([BRACED], prompt_format, list_options=False),
    ):
        with pytest.raises(
            ValueError,
            match=r"chat template of 'some/model' (leaves out or changes|shows) .*; set tokenizer\.chat_tem",
        ):
            ask()


@pytest.mark.parametrize(
    ("shown", "message"),
    [
        ("m.role == 'user'", "an example's answer"),
        ("not loop.first", "an example"),
        ("m.role != 'system'", "the system message"),
    ],
)
def test_a_template_that_leaves_out_a_part_of_the_conversation(shown, message):
    # The example's answer is a letter, and its text one that occurs in the question.
    template = (
        f"{{% for m in messages %}}{{% if {shown} %}}<{{{{ m.role }}}}> {{{{ m.content }}}}\n{{% endif %}}"
        "{% endfor %}A:"
    )
    prompt_format = FewShotFormat.choose(
        [EXAMPLE], 1, prompt_format=PromptFormat(chat=True, system="4" if "system" in message else None)
    )
    with pytest.raises(ValueError, match=f"leaves out or changes {message};"):
        encode_questions([BRACED], with_template(template), prompt_format)


def test_a_question_that_occurs_in_the_template_is_not_taken_for_shown():
    template = (
        "{{ 'Today is 4 May.' }}{% for m in messages %}{% if m.role == 'x' %}{{ m.content }}{% endif %}{% endfor %}A:"
    )
    with pytest.raises(ValueError, match="leaves out or changes the question"):
        PromptEncoder(with_template(template)).texts(
            [Question("4", ("5", "6"))], PromptFormat(chat=True, question="{question}"), list_options=False
        )
    shown = template.replace("'x'", "'user'")
    (item,) = PromptEncoder(with_template(shown)).texts(
        [Question("4", ("5", "6"))], PromptFormat(chat=True, question="{question}"), list_options=False
    )
    assert text_of(item, with_template(shown)) == "Today is 4 May.4A:"


def test_a_template_that_takes_neither_texts_nor_parts():
    tokenizer = with_template("{{ raise_exception('not this one') }}")
    with pytest.raises(ValueError, match="refuses the question: not this one; set tokenizer"):
        encode_questions([QUESTION], tokenizer, PromptFormat(chat=True))
