"""Padded slots put back together give the matrices they were cut from."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import network as nets


@st.composite
def networks(pick):
    n = pick(st.integers(1, 9))
    pairs = st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=20)

    def one():
        return nets.from_edges(pick(pairs), n, directed=pick(st.booleans()), allow_disconnected=True)

    if pick(st.booleans()):
        return one()
    phases = [one() for _ in range(pick(st.integers(1, 3)))]
    build = pick(st.sampled_from([nets.periodic, nets.random_phases]))
    return build(phases, allow_disconnected=True)


@settings(max_examples=150, deadline=None)
@given(networks())
def test_slots_reconstruct_all_weights(network):
    slots, n = network.slots(), network.n
    assert slots.has_mixing == all(phase.mixing is not None for phase in network.phases)
    for k, phase in enumerate(network.phases):
        np.testing.assert_array_equal(slots.matrix(slots.pull[k], slots.pull_self[k]), phase.pull.toarray())
        np.testing.assert_array_equal(slots.matrix(slots.push[k], slots.push_self[k]), phase.push.toarray())
        expected = np.zeros((n, n)) if phase.mixing is None else phase.mixing.toarray()
        np.testing.assert_array_equal(slots.matrix(slots.mixing[k], slots.mixing_self[k]), expected)
        used = slots.matrix(slots.active[k].astype(float), np.zeros(n))
        np.testing.assert_array_equal(slots.out_degree[k], used.sum(axis=0))
        assert {(j, i) for i, j in np.argwhere(used).tolist()} == {
            tuple(arc) for edge in phase.edges.tolist() for arc in ([edge] if phase.directed else [edge, edge[::-1]])
        }
    for weights in (slots.mixing, slots.pull, slots.push):
        assert (weights[~slots.active] == 0).all() and np.isfinite(weights).all()


@settings(max_examples=100, deadline=None)
@given(networks())
def test_slots_are_sorted_padded_and_reversible(network):
    slots, n = network.slots(), network.n
    hears = [set(network.neighbours(i).tolist()) for i in range(n)]
    assert slots.neighbours.shape == (n, max(1, max(map(len, hears))))
    for i in range(n):
        heard = slots.neighbours[i][slots.mask[i]]
        assert heard.tolist() == sorted(hears[i]) and slots.mask[i].tolist() == sorted(slots.mask[i], reverse=True)
        assert (slots.neighbours[i][~slots.mask[i]] == i).all() and (slots.reverse[i][~slots.mask[i]] == 0).all()
        for slot, j in enumerate(heard):
            back = slots.reverse[i, slot]
            assert slots.neighbours[j, back] == i if i in hears[j] else back == -1
            if i in hears[j]:
                assert slots.mask[j, back] and slots.reverse[j, back] == slot
    if not network.directed:
        assert (slots.reverse >= 0).all()


def test_types_and_cache():
    network = nets.ring(4)
    slots = network.slots()
    assert (slots.neighbours.dtype, slots.reverse.dtype, slots.out_degree.dtype) == (np.int32,) * 3
    assert slots.mask.dtype == slots.active.dtype == bool and slots.mixing.dtype == np.float64
    assert network.slots() is slots
    with pytest.raises(ValueError, match="read-only"):
        slots.mask[0] = False


def test_one_agent_has_one_empty_slot():
    slots = nets.complete(1).slots()
    assert slots.neighbours.tolist() == [[0]] and slots.mask.tolist() == [[False]]
    assert slots.mixing.tolist() == [[[0.0]]] and slots.mixing_self.tolist() == [[1.0]]
    assert slots.degree.tolist() == [0]


def test_gossip_slots_are_halves():
    slots = nets.pairwise_gossip(nets.star(4)).slots()
    assert slots.mixing[0].tolist() == [[0.5, 0.5, 0.5], [0.5, 0, 0], [0.5, 0, 0], [0.5, 0, 0]]
    assert (slots.mixing_self == 0.5).all() and slots.has_mixing and slots.out_degree.tolist() == [[3, 1, 1, 1]]
    assert (slots.active[0] == slots.mask).all()


def test_slots_mix_like_the_matrix():
    network = nets.geometric(30, seed=0, weights="laplacian")
    slots, x = network.slots(), np.random.default_rng(0).normal(size=30)
    mixed = slots.mixing_self[0] * x + (slots.mixing[0] * x[slots.neighbours]).sum(axis=1)
    np.testing.assert_allclose(mixed, network.mixing @ x, atol=1e-14)


def test_a_huge_star_is_refused():
    with pytest.raises(ValueError, match=r"agent 0 hears 29999 others.*server algorithm"):
        nets.star(30_000).slots()
