"""The fence: floating-point results that do not depend on what a compiler fuses around them.

XLA on the CPU contracts a·b + c into one fused multiply-add wherever both land in one kernel, so the same role
function can differ by an ulp between a program that runs it alone and one that runs it inside a loop. `isolate` puts
a role into the body of a `while` whose trip count (one) is known only at run time, and passes its inputs and outputs
through an exclusive-or with a zero that depends on the loop counter. The body is then compiled by itself: nothing can
be fused across it, and nothing can be hoisted out of it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}


def isolate(role: Callable, zero: UInt32[Array, ""]) -> Callable:
    """`role`, compiled by itself. `zero` must be a traced 0 (an argument of the program, not a constant)."""

    def isolated(*args):
        shapes = jax.eval_shape(role, *args)
        blank = jax.tree.map(lambda leaf: jnp.empty(leaf.shape, leaf.dtype), shapes)

        def body(carry):
            i, _ = carry
            inside = i * zero
            return i + 1, _cross(role(*_cross(args, inside)), inside)

        return jax.lax.while_loop(lambda carry: carry[0] < zero + 1, body, (zero, blank))[1]

    return isolated


def _cross(tree, zero):
    return jax.tree.map(lambda leaf: _cross_leaf(leaf, zero), tree)


def _cross_leaf(leaf, zero):
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(leaf)
        return jax.random.wrap_key_data(data ^ zero.astype(data.dtype), impl=jax.random.key_impl(leaf))
    if leaf.dtype == bool:
        return leaf ^ (zero != 0)
    if jnp.issubdtype(leaf.dtype, jnp.integer):
        return leaf ^ zero.astype(leaf.dtype)
    unsigned = _UNSIGNED[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(
        jax.lax.bitcast_convert_type(leaf, unsigned) ^ zero.astype(unsigned), leaf.dtype
    )
