"""Builders against networkx and against their definitions; conversions; random graphs repeat from their seed."""

import math

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import network as nets


def edge_set(graph):
    return {tuple(sorted(edge)) for edge in graph.edges}


@pytest.mark.parametrize(
    ("network", "graph"),
    [
        (nets.path(7), nx.path_graph(7)),
        (nets.ring(9), nx.cycle_graph(9)),
        (nets.ring(2), nx.path_graph(2)),
        (nets.star(6), nx.star_graph(5)),
        (nets.complete(6), nx.complete_graph(6)),
        (nets.grid(3, 4), nx.convert_node_labels_to_integers(nx.grid_2d_graph(3, 4))),
        (nets.torus(3, 5), nx.convert_node_labels_to_integers(nx.grid_2d_graph(3, 5, periodic=True))),
        (nets.tree(branching=3, depth=3), nx.balanced_tree(3, 3)),
        (nets.tree(10), nx.full_rary_tree(2, 10)),
    ],
    ids=lambda v: getattr(v, "name", None) or None,
)
def test_shapes_match_networkx(network, graph):
    assert {tuple(edge) for edge in network.edges.tolist()} == edge_set(graph)
    assert nx.utils.graphs_equal(nx.Graph(network.to_networkx().edges), nx.Graph(graph.edges))


def test_hypercube_joins_ids_that_differ_in_one_bit():
    network = nets.hypercube(4)
    assert all(bin(a ^ b).count("1") == 1 for a, b in network.edges.tolist())
    assert len(network.edges) == 4 * 8 and nx.is_isomorphic(network.to_networkx(), nx.hypercube_graph(4))


def test_exponential_hears_powers_of_two_behind():
    network = nets.exponential(10)
    for agent in range(10):
        assert set(network.neighbours(agent)) == {(agent - 2**k) % 10 for k in range(4)}
    assert network.directed and (network.in_degree == 4).all() and (network.out_degree == 4).all()


@pytest.mark.parametrize("n", [2, 3, 6, 10, 25, 50])
@pytest.mark.parametrize("degree", [1, 2, 3, 4, 9, 24])
def test_random_regular_is_regular(n, degree):
    if degree >= n or n * degree % 2 or (degree == 1 and n > 2):
        with pytest.raises(ValueError, match="degree"):
            nets.random_regular(n, degree, seed=0)
        return
    network = nets.random_regular(n, degree, seed=0)
    assert (network.in_degree == degree).all() and network.facts.connected


def test_random_regular_reaches_every_graph():
    """K_{3,3} and the prism are the only two cubic graphs on 6 agents, 10 and 60 of the 70 labelled ones."""
    k33 = nx.complete_bipartite_graph(3, 3)
    bipartite = sum(nx.is_isomorphic(nets.random_regular(6, 3, seed).to_networkx(), k33) for seed in range(300))
    assert 10 < bipartite < 110


@pytest.mark.parametrize("directed", [False, True])
def test_erdos_renyi_draws_every_pair_alike(directed):
    counts = np.zeros((7, 7))
    for seed in range(400):
        network = nets.erdos_renyi(7, 0.7, seed, directed)
        counts[network.edges[:, 0], network.edges[:, 1]] += 1
    share = counts[~np.eye(7, dtype=bool)] if directed else counts[np.triu_indices(7, 1)]
    # 5 standard deviations; conditioning on being connected raises the mean a little
    assert (np.abs(share / 400 - 0.71) < 5 * math.sqrt(0.21 / 400)).all()
    assert counts.trace() == 0


def test_erdos_renyi_extremes():
    assert len(nets.erdos_renyi(8, 1.0, 0).edges) == 28
    assert len(nets.erdos_renyi(8, 1.0, 0, directed=True).edges) == 56
    assert nets.erdos_renyi(1, 0.0, 0).n == 1


def test_geometric_joins_exactly_the_close_ones():
    network = nets.geometric(40, 0.35, seed=7)
    apart = np.linalg.norm(network.positions[:, None] - network.positions[None], axis=-1)
    expected = {(i, j) for i in range(40) for j in range(i + 1, 40) if apart[i, j] <= 0.35}
    assert {tuple(edge) for edge in network.edges.tolist()} == expected
    assert nets.geometric(1, seed=0).n == 1 and nets.geometric(200, seed=0).facts.connected


def test_small_world_without_moves_is_a_lattice():
    network = nets.small_world(12, 4, 0.0, seed=0)
    assert set(network.neighbours(0)) == {1, 2, 10, 11}
    assert len(nets.small_world(12, 4, 0.5, seed=0).edges) == 24


@pytest.mark.parametrize(
    "build",
    [
        lambda seed: nets.erdos_renyi(15, 0.3, seed),
        lambda seed: nets.geometric(15, seed=seed),
        lambda seed: nets.small_world(15, 4, 0.3, seed),
        lambda seed: nets.random_regular(14, 3, seed),
    ],
)
def test_seeds_repeat_and_differ(build):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert (build(5).edges == build(5).edges).all()
    assert build(5).edges.tolist() != build(6).edges.tolist()
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002  (the global generator is not touched)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.booleans(), st.data())
def test_edges_are_canonical_whatever_the_order(n, directed, data):
    pairs = st.tuples(st.integers(0, n - 1), st.integers(0, n - 1))
    given_edges = data.draw(st.lists(pairs, max_size=30))
    network = nets.from_edges(given_edges, n, directed, allow_disconnected=True)
    if directed:
        expected = sorted({(a, b) for a, b in given_edges if a != b}, key=lambda arc: (arc[1], arc[0]))
    else:
        expected = sorted({(min(a, b), max(a, b)) for a, b in given_edges if a != b})
    assert [tuple(edge) for edge in network.edges.tolist()] == expected
    assert network.edges.dtype == np.int64 and network.edges.shape == (len(expected), 2)
    with pytest.raises(ValueError, match="read-only"):
        network.edges[...] = 0


def test_networkx_round_trip_keeps_names_weights_and_positions():
    graph = nx.Graph()
    graph.add_node("Basel", pos=(0, 1))
    graph.add_node("Chur", pos=(2, 0))
    graph.add_node("Genf", pos=(-1, -1))
    graph.add_edge("Genf", "Basel", weight=0.25)
    graph.add_edge("Basel", "Chur", weight=0.5)
    graph.add_edge("Chur", "Chur")
    network = nets.from_networkx(graph, weights="weight")
    np.testing.assert_allclose(network.mixing.toarray(), [[0.25, 0.5, 0.25], [0.5, 0.5, 0], [0.25, 0, 0.75]])
    assert network.positions.tolist() == [[0, 1], [2, 0], [-1, -1]]
    back = network.to_networkx()
    assert back.edges[0, 1]["weight"] == 0.5 and back.nodes[1]["pos"] == [2, 0]
    del graph.edges["Genf", "Basel"]["weight"]
    with pytest.raises(ValueError, match="no attribute"):
        nets.from_networkx(graph, weights="weight")


def test_directed_networkx_weights_belong_to_the_receiver():
    graph = nx.DiGraph()
    graph.add_weighted_edges_from([(0, 1, 0.3), (1, 2, 0.4), (2, 0, 0.2)])
    network = nets.from_networkx(graph, weights="weight")
    assert network.pull[1, 0] == 0.3 and network.pull[2, 1] == 0.4 and network.mixing is None
    assert network.edges.tolist() == [[2, 0], [0, 1], [1, 2]]


def test_positions_of_drawn_shapes():
    assert nets.star(5).positions[0].tolist() == [0, 0]
    assert nets.grid(2, 3).positions.tolist() == [[0, 0], [1, 0], [2, 0], [0, -1], [1, -1], [2, -1]]
    np.testing.assert_allclose(np.linalg.norm(nets.ring(7).positions, axis=1), 1)
