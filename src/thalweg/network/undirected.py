"""Undirected graphs of known shape. Every builder takes `weights=` (see `Network.with_weights`)."""

from typing import Any

import numpy as np

from thalweg.network import _checks
from thalweg.network.network import Network


def path(n: int, *, weights: Any = None) -> Network:
    """0 - 1 - … - (n-1): the slowest connected graph to agree on, sigma ≈ 1 - π²/(3n²) with Metropolis weights."""
    n = _checks.integer("n", n, 1)
    return Network(n, _chain(n), name=f"path({n})", weights=weights, positions=_row(n))


def complete(n: int, *, weights: Any = None) -> Network:
    """Everybody hears everybody: W = J, agreement in one round."""
    n = _checks.integer("n", n, 1)
    return Network(n, np.stack(np.triu_indices(n, 1), axis=1), name=f"complete({n})", weights=weights, positions=_circle(n))


def star(n: int, *, weights: Any = None) -> Network:
    """Agent 0 in the centre, n - 1 agents around it."""
    n = _checks.integer("n", n, 1)
    leaves = np.arange(1, n)
    positions = np.concatenate([np.zeros((1, 2)), _circle(n - 1)]) if n > 1 else np.zeros((1, 2))
    return Network(n, np.stack([0 * leaves, leaves], axis=1), name=f"star({n})", weights=weights, positions=positions)


def grid(rows: int, cols: int, *, weights: Any = None) -> Network:
    """A rectangle of rows × cols agents; agent r·cols + c hears the up to four agents beside it."""
    rows, cols = _checks.integer("rows", rows, 1), _checks.integer("cols", cols, 1)
    ids = np.arange(rows * cols).reshape(rows, cols)
    edges = np.concatenate([_pairs(ids[:, :-1], ids[:, 1:]), _pairs(ids[:-1], ids[1:])])
    return Network(rows * cols, edges, name=f"grid({rows}, {cols})", weights=weights, positions=_lattice(rows, cols))


def torus(rows: int, cols: int, *, weights: Any = None) -> Network:
    """A grid whose opposite sides are joined; every agent hears four others.

    With two rows or columns the agents above and below coincide, with one they are the agent itself; degrees, and with them
    the weights, count *different* neighbours, so that W is doubly stochastic in small cases too.
    """
    rows, cols = _checks.integer("rows", rows, 1), _checks.integer("cols", cols, 1)
    ids = np.arange(rows * cols).reshape(rows, cols)
    edges = np.concatenate([_pairs(ids, np.roll(ids, -1, axis=1)), _pairs(ids, np.roll(ids, -1, axis=0))])
    return Network(rows * cols, edges, name=f"torus({rows}, {cols})", weights=weights, positions=_lattice(rows, cols))


def hypercube(dim: int, *, weights: Any = None) -> Network:
    """2^dim agents; those whose binary ids differ in one digit hear each other."""
    dim = _checks.integer("dim", dim, 0)
    if dim > 24:
        raise ValueError(f"hypercube({dim}) would have 2^{dim} agents; pass dim <= 24.")
    ids = np.arange(2**dim)
    edges = np.concatenate([np.zeros((0, 2), np.int64), *(_pairs(ids, ids ^ (1 << bit)) for bit in range(dim))])
    return Network(2**dim, edges, name=f"hypercube({dim})", weights=weights, positions=_circle(2**dim))


def tree(n: int | None = None, *, branching: int = 2, depth: int | None = None, weights: Any = None) -> Network:
    """The complete tree in which every agent has `branching` children: its first `n` agents, or all down to `depth`.

    Agent 0 is the root; the parent of agent i is (i - 1) // branching.

    **Raises** `TypeError` unless exactly one of `n` and `depth` is given.
    """
    branching = _checks.integer("branching", branching, 1)
    if (n is None) == (depth is None):
        raise TypeError(f"pass either n, the number of agents, or depth, the levels below the root; got n={n}, depth={depth}.")
    if n is None:
        depth = _checks.integer("depth", depth, 0)
        n, name = sum(branching**level for level in range(depth + 1)), f"tree(branching={branching}, depth={depth})"
    else:
        n = _checks.integer("n", n, 1)
        name = f"tree({n}, branching={branching})"
    children = np.arange(1, n)
    return Network(n, np.stack([(children - 1) // branching, children], axis=1), name=name, weights=weights)


def _chain(n: int) -> np.ndarray:
    return _pairs(np.arange(n - 1), np.arange(1, n))


def _pairs(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return np.stack([first.ravel(), second.ravel()], axis=1)


def _row(n: int) -> np.ndarray:
    return np.stack([np.arange(n), np.zeros(n)], axis=1)


def _lattice(rows: int, cols: int) -> np.ndarray:
    r, c = np.divmod(np.arange(rows * cols), cols)
    return np.stack([c, -r], axis=1).astype(float)


def _circle(n: int) -> np.ndarray:
    angle = 2 * np.pi * np.arange(n) / n
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)
