"""The tutorial runs from its first cell to its last, and what is committed of it was run."""

import json
import os
import re
from pathlib import Path

import pytest

TUTORIAL = Path(__file__).resolve().parents[3] / "examples" / "lab" / "tutorial.ipynb"


def test_the_committed_notebook_was_run_in_order_and_names_nothing_of_the_machine():
    notebook = json.loads(TUTORIAL.read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 3
    assert TUTORIAL.stat().st_size < 500_000
    shown = [{**output, "data": {**output.get("data", {}), "image/png": ""}} for output in outputs]
    text = json.dumps([*("".join(cell["source"]) for cell in cells), *shown])
    assert not re.search(r"/(home|root|tmp|work|Users)/|\\\\Users|runtime", text)


@pytest.mark.nightly
def test_every_cell_runs(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(TUTORIAL, as_version=4)
    # The kernel starts in the test's folder, where hf_calib must still be this checkout's.
    path = os.pathsep.join([str(TUTORIAL.parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])])
    client = NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env={**os.environ, "PYTHONPATH": path})  # raises CellExecutionError where a cell fails
    printed = ["".join(output.get("text", "") for output in cell.get("outputs", ())) for cell in notebook.cells]
    # The last table's lines: model, accuracy, mean confidence, ECE.
    table = next(text for text in reversed(printed) if "then long" in text)
    ece = {
        name: float(re.search(rf"^{re.escape(name)} +\S+ +\S+ +(\S+)", table, re.MULTILINE)[1])
        for name in ("pre-trained", "DPO", "DPO + temperature", "calibration-aware DPO", "DPO, then CFT")
    }
    assert all(ece["DPO"] > 2 * other for name, other in ece.items() if name != "DPO")
    assert any("regime: " in text for text in printed)
