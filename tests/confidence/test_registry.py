"""The registry of ways to read confidence, which the commands and `hf_calib.measure` read."""

import json
from dataclasses import dataclass
from typing import ClassVar

import pytest

import hf_calib
from hf_calib.cli import main, make_parser
from hf_calib.confidence import ConfidenceMethod, OptionLetters, Way, confidence_method, registry, ways
from hf_calib.confidence.free_form import METHODS
from hf_calib.tasks import PromptFormat
from tests.support import question_rows, questions, tiny_llama


@pytest.mark.parametrize("name", ways())
def test_every_way_is_as_its_entry_says(name, tokenizer):
    way = ways()[name]
    if way.free_form is not None:
        assert way.free_form["method"] in METHODS
    if way.factory is None:
        assert way.free_form is not None
        with pytest.raises(ValueError, match="also give free_form"):
            confidence_method(name)
        return
    taken = dict.fromkeys(way.settings, 2)
    method = confidence_method(name, **taken)
    assert isinstance(method, ConfidenceMethod)
    assert {key: method.to_dict()[key] for key in taken} == taken
    assert json.loads(json.dumps(method.to_dict())) == method.to_dict()
    assert registry.name_of(method.to_dict()) == registry.name_of({**method.to_dict(), "seed": 5}) == name
    if way.gives_distribution:
        asked = hf_calib.measure((tiny_llama(tokenizer), tokenizer), questions(3), method=method)
        assert asked.predictions.chosen is None
        assert confidence_method(name, wordings=[PromptFormat(cue="A:")]).formats == (PromptFormat(cue="A:"),)


def test_adding_a_way_touches_the_registry_alone(monkeypatch, tokenizer, tmp_path, capsys):
    @dataclass(frozen=True)
    class Cautious(ConfidenceMethod):
        name: ClassVar[str] = "cautious"
        top_k: int = 1

        def predict(self, backend, questions, prompt_format, asking):
            return OptionLetters().predict(backend, questions, prompt_format, asking)

    monkeypatch.setitem(registry._WAYS, "cautious", Way("careful letters", Cautious, ("top_k",)))
    measured = hf_calib.measure((tiny_llama(tokenizer), tokenizer), questions(6), method="cautious", top_k=3)
    assert measured.run["confidence"] == {"name": "cautious", "top_k": 3}
    assert measured.method == "cautious"
    monkeypatch.delitem(registry._WAYS, "cautious")
    assert measured.method == "cautious"  # as recorded
    monkeypatch.setitem(registry._WAYS, "cautious", Way("careful letters", Cautious, ("top_k",)))
    (action,) = [a for a in make_parser()._actions if a.dest == "command"]
    assert "careful letters" in " ".join(action.choices["compare"].format_help().split())
    tiny_llama(tokenizer).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in question_rows(6)))
    options = ["--model", str(tmp_path / "m"), "--dataset", str(tmp_path / "q.jsonl"), "--confidence", "cautious"]
    capsys.readouterr()  # DeepSpeed, which saving a model imports, logs to the standard output
    assert main(["measure", *options, "--top-k", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run"]["confidence"] == {"name": "cautious", "top_k": 2}


def test_settings_that_are_none_at_all_are_named():
    with pytest.raises(TypeError, match="'n_sample' is not a setting"):
        confidence_method("consistency", n_sample=3)
