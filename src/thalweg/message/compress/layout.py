"""A message as one vector: its floating leaves side by side, whatever else it holds apart."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def in_rows(values: Array, width: int) -> Array:
    """`values` `[m]` as rows `[⌈m/width⌉, width]`, filled up with zeros."""
    missing = -values.shape[0] % width
    if missing:  # `jnp.pad` takes several times as long on CPU
        values = jnp.concatenate([values, jnp.zeros(missing, values.dtype)])
    return values.reshape(-1, width)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where the numbers of a message stand in its vector, read off shapes.

    Attributes:
        structure: of the message's tree; shapes, dtypes: of its leaves in tree order.
    """

    structure: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, tree: Any) -> "Layout":
        """Of a message, or of its shapes."""
        leaves, structure = jax.tree.flatten(tree)
        return cls(structure, tuple(leaf.shape for leaf in leaves), tuple(np.dtype(leaf.dtype) for leaf in leaves))

    @property
    def floating(self) -> list[int]:
        """Which leaves are of a floating type."""
        return [i for i, dtype in enumerate(self.dtypes) if jnp.issubdtype(dtype, jnp.floating)]

    @property
    def size(self) -> int:
        """d, the length of the vector."""
        return sum(math.prod(self.shapes[i]) for i in self.floating)

    @property
    def vector(self) -> jax.ShapeDtypeStruct:
        """Shape `[d]` of the vector; its type is the widest of the leaves, single precision at least."""
        return jax.ShapeDtypeStruct((self.size,), jnp.result_type(jnp.float32, *(self.dtypes[i] for i in self.floating)))

    def join(self, tree: Any) -> tuple[Float[Array, " d"], list[Array]]:
        """(the vector, the leaves that are no floats)."""
        leaves, chosen = jax.tree.leaves(tree), set(self.floating)
        dtype = self.vector.dtype
        parts = [leaves[i].astype(dtype).reshape(-1) for i in self.floating]
        return jnp.concatenate(parts or [jnp.zeros(0, dtype)]), [x for i, x in enumerate(leaves) if i not in chosen]

    def part(self, vector: Float[Array, " d"], others: list[Array]) -> Any:
        """Inverse of `join`."""
        sizes = [math.prod(self.shapes[i]) for i in self.floating]
        parts = iter(jnp.split(vector, np.cumsum(sizes)[:-1]) if sizes else ())
        rest, chosen = iter(others), set(self.floating)
        leaves = [
            next(parts).reshape(shape).astype(dtype) if i in chosen else next(rest)
            for i, (shape, dtype) in enumerate(zip(self.shapes, self.dtypes, strict=True))
        ]
        return self.structure.unflatten(leaves)
