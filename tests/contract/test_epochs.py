"""A change of members opens a new epoch: who stays restarts, who joins begins, and the limit is the new problem's.

Six agents 0 … 5; 1 and 4 leave, 9 joins, and they stand in another order on another graph, with more neighbours.
"""

import jax
import numpy as np
import pytest

import exports
import thalweg as tw
from programs import quick

OLD, NEW = np.arange(6), np.array([9, 5, 0, 3, 2])
D = 2
EXACT = [name for name in exports.NAMES if exports.kind(name).claims.exact]
WHEEL = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [1, 2], [2, 3], [3, 4], [1, 4]])
ARCS = np.array([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0], [0, 3], [2, 0], [1, 4], [3, 1]])
RING = tw.network.ring(5)

core_exact = quick(EXACT, "GradientTracking", "EdgeADMM", "PushDIGing", "BEER")


def data(ids):
    """What each agent knows, by id: (A [n, d, d], b [n, d]), curvatures from 1 to 2; measurements are b."""
    pieces = []
    for agent in ids:
        rng = np.random.default_rng(agent)
        rotation = np.linalg.qr(rng.standard_normal((D, D)))[0]
        pieces.append((rotation * rng.uniform(1, 2, D) @ rotation.T, rng.standard_normal(D) + agent))
    return tuple(map(np.stack, zip(*pieces, strict=True)))


def problem(name, ids, **options):
    A, b = data(ids)
    return tw.Measurements(b, **options) if exports.measures(name) else tw.quadratic(A, b, **options)


def optimum(name, ids):
    A, b = data(ids)
    return exports.extremum(name)(b, axis=0) if exports.measures(name) else np.linalg.solve(A.mean(0), -b.mean(0))


def network(name, ids, failing=False):
    """Of the first epoch or of the second one."""
    edges, arcs = (exports.EDGES, exports.ARCS) if len(ids) == 6 else (WHEEL, ARCS)
    if exports.directed(name):
        built, loss = tw.network.from_edges(arcs, len(ids), directed=True), {"symmetric": False}
    else:
        built, loss = tw.network.from_edges(edges, len(ids), weights="lazy_metropolis"), {}
    return built.with_failures(loss=0.2, **loss) if failing and not exports.reliable(name) else built


def epochs(name, rounds, failing=False, **options):
    """Results of both epochs; the first one is short, so that nothing has settled."""
    solve = lambda ids, rounds, **more: exports.solve(
        problem(name, ids), exports.algorithm(name), network(name, ids, failing), rounds=rounds, every=rounds or 1, ids=ids,
        **more, **options,
    )  # fmt: skip
    first = solve(OLD, 7)
    return first, solve(NEW, rounds, start=first)


@core_exact
def test_the_limit_is_that_of_the_new_problem(name):
    _, second = epochs(name, 600)
    np.testing.assert_allclose(second.agents, np.tile(optimum(name, NEW), (5, 1)), atol=1e-8)


@pytest.mark.parametrize("name", ["EdgeADMM", "PushDIGing", "GradientTracking", "MaxConsensus"])
def test_what_was_on_its_way_is_forgotten(name):
    """Under loss there are mailboxes and running sums; those of the old edges would bias the limit."""
    _, second = epochs(name, 1500, failing=True)
    np.testing.assert_allclose(second.agents, np.tile(optimum(name, NEW), (5, 1)), atol=1e-8)


@core_exact
def test_who_stays_keeps_its_estimate_and_who_joins_begins_at_x0(name):
    first, second = epochs(name, 0)
    begun = exports.solve(problem(name, NEW), exports.algorithm(name), network(name, NEW), rounds=0, ids=NEW)
    np.testing.assert_array_equal(second.ids, NEW)
    np.testing.assert_array_equal(second.agents[0], begun.agents[0])
    if exports.measures(name):
        np.testing.assert_array_equal(second.agents, data(NEW)[1])
    elif name != "EdgeADMM":  # it minimises its own augmented function at once
        np.testing.assert_array_equal(second.agents[1:], np.asarray(first.agents)[NEW[1:]])


@pytest.mark.slow
def test_conserved_quantities_are_rebuilt():
    """After any number of rounds, without failures."""
    gradients = lambda x: np.einsum("nij,nj->ni", data(NEW)[0], x) + data(NEW)[1]
    for rounds in (0, 5):
        state = lambda name, rounds=rounds: jax.tree.map(np.asarray, epochs(name, rounds)[1].records.state)
        for name in ("GradientTracking", "AugDGM", "ProximalTracking", "PushPull", "PushDIGing", "GTSAGA"):
            tracking = state(name)
            np.testing.assert_allclose(tracking.y.mean(0), gradients(tracking.x).mean(0), atol=1e-12, err_msg=name)
        np.testing.assert_allclose(state("PushDIGing").v.sum(), len(NEW), atol=1e-12)
        np.testing.assert_allclose(state("PushSum").weight.sum(), len(NEW), atol=1e-12)
        np.testing.assert_allclose(state("PushSum").mass.sum(0), data(NEW)[1].sum(0), atol=1e-12)
        np.testing.assert_allclose(state("Averaging").x.sum(0), data(NEW)[1].sum(0), atol=1e-12)
        for name in ("EXTRA", "NIDS", "DecentralizedADMM", "PGEXTRA", "OPAPC"):
            np.testing.assert_allclose(state(name).dual.sum(0), 0, atol=1e-11, err_msg=name)
        assert state("EdgeADMM").z.shape == (5, 4, D)


@pytest.mark.slow
@pytest.mark.parametrize("name", exports.NAMES)
def test_engines_agree(name):
    """To the bit, records and all; the two devices have two of the four agents that stay of six."""
    first, stay = epochs(name, 0)[0], OLD[1:5]
    make = tw.network.from_edges(exports.ARCS[:4] % 4, 4, directed=True) if exports.directed(name) else tw.network.ring(4)
    loss = 0 if exports.reliable(name) else 0.2
    failing = make.with_failures(loss=loss, symmetric=not exports.directed(name))
    how = {"rounds": 3, "ids": stay, "start": first, "deterministic": True}
    solve = lambda engine: exports.solve(problem(name, stay), exports.algorithm(name), failing, engine=engine, **how)
    results = [solve(engine) for engine in ("simulated", "debug", tw.Sharded(devices=2))]
    bits = [exports.bits((result.agents, result.records, result.history.scalars)) for result in results]
    assert bits[0] == bits[1] == bits[2]


def test_newcomers_may_begin_where_the_others_are():
    first, _ = epochs("GradientTracking", 0)
    warm = tw.solve(problem("GradientTracking", NEW, x0=first.x), tw.GradientTracking(), RING, rounds=0, ids=NEW, start=first)
    np.testing.assert_array_equal(warm.agents[0], first.x)


def test_a_record_may_hold_another_number_of_examples():
    """GT-SAGA's table has a row per example, of which every agent may by now have more."""
    name = "GTSAGA"
    more = lambda m: jax.tree.map(lambda leaf: leaf[:, :m], exports.data(name))
    first, second = (exports.problem(name, more(m)) for m in (2, 4))
    few = exports.solve(first, tw.GTSAGA(), exports.network(name, loss=0), rounds=5)
    many = exports.solve(second, tw.GTSAGA(), exports.network(name, loss=0), rounds=0, start=few)
    assert jax.tree.leaves(many.records.state.table)[0].shape[:2] == (6, 4)
    np.testing.assert_array_equal(exports.flat(many.agents), exports.flat(few.agents))


def test_failures_and_step_sizes_may_change():
    calm, A = tw.network.ring(6), data(OLD)
    first = tw.solve(tw.quadratic(*A), tw.NIDS(0.1), calm, rounds=5)
    rough = calm.with_failures(loss=0.3, burst=3, asleep=0.2)
    second = tw.solve(tw.quadratic(*A), tw.NIDS(tw.LocalStep(1.0)), rough, rounds=1500, start=first)
    np.testing.assert_allclose(second.agents, np.tile(optimum("NIDS", OLD), (6, 1)), atol=1e-9)


def refused(*words, kind=ValueError, ids=NEW, algorithm=None, made=None, start=None):
    first = tw.solve(problem("DGD", OLD), tw.GradientTracking(), tw.network.ring(6), rounds=1) if start is None else start
    solve = tw.solve.__wrapped__  # users run without a type checker
    with pytest.raises(kind) as error:
        solve(made or problem("DGD", NEW), algorithm or tw.GradientTracking(), RING, rounds=1, ids=ids, start=first)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_what_cannot_be_continued_is_refused():
    refused("6 agents", "this one 5", "ids=", "[0, 1, 2, 3, 4, 5]", ids=None)
    refused("none of the agents", "[10, 11, 12, 13, 14]", "leave start= out", ids=np.arange(10, 15))
    refused("another algorithm", "NIDS", "GradientTracking", "x0=result.x", algorithm=tw.NIDS())
    refused("another algorithm", "GradientTracking", algorithm=tw.GradientTracking(momentum=0.3))
    longer = tw.quadratic(np.tile(np.eye(3), (5, 1, 1)), np.ones((5, 3)))
    refused("x of the earlier run", "float64[2]", "float64[3]", "x0", made=longer)
    structured = tw.Consensus(lambda x, c: (x["a"] - c) ** 2, np.arange(5.0), {"a": 0.0})
    refused("x of the earlier run", "float64[2]", "{'a': 'float64[]'}", made=structured)
    refused("got dict as start", "Result", kind=TypeError, start={"x": 0})


def test_a_restart_that_keeps_old_slots_is_named():
    class Keeps(tw.EdgeADMM):
        def restart(self, local, state, context):
            return state

    first = tw.solve(problem("EdgeADMM", OLD), Keeps(), network("EdgeADMM", OLD), rounds=1)
    with pytest.raises(ValueError, match=r"Keeps.restart returned a state of other shapes than init"):
        tw.solve(problem("EdgeADMM", NEW), Keeps(), network("EdgeADMM", NEW), rounds=1, ids=NEW, start=first)
