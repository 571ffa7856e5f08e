"""What a measurement looks like in a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hf_calib.confidence.asking import Asking
from hf_calib.confidence.recorded import Recorded
from hf_calib.reports import Measurement
from hf_calib.reports.terminal import screen, show
from hf_calib.tasks import FewShotFormat, PromptFormat
from hf_calib.tasks.prompt_files import prompt_format_of
from tests.reports.test_checks import LETTERS, calibrated, measurement
from tests.support import questions


@cache
def good(n: int = 1000, name: str = "m") -> Measurement:
    return Measurement(name, {"d": Recorded(calibrated(n), (None,) * n)}, LETTERS, {"n_resamples": 200})


@cache
def worst() -> Measurement:
    """Return a measurement with long names, several datasets and many warnings."""
    own = measurement()
    names = [f"organization/dataset-with-a-very-long-name-{i}:configuration:test" for i in range(3)]
    known = {name: {"n": 210, "sha256": "0" * 64, "skipped_rows": 4} for name in names}
    run = {**own.run, "datasets": known, "has_chat_template": True}
    datasets = dict.fromkeys(names, own.datasets["d"])
    return Measurement("organization/" + "model-" * 20, datasets, run, {"n_resamples": 200})


@pytest.mark.parametrize("make", [good, measurement, worst])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_it_fits_one_screen(make, width):
    own = make()
    lines = screen(own, width=width, out=Path("report")).splitlines()
    assert len(lines) <= 20
    assert max(map(len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert own.name[:40] in text
    assert own.verdict[:60] in text
    for label in ("Accuracy", "Confidence", "ECE", "Brier score", "AUROC"):
        assert re.search(rf"{label}\s+\d\.\d{{3}} \[\d\.\d{{3}}, \d\.\d{{3}}\]", text), label
    assert [line[:7] for line in lines if re.match(r"\d\.\d-\d\.\d ", line)] == [
        f"{i / 10:.1f}-{(i + 1) / 10:.1f}" for i in range(10)
    ]
    assert "Wrote report/report.html" in lines
    assert lines[-1].startswith(("Next: ", "  "))


def test_the_bars_are_the_bins():
    own = good()
    lines = screen(own).splitlines()
    for row in own.report.bins:
        [line] = [line for line in lines if line.startswith(f"{row['lower']:.1f}-{row['upper']:.1f} ")]
        bar = line[8:36]
        if row["count"]:
            assert f" {row['count']:,} " in line + " "
            assert abs(bar.count("█") - row["accuracy"] * 28) <= 1.5
            assert abs(bar.index("│") - row["confidence"] * 28) <= 1.5
        else:
            assert not bar.strip()


@pytest.mark.parametrize(
    ("prompt", "chat", "expected"),
    [
        (None, False, "plain prompt"),
        (None, True, "chat template"),
        ("mmlu", False, "mmlu prompt"),
        ("mmlu", True, "mmlu prompt · chat template"),
        (PromptFormat(cue="Letter:"), False, "custom prompt"),
    ],
)
def test_the_prompt_is_named(prompt, chat, expected):
    asked = prompt_format_of(prompt, chat_template=chat)
    shots = FewShotFormat.choose(questions(2), 1, prompt_format=asked)
    for prompt_format, more in ((asked, ""), (shots, " · 2 examples")):
        own = replace(good(), run=LETTERS | {"prompt_format": prompt_format.to_dict()})
        assert screen(own).splitlines()[1].startswith(f"letters · {expected}{more} · 1,000 questions")


def test_the_next_step():
    assert "Next: the same command with --chat-template" in screen(measurement())
    assert "Next: hf-calib compare m OTHER_MODEL --dataset d" in screen(good())
    wrong = calibrated(500)
    wrong = wrong.with_probabilities(wrong.probabilities**3 / (wrong.probabilities**3).sum(axis=1, keepdims=True))
    own = Measurement("m", {"d": Recorded(wrong, (None,) * 500)}, LETTERS, {"n_resamples": 200})
    assert "Next: hf-calib calibrate --model m --dataset HELD_OUT --out calibrator" in screen(own)


def test_no_other_reading_is_the_next_step_of_a_calibrator():
    applied = {"calibrator": {"method": "temperature", "temperature": 2.0}}
    poor, fine = (replace(own, run=own.run | applied) for own in (measurement(), good()))
    assert "Next:" not in screen(poor)
    assert "Next: hf-calib compare m OTHER_MODEL" in screen(fine)
    drawn = {"n": 20, "sha256": "0" * 64, "skipped_rows": 0, "drawn": {"of": 500, "subjects": 1, "seed": 0}}
    few = replace(good(20), run=fine.run | {"datasets": {"d": drawn}})
    assert "Next: the same command with --limit" in screen(few)


def test_the_next_step_for_predictions_from_elsewhere_needs_no_model():
    wrong = calibrated(500)
    wrong = wrong.with_probabilities(wrong.probabilities**3 / (wrong.probabilities**3).sum(axis=1, keepdims=True))
    for predictions, command in (
        (wrong, "calibrate --from-predictions HELD_OUT --out calibrator"),
        (calibrated(500), "compare PREDICTIONS OTHER_PREDICTIONS"),
    ):
        recorded = {"d": Recorded(predictions, (None,) * 500)}
        own = Measurement("m", recorded, {"from_helm": "runs"}, {"n_resamples": 200})
        assert f"Next: hf-calib {command}" in screen(own)


def test_the_ece_says_what_it_is_and_the_raw_one_is_shown_where_it_differs():
    own = good()
    assert f"(10 bins, L1; {own.report.test.expected_error:.3f} if calibrated;" in screen(own)
    assert " pooled over 1,000 questions)" in screen(own)
    assert " pooled over 600 questions)" in screen(worst())
    assert "if calibrated" not in screen(replace(own, report_options={"n_resamples": 0}))
    assert "Raw ECE" not in screen(good())
    recorded = Recorded(
        replace(calibrated(500), option_log_probabilities=calibrated(500).option_log_probabilities + np.log(0.3)),
        (None,) * 500,
    )
    low = Measurement("m", {"d": recorded}, LETTERS, {"n_resamples": 200})
    lines = screen(low).splitlines()
    assert f"Raw ECE     {low.report.ece_raw.value:.3f} [" in screen(low)
    assert len(lines) <= 20
    assert max(map(len, lines)) <= 80
    texts = Measurement("m", {"d": recorded}, {"confidence": {"name": "text"}}, {"n_resamples": 200})
    assert "Raw ECE" not in screen(texts)
    assert screen(texts).splitlines()[1].startswith("text · plain prompt")
    per_token = Measurement("m", texts.datasets, {"confidence": {"name": "text", "normalization": "tokens"}})
    assert screen(per_token).splitlines()[1].startswith("text-tokens · plain prompt")


@pytest.mark.parametrize("n_bins", [3, 10])
def test_nothing_beside_the_bars_is_left_out(n_bins):
    """With the raw ECE and the flip rate, or with few bins, there are more lines than bars."""
    own = calibrated(500)
    both = replace(own, option_log_probabilities=own.option_log_probabilities + np.log(0.3), flips=np.zeros(500))
    options = {"n_resamples": 200, "n_bins": n_bins}
    lines = screen(Measurement("m", {"d": Recorded(both, (None,) * 500)}, LETTERS, options)).splitlines()
    assert len(lines) <= 20
    text = "\n".join(lines)
    for label in ("Raw ECE  ", "Flip rate ", "pooled over 500 questions", "│ mean confidence", "number of answers"):
        assert label in text


def test_warnings_that_do_not_fit_are_counted():
    text = screen(worst())
    shown = sum(line.startswith("! ") for line in text.splitlines()) - 1
    hidden = len(worst().report.further_warnings) - shown
    assert re.search(rf"! {hidden} (more )?warnings: add --all", text)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_color_where_a_terminal_has_it(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    show(measurement(), stream=stream)
    assert "\033[1m" in stream.getvalue()
    plain = re.sub(r"\033\[\d+m", "", stream.getvalue())
    monkeypatch.setenv("NO_COLOR", "")
    stream = Terminal()
    show(measurement(), stream=stream)
    assert stream.getvalue() == plain
    stream = io.StringIO()
    monkeypatch.delenv("NO_COLOR")
    show(measurement(), stream=stream)
    assert "\033" not in stream.getvalue()


def test_a_terminal_without_block_characters():
    stream = SimpleNamespace(encoding="ascii", isatty=lambda: False, text="")
    stream.write = lambda text: setattr(stream, "text", stream.text + text)
    show(measurement(), stream=stream)
    assert stream.text.isascii()
    assert "#" in stream.text
    assert "letters, plain prompt, 200 questions" in stream.text


def test_progress_in_a_log_file_is_whole_lines(capsys):
    asking = Asking(batch_size=1, progress=True)

    assert asking.run("letters", [[0], [1], [2]], lambda batch: [0.0] * len(batch)) == [0.0] * 3
    printed = capsys.readouterr().err
    assert "\r" not in printed
    assert "3/3" in printed.splitlines()[-1]
    assert len(printed.splitlines()) <= 3


def test_tables_and_short_representations():
    own = good(40)
    table = own.to_dataframe()
    assert list(table.columns[:2]) == ["dataset", "row"]
    np.testing.assert_array_equal(table["correct"].to_numpy(dtype=bool), own.predictions.correct)
    np.testing.assert_allclose(table["confidence"], own.predictions.confidences)
    assert own.ece == own.report.ece == own.report.measures["ece"]
    assert "ece" in dir(own)
    with pytest.raises(AttributeError, match="'eces' is not an attribute"):
        _ = own.eces
    with pytest.raises(AttributeError, match="'tce' was not measured here"):
        _ = own.report.tce
    assert len(repr(own)) < 300
    assert len(repr(own.predictions)) < 100
    assert "<table" in own.predictions._repr_html_()
    assert own.plot().figure_ is not None
