"""Diagrams as SVG elements colored by the page's style, which has a light and a dark version."""

from __future__ import annotations

import numpy as np

from ..measures import CalibrationReport, risk_coverage_curve
from ..measures.sampling import t_quantile, wilson_interval

# The drawing area inside its margins.
_SIZE, _LEFT, _TOP, _BOTTOM = 300.0, 46.0, 12.0, 42.0

# The largest number of points of a curve.
_POINTS = 400


def reliability_svg(report: CalibrationReport) -> str:
    """Return the reliability diagram: one bar per bin with its interval and mean confidence, and the counts below."""
    parts = [
        *_frame("Confidence", "Accuracy", counts=True),
        f'<path class="ideal" d="M{_x(0)},{_y(0)}L{_x(1)},{_y(1)}"/>',
    ]
    largest = max(int(row["count"] or 0) for row in report.bins)
    critical = t_quantile(report.confidence_level, 10**6)
    for row in report.bins:
        count, accuracy, confidence = row["count"], row["accuracy"], row["confidence"]
        if not count or accuracy is None or confidence is None or row["lower"] is None or row["upper"] is None:
            continue
        left, width = _x(row["lower"]) + 1, (row["upper"] - row["lower"]) * _SIZE - 2
        low, high = wilson_interval(float(accuracy), float(count), critical)
        middle = left + width / 2
        label = (
            f"{row['lower']:.2g} to {row['upper']:.2g}: {count:,} answers, accuracy {accuracy:.1%}, "
            f"confidence {confidence:.1%}"
        )
        gap_low, gap_high = sorted((float(accuracy), float(confidence)))
        parts += [
            f"<g><title>{label}</title>",
            _rect("bar", left, _y(accuracy), width, float(accuracy) * _SIZE),
            _rect("gap", left, _y(gap_high), width, (gap_high - gap_low) * _SIZE),
            f'<path class="whisker" d="M{middle:.1f},{_y(low)}V{_y(high)}"/>',
            f'<path class="said" d="M{left:.1f},{_y(confidence)}h{width:.1f}"/>',
            _rect("count", left, _SIZE + _TOP + 98 - 50 * count / largest, width, 50 * count / largest),
            "</g>",
        ]
    parts.append(f'<text class="label" x="{_x(0)}" y="{_SIZE + _TOP + 40}">answers</text>')
    description = f"Reliability diagram, ECE {report.measures['ece'].value:.3f}"
    return _svg(parts, description, counts=True)


def risk_coverage_svg(confidences: np.ndarray, correct: np.ndarray) -> str:
    """Return the risk-coverage curve: the error rate of the most confident answers against the share kept."""
    curve = risk_coverage_curve(confidences, correct)
    chosen = np.unique(np.linspace(0, len(curve.coverage) - 1, min(_POINTS, len(curve.coverage))).astype(int))
    points = "L".join(f"{_x(curve.coverage[i])},{_y(curve.risk[i])}" for i in chosen)
    overall = float(curve.risk[-1])
    parts = [
        *_frame("Coverage (share of answers kept)", "Risk (error rate)"),
        f'<path class="ideal" d="M{_x(0)},{_y(overall)}L{_x(1)},{_y(overall)}"/>',
        f'<path class="curve" d="M{points}"/>',
    ]
    return _svg(parts, f"Risk-coverage curve; all answers kept, {overall:.1%} are wrong")


def _x(value: float | int) -> float:
    return round(_LEFT + float(value) * _SIZE, 1)


def _y(value: float | int) -> float:
    return round(_TOP + (1 - float(value)) * _SIZE, 1)


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{max(height, 0):.1f}"/>'


def _frame(horizontal: str, vertical: str, *, counts: bool = False) -> list[str]:
    parts = []
    for value in np.linspace(0, 1, 6):
        parts += [
            f'<path class="grid" d="M{_x(0)},{_y(value)}h{_SIZE}"/>',
            f'<text class="tick" x="{_x(0) - 6}" y="{_y(value) + 4}" text-anchor="end">{value:.1f}</text>',
            f'<text class="tick" x="{_x(value)}" y="{_y(0) + 16 + (98 if counts else 0)}" text-anchor="middle">'
            f"{value:.1f}</text>",
        ]
    middle = _TOP + _SIZE / 2
    parts += [
        f'<text class="label" x="{_x(0.5)}" y="{_y(0) + 34 + (98 if counts else 0)}" text-anchor="middle">'
        f"{horizontal}</text>",
        f'<text class="label" x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{vertical}</text>",
    ]
    return parts


def _svg(parts: list[str], description: str, *, counts: bool = False) -> str:
    width, height = _LEFT + _SIZE + 12, _TOP + _SIZE + _BOTTOM + (98 if counts else 0)
    body = "\n".join(parts)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{description}">\n{body}\n</svg>'
