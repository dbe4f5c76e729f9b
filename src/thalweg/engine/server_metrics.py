"""What is measured of a server and its clients when a round is recorded. Simulated engines only, unless reported.

Axes: `n` registered clients, `d` variables, `m` examples.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from .metrics import all_finite
from .server_round import Federation, as_clients, client_context
from .stop import Stop, settled


class Evaluation(eqx.Module):
    """A metric of examples, on one pool of them or per client.

    Attributes:
        metric: `metric(x, example) -> number`, averaged over examples (static).
        pieces: the examples, `[m, ...]`, or `[n, m, ...]` with counts `[n]` per client.
        counts: `[n]`, or None for one pool.
    """

    metric: Callable = eqx.field(static=True)
    pieces: Any
    counts: Array | None

    @property
    def per_client(self) -> bool:
        """Whether every client has examples of its own."""
        return self.counts is not None


class ServerSnapshot(eqx.Module):
    """One record.

    Of the shared answer x:
        objective: Σ w_i f_i(x) + r(x).
        optimality: ‖x − prox_r(x − ∇f(x))‖, NaN where gradients are not measured.
        dissimilarity: Σ w_i ‖∇f_i(x) − ∇f(x)‖² (ζ² at the optimum), NaN likewise.
        movement: ‖x_k − x_k'‖/(k − k'), k' the previous record; scale: 1 + ‖x‖; error: ‖x − x*‖, NaN without a reference.
        consensus_error: 0, there is one answer (√Σ w_i ‖x_i − x‖² of the clients' own answers where they have them).
    Per client `[n]`: `loss` = f_i(x), `own` = f_i(x_i) at its own answer (empty where it has none), `finite`.

    With an adversary all of it is of the honest clients, f and w_i as if there were no others; liars' rows are NaN.
    """

    objective: Float[Array, ""]
    optimality: Float[Array, ""]
    dissimilarity: Float[Array, ""]
    movement: Float[Array, ""]
    scale: Float[Array, ""]
    error: Float[Array, ""]
    consensus_error: Float[Array, ""]
    loss: Float[Array, " n"]
    own: Float[Array, "..."]
    disagreement: Float[Array, "..."]
    finite: Bool[Array, " n"]

    def trimmed(self) -> "ServerSnapshot":
        """Without rows per client."""
        nothing = jnp.zeros(0, self.loss.dtype)
        return eqx.tree_at(
            lambda s: (s.loss, s.own, s.disagreement, s.finite), self, (nothing, nothing, nothing, jnp.zeros(0, bool))
        )


class Gauge(eqx.Module):
    """What records of a server's run measure."""

    @abc.abstractmethod
    def measure(self, executor, e: Federation, records, server, x, previous, k, rounds, reference) -> Any:
        """The snapshot after round `k`; `x` is the shared answer, `previous` that of `rounds` rounds ago."""

    @abc.abstractmethod
    def settled(self, stop: Stop, snapshot: Any) -> Bool[Array, ""]:
        """Whether the stop rule holds in this record."""

    @abc.abstractmethod
    def evaluate(self, executor, e: Federation, records, server) -> dict[str, Array]:
        """Metrics of the user's."""

    @abc.abstractmethod
    def belongs_to_agents(self) -> "Gauge":
        """Of this gauge's arrays: true at every leaf with a leading agent axis."""


class LearningGauge(Gauge):
    """Of one answer for all: losses, gradients (where `gradients`), `evaluations` of the user's."""

    evaluations: dict[str, Evaluation]
    gradients: bool = eqx.field(static=True, default=True)

    def measure(self, executor, e, records, server, x, previous, k, rounds, reference) -> ServerSnapshot:
        return measure(executor, e, self.gradients, records, server, x, previous, k, rounds, reference)

    def settled(self, stop, snapshot):
        return settled(stop, snapshot)

    def evaluate(self, executor, e, records, server):
        return evaluate(executor, e, self.evaluations, records, server)

    def belongs_to_agents(self):
        marked = jax.tree.map(lambda _: False, self)
        for name, evaluation in self.evaluations.items():
            if evaluation.per_client:
                yes = jax.tree.map(lambda _: True, evaluation.pieces)
                marked = eqx.tree_at(lambda m, name=name: m.evaluations[name].pieces, marked, yes)
        return marked


def answer(executor, e: Federation, server) -> Float[Array, " d"]:
    """The shared answer as a row."""
    shared, static = eqx.partition(e.algorithm, eqx.is_array)
    estimate = lambda shared, server: ravel_pytree(eqx.combine(shared, static).estimate(server, None))[0]
    return executor.network_role("answer", estimate, shared, server)


def own_answers(executor, e: Federation, records, server) -> Float[Array, "n d"]:
    """Every client's own answer as a row."""
    one = lambda a, local, c, state, server: ravel_pytree(a.estimate(server, state))[0]
    pieces, records, ids, _ = e.population(executor, records)
    return as_clients(executor, e, "own answer", one, pieces, _context(executor, e, ids), records[0], common=server)


def measure(executor, e, gradients, records, server, x, previous, k, rounds, reference) -> ServerSnapshot:
    """Of the shared answer `x`, and of every client's own."""
    unravel = ravel_pytree(e.problem.x0)[1]
    personal = "personal" in e.algorithm.handles

    def one(a, local, c, state, common):
        x, server = common
        value, gradient = local.value_and_grad(unravel(x)) if gradients else (local.value(unravel(x)), ())
        gradient = ravel_pytree(gradient)[0] if gradients else jnp.zeros(0, x.dtype)
        own = distance = jnp.zeros(0, x.dtype)
        if personal:
            mine = a.estimate(server, state)
            own, distance = local.value(mine)[None], jnp.sum((ravel_pytree(mine)[0] - x) ** 2)[None]
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(own)) & all_finite(state)
        return value, gradient, own, distance, finite

    pieces, records, ids, weights = e.population(executor, records)
    outcome = as_clients(executor, e, "measure", one, pieces, _context(executor, e, ids, k), records[0], common=(x, server))
    gradient = square = jnp.zeros(0, x.dtype)
    if gradients:
        gradient = executor.weighted("gradient", weights, outcome[1])
        square = executor.squares(outcome[1])
    value, own, distance, finite = executor.everyone((outcome[0], *outcome[2:]))
    if e.honest is not None:
        honest = e.honest if e.watched is None else e.honest[e.watched]
        value, own, distance, finite = executor.network_role("unmask", _without_liars, honest, value, own, distance, finite)

    def network(weights, x, previous, reference, rounds, gradient, square, value, own, distance, finite, regularizer):
        objective = jnp.sum(jnp.where(weights > 0, weights.astype(x.dtype) * value, 0))
        optimality = dissimilarity = jnp.asarray(jnp.nan, x.dtype)
        if gradients:
            dissimilarity = jnp.maximum(jnp.sum(weights.astype(x.dtype) * square) - jnp.sum(gradient**2), 0)
            stepped = x - gradient
            if regularizer is not None:
                stepped = ravel_pytree(regularizer.prox(unravel(stepped), 1.0))[0]
            optimality = jnp.sqrt(jnp.sum((x - stepped) ** 2))
        if regularizer is not None:
            objective = objective + regularizer.value(unravel(x))
        return ServerSnapshot(
            objective=objective,
            optimality=optimality,
            dissimilarity=dissimilarity,
            movement=jnp.sqrt(jnp.sum((x - previous) ** 2)) / rounds,
            scale=1 + jnp.sqrt(jnp.sum(x**2)),
            error=jnp.sqrt(jnp.sum((x - reference) ** 2)),
            consensus_error=jnp.sqrt(jnp.nansum(weights.astype(x.dtype) * distance[:, 0]))
            if personal
            else jnp.zeros((), x.dtype),
            loss=value,
            own=own[:, 0] if personal else own.reshape(-1),
            disagreement=jnp.sqrt(distance[:, 0]) if personal else jnp.zeros(0, x.dtype),
            finite=finite & jnp.all(jnp.isfinite(x)),
        )

    rounds = jnp.maximum(rounds, 1).astype(x.dtype)
    regularizer, static = eqx.partition(e.problem.regularizer, eqx.is_array)
    whole = lambda regularizer, *args: network(*args, eqx.combine(regularizer, static))
    return executor.network_role(
        "network", whole, regularizer, weights, x, previous, reference, rounds, gradient, square, value, own, distance, finite
    )


def _without_liars(honest, value, own, distance, finite):
    """NaN in place of what was measured at liars, who are never to blame for a number that is not finite."""
    kept = lambda leaf: jnp.where(honest.reshape(-1, *(1,) * (leaf.ndim - 1)), leaf, jnp.nan)
    return kept(value), kept(own), kept(distance), finite | ~honest


def evaluate(executor, e, evaluations, records, server) -> dict[str, Array]:
    """name → metric of the shared answer on a pool of examples, or of every client's own answer on its own, `[n]`."""
    found = {}
    if any(evaluation.per_client for evaluation in evaluations.values()):
        pieces, own, ids, _ = e.population(executor, records)
    for name, evaluation in evaluations.items():
        metric = evaluation.metric
        if evaluation.per_client:

            def one(a, local, c, state, examples, count, server, metric=metric):
                x = a.estimate(server, state if "personal" in a.handles else None)
                each = jax.vmap(_with(metric, local), in_axes=(None, 0))(x, examples).astype(jnp.float32)
                real = jnp.arange(each.shape[0]) < count
                return jnp.sum(jnp.where(real, each, 0)) / count

            values = as_clients(
                executor, e, f"evaluate {name}", one, pieces, _context(executor, e, ids), own[0],
                evaluation.pieces, executor.share(evaluation.counts), common=server,
            )  # fmt: skip
            found[name] = executor.everyone(values)
            if e.honest is not None:
                honest = e.honest if e.watched is None else e.honest[e.watched]
                found[name] = jnp.where(honest, found[name], jnp.nan)
        else:
            shared, static = eqx.partition(e.algorithm, eqx.is_array)

            def pooled(shared, server, examples, frozen, metric=metric, static=static):
                x = eqx.combine(shared, static).estimate(server, None)
                measured = metric if frozen is None else lambda x, example: metric(x, example, frozen)
                each = jax.lax.map(lambda example: measured(x, example), examples, batch_size=POOL)
                return jnp.mean(each.astype(jnp.float32))

            frozen = getattr(e.problem, "frozen", None)
            found[name] = executor.network_role(f"evaluate {name}", pooled, shared, server, evaluation.pieces, frozen)
    return found


def _with(metric, local):
    """`metric(x, example)`, given what the problem has frozen, as its loss is."""
    frozen = getattr(local, "frozen", None)
    return metric if frozen is None else lambda x, example: metric(x, example, frozen)


# Examples of a pool that are evaluated at once.
POOL = 500


def _context(executor, e: Federation, ids, k=0):
    return executor.share(client_context(e, ids, k, 0, e.algorithm.phases[0]))
