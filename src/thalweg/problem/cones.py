"""Local sets bounded by Euclidean norms: second-order cones and balls, with their projections."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from thalweg.problem.regularizer import Regularizer, bound_like, indicator_of


class SecondOrderCone(Regularizer):
    """Indicator of {(u, t): ‖u‖₂ ≤ slope·t} along the last axis of every leaf, t its last entry; prox: Euclidean projection.

    With s = `slope`, a point (u, t) inside stays, one with s‖u‖ ≤ −t goes to 0, and any other to
    (s·u/‖u‖, 1)·(s‖u‖ + t)/(1 + s²). Heinz Bauschke, *Projection algorithms and monotone operators*, thesis, 1996, Theorem 3.3.6.
    """

    slope: float
    smooth: bool = eqx.field(static=True, default=False)
    indicator: bool = eqx.field(static=True, default=True)

    def value(self, x):
        def violation(v):
            length, t = jnp.linalg.norm(v[..., :-1], axis=-1), v[..., -1]
            return (length - self.slope * t) / (1 + jnp.abs(t))

        return indicator_of(jax.tree.map(violation, x))

    def _prox(self, v, step):
        return jax.tree.map(self._project, v)

    def _project(self, v):
        u, t, s = v[..., :-1], v[..., -1:], jnp.asarray(self.slope, v.dtype)
        length = jnp.linalg.norm(u, axis=-1, keepdims=True)
        height = (s * length + t) / (1 + s**2)
        edge = jnp.concatenate([s * height * u / jnp.where(length > 0, length, 1), height], axis=-1)
        return jnp.where(length <= s * t, v, jnp.where(s * length <= -t, jnp.zeros_like(v), edge))


class Ball(Regularizer):
    """Indicator of ‖x − center‖₂ ≤ radius, all leaves together; prox: Euclidean projection."""

    center: PyTree
    radius: Any
    smooth: bool = eqx.field(static=True, default=False)
    indicator: bool = eqx.field(static=True, default=True)

    def off(self, x: PyTree) -> tuple[PyTree, Any]:
        """(x − center, its length)."""
        off = jax.tree.map(jnp.subtract, x, bound_like(self.center, x))
        return off, jnp.sqrt(sum(jnp.sum(leaf * leaf) for leaf in jax.tree.leaves(off)))

    def value(self, x):
        return indicator_of((self.off(x)[1] - self.radius) / (1 + jnp.asarray(self.radius)))

    def _prox(self, v, step):
        off, length = self.off(v)
        factor = jnp.minimum(1, self.radius / jnp.where(length > 0, length, 1))
        inside = length <= self.radius
        shrink = lambda leaf, o, c: jnp.where(inside, leaf, c + factor.astype(leaf.dtype) * o)
        return jax.tree.map(shrink, v, off, bound_like(self.center, v))


def second_order_cone(slope: float | int = 1.0) -> Regularizer:
    """Constraint ‖(x_1, …, x_{d−1})‖₂ ≤ slope·x_d along the last axis of every leaf: a converter's active and reactive power within
    its rating, a thrust within a cone.

    Raises:
        ValueError: `slope` is not positive.
    """
    if not (np.isfinite(slope) and slope > 0):
        raise ValueError(f"second_order_cone slope: got {slope}, expected a positive number; 1 is the cone ‖u‖ ≤ t")
    return SecondOrderCone(float(slope))


def ball(center: PyTree, radius: Any) -> Regularizer:
    """Constraint ‖x − center‖₂ ≤ radius; the center is a number, or like x.

    Raises:
        ValueError: the center is not finite, or the radius not positive.
    """
    leaves = jax.tree.leaves((center, radius))
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):  # data of an agent were looked at before
        if not all(np.isfinite(np.asarray(leaf)).all() for leaf in leaves):
            raise ValueError(f"ball: got center {center} and radius {radius}, expected finite numbers")
        if not np.all(np.asarray(radius) > 0):
            raise ValueError(f"ball radius: got {radius}, expected a positive number")
    return Ball(center, radius)
