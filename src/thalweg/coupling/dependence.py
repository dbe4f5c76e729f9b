"""What each entry of a function's result depends on, read from its traced program (jaxpr).

Structural, and conservative: an entry counts as soon as it enters the computation of a result, also through a comparison, an
index or a branch that may be taken. It does not count where a factor that is known while tracing is 0.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from thalweg.coupling.primitives import Value, all_of, nothing, passed_on, spread

# A scan that is not longer is followed step by step; a longer one until nothing changes any more.
UNROLLED = 256
# Values without an input that are not larger are computed, to know their zeros.
KNOWN_ENTRIES = 1_000_000
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "checkpoint": "jaxpr",
          "remat": "jaxpr", "remat2": "jaxpr", "custom_jvp_call": "call_jaxpr", "custom_vjp_call": "call_jaxpr",
          "custom_vjp_call_jaxpr": "fun_jaxpr"}  # fmt: skip


def dependence(function: Callable, example: Any) -> tuple[list[np.ndarray], Any]:
    """(an object array of integers for every leaf of the result, the structure of the result).

    Bit k of an integer stands for entry k of the raveled leaves of `example`, in order.
    """
    closed, out = jax.make_jaxpr(function, return_shape=True)(example)
    values, place = [], 0
    for leaf in jax.tree.leaves(example):
        size = int(np.size(leaf))
        deps = nothing((size,))
        deps[:] = [1 << (place + k) for k in range(size)]
        values.append(Value(deps.reshape(np.shape(leaf))))
        place += size
    return [value.deps for value in _follow_closed(closed, values)], out


def _follow_closed(closed: Any, values: Sequence[Value]) -> list[Value]:
    consts = getattr(closed, "consts", ())
    return _follow(getattr(closed, "jaxpr", closed), [Value.constant(c) for c in consts], values)


def _follow(jaxpr: Any, consts: Sequence[Value], values: Sequence[Value]) -> list[Value]:
    """The results of a program whose arguments are `values`."""
    known: dict[Any, Value] = {}
    for variable, value in (*zip(jaxpr.constvars, consts, strict=True), *zip(jaxpr.invars, values, strict=True)):
        known[variable] = value
    read = lambda variable: Value.constant(variable.val) if hasattr(variable, "val") else known[variable]
    for equation in jaxpr.eqns:
        results = _through(equation, [read(variable) for variable in equation.invars])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _through(equation: Any, values: list[Value]) -> list[Value]:
    name = equation.primitive.name
    if name in _CALLS and _CALLS[name] in equation.params:
        return _follow_closed(equation.params[_CALLS[name]], values)
    if (computed := _computed(equation, values)) is not None:
        return computed
    if name in ("cond", "while", "scan"):
        return {"cond": _cond, "while": _while, "scan": _scan}[name](equation, values)
    return [Value(deps) for deps in passed_on(equation, values)]


def _computed(equation: Any, values: Sequence[Value]) -> list[Value] | None:
    """The results themselves, where no input enters the equation."""
    sizes = [int(np.prod(out.aval.shape)) for out in equation.outvars]
    if equation.effects or any(value.known is None for value in values) or max(sizes, default=0) > KNOWN_ENTRIES:
        return None
    try:
        found = equation.primitive.bind(*(jnp.asarray(value.known) for value in values), **equation.params)
        return [Value.constant(v) for v in (found if equation.primitive.multiple_results else [found])]
    except Exception:  # an operation that cannot be run by itself: it depends on nothing all the same
        return None


def _cond(equation: Any, values: Sequence[Value]) -> list[Value]:
    which, operands = values[0], values[1:]
    branches = equation.params["branches"]
    if which.known is not None:
        return _follow_closed(branches[int(np.clip(which.known, 0, len(branches) - 1))], operands)
    decided = all_of(which.deps)
    results = [_follow_closed(branch, operands) for branch in branches]
    return [Value(_joined(spread(decided, found[0].deps.shape), *found)) for found in zip(*results, strict=True)]


def _while(equation: Any, values: Sequence[Value]) -> list[Value]:
    """Until nothing changes: whatever decides how often the body runs enters everything that it changes."""
    p = equation.params
    a, b = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]
    asking, steady, first = values[:a], values[a:b], values[b:]
    carry = [Value(value.deps) for value in first]
    while True:
        decided = all_of(_follow_closed(p["cond_jaxpr"], [*asking, *carry])[0].deps)
        stepped = _follow_closed(p["body_jaxpr"], [*steady, *carry])
        following = [Value(_joined(spread(decided, c.deps.shape), c, s)) for c, s in zip(carry, stepped, strict=True)]
        if _same(carry, following):
            return carry
        carry = following


def _scan(equation: Any, values: Sequence[Value]) -> list[Value]:
    p = equation.params
    a, b = p["num_consts"], p["num_consts"] + p["num_carry"]
    steady, carry, xs, length = values[:a], list(values[a:b]), values[b:], p["length"]
    shapes = [out.aval.shape for out in equation.outvars]
    if length > UNROLLED:
        return _long_scan(p["jaxpr"], steady, carry, xs, p["num_carry"], shapes)
    ys = [nothing(shape) for shape in shapes[p["num_carry"] :]]
    for t in reversed(range(length)) if p["reverse"] else range(length):
        now = [Value(x.deps[t] if x.deps.ndim > 1 else _scalar(x.deps[t]), None if x.known is None else x.known[t]) for x in xs]
        found = _follow_closed(p["jaxpr"], [*steady, *carry, *now])
        carry = found[: p["num_carry"]]
        for y, value in zip(ys, found[p["num_carry"] :], strict=True):
            y[t] = value.deps if value.deps.ndim else value.deps.item()
    return [*carry, *(Value(y) for y in ys)]


def _long_scan(jaxpr: Any, steady, carry, xs, count: int, shapes) -> list[Value]:
    """All steps at once: each sees the union of all that any step sees."""
    carry = [Value(value.deps) for value in carry]
    union = lambda x: np.bitwise_or.reduce(x.deps, axis=0) if x.deps.ndim > 1 else _scalar(all_of(x.deps))
    now = [Value(union(x)) for x in xs]
    while True:
        found = _follow_closed(jaxpr, [*steady, *carry, *now])
        following = [Value(_joined(c.deps, s)) for c, s in zip(carry, found[:count], strict=True)]
        if _same(carry, following):
            break
        carry = following
    ys = [Value(nothing(shape) | value.deps) for shape, value in zip(shapes[count:], found[count:], strict=True)]
    return [*carry, *ys]


def _scalar(dependence: int) -> np.ndarray:
    return spread(dependence, ())


def _joined(deps: np.ndarray, *values: Value) -> np.ndarray:
    joined = nothing(deps.shape)
    joined[...] = deps
    for value in values:
        joined[...] = joined | value.deps
    return joined


def _same(a: Sequence[Value], b: Sequence[Value]) -> bool:
    return all(np.array_equal(one.deps, other.deps) for one, other in zip(a, b, strict=True))
