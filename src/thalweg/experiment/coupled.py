"""Coupled problems that an experiment file can state, with their numbers in the file or in a CSV file.

Axes: `n` agents, `d` variables of one agent, `m` rows of the coupling, `s` segments of a bid.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from pydantic import Field, model_validator

from thalweg import problem as problems
from thalweg.problem.constants import Memo

from . import records
from .mistakes import Mistake, missing, shown, unknown_name, wrong
from .stated import Piece, ProblemTable, Stated

Sense = Literal["=", "<=", ">="]
# A number for all, one per agent, or a list per agent; with a CSV file, a column or a list of columns.
Grid = int | float | str | list[float] | list[str] | list[list[float]]
GRID = "a number, a list with one entry per agent, or with data a column or a list of columns"


class CoupledTable(ProblemTable):
    """What coupled problems have in common."""

    data: str | None = Field(None, description="the path of a CSV file")
    agent: str | None = Field(None, description="the column of the CSV file that holds the agents' names")
    names: list[str] | None = Field(None, description="a list with one name per agent")
    row_names: list[str] | None = Field(None, description="a list with one name per row of the coupling")

    def agent_names(self, base: Path) -> tuple[str, ...]:
        whole = self.build(base, float).problem
        return tuple(f"agent-{i}" for i in range(whole.n)) if whole.names is None else whole.names

    def piece(self, base: Path, dtype: Any, sites: Sequence[str], place: int, data: Path | None) -> Piece:
        if data is not None:
            raise Mistake("--data: got a file, expected none: the numbers of a coupled problem are in the experiment file")
        whole = self.build(base, dtype).problem
        if whole.n != len(sites):
            raise Mistake(f"deploy.sites: got {len(sites)} sites, expected one for each of the {whole.n} agents")
        return Piece(_one_of(whole, place))

    def _file(self, base: Path) -> Path | None:
        """The CSV file, if there is one."""
        if self.data is None:
            if self.agent is not None:
                raise Mistake(f"problem.agent: got {shown(self.agent)}, expected nothing without data; use names = [ … ]")
            return None
        if (path := records.locate(self.data, base)) is None:
            raise wrong("problem.data", self.data, "the path of a CSV file")
        if self.names is not None:
            raise Mistake(f"problem.names: got {shown(self.names)}, expected nothing with data; use agent = a column")
        return path


class Allocation(CoupledTable):
    """Quadratic costs ½ a (x − c)² between bounds, whose sum over all agents is to be b."""

    target: Grid = Field(description=f"what every agent would like (c): {GRID}")
    curvature: Grid = Field(1.0, description=f"what it costs not to get it (a > 0): {GRID}")
    low: Grid | None = Field(None, description=f"the least it can have: {GRID}")
    high: Grid | None = Field(None, description=f"the most it can have: {GRID}")
    total: float | list[float] = Field(description="a number, or a list with one number per row of the coupling")
    sense: Sense | list[Sense] = Field("=", description='"=", "<=" or ">=", or a list with one of them per row')

    def build(self, base: Path, dtype: Any) -> Stated:
        path = self._file(base)
        known, rows = ([], []) if path is None else records.columns(path)
        read = lambda key: _grid(key, getattr(self, key), path, known, rows)
        target = read("target")
        if target.ndim == 0:
            raise wrong("problem.target", self.target, "a list with one entry per agent: their number is read off it")
        n, d = target.shape
        names = self.names if self.agent is None else _column(rows, "agent", self.agent, known)
        given = {key: _fitted(key, read(key), n, d) for key in ("curvature", "low", "high") if getattr(self, key) is not None}
        curvature = given.pop("curvature")
        _numbers_per_row("total", self.total, d)
        return Stated(
            problems.allocation(
                curvature, target.astype(dtype), np.asarray(self.total, float), sense=self.sense, names=names,
                row_names=self.row_names, dtype=dtype, **given,
            ),
            lambda result: (),
        )  # fmt: skip


class Bids(CoupledTable):
    """Piecewise linear costs: every agent bids segments at constant prices, and the sum over all agents is to be b."""

    prices: list[list[float]] | list[list[list[float]]] | None = Field(
        None, description="a list per agent of its segments' prices, or of such lists, one per row"
    )
    widths: list[list[float]] | list[list[list[float]]] | None = Field(
        None, description="a list per agent of its segments' widths, or of such lists, one per row"
    )
    price: str | None = Field(None, description="the column of the CSV file that holds the segments' prices")
    width: str | None = Field(None, description="the column of the CSV file that holds the segments' widths")
    row: str | None = Field(None, description="the column of the CSV file that says to which row a segment belongs")
    total: float | list[float] | dict[str, float] = Field(
        description="a number, a list with one number per row, or a table row = number"
    )
    sense: Sense | list[Sense] = Field("=", description='"=", "<=" or ">=", or a list with one of them per row')

    @model_validator(mode="after")
    def _one_source(self) -> "Bids":
        if (self.prices is None or self.widths is None) == (self.data is None):
            raise ValueError("expected either prices = [ … ] and widths = [ … ], or data = the path of a CSV file")
        return self

    def build(self, base: Path, dtype: Any) -> Stated:
        path, total, row_names = self._file(base), self.total, self.row_names
        if isinstance(total, dict):
            row_names, total = list(total), list(total.values())
        if path is None:
            names, m = self.names, np.size(total)
            prices, widths = (_segments(key, getattr(self, key), m) for key in ("prices", "widths"))
        else:
            names, prices, widths = self._from(path, row_names or [f"row {j}" for j in range(np.size(total))])
        built = problems.bids(prices, widths, np.asarray(total, float), sense=self.sense, names=names, row_names=row_names)
        return Stated(built, lambda result: ())

    def _from(self, path: Path, row_names: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
        """(names, prices, widths) of a file with a segment a line."""
        known, rows = records.columns(path)
        owners = _column(rows, "agent", self.agent, known)
        asked = [records.column(key, getattr(self, key), known) for key in ("price", "width")]
        numbers = records.numbers(path, rows, asked)
        places = [row_names[0]] * len(rows) if self.row is None else _column(rows, "row", self.row, known)
        if self.row is None and len(row_names) > 1:
            raise missing("problem.row", f"a column that says to which of {len(row_names)} rows a segment belongs")
        for place in places:
            if place not in row_names:
                raise unknown_name("problem.row", place, row_names)
        names = list(dict.fromkeys(owners))
        found: dict[tuple[int, int], list] = {}
        for owner, place, pair in zip(owners, places, numbers, strict=True):
            found.setdefault((names.index(owner), row_names.index(place)), []).append(pair)
        longest = max(map(len, found.values()))
        prices, widths = np.zeros((2, len(names), len(row_names), longest))
        for (i, j), pairs in found.items():
            for s in range(longest):
                # Segments that are not there have no width, and cost what the last one costs.
                prices[i, j, s] = pairs[min(s, len(pairs) - 1)][0]
                widths[i, j, s] = pairs[s][1] if s < len(pairs) else 0
        return names, prices, widths


class NetworkUtility(CoupledTable):
    """Flows that share links: maximise Σ u log x subject to the links' capacities."""

    utility: float | list[float] | str = Field(
        1.0, description="a number, a list with one number per flow, or with data a column"
    )
    routes: list[list[int]] | list[list[str]] | str = Field(
        description="a list per flow of its links (their names or numbers), or with data a column of names with blanks between"
    )
    capacity: list[float] | dict[str, float] = Field(description="a list with one number per link, or a table link = number")
    low: float = Field(1e-3, gt=0, description="the least flow, a number > 0")
    high: float | list[float] | None = Field(None, description="the largest flow, a number or a list with one per flow")

    def build(self, base: Path, dtype: Any) -> Stated:
        path, links = self._file(base), self.row_names
        capacity = self.capacity
        if isinstance(capacity, dict):
            if links is not None:
                raise Mistake(f"problem.row_names: got {shown(links)}, expected nothing: capacity has the links' names")
            links, capacity = list(capacity), list(capacity.values())
        known, rows = ([], []) if path is None else records.columns(path)
        names = self.names if self.agent is None else _column(rows, "agent", self.agent, known)
        routes = self.routes
        if isinstance(routes, str):
            routes = [cell.split() for cell in _column(rows, "routes", _only_with_data("routes", routes, path), known)]
        routes = [[_link(link, links, len(capacity)) for link in route] for route in routes]
        utility = self.utility
        if isinstance(utility, str):
            column = records.column("utility", _only_with_data("utility", utility, path), known)
            utility = records.numbers(path, rows, [column])[:, 0]
        for key, value in (("utility", utility), ("high", self.high)):
            if np.ndim(value) and len(value) != len(routes):
                raise Mistake(f"problem.{key}: got {len(value)} numbers, expected one, or one per flow: {len(routes)}")
        built = problems.network_utility(
            np.broadcast_to(utility, len(routes)), routes, capacity, low=self.low, high=self.high, names=names, row_names=links
        )
        return Stated(built, lambda result: ())


def _one_of(whole: problems.Coupled, place: int) -> problems.Coupled:
    """The problem of one agent, with the rows of all."""
    one = copy.copy(whole.with_pieces(jax.tree.map(lambda leaf: leaf[place : place + 1], whole.pieces)))
    curvature = tuple(None if values is None else values[place : place + 1] for values in whole.curvature)
    names = None if whole.names is None else (whole.names[place],)
    for field, value in {"weights": np.ones(1), "curvature": curvature, "names": names, "memo": Memo()}.items():
        object.__setattr__(one, field, value)  # a frozen module that nobody has seen yet
    return one


def _grid(key: str, value: Any, path: Path | None, known: list[str], rows: list[dict[str, str]]) -> np.ndarray:
    """A number, or `[n, d]`."""
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    if texts and isinstance(texts[0], str):
        _only_with_data(key, value, path)
        return records.numbers(path, rows, [records.column(key, name, known) for name in texts])
    try:
        array = np.asarray(value, float)
    except ValueError:
        raise wrong(f"problem.{key}", value, "lists of one length") from None
    return array[:, None] if array.ndim == 1 else array


def _fitted(key: str, array: np.ndarray, n: int, d: int) -> np.ndarray:
    """A number, or `[n, d]`, or `[n, 1]`."""
    if array.ndim and array.shape not in ((n, d), (n, 1)):
        per_agent = "one number" if d == 1 else f"1 or {d} numbers"
        raise Mistake(
            f"problem.{key}: got {array.shape[0]} entries with {array.shape[1]} numbers each, expected a number for all, or "
            f"{per_agent} for each of {n} agents"
        )
    return array


def _segments(key: str, value: Any, m: int) -> np.ndarray:
    """`[n, m, s]`."""
    try:
        array = np.asarray(value, float)
    except ValueError:
        raise wrong(f"problem.{key}", value, "lists of one length; give a segment that is not there the width 0") from None
    array = array[:, None] if array.ndim == 2 else array
    if array.shape[1] != m:
        raise Mistake(f"problem.{key}: got {array.shape[1]} rows for an agent, expected {m}, as many as total has")
    return array


def _numbers_per_row(key: str, value: Any, d: int) -> None:
    if np.size(value) != d:
        raise Mistake(f"problem.{key}: got {np.size(value)} numbers, expected {d}, one per variable of an agent")


def _column(rows: list[dict[str, str]], key: str, name: str | None, known: list[str]) -> list[str]:
    """The cells of the column that `problem.key` names."""
    name = records.column(key, name, known)
    return [row[name] for row in rows]


def _only_with_data(key: str, value: Any, path: Path | None) -> Any:
    if path is None:
        raise wrong(f"problem.{key}", value, "numbers; a column is read with data = the path of a CSV file")
    return value


def _link(link: int | str, links: Sequence[str] | None, m: int) -> int:
    """The row of a link, given by its name or its number."""
    if isinstance(link, str):
        if links is None:
            raise wrong("problem.routes", link, "numbers of links, or names with capacity = { name = number }")
        if link not in links:
            raise unknown_name("problem.routes", link, links)
        return list(links).index(link)
    if not 0 <= link < m:
        raise wrong("problem.routes", link, f"a link 0 … {m - 1}")
    return link
