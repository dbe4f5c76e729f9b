"""A shared representation under heads that are fitted first."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx

from thalweg._trees import minus
from thalweg.algorithm.base import Claims, Facts
from thalweg.algorithm.leaves import filter_of
from thalweg.algorithm.local import LocalSGD, LocalSolver
from thalweg.algorithm.local.views import OfLeaves
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort

from .base import ClientContext, ClientInfo
from .fedper import SharedLeaves, require
from .filling import filled


class FedRep(SharedLeaves):
    """Shared representations: a client fits its own head to the representation first, then improves the representation.

        client   h_i ← head solver on f_i(x, ·), from h_i
                 y_i ← local solver on f_i(·, h_i), from x;   sends y_i − x, keeps h_i
        server   x ← x + η Σ_i w_i (y_i − x)

    x are the leaves that `shared` chooses (the representation), h_i the others (the head). Other leaves are really fixed in each
    half: neither momentum nor weight decay moves them.

    Args:
        shared: which leaves are shared, as for `FedPer`.
        solver: the local solver of the representation; its step size comes from max L_i when it is left open.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η.
        head_solver: the local solver of the head, usually of many steps.

    Claim: for linear representations and regression, an exactly fitted head and enough clients, linear convergence to the true
    representation.

    Liam Collins, Hamed Hassani, Aryan Mokhtari, Sanjay Shakkottai, *Exploiting shared representations for personalized federated
    learning*, ICML 2021.
    """

    shared: Any = eqx.field(static=True, converter=filter_of("FedRep(shared=…)"), default=None)
    solver: LocalSolver = LocalSGD()
    cohort: Cohort | int | None = None
    server_learning_rate: Real = 1.0
    head_solver: LocalSolver = LocalSGD(steps=10)

    claims: ClassVar[Claims] = Claims(exact=False, rate="sublinear", theorem="Collins et al. 2021, linear representations")
    # Two passes cannot share one budget of steps.
    handles: ClassVar[frozenset[str]] = frozenset({"personal"})

    def __check_init__(self):
        require(self)

    def resolve(self, facts: Facts) -> "FedRep":
        return dataclasses.replace(filled(self, facts), head_solver=self.head_solver.resolve(facts))

    def work(self, local, client, received, context: ClientContext):
        x = received["x"]
        head = self.head_solver.run(OfLeaves(local, x), client, context)
        run = self.solver.run(OfLeaves(local, head.x), x, context)
        info = ClientInfo(run.loss, run.gradient_norm, run.drift(x), head.steps + run.steps)
        return head.x, {"x": minus(run.x, x)}, info
