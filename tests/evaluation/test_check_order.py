"""The flip rate: how many answers change when the options are put in another order."""

import json

import numpy as np
import pytest

import hf_calib
from hf_calib.cli import main
from hf_calib.confidence import OptionScores
from hf_calib.tasks import other_orders, permute_options
from tests.support import question_rows, questions, tiny_llama


class Source:
    """Prefers an option by its text, or the first one."""

    def __init__(self, by_text):
        self.by_text = by_text

    def score_letters(self, stage, asked, prompt_format, asking):
        def values(question):
            if self.by_text:
                scores = np.array([sum(map(ord, choice)) % 17 for choice in question.choices], dtype=float)
            else:
                scores = np.arange(len(question.choices), 0, -1.0)
            return scores - np.logaddexp.reduce(scores)

        return [OptionScores(tuple(values(own)), (1,) * len(own.choices)) for own in asked]

    def record(self):
        return {}


ASKED = questions(30, choices=(4, 2, 3))


def test_other_orders_are_distinct_and_depend_on_the_row_alone():
    orders = other_orders(ASKED, 3, seed=1)
    for question, own in zip(ASKED, orders, strict=True):
        n = len(question.choices)
        assert len(own) == (1 if n == 2 else 3)
        assert len({tuple(order) for order in own} | {tuple(range(n))}) == len(own) + 1
        assert all(sorted(order) == list(range(n)) for order in own)
    assert [o[0].tolist() for o in other_orders(ASKED, 1, seed=1)] == [o[0].tolist() for o in orders]
    with pytest.raises(ValueError, match="n_orders"):
        other_orders(ASKED, 0, seed=1)


@pytest.mark.parametrize("permuted", [False, True])
def test_answers_by_text_never_flip_and_those_by_place_do(permuted):
    steady = hf_calib.measure(Source(by_text=True), ASKED, check_order=3, permute_options=permuted)
    assert steady.flip_rate.value == 0
    first = hf_calib.measure(Source(by_text=False), ASKED, check_order=3, permute_options=permuted)
    orders = other_orders(ASKED, 3, seed=0)
    expected = [np.mean([order[0] != 0 for order in own]) for own in orders]
    np.testing.assert_allclose(first.predictions.flips, expected)
    assert first.flip_rate.value == pytest.approx(np.mean(expected))
    assert f"Flip rate   {first.flip_rate.value:.3f} [" in str(first)
    assert first.flip_rate.low < first.flip_rate.value < first.flip_rate.high


def test_a_models_flips_by_hand(model, tokenizer):
    measured = hf_calib.measure((model, tokenizer), ASKED, check_order=2)
    plain = hf_calib.predict(model, tokenizer, ASKED)
    np.testing.assert_allclose(measured.predictions.probabilities, plain.probabilities, atol=1e-5)
    orders = other_orders(ASKED, 2, seed=0)
    for row, question in enumerate(ASKED):
        changed = []
        for order in orders[row]:
            answer = hf_calib.predict(model, tokenizer, [permute_options(question, order)]).predicted[0]
            changed.append(order[answer] != plain.predicted[row])
        assert measured.predictions.flips[row] == pytest.approx(np.mean(changed))
    assert 0 < measured.flip_rate.value < 1


def test_it_is_shown_kept_and_decides_the_exit_code(model, tokenizer, tmp_path, capsys):
    tiny_llama(tokenizer).save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    (tmp_path / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in question_rows(20)))
    words = ["measure", "--model", str(tmp_path / "m"), "--dataset", str(tmp_path / "q.jsonl"), "--check-order", "2"]
    assert main([*words, "--out", str(tmp_path / "out"), "--json", "--fail-if", "flip_rate>0.01"]) == 3
    state = json.loads(capsys.readouterr().out.splitlines()[-1])
    value = state["measures"]["flip_rate"]["value"]
    assert 0 < value < 1
    assert state["run"]["check_order"] == 2
    loaded = hf_calib.Measurement.load(tmp_path / "out")
    assert loaded.flip_rate.value == value
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0  # finished: read back, not asked again
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["measures"]["flip_rate"]["value"] == value
    assert "flip rate" in (tmp_path / "out" / "report.html").read_text()
    assert main([*words[:-1], "0"]) == 1
    assert "--check-order: ask in at least 1 other order" in capsys.readouterr().err
    assert main([*words, "--free-form", "exact", "--confidence", "consistency"]) == 1
    assert "--check-order" in capsys.readouterr().err


def test_without_it_there_is_no_flip_rate():
    assert "Flip rate" not in str(hf_calib.measure(Source(by_text=True), ASKED))
    assert "flip_rate" not in hf_calib.measure(Source(by_text=True), ASKED).report.measures
