"""Draws `assets/hearts.svg` from a real run: the study that `thalweg demo` runs. Needs the extra "plot".

python docs/make_assets.py
"""

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from thalweg.apps import hearts

NAMES = {"cleveland": "Cleveland", "hungary": "Budapest", "switzerland": "Zurich, Basel", "va": "Long Beach"}
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # Okabe and Ito: told apart by everybody
STYLE = {
    "svg.hashsalt": "thalweg",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
}


def draw(study: hearts.Study) -> plt.Figure:
    """The ring on the left, the way to the central optimum on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(1, 1.3), layout="constrained")
    _ring(left, study)
    _curves(right, study.result.history)
    return figure


def _ring(axes, study: hearts.Study) -> None:
    angles = np.pi / 2 - 2 * np.pi * np.arange(study.data.n) / study.data.n
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    for i, j in study.result.graph["edges"]:
        axes.plot(*points[[i, j]].T, color=GREY, linewidth=1.5, zorder=1)
    axes.scatter(*points.T, s=420, color=BLUE, zorder=2)
    places = {"va": "right", "hungary": "left"}
    for name, point, (_, labels) in zip(study.data.names, points, study.data.train, strict=True):
        text = f"{NAMES[name]}\n{len(labels)} patients"
        side = places.get(name, "center")
        shift = {"right": (-16, 0), "left": (16, 0), "center": (0, 26 * np.sign(point[1]))}[side]
        axes.annotate(text, point, shift, textcoords="offset points", ha=side, va="center")
    axes.text(0, 0, "no record\nleaves", ha="center", va="center", color=GREY)
    axes.set(xlim=(-2.1, 2.1), ylim=(-1.6, 1.6), aspect="equal")
    axes.axis("off")


def _curves(axes, history) -> None:
    lines = (
        ("distance to the central optimum", history["error"], ORANGE, "-"),
        ("disagreement between hospitals", history["consensus_error"], BLUE, "--"),
        ("gap of the objective", np.maximum(history["gap"], 1e-16), GREEN, "-."),
    )
    for label, values, colour, dashes in lines:
        axes.semilogy(history["round"], values, dashes, color=colour, linewidth=1.8, label=label)
    axes.set(xlabel="round", ylim=(1e-16, 10), xlim=(0, None))
    axes.set_yticks([1e-15, 1e-10, 1e-5, 1])
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.legend(frameon=False)


if __name__ == "__main__":
    target = Path(__file__).parent / "assets" / "hearts.svg"
    target.parent.mkdir(exist_ok=True)
    with mpl.rc_context(STYLE):
        draw(hearts.study()).savefig(target, metadata={"Date": None, "Creator": "docs/make_assets.py"}, facecolor="white")
    print(target)
