"""Coupled problems about which everything is known, for tests of price methods.

Truths come from cvxpy with Clarabel, SciPy's HiGHS, or a linear system, never from the library. Axes: `n` agents, `m` rows,
`d` variables of one agent.
"""

import dataclasses
import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw

N = 8
# With a price-setter; those of peers have their own tests (oracle/test_price_peers.py).
NAMES = tuple(sorted(name for name in tw.price.__all__ if issubclass(getattr(tw.price, name), tw.ServerAlgorithm)))


def kind(name):
    """The class of an export."""
    return getattr(tw.price, name)


@dataclasses.dataclass
class Truth:
    """minimise ½ Σ_i x_iᵀ H_i x_i + q_iᵀ x_i subject to Σ_i A_i x_i (=, ≤, ≥) b, low ≤ x ≤ high, solved by Clarabel."""

    H: np.ndarray
    q: np.ndarray
    A: np.ndarray
    b: np.ndarray
    sense: tuple
    low: float = -np.inf
    high: float = np.inf

    def __post_init__(self):
        n, d = self.q.shape
        x = cp.Variable((n, d))
        total = sum(self.A[i] @ x[i] for i in range(n))
        compare = {"=": lambda u, v: u == v, "<=": lambda u, v: u <= v, ">=": lambda u, v: u >= v}
        rows = [compare[s](total[j], self.b[j]) for j, s in enumerate(self.sense)]
        sets = [x >= self.low] * bool(np.isfinite(self.low)) + [x <= self.high] * bool(np.isfinite(self.high))
        cost = sum(0.5 * cp.quad_form(x[i], cp.psd_wrap(self.H[i])) + self.q[i] @ x[i] for i in range(n))
        tight = {"tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
        self.value = cp.Problem(cp.Minimize(cost), rows + sets).solve(solver="CLARABEL", **tight)
        self.x = x.value
        # cvxpy's multipliers of "≥" are those of b − Ax ≤ 0.
        self.price = np.array(
            [-row.dual_value if s == ">=" else row.dual_value for s, row in zip(self.sense, rows, strict=True)]
        )


def quadratic(x, data):
    """½xᵀHx + qᵀx, with x = (head, tail), NaN where ‖x‖² · trap > 1."""
    row = jnp.concatenate([x["head"], x["tail"][None]])
    cost = 0.5 * row @ (data["H"] @ row) + data["q"] @ row
    return cost * jnp.where(jnp.sum(row**2) * data["trap"] > 1, jnp.nan, 1)


def linear(x, data):
    """A x."""
    return data["A"] @ jnp.concatenate([x["head"], x["tail"][None]])


def response(question, data):
    """(H + Aᵀ diag(penalty) A + pull·I) x = Aᵀ(penalty·target − price) − q + pull·anchor."""
    row = lambda x: jnp.concatenate([x["head"], x["tail"][None]])
    H, A, right = data["H"], data["A"], -data["q"] - data["A"].T @ question.price
    if question.penalty is not None:
        H, right = H + A.T @ (question.penalty[:, None] * A), right + A.T @ (question.penalty * question.target)
    if question.pull is not None:
        H, right = H + question.pull * jnp.eye(3), right + question.pull * row(question.anchor)
    x = jnp.linalg.solve(H, right)
    return {"head": x[:-1], "tail": x[-1]}


def data(n=N, seed=0, d=3, m=2, spread=1.0, scale=(1.0,)):
    """(H, q, A) of every agent; curvature from e^−spread to e^spread, rows in units that differ by `scale`."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((n, d, d)))[0]
    H = np.einsum("nij,nj,nkj->nik", turn, np.exp(rng.uniform(-spread, spread, (n, d))), turn)
    q = rng.standard_normal((n, d))
    A = rng.standard_normal((n, m, d)) * np.asarray(scale)[:, None]
    return (H + H.swapaxes(1, 2)) / 2, q, A


def problem(parts, b=(1.0, -2.0), sense=("=", "<="), dtype=np.float64, traps=None, **options):
    """The library's problem over such data, x a pytree; best responses in closed form unless a solver or a set is given."""
    if not {"solver", "local"} & set(options):
        options = options | {"solver": tw.ClosedForm(response, True)}
    H, q, _ = parts
    n, d = q.shape
    trap = np.array([(traps or {}).get(i, 0.0) for i in range(n)])
    values = {name: np.asarray(leaf, dtype) for name, leaf in zip("HqA", parts, strict=True)} | {"trap": trap.astype(dtype)}
    strong = np.linalg.eigvalsh(H)[:, 0]
    x0 = {"head": np.zeros(d - 1, dtype), "tail": np.zeros((), dtype)}
    options = {"strong_convexity": 0.999 * strong, "smoothness": 1.001 * np.linalg.eigvalsh(H)[:, -1]} | options
    return tw.Coupled(
        quadratic, values, coupling=linear, total=np.asarray(b, dtype), sense=list(sense), x0=x0, **options
    )  # fmt: skip


def rows(plans):
    """Plans as rows `[n, d]`."""
    return np.concatenate([np.asarray(plans["head"]), np.asarray(plans["tail"])[:, None]], axis=1)


def flat(plans):
    """Plans of any structure as rows `[n, ·]`."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(plans)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def solve(*args, **options):
    """`tw.solve` without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return tw.solve(*args, **options)


def separable(n=N, d=2, seed=0, spread=1.0):
    """a, c `[n, d]` of Σ ½a(x − c)²."""
    rng = np.random.default_rng(seed)
    return np.exp(rng.uniform(-spread, spread, (n, d))), rng.standard_normal((n, d))
