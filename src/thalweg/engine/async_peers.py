"""The program of peers without rounds: one event after another, in an order that stands before.

An event touches one agent: its row is read, its role computed, and the row written back, whatever the number of agents.

Axes: `n` agents, `t` places for messages under way, and one for those that nobody hears.
"""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from .event_plan import Window
from .keys import Role
from .loop import Program, Rules, Shared
from .metrics import AgreementGauge, PeerGauge, estimates
from .peer_round import Agents, Experiment, as_agents
from .peers import Local, Row, belongings, looked


class AsyncAgents(Agents):
    """As `Agents`, with how often each has woken."""

    wakes: Int[Array, " n"]


class EventRun(Shared):
    """As `Shared`, with the messages under way, leaves `[t + 1, ...]`."""

    flight: Any


class AsyncPeers(Experiment, Program):
    """Neighbours, no centre, no rounds; `window` has the events at hand, `places` how many messages can be under way."""

    window: Window | None = None
    places: int = eqx.field(static=True, default=0)
    gauge: PeerGauge = eqx.field(default_factory=AgreementGauge)

    by_hand: ClassVar[bool] = False

    @property
    def n(self) -> int:
        return self.world.ids.shape[0]

    def begin(self, executor, rules: Rules, earlier: None = None) -> tuple[Local, EventRun]:
        state, nobody = first_states(executor, self), jnp.zeros(self.n, jnp.uint32)
        agents = AsyncAgents(state, link={}, mail={}, channel=(), sent=nobody, lies={}, wakes=nobody.astype(jnp.int32))
        message = jax.eval_shape(lambda: woken(executor, self.alone(0), *_row((state, agents.wakes), 0))[1])
        flight = jax.tree.map(lambda leaf: jnp.zeros((self.places + 1, *leaf.shape[1:]), leaf.dtype), message)
        no, zero = jnp.asarray(False), jnp.asarray(0, jnp.int32)
        return Local(agents, self.gauge.watched(executor, self, agents), ()), EventRun(zero, zero, zero, no, no, flight=flight)

    def alone(self, i) -> "AsyncPeers":
        """The program of agent `i` by itself: every leaf that belongs to agents has its row alone."""
        mine = self.belongs_to_agents()
        return jax.tree.map(lambda leaf, each: _row(leaf, i) if each else leaf, self, mine)

    def one_round(self, executor, rules: Rules, local: Local, shared: EventRun, k) -> tuple[Local, EventRun, Any]:
        assert self.window is not None
        at = k - self.window.first
        agents = local.agents
        carry = (agents.state, agents.wakes, shared.flight)
        event = lambda i, carry: self._event(executor, i, *carry)
        state, wakes, flight = jax.lax.fori_loop(self.window.starts[at], self.window.starts[at + 1], event, carry)
        sent = wakes.astype(jnp.uint32) * self.world.out_degree[:, 0].astype(jnp.uint32)
        pick = lambda a: (a.state, a.wakes, a.sent)
        agents = eqx.tree_at(pick, agents, (state, wakes, sent))
        return dataclasses.replace(local, agents=agents), eqx.tree_at(lambda s: s.flight, shared, flight), {}

    def _event(self, executor, i, state, wakes, flight):
        """Event `i` of the window."""
        window = self.window
        agent, slot, place = window.agent[i], window.slot[i], window.place[i]
        own, count, letter = _row(state, agent), _row(wakes, agent), _row(flight, place)

        def wake():
            return woken(executor, self.alone(agent), own, count)

        def hear():
            entry = self.world.reverse[agent, slot]
            message = entries(self.algorithm, letter, entry)
            return heard(executor, self.alone(agent), own, message, slot[None], count), letter

        wakes_now = slot < 0
        own, letter = jax.lax.cond(wakes_now, wake, hear)
        # What is heard stays where it is, until its place is taken.
        put = lambda tree, row, at: jax.tree.map(lambda leaf, new: leaf.at[at].set(new[0]), tree, row)
        return (
            put(state, own, agent),
            wakes.at[agent].add(wakes_now.astype(wakes.dtype)),
            put(flight, letter, place),
        )

    def no_report(self, executor, rules: Rules, local: Local, shared: EventRun) -> dict[str, Array]:
        return {}

    def record(self, executor, rules: Rules, local: Local, shared: EventRun, report) -> tuple[Local, EventRun, Row]:
        return looked(executor, self, rules, local, shared, report)

    def estimates(self, executor, local: Local, shared: EventRun) -> Float[Array, "n d"]:
        return estimates(executor, self, local.agents)

    def belongs_to_agents(self) -> "AsyncPeers":
        """Data, slots, per-agent hyper-parameters."""
        return belongings(self)


def first_states(executor, e: Experiment) -> Any:
    """States of these agents before they first wake."""
    x0 = e.problem.x0
    return as_agents(executor, e, "init", lambda a, local, c: a.init(local, x0, c))


def woken(executor, e: Experiment, state: Any, wakes: Int[Array, " 1"]) -> tuple[Any, Any]:
    """(state, message) of the one agent of `e` at its wake number `wakes`; leaves have a leading axis of 1."""
    return as_agents(executor, e, "wake", lambda a, local, c, own: a.wake(local, own, c), state, k=wakes[0], role=Role.SEND)


def heard(executor, e: Experiment, state: Any, message: Any, slot: Int[Array, " 1"], wakes: Int[Array, " 1"]) -> Any:
    """The state of the one agent of `e` after the neighbour in `slot` was heard."""
    hear = lambda a, local, c, own, message, slot: a.on_message(local, own, message, slot, c)
    return as_agents(executor, e, "on_message", hear, state, message, slot, k=wakes[0], role=Role.RECEIVE)


def entries(algorithm: Any, message: Any, slot: Any) -> Any:
    """What the neighbour in the sender's `slot` hears of its message; leaves have a leading axis of 1."""
    mine = lambda leaf: leaf[:, slot]
    return {name: jax.tree.map(mine, leaf) if name in algorithm.per_neighbour else leaf for name, leaf in message.items()}


def _row(tree: Any, i: Any) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, i, 1), tree)
