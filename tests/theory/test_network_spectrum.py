"""Eigenvalues, diameters and predicted rounds against closed forms, dense algebra and networkx, small and large."""

import math
import time

import networkx as nx
import numpy as np
import pytest

from thalweg import network as nets


@pytest.fixture
def sparse_only(monkeypatch):
    """Treat every network as too large for dense eigenvalues, so that small ones can be checked against them."""
    from thalweg.network import spectrum

    monkeypatch.setattr(spectrum, "DENSE_UP_TO", 4)
    return monkeypatch


SHAPES = [
    nets.path(60),
    nets.tree(50),
    nets.grid(6, 7),
    nets.geometric(60, seed=2),
    nets.random_regular(60, 4, 1),
    nets.small_world(50, 4, 0.2, 5),
    nets.star(30, weights="laplacian"),
]


@pytest.mark.parametrize("network", SHAPES, ids=lambda v: v.name)
@pytest.mark.parametrize("cut", [True, False], ids=["factorised", "lanczos"])
def test_sparse_eigenvalues_match_dense(sparse_only, network, cut):
    from thalweg.network import spectrum

    sparse_only.setattr(spectrum, "_cuts_cheaply", lambda matrix: cut)
    values = np.linalg.eigvalsh(network.mixing.toarray())
    second, lowest = spectrum.mixing_extremes(network.mixing)
    assert 1 - second == pytest.approx(1 - values[-2], rel=1e-6)
    assert lowest == pytest.approx(values[0], abs=1e-8)


def test_sparse_directed_eigenvalues_match_dense(sparse_only):
    from thalweg.network import spectrum

    network = nets.erdos_renyi(50, 0.2, 4, directed=True)
    values = np.sort(np.abs(np.linalg.eigvals(network.push.toarray())))
    assert spectrum.second_modulus(network.push) == pytest.approx(values[-2], abs=1e-8)
    mixing = nets.from_edges([(i, (i + step) % 40) for i in range(40) for step in (1, 7)], directed=True).mixing
    shuffled = mixing[np.random.default_rng(0).permutation(40)]  # doubly stochastic, neither symmetric nor circulant
    expected = np.linalg.norm(shuffled.toarray() - 1 / 40, 2)
    assert spectrum.second_singular(shuffled) == pytest.approx(expected, abs=1e-7)


def test_path_of_a_hundred_thousand_in_seconds():
    """Metropolis on a path of n is I - L/3, with eigenvalues 1/3 + (2/3)cos(πk/n)."""
    n, start = 100_000, time.process_time()
    facts = nets.path(n).facts
    assert facts.spectral_gap == pytest.approx(2 / 3 * (1 - math.cos(math.pi / n)), rel=1e-4)
    assert facts.lambda_min == pytest.approx(1 / 3 + 2 / 3 * math.cos(math.pi * (n - 1) / n), abs=1e-9)
    assert nets.ring(n).facts.spectral_gap == pytest.approx(2 / 3 * (1 - math.cos(2 * math.pi / n)), rel=1e-4)
    assert time.process_time() - start < 30


def test_large_regular_graph_is_nearly_ramanujan():
    """Friedman: lambda_2 of a random d-regular adjacency is 2√(d-1) + o(1); W = (I + A)/(d + 1)."""
    facts = nets.random_regular(5000, 4, 0).facts
    assert facts.sigma == pytest.approx((1 + 2 * math.sqrt(3)) / 5, abs=0.01)


def test_directed_ring_eigenvalues():
    """(I + P)/2 is normal with moduli cos(πk/n)."""
    facts = nets.ring(7, directed=True).facts
    assert facts.sigma == pytest.approx(math.cos(math.pi / 7), abs=1e-12)
    assert facts.contraction == pytest.approx(facts.sigma, abs=1e-12)
    assert facts.lambda_2 is None and facts.lambda_min is None and facts.laplacian_2 is None


@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_exponential_graph_gap(dim):
    """Ying et al. 2021: sigma = 1 - 2/(1 + log2 n) for n a power of two."""
    facts = nets.exponential(2**dim).facts
    assert facts.sigma == pytest.approx(1 - 2 / (1 + dim), abs=1e-12)
    assert facts.doubly_stochastic


def test_contraction_is_a_singular_value_where_w_is_not_normal():
    swap = np.eye(4)[[1, 2, 3, 0]]
    matrix = 0.5 * np.eye(4) + 0.3 * swap + 0.2 * np.eye(4)[[1, 0, 2, 3]]
    facts = nets.from_matrix(matrix).facts
    singular = np.linalg.svd(matrix, compute_uv=False)
    moduli = np.sort(np.abs(np.linalg.eigvals(matrix)))
    assert facts.contraction == pytest.approx(singular[1], abs=1e-12)
    assert facts.sigma == pytest.approx(moduli[-2], abs=1e-12)
    assert facts.sigma < facts.contraction


@pytest.mark.parametrize(
    "network",
    [*SHAPES, nets.complete(70), nets.ring(131), nets.ring(9, directed=True), nets.erdos_renyi(70, 0.08, 1, directed=True)],
    ids=lambda v: v.name,
)
def test_diameter_matches_networkx(network, monkeypatch):
    from thalweg.network import graph

    assert network.facts.diameter == nx.diameter(network.to_networkx())
    assert not network.facts.diameter_is_bound
    monkeypatch.setattr(graph, "_GATHER_WORDS", 1)  # one word of 64 sources at a time
    assert graph.diameter(network.edges, network.n, network.directed) == (network.facts.diameter, False)


@pytest.mark.parametrize(
    ("network", "exact"), [(nets.ring(2500), 1250), (nets.grid(50, 51), 99), (nets.ring(2100, True), 2099)]
)
def test_diameter_of_large_networks_is_an_upper_bound(network, exact):
    facts = network.facts
    assert facts.diameter_is_bound and exact <= facts.diameter <= 2 * exact


def test_rounds_to_consensus_are_enough_and_needed():
    network = nets.grid(4, 5)
    rounds = network.facts.rounds_to_consensus(1e-6)
    disagreement = network.mixing.toarray() - 1 / 20
    assert np.linalg.norm(np.linalg.matrix_power(disagreement, rounds), 2) <= 1e-6
    assert np.linalg.norm(np.linalg.matrix_power(disagreement, rounds - 1), 2) > 1e-6


def test_rounds_in_extreme_cases():
    assert nets.path(1).facts.rounds_to_consensus() == 0
    assert nets.complete(9).facts.rounds_to_consensus() == 1
    assert nets.one_peer_exponential(16).facts.rounds_to_consensus() == 4
    flipping = nets.from_matrix([[0.0, 1.0], [1.0, 0.0]])
    assert flipping.facts.sigma == 1 and flipping.facts.rounds_to_consensus() == math.inf
    apart = nets.from_edges([(0, 1), (2, 3)], allow_disconnected=True)
    assert apart.facts.sigma == pytest.approx(1) and apart.facts.rounds_to_consensus() == math.inf
    assert apart.facts.diameter == math.inf and not apart.facts.connected
    with pytest.raises(ValueError, match=r"lies in \(0, 1\)"):
        nets.ring(4).facts.rounds_to_consensus(2.0)


def test_one_agent_has_all_facts():
    for network in (nets.path(1), nets.ring(1), nets.complete(1), nets.star(1), nets.torus(1, 1), nets.exponential(1)):
        facts = network.facts
        assert network.mixing.toarray().tolist() == [[1.0]]
        assert (facts.sigma, facts.spectral_gap, facts.diameter, facts.max_degree) == (0, 1, 0, 0)
        assert facts.connected and facts.doubly_stochastic and facts.contraction == 0
    assert (nets.path(1).facts.lambda_min, nets.path(1).facts.laplacian_max) == (1, 0)
