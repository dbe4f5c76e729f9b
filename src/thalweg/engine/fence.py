"""The fence: floating-point results that do not depend on what a compiler fuses.

XLA on the CPU contracts a·b + c into one fused multiply-add wherever product and sum land in one kernel, and picks either
product of a·b + c·d. The same role can so differ by an ulp between a program that runs it for one agent and one that
runs it for all. `isolate` rules both out:

- every product is passed through an exclusive-or of its bits with a zero that is only known at run time, so that no
  product can be contracted into a sum;
- so is every divisor, entry by entry: XLA turns x / s into x · (1/s) where it sees that s is one number, which it is for one
  agent and is not for all of them;
- the role becomes the body of a `while` whose trip count (one) is only known at run time, and whose zero depends on the
  loop counter, so that it is compiled by itself: nothing is fused across it, nothing hoisted out of it.

Optimisation barriers do neither: the CPU pipeline removes them before it fuses.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from .walk import Rule, evaluate

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}
_PRODUCTS = {"mul", "integer_pow", "square"}


def isolate(role: Callable, zero: UInt32[Array, ""]) -> Callable:
    """`role`, compiled by itself and without contractions. `zero` must be a traced 0, an argument of the program."""

    def isolated(*args):
        jaxpr, shapes = jax.make_jaxpr(role, return_shape=True)(*args)
        blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        structure = jax.tree.structure(shapes)

        def body(carry):
            i, _ = carry
            inside = i * zero
            leaves = [_cross(leaf, inside) for leaf in jax.tree.leaves(args)]
            results = evaluate(jaxpr.jaxpr, jaxpr.consts, leaves, _fenced(inside))
            return i + 1, jax.tree.unflatten(structure, [_cross(leaf, inside) for leaf in results])

        return jax.lax.while_loop(lambda carry: carry[0] < zero + 1, body, (zero, blank))[1]

    return isolated


def _fenced(zero) -> Rule:
    """Every floating product and every divisor crossed with `zero`."""

    def rule(equation, inputs, bind):
        name = equation.primitive.name
        if name == "div" and jnp.issubdtype(inputs[1].dtype, jnp.floating):
            inputs = [inputs[0], _cross_each(jnp.broadcast_to(inputs[1], equation.outvars[0].aval.shape), zero)]
        outputs = bind(inputs)
        if name in _PRODUCTS:
            outputs = [_cross(out, zero) if jnp.issubdtype(out.dtype, jnp.floating) else out for out in outputs]
        return outputs

    return rule


def bits(leaf):
    """`leaf` as integers of its size."""
    if leaf.dtype == bool:
        return leaf.astype(jnp.uint8)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return leaf
    return jax.lax.bitcast_convert_type(leaf, _UNSIGNED[leaf.dtype.itemsize])


def _cross(leaf, zero):
    """`leaf`, its bits combined with `zero` by exclusive-or."""
    leaf = jnp.asarray(leaf)
    if leaf.dtype == bool:
        return leaf ^ (zero != 0)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_cross(jax.random.key_data(leaf), zero))
    crossed = bits(leaf) ^ zero.astype(bits(leaf).dtype)
    return crossed if crossed.dtype == leaf.dtype else jax.lax.bitcast_convert_type(crossed, leaf.dtype)


def _cross_each(leaf, zero):
    """As `_cross`, with a zero for each entry that is not seen to be the same one."""
    leaf = jnp.asarray(leaf)
    places = jnp.arange(leaf.size, dtype=_UNSIGNED[leaf.dtype.itemsize]).reshape(leaf.shape)
    return _cross(leaf, places * zero.astype(places.dtype))
