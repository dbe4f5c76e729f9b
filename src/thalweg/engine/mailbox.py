"""Messages that outlive their round.

`Neighbours` and `Edges` keep the newest message of each slot; `Push` keeps, per edge, the running sum of what the
sender ever gave, and the receiver takes the difference to the sum it saw last: mass is delayed, never lost. Delayed
messages wait in a ring of the last `longest_delay + 1` rounds.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .weather import Conditions

_NEVER = jnp.iinfo(jnp.int32).max


class Mailbox(eqx.Module):
    """Per slot: the newest delivered value and its stamp (-1: none yet), the running sums, and what is on its way.

    Leaves lead with the agent axis: `newest [n, slots, ...]`, `stamp [n, slots]`, `waiting [n, rounds, slots, ...]`,
    `due [n, rounds, slots]`.
    """

    newest: Any
    stamp: Int[Array, "n slots"]
    total: Any
    waiting: Any
    due: Int[Array, "n rounds slots"]


def empty_mailbox(spec: Any, n: int, slots: int, longest_delay: int, push: bool) -> Mailbox:
    """A mailbox for messages shaped like `spec` (one message, no agent or slot axis)."""
    zeros = lambda *lead: jax.tree.map(lambda leaf: jnp.zeros((*lead, *leaf.shape), leaf.dtype), spec)
    rounds = longest_delay + 1
    return Mailbox(
        newest=zeros(n, slots),
        stamp=jnp.full((n, slots), -1, jnp.int32),
        total=zeros(n, slots) if push else (),
        waiting=zeros(n, rounds, slots) if longest_delay else (),
        due=jnp.full((n, rounds if longest_delay else 0, slots), _NEVER, jnp.int32),
    )


def deliver(box: Mailbox, offered: Any, weather: Conditions, k) -> tuple[Mailbox, Any, Any]:
    """Put what was sent in round `k` on its way, hand over what has arrived.

    Returns (mailbox, fresh `[n, slots]`, newest `[n, slots, ...]`). An agent asleep finds its messages later.
    """
    k = jnp.asarray(k, jnp.int32)
    if box.due.shape[1] == 0:
        fresh = weather.arrived
        newest = _where(fresh, offered, box.newest)
        return _replace(box, newest=newest, stamp=jnp.where(fresh, k, box.stamp)), fresh, newest

    row = k % box.due.shape[1]
    due = jnp.where(weather.scheduled & ~weather.lost, k + weather.late, _NEVER)
    due = jax.lax.dynamic_update_index_in_dim(box.due, due, row, axis=1)
    waiting = jax.tree.map(
        lambda ring, leaf: jax.lax.dynamic_update_index_in_dim(ring, leaf, row, axis=1), box.waiting, offered
    )
    rounds = jnp.arange(due.shape[1], dtype=jnp.int32)
    sent_in = k - (row - rounds) % due.shape[1]  # the round in which each row of the ring was sent
    ready = (due <= k) & (sent_in[None, :, None] > box.stamp[:, None, :]) & weather.awake[:, None, None]
    stamps = jnp.where(ready, sent_in[None, :, None], -1)
    best = jnp.argmax(stamps, axis=1)
    fresh = jnp.any(ready, axis=1)
    picked = jax.tree.map(lambda ring: _pick(ring, best), waiting)
    newest = _where(fresh, picked, box.newest)
    stamp = jnp.where(fresh, jnp.max(stamps, axis=1), box.stamp)
    return _replace(box, newest=newest, stamp=stamp, waiting=waiting, due=due), fresh, newest


def _pick(ring, best):
    index = best.reshape(best.shape[0], 1, best.shape[1], *(1,) * (ring.ndim - 3))
    return jnp.take_along_axis(ring, index, axis=1)[:, 0]


def _where(mask, new, old):
    return jax.tree.map(lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - mask.ndim)), a, b), new, old)


def _replace(box: Mailbox, **changes) -> Mailbox:
    fields = {name: getattr(box, name) for name in ("newest", "stamp", "total", "waiting", "due")}
    return Mailbox(**(fields | changes))
