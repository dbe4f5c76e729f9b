"""The best response of one subsystem, by an active set in the space of its limits.

    minimise ½ vᵀ M v + gᵀ v   subject to   low ≤ C v ≤ high

Without limits v₀ = −K g with K = M⁻¹, which is kept: M does not change from round to round, nor from step to step. With them
v = v₀ − K Cᵀ z, and the multipliers z solve a problem as small as there are limits, with the matrix W = C K Cᵀ. Most plans touch
few limits, so a few solves of W's active block find the answer exactly.

Joaquim Júdice, Fernanda Pires, *A block principal pivoting algorithm for large-scale strictly monotone linear complementarity
problems*, Computers and Operations Research 21, 1994.

Axes: `d` variables, `p` limits.
"""

import jax
import jax.numpy as jnp

from thalweg.apps.mpc.condensed import quantities

# Block pivots without progress before single ones, and pivots in all.
TRIES = 3
PIVOTS = 300
# A limit gives way by this, relative to what the plan would give way to its multiplier.
SOFT = 1e-9


def respond(question, data):
    """The plan at a price and, if the question has one, with the penalty that `data` was made for."""
    if question.pull is not None:
        raise ValueError(
            "tw.apps.mpc: this method asks for a pull towards an anchor; pass exact=False to use tw.InteriorPoint()"
        )
    nothing = jnp.zeros_like(data.q)
    offset, back = jax.vjp(lambda v: quantities(v, data), nothing)
    if question.penalty is None:
        return solved(data.K0, data.T0, data.W0, data.q + back(question.price)[0], data)
    pressure = question.price + question.penalty * (offset - question.target)
    return solved(data.K, data.T, data.W, data.q + back(pressure)[0], data)


def solved(K, T, W, g, data):
    """The minimiser `[d]`."""
    v = -K @ g
    s = data.C @ v
    z = multipliers(W, s, data.low, data.high)
    return v - T @ z


def multipliers(W, s, low, high):
    """z `[p]` with s − W z within the limits; z > 0 where it is at the upper one, < 0 at the lower one, else 0.

    Block principal pivoting: every limit on the wrong side changes sides at once; when that no longer reduces how many there
    are, one at a time, which ends for every positive definite W. Limits that depend on each other, or exclude each other, make
    W singular or the problem infeasible; so limits are a little soft (`SOFT`). NaN where `PIVOTS` do not suffice, so that a run
    names the subsystem.
    """
    p = s.shape[0]
    W = W + jnp.diag(jnp.full(p, SOFT) * jnp.trace(W) / p)
    margin = 1e-12 * (1 + jnp.maximum(jnp.abs(s), jnp.where(jnp.abs(high - low) < 1e6, jnp.abs(high - low), 0)))

    def wrong(z, side):
        """The side on which each limit should be, and where that is another one: 1 upper, −1 lower, 0 none."""
        r = s - W @ z
        outside = jnp.where(r > high + margin, 1, jnp.where(r < low - margin, -1, 0))
        wanted = jnp.where(side == 0, outside, jnp.where(z * side < 0, 0, side))
        return wanted, wanted != side

    def solved(side):
        active = side != 0
        M = jnp.where(active[:, None] & active[None, :], W, 0) + jnp.diag(jnp.where(active, 0.0, 1.0))
        bound = jnp.where(side > 0, high, low)
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(M), jnp.where(active, s - bound, 0))

    def body(carry):
        _, side, wanted, bad, fewest, tries, k = carry
        count = jnp.sum(bad)
        fewer = count < fewest
        tries = jnp.where(fewer, TRIES, tries - 1)
        single = bad & (jnp.arange(p) == p - 1 - jnp.argmax(bad[::-1]))
        side = jnp.where(jnp.where(tries >= 0, bad, single), wanted, side)
        z = solved(side)
        return z, side, *wrong(z, side), jnp.minimum(count, fewest), tries, k + 1

    zero, none = jnp.zeros_like(s), jnp.zeros(p, jnp.int32)
    counters = (jnp.asarray(p + 1), jnp.asarray(TRIES), jnp.asarray(0))
    state = (zero, none, *wrong(zero, none), *counters)
    end = jax.lax.while_loop(lambda c: jnp.any(c[3]) & (c[6] < PIVOTS), body, state)
    return jnp.where(jnp.any(end[3]), jnp.nan, end[0])
