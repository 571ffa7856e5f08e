"""The parts of a calibration report as lines of plain text."""

from collections.abc import Iterable, Mapping

from .catalog import CATALOG, shown_in
from .consistency import CalibrationTest
from .estimates import Measure

_LABEL_WIDTH = max(len(info.label) for info in CATALOG.values()) + 1
_GROUP_WIDTH = 34


def measures_table(measures: Mapping[str, Measure], confidence_level: float) -> list[str]:
    """Return a line for each measure, in the catalog's order, below a header."""
    lines = [f"{'Measure':<{_LABEL_WIDTH}}{'value':>9}  {100 * confidence_level:g}% interval"]
    for key, info in CATALOG.items():
        if key in measures:
            measure = measures[key]
            line = f"{info.label:<{_LABEL_WIDTH}}{measure.value:>9.4f}"
            if measure.low is not None:
                line += f"  [{measure.low:.4f}, {measure.high:.4f}]"
            lines.append(line if measure.n_used is None else f"{line}  (n = {measure.n_used:,})")
    return lines


def calibration_test_lines(test: CalibrationTest) -> list[str]:
    """Return what the test of calibration found."""
    often = "fewer than 1" if test.p_value < 0.01 else f"about {100 * test.p_value:.0f}"
    return [
        f"Could it be chance? A perfectly calibrated model would show an ECE of {test.error:.4f}",
        f"or more in {often} of 100 samples like this one (p = {test.p_value:.3g}),",
        f"and one of {test.expected_error:.4f} on average.",
    ]


def bins_table(bins: Iterable[Mapping[str, float | int | None]]) -> list[str]:
    """Return a line for each bin, as `BinStatistics.rows` gives them, below a header."""
    rows = list(bins)
    lines = [f"{'Bin':<14}{'count':>12}{'accuracy':>12}{'confidence':>12}"]
    for i, row in enumerate(rows):
        edges = f"[{row['lower']:.3g}, {row['upper']:.3g}{']' if i == len(rows) - 1 else ')'}"
        cells = [f"{'-':>12}" if row[key] is None else f"{row[key]:>12.4f}" for key in ("accuracy", "confidence")]
        lines.append(f"{edges:<14}{row['count']:>12,}{''.join(cells)}")
    return lines


def groups_table(
    groups: Mapping[str, tuple[int, Mapping[str, float]]], averages: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Return a line for each group with its size and values, and for each average of them, below a header."""
    shown = shown_in("groups")
    lines = [f"{'Group':<{_GROUP_WIDTH}}{'n':>9}" + "".join(f"{info.short:>12}" for info in shown)]
    rows = [(name, f"{n:,}", values) for name, (n, values) in groups.items()]
    for name, n, values in [*rows, *((name, "", values) for name, values in averages.items())]:
        label = name if len(name) < _GROUP_WIDTH else name[: _GROUP_WIDTH - 2] + "…"
        lines.append(f"{label:<{_GROUP_WIDTH}}{n:>9}" + "".join(f"{values[info.key]:>12.4f}" for info in shown))
    return lines
