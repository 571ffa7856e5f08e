"""`calibration_dataset="self"`: the reference writes the questions before training."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from hf_calib import Question, SynthesizedQuestions, load_questions
from hf_calib.confidence import LocalModel
from hf_calib.confidence.backend import Generation
from hf_calib.scripts.arguments import QuestionArguments
from hf_calib.scripts.data import calibration_questions
from hf_calib.tasks import PromptFormat
from hf_calib.trainers import (
    RecalibrationConfig,
    RecalibrationTrainer,
    ReferenceDistributions,
    reference_distributions,
)
from hf_calib.trainers.reference import ReferenceUnavailableError
from tests.support import questions, tiny_llama, training_arguments
from tests.trainers.runs import dpo, lora, sft

PROMPT = "Question: What is this?\nA. one\nB. two\nAnswer:"


@pytest.fixture
def writers(tokenizer, monkeypatch):
    """Let every model write good questions, and list the models with their logits while they write."""
    seen = []

    def generate(source, stage, asked, prompt_format, asking, **options):
        with torch.no_grad():
            logits = source.model(**tokenizer(PROMPT, return_tensors="pt")).logits[0, -1]
        seen.append({"model": source.model, "logits": logits.clone(), "stage": stage, "seed": options["seed"]})
        return [
            [Generation(f" What is number {row} of {stage}?\nA. red {row}\nB. blue\nC. black\n", True)]
            for row in range(len(asked))
        ]

    monkeypatch.setattr(LocalModel, "generate", generate)
    return seen


def made_by_self(tokenizer, folder, **options):
    """Return a DPO trainer with a new adapter, whose five questions the reference writes."""
    options = {"calibration_dataset": "self", "self_made_questions": 5, "peft_config": lora(), **options}
    return dpo(tokenizer, folder, **options)


def logits_of(model, tokenizer):
    with torch.no_grad():
        return model.eval()(**tokenizer(PROMPT, return_tensors="pt")).logits[0, -1]


@pytest.mark.parametrize("adapter", [None, lora()])
def test_the_reference_writes_them_and_the_anchor_keeps_to_them(adapter, tokenizer, writers, tmp_path):
    expected = logits_of(tiny_llama(tokenizer), tokenizer)
    options = {"peft_config": adapter, "seed": 3}
    if adapter is None:
        options["ref_model"] = tiny_llama(tokenizer)
    trainer = made_by_self(tokenizer, tmp_path, **options)
    assert len(writers) == 1
    torch.testing.assert_close(writers[0]["logits"], expected)
    if adapter is None:
        assert writers[0]["model"] is trainer.ref_model
    path = tmp_path / "questions.jsonl"
    assert len(load_questions(path)) == 5
    assert list(trainer.calibration_run.questions) == list(load_questions(path))
    assert SynthesizedQuestions.load(path).provenance["seed"] == 3
    trainer.train()
    assert trainer.calibration_run.terms == ("anchor",)
    # The same as with the same questions from the file.
    given = dpo(tokenizer, tmp_path / "given", calibration_dataset=str(path), **options)
    given.train()
    for own, other in zip(trainer.model.parameters(), given.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_an_adapter_that_is_being_trained_does_not_write(tokenizer, writers, tmp_path):
    from peft import get_peft_model

    model = get_peft_model(tiny_llama(tokenizer), lora(init_lora_weights=False))
    assert not torch.allclose(logits_of(model, tokenizer), logits_of(tiny_llama(tokenizer), tokenizer))
    with pytest.raises(ReferenceUnavailableError, match="does not start at zero"):
        RecalibrationTrainer(
            model, RecalibrationConfig(str(tmp_path), **training_arguments()), "self", None, tokenizer
        )
    torch.testing.assert_close(writers[0]["logits"], logits_of(tiny_llama(tokenizer), tokenizer))


def test_a_later_run_into_the_folder_reads_them(tokenizer, writers, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2}
    first = made_by_self(tokenizer, tmp_path, **options)
    first.train()
    again = made_by_self(tokenizer, tmp_path, **options)
    assert len(writers) == 1
    assert list(again.calibration_run.questions) == list(first.calibration_run.questions)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for own, other in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(own, other)
    with pytest.raises(ValueError, match=r"questions\.jsonl holds questions of a run that differs in n, seed"):
        made_by_self(tokenizer, tmp_path, self_made_questions=6, seed=1)
    assert len(writers) == 1


def test_the_card_has_the_counts(tokenizer, writers, tmp_path):
    trainer = made_by_self(tokenizer, tmp_path)
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert "Calibration data: self-made-questions (5 rows), used without answers; written by llama; " in card
    assert "5 questions from 10 texts; 5 were not needed" in card
    assert "datasets:" not in card.split("---")[1]


def test_questions_beyond_the_length_limit_are_left_out_and_not_counted_on_the_card(tokenizer, writers, tmp_path):
    # The numbers of the first ten are a character shorter than the last one's.
    longest = "Question: What is number 9 of round_0?\nA. red 9\nB. blue\nC. black\nAnswer: A"
    limit = len(tokenizer(longest).input_ids)
    with pytest.warns(UserWarning, match="1 of 11 prompts are longer than"):
        trainer = made_by_self(tokenizer, tmp_path, self_made_questions=11, calibration_max_length=limit)
    assert trainer.calibration_run.calibration_source.size == 10
    trainer.train()


def test_models_that_were_not_loaded_are_told_apart(tokenizer, writers, tmp_path):
    made_by_self(tokenizer, tmp_path)
    with pytest.raises(ValueError, match=r"questions\.jsonl holds questions of a run that differs in model"):
        made_by_self(tokenizer, tmp_path, model=tiny_llama(tokenizer, seed=5))
    assert len(writers) == 1


def test_a_reference_that_follows_the_model_is_refused_before_it_writes(tokenizer, writers, tmp_path):
    with pytest.raises(ReferenceUnavailableError, match="sync_ref_model"):
        made_by_self(tokenizer, tmp_path, peft_config=None, ref_model=tiny_llama(tokenizer), sync_ref_model=True)
    assert not writers


def test_another_reference_writes_them(tokenizer, writers, tmp_path):
    teacher = tiny_llama(tokenizer, seed=7)
    trainer = made_by_self(tokenizer, tmp_path, calibration_reference_model=teacher)
    assert writers[0]["model"] is teacher
    assert len(trainer.calibration_run.questions) == 5


def test_a_reference_given_by_name_writes_them(tokenizer, writers, tmp_path):
    teacher = tiny_llama(tokenizer, seed=7)
    teacher.save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    name = str(tmp_path / "teacher")
    args = RecalibrationConfig(str(tmp_path / "out"), **training_arguments(self_made_questions=6))
    trainer = RecalibrationTrainer(tiny_llama(tokenizer), args, "self", name, tokenizer)
    torch.testing.assert_close(writers[0]["logits"], logits_of(teacher, tokenizer))
    assert len(trainer.train_dataset) == 6
    assert trainer.calibration_run.calibration_source.name == "self-made-questions"
    trainer.train()
    provenance = json.loads((tmp_path / "out" / "questions.provenance.json").read_text())
    assert provenance["model"] == {"name": name}


def test_fine_tuning_on_answers_adds_them_as_prompts(tokenizer, writers, tmp_path):
    own = questions(12)
    options = {"train_dataset": own, "anchor_weight": 0.5, "em_weight": 1.0, "permute_options": True}
    written = sft(tokenizer, tmp_path / "self", calibration_dataset="self", self_made_questions=5, **options)
    prompts = load_questions(tmp_path / "self" / "questions.jsonl")
    given = sft(tokenizer, tmp_path / "given", calibration_dataset=prompts, **options)
    assert len(prompts) == 5
    assert list(written.calibration_run.questions) == list(given.calibration_run.questions)
    assert written.calibration_run.trained_on == given.calibration_run.trained_on
    for trainer in (written, given):
        trainer.train()
    for own, other in zip(written.model.parameters(), given.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_fine_tuning_keeps_its_own_questions_if_written_ones_are_too_long(tokenizer, writers, tmp_path):
    longest = "Question: What is number 9 of round_0?\nA. red 9\nB. blue\nC. black\nAnswer: A"
    options = {"self_made_questions": 11, "calibration_max_length": len(tokenizer(longest).input_ids)}
    own = [Question("Is it red?", ("yes", "no"), row % 2) for row in range(4)]
    with pytest.warns(UserWarning, match="1 of 11 prompts are longer than"):
        trainer = sft(tokenizer, tmp_path, train_dataset=own, calibration_dataset="self", anchor_weight=0.5, **options)
    assert len(trainer.calibration_run.questions) == len(own) + 10
    assert len(trainer.calibration_run.trained_on) == len(own)


def test_where_nothing_can_be_written_is_an_error_before_anything_is(tokenizer, writers, tmp_path):
    with pytest.raises(ValueError, match=r"calibration_dataset='self': .* anchor_weight is 0; raise it"):
        made_by_self(tokenizer, tmp_path, anchor_weight=0.0)
    with pytest.raises(ValueError, match=r"calibration_dataset='self': .* anchor_weight is 0; raise it"):
        sft(tokenizer, tmp_path, calibration_dataset="self")
    known = reference_distributions(tiny_llama(tokenizer), tokenizer, questions(3))
    with pytest.raises(ReferenceUnavailableError, match="distributions computed beforehand cannot write"):
        made_by_self(tokenizer, tmp_path, calibration_reference_model=known)
    assert isinstance(known, ReferenceDistributions)
    for em_dataset in (None, questions(4)):
        with pytest.raises(ValueError, match=r"^em_weight: the ECE regularizer needs answers, .* have none; set em_w"):
            made_by_self(tokenizer, tmp_path, em_weight=1.0, em_dataset=em_dataset)
    assert writers == []


def test_sharded_weights_are_an_error_that_says_what_to_do(tokenizer, writers, tmp_path, monkeypatch):
    from hf_calib.trainers.self_made import self_made_questions

    trainer = dpo(tokenizer, tmp_path, peft_config=lora())
    monkeypatch.setattr(trainer, "is_fsdp_enabled", True)
    with pytest.raises(ReferenceUnavailableError, match=r"sharded .* hf_calib\.synthesize_questions\(.*, 500\)"):
        self_made_questions(trainer)
    assert writers == []


def test_a_model_that_cannot_write_questions_stops_the_run(tokenizer, tmp_path):
    model = tiny_llama(tokenizer, positions=2048)
    with pytest.raises(ValueError, match="fewer than 5% of the texts"):
        made_by_self(tokenizer, tmp_path, model=model)
    assert not (tmp_path / "questions.jsonl").exists()


def test_the_scripts_leave_the_word_to_the_trainer():
    arguments = QuestionArguments(calibration_dataset="self", calibration_on_bad_row="skip")
    assert calibration_questions(arguments)["calibration_dataset"] == "self"


def test_questions_of_the_writing_have_the_trainers_format(tokenizer, writers, tmp_path):
    trainer = made_by_self(tokenizer, tmp_path, prompt_format=PromptFormat(question="Q: {question}"))
    term = trainer._calibration_term
    assert tokenizer.decode(term.questions[0].input_ids).startswith("Q: What is number 0")
    assert isinstance(trainer.calibration_run.questions[0], Question)


def take_part(folder):
    """Take part in a group of processes that write questions and read them again; print what this one has and did."""
    from hf_calib.confidence import local
    from tests.support import byte_level_tokenizer

    rows = []

    def sample(sampler, items, prefix):
        rows.extend(item.row for item in items)
        return [[(f" What is number {item.row}?\nA. red\nB. blue\nC. black\n", True)] for item in items]

    local._Sampler.__call__ = sample
    tokenizer = byte_level_tokenizer()
    model = tiny_llama(tokenizer, positions=2048)
    found = []
    for _ in range(2):
        trainer = made_by_self(tokenizer, folder, model=model, self_made_questions=80, max_length=2000)
        found.append([question.question for question in trainer.calibration_run.questions])
        model = trainer.model.unload()
    print(json.dumps({"questions": found, "rows": rows}))
    trainer.accelerator.end_training()


@pytest.mark.distributed
def test_processes_share_the_writing_and_each_gets_all(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    group = {
        **os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
        "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    command = [
        sys.executable,
        "-c",
        f"from tests.trainers.test_self_made import take_part; take_part({str(tmp_path)!r})",
    ]
    started = [
        subprocess.Popen(command, env={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        first, second = (json.loads(process.communicate(timeout=240)[0].splitlines()[-1]) for process in started)
    finally:
        for process in started:
            process.kill()
    assert first["questions"] == second["questions"]
    assert first["questions"][0] == first["questions"][1] == [f"What is number {row}?" for row in range(80)]
    assert sorted([*first["rows"], *second["rows"]]) == list(range(160))
    assert first["rows"]
    assert second["rows"]
