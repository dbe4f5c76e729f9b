"""A plant under control: plan, do the first step, measure, plan again.

Axes: `T` steps done, others as in `plant`.
"""

import dataclasses
from typing import Any

import numpy as np

import thalweg as tw
from thalweg.apps.mpc.plan import Plan
from thalweg.apps.mpc.plant import Plant


@dataclasses.dataclass(frozen=True)
class ClosedLoop:
    """What happened.

    Attributes:
        plant: under control.
        states: `[T + 1, n, s]`. inputs: `[T, n, a]`.
        plans: the plan of every step.
        cost: Σ over the steps of the stage costs, of the states that a step led to and the inputs that did.
        violation: the largest excess of a limit or budget in what really happened.
    """

    plant: Plant
    states: np.ndarray
    inputs: np.ndarray
    plans: tuple[Plan, ...]
    cost: float
    violation: float

    @property
    def not_converged(self) -> tuple[int, ...]:
        """The steps at which the tolerance was not met (all, where none was asked for)."""
        return tuple(t for t, plan in enumerate(self.plans) if not plan.converged)

    @property
    def fallback(self) -> tuple[int, ...]:
        """The steps at which the fallback was used, in part or whole."""
        return tuple(t for t, plan in enumerate(self.plans) if plan.taken < 1)

    @property
    def seconds(self) -> np.ndarray:
        """`[T]`, what planning took."""
        return np.array([plan.seconds for plan in self.plans])

    @property
    def rounds(self) -> np.ndarray:
        """`[T]`, rounds or iterations."""
        return np.array([plan.rounds for plan in self.plans])

    def table(self, central: "ClosedLoop | None" = None) -> tw.observe.Table:
        """In figures, beside `central` if it is given."""
        both = (self,) if central is None else (self, central)
        warm = lambda loop: f"{1e3 * float(np.median(loop.seconds[1:] if len(loop.plans) > 1 else loop.seconds)):.1f} ms"
        listed = lambda steps: f"{len(steps)} of {len(self.plans)}" + (f" (at {', '.join(map(str, steps))})" if steps else "")
        rows = [
            ("cost", *(f"{loop.cost:.6g}" for loop in both)),
            ("worst violation of a limit", *(f"{loop.violation:.1e}" for loop in both)),
            ("steps that did not converge", *(listed(loop.not_converged) for loop in both)),
            ("steps that used the fallback", *(listed(loop.fallback) for loop in both)),
            ("rounds per step", *(f"{loop.rounds.mean():.1f}" for loop in both)),
            ("planning per step, median", *(warm(loop) for loop in both)),
        ]
        return tw.observe.Table("In closed loop", ("", "distributed", "central")[: 1 + len(both)], rows)

    def __str__(self) -> str:
        lines = [(name, *values) for name, *values in self.table().rows]
        width = max(len(line[0]) for line in lines)
        return "\n".join(f"{line[0]:<{width}}  {'  '.join(map(str, line[1:]))}" for line in lines)

    __repr__ = __str__


def closed_loop(controller: Any, x: Any, steps: int, *, disturbance: Any = None) -> ClosedLoop:
    """`steps` steps of a plant under `controller` (a `Controller` or `Central`), from states `x` `[n, s]` at time 0.

    Args:
        disturbance: `[T, n, s]`, what the model does not know, added to the next states; None: the model is right.

    Raises:
        ValueError: a disturbance of another shape, or a controller without a plan.
    """
    plant = controller.plant
    x = np.asarray(x, float)
    if disturbance is not None and np.shape(disturbance) != (steps, plant.n, plant.s):
        raise ValueError(f"disturbance: got shape {np.shape(disturbance)}, expected {(steps, plant.n, plant.s)}")
    if isinstance(controller, tw.apps.mpc.Controller):
        controller.reset()
    states, inputs, plans, cost, violation = [x], [], [], 0.0, 0.0
    for t in range(steps):
        plan = controller.plan(states[-1], t)
        u = plan.inputs[:, 0]
        following = plant.step(states[-1], u)
        if disturbance is not None:
            following = following + disturbance[t]
        cost += plant.stage_cost(following, u)
        violation = max(violation, float(plant.excess(following[:, None], u[:, None], t).max(initial=0.0)))
        states.append(following)
        inputs.append(u)
        plans.append(plan)
    return ClosedLoop(plant, np.stack(states), np.stack(inputs), tuple(plans), cost, violation)
