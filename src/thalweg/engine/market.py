"""What is measured of a coupled problem when a round is recorded. Simulated engines only, unless reported.

The dual value is that of a full sweep of best responses at the one current price, so it bounds the optimum from below whatever
the method does with its iterates.

Axes: `n` agents, `m` rows of the coupling, `d` variables of one agent.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from thalweg.problem.coupling import heard, scattered

from .metrics import PeerGauge, all_finite
from .peer_round import as_agents
from .server_metrics import Gauge
from .server_round import as_clients, client_context


class MarketSnapshot(eqx.Module):
    """One record.

    Attributes:
        objective: Σ f_i(x_i), with the costs of local terms, at the agents' plans, below the optimum where `violation` is not 0.
        dual: lower bound of the optimal cost at the price of the moment; −∞ where none is proved.
        gap: (objective − dual) / max(1, |dual|).
        violation: max_j |excess_j| / max(1, |b_j|) of Σ g_i(x_i).
        slackness: max_j |λ_j (Σ g − b)_j| of inequalities.
        movement: ‖λ_k − λ_k'‖/(k − k'), k' the previous record; scale: 1 + ‖λ‖; error: ‖x − x*‖, NaN without a reference.
        consensus_error: √(mean_i ‖λ_i − λ̄‖²) of peers; 0 with a price-setter.
        price: `[m]` (the mean of the peers').
    Per agent `[n]`: `loss` = f_i(x_i), `disagreement` = ‖λ_i − λ̄‖ (empty with a price-setter), `finite`.
    """

    objective: Float[Array, ""]
    dual: Float[Array, ""]
    gap: Float[Array, ""]
    violation: Float[Array, ""]
    slackness: Float[Array, ""]
    movement: Float[Array, ""]
    scale: Float[Array, ""]
    error: Float[Array, ""]
    consensus_error: Float[Array, ""]
    price: Float[Array, " m"]
    loss: Float[Array, "..."]
    disagreement: Float[Array, "..."]
    finite: Bool[Array, "..."]

    def trimmed(self) -> "MarketSnapshot":
        """Without rows per agent."""
        nothing = jnp.zeros(0, self.loss.dtype)
        return eqx.tree_at(lambda s: (s.loss, s.disagreement, s.finite), self, (nothing, nothing, jnp.zeros(0, bool)))


class MarketGauge(Gauge):
    """Of plans and a price."""

    def measure(self, executor, e, records, server, x, previous, k, rounds, reference) -> MarketSnapshot:
        price = e.problem.coupling.project(x)

        def one(a, local, c, state, own, common):
            server, price = common
            plan = a.estimate(server, state)
            low, _ = local.bound(heard(price, local.rows), plan)
            row = ravel_pytree(plan)[0]
            value = local.cost(plan)
            finite = jnp.isfinite(value) & all_finite((row, state))
            return value, local.quantity(plan), low, jnp.sum((row - own) ** 2), finite

        context = executor.share(client_context(e, e.ids, k, 0, e.algorithm.phases[0]))
        own = executor.share(jnp.broadcast_to(reference, (e.n, e.problem.size)) if reference.ndim == 1 else reference)
        found = as_clients(
            executor, e, "measure", one, e.problem.pieces, context, records[0], own, common=(server, price)
        )  # fmt: skip
        distance = lambda x, previous, rounds: jnp.sqrt(jnp.sum((x - previous) ** 2)) / jnp.maximum(rounds, 1).astype(x.dtype)
        moved = executor.network_role("movement", distance, x, previous, jnp.asarray(rounds))
        return summarised(executor, e.problem, k, price, moved, found, jnp.zeros(0, x.dtype))

    def settled(self, stop, snapshot):
        return cleared(stop, snapshot)

    def evaluate(self, executor, e, records, server):
        return {}

    def belongs_to_agents(self):
        return self


class PeerMarketGauge(PeerGauge):
    """Of plans, and of a price of which everybody keeps a copy: the bound is that of the mean of all copies."""

    def watched(self, executor, e, agents):
        return as_agents(executor, e, "price", lambda a, local, c, state: a.price(state), agents.state)

    def measure(self, executor, e, agents, k, previous, rounds, reference):
        prices = self.watched(executor, e, agents)
        n = executor.count(prices)
        total = executor.total("sum of prices", prices)
        price = executor.network_role(
            "mean price", lambda coupling, total: coupling.project(total / n), e.problem.coupling, total
        )

        def one(a, local, c, state, own, before, price, reference):
            plan = a.estimate(state)
            low, _ = local.bound(price, plan)
            row, value = ravel_pytree(plan)[0], local.cost(plan)
            # Disagreement is between prices of the right sign: a copy may be on its way there.
            apart = jnp.sum((local.public.project(own) - price) ** 2)
            finite = jnp.isfinite(value) & all_finite((row, state))
            return (
                value,
                local.quantity(plan),
                low,
                jnp.sum((row - reference) ** 2),
                finite,
                apart,
                jnp.sum((own - before) ** 2),
            )

        tile = lambda v, d: jnp.broadcast_to(v, (prices.shape[0], d))
        target = tile(reference, e.problem.size) if reference.ndim == 1 else executor.share(reference)
        *found, apart, moved = as_agents(
            executor, e, "measure", one, agents.state, prices, previous, tile(price, e.problem.m), target, k=k
        )
        apart, moved = executor.everyone((apart, moved))
        rms = lambda moved, rounds: jnp.sqrt(jnp.mean(moved)) / jnp.maximum(rounds, 1).astype(moved.dtype)
        movement = executor.network_role("movement", rms, moved, jnp.asarray(rounds))
        return summarised(executor, e.problem, k, price, movement, tuple(found), apart), prices

    def settled(self, stop, snapshot):
        return cleared(stop, snapshot)


def cleared(stop: Any, snapshot: MarketSnapshot) -> Bool[Array, ""]:
    """Certified: the gap is at most `progress`, and violation and disagreement about the price are at most `agreement`."""
    certified = (jnp.abs(snapshot.gap) <= stop.progress) & (snapshot.violation <= stop.agreement)
    return certified & (snapshot.consensus_error <= stop.agreement * snapshot.scale)


def summarised(executor, problem, k, price, movement, found, apart) -> MarketSnapshot:
    """From every agent's (value, quantity, bound, squared error, finite); `apart` `[n]` are squared distances of prices."""
    value, quantity, low, square, finite, rows = executor.everyone((*found, problem.pieces.rows))

    def network(coupling, k, price, movement, value, quantity, low, square, finite, rows, apart):
        here = coupling.at(k)
        total = _added(quantity, rows, coupling.m)
        objective, dual = jnp.sum(value), jnp.sum(low) - jnp.sum(price * here.total)
        return MarketSnapshot(
            objective=objective,
            dual=dual,
            gap=(objective - dual) / jnp.maximum(1, jnp.abs(dual)),
            violation=here.violation(total),
            slackness=here.slackness(price, total),
            movement=movement,
            scale=1 + jnp.sqrt(jnp.sum(price**2)),
            error=jnp.sqrt(jnp.sum(square)),
            consensus_error=jnp.sqrt(jnp.mean(apart)) if apart.size else jnp.zeros((), price.dtype),
            price=price,
            loss=value,
            disagreement=jnp.sqrt(apart),
            finite=finite & jnp.all(jnp.isfinite(price)),
        )

    return executor.network_role(
        "network",
        network,
        problem.coupling,
        jnp.asarray(k, jnp.int32),
        price,
        movement,
        value,
        quantity,
        low,
        square,
        finite,
        rows,
        apart,
    )


def _added(quantity, rows, m: int):
    """Σ over agents, row by row."""

    return jnp.sum(quantity, axis=0) if rows is None else scattered(quantity, rows, m)


def target(reference: Any, problem: Any) -> Float[Array, "..."]:
    """The reference's plans as rows `[n, d]`; a row of NaN when there is none."""
    if reference is None:
        return jnp.full(problem.size, jnp.nan, problem.dtype)
    plans = jax.tree.map(jnp.asarray, getattr(reference, "x", reference))
    shapes = lambda tree, extra: jax.tree.map(lambda leaf: (*extra, *np.shape(leaf)), tree)
    same = jax.tree.structure(plans) == jax.tree.structure(problem.x0)
    got, expected = shapes(plans, ()), shapes(problem.x0, (problem.n,))
    if not same or got != expected:
        raise ValueError(
            f"solve: the reference has shape {got}, expected {expected}, a plan of every agent; pass tw.reference(problem)"
        )
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(plans)):
        raise ValueError("solve: the reference has NaN or infinite entries, expected finite ones; pass tw.reference(problem)")
    return jnp.asarray(jax.vmap(lambda plan: ravel_pytree(plan)[0].astype(problem.dtype))(plans))
