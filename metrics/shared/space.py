"""The page of a metric's Space: from a table to the metric with its interval and a reliability diagram."""

import importlib
import io
from pathlib import Path

import evaluate
import gradio as gr
import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

_BLUE, _ORANGE = "#0072B2", "#D55E00"
# Stands for the color of the page's text, light or dark, until the diagram is written.
_TEXT = "#010203"
_LEVEL = 0.95
# The least share of the gaps of one sign that makes a model over- or underconfident.
_ONE_SIDED = 0.8

_HELP = "Paste or upload a CSV table with a header and one line per sample:\n"
_PROBABILITIES_HELP = (
    "one column of probabilities per option, then a column `label` with the index of the right option, counted from 0"
)
_CONFIDENCES_HELP = "a column `confidence`, then a column `correct` that is 1 for a right answer and 0 for a wrong one"

PROBABILITIES = "A,B,C,label\n" + "\n".join(
    ["0.9,0.05,0.05,0", "0.8,0.1,0.1,0", "0.2,0.7,0.1,2", "0.1,0.3,0.6,2", "0.95,0.03,0.02,1", "0.4,0.35,0.25,0"]
)

CONFIDENCES = "confidence,correct\n" + "\n".join(
    ["0.95,1", "0.9,0", "0.85,1", "0.8,1", "0.75,0", "0.7,1", "0.6,0", "0.55,1", "0.45,0", "0.3,0"]
)


def read_table(text, file):
    """Return predictions and references from a pasted or an uploaded table.

    Raises
    ------
    ValueError
        If there is no table, or it has neither format; the message names the problem.
    """
    if file is not None:
        text = Path(file).read_text(encoding="utf-8-sig")
    if not text or not text.strip():
        raise ValueError("The table is empty: paste one or upload a file.")
    frame = pd.read_csv(io.StringIO(text.strip()), skipinitialspace=True)
    frame.columns = [str(column).strip() for column in frame.columns]
    other = [column for column in frame.columns if not pd.api.types.is_numeric_dtype(frame[column])]
    if other:
        raise ValueError(f"Column {other[0]!r} contains values that are not numbers.")
    if frame.isna().any().any():
        row, column = np.argwhere(frame.isna().to_numpy())[0]
        raise ValueError(f"Line {row + 2}: column {frame.columns[column]!r} has no value.")
    if list(frame.columns) == ["confidence", "correct"]:
        return frame["confidence"].tolist(), _whole(frame["correct"])
    if frame.columns[-1] == "label" and frame.shape[1] >= 3:
        return frame.iloc[:, :-1].astype(float).to_numpy().tolist(), _whole(frame["label"])
    raise ValueError(
        f"The columns are {', '.join(map(repr, frame.columns))}. Expected confidence and correct, or one column of "
        "probabilities per option and then label."
    )


def _whole(column):
    bad = np.flatnonzero(column != column.round())
    if bad.size:
        raise ValueError(f"Line {bad[0] + 2}: column {column.name!r} is {column.iloc[bad[0]]}, not a whole number.")
    return column.astype(int).tolist()


def verdict(statistics, low):
    """Return whether confidence can be trusted, in a sentence or two.

    Parameters
    ----------
    statistics : BinStatistics
        Of the confidences.
    low : float or None
        The lower end of the expected calibration error's interval.
    """
    filled = statistics.weights > 0
    weights = statistics.weights[filled] / statistics.weights.sum()
    accuracy, confidence = statistics.accuracy[filled], statistics.mean_confidence[filled]
    gaps = weights * (confidence - accuracy)
    says = f"Right {weights @ accuracy:.0%} of the time, with a mean confidence of {weights @ confidence:.0%}."
    if low is None or low == 0:
        return f"**No significant miscalibration.** {says}"
    over = gaps[gaps > 0].sum() / np.abs(gaps).sum()
    if over >= _ONE_SIDED:
        return f"**Overconfident.** {says}"
    if over <= 1 - _ONE_SIDED:
        return f"**Underconfident.** {says}"
    return f"**Miscalibrated**, overconfident at some confidences and underconfident at others. {says}"


def reliability_diagram(statistics):
    """Return an SVG of accuracy against confidence, with each bin's share of the samples below.

    It has no background, and its text has the color of the page's text.
    """
    figure = Figure(figsize=(4.2, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
    filled = statistics.weights > 0
    left, width = statistics.edges[:-1][filled], np.diff(statistics.edges)[filled]
    accuracy, confidence = statistics.accuracy[filled], statistics.mean_confidence[filled]
    upper.bar(left, accuracy, 0.96 * width, align="edge", color=_BLUE, label="accuracy")
    upper.bar(
        left,
        confidence - accuracy,
        0.96 * width,
        bottom=accuracy,
        align="edge",
        facecolor="none",
        edgecolor=_ORANGE,
        hatch="////",
        label="gap to mean confidence",
    )
    upper.plot([0, 1], [0, 1], linestyle="--", color=_TEXT, linewidth=0.9)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="Accuracy")
    lower.bar(
        left, statistics.weights[filled] / statistics.weights.sum(), 0.96 * width, align="edge", color=_TEXT, alpha=0.6
    )
    lower.set(xlabel="Confidence", ylabel="Share")
    for axes in (upper, lower):
        axes.set_facecolor("none")
        axes.tick_params(colors=_TEXT)
        for part in (axes.xaxis.label, axes.yaxis.label):
            part.set_color(_TEXT)
        for spine in axes.spines.values():
            spine.set_color(_TEXT)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False, labelcolor=_TEXT)
    with rc_context({"svg.fonttype": "none"}), io.StringIO() as file:
        figure.savefig(file, format="svg", transparent=True)
        drawn = file.getvalue()
    svg = drawn[drawn.index("<svg") :].replace(_TEXT, "currentColor")
    svg = svg.replace("<svg ", '<svg style="width: 100%; height: auto" ', 1)  # narrow screens are narrower than it
    return f'<div role="img" aria-label="Reliability diagram" style="max-width: 30rem">{svg}</div>'


def build(name, title, *, key=None, binned=True, example=PROBABILITIES):
    """Return the page of a metric, whose module is in the folder of this file.

    Parameters
    ----------
    name : str
        Name of the metric's module.
    title : str
        Title of the page.
    key : str, optional
        Key of the result to show; the name by default.
    binned : bool, default True
        Whether the metric takes `n_bins`.
    example : str
        Table shown at first, with its result.
    """
    metric = evaluate.load(str(Path(__file__).parent.resolve() / f"{name}.py"))
    # The metric's modules import each other relatively, so they are imported from where evaluate copied them.
    package = type(metric).__module__.rpartition(".")[0]
    binning = importlib.import_module(f"{package}.binning")
    intervals = importlib.import_module(f"{package}.intervals")
    validation = importlib.import_module(f"{package}.validation")
    key = key or name
    forms = {"Probabilities and label": (PROBABILITIES, _PROBABILITIES_HELP)}
    if isinstance(metric.features, list):  # the metric takes confidences too
        forms["Confidence and correct"] = (CONFIDENCES, _CONFIDENCES_HELP)

    def measure(text, file, n_bins):
        try:
            predictions, references = read_table(text, file)
            options = {"n_bins": int(n_bins)} if binned else {}
            results = metric.compute(
                predictions=predictions, references=references, confidence_level=_LEVEL, **options
            )
            confidences, correct = validation.confidences_and_correct(predictions, references)
            statistics = binning.BinStatistics.from_predictions(confidences, correct, int(n_bins))
            ece_low, _ = intervals.calibration_error_interval(statistics, confidence_level=_LEVEL)
        except (TypeError, ValueError) as error:
            return f"## Not measured\n{error}", ""  # not the results of another table
        low, high = results[f"{key}_low"], results[f"{key}_high"]
        found = f"{verdict(statistics, ece_low)}\n## {title}: {results[key]:.4f}\n"
        if low is not None:
            found += f"{_LEVEL:.0%} interval {low:.4f} to {high:.4f}, "
        return f"{found}{len(references):,} samples", reliability_diagram(statistics)

    number, diagram = measure(example, None, 10)
    with gr.Blocks(title=title) as page:
        told = "\n".join(f"- {text}" for _, text in forms.values())
        gr.Markdown(f"# {title}\n{metric.description}\n{_HELP}\n{told}")
        with gr.Row():
            with gr.Column():
                text = gr.Textbox(example, lines=10, label="Table", elem_id="table")
                file = gr.File(label="or a file", file_types=[".csv", ".txt"], type="filepath")
                gr.Examples(
                    [[table, None] for table, _ in forms.values()],
                    [text, file],
                    example_labels=list(forms),
                    elem_id="forms",
                )
                n_bins = gr.Slider(1, 50, value=10, step=1, label="Bins" if binned else "Bins of the diagram")
                button = gr.Button("Measure", variant="primary", elem_id="measure")
            with gr.Column():
                outputs = [gr.Markdown(number, elem_id="number"), gr.HTML(diagram, elem_id="diagram")]
        button.click(measure, [text, file, n_bins], outputs, api_name="measure")
    return page
