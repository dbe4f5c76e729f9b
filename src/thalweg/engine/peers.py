"""The program of peers: rounds, records and stop rule of agents that talk to their neighbours."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from thalweg.algorithm.step import PerAgent

from .epoch import Earlier
from .loop import Program, Rules, Shared
from .metrics import AgreementGauge, PeerGauge, estimates
from .peer_round import Agents, Experiment, from_neighbours, init_agents, peer_round
from .stop import Flags, exchange_flags, first_flags, told
from .weather import conditions, first_weather


class Local(eqx.Module):
    """What belongs to the agents; every leaf has the agent axis first. `previous`: what was watched at the last record."""

    agents: Agents
    previous: Float[Array, "n d"]
    flags: Flags | tuple[()]

    @property
    def sent(self) -> UInt32[Array, " n"]:
        """Messages so far."""
        return self.agents.sent


class Row(eqx.Module):
    """One record: round, snapshot, messages sent so far, reported infos."""

    round: Int[Array, ""]
    snapshot: Any
    sent: UInt32[Array, " n"]
    report: Any


class Peers(Experiment, Program):
    """Neighbours, no centre; `gauge` is what records measure."""

    gauge: PeerGauge = eqx.field(default_factory=AgreementGauge)

    @property
    def n(self) -> int:
        return self.world.ids.shape[0]

    def begin(self, executor, rules: Rules, earlier: Earlier | None = None) -> tuple[Local, Shared]:
        agents = init_agents(executor, self, first_weather(self.key, self.setting, self.world), earlier)
        x = self.gauge.watched(executor, self, agents)
        flags = first_flags(x) if rules.stop is not None and rules.stop.distributed else ()
        no, zero = jnp.asarray(False), jnp.asarray(0, jnp.int32)
        return Local(agents, x, flags), Shared(zero, zero, zero, no, no)

    def one_round(self, executor, rules: Rules, local: Local, shared: Shared, k) -> tuple[Local, Shared, Any]:
        """One round, with the distributed stop rule beside it."""
        agents, info = peer_round(executor, self, local.agents, k)
        headers = from_neighbours(executor, self, told(local.flags)) if isinstance(local.flags, Flags) else ()
        agents, flags = self.agree(executor, rules, local, agents, headers, k)
        return Local(agents, local.previous, flags), shared, reported(executor, rules, info)

    def agree(self, executor, rules: Rules, local: Local, agents: Agents, headers, k) -> tuple[Agents, Any]:
        """(agents, flags) at the end of round `k`, whose `headers` came with its first messages; `local` is from before it."""
        flags = local.flags
        if not isinstance(flags, Flags):
            return agents, flags
        # An agent that has stopped keeps its answer and goes on handing the news to its neighbours.
        agents = eqx.tree_at(lambda a: a.state, agents, _keep(flags.done, local.agents.state, agents.state))
        _, weather = conditions(self.key, self.setting, self.world, k, 0, local.agents.channel)
        x = estimates(executor, self, agents)
        return agents, exchange_flags(executor, rules.stop, self.key, self.world, flags, headers, weather, x, k)

    def no_report(self, executor, rules: Rules, local: Local, shared: Shared) -> dict[str, Array]:
        """NaN, or zero where it is no float."""
        if not rules.report:
            return {}
        first = jnp.asarray(0, jnp.int32)
        shapes = jax.eval_shape(lambda: self.one_round(executor.shapes, rules, local, shared, first)[2])
        value = lambda s: jnp.nan if jnp.issubdtype(s.dtype, jnp.inexact) else 0
        return jax.tree.map(lambda s: jnp.full(s.shape, value(s), s.dtype), shapes)

    def record(self, executor, rules: Rules, local: Local, shared: Shared, report) -> tuple[Local, Shared, Row]:
        return looked(executor, self, rules, local, shared, report)

    def estimates(self, executor, local: Local, shared: Shared) -> Float[Array, "n d"]:
        return estimates(executor, self, local.agents)

    def all_done(self, executor, local: Local):
        """Only under the distributed rule."""
        return jnp.all(executor.everyone(local.flags.done)) if isinstance(local.flags, Flags) else jnp.asarray(False)

    def belongs_to_agents(self) -> "Peers":
        """Data, slots, per-agent hyper-parameters."""
        return belongings(self)


def belongings(e: Any) -> Any:
    """Of a program of peers, what belongs to agents, as `Program.belongs_to_agents`."""
    no = lambda tree: jax.tree.map(lambda _: False, tree)
    yes = lambda tree: jax.tree.map(lambda _: True, tree)
    per_agent = lambda leaf: isinstance(leaf, PerAgent)
    algorithm = jax.tree.map(lambda leaf: yes(leaf) if per_agent(leaf) else False, e.algorithm, is_leaf=per_agent)
    parts = lambda m: (m.problem.pieces, m.world, m.algorithm)
    return eqx.tree_at(parts, no(e), (yes(e.problem.pieces), yes(e.world), algorithm))


def looked(executor, e: Any, rules: Rules, local: Local, shared: Any, report) -> tuple[Local, Any, Row]:
    """(local, shared, row) after measuring at `shared.round`, as `Program.record`."""
    k = shared.round
    regular = k % rules.every == 0
    snapshot, x = e.gauge.measure(executor, e, local.agents, k, local.previous, k - shared.recorded, rules.target(k))
    calm, done = shared.calm, shared.done
    if isinstance(local.flags, Flags):
        done = e.all_done(executor, local)
    elif rules.stop is not None:
        calm = jnp.where(regular, jnp.where(e.gauge.settled(rules.stop, snapshot), calm + 1, 0), calm)
        done = calm >= rules.stop.patience
    broken = ~jnp.all(snapshot.finite) | ~jnp.isfinite(snapshot.objective) | ~(snapshot.scale <= rules.limit)
    previous, recorded = jnp.where(regular, x, local.previous), jnp.where(regular, k, shared.recorded)
    kept = snapshot if rules.keep_agents else snapshot.trimmed()
    row = Row(k, kept, executor.everyone(local.agents.sent), report)
    pick = lambda s: (s.recorded, s.calm, s.done, s.broken)
    return Local(local.agents, previous, local.flags), eqx.tree_at(pick, shared, (recorded, calm, done & ~broken, broken)), row


def reported(executor, rules: Rules, info) -> dict[str, Array]:
    """The fields of `info` that the experiment reports.

    Raises:
        ValueError: the algorithm's info has no such field.
    """
    known = [field.name for field in dataclasses.fields(info)]
    for name in rules.report:
        if name not in known:
            raise ValueError(f"solve: got report={name!r}, expected one of {', '.join(known)}, what agents learn in a round")
    return {name: executor.everyone(getattr(info, name)) for name in rules.report}


def _keep(mask, kept, new):
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), kept, new)
