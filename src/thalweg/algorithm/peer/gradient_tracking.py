"""Gradient tracking."""

from typing import Any, ClassVar, Literal

import equinox as eqx
import numpy as np

from thalweg._trees import axpy, minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, StepSize, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix


class TrackingState(eqx.Module):
    """`x`: the iterate; `y`: the tracker of the average gradient; `g`: ∇φ_i at `x`; `velocity`: last movement
    of `x` (None without momentum)."""

    x: Any
    y: Any
    g: Any
    velocity: Any


class GradientTracking(PeerAlgorithm[TrackingState]):
    """Gradient tracking: each agent follows the *average* gradient, which it tracks beside its iterate.

        order "atc":     x_i ← Σ_j w_ij (x_j − α y_j + β v_j)        (adapt, then combine)
        order "diging":  x_i ← Σ_j w_ij x_j − α y_i + β v_i          (combine, then adapt)
                         y_i ← Σ_j w_ij y_j + ∇φ_i(x_i) − ∇φ_i(x_i, previous)

    with v_i the last movement of x_i (heavy ball; absent by default) and y_i(0) = ∇φ_i(x_i(0)). mean(y) = mean(∇φ_i(x_i))
    in every round, which is why the limit is the optimum itself.

    Args:
        step_size: α. Default: the best predicted rate within half the stable range (`tuned_step`).
        momentum: β in (0, 1), None for none.
        order: "atc" or "diging".
        stochastic: use stochastic gradients; then the limit is a neighbourhood that shrinks with α.

    Equal curvature L, eigenvalue λ of W: "diging" is stable for α < (1 + λ_min)²/(2L); "atc" for α < (1 + λ)²/(2λL) at
    λ > 0 and α < (1 − λ²)/(|λ|L) at λ < 0.

    Angelia Nedić, Alex Olshevsky, Wei Shi, *Achieving geometric convergence for distributed optimization over time-varying
    graphs*, SIAM Journal on Optimization 27, 2017 (DIGing); Guannan Qu, Na Li, *Harnessing smoothness to accelerate
    distributed optimization*, IEEE Transactions on Control of Network Systems 5, 2018; momentum: Ran Xin, Usman Khan,
    *Distributed heavy-ball: a generalization and acceleration of first-order methods with gradient tracking*, IEEE
    Transactions on Automatic Control 65, 2020.
    """

    step_size: StepSize = None
    momentum: Real | None = None
    order: Literal["atc", "diging"] = eqx.field(static=True, default="atc")
    stochastic: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"x": Mix(), "y": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"stochastic"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(
        exact=True, rate="linear", theorem="Nedić, Olshevsky and Shi 2017, on DIGing", centralised_on_complete=True
    )

    def __check_init__(self):
        if self.order not in ("atc", "diging"):
            raise ValueError(f"GradientTracking(order={self.order!r}): expected 'atc' or 'diging'")

        if isinstance(self.momentum, float) and not 0 < self.momentum < 1:
            raise ValueError(f"GradientTracking(momentum={self.momentum!r}): expected 0 < momentum < 1, or None for none")

    def resolve(self, facts: Facts) -> "GradientTracking":
        return self if self.step_size is not None else fill(self, step_size=tuned_step(self, facts))

    def init(self, local, x0, context: Context) -> TrackingState:
        g = self._gradient(local, x0, context)
        return TrackingState(x=x0, y=g, g=g, velocity=self._velocity(x0, x0))

    def send(self, state: TrackingState, context: Context):
        return {"x": self._adapted(state.x, state) if self.order == "atc" else state.x, "y": state.y}

    def receive(self, local, state: TrackingState, inbox, context: Context):
        x = inbox["x"] if self.order == "atc" else self._adapted(inbox["x"], state)
        g = self._gradient(local, x, context)
        y = plus(inbox["y"], minus(g, state.g))
        return TrackingState(x=x, y=y, g=g, velocity=self._velocity(x, state.x)), Info.of_gradient(g)

    def restart(self, local, state: TrackingState, context: Context) -> TrackingState:
        return self.init(local, state.x, context)

    def estimate(self, state: TrackingState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """Stability with equal curvatures max L_i and every eigenvalue between λ_min (or −σ) and σ; needs β = 0."""
        low = -facts.sigma if facts.lambda_min is None else facts.lambda_min
        if self.order == "diging":
            return min(2.0, (1 + low) ** 2 / 2) / facts.smoothness
        high = max(facts.sigma, 1e-12)
        bounds = [2.0, (1 + high) ** 2 / (2 * high)]
        if low < 0:
            bounds.append((1 - low**2) / -low)
        return min(bounds) / facts.smoothness

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        a, w, step, beta = curvature, eigenvalue, self.step_size, self.momentum or 0.0
        mix = w if self.order == "atc" else 1.0
        x = np.array([w + mix * beta, -mix * step, -mix * beta])  # x⁺ from (x, y, x⁻)
        y = np.array([0.0, w, 0.0]) + a * (x - np.array([1.0, 0.0, 0.0]))
        return np.array([x, y, [1.0, 0.0, 0.0]])

    def _gradient(self, local, x, context: Context):
        return local.stochastic_grad(x, context.key) if self.stochastic else local.grad(x)

    def _adapted(self, x, state: TrackingState):
        x = axpy(-self.step_size, state.y, x)
        return x if self.momentum is None else axpy(self.momentum, state.velocity, x)

    def _velocity(self, x, before):
        return None if self.momentum is None else minus(x, before)
