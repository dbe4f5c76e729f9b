"""Price methods of peers: nobody sets the price, everybody keeps a copy of it."""

import abc
from typing import TypeVar

from jaxtyping import Array, Float

from thalweg.algorithm.base import PeerAlgorithm

State = TypeVar("State")


class PricePeerAlgorithm(PeerAlgorithm[State]):
    """Neighbours who agree on the prices of m rows, Σ_i g_i(x_i) = b (or ≤, ≥).

    `local` is a `CoupledLocal`: f_i, g_i, X_i, the agent's `share` b_i of the total, Σ_i b_i = b, and the rows' senses
    (`local.public`). `estimate(state)` is the agent's plan x_i. All agents touch all rows.

    `needs` knows, beside what `PeerAlgorithm` says: "projection" (X_i has one, which a `Polyhedron` has not), "affine" (g_i),
    "exchange" (equalities, no X_i, and g_i(x) = A_i x + c_i with A_i orthogonal).
    """

    @abc.abstractmethod
    def price(self, state: State) -> Float[Array, " m"]:
        """The agent's copy of the price. Where a method does not keep to the rows' senses, its limit does."""
