"""Curves of a comparison: a metric against rounds, bytes and simulated time, median and band over seeds."""

import io
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

import numpy as np

from thalweg._colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from thalweg._extras import require

from .comparison import Comparison, Method, escaped, has_axis
from .describing import describe
from .figures import DASH_DOT, DASHED, DOTTED, SOLID
from .ledger import human_bytes
from .table import Table, table_html
from .template import read

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {"round": "round", "bytes": "payload sent", "clock": "simulated seconds"}
COLOURS, DASHES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY), (SOLID, DASHED, DASH_DOT, DOTTED, (3.0, 1.5))
SIZE = (5.2, 3.8)  # inches, of one panel


def plot_comparison(comparison: Comparison, path: str | Path | None = None, *, metric: str | None = None) -> "Figure":
    """A metric of every method against rounds, bytes and (on a fleet) simulated seconds, as a `matplotlib.figure.Figure`.

    Thick: the median over seeds, as far as all seeds ran; band: from the lowest to the highest; thin: every run to its end.
    Methods differ in colour and in dashes.

    Args:
        comparison: what `compare` returned.
        path: where to save it as well; the suffix says how (.png, .svg, .pdf).
        metric: column of the history; the first of the target, or the objective, when None.

    Raises:
        ImportError: matplotlib is missing (the extra "plot").
        ValueError: a run has no such column.
    """
    figures = require("matplotlib.figure", "plot")
    metric = metric or [*comparison.above, *comparison.below, *comparison.final, "objective"][0]
    runs = [run for method in comparison.methods for run in method.runs]
    for run in runs:
        if metric not in run.history.scalars:
            raise ValueError(f"plot: got the metric {metric!r}, expected one of {', '.join(run.history.scalars)}")
    axes = [name for name in AXES if any(has_axis(run, name) for run in runs)]
    figure = figures.Figure(figsize=(SIZE[0] * len(axes), SIZE[1] + 0.5), layout="constrained")
    log = logarithmic(comparison, metric)
    panels = list(figure.subplots(1, len(axes), squeeze=False, sharey=True).flat)
    for panel, axis in zip(panels, axes, strict=True):
        for k, method in enumerate(comparison.methods):
            _method(panel, method, metric, axis, COLOURS[k % len(COLOURS)], DASHES[k % len(DASHES)], log)
        value = {**comparison.above, **comparison.below}.get(metric)
        if value is not None and (value > 0 or not log):
            panel.axhline(value, color="#8a939c", linewidth=0.9, zorder=1)
        if log:
            panel.set_yscale("log")
        panel.set_xlabel(AXES[axis])
        if axis == "bytes":
            panel.xaxis.set_major_formatter(lambda value, _: human_bytes(value))
            panel.xaxis.set_major_locator(require("matplotlib.ticker", "plot").MaxNLocator(5, steps=[1, 2, 4, 8, 10]))
        panel.set_xlim(left=0)
        panel.grid(axis="y", color="#e8ebee")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(metric.replace("_", " "))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), frameon=False, handlelength=3.2)
    if path is not None:
        figure.savefig(path, dpi=160)
    return figure


def logarithmic(comparison: Comparison, metric: str) -> bool:
    """Whether the metric falls over so many powers of ten that only their logarithm can be seen."""
    values = np.concatenate([run.history.scalars[metric] for method in comparison.methods for run in method.runs])
    values = values[np.isfinite(values)]
    positive = values[values > 0]
    return metric not in comparison.above and positive.size > 0.9 * values.size and positive.max() > 50 * positive.min()


def band(method: Method, metric: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """(`[points]` of the axis, `[3, points]` lowest, median, highest over seeds), as far as all seeds ran."""
    curves = [_curve(run, metric, axis) for run in method.runs]
    curves = [(at, values) for at, values in curves if len(at)]
    if not curves:
        return np.zeros(0), np.zeros((3, 0))
    first, last = max(at[0] for at, _ in curves), min(at[-1] for at, _ in curves)
    points = np.unique(np.concatenate([at for at, _ in curves]))
    points = points[(points >= first) & (points <= last)]
    values = np.stack([np.interp(points, at, values) for at, values in curves])
    return points, np.stack([values.min(0), np.median(values, axis=0), values.max(0)])


def _curve(run, metric: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
    if not has_axis(run, axis):
        return np.zeros(0), np.zeros(0)
    at, values = np.asarray(run.history.scalars[axis], float), np.asarray(run.history.scalars[metric], float)
    kept = np.isfinite(at) & np.isfinite(values)
    return at[kept], values[kept]


def _method(panel: "Axes", method: Method, metric: str, axis: str, colour: str, dash: tuple[float, ...], log: bool) -> None:
    style = (0, tuple(length / 2 for length in dash)) if dash else "-"
    gap = lambda values: np.where(values > 0, values, np.nan) if log else values
    points, (low, middle, high) = band(method, metric, axis)
    seeds = f" ({len(method.runs)} seeds)" if len(method.runs) > 1 else ""
    if len(method.runs) > 1:
        for run in method.runs:
            at, values = _curve(run, metric, axis)
            panel.plot(at, gap(values), color=colour, linewidth=0.6, alpha=0.35)
        panel.fill_between(points, gap(low), gap(high), color=colour, alpha=0.15, linewidth=0)
    name = method.name.replace("$", r"\$")
    panel.plot(points, gap(middle), color=colour, linestyle=style, linewidth=1.8, label=f"{name}{seeds}")


def comparison_page(comparison: Comparison) -> str:
    """One HTML file: the table, the curves, what each method was."""
    drawing = io.StringIO()
    require("matplotlib", "plot")
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "thalweg"}):
        plot_comparison(comparison).savefig(drawing, format="svg", metadata={"Date": None, "Creator": None})
    picture = drawing.getvalue()
    settings = [(m.name, describe(m.runs[0].algorithm), str(m.runs[0].config.get("network", ""))) for m in comparison.methods]
    names = [method.name for method in comparison.methods]
    return Template(read("comparison.html")).substitute(
        title=escaped(" and ".join(names) if len(names) < 3 else f"{len(names)} methods"),
        style=read("report.css"),
        table=table_html(comparison.table),
        picture=picture[picture.index("<svg") :],
        settings=table_html(Table("Methods", ("method", "settings", "network"), settings)),
        problem=escaped(comparison.methods[0].runs[0].config.get("problem", "")),
    )
