"""PG-EXTRA."""

from typing import ClassVar

import numpy as np

from thalweg._trees import minus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import StepSize, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix

from .extra import EXTRAState, corrected_bound, corrected_modes, corrected_step, first_state


class PGEXTRA(PeerAlgorithm[EXTRAState]):
    """PG-EXTRA: EXTRA for a smooth loss plus a regulariser r that need not be smooth, through its prox.

        z_i = Σ_j w_ij x_j − α ∇φ_i(x_i) − d_i,    d_i ← d_i + ½(x_i − Σ_j w_ij x_j),    x_i ← prox_{αr}(z_i)

    with d_i(0) = 0, so that mean(d) = 0 in every round. Every agent applies the whole r, unscaled, since the problem is the
    mean of the φ_i plus r. Without r this is EXTRA.

    Args:
        step_size: α. Default: the best predicted rate within half the bound (`tuned_step`).

    W symmetric, every φ_i convex and L-smooth, r convex: converges for α < (5 + 3λ_min(W))/(4L); o(1/k) in general.

    Wei Shi, Qing Ling, Gang Wu, Wotao Yin, *A proximal gradient algorithm for decentralized composite optimization*, IEEE
    Transactions on Signal Processing 63, 2015; the bound: Zhi Li and Ming Yan, *New convergence analysis of a primal-dual
    algorithm with large stepsizes*, Advances in Computational Mathematics 47, 2021.
    """

    step_size: StepSize = None

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric", "smooth"})
    handles: ClassVar[frozenset[str]] = frozenset({"regularizer"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="sublinear", theorem="Shi, Ling, Wu and Yin 2015")

    def resolve(self, facts: Facts) -> "PGEXTRA":
        return self if self.step_size is not None else fill(self, step_size=tuned_step(self, facts))

    def init(self, local, x0, context: Context) -> EXTRAState:
        return first_state(x0)

    def send(self, state: EXTRAState, context: Context):
        return {"x": state.x}

    def receive(self, local, state: EXTRAState, inbox, context: Context):
        g = local.grad(state.x)
        z, dual = corrected_step(self.step_size, g, state, minus(context.sent["x"], inbox["x"]))
        return EXTRAState(local.regularizer.prox(z, self.step_size), dual), Info.of_gradient(g)

    def restart(self, local, state: EXTRAState, context: Context) -> EXTRAState:
        return first_state(state.x)

    def estimate(self, state: EXTRAState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """(5 + 3λ_min)/(4L)."""
        return corrected_bound(facts)

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        return corrected_modes(self.step_size, curvature, eigenvalue)
