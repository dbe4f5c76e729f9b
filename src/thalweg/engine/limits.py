"""Reasons to stop that the host sees in the history: a target reached, no improvement, a budget spent."""

from typing import Any

import numpy as np

from thalweg.observe import History, Outcome

from .stop import Stop


def limited(stop: Stop | None) -> bool:
    """Whether the rule has anything that is judged on the host, record by record."""
    return stop is not None and any((stop.above, stop.below, stop.no_better, stop.clock is not None, stop.bytes is not None))


def judge(stop: Stop, history: History) -> tuple[Outcome, str] | None:
    """(outcome, reason) if the last record of `history` ends the run.

    Raises:
        ValueError: the rule names a column that the history does not have.
    """
    if not len(history):
        return None
    last = {name: _column(history, name)[-1] for name in (*(stop.above or {}), *(stop.below or {}))}
    if last:
        met = [last[name] >= value for name, value in (stop.above or {}).items()]
        met += [last[name] <= value for name, value in (stop.below or {}).items()]
        if all(met):
            reached = ", ".join(f"{name} = {value:.4g}" for name, value in last.items())
            return Outcome.TARGET, f"{reached} at round {int(history['round'][-1])}"
    if stop.no_better is not None:
        name, best, patience = stop.no_better
        column = _column(history, name)
        column = -column if best == "max" else column
        where = int(np.nanargmin(column)) if np.isfinite(column).any() else len(column) - 1
        if len(column) - 1 - where >= patience:
            return Outcome.NO_IMPROVEMENT, (
                f"{name} was best at round {int(history['round'][where])}, {patience} records before round "
                f"{int(history['round'][-1])}"
            )
    for name, most, unit in (("clock", stop.clock, "simulated seconds"), ("bytes", stop.bytes, "bytes sent by all")):
        if most is not None and _column(history, name)[-1] >= most:
            return (
                Outcome.BUDGET,
                f"{_column(history, name)[-1]:,.6g} of {most:,.6g} {unit} at round {int(history['round'][-1])}",
            )
    return None


def _column(history: History, name: str) -> Any:
    if name not in history.scalars:
        raise ValueError(f"Stop: got the metric {name!r}, expected one of {', '.join(history.scalars)}")
    return history.scalars[name]
