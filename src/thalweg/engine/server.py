"""The program of a server and its clients: rounds, records, stop rule.

Axes: `n` registered clients, `d` variables, `c` slots of the cohort.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from .aggregation import first_memories
from .keys import Role
from .loop import Program, Rules, Shared
from .server_metrics import Gauge, LearningGauge, answer, own_answers
from .server_round import (
    Central,
    Federation,
    Vitals,
    as_clients,
    client_context,
    first_memory,
    message_specs,
    server_round,
    wire_bytes,
)  # fmt: skip


class Clients(eqx.Module):
    """What belongs to the clients; every leaf has the client axis first.

    Attributes:
        records: (algorithm state, uplink pipeline's state of each phase), as committed.
        sent, received: `[n]` messages so far, one per round that a client took part in; lost uplinks included.
    """

    records: Any
    sent: UInt32[Array, " n"]
    received: UInt32[Array, " n"]


class Run(Shared):
    """What the run knows of itself, and the server's own.

    `clock` is simulated seconds on the fleet, `previous` the shared answer at the last record.
    """

    central: Central
    clock: Float[Array, ""]
    previous: Float[Array, " d"]
    vitals: Vitals


class ServerRow(eqx.Module):
    """One record."""

    round: Int[Array, ""]
    clock: Float[Array, ""]
    snapshot: Any
    evaluated: dict[str, Array]
    vitals: Vitals
    sent: UInt32[Array, "..."]
    received: UInt32[Array, "..."]


class Server(Federation, Program):
    """One server, many clients; `gauge` is what records measure."""

    gauge: Gauge = eqx.field(default_factory=lambda: LearningGauge({}))

    @property
    def n(self) -> int:
        return self.ids.shape[0]

    def begin(self, executor, rules: Rules, earlier: None = None) -> tuple[Clients, Run]:
        states = self.first_states(executor, self.problem.pieces, executor.share(self.ids))
        server = self.first_server(executor)
        memory = first_memory(executor, self)
        uplink, downlink, aggregate = self._pipelines(self.problem.pieces, states, server)
        return self._around(executor, rules, (states, uplink), Central(server, downlink, aggregate, memory))

    def first_states(self, executor, pieces, ids):
        """The algorithm's states of the clients `ids` before they were ever drawn."""
        context = client_context(self, ids, 0, 0, self.algorithm.phases[0], role=Role.INIT)
        init = lambda a, local, c, x0: a.init_client(local, x0, c)
        return as_clients(executor, self, "init", init, pieces, context, common=self.problem.x0)

    def first_server(self, executor):
        """The server's state before round 0."""
        shared, static = eqx.partition((self.algorithm, self.public), eqx.is_array)

        def init_server(shared, x0):
            algorithm, public = eqx.combine(shared, static)
            return algorithm.init_server(public, x0)

        return executor.network_role("init server", init_server, shared, self.problem.x0)

    def _around(self, executor, rules: Rules, records, central: Central) -> tuple[Clients, Run]:
        zero, no = jnp.asarray(0, jnp.int32), jnp.asarray(False)
        nothing = jnp.zeros(self._mine(), jnp.uint32)
        clients = Clients(records, nothing, nothing)
        x = answer(executor, self, central.state)
        clock = jnp.zeros((), jnp.float32)
        vitals = jax.eval_shape(lambda: server_round(executor.shapes, self, records, central, clock, zero)[2])
        vitals = jax.tree.map(_blank, vitals)
        return clients, Run(zero, zero, zero, no, no, central=central, clock=clock, previous=x, vitals=vitals)

    def one_round(self, executor, rules: Rules, local: Clients, shared: Run, k) -> tuple[Clients, Run, Any]:
        rows, central, vitals, drawn, contacted = server_round(executor, self, local.records, shared.central, shared.clock, k)
        records = executor.put(local.records, drawn.members, rows, drawn.valid, self.whole)
        once = executor.share(jnp.ones(drawn.members.shape, jnp.uint32))
        count = lambda total: executor.put(total, drawn.members, executor.take(total, drawn.members) + once, contacted)
        clients = Clients(records, count(local.sent), count(local.received))
        shared = eqx.tree_at(lambda s: (s.central, s.clock, s.vitals), shared, (central, shared.clock + vitals.seconds, vitals))
        return clients, shared, ()

    def no_report(self, executor, rules: Rules, local: Clients, shared: Run) -> tuple[()]:
        """How a round went is in `shared.vitals`."""
        return ()

    def record(self, executor, rules: Rules, local: Clients, shared: Run, report) -> tuple[Clients, Run, ServerRow]:
        k = shared.round
        regular = k % rules.every == 0
        x = answer(executor, self, shared.central.state)
        server, since = shared.central.state, k - shared.recorded
        snapshot = self.gauge.measure(executor, self, local.records, server, x, shared.previous, k, since, rules.target(k))
        calm, done = shared.calm, shared.done
        if rules.stop is not None:
            calm = jnp.where(regular, jnp.where(self.gauge.settled(rules.stop, snapshot), calm + 1, 0), calm)
            done = calm >= rules.stop.patience
        broken = ~jnp.all(snapshot.finite) | ~jnp.isfinite(snapshot.objective) | ~(snapshot.scale <= rules.limit)
        row = ServerRow(
            round=k,
            clock=shared.clock,
            snapshot=snapshot if rules.keep_agents else snapshot.trimmed(),
            evaluated=self.gauge.evaluate(executor, self, local.records, server),
            vitals=shared.vitals,
            sent=self._traffic(executor, rules, local.sent),
            received=self._traffic(executor, rules, local.received),
        )
        previous, recorded = jnp.where(regular, x, shared.previous), jnp.where(regular, k, shared.recorded)
        pick = lambda s: (s.recorded, s.calm, s.done, s.broken, s.previous)
        return local, eqx.tree_at(pick, shared, (recorded, calm, done & ~broken, broken, previous)), row

    def estimates(self, executor, local: Clients, shared: Run):
        """Every client's own answer where the method has them, else the shared one for all in one row."""
        if self.algorithm.handles & {"personal", "prices"}:
            return own_answers(executor, self, local.records, shared.central.state)
        return answer(executor, self, shared.central.state)[None]

    def shared_answer(self, executor, shared: Run) -> Float[Array, " d"]:
        """The server's answer as a row."""
        return answer(executor, self, shared.central.state)

    def belongs_to_agents(self) -> "Server":
        """Data; those of evaluations too."""
        marked = jax.tree.map(lambda _: False, self)
        yes = jax.tree.map(lambda _: True, self.problem.pieces)
        return eqx.tree_at(lambda m: (m.problem.pieces, m.gauge), marked, (yes, self.gauge.belongs_to_agents()))

    def bytes(self, executor, local: Clients, shared: Run) -> dict[str, int]:
        """Payload of one client's messages in one round: "up", "down"."""
        one = jnp.zeros(1, jnp.int32)
        state, _ = executor.take(local.records, one)
        return wire_bytes(self, executor.pieces(self.problem, one), state, shared.central.state)

    def _mine(self) -> int:
        """Number of clients whose records are here."""
        return self.n if self.problem.pieces is None else jax.tree.leaves(self.problem.pieces)[0].shape[0]

    def _traffic(self, executor, rules: Rules, messages):
        everyone = executor.everyone(messages)
        return everyone if rules.keep_agents else jnp.sum(everyone, dtype=jnp.uint32)[None]

    def _pipelines(self, pieces, states, server) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """phase → (uplink state of every client, downlink state, what aggregator and adversary remember)."""
        n, up, down, memory = jax.tree.leaves(pieces)[0].shape[0], {}, {}, {}
        for phase in self.algorithm.phases:
            received, _, sent = message_specs(self, pieces, states, server, phase)
            one = self.uplink.init(sent)
            up[phase] = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *jnp.shape(leaf))), one)
            down[phase] = self.downlink.init(received)
            memory[phase] = first_memories(self, sent)
        return up, down, memory


def _blank(shape):
    value = jnp.nan if jnp.issubdtype(shape.dtype, jnp.inexact) else 0
    return jnp.full(shape.shape, value, shape.dtype)
