"""One self-contained HTML file per run."""

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from .describing import describe
from .ledger import human_bytes
from .market import certificate_table, is_market, market_measures, plan_columns, price_table
from .mixing import Mixing, rounds_per_tenfold
from .outcome import Outcome
from .payload import axes, edges_once, payload
from .serving import by_group, evaluated, extremes, has_picture, has_server, member, members, server
from .table import Table, is_number, markup, table_html
from .template import read as _template
from .text import number

if TYPE_CHECKING:
    from .result import Result

LISTED_AGENTS = 2000


def write_report(result: "Result", path: str | Path, tables: Iterable[Table] = ()) -> Path:
    """Write the report of `result`, one HTML file that works without a network, and return where it is.

    It shows the outcome, `tables`, the network with its agents coloured by loss or disagreement round by round, the way to
    the solution and to agreement per round and per byte, predicted and measured mixing, every agent, and the configuration.
    Of a coupled problem also the certificate, the prices, gap and violation round by round, and plans where they are small.
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
    network = str(result.config.get("network", "")).partition(": ")[0] or f"{len(result.names):,} {member(result)}s"
    if is_market(result):
        network = f"{members(result):,} agents and {len(result.price):,} row{'s' * (len(result.price) != 1)}"
    title = f"{type(result.algorithm).__name__} on {network}"
    return Template(_template("report.html")).substitute(
        title=html.escape(title),
        style=_template("report.css"),
        outcome=_outcome(result),
        subtitle=html.escape(describe(result.algorithm)),
        measures=_measures(result),
        tables="\n".join(f"<section>{table_html(table)}</section>" for table in tables),
        picture=_picture(result),
        axes=_axes(result),
        mixing=_mixing(result),
        agents=_groups(result) + _agents(result),
        config=_entries({key: value for key, value in result.config.items() if key not in ("versions", "groups")}),
        versions=_versions(result.config.get("versions", {})),
        data=payload(result),
        script="\n".join(_template(name) for name in ("format.js", "chart.js", "graph.js", "report.js")),
    )


def _outcome(result: "Result") -> str:
    mark = {Outcome.CONVERGED: "✓", Outcome.TARGET: "✓", Outcome.DIVERGED: "✕", Outcome.NOT_FINITE: "✕"}.get(
        result.outcome, "!"
    )
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
    ledger, shown = (
        result.ledger,
        [("rounds", f"{result.rounds:,}", ""), *(market_measures(result) if is_market(result) else [])],
    )
    for name, label in (
        *((("objective", "objective"),) if not is_market(result) else ()),
        ("gap", "objective gap"),
        ("error", "distance to the optimum"),
        ("consensus_error", "consensus error"),
        ("optimality", "optimality residual"),
    ):
        if name == "consensus_error" and has_server(result) and not last.get(name):
            continue
        if name in last and np.isfinite(last[name]) and not (name == "objective" and np.isfinite(last.get("gap", np.nan))):
            shown.append((label, number(last[name], 3), ""))
    if ledger.epsilon is not None and len(ledger.epsilon):
        shown.append(("privacy spent", f"ε = {number(float(ledger.epsilon[-1]), 3)}", f"at δ = {ledger.delta:g}"))
    sent = ledger.bytes
    shown += [(name, number(last[name], 3), "") for name in evaluated(result) if np.isfinite(last[name])]
    busiest = human_bytes(float(sent.max())) if sent.size else "0 B"
    shown.append(
        (
            "sent in all",
            human_bytes(float(sent.sum())),
            f"busiest {member(result)} {busiest}" if len(sent) == members(result) else "",
        )
    )
    if has_server(result):
        received = human_bytes(float(ledger.received.sum() * ledger.received_bytes))
        shown.append(("received in all", received, f"from the {server(result)}"))
        if last.get("clock", 0) > 0:
            shown.append(("simulated time", f"{number(last['clock'], 3)} s", ""))
    compiled = f"and {ledger.compile_seconds:.2g} s to compile"
    known = np.isfinite(ledger.compile_seconds)
    shown.append(("time", f"{ledger.seconds:.3g} s", compiled if known else "waiting and compiling included"))
    small = lambda note: f"<small>{html.escape(note)}</small>" if note else ""
    return "\n".join(
        f"<div><dt>{html.escape(label)}</dt><dd>{markup(value)}{small(note)}</dd></div>" for label, value, note in shown
    )


def _picture(result: "Result") -> str:
    """The section of the network, or of the market."""
    facts = f'<dl class="entries facts">\n{_entries(_facts(result))}\n</dl>'
    market = (
        [table_html(table) for table in (certificate_table(result), price_table(result)) if table] if is_market(result) else []
    )
    found = [f'<section class="market">{table}</section>' for table in market]
    if not has_picture(result):
        return "\n".join([*found, f'<section id="market"><h2>Agents and rows</h2>{facts}</section>'])
    title = "Clients" if has_server(result) else "Network"
    figure = f'<div class="columns">\n<figure id="graph" class="graph"></figure>\n{facts}\n</div>'
    return "\n".join([*found, f'<section id="network">\n<h2>{title}</h2>\n{figure}\n</section>'])


def _facts(result: "Result") -> dict[str, Any]:
    return _places(result) | {name: result.config[name] for name in ("aggregate", "adversary") if name in result.config}


def _places(result: "Result") -> dict[str, Any]:
    if has_server(result):
        facts = {f"{member(result)}s": members(result)}
        if is_market(result):
            facts["rows"] = len(result.price)
        if "participants" in result.history.scalars and len(result.history):
            facts["took part in the last recorded round"] = int(result.history.scalars["participants"][-1])
        return facts | dict(extremes(result))
    kind = "arcs" if result.graph.get("directed", False) else "edges"
    return {"agents": len(result.names), kind: len(edges_once(result)), **result.graph.get("facts", {})}


def _axes(result: "Result") -> str:
    return "\n".join(
        f'<label><input type="radio" name="axis" value="{name}"{" checked" * (name == "round")}><span>{label}</span></label>'
        for name, label in axes(result).items()
    )


def _mixing(result: "Result") -> str:
    if not len(result.history) or has_server(result):
        return ""
    mixing, lines = Mixing.of(result), []
    if mixing.predicted is not None:
        lines.append(
            f"<p><b>Predicted</b> <var>{mixing.predicted:.4g}</var> per round for plain averaging on this network: tenfold "
            f"less disagreement in {number(rounds_per_tenfold(mixing.predicted), 3)} rounds (dotted guide).</p>"
        )
    if mixing.measured is not None:
        lines.append(
            f"<p><b>Measured</b> <var>{mixing.measured:.4g}</var> per round: tenfold in "
            f"{number(rounds_per_tenfold(mixing.measured), 3)} rounds, fitted on rounds {mixing.first:,} to {mixing.last:,}."
            "</p>"
        )
    if mixing.predicted is not None and mixing.measured is not None and mixing.measured > mixing.predicted:
        lines.append("<p>Agents that still move to the optimum agree no faster than they get there.</p>")
    if not lines:
        return ""
    return f'<div class="mixing"><h3>Mixing rate</h3>{"".join(lines)}</div>'


def _groups(result: "Result") -> str:
    """A table of means and worst ends by group; nothing where agents have none."""
    found = by_group(result)
    if not found:
        return ""
    who, local = member(result), "cost" if is_market(result) else "loss"
    say = {"loss": local, "own_loss": "loss, own answer"}
    names = tuple(found[0][2])
    ends = lambda name: (f"mean {say.get(name, name)}", "lowest", "highest")
    rows = [
        (group, len(own), *(float(end(values[name])) for name in names for end in (np.mean, np.min, np.max)))
        for group, own, values in found
    ]
    return table_html(Table("Groups", ("group", f"{who}s", *(label for name in names for label in ends(name))), rows))


def _agents(result: "Result") -> str:
    columns: list[tuple[str, np.ndarray]] = []
    metrics = tuple((name, f"final {name}") for name in evaluated(result))
    for name, label in (
        ("loss", "final cost" if is_market(result) else "final loss"),
        ("own_loss", "final loss, own answer"),
        *metrics,
        ("disagreement", "final disagreement"),
    ):
        if len(result.history) and name in result.history.agents:
            columns.append((label, np.asarray(result.history.agents[name][-1])))
    lies = np.zeros(len(result.names), bool)
    if "adversary" in result.config and len(result.history) and "loss" in result.history.agents:
        lies = np.isnan(np.asarray(result.history.agents["loss"], float)).all(axis=0)
    columns += plan_columns(result) if is_market(result) else []
    n, sent = len(result.names), result.ledger.bytes
    who = member(result)
    if has_server(result):
        columns.insert(0, ("bytes received", np.asarray(result.ledger.received) * result.ledger.received_bytes))
    listed, note = np.arange(n), ""
    if n > LISTED_AGENTS:
        listed = np.sort(np.argsort(-sent, kind="stable")[:LISTED_AGENTS])
        note = f"The {LISTED_AGENTS:,} of {n:,} {who}s that sent most."
    if lies.any():
        note = f"{note} –: of {who}s that lie nothing is measured.".strip()
    shown = lambda value, liar: None if liar and np.isnan(value) else value
    rows = [
        (result.names[i], int(sent[i]), int(result.ledger.messages[i]), *(shown(c[i].item(), lies[i]) for _, c in columns))
        for i in listed
    ]
    return table_html(
        Table(f"{who.capitalize()}s", (who, "bytes sent", "messages", *(label for label, _ in columns)), rows, note)
    )


def _entries(values: dict[str, Any]) -> str:
    """Nested names and values as nested definition lists."""
    rows = []
    for key, value in values.items():
        label = html.escape(str(key).replace("_", " "))
        if isinstance(value, dict):
            rows.append(f'<div class="group"><dt>{label}</dt><dd><dl>{_entries(value)}</dl></dd></div>')
            continue
        rows.append(f"<div><dt>{label}</dt><dd>{markup(_plain(value))}</dd></div>")
    return "\n".join(rows)


def _plain(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return number(value) if is_number(value) else str(value)


def _versions(versions: Any) -> str:
    if isinstance(versions, dict):
        versions = ", ".join(f"{name} {version}" for name, version in versions.items())
    return html.escape(str(versions))
