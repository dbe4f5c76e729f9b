"""Vector arithmetic on pytrees, leaf by leaf, in each leaf's own dtype."""

from typing import Any

import jax
import jax.numpy as jnp


def plus(a: Any, b: Any) -> Any:
    """a + b."""
    return jax.tree.map(jnp.add, a, b)


def minus(a: Any, b: Any) -> Any:
    """a − b."""
    return jax.tree.map(jnp.subtract, a, b)


def times(scalar: Any, a: Any) -> Any:
    """scalar·a."""
    return jax.tree.map(lambda leaf: jnp.asarray(scalar, leaf.dtype) * leaf, a)


def axpy(scalar: Any, a: Any, b: Any) -> Any:
    """scalar·a + b."""
    return jax.tree.map(lambda u, v: jnp.asarray(scalar, u.dtype) * u + v, a, b)


def dot(a: Any, b: Any) -> jax.Array:
    """⟨a, b⟩ over all leaves."""
    return sum(jnp.sum(u * v) for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def square(a: Any) -> jax.Array:
    """Σ |a|² over all leaves."""
    return sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(a))


def norm(a: Any) -> jax.Array:
    """√(Σ |a|²) over all leaves."""
    return jnp.sqrt(square(a))
