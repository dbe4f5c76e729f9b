"""Results made by hand with NumPy, for tests of what is shown of a run."""

import dataclasses
import math

import numpy as np

from thalweg.observe import History, Ledger, Outcome, Result
from thalweg.problem import Certificate


@dataclasses.dataclass(frozen=True)
class Averaging:
    """Stands in for an algorithm; reports only print its fields."""

    step_size: float = 0.5


def market_run(n: int = 5, m: int = 2, rounds: int = 40, **changes) -> Result:
    """The result of a coupled problem under a price-setter: gap 0.5^k, violation 2·0.5^k; agent i plans i for the first row."""
    k = np.arange(rounds + 1)
    shrunk = 0.5**k
    scalars = {"round": k, "clock": 0.0 * k, "objective": 10 - shrunk, "violation": 2 * shrunk, "dual": 10 - 11 * shrunk}
    scalars |= {"duality_gap": shrunk, "slackness": shrunk, "consensus_error": 0.0 * k, "movement": shrunk}
    scalars |= {"bytes": 8 * m * n * k, "bytes_down": 8 * m * n * k, "participants": n + 0 * k, "primal_residual": 3 * shrunk}
    scalars |= {f"price of row {j}": (j - 1.5) * (1 - shrunk) for j in range(m)}
    plans = np.arange(n)[:, None] + 0.25 * np.arange(m)
    run = Result(
        x=plans,
        agents=plans,
        outcome=Outcome.CONVERGED,
        reason="certified",
        rounds=rounds,
        history=History(scalars, {"loss": np.outer(1 - shrunk, np.arange(n))}),
        ledger=Ledger(np.full(n, rounds), 8 * m, 16, 0, 0.1, 0.2, received=np.full(n, rounds), received_bytes=8 * m),
        algorithm=Averaging(),
        names=tuple(f"agent {i}" for i in range(n)),
        graph={"edges": np.zeros((0, 2), int), "positions": None, "directed": False, "facts": {}},
        config={"network": "one price-setter", "versions": {"numpy": "2"}},
        price=np.arange(m) - 1.5,
        certificate=Certificate(10.0, 9.5, 0.5, 2e-7, 0.0, 3e-8, 4e-9, 2),
    )
    return dataclasses.replace(run, **changes)


def ring_sigma(n: int) -> float:
    """Second eigenvalue of W on a ring with weights 1/3, n >= 3."""
    return (1 + 2 * math.cos(2 * math.pi / n)) / 3


def decaying(n: int, rounds: int) -> np.ndarray:
    """`[rounds + 1, n]` x_{k+1} = W x_k from an eigenvector of that eigenvalue: x_k = σ^k x_0 exactly."""
    mode = np.cos(2 * np.pi * np.arange(n) / n)
    return ring_sigma(n) ** np.arange(rounds + 1)[:, None] * mode


def averaging(n: int, rounds: int) -> np.ndarray:
    """`[rounds + 1, n]` x_{k+1} = W x_k from random values."""
    x = [np.random.default_rng(0).normal(size=n)]
    for _ in range(rounds):
        x.append((x[-1] + np.roll(x[-1], 1) + np.roll(x[-1], -1)) / 3)
    return np.array(x)


def ring_run(x: np.ndarray, **changes) -> Result:
    """The result that has trajectory `x` on a ring, consensus sought; agent i's loss is (x_i − i)². Fields can be changed."""
    (rounds, n), k = (len(x) - 1, x.shape[1]), np.arange(len(x))
    away = np.abs(x - x.mean(axis=1, keepdims=True))
    error = np.sqrt((away**2).mean(axis=1))
    scalars = {"round": k, "objective": error**2, "consensus_error": error, "optimality": error / 2}
    scalars |= {"bytes": 16 * n * k, "gap": error**2, "error": error}
    run = Result(
        x=x[-1].mean(),
        agents=x[-1],
        outcome=Outcome.ROUND_LIMIT,
        reason="all rounds done",
        rounds=rounds,
        history=History(scalars, {"loss": (x - np.arange(n)) ** 2, "disagreement": away}),
        ledger=Ledger(np.full(n, 2 * rounds), 8, 16, 0, 0.1, 0.2),
        algorithm=Averaging(),
        names=tuple(f"agent {i}" for i in range(n)),
        graph={
            "edges": np.array([sorted((i, (i + 1) % n)) for i in range(n)]),
            "positions": None,
            "directed": False,
            "facts": {"sigma": ring_sigma(n), "lambda_min": None},
        },
        config={"network": f"ring({n}): some words", "nested": {"dtype": "float64"}, "versions": {"numpy": "2"}},
    )
    return dataclasses.replace(run, **changes)


def with_history(run: Result, scalars: dict | None = None, agents: dict | None = None) -> Result:
    """`run` with these columns of its history replaced."""
    history = History({**run.history.scalars, **(scalars or {})}, {**run.history.agents, **(agents or {})})
    return dataclasses.replace(run, history=history)


ALONE = {"edges": np.zeros((0, 2), int), "positions": None, "directed": False, "facts": {}}
"""`graph` of one agent."""
