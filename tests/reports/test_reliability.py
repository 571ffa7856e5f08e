from itertools import pairwise

import numpy as np
import pytest

from hf_calib.measures import BinStatistics, CalibrationReport
from hf_calib.reports import ReliabilityDisplay
from tests.measures.samples import confidences_and_correct, probabilities_and_labels


def saved(display, path):
    from PIL import Image

    display.save(path)
    with Image.open(path) as image:
        image.load()
        return image


def bars(ax, label):
    return next(container for container in ax.containers if container.get_label() == label)


def test_the_bars_are_the_bins():
    statistics = BinStatistics.from_predictions(*confidences_and_correct(500))
    ax = ReliabilityDisplay.from_statistics(statistics).axes_[0]
    heights = [bar.get_height() for bar in bars(ax, "accuracy")]
    np.testing.assert_allclose(heights, statistics.accuracy)
    tops = [bar.get_y() + bar.get_height() for bar in bars(ax, "gap to mean confidence")]
    np.testing.assert_allclose(tops, statistics.mean_confidence)


def test_the_ece_and_its_interval_are_in_the_corner():
    p, y = probabilities_and_labels(300)
    report = CalibrationReport.from_predictions(p, y)
    display = ReliabilityDisplay.from_statistics(report)
    error = report.measures["ece"]
    assert display.errors == {"model": error}
    assert display.axes_[0].get_title(loc="left") == f"ECE {error.value:.3f} [{error.low:.3f}, {error.high:.3f}]"


def test_several_models_side_by_side_and_overlaid():
    models = {f"model {i}": BinStatistics.from_predictions(*confidences_and_correct(200, i)) for i in range(3)}
    beside = ReliabilityDisplay.compare(models)
    assert [ax.get_title(loc="left").splitlines()[0] for ax in beside.axes_] == list(models)
    over = ReliabilityDisplay.compare(models, overlay=True)
    assert len(over.axes_) == 1
    texts = [text.get_text() for text in over.axes_[0].get_legend().get_texts()]
    assert [text.split(":")[0] for text in texts] == list(models)
    for statistics, line in zip(models.values(), over.axes_[0].lines[1:], strict=True):
        np.testing.assert_allclose(line.get_ydata(), statistics.accuracy[statistics.counts > 0])


@pytest.mark.parametrize("kind", ["bars", "curve"])
@pytest.mark.parametrize(
    ("c", "y", "n_bins"),
    [([1.0] * 5, [1, 1, 0, 1, 1], 10), ([0.3, 0.9, 0.6], [1, 1, 0], 1), ([0.5], [1], 10)],
)
def test_edge_cases_are_drawn(kind, c, y, n_bins, tmp_path):
    display = ReliabilityDisplay.from_predictions(c, y, n_bins=n_bins, kind=kind)
    image = saved(display, tmp_path / "diagram.png")
    assert image.width > 500
    assert len(image.convert("L").getcolors()) > 5


@pytest.mark.slow
def test_twenty_six_classes_side_by_side_and_overlaid(tmp_path):
    p, y = probabilities_and_labels(2600, 26)
    classes = {chr(65 + k): BinStatistics.from_predictions(p[:, k], y == k) for k in range(26)}
    beside = ReliabilityDisplay.compare(classes)
    assert len(beside.axes_) == 26
    for (name, statistics), ax in zip(classes.items(), beside.axes_, strict=True):
        assert ax.get_title(loc="left").startswith(f"{name}\nECE {statistics.error():.3f} [")
        accuracy = statistics.accuracy[statistics.counts > 0]
        np.testing.assert_allclose([bar.get_height() for bar in bars(ax, "accuracy")], accuracy)
    # Drawn, they are in rows that fit a page, no title runs into its neighbour's, and all are on the picture.
    image = saved(beside, tmp_path / "beside.png")
    assert 0.4 < image.width / image.height < 2.5
    boxes = [ax._left_title.get_window_extent() for ax in beside.axes_]
    assert all(one.x1 <= other.x0 or other.y1 < one.y0 for one, other in pairwise(boxes))
    # A text's box ends a little after its last stroke.
    assert max(box.x1 for box in boxes) <= beside.figure_.bbox.x1 + 3

    over = ReliabilityDisplay.compare(classes, overlay=True)
    legend = over.axes_[0].get_legend()
    assert [text.get_text().split(":")[0] for text in legend.get_texts()] == list(classes)
    assert len(over.axes_[0].lines) == 1 + 26
    saved(over, tmp_path / "overlaid.png")
    # The legend above the diagram is on the picture in full.
    assert legend.get_window_extent().y1 <= over.figure_.bbox.y1 + 1


def test_the_same_data_give_the_same_bytes(tmp_path):
    statistics = BinStatistics.from_predictions(*confidences_and_correct(500))
    for name in ("a", "b"):
        display = ReliabilityDisplay.from_statistics(statistics)
        display.save(tmp_path / f"{name}.svg")
        display.save(tmp_path / f"{name}.png")
    for ending in ("svg", "png"):
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()
    text = (tmp_path / "a.svg").read_text()
    assert "Confidence</text>" in text
    assert "ECE 0." in text


def test_a_user_s_axes_and_settings_are_left_as_they_are():
    import matplotlib
    from matplotlib.figure import Figure

    before = dict(matplotlib.rcParams)
    ax = Figure().subplots()
    display = ReliabilityDisplay.from_predictions(*confidences_and_correct(100), ax=ax, kind="curve", title="A title")
    assert display.axes_ == [ax]
    assert display.figure_ is ax.figure
    assert dict(matplotlib.rcParams) == before


def test_bad_requests_are_explained():
    statistics = BinStatistics.from_predictions([0.5], [1])
    with pytest.raises(ValueError, match="models is empty"):
        ReliabilityDisplay.compare({})
    with pytest.raises(ValueError, match="'empty' hold no samples"):
        ReliabilityDisplay.compare({"empty": BinStatistics()})
    with pytest.raises(ValueError, match="kind must be"):
        ReliabilityDisplay.from_statistics(statistics, kind="pie")
    from matplotlib.figure import Figure

    with pytest.raises(ValueError, match="can't hold 2 diagrams"):
        ReliabilityDisplay.compare({"a": statistics, "b": statistics}, ax=Figure().subplots())
