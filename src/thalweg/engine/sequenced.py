"""The engine of peers without rounds: the simulated one, fed with windows of an order of events."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp

from . import loop, simulated
from .event_plan import Plan
from .simulated import Simulated


class Sequenced(Simulated):
    """A run of `EventDriven` in this order."""

    order: Plan | None = eqx.field(static=True, default=None, kw_only=True)
    name = "event-driven"

    def advance(self, e, rules, local, shared, until):
        """(local, shared, records) after going on to round `until` at most, or as many rounds as are recorded at a time."""
        assert self.order is not None
        k, until = int(shared.round), min(int(until), self.order.rounds)
        executor = simulated._executor(self.deterministic)
        record = min(until, int(loop.next_record(rules, k)))
        while (last := self.order.end(k)) < record:  # what lies between two records need not fit into one window
            local, shared = _go(executor, _at(e, self.order, k), rules, local, shared, jnp.asarray(last, jnp.int32))
            k = last
        e = _at(e, self.order, k)
        return simulated._advance(executor, e, rules, local, shared, jnp.asarray(min(until, last), jnp.int32))


def _at(e, plan: Plan, k: int):
    return dataclasses.replace(e, window=plan.window(k))


@eqx.filter_jit
def _go(executor, e, rules, local, shared, until):
    """Go on without a record."""

    def body(k, carry):
        local, shared = carry
        return e.one_round(executor, rules, local, shared, k)[:2]

    local, shared = jax.lax.fori_loop(shared.round, until, body, (local, shared))
    return local, eqx.tree_at(lambda s: s.round, shared, until)
