"""All agents at once, or block after block where their data are larger than the processor's caches.

A full gradient reads an agent's data twice: Fx on the way forward, Fᵀr on the way back. Over all agents at once the second
reading finds nothing of the first one in the cache, and a round takes twice as long as memory needs to deliver the data once.
Over blocks of agents whose data fit the cache it reads memory once. Data that a role reads once, or only in part (a
minibatch), gain nothing from blocks.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

# Bytes of data that the last cache is taken to hold, and of one block of agents.
CACHE = 2**25
BLOCK = 2**22

# Bytes of a number from which on blocks are worth it: a block is copied before it is read, which in single precision costs
# what it saves.
WIDE = 8

# What only renames an array, and what reads a part of it.
_LAYOUT = {"reshape", "transpose", "squeeze", "broadcast_in_dim", "convert_element_type", "copy"}
_PARTIAL = {"gather", "dynamic_slice", "slice"}
_MANY = 2  # readings in a loop: more than one


def vectorised(function: Callable, axes: tuple, block_bytes: int = BLOCK, cache_bytes: int = CACHE) -> Callable:
    """`jax.vmap(function, axes)`, evaluated block by block where that saves reading memory (CPU only).

    Entries of `axes` are 0 or None.
    """
    mapped = jax.vmap(function, in_axes=axes)

    def call(*args):
        n = _block_size(function, axes, args, block_bytes, cache_bytes)
        return mapped(*args) if n is None else _blockwise(mapped, axes, args, n)

    return call


def _block_size(function, axes, args, block_bytes, cache_bytes) -> int | None:
    """Agents in a block; None for all of them at once."""
    leaves = [leaf for arg, axis in zip(args, axes, strict=True) if axis == 0 for leaf in jax.tree.leaves(arg)]
    if jax.default_backend() != "cpu" or sum(leaf.nbytes for leaf in leaves) <= cache_bytes:
        return None
    one = [_first(arg) if axis == 0 else arg for arg, axis in zip(args, axes, strict=True)]
    closed, out = jax.make_jaxpr(function, return_shape=True)(*one)
    mine = [axis == 0 for arg, axis in zip(args, axes, strict=True) for _ in jax.tree.leaves(arg)]
    again = sum(
        var.aval.size * var.aval.dtype.itemsize
        for var, agents, count in zip(closed.jaxpr.invars, mine, readings(closed.jaxpr), strict=True)
        if agents and count > 1 and var.aval.dtype.itemsize >= WIDE
    )
    plain = all(jnp.issubdtype(leaf.dtype, jnp.number) or leaf.dtype == bool for leaf in jax.tree.leaves(out))
    n = leaves[0].shape[0]
    return block_bytes // again if plain and again * n > cache_bytes and again <= block_bytes else None


def _blockwise(mapped, axes, args, size: int):
    """`mapped(*args)` over blocks of at most `size` agents. The last block may overlap the one before it."""
    n = next(leaf.shape[0] for arg, axis in zip(args, axes, strict=True) if axis == 0 for leaf in jax.tree.leaves(arg))
    count = -(-n // size)
    size = -(-n // count)

    def body(i, results):
        start = jnp.minimum(i * size, n - size)
        cut = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size)
        block = mapped(*(jax.tree.map(cut, arg) if axis == 0 else arg for arg, axis in zip(args, axes, strict=True)))
        put = lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, start, 0)
        return jax.tree.map(put, results, block)

    blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(mapped, *args))
    return jax.lax.fori_loop(0, count, body, blank)


def readings(jaxpr) -> list[int]:
    """How often a program reads each of its arguments in full, not counting what its results do not need."""
    source = {var: i for i, var in enumerate(jaxpr.invars)}
    counts = [0] * len(jaxpr.invars)
    for equation in _needed(jaxpr):
        name = equation.primitive.name
        known = [(place, source[atom]) for place, atom in enumerate(equation.invars) if _is_known(atom, source)]
        if name in _LAYOUT and known:
            source[equation.outvars[0]] = known[0][1]
        elif name not in _PARTIAL and known:
            inside = list(_bodies(equation))
            for place, i in known:
                counts[i] += max((body[place] for body in inside if place in body), default=0 if inside else 1)
    return counts


def _bodies(equation) -> Iterator[dict[int, int]]:
    """For every program within an equation: position of an operand → how often it is read there."""
    params, name = equation.params, equation.primitive.name
    if name == "while":
        first, second = params["cond_nconsts"], params["body_nconsts"]
        carried = range(first + second, len(equation.invars))
        for body, own in (("cond_jaxpr", range(first)), ("body_jaxpr", range(first, first + second))):
            yield {place: _MANY * count for place, count in zip([*own, *carried], readings(params[body].jaxpr), strict=True)}
    elif name == "scan":
        times = [_MANY] * params["num_consts"] + [1] * len(equation.invars)
        yield {place: times[place] * count for place, count in enumerate(readings(params["jaxpr"].jaxpr))}
    elif name == "cond":
        for branch in params["branches"]:
            yield {place + 1: count for place, count in enumerate(readings(branch.jaxpr))}
    else:
        for body in (params[key] for key in ("jaxpr", "call_jaxpr") if key in params):
            yield dict(enumerate(readings(getattr(body, "jaxpr", body))))


def _needed(jaxpr) -> list[Any]:
    """The equations on which results depend."""
    live, needed = {atom for atom in jaxpr.outvars if not hasattr(atom, "val")}, []
    for equation in reversed(jaxpr.eqns):
        if any(var in live for var in equation.outvars):
            live.update(atom for atom in equation.invars if not hasattr(atom, "val"))
            needed.append(equation)
    return needed[::-1]


def _is_known(atom, source) -> bool:
    return not hasattr(atom, "val") and atom in source


def _first(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
