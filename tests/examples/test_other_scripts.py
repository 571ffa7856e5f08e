"""The scripts of the other trainers on files and a small model."""

from types import SimpleNamespace

import pytest
from trl.rewards import accuracy_reward, think_format_reward

from hf_calib import load_questions, reference_distributions
from hf_calib.scripts.rewards import reward_functions, tokenized_prompts
from hf_calib.trainers.trl_compatibility import has_ppo
from tests.examples.scripts import EXAMPLES, run_here, script, write
from tests.examples.test_scripts import adapter_moved, assert_printed_is_right
from tests.support import byte_level_tokenizer, pairs, tiny_llama
from tests.trainers.runs import unpaired
from tests.trainers.test_ppo import classifier


def check(kind, saved_model, data, tmp_path, capsys, **options):
    out = tmp_path / "adapter"
    run_here(
        kind, model_name_or_path=saved_model, calibration_dataset=data / "questions.csv",
        eval_calibration_dataset=data / "held_out.jsonl", output_dir=out, use_peft=True, **options,
    )  # fmt: skip
    assert adapter_moved(out)
    printed = capsys.readouterr().out
    assert_printed_is_right(printed, saved_model, out, data / "held_out.jsonl")
    assert (out / "hf_calib.json").is_file()
    return printed


@pytest.mark.parametrize("kind", ["unpaired", "pairs"])
def test_kto_takes_marked_completions_and_pairs(kind, saved_model, data, tmp_path, capsys):
    path = data / "pairs.jsonl"
    if kind == "unpaired":
        path = write(tmp_path / "marked.jsonl", list(unpaired(24)))
    check("kto", saved_model, data, tmp_path, capsys, dataset_name=path)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_rewards_are_found_by_name(kind, saved_model, data, tmp_path, capsys):
    path = write(tmp_path / "prompts.jsonl", [{"prompt": row["prompt"]} for row in pairs(24)])
    printed = check(
        kind, saved_model, data, tmp_path, capsys, dataset_name=path, reward_funcs="tests.trainers.runs.longer",
        num_generations=2, max_completion_length=6,
    )  # fmt: skip
    assert "calibration/anchor" in printed
    assert "rewards/longer/mean" in printed


def test_a_reward_model_is_trained_and_its_preferences_are_reported(data, tmp_path, capsys):
    tokenizer = byte_level_tokenizer()
    classifier(tokenizer, 2).save_pretrained(tmp_path / "scores")
    tokenizer.save_pretrained(tmp_path / "scores")
    out = tmp_path / "reward"
    run_here(
        "reward", model_name_or_path=tmp_path / "scores", dataset_name=data / "pairs.jsonl", output_dir=out,
        use_peft=True, lora_task_type="SEQ_CLS",
    )  # fmt: skip
    assert adapter_moved(out)
    assert "calibration/preference_ece" in capsys.readouterr().out
    assert "pairs.jsonl" in (out / "README.md").read_text()


@pytest.mark.skipif(not has_ppo(), reason="the installed TRL has no PPO")
def test_ppo_takes_a_reward_model_from_a_folder(saved_model, data, tmp_path, capsys):
    path = write(tmp_path / "prompts.jsonl", [{"prompt": row["prompt"]} for row in pairs(24)])
    classifier(byte_level_tokenizer(), 2).save_pretrained(tmp_path / "reward")
    check(
        "ppo", saved_model, data, tmp_path, capsys, dataset_name=path, reward_model_path=tmp_path / "reward",
        response_length=4, num_sample_generations=0, total_episodes=12, num_mini_batches=1,
    )  # fmt: skip


@pytest.mark.skipif(has_ppo(), reason="the installed TRL has PPO")
def test_without_ppo_its_script_says_what_to_do():
    with pytest.raises(ImportError, match=r"hf-calib\[ppo\]"):
        script("ppo").make_parser()


@pytest.mark.parametrize("asked_beforehand", [False, True])
def test_recalibrate_keeps_to_a_reference(asked_beforehand, saved_model, data, tmp_path, capsys):
    reference, tokenizer = tmp_path / "reference", byte_level_tokenizer()
    teacher = tiny_llama(tokenizer, seed=7)
    if asked_beforehand:
        reference = tmp_path / "reference.safetensors"
        reference_distributions(teacher, tokenizer, load_questions(data / "questions.csv"), top_k=20).save(reference)
    else:
        teacher.save_pretrained(reference)
    printed = check(
        "recalibrate", saved_model, data, tmp_path, capsys, calibration_reference_model=reference, max_steps=30,
        per_device_train_batch_size=24,
    )  # fmt: skip
    anchors = [line.split("'calibration/anchor': '")[1].split("'")[0] for line in printed.splitlines()
               if "calibration/anchor" in line]  # fmt: skip
    assert float(anchors[-1]) < float(anchors[0])


def test_recalibrate_says_what_is_missing(saved_model, data, tmp_path):
    with pytest.raises(ValueError, match="--calibration_reference_model"):
        run_here(
            "recalibrate", model_name_or_path=saved_model, output_dir=tmp_path,
            calibration_dataset=data / "questions.csv",
        )  # fmt: skip


def names(*functions, model=None, matcher="exact"):
    return SimpleNamespace(
        reward_funcs=list(functions) or None, reward_model_name_or_path=model, reward_matcher=matcher
    )


def test_rewards():
    assert reward_functions(names("think_format_reward")) == [think_format_reward]
    assert reward_functions(names("think_format_reward", model="some/model")) == ["some/model", think_format_reward]


def test_rewards_of_stated_confidence_grade_as_the_script_says():
    completions, solution = ["<answer>It is 4</answer><confidence>1</confidence>"], ["4"]
    answer, brier = reward_functions(names("answer_reward", "brier_reward"))
    assert [reward(completions=completions, solution=solution) for reward in (answer, brier)] == [[0.0], [-1.0]]
    answer, log_score, form = reward_functions(
        names("answer_reward", "log_score_reward", "confidence_format_reward", matcher="contains")
    )
    assert answer(completions=completions, solution=solution) == form(completions=completions) == [1.0]
    assert log_score(completions=completions, solution=solution)[0] > -0.02
    accuracy, brier = reward_functions(names("accuracy_reward", "brier_reward"))
    assert (accuracy, brier.correctness_reward) == (accuracy_reward, accuracy_reward)


def test_grpo_on_free_form_questions_with_the_example_config(saved_model, tmp_path, capsys):
    import yaml

    rows = [{"question": f"What is number {n}?", "answers": [f"n{n}", str(n)]} for n in range(8)]
    path = write(tmp_path / "asked.jsonl", rows)
    config = yaml.safe_load((EXAMPLES / "grpo_stated_confidence.yaml").read_text())
    # The small model's tokenizer has no chat template, and two generations are enough.
    config |= {"calibration_prompt": "plain", "num_generations": 2, "max_completion_length": 4, "eval_steps": 2}
    config |= {"model_name_or_path": str(saved_model), "output_dir": str(tmp_path / "out")}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    run_here(
        "grpo", config=tmp_path / "config.yaml", dataset_name=path, eval_calibration_dataset=path,
        model_name_or_path=saved_model, output_dir=tmp_path / "out",
    )  # fmt: skip
    out = capsys.readouterr().out
    for name in ("rewards/brier_reward/mean", "rewards/answer_reward/mean", "eval_calibration/ece"):
        assert name in out
    assert "eval_calibration/missing_confidence" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((), "no reward; give --reward_funcs"),
        (("accuracy",), r"choose from hf_calib\.rewards \(.*brier_reward.*\) or trl\.rewards \(.*accuracy_reward"),
        (("no_such_module.reward",), "'no_such_module' cannot be imported"),
        (("tests.trainers.runs.shorter",), "has no function 'shorter'"),
    ],
)
def test_rewards_that_are_not_there_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        reward_functions(names(*given))


def test_prompts_as_messages_go_through_the_chat_template():
    from datasets import Dataset

    tokenizer = byte_level_tokenizer(chat=True)
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "red?"}], "other": 1}])
    found = tokenized_prompts(rows, tokenizer)
    assert found.column_names == ["input_ids"]
    assert tokenizer.decode(found[0]["input_ids"]) == "<|user|>\nred?<eos>\n<|assistant|>\n"
    with pytest.raises(ValueError, match="row 1, counted from 0: the prompt is empty"):
        tokenized_prompts(Dataset.from_list([{"prompt": "a"}, {"prompt": ""}]), tokenizer)
