"""A new epoch: agents that stay bring their records and restart, agents that join begin.

Agents are told apart by id. A record is matched whole, whatever is in it: what is shaped like the old neighbourhood is
replaced by the algorithm's own `restart`, so that nothing here knows which leaves those are. Mailboxes, channels and states
of pipelines are those of a run that begins: they belong to edges, and edges of the old network are gone.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from thalweg.observe import Result


class Earlier(eqx.Module):
    """What the agents of this epoch bring from the one before.

    Attributes:
        stays: `[n]`, who took part in it.
        state: their states as they left it, leaves `[n, ...]`; at those who join, somebody else's, which nobody looks at.
    """

    stays: Bool[Array, " n"]
    state: Any


def bring(start: Any, algorithm, state: Any, x0: Any, ids: np.ndarray, asked: bool) -> Earlier:
    """The records of an earlier run, in the order of `ids`.

    Args:
        start: the earlier run.
        algorithm: of this run; it must be the earlier one's, step sizes apart.
        state: what its agents would begin with, leaves `[n, ...]`.
        x0: of this run; the earlier x must have its structure.
        ids: `[n]` of this run's agents.
        asked: whether the user gave them.

    Raises:
        TypeError, ValueError: it was another algorithm's, or of another x, or nobody is known to have stayed.
    """
    if not isinstance(start, Result):
        raise TypeError(f"solve: got {type(start).__name__} as start, expected a Result")
    if start.records is None or start.ids is None:
        raise ValueError(
            "solve(start=…): this result has no records of its agents (it was read from a folder); pass the one that solve "
            "returned, or x0=result.x to begin at its answer"
        )
    _check_x(start, x0)
    earlier = start.records.state
    if type(start.algorithm) is not type(algorithm) or jax.tree.structure(earlier) != jax.tree.structure(state):
        got, had = (_options(method) for method in (algorithm, start.algorithm))
        raise ValueError(
            f"solve(start=…): the earlier run had another algorithm: got {got}, it had {had}; continue with that one, or give "
            "the problem x0=result.x to begin at its answer"
        )
    if len(ids) != len(start.ids) and not asked:
        raise ValueError(
            f"solve(start=…): the earlier run had {len(start.ids)} agents, this one {len(ids)}; pass ids=… to say which of "
            f"{_listed(start.ids)} they are (new agents get new ids)"
        )
    place = {agent: i for i, agent in enumerate(np.asarray(start.ids).tolist())}
    rows = [place.get(agent) for agent in ids.tolist()]
    if all(row is None for row in rows):
        raise ValueError(
            f"solve(start=…): none of the agents took part in the earlier run: got ids {_listed(ids)}, it had "
            f"{_listed(start.ids)}; leave start= out to begin anew"
        )
    index = np.asarray([0 if row is None else row for row in rows])
    return Earlier(
        stays=jnp.asarray([row is not None for row in rows]),
        state=jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)[index]), earlier),
    )


def enter(algorithm, local, x0, context, stays, state):
    """One agent's state in the new epoch: `restart` of its record if it stays, else `init`."""
    restarted, begun = algorithm.restart(local, state, context), algorithm.init(local, x0, context)
    described = [jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), tree) for tree in (restarted, begun)]
    if described[0] != described[1]:
        raise ValueError(
            f"{type(algorithm).__name__}.restart returned a state of other shapes than init: what has one entry per neighbour "
            f"belongs to the old neighbours and must be rebuilt (got {described[0]}, expected {described[1]})"
        )
    return jax.tree.map(lambda a, b: jnp.where(stays, a, b), restarted, begun)


def _check_x(start: Result, x0: Any) -> None:
    """The earlier x has the structure, shapes and dtypes of this one."""
    describe = lambda x, axes: jax.tree.map(lambda leaf: f"{leaf.dtype}{list(np.shape(leaf)[axes:])}", x)
    had, got = describe(start.agents, 1), describe(x0, 0)
    if had != got:
        raise ValueError(
            f"solve(start=…): x of the earlier run was {had}, here it is {got}; an epoch keeps the structure, shapes and dtypes "
            "of x; translate the answer yourself and begin anew with it as x0"
        )


def _options(algorithm) -> str:
    """The algorithm's name and what is static about it, which its state may depend on."""
    static = eqx.filter(algorithm, eqx.is_inexact_array_like, inverse=True)
    parts = [f"{name}={value!r}" for name, value in vars(static).items() if isinstance(value, str | bool | int)]
    return f"{type(algorithm).__name__}({', '.join(parts)})"


def _listed(ids) -> str:
    ids = np.asarray(ids).tolist()
    return str(ids) if len(ids) <= 12 else f"[{', '.join(map(str, ids[:10]))}, … {ids[-1]}]"
