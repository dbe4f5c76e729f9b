"""What agents and the price-setter keep, whatever the method."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from thalweg._trees import minus, norm
from thalweg.algorithm.server.base import ClientInfo


class Plan(eqx.Module):
    """An agent's plan `x`, and the `quantity` `[r]` that the price-setter has accepted from it (0 before the first)."""

    x: Any
    quantity: Float[Array, " r"]

    @classmethod
    def first(cls, local: Any, x0: Any) -> "Plan":
        """Before anything was planned."""
        return cls(x0, jnp.zeros_like(local.share))


class Market(eqx.Module):
    """The price-setter's `price` `[m]`, and the `quantity` `[m]` that all agents together have planned."""

    price: Float[Array, " m"]
    quantity: Float[Array, " m"]

    @classmethod
    def first(cls, shared: Any) -> "Market":
        """Before anybody has planned anything: nothing costs anything."""
        nothing = jnp.zeros_like(shared.coupling.total)
        return cls(nothing, nothing)


def told(local: Any, before: Any, answer: Any) -> ClientInfo:
    """What an agent learnt: its cost, how far its plan moved, iterations of its solver."""
    moved = norm(minus(answer.x, before))
    return ClientInfo(local.cost(answer.x), jnp.full_like(moved, jnp.nan), moved, answer.iterations)


def residuals(shared: Any, quantity: Float[Array, " m"]) -> dict[str, Array]:
    """Scalars for the history: how far the plans that were heard of are from the rows."""
    return {"primal_residual": jnp.max(jnp.abs(shared.coupling.excess(quantity)))}


def accuracy(tolerance: Any, context: Any) -> Any:
    """How well the best response of this round is to be found: tolerance/(k + 1)², which is summable; None stays."""
    if tolerance is None:
        return None
    return tolerance / (context.round + 1).astype(jnp.result_type(tolerance)) ** 2
