"""Short sums of outer products, which XLA on the CPU makes slowly when there is one for every client.

The weight gradient of a dense layer over a minibatch is Σ_k a_k b_kᵀ with as many terms as the minibatch has examples. Side by
side, it is a batched matrix product, for which XLA calls Eigen client after client; multiplications and additions, all in one
kernel, are faster (`python -m benchmarks.federated --only softmax`).

The kernel is a branch that is always taken, which only is known at run time: else XLA makes the sum again in everything that
reads it, and what the factors are made from for every one of their uses.
"""

import functools
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from .walk import equations, evaluate

# Terms up to which the sum is written out: those of usual minibatches. Beyond, Eigen catches up.
TERMS = 16


def written_out(function: Callable, zero: UInt32[Array, ""]) -> Callable:
    """`function` with such products written out, on the CPU: equal up to rounding."""

    def run(*args):
        if jax.default_backend() != "cpu":
            return function(*args)
        jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        # A gradient that is transposed next is best made in that order: both transpositions vanish.
        orders = {e.invars[0]: e.params["permutation"] for e in equations(jaxpr.jaxpr) if e.primitive.name == "transpose"}

        def rule(equation, inputs, bind):
            short = equation.primitive.name == "dot_general" and _short(equation)
            return [_sum(equation, inputs, orders.get(equation.outvars[0]), zero)] if short else bind(inputs)

        results = evaluate(jaxpr.jaxpr, jaxpr.consts, jax.tree.leaves(args), rule)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return run


def _axes(equation) -> list[tuple[Any, Any, tuple[int, ...]]]:
    """(those of clients, those summed over, those of its own) of both factors."""
    over, along = equation.params["dimension_numbers"]
    ranks = [atom.aval.ndim for atom in equation.invars]
    return [(a, o, tuple(i for i in range(rank) if i not in (*a, *o))) for rank, a, o in zip(ranks, along, over, strict=True)]


def _terms(equation) -> int:
    return math.prod(equation.invars[0].aval.shape[axis] for axis in _axes(equation)[0][1])


def _short(equation) -> bool:
    """Whether it is a short sum of outer products, one for every client."""
    outer = all(along and own for along, _, own in _axes(equation))
    return outer and 1 <= _terms(equation) <= TERMS and equation.outvars[0].aval.dtype in (jnp.float32, jnp.float64)


def _sum(equation, inputs, order, zero):
    """The sum, term by term; made with its axes in this `order`, if one is given."""
    along, _, left = _axes(equation)[0]
    clients, out = len(along), equation.outvars[0].aval
    order = tuple(range(out.ndim)) if order is None else order
    ones = (range(clients + len(left), out.ndim), range(clients, clients + len(left)))  # axes that the factors lack

    def part(factor, axes, missing, k):
        along, over, own = axes
        rows = jnp.transpose(factor, (*along, *over, *own))
        rows = rows.reshape(*rows.shape[:clients], _terms(equation), *rows.shape[clients + len(over) :])
        row = jax.lax.index_in_dim(rows, k, clients, keepdims=False).astype(out.dtype)
        return jnp.transpose(jnp.expand_dims(row, tuple(missing)), order)

    def total(*factors):
        parts = list(zip(factors, _axes(equation), ones, strict=True))
        terms = (math.prod(part(*each, k) for each in parts) for k in range(_terms(equation)))
        return functools.reduce(operator.add, terms)

    shape = tuple(out.shape[axis] for axis in order)
    made = jax.lax.cond(zero == 0, total, lambda *_: jnp.zeros(shape, out.dtype), *inputs)
    return jnp.transpose(made, tuple(np.argsort(order)))
