"""Prompts as tokens, and the options' tokens at the position behind them."""

import warnings

import pytest
from tokenizers import Regex, normalizers
from transformers import GPT2Config, LlamaConfig, LlavaConfig

from hf_calib.tasks import LETTERS, PromptFormat, Question, QuestionError, encode_questions, maximum_length
from hf_calib.tasks.drawing import Draw, QuestionList
from tests.support import byte_level_tokenizer, questions
from tests.tasks.small_tokenizers import TOKENIZERS, around, byte_pairs, sentence_pieces, whole_words

LONG = [Question(f"Which of {n}?", tuple(f"choice {i}" for i in range(n)), n - 1) for n in range(2, 27)]


@pytest.fixture(scope="module", params=TOKENIZERS)
def any_tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize(
    "prompt_format",
    [
        PromptFormat(),
        PromptFormat(answer_prefix="\n"),
        PromptFormat(answer_prefix=""),
        PromptFormat(choice="({letter}) {choice}", cue="The answer is", answer_prefix=" ("),
    ],
    ids=["space", "newline", "nothing", "bracket"],
)
def test_prompt_and_option_are_what_the_tokenizer_makes_of_the_text_as_a_whole(any_tokenizer, prompt_format):
    encoded = encode_questions(LONG, any_tokenizer, prompt_format)
    special = any_tokenizer("")["input_ids"]  # BOS, [CLS], EOS, [SEP]
    tail = [id_ for id_ in special if any_tokenizer.convert_ids_to_tokens(id_) in ("<eos>", "[SEP]")]
    for item, question in zip(encoded, LONG, strict=True):
        text = prompt_format.render(question) + prompt_format.answer_prefix
        for letter, option in zip(question.letters, item.option_ids, strict=True):
            assert any_tokenizer(text + letter)["input_ids"] == [*item.input_ids, option, *tail]


@pytest.mark.parametrize(
    ("kind", "prefix", "last", "option"),
    [
        ("byte-level BPE", " ", ":", "ĠA"),
        ("byte-level BPE", "\n", "Ċ", "A"),
        ("BPE that merges the colon with the letter", " ", "r", ":ĠA"),
        ("BPE that merges the colon with the letter", "\n", "Ċ", "A"),
        ("BPE that merges the newline with the letter", "\n", ":", "ĊA"),
        ("BPE that merges the newline with the letter", " ", "Ġ", "A"),
        ("pieces with a space", " ", ":", "▁A"),
        ("pieces with a space", "\n", "\n", "A"),
        ("pieces without a space", " ", "▁", "A"),
        ("whole words", " ", ":", "A"),
        ("whole words", "\n", ":", "A"),
        ("word pieces", " ", ":", "a"),
        ("adds BOS", " ", ":", "ĠA"),
        ("appends EOS", " ", ":", "ĠA"),
    ],
)
def test_the_option_depends_on_the_tokenizer_and_on_what_precedes_it(kind, prefix, last, option):
    tokenizer = TOKENIZERS[kind]()
    (item,) = encode_questions(LONG[:1], tokenizer, PromptFormat(answer_prefix=prefix))
    assert tokenizer.convert_ids_to_tokens([item.input_ids[-1], item.option_ids[0]]) == [last, option]


def test_special_tokens_are_added_in_front_and_left_out_behind():
    tokenizer = around("<s> $A <eos>")
    (item,) = encode_questions(LONG[:1], tokenizer)
    assert item.input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.eos_token_id not in item.input_ids


def test_differing_numbers_of_options_in_one_dataset(tokenizer):
    asked = questions(7, choices=(2, 5, 3))
    encoded = encode_questions(asked, tokenizer)
    assert [len(item.option_ids) for item in encoded] == [2, 5, 3, 2, 5, 3, 2]
    assert [item.answer for item in encoded] == [question.answer for question in asked]
    assert [item.row for item in encoded] == list(range(7))
    assert encoded.dropped == ()
    assert all(item.option_ids == encoded[1].option_ids[: len(item.option_ids)] for item in encoded)


def test_unknown_answers_are_minus_one(tokenizer):
    assert {item.answer for item in encode_questions(questions(2, answered=False), tokenizer)} == {-1}


def test_more_questions_than_are_tokenized_at_once(tokenizer, monkeypatch):
    asked = questions(11, choices=(4, 2))
    at_once = encode_questions(asked, tokenizer)
    monkeypatch.setattr("hf_calib.tasks.encoding.OptionFinder.CHUNK", 4)
    assert encode_questions(asked, tokenizer) == at_once


# Letters that cannot stand for options


def test_a_letter_that_is_merged_with_the_prompt_while_the_others_are_not():
    for letter in "ABC":
        tokenizer = byte_pairs([("Ġ", other) for other in LETTERS] + [(":", f"Ġ{letter}")])
        with pytest.raises(QuestionError, match=r"row 0, counted from 0: the option letter .* another prompt format"):
            encode_questions(questions(1), tokenizer)
        assert encode_questions(questions(1), tokenizer, PromptFormat(answer_prefix="\n"))
    with pytest.raises(QuestionError, match=r"^row 7, counted from 0"):
        encode_questions(QuestionList(questions(1), draw=Draw((7,), of=9, subjects=1, seed=0)), tokenizer)


def test_a_letter_of_two_tokens():
    tokenizer = byte_pairs([("Ġ", letter) for letter in "ABD"])
    with pytest.raises(QuestionError, match=r"'C' is more than one token for this tokenizer \(\['Ġ', 'C'\]\)"):
        encode_questions(questions(1), tokenizer)
    assert len(encode_questions(questions(1, choices=(2,)), tokenizer)) == 1


def test_letters_of_two_tokens_of_which_the_second_tells_them_apart():
    tokenizer = byte_pairs([])
    (item,) = encode_questions(questions(1), tokenizer)
    assert tokenizer.convert_ids_to_tokens(item.input_ids[-1]) == "Ġ"
    assert tokenizer.convert_ids_to_tokens(list(item.option_ids)) == list("ABCD")


def test_what_precedes_the_letter_is_looked_at_in_every_row():
    # ".\n" is one token, and so is "\nC"; the second only comes about where no full stop precedes.
    tokenizer = byte_pairs([(".", "Ċ"), ("Ċ", "C")])
    prompt_format = PromptFormat(cue="", answer_prefix="", choice="({letter}) {choice}")
    full_stop = Question("Which?", ("1.", "2.", "3."))
    assert len(encode_questions([full_stop], tokenizer, prompt_format)) == 1
    with pytest.raises(QuestionError, match=r"row 1, counted from 0: the option letter 'C' .*splits the prompt"):
        encode_questions([full_stop, Question("Which?", ("1", "2", "3"))], tokenizer, prompt_format)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (whole_words(leave_out="C"), r"does not know the option letter 'C' \(it becomes '\[UNK\]'\)"),
        (whole_words(leave_out="A"), r"does not know the option letter 'A'"),
        (whole_words(leave_out="AB"), r"'A' and 'B' are the same tokens for this tokenizer"),
        (sentence_pieces(space_with_letter=True, leave_out="D"), r"'D'"),
        (byte_pairs([], leave_out="C"), r"the tokenizer leaves out the option letter 'C'"),
        (byte_pairs([], leave_out="A"), r"the tokenizer leaves out the option letter 'A'"),
        (byte_pairs([], leave_out="B"), r"the tokenizer leaves out the option letter 'B'"),
        (byte_pairs([], leave_out="AB"), r"'A' and 'B' are the same tokens"),
    ],
    ids=["unknown", "A unknown", "A and B unknown", "unknown piece", "lost", "A lost", "B lost", "A and B lost"],
)
def test_letters_that_are_missing(tokenizer, message):
    with pytest.raises(QuestionError, match=r"^row 0, counted from 0: .*" + message):
        encode_questions(questions(1), tokenizer)


def test_two_letters_that_share_a_token():
    tokenizer = byte_level_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("Answer: D", "Answer: B")
    with pytest.raises(QuestionError, match=r"options 'B' and 'D' are both the token 'ĠB'; the model cannot tell"):
        encode_questions(questions(1), tokenizer)
    assert len(encode_questions(questions(1, choices=(3,)), tokenizer)) == 1


def test_a_prompt_without_a_token():
    tokenizer = whole_words()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex(r"[\s\S]*Answer:"), "")
    with pytest.raises(QuestionError, match="no token precedes the option"):
        encode_questions(questions(1), tokenizer)


# Lengths


@pytest.fixture
def lengths(tokenizer):
    return [len(item.input_ids) + 1 for item in encode_questions(questions(8), tokenizer)]


def test_a_prompt_that_is_too_long_is_an_error(tokenizer, lengths):
    longest = max(lengths)
    n = lengths.count(longest)
    with pytest.raises(
        QuestionError, match=rf"{n} of 8 prompts are longer than {longest - 1} tokens .* with {longest}\); raise the"
    ):
        encode_questions(questions(8), tokenizer, max_length=longest - 1)
    assert len(encode_questions(questions(8), tokenizer, max_length=longest)) == 8


def test_prompts_that_are_too_long_are_dropped_and_counted_if_asked_for(tokenizer, lengths):
    limit = sorted(lengths)[4]
    dropped = tuple(row for row, length in enumerate(lengths) if length > limit)
    assert dropped
    with pytest.warns(UserWarning, match=rf"{len(dropped)} of 8 prompts are longer than {limit} tokens.*are dropped"):
        encoded = encode_questions(questions(8), tokenizer, max_length=limit, on_too_long="drop")
    assert encoded.dropped == dropped
    whole = encode_questions(questions(8), tokenizer)
    assert list(encoded) == [item for item in whole if item.row not in dropped]


def test_dropping_everything_is_an_error(tokenizer):
    with pytest.raises(QuestionError, match="dropping them leaves no question; raise the maximum length"):
        encode_questions(questions(3), tokenizer, max_length=5, on_too_long="drop")


def test_nothing_is_truncated_by_a_tokenizer_that_would(tokenizer):
    truncating = byte_level_tokenizer()
    truncating.backend_tokenizer.enable_truncation(8)
    truncating.backend_tokenizer.enable_padding(length=600)
    assert encode_questions(questions(3), truncating) == encode_questions(questions(3), tokenizer)


def test_another_action_for_long_prompts_is_refused(tokenizer):
    with pytest.raises(ValueError, match="'error' or 'drop', got 'truncate'"):
        encode_questions(questions(1), tokenizer, on_too_long="truncate")


def test_no_question_is_an_error(tokenizer):
    with pytest.raises(QuestionError, match="no question to encode"):
        encode_questions([], tokenizer)


def test_the_longest_input_is_what_model_and_tokenizer_allow():
    tokenizer = byte_level_tokenizer()
    assert maximum_length(LlamaConfig(max_position_embeddings=300), tokenizer) == 300
    assert maximum_length(GPT2Config(n_positions=200), tokenizer) == 200
    assert maximum_length(LlavaConfig(text_config=LlamaConfig(max_position_embeddings=100)), tokenizer) == 100
    assert maximum_length(type("Alibi", (), {})(), tokenizer) is None
    tokenizer.model_max_length = 150
    assert maximum_length(LlamaConfig(max_position_embeddings=300), tokenizer) == 150
    assert maximum_length(type("Alibi", (), {})(), tokenizer) == 150


def test_nothing_is_warned_of_where_nothing_is_wrong(tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encode_questions(questions(5), tokenizer, max_length=512)
