"""Peers as processes of their own give the numbers of the simulation, bit by bit, and send the bytes that it predicts."""

import jax
import numpy as np
import pytest

import exports
import markets
import thalweg as tw
from deployed import run_peers
from programs import quick

N, ROUNDS = exports.N, 12
UNDIRECTED = tw.network.from_edges(exports.EDGES, N, weights="lazy_metropolis")
DIRECTED = tw.network.from_edges(exports.ARCS, N, directed=True)
STAR = tw.network.star(N)
PRICES = [name for name in tw.price.__all__ if issubclass(getattr(tw.price, name), tw.PeerAlgorithm)]


def pieces(name):
    """(the problem of all, that of each site)."""
    if name == "LaplacianGradient":  # trades keep the rows: equalities, and quantities that are the plans
        (a, c), b = markets.separable(N), np.array([1.0, -2.0])
        return tw.allocation(a, c, b), [tw.allocation(a[i : i + 1], c[i : i + 1], b) for i in range(N)]
    if name in PRICES:
        parts = markets.data(N, d=3)
        return markets.problem(parts), [markets.problem([part[i : i + 1] for part in parts]) for i in range(N)]
    values = exports.data(name)
    alone = [jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], values) for i in range(N)]
    return exports.problem(name, values), [exports.problem(name, own) for own in alone]


def compare(name, algorithm, network, **options):
    whole, own = pieces(name)
    asked = {name: value for name, value in options.items() if name != "simulated_secrets"}
    simulated = exports.solve(whole, algorithm, network, rounds=ROUNDS, deterministic=True, **asked)
    answers = run_peers(own, simulated.algorithm, network, rounds=ROUNDS, deterministic=True, **options)
    for i, answer in enumerate(answers):
        expected = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], simulated.agents)
        jax.tree.map(np.testing.assert_array_equal, answer.x, expected)
        assert answer.ledger.payload == simulated.ledger.messages[i] * simulated.ledger.message_bytes
        assert answer.ledger.again == 0
    return simulated, answers


@quick([*exports.NAMES, *PRICES], "TrackingADMM")
def test_every_export_gives_the_simulated_numbers(name):
    algorithm = getattr(tw.price, name)() if name in PRICES else exports.algorithm(name)
    compare(name, algorithm, DIRECTED if name not in PRICES and exports.directed(name) else UNDIRECTED)


@quick(("TrackingADMM", "DualGradientTracking", "DistributedPrimalDual"), "DualGradientTracking")
def test_sites_with_shares_of_their_own_give_the_simulated_numbers(name):
    parts, b = markets.data(N, d=3), np.array([1.0, -2.0])
    share = np.random.default_rng(5).dirichlet(np.ones(N), 2).T * b
    whole = markets.problem(parts, b, share=share)
    own = [markets.problem([part[i : i + 1] for part in parts], b, share=share[i : i + 1]) for i in range(N)]
    algorithm = getattr(tw.price, name)()
    simulated = exports.solve(whole, algorithm, UNDIRECTED, rounds=ROUNDS, deterministic=True)
    answers = run_peers(own, simulated.algorithm, UNDIRECTED, rounds=ROUNDS, deterministic=True)
    equal = exports.solve(markets.problem(parts, b), algorithm, UNDIRECTED, rounds=ROUNDS, deterministic=True)
    for i, answer in enumerate(answers):
        expected = jax.tree.map(lambda leaf, i=i: np.asarray(leaf)[i], simulated.agents)
        jax.tree.map(np.testing.assert_array_equal, answer.x, expected)
    assert np.abs(simulated.agents["head"] - equal.agents["head"]).max() > 1e-3


CASES = {
    "periodic, bursts and sleep": (
        tw.AugDGM(), tw.network.periodic([tw.network.ring(N), STAR]).with_failures(loss=0.3, burst=3, asleep=0.2), {}
    ),
    "edges, late and lost": (
        tw.EdgeADMM(), UNDIRECTED.with_failures(loss=0.2, symmetric=False, delay=(0.5, 0.3, 0.2), asleep=0.2), {}
    ),
    "push, late and lost": (
        tw.PushDIGing(), DIRECTED.with_failures(loss=0.2, symmetric=False, delay=(0.6, 0.4), asleep=0.2), {}
    ),
    "gossip": (tw.GradientTracking(step_size=0.01), tw.network.pairwise_gossip(UNDIRECTED), {}),
    "private": (
        tw.DGD(step_size=0.05), UNDIRECTED,
        {"link": tw.message.chain(tw.message.clip(1.0), tw.message.gaussian(0.1)), "simulated_secrets": True},
    ),
    "four bits": (tw.GradientTracking(step_size=0.01), UNDIRECTED, {"link": tw.message.quantise(4)}),
    "a median of neighbours": (tw.DGD(step_size=0.05), UNDIRECTED, {"aggregate": tw.message.neighbour_median()}),
}  # fmt: skip


@pytest.mark.parametrize("case", [c if c == "four bits" else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_schedules_failures_pipelines_and_mixers(case):
    algorithm, network, options = CASES[case]
    compare(type(algorithm).__name__, algorithm, network, **options)


def test_sites_stop_together_as_simulated_agents_do():
    stop = tw.Stop(progress=1e-6, agreement=1e-6, distributed=True)
    whole, own = pieces("GradientTracking")
    simulated = exports.solve(whole, tw.GradientTracking(step_size=0.1), UNDIRECTED, rounds=3000, stop=stop, deterministic=True)
    answers = run_peers(own, tw.GradientTracking(step_size=0.1), UNDIRECTED, rounds=3000, stop=stop, deterministic=True)
    assert {answer.outcome for answer in answers} == {simulated.outcome}
    assert {answer.rounds for answer in answers} == {simulated.rounds}


@pytest.mark.slow
def test_examples_of_different_numbers_are_padded_as_in_the_simulation():
    rng = np.random.default_rng(1)
    data = [(rng.standard_normal((m, 2)), rng.standard_normal(m) + m) for m in (3, 7, 4, 9, 5, 6)]
    x0 = {"slope": np.zeros(2), "offset": np.zeros(())}
    algorithm = tw.DGD(step_size=0.05)
    whole = tw.EmpiricalRisk(exports.squared_error, data, x0)
    simulated = exports.solve(whole, algorithm, UNDIRECTED, rounds=ROUNDS, deterministic=True)
    own = [tw.EmpiricalRisk(exports.squared_error, [part], x0) for part in data]
    for i, answer in enumerate(run_peers(own, algorithm, UNDIRECTED, rounds=ROUNDS, deterministic=True)):
        np.testing.assert_array_equal(answer.x["slope"], np.asarray(simulated.agents["slope"])[i])
