"""Tables of a report."""

import dataclasses
import html
import re
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from .text import PLAIN, RAISED, number

PRINTED_ROWS = 60  # as in report.css


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the caller's for the report: `rows` have one cell per column; a number is aligned right. The first cell
    heads its row."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def __post_init__(self) -> None:
        for index, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(
                    f"row {index} of table {self.title!r} has {len(row)} cells, expected one for each of the "
                    f"{len(self.columns)} columns ({', '.join(map(str, self.columns))})."
                )


def table_html(table: Table) -> str:
    """`table` as HTML, sortable in the browser: `data-value` holds what to sort by."""
    columns = [[row[c] for row in table.rows] for c in range(len(table.columns))]
    sides, decimals = list(map(_side, columns)), list(map(_decimals, columns))
    head = "".join(
        f'<th scope="col" class="{sides[c]}"><button type="button">{html.escape(str(name))}</button></th>'
        for c, name in enumerate(table.columns)
    )
    body = "".join(
        "<tr>"
        + "".join(
            f'<{"th scope=row" if c == 0 else "td"} class="{sides[c]}" data-value="{_sort_value(cell)}">'
            f"{markup(_cell(cell, decimals[c]))}</{'th' if c == 0 else 'td'}>"
            for c, cell in enumerate(row)
        )
        + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    if len(table.rows) > PRINTED_ROWS:
        note += f'<p class="note on-paper">The first {PRINTED_ROWS} of {len(table.rows):,} rows are printed.</p>'
    title = html.escape(table.title)
    return (
        f'<h2>{title}</h2><div class="scroll" tabindex="0" role="region" aria-label="{title}"><table data-sortable>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def is_number(cell: Any) -> bool:
    """Whether `cell` is a real number, as NumPy's scalars are and booleans are not."""
    return isinstance(cell, Real) and not isinstance(cell, bool | np.bool_)


def _side(cells: Sequence[Any]) -> str:
    cells = [cell for cell in cells if cell is not None]
    return "number" if cells and all(map(is_number, cells)) else "text"


def _decimals(cells: Sequence[Any]) -> int | None:
    """Digits behind the point that all fractions of a column get, so that the points align; None for a column of integers."""
    fractions = [number(cell) for cell in cells if is_number(cell) and not isinstance(cell, Integral)]
    return min(6, max((len(text.partition(".")[2]) for text in fractions if "×" not in text), default=0)) if fractions else None


def _cell(cell: Any, decimals: int | None) -> str:
    if cell is None or not is_number(cell):
        return "–" if cell is None else str(cell)
    text = number(cell)
    if decimals is None or isinstance(cell, Integral) or "×" in text or not text[-1].isdigit() or float(cell) == 0:
        return text
    return f"{float(cell):,.{decimals}f}".replace("-", "−")


def markup(text: str) -> str:
    """Escaped; exponents as markup, since few fonts have all superscript digits."""
    return re.sub(f"[{RAISED}]+", lambda run: f"<sup>{run[0].translate(PLAIN)}</sup>", html.escape(text))


def _sort_value(cell: Any) -> str:
    if is_number(cell):
        return repr(float(cell)) if np.isfinite(float(cell)) else ""
    return html.escape("" if cell is None else str(cell))
