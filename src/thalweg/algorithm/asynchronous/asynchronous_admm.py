"""Relaxed ADMM over edges without rounds, exact whatever is lost, late or asleep."""

from typing import Any, ClassVar

import equinox as eqx
import jax

from thalweg.algorithm import edge_variables as edges
from thalweg.algorithm.base import Claims, Context, Facts
from thalweg.algorithm.peer.edge_admm import EdgeADMM
from thalweg.algorithm.step import Real, fill

from .base import AsynchronousAlgorithm


class AsynchronousEdgeState(eqx.Module):
    """`x`: minimiser of the augmented local function at the last wake; `z`: one auxiliary variable per edge, leaves
    `[max_degree, ...]`, zero in padded slots."""

    x: Any
    z: Any


class AsynchronousADMM(AsynchronousAlgorithm[AsynchronousEdgeState]):
    """Relaxed edge-based ADMM without rounds: an auxiliary variable z_ij for every neighbour j of i, damped by r.

        when i wakes:        x_i = argmin_x φ_i(x) + ρ d_i/2 ‖x − Σ_j z_ij/(ρ d_i)‖²
                             i sends to j:   q_ij = 2ρ x_i − z_ij
        when q_ji comes:     z_ij ← (1 − r) z_ij + r q_ji

    with z_ij = ρ x0 at the start and d_i the number of neighbours. If all wake together, and all messages come before anybody
    wakes again, it is `EdgeADMM`. The fixed points do not depend on who wakes when, or on which messages come: at every one of them
    all x_i are a minimiser. With messages that are lost at random and agents that wake at random it converges almost surely for
    every ρ > 0 and r in (0, 1), and linearly in mean where the φ_i are strongly convex and smooth. Losses need be convex only.
    Delays leave the fixed points where they are; that they do not hinder convergence is measured, not proved: the longer they are
    against the time between two wakes, the slower. An agent without neighbours does proximal point steps.

    Args:
        penalty: ρ. Default: that of `EdgeADMM`, the best predicted rate between curvatures min μ_i (at least max L_i/100) and
            max L_i; 1 where φ_i is not smooth.
        relaxation: r. ½ is Douglas-Rachford; towards 1, Peaceman-Rachford, faster on smooth strongly convex problems.

    Nicola Bastianello, Ruggero Carli, Luca Schenato, Marco Todescato, *Asynchronous distributed optimization over lossy
    networks via relaxed ADMM: stability and linear convergence*, IEEE Transactions on Automatic Control 66, 2021.
    """

    penalty: Real | None = None
    relaxation: Real = 0.5

    per_neighbour: ClassVar[frozenset[str]] = frozenset({"q"})
    needs: ClassVar[frozenset[str]] = frozenset({"undirected"})
    handles: ClassVar[frozenset[str]] = frozenset({"constants"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"independent", "asleep", "delay"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Bastianello, Carli, Schenato and Todescato 2021")

    def __check_init__(self):
        if isinstance(self.relaxation, int | float) and not 0 < self.relaxation < 1:
            raise ValueError(
                f"AsynchronousADMM(relaxation={self.relaxation!r}): expected 0 < relaxation < 1; ½ suits most problems"
            )

    def resolve(self, facts: Facts) -> "AsynchronousADMM":
        if self.penalty is not None:
            return self
        return fill(self, penalty=EdgeADMM(relaxation=self.relaxation).resolve(facts).penalty)

    def init(self, local, x0, context: Context) -> AsynchronousEdgeState:
        return AsynchronousEdgeState(x0, edges.first(x0, context.mask, self.penalty))

    def wake(self, local, state: AsynchronousEdgeState, context: Context):
        x = edges.minimise(local, state.x, state.z, context.degree, self.penalty)
        return AsynchronousEdgeState(x, state.z), {"q": edges.reflect(x, state.z, self.penalty)}

    def on_message(self, local, state: AsynchronousEdgeState, message, slot, context: Context):
        mine = jax.tree.map(lambda z: z[slot], state.z)
        heard = edges.relax(mine, message["q"], self.relaxation)
        z = jax.tree.map(lambda z, new: z.at[slot].set(new), state.z, heard)
        return AsynchronousEdgeState(state.x, z)

    def estimate(self, state: AsynchronousEdgeState):
        return state.x
