"""Methods without rounds against the same recursions in plain NumPy, closed forms, and the methods with rounds that they continue.

Axes: `n` agents, `d` variables.
"""

import dataclasses

import jax
import numpy as np
import pytest

import exports
import support
import thalweg as tw
from asynchronous import PlainADMM, PlainSums, happen, neighbours, replay
from programs import no_compilation

N, D = exports.N, 3
UNDIRECTED = tw.network.from_edges(exports.EDGES, N)
DIRECTED = tw.network.from_edges(exports.ARCS, N, directed=True)
PROBLEM, A, B, OPTIMUM = support.quadratics(N, D, 3, weights=np.arange(1.0, N + 1))
VALUES = np.random.default_rng(5).standard_normal((N, 2)) + np.arange(N)[:, None]
MEASURED = tw.Measurements(VALUES)
PERIODS = np.linspace(0.5, 2.0, N)
HARD = tw.Clocks(period=PERIODS, latency=0.2, jitter=0.7)
ADMM = tw.AsynchronousADMM(penalty=1.5, relaxation=0.7)
LOST = {"loss": 0.3, "symmetric": False}


def solve(problem, algorithm, network, rounds, clocks=None, *, events=None, **options):
    engine = tw.EventDriven(clocks=clocks, events=events)
    return tw.solve(problem, algorithm, network, rounds=rounds, engine=engine, **options)


def handmade(network, wakes, **changes):
    """An order of events that was not drawn by the package."""
    options = {"period": PERIODS, "latency": 0.2, "jitter": 1.0, "loss": 0.3} | changes
    return tw.Events(*happen(neighbours(network), wakes, **options))


def test_admm_follows_the_recursion_in_numpy_event_by_event():
    events = handmade(UNDIRECTED, 40 * N)
    for count in (1, 2, 7, 60, len(events)):
        part = tw.Events(events.agent[:count], events.sender[:count], events.number[:count])
        plain = replay(PlainADMM(A, B, neighbours(UNDIRECTED), 1.5, 0.7), part.agent, part.sender, part.number)
        result = solve(PROBLEM, ADMM, UNDIRECTED, 10**6, events=part)
        assert result.rounds == -(-part.wakes // N)
        np.testing.assert_allclose(result.agents, plain.estimates, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("network", [UNDIRECTED, DIRECTED], ids=["undirected", "directed"])
def test_running_sums_follow_the_recursion_in_numpy_and_keep_what_there_was(network):
    events = handmade(network, 40 * N, seed=1)
    plain = replay(PlainSums(VALUES, neighbours(network)), events.agent, events.sender, events.number)
    result = solve(MEASURED, tw.AsynchronousPushSum(), network, 10**6, events=events)
    np.testing.assert_allclose(result.agents, plain.estimates, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(plain.everything, [*VALUES.sum(0), N], rtol=1e-12)


def test_drawn_events_are_those_that_the_recursion_is_fed_with():
    """Orders drawn by the package, replayed in NumPy: drawing and computing fit together."""
    from thalweg.engine.draw_events import draw_events

    network = UNDIRECTED.with_failures(**LOST)
    events, _ = draw_events(HARD, network, np.arange(N), 4, 30)
    plain = replay(PlainADMM(A, B, neighbours(network), 1.5, 0.7), events.agent, events.sender, events.number)
    np.testing.assert_allclose(solve(PROBLEM, ADMM, network, 30, HARD, seed=4).agents, plain.estimates, rtol=1e-11, atol=1e-13)


def test_if_all_wake_together_it_is_the_method_with_rounds():
    """x of k + 1 wakes is x of k rounds: with rounds it is computed at the end of one."""
    together = tw.Clocks(poisson=False, first=0.0)
    rounds = tw.EdgeADMM(penalty=1.5, relaxation=0.7)
    for k in (1, 2, 9):
        expected = tw.solve(PROBLEM, rounds, UNDIRECTED, rounds=k).agents
        np.testing.assert_allclose(solve(PROBLEM, ADMM, UNDIRECTED, k + 1, together).agents, expected, rtol=1e-12, atol=1e-14)


def test_the_penalty_is_chosen_as_with_rounds():
    chosen = solve(PROBLEM, tw.AsynchronousADMM(), UNDIRECTED, 1).algorithm
    assert chosen.penalty == tw.solve(PROBLEM, tw.EdgeADMM(), UNDIRECTED, rounds=1).algorithm.penalty


SLEEP = tw.fleet.intervals([[0.0, 60.0]] * 5 + [[10.0, 90.0]], [[50.0, 100.0]] * 5 + [[40.0, 100.0]], period=100.0)
CASES = {
    "all at once": ({}, tw.Clocks()),
    "lost": (LOST, tw.Clocks(period=PERIODS)),
    "late": ({}, HARD),
    "asleep": ({}, tw.Clocks(period=PERIODS, availability=SLEEP)),
    "everything": (LOST, dataclasses.replace(HARD, availability=SLEEP)),
    "regular": (LOST, tw.Clocks(period=PERIODS, poisson=False, latency=3.0)),
}

some_cases = pytest.mark.parametrize(
    "case", [case if case in ("regular", "everything") else pytest.param(case, marks=pytest.mark.slow) for case in CASES]
)


@some_cases
def test_admm_finds_the_pooled_minimiser(case):
    """Σ w_i f_i by NumPy; agents differ, and so do their weights."""
    failures, clocks = CASES[case]
    result = solve(PROBLEM, tw.AsynchronousADMM(), UNDIRECTED.with_failures(**failures), 1500, clocks, every=1500)
    np.testing.assert_allclose(result.agents, np.broadcast_to(OPTIMUM, (N, D)), atol=1e-9)
    assert not result.warnings


@some_cases
def test_running_sums_find_the_mean_on_a_directed_network(case):
    failures, clocks = CASES[case]
    result = solve(MEASURED, tw.AsynchronousPushSum(), DIRECTED.with_failures(**failures), 1500, clocks, every=1500)
    np.testing.assert_allclose(result.agents, np.broadcast_to(VALUES.mean(0), VALUES.shape), atol=1e-9)
    assert not result.warnings


@pytest.mark.slow
def test_a_pytree_and_losses_without_a_closed_form():
    """Least squares over everybody's examples, by NumPy; x is a pytree, and the prox is found by iteration."""
    values = exports.data("EdgeADMM")
    problem = exports.problem("EdgeADMM", values)
    result = solve(problem, tw.AsynchronousADMM(), UNDIRECTED.with_failures(**LOST), 600, HARD, every=600)
    expected = np.broadcast_to(exports.minimiser("EdgeADMM", values), (N, 3))
    np.testing.assert_allclose(exports.flat(result.agents), expected, atol=1e-8)


@pytest.mark.slow
def test_an_agent_that_wakes_a_thousand_times_as_often_does_not_give_itself_away():
    period = np.array([1e-3, *np.ones(N - 1)])
    clocks = tw.Clocks(period=period, latency=0.1)
    result = solve(MEASURED, tw.AsynchronousPushSum(), DIRECTED, 12_000, clocks, every=12_000)
    np.testing.assert_allclose(result.agents, np.broadcast_to(VALUES.mean(0), VALUES.shape), atol=1e-9)


@pytest.mark.slow
def test_single_precision():
    single = tw.Measurements(VALUES.astype(np.float32))
    result = solve(single, tw.AsynchronousPushSum(), DIRECTED.with_failures(**LOST), 300, HARD)
    assert result.agents.dtype == np.float32
    np.testing.assert_allclose(result.agents, np.broadcast_to(VALUES.mean(0), VALUES.shape), atol=1e-3)


@pytest.mark.slow
def test_one_agent_finds_its_own_minimiser():
    alone, *_, optimum = support.quadratics(1, D, 0)
    result = solve(alone, tw.AsynchronousADMM(penalty=1.0), tw.network.ring(1), 200)
    np.testing.assert_allclose(result.agents[0], optimum, atol=1e-9)
    result = solve(tw.Measurements(VALUES[:1]), tw.AsynchronousPushSum(), tw.network.ring(1), 5)
    np.testing.assert_array_equal(result.agents, VALUES[:1])


def test_the_history_knows_time_events_and_bytes():
    result = solve(PROBLEM, ADMM, UNDIRECTED.with_failures(**LOST), 200, HARD, every=20, reference=OPTIMUM)
    history, ledger = result.history, result.ledger
    assert (np.diff(history["clock"]) > 0).all()
    rate = np.sum(1 / PERIODS)  # wakes a second, all agents together
    np.testing.assert_allclose(history["clock"][-1], 200 * N / rate, rtol=0.1)
    # Of wakes and of messages that are not lost; some of these are overtaken, some still under way.
    degree = 2 * len(exports.EDGES) / N
    assert 200 * N * (1 + 0.4 * degree) < history["events"][-1] < 200 * N * (1 + 0.72 * degree)
    assert ledger.message_bytes == 8 * D
    wakes = ledger.messages / UNDIRECTED.slots().mask.sum(1)
    assert wakes.sum() == 200 * N
    np.testing.assert_allclose(wakes * PERIODS, np.mean(wakes * PERIODS), rtol=0.3)
    assert history["bytes"][-1] == ledger.bytes.sum()
    assert history["error"][-1] < history["error"][0] / 10
    assert "clock" in str(result)
    reached = solve(PROBLEM, ADMM, UNDIRECTED, 10**4, HARD, every=10, reference=OPTIMUM, stop=tw.Stop(below={"error": 1e-6}))
    assert reached.outcome is tw.Outcome.TARGET
    settled = solve(PROBLEM, ADMM, UNDIRECTED, 10**4, HARD, every=10, stop=tw.Stop(progress=1e-9, agreement=1e-9))
    assert settled.outcome is tw.Outcome.CONVERGED
    np.testing.assert_allclose(settled.x, OPTIMUM, atol=1e-6)


@pytest.mark.parametrize("method", ["admm", pytest.param("sums", marks=pytest.mark.slow)])
def test_repeating_resuming_and_many_windows_leave_no_trace(method, tmp_path, monkeypatch):
    problem, algorithm = (PROBLEM, ADMM) if method == "admm" else (MEASURED, tw.AsynchronousPushSum())
    network = UNDIRECTED.with_failures(**LOST)
    run = lambda rounds, **options: solve(problem, algorithm, network, rounds, HARD, every=10, **options)
    numbers = lambda result: exports.bits((result.agents, result.records, result.history.scalars, result.history.agents))
    whole = run(120)
    assert numbers(run(120)) == numbers(whole)
    run(47, checkpoint=tmp_path / "run")
    assert numbers(run(120, checkpoint=tmp_path / "run", resume=True)) == numbers(whole)
    with pytest.raises(ValueError, match="another seed"):
        run(120, checkpoint=tmp_path / "run", resume=True, seed=1)
    monkeypatch.setattr("thalweg.engine.event_plan.SMALLEST", 64)
    assert numbers(run(120)) == numbers(whole)


def test_a_second_run_with_equal_shapes_compiles_nothing():
    network = UNDIRECTED.with_failures(**LOST)
    solve(PROBLEM, ADMM, network, 60, HARD)
    other, *_ = support.quadratics(N, D, 8, weights=np.arange(1.0, N + 1))
    other.constants  # noqa: B018  (Hessians are another program, of the problem)
    slower = dataclasses.replace(HARD, period=1.05 * PERIODS)
    with no_compilation():
        solve(
            other, dataclasses.replace(ADMM, penalty=2.0), network.with_failures(loss=0.1, symmetric=False), 90, slower, seed=7
        )


def test_deterministic_bits_do_not_depend_on_the_way_the_loop_is_compiled():
    """Every role by itself gives what the fast program gives, up to rounding."""
    fast = solve(PROBLEM, ADMM, UNDIRECTED, 20, HARD)
    exact = solve(PROBLEM, ADMM, UNDIRECTED, 20, HARD, deterministic=True)
    np.testing.assert_allclose(exact.agents, fast.agents, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("method", ["admm", "sums"])
def test_permuting_agents_with_their_ids_permutes_the_result(method):
    order = np.array([3, 5, 0, 4, 1, 2])
    place = np.argsort(order)

    def run(order, place):
        clocks = dataclasses.replace(HARD, period=PERIODS[order])
        if method == "admm":
            problem = tw.quadratic(A[order], B[order])
            network = tw.network.from_edges(place[exports.EDGES], N)
        else:
            problem, network = tw.Measurements(VALUES[order]), tw.network.from_edges(place[exports.ARCS], N, directed=True)
        algorithm = ADMM if method == "admm" else tw.AsynchronousPushSum()
        return solve(problem, algorithm, network.with_failures(**LOST), 30, clocks, ids=order)

    first, moved = run(np.arange(N), np.arange(N)), run(order, place)
    np.testing.assert_allclose(moved.agents, np.asarray(first.agents)[order], rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(moved.ledger.messages, first.ledger.messages[order])


def test_what_is_not_finite_ends_the_run_and_names_who():
    def loss(x, data):
        return jax.numpy.sum((x - data) ** 2) + jax.numpy.where(data[0] > 5, jax.numpy.sqrt(1.0 - x[0]), 0.0)

    data = np.arange(12.0).reshape(4, 3)[:, :2]
    problem = tw.Consensus(loss, data, np.zeros(2), names=["a", "b", "c", "d"])
    result = solve(problem, tw.AsynchronousADMM(penalty=1.0), tw.network.ring(4), 50, every=5)
    assert result.outcome is tw.Outcome.NOT_FINITE
    assert "c" in result.reason or "d" in result.reason
