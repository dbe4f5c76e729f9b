"""A plan for the steps ahead, and what it takes to keep it within the limits when planning ended early.

Axes: `n` subsystems, `H` steps, `s` states, `a` inputs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        inputs: `[n, H, a]`; the first of them is applied.
        states: `[n, H, s]`, where the plant goes under them.
        converged: whether the solver met its tolerance.
        rounds: of the distributed solver, or iterations of the central one.
        taken: how much of the solver's plan is in it: 1, all; below, the rest is the fallback, so that limits are kept.
        violation: of the worst limit, by the plant's own model; 0 where all are kept.
        seconds: what planning took.
        result: the `tw.Result`, None of a central solver.
    """

    inputs: np.ndarray
    states: np.ndarray
    converged: bool
    rounds: int
    taken: float
    violation: float
    seconds: float
    result: Any = dataclasses.field(default=None, repr=False)


def mixed(
    excess: Callable[[np.ndarray], np.ndarray], planned: np.ndarray, backups: Sequence[np.ndarray], slack: float
) -> tuple[np.ndarray, float]:
    """(inputs, how much of `planned` is in them): as much as the limits allow, the rest a backup that keeps them.

    On the line between a backup that keeps all limits and the plan every limit is an affine function (linear plants), so that
    each says how far one may go. Where the model bends, the way is halved until the limits hold. If no backup keeps the limits,
    whatever violates them least is taken.

    Args:
        excess: inputs → all limits, ≤ 0 where they hold.
        backups: in order of preference.
        slack: how far a limit may be exceeded.
    """
    if not np.isfinite(planned).all():  # somebody's solver failed: the result names it
        planned = backups[0]
    wanted = excess(planned)
    if wanted.max(initial=-np.inf) <= slack:
        return planned, 1.0
    excesses = [excess(backup) for backup in backups]
    worst = [e.max(initial=-np.inf) for e in excesses]
    kept = next((k for k, value in enumerate(worst) if value <= slack), None)
    if kept is None:
        best = int(np.argmin(worst)) if worst else 0
        better = bool(worst) and worst[best] < wanted.max()
        return (backups[best], 0.0) if better else (planned, 1.0)
    here, over = excesses[kept], wanted > slack
    part = float(np.min((slack - here[over]) / (wanted[over] - here[over])))
    for _ in range(8):
        inputs = backups[kept] + part * (planned - backups[kept])
        if excess(inputs).max(initial=-np.inf) <= slack * (1 + 1e-9) + 1e-12:
            return inputs, part
        part /= 2
    return backups[kept], 0.0
