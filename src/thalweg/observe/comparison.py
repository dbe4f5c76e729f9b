"""What `compare` returns: a table, numbers, curves."""

import dataclasses
import html
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from thalweg._extras import require

from .ledger import human_bytes
from .result import Result
from .table import Table, table_html
from .text import number

# What it costs to get to the target: column of the history (None: the wall clock), heading, how a value is written.
COSTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "round": ("rounds", lambda value: number(round(value))),
    "bytes": ("bytes sent", human_bytes),
    "bytes_down": ("bytes received", human_bytes),
    "clock": ("simulated seconds", lambda value: number(value, 3)),
    "seconds": ("seconds", lambda value: number(value, 3)),
}


@dataclasses.dataclass(frozen=True)
class Method:
    """The runs of one method, one per seed, and what each needed.

    Attributes:
        name: what the method is called.
        runs: its results.
        costs: "round", "bytes", "bytes_down", "clock", "seconds" → `[seeds]` up to the target, infinite where it was not
            reached, NaN where it was not measured (bytes received: of servers; clock: on a fleet).
    """

    name: str
    runs: tuple[Result, ...]
    costs: Mapping[str, np.ndarray]

    @staticmethod
    def of(name: str, runs: tuple[Result, ...], above: Mapping[str, float], below: Mapping[str, float]) -> "Method":
        """Reads the costs off the histories."""
        each = [_costs(run, first_record(run, above, below)) for run in runs] if above or below else []
        return Method(name, runs, {cost: np.array([row[cost] for row in each]) for cost in COSTS} if each else {})

    @property
    def reached(self) -> np.ndarray:
        """`[seeds]` whether the target was reached."""
        return np.isfinite(self.costs["round"])

    def final(self, column: str) -> np.ndarray:
        """`[seeds]` the last value of a column."""
        return np.array([float(run.history.scalars[column][-1]) for run in self.runs])


def first_record(run: Result, above: Mapping[str, float], below: Mapping[str, float]) -> int | None:
    """The first record in which the whole target is met; NaN meets nothing."""
    met = np.ones(len(run.history), bool)
    for name, value in above.items():
        met &= run.history.scalars[name] >= value
    for name, value in below.items():
        met &= run.history.scalars[name] <= value
    return int(np.argmax(met)) if met.any() else None


def _costs(run: Result, record: int | None) -> dict[str, float]:
    scalars = run.history.scalars
    measured = {name: has_axis(run, name) for name in COSTS}
    if record is None:
        return {name: np.inf if measured[name] else np.nan for name in COSTS}
    found = {name: float(scalars[name][record]) if name in scalars and measured[name] else np.nan for name in COSTS}
    # Rounds are timed all together.
    found["seconds"] = run.ledger.seconds * found["round"] / run.rounds if run.rounds else np.nan
    return found


def has_axis(run: Result, name: str) -> bool:
    """Whether `run` measured this cost. Without a fleet the clock stands still."""
    if name == "seconds":
        return True
    column = run.history.scalars.get(name)
    return column is not None and (name != "clock" or bool(np.any(column > 0)))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Methods side by side; `print` it, or look at `table`.

    Attributes:
        methods: name, runs and costs of each, in the order given.
        above, below: the target.
        final: columns whose last values are shown.
    """

    methods: tuple[Method, ...]
    above: dict[str, float]
    below: dict[str, float]
    final: tuple[str, ...]

    @property
    def target(self) -> str:
        """The target in words."""
        said = [f"{name} ≥ {number(value)}" for name, value in self.above.items()]
        return " and ".join([*said, *(f"{name} ≤ {number(value)}" for name, value in self.below.items())])

    @property
    def table(self) -> Table:
        """One row per method: the median over seeds, and the lowest and the highest in brackets."""
        shown = [cost for cost in COSTS if any(np.any(~np.isnan(m.costs.get(cost, np.nan))) for m in self.methods)]
        head = ["method", "seeds", *(("reached",) if self.target else ()), *(COSTS[cost][0] for cost in shown)]
        rows = []
        for method in self.methods:
            row: list[Any] = [method.name, len(method.runs)]
            if self.target:
                hit, seeds = int(method.reached.sum()), len(method.runs)
                row.append(f"{hit} of {seeds}" if hit == seeds else f"not reached in {seeds - hit} of {seeds}")
            row += [spread(method.costs[cost], COSTS[cost][1]) for cost in shown]
            row += [spread(method.final(column), number) for column in self.final]
            rows.append(tuple(row))
        title = f"To {self.target}" if self.target else "Final values"
        return Table(title, (*head, *(f"final {column.replace('_', ' ')}" for column in self.final)), rows, self.note)

    @property
    def note(self) -> str:
        """How the table is to be read, and what of it is not alike between the methods."""
        runs = [run for method in self.methods for run in method.runs]
        said = ["Median over seeds (lowest – highest)."] if any(len(m.runs) > 1 for m in self.methods) else []
        if self.target:
            steps = sorted({_cadence(run) for run in runs})
            said.append(f"Read off records {_every(steps)}; a target counts as reached when it is first met.")
            if missed := [m for m in self.methods if not m.reached.all()]:
                ends = [run.rounds for m in missed for run, hit in zip(m.runs, m.reached, strict=True) if not hit]
                ends = sorted({min(ends), max(ends)})
                said.append(
                    f"Not reached: within {' to '.join(f'{end:,}' for end in ends)} rounds; such a seed counts as later "
                    "than all others."
                )
            said.append("Seconds: of this machine, compilation apart, in proportion to rounds.")
        if len({run.rounds for run in runs}) > 1:
            said.append("Final values are those after different numbers of rounds.")
        if bad := [
            f"{m.name} (seed {r.config.get('seed')}): {r.outcome.value}" for m in self.methods for r in m.runs if _bad(r)
        ]:
            said.append(f"Ended badly: {', '.join(bad)}.")
        return " ".join(said)

    def __str__(self) -> str:
        table = self.table
        cells = [[str(c) for c in table.columns], *([str(cell) for cell in row] for row in table.rows)]
        widths = [max(len(row[c]) for row in cells) for c in range(len(table.columns))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]
        return "\n".join([table.title, *lines, *([table.note] if table.note else [])])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return table_html(self.table)

    def to_pandas(self):
        """A `pandas.DataFrame` with one row per run (needs the extra "tables"); infinite costs: not reached."""
        rows = []
        for method in self.methods:
            for k, run in enumerate(method.runs):
                row = {
                    "method": method.name,
                    "seed": run.config.get("seed"),
                    "outcome": run.outcome.value,
                    "rounds": run.rounds,
                }
                if self.target:
                    row |= {"reached": bool(method.reached[k])}
                    row |= {f"{cost}_to_target": float(values[k]) for cost, values in method.costs.items()}
                rows.append(row | {f"final_{name}": float(run.history.scalars[name][-1]) for name in self.final})
        return require("pandas", "tables").DataFrame(rows)

    def plot(self, path: str | Path | None = None, *, metric: str | None = None):
        """Curves of a metric against rounds, bytes and simulated seconds; see `thalweg.observe.plot_comparison`."""
        from .curves import plot_comparison

        return plot_comparison(self, path, metric=metric)

    def report(self, path: str | Path = "comparison.html") -> Path:
        """Write one HTML file that works without a network: the table, the curves (needs the extra "plot"), the settings."""
        from .curves import comparison_page

        path = Path(path)
        path.write_text(comparison_page(self), encoding="utf-8")
        return path


def spread(values: np.ndarray, show: Callable[[float], str]) -> str:
    """`41 (38 – 45)`: median, lowest, highest; "–" where nothing was measured."""
    values = np.sort(np.asarray(values, float))
    if np.isnan(values).all():
        return "–"
    if np.isnan(values).any():
        return "not a number in some"
    said = lambda value: "not reached" if np.isposinf(value) else show(float(value))
    middle = said(_median(values))
    return middle if values[0] == values[-1] else f"{middle} ({said(values[0])} – {said(values[-1])})"


def _median(ordered: np.ndarray) -> float:
    """Of ordered values that may be infinite; NumPy's makes ∞ − ∞ of them."""
    low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(low if low == high else (low + high) / 2)


def _cadence(run: Result) -> int:
    """Rounds between records."""
    rounds = np.asarray(run.history.scalars["round"])
    return int(np.diff(rounds).max()) if len(rounds) > 1 else max(1, int(rounds[0]))


def _every(steps: list[int]) -> str:
    if len(steps) > 1:
        return f"every {steps[0]:,} to {steps[-1]:,} rounds, which differs between runs"
    return "of every round" if steps[0] == 1 else f"every {steps[0]:,} rounds"


def _bad(run: Result) -> bool:
    return run.outcome.name in ("DIVERGED", "NOT_FINITE")


def escaped(text: Any) -> str:
    """For HTML."""
    return html.escape(str(text))
