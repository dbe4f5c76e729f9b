"""What every exported algorithm must keep, whatever it computes. A new export is held to it without a word here."""

import copy
import dataclasses
import inspect
import re

import equinox as eqx
import jax
import jax.monitoring
import numpy as np
import pytest

import exports
import thalweg as tw
from exports import NAMES, N
from programs import no_compilation, once, quick

ROUNDS = 12
ORDER = np.array([3, 5, 0, 4, 1, 2])

every_export = pytest.mark.parametrize("name", NAMES)
# One of each kind of message and memory; what needs runs of its own of all the others is slow.
CORE = ("Averaging", "DGD", "GradientTracking", "EdgeADMM", "PushDIGing", "GTSAGA", "ChocoSGD", "LEAD", "BEER")
core_exports = quick(NAMES, *CORE)


@pytest.fixture(scope="module")
def ordinary():
    """name → (problem, result) of one run under loss, made when first asked for."""
    return once(lambda name: (problem := exports.problem(name, exports.data(name)), run(name, problem)))


def run(name, problem, algorithm=None, order=None, **options):
    options = {"rounds": ROUNDS, "every": 5, "seed": 3} | options
    algorithm = algorithm or exports.algorithm(name)
    return exports.solve(problem, algorithm, exports.network(name, order), **options)


def numbers(result):
    """Everything a run computed."""
    return exports.bits((result.x, result.agents, result.records, result.history.scalars, result.history.agents))


@every_export
def test_documentation_and_declarations(name):
    kind = exports.kind(name)
    text = inspect.getdoc(kind)
    assert re.search(r"←|_i\s*=|x_½", text), "the recursion is missing from the docstring"
    assert re.search(r"\*[^*]+\*.*\b(19|20)\d\d", text, re.DOTALL), "the paper (*title*, year) is missing from the docstring"
    assert dataclasses.is_dataclass(kind)
    assert issubclass(kind, eqx.Module)
    assert kind.combine
    assert all(isinstance(rule, tw.message.Combine) for rule in kind.combine.values())
    assert isinstance(kind.claims, tw.algorithm.Claims)
    assert kind.claims.theorem
    assert kind.claims.rate in ("linear", "sublinear", "finite")
    assert kind.exact_under <= {"symmetric", "independent", "asleep", "delay"}
    for field in dataclasses.fields(kind):
        assert re.search(rf"\b{field.name}\b", text), f"the docstring does not mention {field.name}"
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(exports.algorithm(name), field.name, 1.0)


@core_exports
def test_structure_and_dtype_are_kept(name, ordinary):
    problem, result = ordinary(name)
    assert jax.tree.structure(result.x) == jax.tree.structure(problem.x0) == jax.tree.structure(result.agents)
    for x, own, start in zip(*map(jax.tree.leaves, (result.x, result.agents, problem.x0)), strict=True):
        assert x.dtype == own.dtype == start.dtype == np.float64
        assert (x.shape, own.shape) == (start.shape, (N, *start.shape))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.agents))


@core_exports
def test_a_run_twice_gives_the_same_bits_and_leaves_the_algorithm_alone(name, ordinary):
    problem, first = ordinary(name)
    algorithm = exports.algorithm(name)
    before = copy.deepcopy(algorithm)
    second = run(name, problem, algorithm)
    assert algorithm == before
    assert numbers(second) == numbers(first)


@core_exports
def test_permuting_agents_with_their_ids_permutes_the_result(name, ordinary):
    result = ordinary(name)[1]
    permuted = exports.problem(name, jax.tree.map(lambda leaf: leaf[ORDER], exports.data(name)))
    moved = run(name, permuted, order=ORDER, ids=ORDER)
    np.testing.assert_allclose(exports.flat(moved.agents), exports.flat(result.agents)[ORDER], rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(moved.ledger.bytes, result.ledger.bytes[ORDER])


@core_exports
def test_equal_shapes_compile_nothing(name, ordinary):
    _, result = ordinary(name)
    other = exports.problem(name, exports.data(name, seed=1))
    other.constants  # noqa: B018  (Hessians are another program, of the problem)
    slower = exports.scaled(result.algorithm, 0.5)
    with no_compilation():
        changed = run(name, other, slower, seed=8, rounds=17, every=4)
    assert numbers(changed) != numbers(result)


def test_compilations_are_counted():
    with pytest.raises(AssertionError, match="compiled again"), no_compilation():
        jax.jit(lambda x: x * 3.25 + 1.5)(np.arange(7.0))


@core_exports
def test_one_agent_finds_its_own_minimiser_in_its_own_dtype(name):
    """float32 under x64: a constant that promotes anywhere breaks the loop's types."""
    values = exports.data(name, n=1)
    problem = exports.problem(name, values, np.float32)
    result = exports.solve(problem, exports.algorithm(name), exports.single(name), rounds=1500, every=500)
    assert {leaf.dtype for leaf in jax.tree.leaves((result.x, result.agents))} == {np.dtype("float32")}
    np.testing.assert_allclose(exports.flat(result.x), exports.minimiser(name, values), atol=2e-4)
    assert result.ledger.bytes.sum() == 0


@core_exports
def test_the_identity_pipeline_is_no_pipeline(name, ordinary):
    problem, result = ordinary(name)
    assert numbers(run(name, problem, link=tw.message.identity())) == numbers(result)


@pytest.mark.parametrize("name", ["GradientTracking", pytest.param("EdgeADMM", marks=pytest.mark.slow), "PushSum"])
def test_half_the_bytes_in_single_precision(name, ordinary):
    """A chain of stages does what its stages do: identity and rounding round."""
    problem, result = ordinary(name)
    cast = run(name, problem, link=tw.message.chain(tw.message.identity(), tw.message.cast("float32")))
    np.testing.assert_array_equal(2 * cast.ledger.bytes, result.ledger.bytes)
    assert exports.bits(cast.agents) != exports.bits(result.agents)
    np.testing.assert_allclose(exports.flat(cast.agents), exports.flat(result.agents), atol=1e-4)


def test_permutation_under_gossip_and_sleep():
    """Which edge wakes is drawn by ids too, not by where an edge stands in a list."""
    values = exports.data("Averaging")

    def agents(order):
        network = tw.network.pairwise_gossip(exports.network("Averaging", order, loss=0)).with_failures(asleep=0.3)
        problem = exports.problem("Averaging", jax.tree.map(lambda leaf: leaf[order], values))
        return exports.flat(exports.solve(problem, tw.Averaging(), network, rounds=40, every=40, ids=order).agents)

    np.testing.assert_allclose(agents(ORDER), agents(np.arange(N))[ORDER], rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@every_export
def test_single_precision_stays_single_under_failures(name):
    problem = exports.problem(name, exports.data(name), np.float32)
    result = run(name, problem)
    assert {leaf.dtype for leaf in jax.tree.leaves((result.x, result.agents))} == {np.dtype("float32")}
    double = run(name, exports.problem(name, exports.data(name)), result.algorithm)
    np.testing.assert_allclose(exports.flat(result.agents), exports.flat(double.agents), rtol=2e-3, atol=2e-3)


@pytest.mark.slow
@every_export
def test_it_reaches_what_it_claims(name):
    """Exact methods reach the optimum; a biased one stays away from it, and a step ten times smaller brings it nearer."""
    values = exports.data(name)
    problem, network = exports.problem(name, values), exports.network(name, loss=0)
    result = exports.solve(problem, exports.algorithm(name), network, rounds=20_000, every=20_000)
    error = np.abs(exports.flat(result.agents) - exports.minimiser(name, values)).max()
    if exports.kind(name).claims.exact:
        assert error < 1e-9
    else:
        slow = exports.solve(problem, exports.scaled(result.algorithm, 0.1), network, rounds=200_000, every=200_000)
        nearer = np.abs(exports.flat(slow.agents) - exports.minimiser(name, values)).max()
        assert error > 1e-6
        assert nearer < error / 2


CENTRAL = [name for name in NAMES if exports.kind(name).claims.centralised_on_complete]
QUICK = {"GradientTracking", "PushSum"}


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CENTRAL])
def test_the_complete_graph_is_the_central_method(name):
    """Uniform weights on a complete graph: x̄ follows central gradient descent; consensus is reached in one round."""
    values = exports.data(name)
    network = tw.network.complete(N)
    if exports.directed(name):
        arcs = np.array([[i, j] for i in range(N) for j in range(N) if i != j])
        network = tw.network.from_edges(arcs, N, directed=True)
    problem, rounds = exports.problem(name, values), 15
    result = exports.solve(problem, exports.algorithm(name), network, rounds=rounds, every=rounds)
    expected = exports.minimiser(name, values)
    if not exports.measures(name):
        a, b = values
        rows = np.concatenate([np.ones((*b.shape, 1)), a], axis=-1).reshape(-1, 3)
        expected, targets = np.zeros(3), b.ravel()
        for _ in range(rounds):
            gradient = rows.T @ (rows @ expected - targets) / len(rows) + expected / 10
            expected = expected - float(result.algorithm.step_size) * gradient
    np.testing.assert_allclose(exports.flat(result.x), expected, rtol=1e-9, atol=1e-9)
