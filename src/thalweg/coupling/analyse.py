"""Reading who depends on whom from agents' dynamics, costs and constraints.

Axes: `m` entries of a result, `N` entries of all agents' variables.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.coupling.dependence import dependence
from thalweg.coupling.structure import Equation, Structure

# A Jacobian with more entries is not formed for the second opinion.
JACOBIAN_ENTRIES = 4_000_000


def analyse(
    variables: Mapping[str, Any],
    *,
    dynamics: Mapping[str, Any] | None = None,
    costs: Mapping[str, Any] | None = None,
    constraints: Mapping[str, Any] | None = None,
    shared: Mapping[str, Any] | None = None,
    points: int = 3,
    seed: int = 0,
) -> Structure:
    """Which agents are coupled through dynamics, costs or constraints, and the least network: j → i exactly when a variable of
    j occurs in an equation of i.

    Every function is traced once and its program is followed entry by entry. What counts is *structural*: a variable occurs
    when it enters the computation of a result. So x − x and x·y count, even where they vanish; a comparison, an index or the
    choice of a branch count, and every branch that may be taken; with an index that depends on variables, everything that it
    may point at. x·0 does not count: zeros that are known when the function is traced (those of constant matrices too) hide
    what they multiply. Coefficients are read as they are at the call.

    As a second opinion derivatives are taken at random points. A variable that occurs, and has no effect at any of them, stays
    in the result and is listed as idle.

    Args:
        variables: agent → an example of its variables (state, inputs), any pytree of numbers; only shapes matter, and names.
        dynamics: agent → f(v), its next state, where v has everybody's variables as in `variables`.
        costs: agent → f(v), its cost.
        constraints: agent → f(v), the left sides of its own constraints.
        shared: name → f(v), constraints that belong to nobody alone; each entry couples those who occur in it with each other.
        points: how many random points; 0 for none.
        seed: of the points.

    Raises:
        TypeError: a function that is none, or that decides in Python on the value of a variable (use `jax.lax.cond`).
        ValueError: an equation of an agent without variables, or a function that fails on the examples.
    """
    if not isinstance(variables, Mapping) or not variables:
        raise ValueError(f"analyse: got variables={variables!r}, expected a mapping from agents to examples of their variables")
    example = {agent: jax.tree.map(lambda leaf: jnp.asarray(leaf, float), tree) for agent, tree in variables.items()}
    functions = []
    for kind, given in (("dynamics", dynamics), ("cost", costs), ("constraint", constraints)):
        for agent, function in (given or {}).items():
            if agent not in example:
                raise ValueError(f"analyse: {kind} of {agent!r}, who has no variables; expected one of {', '.join(example)}")
            functions.append((kind, agent, agent, function))
    functions += [("constraint", name, None, function) for name, function in (shared or {}).items()]
    if not functions:
        raise ValueError("analyse: there are no equations; pass dynamics=, costs=, constraints= or shared=")
    # Dictionaries are flattened by sorted key; agents keep the order in which they were given.
    names = _names(example)
    equations = [equation for each in functions for equation in _equations(*each, example, names, points, seed)]
    size = sum(leaf.size for leaf in jax.tree.leaves(example))
    return Structure(tuple(example), tuple(equations), points if size <= JACOBIAN_ENTRIES else 0)


def _names(example: dict[str, Any]) -> list[tuple[str, str]]:
    """(agent, name of the variable) of each of the N entries, in the order of raveled leaves."""
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(example)[0]:
        name = jax.tree_util.keystr(path[1:], simple=True, separator=".") or "x"
        entries = [name] if leaf.ndim == 0 else [f"{name}[{', '.join(map(str, at))}]" for at in np.ndindex(leaf.shape)]
        found += [(path[0].key, entry) for entry in entries]
    return found


def _equations(
    kind: str, name: str, owner: str | None, function: Any, example, names, points: int, seed: int
) -> list[Equation]:
    called = f"{kind} of {name!r}"
    if not callable(function):
        raise TypeError(f"analyse: {called}: got {type(function).__name__}, expected a function of everybody's variables")
    try:
        deps, _ = dependence(function, example)
    except jax.errors.ConcretizationTypeError as error:
        raise TypeError(
            f"analyse: {called} decides in Python on the value of a variable; use jax.lax.cond, jnp.where or an array index"
        ) from error
    except KeyError as error:
        raise ValueError(
            f"analyse: {called} asks for {error}, expected agents {', '.join(example)} and their variables"
        ) from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"analyse: {called} fails on the examples of variables: {error}") from error
    rows = [int(entry) for leaf in deps for entry in np.ravel(leaf)]
    effect = _effect(function, example, len(rows), points, seed)
    agents = tuple(example)
    if owner is not None:
        union, moved = 0, None if effect is None else effect.any(axis=0)
        for row in rows:
            union |= row
        return [Equation(kind, name, owner, *_occurring(union, moved, agents, names))]
    label = lambda k: name if len(rows) == 1 else f"{name}[{k}]"
    each = lambda k: None if effect is None else effect[k]
    return [Equation(kind, label(k), None, *_occurring(row, each(k), agents, names)) for k, row in enumerate(rows)]


def _effect(function, example, m: int, points: int, seed: int) -> np.ndarray | None:
    """`[m, N]` where some derivative at some random point is not 0; None where it is not looked at."""
    flat, unravel = ravel_pytree(example)
    if points < 1 or m * flat.size > JACOBIAN_ENTRIES or not m:
        return None

    def real(row):
        leaves = jax.tree.leaves(function(unravel(row)))
        return jnp.concatenate([jnp.ravel(jnp.asarray(leaf, flat.dtype)) for leaf in leaves])

    jacobian = jax.jit(jax.jacfwd(real))
    rng = np.random.default_rng(seed)
    found = np.zeros((m, flat.size), bool)
    for _ in range(points):  # NaN, outside of the function's domain, is no evidence against an effect
        found |= np.asarray(jacobian(flat + jnp.asarray(rng.standard_normal(flat.size), flat.dtype))) != 0
    return found


def _occurring(row: int, effect: np.ndarray | None, agents: tuple[str, ...], names):
    """(agent → its variables that occur, agent → those without effect)."""
    occurs: dict[str, list[str]] = {}
    idle: dict[str, list[str]] = {}
    for k, (agent, variable) in enumerate(names):
        if row >> k & 1:
            occurs.setdefault(agent, []).append(variable)
            if effect is not None and not effect[k]:
                idle.setdefault(agent, []).append(variable)
    ordered = lambda found: {agent: tuple(found[agent]) for agent in agents if agent in found}
    return ordered(occurs), ordered(idle)
