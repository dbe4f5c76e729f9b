"""What is refused, or warned about, of a coupled problem, before anything runs: got, expected, how to mend."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.algorithm.base import PeerAlgorithm
from thalweg.problem import Coupled
from thalweg.problem.polyhedron import Polyhedron
from thalweg.problem.regularizer import Zero

from .facts import of_market
from .simulated import EventDriven


def check_coupled(algorithm: PeerAlgorithm, problem: Coupled) -> None:
    """The problem has what the algorithm needs.

    Raises:
        ValueError: it has not.
    """
    name = type(algorithm).__name__
    if problem.pieces.rows is not None:
        raise ValueError(
            f"{name}: peers agree on the prices of all rows, got rows= with {problem.pieces.rows.shape[1]} of {problem.m} rows for "
            "an agent; return all rows from coupling(x, data_i), with zeros where the agent touches none, or use a price-setter "
            "(tw.DualAscent, tw.ExchangeADMM)"
        )
    if problem.coupling.signal is not None:
        raise ValueError(
            f"{name}: peers hold fixed shares of the total, got signal=, which moves it; use a price-setter (tw.DualAscent, "
            "tw.ExchangeADMM)"
        )
    check_market(problem, algorithm)
    if "projection" in algorithm.needs and _has_polyhedron(problem):
        raise ValueError(
            f"{name} projects onto X_i, got a Polyhedron, which has no projection in closed form; use tw.TrackingADMM() or "
            "tw.DualGradientTracking(), which ask for best responses"
        )
    if "affine" in algorithm.needs and not problem.pricing.affine:
        raise ValueError(
            f"{name} needs g_i(x) = A_i x + c_i, got a coupling(x, data_i) that bends; use tw.DualGradientTracking()"
        )
    if "smooth" in algorithm.needs and not problem.pricing.smoothness.max() > 0:
        raise ValueError(f"{name} needs smooth costs with some curvature, got linear ones; use tw.TrackingADMM()")
    if "exchange" in algorithm.needs:
        _check_exchange(name, problem)


def _has_polyhedron(problem: Coupled) -> bool:
    if problem.of_data is None:
        return isinstance(problem.feasible, Polyhedron)
    first = jax.tree.map(lambda leaf: leaf[0], problem.pieces.data)
    return isinstance(problem.of_data(first), Polyhedron)


def _check_exchange(name: str, problem: Coupled) -> None:
    """Trades keep the rows: equalities, nothing else to keep, and g_i(x) = A_i x + c_i with A_i orthogonal."""
    other = "use tw.DualGradientTracking(), tw.TrackingADMM() or tw.DistributedPrimalDual()"
    if bool(jnp.any(problem.coupling.inequality)):
        row = problem.row_names[int(jnp.argmax(problem.coupling.inequality))]
        raise ValueError(f"{name} trades what is there, so that Σ g_i(x_i) = b, got an inequality ({row}); {other}")
    if not isinstance(problem.feasible, Zero):
        what = "a function of the data" if problem.of_data else type(problem.feasible).__name__
        raise ValueError(f"{name}: trades would leave X_i, got local={what}, expected none; {other}")
    worst = np.inf
    if problem.m == problem.size:
        worst = float(_far_from_orthogonal(problem))
    if not worst < 1e-6:
        got = f"{problem.m} rows and {problem.size} variables" if worst == np.inf else f"AᵀA − I of {worst:.3g}"
        raise ValueError(f"{name} needs g_i(x) = A_i x + c_i with A_i orthogonal, such as x itself or −x, got {got}; {other}")


def _far_from_orthogonal(problem: Coupled):
    """max |A_iᵀA_i − I|, and how far A_i changes from x0 to another x."""
    start, unravel = ravel_pytree(problem.x0)

    def one(piece):
        slope = jax.jacobian(lambda row: problem.local(piece).quantity(unravel(row)))
        A = slope(start)
        bend = jnp.max(jnp.abs(slope(start + 1) - A))
        return jnp.maximum(bend, jnp.max(jnp.abs(A.T @ A - jnp.eye(A.shape[1], dtype=A.dtype))))

    return jnp.max(jax.lax.map(one, problem.pieces))


def participation(cohort: Any, fleet: Any, engine: Any, n: int) -> float:
    """The part of the agents whose answers arrive in a round, as `Facts` has it.

    Without rounds answers are late besides, by about as many updates as it takes to hear everybody: half of the part.
    """
    answered = 1.0 if fleet is None else 1 - float(np.max(fleet.dropout))
    if isinstance(engine, EventDriven) and engine.buffer < n:
        return answered * engine.buffer / (2 * n)
    return answered * min(1.0, cohort.slots(n) / n)


def check_market(problem: Coupled, algorithm: Any) -> None:
    """Prices find nothing but convex optima, and only where there is a feasible plan."""
    if problem.n == 1:
        problem.check_whole()
    found, name = problem.pricing, type(algorithm).__name__
    if not found.convex:
        i = int(np.argmin(found.lowest))
        who = problem.names[i] if problem.names else f"agent {i}"
        raise ValueError(
            f"{name} needs convex costs, got one with negative curvature {found.lowest[i]:.4g} ({who}); a price cannot hold a "
            "plan inside a non-convex cost: convexify it"
        )
    rows, b = problem.coupling, np.asarray(problem.coupling.total, float)
    up, down = np.asarray(rows.high) > 0, np.asarray(rows.low) < 0
    if not found.affine and (up & down).any():
        raise ValueError(
            f"coupling(x, data_i) is not affine, and row {problem.row_names[int(np.argmax(up & down))]!r} is an equality, which "
            'makes no convex problem; use sense="<=" where Σ g_i ≤ b is what is meant'
        )
    if not found.bulging:
        raise ValueError(
            'coupling(x, data_i) curves the wrong way: expected one that is convex where sense="<=", concave where sense=">="; a '
            "price finds nothing else"
        )
    if problem.drifts:
        return
    slack = 1e-9 * (1 + np.abs(b))
    for j in np.flatnonzero((up & (found.least > b + slack)) | (down & (found.most < b - slack))):
        raise ValueError(
            f"total of {problem.row_names[j]!r}: got {b[j]:.6g}, and the agents together can only reach {found.least[j]:.6g} … "
            f"{found.most[j]:.6g}: no plan is feasible; change the total, or the agents' bounds"
        )


def lost_warning(algorithm: Any, fleet: Any, engine: Any, n: int) -> list[str]:
    """Answers that do not arrive, or arrive late, and a method that needs them."""
    if isinstance(engine, EventDriven) and engine.buffer < n and "partial" not in algorithm.exact_under:
        return [
            f"EventDriven(buffer={engine.buffer}): {type(algorithm).__name__} diverges where many answers are late; use "
            f"tw.DualAscent(), or a buffer nearer to {n}"
        ]
    lossy = fleet is not None and (float(np.max(fleet.dropout)) > 0 or fleet.selective)
    if not lossy or "dropout" in algorithm.exact_under:
        return []
    return [
        f"{type(algorithm).__name__} is exact when everybody answers in every round, and here answers are lost: its limit may be "
        "wrong; look at the certificate, or use tw.DualAscent() or tw.ExchangeADMM()"
    ]


def step_warning(problem: Coupled, algorithm: Any) -> list[str]:
    """A step beyond the provable bound."""
    step, bound = getattr(algorithm, "step_size", None), getattr(algorithm, "step_bound", None)
    if "strongly_convex" in algorithm.needs and not np.isfinite(problem.pricing.largest):
        return [
            f"{type(algorithm).__name__}: costs are not strongly convex, so best responses jump, and no price alone clears the "
            "market; use tw.ExchangeADMM(), tw.ProximalBundle() or tw.DualSubgradient()"
        ]
    if step is None or bound is None or not np.isfinite(problem.pricing.largest):
        return []
    if np.ndim(step):
        beyond = float(np.max(np.asarray(step) * problem.pricing.diagonal)) * problem.pricing.scaled
        allowed = float(bound(of_market(problem))) * problem.pricing.largest
        said = f"one of its scaled steps α_j ω M_jj is {beyond:.3g}"
    else:
        beyond, allowed = float(step), float(bound(of_market(problem)))
        said = f"step_size={beyond:.4g}"
    if beyond < allowed:
        return []
    return [f"{type(algorithm).__name__}: {said}, and stability is proved below {allowed:.4g} only ({problem.pricing.source})"]
