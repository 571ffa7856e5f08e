"""Where an answer begins in a conversation, found from the tokenizer's chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ANSWER = "A"


def answer_stem(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]]) -> str:
    """Return the conversation as text, up to the first character of the assistant's answer.

    The generation prompt may end elsewhere: Llama 2's template puts a space before the answer, and in reasoning
    models' templates the generation prompt may begin a train of thought, while an answer follows an empty one. So the
    position is taken from a rendered conversation with an answer; the generation prompt is used only if the template
    cannot render an answer.

    Every message has to be in the prompt unchanged, apart from surrounding white space. The templates of many
    multimodal models expect content as a list of parts and ignore plain text, so they get the messages as parts.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        With a chat template.
    messages : list of dict
        The last one is the user's.

    Raises
    ------
    ValueError
        If the template rejects the messages, or omits, changes or repeats one.
    """
    try:
        return _checked_stem(tokenizer, messages)
    except ValueError as error:
        in_parts = [
            {"role": message["role"], "content": [{"type": "text", "text": message["content"]}]}
            for message in messages
        ]
        try:
            return _checked_stem(tokenizer, in_parts)
        except ValueError:
            advice = "set tokenizer.chat_template to another template, use the plain prompt (chat=False)"
            if messages[0]["role"] == "system":
                advice += ", or no system message"
            raise ValueError(f"the chat template of {tokenizer.name_or_path!r} {error}; {advice}") from None


def _checked_stem(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]]) -> str:
    # A short text, such as an example's answer, may be in the prompt by chance; these markers are there only if they
    # are shown.
    probes = [f"Text {number} of\nthe conversation, {number}." for number in range(len(messages))]
    stem = _stem(tokenizer, [_with_text(message, text) for message, text in zip(messages, probes, strict=True)])
    _check_shown(stem, messages, probes)
    for number, text in enumerate(probes):
        if messages[number]["role"] != "system" and stem.count(text) > 1:
            raise ValueError(f"shows {_name(messages, number)} {stem.count(text)} times")
    stem = _stem(tokenizer, messages)
    _check_shown(stem, messages, [_text(message) for message in messages])
    return stem


def _stem(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, Any]]) -> str:
    try:
        prompt = cast(str, tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except Exception as error:  # a template runs code, which may raise anything
        raise ValueError(f"refuses the question: {error}") from None
    answered = [*messages, _with_text({**messages[-1], "role": "assistant"}, _ANSWER)]
    try:
        text = cast(str, tokenizer.apply_chat_template(answered, tokenize=False, continue_final_message=True))
    except Exception:
        return prompt
    return text.removesuffix(_ANSWER) if text.endswith(_ANSWER) else prompt


def _check_shown(stem: str, messages: Sequence[dict[str, Any]], texts: Sequence[str]) -> None:
    """Raise a ValueError unless all texts are in the prompt, in order; a system message may be anywhere."""
    start = 0
    for number, text in enumerate(map(str.strip, texts)):
        is_system = messages[number]["role"] == "system"
        place = stem.find(text, 0 if is_system else start)
        if place < 0:
            raise ValueError(f"leaves out or changes {_name(messages, number)}")
        if not is_system:
            start = place + len(text)


def _name(messages: Sequence[dict[str, Any]], number: int) -> str:
    if number == len(messages) - 1:
        return "the question"
    return {"system": "the system message", "user": "an example"}.get(messages[number]["role"], "an example's answer")


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else content[0]["text"]


def _with_text(message: dict[str, Any], text: str) -> dict[str, Any]:
    content = text if isinstance(message["content"], str) else [{"type": "text", "text": text}]
    return {**message, "content": content}
