"""Proximal gradient tracking for composite problems."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import axpy, minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix

from .gradient_tracking import GradientTracking
from .push_pull import tracking_modes


class ProximalTrackingState(eqx.Module):
    """`x`: the iterate; `stepped`: after its local proximal step, what is sent; `y`: the tracker; `g`: ∇φ_i at `x`."""

    x: Any
    stepped: Any
    y: Any
    g: Any


class ProximalTracking(PeerAlgorithm[ProximalTrackingState]):
    """Proximal gradient tracking: a proximal step along the tracked average gradient, then mixing (NEXT, SONATA).

        x̂_i = prox_{αr}(x_i − α y_i)
        x_i ← Σ_j w_ij (x_j + γ (x̂_j − x_j))
        y_i ← Σ_j w_ij y_j + ∇φ_i(x_i) − ∇φ_i(x_i, previous)

    with y_i(0) = ∇φ_i(x_i(0)). As mean(y) = mean(∇φ_i(x_i)), the fixed points are x_i = prox_{αr}(x_i − α ∇f(x_i)), the
    minimisers of f + r, for every step size: r is unscaled and needs no splitting among agents.

    Args:
        step_size: α. Default: the best predicted rate without r within half the stable range (`tuned_step`).
        relaxation: γ in (0, 1].
        stochastic: use stochastic gradients; then the limit is a neighbourhood that shrinks with α.

    Without r and with γ = 1 this is `GradientTracking(order="atc")`.

    Paolo Di Lorenzo, Gesualdo Scutari, *NEXT: in-network nonconvex optimization*, IEEE Transactions on Signal and
    Information Processing over Networks 2, 2016; linear rate for strongly convex f and any convex r: Ying Sun, Amir
    Daneshmand, Gesualdo Scutari, *Distributed optimization based on gradient tracking revisited: enhancing convergence rate
    via surrogation*, SIAM Journal on Optimization 32, 2022.
    """

    step_size: Real | None = None
    relaxation: Real = 1.0
    stochastic: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"x": Mix(), "y": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"regularizer", "stochastic"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(
        exact=True, rate="linear", theorem="Sun, Daneshmand and Scutari 2022 (SONATA)", centralised_on_complete=True
    )

    def __check_init__(self):
        if isinstance(self.relaxation, int | float) and not 0 < self.relaxation <= 1:
            raise ValueError(f"ProximalTracking(relaxation={self.relaxation!r}): expected 0 < relaxation ≤ 1")

    def resolve(self, facts: Facts) -> "ProximalTracking":
        return self if self.step_size is not None else fill(self, step_size=tuned_step(self, facts))

    def init(self, local, x0, context: Context) -> ProximalTrackingState:
        g = self._gradient(local, x0, context)
        return ProximalTrackingState(x=x0, stepped=self._stepped(local, x0, g), y=g, g=g)

    def send(self, state: ProximalTrackingState, context: Context):
        return {"x": state.stepped, "y": state.y}

    def receive(self, local, state: ProximalTrackingState, inbox, context: Context):
        x = inbox["x"]
        g = self._gradient(local, x, context)
        y = plus(inbox["y"], minus(g, state.g))
        return ProximalTrackingState(x=x, stepped=self._stepped(local, x, y), y=y, g=g), Info.of_gradient(g)

    def restart(self, local, state: ProximalTrackingState, context: Context) -> ProximalTrackingState:
        return self.init(local, state.x, context)

    def estimate(self, state: ProximalTrackingState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """Stability without r, with γ = 1 and equal curvatures: as `GradientTracking(order="atc")`."""
        return GradientTracking().step_bound(facts)

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        """Without r: of (x, y); of the mean of x alone at eigenvalue 1, where y = ∇φ."""
        return tracking_modes(self.step_size * self.relaxation, curvature, eigenvalue)

    def _gradient(self, local, x, context: Context):
        return local.stochastic_grad(x, context.key) if self.stochastic else local.grad(x)

    def _stepped(self, local, x, y):
        """x_i + γ (x̂_i − x_i)."""
        target = local.regularizer.prox(axpy(-self.step_size, y, x), self.step_size)
        return axpy(self.relaxation, minus(target, x), x)
