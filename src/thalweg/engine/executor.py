"""How a role function of one agent becomes a computation for all of them."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from .blocks import vectorised
from .fence import isolate


class Vectorised(eqx.Module):
    """All agents at once: `vmap` over the leading axis, within one compiled program.

    Attributes:
        zero: a run-time 0 (see `fence`).
        deterministic: compile every role by itself, so that all engines give the same bits.
        axis: name of the device axis over which agents are sharded, None on one device.
    """

    zero: UInt32[Array, ""]
    deterministic: bool = eqx.field(static=True)
    axis: str | None = eqx.field(static=True, default=None)

    def role(self, name: str, function: Callable, *args: Any, axes: tuple) -> Any:
        """`function` for every agent. `axes[i]` is `vmap`'s in_axes of args[i]."""
        if self.deterministic:
            return isolate(jax.vmap(function, in_axes=axes), self.zero)(*args)
        return vectorised(function, axes)(*args)

    def network_role(self, name: str, function: Callable, *args: Any) -> Any:
        """`function` once, of the whole network (metrics)."""
        return isolate(function, self.zero)(*args) if self.deterministic else function(*args)

    def post(self, common: Any, each: Any) -> None:
        """The wire of every agent's messages: only looked at by engines that pack them."""

    def settle(self, messages: Any) -> Any:
        """`messages`, written to memory before anybody reads them.

        Else XLA fuses what made them into the reading, and every neighbour gathers all that a message was made from
        (x_j and y_j for x_j − αy_j) and makes it again. No arithmetic is in it: the branch only hinders fusion.
        """
        if self.deterministic:  # roles are compiled by themselves
            return messages
        return jax.lax.cond(self.zero == 0, lambda m: m, lambda m: jax.tree.map(jnp.zeros_like, m), messages)

    def everyone(self, tree: Any) -> Any:
        """This device's agents → all agents, in order."""
        if self.axis is None:
            return tree
        return jax.tree.map(lambda leaf: jax.lax.all_gather(leaf, self.axis, axis=0, tiled=True), tree)

    def total(self, name: str, leaf: Array) -> Array:
        """Σ over all agents of `leaf [n, ...]`."""
        if self.deterministic or self.axis is None:
            return self.network_role(name, lambda all_: jnp.sum(all_, axis=0), self.everyone(leaf))
        return jax.lax.psum(jnp.sum(leaf, axis=0), self.axis)

    def count(self, leaf: Array) -> int:
        """Number of agents in the network."""
        return leaf.shape[0] * (1 if self.axis is None else jax.lax.axis_size(self.axis))
