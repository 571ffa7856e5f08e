"""Plain-text tables for the terminal."""

import math
from collections.abc import Mapping, Sequence

from ..measures import Measure

Cell = str | int | float | Measure | None


def render_table(rows: Sequence[Mapping[str, Cell]], *, digits: int = 3) -> str:
    """Return rows as a table in plain text, columns aligned.

    Parameters
    ----------
    rows : sequence of mappings from column to cell
        Columns appear in the order of their first occurrence; a row may lack some. A `Measure` is shown with its
        interval, None and missing cells as a dash.
    digits : int, default 3
        Decimals of floats and measures.

    Returns
    -------
    str
        A header, a rule and a line per row, with columns of numbers aligned right. Empty without rows.

    Examples
    --------
    >>> print(render_table([{"model": "before", "ECE": 0.25, "n": 400}, {"model": "after", "ECE": 0.0625}]))
    model     ECE    n
    ------  -----  ---
    before  0.250  400
    after   0.062    -
    """
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not columns:
        return ""
    body = [[_format(row.get(column), digits) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *body, strict=True)]
    to_right = [all(not isinstance(row.get(column), str) for row in rows) for column in columns]
    lines = [columns, ["-" * width for width in widths], *body]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, to_right, strict=True)
        ).rstrip()
        for line in lines
    )


def _format(cell: Cell, digits: int) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, Measure):
        value = _format(cell.value, digits)
        return value if cell.low is None else f"{value} [{cell.low:.{digits}f}, {cell.high:.{digits}f}]"
    if isinstance(cell, float):
        return "-" if math.isnan(cell) else f"{cell:.{digits}f}"
    return f"{cell:,}" if isinstance(cell, int) else cell
