"""What is refused of a coupled problem among peers, before anything runs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg.algorithm.base import PeerAlgorithm
from thalweg.problem import Coupled
from thalweg.problem.polyhedron import Polyhedron
from thalweg.problem.regularizer import Zero

from .trade import check_market


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
