"""What the pictures of a run show. `report` draws it in a browser, `plot` with matplotlib."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from thalweg._colours import BLUE, GREEN, GREY, PURPLE, VERMILLION

from .market import is_market, market_charts
from .mixing import Mixing
from .serving import evaluated, has_server, honest

if TYPE_CHECKING:
    from .result import Result

# Each colour has its own dash pattern, so that the lines differ in greyscale.
SOLID, DASHED, DASH_DOT, DOTTED = (), (7.0, 3.0), (9.0, 3.0, 2.0, 3.0), (1.5, 3.0)

DRAWN_AGENTS = 2000  # a picture of more shows nothing


@dataclasses.dataclass(frozen=True)
class Line:
    """One curve: `values` `[records]`, NaN where there is nothing to draw. A `guide` does not set the range of the axis."""

    name: str
    values: np.ndarray
    colour: str = BLUE
    dash: tuple[float, ...] = SOLID
    guide: bool = False


@dataclasses.dataclass(frozen=True)
class Chart:
    """Curves over one pair of axes; the vertical one is logarithmic if `log`."""

    title: str
    lines: tuple[Line, ...]
    log: bool = True

    @property
    def drawable(self) -> bool:
        """Whether any curve has a point to draw: on a logarithmic axis, a positive one."""
        return any(np.any(_drawn(line.values, self.log)) for line in self.lines if not line.guide)

    def trimmed(self) -> "Chart":
        """Without lines that have nothing to draw."""
        return dataclasses.replace(self, lines=tuple(line for line in self.lines if np.any(_drawn(line.values, self.log))))


def charts(result: "Result") -> tuple[Chart, ...]:
    """The charts of `result` that have something to show: the way to the solution, and to agreement or to cleared rows."""
    column = lambda name: np.asarray(result.history.scalars.get(name, np.full(len(result.history), np.nan)), float)
    if is_market(result):
        return tuple(chart for chart in market_charts(result, column) if chart.drawable)
    solution = (
        Line("objective gap", column("gap"), BLUE, SOLID),
        Line("distance to the optimum", column("error"), VERMILLION, DASHED),
        Line("optimality residual", column("optimality"), GREEN, DASH_DOT),
    )
    agreement = [Line("consensus error", column("consensus_error"), BLUE, SOLID)]
    mixing = Mixing.of(result)
    if mixing.predicted is not None:
        agreement.append(Line("plain averaging, predicted", mixing.guide, GREY, DOTTED, guide=True))
    shown = [Chart("Distance from the solution", solution).trimmed()]
    if not np.any(np.isfinite(column("gap"))):
        shown.insert(0, Chart("Objective", (Line("objective", column("objective")),), log=False))
    if "objective" not in result.history.scalars and "own_loss" in result.history.agents:
        shown.insert(0, _own_losses(result))  # of sites, which know how far they are apart at the end alone
    elif has_server(result):
        shown += _served(result, column)
    else:
        shown.append(Chart("Disagreement between agents", tuple(agreement)))
    if result.ledger.epsilon is not None and len(result.ledger.epsilon) == len(result.history):
        spent = Line(f"ε at δ = {result.ledger.delta:g}", np.asarray(result.ledger.epsilon, float))
        shown.append(Chart("Privacy spent", (spent,), log=False))
    return tuple(chart for chart in shown if chart.drawable)


def _own_losses(result: "Result") -> Chart:
    """Of sites that tell their own losses, and of which nobody knows the objective."""
    rows = np.ma.masked_invalid(np.asarray(result.history.agents["own_loss"], float))
    lines = (
        Line("mean", rows.mean(1).filled(np.nan), BLUE, SOLID),
        Line("highest", rows.max(1).filled(np.nan), VERMILLION, DASHED),
        Line("lowest", rows.min(1).filled(np.nan), GREEN, DOTTED),
    )
    return Chart("Sites' own losses", lines, log=False)


def _served(result: "Result", column) -> list[Chart]:
    """Of a server: each metric that was evaluated, with its clients' extremes; losses; what pulls the clients apart."""
    shown = []
    for name in evaluated(result):
        lines = [Line(name if f"{name}_lowest" not in result.history.scalars else "weighted mean", column(name), BLUE, SOLID)]
        for end, colour, dash in (
            ("lowest", VERMILLION, DASHED),
            ("lowest_tenth", PURPLE, DASH_DOT),
            ("highest", GREEN, DOTTED),
        ):
            if f"{name}_{end}" in result.history.scalars:
                label = f"{end.replace('_', ' ')} of clients" if "tenth" in end else f"{end} client"
                lines.append(Line(label, column(f"{name}_{end}"), colour, dash))
        shown.append(Chart(name[:1].upper() + name[1:], tuple(lines), log=False))
    losses = [Line("of the cohort, in training", column("train_loss"), BLUE, SOLID)]
    if "loss" in result.history.agents:
        rows = honest(result, "loss")
        losses.append(Line("worst client", rows.max(axis=1), VERMILLION, DASHED))
        losses.append(
            Line("mean of the worst tenth", np.sort(rows, axis=1)[:, -max(1, rows.shape[1] // 10) :].mean(1), PURPLE, DASH_DOT)
        )
    shown.append(Chart("Loss", tuple(losses), log=False))
    apart = (
        Line("client drift", column("drift"), BLUE, SOLID),
        Line("dispersion of updates", column("dispersion"), VERMILLION, DASHED),
        Line("gradient dissimilarity", column("dissimilarity"), GREEN, DASH_DOT),
    )
    shown.append(Chart("Drift and dispersion", apart).trimmed())
    agreement = Line("own answers from the shared one", column("consensus_error"), BLUE, SOLID)
    if np.any(column("consensus_error") > 0):
        shown.append(Chart("Personalisation", (agreement,)))
    return shown


def sample(records: int, limit: int) -> np.ndarray:
    """Indices of at most `limit` records, evenly spaced, first and last among them."""
    if records <= limit:
        return np.arange(records)
    return np.unique(np.linspace(0, records - 1, limit).round().astype(int))


def _drawn(values: np.ndarray, log: bool) -> np.ndarray:
    return np.isfinite(values) & ((values > 0) if log else True)
