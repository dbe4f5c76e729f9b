"""Compiled functions that are called many times a second by a plain Python process."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np

from thalweg.engine.executor import Vectorised


class Compiled:
    """`function(executor, *trees) → tree, or a tuple of them`, compiled and called by leaves: flattening modules takes longer than
    a small round.

    What the function returns as `Kept(tree)` comes back as `Held`, which the next call takes as it is. A tree that is the very
    object of the call before is not flattened again. Equal functions share what was compiled.
    """

    def __init__(self, function: Callable, deterministic: bool):
        self._program, self._known = _program(function, deterministic), {}

    def __call__(self, *trees: Any) -> Any:
        flat = [tree if type(tree) is Held else self._flatten(place, tree) for place, tree in enumerate(trees)]
        return self._program(tuple(held.structure for held in flat), [held.leaves for held in flat])

    def _flatten(self, place: int, tree: Any) -> "Held":
        known = self._known.get(place)
        if known is not None and known[0] is tree:
            return known[1]
        if issubclass(
            type(tree), np.ndarray | np.generic | jax.Array
        ):  # `isinstance` would ask a module for its class, in Python
            return Held([tree], _LEAF)
        arrays, static = eqx.partition(tree, eqx.is_array)
        leaves, structure = jax.tree.flatten(arrays)
        found = Held(leaves, structure_of(structure, static if jax.tree.leaves(static) else None))
        self._known[place] = tree, found
        return found


class Held:
    """A tree that goes from one compiled function to the next; `tree` is it."""

    __slots__ = ("leaves", "structure")

    def __init__(self, leaves: list, structure: "_Structure"):
        self.leaves, self.structure = leaves, structure

    @property
    def tree(self) -> Any:
        return self.structure.filled(self.leaves)


def plain(value: Any) -> Any:
    """The tree, whether it is held or not."""
    return value.tree if isinstance(value, Held) else value


class Kept:
    """Inside a compiled function: a result of which Python needs nothing."""

    def __init__(self, tree: Any):
        self.tree = tree


@functools.cache
def bound(function: Callable, *fixed: Any) -> Callable:
    """`function` with its first arguments fixed; the same object for the same ones, so that it is compiled once."""
    return functools.partial(function, *fixed)


@functools.cache
def _program(function: Callable, deterministic: bool) -> "_Program":
    return _Program(function, deterministic)


class _Program:
    """One jitted function and, by the structures of its arguments, those of its results."""

    def __init__(self, function: Callable, deterministic: bool):
        self._function, self._deterministic, self._results = function, deterministic, {}
        self._run, self._first = jax.jit(self._flat, static_argnums=0), threading.Lock()

    def __call__(self, structures: tuple, parts: list) -> Any:
        results = self._results.get(structures)
        if results is None:
            with self._first:  # sites that are threads of one process compile once
                found = self._run(structures, _zero(), parts)
            results = self._results[structures]
        else:
            found = self._run(structures, _zero(), parts)
        back = [Held(part, s) if kept else s.filled(part) for part, (kept, s) in zip(found, results, strict=True)]
        return back[0] if len(back) == 1 else tuple(back)

    def _flat(self, structures: tuple, zero, parts: Sequence[list]) -> list[list]:
        trees = [s.filled(part) for s, part in zip(structures, parts, strict=True)]
        result = self._function(Vectorised(zero, self._deterministic), *trees)
        found, kinds = [], []
        for part in result if type(result) is tuple else (result,):
            kept = isinstance(part, Kept)
            leaves, structure = jax.tree.flatten(part.tree if kept else part)
            found.append(leaves)
            kinds.append((kept, structure_of(structure)))
        self._results[structures] = kinds
        return found


@functools.cache
def _zero() -> jax.Array:
    return jax.device_put(np.uint32(0))


class _Structure:
    """Where the arrays of a tree stand, and everything in it that is no array (None: nothing). Made by `structure_of` alone."""

    def __init__(self, tree: Any, static: Any):
        self._tree, self.static = tree, static

    def filled(self, leaves: Sequence[Any]) -> Any:
        """The tree with these arrays."""
        tree = jax.tree.unflatten(self._tree, leaves)
        return tree if self.static is None else eqx.combine(tree, self.static)


_ALIKE: dict[Any, list[_Structure]] = {}
_ALIKE_LOCK = threading.Lock()


def structure_of(tree: jax.tree_util.PyTreeDef, static: Any = None) -> _Structure:
    """One object for equal structures: that two are one is seen at once, to compare them takes longer than a small round."""
    with _ALIKE_LOCK:
        alike = _ALIKE.setdefault(tree, [])
        for known in alike:
            if known.static is static or eqx.tree_equal(known.static, static) is True:
                return known
        alike.append(_Structure(tree, static))
        return alike[-1]


_LEAF = structure_of(jax.tree.structure(0))
