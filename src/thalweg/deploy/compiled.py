"""Compiled functions that are called many times a second by a plain Python process."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from thalweg.engine.executor import Vectorised


class Compiled:
    """`function(executor, *trees) → tree`, compiled and called by leaves: flattening modules takes longer than a small round.

    A tree that is the very object of the call before is not flattened again. Equal functions share what was compiled.
    """

    def __init__(self, function: Callable, deterministic: bool):
        self._program, self._known = _program(function, deterministic), {}

    def __call__(self, *trees: Any) -> Any:
        flat = [self._flatten(place, tree) for place, tree in enumerate(trees)]
        return self._program(tuple(structure for _, structure in flat), [leaves for leaves, _ in flat])

    def _flatten(self, place: int, tree: Any) -> tuple[list, Any]:
        known = self._known.get(place)
        if known is None or known[0] is not tree:
            arrays, static = eqx.partition(tree, eqx.is_array)
            leaves, structure = jax.tree.flatten(arrays)
            known = self._known[place] = (tree, leaves, _Structure(structure, static))
        return known[1], known[2]


@functools.cache
def bound(function: Callable, *fixed: Any) -> Callable:
    """`function` with its first arguments fixed; the same object for the same ones, so that it is compiled once."""
    return functools.partial(function, *fixed)


@functools.cache
def _program(function: Callable, deterministic: bool) -> "_Program":
    return _Program(function, deterministic)


class _Program:
    """One jitted function and, by the structures of its arguments, that of its results."""

    def __init__(self, function: Callable, deterministic: bool):
        self._function, self._deterministic, self._results = function, deterministic, {}
        self._run, self._first = jax.jit(self._flat, static_argnums=0), threading.Lock()

    def __call__(self, structures: tuple, parts: list) -> Any:
        if structures in self._results:
            leaves = self._run(structures, np.uint32(0), parts)
        else:
            with self._first:  # sites that are threads of one process compile once
                leaves = self._run(structures, np.uint32(0), parts)
        return jax.tree.unflatten(self._results[structures], leaves)

    def _flat(self, structures: tuple, zero, parts: Sequence[list]) -> list:
        trees = [eqx.combine(jax.tree.unflatten(s.tree, part), s.static) for s, part in zip(structures, parts, strict=True)]
        leaves, self._results[structures] = jax.tree.flatten(self._function(Vectorised(zero, self._deterministic), *trees))
        return leaves


class _Structure(NamedTuple):
    """Of an argument: where its arrays stand, and everything in it that is no array."""

    tree: Any
    static: Any

    def __hash__(self) -> int:
        return hash(self.tree)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Structure) and self.tree == other.tree and eqx.tree_equal(self.static, other.static) is True
