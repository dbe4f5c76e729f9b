"""What is to be minimised, and what one agent can ask of its own part of it.

    minimise over x   Σ_i w_i f_i(x) + r(x),   w_i ≥ 0,  Σ_i w_i = 1

A problem knows one agent's data and oracle. It knows no network, no algorithm and no engine.

Axes: `n` agents.
"""

import abc
import dataclasses
import functools
import hashlib
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from thalweg.problem.constants import Constants, Known, Memo, complete
from thalweg.problem.regularizer import Regularizer, check_step

Scalar = Float[Array, ""]
P = TypeVar("P", bound="Problem")


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


class Problem(eqx.Module):
    """minimise Σ_i w_i f_i(x) + r(x) over n agents; each f_i is known to agent i alone.

    Attributes:
        pieces: what the agents hold; every leaf has a leading axis n. An argument of compiled code, never a constant.
        x0: the starting point, the same for all; its structure, shapes and dtypes are those of x everywhere.
        weights: float64 `[n]`, w_i.
        regularizer: r, or None.
        names: the agents' names, or None.
    """

    pieces: eqx.AbstractVar[PyTree]
    x0: eqx.AbstractVar[PyTree]
    weights: eqx.AbstractVar[np.ndarray]
    regularizer: eqx.AbstractVar[Regularizer | None]
    names: eqx.AbstractVar[tuple[str, ...] | None]
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

    @property
    def n(self) -> int:
        """Number of agents."""
        return len(self.weights)

    @property
    def dtype(self) -> Any:
        """The floating dtype of x (the widest, where leaves differ)."""
        return jnp.result_type(*jax.tree.leaves(self.x0))

    @property
    def size(self) -> int:
        """Number of scalars in x."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.x0))

    @property
    def drifts(self) -> bool:
        """Whether the problem changes from round to round."""
        return False

    def at(self: P, k: Any) -> P:
        """The problem of round `k`; itself, unless it drifts."""
        return self

    def with_pieces(self: P, pieces: PyTree) -> P:
        """The same problem over other pieces of equal structure (traced, sharded, or of fewer agents)."""
        return eqx.tree_at(lambda problem: problem.pieces, self, pieces)

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
        leaves = jax.tree.leaves((self.pieces, self.x0))
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

    def fingerprint(self) -> str:
        """SHA-256 over data, weights, start, regulariser, structure and dtypes; another problem has another one.

        Functions enter by their qualified names, so that a checkpoint survives a new interpreter.
        """
        digest = hashlib.sha256()
        _digest(self, digest)
        return digest.hexdigest()


def _digest(value: Any, digest: Any) -> None:
    """Feed `value` and everything in it to `digest`, in an order that does not depend on the process."""
    if isinstance(value, Memo):
        return
    digest.update(f"{type(value).__qualname__}(".encode())
    if isinstance(value, (jax.Array, np.ndarray, np.generic)):
        array = np.asarray(value)
        digest.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            digest.update(f"{field.name}=".encode())
            _digest(getattr(value, field.name), digest)
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            digest.update(f"{key!r}:".encode())
            _digest(value[key], digest)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            _digest(entry, digest)
    elif isinstance(value, functools.partial):
        _digest([value.func, value.args, value.keywords], digest)
    elif callable(value):
        digest.update(getattr(value, "__qualname__", type(value).__qualname__).encode())
    else:
        digest.update(repr(value).encode())
    digest.update(b")")


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
