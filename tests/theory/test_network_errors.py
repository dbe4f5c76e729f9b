"""Errors say what was got, what was expected and how to mend it; representations say what there is."""

import numpy as np
import pytest

from thalweg import network as nets


def test_disconnected_graphs_name_their_components():
    edges = [(0, 1), (1, 2), (3, 4)]
    sizes = r"3 components of 3 agents \(with agent 0\), 2 agents \(with agent 3\), 1 agent \(with agent 5\)"
    with pytest.raises(ValueError, match=sizes):
        nets.from_edges(edges, n=6)
    assert nets.from_edges(edges, n=6, allow_disconnected=True).n == 6
    with pytest.raises(ValueError, match="not strongly connected"):
        nets.from_edges([(0, 1), (1, 2)], directed=True)
    with pytest.raises(ValueError, match="and 3 more"):
        nets.from_edges([(0, 1)], n=9)
    for rule in ("laplacian", "fastest"):
        with pytest.raises(ValueError, match="not connected"):
            nets.from_edges(edges, n=6, allow_disconnected=True, weights=rule)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: nets.ring(0), ValueError, "n must be at least 1; got 0"),
        (lambda: nets.path(-3), ValueError, "got -3"),
        (lambda: nets.ring(2.5), TypeError, "n must be an integer"),
        (lambda: nets.grid(2, 0), ValueError, "cols must be at least 1"),
        (lambda: nets.hypercube(60), ValueError, "dim <= 24"),
        (lambda: nets.tree(), TypeError, "either n"),
        (lambda: nets.tree(5, depth=2), TypeError, "either n"),
        (lambda: nets.ring(5, weights="metropole"), ValueError, "expected one of 'metropolis'"),
        (lambda: nets.exponential(4, weights="metropolis"), ValueError, "needs an undirected network"),
        (lambda: nets.erdos_renyi(30, 0.01, 0), ValueError, "none of 100 draws"),
        (lambda: nets.erdos_renyi(5, 1.5, 0), ValueError, r"p must lie in \[0, 1\]"),
        (lambda: nets.erdos_renyi(5, 0.5, None), TypeError, "seed must be an integer"),
        (lambda: nets.geometric(30, 0.01, seed=0), ValueError, "pass a radius above 0.01"),
        (lambda: nets.geometric(5, 0.0, seed=0), ValueError, "radius must be positive"),
        (lambda: nets.small_world(10, 3, 0.1, 0), ValueError, "k must be even"),
        (lambda: nets.random_regular(5, 3, 0), ValueError, "n·degree even"),
        (lambda: nets.random_regular(6, 1, 0), ValueError, "degree >= 2"),
        (lambda: nets.from_edges([]), ValueError, "pass n"),
        (lambda: nets.from_edges([(0, 7)], n=3), ValueError, "ids run from 0 to 2"),
        (lambda: nets.from_edges([(0, -1)], n=3), ValueError, "ids run from 0 to 2"),
        (lambda: nets.from_edges(np.array([[0.0, 1.0]])), TypeError, "integer agent ids"),
        (lambda: nets.from_edges([(0, 1, 2)]), ValueError, r"shape \[E, 2\]"),
        (lambda: nets.from_networkx(nets.ring(3).to_networkx().subgraph([])), ValueError, "no nodes"),
        (lambda: nets.from_matrix(np.ones((2, 3))), ValueError, "square matrix"),
        (lambda: nets.from_matrix([[0.5, 0.5], [0.5, 0.4]]), ValueError, r"row 1 with sum 0\.9"),
        (lambda: nets.from_matrix([[0.5, np.nan], [0.5, 0.5]]), ValueError, r"W\[0, 1\] = nan"),
        (lambda: nets.from_matrix([[0.5, 0.5], [0.1, 0.9]], directed=False), ValueError, "must be symmetric"),
        (lambda: nets.from_matrix([[0.5, 0.4], [0.2, 0.9]]), ValueError, "row 0 with sum 0.9"),
        (lambda: nets.path(3).with_weights(np.full((3, 3), 1 / 3)), ValueError, "agent 0 does not hear agent 2"),
        (lambda: nets.path(3).with_weights(np.eye(4)), ValueError, r"shape \(3, 3\)"),
        (lambda: nets.path(3).with_weights(object()), TypeError, "square matrix of numbers"),
        (lambda: nets.ring(151, weights="fastest"), ValueError, "n = 150"),
        (lambda: nets.Network(3, [(0, 1), (1, 2)], positions=np.zeros((2, 2))), ValueError, r"shape \(3, 2\)"),
    ],
)
def test_user_errors(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_repr_is_one_telling_line():
    assert repr(nets.ring(12)) == "ring(12): 12 agents, 12 edges, metropolis weights, sigma 0.9107, fixed, no failures"
    directed = nets.erdos_renyi(8, 0.4, 1, directed=True).with_failures(loss=0.1, symmetric=False, burst=3)
    assert "pull and push weights" in repr(directed) and "loss 0.1 (independent, bursts of 3 rounds)" in repr(directed)
    assert "sigma" not in repr(nets.grid(40, 40))  # not worth an eigenvalue computation


def test_report_shows_facts_as_text_and_html():
    network = nets.ring(12).with_failures(delay=(0.8, 0.2), asleep=0.1)
    report = network.report()
    rows = dict(report.rows)
    assert rows["sigma"] == f"{1 / 3 + 2 / 3 * np.cos(np.pi / 6):.6g}" and rows["diameter"] == "6" and rows["degree"] == "2"
    assert rows["failures"] == "delay up to 1 rounds (0.2 of messages late); asleep 0.1"
    assert rows["rounds to 1e-6"].startswith(f"about {network.facts.rounds_to_consensus()} ")
    assert all(label in str(report) and value in str(report) for label, value in report.rows)
    assert report._repr_html_().count("<tr>") == len(report.rows)
    scheduled = dict(nets.pairwise_gossip(nets.complete(5)).report().rows)
    assert scheduled["mean-square factor"] == "0.75" and scheduled["schedule"] == "pairwise gossip"
    assert "push-sum rate" in dict(nets.erdos_renyi(8, 0.4, 1, directed=True).report().rows)
    assert "never" in str(nets.from_matrix([[0.0, 1.0], [1.0, 0.0]]).report())


def test_everything_public_is_documented():
    for name in nets.__all__:
        if name != "Schedule":  # a union of types
            assert getattr(nets, name).__doc__, name
