"""What is measured of the whole network when a round is recorded. Simulated engines only: no agent could know it."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from .peer_round import Agents, Experiment, as_agents
from .server_round import honest_of
from .stop import Stop, settled


class Snapshot(eqx.Module):
    """One record.

    Network-wide scalars:
        objective: Σ w_i f_i(x̄) + r(x̄) at the mean estimate x̄.
        consensus_error: √(mean_i ‖x_i − x̄‖²).
        optimality: ‖x̄ − prox_r(x̄ − ∇f(x̄))‖, the norm of the gradient where there is no r.
        movement: √(mean_i ‖x_i,k − x_i,k'‖²) / (k − k'), k' the previous record.
        scale: 1 + √(mean_i ‖x_i‖²), what relative tolerances are relative to.
        error: √(mean_i ‖x_i − x*‖²), NaN without a reference.
    Per agent `[n]`: `loss` = φ_i(x_i), `disagreement` = ‖x_i − x̄‖, `finite`: of x_i, φ_i(x_i) and all of its state, so that
    a bad gradient is seen at the agent who computed it, before neighbours hear of it.

    With an adversary all of it is of the h honest agents: x̄ is their mean, w_i f_i are divided by h/n, means over i run over them.
    Liars have NaN for `loss` and `disagreement`.
    """

    objective: Float[Array, ""]
    consensus_error: Float[Array, ""]
    optimality: Float[Array, ""]
    movement: Float[Array, ""]
    scale: Float[Array, ""]
    error: Float[Array, ""]
    loss: Float[Array, " n"]
    disagreement: Float[Array, " n"]
    finite: Bool[Array, " n"]

    def trimmed(self) -> "Snapshot":
        """Without rows per agent."""
        nothing = jnp.zeros(0)
        return eqx.tree_at(lambda s: (s.loss, s.disagreement), self, (nothing, nothing))


class PeerGauge(eqx.Module):
    """What records of a peers' run measure."""

    @abc.abstractmethod
    def watched(self, executor, e: Experiment, agents: Agents) -> Float[Array, "n d"]:
        """What agents agree on, one row each: its movement between two records is measured."""

    @abc.abstractmethod
    def measure(self, executor, e: Experiment, agents: Agents, k, previous, rounds, reference) -> tuple[Any, Any]:
        """(snapshot after round `k`, what is watched). `previous` is what was watched `rounds` rounds ago."""

    @abc.abstractmethod
    def settled(self, stop: Stop, snapshot: Any) -> Bool[Array, ""]:
        """Whether the stop rule holds in this record."""


class AgreementGauge(PeerGauge):
    """Of one answer that all are to agree on."""

    def watched(self, executor, e, agents):
        return estimates(executor, e, agents)

    def measure(self, executor, e, agents, k, previous, rounds, reference):
        return measure(executor, e, agents, k, previous, rounds, reference)

    def settled(self, stop, snapshot):
        return settled(stop, snapshot)


def estimates(executor, e: Experiment, agents: Agents) -> Float[Array, "n d"]:
    """Every agent's answer as a row, leaves concatenated in tree order."""

    def one(algorithm, local, context, state):
        return ravel_pytree(algorithm.estimate(state))[0]

    return as_agents(executor, e, "estimate", one, agents.state)


def measure(executor, e: Experiment, agents: Agents, k, previous, rounds, reference) -> tuple[Snapshot, Any]:
    """(snapshot after round `k`, estimates `[n, d]`). `previous` are the estimates `rounds` rounds ago."""
    x = estimates(executor, e, agents)
    unravel = ravel_pytree(e.problem.x0)[1]
    n = executor.count(x)
    honest = honest_of(e.adversary, n)
    if honest is not None:
        n -= len(e.adversary.agents)
    of_honest = lambda rows: rows if honest is None else jnp.where(executor.share(honest)[:, None], rows, 0)
    mean = executor.total("mean", of_honest(x)) / n

    def one(algorithm, local, context, state, x, before, mean, reference):
        value, gradient = local.value_and_grad(unravel(mean))
        own = local.value(unravel(x))
        finite = jnp.isfinite(own) & all_finite((x, state))
        squares = {
            "disagreement": jnp.sum((x - mean) ** 2),
            "movement": jnp.sum((x - before) ** 2),
            "norm": jnp.sum(x**2),
            "error": jnp.sum((x - reference) ** 2),
        }
        return value, ravel_pytree(gradient)[0], own, finite, squares

    tile = lambda v: jnp.broadcast_to(v, x.shape)
    value, gradient, own, finite, squares = as_agents(
        executor, e, "measure", one, agents.state, x, previous, tile(mean), tile(reference), k=k
    )
    everyone = executor.everyone((value, own, finite, squares))
    gradient = executor.total("gradient", of_honest(gradient)) / n

    def network(mean, gradient, everyone, rounds):
        value, own, finite, squares = everyone
        if honest is not None:
            own, finite = jnp.where(honest, own, jnp.nan), finite | ~honest
        average = lambda each: jnp.mean(each) if honest is None else jnp.sum(jnp.where(honest, each, 0)) / n
        rms = lambda name: jnp.sqrt(average(squares[name]))
        regularizer = e.problem.at(k).regularizer
        objective, stepped = average(value), mean - gradient
        if regularizer is not None:
            objective = objective + regularizer.value(unravel(mean))
            stepped = ravel_pytree(regularizer.prox(unravel(stepped), 1.0))[0]
        return Snapshot(
            objective=objective,
            consensus_error=rms("disagreement"),
            optimality=jnp.sqrt(jnp.sum((mean - stepped) ** 2)),
            movement=rms("movement") / rounds,
            scale=1 + rms("norm"),
            error=rms("error"),
            loss=own,
            disagreement=jnp.sqrt(
                squares["disagreement"] if honest is None else jnp.where(honest, squares["disagreement"], jnp.nan)
            ),
            finite=finite,
        )

    rounds = jnp.maximum(rounds, 1).astype(x.dtype)
    return executor.network_role("network", network, mean, gradient, everyone, rounds), x


def all_finite(tree) -> Bool[Array, ""]:
    """Whether no number in it is NaN or infinite."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.asarray(True)
