"""A measurement on one screen of a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from ..measures import CalibrationReport, shown_in
from ..measures.verdict import SIGNIFICANT
from ..tasks.prompt_files import name_of_prompt

if TYPE_CHECKING:
    from .measurement import Measurement

# Lines on a screen of 80 columns, and the largest width of text on a wider one.
LINES, WIDEST = 20, 120
# Columns of the measures, and of a bar's bin and number of answers.
_RIGHT, _AROUND = 34, 18
_BOLD, _YELLOW, _BLUE, _RED = "1", "33", "34", "31"


def screen(
    measurement: Measurement,
    *,
    width: int = 80,
    color: bool = False,
    ascii_only: bool = False,
    out: Path | None = None,
) -> str:
    """Return the verdict, five measures, ten bars, the warnings and the next step on at most 20 lines.

    Parameters
    ----------
    measurement : Measurement
    width : int, default 80
        Columns of the terminal; with fewer than 80 there are more lines.
    color : bool, default False
        Use ANSI colors.
    ascii_only : bool, default False
        Draw the bars without block characters.
    out : path, optional
        Where the measurement was saved.
    """
    width = min(width, WIDEST)

    def paint(text: str, code: str) -> str:
        return f"\033[{code}m{text}\033[0m" if color and text.strip() else text

    head = [_shortened(line, width) for line in _headings(measurement)]
    step = _next_step(measurement, width - 6)
    end = [_written(out, width)] + ([] if step is None else [f"Next: {step}"])
    bars = list(_chart(measurement, width, paint, "#|" if ascii_only else "█│"))
    # One line is kept for warnings; --all has the whole verdict.
    room = max(3, LINES - len([*head, *bars, *end]) - 1)
    said = textwrap.wrap(measurement.verdict, width, max_lines=room, placeholder=" …", break_on_hyphens=False)
    warnings = _warning_lines(measurement.report, width, LINES - len([*head, *said, *bars, *end]))
    blocks = [
        [*(paint(line, _BOLD) for line in head[:1]), *head[1:]],
        [paint(line, _BOLD) for line in said],
        bars,
        [paint(line, _YELLOW) for line in warnings],
        end,
    ]
    spare = LINES - sum(map(len, blocks))
    lines = blocks[0]
    for block in blocks[1:]:
        lines += [""] * (spare > 0 and bool(block)) + block
        spare -= bool(block)
    return "\n".join(lines)


def show(measurement: Measurement, out: Path | None = None, stream: TextIO | None = None) -> None:
    """Print the screen of a measurement as the terminal allows; see `screen`."""
    stream = sys.stdout if stream is None else stream
    plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not stream.isatty()
    try:
        "█│·…".encode(stream.encoding or "ascii")
        ascii_only = False
    except UnicodeEncodeError:
        ascii_only = True
    width = shutil.get_terminal_size().columns
    text = screen(measurement, width=width, color=not plain, ascii_only=ascii_only, out=out)
    print(text.replace(" ·", ",").replace("…", "...") if ascii_only else text, file=stream)


def _headings(measurement: Measurement) -> Iterator[str]:
    """Yield two lines: the model and the datasets; the prompt and the number of questions."""
    names = [shown_name(name) for name in measurement.datasets]
    yield f"{measurement.name} on {names[0] if len(names) == 1 else f'{len(names)} datasets'}"
    run = measurement.run
    parts = []
    if measurement.method is not None:
        prompt = run.get("prompt_format", {})
        shots = len(prompt.get("examples", ()))
        name = name_of_prompt(prompt)
        parts.append(measurement.method)
        parts += [] if prompt.get("chat") and name == "plain" else [f"{name} prompt"]
        parts += ["chat template"] if prompt.get("chat") else []
        parts += [f"{shots} examples"] if shots else []
        parts += ["options permuted"] if run.get("permute_options") else []
    if "calibrator" in run:
        parts.append(f"calibrator {run['calibrator']['method']}")
    parts.append(measurement.n_text)
    yield " · ".join(parts)


def shown_name(dataset: str) -> str:
    """Return a dataset's name, a file's without its folder."""
    return Path(dataset).name if os.sep in dataset and Path(dataset).suffix else dataset


def _chart(measurement: Measurement, width: int, paint: Callable[[str, str], str], marks: str) -> Iterator[str]:
    """Yield a bar of accuracy with a mark at the confidence for each bin, and the measures to the right."""
    report = measurement.report
    reads_texts = measurement.run.get("confidence", {}).get("name") == "text"
    right = []
    for info in shown_in("terminal"):
        # The probability of whole texts is always small.
        if info.key not in report.measures or (info.key == "ece_raw" and reads_texts):
            continue
        measure = report.measures[info.key]
        interval = "" if measure.low is None else f" [{measure.low:.3f}, {measure.high:.3f}]"
        value = "  -  " if measure.value != measure.value else f"{measure.value:.3f}"
        right.append(f"{info.short[0].upper() + info.short[1:]:<11} {value}{interval}")
    own = report.ece_convention
    calibrated = "" if own["calibrated_model"] is None else f"; {own['calibrated_model']:.3f} if calibrated"
    right.append(f"({own['n_bins']} bins, L1{calibrated};")
    right.append(f" pooled over {own['n']:,} question{'' if own['n'] == 1 else 's'})")
    right += [""] if len(right) < 8 else []
    right += [f"{marks[0]} accuracy, {marks[1]} mean confidence", "last column: number of answers"]
    beside = width >= _AROUND + _RIGHT + 20
    size = (width - _AROUND - (_RIGHT if beside else 0)) if width > _AROUND + 20 else 20
    if not beside:
        yield from (line for line in right if line)
    for place, row in enumerate(report.bins):
        count, accuracy, confidence = row["count"], row["accuracy"], row["confidence"]
        bar = [" "] * size
        if accuracy is not None and confidence is not None:
            filled = round(accuracy * size)
            bar[:filled] = [paint(marks[0], _BLUE)] * filled
            bar[min(int(confidence * size), size - 1)] = paint(marks[1], _RED)
        left = f"{row['lower']:.1f}-{row['upper']:.1f} {''.join(bar)} {f'{count:,}' if count else '-':>6}"
        text = right[place] if beside and place < len(right) else ""
        yield f"{left}   {text}".rstrip()
    if beside:
        yield from (f"{'':{_AROUND + size}}{text}".rstrip() for text in right[len(report.bins) :])


def _warning_lines(report: CalibrationReport, width: int, room: int) -> list[str]:
    """Return the warnings after the one that the verdict leads with, as many as there is room for."""
    left = list(report.further_warnings)
    told = {finding.remedy for finding in report.warnings if finding not in left}
    lines: list[str] = []
    while left:
        own = left[0]
        text = str(own).removesuffix(f" {own.remedy}") if own.remedy in told else str(own)
        wrapped = textwrap.wrap(f"! {text}", width, subsequent_indent="  ", break_on_hyphens=False)
        if len(lines) + len(wrapped) + (len(left) > 1) > room:
            break
        lines += wrapped
        told.add(own.remedy)
        left.pop(0)
    if left:
        more = "more warning" if lines else "warning"
        lines.append(f"! {len(left)} {more}{'' if len(left) == 1 else 's'}: add --all to see them")
    return lines


def _written(out: Path | None, width: int) -> str:
    if out is None:
        return _shortened("Add --out DIR to save the predictions and a page, --all for all measures", width)
    from .measurement import PAGE_FILE

    return f"Wrote {out / PAGE_FILE}"


def _next_step(measurement: Measurement, width: int) -> str | None:
    """Return a command to try, with placeholders for names for which there is no room; None if there is none."""
    for finding in measurement.warnings:
        if finding.options:
            # A calibrator is refused where confidence is read in another way than that on which it was fitted.
            if "calibrator" in measurement.run and not finding.options[0].startswith("--limit"):
                return None
            return f"the same command with {finding.options[0]}"
    test = measurement.report.test
    miscalibrated = test is not None and test.p_value <= SIGNIFICANT
    if any(key.startswith("from_") for key in measurement.run):  # there is no model to ask
        if miscalibrated:
            return "hf-calib calibrate --from-predictions HELD_OUT --out calibrator"
        return "hf-calib compare PREDICTIONS OTHER_PREDICTIONS"
    command = "hf-calib compare {model} OTHER_MODEL --dataset {dataset}"
    if miscalibrated:
        command = "hf-calib calibrate --model {model} --dataset HELD_OUT --out calibrator"
    said = command.format(model=measurement.name, dataset=next(iter(measurement.datasets)))
    return said if len(said) <= width else command.format(model="MODEL", dataset="DATASET")


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
