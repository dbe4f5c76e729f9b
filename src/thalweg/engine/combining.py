"""Evaluating combine rules for one agent, over its padded neighbour slots in order of id."""

from typing import Any

import jax
import jax.numpy as jnp

from thalweg.message.aggregate import Mixer
from thalweg.message.combine import Combine, Edges, Mix, Neighbours, Pull, Push, Stack, Sum, Summed
from thalweg.message.rows import as_rows

# Up to this many slots the sum over neighbours is unrolled, so that gathering and adding are one pass over memory.
UNROLL = 16

WEIGHTED = {Mix: "mixing", Pull: "pull", Push: "push"}


def weight_kinds(combine: dict[str, Combine]) -> frozenset[str]:
    """Which of the network's weights the rules use."""
    return frozenset(WEIGHTED[type(rule)] for rule in combine.values() if type(rule) in WEIGHTED)


def gather_slots(leaf, neighbours):
    """`[n, ...]` → what neighbours sent: a tuple of `[n, ...]` per slot, or `[n, slots, ...]` beyond `UNROLL` slots."""
    if neighbours.shape[1] <= UNROLL:
        return tuple(leaf[neighbours[:, s]] for s in range(neighbours.shape[1]))
    return leaf[neighbours]


def combine_field(rule: Combine, own: Any, values: Any, row: dict[str, Any], mixer: Mixer | None = None) -> Any:
    """What one agent's inbox holds for one field.

    Args:
        rule: the field's rule.
        own: the agent's own message for this field (as its neighbours decode it).
        values: what is in each slot: a pytree like `own` whose leaves are tuples of slots or have a slot axis.
        row: of this agent: "arrived", "fresh" and "stamped" `[slots]`; for weighted rules "weights" `[slots]` and
            "self_weight"; "changing", whether weights differ from round to round (static).
        mixer: what stands in place of the weighted sum.
    """
    if isinstance(rule, Mix | Pull):
        weights, self_weight = row["weights"], row["self_weight"]
        if row["changing"]:
            lost = jnp.where(row["arrived"], 0, weights)
            weights = jnp.where(row["arrived"], weights, 0)
            self_weight = self_weight + _sum_slots(lost)
        if mixer is not None:
            return _mixed(mixer, own, values, weights, self_weight, row["arrived"])
        return _weighted_sum(own, values, weights, self_weight)
    if isinstance(rule, Push):
        if row["changing"]:  # values are differences of running sums, zero where nothing arrived
            ones = jnp.ones_like(row["weights"])
            return _weighted_sum(own, values, ones, row["self_weight"])
        return _weighted_sum(own, values, row["weights"], row["self_weight"])
    if isinstance(rule, Sum):
        arrived = row["arrived"]
        leaf = jax.tree.leaves(own)[0]
        total = _weighted_sum(own, values, arrived.astype(leaf.dtype), jnp.zeros((), leaf.dtype), mask=arrived)
        return Summed(total, jnp.sum(arrived).astype(jnp.int32))
    if isinstance(rule, Neighbours | Edges):
        stacked = jax.tree.map(lambda like, slots: _stacked(slots), own, values)
        return Stack(stacked, row["stamped"], row["fresh"])
    raise TypeError(f"{type(rule).__name__} is not a rule between peers")


def _weighted_sum(own, values, weights, self_weight, mask=None):
    """self_weight·own + Σ_s weights_s·values_s, added in slot order; a slot outside `mask` is not even read."""

    def leaf_sum(like, slots):
        if not jnp.issubdtype(like.dtype, jnp.inexact):
            raise TypeError(f"a weighted sum of {like.dtype} messages is not defined: send floats or use Neighbours()")
        scale = lambda w: w.astype(like.dtype)
        total = scale(self_weight) * like

        def add(total, s, value):
            if mask is not None:
                value = jnp.where(mask[s], value, jnp.zeros_like(value))
            return total + scale(weights[s]) * value

        if isinstance(slots, tuple):
            for s, value in enumerate(slots):
                total = add(total, s, value)
            return total
        return jax.lax.fori_loop(0, slots.shape[0], lambda s, total: add(total, s, slots[s]), total)

    return jax.tree.map(leaf_sum, own, values)


def _mixed(mixer: Mixer, own, values, weights, self_weight, arrived):
    """What the mixer makes of one agent's neighbourhood; a slot with a number that is not finite counts as empty."""
    mine, _, back = as_rows(jax.tree.map(lambda leaf: leaf[None], own))
    theirs = as_rows(jax.tree.map(lambda like, slots: _stacked(slots), own, values))[0]
    usable = arrived & (weights > 0) & jnp.all(jnp.isfinite(theirs), axis=1)
    kept = jnp.where(usable, weights, 0)
    self_weight = self_weight + jnp.sum(weights - kept)
    theirs = jnp.where(usable[:, None], theirs, mine)
    dtype = mine.dtype
    return back(mixer.mix(mine[0], theirs, kept.astype(dtype), self_weight.astype(dtype), usable))


def _sum_slots(weights):
    if weights.shape[0] <= UNROLL:
        total = weights[0]
        for s in range(1, weights.shape[0]):
            total = total + weights[s]
        return total
    return jnp.sum(weights)


def _stacked(slots):
    return jnp.stack(slots) if isinstance(slots, tuple) else slots
