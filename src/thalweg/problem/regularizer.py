"""The shared term r(x), known through its value and its prox.

    prox_{s r}(v) = argmin_x r(x) + ‖x − v‖² / (2 s)

Every regulariser acts on a pytree leaf by leaf and keeps the dtype of each leaf. `.on(where)` restricts one to a part
of the variable, for instance to the weights of a model and not its bias.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

Scalar = Float[Array, ""]


def check_step(step: Any) -> None:
    """Refuse a prox step that is known now and is not positive (a traced one cannot be looked at).

    Raises:
        ValueError: `step` ≤ 0 or NaN.
    """
    if not isinstance(step, jax.core.Tracer) and not np.all(np.asarray(step) > 0):
        raise ValueError(f"prox step: got {step}, expected a positive number; pass the step size of the method, e.g. 0.1")


class Regularizer(eqx.Module):
    """r(x), common to all agents.

    Attributes:
        smooth: ∇r exists everywhere and is Lipschitz, so that r may be folded into the f_i.
        indicator: r is 0 on a set and infinite outside, so that its prox is the projection whatever the step.
    """

    smooth: eqx.AbstractVar[bool]
    indicator: eqx.AbstractVar[bool]

    @abc.abstractmethod
    def value(self, x: PyTree) -> Scalar:
        """r(x). Indicators forgive rounding: violations up to √ε of the dtype count as feasible."""

    @abc.abstractmethod
    def _prox(self, v: PyTree, step: Any) -> PyTree:
        """prox_{step·r}(v), with `step` already checked."""

    def prox(self, v: PyTree, step: Any) -> PyTree:
        """argmin_x r(x) + ‖x − v‖²/(2·step), like `v`.

        Raises:
            ValueError: `step` is known and not positive.
        """
        check_step(step)
        return self._prox(v, step)

    def curvature(self) -> tuple[float, float] | None:
        """(L, μ) of r where they are known: r has L-Lipschitz gradient and is μ-strongly convex."""
        return None

    def on(self, where: Callable[[Any], Any]) -> "Regularizer":
        """This regulariser applied to the part `where(x)` of the variable; the rest is left free."""
        return Part(self, where)


def _leaf_sum(terms: PyTree) -> Scalar:
    return sum(jax.tree.leaves(terms), start=jnp.zeros(()))


def _as_step(step: Any, leaf: Any) -> Array:
    return jnp.asarray(step, leaf.dtype)


def indicator_of(violation: PyTree) -> Scalar:
    """0 if every leaf's largest violation is within rounding, else infinity."""
    worst = [(jnp.max(v, initial=0), jnp.sqrt(jnp.finfo(v.dtype).eps)) for v in jax.tree.leaves(violation)]
    feasible = [w <= tolerance for w, tolerance in worst]
    return jnp.where(jnp.all(jnp.stack(feasible)), 0.0, jnp.inf)


class Zero(Regularizer):
    """r = 0."""

    smooth: bool = eqx.field(static=True, default=True)
    indicator: bool = eqx.field(static=True, default=False)

    def value(self, x):
        return jnp.zeros((), jnp.result_type(*jax.tree.leaves(x)))

    def _prox(self, v, step):
        return v

    def curvature(self):
        return 0.0, 0.0


class ElasticNet(Regularizer):
    """r(x) = λ₁‖x‖₁ + ½λ₂‖x‖²; prox: soft thresholding by sλ₁, then division by 1 + sλ₂."""

    l1: float
    l2: float
    smooth: bool = eqx.field(static=True, default=False)
    indicator: bool = eqx.field(static=True, default=False)

    def value(self, x):
        return _leaf_sum(jax.tree.map(lambda v: self.l1 * jnp.sum(jnp.abs(v)) + 0.5 * self.l2 * jnp.sum(v * v), x))

    def _prox(self, v, step):
        def shrink(leaf):
            s = _as_step(step, leaf)
            return jnp.sign(leaf) * jnp.maximum(jnp.abs(leaf) - s * self.l1, 0) / (1 + s * self.l2)

        return jax.tree.map(shrink, v)


class Ridge(Regularizer):
    """r(x) = ½λ‖x‖²; prox: v / (1 + sλ)."""

    strength: float
    smooth: bool = eqx.field(static=True, default=True)
    indicator: bool = eqx.field(static=True, default=False)

    def value(self, x):
        return _leaf_sum(jax.tree.map(lambda v: 0.5 * self.strength * jnp.sum(v * v), x))

    def _prox(self, v, step):
        return jax.tree.map(lambda leaf: leaf / (1 + _as_step(step, leaf) * self.strength), v)

    def curvature(self):
        return self.strength, self.strength


class Box(Regularizer):
    """Indicator of low ≤ x ≤ high; prox: clipping. Bounds are numbers, or pytrees of arrays like x."""

    low: PyTree
    high: PyTree
    smooth: bool = eqx.field(static=True, default=False)
    indicator: bool = eqx.field(static=True, default=True)

    def bounds(self, x: PyTree) -> tuple[PyTree, PyTree]:
        """(low, high), each like x."""
        return bound_like(self.low, x), bound_like(self.high, x)

    def value(self, x):
        low, high = self.bounds(x)
        return indicator_of(jax.tree.map(lambda v, a, b: jnp.maximum(a - v, v - b), x, low, high))

    def _prox(self, v, step):
        return jax.tree.map(jnp.clip, v, *self.bounds(v))


def bound_like(bound: PyTree, x: PyTree) -> PyTree:
    if jax.tree.structure(bound).num_nodes == 1 and jnp.ndim(bound) == 0:
        return jax.tree.map(lambda leaf: jnp.full(leaf.shape, bound, leaf.dtype), x)
    return jax.tree.map(lambda leaf, b: jnp.broadcast_to(jnp.asarray(b, leaf.dtype), leaf.shape), x, bound)


class Simplex(Regularizer):
    """Indicator of {x ≥ 0, Σ x = total} along the last axis of every leaf; prox: Euclidean projection by sorting."""

    total: float
    smooth: bool = eqx.field(static=True, default=False)
    indicator: bool = eqx.field(static=True, default=True)

    def value(self, x):
        def violation(v):
            off_sum = jnp.abs(jnp.sum(v, axis=-1) - self.total) / self.total
            return jnp.maximum(off_sum, jnp.max(-v, axis=-1))

        return indicator_of(jax.tree.map(violation, x))

    def _prox(self, v, step):
        return jax.tree.map(self._project, v)

    def _project(self, v):
        descending = -jnp.sort(-v, axis=-1)
        count = jnp.arange(1, v.shape[-1] + 1, dtype=v.dtype).reshape((1,) * (v.ndim - 1) + (-1,))
        threshold = (jnp.cumsum(descending, axis=-1) - self.total) / count
        # The support is the largest k whose k-th entry exceeds its threshold; the condition holds exactly up to k.
        support = jnp.sum(descending > threshold, axis=-1, keepdims=True)
        return jnp.maximum(v - jnp.take_along_axis(threshold, support - 1, axis=-1), 0)


class GroupLasso(Regularizer):
    """r(x) = λ Σ_g ‖x_g‖₂, one group for every index of the other axes; prox: block soft thresholding."""

    strength: float
    axis: int = eqx.field(static=True)
    smooth: bool = eqx.field(static=True, default=False)
    indicator: bool = eqx.field(static=True, default=False)

    def value(self, x):
        return _leaf_sum(jax.tree.map(lambda v: self.strength * jnp.sum(jnp.linalg.norm(v, axis=self.axis)), x))

    def _prox(self, v, step):
        def shrink(leaf):
            norm = jnp.linalg.norm(leaf, axis=self.axis, keepdims=True)
            # Where the norm is 0 any factor is right; 1 in the denominator keeps NaN out.
            factor = 1 - _as_step(step, leaf) * self.strength / jnp.where(norm > 0, norm, 1)
            return jnp.maximum(factor, 0) * leaf

        return jax.tree.map(shrink, v)


class Custom(Regularizer):
    """r given by the user's own value and prox."""

    of: Callable = eqx.field(static=True)
    proximal: Callable = eqx.field(static=True)
    smooth: bool = eqx.field(static=True)
    indicator: bool = eqx.field(static=True)

    def value(self, x):
        return self.of(x)

    def _prox(self, v, step):
        return self.proximal(v, step)


class Part(Regularizer):
    """A regulariser on the part `where(x)` of the variable."""

    base: Regularizer
    where: Callable = eqx.field(static=True)

    @property
    def smooth(self) -> bool:
        return self.base.smooth

    @property
    def indicator(self) -> bool:
        return self.base.indicator

    def value(self, x):
        return self.base.value(self.where(x))

    def _prox(self, v, step):
        return eqx.tree_at(self.where, v, self.base._prox(self.where(v), step))

    def curvature(self):
        known = self.base.curvature()
        return None if known is None else (known[0], 0.0)


def _strength(value: Any, what: str) -> float:
    number = float(value)
    if not np.isfinite(number) or number < 0:
        raise ValueError(f"{what}: got {value}, expected a finite number ≥ 0; give a strength such as 0.01")
    return number


def l1(strength: float | int) -> Regularizer:
    """r(x) = λ‖x‖₁ with λ = `strength`: sparse solutions.

    Raises:
        ValueError: `strength` is negative or not finite.
    """
    return ElasticNet(_strength(strength, "l1 strength"), 0.0)


def l2(strength: float | int) -> Regularizer:
    """r(x) = ½λ‖x‖² with λ = `strength`; smooth, so methods without a prox may use `problem.folded()`.

    Raises:
        ValueError: `strength` is negative or not finite.
    """
    return Ridge(_strength(strength, "l2 strength"))


def elastic_net(l1: float | int, l2: float | int) -> Regularizer:
    """r(x) = λ₁‖x‖₁ + ½λ₂‖x‖².

    Raises:
        ValueError: a strength is negative or not finite.
    """
    first, second = _strength(l1, "elastic_net l1"), _strength(l2, "elastic_net l2")
    return ElasticNet(first, second) if first else Ridge(second)


def box(low: PyTree, high: PyTree) -> Regularizer:
    """Constraint low ≤ x ≤ high. Bounds: numbers (infinite ones allowed), or pytrees of arrays shaped like x.

    Raises:
        ValueError: a bound is NaN, or low > high somewhere.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((low, high))):  # data of an agent, looked at before
        return Box(low, high)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((low, high))]
    if any(np.isnan(leaf).any() for leaf in leaves):
        raise ValueError("box: got NaN among the bounds, expected numbers; use -inf or inf for a side left open")
    same = jax.tree.structure(low) == jax.tree.structure(high)
    if same and any(np.any(np.asarray(a) > np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (low, high)), strict=True)):
        raise ValueError(f"box: got low = {low} above high = {high}, expected low ≤ high; swap the two bounds")
    return Box(low, high)


def nonnegative() -> Regularizer:
    """Constraint x ≥ 0."""
    return Box(0.0, float("inf"))


def simplex(total: float | int = 1.0) -> Regularizer:
    """Constraint x ≥ 0 and Σ x = total, along the last axis of every leaf (`[..., d]`: each row on its own simplex).

    Raises:
        ValueError: `total` is not positive.
    """
    if not (np.isfinite(total) and total > 0):
        raise ValueError(f"simplex total: got {total}, expected a positive number; 1.0 gives probabilities")
    return Simplex(float(total))


def group_lasso(strength: float | int, axis: int = -1) -> Regularizer:
    """r(x) = λ Σ_g ‖x_g‖₂: whole groups vanish together.

    A group is a slice along `axis`: with `axis=-1` every row of a leaf `[groups, k]` is one; a leaf `[k]` is one group.

    Raises:
        ValueError: `strength` is negative or not finite.
    """
    return GroupLasso(_strength(strength, "group_lasso strength"), axis)


def regularizer(value: Any, prox: Any, *, smooth: bool = False, indicator: bool = False) -> Regularizer:
    """Your own r: `value(x) -> scalar` and `prox(v, step) -> like v`, in `jax.numpy`.

    `smooth=True` promises a Lipschitz gradient; `indicator=True` promises that r is 0 or infinite.

    Raises:
        TypeError: `value` or `prox` cannot be called.
    """
    for name, function in (("value", value), ("prox", prox)):
        if not callable(function):
            raise TypeError(f"regularizer {name}: got {type(function).__name__}, expected a function; write it in jax.numpy")
    return Custom(value, prox, smooth, indicator)
