"""What compressed gossip keeps of variables that nobody sends whole: replicas, and what they add up to around an agent."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from thalweg._trees import minus, plus
from thalweg.algorithm.base import Facts


class Replicas(eqx.Module):
    """`own`: x̂_i, what the neighbours know of this agent's variable; `around`: Σ_j w_ij x̂_j, oneself included.

    Everybody starts at zero and sends changes x_i − x̂_i, from which the link drops what it likes. What it leaves is added at both
    ends: while W stays the same and every message arrives, the sum needs no replica of any single neighbour.
    """

    own: Any
    around: Any

    @classmethod
    def none(cls, like: Any) -> "Replicas":
        """Before anything was sent."""
        zeros = jax.tree.map(jnp.zeros_like, like)
        return cls(zeros, zeros)

    def change(self, x: Any) -> Any:
        """What is to be sent of `x`."""
        return minus(x, self.own)

    def after(self, sent: Any, heard: Any) -> "Replicas":
        """When `sent` was decoded by the neighbours, and Σ_j w_ij of what they sent is `heard`."""
        return Replicas(plus(self.own, sent), plus(self.around, heard))

    def pull(self) -> Any:
        """Σ_j w_ij (x̂_j − x̂_i)."""
        return minus(self.around, self.own)


def contraction_of(facts: Facts, name: str, field: str) -> float:
    """δ of the link, from which `field` is chosen.

    Raises:
        ValueError: it is not known, or the link may lengthen what it sends.
    """
    delta = facts.contraction
    if delta is None:
        raise ValueError(
            f"{name}: {field} was left open, and the link does not say how well it compresses; give one, for example {field}=0.1"
        )
    if not delta > 0:
        raise ValueError(
            f"{name}: got a link with E‖C(m) − m‖² up to {1 - delta:.3g}‖m‖², expected less than ‖m‖²; use "
            f"random_k(…, scale=False), more bits or smaller blocks, or give {field} yourself"
        )
    return float(delta)
