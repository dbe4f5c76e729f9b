"""The report's figures as one picture."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thalweg._extras import require

from .figures import DRAWN_AGENTS, Chart, charts
from .layout import layout
from .serving import grid, has_picture, has_server

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from .result import Result

ARROWS = 400
SIZE = (5.2, 3.8)  # inches, of one panel


def plot(result: "Result", path: str | Path | None = None) -> "Figure":
    """The network at the last record, the way to the solution and to agreement, as a `matplotlib.figure.Figure`.

    Of a coupled problem: gap and violation, the cost between its bounds, prices, residuals.

    Args:
        result: what `solve` returned.
        path: where to save it as well; the suffix says how (.png, .svg, .pdf). The figure is independent of pyplot.

    Raises:
        ImportError: matplotlib is missing (the extra "plot").
        ValueError: matplotlib cannot write that suffix.
    """
    figures = require("matplotlib.figure", "plot")
    shown, drawn = charts(result), has_picture(result) and 0 < len(result.names) <= DRAWN_AGENTS
    panels = max(1, len(shown) + drawn)
    rows, columns = (1, panels) if panels < 4 else (-(-panels // 3) if panels > 4 else 2, 3 if panels > 4 else 2)
    figure = figures.Figure(figsize=(SIZE[0] * columns, SIZE[1] * rows + 0.3), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    figure.suptitle(f"{type(result.algorithm).__name__}: {result.outcome.value} after {result.rounds:,} rounds", fontsize=12)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    if drawn:
        _network(figure, axes.pop(0), result)
    for axis, chart in zip(axes, shown, strict=False):
        _chart(axis, chart, np.asarray(result.history.scalars["round"]))
    for axis in axes[len(shown) :]:
        axis.set_axis_off()
    if path is not None:
        figure.savefig(path, dpi=160)
    return figure


def _chart(axis: "Axes", chart: Chart, rounds: np.ndarray) -> None:
    drawn = []
    for line in chart.lines:
        style = (0, tuple(length / 2 for length in line.dash)) if line.dash else "-"
        values = np.where(np.isfinite(line.values) & ((line.values > 0) | (not chart.log)), line.values, np.nan)
        axis.plot(rounds, values, color=line.colour, linestyle=style, linewidth=1.2 if line.guide else 1.7, label=line.name)
        if not line.guide:
            drawn.append(values[np.isfinite(values)])
    drawn = np.concatenate(drawn)
    if chart.log:
        axis.set_yscale("log")
        axis.yaxis.get_major_locator().set_params(numticks=7)
        low, high = np.floor(np.log10(drawn.min()) + 1e-9), np.ceil(np.log10(drawn.max()) - 1e-9)
        axis.set_ylim(10.0 ** (low - 0.1), 10.0 ** (max(high, low + 1) + 0.1))
    axis.set_title(chart.title, fontsize=11, loc="left")
    axis.set_xlabel("round")
    axis.set_xlim(0, max(rounds[-1], 1))
    axis.grid(axis="y", color="#e8ebee")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)


def _network(figure: "Figure", axis: "Axes", result: "Result") -> None:
    require("matplotlib", "plot")
    from matplotlib.collections import LineCollection
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.patheffects import withStroke

    n, edges = len(result.names), np.asarray(result.graph.get("edges", ()), int).reshape(-1, 2)
    points = result.graph.get("positions")
    points = grid(n) if has_server(result) else points
    points = layout(edges, n) if points is None else np.asarray(points, float)
    opacity = float(np.clip(25 / np.sqrt(len(edges) + 1), 0.12, 0.75))
    size = float(np.clip(6000 / n, 6, 220))
    if result.graph.get("directed", False) and len(edges) <= ARROWS:
        rim_to_rim = {"arrowstyle": "-|>", "color": "#78828c", "shrinkA": size**0.5 / 2, "shrinkB": size**0.5 / 2}
        for sender, receiver in edges:
            axis.annotate("", points[receiver], points[sender], arrowprops=rim_to_rim, zorder=1)
    else:
        axis.add_collection(LineCollection(points[edges], colors="#78828c", linewidths=0.8, alpha=opacity, zorder=1))
    rim = {"s": size, "edgecolors": "#2b3138", "linewidths": 0.6}
    label, values = _last_values(result)
    if values is None:
        axis.scatter(*points.T, color="#2a788e", **rim, zorder=2)
    else:
        finite = values[np.isfinite(values)]
        logarithmic = finite.size and finite.min() > 0 and finite.max() / finite.min() > 50
        norm = (LogNorm if logarithmic else Normalize)(*((finite.min(), finite.max()) if finite.size else (0, 1)))
        axis.scatter(*points.T, color="#d5d9dd", **rim, zorder=2)  # seen where the value is not finite
        dots = axis.scatter(*points.T, c=values, cmap="viridis", norm=norm, **rim, zorder=3)
        bar = figure.colorbar(dots, ax=axis, label=f"{label}, last record", shrink=0.8, format="%.3g")
        if logarithmic:
            bar.set_ticks(np.geomspace(finite.min(), finite.max(), 5))
            bar.ax.minorticks_off()
    if n <= 24:
        for name, point in zip(result.names, points, strict=True):
            low = point[1] < points[:, 1].mean() - 1e-9  # names stand outwards, where edges are few
            away = (0, -(size**0.5) / 2 - 3 if low else size**0.5 / 2 + 3)
            style = {"ha": "center", "va": "top" if low else "bottom", "fontsize": 8, "parse_math": False}
            text = axis.annotate(name, point, away, textcoords="offset points", **style)
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    axis.set_title("Clients" if has_server(result) else "Network", fontsize=11, loc="left")
    axis.margins(0.18)
    axis.set_aspect("equal")
    axis.set_axis_off()


def _last_values(result: "Result") -> tuple[str, np.ndarray | None]:
    for name, label in (("loss", "local loss"), ("disagreement", "disagreement")):
        if name in result.history.agents and len(result.history):
            return label, np.asarray(result.history.agents[name][-1], float)
    return "", None
