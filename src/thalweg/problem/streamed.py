"""Empirical risk whose examples are not held in memory: they are fetched for the clients of one round.

Axes: `n` clients, `c` clients of a round, `m` examples (padded to the largest m_i of all n).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from thalweg.problem import checks
from thalweg.problem.base import Problem
from thalweg.problem.constants import Known, Memo, given
from thalweg.problem.empirical_risk import EmpiricalRiskLocal, ExamplesPiece
from thalweg.problem.regularizer import Regularizer, Zero


class StreamedRisk(Problem):
    """minimise Σ_i w_i mean_j loss(x, example_ij) + r(x) over clients whose examples a source fetches when they are drawn.

    For servers only (`tw.solve` with a server's algorithm). What would need the examples of all clients at once (`reference`,
    estimated constants, gradients in the history) is not to be had; records measure a sample of the clients.

    Arguments:
        loss: `loss(x, example) -> scalar`, as for `EmpiricalRisk`.
        source: `tw.data.MemoryMapped`, `tw.data.Generated`, or any object with `n`, `counts`, `longest` and `fetch(ids)`.
        x0: the common starting point.
        weights: "examples", "uniform", or `[n]`.
        regularizer, smoothness, strong_convexity: as for `EmpiricalRisk`.

    Raises:
        ValueError, TypeError: as `EmpiricalRisk`, of the first client's examples.
    """

    x0: PyTree
    weights: np.ndarray
    regularizer: Regularizer | None
    curvature: tuple[np.ndarray | None, np.ndarray | None]
    source: Any = eqx.field(static=True)
    function: Callable = eqx.field(static=True)
    memo: Memo = eqx.field(static=True, repr=False)

    def __init__(
        self,
        loss: Any,
        source: Any,
        x0: PyTree,
        *,
        weights: Any = "examples",
        regularizer: Any = None,
        smoothness: Any = None,
        strong_convexity: Any = None,
    ):
        if not all(hasattr(source, name) for name in ("n", "counts", "longest", "fetch")):
            raise TypeError(
                f"source: got {type(source).__name__}, expected tw.data.MemoryMapped, tw.data.Generated, or an object with n, "
                "counts, longest and fetch(ids); use EmpiricalRisk for examples in memory"
            )
        self.x0, n = checks.start(x0), int(source.n)
        if isinstance(weights, str):
            if weights not in ("examples", "uniform"):
                raise ValueError(f"weights: got {weights!r}, expected 'examples', 'uniform', or one number per client")
            weights = np.broadcast_to(source.counts, (n,)) if weights == "examples" else np.ones(n)
        self.weights = checks.normalised_weights(weights, n, None)
        self.regularizer = checks.regularizer(regularizer, self.x0)
        constants = given(smoothness, strong_convexity, n)
        self.curvature = (constants.smoothness, constants.strong_convexity)
        self.source, self.function, self.memo = source, loss, Memo()
        first = self.fetch(np.zeros(1, np.int32))
        checks.loss_function(loss, self.x0, jax.tree.map(lambda leaf: leaf[0, 0], first.data), "loss(x, example)")

    @property
    def names(self) -> None:
        """Clients have numbers."""
        return None

    @property
    def pieces(self) -> None:
        """Nobody holds them all; see `fetch`."""
        return None

    def fetch(self, members: Any) -> ExamplesPiece:
        """What the clients `members` `[c]` hold, with scale 1: their weights are applied by the server."""
        data, counts = self.source.fetch(members)
        length = self.source.longest
        ones = jnp.ones(np.shape(counts), self.dtype)
        data = checks.to_device(data, self.dtype)
        if np.ndim(self.source.counts) == 0 or np.all(np.asarray(self.source.counts) == length):
            return ExamplesPiece(ones, data, None, None)
        counts = jnp.asarray(counts, jnp.int32)
        mask = (jnp.arange(length)[None] < counts[:, None]).astype(self.dtype)
        return ExamplesPiece(ones, data, counts, mask)

    def local(self, piece: ExamplesPiece) -> EmpiricalRiskLocal:
        return EmpiricalRiskLocal(
            piece.scale, piece.data, piece.count, piece.mask, self.regularizer or Zero(), None, self.function, None
        )

    def with_pieces(self, pieces: PyTree) -> "StreamedRisk":
        return self

    def _known_constants(self) -> Known:
        if self.curvature[0] is None:
            raise ValueError(
                "StreamedRisk: its constants cannot be estimated from clients that are not at hand; pass smoothness= to the "
                "problem, or give the algorithm its step size"
            )
        strong = np.zeros(self.n) if self.curvature[1] is None else self.curvature[1]
        return Known(self.curvature[0], strong, "given").times(self.n * self.weights)
