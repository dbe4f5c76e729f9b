"""EXTRA."""

from typing import Any, ClassVar

import equinox as eqx
import numpy as np

from thalweg._trees import axpy, minus
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.step import Real, StepSize, fill
from thalweg.algorithm.tuning import tuned_step
from thalweg.message.combine import Combine, Mix


class EXTRAState(eqx.Module):
    """`x`: the iterate; `dual`: d, the price of disagreement, with mean(d) = 0 over the agents."""

    x: Any
    dual: Any


class EXTRA(PeerAlgorithm[EXTRAState]):
    """EXTRA: decentralised gradient descent whose bias is integrated away.

        x_i ← Σ_j w_ij x_j − α ∇φ_i(x_i) − d_i,    d_i ← d_i + ½(x_i − Σ_j w_ij x_j)    (both from the old x; d_i(0) = 0)

    Eliminating d gives the published form x(k+2) = (I + W)x(k+1) − ½(I + W)x(k) − α[∇φ(x(k+1)) − ∇φ(x(k))]. In this form
    mean(d) = 0 in every round and the optimum is a fixed point of every W_k, so that a symmetric loss costs no accuracy. One
    vector is sent per round, half of what gradient tracking sends.

    Args:
        step_size: α. Default: the best predicted rate within half the bound (`tuned_step`).

    W symmetric, every φ_i convex and L-smooth: converges for α < (5 + 3λ_min(W))/(4L), tight when all curvatures are equal.

    Wei Shi, Qing Ling, Gang Wu, Wotao Yin, *EXTRA: an exact first-order algorithm for decentralized consensus optimization*,
    SIAM Journal on Optimization 25, 2015; the bound: Zhi Li and Ming Yan, *New convergence analysis of a primal-dual algorithm
    with large stepsizes*, Advances in Computational Mathematics 47, 2021.
    """

    step_size: StepSize = None

    combine: ClassVar[dict[str, Combine]] = {"x": Mix()}
    needs: ClassVar[frozenset[str]] = frozenset({"doubly_stochastic", "symmetric", "smooth"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Shi, Ling, Wu and Yin 2015, on linear convergence")

    def resolve(self, facts: Facts) -> "EXTRA":
        return self if self.step_size is not None else fill(self, step_size=tuned_step(self, facts))

    def init(self, local, x0, context: Context) -> EXTRAState:
        return first_state(x0)

    def send(self, state: EXTRAState, context: Context):
        return {"x": state.x}

    def receive(self, local, state: EXTRAState, inbox, context: Context):
        g = local.grad(state.x)
        x, dual = corrected_step(self.step_size, g, state, minus(context.sent["x"], inbox["x"]))
        return EXTRAState(x, dual), Info.of_gradient(g)

    def restart(self, local, state: EXTRAState, context: Context) -> EXTRAState:
        return first_state(state.x)

    def estimate(self, state: EXTRAState):
        return state.x

    def step_bound(self, facts: Facts) -> float:
        """(5 + 3λ_min)/(4L)."""
        return corrected_bound(facts)

    def modes(self, curvature: float, eigenvalue: float) -> np.ndarray:
        return corrected_modes(self.step_size, curvature, eigenvalue)


# PG-EXTRA is the same step with a prox behind it.


def first_state(x: Any) -> EXTRAState:
    """An epoch that begins at x: d = 0."""
    return EXTRAState(x, minus(x, x))


def corrected_step(step_size: Real, gradient: Any, state: EXTRAState, disagreement: Any) -> tuple[Any, Any]:
    """(x − u − α∇φ − d, d + u/2) for u = ((I − W)x)_i."""
    x = axpy(-step_size, gradient, minus(minus(state.x, disagreement), state.dual))
    return x, axpy(0.5, disagreement, state.dual)


def corrected_bound(facts: Facts) -> float:
    """(5 + 3λ_min)/(4L)."""
    return (5 + 3 * facts.lambda_min) / (4 * facts.smoothness)


def corrected_modes(step_size: Real, curvature: float, eigenvalue: float) -> np.ndarray:
    """(x, d)⁺ from (x, d)."""
    return np.array([[eigenvalue - step_size * curvature, -1.0], [0.5 * (1 - eigenvalue), 1.0]])
