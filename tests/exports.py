"""Every exported algorithm on a problem and a network that suit it, for the tests that run over all exports.

What an export needs is read off its declarations (`needs`, `combine`, `claims`), so that a new one is tested without a word
here. Axes: `n` agents.
"""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw
from thalweg.message import Pull, Push

N = 6
NAMES = tuple(sorted(tw.algorithms.__all__))

# Undirected and directed neighbourhoods without any symmetry; every agent of the directed one hears another number of agents
# than hear it somewhere, so that row- and column-stochastic weights differ.
EDGES = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [0, 5], [0, 2]])
ARCS = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [5, 0], [0, 3], [2, 5], [4, 1], [1, 0]])


def kind(name):
    """The class of an export."""
    return getattr(tw.algorithms, name)


def algorithm(name, **changes):
    """The export with its defaults."""
    return kind(name)(**changes)


def directed(name):
    """Whether it is meant for directed networks."""
    return any(isinstance(rule, Pull | Push) for rule in kind(name).combine.values())


def measures(name):
    """Whether it computes with measurements."""
    return "measurements" in kind(name).needs


def extremum(name):
    """Max or min: what a consensus method agrees on when it is not the mean."""
    return {"MaxConsensus": np.max, "MinConsensus": np.min}.get(name, np.mean)


def squared_error(x, example):
    """½(aᵀslope + offset − b)² + (‖slope‖² + offset²)/20 of one example (a, b)."""
    a, b = example
    ridge = jnp.sum(x["slope"] ** 2) + x["offset"] ** 2
    return 0.5 * (a @ x["slope"] + x["offset"] - b) ** 2 + ridge / 20


def data(name, n=N, seed=0):
    """Heterogeneous data, a pytree of arrays with a leading axis n."""
    rng = np.random.default_rng(seed)
    if measures(name):
        return {"field": rng.standard_normal((n, 2)), "level": rng.standard_normal(n)}
    return rng.standard_normal((n, 4, 2)), rng.standard_normal((n, 4)) + np.arange(n)[:, None]


def problem(name, values, dtype=np.float64):
    """The problem over such data; x is a pytree."""
    values = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), values)
    if measures(name):
        return tw.Measurements(values)
    return tw.EmpiricalRisk(squared_error, values, {"slope": np.zeros(2, dtype), "offset": np.zeros((), dtype)})


def minimiser(name, values):
    """(slope, offset), or what measurements agree on, by NumPy; leaves in tree order, concatenated."""
    if measures(name):
        return np.concatenate([np.atleast_1d(extremum(name)(values[key], axis=0)) for key in ("field", "level")])
    a, b = values
    rows = np.concatenate([np.ones((*b.shape, 1)), a], axis=-1).reshape(-1, 3)
    return np.linalg.solve(rows.T @ rows / len(rows) + np.eye(3) / 10, rows.T @ b.ravel() / len(rows))


def flat(x):
    """Leaves in tree order, concatenated (of a batch: along the last axis)."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(x)]
    rank = min(leaf.ndim for leaf in leaves)
    return np.concatenate([leaf.reshape(*leaf.shape[:rank], -1) for leaf in leaves], axis=-1)


def reliable(name):
    """Whether it is refused on networks that lose messages."""
    return "reliable" in kind(name).needs


def network(name, order=None, loss=0.2):
    """N agents; agent order[p] stands at position p. Messages are lost, except for methods that need all of them."""
    loss = 0 if reliable(name) else loss
    place = np.argsort(np.arange(N) if order is None else order)
    if directed(name):
        return tw.network.from_edges(place[ARCS], N, directed=True).with_failures(loss=loss, symmetric=False)
    return tw.network.from_edges(place[EDGES], N, weights="lazy_metropolis").with_failures(loss=loss)


def single(name):
    """The network of one agent."""
    return tw.network.ring(1, directed=directed(name))


def solve(*args, **options):
    """`tw.solve` without its warnings about methods that are biased under the failures at hand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return tw.solve(*args, **options)


def scaled(resolved, factor):
    """A resolved algorithm with its step size or penalty multiplied by `factor`; unchanged where it has none."""
    names = {field.name for field in dataclasses.fields(resolved)} & {"step_size", "penalty"}
    return dataclasses.replace(resolved, **{name: factor * getattr(resolved, name) for name in names})


def bits(tree):
    """Every array in `tree` as bytes: equal if and only if equal to the bit."""
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
