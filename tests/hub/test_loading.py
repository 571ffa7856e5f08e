"""Loading what was published, in fresh caches, offline, and from hostile repositories."""

import json
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from peft import PeftModel

import hf_calib
from hf_calib.confidence import predict
from hf_calib.hub import (
    CalibrationWarning,
    InvalidFolderError,
    MissingModelError,
    UnsafeRepositoryError,
    load,
    publish_adapter,
    read_calibration_metadata,
    save_calibration_metadata,
)
from hf_calib.hub.local_paths import check_local_path
from hf_calib.tasks import FewShotFormat, PromptFormat
from tests.support import byte_level_tokenizer, questions

FORMAT = PromptFormat(cue="The answer is")
TOKENS = torch.arange(20).reshape(1, -1)


@pytest.fixture
def published(client, adapter_folder, base):
    """An adapter on the Hub, calibrated with another prompt than the plain one."""
    revision = client.repository(base).branches["main"]
    save_calibration_metadata(
        adapter_folder,
        prompt_format=FORMAT,
        option_counts=[4, 4],
        base_model=base,
        base_model_revision=revision,
    )
    (adapter_folder / "README.md").write_text("An adapter.")
    publish_adapter(adapter_folder, "ann/adapter", tag="v1")
    return "ann/adapter"


def test_peft_alone_gives_the_same_logits_from_an_empty_cache(published, client, adapter, tmp_path):
    code = (
        "import sys, torch\n"
        "from peft import AutoPeftModelForCausalLM\n"
        "model = AutoPeftModelForCausalLM.from_pretrained('ann/adapter')\n"
        "tokens = torch.arange(20).reshape(1, -1)\n"
        f"torch.save(model(tokens).logits, {str(tmp_path / 'logits')!r})\n"
        "assert 'hf_calib' not in sys.modules\n"
    )
    _run(code, {**os.environ, **client.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"})
    logits = torch.load(tmp_path / "logits")
    assert torch.equal(logits, adapter(TOKENS).logits)
    with adapter.disable_adapter():
        assert not torch.equal(logits, adapter(TOKENS).logits)


def test_load_gives_model_tokenizer_prompt_and_confidence(published, adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        model = hf_calib.load(published)
        answers = model.confidence(questions(8))
    assert isinstance(model.model, PeftModel)
    assert not model.model.training
    assert torch.equal(model.model(TOKENS).logits, adapter(TOKENS).logits)
    assert model.prompt_format == FORMAT
    expected = predict(adapter, byte_level_tokenizer(), questions(8), prompt_format=FORMAT)
    assert [answer.index for answer in answers] == expected.predicted.tolist()
    np.testing.assert_allclose([answer.confidence for answer in answers], expected.confidences, rtol=1e-6)
    np.testing.assert_allclose([answer.option_mass for answer in answers], expected.option_mass, rtol=1e-6)
    first = answers[0]
    assert first.letter == "ABCD"[first.index]
    assert first.text == questions(8)[0].choices[first.index]
    assert sum(first.probabilities) == pytest.approx(1)


def test_a_published_model_is_measured_as_load_would_ask_it(published):
    asked = questions(8)
    measured = hf_calib.measure(published, asked)
    assert measured.run["prompt_format"] == FORMAT.to_dict()
    expected = load(published).predict(asked)
    np.testing.assert_allclose(measured.predictions.probabilities, expected.probabilities, atol=1e-5)


def test_plain_rows_are_questions_too(published):
    rows = [{"question": "Which is a fruit?", "choices": ["chair", "apple", "stone", "river"]}]
    (answer,) = load(published).confidence(rows)
    assert answer.text in rows[0]["choices"]


def test_another_number_of_options_warns(published):
    model = load(published)
    with pytest.warns(CalibrationWarning, match=r"with 3 options(.|\n)* calibration on questions with 4"):
        answers = model.confidence(questions(2, choices=(3,)))
    assert len(answers[0].probabilities) == 3


def test_another_prompt_format_warns_and_is_used(published):
    with pytest.warns(CalibrationWarning, match="a prompt format that differs"):
        model = load(published, prompt_format=PromptFormat())
    assert model.prompt_format == PromptFormat()


def test_base_model_is_loaded_at_the_calibrated_revision(published, client, base, adapter):
    config = client.files(base)["config.json"].replace(b'"rms_norm_eps": 1e-06', b'"rms_norm_eps": 0.5')
    client.add(base, {"config.json": config})
    with warnings.catch_warnings():
        warnings.simplefilter("error", CalibrationWarning)
        model = load(published)
    assert torch.equal(model.model(TOKENS).logits, adapter(TOKENS).logits)
    with pytest.warns(CalibrationWarning, match="was calibrated on lab/tiny at revision"):
        other = load(published, base_revision="main")
    assert not torch.equal(other.model(TOKENS).logits, adapter(TOKENS).logits)


def test_revision_of_the_adapter(published, client, adapter_folder, adapter):
    with torch.no_grad():
        for name, parameter in adapter.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    before = load(published, revision="v1").model(TOKENS).logits
    adapter.save_pretrained(adapter_folder)
    publish_adapter(adapter_folder, published, card="local")
    assert torch.equal(load(published, revision="v1").model(TOKENS).logits, before)
    assert torch.equal(load(published).model(TOKENS).logits, adapter(TOKENS).logits)
    with pytest.raises(MissingModelError, match=r"Revision 'v9' of .* does not exist on the Hub"):
        load(published, revision="v9")
    with pytest.raises(MissingModelError, match=r"The base model of .* was not found.*Revision 'v9' of"):
        load(published, base_revision="v9")


def test_without_metadata_the_plain_prompt_is_used_with_a_warning(client, adapter_folder):
    with pytest.warns(CalibrationWarning, match="not known with which prompt"):
        model = load(adapter_folder)
    assert model.prompt_format == PromptFormat()
    assert model.metadata is None


def test_offline_from_the_cache_in_a_fresh_process(published, client, tmp_path):
    code = (
        "import hf_calib\n"
        "m = hf_calib.load('ann/adapter')\n"
        "print(m.confidence([{'question': 'q', 'choices': ['a', 'b', 'c', 'd']}])[0].confidence)\n"
    )
    environment = {**os.environ, **client.environment(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
    fresh = _run(code, environment)
    assert (tmp_path / "home" / "hub" / "models--ann--adapter").is_dir()  # HF_HOME
    client.log.clear()
    offline = _run(code, {**environment, "HF_HUB_OFFLINE": "1"})
    assert fresh == offline
    assert not client.log


def _run(code, environment):
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Repositories of strangers


class Exploit:
    def __reduce__(self):
        return (os.mkdir, (os.environ["EXPLOIT_MARK"],))


def hostile(client, adapter_folder, config=(), **files):
    content = json.loads((adapter_folder / "adapter_config.json").read_text())
    content.update(config)
    held = {
        "adapter_config.json": json.dumps(content),
        "adapter_model.safetensors": (adapter_folder / "adapter_model.safetensors").read_bytes(),
        "hf_calib.json": '{"format_version": 1, "prompt_format": {}}',
        **{name.replace("__", "."): text for name, text in files.items()},
    }
    client.add("bob/bad", {name: text for name, text in held.items() if text is not None})
    return "bob/bad"


def test_pickled_weights_are_not_opened(client, adapter_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("EXPLOIT_MARK", str(tmp_path / "ran"))
    name = hostile(client, adapter_folder, adapter_model__safetensors=None, adapter_model__bin=pickle.dumps(Exploit()))
    with pytest.raises(UnsafeRepositoryError, match="pickles"):
        load(name)
    assert not (tmp_path / "ran").exists()
    assert not any("adapter_model.bin" in request.path for request in client.log)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"base_model_name_or_path": "/etc"}, UnsafeRepositoryError, "names '/etc'"),
        ({"base_model_name_or_path": "../../models"}, UnsafeRepositoryError, "not a name on the Hub"),
        ({"base_model_name_or_path": ["lab/tiny"]}, InvalidFolderError, "which is not a name"),
        ({"base_model_name_or_path": None}, InvalidFolderError, "names no base model"),
        ({"auto_mapping": {"parent_library": "antigravity"}}, UnsafeRepositoryError, "asks to import 'antigravity'"),
        ({"auto_mapping": "transformers"}, InvalidFolderError, "auto_mapping"),
        ({"megatron_config": {}, "megatron_core": "antigravity"}, UnsafeRepositoryError, "asks to import"),
    ],
)
def test_adapter_configuration_that_asks_for_more(client, adapter_folder, config, error, message):
    name = hostile(client, adapter_folder, config)
    with pytest.raises(error, match=message):
        load(name)
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "holds a list"),
        ("[" * 100_000, "not valid JSON"),
        ('{"format_version": 2, "prompt_format": {}}', "format version 2"),
        ('{"format_version": 1, "prompt_format": {}, "x": 1}', "unknown keys x"),
        ('{"format_version": 1, "prompt_format": {"sytem": "x"}}', "sytem"),
        ('{"format_version": 1, "prompt_format": {"cue": 3}}', "'cue' is 3"),
        ('{"format_version": 1, "prompt_format": {"question": "{question} {question.__class__}"}}', "nothing fills"),
        ('{"format_version": 1, "prompt_format": {"question": "{question} {question:>999999999}"}}', "nothing fills"),
        ('{"format_version": 1, "prompt_format": {"header": "{question"}}', "expected '}'"),
        ('{"format_version": 1, "prompt_format": {}, "option_counts": [1e9]}', "option_counts"),
        ('{"format_version": 1, "prompt_format": {}, "base_model": 3}', "base_model is 3"),
        ('{"format_version": 1, "prompt_format": {}, "calibrator": "x"}', "calibrator"),
        (" " * 2**20 + "{}", "bytes"),
    ],
)
def test_metadata_that_hf_calib_does_not_write(client, adapter_folder, content, message):
    name = hostile(client, adapter_folder, hf_calib__json=content)
    with pytest.raises(InvalidFolderError, match=message):
        load(name)


def test_code_in_the_repository_is_not_even_fetched(client, adapter_folder, tmp_path):
    tokenizer = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert tokenizer  # the adapter's own folder has no tokenizer
    name = hostile(
        client,
        adapter_folder,
        tokenizer_config__json=json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}}),
        evil__py="raise SystemExit",
    )
    with pytest.raises((ValueError, OSError)):
        load(name)
    assert not any("evil.py" in request.path for request in client.log)


def test_metadata_keep_the_examples_of_a_few_shot_prompt(tmp_path):
    shots = FewShotFormat.choose(questions(3, choices=(2, 4)), 1, prompt_format=FORMAT)
    save_calibration_metadata(tmp_path, prompt_format=shots)
    assert read_calibration_metadata(tmp_path).prompt_format == shots


def test_metadata_round_trip(tmp_path):
    class Calibrator:
        def save(self, path):
            path.write_text('{"temperature": 2.0}')

    save_calibration_metadata(
        tmp_path, prompt_format=FORMAT, option_counts=[5, 3, 5], base_model="a/b", calibrator=Calibrator()
    )
    metadata = read_calibration_metadata(tmp_path)
    assert metadata.prompt_format == FORMAT
    assert metadata.option_counts == (3, 5)
    assert metadata.base_model == "a/b"
    assert metadata.calibrator
    assert (tmp_path / "calibrator.json").exists()
    save_calibration_metadata(tmp_path, base_model=str(tmp_path))
    metadata = read_calibration_metadata(tmp_path)
    assert metadata.base_model is None
    assert not metadata.calibrator
    assert not (tmp_path / "calibrator.json").exists()
    assert str(tmp_path) not in (tmp_path / "hf_calib.json").read_text()


def test_a_repository_named_like_a_folder_here_is_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ann").mkdir()
    check_local_path("ann/model")
    for name in ("./ann/model", str(tmp_path / "ann" / "model"), "ann/some/model"):
        with pytest.raises(MissingModelError, match="There is no folder"):
            check_local_path(name)
