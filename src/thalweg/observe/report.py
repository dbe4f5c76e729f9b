"""One self-contained HTML file per run."""

import base64
import dataclasses
import html
import json
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from numbers import Integral, Real
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import charts, sample
from .layout import layout
from .ledger import human_bytes
from .mixing import Mixing, rounds_per_tenfold
from .outcome import Outcome
from .result import describe
from .text import PLAIN, RAISED, number

if TYPE_CHECKING:
    from .result import Result

# What keeps the file small. Agents' values are `[records, n]`, so their records shrink as n grows.
CHART_RECORDS, AGENT_RECORDS, AGENT_VALUES = 1000, 200, 200_000
DRAWN_AGENTS, DRAWN_EDGES, LISTED_AGENTS = 2000, 20_000, 2000
COLOURED_BY = {"loss": "local loss", "disagreement": "disagreement ‖xᵢ − x̄‖"}


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


def write_report(result: "Result", path: str | Path, tables: Iterable[Table] = ()) -> Path:
    """Write the report of `result`, one HTML file that works without a network, and return where it is.

    It shows the outcome, `tables`, the network with its agents coloured by loss or disagreement round by round, the way to
    the solution and to agreement per round and per byte, predicted and measured mixing, every agent, and the configuration.
    Values that are not finite leave gaps in the figures. Long histories are thinned evenly: see `result.history` for all.

    Raises:
        TypeError: something in `tables` is not a `Table`.
    """
    tables = tuple(tables)
    for table in tables:
        if not isinstance(table, Table):
            raise TypeError(f"tables holds {type(table).__name__}, expected thalweg.observe.Table(title, columns, rows).")
    path = Path(path)
    path.write_text(page(result, tables), encoding="utf-8")
    return path


def page(result: "Result", tables: Sequence[Table] = ()) -> str:
    """The report as a string of HTML."""
    network = str(result.config.get("network", "")).partition(": ")[0] or f"{len(result.names):,} agents"
    title = f"{type(result.algorithm).__name__} on {network}"
    return Template(_template("report.html")).substitute(
        title=html.escape(title),
        style=_template("report.css"),
        outcome=_outcome(result),
        subtitle=html.escape(describe(result.algorithm)),
        measures=_measures(result),
        tables="\n".join(f"<section>{_table(table)}</section>" for table in tables),
        facts=_entries(_facts(result)),
        mixing=_mixing(result),
        agents=_agents(result),
        config=_entries({key: value for key, value in result.config.items() if key != "versions"}),
        versions=_versions(result.config.get("versions", {})),
        data=_json({"charts": _charts(result), "graph": _graph(result)}),
        script="\n".join(_template(name) for name in ("format.js", "chart.js", "graph.js", "report.js")),
    )


def _template(name: str) -> str:
    return resources.files(__package__).joinpath("template", name).read_text(encoding="utf-8")


# ---- text -----------------------------------------------------------------------------------------------------------------


def _outcome(result: "Result") -> str:
    mark = {Outcome.CONVERGED: "✓", Outcome.DIVERGED: "✕", Outcome.NOT_FINITE: "✕"}.get(result.outcome, "!")
    kind = {"✓": "good", "✕": "bad"}.get(mark, "warn")
    lines = [
        f'<p class="outcome {kind}"><strong><span class="mark" aria-hidden="true">{mark}</span> '
        f"{html.escape(result.outcome.value.capitalize())}</strong> <span>{html.escape(result.reason)}</span></p>"
    ]
    if result.outcome.remedy:
        lines.append(f'<p class="remedy"><b>What helps</b> {html.escape(result.outcome.remedy)}</p>')
    lines += [f'<p class="remedy"><b>Warning</b> {html.escape(text)}</p>' for text in result.warnings]
    return "\n".join(lines)


def _measures(result: "Result") -> str:
    last = {name: column[-1] for name, column in result.history.scalars.items()} if len(result.history) else {}
    ledger, shown = result.ledger, [("rounds", f"{result.rounds:,}", "")]
    for name, label in (
        ("objective", "objective"),
        ("gap", "objective gap"),
        ("error", "distance to the optimum"),
        ("consensus_error", "consensus error"),
        ("optimality", "optimality residual"),
    ):
        if name in last and np.isfinite(last[name]) and not (name == "objective" and np.isfinite(last.get("gap", np.nan))):
            shown.append((label, number(last[name], 3), ""))
    sent = ledger.bytes
    busiest = human_bytes(sent.max()) if sent.size else "0 B"
    shown.append(("sent in all", human_bytes(sent.sum()), f"busiest agent {busiest}"))
    shown.append(("time", f"{ledger.seconds:.3g} s", f"and {ledger.compile_seconds:.2g} s to compile"))
    return "\n".join(
        f"<div><dt>{html.escape(label)}</dt><dd>{_markup(value)}{f'<small>{html.escape(note)}</small>' if note else ''}</dd></div>"
        for label, value, note in shown
    )


def _facts(result: "Result") -> dict[str, Any]:
    kind = "arcs" if result.graph.get("directed", False) else "edges"
    return {"agents": len(result.names), kind: len(_edges(result)), **result.graph.get("facts", {})}


def _edges(result: "Result") -> np.ndarray:
    """`[E, 2]`, each edge once."""
    edges = np.asarray(result.graph.get("edges", ()), int).reshape(-1, 2)
    return np.unique(edges if result.graph.get("directed", False) else np.sort(edges, axis=1), axis=0)


def _mixing(result: "Result") -> str:
    if not len(result.history):
        return ""
    mixing, lines = Mixing.of(result), []
    if mixing.predicted is not None:
        lines.append(
            f"<p><b>Predicted</b> <var>{mixing.predicted:.4g}</var> per round for plain averaging on this network: tenfold less "
            f"disagreement in {number(rounds_per_tenfold(mixing.predicted), 3)} rounds (dotted guide).</p>"
        )
    if mixing.measured is not None:
        lines.append(
            f"<p><b>Measured</b> <var>{mixing.measured:.4g}</var> per round, tenfold in "
            f"{number(rounds_per_tenfold(mixing.measured), 3)} rounds, fitted on rounds {mixing.first:,} to {mixing.last:,}.</p>"
        )
    if mixing.predicted is not None and mixing.measured is not None and mixing.measured > mixing.predicted:
        lines.append("<p>An optimisation method agrees no faster than it converges: slower than the guide is to be expected.</p>")
    if not lines:
        return ""
    return f'<div class="mixing"><h3>Mixing rate</h3>{"".join(lines)}</div>'


def _agents(result: "Result") -> str:
    columns: list[tuple[str, np.ndarray]] = []
    for name, label in (("loss", "final loss"), ("disagreement", "final disagreement")):
        if len(result.history) and name in result.history.agents:
            columns.append((label, np.asarray(result.history.agents[name][-1])))
    n, sent = len(result.names), result.ledger.bytes
    listed, note = np.arange(n), ""
    if n > LISTED_AGENTS:
        listed = np.sort(np.argsort(-sent, kind="stable")[:LISTED_AGENTS])
        note = f"The {LISTED_AGENTS:,} of {n:,} agents that sent most."
    rows = [
        (result.names[i], int(sent[i]), int(result.ledger.messages[i]), *(float(column[i]) for _, column in columns))
        for i in listed
    ]
    return _table(Table("Agents", ("agent", "bytes sent", "messages", *(label for label, _ in columns)), rows, note))


def _table(table: Table) -> str:
    """Sortable in the browser: `data-value` holds what to sort by."""
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
            f"{_markup(_cell(cell, decimals[c]))}</{'th' if c == 0 else 'td'}>"
            for c, cell in enumerate(row)
        )
        + "</tr>"
        for row in table.rows
    )
    note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
    title = html.escape(table.title)
    return (
        f'<h2>{title}</h2><div class="scroll" tabindex="0" role="region" aria-label="{title}"><table data-sortable>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


def _is_number(cell: Any) -> bool:
    return isinstance(cell, Real) and not isinstance(cell, bool | np.bool_)


def _side(cells: Sequence[Any]) -> str:
    cells = [cell for cell in cells if cell is not None]
    return "number" if cells and all(map(_is_number, cells)) else "text"


def _decimals(cells: Sequence[Any]) -> int | None:
    """Digits behind the point that all fractions of a column get, so that the points align; None for a column of integers."""
    fractions = [number(cell) for cell in cells if _is_number(cell) and not isinstance(cell, Integral)]
    return min(6, max((len(text.partition(".")[2]) for text in fractions if "×" not in text), default=0)) if fractions else None


def _cell(cell: Any, decimals: int | None) -> str:
    if cell is None or not _is_number(cell):
        return "–" if cell is None else str(cell)
    text = number(cell)
    if decimals is None or isinstance(cell, Integral) or "×" in text or not text[-1].isdigit() or float(cell) == 0:
        return text
    return f"{float(cell):,.{decimals}f}".replace("-", "−")


def _markup(text: str) -> str:
    """Escaped; exponents as markup, since few fonts have all superscript digits."""
    return re.sub(f"[{RAISED}]+", lambda run: f"<sup>{run[0].translate(PLAIN)}</sup>", html.escape(text))


def _sort_value(cell: Any) -> str:
    if _is_number(cell):
        return repr(float(cell)) if np.isfinite(float(cell)) else ""
    return html.escape("" if cell is None else str(cell))


def _entries(values: dict[str, Any]) -> str:
    """Nested names and values as nested definition lists."""
    rows = []
    for key, value in values.items():
        label = html.escape(str(key).replace("_", " "))
        if isinstance(value, dict):
            rows.append(f'<div class="group"><dt>{label}</dt><dd><dl>{_entries(value)}</dl></dd></div>')
            continue
        text = {None: "–", True: "yes", False: "no"}[value] if value is None or isinstance(value, bool | np.bool_) else value
        text = number(text) if _is_number(text) else ", ".join(map(str, text)) if isinstance(text, list | tuple) else str(text)
        rows.append(f"<div><dt>{label}</dt><dd>{_markup(text)}</dd></div>")
    return "\n".join(rows)


def _versions(versions: Any) -> str:
    if isinstance(versions, dict):
        versions = ", ".join(f"{name} {version}" for name, version in versions.items())
    return html.escape(str(versions))


# ---- figures --------------------------------------------------------------------------------------------------------------


def _charts(result: "Result") -> dict[str, Any]:
    records = sample(len(result.history), CHART_RECORDS)
    scalars = result.history.scalars
    return {
        "round": _numbers(scalars["round"][records]),
        "bytes": _numbers(scalars["bytes"][records]) if "bytes" in scalars else None,
        "charts": [
            {
                "title": chart.title,
                "log": chart.log,
                "lines": [{**dataclasses.asdict(line), "values": _numbers(line.values[records])} for line in chart.lines],
            }
            for chart in charts(result)
        ],
    }


def _graph(result: "Result") -> dict[str, Any]:
    n = len(result.names)
    if n > DRAWN_AGENTS:
        return {"skipped": f"The network has {n:,} agents; pictures are drawn up to {DRAWN_AGENTS:,}."}
    edges = _edges(result)
    positions = result.graph.get("positions")
    positions = layout(edges, n) if positions is None else np.asarray(positions, float)
    kept = edges[sample(len(edges), DRAWN_EDGES)]
    records = sample(len(result.history), min(AGENT_RECORDS, max(2, AGENT_VALUES // max(n, 1))))
    columns = {name: label for name, label in COLOURED_BY.items() if name in result.history.agents and len(records)}
    return {
        "names": list(result.names),
        "positions": [_numbers(point) for point in positions],
        "edges": kept.ravel().tolist(),
        "edgeCount": len(edges),
        "directed": bool(result.graph.get("directed", False)),
        "round": _numbers(result.history.scalars["round"][records]),
        "columns": [
            {"name": name, "label": label, "values": _packed(result.history.agents[name][records])}
            for name, label in columns.items()
        ],
    }


def _numbers(values: np.ndarray) -> list[float | int | None]:
    """Six digits, None where JSON has no number."""
    return [None if not np.isfinite(v) else int(v) if float(v).is_integer() else float(f"{v:.6g}") for v in values]


def _packed(values: np.ndarray) -> str:
    """Little-endian float32 in base64: a third of the size of text, and NaN needs no care."""
    with np.errstate(over="ignore", under="ignore"):
        return base64.b64encode(np.ascontiguousarray(values, "<f4").tobytes()).decode("ascii")


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for unsafe in "<>&\u2028\u2029":
        text = text.replace(unsafe, f"\\u{ord(unsafe):04x}")
    return text
