"""What all problems have in common: n agents, each of which holds a piece.

Axes: `n` agents.
"""

import dataclasses
import functools
import hashlib
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from thalweg.problem.constants import Memo

S = TypeVar("S", bound="Scattered")


class Scattered(eqx.Module):
    """n agents, each of which holds a piece of one problem.

    Attributes:
        pieces: what the agents hold; every leaf has a leading axis n. An argument of compiled code, never a constant.
        x0: where an agent's variable starts, the same for all; its structure, shapes and dtypes are those of x everywhere.
        weights: float64 `[n]`, w_i.
        names: the agents' names, or None.
    """

    pieces: eqx.AbstractVar[PyTree]
    x0: eqx.AbstractVar[PyTree]
    weights: eqx.AbstractVar[np.ndarray]
    names: eqx.AbstractVar[tuple[str, ...] | None]

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

    def at(self: S, k: Any) -> S:
        """The problem of round `k`; itself, unless it drifts."""
        return self

    def with_pieces(self: S, pieces: PyTree) -> S:
        """The same problem over other pieces of equal structure (traced, sharded, or of fewer agents)."""
        return eqx.tree_at(lambda problem: problem.pieces, self, pieces)

    def fingerprint(self) -> str:
        """SHA-256 over data, weights, start, structure and dtypes; another problem has another one.

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
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # not every dtype is a buffer
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            digest.update(f"{field.name}=".encode())
            _digest(getattr(value, field.name), digest)
    elif isinstance(value, dict):
        for key in sorted(value, key=repr):
            digest.update(f"{key!r}:".encode())
            _digest(value[key], digest)
    elif isinstance(value, tuple) and all(type(entry) is str for entry in value):  # names: there may be many
        digest.update("".join(f"str({entry!r})" for entry in value).encode())
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
