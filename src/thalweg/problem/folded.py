"""A problem whose smooth regulariser has been merged into every f_i."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from thalweg.problem.base import Local, Problem, scaled
from thalweg.problem.constants import Known, Memo
from thalweg.problem.inner import solve_prox
from thalweg.problem.regularizer import Regularizer, Ridge, Zero


class FoldedLocal(Local):
    """The oracle of n·w_i·(f_i + r)."""

    base: Local
    regularizer: Regularizer

    @property
    def scale(self) -> Array:
        return self.base.scale

    def loss(self, x):
        loss = self.base.loss(x)
        return loss + self.base.regularizer.value(x).astype(loss.dtype)

    def parted(self):
        return self.base, self.base.regularizer.value

    def _plus_r(self, gradient: PyTree, x: PyTree) -> PyTree:
        return jax.tree.map(jnp.add, gradient, scaled(jax.grad(self.base.regularizer.value)(x), self.scale))

    def stochastic_grad(self, x, key):
        return self._plus_r(self.base.stochastic_grad(x, key), x)

    def example_grad(self, x: PyTree, index: Any) -> PyTree:
        """As `EmpiricalRiskLocal.example_grad`, of loss + r."""
        return self._plus_r(self.base.example_grad(x, index), x)

    def batch_value_and_grad(self, x: PyTree, indices: Any, real: Any = None) -> tuple[Any, PyTree]:
        """As `EmpiricalRiskLocal.batch_value_and_grad`, of loss + r."""
        value, gradient = self.base.batch_value_and_grad(x, indices, real)
        term = scaled(self.base.regularizer.value(x), self.scale)
        return value + term.astype(value.dtype), self._plus_r(gradient, x)

    @property
    def frozen(self) -> Any:
        """What the loss needs and is not trained, or None."""
        return getattr(self.base, "frozen", None)

    @property
    def count(self) -> Any:
        """m_i where agents differ in it, else None."""
        return self.base.count

    @property
    def examples(self) -> Any:
        """Number of own examples."""
        return self.base.examples

    @property
    def max_examples(self) -> int:
        """The largest number of examples that any agent holds."""
        return self.base.max_examples

    def _prox(self, v, step, x_init):
        if isinstance(self.base.regularizer, Ridge):
            # φ + (λs̃/2)‖x‖² completes the square with the prox term: the same prox at a shrunk point and step.
            shrink = 1 / (1 + step * self.scale * self.base.regularizer.strength)
            return self.base._prox(scaled(v, shrink), step * shrink, x_init)
        return solve_prox(self.value, v, step, x_init)


class Folded(Problem):
    """`base` with f_i + r in place of f_i, and no regulariser. Made by `Problem.folded()`."""

    base: Problem
    memo: Memo = eqx.field(static=True, repr=False)
    regularizer: Regularizer | None = None

    def __init__(self, base: Problem):
        self.base, self.memo, self.regularizer = base, Memo(), None

    @property
    def pieces(self) -> PyTree:
        return self.base.pieces

    @property
    def x0(self) -> PyTree:
        return self.base.x0

    @property
    def weights(self) -> Any:
        return self.base.weights

    @property
    def frozen(self) -> PyTree:
        return getattr(self.base, "frozen", None)

    @property
    def names(self) -> tuple[str, ...] | None:
        return self.base.names

    @property
    def drifts(self) -> bool:
        return self.base.drifts

    def at(self, k):
        return eqx.tree_at(lambda p: p.base, self, self.base.at(k)) if self.drifts else self

    def fetch(self, members: Any) -> PyTree:
        """What the clients `members` of a streamed problem hold."""
        return self.base.fetch(members)

    def local(self, piece: PyTree) -> FoldedLocal:
        return FoldedLocal(self.base.local(piece), Zero())

    def _known_constants(self) -> Known:
        term = self.base.regularizer
        curvature = None if term is None else term.curvature()
        if curvature is None:
            return Known(None, None, "estimated")
        base, scale = self.base.constants, self.n * self.weights
        return Known(base.smoothness + curvature[0] * scale, base.strong_convexity + curvature[1] * scale, base.source)
