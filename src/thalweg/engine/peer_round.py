"""One round of a peer algorithm: the order of things, once, for every engine.

    weather → send → encode → exchange → combine → receive        (for each phase of the algorithm)

The executor decides how a role of one agent becomes a computation for all: vectorised, sharded, or one by one.
"""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray, UInt32

from thalweg.adversary import Adversary
from thalweg.algorithm.asynchronous.base import AsynchronousAlgorithm
from thalweg.algorithm.base import Context, Info, PeerAlgorithm
from thalweg.algorithm.step import PerAgent
from thalweg.message.aggregate import Mixer
from thalweg.message.combine import Edges, Mix, Neighbours, Push
from thalweg.message.flow import Flow
from thalweg.message.stage import Stage
from thalweg.problem import Coupled, Problem

from .aggregation import first_lies, written
from .combining import WEIGHTED, combine_field, gather_slots
from .epoch import Earlier, enter
from .keys import Role, Stream, agent_keys, round_key
from .mailbox import Mailbox, deliver, empty_mailbox
from .weather import Conditions, conditions
from .world import Setting, World, of_phase


class Experiment(eqx.Module):
    """Everything about a run that does not change from round to round."""

    problem: Problem | Coupled
    algorithm: PeerAlgorithm | AsynchronousAlgorithm
    link: Stage
    mixer: Mixer | None
    adversary: Adversary | None
    world: World
    setting: Setting
    key: PRNGKeyArray
    secret: PRNGKeyArray | None = eqx.field(default=None, kw_only=True)

    def source(self, stream: Stream) -> PRNGKeyArray:
        """What a stream's keys are derived from; `secret` is a site's own secret randomness, None in a simulation."""
        return self.secret if stream is Stream.SECRET and self.secret is not None else self.key


class Agents(eqx.Module):
    """All agents' records, agent axis first: algorithm state, pipeline state, mailboxes, channels, messages sent.

    `sent` counts one message per link and round, all phases of the round together. `lies` is what an adversary remembers of each.
    """

    state: Any
    link: Any
    mail: dict[str, Mailbox]
    channel: Any
    sent: UInt32[Array, " n"]
    lies: dict[str, Any]


def init_agents(executor, e: Experiment, channel, earlier: Earlier | None = None) -> Agents:
    """Records before round 0; in a new epoch, of agents that bring what they have of an `earlier` one."""
    x0 = e.problem.x0
    if earlier is None:
        state = _role(executor, e, "init", 0, "", Role.INIT, None, lambda a, local, c: a.init(local, x0, c))
    else:
        again = lambda a, local, c, stays, state: enter(a, local, x0, c, stays, state)
        state = _role(executor, e, "restart", 0, "", Role.RESTART, None, again, earlier.stays, earlier.state)
    return Agents(
        state=state,
        link=_init_link(e, state),
        mail=_init_mail(e, state),
        channel=channel,
        sent=jnp.zeros(e.world.ids.shape, jnp.uint32),
        lies={
            phase: first_lies(e.adversary, len(e.world.ids), _split(e, spec)[0])
            for phase, spec in message_specs(e, state).items()
        },
    )


class Gone(eqx.Module):
    """A phase of a round between sending and receiving.

    Attributes:
        channel, weather: of this exchange.
        link, lies: states of pipelines and of the adversary, after sending.
        sent: every agent's message, as its neighbours decode it.
        wire: (what goes to all neighbours alike, what goes to each slot by itself), as pipelines write it.
    """

    channel: Any
    weather: Conditions
    link: Any
    lies: Any
    sent: Any
    wire: tuple[Any, Any]


def peer_round(executor, e: Experiment, agents: Agents, k) -> tuple[Agents, Info]:
    """Round `k` of every agent."""
    info = None
    for index in range(len(e.algorithm.phases)):
        gone = depart(executor, e, agents, k, index)
        executor.post(*gone.wire)
        agents, info = arrive(executor, e, agents, gone, k, index, lambda sent: from_neighbours(executor, e, sent))
    return agents, info


def from_neighbours(executor, e: Experiment, tree: Any) -> Any:
    """What these agents send → the same of all that `e.world.neighbours` points to."""
    route = e.world.route
    return executor.everyone(tree) if route is None else route.heard(tree, executor.axis)


def depart(executor, e: Experiment, agents: Agents, k, index: int) -> Gone:
    """Phase `index` of round `k` up to where messages are on their way."""
    phase = e.algorithm.phases[index]
    channel, weather = conditions(e.key, e.setting, e.world, k, index, agents.channel)
    send = lambda a, local, c, state: a.send(state, c)
    message = _role(executor, e, "send", (k, index), phase, Role.SEND, weather, send, agents.state)
    link, wire, sent = _encode(executor, e, (k, index), message, agents.link[phase])
    lies = agents.lies[phase]
    if e.adversary is not None:
        lies, sent = _forged(executor, e, (k, index), lies, sent, weather)
    return Gone(channel, weather, link, lies, sent, wire)


def arrive(executor, e: Experiment, agents: Agents, gone: Gone, k, index: int, hear) -> tuple[Agents, Info]:
    """The rest of the phase. `hear` takes what these agents sent, and gives the same of all that `e.world.neighbours` points to."""
    phase, weather = e.algorithm.phases[index], gone.weather
    mail, inbox = _exchange(executor, e, agents.mail, gone.sent, weather, k, hear)
    receive = lambda a, local, c, state, inbox, sent: a.receive(local, state, inbox, replace(c, sent=sent))
    state, info = _role(
        executor, e, "receive", (k, index), phase, Role.RECEIVE, weather, receive, agents.state, inbox, gone.sent
    )
    link = gone.link
    if e.setting.sleepy:
        state, link = _keep(weather.awake, (state, link), (agents.state, agents.link[phase]))
    agents = Agents(
        state=state,
        link={**agents.link, phase: link},
        mail=mail,
        channel=gone.channel,
        sent=agents.sent + (_transmissions(e, weather) if index == 0 else jnp.uint32(0)),
        lies={**agents.lies, phase: gone.lies},
    )
    return agents, info


def as_agents(executor, e: Experiment, name: str, function, *args, k=0, role: Role = Role.INIT) -> Any:
    """`function(algorithm, local, context, *args)` as every agent, outside a round."""
    return _role(executor, e, name, k, "", role, None, function, *args)


def message_specs(e: Experiment, state: Any) -> dict[str, Any]:
    """phase → message of one agent, as shapes."""
    context = _context(e, 0, "", Role.SEND, None)
    one = jax.tree.map(lambda leaf: leaf.values[0] if _is_per_agent(leaf) else leaf, e.algorithm, is_leaf=_is_per_agent)
    return {
        phase: jax.eval_shape(
            lambda state, c, phase=phase: one.send(_first(state), replace(_first(c), phase=phase)), state, context
        )
        for phase in e.algorithm.phases
    }


def wire_specs(e: Experiment, messages: dict[str, Any]) -> dict[str, Any]:
    """phase → what the pipeline puts on the wire of one link for one message, as shapes."""
    encode = lambda message: e.link.encode(e.link.init(message), message, e.key)[1]
    return {
        phase: [jax.eval_shape(encode, part) for part in _for_one_link(e, message) if part]
        for phase, message in messages.items()
    }


def _role(executor, e: Experiment, name, when, phase, role, weather, function, *args):
    """Run `function(algorithm, local, context, *args)` as every agent."""
    context = _context(e, when, phase, role, weather)
    skeleton = eqx.tree_at(lambda p: p.pieces, e.problem, None)
    own = eqx.filter(e.algorithm, _is_per_agent, is_leaf=_is_per_agent)
    own = jax.tree.map(lambda leaf: leaf.values, own, is_leaf=_is_per_agent)
    shared = eqx.filter(e.algorithm, _is_per_agent, inverse=True, is_leaf=_is_per_agent)
    common, static = eqx.partition((skeleton, shared), eqx.is_array)

    def one(common, own, piece, context, *rest):
        problem, algorithm = eqx.combine(common, static)
        local = problem.at(context.round).local(piece)
        return function(eqx.combine(own, algorithm), local, context, *rest)

    axes = (None, 0, 0, 0) + (0,) * len(args)
    return executor.role(f"{name} {phase}".strip(), one, common, own, e.problem.pieces, context, *args, axes=axes)


def _is_per_agent(leaf) -> bool:
    return isinstance(leaf, PerAgent)


def _context(e: Experiment, when, phase: str, role: Role, weather: Conditions | None) -> Context:
    k, index = when if isinstance(when, tuple) else (when, 0)
    world, n = e.world, e.world.ids.shape[0]
    row = 0 if weather is None else weather.phase
    weights = world.weights.get("mixing")
    if weights is None:
        weights = next(iter(world.weights.values()), jnp.zeros((n, 1, world.mask.shape[1])))
        own = next(iter(world.self_weights.values()), jnp.ones((n, 1)))
    else:
        own = world.self_weights["mixing"]
    return Context(
        key=agent_keys(e.key, Stream.ALGORITHM, k, index, world.ids, role),
        round=jnp.broadcast_to(jnp.asarray(k, jnp.int32), (n,)),
        degree=world.degree,
        out_degree=of_phase(world.out_degree, row),
        mask=world.mask,
        weights=of_phase(weights, row),
        self_weight=of_phase(own, row),
        awake=jnp.ones(n, bool) if weather is None else weather.awake,
        sent=None,
        phase=phase,
    )


def _encode(executor, e: Experiment, when, message, link):
    """(pipeline states, wires, message as receivers decode it). What differs between neighbours is encoded for each by itself."""
    stream = Stream.SECRET if e.link.after(Flow()).noise else Stream.MESSAGE
    keys = agent_keys(e.source(stream), stream, *when, e.world.ids, Role.ENCODE)

    def encode(key, neighbours, states, message):
        common, each = _split(e, message)
        of_each, wires, decoded = states[1], (), {}
        if each:
            own = jax.vmap(lambda i: jax.random.fold_in(key, i))(neighbours)
            of_each, wires, decoded = jax.vmap(e.link.encode)(of_each, each, own)
        of_common, wire, sent = e.link.encode(states[0], common, key) if common else (states[0], (), {})
        return (of_common, of_each), (wire, wires), sent | decoded

    return executor.role("encode", encode, keys, e.world.neighbour_ids, link, message, axes=(0, 0, 0, 0))


def _forged(executor, e: Experiment, when, memory, sent, weather: Conditions):
    """(the adversary's memory, `sent` with what it writes in place of some agents' messages, the same to all neighbours)."""
    common, each = _split(e, sent)
    key = jax.random.fold_in(round_key(e.key, Stream.ADVERSARY, *when), Role.ENCODE)
    memory, common, awake = executor.everyone((memory, common, weather.awake))
    bad = jnp.zeros(awake.shape, bool).at[jnp.asarray(e.adversary.agents)].set(True) & awake
    places, k = jnp.arange(len(awake), dtype=jnp.int32), jnp.asarray(when[0], jnp.int32)
    memory, common = executor.network_role("forge", written, e.adversary, memory, common, bad, awake, places, key, k)
    return executor.share(memory), executor.share(common) | each


def _split(e: Experiment, message):
    """(fields that go to all neighbours alike, fields with one entry per neighbour)."""
    each = {field: leaf for field, leaf in message.items() if isinstance(e.algorithm.combine[field], Edges)}
    return {field: leaf for field, leaf in message.items() if field not in each}, each


def _for_one_link(e: Experiment, spec):
    """The two parts of a message as one neighbour gets them."""
    common, each = _split(e, spec)
    return common, jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), each)


def _exchange(executor, e: Experiment, mail, sent, weather: Conditions, k, hear):
    """Route every field to its receivers and combine it there."""
    world, changing = e.world, not e.setting.constant
    mail, inbox = dict(mail), {}
    kinds = {field: WEIGHTED.get(type(e.algorithm.combine[field])) for field in sent}
    sent = sent | executor.settle({field: own for field, own in sent.items() if kinds[field] not in world.dense})
    heard = hear(sent)
    for field, own in sent.items():
        rule, kind = e.algorithm.combine[field], kinds[field]
        if kind in world.dense:
            inbox[field] = jax.tree.map(lambda leaf, kind=kind: _dense(world.dense[kind], leaf), heard[field])
            continue
        shared = {"arrived": weather.arrived}
        if kind:
            shared["weights"] = of_phase(world.weights[kind], weather.phase)
            shared["self_weight"] = of_phase(world.self_weights[kind], weather.phase)
        values, shared["fresh"], shared["stamped"] = _slots(executor, e, mail, field, rule, heard[field], shared, weather, k)

        def one(own, values, shared, rule=rule):
            return combine_field(rule, own, values, {**shared, "changing": changing}, e.mixer if type(rule) is Mix else None)

        inbox[field] = executor.role(f"combine {field!r}", one, own, values, shared, axes=(0, 0, 0))
    return mail, inbox


def _slots(executor, e: Experiment, mail, field, rule, everyone, shared, weather, k):
    """(what is in each agent's slots, fresh, ever stamped) for one field; updates the field's mailbox in `mail`."""
    world = e.world
    if isinstance(rule, Edges):
        offered = jax.tree.map(lambda leaf: leaf[world.neighbours, world.reverse], everyone)
    elif field in mail:
        offered = jax.tree.map(lambda leaf: leaf[world.neighbours], everyone)
    else:
        values = jax.tree.map(lambda leaf: gather_slots(leaf, world.neighbours), everyone)
        return values, weather.arrived, weather.arrived
    if field not in mail:
        return offered, weather.arrived, weather.arrived
    box = mail[field]
    if isinstance(rule, Push):
        given = jnp.where(weather.scheduled, shared["weights"], 0)
        add = lambda given, total, leaf: jax.tree.map(lambda t, v: t + _times(given, v), total, leaf)
        offered = executor.role(f"running sum {field!r}", add, given, box.total, offered, axes=(0, 0, 0))
        box = eqx.tree_at(lambda b: b.total, box, offered)
    seen = box.newest
    mail[field], fresh, newest = deliver(box, offered, weather, k)
    if isinstance(rule, Push):
        newest = jax.tree.map(lambda new, old: _where(fresh, new - old, jnp.zeros_like(new)), newest, seen)
    return newest, fresh, mail[field].stamp >= 0


def _init_link(e: Experiment, state):
    """phase → (state of the pipeline for what goes to all neighbours, one per slot for what differs)."""
    n, slots = e.world.mask.shape

    def copies(spec, *lead):
        return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*lead, *jnp.shape(leaf))), e.link.init(spec) if spec else ())

    parts = {phase: _for_one_link(e, spec) for phase, spec in message_specs(e, state).items()}
    return {phase: (copies(common, n), copies(each, n, slots)) for phase, (common, each) in parts.items()}


def _init_mail(e: Experiment, state) -> dict[str, Mailbox]:
    """Mailboxes for the fields whose messages can outlive their round."""
    if e.setting.constant:
        return {}
    boxes, (n, slots) = {}, e.world.mask.shape
    for spec in message_specs(e, state).values():
        for field, leaf in spec.items():
            rule = e.algorithm.combine[field]
            if isinstance(rule, Edges):
                leaf = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape[1:], s.dtype), leaf)
            if isinstance(rule, Edges | Neighbours | Push):
                boxes[field] = empty_mailbox(leaf, n, slots, e.setting.longest_delay, isinstance(rule, Push))
    return boxes


def _transmissions(e: Experiment, weather: Conditions):
    """Messages that each agent puts on its links (lost ones included)."""
    if e.setting.schedule == "gossip":
        out = jnp.sum(weather.used, axis=1)
    else:
        out = of_phase(e.world.out_degree, weather.phase)
    return jnp.where(weather.awake, out, 0).astype(jnp.uint32)


def _dense(matrix, leaf):
    flat = leaf.reshape(leaf.shape[0], -1)
    return (matrix @ flat).reshape(matrix.shape[0], *leaf.shape[1:])


def _times(weights, leaf):
    return weights.astype(leaf.dtype).reshape(weights.shape + (1,) * (leaf.ndim - weights.ndim)) * leaf


def _keep(awake, new, old):
    return jax.tree.map(lambda a, b: _where(awake, a, b), new, old)


def _where(mask, new, old):
    return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - mask.ndim)), new, old)


def _first(tree):
    return jax.tree.map(lambda leaf: leaf[0], tree)
