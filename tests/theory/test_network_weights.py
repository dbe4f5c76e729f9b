"""Mixing weights against closed forms: Metropolis on rings, the best constant, the fastest mixing, given matrices."""

import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import network as nets

RULES = ["metropolis", "lazy_metropolis", "laplacian"]


def graphs():
    """Connected graphs: a random tree plus random edges."""

    @st.composite
    def draw(pick):
        n = pick(st.integers(2, 9))
        edges = [(pick(st.integers(0, i - 1)), i) for i in range(1, n)]
        extra = pick(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=12))
        return nets.from_edges(edges + extra, n)

    return draw()


@pytest.mark.parametrize("n", [3, 4, 7, 12, 100, 5000])
def test_ring_metropolis_eigenvalue(n):
    facts = nets.ring(n).facts
    assert facts.sigma == pytest.approx(1 / 3 + 2 / 3 * math.cos(2 * math.pi / n), abs=1e-12)
    lowest = 1 / 3 + 2 / 3 * math.cos(2 * math.pi * (n // 2) / n)
    assert facts.lambda_min == pytest.approx(lowest, abs=1e-12)


@pytest.mark.parametrize("network", [nets.path(6), nets.star(7), nets.grid(3, 4), nets.hypercube(3), nets.tree(9)])
def test_best_constant_weight(network):
    """sigma = (l_n - l_2)/(l_n + l_2), with Laplacian eigenvalues from networkx."""
    spectrum = np.sort(nx.laplacian_spectrum(network.to_networkx(), weight=None))
    facts = network.with_weights("laplacian").facts
    assert facts.sigma == pytest.approx((spectrum[-1] - spectrum[1]) / (spectrum[-1] + spectrum[1]), abs=1e-12)
    assert facts.laplacian_2 == pytest.approx(spectrum[1], abs=1e-12)
    assert facts.laplacian_max == pytest.approx(spectrum[-1], abs=1e-12)


def test_star_laplacian_weights_may_be_negative():
    """Star of n: l_2 = 1, l_n = n, so the centre keeps 1 - 2(n-1)/(n+1), negative for n > 3."""
    network = nets.star(6, weights="laplacian")
    assert network.mixing[0, 0] == pytest.approx(1 - 2 * 5 / 7)
    assert network.facts.doubly_stochastic and not network.facts.nonnegative


PETERSEN = nx.petersen_graph()


@pytest.mark.parametrize(
    ("network", "sigma"),
    [
        (nets.path(5), math.cos(math.pi / 5)),
        (nets.path(8), math.cos(math.pi / 8)),
        (nets.from_networkx(PETERSEN), 3 / 7),
        (nets.hypercube(3), 1 / 2),
        (nets.from_networkx(nx.complete_bipartite_graph(3, 3)), 1 / 3),
        (nets.complete(4), 0.0),
        (nets.ring(2), 0.0),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_fastest_mixing_values(network, sigma):
    """Boyd, Diaconis and Xiao 2004."""
    facts = network.with_weights("fastest").facts
    assert facts.sigma == pytest.approx(sigma, abs=1e-6)
    assert facts.doubly_stochastic and facts.nonnegative


def test_fastest_on_a_path_has_weights_one_half():
    mixing = nets.path(6, weights="fastest").mixing.toarray()
    np.testing.assert_allclose(np.diag(mixing, 1), 0.5, atol=1e-5)


@pytest.mark.parametrize(
    "network", [nets.geometric(12, seed=3), nets.star(6), nets.erdos_renyi(10, 0.4, 1)], ids=lambda v: v.name
)
def test_fastest_is_not_slower_than_other_nonnegative_weights(network):
    best = network.with_weights("fastest").facts.sigma
    for rule in RULES:
        other = network.with_weights(rule).facts
        if other.nonnegative:
            assert best <= other.sigma + 1e-7


@settings(max_examples=60, deadline=None)
@given(graphs(), st.sampled_from(RULES))
def test_weights_are_doubly_stochastic_and_contract(network, rule):
    network = network.with_weights(rule)
    mixing, facts = network.mixing.toarray(), network.facts
    np.testing.assert_allclose(mixing.sum(axis=0), 1, atol=1e-13)
    np.testing.assert_array_equal(mixing, mixing.T)
    assert facts.symmetric and facts.doubly_stochastic and facts.connected
    consensus = np.ones((network.n, network.n)) / network.n
    assert facts.sigma == pytest.approx(np.linalg.norm(mixing - consensus, 2), abs=1e-12)
    assert facts.sigma < 1
    if rule != "laplacian":
        assert facts.nonnegative and (np.diag(mixing) > 0).all()
    if rule == "lazy_metropolis":
        np.testing.assert_allclose(mixing, (np.eye(network.n) + network.with_weights("metropolis").mixing) / 2, atol=1e-15)
        assert facts.lambda_min > 0


@settings(max_examples=40, deadline=None)
@given(graphs())
def test_pull_and_push_are_uniform(network):
    degree = np.array([d for _, d in sorted(network.to_networkx().degree)])
    adjacency = nx.to_numpy_array(network.to_networkx(), weight=None) + np.eye(network.n)
    np.testing.assert_allclose(network.pull.toarray(), adjacency / (degree + 1)[:, None], atol=1e-15)
    np.testing.assert_allclose(network.push.toarray(), adjacency / (degree + 1)[None, :], atol=1e-15)


@pytest.mark.parametrize(
    ("rows", "cols"), [(1, 1), (1, 2), (2, 1), (1, 3), (1, 4), (2, 2), (2, 3), (3, 2), (2, 5), (3, 3), (4, 5)]
)
def test_small_tori_stay_doubly_stochastic(rows, cols):
    """TRAPS 4: with a fixed weight 1/5 these rows do not sum to 1 where neighbours coincide."""
    network = nets.torus(rows, cols)
    assert network.facts.doubly_stochastic
    ids = np.arange(rows * cols).reshape(rows, cols)
    for (r, c), agent in np.ndenumerate(ids):
        around = {ids[(r + dr) % rows, (c + dc) % cols] for dr, dc in ((0, 1), (0, -1), (1, 0), (-1, 0))} - {agent}
        assert set(network.neighbours(agent)) == around


def test_large_torus_matches_fourier():
    """All degrees 4: eigenvalues (1 + 2cos a + 2cos b)/5."""
    a = 2 * np.pi * np.arange(8) / 8
    values = np.sort(((1 + 2 * np.cos(a)[:, None] + 2 * np.cos(a)[None]) / 5).ravel())
    facts = nets.torus(8, 8).facts
    assert facts.lambda_2 == pytest.approx(values[-2], abs=1e-12)
    assert facts.lambda_min == pytest.approx(values[0], abs=1e-12)


def test_given_weights_are_kept_and_completed():
    given = np.array([[0.5, 0.5, 0], [0.5, 0.2, 0.3], [0, 0.3, 0.7]])
    network = nets.path(3).with_weights(given)
    np.testing.assert_allclose(network.mixing.toarray(), given, atol=1e-15)
    assert network.weights == "given"
    assert nets.from_matrix(given).edges.tolist() == [[0, 1], [1, 2]]


def test_given_matrix_is_not_changed_or_shared():
    from scipy.sparse import csr_array

    given = csr_array(np.array([[0.5, 0.5], [0.5, 0.5]]))
    network = nets.from_matrix(given, directed=True)
    given.data[:] = 9.0
    assert network.facts.doubly_stochastic
    with pytest.raises(ValueError, match="read-only"):
        network.mixing.data[0] = 0.0


def test_directed_weights_become_what_they_are():
    rng = np.random.default_rng(0)
    positive = rng.uniform(0.1, 1, (4, 4))
    rows, columns = positive / positive.sum(1, keepdims=True), positive / positive.sum(0)
    pulling, pushing = nets.from_matrix(rows), nets.from_matrix(columns)
    assert pulling.directed and pulling.mixing is None and pushing.mixing is None
    np.testing.assert_allclose(pulling.pull.toarray(), rows)
    np.testing.assert_allclose(pushing.push.toarray(), columns)
    assert pulling.facts.pull_sigma == pytest.approx(np.sort(np.abs(np.linalg.eigvals(rows)))[-2], abs=1e-12)
    doubly = nets.from_matrix(0.5 * np.eye(3) + 0.5 * np.roll(np.eye(3), 1, axis=0))
    assert doubly.facts.doubly_stochastic and not doubly.facts.symmetric


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 9), st.data())
def test_balanced_directed_graphs_get_doubly_stochastic_mixing(n, data):
    """Unions of directed cycles through a random order of agents hear as many as hear them."""
    arcs = [(i, (i + 1) % n) for i in range(n)]
    for _ in range(data.draw(st.integers(0, 3))):
        cycle = data.draw(st.permutations(range(n)))[: data.draw(st.integers(2, n))]
        new = list(zip(cycle, cycle[1:] + cycle[:1], strict=True))
        if not set(new) & set(arcs):
            arcs += new
    facts = nets.from_edges(arcs, n, directed=True).facts
    assert facts.doubly_stochastic and facts.nonnegative and facts.connected
    assert facts.sigma < 1
