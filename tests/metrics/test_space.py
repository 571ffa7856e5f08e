"""The Spaces' pages, without a browser."""

import importlib.util
import sys
from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio", reason="the pages need the extra apps")
METRICS = Path(__file__).resolve().parents[2] / "metrics"


@pytest.fixture
def page(request, monkeypatch):
    """Return the Blocks of a metric's page, and the function behind its button."""
    folder = METRICS / request.param
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "space", raising=False)
    spec = importlib.util.spec_from_file_location(f"app_of_{request.param}", folder / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    monkeypatch.delitem(sys.modules, "space", raising=False)
    (measure,) = (own.fn for own in app.page.fns.values() if own.api_name == "measure")
    return app.page, measure


def named(blocks, name):
    (found,) = (block for block in blocks.blocks.values() if getattr(block, "elem_id", None) == name)
    return found


def answers(n=100, right=0.6, confidence=0.9):
    """Return a table of answers with one confidence."""
    rows = [f"{confidence},{int(i < right * n)}" for i in range(n)]
    return "\n".join(["confidence,correct", *rows])


@pytest.mark.parametrize("page", ["ece"], indirect=True)
def test_page_opens_with_an_example_and_offers_both_forms(page):
    blocks, measure = page
    table = named(blocks, "table").value
    number, _ = measure(table, None, 10)
    assert named(blocks, "number").value == number
    assert "Expected calibration error: 0.3450" in number
    assert "10 samples" in named(blocks, "number").value
    assert "<svg" in named(blocks, "diagram").value
    samples = [sample[0] for sample in named(blocks, "forms").samples]
    assert {sample.splitlines()[0] for sample in samples} == {"A,B,C,label", "confidence,correct"}
    for sample in samples:
        assert "95% interval" in measure(sample, None, 10)[0]


@pytest.mark.parametrize("page", ["brier"], indirect=True)
def test_only_the_forms_that_the_metric_takes_are_offered(page):
    blocks, _ = page
    assert [sample[0].splitlines()[0] for sample in named(blocks, "forms").samples] == ["A,B,C,label"]


@pytest.mark.parametrize("page", ["ece"], indirect=True)
@pytest.mark.parametrize(
    ("right", "confidence", "said"),
    [(0.6, 0.9, "**Overconfident.** Right 60%"), (0.9, 0.6, "**Underconfident.**"), (0.7, 0.7, "**No significant")],
)
def test_verdict_leads(page, right, confidence, said):
    _, measure = page
    assert measure(answers(right=right, confidence=confidence), None, 10)[0].startswith(said)


@pytest.mark.parametrize("page", ["ece"], indirect=True)
def test_an_error_clears_the_results_before_it(page):
    _, measure = page
    number, diagram = measure("score,right\n0.5,1", None, 10)
    assert number.startswith("## Not measured\nThe columns are 'score', 'right'")
    assert diagram == ""
    assert "1 samples" in measure("confidence,correct\n0.5,1", None, 10)[0]


@pytest.mark.parametrize("page", ["ece"], indirect=True)
def test_diagram_has_the_pages_text_color_and_no_background(page):
    _, measure = page
    diagram = measure(answers(), None, 10)[1]
    assert "currentColor" in diagram
    for color in ("#010203", "#000000", "#ffffff", "fill: white"):
        assert color not in diagram
    assert "width: 100%" in diagram
