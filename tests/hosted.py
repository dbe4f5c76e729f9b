"""Runs that several processes compute together, and that one computes alone.

    python hosted.py ADDRESS PROCESSES RANK FOLDER CASE …

joins the other processes, solves the cases, and writes digests of every number that came out to FOLDER/rank.json.
"""

import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

N, ROUNDS = 16, 9


def quadratic(**options):
    import thalweg as tw

    rng = np.random.default_rng(0)
    roots = rng.standard_normal((N, 3, 3))
    return tw.quadratic(roots @ roots.swapaxes(1, 2) / 3 + np.eye(3), rng.standard_normal((N, 3)), **options)


def peers(algorithm: str, network: Callable, problem: Callable = quadratic, **options):
    """engine, more options → result."""

    def run(engine, **more):
        import thalweg as tw

        chosen = getattr(tw, algorithm.partition("(")[0])
        arguments = eval(f"dict({algorithm.partition('(')[2].rstrip(')')})")
        return tw.solve(problem(), chosen(**arguments), network(tw.network), **_usual(engine, options | more))

    return run


def federated(engine, **more):
    import thalweg as tw

    return tw.solve(quadratic(), tw.FedAvg(tw.LocalSGD(0.1, steps=2), cohort=5), **_usual(engine, more))


def priced(engine, **more):
    import thalweg as tw

    rng = np.random.default_rng(1)
    problem = tw.allocation(rng.uniform(1, 3, (N, 2)), rng.standard_normal((N, 2)), [1.0, -2.0], low=-1, high=0.8)
    return tw.solve(problem, tw.price.ExchangeADMM(), **_usual(engine, more))


def _usual(engine, options):
    return {"rounds": ROUNDS, "every": 4, "seed": 5, "engine": engine, "deterministic": True, "progress": False} | options


def _explosive():
    """A loss whose gradient overflows after the first step, at the second agent."""
    import thalweg as tw

    dose = np.linspace(0.5, 1.5, N)
    dose[1] = 900.0
    return tw.Consensus(lambda x, dose: jax.numpy.exp(dose * x) - 2 * dose * x, dose, 0.0, smoothness=10.0)


CASES = {
    "ring": peers("GradientTracking", lambda net: net.ring(N)),
    "torus, noisy": peers(
        "DGD(step_size=0.05, stochastic=True)", lambda net: net.torus(4, 4), lambda: quadratic(gradient_noise=0.5)
    ),
    "exponential": peers("GradientTracking", lambda net: net.exponential(N), report=("gradient_norm",)),
    "edges, everything": peers(
        "EdgeADMM", lambda net: net.ring(N).with_failures(loss=0.2, symmetric=False, delay=(0.5, 0.3, 0.2), asleep=0.2)
    ),
    "push, late": peers(
        "PushDIGing", lambda net: net.ring(N, directed=True).with_failures(loss=0.2, symmetric=False, delay=(0.6, 0.4))
    ),
    "schedule": peers("AugDGM", lambda net: net.periodic([net.ring(N), net.star(N)])),
    "random": peers("EXTRA", lambda net: net.random_regular(N, 5, seed=3)),
    "server": federated,
    "price": priced,
    "not finite": peers("GradientTracking", lambda net: net.ring(N), _explosive),
}


def numbers(result) -> dict[str, str]:
    """What came out, each part as a digest of its bytes; how it ended, in words."""
    parts = {
        "x": result.x,
        "agents": result.agents,
        "records": result.records,
        "scalars": result.history.scalars,
        "per agent": result.history.agents,
        "messages": result.ledger.messages,
        "price": result.price,
    }
    digest = lambda tree: hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))).hexdigest()
    return {name: digest(tree) for name, tree in parts.items()} | {"outcome": result.outcome.value, "reason": result.reason}


def interrupted(engine, folder: Path, resume: bool):
    """The torus, whose run stops after five rounds and goes on where it stopped."""
    return CASES["torus, noisy"](engine, checkpoint=folder, rounds=ROUNDS if resume else 5, resume=resume)


def main(address: str, processes: str, rank: str, folder: str, *names: str) -> None:
    jax.config.update("jax_enable_x64", True)
    import thalweg as tw

    warnings.simplefilter("ignore", RuntimeWarning)
    tw.distribute(address, int(processes), int(rank), timeout=60)
    found = {}
    for name in names:
        if name == "resumed":
            for other in ("here", "there"):
                interrupted("sharded", Path(folder) / other, False)
            found[name] = numbers(interrupted("sharded", Path(folder) / "here", True))
        else:
            found[name] = numbers(CASES[name]("sharded"))
    (Path(folder) / f"{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
