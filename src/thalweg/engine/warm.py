"""Beginning a price method where something is known of the answer."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.problem.coupling import heard


class WarmStart(eqx.Module):
    """A price and plans to begin at, for `solve(start=…)` of a coupled problem: those of an earlier problem, moved on in time.

    An earlier `Result` continues its method's own state; this begins a new run from the answer alone, whatever method found it.

    Attributes:
        price: `[m]`.
        plans: the agents' plans, with a leading axis n.
    """

    price: Any
    plans: Any


def warmed(program: Any, local: Any, shared: Any, start: WarmStart) -> tuple[Any, Any]:
    """(local, shared) of a run that begins at `start`.

    Raises:
        ValueError: a price or plans of other shapes. TypeError: a method that cannot.
    """
    problem = program.problem
    price = jnp.asarray(start.price, problem.dtype)
    described = lambda tree, axes: jax.tree.map(lambda leaf: np.shape(leaf)[axes:], tree)
    plans = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), start.plans, problem.x0)
    if price.shape != (problem.m,) or described(plans, 1) != described(problem.x0, 0):
        raise ValueError(
            f"solve(start=WarmStart(…)): got a price {price.shape} and plans {described(plans, 0)}, expected ({problem.m},) and "
            f"{problem.n} like {described(problem.x0, 0)}"
        )
    if any(len(leaf) != problem.n for leaf in jax.tree.leaves(plans)):
        raise ValueError(f"solve(start=WarmStart(…)): expected plans with a leading axis of {problem.n} agents")
    states, central, previous = _warmed(program, local.records[0], shared.central.state, price, plans)
    local = eqx.tree_at(lambda c: c.records, local, (states, local.records[1]))
    return local, eqx.tree_at(lambda s: (s.central.state, s.previous), shared, (central, previous))


@eqx.filter_jit
def _warmed(program, states, server, price, plans):
    problem, algorithm = program.problem.at(0), program.algorithm
    price = problem.coupling.project(price)

    def one(piece, state, x):
        local = problem.local(piece)
        return algorithm.warm_client(local, state, x, heard(price, piece.rows)), local.quantity(x)

    states, quantity = jax.vmap(one)(problem.pieces, states, plans)
    server = algorithm.warm_server(program.public.at(0), server, price, problem.added(quantity))
    return states, server, algorithm.estimate(server, None)
