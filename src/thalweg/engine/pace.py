"""How a fleet of unequal devices paces a synchronous round: who answers, how long it takes.

Axes: `n` devices, `c` slots of the cohort.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from thalweg.cohort import Draw, Registry
from thalweg.fleet import Fleet

from .keys import Role

# Which draw of a round a key is for.
_DROP = Role.DROP


class Pace(eqx.Module):
    """What is settled about a round before the clients work.

    Attributes:
        answers: `[c]`, who is there and does not drop out.
        response: `[c]`, the known probability of that.
        known: whether answering depends on nothing but these probabilities (static); else means are over those that answer.
        ids, members: `[c]`.
    """

    answers: Bool[Array, " c"]
    response: Float[Array, " c"]
    ids: Int[Array, " c"]
    members: Int[Array, " c"]
    known: bool = eqx.field(static=True)

    @classmethod
    def of(cls, fleet: Fleet | None, registry: Registry, draw: Draw, ids, key, clock) -> "Pace":
        """Draws drop-outs, by id."""
        ones = jnp.ones(ids.shape, registry.weights.dtype)
        if fleet is None:
            return cls(jnp.ones(ids.shape, bool), ones, ids, draw.members, True)
        key = jax.random.fold_in(key, _DROP)
        drop = fleet.dropout[draw.members]
        answers = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(ids) >= drop
        if fleet.availability is not None:
            answers = answers & fleet.availability.at(clock, draw.members)
        return cls(answers, ones * (1 - drop).astype(ones.dtype), ids, draw.members, fleet.selective is False)


def communication(fleet: Fleet, members, sizes: dict[str, int]):
    """`[c]` seconds that a client's messages take in both directions."""
    return sizes["down"] / fleet.download[members] + sizes["up"] / fleet.upload[members]


def expected_seconds(fleet: Fleet, solver: Any, counts: Any, sizes: dict[str, int]) -> np.ndarray:
    """`[n]` how long a client's round takes, by the steps that its solver is asked for; `counts` are its examples, None unknown."""
    epochs, batch = getattr(solver, "epochs", None) or 1, getattr(solver, "batch_size", None)
    steps = getattr(solver, "steps", None)
    if steps is None:
        steps = epochs if batch is None or counts is None else epochs * -(-np.asarray(counts) // batch)
    return np.broadcast_to(fleet.seconds(steps, sizes["down"], sizes["up"]), (fleet.n,))


def budgets(fleet: Fleet | None, members, sizes: dict[str, int]) -> Int[Array, " c"] | None:
    """`[c]` local steps that fit before the deadline; None where clients do all their work whatever it takes."""
    if fleet is None or not fleet.partial_work:
        return None
    left = fleet.deadline - communication(fleet, members, sizes)
    return jnp.clip(jnp.floor(left / fleet.seconds_per_step[members]), 0, 2**30).astype(jnp.int32)


def arrivals(fleet: Fleet | None, pace: Pace, steps, sizes: dict[str, int], valid, last: bool):
    """(whose message is accepted `[c]`, how long the round took). Ties are ordered by id."""
    if fleet is None:
        return valid, jnp.zeros((), jnp.float32)
    answers = valid & pace.answers
    if fleet.partial_work:
        answers = answers & (steps > 0)
    if not last:  # an exchange in the middle of a round has no deadline of its own
        return answers, jnp.zeros((), jnp.float32)
    seconds = communication(fleet, pace.members, sizes) + steps * fleet.seconds_per_step[pace.members]
    accepted = answers & (seconds <= fleet.deadline)
    if fleet.accept is not None:
        order = jnp.lexsort((pace.ids, jnp.where(accepted, seconds, jnp.inf)))
        rank = jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.shape[0], dtype=jnp.int32))
        # Less a little, since 0.6·25 is above 15 in single precision.
        wanted = jnp.ceil(fleet.accept * jnp.sum(valid) * (1 - 1e-6)).astype(jnp.int32)
        accepted = accepted & (rank < wanted)
        complete = jnp.sum(accepted) >= wanted
    else:
        complete = jnp.all(accepted | ~valid)
    latest = jnp.max(jnp.where(accepted, seconds, 0))
    # The server cannot know that somebody will not answer: it waits until the deadline, or as long as answers may take.
    patience = jnp.where(jnp.isfinite(fleet.deadline), fleet.deadline, jnp.max(jnp.where(valid, seconds, 0)))
    return accepted, jnp.where(complete, latest, patience)
