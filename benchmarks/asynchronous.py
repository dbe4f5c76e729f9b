"""Peers without rounds: what an event costs as the number of agents grows, and the virtual time to an answer beside rounds.

    python -m benchmarks.asynchronous            everything below, from one run
    python -m benchmarks.asynchronous --quick    fewer agents

Microseconds of one event (a wake, or a message that is heard) in the compiled loop, and of drawing it on the host before, for
agents on a torus with ten variables each. Then the virtual seconds to an error of 1e-6, where some agents are slow: with rounds
everybody goes at the pace of the slowest.
"""

import argparse
import time

import jax
import numpy as np

import thalweg as tw
from thalweg.engine.draw_events import draw_events
from thalweg.engine.event_plan import plan_of

from .machine import describe

D, EVENTS = 10, 300_000
SIDES, QUICK = (10, 32, 100, 316), (10, 32)
SLOW = (1, 4, 16, 64)


def cost(side: int) -> None:
    """One line of the first table."""
    n, rng = side * side, np.random.default_rng(0)
    curvature, centre = rng.uniform(0.5, 2, (n, D)), rng.normal(size=(n, D))
    network, clocks = tw.network.torus(side, side), tw.Clocks(latency=0.1, jitter=0.2)
    rounds = max(3, EVENTS // (5 * n))
    began = time.perf_counter()
    events, over = draw_events(clocks, network, np.arange(n), 0, rounds)
    plan_of(events, network, over, clocks)
    drawn = time.perf_counter() - began
    problem = tw.Consensus(
        lambda x, data: 0.5 * data[0] @ (x - data[1]) ** 2,
        (curvature, centre),
        np.zeros(D),
        smoothness=2.0,
        strong_convexity=0.5,
    )
    spent = []
    for task, method in ((problem, tw.AsynchronousADMM(penalty=1.0)), (tw.Measurements(centre), tw.AsynchronousPushSum())):
        best = min(
            tw.solve(
                task, method, network, rounds=rounds, every=rounds, keep_agents=False, progress=False,
                engine=tw.EventDriven(clocks=clocks),
            ).ledger.seconds
            for _ in range(3)
        )  # fmt: skip
        spent.append(best)
    each = " ".join(f"{1e6 * seconds / len(events):12.1f}" for seconds in (*spent, drawn))
    print(f"{n:8,} {len(events):10,} {each}", flush=True)


def pace(slow: int) -> None:
    """One line of the second table: a tenth of the agents is `slow` times slower."""
    n, rng = 50, np.random.default_rng(1)
    A = np.stack([np.diag(rng.uniform(1, 4, 3)) for _ in range(n)])
    problem, network = tw.quadratic(A, rng.normal(size=(n, 3))), tw.network.geometric(n, seed=1)
    options = {"reference": tw.reference(problem), "stop": tw.Stop(below={"error": 1e-6}), "every": 1, "progress": False}
    together = tw.solve(problem, tw.EdgeADMM(), network, rounds=5000, **options)
    period = np.where(np.arange(n) % 10 == 0, float(slow), 1.0)
    engine = tw.EventDriven(clocks=tw.Clocks(period=period))
    apart = tw.solve(problem, tw.AsynchronousADMM(), network, rounds=20_000, engine=engine, **options)
    bytes_ = [int(run.ledger.bytes.sum()) / 1e6 for run in (together, apart)]
    print(
        f"{slow:8} {together.rounds * slow:12,} {apart.history['clock'][-1]:12,.0f} {bytes_[0]:10.2f} {bytes_[1]:10.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer agents")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    print(describe())
    print(f"\nmicroseconds of one event\n{'agents':>8} {'events':>10} {'ADMM':>12} {'push-sum':>12} {'drawing':>12}")
    for side in QUICK if quick else SIDES:
        cost(side)
    print("\nvirtual seconds to an error of 1e-6, and MB sent; one agent of ten so many times slower")
    print(f"{'slower':>8} {'rounds':>12} {'without':>12} {'MB':>10} {'MB':>10}")
    for slow in SLOW:
        pace(slow)


if __name__ == "__main__":
    main()
