"""A picture of who has what.

Axes: `n` agents, `K` classes.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from thalweg._colours import BLUE, GREY
from thalweg._extras import require
from thalweg.data.federated import FederatedData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 60  # agents; a dot for more would be too small to compare
CLASSES = 20  # the most frequent ones are drawn


def plot_partition(data: FederatedData, path: str | Path | None = None) -> "Figure":
    """Sizes of the agents, and how many training examples of each class they have, as a `matplotlib.figure.Figure`.

    Up to 60 agents have a dot for each class, its area proportional to the number of examples; more have a heat map, in which
    agents are sorted by their largest class. Nothing is told by hue, so that every colour vision and a grey print see the same.

    Args:
        data: whose labels are classes; of more than 20 classes, the 20 most frequent are drawn.
        path: where to save it as well; the suffix says how (.png, .svg, .pdf). The figure is independent of pyplot.

    Raises:
        ImportError: matplotlib is missing (the extra "plot").
        ValueError: labels are no classes; matplotlib cannot write that suffix.
    """
    figures = require("matplotlib.figure", "plot")
    classes, counts = data.label_counts()
    drawn = np.sort(np.argsort(-counts.sum(axis=0), kind="stable")[:CLASSES])
    dots, order = data.n <= DOTS, np.arange(data.n)
    if not dots:
        order = np.lexsort((-counts.max(axis=1), counts.argmax(axis=1)))
    table, names = counts[np.ix_(order, drawn)].T, [_label(k) for k in classes[drawn]]
    size = (float(np.clip(1.6 + 0.28 * data.n, 5.2, 11)), float(1.9 + 0.28 * len(drawn)))
    figure = figures.Figure(figsize=size, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[1, max(0.22 * len(drawn), 1.2)])
    above.bar(np.arange(data.n), data.sizes[order], color=BLUE, width=0.8 if dots else 1.0)
    above.set_ylabel("examples")
    above.set_title(f"{data.n:,} agents, {data.sizes.sum():,} training examples", fontsize=11, loc="left")
    above.spines[["top", "right"]].set_visible(False)
    above.tick_params(axis="x", length=0, labelbottom=False)
    if dots:
        _dots(below, table, size)
        below.set_title(f"the largest dot is {table.max():,} examples", fontsize=8, loc="left", color=GREY)
        below.set_xticks(np.arange(data.n), [str(name) for name in data.names], parse_math=False)
        if max(map(len, data.names)) * data.n > 12 * size[0]:
            below.tick_params(axis="x", rotation=90)
    else:
        image = below.imshow(table, aspect="auto", cmap="Blues", interpolation="nearest", vmin=0)
        figure.colorbar(image, ax=below, label="examples", shrink=0.8)
        below.set_xlabel("agents, sorted by their largest class")
    below.set_yticks(np.arange(len(drawn)), names, parse_math=False)
    below.set_ylabel("class" if len(drawn) == len(classes) else f"class ({len(drawn)} of {len(classes)})")
    below.tick_params(labelsize=8)
    if path is not None:
        figure.savefig(path, dpi=160)
    return figure


def _dots(axis: "Axes", table: np.ndarray, size: tuple[float, float]) -> None:
    """Dots whose areas are as the numbers `[K, n]`; the largest just fits between its neighbours."""
    k, i = np.nonzero(table)
    room = 0.8 * 72 * min((size[0] - 1.2) / table.shape[1], (size[1] - 1.9) / table.shape[0] * 0.9, 0.35)
    axis.scatter(i, k, s=room**2 * table[k, i] / table.max(), color=BLUE, linewidths=0)
    axis.set_xlim(-0.6, table.shape[1] - 0.4)
    axis.set_ylim(table.shape[0] - 0.4, -0.6)
    axis.set_axisbelow(True)
    axis.grid(color="#e8ebee", linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _label(value: object) -> str:
    return f"{value:g}" if isinstance(value, np.floating) else str(value)
