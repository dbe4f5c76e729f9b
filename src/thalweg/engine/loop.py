"""The compiled loop: rounds, records, stop rule. Bounds are traced, so that no length of run compiles anew."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from .epoch import Earlier
from .metrics import Snapshot, estimates, measure
from .peer_round import Agents, Experiment, init_agents, peer_round
from .stop import Flags, Stop, exchange_flags, first_flags, settled
from .weather import conditions, first_weather

# Records that one call of the compiled loop can return; the host empties them between calls.
CAPACITY = 64


class Local(eqx.Module):
    """What belongs to the agents; every leaf has the agent axis first."""

    agents: Agents
    previous: Float[Array, "n d"]
    flags: Flags | tuple[()]


class Shared(eqx.Module):
    """What the run knows of itself.

    `round` rounds are done; `recorded` is the round of the last record; `calm` the number of settled records in a
    row; `done` whether the stop rule holds, `broken` whether a record was not finite or left all bounds.
    """

    round: Int[Array, ""]
    recorded: Int[Array, ""]
    calm: Int[Array, ""]
    done: Bool[Array, ""]
    broken: Bool[Array, ""]


class Records(eqx.Module):
    """A buffer of `CAPACITY` records: rounds, snapshots, reported infos; `count` of them are filled."""

    round: Int[Array, " capacity"]
    snapshot: Snapshot
    sent: UInt32[Array, "capacity n"]
    report: Any
    count: Int[Array, ""]


class Rules(eqx.Module):
    """How a run is driven. `every`, `reference` and tolerances are traced; what is kept is static."""

    stop: Stop | None
    every: Int[Array, ""]
    reference: Float[Array, " d"]
    limit: Float[Array, ""]
    report: tuple[str, ...] = eqx.field(static=True, default=())
    keep_agents: bool = eqx.field(static=True, default=True)


def begin(executor, e: Experiment, rules: Rules, earlier: Earlier | None = None) -> tuple[Local, Shared]:
    """Everything before round 0, of a first epoch or of one that follows an `earlier` one."""
    agents = init_agents(executor, e, first_weather(e.key, e.setting, e.world), earlier)
    x = estimates(executor, e, agents)
    flags = first_flags(x) if rules.stop is not None and rules.stop.distributed else ()
    no, zero = jnp.asarray(False), jnp.asarray(0, jnp.int32)
    return Local(agents, x, flags), Shared(zero, zero, zero, no, no)


def one_round(executor, e: Experiment, rules: Rules, local: Local, k) -> tuple[Local, Any]:
    """One round, with the distributed stop rule beside it."""
    agents, info = peer_round(executor, e, local.agents, k)
    flags = local.flags
    if isinstance(flags, Flags):
        # An agent that has stopped keeps its answer and goes on handing the news to its neighbours.
        agents = eqx.tree_at(lambda a: a.state, agents, _keep(flags.done, local.agents.state, agents.state))
        _, weather = conditions(e.key, e.setting, e.world, k, 0, local.agents.channel)
        x = estimates(executor, e, agents)
        flags = exchange_flags(executor, rules.stop, e.key, e.world, flags, weather, x, k)
    return Local(agents, local.previous, flags), info


def record(executor, e: Experiment, rules: Rules, local: Local, shared: Shared):
    """(local, shared, snapshot) after measuring the network at `shared.round`.

    A look between two regular records (at the end of a run, before a resume) must leave no trace in what comes after it.
    """
    k = shared.round
    regular = k % rules.every == 0
    snapshot, x = measure(executor, e, local.agents, k, local.previous, k - shared.recorded, rules.reference)
    calm, done = shared.calm, shared.done
    if isinstance(local.flags, Flags):
        done = all_done(executor, local)
    elif rules.stop is not None:
        calm = jnp.where(regular, jnp.where(settled(rules.stop, snapshot), calm + 1, 0), calm)
        done = calm >= rules.stop.patience
    broken = ~jnp.all(snapshot.finite) | ~jnp.isfinite(snapshot.objective) | ~(snapshot.scale <= rules.limit)
    previous, recorded = jnp.where(regular, x, local.previous), jnp.where(regular, k, shared.recorded)
    return Local(local.agents, previous, local.flags), Shared(k, recorded, calm, done & ~broken, broken), snapshot


def advance(executor, e: Experiment, rules: Rules, local: Local, shared: Shared, until):
    """Go on to round `until`, or until the rule stops the run, or until the buffer of records is full.

    Returns (local, shared, records). Rounds between two records are a plain loop: nothing is measured there.
    """
    until = jnp.asarray(until, jnp.int32)

    def segment(carry):
        local, shared, records = carry
        target = jnp.minimum(until, (shared.round // rules.every + 1) * rules.every)

        def going(carry):
            local, k, _ = carry
            return (k < target) & ~all_done(executor, local)

        def body(carry):
            local, k, _ = carry
            local, info = one_round(executor, e, rules, local, k)
            return local, k + 1, reported(executor, rules, info)

        local, k, report = jax.lax.while_loop(going, body, (local, shared.round, no_report(executor, e, rules, local)))
        shared = eqx.tree_at(lambda s: s.round, shared, k)
        local, shared, snapshot = record(executor, e, rules, local, shared)
        return local, shared, append(rules, records, snapshot, k, executor.everyone(local.agents.sent), report)

    def more(carry):
        _, shared, records = carry
        return (shared.round < until) & ~shared.done & ~shared.broken & (records.count < CAPACITY)

    return jax.lax.while_loop(more, segment, (local, shared, no_records(executor, e, rules, local, shared)))


def all_done(executor, local: Local) -> Bool[Array, ""]:
    """Whether every agent has decided to stop (only under the distributed rule)."""
    return jnp.all(executor.everyone(local.flags.done)) if isinstance(local.flags, Flags) else jnp.asarray(False)


def reported(executor, rules, info):
    """The fields of `info` that the experiment reports.

    Raises:
        ValueError: the algorithm's info has no such field.
    """
    known = [field.name for field in dataclasses.fields(info)]
    for name in rules.report:
        if name not in known:
            raise ValueError(f"solve: got report={name!r}, expected one of {', '.join(known)}, what agents learn in a round")
    return {name: executor.everyone(getattr(info, name)) for name in rules.report}


def no_report(executor, e, rules, local):
    """A report before the first round: NaN."""
    if not rules.report:
        return {}
    shapes = jax.eval_shape(lambda: reported(executor, rules, one_round(executor, e, rules, local, 0)[1]))
    return jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)


def _trim(rules, snapshot):
    """Without `keep_agents` the history keeps no row per agent."""
    if rules.keep_agents:
        return snapshot
    return eqx.tree_at(lambda s: (s.loss, s.disagreement), snapshot, (jnp.zeros(0), jnp.zeros(0)))


def no_records(executor, e, rules, local: Local, shared: Shared) -> Records:
    """An empty buffer."""
    shapes = jax.eval_shape(lambda: _trim(rules, record(executor, e, rules, local, shared)[2]))
    blank = lambda leaf: jnp.zeros((CAPACITY, *leaf.shape), leaf.dtype)
    return Records(
        round=jnp.zeros(CAPACITY, jnp.int32),
        snapshot=jax.tree.map(blank, shapes),
        sent=blank(executor.everyone(local.agents.sent)),
        report=jax.tree.map(blank, no_report(executor, e, rules, local)),
        count=jnp.asarray(0, jnp.int32),
    )


def append(rules, records: Records, snapshot, k, sent, report) -> Records:
    """One more record."""
    put = lambda buffer, leaf: buffer.at[records.count].set(leaf)
    return Records(
        round=put(records.round, k),
        snapshot=jax.tree.map(put, records.snapshot, _trim(rules, snapshot)),
        sent=put(records.sent, sent),
        report=jax.tree.map(put, records.report, report),
        count=records.count + 1,
    )


def _keep(mask, kept, new):
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), kept, new)
