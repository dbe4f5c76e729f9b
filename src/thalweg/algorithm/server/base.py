"""The contract of server algorithms: one server, many clients; a round has two roles, `work` and `update`.

Messages are *changes*: of the model against what was received, of a contribution against the client's last accepted one;
the server keeps the sums. A client's new state is provisional until its message was accepted: it is kept if and only if
the server used what the client sent.
"""

import abc
from typing import Any, ClassVar, Generic, TypeVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from thalweg._trees import norm
from thalweg.algorithm.base import Claims, Facts, Message
from thalweg.algorithm.local import LocalRun
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine

State = TypeVar("State")


class ClientContext(eqx.Module):
    """What a client knows of a round.

    Attributes:
        key: this client's own random key for this round, phase and role.
        round: k, counted from 0.
        budget: the most local steps that it may take, None where nothing limits them.
        phase: name of the phase of the round (static).
        unroll: whether loops over local steps should be unrolled (static; the engine knows when it pays).
    """

    # Shapes are those of one client; the engine builds the contexts of a cohort at once, with an axis in front.
    key: Array
    round: Array
    budget: Array | None = None
    phase: str = eqx.field(static=True, default="round")
    unroll: bool = eqx.field(static=True, default=False)


class Counts(eqx.Module):
    """Who took part in a round.

    Attributes:
        arrived: number of clients whose message was accepted.
        weight: their share Σ w_i of all weight, in [0, 1] (Σ over all clients is one).
        population: n, the number of registered clients.
    """

    arrived: Int[Array, ""]
    weight: Float[Array, ""]
    population: int = eqx.field(static=True)


class ServerContext(eqx.Module):
    """What the server knows of a round: its own key, the round and the phase; `counts` only in `update`."""

    key: Array
    round: Int[Array, ""]
    counts: Counts | None = None
    phase: str = eqx.field(static=True, default="round")


class ClientInfo(eqx.Module):
    """What a client learnt in a round. It stays there, unless `report=` or the cohort's rule asks for it.

    Attributes:
        loss: mean loss over its minibatches, each before its step.
        gradient_norm: ‖g‖ of the first gradient.
        drift: ‖y_i − x‖, how far the local model went from the received one.
        steps: local steps taken.
    """

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]
    drift: Float[Array, ""]
    steps: Int[Array, ""]

    @classmethod
    def of(cls, run: LocalRun, start: Any) -> "ClientInfo":
        """Of a local solver's `run` that began at `start`."""
        return cls(run.loss, run.gradient_norm, run.drift(start), run.steps)

    @classmethod
    def of_gradient(cls, loss: Any, gradient: Any) -> "ClientInfo":
        """Of an exchange in which a client evaluated its loss and gradient and did not move."""
        size = norm(gradient)
        return cls(loss, size, jnp.zeros_like(size), jnp.asarray(0, jnp.int32))


class Shared(eqx.Module):
    """The public part of a problem.

    Attributes:
        regularizer: r with its prox, `Zero` where there is none.
        n: number of clients.
        weights: `[n]` w_i.
        coupling: the rows of a coupled problem: its totals, and which prices are allowed.
    """

    regularizer: Any
    n: int = eqx.field(static=True)
    weights: Float[Array, " n"] | None = None
    coupling: Any = None

    def at(self, k: Any) -> "Shared":
        """The public part in round `k`."""
        return self if self.coupling is None else eqx.tree_at(lambda s: s.coupling, self, self.coupling.at(k))


class ServerAlgorithm(eqx.Module, Generic[State]):
    """One server, many clients.

    A client's `local` is f_i, unscaled: its weight w_i is applied once, by `combine`. Every algorithm has a field `cohort`,
    who takes part in a round: a `Cohort`, a number of clients, or None for everybody.

    Class attributes:
        combine: rule for each field of the uplink message: `Mean()` (an estimate of Σ_i w_i m_i over the population),
            `Sum()` (Σ w_i m_i over those that arrived, for contributions that the server accumulates), `Rows()`, or `Clients()`.
        phases: names of the message exchanges of one round, each with its own messages.
        needs: what must hold: "smooth", "strongly_convex", "everyone" (full participation).
        handles: what it can use beyond gradients: "regularizer" (through its prox), "partial_work", "personal"; "prices" where it
            solves coupled problems: then the shared answer is the price, and a client's own is its plan.
        exact_under: of "partial" (a part of the clients in each round), "dropout" (lost uplinks), "local_steps"
            (several local steps), each only if the claim survives it on clients that differ.
    """

    cohort: eqx.AbstractVar[Cohort | int | None]

    combine: ClassVar[dict[str, Combine]]
    phases: ClassVar[tuple[str, ...]] = ("round",)
    needs: ClassVar[frozenset[str]] = frozenset()
    handles: ClassVar[frozenset[str]] = frozenset()
    claims: ClassVar[Claims]
    exact_under: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def resolve(self, facts: Facts) -> "ServerAlgorithm":
        """Fill what was left None (step sizes), once, before round 0."""

    @abc.abstractmethod
    def init_server(self, shared: Shared, x0) -> Any:
        """State of the server before round 0."""

    @abc.abstractmethod
    def init_client(self, local, x0, context: ClientContext) -> State:
        """State of a client when it is first drawn (pure, so that it may be evaluated at any time before)."""

    @abc.abstractmethod
    def broadcast(self, server, context: ServerContext) -> Message:
        """What the server sends to the cohort. `PerClient(values)` gives every client its own entry alone, `PerRow(values)`
        those of the rows that it touches."""

    @abc.abstractmethod
    def work(self, local, client: State, received: Message, context: ClientContext) -> tuple[State, Message, ClientInfo]:
        """A client's provisional state, and its message."""

    @abc.abstractmethod
    def update(self, shared: Shared, server, aggregate: Message, context: ServerContext) -> tuple[Any, dict[str, Array]]:
        """The server's next state from the combined messages, and scalars for the history."""

    @abc.abstractmethod
    def estimate(self, server, client: State | None) -> Any:
        """The answer: the shared one (`client=None`), or a client's own."""

    def remarks(self, server: Any, names: tuple[str, ...]) -> tuple[str, ...]:
        """What a user should be warned of, from the server's state after the last round (clients are called `names`)."""
        return ()

    def warm_server(self, shared: Shared, server: Any, price: Any, quantity: Any) -> Any:
        """Of price methods: the server's state where `price` `[m]` is known, and all plans together make `quantity` `[m]`."""
        raise TypeError(f"solve: {type(self).__name__} cannot begin at a price; leave start= out, or pass an earlier Result")

    def warm_client(self, local, client: State, x: Any, price: Any) -> State:
        """Of price methods: an agent's state where its plan is x, and it has heard `price` `[r]`."""
        raise TypeError(f"solve: {type(self).__name__} cannot begin at plans; leave start= out, or pass an earlier Result")
