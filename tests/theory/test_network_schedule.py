"""Schedules against enumeration: unions, expected mixing, mean-square factors, exact averaging in log2(n) rounds."""

import math

import numpy as np
import pytest

from thalweg import network as nets


def enumerated_factor(matrices, probabilities):
    """ρ(E[W⊗W]) without the consensus mode, by its definition on n² dimensions."""
    n = len(matrices[0])
    centre = np.eye(n) - 1 / n
    expected = sum(p * np.kron(w, w) for p, w in zip(probabilities, matrices, strict=True))
    return np.abs(np.linalg.eigvals(np.kron(centre, centre) @ expected)).max()


def gossip_matrices(network):
    for low, high in network.edges:
        edge = np.zeros(network.n)
        edge[low], edge[high] = 1, -1
        yield np.eye(network.n) - np.outer(edge, edge) / 2


@pytest.mark.parametrize("n", [2, 3, 5, 9, 40])
def test_gossip_on_a_complete_graph(n):
    """Mean-square factor exactly 1 - 1/(n-1)."""
    facts = nets.pairwise_gossip(nets.complete(n)).facts
    assert facts.mean_square_factor == pytest.approx(1 - 1 / (n - 1), abs=1e-12)
    assert facts.sigma == pytest.approx(1 - 1 / (n - 1), abs=1e-12)


@pytest.mark.parametrize("network", [nets.path(4), nets.star(5), nets.grid(2, 3), nets.ring(6)], ids=lambda v: v.name)
def test_gossip_matches_enumeration(network):
    gossip = nets.pairwise_gossip(network)
    matrices = list(gossip_matrices(network))
    share = [1 / len(matrices)] * len(matrices)
    np.testing.assert_allclose(gossip.mixing.toarray(), sum(matrices) / len(matrices), atol=1e-15)
    assert gossip.facts.mean_square_factor == pytest.approx(enumerated_factor(matrices, share), abs=1e-12)
    assert gossip.facts.doubly_stochastic and gossip.facts.symmetric and gossip.facts.nonnegative
    assert gossip.facts.lambda_min == pytest.approx(min(np.linalg.eigvalsh(w)[0] for w in matrices), abs=1e-15)
    assert gossip.facts.rate <= math.sqrt(gossip.facts.sigma) + 1e-12  # the bound used above n = 40


def test_random_phases_match_enumeration():
    networks = [nets.path(5), nets.star(5), nets.from_edges([(1, 4)], 5, allow_disconnected=True)]
    probabilities = (0.5, 0.2, 0.3)
    network = nets.random_phases(networks, probabilities)
    matrices = [phase.mixing.toarray() for phase in networks]
    np.testing.assert_allclose(
        network.facts.expected_mixing.toarray(), sum(p * w for p, w in zip(probabilities, matrices, strict=True)), atol=1e-15
    )
    assert network.facts.mean_square_factor == pytest.approx(enumerated_factor(matrices, probabilities), abs=1e-12)
    assert network.facts.lambda_min == pytest.approx(min(np.linalg.eigvalsh(w)[0] for w in matrices), abs=1e-12)
    assert network.edges.tolist() == [[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [1, 4], [2, 3], [3, 4]]


def test_random_directed_phases_match_enumeration():
    networks = [nets.ring(5, directed=True), nets.exponential(5)]
    matrices = [phase.mixing.toarray() for phase in networks]
    facts = nets.random_phases(networks).facts
    assert facts.mean_square_factor == pytest.approx(enumerated_factor(matrices, [0.5, 0.5]), abs=1e-12)


def test_mean_square_factor_predicts_simulated_gossip():
    """The slope of log E‖x_k - x̄‖² over 400 runs against the computed factor; 3 % of a slope of -0.15 is well resolved."""
    network = nets.star(6)
    factor = nets.pairwise_gossip(network).facts.mean_square_factor
    rng = np.random.default_rng(0)
    x = np.tile(np.arange(6.0), (20_000, 1))
    squares = []
    for _ in range(30):
        leaf = rng.integers(1, 6, len(x))
        mean = (x[:, 0] + x[np.arange(len(x)), leaf]) / 2
        x[:, 0], x[np.arange(len(x)), leaf] = mean, mean
        squares.append(((x - 2.5) ** 2).sum(axis=1).mean())
    measured = (squares[-1] / squares[9]) ** (1 / 20)
    assert measured == pytest.approx(factor, rel=0.01)


@pytest.mark.parametrize("n", [2, 4, 8, 32])
def test_one_peer_exponential_averages_exactly(n):
    network = nets.one_peer_exponential(n)
    product = np.eye(n)
    for phase in network.phases:
        assert phase.facts.doubly_stochastic and (phase.out_degree == 1).all()
        product = phase.mixing @ product
    np.testing.assert_allclose(product, 1 / n, atol=1e-15)
    assert network.schedule.phase_count == int(math.log2(n))
    assert network.facts.rate < 1e-6 and network.facts.rounds_to_consensus() == int(math.log2(n))


def test_one_peer_exponential_of_other_sizes():
    network = nets.one_peer_exponential(6)
    product = np.linalg.multi_dot([phase.mixing.toarray() for phase in network.phases[::-1]])
    left = np.abs(np.linalg.eigvals(product - 1 / 6)).max()
    assert 0 < left < 1
    assert network.facts.rate == pytest.approx(left ** (1 / 3), rel=1e-9)
    assert nets.one_peer_exponential(1).facts.connected


def test_periodic_rate_is_that_of_the_product():
    """Alternating matchings of an even ring: the decay of ‖(W_2 W_1)^k - J‖, taken over 20 periods."""
    even = nets.from_edges([(0, 1), (2, 3), (4, 5)], allow_disconnected=True)
    odd = nets.from_edges([(1, 2), (3, 4), (5, 0)], allow_disconnected=True)
    network = nets.periodic([even, odd])
    assert network.facts.connected and not even.facts.connected
    disagreement = odd.mixing.toarray() @ even.mixing.toarray() - 1 / 6
    rounds = 40
    measured = np.linalg.norm(np.linalg.matrix_power(disagreement, rounds // 2), 2) ** (1 / rounds)
    assert network.facts.rate == pytest.approx(measured, rel=0.02)
    assert network.facts.mean_square_factor == pytest.approx(network.facts.rate**2)


def test_a_union_of_directed_and_undirected_phases():
    network = nets.periodic([nets.path(3), nets.ring(3, directed=True)])
    assert network.directed
    assert {tuple(arc) for arc in network.edges.tolist()} == {(0, 1), (1, 0), (1, 2), (2, 1), (2, 0)}
    assert network.facts.doubly_stochastic and network.facts.connected and not network.facts.symmetric


def test_with_schedule_and_with_weights():
    ring = nets.ring(6).with_failures(loss=0.1)
    gossip = ring.with_schedule(nets.Gossip())
    assert gossip.weights == "pairwise" and gossip.failures.loss == 0.1
    fixed = gossip.with_schedule(nets.Fixed())
    np.testing.assert_array_equal(fixed.mixing.toarray(), ring.mixing.toarray())
    phases = ring.with_schedule(nets.Periodic((nets.path(6), nets.star(6))))
    assert phases.failures.loss == 0.1 and phases.weights == "metropolis"
    lazy = phases.with_weights("lazy_metropolis")
    np.testing.assert_allclose(lazy.mixing.toarray(), (np.eye(6) + phases.mixing.toarray()) / 2, atol=1e-15)
    assert lazy.phases[1].weights == "lazy_metropolis" and lazy.facts.lambda_min > 0
    mixed = nets.periodic([nets.path(4), nets.ring(4, weights="laplacian")])
    assert mixed.weights == "per phase"


def test_schedule_errors():
    ring = nets.ring(4)
    with pytest.raises(ValueError, match="phase 1 has n = 5"):
        nets.periodic([ring, nets.ring(5)])
    with pytest.raises(ValueError, match="at least one network"):
        nets.periodic([])
    with pytest.raises(TypeError, match="phase 1 is a str"):
        nets.periodic([ring, "ring"])
    with pytest.raises(ValueError, match="has a schedule itself"):
        nets.periodic([ring, nets.pairwise_gossip(ring)])
    with pytest.raises(ValueError, match="has failures"):
        nets.periodic([ring.with_failures(loss=0.1)])
    with pytest.raises(ValueError, match="2 probabilities for 1 networks"):
        nets.random_phases([ring], (0.5, 0.5))
    with pytest.raises(ValueError, match="sum to 1"):
        nets.random_phases([ring, ring], (0.5, 0.6))
    with pytest.raises(ValueError, match="2 components"):
        nets.periodic([nets.from_edges([(0, 1), (2, 3)], allow_disconnected=True)])
    with pytest.raises(ValueError, match="is directed"):
        nets.pairwise_gossip(nets.exponential(4))
    with pytest.raises(ValueError, match="at least one edge"):
        nets.pairwise_gossip(nets.path(1))
    with pytest.raises(ValueError, match="already"):
        nets.pairwise_gossip(nets.pairwise_gossip(ring))
    with pytest.raises(ValueError, match="weights 1/2"):
        nets.pairwise_gossip(ring).with_weights("laplacian")
    with pytest.raises(TypeError, match="a schedule is"):
        ring.with_schedule("gossip")
    with pytest.raises(ValueError, match="n = 5 agents, the network n = 4"):
        ring.with_schedule(nets.Periodic((nets.ring(5),)))
