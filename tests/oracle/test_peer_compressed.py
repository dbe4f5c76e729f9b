"""Peers that compress, against their recursions on stacked matrices by NumPy, with top-k, which both sides compute exactly.

Axes: `n` agents, `d` variables.
"""

import jax
import numpy as np
import pytest

import support
import thalweg as tw
from thalweg import message

N, D = 6, 10
PROBLEM, A, B, OPTIMUM = support.quadratics(N, D, 3)
GRADIENTS = support.gradients(A, B)
NETWORK = tw.network.from_edges(
    np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 5], [0, 5], [0, 2]]), N, weights="lazy_metropolis"
)
W = NETWORK.mixing.toarray()
MEASURED = tw.Measurements(B)
ROUNDS = 30


def top(m, k=3):
    """The k entries of largest magnitude in every row."""
    kept = np.argsort(-np.abs(m), axis=1, kind="stable")[:, :k]
    out = np.zeros_like(m)
    np.put_along_axis(out, kept, np.take_along_axis(m, kept, 1), 1)
    return out


LINK = message.top_k(3 / D)


def gossip(gamma):
    x, hat = B.copy(), np.zeros((N, D))
    yield x
    while True:
        hat = hat + top(x - hat)
        x = x + gamma * (W @ hat - hat)
        yield x


def sgd(alpha, gamma):
    x, hat = np.zeros((N, D)), np.zeros((N, D))
    yield x
    while True:
        half = x - alpha * GRADIENTS(x)
        hat = hat + top(half - hat)
        x = half + gamma * (W @ hat - hat)
        yield x


def lead(alpha, c, a):
    """Algorithm 1 of the paper, with a gradient at every x."""
    x, h, d = np.zeros((3, N, D))
    yield x
    while True:
        g = GRADIENTS(x)
        y = x - alpha * g - alpha * d
        guess = h + top(y - h)
        h = (1 - a) * h + a * guess
        d = d + c / (2 * alpha) * (guess - W @ guess)
        x = x - alpha * g - alpha * d
        yield x


def beer(alpha, gamma):
    """Algorithm 1 of the paper."""
    x, h, k = np.zeros((3, N, D))
    v = g = GRADIENTS(x)
    yield x
    while True:
        x = x + gamma * (W @ h - h) - alpha * v
        h = h + top(x - h)
        before, g = g, GRADIENTS(x)
        v = v + gamma * (W @ k - k) + g - before
        k = k + top(v - k)
        yield x


CASES = {
    "ChocoGossip": (MEASURED, tw.ChocoGossip(0.3), gossip(0.3)),
    "ChocoSGD": (PROBLEM, tw.ChocoSGD(0.05, 0.2), sgd(0.05, 0.2)),
    "LEAD": (PROBLEM, tw.LEAD(0.05, 0.3, 0.4), lead(0.05, 0.3, 0.4)),
    "BEER": (PROBLEM, tw.BEER(0.02, 0.25), beer(0.02, 0.25)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_recursion_is_that_of_the_paper(name):
    problem, algorithm, recursion = CASES[name]
    iterates = [next(recursion) for _ in range(ROUNDS + 1)]
    support.assert_follows(problem, algorithm, NETWORK, iterates, link=LINK)


@pytest.mark.slow
def test_gossip_keeps_the_mean_whatever_is_dropped_and_finds_it():
    for link in (message.top_k(0.1), message.sign(), message.random_k(0.2, scale=False), message.quantise(4)):
        early = support.agents(MEASURED, tw.ChocoGossip(), NETWORK, 5, link=link)
        np.testing.assert_allclose(early.mean(0), B.mean(0), atol=1e-12)
        late = support.agents(MEASURED, tw.ChocoGossip(), NETWORK, 2500, link=link)
        np.testing.assert_allclose(late, np.tile(B.mean(0), (N, 1)), atol=1e-9)
    plain = support.agents(MEASURED, tw.Averaging(), NETWORK, 2500, link=message.top_k(0.1))
    assert np.abs(plain - B.mean(0)).max() > 0.1


EXACT = {
    "LEAD": (tw.LEAD(), message.quantise(2, block=5), 1500),
    "LEAD, random": (tw.LEAD(), message.random_k(0.3), 3000),
    "BEER": (tw.BEER(), message.top_k(0.2), 4000),
    "BEER, sign": (tw.BEER(), message.sign(), 6000),
    "BEER, four bits of a third": (tw.BEER(), message.chain(message.top_k(0.3), message.quantise(4)), 4000),
}


@pytest.mark.parametrize("name", EXACT)
def test_the_optimum_itself_where_compressed_descent_has_a_floor(name):
    algorithm, link, rounds = EXACT[name]
    found = support.agents(PROBLEM, algorithm, NETWORK, rounds, link=link)
    np.testing.assert_allclose(found, np.tile(OPTIMUM, (N, 1)), atol=1e-8)


@pytest.mark.slow
def test_compressed_descent_has_a_floor():
    for link in (message.top_k(0.2), message.quantise(2, block=5)):
        for algorithm in (tw.DGD(0.01), tw.ChocoSGD(0.01, 0.2)):
            assert np.abs(support.agents(PROBLEM, algorithm, NETWORK, 4000, link=link) - OPTIMUM).max() > 1e-3


@pytest.mark.slow
def test_without_compression_they_are_the_methods_they_grew_from():
    pairs = [
        (tw.ChocoSGD(0.05, 1.0), tw.Diffusion(0.05)),
        (tw.LEAD(0.05, 1.0, 1.0), tw.NIDS(0.05)),
    ]
    for compressed, plain in pairs:
        for k in (1, 7):
            ours, theirs = (support.agents(PROBLEM, algorithm, NETWORK, k) for algorithm in (compressed, plain))
            np.testing.assert_allclose(ours, theirs, atol=1e-12, err_msg=type(compressed).__name__)
    averaging = [support.agents(MEASURED, algorithm, NETWORK, 7) for algorithm in (tw.ChocoGossip(1.0), tw.Averaging())]
    np.testing.assert_allclose(*averaging, atol=1e-12)


@pytest.mark.parametrize("algorithm", [tw.LEAD(0.1, 1.0, 1.0), tw.BEER(0.05, 0.5)])
def test_the_modes_predict_the_rate(algorithm):
    """Equal curvature, no compression: the stacked recursion has these eigenvalues."""
    problem, _, _, x_star = support.equal_curvature(N, 2, 1.3, 0)
    expected = support.rate_of_modes(algorithm, 1.3, NETWORK)
    support.assert_rate(problem, algorithm, NETWORK, x_star, expected, tolerance=0.02)


def test_what_follows_from_the_link_is_chosen_from_its_constants():
    solve = lambda algorithm, link: tw.solve(PROBLEM, algorithm, NETWORK, rounds=0, link=link).algorithm
    assert float(solve(tw.BEER(), message.top_k(0.2)).consensus_step) == pytest.approx(0.2)
    assert float(solve(tw.ChocoSGD(), message.sign()).consensus_step) == pytest.approx(1 / D)
    assert float(solve(tw.ChocoSGD(), None).consensus_step) == 1
    omega = message.random_k(0.5).variance(jax.ShapeDtypeStruct((D,), np.float64))
    assert float(solve(tw.LEAD(), message.random_k(0.5)).dual_step) == pytest.approx(1 / (1 + omega) ** 2)


@pytest.mark.parametrize("kind", ["ChocoGossip", "ChocoSGD", "LEAD", "BEER"])
def test_networks_that_lose_or_change_are_refused(kind):
    problem, algorithm = MEASURED if kind == "ChocoGossip" else PROBLEM, getattr(tw, kind)()
    for network in (
        NETWORK.with_failures(loss=0.1),
        NETWORK.with_failures(asleep=0.1),
        NETWORK.with_failures(delay=(0.5, 0.5)),
    ):
        with pytest.raises(ValueError, match=rf"{kind} adds up what its neighbours send.*every message arrives"):
            tw.solve(problem, algorithm, network, rounds=1)
    with pytest.raises(ValueError, match="does not change"):
        tw.solve(problem, algorithm, tw.network.periodic([tw.network.ring(N), tw.network.star(N)]), rounds=1)


def test_links_that_do_not_suit_are_refused():
    def refused(algorithm, link, match):
        with pytest.raises(ValueError, match=match):
            tw.solve(PROBLEM, algorithm, NETWORK, link=link, rounds=1)

    refused(tw.BEER(), message.random_k(0.3), "scale=False")
    refused(tw.ChocoSGD(), message.power_sgd(), "does not say how well it compresses.*consensus_step=0.1")
    refused(tw.LEAD(), message.top_k(0.3), r"unbiased link.*tw.BEER\(\)")
    for make in (
        lambda: tw.ChocoSGD(consensus_step=1.5),
        lambda: tw.BEER(consensus_step=0.0),
        lambda: tw.LEAD(replica_step=2.0),
    ):
        with pytest.raises(ValueError, match="expected a number in"):
            make()
