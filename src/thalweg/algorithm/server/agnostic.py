"""Agnostic federated learning: the best model for the worst mixture of clients."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from thalweg._trees import axpy, minus, times
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Clients, Combine, Mean, PerClient

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import filled


class AgnosticServer(eqx.Module):
    """The model `x`, the mixture λ, w, the newest loss heard of each client, who was ever heard; the mean of x so far."""

    x: Any
    mixture: Float[Array, " n"]
    weights: Float[Array, " n"]
    losses: Float[Array, " n"]
    heard: Bool[Array, " n"]
    mean: Any
    rounds: Int[Array, ""]


class AgnosticFL(ServerAlgorithm[tuple[()]]):
    """Agnostic federated learning: min_x max_λ Σ_i λ_i f_i(x) over all mixtures λ of clients, that is min_x max_i f_i(x).

        client   y_i ← local solver on f_i, from x;   sends (λ_i/w_i)(y_i − x) and f_i(x)
        server   x ← x + η Σ_i w_i (λ_i/w_i)(y_i − x)          (estimated from the cohort, unbiased)
                 λ ← Π_Δ(λ + γ (f_1(x), …, f_n(x)))             Π_Δ: projection onto the simplex, λ = w at the start

    A client hears its own λ_i alone. The loss of a client that is not in the cohort is the newest that was heard of it (the mean
    of the known ones before); at a saddle point that makes no difference, so it is the same with a part of the clients.

    Args:
        solver: the local solver; its step size comes from max L_i when it is left open. With one full-batch step the method is
            projected gradient descent and ascent; with more steps clients drift, as in federated averaging.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.
        mixture_step_size: γ, in units of 1/loss.
        averaged: the answer is the mean of all x so far, which is what the theorem is about, in place of the last x.

    Assumptions: convex f_i; a fixed point is then a saddle point, and losses of clients with λ_i > 0 are equal and largest.
    Claim: the average over k rounds is O(1/√k) from the minimax value. Where the losses of several clients meet with little
    curvature, the last x may circle around it under a large γ.

    Mehryar Mohri, Gary Sivek, Ananda Theertha Suresh, *Agnostic federated learning*, ICML 2019; with local steps: Yuyang Deng,
    Mohammad Mahdi Kamani, Mehrdad Mahdavi, *Distributionally robust federated averaging*, NeurIPS 2020.
    """

    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0
    mixture_step_size: Real = 0.05
    averaged: bool = eqx.field(static=True, default=False)

    combine: ClassVar[dict[str, Combine]] = {"x": Mean(), "loss": Clients()}
    handles: ClassVar[frozenset[str]] = frozenset({"partial_work"})
    claims: ClassVar[Claims] = Claims(exact=False, rate="sublinear", theorem="Mohri, Sivek and Suresh 2019, stochastic AFL")

    def resolve(self, facts: Facts) -> "AgnosticFL":
        return filled(self, facts)

    def init_server(self, shared, x0):
        w = shared.weights
        return AgnosticServer(x0, w, w, jnp.zeros_like(w), jnp.zeros(w.shape, bool), x0, jnp.asarray(0, jnp.int32))

    def init_client(self, local, x0, context: ClientContext):
        return ()

    def broadcast(self, server: AgnosticServer, context: ServerContext):
        part = server.weights > 0
        return {"x": server.x, "share": PerClient(jnp.where(part, server.mixture / jnp.where(part, server.weights, 1), 0))}

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        run = self.solver.run(local, x, context)
        info = ClientInfo(run.loss, run.gradient_norm, run.drift(x), run.steps)
        return client, {"x": times(received["share"], minus(run.x, x)), "loss": local.value(x)}, info

    def update(self, shared, server: AgnosticServer, aggregate, context: ServerContext):
        arrived, values = aggregate["loss"].mask, aggregate["loss"].values
        losses = jnp.where(arrived, values.astype(server.losses.dtype), server.losses)
        heard = server.heard | arrived
        neutral = jnp.sum(jnp.where(heard, losses, 0)) / jnp.maximum(jnp.sum(heard), 1).astype(losses.dtype)
        gain = jnp.where(heard, losses, neutral)
        mixture = onto_simplex(server.mixture + self.mixture_step_size * gain, server.weights > 0)
        x = axpy(self.server_learning_rate, aggregate["x"], server.x)
        rounds = server.rounds + 1
        mean = axpy(1 / rounds.astype(losses.dtype), minus(x, server.mean), server.mean)
        worst = jnp.max(jnp.where(heard, losses, -jnp.inf))
        after = AgnosticServer(x, mixture, server.weights, losses, heard, mean, rounds)
        return after, {"worst_loss": worst, "mixture_value": jnp.sum(mixture * gain), "mixture_largest": jnp.max(mixture)}

    def estimate(self, server: AgnosticServer, client) -> Any:
        return server.mean if self.averaged else server.x


def onto_simplex(v: Float[Array, " n"], support: Bool[Array, " n"]) -> Float[Array, " n"]:
    """The nearest point to `v` with entries ≥ 0 that sum to one and are zero outside `support`: max(v − θ, 0), θ by sorting."""
    # What lies more than one below the largest entry ends at zero.
    v = jnp.where(support, v, jnp.max(jnp.where(support, v, -jnp.inf)) - 2)
    ordered = jnp.sort(v)[::-1]
    threshold = (jnp.cumsum(ordered) - 1) / jnp.arange(1, v.shape[0] + 1, dtype=v.dtype)
    last = jnp.sum(ordered > threshold) - 1
    return jax.nn.relu(v - threshold[last])
