"""How a role function of one agent becomes a computation for all of them."""

import contextlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from thalweg._trees import square

from .blocks import vectorised
from .fence import bits, isolate
from .outer import written_out


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
        return written_out(vectorised(function, axes), self.zero)(*args)

    @property
    def shapes(self) -> "Vectorised":
        """An executor that may be traced, to find shapes."""
        return self

    def acting(self, members: Array) -> contextlib.AbstractContextManager:
        """Within, rows are those of `members`: what fails is called by its own number."""
        return contextlib.nullcontext()

    def once(self, name: str, compute: Callable) -> Any:
        """What `compute` gives, which is the same in every round: tracing does it once."""
        return compute()

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

    def share(self, tree: Any) -> Any:
        """What all devices know → this device's share of the leading axis."""
        if self.axis is None:
            return tree
        devices, here = jax.lax.axis_size(self.axis), jax.lax.axis_index(self.axis)
        block = lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, here * (leaf.shape[0] // devices), leaf.shape[0] // devices)
        return jax.tree.map(block, tree)

    def take(self, tree: Any, members: Array) -> Any:
        """Rows of the agents' `tree [n, ...]`: those of this device's share of `members`, wherever they are."""
        if self.axis is None:
            return jax.tree.map(lambda leaf: leaf[members], tree)
        return jax.tree.map(lambda leaf: self._fetched(leaf, members), tree)

    def pieces(self, problem: Any, members: Array) -> Any:
        """What this device's share of `members` hold."""
        return self.take(problem.pieces, members)

    def put(self, tree: Any, members: Array, rows: Any, keep: Array, whole: bool = False) -> Any:
        """`tree [n, ...]` with this device's share of `rows` stored at those `members` that are to `keep` them.

        `whole`: members are all agents as they stand.
        """
        if whole:
            keep = self.share(keep)
            pick = lambda old, new: jnp.where(keep.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
            return jax.tree.map(pick, tree, rows)
        rows = self.everyone(rows)
        size = jax.tree.leaves(tree)[0].shape[0] if jax.tree.leaves(tree) else 0
        here = 0 if self.axis is None else jax.lax.axis_index(self.axis) * size
        place = jnp.where(keep & (members >= here) & (members < here + size), members - here, size)
        return jax.tree.map(lambda leaf, new: leaf.at[place].set(new, mode="drop"), tree, rows)

    def weighted(self, name: str, weights: Array, tree: Any) -> Any:
        """Σ_i weights_i·row_i over the cohort, of this device's share of the rows."""
        if self.deterministic or self.axis is None:
            return self.network_role(name, weighted, weights, self.everyone(tree))
        return jax.lax.psum(weighted(self.share(weights), tree), self.axis)

    def squares(self, tree: Any) -> Array:
        """`[c]` ‖row_i‖² over the cohort, of this device's share of the rows."""
        return self.everyone(self.role("squares", square, tree, axes=(0,)))

    def _fetched(self, leaf: Array, members: Array) -> Array:
        """As `take`, of one leaf: every device offers the rows it has, as integers, which add without rounding."""
        size = leaf.shape[0]
        place = members - jax.lax.axis_index(self.axis) * size
        mine = (place >= 0) & (place < size)
        rows = bits(leaf)[jnp.clip(place, 0, size - 1)]
        rows = jnp.where(mine.reshape(-1, *(1,) * (rows.ndim - 1)), rows, jnp.zeros_like(rows))
        total = jax.lax.psum_scatter(rows, self.axis, scatter_dimension=0, tiled=True)
        if leaf.dtype == bool:
            return total.astype(bool)
        return total if total.dtype == leaf.dtype else jax.lax.bitcast_convert_type(total, leaf.dtype)

    def count(self, leaf: Array) -> int:
        """Number of agents in the network."""
        return leaf.shape[0] * (1 if self.axis is None else jax.lax.axis_size(self.axis))


def weighted(weights: Array, tree: Any) -> Any:
    """Σ_i weights_i·row_i, leaf by leaf; rows without weight (nobody's, or lost) do not count, whatever they hold."""

    def total(leaf):
        each = weights.astype(leaf.dtype).reshape(-1, *(1,) * (leaf.ndim - 1))
        return jnp.sum(jnp.where(each == 0, 0, each * leaf), axis=0)

    return jax.tree.map(total, tree)
