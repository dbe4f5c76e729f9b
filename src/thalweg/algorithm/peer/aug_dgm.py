"""Gradient tracking with both variables adapted before they are combined."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import axpy, minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import PerAgent, StepSize, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix


class AugDGMState(eqx.Module):
    """`x`: the iterate; `y`: the tracker of the average gradient; `g`: ∇φ_i at `x`."""

    x: Any
    y: Any
    g: Any


class AugDGM(PeerAlgorithm[AugDGMState]):
    """Aug-DGM, also ATC tracking: gradient tracking that combines after every change, in two exchanges per round.

        phase "x":  x_i ← Σ_j w_ij (x_j − α_j y_j)
        phase "y":  y_i ← Σ_j w_ij (y_j + ∇φ_j(x_j) − ∇φ_j(x_j, previous))

    with y_i(0) = ∇φ_i(x_i(0)). mean(y) = mean(∇φ_i(x_i)) in every round, so the limit is the optimum whatever the α_j. Against
    `GradientTracking` it takes larger steps on well-connected networks, and on a complete graph with W = 11ᵀ/n it is central
    gradient descent, for twice the waiting per round.

    Args:
        step_size: α, one number, `LocalStep` or `PerAgent`. Default: the best predicted rate within half the bound
            (`tuned_step`).

    Equal curvature L, one α, W symmetric: stable for α < min over the eigenvalues λ of (1 + λ)²/(2λ²L). Step sizes that differ
    are covered by a theorem for small steps only; a largest α above this bound is warned about.

    Jinming Xu, Shanying Zhu, Yeng Chai Soh, Lihua Xie, *Augmented distributed gradient methods for multi-agent optimization
    under uncoordinated constant stepsizes*, IEEE Conference on Decision and Control, 2015; linear rate, step sizes that differ:
    Angelia Nedić, Alex Olshevsky, Wei Shi, César Uribe, *Geometrically convergent distributed optimization with uncoordinated
    step-sizes*, American Control Conference, 2017.
    """

    step_size: StepSize = None

    combine: ClassVar[dict[str, Combine]] = {"x": Mix(), "y": Mix()}
    phases: ClassVar[tuple[str, ...]] = ("x", "y")
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"local_steps"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(
        exact=True, rate="linear", theorem="Nedić, Olshevsky, Shi and Uribe 2017", centralised_on_complete=True
    )

    def resolve(self, facts: Facts) -> "AugDGM":
        return self if self.step_size is not None else fill(self, step_size=tuned_step(self, facts))

    def init(self, local, x0, context: Context) -> AugDGMState:
        g = local.grad(x0)
        return AugDGMState(x=x0, y=g, g=g)

    def send(self, state: AugDGMState, context: Context):
        if context.phase == "x":
            return {"x": axpy(-self.step_size, state.y, state.x)}
        return {"y": state.y}

    def receive(self, local, state: AugDGMState, inbox, context: Context):
        if context.phase == "y":
            return AugDGMState(x=state.x, y=inbox["y"], g=state.g), Info.of_gradient(state.g)
        g = local.grad(inbox["x"])
        y = plus(state.y, minus(g, state.g))
        return AugDGMState(x=inbox["x"], y=y, g=g), Info.of_gradient(g)

    def restart(self, local, state: AugDGMState, context: Context) -> AugDGMState:
        return self.init(local, state.x, context)

    def estimate(self, state: AugDGMState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """Stability with equal curvatures max L_i and every eigenvalue from λ_min (or −σ) to 1."""
        low = -facts.sigma if facts.lambda_min is None else facts.lambda_min
        # (1 + λ)²/(2λ²) falls to 2 at λ = 1, and for λ < 0 falls towards 0 at λ = −1.
        return (2.0 if low >= 0 else min(2.0, (1 + low) ** 2 / (2 * low**2))) / facts.smoothness

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray | None:
        """(x, y)⁺ from (x, y), for one step size common to all."""
        if isinstance(self.step_size, PerAgent):
            return None
        x = eigenvalue * np.array([1.0, -self.step_size])
        return np.array([x, eigenvalue * (np.array([0.0, 1.0]) + curvature * (x - np.array([1.0, 0.0])))])
