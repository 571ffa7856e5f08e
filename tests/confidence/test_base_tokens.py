"""Confidence in free-form answers as the mean probability of their tokens under a base model (BaseCal-ReEval)."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

import hf_calib
from hf_calib.cli import main
from hf_calib.confidence import Asking, LocalModel
from hf_calib.confidence.backend import Generation
from hf_calib.confidence.free_form import predict_free_form
from hf_calib.evaluation import measure_recorded
from hf_calib.tasks import FewShotFormat, PromptFormat, Question
from hf_calib.tasks.free_form import FreeFormQuestion
from tests.support import byte_level_tokenizer, tiny_gpt2, tiny_llama, tiny_rwkv

ASKED = [
    FreeFormQuestion("Capital of France?", ("Paris",), context="A quiz."),
    FreeFormQuestion("2 + 2?", ("4", "four")),
    FreeFormQuestion("The largest of all planets?", ("Jupiter",)),
    FreeFormQuestion("Nothing?", ("nothing",)),
]
ANSWERS = ("Paris", "it is four, of course", "Saturn", "")


class Writer(LocalModel):
    """A model that gives answers of our choice."""

    def generate(self, stage, asked, prompt_format, asking, **options):
        assert options.get("temperature", 0) == 0
        return [[Generation(text, True)] for text in ANSWERS]


@torch.no_grad()
def by_hand(model, tokenizer, prompts, answers=ANSWERS):
    """Return the means of the answers' tokens' probabilities, one forward for each token."""
    found = []
    for prompt, answer in zip(prompts, answers, strict=True):
        before, whole = (tokenizer(text)["input_ids"] for text in (prompt, f"{prompt} {answer}"))
        own = []
        for end in range(len(before), len(whole)):
            logits = model(input_ids=torch.tensor([whole[:end]])).logits[0, -1].double()
            own.append(float(torch.softmax(logits, -1)[whole[end]]))
        found.append(np.mean(own) if answer else 0.0)
    return found


def sliding(tokenizer, seed=0):
    """A model with a sliding window, whose cache cannot be continued for some of a batch."""
    torch.manual_seed(seed)
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
        )
    )  # fmt: skip


PROMPTS = [PromptFormat().render(question, options=False) for question in ASKED]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("made", [tiny_llama, tiny_gpt2, tiny_rwkv, sliding])
def test_the_mean_probability_of_the_answers_tokens_under_another_model(model, tokenizer, made, batch_size):
    base = made(tokenizer, seed=5).eval()
    found = predict_free_form(
        Writer(model, tokenizer), ASKED, PromptFormat(), Asking(batch_size), method="base-tokens",
        base=LocalModel(base, tokenizer),
    )  # fmt: skip
    expected = by_hand(base, tokenizer, PROMPTS)
    np.testing.assert_allclose(found.predictions.confidences, expected, atol=1e-6)
    assert found.texts == ANSWERS
    assert found.predictions.correct.tolist() == [True, False, False, False]
    # It is the arithmetic mean of probabilities, and not the model's own.
    assert abs(np.array(by_hand(model, tokenizer, PROMPTS)) - expected).max() > 1e-4


def test_a_model_without_a_cache_reads_all_tokens_of_a_batch_at_once(tokenizer):
    model = sliding(tokenizer).eval()
    source, calls = LocalModel(model, tokenizer), []
    model.register_forward_pre_hook(
        lambda module, given, options: calls.append(options["input_ids"].shape), with_kwargs=True
    )
    scored = source.score_answers("s", ASKED[:3], ANSWERS[:3], PromptFormat(), Asking(3))
    longest = max(
        len(tokenizer(f"{prompt} {answer}")["input_ids"]) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    )
    # Two or three that find out what padding does, one for the first tokens, and one for all others.
    assert len(calls) <= 5
    assert calls[-1] == (3, longest - 1)
    found = [np.exp(tokens).mean() for tokens in scored]
    np.testing.assert_allclose(found, by_hand(model, tokenizer, PROMPTS[:3], ANSWERS[:3]), atol=1e-6)


def adapted(tokenizer):
    model = get_peft_model(tiny_llama(tokenizer, seed=3), LoraConfig(r=4, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.5)
    return model.eval()


def test_the_base_of_an_adapter_is_the_model_without_it(tokenizer):
    model = adapted(tokenizer)
    source = Writer(model, tokenizer)
    found = predict_free_form(source, ASKED, PromptFormat(), Asking(), method="base-tokens")
    expected = by_hand(tiny_llama(tokenizer, seed=3).eval(), tokenizer, PROMPTS)
    np.testing.assert_allclose(found.predictions.confidences, expected, atol=1e-6)
    # The adapter is on again, and the model in the same mode.
    own = by_hand(model, tokenizer, PROMPTS)
    assert abs(np.array(own) - expected).max() > 1e-4
    again = source.score_answers("again", ASKED[:3], ANSWERS[:3], PromptFormat(), Asking())
    np.testing.assert_allclose([np.exp(tokens).mean() for tokens in again], own[:3], atol=1e-6)


def test_a_base_model_reads_the_plain_prompt_with_its_examples(model):
    tokenizer = byte_level_tokenizer(chat=True)
    base = tiny_llama(tokenizer, seed=5).eval()
    shots = FewShotFormat.choose([Question("a?", ("b", "c"), 0)], 1)
    for prompt_format, plain in (
        (PromptFormat(chat=True, system="Be brief."), PromptFormat()),
        (shots, shots),
    ):
        found = predict_free_form(
            Writer(tiny_llama(tokenizer), tokenizer), ASKED, prompt_format, Asking(), method="base-tokens",
            base=LocalModel(base, tokenizer),
        )  # fmt: skip
        prompts = [plain.render(question, options=False) for question in ASKED]
        np.testing.assert_allclose(found.predictions.confidences, by_hand(base, tokenizer, prompts), atol=1e-6)


def test_answers_whose_prompts_are_too_long_for_the_base_model_are_dropped(model, tokenizer):
    base = LocalModel(model, tokenizer, max_length=len(tokenizer(PROMPTS[1] + " " + ANSWERS[1])["input_ids"]) - 1,
                      on_too_long="drop")  # fmt: skip
    short = [FreeFormQuestion("a?", ("b",)), ASKED[1], FreeFormQuestion("c?", ("d",)), ASKED[3]]
    with pytest.warns(UserWarning, match="they are dropped"):
        found = predict_free_form(
            Writer(model, tokenizer), short, PromptFormat(), Asking(), method="base-tokens", base=base
        )
    assert found.predictions.rows.tolist() == [0, 2, 3]
    assert found.texts == ("Paris", "Saturn", "")


class TestCommandLine:
    @pytest.fixture
    def saved(self, tokenizer, tmp_path):
        for name, seed in (("aligned", 0), ("base", 5)):
            tiny_llama(tokenizer, seed=seed).save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)
        rows = [{"question": own.question, "answers": list(own.answers)} for own in ASKED]
        (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    def measure(self, saved, *options):
        return main([
            "measure", "--model", str(saved / "aligned"), "--dataset", str(saved / "q.jsonl"), "--free-form", "exact",
            "--confidence", "base-tokens", "--json", *options,
        ])  # fmt: skip

    def test_two_models(self, saved, tokenizer, capsys):
        assert self.measure(saved, "--base-model", str(saved / "base"), "--out", str(saved / "out")) == 0
        run = json.loads(capsys.readouterr().out)["run"]["confidence"]
        assert (run["name"], run["base_model"]["name"]) == ("base-tokens", "base")
        assert run["base_model"]["weights"].startswith("files:")
        assert str(saved) not in json.dumps(run)
        loaded = {name: tiny_llama(tokenizer, seed=seed).eval() for name, seed in (("aligned", 0), ("base", 5))}
        found = hf_calib.measure(
            (loaded["aligned"], tokenizer), str(saved / "q.jsonl"), method="base-tokens", free_form="exact",
            base_model=(loaded["base"], tokenizer),
        ).predictions  # fmt: skip
        kept = measure_recorded(saved / "out").predictions
        np.testing.assert_allclose(kept.confidences, found.confidences, atol=1e-6)
        prompts = [PromptFormat().render(FreeFormQuestion(own.question), options=False) for own in ASKED]
        written = LocalModel(loaded["aligned"], tokenizer).generate(
            "g", ASKED, PromptFormat(), Asking(), list_options=False, stop=("\n",)
        )
        expected = by_hand(loaded["base"], tokenizer, prompts[1:], [own[0].text.strip() for own in written[1:]])
        np.testing.assert_allclose(found.confidences[1:], expected, atol=1e-6)

    def test_another_base_model_is_another_run(self, saved, capsys):
        found = []
        for name in ("base", "aligned"):
            assert self.measure(saved, "--out", str(saved / "out"), "--base-model", str(saved / name)) == 0
            found.append(json.loads(capsys.readouterr().out)["measures"]["confidence"]["value"])
        assert found[0] != found[1]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ((), "base_model: the model has no PEFT adapter to take off; give the pre-trained model"),
            (("--base-model", "nowhere/at/all"), "no folder 'nowhere/at/all'"),
            (("--base-model", "openai:http://localhost:1/v1"), "base_model: a server does not return"),
            (("--confidence", "p-true", "--base-model", "x"), "base_model: confidence read by p-true has no such"),
        ],
    )
    def test_what_is_wrong_is_said(self, saved, capsys, options, message):
        assert self.measure(saved, *options) == 1
        assert message in capsys.readouterr().err.replace("--base-model: ", "base_model: ")

    def test_questions_with_options_are_refused(self, saved, capsys):
        assert main([
            "measure", "--model", str(saved / "aligned"), "--dataset", str(saved / "q.jsonl"),
            "--confidence", "base-tokens",
        ]) == 1  # fmt: skip
        message = "--confidence: base-tokens reads confidence off free-form answers; also give --free-form"
        assert capsys.readouterr().err.rstrip().endswith(message)
        with pytest.raises(SystemExit):
            main(["compare", "a", "b", "--confidence", "base-tokens"])
        assert "invalid choice" in capsys.readouterr().err
