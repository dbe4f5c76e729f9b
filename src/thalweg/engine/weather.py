"""What happens to messages in one round: which edges are scheduled, which messages arrive, who is awake.

Every draw is keyed by the ids of the agents concerned, so both ends of an edge, and every engine, see the same event
without talking about it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from .keys import Stream, edge_uniform, round_key
from .world import Setting, World, of_phase

# Which draw of a round a key is for.
_PHASE, _AWAKE, _LOSS, _DELAY, _BURST = range(5)


class Conditions(eqx.Module):
    """One exchange of messages, seen from the receivers' slots.

    `used`: the schedule has the edge; `scheduled`: and its sender is awake, so a message is sent; `lost`: it never
    arrives; `late`: rounds until it does; `arrived`: it arrives in the same round, at an agent who is awake.
    """

    phase: Int[Array, ""]
    awake: Bool[Array, " n"]
    used: Bool[Array, "n slots"]
    scheduled: Bool[Array, "n slots"]
    lost: Bool[Array, "n slots"]
    late: Int[Array, "n slots"]

    @property
    def arrived(self) -> Bool[Array, "n slots"]:
        return self.scheduled & ~self.lost & (self.late == 0) & self.awake[:, None]


def first_weather(run: PRNGKeyArray, setting: Setting, world: World) -> Bool[Array, "n slots"] | tuple[()]:
    """The bursty channels' state before round 0, drawn from their stationary law."""
    if not setting.bursty:
        return ()
    key = jax.random.fold_in(round_key(run, Stream.SCHEDULE, 0), _BURST)
    return _edge_draw(key, setting, world) < setting.loss


@eqx.filter_jit
def conditions(run: PRNGKeyArray, setting: Setting, world: World, k, exchange: int, channel):
    """(channel state, Conditions) of exchange number `exchange` of round `k`."""
    of_round = round_key(run, Stream.SCHEDULE, k)
    of_exchange = round_key(run, Stream.SCHEDULE, k, exchange + 1)
    phase = _phase(jax.random.fold_in(of_round, _PHASE), setting, k)
    used = scheduled = _used(jax.random.fold_in(of_round, _PHASE), setting, world, phase)
    awake = jnp.ones(world.ids.shape, bool)
    lost = jnp.zeros(world.mask.shape, bool)
    late = jnp.zeros(world.mask.shape, jnp.int32)
    if setting.sleepy:
        key = jax.random.fold_in(of_round, _AWAKE)
        is_awake = jnp.vectorize(lambda i: jax.random.uniform(jax.random.fold_in(key, i)) >= setting.asleep)
        awake = is_awake(world.ids)
        scheduled = used & is_awake(world.neighbour_ids)
    if setting.lossy:
        draw = _edge_draw(jax.random.fold_in(of_exchange, _LOSS), setting, world)
        if setting.bursty:
            if exchange == 0:  # bursts last rounds: all exchanges of a round meet the same channel
                channel = jnp.where(channel, draw >= setting.to_good, draw < setting.to_bad)
            lost = channel
        else:
            lost = draw < setting.loss
    if setting.longest_delay:
        key = jax.random.fold_in(of_exchange, _DELAY)
        draw = edge_uniform(key, world.ids[:, None], world.neighbour_ids, directed=True)
        late = jnp.searchsorted(setting.delay[:-1], draw, side="right").astype(jnp.int32)
    return channel, Conditions(phase=phase, awake=awake, used=used, scheduled=scheduled, lost=lost, late=late)


def _edge_draw(key, setting, world):
    return edge_uniform(key, world.ids[:, None], world.neighbour_ids, directed=not setting.symmetric)


def _phase(key, setting, k):
    if setting.schedule == "periodic":
        return jnp.asarray(k % setting.phases, jnp.int32)
    if setting.schedule == "random":
        return jax.random.choice(key, setting.phases, p=setting.phase_probabilities).astype(jnp.int32)
    return jnp.asarray(0, jnp.int32)


def _used(key, setting, world, phase):
    if setting.schedule == "gossip":
        edge = setting.edges[jax.random.randint(key, (), 0, setting.edges.shape[0])]
        low = jnp.minimum(world.ids[:, None], world.neighbour_ids)
        high = jnp.maximum(world.ids[:, None], world.neighbour_ids)
        return world.mask & (low == jnp.min(edge)) & (high == jnp.max(edge))
    return world.mask & of_phase(world.active, phase)
