"""Synchronous rounds on a fleet, against a model of them written in NumPy: who answers, how long it takes, what is averaged.

Axes: `n` clients, `d` variables.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from servers import WEIGHTS, clients, descend, run
from thalweg.engine.pace import Pace, arrivals, budgets

N, RATE, STEPS = 5, 0.06, 4
STEP = np.array([0.5, 1.0, 0.25, 2.0, 1.5])
DOWN, UP = np.array([50, 100, 25, 200, 400.0]), np.array([20, 10, 40, 5, 80.0])
PAYLOAD = 24  # three double-precision numbers, either way
LONG = PAYLOAD / DOWN + PAYLOAD / UP  # of communication
FULL = LONG + STEPS * STEP
SOLVER = tw.LocalSGD(RATE, steps=STEPS)


def fleet(**options):
    return tw.Fleet(N, seconds_per_step=STEP, download=DOWN, upload=UP, **options)


def fedavg(A, b, w, rounds, budget=None, seconds=FULL, deadline=np.inf, accept=1.0, nova=False, extra=0.0):
    """(x, participants, clock) of full participation without drop-outs."""
    x, clock = np.zeros(A.shape[1]), 0.0
    steps = np.full(N, STEPS) if budget is None else np.minimum(budget, STEPS)
    for _ in range(rounds):
        y = descend(A, b, x, RATE, steps, lambda y, x=x: extra * (y - x))
        there = (seconds <= deadline) & (steps > 0)
        wanted = int(np.ceil(accept * N - 1e-9))
        late = sorted(np.flatnonzero(there), key=lambda i: (seconds[i], i))
        accepted = late[:wanted]
        if len(accepted):
            a = w[accepted] / w[accepted].sum()
            changes = y[accepted] - x
            if nova:
                x = x + (a @ steps[accepted]) * (a / steps[accepted]) @ changes
            else:
                x = x + a @ changes
        complete = len(accepted) >= wanted
        clock += seconds[accepted].max() if complete else deadline
    return x, len(accepted), clock


def check(algorithm, expected, rounds=4, **options):
    problem, *_ = clients()
    result = run(problem, algorithm, rounds, fleet=fleet(**options))
    x, participants, clock = expected
    np.testing.assert_allclose(result.x, x, rtol=1e-9, atol=1e-11)
    assert result.history["participants"][-1] == participants
    np.testing.assert_allclose(result.history["clock"][-1], clock, rtol=1e-6)
    return result


def test_a_round_takes_as_long_as_its_slowest_client():
    _, A, b, w, _ = clients()
    check(tw.FedAvg(SOLVER), fedavg(A, b, w, 4))
    np.testing.assert_allclose(fleet().seconds(STEPS, PAYLOAD, PAYLOAD), FULL, rtol=1e-6)
    steps = np.arange(N)
    np.testing.assert_allclose(fleet().seconds(steps, 10, 20), 10 / DOWN + steps * STEP + 20 / UP, rtol=1e-6)


def test_late_clients_miss_the_round_which_lasts_until_the_deadline():
    _, A, b, w, _ = clients()
    deadline = float(np.sort(FULL)[2] + 0.01)
    result = check(tw.FedAvg(SOLVER), fedavg(A, b, w, 4, deadline=deadline), deadline=deadline)
    assert any("biased towards those that do" in text for text in result.warnings)
    assert result.history["bytes"][-1] == 4 * N * PAYLOAD  # what came too late was sent all the same


def test_with_enough_answers_the_round_ends():
    _, A, b, w, _ = clients()
    check(tw.FedAvg(SOLVER), fedavg(A, b, w, 4, accept=0.6), accept=0.6)
    deadline = float(np.sort(FULL)[1] + 0.01)  # two answer, three are wanted: the server waits for a third
    expected = fedavg(A, b, w, 4, accept=0.6, deadline=deadline)
    check(tw.FedAvg(SOLVER), expected, accept=0.6, deadline=deadline)


def test_equal_times_are_taken_in_order_of_id():
    """Three of five that take equally long: those with the lowest ids, wherever they stand."""
    problem, A, b, w, _ = clients()
    result = run(
        problem, tw.FedAvg(SOLVER), 1, fleet=tw.Fleet(N, seconds_per_step=1.0, accept=0.6), ids=np.array([30, 2, 70, 1, 5])
    )
    chosen = [1, 3, 4]
    y = descend(A, b, np.zeros(3), RATE, STEPS)
    np.testing.assert_allclose(result.x, w[chosen] @ y[chosen] / w[chosen].sum(), rtol=1e-10)


@pytest.mark.parametrize("size", [5, 10, 25, 50, 90])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.54, 0.6, 0.72, 1 / 1.3])
def test_the_share_that_is_accepted_is_not_rounded_up_by_single_precision(size, share):
    """0.6 of 25 is 15."""
    seconds = np.random.default_rng(0).permutation(size) + 1.0
    there, ids = jnp.ones(size, bool), jnp.arange(size, dtype=jnp.int32)
    some = tw.Fleet(size, seconds_per_step=seconds, accept=share)
    pace = Pace(there, jnp.ones(size), ids, ids, False)
    accepted, took = arrivals(some, pace, jnp.ones(size, jnp.int32), {"up": 0, "down": 0}, there, last=True)
    wanted = int(np.ceil(round(share * size, 9)))
    np.testing.assert_array_equal(accepted, seconds <= wanted)
    assert float(took) == wanted


BUDGET_DEADLINE = 5.0
BUDGET = np.floor((BUDGET_DEADLINE - LONG) / STEP).clip(0).astype(int)


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (tw.FedAvg(SOLVER), {}), (tw.FedProx(SOLVER, penalty=2.0), {"extra": 2.0}), (tw.FedNova(SOLVER), {"nova": True}),
    ],
)  # fmt: skip
def test_partial_work_is_what_fits_before_the_deadline(algorithm, options):
    assert 0 in BUDGET and (BUDGET >= STEPS).any() and len(set(BUDGET.clip(max=STEPS))) > 2  # some none, some all
    _, A, b, w, _ = clients()
    bytes_up = PAYLOAD + 8 if options.get("nova") else PAYLOAD  # FedNova sends its number of steps too
    long = PAYLOAD / DOWN + bytes_up / UP
    budget = np.floor((BUDGET_DEADLINE - long) / STEP).clip(0).astype(int)
    seconds = long + np.minimum(budget, STEPS) * STEP
    expected = fedavg(A, b, w, 4, budget, seconds, BUDGET_DEADLINE, **options)
    check(algorithm, expected, deadline=BUDGET_DEADLINE, partial_work=True)


def test_whoever_works_as_long_as_it_may_is_in_time():
    """In single precision too: what fits before the deadline must not come an instant after it."""
    n = 4000
    rng = np.random.default_rng(1)
    some = tw.Fleet(
        n, seconds_per_step=rng.integers(1, 40, n) / 100, upload=rng.integers(1, 400, n) / 10,
        download=rng.integers(1, 400, n) / 10, deadline=7.0, partial_work=True,
    )  # fmt: skip
    sizes, ids = {"up": 3, "down": 7}, jnp.arange(n, dtype=jnp.int32)
    there = jnp.ones(n, bool)

    @jax.jit
    def both(steps):
        budget = budgets(some, ids, sizes)
        pace = Pace(there, jnp.ones(n), ids, ids, False)
        return budget, *arrivals(some, pace, budget + steps, sizes, there, last=True)

    budget, accepted, took = both(jnp.zeros(n, jnp.int32))
    np.testing.assert_array_equal(accepted, np.asarray(budget) > 0)
    assert float(took) <= 7
    assert not both(jnp.ones(n, jnp.int32))[1].any()


def test_dropouts_of_known_probability_leave_the_mean_unbiased():
    """E x after a round of one gradient step: x − η Σ w_i ∇f_i(x), whoever answers."""
    problem, A, b, w, _ = clients()
    probability = np.array([0.0, 0.5, 0.3, 0.8, 0.1])
    some, found = tw.Fleet(N, dropout=probability), []
    changes = descend(A, b, np.zeros(3), RATE, 1)
    algorithm = tw.FedAvg(tw.LocalSGD(RATE, steps=1))
    ids = jnp.arange(N, dtype=jnp.int32)
    registry = tw.cohort.Registry(jnp.asarray(w), jnp.ones(N))
    draw = tw.cohort.Draw(ids, jnp.ones(N, bool), jnp.ones(N))
    one = lambda key: Pace.of(some, registry, draw, ids, key, 0.0)
    pace = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(3), 20_000))
    np.testing.assert_allclose(np.asarray(pace.answers).mean(0), 1 - probability, atol=0.015)
    np.testing.assert_allclose(pace.response[0], 1 - probability, rtol=1e-6)
    # Rounds of the engine: each mean is over those that answered, each counted 1/(1 − probability) times.
    for seed in range(12):
        result = run(problem, algorithm, 1, fleet=some, seed=seed, keep_agents=True)
        subsets = [np.array([bool(bits >> i & 1) for i in range(N)]) for bits in range(2**N)]
        means = [np.where(s, w / (1 - probability), 0) @ changes for s in subsets if s[0]]
        assert min(np.abs(np.asarray(result.x) - mean).max() for mean in means) < 1e-7
        found.append(result.history["participants"][-1])
        assert not any("biased" in text for text in result.warnings)
    assert len(set(found)) > 2
    answers, weight = np.asarray(pace.answers), w / (1 - probability)
    x = (answers * weight) @ changes
    assert (np.abs(x.mean(0) - w @ changes) < 4.5 * x.std(0) / np.sqrt(len(x))).all()


def test_clients_that_cannot_be_reached_do_not_answer():
    """Reachable from 0 to 10 s of every 20; rounds take 6 s for those that are there: 0, 6, 12, 18 (= 18 mod 20), 24 …"""
    problem, A, b, w, _ = clients()
    start, end = [[0.0], [0], [10], [0], [0]], [[20.0], [20], [20], [10], [20]]
    some = tw.Fleet(N, seconds_per_step=6.0, availability=tw.fleet.intervals(start, end, 20.0))
    there = [[0, 1, 3, 4], [0, 1, 3, 4], [0, 1, 2, 4], [0, 1, 2, 4], [0, 1, 3, 4]]
    x = np.zeros(3)
    for who in there:
        x = w[who] @ descend(A, b, x, RATE, 1)[who] / w[who].sum()
    result = run(problem, tw.FedAvg(tw.LocalSGD(RATE, steps=1)), len(there), fleet=some, every=1)
    np.testing.assert_allclose(result.x, x, rtol=1e-9)
    np.testing.assert_array_equal(result.history["participants"], [4] * 5)
    np.testing.assert_allclose(result.history["clock"], 6 * np.arange(1, 6), rtol=1e-6)


def test_availability_is_what_a_trace_says(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("device,start,end\n1,5,8\n0,0,2\n0,4,6\n")
    trace, periodic = tw.fleet.read_intervals(path, 2), tw.fleet.read_intervals(path, 2, period=10)
    inside = lambda t: [0 <= t < 2 or 4 <= t < 6, 5 <= t < 8]
    for t in (0, 1.9, 2, 4, 5.5, 6, 7.9, 8, 9, 14.5, 25.5):
        members = jnp.arange(2, dtype=jnp.int32)
        np.testing.assert_array_equal(trace.at(jnp.float32(t), members), inside(t))
        np.testing.assert_array_equal(periodic.at(jnp.float32(t), members), inside(t % 10))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("device,start,end\n0,0,5\n", "device 1 has no interval, expected at least one for each of 2 devices"),
        ("device,start,end\n0,0,5\n1,0,5\n1,4,9\n", "device 1 has overlapping intervals at 4 s; merge them"),
        ("device,begin,end\n0,0,5\n", "expected device, start and end"),
        ("device,start,end\n0,0,5\n1,,7\n", "line 3: got .* expected a whole number and two numbers"),
        ("device,start,end\n0,0,5\n2,0,7\n", "line 3: got device 2, expected 0 to 1"),
        ("device,start,end\n0,0,5\n1,7,6\n", "availability of device 1: got .* expected 0 ≤ start ≤ end"),
        ("device,start,end\n0,0,5\n1,0,nan\n", "NaN"),
    ],
)
def test_traces_with_gaps_and_overlaps_are_refused(tmp_path, text, message):
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        tw.fleet.read_intervals(path, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dropout": 1.0}, "Fleet dropout: got values from 1 to 1, expected 0 to 0.999"),
        ({"upload": [1.0, 2.0]}, "Fleet upload: got shape .* one for each of 5 devices"),
        ({"seconds_per_step": np.nan}, "Fleet seconds_per_step: got values from nan"),
        ({"deadline": 0.0}, "Fleet deadline: got 0.0 s, expected a positive number"),
        ({"accept": 1.3}, r"Fleet accept: got 1.3, expected a fraction of the cohort in \(0, 1\]"),
        ({"partial_work": True}, "partial_work=True: expected a deadline"),
        ({"availability": tw.fleet.daily(4, 8, 0)}, "Fleet availability: got 4 devices, expected 5"),
    ],
)
def test_fleets_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        tw.Fleet(N, **options)


@pytest.mark.parametrize(
    ("algorithm", "fleet", "message"),
    [
        (tw.FedAvg(SOLVER), tw.Fleet(4), "fleet of 4 devices for 5 clients; build it with n=5"),
        (tw.SCAFFOLD(SOLVER), tw.Fleet(N, deadline=5.0, partial_work=True), "SCAFFOLD cannot use partial work; use tw.FedProx"),
        (tw.FedAvg(SOLVER, cohort=6), None, "6 clients, expected at most 5"),
        (tw.FedAvg(SOLVER, cohort=tw.cohort.power_of_choice(2, 6)), None, "6 clients, expected at most 5"),
    ],
)
def test_runs_that_cannot_be(algorithm, fleet, message):
    problem, *_ = clients()
    ran = []
    with pytest.raises(ValueError, match=message):
        tw.solve(problem, algorithm, rounds=3, fleet=fleet, progress=lambda k, history: ran.append(k))
    assert not ran and len(WEIGHTS) == N
