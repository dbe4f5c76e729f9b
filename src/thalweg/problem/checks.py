"""What a user may get wrong in stating a problem, said before anything runs.

Axes: `n` agents.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from thalweg.problem.regularizer import Regularizer


def agent(names: Sequence[str] | None, i: Any) -> str:
    """How messages call agent `i`."""
    return f"agent {i}" if names is None or i >= len(names) else f"agent {i} ({names[i]!r})"


def where(path: Any, root: str = "data") -> str:
    """Place of a leaf in a pytree, for a message."""
    return f"{root}{jax.tree_util.keystr(path)}"


def start(x0: PyTree, root: str = "x0") -> PyTree:
    """The common starting point as device arrays.

    Raises:
        TypeError: a leaf is not an array of floating numbers, or there is none.
    """

    def convert(path, leaf):
        array = np.asarray(leaf) if not isinstance(leaf, jax.Array) else leaf
        if not jnp.issubdtype(array.dtype, jnp.floating):
            kind = array.dtype if array.dtype != object else type(leaf).__name__
            raise TypeError(
                f"{where(path, root)} must be floating: got {kind}, expected an array of floats (loss is not "
                "differentiable in anything else); write jnp.zeros(d), or keep the arrays of a model with "
                "eqx.partition(model, eqx.is_inexact_array)"
            )
        if not np.isfinite(np.asarray(array)).all():
            raise ValueError(f"{where(path, root)} has NaN or infinite entries; expected finite numbers to start from")
        return jnp.asarray(array)

    if not jax.tree.leaves(x0):
        raise TypeError("x0 is empty: got no array, expected the starting point all agents share; e.g. jnp.zeros(d)")
    return jax.tree_util.tree_map_with_path(convert, x0)


def agent_names(names: Sequence[str] | None, n: int) -> tuple[str, ...] | None:
    """Names as a tuple of `n` different strings, or None.

    Raises:
        ValueError: wrong number, or a name twice.
    """
    if names is None:
        return None
    names = tuple(str(name) for name in names)
    if len(names) != n or len(set(names)) != n:
        raise ValueError(f"names: got {len(names)} ({len(set(names))} different), expected {n} different ones, one per agent")
    return names


def normalised_weights(weights: Any, n: int, names: Sequence[str] | None) -> np.ndarray:
    """Weights w_i ≥ 0 scaled to Σ w_i = 1, float64 `[n]`.

    Raises:
        ValueError: wrong length, negative, not finite, or all zero.
    """
    array = np.asarray(weights, dtype=np.float64)
    if array.shape != (n,):
        raise ValueError(f"weights: got shape {array.shape}, expected ({n},), one weight per agent")
    for i in np.flatnonzero(~(array >= 0) | np.isinf(array)):
        raise ValueError(f"weights: got {array[i]} for {agent(names, i)}, expected finite numbers ≥ 0")
    if array.sum() == 0:
        raise ValueError("weights: got all zero, expected at least one positive; use weights='uniform' or leave them out")
    return array / array.sum()


def vector(value: Any, n: int, what: str) -> np.ndarray | None:
    """A constant of the user's, a number or one per agent, as float64 `[n]`; None stays.

    Raises:
        ValueError: wrong shape, negative or NaN.
    """
    if value is None:
        return None
    array = np.asarray(value, np.float64)
    if array.shape not in ((), (n,)) or not np.all(array >= 0):
        raise ValueError(f"{what}: got {value}, expected a number ≥ 0, or {n} of them, one per agent")
    return np.broadcast_to(array, (n,)).copy()


def host(tree: PyTree) -> PyTree:
    """Leaves as NumPy arrays."""
    return jax.tree.map(np.asarray, tree)


def finite(tree: PyTree, names: Sequence[str] | None, per_agent: bool) -> None:
    """Look for NaN and infinity in `tree`, a list with one pytree per agent, or one pytree with leading agent axis.

    Raises:
        ValueError: naming the agent and the place.
    """

    def refuse(i, path, index):
        raise ValueError(
            f"data of {agent(names, i)} has NaN or infinite values: first at {where(path)}{list(map(int, index)) or ''}; "
            "expected finite numbers; impute or drop such records first"
        )

    for number, part in enumerate(tree) if per_agent else ((None, tree),):
        for path, leaf in jax.tree_util.tree_leaves_with_path(part):
            if np.issubdtype(leaf.dtype, np.inexact) and not np.isfinite(leaf).all():
                index = np.argwhere(~np.isfinite(leaf))[0]
                refuse(*((number, path, index) if per_agent else (index[0], path, index[1:])))


def leading_axis(tree: PyTree) -> int:
    """Length n of the agent axis of stacked data.

    Raises:
        ValueError: no arrays, a leaf without a leading axis, or axes that differ.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise ValueError("data is empty: got no arrays, expected one entry per agent")
    sizes = {where(path): leaf.shape[0] if leaf.ndim else None for path, leaf in leaves}
    if len(set(sizes.values())) != 1 or None in sizes.values():
        raise ValueError(
            f"data must have one leading axis over agents: got lengths {sizes}, expected the same for every array; "
            "or pass a list with one entry per agent"
        )
    n = leaves[0][1].shape[0]
    if n == 0:
        raise ValueError("data has no agents: got a leading axis of length 0, expected at least 1")
    return n


def same_structure(parts: list, names: Sequence[str] | None, skip: int) -> None:
    """Check that all agents' pytrees agree, in every axis from `skip` on (0: equal shapes; 1: ragged first axis).

    Raises:
        ValueError: naming the first agent that differs from agent 0.
    """
    if not parts:
        raise ValueError("data has no agents: got an empty list, expected one entry per agent")
    first = jax.tree_util.tree_leaves_with_path(parts[0])
    for i, part in enumerate(parts):
        if jax.tree.structure(part) != jax.tree.structure(parts[0]):
            raise ValueError(
                f"data of {agent(names, i)} has structure {jax.tree.structure(part)}, expected that of agent 0, "
                f"{jax.tree.structure(parts[0])}; a list is read as one entry per agent, so pass stacked data as a tuple"
            )
        for (path, reference), leaf in zip(first, jax.tree.leaves(part), strict=True):
            if leaf.shape[skip:] != reference.shape[skip:] or leaf.ndim != reference.ndim:
                expected = f"(any, {', '.join(map(str, reference.shape[1:]))})" if skip else reference.shape
                raise ValueError(
                    f"shapes differ between agents: {where(path)} of {agent(names, i)} has shape {leaf.shape}, expected "
                    f"{expected} as for {agent(names, 0)}; "
                    "a list is read as one entry per agent, so pass stacked data as a tuple"
                )


def to_device(tree: PyTree, dtype: Any) -> PyTree:
    """Device arrays; floating ones take the dtype of the problem, so that no oracle promotes."""
    return jax.tree.map(lambda a: jnp.asarray(a, dtype if np.issubdtype(a.dtype, np.floating) else None), tree)


def regularizer(term: Any, x0: PyTree) -> Regularizer | None:
    """`term`, found to fit x0.

    Raises:
        TypeError: not a regulariser.
        ValueError: its value is not scalar, or its prox changes structure, shapes or dtypes of x.
    """
    if term is None:
        return None
    if not isinstance(term, Regularizer):
        raise TypeError(
            f"regularizer: got {type(term).__name__}, expected one of tw.l1, l2, elastic_net, box, nonnegative, simplex, "
            "group_lasso; wrap your own in tw.regularizer(value, prox)"
        )
    value, mapped = jax.eval_shape(lambda x: (term.value(x), term.prox(x, 1.0)), x0)
    expected = jax.eval_shape(lambda x: x, x0)
    if value.shape != ():
        raise ValueError(f"regularizer value must be scalar: got shape {value.shape}, expected (); sum inside it")
    described = jax.tree.map(lambda a: (a.shape, a.dtype), (mapped, expected))
    if described[0] != described[1]:
        raise ValueError(
            f"regularizer prox changes x: got {described[0]}, expected {described[1]} (shape, dtype); "
            "return arrays like v, for instance by casting the step with jnp.asarray(step, v.dtype)"
        )
    return term


def loss_function(loss: Any, x0: PyTree, one: PyTree, called: str, frozen: PyTree = None) -> None:
    """Trace `loss(x0, one)`, or `loss(x0, one, frozen)`, and its gradient, without computing.

    Raises:
        TypeError: not a function, or one that cannot be hashed.
        ValueError: not scalar, not floating, or not differentiable.
    """
    if not callable(loss):
        raise TypeError(f"loss: got {type(loss).__name__}, expected a function {called}")
    try:
        hash(loss)
    except TypeError as error:
        raise TypeError(
            "loss holds arrays, which compiled code cannot tell apart; pass a plain function, "
            f"e.g. def loss(x, data): ..., and put the arrays into x0 or the data ({error})"
        ) from error
    extra = () if frozen is None else (frozen,)
    try:
        result = jax.eval_shape(loss, x0, one, *extra)
    except Exception as error:
        shapes = jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", (x0, one))
        error.add_note(f"thalweg: raised while tracing {called} with x and data of {shapes}")
        raise
    shape, dtype = getattr(result, "shape", None), getattr(result, "dtype", None)
    if shape != ():
        got = f"shape {shape}" if shape is not None else f"{jax.tree.structure(result)}"
        raise ValueError(f"{called} must be scalar: got {got}, expected shape (); sum or average inside the loss")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"{called} is not differentiable: got a value of type {dtype}, expected a floating one; "
            "comparisons and counts (accuracy) have no gradient, use a smooth loss"
        )
    try:
        jax.eval_shape(jax.grad(loss), x0, one, *extra)
    except Exception as error:
        raise ValueError(f"{called} is not differentiable: {error}; expected a loss that jax.grad accepts") from error


def signal(function: Any, value: PyTree, called: str, what: str) -> None:
    """A signal makes of a value, and of the round k, a value of the same structure, shapes and dtypes.

    Raises:
        TypeError: it is no function. ValueError: it makes something else.
    """
    if not callable(function):
        raise TypeError(f"{called}: got {type(function).__name__}, expected a function of a value and of the round")
    got = jax.eval_shape(function, value, jnp.zeros((), jnp.int32))
    described = [jax.tree.map(lambda a: (a.shape, a.dtype), tree) for tree in (got, jax.eval_shape(lambda v: v, value))]
    if described[0] != described[1]:
        raise ValueError(
            f"{called} must return something like {what}: got {described[0]}, expected {described[1]} (shape, dtype)"
        )


def finite_gradients(gradients: PyTree, values: Any, names: Sequence[str] | None) -> None:
    """Check f_i(x0) and ∇f_i(x0), leading axis n.

    Raises:
        ValueError: naming the first agent whose value or gradient is not finite.
    """
    bad_value = ~np.isfinite(np.asarray(values))
    bad = bad_value.copy()
    for leaf in jax.tree.leaves(gradients):
        bad |= ~np.isfinite(np.asarray(leaf)).reshape(len(bad), -1).all(axis=1)
    for i in np.flatnonzero(bad):
        what = "loss" if bad_value[i] else "gradient of the loss"
        raise ValueError(
            f"{what} of {agent(names, i)} is not finite at x0: got NaN or infinity ({bad.sum()} of {len(bad)} agents); "
            "expected a loss differentiable at the start; move x0, or guard against log(0), division by 0 and √0"
        )
