"""Proximal bundle method: the dual function is modelled by all that was learnt of it so far."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.server.base import ClientContext, ServerAlgorithm, ServerContext
from thalweg.algorithm.step import Real, fill
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, PerRow, Rows, Sum

from .plan import told
from .steps import EachRow, check_rows

MASTER_STEPS = 2000


class Bundle(eqx.Module):
    """The price-setter.

    Attributes:
        center: the best price so far, `value` its dual value; `price`: the one to try now, `model` what is predicted there.
        cost `[K]`, excess `[K, m]`: Σ f_i and Σ g_i − b of earlier answers; `filled [K]`; mixture `[K]`: their weights.
        slot: where the next answer goes; step: t, a factor of the metric; nulls: tries in a row without enough gain.
    """

    center: Float[Array, " m"]
    value: Float[Array, ""]
    price: Float[Array, " m"]
    model: Float[Array, ""]
    cost: Float[Array, " K"]
    excess: Float[Array, "K m"]
    filled: Bool[Array, " K"]
    mixture: Float[Array, " K"]
    slot: Int[Array, ""]
    step: Float[Array, ""]
    nulls: Int[Array, ""]


class Plans(eqx.Module):
    """An agent's answers to `K` earlier prices, `[K, ...]`."""

    x: Any


class ProximalBundle(ServerAlgorithm[Plans]):
    """Proximal bundle method on the dual function, with primal recovery. With the answers j = 1 … K of earlier rounds,

        price-setter   λ⁺ = argmax_λ min_j [Σ_i f_i(x_ij) + ⟨λ, Σ_i g_i(x_ij) − b⟩] − ‖λ − λ̂‖²/2t,   α its multipliers
                       λ̂ ← λ⁺ if its dual value gains enough of what was predicted (else the model only gets better)
        agent          x_i ∈ argmin_x∈X_i f_i(x) + ⟨λ⁺, g_i(x)⟩;   its plan is the mixture Σ_j α_j x_ij

    The mixture meets the rows at the limit though no single answer does: made for linear costs, where it needs far fewer rounds
    than subgradients. The price-setter learns the sums of the costs. The least used answer makes room for the newest, and one
    slot holds the mixture itself, so that `cuts` slots are enough to converge.

    Args:
        cohort: None, everybody.
        cuts: K ≥ 3, slots for answers; every agent keeps as many plans.
        step_size: the metric of t, a number or `[m]`. Default: 1/(1 + |b_j|).
        gain: part of the predicted gain that makes a step serious, in (0, 1).

    Claude Lemaréchal, *An extension of Davidon methods to non differentiable problems*, Mathematical Programming Study 3, 1975;
    Krzysztof Kiwiel, *Proximity control in bundle methods for convex nondifferentiable minimization*, Mathematical Programming
    46, 1990.
    """

    cohort: Cohort | int | None = None
    cuts: int = eqx.field(static=True, default=30)
    step_size: EachRow | None = None
    gain: Real = 0.1

    combine: ClassVar[dict[str, Combine]] = {"quantity": Rows(), "cost": Sum()}
    needs: ClassVar[frozenset[str]] = frozenset({"everyone"})
    handles: ClassVar[frozenset[str]] = frozenset({"prices"})
    claims: ClassVar[Claims] = Claims(exact=True, rate="sublinear", theorem="Kiwiel 1990")

    def __check_init__(self):
        check_rows(self, "step_size")
        if self.cuts < 3:
            raise ValueError(f"ProximalBundle(cuts={self.cuts}): expected at least 3")
        if isinstance(self.gain, int | float) and not 0 < self.gain < 1:
            raise ValueError(f"ProximalBundle(gain={self.gain!r}): expected a number in (0, 1)")

    def resolve(self, facts: Facts) -> "ProximalBundle":
        return fill(self, step_size=1 / (1 + np.abs(facts.pricing.total)))

    def init_server(self, shared, x0) -> Bundle:
        nothing = jnp.zeros_like(shared.coupling.total)
        K, zero = self.cuts, jnp.zeros((), nothing.dtype)
        low = jnp.asarray(-jnp.inf, nothing.dtype)
        return Bundle(
            center=nothing, value=low, price=nothing, model=zero, cost=jnp.zeros(K, nothing.dtype),
            excess=jnp.zeros((K, *nothing.shape), nothing.dtype), filled=jnp.zeros(K, bool),
            mixture=jnp.zeros(K, nothing.dtype).at[0].set(1), slot=jnp.asarray(1, jnp.int32), step=zero + 1,
            nulls=jnp.asarray(0, jnp.int32),
        )  # fmt: skip

    def init_client(self, local, x0, context: ClientContext) -> Plans:
        return Plans(jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (self.cuts, *leaf.shape)), x0))

    def broadcast(self, server: Bundle, context: ServerContext):
        return {"price": PerRow(server.price), "mixture": server.mixture, "slot": server.slot}

    def work(self, local, client: Plans, received, context: ClientContext):
        mixed = _mixed(client.x, received["mixture"])
        answer = local.respond(received["price"], mixed)
        put = lambda all_, mean, new: all_.at[0].set(mean).at[received["slot"]].set(new)
        plans = Plans(jax.tree.map(put, client.x, mixed, answer.x))
        return plans, {"quantity": answer.quantity, "cost": local.cost(answer.x)}, told(local, mixed, answer)

    def update(self, shared, server: Bundle, aggregate, context: ServerContext):
        rows = shared.coupling
        excess, cost = aggregate["quantity"] - rows.total, aggregate["cost"]
        value = cost + jnp.sum(server.price * excess)
        predicted = server.model - server.value
        first = ~jnp.isfinite(server.value)
        serious = first | (value >= server.value + self.gain * predicted)
        center, best = jnp.where(serious, server.price, server.center), jnp.where(serious, value, server.value)
        nulls = jnp.where(serious, 0, server.nulls + 1)
        telling = predicted > 8 * jnp.finfo(best.dtype).eps * (1 + jnp.abs(best))  # else it is all rounding
        well = serious & ~first & telling & (value >= server.value + 0.5 * predicted)
        doubtful = (nulls > 0) & (nulls % 5 == 0) & telling
        step = server.step * jnp.where(well, 2, jnp.where(doubtful, 0.5, 1)).astype(server.step.dtype)
        # As every agent does with its plans: the mixture into slot 0, the newest answer into its own.
        put = lambda all_, new: all_.at[0].set(_mixed(all_, server.mixture)).at[server.slot].set(new)
        costs, excesses = put(server.cost, cost), put(server.excess, excess)
        filled = server.filled.at[server.slot].set(True).at[0].set(jnp.any(server.filled))
        metric = jnp.broadcast_to(step * self.step_size, rows.total.shape)
        mixture, price = _master(rows, center, metric, costs, excesses, filled)
        model = jnp.min(jnp.where(filled, costs + excesses @ price, jnp.inf))
        slot = 1 + jnp.argmin(jnp.where(filled, mixture, -1)[1:]).astype(jnp.int32)
        state = Bundle(center, best, price, model, costs, excesses, filled, mixture, slot, step, nulls)
        return state, {"dual_value": best, "predicted_gain": model - best, "step": step}

    def estimate(self, server: Bundle, client: Plans | None) -> Any:
        return server.center if client is None else _mixed(client.x, server.mixture)


def _mixed(stack, mixture):
    wide = lambda leaf: mixture.astype(leaf.dtype).reshape(-1, *(1,) * (leaf.ndim - 1))
    return jax.tree.map(lambda leaf: jnp.sum(wide(leaf) * leaf, axis=0), stack)  # a dot has other bits alone than in a batch


def _master(rows, center, metric, cost, excess, filled):
    """(α, λ): the multipliers of the model's best price, and that price, by accelerated projected gradient on α in the simplex.

    min_α Σ α_j cost_j + max_λ [⟨λ, Σ α_j excess_j⟩ − ‖λ − λ̂‖²/2t]: smooth in α, with the gradient cost_j + ⟨λ(α), excess_j⟩.
    """
    price = lambda a: rows.project(center + metric * (a @ excess))
    gradient = lambda a: cost + excess @ price(a)
    cost = jnp.where(filled, cost, 0)
    lipschitz = jnp.maximum(jnp.sum(excess**2 * metric[None], axis=1).max() * filled.sum(), jnp.finfo(cost.dtype).tiny)

    def body(carry):
        a, y, t, k, _ = carry
        new = _simplex(y - gradient(y) / lipschitz, filled)
        again = jnp.sum((y - new) * (new - a)) > 0
        t = jnp.where(again, 1.0, t)
        after = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        ahead = new + jnp.where(again, 0, (t - 1) / after) * (new - a)
        return new, ahead, after, k + 1, jnp.max(jnp.abs(new - y))

    start = filled / jnp.maximum(filled.sum(), 1).astype(cost.dtype)
    tiny = 4 * jnp.finfo(cost.dtype).eps
    carry = (start, start, jnp.ones((), cost.dtype), jnp.asarray(0), jnp.asarray(jnp.inf, cost.dtype))
    a, *_ = jax.lax.while_loop(lambda c: (c[4] > tiny) & (c[3] < MASTER_STEPS), body, carry)
    return a, price(a)


def _simplex(v, filled):
    """Projection onto the simplex over the filled entries."""
    v = jnp.where(filled, v, -jnp.inf)
    v = v - jnp.max(v)  # the projection does not change, and a 1 is not lost among large numbers
    ordered = jnp.sort(v)[::-1]
    total = jnp.cumsum(jnp.where(jnp.isfinite(ordered), ordered, 0)) - 1
    count = jnp.arange(1, v.shape[0] + 1)
    holds = jnp.isfinite(ordered) & (ordered * count > total)
    last = jnp.maximum(jnp.sum(holds), 1) - 1
    return jnp.where(filled, jnp.maximum(v - total[last] / (last + 1), 0), 0)
