"""OPAPC against its recursion written with the matrix polynomial, its modes, and the √κ that it promises."""

import warnings

import numpy as np
import pytest
from numpy.polynomial.chebyshev import chebval

import thalweg as tw
from support import agents, assert_follows, assert_rate, equal_curvature, gradients, quadratics, rate_of_modes

RING = tw.network.ring(12)


def chebyshev_gossip(network, steps):
    """(P(I − W), δ) by eigenvalues: I − C_T((c − l)/h)/C_T(c/h) for the eigenvalues l of I − W."""
    eigenvalues, vectors = np.linalg.eigh(np.eye(network.n) - network.mixing.toarray())
    low, high = 1 - network.facts.sigma, eigenvalues[-1]
    centre, half = (high + low) / 2, (high - low) / 2
    polynomial = [0] * steps + [1]
    damping = chebval((centre - eigenvalues) / half, polynomial) / chebval(centre / half, polynomial)
    return (vectors * (1 - damping)) @ vectors.T, 1 / chebval(centre / half, polynomial)


def ill_conditioned(kappa, n=12, d=4, seed=0):
    """Quadratics with eigenvalues from 1/κ to 1 that do not commute, but are all flat (1/κ) along the first axis: then no
    average over agents is better conditioned than they are."""
    rng = np.random.default_rng(seed)
    A = np.zeros((n, d, d))
    for i in range(n):
        axes = np.linalg.qr(rng.standard_normal((d - 1, d - 1)))[0]
        A[i, 0, 0] = 1 / kappa
        A[i, 1:, 1:] = (axes * np.geomspace(10 / kappa, 1, d - 1)) @ axes.T
    b = rng.standard_normal((n, d))
    return tw.quadratic(A, b), np.linalg.solve(A.mean(0), -b.mean(0))


def test_follows_the_recursion_with_the_matrix_polynomial():
    problem, A, b, _ = quadratics(12, 3, 0, weights=np.arange(1, 13))
    P, delta = chebyshev_gossip(RING, 3)
    spectra = np.linalg.eigvalsh(A)
    L, mu = spectra.max(), spectra.min()
    tau = min(1, 0.5 * np.sqrt((1 + delta) / (1 - delta) / (L / mu)))
    eta = 1 / (4 * tau * L)
    theta = 1 / (eta * (1 + delta))
    gradient = gradients(A, b)
    x, fast, y = [np.zeros((12, 3))], np.zeros((12, 3)), np.zeros((12, 3))
    for _ in range(20):
        anchor = tau * x[-1] + (1 - tau) * fast
        slope = gradient(anchor) - mu * anchor
        y = y + theta * P @ ((x[-1] - eta * (slope + y)) / (1 + eta * mu))
        x.append((x[-1] - eta * (slope + y)) / (1 + eta * mu))
        fast = anchor + 2 * tau / (2 - tau) * (x[-1] - x[-2])
    assert_follows(problem, tw.OPAPC(), RING, x)


def test_default_number_of_exchanges_is_the_root_of_the_networks_condition():
    """χ = (1 − λ_min)/(1 − σ) with the eigenvalues 1/3 + 2/3 cos(2πj/12) of W."""
    problem, *_ = quadratics(12, 3, 0)
    chi = (1 + 1 / 3) / (2 / 3 * (1 - np.cos(2 * np.pi / 12)))
    result = tw.solve(problem, tw.OPAPC(), RING, rounds=5, every=5)
    assert result.algorithm.gossip_steps == int(np.sqrt(chi)) == 3
    # 5 rounds of 3 exchanges, in each of which 12 agents send 3 float64 to 2 neighbours.
    assert result.ledger.bytes.sum() == (5 * 3) * 12 * 2 * (3 * 8)


@pytest.mark.parametrize("curvature", [1.0, 4.0])
def test_contracts_as_its_modes_say(curvature):
    problem, _, _, x_star = equal_curvature(12, 3, curvature, 1)
    algorithm = tw.solve(problem, tw.OPAPC(), RING, rounds=0).algorithm
    assert_rate(problem, algorithm, RING, x_star, rate_of_modes(algorithm, curvature, RING), tolerance=0.02)


def effort(problem, algorithm, network, x_star, accuracy, at_most):
    """(gradients per agent, vectors sent to each neighbour) until √(mean_i ‖x_i − x*‖²) ≤ `accuracy`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        every = max(1, at_most // 400)
        result = tw.solve(problem, algorithm, network, rounds=at_most, every=every, reference=x_star)
    k = int(result.history["round"][np.argmax(result.history["error"] <= accuracy)])
    assert k > 0, f"{type(algorithm).__name__} is not there after {at_most} rounds"
    vectors = result.ledger.bytes[0] / result.rounds / 2 / (x_star.size * 8)
    return k, k * vectors


def test_gradients_grow_as_the_root_of_the_condition_number_and_messages_are_few():
    counts = {}
    for kappa in (250, 1000, 4000):
        problem, x_star = ill_conditioned(kappa)
        counts[kappa] = effort(problem, tw.OPAPC(), RING, x_star, 1e-6 * np.linalg.norm(x_star), 12_000)
    # Fourfold κ: twice the gradients, where methods without acceleration need four times as many.
    assert counts[1000][0] / counts[250][0] == pytest.approx(2, rel=0.15)
    assert counts[4000][0] / counts[1000][0] == pytest.approx(2, rel=0.15)
    problem, x_star = ill_conditioned(1000)
    for rival in (tw.GradientTracking(), tw.EXTRA()):
        rival_gradients, vectors = effort(problem, rival, RING, x_star, 1e-6 * np.linalg.norm(x_star), 200_000)
        assert rival_gradients > 5 * counts[1000][0]
        assert vectors > 2 * counts[1000][1]


def test_one_agent_and_a_complete_graph():
    problem, _, _, x_star = quadratics(1, 3, 5)
    np.testing.assert_allclose(agents(problem, tw.OPAPC(), tw.network.complete(1), 400)[0], x_star, atol=1e-9)
    problem, _, _, x_star = quadratics(4, 3, 5)
    x = agents(problem, tw.OPAPC(), tw.network.complete(4), 600)
    np.testing.assert_allclose(x, np.broadcast_to(x_star, x.shape), atol=1e-9)


def test_no_exchange_at_all_is_refused():
    with pytest.raises(ValueError, match="whole number ≥ 1"):
        tw.OPAPC(gossip_steps=0)


def test_losses_that_are_not_strongly_convex_are_refused():
    problem = tw.quadratic(np.zeros((12, 2, 2)) + np.diag([1.0, 0.0]), np.zeros((12, 2)))
    with pytest.raises(ValueError, match="strongly convex"):
        tw.solve(problem, tw.OPAPC(), RING)
