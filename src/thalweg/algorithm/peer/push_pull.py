"""Push-pull gradient tracking on directed graphs."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import axpy, minus, plus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Pull, Push

from .gradient_tracking import GradientTracking


class PushPullState(eqx.Module):
    """`x`: the iterate; `y`: this agent's share of the sum of all gradients; `g`: ∇φ_i at `x`."""

    x: Any
    y: Any
    g: Any


class PushPull(PeerAlgorithm[PushPullState]):
    """Push-pull (AB) gradient tracking: agents pull iterates and push gradients, on any strongly connected digraph.

        x_i ← Σ_j a_ij (x_j − α y_j)                                      A row-stochastic: receivers choose
        y_i ← Σ_j b_ij y_j + ∇φ_i(x_i) − ∇φ_i(x_i, previous)              B column-stochastic: senders choose

    with y_i(0) = ∇φ_i(x_i(0)). Σ y_i = Σ ∇φ_i(x_i) in every round, gradients still in flight included: lost and late pushes
    are caught up by running sums, and a pull that does not arrive leaves its weight at home. At the optimum y = 0, so
    that no eigenvector has to be known or estimated.

    Args:
        step_size: α. Default: `guided_step`, a guide and not a bound: the proved bound depends on norms that no agent knows.
            Halve it if a run diverges (heavy loss, very unequal degrees).
        stochastic: use stochastic gradients; then the limit is a neighbourhood that shrinks with α.

    Where A = B is symmetric (regular undirected networks) this is `GradientTracking(order="atc")`.

    Shi Pu, Wei Shi, Jinming Xu, Angelia Nedić, *Push-pull gradient methods for distributed optimization in networks*, IEEE
    Transactions on Automatic Control 66, 2021; Ran Xin, Usman Khan, *A linear algorithm for optimization over directed
    graphs with geometric convergence*, IEEE Control Systems Letters 2, 2018.
    """

    step_size: Real | None = None
    stochastic: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"x": Pull(), "y": Push()}
    needs: ClassVar[frozenset[str]] = frozenset({"smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"stochastic"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "independent", "asleep", "delay"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Pu, Shi, Xu and Nedić 2021, on synchronous push-pull")

    def resolve(self, facts: Facts) -> "PushPull":
        return self if self.step_size is not None else fill(self, step_size=guided_step(facts))

    def init(self, local, x0, context: Context) -> PushPullState:
        g = self._gradient(local, x0, context)
        return PushPullState(x=x0, y=g, g=g)

    def send(self, state: PushPullState, context: Context):
        return {"x": axpy(-self.step_size, state.y, state.x), "y": state.y}

    def receive(self, local, state: PushPullState, inbox, context: Context):
        x = inbox["x"]
        g = self._gradient(local, x, context)
        return PushPullState(x=x, y=plus(inbox["y"], minus(g, state.g)), g=g), Info.of_gradient(g)

    def restart(self, local, state: PushPullState, context: Context) -> PushPullState:
        return self.init(local, state.x, context)

    def estimate(self, state: PushPullState):
        return state.x

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        """Where A = B is symmetric, with this `eigenvalue`; at 1, of the mean of x."""
        return tracking_modes(self.step_size, curvature, eigenvalue)

    def _gradient(self, local, x, context: Context):
        return local.stochastic_grad(x, context.key) if self.stochastic else local.grad(x)


def guided_step(facts: Facts) -> float:
    """A step size for tracking with weights that are not doubly stochastic.

    On undirected networks the spectrum is real, and the best step is about that of `GradientTracking`. On directed ones
    complex eigenvalues close to 1 allow much less: on a directed ring of equal curvatures tracking is stable up to about
    √2 (1 − σ)^1.5/L, and a third of that leaves room for unequal degrees.
    """
    if facts.lambda_min is not None:
        return tuned_step(GradientTracking(), facts)
    return 0.5 * (1 - facts.sigma) ** 1.5 / facts.smoothness


def tracking_modes(step: float, curvature: float, eigenvalue: float) -> np.ndarray:
    """Iteration matrix of (x, y) for adapt-then-combine tracking; of the mean of x alone at eigenvalue 1, where y = ∇φ."""
    a, w = curvature, eigenvalue
    if np.isclose(w, 1.0):
        return np.array([[1 - step * a]])
    x = np.array([w, -w * step])
    return np.array([x, np.array([0.0, w]) + a * (x - np.array([1.0, 0.0]))])
