"""LoRA: small adapters on frozen parameters.

    W ← W + s·B A,   B [rows, rank] zero at the start,  A [rank, columns] normal

The adapters are x; the frozen parameters are an argument of the loss (`EmpiricalRisk(frozen=…)`), the same for all clients and
held once. Edward Hu et al., *LoRA: low-rank adaptation of large language models*, ICLR 2022.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg.algorithm.leaves import LeafFilter, paths


def lora(params: Any, rank: int, targets: Any = None, *, key: Any) -> dict[str, dict[str, jax.Array]]:
    """Adapters x0: path of the target → {"a": `[rank, columns]`, "b": `[rows, rank]`}; merged, they change nothing at first.

    Args:
        params: the frozen parameters.
        rank: of the change of each target.
        targets: which matrices: a function `(path, leaf) -> bool` with paths like "layers/0/weight", or a pytree of bools like
            `params` or its upper levels; all matrices when left out.
        key: of A, normal with variance 1/columns.

    Raises:
        ValueError: no target, a target that is not a matrix, or a rank above its sides.
    """
    leaves = jax.tree.leaves(params)
    if targets is None:
        chosen = [leaf.ndim == 2 for leaf in leaves]
    else:
        chosen = jax.tree.leaves(LeafFilter(targets, "lora(targets=…)").mask(params))
    adapters = {}
    for i, (path, leaf) in enumerate(zip(paths(params), leaves, strict=True)):
        if not chosen[i]:
            continue
        if leaf.ndim != 2:
            raise ValueError(f"lora target {path}: got shape {leaf.shape}, expected a matrix")
        rows, columns = leaf.shape
        if not 1 <= rank < min(rows, columns) + (min(rows, columns) == 1):
            raise ValueError(
                f"lora rank for {path}: got {rank}, expected 1 … {min(rows, columns) - 1} for a {rows}×{columns} matrix"
            )
        a = jax.random.normal(jax.random.fold_in(key, i), (rank, columns), leaf.dtype) / jnp.sqrt(columns).astype(leaf.dtype)
        adapters[path] = {"a": a, "b": jnp.zeros((rows, rank), leaf.dtype)}
    if not adapters:
        raise ValueError(f"lora: found no matrix among the leaves {', '.join(paths(params)[:10])}; adapters go onto matrices")
    return adapters


class LowRank(eqx.Module):
    """W + s·B A, not multiplied out: `matrix @ v` and `v @ matrix` cost two thin products more than with W alone.

    Anything else that asks for an array gets the sum.
    """

    weight: Any
    a: Any
    b: Any
    scale: float = eqx.field(static=True)
    low_rank = True

    @property
    def shape(self) -> tuple[int, ...]:
        """Of W."""
        return self.weight.shape

    @property
    def dtype(self) -> Any:
        """Of W."""
        return self.weight.dtype

    @property
    def ndim(self) -> int:
        """2."""
        return 2

    @property
    def T(self) -> "LowRank":
        """Wᵀ + s·Aᵀ Bᵀ."""
        return LowRank(self.weight.T, self.b.T, self.a.T, self.scale)

    def dense(self) -> jax.Array:
        """The sum, as an array."""
        return self.weight + jnp.asarray(self.scale, self.weight.dtype) * (self.b @ self.a)

    def __jax_array__(self) -> jax.Array:
        return self.dense()

    def __matmul__(self, v: Any) -> jax.Array:
        return self.weight @ v + jnp.asarray(self.scale, self.weight.dtype) * (self.b @ (self.a @ v))

    def __rmatmul__(self, v: Any) -> jax.Array:
        return v @ self.weight + jnp.asarray(self.scale, self.weight.dtype) * ((v @ self.b) @ self.a)


def attach(params: Any, adapters: dict[str, Any], scale: float = 1.0) -> Any:
    """`params` with a `LowRank` in place of every target: for models that multiply by `@`, as Equinox's do."""

    def one(path, leaf):
        found = adapters.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        return leaf if found is None else LowRank(leaf, found["a"], found["b"], scale)

    unknown = set(adapters) - set(paths(params))
    if unknown:
        raise ValueError(f"adapters for {', '.join(sorted(unknown))}: the parameters have no such leaf")
    return jax.tree_util.tree_map_with_path(one, params)


def merge(params: Any, adapters: dict[str, Any], scale: float = 1.0) -> Any:
    """`params` with s·B A added to every target: an ordinary model again."""
    is_low_rank = lambda node: isinstance(node, LowRank)
    dense = lambda node: node.dense() if is_low_rank(node) else node
    return jax.tree.map(dense, attach(params, adapters, scale), is_leaf=is_low_rank)


@dataclasses.dataclass(frozen=True)
class Adapted:
    """loss(adapters, example, frozen parameters) of a `model`, as `adapted` makes it. Equal ones compare equal."""

    model: Any
    scale: float
    merged: bool

    def predict(self, x: Any, features: Any, frozen: Any) -> Any:
        """The prediction for one example."""
        return self.model.predict((merge if self.merged else attach)(frozen, x, self.scale), features)

    def __call__(self, x: Any, example: Any, frozen: Any) -> Any:
        return self.model((merge if self.merged else attach)(frozen, x, self.scale), example)


def adapted(model: Any, scale: float = 1.0, merged: bool = False) -> Adapted:
    """The loss of adapters on a model's frozen parameters.

        model, params = tw.models.from_equinox(net, loss)
        adapters = tw.models.lora(params, rank=4, key=key)
        problem = tw.EmpiricalRisk(tw.models.adapted(model), data, adapters, frozen=params)
        tuned = tw.models.merge(params, result.x)

    Args:
        model: a loss of one example over the parameters.
        scale: s.
        merged: add B A to W before use, for models that do not multiply by `@` (every client then makes its own sum).
    """
    return Adapted(model, float(scale), merged)
