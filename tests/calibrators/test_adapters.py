import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from hf_calib import predict
from hf_calib.calibrators import by_name
from hf_calib.calibrators.adapters import AdapterEnsemble
from tests.support import questions


@pytest.fixture
def adapted(model):
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    peft_model = get_peft_model(model, config, adapter_name="a")
    peft_model.add_adapter("b", config)
    return peft_model


def test_members_share_the_model_and_are_pooled(adapted, tokenizer):
    asked = questions(24, choices=(3, 4))
    before = {name: parameter.requires_grad for name, parameter in adapted.named_parameters()}
    ensemble = AdapterEnsemble(adapted, tokenizer)
    assert ensemble.adapters == ("a", "b")
    logs = ensemble.log_probabilities(asked, batch_size=8)
    assert logs.shape == (2, 24, 4)
    assert adapted.active_adapter == "a"
    assert {name: parameter.requires_grad for name, parameter in adapted.named_parameters()} == before
    adapted.set_adapter("b")
    alone = predict(adapted, tokenizer, asked, batch_size=8).option_log_probabilities
    assert np.array_equal(logs[1], alone)
    assert np.abs(logs[0] - logs[1])[np.isfinite(alone)].max() > 1e-3
    calibrated = ensemble.fit(asked, batch_size=8).probabilities(asked, batch_size=8)
    answers = [question.answer for question in asked]
    expected = by_name("ensemble").fit(logs, answers).transform(logs)
    assert calibrated == pytest.approx(expected, abs=1e-9)


def test_what_is_missing_is_named(adapted, model, tokenizer):
    with pytest.raises(ValueError, match=r"adapters: the model has \['a', 'b'\]; got \['c'\]"):
        AdapterEnsemble(adapted, tokenizer, ["a", "c"])
    with pytest.raises(ValueError, match="got none"):
        AdapterEnsemble(torch.nn.Linear(2, 2), tokenizer)
    with pytest.raises(ValueError, match="answer"):
        AdapterEnsemble(adapted, tokenizer).fit(questions(4, answered=False))
