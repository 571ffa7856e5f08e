"""The same model, questions and prompts in lm-evaluation-harness, used as a library."""

import json

import numpy as np
import pytest

from hf_calib.confidence import Asking, LocalModel, OptionLetters, OptionTexts
from hf_calib.confidence.recorded_lm_eval import read_lm_eval
from hf_calib.tasks import FewShotFormat, PromptFormat, Question, write_lm_eval_task
from tests.support import byte_level_tokenizer, questions, tiny_gpt2, tiny_llama

pytestmark = pytest.mark.oracle

ASKED = questions(24, choices=(4, 3, 5, 2))


def run_lm_eval(model, tokenizer, folder, name, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.loggers import EvaluationTracker
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    results = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu"),
        tasks=[name],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
    )
    tracker = EvaluationTracker(output_path=str(tmp_path / "logged"))
    tracker.general_config_tracker.model_name_sanitized = "tiny"
    tracker.save_results_aggregated(results=results, samples=None)
    tracker.save_results_samples(task_name=name, samples=results["samples"][name])
    return results["results"][name], read_lm_eval([tmp_path / "logged"])[name]


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("texts", [False, True])
@pytest.mark.parametrize("shots", [0, 2])
def test_the_same_probabilities(make, texts, shots, tmp_path):
    pytest.importorskip("lm_eval")
    tokenizer = byte_level_tokenizer()
    model = make(tokenizer).eval()
    prompt_format = FewShotFormat.choose(questions(9, seed=7), shots) if shots else PromptFormat()
    write_lm_eval_task(ASKED, tmp_path / "tasks", "own", prompt_format=prompt_format, texts=texts)
    results, recorded = run_lm_eval(model, tokenizer, tmp_path / "tasks", "own", tmp_path)
    method = OptionTexts() if texts else OptionLetters()
    own = method.predict(LocalModel(model, tokenizer), ASKED, prompt_format, Asking())
    np.testing.assert_allclose(own.probabilities, recorded.predictions.probabilities, atol=1e-5)
    assert own.answers.tolist() == recorded.predictions.answers.tolist()
    report = own.report(n_resamples=0)
    assert results["acc,none"] == report.measures["accuracy"].value
    for name in ("ece", "brier", "nll"):
        assert results[f"{name},none"] == pytest.approx(report.measures[name].value, abs=1e-4)


def test_what_is_written(tmp_path):
    path = write_lm_eval_task(ASKED[:2], tmp_path, "own")
    rows = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [PromptFormat().render(question) for question in ASKED[:2]]
    assert rows[0]["options"] == list("ABCD")
    assert "!function calibration.ece" in path.read_text()
    write_lm_eval_task(ASKED[:2], tmp_path, "own", texts=True)
    rows = [json.loads(line) for line in (tmp_path / "own.jsonl").read_text().splitlines()]
    assert rows[0]["options"] == list(ASKED[0].choices)
    assert rows[0]["prompt"] == f"Question: {ASKED[0].question}\nAnswer:"


def test_metrics_of_what_the_harness_gives(model, tokenizer):
    from hf_calib.reports import lm_eval

    own = OptionLetters().predict(LocalModel(model, tokenizer), ASKED, PromptFormat(), Asking())
    processed = [
        lm_eval.process_results(
            {"answer": question.answer}, [(value, False) for value in scores[: len(question.choices)]]
        )
        for question, scores in zip(ASKED, own.option_log_probabilities, strict=True)
    ]
    measures = own.report(n_resamples=0).measures
    assert np.mean([row["acc"] for row in processed]) == measures["accuracy"].value
    for name in ("ece", "brier", "nll"):
        value = getattr(lm_eval, name)([row[name] for row in processed])
        assert value == pytest.approx(measures[name].value)


def test_tasks_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="name has letters"):
        write_lm_eval_task(ASKED, tmp_path, "a/b")
    with pytest.raises(ValueError, match="chat template by itself"):
        write_lm_eval_task(ASKED, tmp_path, "a", prompt_format=PromptFormat(chat=True))
    with pytest.raises(ValueError, match="needs the right answer"):
        write_lm_eval_task([Question("a?", ("b", "c"))], tmp_path, "a")
