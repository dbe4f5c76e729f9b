"""The same horizon problem solved in one place, by Clarabel or OSQP (extra "sdp"): what distributed planning is measured against.

    v = (x(1 … H), u(0 … H−1)),   minimise ½ vᵀPv + qᵀv   subject to dynamics, limits and budgets

Axes: as in `plant`; `H` steps.
"""

import importlib
import time
from typing import Any

import numpy as np
from scipy import sparse

from thalweg.apps.mpc.plan import Plan
from thalweg.apps.mpc.plant import Plant


class Central:
    """Plans for the whole plant at once. It is used like a `Controller`.

    Arguments:
        plant, horizon: as there.
        solver: "clarabel", an interior point, or "osqp", operator splitting that starts from its last answer.
        tolerance: of the solver.

    Raises:
        ImportError: cvxpy's solvers are not installed; the message names the extra.
    """

    def __init__(self, plant: Plant, horizon: int, solver: str = "clarabel", tolerance: float = 1e-9):
        if solver not in ("clarabel", "osqp"):
            raise ValueError(f"Central: got solver={solver!r}, expected 'clarabel' or 'osqp'")
        if plant.bend is not None:
            raise ValueError("Central: this plant is not linear, and its horizon problem no quadratic program")
        try:
            self._package = importlib.import_module(solver)
        except ImportError as error:
            raise ImportError(
                f"this needs the package {solver!r}, which is not installed: pip install 'thalweg[sdp]'"
            ) from error
        self.plant, self.horizon, self.solver, self.tolerance = plant, horizon, solver, tolerance
        n, s, a, H = plant.n, plant.s, plant.a, horizon
        states, inputs = n * s, n * a
        whole = sparse.block_diag(list(plant.A)).tolil()
        for (j, i), matrix in plant.influence.items():
            whole[i * s : (i + 1) * s, j * s : (j + 1) * s] += matrix
        self._whole, B = sparse.csc_matrix(whole), sparse.block_diag(list(plant.B))
        Q, final, R = (sparse.block_diag(list(m)) for m in (plant.Q, plant.final, plant.R))
        self._P = sparse.block_diag([*[Q] * (H - 1), final, *[R] * H], format="csc")
        goal = np.concatenate([np.tile(plant.target.ravel(), H), np.tile(plant.rest.ravel(), H)])
        self._q = -self._P @ goal
        move = sparse.kron(sparse.eye(H), sparse.eye(states)) - sparse.kron(sparse.eye(H, k=-1), self._whole)
        dynamics = sparse.hstack([move, -sparse.kron(sparse.eye(H), B)])
        use = sparse.csc_matrix(plant.use.transpose(1, 0, 2).reshape(plant.b, inputs))
        budgets = sparse.hstack([sparse.csc_matrix((H * plant.b, H * states)), sparse.kron(sparse.eye(H), use)])
        low = np.concatenate([np.tile(plant.low.ravel(), H), np.tile(plant.input_low.ravel(), H)])
        high = np.concatenate([np.tile(plant.high.ravel(), H), np.tile(plant.input_high.ravel(), H)])
        self._limits = low, high
        self._bounded = np.flatnonzero(np.isfinite(low) | np.isfinite(high))
        kept = sparse.eye(len(low), format="csr")[self._bounded]
        self._M = sparse.vstack([dynamics, budgets, kept], format="csc")
        self._warm: Any = None

    def plan(self, x: np.ndarray, t: int = 0) -> Plan:
        """The best plan from states `x` `[n, s]` at time t."""
        plant, H = self.plant, self.horizon
        start = np.tile(plant.drift.ravel(), H)
        start[: x.size] += self._whole @ x.ravel()
        low, high = (bound[self._bounded] for bound in self._limits)
        budget = plant.available(t, H).ravel()
        l = np.concatenate([start, np.full(budget.size, -np.inf), low])
        u = np.concatenate([start, budget, high])
        began = time.perf_counter()
        v, solved, iterations = getattr(self, f"_{self.solver}")(l, u)
        seconds = time.perf_counter() - began
        states = v[: H * x.size].reshape(H, *x.shape).transpose(1, 0, 2)
        inputs = v[H * x.size :].reshape(H, plant.n, plant.a).transpose(1, 0, 2)
        return Plan(inputs, states, solved, iterations, 1.0, plant.excess(states, inputs, t).max(initial=0.0), seconds)

    def _clarabel(self, l, u):
        equal = l == u
        upper, lower = ~equal & np.isfinite(u), ~equal & np.isfinite(l)
        A = sparse.vstack([self._M[equal], self._M[upper], -self._M[lower]], format="csc")
        b = np.concatenate([u[equal], u[upper], -l[lower]])
        cones = [self._package.ZeroConeT(int(equal.sum())), self._package.NonnegativeConeT(int(upper.sum() + lower.sum()))]
        settings = self._package.DefaultSettings()
        settings.verbose = False
        settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = self.tolerance
        found = self._package.DefaultSolver(sparse.triu(self._P, format="csc"), self._q, A, b, cones, settings).solve()
        return np.array(found.x), str(found.status) in ("Solved", "AlmostSolved"), found.iterations

    def _osqp(self, l, u):
        if self._warm is None:
            self._warm = self._package.OSQP()
            self._warm.setup(sparse.triu(self._P, format="csc"), self._q, self._M, l, u, verbose=False, eps_abs=self.tolerance,
                             eps_rel=self.tolerance, max_iter=100_000)  # fmt: skip
        else:
            self._warm.update(l=l, u=u)
        found = self._warm.solve(raise_error=False)
        return np.array(found.x), found.info.status == "solved", found.info.iter
