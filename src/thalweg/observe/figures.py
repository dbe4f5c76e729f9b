"""What the pictures of a run show. `report` draws it in a browser, `plot` with matplotlib."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from thalweg._colours import BLUE, GREEN, GREY, VERMILLION

from .mixing import Mixing

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


def charts(result: "Result") -> tuple[Chart, ...]:
    """The charts of `result` that have something to show: the way to the solution, and to agreement."""
    column = lambda name: np.asarray(result.history.scalars.get(name, np.full(len(result.history), np.nan)), float)
    solution = (
        Line("objective gap", column("gap"), BLUE, SOLID),
        Line("distance to the optimum", column("error"), VERMILLION, DASHED),
        Line("optimality residual", column("optimality"), GREEN, DASH_DOT),
    )
    agreement = [Line("consensus error", column("consensus_error"), BLUE, SOLID)]
    mixing = Mixing.of(result)
    if mixing.predicted is not None:
        agreement.append(Line("plain averaging, predicted", mixing.guide, GREY, DOTTED, guide=True))
    shown = [Chart("Distance from the solution", tuple(line for line in solution if np.any(_drawn(line.values, True))))]
    if not np.any(np.isfinite(column("gap"))):
        shown.insert(0, Chart("Objective", (Line("objective", column("objective")),), log=False))
    shown.append(Chart("Disagreement between agents", tuple(agreement)))
    return tuple(chart for chart in shown if chart.drawable)


def sample(records: int, limit: int) -> np.ndarray:
    """Indices of at most `limit` records, evenly spaced, first and last among them."""
    if records <= limit:
        return np.arange(records)
    return np.unique(np.linspace(0, records - 1, limit).round().astype(int))


def _drawn(values: np.ndarray, log: bool) -> np.ndarray:
    return np.isfinite(values) & ((values > 0) if log else True)
