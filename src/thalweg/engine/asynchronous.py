"""The program of a server that does not wait: clients finish when they finish, on a virtual clock.

A client starts from the model of the moment, and its message arrives after the time that its device needs. The server
collects `buffer` messages, combines them as in a round, each weighted by its staleness, and updates: a "round" is one update.
At any instant the server takes everything that arrives then, in order of id, and then gives new work to all who have none.

Axes: `n` registered clients, `t` places for messages that are being made or wait.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from thalweg.algorithm.server.base import ClientInfo
from thalweg.cohort import Draw

from .keys import Role, Stream, round_key
from .loop import Rules
from .pace import Pace, communication
from .server import Clients, Run, ServerProgram, begin_together
from .server_round import Vitals, absorb, average, broadcast, respond, wire_bytes

FREE, WORKING, WAITING = 0, 1, 2


class Flight(eqx.Module):
    """What is under way; every leaf has the axis `t`.

    Attributes:
        status: free, working, or waiting in the server's buffer.
        member: the client; version: of the model that it received; due: when its message arrives; lost: whether it never does.
        message, record, info: what it will have sent, be and have learnt.
    """

    status: Int[Array, " t"]
    member: Int[Array, " t"]
    version: Int[Array, " t"]
    due: Float[Array, " t"]
    lost: Bool[Array, " t"]
    message: Any
    record: Any
    info: ClientInfo


class AsyncRun(Run):
    """As `Run`, with what is under way, who is `idle` `[n]`, and how often each client has `started` `[n]`.

    `taking`: whether the server is at taking what arrives (else at giving work).
    """

    flight: Flight
    taking: Bool[Array, ""]
    idle: Bool[Array, " n"]
    started: Int[Array, " n"]


class AsyncServer(ServerProgram):
    """A server that updates after every `buffer` messages; the cohort's size is how many clients work at a time.

    A message of staleness τ (updates since its model was sent) counts with the weight (1 + τ)^−`staleness`.
    """

    buffer: int = eqx.field(static=True, default=1)
    staleness: Float[Array, ""] = eqx.field(default_factory=lambda: jnp.asarray(0.0))

    def begin(self, executor, rules: Rules, earlier: None = None):
        clients, run = begin_together(executor, self)
        records, central = clients.records, run.central
        n, places = self.n, self.slots + self.buffer
        nobody = jnp.zeros(1, jnp.int32)
        start = lambda: self._work(executor, records, central, nobody, nobody, jnp.asarray(0, jnp.int32))
        message, record, info = jax.tree.map(lambda s: jnp.zeros((places, *s.shape[1:]), s.dtype), jax.eval_shape(start)[:3])
        zero = lambda dtype: jnp.zeros(places, dtype)
        flight = Flight(zero(jnp.int32), zero(jnp.int32), zero(jnp.int32), zero(jnp.float32), zero(bool), message, record, info)
        fields = {name: getattr(run, name) for name in ("round", "recorded", "calm", "done", "broken", "central", "clock")}
        vitals = eqx.tree_at(lambda v: v.scalars, run.vitals, {**run.vitals.scalars, "staleness": jnp.asarray(jnp.nan)})
        vitals = eqx.tree_at(lambda v: v.scalars["staleness"], vitals, jnp.asarray(jnp.nan, self.problem.dtype))
        return clients, AsyncRun(
            **fields, previous=run.previous, vitals=vitals, flight=flight,
            taking=jnp.asarray(False), idle=jnp.ones(n, bool), started=jnp.zeros(n, jnp.int32),
        )  # fmt: skip

    def one_round(self, executor, rules: Rules, local: Clients, shared: AsyncRun, k):
        began = shared.clock
        shared = eqx.tree_at(lambda s: s.round, shared, k)

        def more(carry):
            return carry[1].round == k

        def event(carry):
            local, run = carry
            flight = run.flight
            working = flight.status == WORKING
            due = jnp.where(working, flight.due, jnp.inf)
            next_due = jnp.min(due)
            room = jnp.sum(working) < self.slots
            what = jnp.where(run.taking, jnp.where(next_due <= run.clock, 0, 1), jnp.where(room, 2, 3))
            wait = lambda run: eqx.tree_at(
                lambda r: (r.clock, r.taking), run, (jnp.maximum(run.clock, next_due), jnp.asarray(True))
            )
            branches = [
                lambda local, run: self._arrive(executor, local, run, due, k, began),
                lambda local, run: (local, eqx.tree_at(lambda r: r.taking, run, jnp.asarray(False))),
                lambda local, run: self._start(executor, local, run),
                lambda local, run: (local, wait(run)),
            ]
            return jax.lax.switch(what, branches, local, run)

        local, shared = jax.lax.while_loop(more, event, (local, shared))
        return local, shared, ()

    def _start(self, executor, local: Clients, run: AsyncRun):
        """Give work to one idle client."""
        member = next_idle(self, run.idle, jnp.sum(run.started))[None]
        message, record, info, seconds, lost = self._work(
            executor, local.records, run.central, member, run.started[member], run.round
        )
        place = jnp.argmin(jnp.where(run.flight.status == FREE, 0, 1))
        put = lambda table, row: jax.tree.map(lambda a, b: a.at[place].set(b[0]), table, row)
        flight = Flight(
            status=run.flight.status.at[place].set(WORKING),
            member=run.flight.member.at[place].set(member[0]),
            version=run.flight.version.at[place].set(run.round),
            due=run.flight.due.at[place].set(run.clock + seconds[0]),
            lost=run.flight.lost.at[place].set(lost[0]),
            message=put(run.flight.message, message),
            record=put(run.flight.record, record),
            info=put(run.flight.info, info),
        )
        idle, started = run.idle.at[member].set(False), run.started.at[member].add(1)
        one = jnp.uint32(1)
        clients = Clients(local.records, local.sent.at[member].add(one), local.received.at[member].add(one))
        return clients, eqx.tree_at(lambda r: (r.flight, r.idle, r.started), run, (flight, idle, started))

    def _work(self, executor, records, central, member, count, k):
        """(message, record, info, seconds, lost) of `member [1]`, who starts for the (count+1)-th time at version `k`."""
        ids = self.ids[member]
        own = executor.take(records, member)
        pieces = executor.pieces(self.problem, member)
        sizes = executor.once("bytes", lambda: wire_bytes(self, pieces, own[0], central.state))
        _, down = broadcast(executor, self, central, member, k, 0)
        # Keys by how often a client has started: with everybody in step this is the round.
        records, up, info = respond(executor, self, pieces, own, ids, down.heard, k, 0, count=count[0])
        seconds, lost = jnp.zeros(1, jnp.float32), jnp.zeros(1, bool)
        if self.fleet is not None:
            seconds = communication(self.fleet, member, sizes) + info.steps * self.fleet.seconds_per_step[member]
            key = jax.random.fold_in(round_key(self.key, Stream.SCHEDULE, count[0]), Role.DROP)
            draw = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(ids)
            lost = draw < self.fleet.dropout[member]
        return up.heard, records, info, seconds, lost

    def _arrive(self, executor, local: Clients, run: AsyncRun, due, k, began):
        """Take the message that is due first (of the lowest id among equals); update when the buffer is full."""
        flight = run.flight
        first = due <= jnp.min(due)
        place = jnp.argmin(jnp.where(first, self.ids[flight.member], jnp.iinfo(jnp.int32).max))
        member, lost = flight.member[place][None], flight.lost[place]
        row = jax.tree.map(lambda leaf: leaf[place][None], flight.record)
        records = executor.put(local.records, member, row, ~lost[None])
        status = flight.status.at[place].set(jnp.where(lost, FREE, WAITING))
        run = eqx.tree_at(lambda r: (r.flight.status, r.idle), run, (status, run.idle.at[member].set(True)))
        local = Clients(records, local.sent, local.received)
        full = jnp.sum(status == WAITING) >= self.buffer
        return jax.lax.cond(full, lambda run: (local, self._update(executor, run, k, began)), lambda run: (local, run), run)

    def _update(self, executor, run: AsyncRun, k, began) -> AsyncRun:
        """One update of the server, from what waits."""
        flight = run.flight
        waiting = flight.status == WAITING
        order = jnp.argsort(jnp.where(waiting, self.ids[flight.member], jnp.iinfo(jnp.int32).max))[: self.buffer]
        pick = lambda tree: jax.tree.map(lambda leaf: leaf[order], tree)
        members, info, present = flight.member[order], pick(flight.info), jnp.ones(self.buffer, bool)
        central, (draw, dispersion), scalars = self.updated(
            executor, run.central, pick(flight.message), members, flight.version[order], present, k
        )
        vitals = Vitals(*average(executor, self, info, draw, present, run.clock - began), dispersion, scalars)
        status = jnp.where(waiting, FREE, flight.status)
        return eqx.tree_at(lambda r: (r.central, r.flight.status, r.vitals, r.round), run, (central, status, vitals, k + 1))

    def updated(self, executor, central, messages, members, versions, present, k):
        """(central, (the draw that the messages stand for, dispersion), scalars) after update `k` with these messages, in order of
        id; `versions` are of the models that they were made from."""
        dtype = self.registry.weights.dtype
        draw = Draw(members, present, jnp.full(self.buffer, self.n / self.buffer, dtype))
        stale = (k - versions).astype(dtype)
        pace = Pace(present, jnp.ones(self.buffer, dtype), self.ids[members], members, True)
        scale = (1 + stale) ** -self.staleness.astype(dtype)
        central, dispersion, scalars = absorb(executor, self, central, messages, draw, present, pace, k, 0, scale)
        return central, (draw, dispersion), {**scalars, "staleness": jnp.mean(stale).astype(self.problem.dtype)}


def next_idle(e: AsyncServer, idle: Bool[Array, " n"], count) -> Int[Array, ""]:
    """Who of the idle clients is given work, when so many have been before."""
    key = jax.random.fold_in(round_key(e.key, Stream.SCHEDULE, count), Role.DRAW)
    nth = jax.random.randint(key, (), 0, jnp.sum(idle))
    return e.order[jnp.searchsorted(jnp.cumsum(idle[e.order]), nth + 1)]
