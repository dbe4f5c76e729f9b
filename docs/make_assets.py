"""Draws the pictures of `assets` from real runs: `hearts.svg`, the study that `thalweg demo` runs, and `penalty.svg`, of
[Prices](prices.md). Needs the extra "plot".

python docs/make_assets.py
"""

from pathlib import Path

import jax
import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

import thalweg as tw
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


def draw_penalty() -> plt.Figure:
    """How fast eight sensors agree by ADMM: round by round for three penalties, and the rate over the penalty."""
    y, a = np.random.default_rng(0).normal(20, 1, 8), 1.0
    sensors = tw.quadratic(np.full((8, 1, 1), a), -a * y[:, None])

    def moved(rho: float) -> np.ndarray:
        """How far answers and prices together move in each round: √(mean ‖x_i − z‖² + ‖z − z'‖²)."""
        history = tw.solve(sensors, tw.ConsensusADMM(penalty=rho), rounds=120, every=1).history
        return np.hypot(history["primal_residual"], history["dual_residual"] / rho)

    predicted = lambda rho: max(a, rho) / (a + rho)
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), width_ratios=(1.3, 1), layout="constrained")
    styles = ((0.1, "too loose", BLUE, "o", "--"), (1.0, "right", GREEN, "s", "-"), (10.0, "too stiff", ORANGE, "^", "-."))
    for rho, word, colour, mark, dashes in styles:
        steps = moved(rho)
        k, last = np.arange(1, len(steps) + 1), int(np.searchsorted(-steps, -1e-9 * steps[0]))
        label = f"{word}, ρ = {rho:g} a"
        left.semilogy(k[:last:3], steps[:last:3], mark, color=colour, markersize=4, markerfacecolor="none", label=label)
        at = min(30, last) - 1
        left.semilogy(k, steps[at] * predicted(rho) ** (k - k[at]), dashes, color=colour, linewidth=1.2)
    left.set(xlabel="round", ylabel="movement in a round", xlim=(0, 120), ylim=(1e-9, 30))
    left.grid(axis="y", color="#dddddd", linewidth=0.6)
    left.legend(frameon=False)
    grid = np.geomspace(0.05, 20, 200)
    right.semilogx(grid, np.maximum(a, grid) / (a + grid), color=GREY, label="max(a, ρ)/(a + ρ)")
    measured = np.geomspace(0.1, 10, 9)
    rates = []
    for rho in measured:
        steps = moved(rho)
        last = np.flatnonzero(steps > 1e-9 * steps[0])[-1]
        rates.append((steps[last] / steps[last // 2]) ** (1 / (last - last // 2)))
    right.semilogx(measured, rates, "o", color=BLUE, markersize=5, markerfacecolor="none", label="measured")
    right.set(xlabel="penalty ρ / a", ylabel="factor per round", ylim=(0.45, 1))
    right.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
    right.grid(axis="y", color="#dddddd", linewidth=0.6)
    right.legend(frameon=False, loc="upper center")
    return figure


def save(figure: plt.Figure, name: str) -> None:
    target = Path(__file__).parent / "assets" / name
    target.parent.mkdir(exist_ok=True)
    figure.savefig(target, metadata={"Date": None, "Creator": "docs/make_assets.py"}, facecolor="white")
    print(target)


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    with mpl.rc_context(STYLE):
        save(draw(hearts.study()), "hearts.svg")
        save(draw_penalty(), "penalty.svg")
