"""Relaxed ADMM over edges, exact whatever is lost, late or asleep."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import numpy as np

from thalweg.algorithm import edge_variables as edges
from thalweg.algorithm.base import Claims, Context, Facts, Info, PeerAlgorithm
from thalweg.algorithm.penalty import best_penalty
from thalweg.algorithm.step import Real, fill
from thalweg.message.combine import Combine, Edges


class EdgeState(eqx.Module):
    """`x`: minimiser of the augmented local function; `z`: one auxiliary variable per edge, leaves `[max_degree, ...]`,
    zero in padded slots."""

    x: Any
    z: Any


class EdgeADMM(PeerAlgorithm[EdgeState]):
    """Relaxed edge-based ADMM: an auxiliary variable z_ij for every neighbour j of i, damped by r.

        x_i  = argmin_x φ_i(x) + ρ d_i/2 ‖x − Σ_j z_ij/(ρ d_i)‖²
        i sends to j:     q_ij = 2ρ x_i − z_ij
        z_ij ← (1 − r) z_ij + r q_ji                                (only if q_ji arrived; else z_ij is kept)

    with d_i the number of neighbours. The method is the averaged Peaceman-Rachford iteration on the dual, whose fixed
    points do not depend on which messages arrive: it stays exact under loss in one or both directions, sleeping agents
    and delays, for every ρ > 0 and r in (0, 1). Losses need be convex only, and not smooth. An agent without
    neighbours does proximal point steps x ← prox_{φ/ρ}(x), which lead to the local minimiser.

    Args:
        penalty: ρ. Default: the best predicted rate between curvatures min μ_i (at least max L_i/100) and max L_i; 1 where
            φ_i is not smooth.
        relaxation: r. ½ is Douglas-Rachford; towards 1, Peaceman-Rachford, faster on smooth strongly convex problems.

    Nicola Bastianello, Ruggero Carli, Luca Schenato, Marco Todescato, *Asynchronous distributed optimization over lossy
    networks via relaxed ADMM: stability and linear convergence*, IEEE Transactions on Automatic Control 66, 2021.
    """

    penalty: Real | None = None
    relaxation: Real = 0.5

    combine: ClassVar[dict[str, Combine]] = {"q": Edges()}
    needs: ClassVar[frozenset[str]] = frozenset({"undirected"})
    handles: ClassVar[frozenset[str]] = frozenset({"constants"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"symmetric", "independent", "asleep", "delay"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Bastianello, Carli, Schenato and Todescato 2021")

    def __check_init__(self):
        if isinstance(self.relaxation, int | float) and not 0 < self.relaxation < 1:
            raise ValueError(f"EdgeADMM(relaxation={self.relaxation!r}): expected 0 < relaxation < 1; ½ suits most problems")

    def resolve(self, facts: Facts) -> "EdgeADMM":
        if self.penalty is not None:
            return self
        matrices = lambda penalty, *mode: fill(self, penalty=penalty).adjacency_modes(*mode)
        return fill(self, penalty=best_penalty(matrices, facts))

    def init(self, local, x0, context: Context) -> EdgeState:
        z = edges.first(x0, context.mask, self.penalty)
        return EdgeState(edges.minimise(local, x0, z, context.degree, self.penalty), z)

    def send(self, state: EdgeState, context: Context):
        return {"q": edges.reflect(state.x, state.z, self.penalty)}

    def receive(self, local, state: EdgeState, inbox, context: Context):
        stack = inbox["q"]
        relaxed = edges.relax(state.z, stack.values, self.relaxation)
        z = jax.tree.map(lambda new, old: edges.where(stack.fresh, new, old), relaxed, state.z)
        return EdgeState(edges.minimise(local, state.x, z, context.degree, self.penalty), z), Info.none()

    def restart(self, local, state: EdgeState, context: Context) -> EdgeState:
        return self.init(local, state.x, context)

    def estimate(self, state: EdgeState):
        return state.x

    def adjacency_modes(self, curvature: float, degree: float, eigenvalue: float) -> np.ndarray:
        """Iteration matrix of (p, q) in z_ij = p v_i + q v_j, on a `degree`-regular network whose adjacency matrix has
        the eigenvector v with `eigenvalue`, when every φ_i has Hessian `curvature`·I.

        At eigenvalue = degree only p + q matters. Beside these modes, z_ij = z_ji with Σ_j z_ij = 0 shrink by |1 − 2r| and
        do not move x.
        """
        rho, r = float(self.penalty), float(self.relaxation)
        total = curvature + rho * degree
        if np.isclose(eigenvalue, degree):
            return np.array([[1 - 2 * r * curvature / total]])
        gain = 2 * r * rho / total
        return np.array([[1 - r, -r], [-r + gain * degree, 1 - r + gain * eigenvalue]])
