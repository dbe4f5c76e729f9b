"""The map that edge-based ADMM iterates: one variable z_ij for each neighbour, and the reflected proximal step.

Axes: `D` neighbour slots.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def first(x0: Any, mask: Bool[Array, " D"], penalty: Any) -> Any:
    """z_ij = ρ x0, leaves `[D, ...]`, zero in padded slots."""
    return jax.tree.map(lambda leaf: where(mask, _of(penalty, leaf) * leaf[None], 0), x0)


def minimise(local, x: Any, z: Any, degree: Any, penalty: Any) -> Any:
    """argmin_y φ_i(y) + ρ d_i/2 ‖y − Σ_j z_ij/(ρ d_i)‖², from x where it has no closed form; without neighbours a proximal point
    step of x."""

    def centre(x, z):
        weight = _of(penalty, x) * jnp.maximum(degree, 1).astype(x.dtype)
        return jnp.where(degree > 0, jnp.sum(z, axis=0) / weight, x)

    step = 1 / (penalty * jnp.maximum(degree, 1))
    return local.prox(jax.tree.map(centre, x, z), step, x)


def reflect(x: Any, z: Any, penalty: Any) -> Any:
    """q_ij = 2ρ x − z_ij, leaves `[D, ...]`."""
    return jax.tree.map(lambda x, z: 2 * _of(penalty, x) * x[None] - z, x, z)


def relax(z: Any, q: Any, relaxation: Any) -> Any:
    """(1 − r) z + r q."""

    def relaxed(z, q):
        r = _of(relaxation, z)
        return (1 - r) * z + r * q

    return jax.tree.map(relaxed, z, q)


def where(mask: Bool[Array, " D"], new: Any, old: Any) -> Any:
    """`new` in the slots of `mask`, else `old`, of a leaf `[D, ...]`."""
    return jnp.where(mask.reshape(mask.shape + (1,) * (new.ndim - 1)), new, old)


def _of(value: Any, leaf: Any):
    return jnp.asarray(value, leaf.dtype)
