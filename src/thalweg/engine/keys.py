"""Random keys: one per (run, stream, round, phase, who, stage), never from a position in an array.

The *secret* stream (noise for privacy, masks, shares) is derived from the run key in simulation only; a deployed site
draws it from its operating system.
"""

import enum
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray


class Stream(enum.IntEnum):
    """What a key is for; streams never overlap."""

    SCHEDULE = 0
    ALGORITHM = 1
    MESSAGE = 2
    SECRET = 3
    STOP = 4
    ADVERSARY = 5


class Role(enum.IntEnum):
    """Which of an agent's functions a key is for (the last index of a key's derivation)."""

    INIT = 0
    SEND = 1
    RECEIVE = 2
    ENCODE = 3
    RESTART = 4
    DRAW = 5
    DROP = 6
    SERVER = 7


def round_key(run: PRNGKeyArray, stream: Stream, k: Int[Array, ""] | int, phase: int = 0) -> PRNGKeyArray:
    """The key of one stream in phase `phase` of round `k`."""
    return _fold(run, int(stream), k, phase)


@functools.partial(jax.jit, static_argnames=("stream", "phase", "role"))
def agent_keys(
    run: PRNGKeyArray, stream: Stream, k: Int[Array, ""] | int, phase: int, ids: Int[Array, " n"], role: Role
) -> Array:
    """`[n]` keys, one per agent id."""
    base = round_key(run, stream, k, phase)
    return jax.vmap(lambda i: _fold(base, i, int(role)))(ids)


def edge_uniform(key: PRNGKeyArray, receiver: Array, sender: Array, directed: bool) -> Array:
    """U(0, 1) for every (receiver, sender) pair, from its (low id, high id).

    Without `directed` both directions of an edge share the number; with it each direction has its own.
    """

    def draw(i, j):
        edge = _fold(key, jnp.minimum(i, j), jnp.maximum(i, j))
        return jax.random.uniform(jax.random.fold_in(edge, j > i) if directed else edge, dtype=jnp.float32)

    return jnp.vectorize(draw)(receiver, sender)


def _fold(key: PRNGKeyArray, *indices) -> PRNGKeyArray:
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key
