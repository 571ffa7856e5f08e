"""The example scripts on files: what they train, write and print, and what they say to bad input."""

import json
import warnings

import pytest
import safetensors.torch
import torch

import hf_calib
from hf_calib.hub import CalibrationWarning
from tests.examples.scripts import flags, printed_table, run_apart, run_here, script, write
from tests.support import byte_level_tokenizer, pairs, question_rows, tiny_llama

SHOWN = ("accuracy", "confidence", "ece", "cw_ece", "smooth_ece", "nll", "brier", "option_mass")


def reported_by_hand(folder, questions_file):
    """All measures of a saved model, loaded again and asked by `hf_calib.predict`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        loaded = hf_calib.load(str(folder), dtype="float32")
    asked = hf_calib.load_questions(questions_file)
    predictions = hf_calib.predict(loaded.model, loaded.tokenizer, asked, prompt_format=loaded.prompt_format)
    return predictions.report().measures


def assert_printed_is_right(output, base, folder, questions_file):
    table = printed_table(output)
    assert table["after"]["questions"] == len(hf_calib.load_questions(questions_file))
    for stage, where in (("before", base), ("after", folder)):
        measures = reported_by_hand(where, questions_file)
        for name in SHOWN:
            assert table[stage][name] == pytest.approx(measures[name].value, abs=1.01e-4), (stage, name)
    assert table["before"]["nll"] != table["after"]["nll"]


def adapter_moved(folder):
    weights = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    moved = [bool(value.abs().max() > 0) for name, value in weights.items() if "lora_B" in name]
    return len(moved) > 0 and all(moved)


def test_dpo_trains_an_adapter_saves_it_and_prints_what_the_saved_adapter_gives(saved_model, data, tmp_path, capsys):
    out = tmp_path / "adapter"
    run_here(
        "dpo",
        model_name_or_path=saved_model,
        dataset_name=data / "pairs.jsonl",
        calibration_dataset=data / "questions.csv",
        eval_calibration_dataset=data / "held_out.parquet",
        output_dir=out,
        use_peft=True,
        eval_strategy="steps",
        eval_steps=2,
    )
    assert adapter_moved(out)
    assert_printed_is_right(capsys.readouterr().out, saved_model, out, data / "held_out.parquet")
    for name in ("README.md", "calibration_report.json", "hf_calib.json", "tokenizer.json"):
        assert (out / name).stat().st_size > 0
    # The card names the data, not where they lie on this machine.
    card = (out / "README.md").read_text()
    assert "pairs.jsonl" in card
    assert str(data) not in card


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_sft_on_questions_is_cft_with_full_weights(saved_model, data, tmp_path, capsys, suffix):
    out = tmp_path / "cft"
    run_here(
        "sft",
        model_name_or_path=saved_model,
        dataset_name=data / f"questions{suffix}",
        eval_calibration_dataset=data / "held_out.jsonl",
        output_dir=out,
        learning_rate=1e-3,
    )
    before = safetensors.torch.load_file(saved_model / "model.safetensors")
    after = safetensors.torch.load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before if "self_attn" in name)
    assert_printed_is_right(capsys.readouterr().out, saved_model, out, data / "held_out.jsonl")


def test_rcft_takes_its_e_step_from_the_given_questions(saved_model, data, tmp_path, capsys):
    run_here(
        "sft",
        model_name_or_path=saved_model,
        dataset_name=data / "questions.parquet",
        em_dataset=data / "held_out.csv",
        em_weight=1.0,
        output_dir=tmp_path / "rcft",
        use_peft=True,
    )
    assert "calibration/em" in capsys.readouterr().out
    settings = json.loads((tmp_path / "rcft" / "calibration_report.json").read_text())["settings"]
    assert settings["em_weight"] == 1.0


def test_sft_on_text_keeps_to_a_reference_model(saved_model, data, tmp_path, capsys):
    text = write(tmp_path / "text.csv", [{"text": f"The stone number {i} is red."} for i in range(24)])
    run_here(
        "sft",
        model_name_or_path=saved_model,
        dataset_name=text,
        calibration_dataset=data / "questions.jsonl",
        calibration_reference_model=saved_model,
        anchor_weight=5.0,
        output_dir=tmp_path / "out",
    )
    logged = capsys.readouterr().out
    assert "calibration/anchor" in logged
    assert "calibration/em" not in logged


def test_questions_are_asked_in_a_chat_where_that_is_said(data, tmp_path, capsys):
    tokenizer = byte_level_tokenizer(chat=True)
    tokenizer.save_pretrained(tmp_path / "model")
    tiny_llama(tokenizer).save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    run_here(
        "dpo",
        model_name_or_path=tmp_path / "model",
        dataset_name=data / "pairs.parquet",
        calibration_dataset=data / "questions.parquet",
        eval_calibration_dataset=data / "held_out.csv",
        calibration_prompt="chat",
        output_dir=out,
        use_peft=True,
    )
    in_chat = hf_calib.PromptFormat(chat=True)
    loaded = hf_calib.load(str(out), dtype="float32")
    assert loaded.prompt_format == in_chat
    asked = hf_calib.load_questions(data / "held_out.csv")
    by_prompt = [
        hf_calib.predict(loaded.model, loaded.tokenizer, asked, prompt_format=prompt_format).report().measures["nll"]
        for prompt_format in (in_chat, hf_calib.PromptFormat())
    ]
    printed = printed_table(capsys.readouterr().out)["after"]["nll"]
    assert printed == pytest.approx(by_prompt[0].value, abs=1.01e-4)
    assert printed != pytest.approx(by_prompt[1].value, abs=1.01e-3)


def test_an_evaluation_split_of_the_pairs_is_evaluated_on(saved_model, tmp_path, capsys):
    folder = tmp_path / "pairs"
    folder.mkdir()
    write(folder / "train.jsonl", list(pairs(24)))
    write(folder / "test.jsonl", list(pairs(8, seed=3)))
    run_here(
        "dpo",
        model_name_or_path=saved_model,
        dataset_name=folder,
        output_dir=tmp_path / "out",
        use_peft=True,
        eval_strategy="steps",
        eval_steps=3,
    )
    assert "eval_rewards/margins" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["dpo", "sft", "kto", "grpo", "rloo"])
def test_the_flags_are_those_of_trl_and_the_calibration_ones(kind):
    trl_script = __import__(f"trl.scripts.{kind}", fromlist=["make_parser"])
    ours, theirs = script(kind).make_parser(), trl_script.make_parser()

    def names(parser):
        return {option for action in parser._actions for option in action.option_strings}

    assert names(theirs) <= names(ours)
    new = names(ours) - names(theirs)
    assert {"--calibration_dataset", "--eval_calibration_dataset", "--em_dataset", "--anchor_weight"} <= new


def test_a_misspelt_flag_is_refused():
    with pytest.raises(ValueError, match="calibration_datset"):
        script("dpo").make_parser().parse_args_and_config(flags(output_dir="x", calibration_datset="y"))


def bad_input(saved_model, data, tmp_path, **options):
    given = {"calibration_dataset": data / "questions.jsonl", "dataset_name": data / "pairs.jsonl", **options}
    run_here("dpo", model_name_or_path=saved_model, output_dir=tmp_path / "out", use_peft=True, **given)


def test_a_misspelt_column_of_the_questions_is_named(saved_model, data, tmp_path):
    rows = [{"question": row["question"], "choces": row["choices"]} for row in question_rows(4)]
    path = write(tmp_path / "questions.jsonl", rows)
    with pytest.raises(ValueError, match=r"questions\.jsonl, line 1: .*pass --columns .*choices=choces"):
        bad_input(saved_model, data, tmp_path, calibration_dataset=path)


def test_a_misspelt_column_of_the_pairs_is_named(saved_model, data, tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": "a", "choosen": "b", "rejected": "c"}])
    with pytest.raises(
        ValueError, match=r"p\.jsonl has the columns .*\('choosen' for 'chosen'\?\); expected 'prompt'"
    ):
        bad_input(saved_model, data, tmp_path, dataset_name=path)


def test_empty_questions_are_refused(saved_model, data, tmp_path):
    path = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(ValueError, match=r"empty\.jsonl holds no question; give a dataset with at least one row"):
        bad_input(saved_model, data, tmp_path, calibration_dataset=path)


def test_a_chat_prompt_without_a_template_is_refused(saved_model, data, tmp_path):
    with pytest.raises(ValueError, match="chat template"):
        bad_input(saved_model, data, tmp_path, calibration_prompt="chat")


@pytest.mark.nightly
def test_both_scripts_run_as_commands(saved_model, data, tmp_path):
    done = run_apart(
        "dpo",
        model_name_or_path=saved_model,
        dataset_name=data / "pairs.csv",
        calibration_dataset=data / "questions.jsonl",
        eval_calibration_dataset=data / "held_out.jsonl",
        output_dir=tmp_path / "dpo",
        use_peft=True,
    )
    assert done.returncode == 0, done.stderr
    assert adapter_moved(tmp_path / "dpo")
    assert_printed_is_right(done.stdout, saved_model, tmp_path / "dpo", data / "held_out.jsonl")
    done = run_apart(
        "sft",
        model_name_or_path=saved_model,
        dataset_name=data / "questions.csv",
        eval_calibration_dataset=data / "held_out.jsonl",
        output_dir=tmp_path / "sft",
        em_weight=1.0,
        use_peft=True,
    )
    assert done.returncode == 0, done.stderr
    assert adapter_moved(tmp_path / "sft")
    assert_printed_is_right(done.stdout, saved_model, tmp_path / "sft", data / "held_out.jsonl")


@pytest.mark.nightly
def test_a_command_fails_with_the_message_last(saved_model, data, tmp_path):
    done = run_apart(
        "dpo",
        model_name_or_path=saved_model,
        dataset_name="missing.jsonl",
        calibration_dataset=data / "questions.jsonl",
        output_dir=tmp_path / "out",
    )
    assert done.returncode != 0
    message = "there is no file or folder 'missing.jsonl' to read the dataset from"
    assert message in done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    "config",
    [
        "zero3_cpu",
        *(pytest.param(f"{name}_cpu", marks=pytest.mark.nightly) for name in ("ddp", "zero2", "zero3_offload")),
    ],
)
def test_the_launch_files_train_on_two_processes_what_one_would(saved_model, data, tmp_path, config):
    common = {
        "model_name_or_path": saved_model,
        "dataset_name": data / "pairs.jsonl",
        "calibration_dataset": data / "questions.jsonl",
        "eval_calibration_dataset": data / "held_out.jsonl",
        "use_peft": True,
        # Where gradients are near zero Adam would turn their rounding into whole steps.
        "adam_epsilon": 1e-3,
    }
    run_here("dpo", output_dir=tmp_path / "one", calibration_batch_size=4, **common)
    out = tmp_path / "two"
    done = run_apart(
        "dpo",
        launcher=("accelerate", "launch", "--config_file", f"examples/accelerate_configs/{config}.yaml"),
        timeout=600,
        output_dir=out,
        per_device_train_batch_size=2,
        calibration_batch_size=2,
        **{**common, "save_strategy": "steps", "save_steps": 3},
    )
    assert done.returncode == 0, done.stderr
    assert_printed_is_right(done.stdout, saved_model, out, data / "held_out.jsonl")
    assert "CPU, 2 processes" in (out / "calibration_report.json").read_text()
    one, two = (
        safetensors.torch.load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "one", out)
    )
    assert adapter_moved(out)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-3)
    # Only stage 3 parts the weights, so that every process saves its own.
    shards = {path.name for path in (out / "checkpoint-3").rglob("zero_pp_rank_*_model_states.pt")}
    expected = {f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(2)}
    assert shards == (expected if config.startswith("zero3") else set())
