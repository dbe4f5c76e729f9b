"""The public part of a coupled problem: rows Σ_i g_i(x_i) = b, ≤ b or ≥ b, and what their senses say of prices.

The Lagrangian is Σ_i f_i(x_i) + ⟨λ, Σ_i g_i(x_i) − b⟩: a price is what one more unit of the row costs whoever uses it. It is free
where the row is an equality, ≥ 0 where Σ g ≤ b, ≤ 0 where Σ g ≥ b.

Axes: `m` rows.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from thalweg.problem import checks

SENSES = {"=": (-np.inf, np.inf), "<=": (0.0, np.inf), ">=": (-np.inf, 0.0)}


class Coupling(eqx.Module):
    """Rows of a shared constraint.

    Attributes:
        total: b `[m]`.
        low, high: `[m]`, the bounds of the prices.
        touching: `[m]`, how many agents touch each row.
        initial: `[m]`, what `signal` moves; b itself where nothing moves.
        signal: `signal(initial, k)` is the total of round k; None where it stands still (static).
    """

    total: Float[Array, " m"]
    low: Float[Array, " m"]
    high: Float[Array, " m"]
    touching: Float[Array, " m"]
    initial: Float[Array, " m"]
    signal: Callable | None = eqx.field(static=True, default=None)

    @classmethod
    def of(cls, total: Any, sense: Any, touching: Any, dtype: Any, signal: Callable | None = None) -> "Coupling":
        """Rows with these totals, a number or `[m]`, and a sense "=", "<=" or ">=", or one per row; `touching` a number or `[m]`.

        Raises:
            ValueError: NaN or infinity, another sense, or a signal that makes something else than totals.
        """
        b = np.atleast_1d(np.asarray(total, float))
        if b.ndim != 1 or not np.isfinite(b).all():
            raise ValueError(f"total: got {total!r}, expected finite numbers, one per row of the coupling")
        senses = [sense] * len(b) if isinstance(sense, str) else list(sense) if isinstance(sense, Sequence) else [sense]
        if len(senses) != len(b) or any(s not in SENSES for s in senses):
            raise ValueError(f'sense: got {sense!r}, expected "=", "<=" or ">=", or {len(b)} of them, one per row')
        low, high = np.array([SENSES[s] for s in senses]).T
        rows = (b, low, high, np.broadcast_to(touching, b.shape), b)
        made = cls(*(jnp.asarray(row, dtype) for row in rows), signal)
        if signal is not None:
            checks.signal(signal, made.initial, "signal(total, k)", "the totals")
        return made.at(0)

    @property
    def m(self) -> int:
        """Number of rows."""
        return self.total.shape[0]

    def at(self, k: Any) -> "Coupling":
        """The rows of round `k`."""
        if self.signal is None:
            return self
        moved = jnp.asarray(self.signal(self.initial, k), self.total.dtype)
        return eqx.tree_at(lambda c: c.total, self, moved)

    def check_parts(self, share: Float[Array, "n r"] | None, rows: Int[Array, "n r"] | None) -> None:
        """That agents who touch `rows` touch all together, and that their parts of the total, if given, add up to it.

        Raises:
            ValueError: they do not.
        """
        if len(untouched := np.flatnonzero(np.asarray(self.touching) == 0)):
            raise ValueError(f"rows: nobody touches row {untouched[0]}, so that its sum is always 0; drop it")
        if share is None:
            return
        b, entries = np.asarray(self.initial, float), np.asarray(share, float)  # rounding in single precision adds up too
        places = np.broadcast_to(np.arange(self.m), entries.shape) if rows is None else np.asarray(rows)
        summed = np.bincount(places[places >= 0], entries[places >= 0], self.m)
        if not np.allclose(summed, b, rtol=1e-6, atol=1e-6):
            raise ValueError(f"share: the parts add up to {summed}, expected the total {b}")

    def project(self, price: Float[Array, " m"]) -> Float[Array, " m"]:
        """The nearest price of the right sign."""
        return jnp.clip(price, self.low, self.high)

    def slack(self, wanted: Float[Array, " m"]) -> Float[Array, " m"]:
        """The nearest slack s with which Σ g + s = b: ≥ 0 where Σ g ≤ b, ≤ 0 where Σ g ≥ b, 0 for an equality."""
        lowest, highest = jnp.where(self.low == 0, 0, -jnp.inf), jnp.where(self.high == 0, 0, jnp.inf)
        return jnp.where(self.inequality, jnp.clip(wanted, lowest, highest), 0)

    def excess(self, quantity: Float[Array, " m"]) -> Float[Array, " m"]:
        """How far Σ g is on the wrong side of b, signed, 0 where the row holds."""
        residual = quantity - self.total
        return jnp.where(((residual > 0) & (self.high > 0)) | ((residual < 0) & (self.low < 0)), residual, 0)

    def violation(self, quantity: Float[Array, " m"]) -> Float[Array, ""]:
        """max_j |excess_j| / max(1, |b_j|)."""
        return jnp.max(jnp.abs(self.excess(quantity)) / jnp.maximum(1, jnp.abs(self.total)))

    @property
    def inequality(self) -> Bool[Array, " m"]:
        """Which rows are inequalities."""
        return jnp.isfinite(self.low) | jnp.isfinite(self.high)

    def slackness(self, price: Float[Array, " m"], quantity: Float[Array, " m"]) -> Float[Array, ""]:
        """max_j |λ_j (Σ g − b)_j| over the inequalities: 0 at an optimum."""
        return jnp.max(jnp.where(self.inequality, jnp.abs(price * (quantity - self.total)), 0), initial=0)


def gathered(values: Float[Array, " m"], rows: Int[Array, "*n r"]) -> Float[Array, "*n r"]:
    """The entries of `values` that an agent's `rows` name; 0 where a row is −1 (none)."""
    return jnp.where(rows < 0, 0, values[jnp.maximum(rows, 0)])


def scattered(entries: Float[Array, "n r"], rows: Int[Array, "n r"], m: int) -> Float[Array, " m"]:
    """Σ over agents of their entries, row by row, in order of agents."""
    place = jnp.where(rows < 0, m, rows).reshape(-1)
    return jnp.zeros(m, entries.dtype).at[place].add(entries.reshape(-1), mode="drop")


def heard(price: Float[Array, " m"], rows: Int[Array, "*n r"] | None) -> Float[Array, "*n r"]:
    """What an agent that touches `rows` (None: all) hears of a price."""
    return price if rows is None else gathered(price, rows)
