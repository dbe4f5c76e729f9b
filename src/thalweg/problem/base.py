"""What is to be minimised, and what one agent can ask of its own part of it.

    minimise over x   Σ_i w_i f_i(x) + r(x),   w_i ≥ 0,  Σ_i w_i = 1

A problem knows one agent's data and oracle. It knows no network, no algorithm and no engine.

Axes: `n` agents.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from thalweg.problem.constants import Constants, Known, Memo, complete
from thalweg.problem.regularizer import Regularizer, check_step
from thalweg.problem.scattered import Scattered

Scalar = Float[Array, ""]


def scaled(tree: PyTree, scale: Any) -> PyTree:
    """`scale`·tree, every leaf in its own dtype."""
    return jax.tree.map(lambda leaf: leaf * jnp.asarray(scale, leaf.dtype), tree)


class Local(eqx.Module):
    """The oracle of one agent: of φ_i = n·w_i·f_i, whose plain mean over the agents is Σ_i w_i f_i.

    Everything is pure and may be jitted, vmapped and differentiated; gradients have the structure, shapes and dtypes
    of x.

    Attributes:
        scale: n·w_i.
        regularizer: r, unscaled and the same for all (`Zero` where the problem has none).
    """

    scale: eqx.AbstractVar[Array]
    regularizer: eqx.AbstractVar[Regularizer]

    @abc.abstractmethod
    def loss(self, x: PyTree) -> Scalar:
        """f_i(x), unscaled."""

    def parted(self) -> "tuple[Local, Callable[[PyTree], Any]]":
        """(the oracle of what is the agent's own alone, what was folded into its f_i beside that, as a function of x)."""
        return self, lambda x: jnp.zeros(())

    @abc.abstractmethod
    def stochastic_grad(self, x: PyTree, key: PRNGKeyArray) -> PyTree:
        """An unbiased estimate of ∇φ_i(x)."""

    @abc.abstractmethod
    def _prox(self, v: PyTree, step: Any, x_init: PyTree) -> PyTree:
        """The prox of φ_i, with arguments checked and filled."""

    def value(self, x: PyTree) -> Scalar:
        """φ_i(x)."""
        return scaled(self.loss(x), self.scale)

    def grad(self, x: PyTree) -> PyTree:
        """∇φ_i(x)."""
        return scaled(jax.grad(self.loss)(x), self.scale)

    def value_and_grad(self, x: PyTree) -> tuple[Scalar, PyTree]:
        """φ_i(x) and ∇φ_i(x)."""
        return scaled(jax.value_and_grad(self.loss)(x), self.scale)

    def prox(self, v: PyTree, step: Any, x_init: PyTree | None = None) -> PyTree:
        """argmin_x φ_i(x) + ‖x − v‖²/(2·step).

        In closed form where the problem has one; else by the damped Newton method of `thalweg.problem.inner`, from
        `x_init` (default `v`), to about 2e-12 relative in float64 and 6e-6 in float32.

        Raises:
            ValueError: `step` is known and not positive.
        """
        check_step(step)
        return self._prox(v, step, v if x_init is None else x_init)


class Problem(Scattered):
    """minimise Σ_i w_i f_i(x) + r(x) over n agents; each f_i is known to agent i alone.

    Attributes:
        regularizer: r, or None. Else as `Scattered`.
    """

    regularizer: eqx.AbstractVar[Regularizer | None]
    memo: eqx.AbstractVar[Memo]

    @abc.abstractmethod
    def local(self, piece: PyTree) -> Local:
        """The oracle of the agent that holds `piece` (one entry of `pieces`, without the leading axis)."""

    @abc.abstractmethod
    def _known_constants(self) -> Known:
        """What is known of L_i and μ_i of the φ_i without looking at Hessians."""

    def __repr__(self) -> str:
        term = "" if self.regularizer is None else f", r = {self.regularizer}"
        return f"{type(self).__name__}({self.n} agents, {self.size} variables, {self.dtype}{term})"

    def folded(self) -> "Problem":
        """The same problem with a smooth r merged into every f_i, for methods without a prox.

        f_i + r replaces f_i; since Σ w_i = 1, the sum is unchanged.

        Raises:
            ValueError: r is not smooth.
        """
        if self.regularizer is None:
            return self
        if not self.regularizer.smooth:
            raise ValueError(
                f"folded: got the regularizer {self.regularizer}, which is not smooth, expected a smooth one such as "
                "tw.l2; use an algorithm that handles a prox (PG-EXTRA, proximal tracking), or drop the term"
            )
        from thalweg.problem.folded import Folded

        return Folded(self)

    def objective(self, x: PyTree) -> Scalar:
        """Σ_i w_i f_i(x) + r(x)."""
        return _objective(self, x)

    def gradient(self, x: PyTree) -> PyTree:
        """Σ_i w_i ∇f_i(x), like x (r is not included)."""
        return _gradient(self, x)

    def losses(self, x: PyTree) -> Float[Array, " n"]:
        """f_i(x) of every agent at the common x, unscaled, `[n]`."""
        return _losses(self, x)

    def gradients(self, x: PyTree) -> PyTree:
        """∇f_i(x) of every agent at the common x, unscaled; like x with a leading axis n."""
        return _gradients(self, x)

    @property
    def constants(self) -> Constants:
        """L_i and μ_i of the φ_i, and how they were found; computed once."""
        leaves = jax.tree.leaves(eqx.filter(self, eqx.is_array))
        if (found := self.memo.recall(leaves)) is None:
            found = complete(self._known_constants(), self)
            self.memo.remember(leaves, found)
        return found

    @property
    def smoothness(self) -> np.ndarray:
        """Lipschitz constants L_i of ∇φ_i, `[n]`."""
        return self.constants.smoothness

    @property
    def strong_convexity(self) -> np.ndarray:
        """Moduli μ_i of strong convexity of φ_i, `[n]`."""
        return self.constants.strong_convexity


def _smooth_part(problem: Problem, x: PyTree) -> Scalar:
    losses = _losses(problem, x)
    return jnp.sum(jnp.asarray(problem.weights, losses.dtype) * losses)


@eqx.filter_jit
def _losses(problem: Problem, x: PyTree) -> Float[Array, " n"]:
    return jax.vmap(lambda piece: problem.local(piece).loss(x))(problem.pieces)


@eqx.filter_jit
def _gradients(problem: Problem, x: PyTree) -> PyTree:
    return jax.vmap(lambda piece: jax.grad(problem.local(piece).loss)(x))(problem.pieces)


@eqx.filter_jit
def _objective(problem: Problem, x: PyTree) -> Scalar:
    smooth = _smooth_part(problem, x)
    return smooth if problem.regularizer is None else smooth + problem.regularizer.value(x).astype(smooth.dtype)


@eqx.filter_jit
def _gradient(problem: Problem, x: PyTree) -> PyTree:
    return jax.grad(lambda x: _smooth_part(problem, x))(x)
