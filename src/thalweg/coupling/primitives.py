"""How each operation of JAX passes on what its results depend on.

A dependence is a Python integer used as a set: bit k stands for entry k of all inputs. Arrays of dependences have the shape of
the value and dtype object, so that NumPy's own indexing, broadcasting and reductions work on them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Operations that act entry by entry (operands of one shape, or scalars).
_ENTRYWISE = (
    "abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil clamp clz complex conj "
    "convert_element_type copy cos cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igammac imag "
    "integer_pow is_finite le le_to lgamma log log1p logistic lt lt_to max min mul ne neg nextafter not or polygamma "
    "population_count pow real reduce_precision regularized_incomplete_beta rem round rsqrt select_n shift_left "
    "shift_right_arithmetic shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta"
)
ENTRYWISE = frozenset(_ENTRYWISE.split())
# Operations that only move entries about; the operands after the first so many are places, which must be known.
_ONE_OPERAND = "slice squeeze reshape transpose rev expand_dims broadcast_in_dim tile split copy_p"
MOVES = {
    **dict.fromkeys(_ONE_OPERAND.split(), 1),
    **dict.fromkeys(["concatenate", "stack"], None),
    **{"pad": 2, "gather": 1, "dynamic_slice": 1, "dynamic_update_slice": 2},
}
REDUCTIONS = frozenset(["sum", "max", "min", "prod", "and", "or", "xor"])
CUMULATIVE = frozenset(["cumsum", "cumprod", "cummax", "cummin", "cumlogsumexp"])
# Entries of a Jacobian that is looked at to see where a scatter writes.
SCATTER_ENTRIES = 1_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """What is known of one array: `deps`, an object array of its shape, and `known`, its value where no input enters it."""

    deps: np.ndarray
    known: np.ndarray | None = None

    @classmethod
    def constant(cls, value: Any) -> "Value":
        """Of a value that no input enters."""
        array = np.asarray(value)
        return cls(nothing(array.shape), array)


def nothing(shape: Any) -> np.ndarray:
    """No dependence."""
    return np.zeros(tuple(shape), object)


def all_of(deps: np.ndarray) -> int:
    """The union of all entries."""
    return int(np.bitwise_or.reduce(deps.ravel())) if deps.size else 0


def spread(union: int, shape: Any) -> np.ndarray:
    """The same dependence everywhere."""
    filled = nothing(shape)
    filled[...] = union
    return filled


def whole(values: Sequence[Value], shapes: Sequence[Any]) -> list[np.ndarray]:
    """Every entry of every result depends on everything."""
    union = 0
    for value in values:
        union |= all_of(value.deps)
    return [spread(union, shape) for shape in shapes]


def passed_on(equation: Any, values: Sequence[Value]) -> list[np.ndarray]:
    """Dependences of the results of an equation that has no inner program, one array for each."""
    name, shapes = equation.primitive.name, [out.aval.shape for out in equation.outvars]
    rule = _rule(name)
    found = None if rule is None else rule(equation, values, shapes)
    if found is None:
        return whole(values, shapes)
    return [deps if isinstance(deps, np.ndarray) else spread(deps, ()) for deps in found]  # NumPy unpacks scalars


def _rule(name: str) -> Callable | None:
    if name in ("mul", "and"):
        return _product
    if name == "select_n":
        return _select
    if name in ENTRYWISE:
        return _entrywise
    if name in MOVES:
        return _moved
    if name in CUMULATIVE:
        return _accumulated
    if name.removeprefix("reduce_") in REDUCTIONS or name in ("argmax", "argmin"):
        return _reduced
    return {"dot_general": _contracted, "sort": _sorted}.get(name, _scattered if name.startswith("scatter") else None)


def _entrywise(equation, values, shapes):
    union = nothing(shapes[0])
    for value in values:
        union = union | value.deps
    return [union]


def _product(equation, values, shapes):
    """A factor that is known to be 0 hides the other one."""
    parts = []
    for value, other in (values, values[::-1]):
        hidden = False if other.known is None else other.known == 0
        parts.append(np.where(hidden, 0, value.deps))
    return [nothing(shapes[0]) | parts[0] | parts[1]]


def _select(equation, values, shapes):
    which, cases = values[0], values[1:]
    if which.known is None:
        return _entrywise(equation, values, shapes)
    chosen = np.broadcast_to(which.known.astype(int), shapes[0])
    return [np.asarray(np.choose(chosen, [case.deps for case in cases]), object)]


def _moved(equation, values, shapes):
    """The operation itself is run on the numbers of the entries, which says where each of them goes."""
    count = MOVES[equation.primitive.name]
    data, places = (values, ()) if count is None else (values[:count], values[count:])
    if any(place.known is None for place in places):
        return None
    sizes = [value.deps.size for value in data]
    starts = np.cumsum([0, *sizes])
    numbers = [
        jnp.asarray(np.arange(start, start + size).reshape(value.deps.shape), jnp.int32)
        for start, size, value in zip(starts, sizes, data, strict=False)
    ]
    moved = equation.primitive.bind(*numbers, *(jnp.asarray(place.known) for place in places), **equation.params)
    table = np.concatenate([value.deps.ravel() for value in data] or [nothing((0,))])
    found = []
    for each in moved if equation.primitive.multiple_results else [moved]:
        origin = np.asarray(each)
        inside = (origin >= 0) & (origin < len(table))  # what lies outside was filled in
        found.append(np.where(inside, table[np.where(inside, origin, 0)] if len(table) else 0, 0).astype(object))
    return found


def _reduced(equation, values, shapes):
    axes = tuple(equation.params["axes"])
    deps = values[0].deps
    kept = [axis for axis in range(deps.ndim) if axis not in axes]
    flat = deps.transpose(*kept, *axes).reshape(*(deps.shape[axis] for axis in kept), -1)
    return [_union(flat, -1, shapes[0])]


def _union(deps: np.ndarray, axis: int, shape: Any) -> np.ndarray:
    result = nothing(shape)
    if deps.size:
        result[...] = np.bitwise_or.reduce(deps, axis=axis)
    return result


def _accumulated(equation, values, shapes):
    axis, deps = equation.params["axis"], values[0].deps
    if equation.params["reverse"]:
        return [np.flip(np.bitwise_or.accumulate(np.flip(deps, axis), axis=axis), axis)]
    return [np.bitwise_or.accumulate(deps, axis=axis)]


def _sorted(equation, values, shapes):
    """Along the axis every entry may end anywhere; keys decide where."""
    axis, together = equation.params["dimension"], nothing(shapes[0])
    for value in values:
        together = together | np.expand_dims(_union(value.deps, axis, np.delete(shapes[0], axis)), axis)
    return [together.copy() for _ in shapes]


def _contracted(equation, values, shapes):
    """Matrix products: an entry of one factor counts where the other's partner is not known to be 0."""
    (left_axes, right_axes), (left_batch, right_batch) = equation.params["dimension_numbers"]

    def arranged(value, contracted, batch, last):
        free = [axis for axis in range(value.deps.ndim) if axis not in (*contracted, *batch)]
        order = (*batch, *free, *contracted) if last else (*batch, *contracted, *free)
        shape = [value.deps.shape[axis] for axis in order]
        b, c, f = (int(np.prod([value.deps.shape[axis] for axis in axes])) for axes in (batch, contracted, free))
        flat = (b, f, c) if last else (b, c, f)
        known = np.ones(shape, bool) if value.known is None else (value.known.transpose(order) != 0)
        return value.deps.transpose(order).reshape(flat), known.reshape(flat)

    left, left_there = arranged(values[0], left_axes, left_batch, last=True)
    right, right_there = arranged(values[1], right_axes, right_batch, last=False)
    union = nothing((left.shape[0], left.shape[1], right.shape[2]))
    for k in range(left.shape[2]):
        there = left_there[:, :, k, None] & right_there[:, k, None, :]
        union |= np.where(there, left[:, :, k, None] | right[:, k, None, :], 0)
    return [union.reshape(shapes[0])]


def _scattered(equation, values, shapes):
    """Where the places are known, the map is linear in what is written; its Jacobian says what goes where."""
    operand, places, updates = values
    size = int(np.prod(shapes[0])) * (operand.deps.size + updates.deps.size)
    if (
        places.known is None
        or size > SCATTER_ENTRIES
        or equation.primitive.name not in ("scatter", "scatter-add", "scatter_add")
    ):
        return None
    run = lambda a, u: equation.primitive.bind(a, jnp.asarray(places.known), u, **equation.params)
    dtype = jnp.result_type(float)
    blank = jnp.zeros(operand.deps.shape, dtype), jnp.zeros(updates.deps.shape, dtype)
    union = nothing((int(np.prod(shapes[0])),))
    for value, jacobian in zip((operand, updates), jax.jacobian(run, argnums=(0, 1))(*blank), strict=True):
        pattern = np.asarray(jacobian).reshape(len(union), -1) != 0
        for row, column in zip(*np.nonzero(pattern), strict=True):
            union[row] |= value.deps.ravel()[column]
    return [union.reshape(shapes[0])]
