"""Proximal steps at a client, exact or by a local solver."""

from typing import Any

import jax
import jax.numpy as jnp

from thalweg._trees import norm

from .base import LocalRun, LocalSolver


def minimise(solver: LocalSolver | None, local, x: Any, centre: Any, penalty: Any, context) -> LocalRun:
    """argmin_y f_i(y) + ½ρ‖y − v‖² with ρ = `penalty` and v = `centre`.

    By the `solver` from `x`, whose gradients become g(y) + ρ(y − v); without one exactly, by the prox of f_i (from `x` where it
    has no closed form), which counts as one step.
    """

    def correct(gradient, y):
        pull = lambda g, a, v: g + jnp.asarray(penalty, g.dtype) * (a - v)
        return jax.tree.map(pull, gradient, y, centre)

    if solver is not None:
        return solver.run(local, x, context, correct)
    value, gradient = local.value_and_grad(x)
    dtype = jnp.result_type(*jax.tree.leaves(x))
    y = local.prox(centre, 1 / jnp.asarray(penalty, dtype), x)
    count = jnp.asarray(1, jnp.int32)
    if context.budget is not None:
        count = jnp.minimum(context.budget, count)
        y = jax.tree.map(lambda a, b: jnp.where(count > 0, a, b), y, x)
    size = norm(correct(gradient, x)).astype(dtype)
    return LocalRun(y, count, jnp.asarray(jnp.nan, dtype), value.astype(dtype), size)
