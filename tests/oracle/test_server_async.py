"""The event-driven server: against synchronous rounds where nobody waits, and against a simulation with a heap where they do.

Axes: `n` clients.
"""

import heapq

import numpy as np
import pytest

import thalweg as tw
from servers import answer, clients, run

SOLVER = tw.LocalSGD(0.05, steps=3)
N, RATE, STEPS = 4, 0.1, 2
SECONDS = np.array([1.0, 2.5, 1.0, 4.0])
CURVATURE, LINEAR = np.array([1.0, 2.0, 0.5, 3.0]), np.array([1.0, -2.0, 3.0, 0.5])
W = np.array([0.4, 0.1, 0.3, 0.2])


def events(ids, buffer, power, updates, seconds=SECONDS):
    """FedBuff with everybody at work: [(x, clock, mean staleness) after every update]."""
    x, version, clock, found = 0.0, 0, 0.0, []
    heap, waiting, idle = [], [], set(range(N))

    def work(i):
        y = x
        for _ in range(STEPS):
            y -= RATE * (CURVATURE[i] * y + LINEAR[i])
        heapq.heappush(heap, (np.float32(clock) + np.float32(STEPS * seconds[i]), ids[i], i, y - x, version))

    while True:
        for i in sorted(idle):
            work(i)
        idle.clear()
        clock = heap[0][0]
        while heap and heap[0][0] <= clock:
            _, _, i, change, born = heapq.heappop(heap)
            waiting.append((i, change, born))
            idle.add(i)
            if len(waiting) == buffer:
                stale = np.array([version - b for _, _, b in waiting])
                part = [W[i] * N / buffer * (1 + s) ** -power for (i, _, _), s in zip(waiting, stale, strict=True)]
                x += sum(p * change for p, (_, change, _) in zip(part, waiting, strict=True))
                version += 1
                found.append((x, clock, stale.mean()))
                waiting.clear()
                if version == updates:
                    return found


@pytest.mark.slow
@pytest.mark.parametrize(("buffer", "power"), [(1, 0.5), (2, 0.5), (3, 1.0)])
def test_fedbuff_follows_a_simulation_of_its_events(buffer, power):
    ids = np.array([7, 3, 2, 9])  # clients 0 and 2 arrive together: 2 goes first
    problem = tw.quadratic(CURVATURE[:, None, None], LINEAR[:, None], weights=W)
    engine = tw.EventDriven(buffer=buffer, staleness=power)
    fleet = tw.Fleet(N, seconds_per_step=SECONDS)
    algorithm = tw.FedAvg(tw.LocalSGD(RATE, steps=STEPS))
    expected = events(ids, buffer, power, 9)
    for rounds in (1, 4, 9):
        result = run(problem, algorithm, rounds, fleet=fleet, engine=engine, ids=ids, every=1)
        x, _, _ = expected[rounds - 1]
        np.testing.assert_allclose(result.x[0], x, rtol=1e-10)
    np.testing.assert_allclose(result.history["clock"], [clock for _, clock, _ in expected], rtol=1e-6)
    np.testing.assert_allclose(result.history["staleness"], [stale for _, _, stale in expected], rtol=1e-12)


@pytest.mark.parametrize(
    "algorithm",
    [
        tw.SCAFFOLD(SOLVER),
        *(pytest.param(a, marks=pytest.mark.slow) for a in (tw.FedAvg(SOLVER), tw.FedNova(SOLVER), tw.FedDyn())),
    ],
)
def test_without_delays_and_with_everybody_it_is_the_synchronous_run_to_the_bit(algorithm):
    problem, *_ = clients()
    engine = tw.EventDriven(buffer=5, deterministic=True)
    np.testing.assert_array_equal(
        answer(problem, algorithm, 4, engine=engine), answer(problem, algorithm, 4, deterministic=True)
    )


def test_scaffold_reaches_the_optimum_with_stale_messages_and_lost_ones():
    problem, *_, optimum = clients()
    fleet = tw.Fleet(5, seconds_per_step=[1, 1, 2, 3, 1.5], dropout=0.1)
    algorithm = tw.SCAFFOLD(tw.LocalSGD(0.03, steps=3), server_learning_rate=0.5)
    x = answer(problem, algorithm, 3000, fleet=fleet, engine=tw.EventDriven(buffer=2))
    np.testing.assert_allclose(x, optimum, atol=1e-8)


@pytest.mark.parametrize(
    ("engine", "algorithm", "fleet", "message"),
    [
        (tw.EventDriven(buffer=6), tw.FedAvg(SOLVER), None, "buffer=6.*at most 5, the number of clients"),
        (tw.EventDriven(), tw.FedAvg(SOLVER), tw.Fleet(5, deadline=3.0), "a deadline, accept or availability"),
        (tw.EventDriven(), tw.Mime(SOLVER), None, "2 messages in a round, and there are no rounds"),
        (tw.EventDriven(), tw.FedAvg(SOLVER, cohort=tw.cohort.importance(2)), None, "a number of clients that work"),
    ],
)
def test_what_only_rounds_have_is_refused(engine, algorithm, fleet, message):
    problem, *_ = clients()
    with pytest.raises(ValueError, match=message):
        run(problem, algorithm, 2, engine=engine, fleet=fleet)
