"""Federated averaging with locally adaptive Polyak steps."""

from thalweg.algorithm.local import LocalPolyak, LocalSolver
from thalweg.algorithm.step import Real
from thalweg.cohort import Cohort

from .fedavg import FedAvg


def FedSPS(
    solver: LocalSolver = LocalPolyak(),  # noqa: B008  (frozen)
    cohort: Cohort | int | None = None,
    server_learning_rate: Real = 1.0,
) -> FedAvg:
    """FedSPS: federated averaging whose clients find their own step sizes, γ = min((f_B(y) − ℓ)/(c ‖g(y)‖²), γ_b).

    Where one model fits all examples (interpolation) it converges to it, however unequal the clients' smoothness; elsewhere to
    a neighbourhood, as federated averaging does.

    Args:
        solver: `tw.LocalPolyak`, which has γ_b, ℓ and c.
        cohort: who takes part: a `tw.cohort` rule, a number of clients, or None for everybody.
        server_learning_rate: η, as for `tw.FedAvg`.

    Sohom Mukherjee, Nicolas Loizou, Sebastian Stich, *Locally adaptive federated learning*, Transactions on Machine Learning
    Research 2024.
    """
    return FedAvg(solver, cohort, server_learning_rate)
