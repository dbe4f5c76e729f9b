"""Clients one after another, each in one jitted call: how a cohort is computed where side by side is slow (see `plans`).

What clients send stays as they returned it, one array per client (`Rows`). Their stack would copy every model once to make it,
and once more to take a client's row out again.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .debug import OneByOne
from .fence import isolate

# Roles whose results are read row by row, or through an executor that stacks them where a stack is wanted.
APART = ("work", "encode", "measure")
# Rows added up in one call: a call for each would write the sum as often, one for all has an argument for every client.
CHUNK = 10
# XLA's new library of kernels for the CPU, without its convolutions, which are slower than Eigen's where kernels are small
# (`python -m benchmarks.federated --only cnn`).
KERNELS = {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_REDUCE"}


class Rows:
    """One leaf of several clients, not stacked. To `jax.tree` it is a leaf."""

    def __init__(self, each: Sequence[Any]):
        self.each = each

    def stacked(self) -> Any:
        """`[c, ...]`."""
        if self.each[0].ndim == 0 and not jnp.issubdtype(self.each[0].dtype, jax.dtypes.extended):
            return jnp.asarray(np.stack(self.each))  # many numbers one by one, without a call for each
        return jnp.stack(self.each)


class Sequential(OneByOne):
    """`OneByOne` for speed: nothing is checked or packed, rows are taken and added up inside compiled code.

    With `isolated` every result has the bits of the other deterministic engines.
    """

    def __init__(self, isolated: bool):
        super().__init__(check=False, isolated=isolated)

    def role(self, name: str, function: Callable, *args: Any, axes: tuple) -> Any:
        leaves = [leaf for arg, axis in zip(args, axes, strict=True) if axis == 0 for leaf in jax.tree.leaves(arg)]
        n = next(len(leaf.each) if isinstance(leaf, Rows) else leaf.shape[0] for leaf in leaves)
        # True where compiled code is to take a client's row out of a stack.
        stacks = tuple(jax.tree.map(lambda leaf, axis=axis: axis == 0 and not isinstance(leaf, Rows), arg)
                       for arg, axis in zip(args, axes, strict=True))  # fmt: skip

        def one(i, *args):
            return function(*jax.tree.map(lambda stack, leaf: leaf[i] if stack else leaf, stacks, args))

        key = (name, tuple(jax.tree.leaves(stacks)))
        if key not in self._compiled:
            run = lambda zero, i, *args: isolate(one, zero)(i, *args) if self.isolated else one(i, *args)
            self._compiled[key] = jax.jit(run, compiler_options=None if self.isolated else kernels())
        compiled, zero, results = self._compiled[key], jnp.asarray(0, jnp.uint32), []
        for i in range(n):
            mine = jax.tree.map(lambda leaf, i=i: leaf.each[i] if isinstance(leaf, Rows) else leaf, args)
            results.append(compiled(zero, np.int32(i), *mine))
        rows = jax.tree.map(lambda *leaves: Rows(leaves), *results)
        return rows if name.split()[0] in APART else self.everyone(rows)

    def everyone(self, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: leaf.stacked() if isinstance(leaf, Rows) else leaf, tree)

    def put(self, tree: Any, members, rows: Any, keep, whole: bool = False) -> Any:
        return super().put(tree, members, self.everyone(rows), keep)

    def weighted(self, name: str, weights, tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        if self.isolated or not all(isinstance(leaf, Rows) for leaf in leaves):
            return super().weighted(name, weights, self.everyone(tree))
        total = None
        for start in range(0, weights.shape[0], CHUNK):
            total = _added(total, weights[start : start + CHUNK], [leaf.each[start : start + CHUNK] for leaf in leaves])
        return jax.tree.unflatten(structure, total)


@functools.partial(jax.jit, donate_argnums=0)
def _added(total: list[Any] | None, weights: Any, rows: list[Sequence[Any]]) -> list[Any]:
    """`total` and Σ_i weights_i·row_i, leaf by leaf; None is no total yet."""
    if total is None:
        total = [jnp.zeros_like(each[0]) for each in rows]
    for weight, *leaves in zip(weights, *rows, strict=True):
        parts = [jnp.where(weight == 0, 0, weight.astype(leaf.dtype) * leaf) for leaf in leaves]
        total = [so_far + part for so_far, part in zip(total, parts, strict=True)]
    return total


@functools.cache
def kernels() -> dict[str, str] | None:
    """`KERNELS`, or None where this machine's compiler has no such choice."""
    try:
        jax.jit(lambda: jnp.zeros(()), compiler_options=KERNELS)()
    except jax.errors.JaxRuntimeError:
        return None
    return KERNELS
