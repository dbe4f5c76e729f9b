"""The stop rule: no progress *and* agreement, from global measures and as a rule that each agent runs for itself."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import support
import thalweg as tw
from thalweg.engine import stop as stopping
from thalweg.engine.executor import Vectorised
from thalweg.engine.keys import Stream
from thalweg.engine.weather import conditions, first_weather
from thalweg.engine.world import make_setting, make_world
from thalweg.observe import Outcome

N = 8
MEASURED = tw.Measurements(np.random.default_rng(0).standard_normal(N))
NET = tw.network

UNDIRECTED = {
    "path": NET.path(N),
    "ring": NET.ring(N),
    "star": NET.star(N),
    "complete": NET.complete(N),
    "grid": NET.grid(2, 4),
    "torus": NET.torus(2, 4),
    "hypercube": NET.hypercube(3),
    "tree": NET.tree(N),
    "erdos_renyi": NET.erdos_renyi(N, 0.4, seed=0),
    "geometric": NET.geometric(N, 0.5, seed=0),
    "small_world": NET.small_world(N, 4, 0.3, seed=0),
    "random_regular": NET.random_regular(N, 3, seed=0),
}
DIRECTED = {
    "ring": NET.ring(N, directed=True),
    "exponential": NET.exponential(N),
    "erdos_renyi": NET.erdos_renyi(N, 0.4, seed=0, directed=True),
    "one way": NET.from_edges([[i, (i + 1) % N] for i in range(N)] + [[0, 4], [6, 2]], directed=True),
}
FAMILIES = {f"{name}, directed" if net.directed else name: net for nets in (UNDIRECTED, DIRECTED) for name, net in nets.items()}


LONG = 3000


class Watched:
    """The distributed rule by itself, over estimates and weather that a test chooses."""

    def __init__(self, network, stop, seed=0):
        ids = np.arange(network.n)
        self.world = make_world(network, jnp.float64, ids, frozenset(), False)
        self.setting, self.key = make_setting(network, ids), jax.random.key_data(jax.random.key(seed))
        diameter = network.facts.diameter if stop.diameter is None else stop.diameter
        self.stop = dataclasses.replace(
            stop,
            progress=jnp.asarray(stop.progress),
            agreement=jnp.asarray(stop.agreement),
            distributed=True,
            diameter=jnp.asarray(int(diameter)),
        )

    def decisions(self, before, *stages):
        """(done, standing `[LONG, n]`, arrived `[LONG, n, slots]`, awake `[LONG, n]`).

        Estimates `[n, 2]` are `before` before round 0, and those of the last stage (since, estimates) whose round has come;
        estimates may be a function of the round.
        """
        rounds = np.arange(LONG)
        x = np.zeros((LONG, *before.shape))
        for since, estimates in stages:
            at = rounds >= since
            x[at] = np.stack([estimates(k) for k in rounds[at]]) if callable(estimates) else estimates
        return [
            np.asarray(a) for a in decide(self.world, self.setting, self.key, self.stop, jnp.asarray(before), jnp.asarray(x))
        ]


@eqx.filter_jit
def decide(world, setting, key, stop, before, x):
    executor = Vectorised(jnp.asarray(0, jnp.uint32), False)

    def step(carry, at):
        (flags, channel), (k, x) = carry, at
        channel, weather = conditions(key, setting, world, k, 0, channel)
        flags = stopping.exchange_flags(
            executor, stop, key, world, flags, executor.everyone(stopping.told(flags)), weather, x, k
        )
        return (flags, channel), (flags.done, flags.standing, weather.arrived, weather.awake)

    first = stopping.first_flags(before), first_weather(key, setting, world)
    return jax.lax.scan(step, first, (jnp.arange(LONG, dtype=jnp.int32), x))[1]


def algorithm(network):
    return tw.PushSum() if network.directed else tw.Averaging()


EVERY_FAMILY = [
    name if name in ("path", "complete", "one way, directed") else pytest.param(name, marks=pytest.mark.slow)
    for name in FAMILIES
]


@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_without_loss_all_stop_in_the_same_round_and_not_before_they_agree(family):
    network, agreement = FAMILIES[family], 1e-6
    rule = tw.Stop(progress=1e-6, agreement=agreement, patience=2, distributed=True)
    result = tw.solve(MEASURED, algorithm(network), network, rounds=4000, stop=rule, every=50)
    assert result.outcome is Outcome.CONVERGED
    window = max(1, int(network.facts.diameter))
    assert result.rounds % window == 0
    x = np.asarray(result.agents)
    assert np.ptp(x) <= agreement * (1 + np.abs(x).max())
    # Two calm windows, one for each to be heard of, and no later than the agreement that they wait for needs.
    assert result.rounds >= 3 * window
    before = tw.solve(MEASURED, algorithm(network), network, rounds=result.rounds - 2 * window, stop=rule, every=1)
    assert before.outcome is Outcome.ROUND_LIMIT
    assert np.ptp(np.asarray(before.agents)) <= agreement * (1 + np.abs(x).max())
    assert before.history["movement"][-window:].mean() <= 2e-6 * (1 + np.abs(x).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_all_flags_rise_together_at_the_first_possible_round(family):
    """Estimates that stand still and agree from round `since` on: everybody stops, in the round that the rule says."""
    network, patience, since = FAMILIES[family], 3, 5
    window = int(network.facts.diameter)
    rule = Watched(network, tw.Stop(1e-6, 1e-6, patience))
    start = np.random.default_rng(1).standard_normal((N, 2))
    done, *_ = rule.decisions(start, (0, lambda k: start + k), (since, np.broadcast_to(start[:1], start.shape)))
    assert (done == done[:, :1]).all()
    anchored = next(k for k in range(window - 1, LONG, window) if k >= since)  # the first window that starts at rest
    assert int(np.argmax(done[:, 0])) == anchored + (1 + patience) * window


@pytest.mark.parametrize("family", ["path", "star", "torus", "ring, directed", "exponential, directed"])
def test_one_agent_apart_keeps_everybody_going(family):
    """Wherever the one who differs, or moves, sits: nobody stops."""
    rule = Watched(FAMILIES[family], tw.Stop(1e-6, 1e-6, 1))
    for odd in range(N):
        one = np.zeros((N, 2))
        one[odd] = 1, -1
        assert not rule.decisions(one, (0, 1e-5 * one))[0].any()
        assert not rule.decisions(one, (0, lambda k, one=one: 1e-5 * k * one))[0].any()


def test_opposite_entries_do_not_cancel():
    """x_i − x_j ∝ (1, −1) is orthogonal to half of all sign vectors; a rule that met only those would stop."""
    apart = np.where(np.arange(N)[:, None] % 2, [1.0, -1.0], [-1.0, 1.0])
    for seed in range(5):
        rule = Watched(UNDIRECTED["complete"], tw.Stop(1e-6, 1e-6, 1), seed)
        assert not rule.decisions(apart, (0, apart))[0].any()


FAILING = [{"loss": 0.15}, {"loss": 0.15, "burst": 4}, {"asleep": 0.05}, {"delay": (0.9, 0.1)}]
HARD = ["path", "hypercube", "complete", "ring, directed", "exponential, directed"]


@pytest.mark.parametrize("failures", FAILING, ids=["loss", "bursts", "sleep", "delays"])
@pytest.mark.parametrize(
    "family",
    [name if name in ("path", "exponential, directed") else pytest.param(name, marks=pytest.mark.slow) for name in HARD],
)
def test_under_failures_nobody_stops_before_all_agree(family, failures):
    """One agent joins the others only late. A `done` before that is a broken promise; after it everybody stops some time."""
    network, late = FAMILIES[family], 500
    network = network.with_failures(**failures, symmetric=not network.directed)
    for seed in range(N):
        rule = Watched(network, tw.Stop(1e-6, 1e-6, 1), seed)
        apart = np.zeros((N, 2))
        apart[seed] = 1e-3, 0
        done, *_ = rule.decisions(apart, (0, apart), (late, 0 * apart))
        assert not done[:late].any()
        assert (done[1:] >= done[:-1]).all(), "nobody takes a decision back"
        assert done[-1].all(), "some windows are spared by the failures, and then everybody hears of the end"


@pytest.mark.parametrize("loss", [{"loss": 0.3}, {"asleep": 0.2}])
def test_a_missing_flag_counts_as_not_agreed(loss):
    """Within a window, whoever misses one message from one neighbour, or sleeps, has no standing flag from then on."""
    network = UNDIRECTED["ring"].with_failures(**loss)
    rule = Watched(network, tw.Stop(1e-6, 1e-6, 10**6))
    window, nothing = int(network.facts.diameter), np.zeros((N, 2))
    _, standing, arrived, awake = rule.decisions(nothing, (0, nothing))
    mask = np.asarray(rule.world.mask)
    complete = (arrived | ~mask).all(axis=2) & awake
    checked = 0
    for k in range(2 * window, LONG):
        if (k + 1) % window:  # at the end of a window flags are set anew
            assert not (standing[k] & ~complete[k]).any()
            checked += int((~complete[k]).sum())
    assert checked > 100
    assert standing.any()


def test_the_promise_end_to_end_under_loss():
    """Agents that stopped at different times, some frozen before others: still, all of them agree at the end."""
    problem, *_, x = support.quadratics(N, 2, 0)
    rule = tw.Stop(progress=1e-9, agreement=1e-6, patience=2, distributed=True)
    network = UNDIRECTED["complete"].with_failures(loss=0.01)
    result = tw.solve(problem, tw.GradientTracking(), network, rounds=20_000, stop=rule, every=500)
    assert result.outcome is Outcome.CONVERGED
    np.testing.assert_allclose(result.agents, np.broadcast_to(x, (N, 2)), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sharded", "debug"])
def test_the_distributed_rule_is_bitwise_the_same_on_all_engines(engine):
    network = UNDIRECTED["hypercube"].with_failures(loss=0.05)
    rule = tw.Stop(progress=1e-2, agreement=1e-1, patience=1, distributed=True)

    def solve(engine):
        return tw.solve(MEASURED, tw.Averaging(), network, rounds=60, stop=rule, every=50, engine=engine, deterministic=True)

    expected, got = solve("simulated"), solve(tw.Sharded(devices=2) if engine == "sharded" else engine)
    assert expected.outcome is Outcome.CONVERGED
    assert (got.rounds, got.outcome) == (expected.rounds, expected.outcome)
    assert np.asarray(got.agents).tobytes() == np.asarray(expected.agents).tobytes()


def test_the_global_rule_needs_both_conditions_and_patience():
    """On a ring of equal curvature the recursion is known: DGD stands still without agreeing; averaging agrees at a known
    rate; so the round of the stop can be computed by hand."""
    network, every = UNDIRECTED["ring"], 10
    problem = support.quadratics(N, 2, 0)[0]
    still = tw.solve(problem, tw.DGD(), network, rounds=3000, every=every, stop=tw.Stop(progress=1e-8, agreement=1e-3))
    assert still.outcome is Outcome.ROUND_LIMIT
    assert still.history["movement"][-1] < 1e-10 < 1e-3 < still.history["consensus_error"][-1]

    start = np.asarray(MEASURED.pieces.data)
    W, x = network.mixing.toarray(), [start]
    for _ in range(600):
        x.append(W @ x[-1])
    x = np.array(x[::every])
    rms = lambda a: np.sqrt(np.mean(a**2, axis=1))
    size = 1 + rms(x[1:])
    calm = rms(np.diff(x, axis=0)) / every <= 1e-4 * size
    agreed = rms(x[1:] - x[1:].mean(axis=1, keepdims=True)) <= 1e-5 * size
    for patience in (1, 4):
        both = np.convolve(calm & agreed, np.ones(patience), "valid") == patience
        expected = every * (int(np.argmax(both)) + patience)
        rule = tw.Stop(progress=1e-4, agreement=1e-5, patience=patience)
        result = tw.solve(MEASURED, tw.Averaging(), network, rounds=600, every=every, stop=rule)
        assert (result.outcome, result.rounds) == (Outcome.CONVERGED, expected)
    assert np.argmax(calm) < np.argmax(agreed)


def test_moving_together_is_no_end():
    """Agents that agree at every moment but go on moving: progress alone keeps the run going."""
    network, problem = UNDIRECTED["complete"], support.equal_curvature(N, 2, 1.0, 0)[0]
    rule = tw.Stop(progress=1e-6, agreement=1e-3, patience=2)
    result = tw.solve(problem, tw.GradientTracking(1e-4), network, rounds=400, every=10, stop=rule)
    assert result.outcome is Outcome.ROUND_LIMIT
    assert result.history["consensus_error"][-1] < 1e-3 * (1 + np.abs(result.x).max())


def test_what_is_refused():
    solve = lambda stop, network=UNDIRECTED["path"]: tw.solve(MEASURED, tw.Averaging(), network, stop=stop)
    with pytest.raises(ValueError, match=r"Stop\(diameter=6\): expected a bound on the diameter, which is 7"):
        solve(tw.Stop(distributed=True, diameter=6))
    with pytest.raises(ValueError, match="edges do not change"):
        solve(tw.Stop(distributed=True), NET.pairwise_gossip(UNDIRECTED["path"]))
    with pytest.raises(ValueError, match=r"finer than float64's resolution 2e-16; loosen"):
        solve(tw.Stop(agreement=1e-17))
    for bad in ({"progress": 0.0}, {"agreement": -1.0}, {"progress": float("nan")}, {"patience": 0}, {"diameter": 0}):
        with pytest.raises(ValueError, match=rf"Stop\({next(iter(bad))}="):
            tw.Stop(**bad)


def test_a_looser_bound_on_the_diameter_only_takes_longer():
    solve = lambda **how: tw.solve(
        MEASURED, tw.Averaging(), UNDIRECTED["path"], rounds=4000, every=100, stop=tw.Stop(distributed=True, **how)
    )
    tight, loose = solve(), solve(diameter=30)
    assert tight.outcome is loose.outcome is Outcome.CONVERGED
    assert (tight.rounds % 7, loose.rounds % 30) == (0, 0)
    assert loose.rounds > tight.rounds


def test_streams_do_not_overlap():
    assert len({int(stream) for stream in Stream}) == len(Stream)
