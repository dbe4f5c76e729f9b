"""Federated learning under a bound on every client's loss."""

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from thalweg._trees import axpy, minus, times
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import PerAgent, Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Clients, Combine, Mean, PerClient

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import filled

# A bound is met when it is exceeded by no more than this part of it.
TOLERANCE = 1e-3


def _bounds(value: Any) -> Any:
    """A number as it is; one number per client as `PerAgent`."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    return PerAgent(value) if isinstance(value, list | tuple) or np.ndim(value) == 1 else value


class ConstrainedServer(eqx.Module):
    """The model `x`, the scale σ; of each client μ, the price p, b, w, the newest loss, and whether it was ever heard."""

    x: Any
    scale: Float[Array, ""]
    integral: Float[Array, " n"]
    price: Float[Array, " n"]
    bounds: Float[Array, " n"]
    weights: Float[Array, " n"]
    losses: Float[Array, " n"]
    heard: Bool[Array, " n"]


class ConstrainedFL(ServerAlgorithm[tuple[()]]):
    """Minimise the average loss Σ_i w_i f_i(x) subject to every client's loss f_i(x) ≤ b_i, with one price per client.

        client   y_i ← local solver on f_i, from x;   sends s_i (y_i − x) and f_i(x);    s_i = (1 + p_i)/Σ_j w_j (1 + p_j)
        server   x ← x + η Σ_i w_i s_i (y_i − x)
                 μ_i ← max(0, μ_i + (γ/σ)(f_i(x) − b_i))         for every client heard in this round
                 p_i ← max(0, μ_i + (κ/σ)(f_i(x) − b_i))

    σ is the mean |f_i| of round 0, so that prices, γ and κ have no unit.

    λ_i = w_i p_i is the multiplier of client i: the Lagrangian is Σ_i w_i f_i + Σ_i λ_i (f_i − b_i) = Σ_i w_i [(1 + p_i) f_i −
    p_i b_i]. The s_i are scaled so that Σ w_i s_i = 1: a step is one on a mixture of clients, whatever the prices, and cannot
    blow up. The proportional part κ damps the oscillation of prices and changes no fixed point. A client hears its own s_i alone.

    Bounds that cannot all be met make prices grow without end, and the model tends to the minimiser of Σ λ_i f_i/Σ λ_j: the run
    then ends with a warning (`remarks`) that names the clients which hold each other back. `tw.feasibility(problem, bounds,
    prices)` proves it: with λ scaled to sum to one, min_x Σ λ_i (f_i(x) − b_i) > 0 means that no model meets the bounds.

    Args:
        bounds: b, a number for all, or one for each client `[n]`; for (1 + ε) times what each reaches alone:
            `1.1 * tw.alone(problem).losses`. Infinity for a client without a bound.
        solver: the local solver; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.
        price_step_size: γ.
        damping: κ.

    With a smooth regulariser r in the problem, f_i means f_i + r, in the bounds too. A client of weight zero has no say, nor a
    bound that is held.

    Assumptions: convex, smooth f_i and bounds that some model meets strictly (Slater). Claim: with one full-batch step the fixed
    point is the optimum with its multipliers, and the limit for small γ; with more local steps the bounds hold just as well, and
    the average is optimal for the drifted updates of federated averaging.

    The primal–dual method: Kenneth Arrow, Leonid Hurwicz, Hirofumi Uzawa, *Studies in linear and non-linear programming*, Stanford
    University Press 1958; with a proportional part: Adam Stooke, Joshua Achiam, Pieter Abbeel, *Responsive safety in reinforcement
    learning by PID Lagrangian methods*, ICML 2020.
    """

    bounds: Any = eqx.field(converter=_bounds, default=float("inf"))
    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0
    price_step_size: Real = 0.1
    damping: Real = 1.0

    combine: ClassVar[dict[str, Combine]] = {"x": Mean(), "loss": Clients()}
    handles: ClassVar[frozenset[str]] = frozenset({"partial_work"})
    claims: ClassVar[Claims] = Claims(exact=False, rate="linear", theorem="Arrow, Hurwicz and Uzawa 1958")

    def __check_init__(self):
        values = self.bounds.values if isinstance(self.bounds, PerAgent) else self.bounds
        if isinstance(values, float | np.ndarray) and np.isnan(values).any():
            raise ValueError("ConstrainedFL(bounds=…): got NaN, expected numbers, or infinity for no bound")
        for name in ("price_step_size", "damping"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not value >= 0:
                raise ValueError(f"ConstrainedFL({name}={value!r}): expected a number ≥ 0")

    def resolve(self, facts: Facts) -> "ConstrainedFL":
        if isinstance(self.bounds, PerAgent) and self.bounds.values.shape != (facts.n,):
            raise ValueError(
                f"ConstrainedFL(bounds=…): got shape {self.bounds.values.shape}, expected ({facts.n},), one per client, or a number"
            )
        return filled(self, facts)

    def init_server(self, shared, x0):
        w = shared.weights
        bounds = self.bounds.values if isinstance(self.bounds, PerAgent) else self.bounds
        bounds = jnp.broadcast_to(jnp.asarray(bounds, w.dtype), w.shape)
        nothing = jnp.zeros_like(w)
        return ConstrainedServer(x0, jnp.zeros((), w.dtype), nothing, nothing, bounds, w, nothing, jnp.zeros(w.shape, bool))

    def init_client(self, local, x0, context: ClientContext):
        return ()

    def broadcast(self, server: ConstrainedServer, context: ServerContext):
        total = jnp.sum(server.weights * (1 + server.price))
        return {"x": server.x, "share": PerClient((1 + server.price) / total)}

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        run = self.solver.run(local, x, context)
        info = ClientInfo(run.loss, run.gradient_norm, run.drift(x), run.steps)
        return client, {"x": times(received["share"], minus(run.x, x)), "loss": local.value(x)}, info

    def update(self, shared, server: ConstrainedServer, aggregate, context: ServerContext):
        arrived, values = aggregate["loss"].mask, aggregate["loss"].values
        bounded = jnp.isfinite(server.bounds)
        losses = jnp.where(arrived, values.astype(server.losses.dtype), server.losses)
        heard = server.heard | arrived
        excess = jnp.where(bounded, losses - server.bounds, 0)
        fresh = arrived & bounded & (server.weights > 0)
        size = jnp.sum(jnp.where(arrived, jnp.abs(losses), 0)) / jnp.maximum(jnp.sum(arrived), 1).astype(losses.dtype)
        scale = jnp.where(server.scale > 0, server.scale, size)
        relative = excess / jnp.where(scale > 0, scale, 1)
        integral = jnp.where(fresh, jnp.maximum(0, server.integral + self.price_step_size * relative), server.integral)
        price = jnp.where(fresh, jnp.maximum(0, integral + self.damping * relative), server.price)
        x = axpy(self.server_learning_rate, aggregate["x"], server.x)
        after = ConstrainedServer(x, scale, integral, price, server.bounds, server.weights, losses, heard)
        multipliers = server.weights * integral
        total = jnp.sum(multipliers)
        known = heard & bounded
        scalars = {
            "violation": jnp.max(jnp.where(known, excess, -jnp.inf)),
            "violated": jnp.sum(known & (excess > TOLERANCE * jnp.abs(server.bounds))).astype(excess.dtype),
            "price_largest": jnp.max(integral),
            # Zero at the optimum (complementary slackness); a limit above zero shows that the bounds cannot all be met.
            "price_excess": jnp.sum(jnp.where(known, multipliers * excess, 0)) / jnp.where(total > 0, total, 1),
        }
        return after, scalars

    def estimate(self, server: ConstrainedServer, client) -> Any:
        return server.x

    def prices(self, result: Any) -> np.ndarray:
        """λ `[n]`, the multipliers of the bounds at the end of a run."""
        server = result.records[1].state
        return np.asarray(server.weights * server.integral)

    def remarks(self, server: ConstrainedServer, names: tuple[str, ...]) -> tuple[str, ...]:
        losses, bounds, heard = map(np.asarray, (server.losses, server.bounds, server.heard))
        with np.errstate(invalid="ignore"):
            excess = np.where(heard & np.isfinite(bounds), losses - bounds, -np.inf)
            over = np.flatnonzero(excess > TOLERANCE * np.abs(np.where(np.isfinite(bounds), bounds, 0)))
        if not over.size:
            return ()
        told = lambda who, say: ", ".join(say(i) for i in who[:8]) + (f" and {len(who) - 8} more" if len(who) > 8 else "")
        text = "ConstrainedFL: at the end, bounds are exceeded by " + told(
            over[np.argsort(-excess[over])], lambda i: f"{names[i]} ({losses[i]:.4g} > {bounds[i]:.4g})"
        )
        multipliers = np.asarray(server.weights * server.integral, float)
        if multipliers.sum() > 0:
            shares = multipliers / multipliers.sum()
            mean = float(np.sum(shares * np.where(shares > 0, excess, 0)))
            if mean > 0:
                holding = np.flatnonzero(shares > 1e-3)
                holding = holding[np.argsort(-shares[holding])]
                text += (
                    f". Weighted by their prices ({told(holding, lambda i: f'{names[i]} {shares[i]:.2f}')}) losses are {mean:.3g} "
                    "above bounds: if more rounds do not bring that to 0, these bounds cannot be met together; "
                    "tw.feasibility(problem, bounds, prices) proves it"
                )
                return (text,)
        return (text + "; prices are still rising: more rounds, or a larger price_step_size",)
