"""From what clients sent to what their server hears: weights, lies, means or what stands in their place.

Axes: `n` registered clients, `c` slots of the cohort.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from thalweg.algorithm.server.base import Counts
from thalweg.cohort import Cohort, Draw
from thalweg.message.combine import Clients, Mean, Rows, Stack, Sum
from thalweg.message.flow import Flow
from thalweg.message.rows import as_rows
from thalweg.problem.coupling import scattered

from .keys import Role, Stream, round_key
from .pace import Pace


def combine(executor, e, when, memory, sent, draw: Draw, arrived: Bool[Array, " c"], pace: Pace, scale=None):
    """(memories of aggregator and adversary, aggregate, counts, dispersion) of what the clients of the federation `e` sent.

    Sums run over the cohort in order of id. `when` is (round, index of the phase); `scale` `[c]` multiplies each message's part in
    means (staleness).
    """
    memory, lies = memory
    if e.adversary is not None:
        lies, sent = forged(executor, e, when, lies, sent, draw.members, draw.valid)

    mean, own, weights, counts = _weighed(executor, e, draw, arrived, pace, scale)
    aggregate = {}
    if e.aggregate is not None:
        memory, aggregate = aggregated(executor, e, when, memory, sent, own if e.aggregate.sealed else mean, arrived)
    for field, message in sent.items():
        rule = e.algorithm.combine[field]
        if field in aggregate:
            continue
        if isinstance(rule, Mean | Sum):
            aggregate[field] = executor.weighted(f"combine {field}", mean if isinstance(rule, Mean) else weights, message)
        elif isinstance(rule, Rows):
            aggregate[field] = _added(executor, e, f"combine {field}", weights, message, draw.members)
        elif isinstance(rule, Clients):
            aggregate[field] = executor.network_role(
                f"combine {field}", _spread, e.ids, executor.everyone(message), draw.members, arrived
            )
        else:
            raise TypeError(f"{type(rule).__name__} is no rule of a server")
    dispersion = jnp.asarray(jnp.nan, mean.dtype)
    if "x" in sent and e.adversary is None and (e.aggregate is None or not e.aggregate.individual):
        dispersion = executor.network_role("dispersion", _dispersion, mean, executor.squares(sent["x"]), aggregate["x"])
    return (memory, lies), aggregate, counts, dispersion


def sealed(executor, e, when, sent, slot, drawn) -> tuple[Any, Any]:
    """(what the client that is alone here puts into a secure sum of `drawn` ones, in whose cohort it has this `slot`; whether its
    message holds numbers only). Its share of the noise is in it in simulations alone.
    """

    def factor(registry, key):
        # Of cohorts behind a deployed sum this is the same for all clients, whoever is drawn.
        return e.cohort.draw(e.cohort.init(registry), registry, key).factor[0]

    def seal(aggregator, registry, i, factor, messages, key, slot, drawn):
        row, weight = as_rows(messages)[0][0], registry.weights[i] * factor
        element = aggregator.seal(row, weight.astype(row.dtype), key, slot, drawn, noisy=e.secret is None)
        return element, jnp.all(jnp.isfinite(row))

    messages = {name: sent[name] for name in averaged_fields(e.algorithm, sent)}
    factor = executor.network_role("factor", factor, e.registry, _secret_key(e, when))
    return executor.network_role(
        "seal", seal, e.aggregate, e.registry, e.ids[0], factor, messages, _secret_key(e, when), slot, drawn
    )


def opened(executor, e, total, message, draw: Draw, arrived: Bool[Array, " c"], pace: Pace) -> tuple[dict[str, Any], Counts]:
    """(aggregate, counts) of what the clients that `arrived` have put into a secure sum together; `message`: the shapes of one's.

    Where somebody is missing who might have come, the sum is divided by the weight of those in it, all of which the server knows;
    not under noise, which is made for a sum that hides who is in it.
    """
    _, own, _, counts = _weighed(executor, e, draw, arrived, pace, None)
    over = over_arrivals(e.cohort, pace.known) and not (e.aggregate.normalise or e.aggregate.after(Flow()).noise)

    def opened_(aggregator, total, own, arrived):
        rows, _, back = as_rows(jax.tree.map(lambda s: jnp.zeros((1, *s.shape), s.dtype), message))
        mean = aggregator.opened(total, rows.shape[1], rows.dtype)
        if over:
            share = jnp.sum(jnp.where(arrived, own, 0)).astype(mean.dtype)
            mean = jnp.where(share > 0, mean / jnp.where(share > 0, share, 1), 0)
        return back(mean.astype(rows.dtype))

    return executor.network_role("open", opened_, e.aggregate, total, own, arrived), counts


def _weighed(executor, e, draw: Draw, arrived, pace: Pace, scale):
    """(weights in means `[c]`, those that each client knows by itself, those of clients that arrived, counts)."""

    def weigh(registry, draw, arrived, response, scale):
        weights = jnp.where(arrived, registry.weights[draw.members], 0)
        mean = weights * draw.factor / response
        own = jnp.where(draw.valid, registry.weights[draw.members] * draw.factor / response, 0)
        if over_arrivals(e.cohort, pace.known):
            mean = mean / jnp.maximum(jnp.sum(mean), jnp.finfo(mean.dtype).tiny)
        if scale is not None:
            mean = mean * scale
        counts = Counts(jnp.sum(arrived).astype(jnp.int32), jnp.sum(weights), registry.n)
        return mean, own, weights, counts

    return executor.network_role("weigh", weigh, e.registry, draw, arrived, pace.response, scale)


def over_arrivals(cohort: Cohort, known: bool) -> bool:
    """Whether means are over those that arrived; `known`: they arrive with known probabilities."""
    return cohort.normalise or not cohort.unbiased or not known


def accepted(executor, e, arrived: Bool[Array, " c"], drawn: Bool[Array, " c"]) -> Bool[Array, " c"]:
    """Whose message counts, of those that arrived."""
    if e.aggregate is None or not e.aggregate.sealed:
        return arrived
    return executor.network_role("accept", lambda aggregator, *who: aggregator.accept(*who), e.aggregate, arrived, drawn)


def forged(executor, e, when, memory, sent, members, present):
    """(the adversary's memory, `sent` with what it writes in place of some agents' messages)."""
    same = members[:, None] == jnp.asarray(e.adversary.agents)[None]
    bad, places = jnp.any(same, axis=1) & present, jnp.argmax(same, axis=1).astype(jnp.int32)
    key = jax.random.fold_in(round_key(e.key, Stream.ADVERSARY, *when), Role.ENCODE)
    everyone = (executor.everyone(sent), bad, present, places)
    memory, sent = executor.network_role("forge", written, e.adversary, memory, *everyone, key, jnp.asarray(when[0], jnp.int32))
    return memory, executor.share(sent)


def written(adversary, memory, messages, bad, present, places, key, k):
    """(the adversary's memory, `messages` with its lies where they are `bad`)."""
    rows, back, _ = as_rows(messages)
    memory, lies = adversary.forge(memory, rows, bad, present, places, key, k)
    return memory, back(jnp.where(bad[:, None], lies, rows))


def first_lies(adversary, agents: int, message) -> Any:
    """What the adversary remembers before round 0 of each of so many agents, whose `message` has these shapes."""
    leaves = jax.tree.leaves(message)
    if adversary is None or not leaves:
        return ()
    return adversary.init(agents, sum(leaf.size for leaf in leaves), jnp.result_type(*(leaf.dtype for leaf in leaves)))


def averaged_fields(algorithm, names) -> list[str]:
    """Those of `names` that an aggregator takes over from the mean, in order."""
    return [name for name in names if isinstance(algorithm.combine[name], Mean)]


def first_memories(e, message) -> tuple[Any, Any]:
    """What aggregator and adversary remember before round 0, for one client's `message` (shapes)."""
    return _first_aggregate(e, message), first_lies(e.adversary, len(e.adversary.agents) if e.adversary else 0, message)


def _first_aggregate(e, message) -> Any:
    fields = averaged_fields(e.algorithm, message)
    if e.aggregate is None or not fields:
        return ()
    leaves = jax.tree.leaves({name: message[name] for name in fields})
    return e.aggregate.init(sum(leaf.size for leaf in leaves), jnp.result_type(*(leaf.dtype for leaf in leaves)))


def aggregated(executor, e, when, memory, sent, weights, arrived):
    """(memory, field → aggregate) of the fields that are averaged, taken together."""
    fields = averaged_fields(e.algorithm, sent)
    if not fields:
        return memory, {}

    def combined(aggregator, memory, messages, weights, arrived, key):
        rows, _, back = as_rows(messages)
        if aggregator.individual:  # what no honest client can have sent is nobody's message
            arrived = arrived & jnp.all(jnp.isfinite(rows), axis=1)
        rows = jnp.where(arrived[:, None], rows, 0)
        if not aggregator.sealed:
            weights = jnp.where(arrived, weights, 0)
        memory, row = aggregator.combine(memory, rows, weights.astype(rows.dtype), arrived, key)
        return memory, back(row)

    messages = executor.everyone({name: sent[name] for name in fields})
    return executor.network_role("aggregate", combined, e.aggregate, memory, messages, weights, arrived, _secret_key(e, when))


def _secret_key(e, when):
    """Of an aggregator, in one phase of a round."""
    return jax.random.fold_in(round_key(e.source(Stream.SECRET), Stream.SECRET, *when), Role.SERVER)


def _added(executor, e, name: str, weights, message, members):
    """Σ of those that arrived, row by row."""
    if e.problem.pieces.rows is None:
        return executor.weighted(name, weights, message)

    def added(weights, message, rows):
        each = weights.astype(message.dtype)[:, None]
        return scattered(jnp.where(each == 0, 0, each * message), rows, e.problem.m)

    rows = executor.everyone(executor.take(e.problem.pieces.rows, members))
    return executor.network_role(name, added, weights, executor.everyone(message), rows)


def _spread(ids, message, members, arrived):
    """Each client's message in its own row of n."""
    n = ids.shape[0]
    place = jnp.where(arrived, members, n)
    rows = jax.tree.map(lambda leaf: jnp.zeros((n, *leaf.shape[1:]), leaf.dtype).at[place].set(leaf, mode="drop"), message)
    mask = jnp.zeros(n, bool).at[place].set(True, mode="drop")
    return Stack(rows, mask, mask)


def _dispersion(mean, squares, average):
    """√(Σ a‖Δ_i‖² − ‖Σ a Δ_i‖²) with a scaled to one."""
    total = jnp.maximum(jnp.sum(mean), jnp.finfo(mean.dtype).tiny)
    squares = jnp.where(mean == 0, 0, mean * squares.astype(mean.dtype))
    center = sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(average)).astype(mean.dtype) / total**2
    return jnp.sqrt(jnp.maximum(jnp.sum(squares) / total - center, 0))
