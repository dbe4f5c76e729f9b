"""Some leaves of the model are shared, the others are each client's own."""

from typing import Any, ClassVar

import equinox as eqx

from thalweg._trees import axpy, minus
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.leaves import filter_of, join, split
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort
from thalweg.message.combine import Combine, Mean

from .base import ClientContext, ClientInfo, ServerAlgorithm, ServerContext
from .filling import filled


class Parts(eqx.Module):
    """Of the server: the `shared` leaves, and what the `others` were at the start, for clients that have none of their own."""

    shared: Any
    others: Any


class SharedLeaves(ServerAlgorithm[Any]):
    """A model of which some leaves are shared: those alone are sent either way. A client's state is its own leaves."""

    solver: eqx.AbstractVar[LocalSolver]
    server_learning_rate: eqx.AbstractVar[Real]

    combine: ClassVar[dict[str, Combine]] = {"x": Mean()}
    handles: ClassVar[frozenset[str]] = frozenset({"partial_work", "personal"})

    def mask(self, x: Any) -> Any:
        """A pytree of bools like x: true at the shared leaves."""
        return self.shared.mask(x)

    def resolve(self, facts: Facts) -> Any:
        return filled(self, facts)

    def init_server(self, shared, x0):
        return Parts(*split(x0, self.mask(x0)))

    def init_client(self, local, x0, context: ClientContext):
        return split(x0, self.mask(x0))[1]

    def broadcast(self, server: Parts, context: ServerContext):
        return {"x": server.shared}

    def work(self, local, client, received, context: ClientContext):
        """All leaves are trained at once."""
        x = received["x"]
        whole = join(x, client)
        run = self.solver.run(local, whole, context)
        shared, own = split(run.x, self.mask(whole))
        return own, {"x": minus(shared, x)}, ClientInfo(run.loss, run.gradient_norm, run.drift(whole), run.steps)

    def update(self, shared, server: Parts, aggregate, context: ServerContext):
        return Parts(axpy(self.server_learning_rate, aggregate["x"], server.shared), server.others), {}

    def estimate(self, server: Parts, client) -> Any:
        return join(server.shared, server.others if client is None else client)


class FedPer(SharedLeaves):
    """Federated learning with personal layers: a shared body and a head (or any other leaves) for each client.

        client   (y_i, h_i) ← local solver on f_i, from (x, h_i);   sends y_i − x, keeps h_i
        server   x ← x + η Σ_i w_i (y_i − x)

    x are the leaves that `shared` chooses, h_i the others; neither message has anything of h_i. The shared answer, for a client
    with no data, has the others as they were at the start.

    Args:
        shared: which leaves are shared: a function `(path, leaf) -> bool` with paths like "layers/0/weight", or a pytree of bools
            like the model or its upper levels. One that matches nothing or everything is refused.
        solver: the local solver; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.

    Claim: with one full-batch step and everybody taking part it is gradient descent on Σ w_i f_i(x, h_i), with a rate for h_i that
    is not scaled by w_i; with more steps the shared leaves drift as in federated averaging.

    Manoj Ghuhan Arivazhagan, Vinay Aggarwal, Aaditya Kumar Singh, Sunav Choudhary, *Federated learning with personalization
    layers*, arXiv 2019; as gradient descent: Krishna Pillutla et al., *Federated learning with partial model personalization*,
    ICML 2022.
    """

    shared: Any = eqx.field(static=True, converter=filter_of("FedPer(shared=…)"), default=None)
    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0

    claims: ClassVar[Claims] = Claims(exact=False, rate="sublinear", theorem="Pillutla et al. 2022, simultaneous updates")

    def __check_init__(self):
        require(self)


def require(algorithm: Any) -> None:
    """A filter was given.

    Raises:
        ValueError: it was not.
    """
    if algorithm.shared is None:
        raise ValueError(
            f"{type(algorithm).__name__}: shared= is missing; which leaves are shared, for example shared=lambda path, leaf: "
            "not path.startswith('head')"
        )
