"""What the report's script draws, as JSON."""

import base64
import dataclasses
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from .figures import DRAWN_AGENTS, charts, sample
from .layout import layout
from .serving import evaluated, grid, has_picture, has_server, member

if TYPE_CHECKING:
    from .result import Result

# What keeps the file small. Agents' values are `[records, n]`, so their records shrink as n grows.
CHART_RECORDS, AGENT_RECORDS, AGENT_VALUES = 1000, 200, 200_000
DRAWN_EDGES = 20_000
COLOURED_BY = {"loss": "local loss", "own_loss": "loss with its own answer", "disagreement": "disagreement ‖xᵢ − x̄‖"}


def payload(result: "Result") -> str:
    """The charts and the network of `result` as JSON that cannot end the script element it stands in."""
    text = json.dumps(
        {"charts": _charts(result), "graph": _graph(result)}, ensure_ascii=False, allow_nan=False, separators=(",", ":")
    )
    for unsafe in "<>&\u2028\u2029":
        text = text.replace(unsafe, f"\\u{ord(unsafe):04x}")
    return text


def edges_once(result: "Result") -> np.ndarray:
    """`[E, 2]`, each edge once."""
    edges = np.asarray(result.graph.get("edges", ()), int).reshape(-1, 2)
    return np.unique(edges if result.graph.get("directed", False) else np.sort(edges, axis=1), axis=0)


def _charts(result: "Result") -> dict[str, Any]:
    records = sample(len(result.history), CHART_RECORDS)
    scalars = result.history.scalars
    more = {name: _numbers(scalars[name][records]) for name in axes(result) if name not in ("round", "bytes")}
    return more | {
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


def axes(result: "Result") -> dict[str, str]:
    """What charts can be drawn against: column → words on the button."""
    if not has_server(result):
        return {"round": "per round", "bytes": "per byte"}
    scalars, found = result.history.scalars, {"round": "per round", "bytes": "per byte sent"}
    if "bytes_down" in scalars:
        found["bytes_down"] = "per byte received"
    if np.any(np.asarray(scalars.get("clock", 0)) > 0):
        found["clock"] = "per simulated second"
    return found


def _graph(result: "Result") -> dict[str, Any]:
    n = len(result.names)
    if not has_picture(result):
        return {"skipped": "Agents under a price-setter have no place in a picture."}
    if n > DRAWN_AGENTS:
        what = "There are" if has_server(result) else "The network has"
        return {"skipped": f"{what} {n:,} {member(result)}s; pictures are drawn up to {DRAWN_AGENTS:,}."}
    if n != result.ledger.bytes.size or (has_server(result) and not result.history.agents and len(result.history)):
        return {"skipped": "Nothing was kept of each client."}
    edges = edges_once(result)
    positions = result.graph.get("positions")
    if has_server(result):
        positions = grid(n)
    positions = layout(edges, n) if positions is None else np.asarray(positions, float)
    kept = edges[sample(len(edges), DRAWN_EDGES)]
    records = sample(len(result.history), min(AGENT_RECORDS, max(2, AGENT_VALUES // max(n, 1))))
    known = (
        COLOURED_BY | ({"loss": "local cost"} if result.price is not None else {}) | {name: name for name in evaluated(result)}
    )
    columns = {name: label for name, label in known.items() if name in result.history.agents and len(records)}
    served = {"member": "client"} if has_server(result) else {}
    return served | {
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
