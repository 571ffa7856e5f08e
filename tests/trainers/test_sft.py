"""Questions as the training data of the SFT trainer (CFT, RCFT), and the forms in which models come."""

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, IterableDataset
from peft import PromptTuningConfig, get_peft_model
from transformers import TrainingArguments
from trl import SFTConfig

from hf_calib import (
    CalibrationAwareConfig,
    CalibrationAwareSFTConfig,
    CalibrationAwareSFTTrainer,
    CalibrationAwareTrainer,
)
from hf_calib.tasks import PromptFormat, Question, QuestionError, encode_questions
from hf_calib.tasks.questions import DecisionQuestion
from tests.support import (
    byte_level_tokenizer,
    pairs,
    question_rows,
    questions,
    tiny_gpt2,
    tiny_llama,
    training_arguments,
)
from tests.trainers.runs import dpo, lora, sft

TEXT = pairs(16).rename_column("chosen", "completion").remove_columns("rejected")


def written(rows, folder):
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


FORMS = {
    "questions": lambda rows, folder: questions(24, choices=(4, 3)),
    "rows": lambda rows, folder: rows,
    "dataset": lambda rows, folder: Dataset.from_list(rows),
    "stream": lambda rows, folder: IterableDataset.from_generator(lambda: iter(rows)).cast(
        Dataset.from_list(rows).features
    ),
    "stream without known columns": lambda rows, folder: IterableDataset.from_generator(lambda: iter(rows)),
    "file": written,
}


@pytest.mark.parametrize("form", FORMS)
def test_labels_are_on_the_right_options_token(form, tokenizer, tmp_path):
    data = FORMS[form](question_rows(24, choices=(4, 3)), tmp_path)
    trainer = sft(tokenizer, tmp_path, train_dataset=data, eval_dataset=question_rows(6, seed=5))
    assert len(trainer.train_dataset) == 24
    for row, question in zip(trainer.train_dataset, questions(24, choices=(4, 3)), strict=True):
        text = tokenizer.decode(row["input_ids"])
        assert text.endswith(f"Answer: {question.letters[question.answer]}")
        assert text.startswith(PromptFormat().render(question))
        assert row["labels"] == [-100] * (len(row["input_ids"]) - 1) + [row["input_ids"][-1]]
        assert tokenizer.decode(row["labels"][-1:]) == f" {question.letters[question.answer]}"
    assert len(trainer.eval_dataset) == 6


def test_labels_on_question_and_answer(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, supervised_on="question_and_answer")
    assert all(row["labels"] == row["input_ids"] for row in trainer.train_dataset)


def test_the_tokens_of_the_loss_are_chosen_for_questions_alone(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="supervised_on must be one of"):
        sft(tokenizer, tmp_path, supervised_on="question")
    with pytest.raises(ValueError, match="needs questions as train_dataset"):
        sft(
            tokenizer, tmp_path, train_dataset=Dataset.from_dict({"text": ["red"]}), calibration_dataset=questions(4),
            supervised_on="question_and_answer",
        )  # fmt: skip


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("supervised_on", ["answer", "question_and_answer"])
def test_the_loss_is_the_cross_entropy(supervised_on, side, tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = side
    asked = questions(8, choices=(4, 2))
    trainer = sft(
        tokenizer, tmp_path, train_dataset=asked, per_device_train_batch_size=8, max_steps=1, logging_steps=1,
        supervised_on=supervised_on,
    )  # fmt: skip
    model = tiny_llama(tokenizer).eval()  # the same weights from the same seed
    trainer.train()
    losses, count = 0.0, 0
    for item in encode_questions(asked, tokenizer):
        ids = torch.tensor([[*item.input_ids, item.option_ids[item.answer]]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0]
        first = 0 if supervised_on == "question_and_answer" else ids.shape[1] - 2
        losses += float(F.cross_entropy(logits[first:-1], ids[0, first + 1 :], reduction="sum"))
        count += ids.shape[1] - 1 - first
    assert trainer.state.log_history[0]["loss"] == pytest.approx(losses / count, rel=1e-5)


@pytest.mark.parametrize(
    ("tiny", "peft"), [(tiny_llama, None), (tiny_gpt2, None), (tiny_llama, "lora"), (tiny_llama, "prompt")]
)
def test_the_loss_from_the_answers_logits_is_trls(tiny, peft, tokenizer, tmp_path):
    """The same losses, metrics and weights as from TRL's own loss, over steps and in evaluation."""
    peft_config = {"lora": lora(), "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)}.get(peft)
    found = {}
    for ours in (True, False):
        trainer = sft(
            tokenizer, tmp_path, model=tiny(tokenizer), peft_config=peft_config, logging_steps=1, max_steps=3,
            train_dataset=questions(16, choices=(4, 2)), eval_dataset=questions(5, seed=4), optim="sgd",
            gradient_accumulation_steps=2, per_device_train_batch_size=2, average_tokens_across_devices=ours,
        )  # fmt: skip
        assert trainer._answers_only
        trainer._answers_only = ours
        for module in trainer.model.modules():  # whose draws depend on the tensors' shapes
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        metrics = trainer.evaluate()
        trainer.train()
        weights = [p.detach() for p in trainer.model.parameters() if p.requires_grad]
        found[ours] = metrics, [entry for entry in trainer.state.log_history if "loss" in entry], weights
    for name in ("eval_loss", "eval_entropy", "eval_mean_token_accuracy"):
        assert found[True][0][name] == pytest.approx(found[False][0][name], rel=1e-5)
    for ours, theirs in zip(*(part[1] for part in found.values()), strict=True):
        for name in ("loss", "entropy", "mean_token_accuracy", "num_tokens", "grad_norm"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name
    for ours, theirs in zip(found[True][2], found[False][2], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-3)


def test_logits_are_computed_at_the_answers_alone(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, per_device_train_batch_size=4, max_steps=2)
    positions = []
    trainer.model.lm_head.register_forward_hook(
        lambda module, args, output: positions.append(output.shape[:-1].numel())
    )
    trainer.train()
    assert positions == [1, 2, 4, 4]  # the first two tell whether padding matters


def test_evaluation_on_text_is_trls_own(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, eval_dataset={"text": TEXT.select(range(4)), "asked": questions(4, seed=6)})
    metrics = trainer.evaluate()
    trainer._answers_only = False
    assert trainer.evaluate()["eval_text_loss"] == metrics["eval_text_loss"]
    assert metrics["eval_asked_loss"] != metrics["eval_text_loss"]


def test_the_weight_of_its_own_loss_cannot_be_changed(tokenizer, tmp_path):
    with pytest.raises(ValueError, match=r"supervised_weight=0: .* or use RecalibrationTrainer"):
        sft(tokenizer, tmp_path, anchor_weight=1.0, supervised_weight=0.0)


def test_its_own_loss_is_not_added_twice(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path)
    assert trainer._calibration_term is None  # the supervised term is the trainer's own loss, the others weigh nothing
    trainer = sft(tokenizer, tmp_path, peft_config=lora(), anchor_weight=1.0)
    assert trainer._calibration_term.arguments.supervised_weight == 0.0


def rows_of(trainer):
    return {tuple(row["input_ids"][:-1]) for row in trainer.train_dataset}


def test_rcft_sets_questions_aside_from_every_loss(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, em_weight=1.0, em_fraction=0.25, logging_steps=1)
    term = trainer._calibration_term
    trained, held_out = ({item.input_ids for item in part} for part in (term.questions, term.held_out))
    assert len(held_out) == 10
    assert trained == rows_of(trainer)
    assert trained.isdisjoint(held_out)
    assert trained | held_out == {item.input_ids for item in encode_questions(questions(40), tokenizer)}
    trainer.train()
    assert float(term.targets.counts.sum()) > 0
    assert trainer.state.log_history[1]["calibration/em"] > 0
    assert "calibration/supervised" not in trainer.state.log_history[1]


def test_the_split_follows_the_seed(tokenizer, tmp_path):
    first, again, other = (rows_of(sft(tokenizer, tmp_path, em_weight=1.0, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_with_an_em_dataset_all_questions_are_trained_on(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, em_weight=1.0, em_dataset=questions(12, seed=9))
    assert len(trainer.train_dataset) == len(trainer._calibration_term.questions) == 40
    assert len(trainer._calibration_term.held_out) == 12


def test_text_with_calibration_questions_beside(tokenizer, tmp_path):
    trainer = sft(
        tokenizer, tmp_path, train_dataset=TEXT, calibration_dataset=questions(20), logging_steps=1, em_weight=0.5
    )
    assert trainer._calibration_term.arguments.supervised_weight == 1.0
    trainer.train()
    logs = trainer.state.log_history[0]
    assert logs["calibration/loss"] == pytest.approx(
        logs["calibration/supervised"] + 0.5 * logs["calibration/em"], rel=1e-6
    )
    assert logs["loss"] > logs["calibration/loss"]


def test_packed_text_beside_unpacked_questions(tokenizer, tmp_path):
    trainer = sft(
        tokenizer, tmp_path, train_dataset=TEXT, calibration_dataset=questions(20), packing=True, max_length=128,
        packing_strategy="wrapped", per_device_train_batch_size=1, calibration_batch_size=4, max_steps=2,
    )  # fmt: skip
    trainer.train()
    assert trainer.state.global_step == 2


def test_streamed_text_beside_questions(tokenizer, tmp_path):
    trainer = sft(tokenizer, tmp_path, train_dataset=TEXT.to_iterable_dataset(), calibration_dataset=questions(20))
    trainer.train()
    assert trainer.state.global_step == 3


def test_evaluation_sets_may_be_questions_under_names(tokenizer, tmp_path):
    sets = {"easy": questions(6, seed=5), "hard": Dataset.from_list(question_rows(6, seed=6))}
    trainer = sft(tokenizer, tmp_path, eval_dataset=sets)
    metrics = trainer.evaluate()
    assert {"eval_easy_loss", "eval_hard_loss"} <= set(metrics)
    assert trainer.evaluate(questions(6, seed=5))["eval_loss"] == pytest.approx(metrics["eval_easy_loss"], rel=1e-6)


LONG = Question("word " * 200 + "?", ("a", "b"), 0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"train_dataset": [*questions(3), *questions(2, answered=False)]}, QuestionError, "2 of 5 have none"),
        ({"train_dataset": [*questions(3), LONG], "max_length": 150}, QuestionError, "longer than 150 tokens"),
        ({"train_dataset": [*questions(3), LONG], "calibration_max_length": 99}, QuestionError, "longer than 99"),
        ({"train_dataset": []}, QuestionError, "no question"),
        (
            {"train_dataset": [{"question": "a?", "choice": ["b", "c"]}]},
            QuestionError,
            "pass --columns .*choices=choice",
        ),
        (
            {"train_dataset": [Question("q?", ("x", "x"), 0)], "calibration_identical_choices": "error"},
            QuestionError,
            "identical",
        ),
        ({"train_dataset": questions(1), "em_weight": 1.0}, QuestionError, "1 of 1 have one; pass more questions"),
        ({"calibration_dataset": questions(4)}, ValueError, "prompts for the anchor, but anchor_weight is 0"),
        ({"packing": True}, ValueError, "packing=False"),
        ({"calibration_prompt": "chat"}, ValueError, "no chat template"),
        ({"eval_dataset": questions(3, answered=False)}, QuestionError, "evaluating the supervised loss"),
    ],
)
def test_bad_questions_are_named(tokenizer, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        sft(tokenizer, tmp_path, **options)


@pytest.mark.parametrize("confidence", ["letters", "text-tokens"])
def test_an_answer_that_would_be_cut_off_is_refused(tokenizer, tmp_path, confidence):
    asked = [*questions(3), Question("word " * 60 + "?", ("a", "b"), 0)]
    options = {"train_dataset": asked, "calibration_max_length": 400, "calibration_confidence": confidence}
    whole = sft(tokenizer, tmp_path, max_length=None, **options)
    longest = max(len(row["input_ids"]) for row in whole.train_dataset)
    trainer = sft(tokenizer, tmp_path, max_length=longest, **options)
    assert len(trainer.train_dataset) == 4
    with pytest.raises(
        QuestionError, match=rf"^max_length: question 3, .* {longest} tokens .* to {longest - 1} tokens;"
    ):
        sft(tokenizer, tmp_path, max_length=longest - 1, **options)


def test_prompts_beside_questions_are_for_the_anchor_alone(tokenizer, tmp_path):
    prompts = questions(6, seed=8)
    trainer = sft(
        tokenizer,
        tmp_path,
        calibration_dataset=prompts,
        anchor_weight=1.0,
        em_weight=1.0,
        logging_steps=1,
        max_steps=2,
    )
    term = trainer._calibration_term
    # Of the 40 with answers, 8 are held out for the E-step.
    assert len(trainer.train_dataset) == 32
    assert [item.answer >= 0 for item in term.questions] == [True] * 32 + [False] * 6
    assert len(term.held_out) == 8
    expected = encode_questions(prompts, tokenizer, PromptFormat())
    assert [list(item.input_ids) for item in term.questions[32:]] == [list(item.input_ids) for item in expected]
    trainer.train()
    assert sum("calibration/anchor" in entry for entry in trainer.state.log_history) == 2


def test_distributions_of_prompts_beside_questions_are_not_used(tokenizer, tmp_path):
    target = (0.7, 0.1, 0.1, 0.1)
    prompts = [DecisionQuestion(own.question, own.choices, target=target) for own in questions(6, seed=8)]
    trainer = sft(tokenizer, tmp_path, calibration_dataset=prompts, anchor_weight=1.0)
    run = trainer.calibration_run
    assert len(trainer.train_dataset) == len(run.trained_on) == run.calibration_source.size == 40
    added = trainer._calibration_term.questions[40:]
    assert [(item.answer, item.target) for item in added] == [(-1, None)] * 6


def test_what_is_dropped_or_skipped_is_counted(tokenizer, tmp_path):
    asked = [*questions(5), LONG, Question("q?", ("x", "x"), 0)]
    with pytest.warns(UserWarning, match="1 of 7 questions have two identical"):
        trainer = sft(
            tokenizer, tmp_path, train_dataset=asked, calibration_max_length=150, calibration_on_too_long="drop",
            calibration_identical_choices="skip", em_weight=1.0, em_dataset=questions(4),
        )  # fmt: skip
    assert len(trainer.train_dataset) == len(trainer._calibration_term.questions) == 5
    assert trainer.calibration_run.calibration_source.size == 5


# The forms of arguments and models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_level_tokenizer(chat=True)
    tokenizer.save_pretrained(folder)
    tiny_llama(tokenizer).save_pretrained(folder)
    return folder


def test_without_arguments(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The default arguments ask for bfloat16, which transformers refuses where it sees no GPU.
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    trainer = CalibrationAwareSFTTrainer(str(saved), train_dataset=questions(8))
    assert isinstance(trainer.args, SFTConfig)
    assert len(trainer.train_dataset) == 8


@pytest.mark.parametrize("config", [SFTConfig, TrainingArguments])
def test_plain_arguments(config, saved, tmp_path):
    args = config(str(tmp_path), **training_arguments(max_steps=1))
    trainer = CalibrationAwareSFTTrainer(str(saved), args=args, train_dataset=questions(8))
    trainer.train()
    assert trainer.state.global_step == 1
    assert trainer._calibration_term is None


def test_a_model_in_memory_without_a_name_needs_a_tokenizer(tokenizer, tmp_path):
    args = CalibrationAwareSFTConfig(str(tmp_path), **training_arguments())
    with pytest.raises(ValueError, match=r"^processing_class: the model has no name .*; pass processing_class="):
        CalibrationAwareSFTTrainer(tiny_llama(tokenizer), args, train_dataset=questions(8))


@pytest.mark.parametrize("form", ["str", "instance", "peft_config", "PeftModel"])
def test_models_come_in_every_form(form, saved, tokenizer, tmp_path):
    model, peft_config = str(saved), lora() if form == "peft_config" else None
    if form != "str":
        model = tiny_llama(tokenizer)
        model.config.name_or_path = str(saved)
    if form == "PeftModel":
        model = get_peft_model(model, lora())
    args = CalibrationAwareSFTConfig(str(tmp_path), **training_arguments(em_weight=1.0, logging_steps=1))
    trainer = CalibrationAwareSFTTrainer(model, args, train_dataset=questions(20), peft_config=peft_config)
    trainer.train()
    assert trainer.state.log_history[0]["calibration/em"] > 0
    trainable = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert all("lora_" in name for name in trainable) == (form in ("peft_config", "PeftModel"))


def test_a_tokenizer_without_a_padding_token(tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.pad_token = None
    trainer = sft(tokenizer, tmp_path, em_weight=1.0, eval_calibration_dataset=questions(5, choices=(2, 4)))
    trainer.train()
    assert trainer._calibration_term.collator.pad_token_id == trainer.processing_class.pad_token_id
    assert trainer.processing_class.pad_token == "<eos>"


@pytest.mark.parametrize("make", [dpo, sft])
def test_chat_prompts(make, saved, tmp_path):
    tokenizer = byte_level_tokenizer(chat=True)
    trainer = make(tokenizer, tmp_path, peft_config=lora(), calibration_prompt="chat", em_weight=1.0)
    prompt = tokenizer.decode(trainer._calibration_term.questions[0].input_ids)
    assert prompt.startswith("<|user|>\nQuestion:")
    trainer.train()
    if make is sft:
        assert tokenizer.decode(trainer.train_dataset[0]["input_ids"]).startswith("<|user|>\nQuestion:")


def test_dpo_from_a_name(saved, tmp_path):
    args = CalibrationAwareConfig(str(tmp_path), **training_arguments(logging_steps=1, max_steps=2))
    trainer = CalibrationAwareTrainer(
        str(saved), args=args, train_dataset=pairs(16), calibration_dataset=questions(8), peft_config=None
    )
    trainer.train()
    anchors = [entry["calibration/anchor"] for entry in trainer.state.log_history if "calibration/anchor" in entry]
    assert anchors[0] == pytest.approx(0.0, abs=1e-6)
    assert anchors[1] > 1e-6


def test_an_adapter_trained_before_is_its_own_reference(tokenizer, tmp_path):
    """TRL keeps a copy of the adapter; the anchor must keep to that and not to the bare model."""
    model = get_peft_model(tiny_llama(tokenizer), lora())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    trainer = dpo(tokenizer, tmp_path, model=model, logging_steps=1, supervised_weight=0.0, max_steps=2)
    trainer.train()
    anchors = [entry["calibration/anchor"] for entry in trainer.state.log_history if "calibration/anchor" in entry]
    assert anchors[0] == pytest.approx(0.0, abs=1e-6)
    assert anchors[1] > 1e-6
    trainable = {name.split(".")[-2] for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert trainable == {"default"}


def test_a_reference_without_the_anchor_is_an_error(tokenizer, tmp_path):
    with pytest.raises(
        ValueError, match="calibration_reference_model: has no effect with anchor_weight=0; set anchor_w"
    ):
        sft(tokenizer, tmp_path, calibration_reference_model="does/not/exist")
    with pytest.raises(ValueError, match="em_dataset: needs an em_weight above 0; set what is missing, or"):
        sft(tokenizer, tmp_path, em_dataset=questions(20, seed=3))
