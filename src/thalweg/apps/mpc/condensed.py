"""One subsystem's horizon problem in its own variables: inputs, and copies of what it hears.

    v = (u(0 … H−1), w_j(1 … H−1) for each neighbour j),   states x(t) = S_t v + f_t

The dynamics are eliminated (condensed), so that a plan obeys them whatever it is.

    cost  ½ vᵀP v + qᵀv + c,   limits  low ≤ C v ≤ high,   quantities  (w_j − y_j copies, budgets)

A neighbour's copy costs a part `share` of what the state itself costs its owner, who pays that much less: nothing changes where
copies agree, and every subsystem's own cost is strongly convex.

Axes: `H` steps, `d` entries of v, `p` limits, `r` quantities, others as in `plant`; functions are of one subsystem.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Model(eqx.Module):
    """What one subsystem knows of itself: x⁺ = A_t x + B_t u + Σ_j E_t,j y_j + c_t, limits and costs.

    Attributes:
        A, B, E, c: `[H, s, s]`, `[H, s, a]`, `[H, k, s, y]`, `[H, s]`.
        Q, final, R, target, rest: as in `Subsystem`.
        copy_cost, copy_target: `[k, y]` of the copies. share: `[y]` what all holders of copies pay of this one's own states.
        low, high: `[p]` limits of inputs, then of states. use: `[b, a]`.
    """

    A: Float[Array, "*n H s s"]
    B: Float[Array, "*n H s a"]
    E: Float[Array, "*n H k s y"]
    c: Float[Array, "*n H s"]
    Q: Float[Array, "*n s s"]
    final: Float[Array, "*n s s"]
    R: Float[Array, "*n a a"]
    target: Float[Array, "*n s"]
    rest: Float[Array, "*n a"]
    copy_cost: Float[Array, "*n k y"]
    copy_target: Float[Array, "*n k y"]
    share: Float[Array, "*n y"]
    low: Float[Array, "*n p"]
    high: Float[Array, "*n p"]
    use: Float[Array, "*n b a"]


class Condensed(eqx.Module):
    """The data of one agent of the coupled problem.

    Attributes:
        P, q, c: the cost. C, low, high: limits. Y, y: `[(H−1)·y, d]` and its offset, the own states that neighbours hear.
        use: `[b, a]`. outs: `[o]` and clock: `[H, a]`, zeros: how many neighbours may hear it, steps and inputs.
        K, T, W: (P + Rᵀ diag(penalty) R)⁻¹, K Cᵀ and C K Cᵀ, R the Jacobian of the quantities. K0, T0, W0: without penalty.
    """

    P: Float[Array, "*n d d"]
    q: Float[Array, "*n d"]
    c: Float[Array, "*n"]
    C: Float[Array, "*n p d"]
    low: Float[Array, "*n p"]
    high: Float[Array, "*n p"]
    Y: Float[Array, "*n z d"]
    y: Float[Array, "*n z"]
    use: Float[Array, "*n b a"]
    outs: Float[Array, "*n o"]
    clock: Float[Array, "*n H a"]
    K: Float[Array, "*n d d"]
    T: Float[Array, "*n d p"]
    W: Float[Array, "*n p p"]
    K0: Float[Array, "*n d d"]
    T0: Float[Array, "*n d p"]
    W0: Float[Array, "*n p p"]


def predicted(model: Model) -> Float[Array, "H s d"]:
    """S_t of the states x(1) … x(H)."""
    H, s, a = model.B.shape
    k, y = model.copy_cost.shape
    d = H * a + k * (H - 1) * y
    S, found = jnp.zeros((s, d), model.A.dtype), []
    for t in range(H):
        S = model.A[t] @ S
        S = S.at[:, t * a : (t + 1) * a].add(model.B[t])
        if t:
            for j in range(k):
                at = H * a + (j * (H - 1) + t - 1) * y
                S = S.at[:, at : at + y].add(model.E[t, j])
        found.append(S)
    return jnp.stack(found)


def free(model: Model, x: Float[Array, " s"], others: Float[Array, "k y"]) -> Float[Array, "H s"]:
    """f_t: where the subsystem goes from x without inputs and copies; `others` are the neighbours' heard states now."""

    def step(x, now):
        A, c, influence = now
        following = A @ x + c + influence
        return following, following

    first = jnp.einsum("ksy,ky->s", model.E[0], others)
    influence = jnp.zeros_like(model.c).at[0].set(first)
    return jax.lax.scan(step, x, (model.A, model.c, influence))[1]


def matrices(model: Model, outs, penalty: Float[Array, " r"], heard, limited) -> tuple[Any, Condensed]:
    """(S, what does not depend on the state). `heard`, `limited`: indices of states that are heard, that have limits."""
    H, s, a = model.B.shape
    S = predicted(model)
    Q = jnp.broadcast_to(model.Q, (H, s, s)).at[-1].set(model.final)
    Q = Q.at[:-1, heard, heard].add(-jnp.broadcast_to(model.share, (H - 1, *model.share.shape)))
    copies = jnp.repeat(model.copy_cost, H - 1, axis=0).reshape(-1)
    weights = jax.scipy.linalg.block_diag(*[model.R] * H, jnp.diag(copies))
    P = jnp.einsum("tsd,tsr,tre->de", S, Q, S) + weights
    P = 0.5 * (P + P.T)
    d = P.shape[0]
    C = jnp.concatenate([jnp.eye(d, dtype=P.dtype)[: H * a], S[:, limited].reshape(-1, d)])
    Y = S[:-1, heard].reshape(-1, d)
    nothing = jnp.zeros_like
    blank = Condensed(P, nothing(P[0]), nothing(P[0, 0]), C, model.low, model.high, Y, nothing(Y[:, 0]), model.use, outs,
                      jnp.zeros((H, a), P.dtype), P, C.T, C @ C.T, P, C.T, C @ C.T)  # fmt: skip
    R = jax.jacobian(lambda v: quantities(v, blank))(nothing(P[0]))
    # Both inverses in one call: two batches of them at once wait for each other's threads, on machines with two (jaxlib 0.10).
    both = jnp.stack([P + R.T @ (penalty[:, None] * R), P])
    inverses = jnp.linalg.inv(0.5 * (both + both.swapaxes(1, 2)))
    tables = (*_tables(inverses[0], C), *_tables(inverses[1], C))
    return S, eqx.tree_at(lambda c: (c.K, c.T, c.W, c.K0, c.T0, c.W0), blank, tables)


def _tables(K, C):
    """(K, K Cᵀ, C K Cᵀ)."""
    K = 0.5 * (K + K.T)
    T = K @ C.T
    return K, T, C @ T


def at_state(model: Model, fixed: tuple[Any, Condensed], x, others, heard, limited) -> Condensed:
    """The data of the horizon problem from state `x` `[s]`, with neighbours' heard states `others` `[k, y]`."""
    S, data = fixed
    H, s, a = model.B.shape
    f = free(model, x, others)
    Q = jnp.broadcast_to(model.Q, (H, s, s)).at[-1].set(model.final)
    shared = jnp.zeros((H, s), f.dtype).at[:-1, heard].set(jnp.broadcast_to(model.share, (H - 1, *model.share.shape)))
    away = f - model.target[None]
    # The part of the heard states' cost that is paid by holders of copies is not paid here.
    pull = jnp.einsum("tsr,tr->ts", Q, away) - shared * away
    copies = jnp.repeat(model.copy_cost, H - 1, axis=0).reshape(-1)
    goals = jnp.repeat(model.copy_target, H - 1, axis=0).reshape(-1)
    linear = jnp.concatenate([jnp.tile(-model.R @ model.rest, H), -copies * goals])
    q = jnp.einsum("tsd,ts->d", S, pull) + linear
    c = 0.5 * (jnp.sum(away * pull) + H * model.rest @ model.R @ model.rest + jnp.sum(copies * goals**2))
    shift = jnp.concatenate([jnp.zeros(H * a, f.dtype), f[:, limited].reshape(-1)])
    now = (q, c, model.low - shift, model.high - shift, f[:-1, heard].reshape(-1))
    return eqx.tree_at(lambda data: (data.q, data.c, data.low, data.high, data.y), data, now)


def cost(v: Float[Array, " d"], data: Condensed) -> Float[Array, ""]:
    """½ vᵀP v + qᵀv + c."""
    return 0.5 * v @ data.P @ v + data.q @ v + data.c


def quantities(v: Float[Array, " d"], data: Condensed) -> Float[Array, " r"]:
    """Copies w, then −y for each neighbour that holds a copy, then what is used of the budgets at each step."""
    H, a = data.clock.shape
    copies, told = v[H * a :], -(data.Y @ v + data.y)
    used = v[: H * a].reshape(H, a) @ data.use.T
    return jnp.concatenate([copies, jnp.tile(told, data.outs.shape[0]), used.reshape(-1)])
