"""The compiled loop: rounds, records, stop rule. Bounds are traced, so that no length of run compiles anew.

What a round is, and what is recorded of it, is the program's business (`Program`): that of peers, or that of a server.
"""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .stop import Stop

# Records that one call of the compiled loop can return; the host empties them between calls.
CAPACITY = 64


class Shared(eqx.Module):
    """What the run knows of itself; programs may add to it.

    `round` rounds are done; `recorded` is the round of the last record; `calm` the number of settled records in a
    row; `done` whether the stop rule holds, `broken` whether a record was not finite or left all bounds.
    """

    round: Int[Array, ""]
    recorded: Int[Array, ""]
    calm: Int[Array, ""]
    done: Bool[Array, ""]
    broken: Bool[Array, ""]


class Records(eqx.Module):
    """A buffer of `CAPACITY` records, `rows` with a leading axis; `count` of them are filled."""

    rows: Any
    count: Int[Array, ""]


class Rules(eqx.Module):
    """How a run is driven. `every`, `reference` and tolerances are traced; what is kept is static.

    With `moving` the reference has a leading axis of rounds.
    """

    stop: Stop | None
    every: Int[Array, ""]
    reference: Float[Array, "..."]
    limit: Float[Array, ""]
    report: tuple[str, ...] = eqx.field(static=True, default=())
    keep_agents: bool = eqx.field(static=True, default=True)
    moving: bool = eqx.field(static=True, default=False)

    def target(self, k: Any) -> Float[Array, "..."]:
        """The reference of round `k`."""
        return self.reference[k] if self.moving else self.reference


class Program(eqx.Module):
    """What an engine runs: who computes what in a round, and what is recorded of it.

    `local` belongs to the agents (every leaf has the agent axis first), `shared` to the run.

    Class attribute:
        by_hand: whether it also runs role by role from Python (`advance_by_hand`).
    """

    by_hand: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def n(self) -> int:
        """Number of agents."""

    @abc.abstractmethod
    def begin(self, executor, rules: Rules, earlier: Any = None) -> tuple[Any, Any]:
        """(local, shared) before round 0, of a first epoch or of one that follows an `earlier` one."""

    @abc.abstractmethod
    def one_round(self, executor, rules: Rules, local, shared, k) -> tuple[Any, Any, Any]:
        """(local, shared, report) after round k."""

    @abc.abstractmethod
    def no_report(self, executor, rules: Rules, local, shared) -> Any:
        """The report before the first round."""

    @abc.abstractmethod
    def record(self, executor, rules: Rules, local, shared, report) -> tuple[Any, Any, Any]:
        """(local, shared, row) after measuring at `shared.round`.

        A look between two regular records (at the end of a run, before a resume) must leave no trace in what comes after.
        """

    @abc.abstractmethod
    def estimates(self, executor, local, shared) -> Float[Array, "n d"]:
        """Every agent's answer as a row."""

    @abc.abstractmethod
    def belongs_to_agents(self) -> "Program":
        """Of this program's arrays: true at every leaf with a leading agent axis."""

    def stretch(self, local, k: int) -> None:
        """A stretch of rounds begins at round `k`: earlier states will not be asked for again, unless from a checkpoint."""

    def all_done(self, executor, local) -> Bool[Array, ""]:
        """Whether every agent has decided by itself to stop."""
        return jnp.asarray(False)


def advance(executor, e: Program, rules: Rules, local, shared, until):
    """Go on to round `until`, or until the rule stops the run, or until the buffer of records is full.

    Returns (local, shared, records). Rounds between two records are a plain loop: nothing is measured there.
    """
    until = jnp.asarray(until, jnp.int32)

    def segment(carry):
        local, shared, records = carry
        target = jnp.minimum(until, next_record(rules, shared.round))

        def going(carry):
            local, _, k, _ = carry
            return (k < target) & ~e.all_done(executor, local)

        def body(carry):
            local, shared, k, _ = carry
            local, shared, report = e.one_round(executor, rules, local, shared, k)
            return local, shared, k + 1, report

        first = (local, shared, shared.round, e.no_report(executor, rules, local, shared))
        local, shared, k, report = jax.lax.while_loop(going, body, first)
        shared = eqx.tree_at(lambda s: s.round, shared, k)
        local, shared, row = e.record(executor, rules, local, shared, report)
        return local, shared, append(records, row)

    def more(carry):
        _, shared, records = carry
        return (shared.round < until) & ~shared.done & ~shared.broken & (records.count < CAPACITY)

    return jax.lax.while_loop(more, segment, (local, shared, no_records(executor, e, rules, local, shared)))


def advance_by_hand(executor, e: Program, rules: Rules, local, shared, until):
    """The same from Python, round by round, for executors that are no part of a compiled program."""
    rows: list[Any] = []
    k = int(shared.round)
    e.stretch(local, k)
    report = e.no_report(executor, rules, local, shared)
    while k < until and not (bool(shared.done) or bool(shared.broken)) and len(rows) < CAPACITY:
        target = min(int(until), int(next_record(rules, k)))
        while k < target and not e.all_done(executor, local):
            with executor.in_round(k):
                local, shared, report = e.one_round(executor, rules, local, shared, jnp.asarray(k, jnp.int32))
            k += 1
        shared = eqx.tree_at(lambda s: s.round, shared, jnp.asarray(k, jnp.int32))
        local, shared, row = e.record(executor, rules, local, shared, report)
        rows.append(row)
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *rows) if rows else None
    return local, shared, Records(stacked, jnp.asarray(len(rows), jnp.int32))


def next_record(rules: Rules, k):
    """The round of the first regular record after round `k`."""
    return (k // rules.every + 1) * rules.every


def no_records(executor, e: Program, rules: Rules, local, shared) -> Records:
    """An empty buffer."""
    report = e.no_report(executor, rules, local, shared)
    shapes = jax.eval_shape(lambda: e.record(executor, rules, local, shared, report)[2])
    blank = lambda leaf: jnp.zeros((CAPACITY, *leaf.shape), leaf.dtype)
    return Records(jax.tree.map(blank, shapes), jnp.asarray(0, jnp.int32))


def append(records: Records, row) -> Records:
    """One more record."""
    put = lambda buffer, leaf: buffer.at[records.count].set(leaf)
    return Records(jax.tree.map(put, records.rows, row), records.count + 1)
