"""Consensus ADMM with a server."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg._trees import axpy, dot, minus, norm, plus, times
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSolver, minimise
from thalweg.algorithm.penalty import geometric_penalty
from thalweg.algorithm.step import Real, Whole, fill
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Sum

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import check_penalty, filled


class ConsensusServer(eqx.Module):
    """`z`: the common answer; `q`: Σ w_i q_i; `penalty`: ρ; `offset`: what clients that were not told of changes of ρ must add."""

    z: Any
    q: Any
    penalty: Float[Array, ""]
    offset: Any


class ConsensusADMM(ServerAlgorithm[Any]):
    """Consensus ADMM, as in the text-books: with u_i the scaled dual variable of x_i = z,

        client   x_i ← argmin_x f_i(x) + ½ρ‖x − z + u_i‖²,   x̂_i = α x_i + (1 − α) z
        server   z ← argmin_z r(z) + ½ρ Σ_i w_i ‖x̂_i + u_i − z‖² = prox_{r/ρ}(Σ_i w_i (x̂_i + u_i))
        client   u_i ← u_i + x̂_i − z

    A client keeps its contribution q_i = x̂_i + u_i; with the next z it knows u_i = q_i − z. So it does
    x_i = prox_{f_i/ρ}(2z − q_i), q_i ← q_i + α(x_i − z), and sends the change; the server keeps q = Σ w_i q_i of what it
    accepted. This is relaxed Douglas-Rachford splitting by blocks: who takes part, and whose message is lost, does not matter
    for the limit. Losses need be convex only, and not smooth. Inexact local solutions do not matter either once they are good
    enough, since at the answer x_i = z, where the local solver starts.

    When all f_i have curvature a, r = 0 and α = 1, it contracts by max(a, ρ)/(a + ρ): ½ at best, at ρ = a.

    Args:
        solver: None: exact local solutions, by the prox of f_i; or a local solver, with g(x) + ρ(x − z + u_i) in place of g(x) and
            an open step size from max L_i + ρ.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        penalty: ρ. Default: √(max L_i · min μ_i) (with μ at least L/100); 1 where the f_i are not smooth.
        relaxation: α in (0, 2); 1.5 to 1.8 is often faster than 1.
        adaptive: residual balancing: ρ ← 2ρ where the primal residual is above `balance` times the dual one, ρ ← ρ/2 where it is
            the other way round; scaled duals change by the inverse factor. Residuals are those of the clients that took part.
        balance: see there.
        adaptive_rounds: after so many rounds ρ stays as it is, without which convergence is not proved.

    Residuals of a round, in the history: primal √(Σ w_i ‖x_i − z‖²) (Σ w_i over those that arrived, scaled to one), dual ρ‖z − z'‖
    with z' the one before; and the penalty.

    Stephen Boyd, Neal Parikh, Eric Chu, Borja Peleato, Jonathan Eckstein, *Distributed optimization and statistical learning via
    the alternating direction method of multipliers*, Foundations and Trends in Machine Learning 3, 2011. By blocks: Patrick
    Combettes, Jean-Christophe Pesquet, *Stochastic quasi-Fejér block-coordinate fixed point iterations with random sweeping*,
    SIAM Journal on Optimization 25, 2015.
    """

    solver: LocalSolver | None = None
    cohort: Cohort | int | None = None
    penalty: Real | None = None
    relaxation: Real = 1.0
    adaptive: bool = eqx.field(static=True, default=False)
    balance: Real = 10.0
    adaptive_rounds: Whole = 100

    combine: ClassVar[dict[str, Combine]] = {"q": Sum(), "square": Sum()}
    handles: ClassVar[frozenset[str]] = frozenset({"regularizer", "constants", "partial_work"})
    exact_under: ClassVar[frozenset[str]] = frozenset({"partial", "dropout", "local_steps"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="linear", theorem="Giselsson and Boyd 2017")

    def __check_init__(self):
        check_penalty(self)
        if isinstance(self.relaxation, int | float) and not 0 < self.relaxation < 2:
            raise ValueError(f"ConsensusADMM(relaxation={self.relaxation!r}): expected a number in (0, 2); 1 is plain ADMM")
        if isinstance(self.balance, int | float) and not self.balance > 1:
            raise ValueError(f"ConsensusADMM(balance={self.balance!r}): expected a number > 1; 10 suits most problems")

    def resolve(self, facts: Facts) -> "ConsensusADMM":
        chosen = fill(self, penalty=geometric_penalty(facts))
        return filled(chosen, facts, chosen.penalty)

    def init_server(self, shared, x0):
        penalty = jnp.asarray(self.penalty, jnp.result_type(*jax.tree.leaves(x0)))
        return ConsensusServer(x0, x0, penalty, times(0, x0) if self.adaptive else ())

    def init_client(self, local, x0, context: ClientContext):
        return x0

    def broadcast(self, server: ConsensusServer, context: ServerContext):
        message = {"z": server.z}
        return message | {"penalty": server.penalty, "offset": server.offset} if self.adaptive else message

    def work(self, local, client, received, context: ClientContext):
        z, q, penalty, shrunk = received["z"], client, self.penalty, 1.0
        if self.adaptive:
            # q = shrunk·(what is kept) + offset: every change of ρ so far, whether or not this client heard of it.
            penalty = received["penalty"]
            shrunk = self.penalty / penalty
            q = axpy(shrunk, client, received["offset"])
        run = minimise(self.solver, local, z, minus(times(2, z), q), penalty, context)
        moved = minus(run.x, z)
        change = times(self.relaxation, moved)
        info = ClientInfo.of(run, z)
        return axpy(1 / shrunk, change, client), {"q": change, "square": info.drift**2}, info

    def update(self, shared, server: ConsensusServer, aggregate, context: ServerContext):
        penalty, weight = server.penalty, context.counts.weight.astype(server.penalty.dtype)
        q = plus(server.q, aggregate["q"])
        z = shared.regularizer.prox(q, 1 / penalty)
        moved = minus(z, server.z)
        dual = penalty * norm(moved).astype(penalty.dtype)
        # ‖x_i − z⁺‖² = ‖x_i − z‖² − 2⟨x_i − z, z⁺ − z⟩ + ‖z⁺ − z‖², averaged over those that arrived.
        share = 1 / jnp.where(weight > 0, weight, 1)
        ahead = dot(aggregate["q"], moved).astype(penalty.dtype) / self.relaxation
        square = share * (aggregate["square"] - 2 * ahead) + (dual / penalty) ** 2
        primal = jnp.where(weight > 0, jnp.sqrt(jnp.maximum(square, 0)), 0)
        offset = server.offset
        if self.adaptive:
            active = (weight > 0) & (context.round < self.adaptive_rounds)
            up, down = active & (primal > self.balance * dual), active & (dual > self.balance * primal)
            factor = jnp.where(up, 2, jnp.where(down, 0.5, 1)).astype(penalty.dtype)
            # u = q − z is scaled: u ← u/factor keeps the dual variable ρu.
            about = lambda a: axpy(1 / factor, minus(a, z), z)
            q, offset, penalty = about(q), about(offset), factor * penalty
        scalars = {"primal_residual": primal, "dual_residual": dual, "penalty": penalty}
        return ConsensusServer(z, q, penalty, offset), scalars

    def estimate(self, server: ConsensusServer, client) -> Any:
        return server.z
