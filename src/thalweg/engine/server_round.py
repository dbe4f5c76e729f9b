"""One round of a server algorithm: the order of things, once, for every engine.

    draw → broadcast → work → encode → arrive → combine → update → commit        (broadcast … update for each phase)

A client's new record is kept if and only if its message was accepted.

Axes: `n` registered clients, `c` slots of the cohort.
"""

from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from thalweg.adversary import Adversary
from thalweg.algorithm.server.base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from thalweg.algorithm.server.base import Shared as PublicPart
from thalweg.cohort import Cohort, Draw, Everyone, Registry
from thalweg.fleet import Fleet
from thalweg.message.aggregate import Aggregator
from thalweg.message.combine import PerClient, PerRow
from thalweg.message.flow import Flow
from thalweg.message.payload import payload_bytes
from thalweg.message.stage import Identity, Stage
from thalweg.problem.coupling import gathered
from thalweg.problem.scattered import Scattered

from .aggregation import accepted, combine, opened
from .keys import Role, Stream, agent_keys, round_key
from .pace import Pace, arrivals, budgets


class Federation(eqx.Module):
    """Everything about a run under a server that does not change from round to round.

    `problem` has unscaled clients (every local is f_i); `order` `[n]` are the clients' positions by id, which is how cohorts are
    drawn, and `ranks` its inverse; `watched` `[s]` are the clients that records measure, None for all; `slots` is the cohort's c,
    a multiple of the number of devices; with `unroll` clients unroll their loops over local steps; `in_order`: ids increase.
    `secret` is the key of a site's own secret randomness, None in a simulation.
    """

    problem: Scattered
    algorithm: ServerAlgorithm
    cohort: Cohort
    registry: Registry
    public: PublicPart
    uplink: Stage
    downlink: Stage
    aggregate: Aggregator | None
    adversary: Adversary | None
    fleet: Fleet | None
    ids: Int[Array, " n"]
    order: Int[Array, " n"]
    ranks: Int[Array, " n"]
    key: PRNGKeyArray
    watched: Int[Array, " s"] | None
    slots: int = eqx.field(static=True)
    unroll: bool = eqx.field(static=True, default=False)
    in_order: bool = eqx.field(static=True, default=False)
    secret: PRNGKeyArray | None = None

    def source(self, stream: Stream) -> PRNGKeyArray:
        """What a stream's keys are derived from."""
        return self.secret if stream is Stream.SECRET and self.secret is not None else self.key

    @property
    def whole(self) -> bool:
        """Whether the cohort is everybody, as they stand: then nothing needs to be gathered, or scattered back."""
        return isinstance(self.cohort, Everyone) and self.in_order and self.slots == self.ids.shape[0]

    @property
    def secrecy(self) -> Stream:
        """Where the randomness of clients' pipelines comes from."""
        return Stream.SECRET if self.uplink.after(Flow()).noise else Stream.MESSAGE

    @property
    def stream(self) -> Stream:
        """Where clients' own randomness comes from."""
        return Stream.SECRET if getattr(getattr(self.algorithm, "solver", None), "secret", False) else Stream.ALGORITHM

    @property
    def drawing(self) -> Stream:
        """Where cohorts come from; privacy that is amplified by sampling hides who was drawn."""
        private = self.aggregate is not None and bool(self.aggregate.after(Flow()).noise)
        return Stream.SECRET if private else Stream.SCHEDULE

    def population(self, executor, records) -> tuple[Any, Any, Array, Array]:
        """(pieces, records, ids, weights summing to one) of the clients that records of the run measure; liars weigh nothing."""
        weights = self.registry.weights
        if self.watched is not None or self.honest is not None:
            weights = executor.network_role("population", _shares, weights, self.honest, self.watched)
        if self.watched is None:
            return self.problem.pieces, records, self.ids, weights
        own = executor.take(records, self.watched)
        return executor.pieces(self.problem, self.watched), own, self.ids[self.watched], weights

    @property
    def honest(self) -> Bool[Array, " n"] | None:
        """Who keeps to the algorithm; None where everybody does."""
        return honest_of(self.adversary, self.ids.shape[0])


def _shares(weights, honest, watched):
    """The weights of those who are honest and watched, summing to one."""
    weights = weights if honest is None else jnp.where(honest, weights, 0)
    weights = weights if watched is None else weights[watched]
    return weights / jnp.sum(weights)


def honest_of(adversary: Adversary | None, n: int) -> Bool[Array, " n"] | None:
    """Who of n agents keeps to the algorithm; None where everybody does."""
    return None if adversary is None else jnp.ones(n, bool).at[jnp.asarray(adversary.agents)].set(False)


class Central(eqx.Module):
    """What the server holds: its algorithm's state, the downlink pipeline's, the aggregator's (and the adversary's), the cohort
    rule's memory."""

    state: Any
    downlink: Any
    aggregate: Any
    cohort: Any


class Vitals(eqx.Module):
    """How the last round went.

    Attributes:
        participants: clients whose message was accepted.
        seconds: how long it took on the fleet.
        train_loss, drift, steps: means over the (honest) participants, by weight.
        dispersion: √(Σ_i a_i ‖Δ_i − Δ̄‖²) of the participants' changes of the model, Σ a_i = 1; NaN where none are sent, or some
            lie, or something else stands in place of their mean.
        scalars: what the server's update reports.
    """

    participants: Int[Array, ""]
    seconds: Float[Array, ""]
    train_loss: Float[Array, ""]
    drift: Float[Array, ""]
    steps: Float[Array, ""]
    dispersion: Float[Array, ""]
    scalars: dict[str, Array]


def server_round(executor, e: Federation, records, central: Central, clock, k) -> tuple[Any, Central, Vitals, Draw, Any]:
    """Round `k`: (the cohort's new records, central, vitals, the draw, who was contacted `[c]`).

    The draw's `valid` has become: whose record is to be kept. The caller commits them.
    """
    draw = draw_cohort(executor, e, central.cohort, k)
    ids = e.ids[draw.members]
    pieces, old = e.problem.pieces, records
    if not e.whole:
        pieces, old = executor.pieces(e.problem, draw.members), executor.take(records, draw.members)
    state, uplink = old
    pace = Pace.of(e.fleet, e.registry, draw, ids, round_key(e.key, Stream.SCHEDULE, k), clock)
    sizes, steps = executor.once("bytes", lambda: wire_bytes(e, pieces, state, central.state)), None
    for index in range(len(e.algorithm.phases)):
        central, down = broadcast(executor, e, central, draw.members, k, index)
        with executor.acting(draw.members):
            (state, uplink), up, info = respond(
                executor, e, pieces, (state, uplink), ids, down.heard, k, index, budgets(e.fleet, draw.members, sizes)
            )
        executor.post(up.wire, {})
        info = executor.everyone(info)
        steps = info.steps if steps is None else steps + info.steps
        arrived, seconds = arrivals(e.fleet, pace, steps, sizes, draw.valid, last=index == len(e.algorithm.phases) - 1)
        arrived = accepted(executor, e, arrived, draw.valid)
        central, dispersion, scalars = absorb(executor, e, central, up.heard, draw, arrived, pace, k, index)
    heard = {name: getattr(info, name).astype(spec.dtype) for name, spec in reported(e).items()}
    memory = learn(executor, e, central.cohort, draw, arrived, heard)
    vitals = Vitals(*average(executor, e, info, draw, arrived, seconds), dispersion, scalars)
    contacted = draw.valid
    return (state, uplink), replace(central, cohort=memory), vitals, replace(draw, valid=arrived), contacted


class Sent(eqx.Module):
    """A message on its way: `wire`, as a pipeline writes it, and what is `heard` of it at the other end. Downwards both have two
    parts: what all clients receive alike, and what each receives by itself."""

    wire: Any
    heard: Any


def broadcast(executor, e: Federation, central: Central, members, k, index: int) -> tuple[Central, Sent]:
    """(central, what the clients of the cohort receive) in phase `index` of round `k`."""
    phase = e.algorithm.phases[index]
    message = as_server(
        executor, e, f"broadcast {phase}", k, index, phase, None, lambda a, p, s, c: a.broadcast(s, c), central.state
    )
    state, sent = send_down(executor, e, (k, index), message, central.downlink[phase], members)
    return replace(central, downlink={**central.downlink, phase: state}), sent


def respond(
    executor, e: Federation, pieces, records, ids, heard, k, index: int, budget=None, count=None
) -> tuple[Any, Sent, ClientInfo]:
    """(records, what they send, what they learnt) of the clients with these `ids`, who have `heard` the broadcast of a phase.

    `count`: what their randomness goes by where it is not the round.
    """
    phase, (state, uplink), (common, own) = e.algorithm.phases[index], records, heard
    count = k if count is None else count
    context = client_context(e, ids, count, index, phase, budget)
    context = executor.share(replace(context, round=jnp.broadcast_to(jnp.asarray(k, jnp.int32), ids.shape)))
    work = lambda a, local, c, state, own, common: a.work(local, state, common | own, c)
    state, message, info = as_clients(executor, e, f"work {phase}", work, pieces, context, state, own, common=common)
    keys = executor.share(agent_keys(e.source(e.secrecy), e.secrecy, count, index, ids, Role.ENCODE))
    encode = lambda key, state, message: e.uplink.encode(state, message, key)
    up, wire, sent = executor.role("encode", encode, keys, uplink[phase], message, axes=(0, 0, 0))
    return (state, {**uplink, phase: up}), Sent(wire, sent), info


def absorb(executor, e: Federation, central: Central, heard, draw: Draw, arrived, pace: Pace, k, index: int, scale=None):
    """(central, dispersion, scalars to report) once the server has combined what was `heard` of the clients that `arrived`.

    `scale` `[c]` multiplies each message's part in means.
    """
    phase = e.algorithm.phases[index]
    memory, aggregate, counts, dispersion = combine(
        executor, e, (k, index), central.aggregate[phase], heard, draw, arrived, pace, scale
    )
    central, scalars = _updated(executor, e, central, memory, aggregate, counts, k, index)
    return central, dispersion, scalars


def absorb_sum(executor, e: Federation, central: Central, total, message, draw: Draw, arrived, pace: Pace, k, index: int):
    """(central, scalars to report) once the server has the secure sum of those that `arrived`; `message`: the shapes of one's."""
    aggregate, counts = opened(executor, e, total, message, draw, arrived, pace)
    return _updated(executor, e, central, central.aggregate[e.algorithm.phases[index]], aggregate, counts, k, index)


def _updated(executor, e: Federation, central: Central, memory, aggregate, counts, k, index: int):
    phase, update = e.algorithm.phases[index], lambda a, p, s, c, aggregate: a.update(p, s, aggregate, c)
    state, scalars = as_server(executor, e, f"update {phase}", k, index, phase, counts, update, central.state, aggregate)
    return replace(central, state=state, aggregate={**central.aggregate, phase: memory}), scalars


def draw_cohort(executor, e: Federation, memory, k) -> Draw:
    """The cohort of round `k`, empty slots added up to `e.slots`. Its order is that of the clients' ids."""

    def draw(registry, order, memory, key):
        found = e.cohort.draw(memory, by_id(registry, order), key)
        missing = e.slots - found.members.shape[0]
        found = jax.tree.map(lambda leaf: jnp.pad(leaf, (0, missing)), found)
        return replace(found, members=order[found.members])

    key = jax.random.fold_in(round_key(e.source(e.drawing), e.drawing, k), Role.DRAW)
    return executor.network_role("draw", draw, e.registry, e.order, memory, key)


def by_id(registry: Registry, order: Int[Array, " n"]) -> Registry:
    """What a cohort's rule sees: clients by id, so that who is drawn does not depend on where a client stands in a list."""
    return jax.tree.map(lambda leaf: leaf[order], registry)


def first_memory(executor, e: Federation):
    """What the cohort's rule remembers before round 0."""
    return executor.network_role(
        "init cohort", lambda registry, order: e.cohort.init(by_id(registry, order)), e.registry, e.order
    )


def learn(executor, e: Federation, memory, draw: Draw, arrived, reported):
    """What the cohort's rule remembers after a round."""

    def after(registry, order, ranks, memory, draw, arrived, reported):
        return e.cohort.learn(memory, by_id(registry, order), replace(draw, members=ranks[draw.members]), arrived, reported)

    return executor.network_role("learn", after, e.registry, e.order, e.ranks, memory, draw, arrived, reported)


def as_clients(executor, e: Federation, name: str, function, pieces, context, *args, common=None) -> Any:
    """`function(algorithm, local, context, *args, common)` as every client that `pieces` and `args` have a row of."""
    skeleton = e.problem if e.problem.pieces is None else eqx.tree_at(lambda p: p.pieces, e.problem, None)
    shared, static = eqx.partition((skeleton, e.algorithm), eqx.is_array)

    def one(shared, common, piece, context, *rest):
        problem, algorithm = eqx.combine(shared, static)
        extra = () if common is None else (common,)
        return function(algorithm, problem.at(context.round).local(piece), context, *rest, *extra)

    axes = (None, None, 0, 0) + (0,) * len(args)
    return executor.role(name, one, shared, common, pieces, context, *args, axes=axes)


def client_context(e: Federation, ids, k, index: int, phase: str, budget=None, role: Role = Role.RECEIVE) -> ClientContext:
    """Contexts of the clients with these ids, `[c]`."""
    return ClientContext(
        key=agent_keys(e.source(e.stream), e.stream, k, index, ids, role),
        round=jnp.broadcast_to(jnp.asarray(k, jnp.int32), ids.shape),
        budget=budget,
        phase=phase,
        unroll=e.unroll,
    )


def wire_bytes(e: Federation, pieces, states, server) -> dict[str, int]:
    """Payload of one client's messages in one round, from shapes: "up" and "down", all phases together."""
    found = {"up": 0, "down": 0}
    for phase in e.algorithm.phases:
        common, own, up = message_specs(e, pieces, states, server, phase)
        encoded = lambda stage, message: jax.eval_shape(lambda m: stage.encode(stage.init(m), m, e.key)[1], message)
        found["down"] += sum(payload_bytes(encoded(e.downlink, part)) for part in (common, own) if part)
        wire = encoded(e.uplink, up)
        found["up"] += payload_bytes(wire) if e.aggregate is None else e.aggregate.bytes(wire)
    found["up"] += payload_bytes(reported(e))
    return found


def message_specs(e: Federation, pieces, states, server, phase: str) -> tuple[Any, Any, Any]:
    """(what every client receives, what each receives by itself, what it sends) in a phase, as shapes; of any clients' pieces."""
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)

    def exchange(states, server, pieces, key):
        k = jnp.asarray(0, jnp.int32)
        down = e.algorithm.broadcast(server, ServerContext(key, k, phase=phase))
        alike = {name for name in down if is_common(down[name], pieces)}
        down = {name: _one_of(leaf, pieces) for name, leaf in down.items()}
        context = first(client_context(e, e.ids[:1], k, 0, phase))
        local = e.problem.local(first(pieces))
        up = e.algorithm.work(local, first(states), down, context)[1]
        pick = lambda wanted: {name: leaf for name, leaf in down.items() if (name in alike) == wanted}
        return pick(True), pick(False), up

    return jax.eval_shape(exchange, states, server, pieces, e.key)


def is_common(leaf, pieces) -> bool:
    """Whether a field of a broadcast is the same for all clients."""
    rows = getattr(pieces, "rows", None)
    return not isinstance(leaf, PerClient) and (not isinstance(leaf, PerRow) or rows is None)


def _one_of(leaf, pieces):
    """Of a field of a broadcast, what one client receives."""
    if isinstance(leaf, PerRow):
        return leaf.values if pieces.rows is None else leaf.values[pieces.rows[0]]
    return jax.tree.map(lambda a: a[0], leaf.values) if isinstance(leaf, PerClient) else leaf


def as_server(executor, e: Federation, name, k, index, phase, counts, function, *args):
    """`function(algorithm, public part, server's state, context, …)`, once."""
    key = jax.random.fold_in(round_key(e.key, Stream.ALGORITHM, k, index), Role.SERVER)
    shared, static = eqx.partition((e.algorithm, e.public), eqx.is_array)

    def one(shared, key, k, counts, server, *rest):
        algorithm, public = eqx.combine(shared, static)
        return function(algorithm, public.at(k), server, ServerContext(key, k, counts, phase), *rest)

    return executor.network_role(name, one, shared, key, jnp.asarray(k, jnp.int32), counts, *args)


def send_down(executor, e: Federation, when, message, state, members) -> tuple[Any, Sent]:
    """(pipeline state, what all receive alike and what each of this device's share receives by itself)."""
    pieces = e.problem.pieces
    common = {name: leaf for name, leaf in message.items() if is_common(leaf, pieces)}
    each = {name: leaf for name, leaf in message.items() if name not in common}
    common = {name: leaf.values if isinstance(leaf, PerRow) else leaf for name, leaf in common.items()}
    key, wires = jax.random.fold_in(round_key(e.key, Stream.MESSAGE, *when), Role.SERVER), [(), ()]
    if common:
        encode = lambda s, m, key: e.downlink.encode(s, m, key)
        state, wires[0], common = executor.network_role("encode down", encode, state, common, key)
    if not each:
        return state, Sent(tuple(wires), (common, {}))
    rows = getattr(pieces, "rows", None)
    rows = None if rows is None else executor.everyone(executor.take(rows, members))
    pick = lambda leaf: gathered(leaf.values, rows) if isinstance(leaf, PerRow) else leaf.values[members]
    wires[1] = own = executor.share({name: pick(leaf) for name, leaf in each.items()})
    if not isinstance(e.downlink, Identity):
        keys = executor.share(agent_keys(e.key, Stream.MESSAGE, *when, e.ids[members], Role.SERVER))
        encode = lambda key, m: e.downlink.encode(e.downlink.init(m), m, key)[1:]
        wires[1], own = executor.role("encode down to each", encode, keys, own, axes=(0, 0))
    return state, Sent(tuple(wires), (common, own))


def average(executor, e: Federation, info: ClientInfo, draw: Draw, arrived, seconds):
    """(participants, seconds, mean loss, mean drift, mean steps), by weight, of the honest; as in `Vitals`."""

    def means(registry, draw, arrived, info):
        told = arrived if e.honest is None else arrived & e.honest[draw.members]
        weights = jnp.where(told, registry.weights[draw.members], 0)
        weights = weights / jnp.maximum(jnp.sum(weights), jnp.finfo(weights.dtype).tiny)
        mean = lambda values: jnp.sum(jnp.where(told, weights * values.astype(weights.dtype), 0))
        return jnp.sum(arrived).astype(jnp.int32), mean(info.loss), mean(info.drift), mean(info.steps)

    count, loss, drift, steps = executor.network_role("vitals", means, e.registry, draw, arrived, info)
    return count, seconds, loss, drift, steps


def reported(e: Federation) -> dict[str, Any]:
    """What the cohort's rule learns from, field by field, as one client sends it in a round."""
    kinds = {"loss": jnp.float32, "gradient_norm": jnp.float32, "drift": jnp.float32, "steps": jnp.int32}
    return {name: jax.ShapeDtypeStruct((), kinds[name]) for name in e.cohort.reports}
