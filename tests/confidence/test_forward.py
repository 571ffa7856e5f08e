import numpy as np
import peft
import pytest
import torch
from torch import nn

from hf_calib.calibrators import by_name
from hf_calib.confidence import ForwardArguments, answer_logits, option_log_probabilities, predict
from hf_calib.confidence.forward import answer_logits_and_states, output_layer
from hf_calib.tasks import QuestionCollator, encode_questions
from tests.support import questions, tiny_gpt2, tiny_llama

ASKED = questions(6, choices=(4, 2, 3))
MODELS = {"rotary": tiny_llama, "absolute": tiny_gpt2}
ADAPTERS = {
    "LoRA": lambda: peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False),
    "prompt": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
    "prefix": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5),
}

pytestmark = pytest.mark.filterwarnings("ignore:.*(is_gradient_checkpointing|fan_in_fan_out)")


def batch_of(tokenizer, side="left", asked=ASKED):
    return QuestionCollator(tokenizer.pad_token_id, side)(encode_questions(asked, tokenizer).items)


def adapted(model, adapter):
    torch.manual_seed(1)
    model = peft.get_peft_model(model, ADAPTERS[adapter]())
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


class Wrapper(nn.Module):
    """As DDP and DeepSpeed wrap a model."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("wrap", [lambda m: m, Wrapper, lambda m: Wrapper(Wrapper(m)), torch.compile])
@pytest.mark.parametrize("adapter", [None, "LoRA", "prompt"])
def test_arguments_are_those_of_the_innermost_model(tokenizer, wrap, adapter):
    model = tiny_llama(tokenizer)
    if adapter is not None:
        model = adapted(model, adapter)
    assert ForwardArguments.of(wrap(model)) == ForwardArguments(True, True, True, adapter == "prompt")


def test_arguments_that_a_model_lacks():
    class Plain(nn.Module):
        def forward(self, input_ids, attention_mask, position_ids=None):
            return None

    assert ForwardArguments.of(Wrapper(Plain())) == ForwardArguments(False, True, False)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_answer_logits_are_those_of_all_positions(tokenizer, make, side):
    model, batch = make(tokenizer).eval(), batch_of(tokenizer, side)
    with torch.no_grad():
        logits = answer_logits(model, batch)
        everywhere = model(**ForwardArguments.of(model).inputs(batch.input_ids, batch.attention_mask)).logits
    assert logits.shape == (6, len(tokenizer))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, everywhere[torch.arange(6), batch.answer_positions])


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.filterwarnings("error:.*[Pp]osition ids are not supported")
def test_adapters_with_virtual_tokens_do_not_shift_the_answer(tokenizer, make, adapter, side):
    model = adapted(make(tokenizer), adapter)
    batch = batch_of(tokenizer, side)
    with torch.no_grad():
        logits = answer_logits(model, batch)
        for row, item in enumerate(encode_questions(ASKED[:3], tokenizer)):
            alone = model(input_ids=torch.tensor([item.input_ids])).logits[0, -1]
            torch.testing.assert_close(logits[row], alone, atol=5e-5, rtol=1e-4)


def test_gradients_are_those_of_the_whole_logits(model, tokenizer):
    gradients = []
    for side, of_all in (("left", False), ("right", False), ("left", True)):
        batch = batch_of(tokenizer, side)
        model.zero_grad()
        if of_all:
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[:, -1]
        else:
            logits = answer_logits(model, batch)
        torch.logsumexp(logits, dim=-1).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-4, rtol=1e-3)


def test_bfloat16_is_widened_before_the_softmax(model, tokenizer):
    batch = batch_of(tokenizer)
    with torch.no_grad():
        logits = answer_logits(model.to(torch.bfloat16), batch)
    assert logits.dtype == torch.float32
    scores = option_log_probabilities(logits.to(torch.bfloat16), batch)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, option_log_probabilities(logits, batch))


def test_option_log_probabilities_are_of_the_whole_vocabulary(tokenizer):
    batch = batch_of(tokenizer)
    logits = torch.randn(6, len(tokenizer), generator=torch.Generator().manual_seed(0)) * 20
    scores = option_log_probabilities(logits, batch)
    for row, item in enumerate(encode_questions(ASKED, tokenizer)):
        n = len(item.option_ids)
        expected = torch.distributions.Categorical(logits=logits[row]).log_prob(torch.tensor(item.option_ids))
        torch.testing.assert_close(scores[row, :n], expected)
        assert (scores[row, n:] == -torch.inf).all()


def test_a_disabled_adapter_gives_the_base_models_predictions(model, tokenizer):
    expected = predict(model, tokenizer, ASKED).confidences
    with adapted(model, "LoRA").disable_adapter() as _:
        disabled = predict(model, tokenizer, ASKED).confidences
    assert disabled == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("wrap", [lambda m: m, Wrapper, lambda m: Wrapper(adapted(m, "LoRA"))])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_hidden_states_are_what_the_logits_are_computed_from(tokenizer, make, side, wrap):
    model, batch = wrap(make(tokenizer).eval()), batch_of(tokenizer, side)
    with torch.no_grad():
        logits, states = answer_logits_and_states(model, batch)
        inner = output_layer(model)
        torch.testing.assert_close(inner(states), logits)
        torch.testing.assert_close(logits, answer_logits(model, batch))
    assert states.shape == (6, 32)
    assert not inner._forward_pre_hooks


def test_hidden_states_come_in_the_questions_order(tokenizer, model):
    asked = questions(11, choices=(3, 4))
    together = predict(model, tokenizer, asked, batch_size=4, hidden_states=True)
    assert together.hidden_states.shape == (11, 32)
    for row in (0, 7):
        alone = predict(model, tokenizer, [asked[row]], hidden_states=True)
        np.testing.assert_allclose(together.hidden_states[row], alone.hidden_states[0], atol=1e-5)
    np.testing.assert_array_equal(together.subset([7, 0]).hidden_states, together.hidden_states[[7, 0]])
    plain = predict(model, tokenizer, asked, batch_size=4)
    assert plain.hidden_states is None
    np.testing.assert_array_equal(plain.option_log_probabilities, together.option_log_probabilities)
    with pytest.raises(ValueError, match="has no output layer"):
        output_layer(nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["localized", "simplex_etf"])
def test_a_calibrator_that_needs_features_gets_the_hidden_states(tokenizer, model, name):
    asked = predict(model, tokenizer, questions(60), hidden_states=True)
    calibrator = by_name(name).fit(asked.option_log_probabilities, asked.answers, features=asked.hidden_states)
    expected = calibrator.transform(asked.option_log_probabilities, features=asked.hidden_states)
    np.testing.assert_allclose(asked.calibrated(calibrator).probabilities, expected, atol=1e-12)
    with pytest.raises(ValueError, match="hidden_states=True"):
        predict(model, tokenizer, questions(3)).calibrated(calibrator)
