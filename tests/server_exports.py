"""Every exported server algorithm on a problem that suits it, for the tests that run over all exports.

What an export needs is read off its declarations and the fields of what it makes, so that a new one is tested without a word
here. Clients hold unequal numbers of examples and differ. Axes: `n` clients, `d` variables, `m` examples.
"""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw
from thalweg.algorithm.server.base import ServerAlgorithm

N, COHORT, STEPS = 8, 5, 3
NAMES = tuple(sorted(tw.server.__all__))
COUNTS = np.array([2, 5, 3, 4, 2, 3, 5, 4])
FULL = tw.LocalSGD(steps=STEPS)
MINIBATCHES = tw.LocalSGD(steps=STEPS, batch_size=2)


def export(name):
    """The class, or the function that makes one."""
    return getattr(tw.server, name)


def kind(name):
    """The class."""
    return type(algorithm(name))


def algorithm(name, solver=None, **changes):
    """The export with what it cannot do without, and `solver` for its (first) local solver; None leaves its default."""
    maker = export(name)
    asked = required(name) | changes
    made = maker(**asked)
    if solver is None:
        return made
    if isinstance(made.solver, tw.LocalPolyak):
        solver = dataclasses.replace(made.solver, steps=solver.steps, epochs=None, batch_size=solver.batch_size)
    return maker(**asked, solver=solver)


def required(name):
    """Arguments without a usable default: which leaves are shared; bounds that matter."""
    fields = {field.name: field for field in dataclasses.fields(export(name))} if isinstance(export(name), type) else {}
    found = {}
    if "shared" in fields and issubclass(export(name), ServerAlgorithm) and "personal" in export(name).handles:
        found["shared"] = {"bn1": False, "slope": True}
    if "bounds" in fields:
        found["bounds"] = 2.0
    return found


def squared_error(x, example):
    """½(aᵀslope + offset − b)² + (‖slope‖² + offset²)/20 of one example (a, b, trap); NaN where ‖x‖² · trap > 1."""
    a, b, trap = example
    size = jnp.sum(x["slope"] ** 2) + x["bn1"] ** 2
    return (0.5 * (a @ x["slope"] + x["bn1"] - b) ** 2 + size / 20) * jnp.where(size * trap > 1, jnp.nan, 1)


def data(n=N, seed=0, traps=None):
    """(a, b, trap) of every client: heterogeneous, of unequal sizes. `traps` {client: trap}, else there are none."""
    rng = np.random.default_rng(seed)
    trap = [(traps or {}).get(i, 0.0) for i in range(n)]
    return [
        (rng.standard_normal((m, 2)), rng.standard_normal(m) + 0.3 * i, np.full(m, trap[i])) for i, m in enumerate(COUNTS[:n])
    ]


def permuted(values, order):
    """The same clients in another order."""
    return [values[i] for i in order]


def rows(examples):
    """A [m, 3] and b [m] of one client, leaves of x in tree order."""
    a, b, _ = examples
    return np.concatenate([np.ones((len(b), 1)), a], axis=1), b


def hessians(values):
    """`[n, 3, 3]` of the f_i."""
    return np.stack([A.T @ A / len(A) + np.eye(3) / 10 for A, _ in map(rows, values)])


def minimiser(values):
    """(offset, slope): argmin Σ w_i f_i, by NumPy."""
    w = np.array([len(b) for _, b, _ in values]) / sum(len(b) for _, b, _ in values)
    right = np.stack([A.T @ b / len(A) for A, b in map(rows, values)])
    return np.linalg.solve(np.einsum("n,nij->ij", w, hessians(values)), w @ right)


def problem(values, dtype=np.float64, loss=squared_error):
    """Ragged empirical risks over such data; x is a pytree. Constants are those of the data, by NumPy."""
    eigenvalues = np.linalg.eigvalsh(hessians(values))
    values = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), values)
    return tw.EmpiricalRisk(loss, values, start(dtype), smoothness=eigenvalues[:, -1], strong_convexity=eigenvalues[:, 0])


def start(dtype=np.float64):
    """x0."""
    return {"slope": np.zeros(2, dtype), "bn1": np.zeros((), dtype)}


def partial(name, size=COHORT):
    """A cohort of `size`, or everybody where the method needs it."""
    return None if "everyone" in kind(name).needs else size


def solve(*args, **options):
    """`tw.solve` without its warnings about what is biased."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return tw.solve(*args, **options)


def personal(name):
    """Whether clients have answers of their own."""
    return "personal" in kind(name).handles
