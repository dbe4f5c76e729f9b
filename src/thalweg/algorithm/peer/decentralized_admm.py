"""Decentralised ADMM with one dual variable per agent."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg._trees import times
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.penalty import best_penalty
from thalweg.algorithm.step import Real, fill
from thalweg.message.combine import Combine, Sum


class DualState(eqx.Module):
    """`x`: the iterate; `dual`: α_i, the multipliers of the agent's edges summed up."""

    x: Any
    dual: Any


class DecentralizedADMM(PeerAlgorithm[DualState]):
    """Decentralised consensus ADMM: one exact local solve and one message, x_i, per round.

        α_i ← α_i + ρ Σ_j (x_i − x_j)                                             (over the neighbours j of i)
        x_i ← argmin_x φ_i(x) + α_iᵀx + ρ Σ_j ‖x − (x_i + x_j)/2‖²

    with α_i(0) = 0, so that Σ_i α_i = 0 in every round. A neighbour whose message does not arrive counts as x_j = x_i, in
    both lines; while both ends miss each other Σ α_i stays zero and the limit exact. Losses need be convex only. An agent
    without neighbours does proximal point steps.

    Args:
        penalty: ρ. Default: the best predicted rate between curvatures min μ_i (at least max L_i/100) and max L_i; 1 where
            φ_i is not smooth.

    On a d-regular network with equal curvature a, the mode of the adjacency eigenvalue m obeys
    z² − (1 + (A − B)/S) z + A/S = 0 with A = ρ(d + m), B = ρ(d − m), S = a + 2ρd.

    Wei Shi, Qing Ling, Kun Yuan, Gang Wu, Wotao Yin, *On the linear convergence of the ADMM in decentralized consensus
    optimization*, IEEE Transactions on Signal Processing 62, 2014.
    """

    penalty: Real | None = None

    combine: ClassVar[dict[str, Combine]] = {"x": Sum()}
    needs: ClassVar[frozenset[str]] = frozenset({"undirected"})
    handles: ClassVar[frozenset[str]] = frozenset({"constants"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "asleep"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Shi, Ling, Yuan, Wu and Yin 2014")

    def resolve(self, facts: Facts) -> "DecentralizedADMM":
        if self.penalty is not None:
            return self
        matrices = lambda penalty, *mode: fill(self, penalty=penalty).adjacency_modes(*mode)
        return fill(self, penalty=best_penalty(matrices, facts))

    def init(self, local, x0, context: Context) -> DualState:
        return DualState(x0, times(0, x0))

    def send(self, state: DualState, context: Context):
        return {"x": state.x}

    def receive(self, local, state: DualState, inbox, context: Context):
        arrived = inbox["x"]
        degree = jnp.maximum(context.degree, 1)

        def disagreement(x, total):
            return jnp.asarray(self.penalty, x.dtype) * (arrived.count.astype(x.dtype) * x - total)

        def centre(x, apart, dual):
            return x - 0.5 * (apart + dual) / (jnp.asarray(self.penalty, x.dtype) * degree.astype(x.dtype))

        apart = jax.tree.map(disagreement, state.x, arrived.total)
        dual = jax.tree.map(jnp.add, state.dual, apart)
        v = jax.tree.map(centre, state.x, apart, dual)
        return DualState(local.prox(v, 0.5 / (self.penalty * degree), state.x), dual), Info.none()

    def restart(self, local, state: DualState, context: Context) -> DualState:
        return self.init(local, state.x, context)

    def estimate(self, state: DualState):
        return state.x

    def adjacency_modes(self, curvature: float, degree: float, eigenvalue: float) -> np.ndarray:
        """Iteration matrix of (x, α) in the mode of an adjacency `eigenvalue` of a `degree`-regular network, when every φ_i
        has Hessian `curvature`·I; of x alone at eigenvalue = degree, where α stays zero."""
        rho = float(self.penalty)
        a, b, s = rho * (degree + eigenvalue), rho * (degree - eigenvalue), curvature + 2 * rho * degree
        if np.isclose(eigenvalue, degree):
            return np.array([[a / s]])
        return np.array([[a / s, -1 / s], [b * a / s, 1 - b / s]])
