"""Empirical risk: every agent averages a loss over its own examples, of which it may have any number.

Axes: `n` agents, `m` examples (padded to the largest m_i).
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from thalweg.data.federated import FederatedData
from thalweg.data.padding import stack
from thalweg.problem import checks
from thalweg.problem.base import Local, Problem, scaled
from thalweg.problem.constants import Known, Memo, given
from thalweg.problem.inner import solve_prox
from thalweg.problem.regularizer import Regularizer, Zero

# Examples times variables up to which the gradients of all agents are looked at before a run.
CHECKED_COST = 2_000_000_000


class ExamplesPiece(eqx.Module):
    """What one agent holds (stacked: a leading axis n everywhere).

    Attributes:
        scale: n·w_i.
        data: the examples, leaves `[m, ...]`.
        count: m_i, or None where all agents have m.
        mask: `[m]`, 1 for an example and 0 for padding, or None where all agents have m.
    """

    scale: Float[Array, "..."]
    data: PyTree
    count: Int[Array, "..."] | None
    mask: Float[Array, "..."] | None


class EmpiricalRiskLocal(Local):
    """The oracle of φ_i = n·w_i·mean_j loss(·, example_j)."""

    scale: Array
    data: PyTree
    count: Array | None
    mask: Array | None
    regularizer: Regularizer
    frozen: PyTree
    function: Callable = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)

    def one(self, x: PyTree, example: PyTree) -> Any:
        """loss(x, example), with what is frozen where there is something."""
        return self.function(x, example) if self.frozen is None else self.function(x, example, self.frozen)

    @property
    def max_examples(self) -> int:
        """The largest number of examples that any agent holds; a table over examples has this length."""
        return jax.tree.leaves(self.data)[0].shape[0]

    @property
    def examples(self) -> Any:
        """m_i, the number of own examples."""
        return self.max_examples if self.count is None else self.count

    def loss(self, x):
        each = jax.vmap(self.one, in_axes=(None, 0))(x, self.data)
        if self.mask is None or self.count is None:
            return jnp.mean(each)
        return jnp.sum(each * self.mask.astype(each.dtype)) / self.count.astype(each.dtype)

    def draw(self, key: PRNGKeyArray) -> Int[Array, " batch"]:
        """Indices of a minibatch, uniform and independent (with replacement): unbiased for every m_i, at O(batch)."""
        return jax.random.randint(key, (self.batch_size,), 0, self.examples)

    def batch_grad(self, x: PyTree, indices: Int[Array, " batch"]) -> PyTree:
        """∇ of n·w_i·(mean loss over the examples at `indices`)."""
        batch = jax.tree.map(lambda leaf: leaf[indices], self.data)
        each = jax.vmap(self.one, in_axes=(None, 0))
        return scaled(jax.grad(lambda x: jnp.mean(each(x, batch)))(x), self.scale)

    def batch_value_and_grad(self, x: PyTree, indices: Int[Array, " batch"], real: Any = None) -> tuple[Any, PyTree]:
        """n·w_i·(mean loss over the examples at `indices`) and its gradient; of those that are `real` where that is given."""
        batch = jax.tree.map(lambda leaf: leaf[indices], self.data)

        def mean(x):
            each = jax.vmap(self.one, in_axes=(None, 0))(x, batch)
            if real is None:
                return jnp.mean(each)
            return jnp.sum(jnp.where(real, each, 0)) / jnp.maximum(jnp.sum(real), 1).astype(each.dtype)

        return scaled(jax.value_and_grad(mean)(x), self.scale)

    def stochastic_grad(self, x, key):
        """∇ over a drawn minibatch; the full ∇φ_i(x) when the problem has no `batch_size`."""
        return self.grad(x) if self.batch_size is None else self.batch_grad(x, self.draw(key))

    def example_grad(self, x: PyTree, index: Any) -> PyTree:
        """n·w_i·∇loss(x, example `index`); its mean over the own examples is ∇φ_i(x)."""
        example = jax.tree.map(lambda leaf: leaf[index], self.data)
        return scaled(jax.grad(self.one)(x, example), self.scale)

    def _prox(self, v, step, x_init):
        return solve_prox(self.value, v, step, x_init)


class EmpiricalRisk(Problem):
    """minimise Σ_i w_i mean_j loss(x, example_ij) + r(x).

    Arguments:
        loss: `loss(x, example) -> scalar`, differentiable, in `jax.numpy`; define it once, at module level.
        data: a list of n pytrees with leaves `[m_i, ...]` (m_i may differ), or one pytree with leaves `[n, m, ...]`, or a
            `FederatedData`, of which `train` and `names` are taken. Floating arrays are cast to the dtype of x0.
        x0: the common starting point, a pytree of floating arrays.
        weights: "examples" (w_i ∝ m_i: the optimum is that of the pooled data), "uniform" (every agent counts the
            same), or `[n]`.
        batch_size: examples in a minibatch of `stochastic_grad`, drawn with replacement; all of them when left out.
        frozen: a pytree of arrays that the loss needs and that is not trained (pretrained parameters): the loss is then
            `loss(x, example, frozen)`. It is the same for all agents, held once, and an argument of compiled code. Floating arrays
            keep their dtype.
        regularizer, smoothness, strong_convexity, names: as for `Consensus`.

    Agents with fewer examples are padded with a repeated example of weight 0, so no padding can turn into NaN.

    Raises:
        ValueError, TypeError: as `Consensus`; also agents without data, and a bad `batch_size`.
    """

    pieces: ExamplesPiece
    x0: PyTree
    weights: np.ndarray
    regularizer: Regularizer | None
    counts: np.ndarray
    curvature: tuple[np.ndarray | None, np.ndarray | None]
    frozen: PyTree
    function: Callable = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    names: tuple[str, ...] | None = eqx.field(static=True)
    memo: Memo = eqx.field(static=True, repr=False)

    def __init__(
        self,
        loss: Any,
        data: PyTree,
        x0: PyTree,
        *,
        weights: Any = "examples",
        batch_size: Any = None,
        frozen: PyTree = None,
        regularizer: Any = None,
        smoothness: Any = None,
        strong_convexity: Any = None,
        names: Sequence[str] | None = None,
    ):
        self.x0 = checks.start(x0)
        if isinstance(data, FederatedData):
            data, names = data.train, data.names if names is None else names
        padded, counts = pad_agents(data, names)
        n = len(counts)
        self.names = checks.agent_names(names, n)
        self.counts = counts
        self.weights = checks.normalised_weights(_weights(weights, counts), n, self.names)
        if batch_size is not None and not (isinstance(batch_size, (int, np.integer)) and batch_size >= 1):
            raise ValueError(f"batch_size: got {batch_size!r}, expected an integer ≥ 1, or None for all examples")
        self.batch_size = None if batch_size is None else int(batch_size)
        self.regularizer = checks.regularizer(regularizer, self.x0)
        constants = given(smoothness, strong_convexity, n)
        self.curvature = (constants.smoothness, constants.strong_convexity)
        self.function, self.memo = loss, Memo()
        self.frozen = None if frozen is None else jax.tree.map(jnp.asarray, frozen)
        self.pieces = self._pack(padded)
        first = jax.tree.map(lambda leaf: leaf[0, 0], self.pieces.data)
        checks.loss_function(loss, self.x0, first, "loss(x, example)", self.frozen)
        looked_at = self._looked_at()
        checks.finite_gradients(looked_at.gradients(self.x0), looked_at.losses(self.x0), self.names)

    def _looked_at(self) -> "EmpiricalRisk":
        """The agents whose gradients at x0 are checked: all, unless that would cost as much as many rounds."""
        cost = self.n * int(self.counts.max()) * self.size
        if cost <= CHECKED_COST:
            return self
        return self.with_pieces(jax.tree.map(lambda leaf: leaf[:1], self.pieces))

    def _pack(self, padded: PyTree) -> ExamplesPiece:
        scale = jnp.asarray(self.n * self.weights, self.dtype)
        data = checks.to_device(padded, self.dtype)
        if len(set(self.counts.tolist())) == 1:
            return ExamplesPiece(scale, data, None, None)
        length = jax.tree.leaves(padded)[0].shape[1]
        real = np.arange(length)[None, :] < self.counts[:, None]
        return ExamplesPiece(scale, data, jnp.asarray(self.counts, jnp.int32), jnp.asarray(real, self.dtype))

    def local(self, piece: ExamplesPiece) -> EmpiricalRiskLocal:
        return EmpiricalRiskLocal(
            piece.scale, piece.data, piece.count, piece.mask, self.regularizer or Zero(), self.frozen, self.function,
            self.batch_size,
        )  # fmt: skip

    def _known_constants(self) -> Known:
        return Known(*self.curvature, "given").times(self.n * self.weights)


def _weights(weights: Any, counts: np.ndarray) -> Any:
    if isinstance(weights, str):
        if weights not in ("examples", "uniform"):
            raise ValueError(f"weights: got {weights!r}, expected 'examples', 'uniform', or one number per agent")
        return counts if weights == "examples" else np.ones(len(counts))
    return weights


def pad_agents(data: PyTree, names: Sequence[str] | None) -> tuple[PyTree, np.ndarray]:
    """All examples as NumPy arrays `[n, max m_i, ...]`, padded as by `stack`, and the counts m_i, int64 `[n]`.

    Raises:
        ValueError: an agent without data, arrays of one agent that differ in length, NaN, differing structures.
    """
    if not isinstance(data, list):
        stacked = checks.host(data)
        checks.leading_axis(stacked)
        lengths = {leaf.shape[1] if leaf.ndim > 1 else None for leaf in jax.tree.leaves(stacked)}
        if len(lengths) != 1 or None in lengths:
            raise ValueError(
                f"data: got example axes of lengths {lengths}, expected leaves [n, m, ...] with one m; "
                "or pass a list with one entry per agent"
            )
        n, m = jax.tree.leaves(stacked)[0].shape[:2]
        counts = np.full(n, m)
        _refuse_empty(counts, names)
        checks.finite(stacked, names, per_agent=False)
        return stacked, counts
    parts = [checks.host(part) for part in data]
    checks.same_structure(parts, names, skip=1)
    counts = np.array([_count(part, i, names) for i, part in enumerate(parts)])
    _refuse_empty(counts, names)
    checks.finite(parts, names, per_agent=True)
    return jax.tree.map(lambda *leaves: stack(leaves, int(counts.max())), *parts), counts


def _count(part: PyTree, i: int, names: Sequence[str] | None) -> int:
    lengths = {checks.where(path): leaf.shape[:1] for path, leaf in jax.tree_util.tree_leaves_with_path(part)}
    if len(set(lengths.values())) != 1 or () in lengths.values():
        raise ValueError(
            f"data of {checks.agent(names, i)}: got lengths {lengths}, expected arrays with one common leading axis of "
            "examples; features and labels must pair up"
        )
    return next(iter(lengths.values()))[0]


def _refuse_empty(counts: np.ndarray, names: Sequence[str] | None) -> None:
    for i in np.flatnonzero(counts == 0):
        raise ValueError(f"{checks.agent(names, i)} has no data: got 0 examples, expected at least 1; leave this agent out")
