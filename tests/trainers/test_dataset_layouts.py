"""Datasets that TRL does not read as they are meant: the scripts convert them, the trainers refuse them."""

import logging

import pytest
from datasets import Dataset, IterableDataset
from trl import DPOTrainer

from hf_calib import as_trl_dataset, calibration_aware
from hf_calib.scripts.data import PREFERENCE_COLUMNS, PROMPT_COLUMNS, UNPAIRED_COLUMNS, text_columns
from hf_calib.trainers.dataset_layouts import DatasetError
from tests.examples.scripts import run_here, write
from tests.scripts.test_data import read_training
from tests.support import byte_level_tokenizer, pairs, question_rows, tiny_llama
from tests.trainers.runs import dpo, grpo, kto, reward, sft, unpaired


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


SYSTEM = {"role": "system", "content": "You are"}
HUMAN = {"from": "human", "value": "Tell 1"}
GPT_RED, GPT_BLUE = {"from": "gpt", "value": "red"}, {"from": "gpt", "value": "blue"}
TEXTS = {"chosen": "red", "rejected": "blue"}
TURNS = {"chosen": [assistant("red")], "rejected": [assistant("blue")]}
WHOLE = {name: [user("Tell 1"), *turns] for name, turns in TURNS.items()}
IN_TEXT = {"prompt": "Tell 1\n\n", **TEXTS}
WITH_SYSTEM = {"prompt": "You are\n\nTell 1\n\n", **TEXTS}
IN_TURNS = {"prompt": [user("Tell 1")], **TURNS}
SYSTEM_IN_TURNS = {"prompt": [SYSTEM, user("Tell 1")], **TURNS}

PAIRS = {
    "orca": ({"system": "You are", "question": "Tell 1", **TEXTS}, WITH_SYSTEM),
    "question": ({"question": "Tell 1", **TEXTS}, IN_TEXT),
    "orca with input": ({"system": "You are", "input": "Tell 1", **TEXTS}, WITH_SYSTEM),
    "system and prompt": (
        {"system": "You are", "prompt": "Tell 1\n", **TEXTS},
        {"prompt": "You are\n\nTell 1\n", **TEXTS},
    ),
    "context": ({"context": "You are", "question": "Tell 1", **TEXTS}, WITH_SYSTEM),
    "instruction and input": ({"instruction": "You are", "input": "Tell 1", **TEXTS}, WITH_SYSTEM),
    "argilla": ({"instruction": "Tell 1", "chosen_response": "red", "rejected_response": "blue"}, IN_TEXT),
    "stack exchange": ({"question": "Tell 1", "response_j": "red", "response_k": "blue"}, IN_TEXT),
    "renamed answers": (
        {"prompt": "Tell 1 ", "chosen_response": "red", "rejected_response": "blue"},
        {"prompt": "Tell 1 ", **TEXTS},
    ),
    "history of text": ({"history": "Tell 1", **TEXTS}, IN_TEXT),
    "system of a shared beginning": (
        {"system": "You are", "chosen": "Human: Tell 1 Assistant: red", "rejected": "Human: Tell 1 Assistant: blue"},
        {"prompt": "You are\n\nHuman: Tell 1 Assistant:", "chosen": " red", "rejected": " blue"},
    ),
    "ultrafeedback": ({"prompt": "Tell 1 ", **WHOLE}, IN_TURNS),
    "a text and the answers' turns": ({"prompt": "Tell 1", **TURNS}, IN_TURNS),
    "an instruction and the answers' turns": ({"instruction": "Tell 1", **TURNS}, IN_TURNS),
    "messages and texts": ({"prompt": [user("Tell 1")], **TEXTS}, IN_TURNS),
    "messages, and again in the answers": ({"prompt": [user("Tell 1")], **WHOLE}, IN_TURNS),
    "system and messages": ({"system": "You are", "prompt": [user("Tell 1")], **TURNS}, SYSTEM_IN_TURNS),
    "system and whole conversations": ({"system": "You are", **WHOLE}, SYSTEM_IN_TURNS),
    "system twice": ({"system": "You are", "prompt": [SYSTEM, user("Tell 1")], **TURNS}, SYSTEM_IN_TURNS),
    "system, prompt and whole conversations": ({"system": "You are", "prompt": "Tell 1", **WHOLE}, SYSTEM_IN_TURNS),
    "sharegpt": ({"conversations": [HUMAN], "chosen": GPT_RED, "rejected": GPT_BLUE}, IN_TURNS),
    "sharegpt lists": ({"conversations": [HUMAN], "chosen": [GPT_RED], "rejected": [GPT_BLUE]}, IN_TURNS),
    "sharegpt and texts": ({"conversations": [HUMAN], **TEXTS}, IN_TURNS),
    "sharegpt whole": ({"chosen": [HUMAN, GPT_RED], "rejected": [HUMAN, GPT_BLUE]}, IN_TURNS),
    "sharegpt with a text": (
        {"prompt": "Tell 1", "chosen": [HUMAN, GPT_RED], "rejected": [HUMAN, GPT_BLUE]},
        IN_TURNS,
    ),
    "sharegpt with a system turn": (
        {"conversations": [{"from": "system", "value": "You are"}, HUMAN], "chosen": GPT_RED, "rejected": GPT_BLUE},
        SYSTEM_IN_TURNS,
    ),
    "sharegpt with a system column": (
        {"system": "You are", "conversations": [HUMAN], "chosen": GPT_RED, "rejected": GPT_BLUE},
        SYSTEM_IN_TURNS,
    ),
    "roles of sharegpt": (
        {"prompt": [{"role": "human", "content": "Tell 1"}], "chosen": [{"role": "gpt", "content": "red"}],
         "rejected": [{"role": "gpt", "content": "blue"}]},
        IN_TURNS,
    ),
    "history": (
        {"instruction": "Tell 1", "history": [["Tell 0", "green"]], **TEXTS},
        {"prompt": [user("Tell 0"), assistant("green"), user("Tell 1")], **TURNS},
    ),
    "several turns": (
        {"prompt": "Tell 0", **{name: [user("Tell 0"), assistant("green"), *turns] for name, turns in WHOLE.items()}},
        {"prompt": [user("Tell 0"), assistant("green"), user("Tell 1")], **TURNS},
    ),
}  # fmt: skip
COMPLETION = {"completion": "red", "label": True}
UNPAIRED = {
    "question": ({"system": "You are", "question": "Tell 1", **COMPLETION},
                 {"prompt": "You are\n\nTell 1\n\n", **COMPLETION}),
    "response": ({"prompt": "Tell 1 ", "response": "red", "label": True}, {"prompt": "Tell 1 ", **COMPLETION}),
    "a whole completion": (
        {"prompt": "Tell 1", "completion": [user("Tell 1"), assistant("red")], "label": True},
        {"prompt": [user("Tell 1")], "completion": [assistant("red")], "label": True},
    ),
    "messages": (
        {"messages": [user("Tell 1"), assistant("red")], "label": True},
        {"prompt": [user("Tell 1")], "completion": [assistant("red")], "label": True},
    ),
    "sharegpt": (
        {"conversations": [HUMAN], "completion": GPT_RED, "label": True},
        {"prompt": [user("Tell 1")], "completion": [assistant("red")], "label": True},
    ),
    "pairs": PAIRS["orca"],
}  # fmt: skip
TEXT = {
    "sharegpt": ({"conversations": [HUMAN, GPT_RED]}, {"messages": [user("Tell 1"), assistant("red")]}),
    "system": (
        {"system": "You are", "messages": [user("Tell 1"), assistant("red")]},
        {"messages": [SYSTEM, user("Tell 1"), assistant("red")]},
    ),
    "completion": (
        {"system": "You are", "question": "Tell 1", "completion": "red"},
        {"prompt": "You are\n\nTell 1\n\n", "completion": "red"},
    ),
}
PROMPTS = {
    "system": ({"system": "You are", "prompt": "Tell 1"}, {"prompt": "You are\n\nTell 1"}),
    "system and messages": ({"system": "You are", "prompt": [user("Tell 1")]}, {"prompt": [SYSTEM, user("Tell 1")]}),
    "sharegpt": ({"prompt": [HUMAN]}, {"prompt": [user("Tell 1")]}),
}
KINDS = {"preference": PAIRS, "unpaired_preference": UNPAIRED, "text": TEXT, "prompt_only": PROMPTS}
CASES = [
    pytest.param(kind, *case, id=f"{kind}: {name}") for kind, cases in KINDS.items() for name, case in cases.items()
]
FORMATS = {
    "preference": PREFERENCE_COLUMNS, "unpaired_preference": UNPAIRED_COLUMNS, "text": text_columns(),
    "prompt_only": PROMPT_COLUMNS,
}  # fmt: skip
MAKERS = {"preference": dpo, "unpaired_preference": kto, "text": sft, "prompt_only": grpo}


@pytest.mark.parametrize(("kind", "row", "expected"), CASES)
def test_layouts_are_converted(kind, row, expected):
    given = Dataset.from_list([{**row, "score": 0.5}, {**row, "score": 0.7}])
    converted = as_trl_dataset(given, kind)
    assert list(converted) == [{**expected, "score": score} for score in (0.5, 0.7)]
    streamed = as_trl_dataset(IterableDataset.from_generator(lambda: iter([row, row])), kind)
    assert list(streamed) == [expected, expected]
    assert as_trl_dataset(converted, kind) is converted


@pytest.mark.parametrize(("kind", "row", "expected"), CASES)
def test_scripts_convert_and_say_what_was_read(kind, row, expected, tmp_path, caplog):
    path = write(tmp_path / "rows.jsonl", [{**row, "source": "somewhere"}] * 2)
    with caplog.at_level(logging.WARNING, logger="hf_calib"):
        train, _ = read_training(path, FORMATS[kind])
    assert list(train) == [{**expected, "source": "somewhere"}] * 2
    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith(f"{path}: read ")
    assert all(repr(name) in said for name in row if name != "label" and row[name])
    assert said.endswith("; not used: 'source'")


@pytest.mark.parametrize(("kind", "row", "expected"), CASES)
def test_trainers_refuse_and_name_the_columns(kind, row, expected, tmp_path):
    tokenizer = byte_level_tokenizer(chat=True)
    names = [name for name in row if name not in ("label",) and row[name]]
    with pytest.raises(
        DatasetError, match=rf'train_dataset: the columns .* hf_calib\.as_trl_dataset\(.*"{kind}"'
    ) as error:
        MAKERS[kind](tokenizer, tmp_path, train_dataset=Dataset.from_list([row] * 8))
    assert all(repr(name) in str(error.value) for name in names)
    if kind == "preference":
        with pytest.raises(DatasetError, match="as_trl_dataset"):
            reward(tokenizer, tmp_path, train_dataset=Dataset.from_list([row] * 8))
        with pytest.raises(DatasetError, match="as_trl_dataset"):
            calibration_aware(DPOTrainer)(tiny_llama(tokenizer), train_dataset=Dataset.from_list([row] * 8))


@pytest.mark.parametrize(("kind", "row", "expected"), CASES)
def test_what_was_converted_reaches_the_model(kind, row, expected, tmp_path):
    tokenizer = byte_level_tokenizer(chat=True)
    data = as_trl_dataset(Dataset.from_list([row] * 8), kind)
    options = {"train_dataset": data, "max_steps": 1}
    if kind in ("preference", "unpaired_preference"):
        options["ref_model"] = tiny_llama(tokenizer, seed=3)
    if kind == "prompt_only":
        options["reward_funcs"] = lambda completions, **columns: [len(str(completion)) for completion in completions]
    trainer = MAKERS[kind](tokenizer, tmp_path, **options)
    if kind == "prompt_only":
        trainer.train()
    first = trainer.train_dataset[0]
    if kind == "prompt_only":
        assert first["prompt"] == expected["prompt"]
        return
    read = tokenizer.decode(first["input_ids"] if kind == "text" else first["prompt_ids"])
    assert read.count("Tell 1") == 1
    assert ("You are" in read) is ("You are" in str(row))


AS_TRL_READS = {
    "preference": [
        {"prompt": "Tell 1", **TEXTS},
        {"prompt": "Tell 1", **TEXTS, "question": "another", "prompt_id": "x", "system": ""},
        TEXTS,
        {**TEXTS, "prompt_id": "abc", "score": 1.0},
        {"chosen": "\n\nHuman: Tell 1\n\nAssistant: red", "rejected": "\n\nHuman: Tell 1\n\nAssistant: blue"},
        {"question": "Tell 1", "chosen": "Human: Tell 1 Assistant: red", "rejected": "Human: Tell 1 Assistant: blue"},
        {
            "instruction": "Tell 1",
            "input": "",
            "chosen": "Human: Tell 1 GPT: red",
            "rejected": "Human: Tell 1 GPT: no",
        },
        WHOLE,
        {**WHOLE, "instruction": "Tell 1", "source": "x"},
        IN_TURNS,
        {**IN_TURNS, "messages": [user("Tell 1"), assistant("red")]},
    ],
    "unpaired_preference": [{"prompt": "Tell 1", **COMPLETION}, {"prompt": "Tell 1", **TEXTS}, WHOLE],
    "text": [
        {"text": "Tell 1"},
        {"messages": [user("Tell 1"), assistant("red")]},
        {"conversations": [{"from": "user", "value": "Tell 1"}, {"from": "assistant", "value": "red"}]},
        {"prompt": "Tell 1", "completion": "red"},
        {"input_ids": [1, 2, 3], "system": "x"},
    ],
    "prompt_only": [{"prompt": "Tell 1", "answer": "red"}, {"prompt": [user("Tell 1")]}],
}


@pytest.mark.parametrize(("kind", "row"), [(kind, row) for kind, rows in AS_TRL_READS.items() for row in rows])
def test_what_trl_reads_is_left_as_it_is(kind, row, tmp_path):
    data = Dataset.from_list([row] * 2)
    assert as_trl_dataset(data, kind) is data
    train, _ = read_training(write(tmp_path / "rows.jsonl", [row] * 2), FORMATS[kind])
    assert list(train) == list(data)


def test_pairs_of_whole_texts_train_a_reward_model(tokenizer, tmp_path):
    for data in (pairs(8), Dataset.from_list([TEXTS] * 8)):
        reward(tokenizer, tmp_path, train_dataset=data, eval_dataset=data).train()


REFUSED = [
    ({"topic": "Tell 1", **TEXTS}, "row 0, counted from 0: the prompt is empty, and the text in 'topic' would not"),
    ({"prompt": " ", "topic": "Tell 1", **TEXTS}, "row 0, .* the prompt is empty, and the text in 'topic' would not"),
    ({"prompt": "Tell 2", **WHOLE}, r"row 0, .* do not begin with the prompt in 'prompt', 'Tell 2'; correct or"),
    ({"system": "Be", "prompt": [SYSTEM, user("Tell 1")], **TURNS}, "row 0, .* a system message in a column of its"),
    ({"conversations": [{"from": "narrator", "value": "x"}], **TEXTS}, "row 0, .* is from 'narrator'; known: human"),
    ({"question": " ", **TEXTS}, r"row 0, .* the prompt is empty \('question'\)"),
    ({"prompt": "Tell 1", "chosen": WHOLE["chosen"], "rejected": [user("Tell 2"), assistant("x")]},
     "row 0, .* 'chosen', 'rejected' do not begin with the same turn"),
    ({"question": "Tell 1", "history": ["what", "ever"], **TEXTS}, "row 0, .* 'history' holds .* expected messages"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), REFUSED)
def test_what_cannot_be_read_is_refused_with_its_row(row, message, tmp_path):
    with pytest.raises(DatasetError, match=message):
        as_trl_dataset(Dataset.from_list([row] * 2))
    with pytest.raises(DatasetError, match=rf"rows\.jsonl, {message}"):
        read_training(write(tmp_path / "rows.jsonl", [row] * 2), PREFERENCE_COLUMNS)


def test_the_row_that_differs_is_named():
    rows = [{"prompt": "Tell 1", **WHOLE}] * 3 + [{"prompt": "Tell 2", **WHOLE}]
    with pytest.raises(DatasetError, match=r"row 3, counted from 0: the conversations in"):
        as_trl_dataset(Dataset.from_list(rows))
    rows = [
        {"system": "You are", "question": "Tell 1", **TEXTS},
        {"system": None, "question": "Tell 2", "chosen": "a"},
    ]
    with pytest.raises(DatasetError, match="row 1, counted from 0: there is no 'rejected'"):
        as_trl_dataset(Dataset.from_list(rows))


@pytest.mark.parametrize(
    ("make", "row", "message"),
    [
        (dpo, {"topic": "Tell 1", **TEXTS}, "train_dataset, row 0, .* the text in 'topic' would not be used"),
        (reward, {"topic": "Tell 1", **TEXTS}, "train_dataset, row 0, .* the text in 'topic' would not be used"),
        (
            dpo,
            {"history": "h", "human_ref_A": "a", "human_ref_B": "b"},
            "train_dataset has the columns .*'human_ref_A'",
        ),
        (
            kto,
            {"completion": "a", "label": True},
            "train_dataset has the columns .* expected 'completion', 'label', 'pr",
        ),
        (
            grpo,
            {"question": "Tell 1", "system": "You are"},
            "train_dataset has the columns 'question', 'system'; expec",
        ),
    ],
)
def test_trainers_refuse_what_they_would_not_read(make, row, message, tokenizer, tmp_path):
    with pytest.raises(DatasetError, match=message):
        make(tokenizer, tmp_path, train_dataset=Dataset.from_list([row] * 8))


def test_evaluation_sets_are_checked_too(tokenizer, tmp_path):
    orca = Dataset.from_list([{"question": "Tell 1", **TEXTS}] * 4)
    with pytest.raises(DatasetError, match=r"eval_dataset\['b'\]: the columns 'question'"):
        dpo(tokenizer, tmp_path, eval_dataset={"a": pairs(4), "b": orca}, ref_model=tiny_llama(tokenizer, seed=3))
    trainer = dpo(tokenizer, tmp_path, ref_model=tiny_llama(tokenizer, seed=3))
    with pytest.raises(DatasetError, match="eval_dataset: the columns 'question'"):
        trainer.evaluate(orca)
    with pytest.raises(DatasetError, match="eval_dataset: the columns 'question'"):
        reward(tokenizer, tmp_path).evaluate(orca)
    kto(tokenizer, tmp_path, train_dataset=unpaired(8), ref_model=tiny_llama(tokenizer, seed=3))


def test_an_unknown_kind_is_named():
    with pytest.raises(
        ValueError, match="kind must be one of preference, unpaired_preference, text, prompt_only; got"
    ):
        as_trl_dataset(pairs(2), "pairs")


def test_the_dpo_script_trains_on_the_question(tmp_path, monkeypatch):
    tokenizer = byte_level_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_llama(tokenizer).save_pretrained(tmp_path / "model")
    write(tmp_path / "pairs.jsonl", [PAIRS["orca"][0]] * 8)
    write(tmp_path / "questions.jsonl", question_rows(8))
    seen = []
    train = DPOTrainer.train
    monkeypatch.setattr(
        DPOTrainer, "train", lambda self, *a, **k: seen.append(self.train_dataset[0]) or train(self, *a, **k)
    )
    run_here(
        "dpo", model_name_or_path=tmp_path / "model", dataset_name=tmp_path / "pairs.jsonl",
        calibration_dataset=tmp_path / "questions.jsonl", output_dir=tmp_path / "out",
    )  # fmt: skip
    assert tokenizer.decode(seen[0]["prompt_ids"]) == "You are\n\nTell 1\n\n"
