"""What every exported price method must keep, whatever it computes. A new export is held to it without a word here.

One program per export is compiled, on quadratics over a pytree with an equality and an inequality, some answers lost where the
method claims to bear that; everything that can be is tested with it.
"""

import contextlib
import copy
import dataclasses
import inspect
import re

import equinox as eqx
import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import exports
import markets
import thalweg as tw
from markets import NAMES, N
from programs import no_compilation, once, quick
from thalweg.algorithm.server.base import ServerAlgorithm
from thalweg.observe import Outcome

ROUNDS, EVERY, LOSS = 12, 5, 0.3
ORDER = np.array([3, 5, 0, 7, 4, 6, 1, 2])
every_export = pytest.mark.parametrize("name", NAMES)


def a_few(*few):
    """Of all exports these are quick enough for every run."""
    return quick(NAMES, *few)


most_exports = a_few("DualAscent", "ExchangeADMM", "ProximalBundle")
exact = lambda name: markets.kind(name).exact_under
# What a method reaches in a few thousand rounds; sublinear ones go on as they began.
ACCURACY = {"linear": 1e-6, "sublinear": 2e-2, "finite": 1e-8}
# Methods of "sublinear" claims that are far better on piecewise or smooth duals of few rows.
QUICK = {"ProximalBundle": 1e-3}


def accuracy(name):
    return QUICK.get(name, ACCURACY[markets.kind(name).claims.rate])


def conditions(name):
    """The hardest that a method claims to bear: a part of the agents, lost answers."""
    fleet = tw.Fleet(N, dropout=LOSS) if "dropout" in exact(name) else None
    return {"fleet": fleet}


def made(name, **changes):
    return markets.kind(name)(**({"cohort": 5} if "partial" in exact(name) else {}) | changes)


def run(name, problem, algorithm=None, **options):
    options = {"rounds": ROUNDS, "every": EVERY, "seed": 3} | conditions(name) | options
    return markets.solve(problem, made(name) if algorithm is None else algorithm, **options)


@pytest.fixture(scope="module")
def ordinary():
    """name → (problem, result), made when first asked for."""
    return once(lambda name: (problem := markets.problem(markets.data()), run(name, problem)))


def numbers(result):
    """Everything a run computed but time."""
    return exports.bits((result.x, result.price, result.records, result.history.scalars, result.history.agents))


@every_export
def test_documentation_and_declarations(name):
    kind, text = markets.kind(name), inspect.getdoc(markets.kind(name))
    assert "←" in text or "argmax" in text, "the recursion is missing from the docstring"
    assert re.search(r"\*[^*]+\*.*\b(18|19|20)\d\d", text, re.DOTALL), "the paper (*title*, year) is missing"
    assert dataclasses.is_dataclass(kind)
    assert issubclass(kind, ServerAlgorithm)
    assert all(isinstance(rule, tw.message.Combine) for rule in kind.combine.values())
    assert "prices" in kind.handles
    assert kind.claims.theorem
    assert kind.claims.rate in ACCURACY
    assert kind.exact_under <= {"partial", "dropout"}
    assert kind.needs <= {"strongly_convex", "everyone"}
    assert not ("everyone" in kind.needs and kind.exact_under)
    for parameter in inspect.signature(kind).parameters:
        assert re.search(rf"\b{parameter}\b", text), f"the docstring does not mention {parameter}"
    algorithm = kind()
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(algorithm, field.name, 1.0)


@most_exports
def test_structure_and_dtype_are_kept(name, ordinary):
    problem, result = ordinary(name)
    assert jax.tree.structure(result.x) == jax.tree.structure(problem.x0)
    for x, start in zip(*map(jax.tree.leaves, (result.x, problem.x0)), strict=True):
        assert (x.shape, x.dtype) == ((N, *start.shape), np.float64)
        assert np.isfinite(x).all()
    assert (result.price.shape, result.price.dtype) == ((2,), np.float64)
    assert result.price[1] >= 0, "the sign that the row's sense allows"


@most_exports
def test_a_run_twice_gives_the_same_bits_and_leaves_the_algorithm_alone(name, ordinary):
    problem, first = ordinary(name)
    algorithm = made(name)
    before = copy.deepcopy(algorithm)
    with no_compilation():
        second = run(name, problem, algorithm)
    assert eqx.tree_equal(algorithm, before)
    assert numbers(second) == numbers(first)


@most_exports
def test_equal_shapes_compile_nothing(name, ordinary):
    """Other data, totals, seed, probability of loss, number of rounds, records."""
    _, result = ordinary(name)
    other = markets.problem(markets.data(seed=1), b=(3.0, 0.5))
    fleet = tw.Fleet(N, dropout=0.1) if conditions(name)["fleet"] is not None else None
    other.pricing  # noqa: B018  (the constants are another program, compiled once per problem)
    with no_compilation():
        changed = run(name, other, seed=8, rounds=17, every=4, fleet=fleet)
    assert changed.rounds == 17
    assert exports.bits(changed.x) != exports.bits(result.x)


@most_exports
def test_permuting_agents_with_their_ids_permutes_the_plans(name, ordinary):
    result = ordinary(name)[1]
    moved = run(name, markets.problem(tuple(part[ORDER] for part in markets.data())), ids=ORDER)
    np.testing.assert_array_equal(moved.ledger.messages, result.ledger.messages[ORDER])
    np.testing.assert_allclose(markets.rows(moved.x), markets.rows(result.x)[ORDER], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(moved.price, result.price, rtol=1e-9, atol=1e-10)


@most_exports
def test_the_identity_pipeline_is_no_pipeline(name, ordinary):
    problem, result = ordinary(name)
    with no_compilation():
        identical = run(name, problem, uplink=tw.message.identity(), downlink=tw.message.identity())
    assert numbers(identical) == numbers(result)


@most_exports
def test_resuming_is_bitwise_the_uninterrupted_run(name, ordinary, tmp_path):
    """The first part ends between two records."""
    problem, result = ordinary(name)
    part = run(name, problem, rounds=7, checkpoint=tmp_path)
    resumed = run(name, problem, checkpoint=tmp_path, resume=True)
    assert part.history["round"].tolist() == [5, 7]
    assert numbers(resumed) == numbers(result)
    np.testing.assert_array_equal(resumed.ledger.messages, result.ledger.messages)


@most_exports
def test_nan_of_one_agent_ends_the_run_and_names_it(name, ordinary):
    """The cost of agent 3 is NaN beyond a radius that its plan leaves in the course of the run."""
    _, whole = ordinary(name)
    sizes = [np.linalg.norm(markets.rows(run(name, ordinary(name)[0], rounds=k, every=k).x)[3]) for k in (2, 4, ROUNDS)]
    radius = 0.9 * max(sizes)
    trapped = run(name, markets.problem(markets.data(), traps={3: 1 / radius**2}))
    assert trapped.outcome is Outcome.NOT_FINITE
    assert re.match(r"agent 3( and \d more)? not finite in round \d+ ?", trapped.reason), trapped.reason
    assert trapped.rounds < whole.rounds
    assert f"in round {trapped.rounds}" in trapped.reason
    assert np.isfinite(markets.rows(trapped.x)).all()
    assert not len(trapped.history) or np.isfinite(trapped.history["objective"]).all()


def test_data_with_nan_is_refused():
    H, q, A = markets.data()
    q[2, 1] = np.nan
    with pytest.raises(ValueError, match=r"data of agent 2 has NaN or infinite values: first at data\['q'\]\[1\]"):
        markets.problem((H, q, A))


CASES = {
    "equality": {"sense": ("=", "=")},
    "mixed, slack and tight": {"sense": ("<=", ">="), "b": (100.0, 3.0)},
    "units that differ by 1e4": {"scale": (100.0, 0.01), "b": (100.0, -0.02)},
    "box, curvature from 0.1 to 10": {"spread": 2.3, "local": tw.box(-1.0, 0.7)},
}


def case(which, n=N, seed=4):
    """(problem, truth)."""
    options = dict(CASES[which])
    parts = markets.data(n, seed, spread=options.pop("spread", 0.7), scale=options.pop("scale", (1.0, 1.0)))
    b, sense = np.array(options.pop("b", (1.0, -2.0))), options.pop("sense", ("=", "<="))
    bounds = (-1.0, 0.7) if "local" in options else (-np.inf, np.inf)
    return markets.problem(parts, b, sense, **options), markets.Truth(*parts, b, sense, *bounds)


@pytest.mark.slow
@pytest.mark.parametrize("which", CASES)
@every_export
def test_it_reaches_the_central_solution(name, which):
    problem, truth = case(which)
    result = markets.solve(problem, markets.kind(name)(), rounds=4000, every=500)
    tolerance = accuracy(name)
    if name == "DualSubgradient":  # D* − D(λ_k) ≤ L‖λ*‖²/2k, and μ‖x − x*‖²/2 is at most that
        L, mu = problem.pricing.largest, problem.pricing.strong_convexity.min()
        tolerance = max(tolerance, np.linalg.norm(truth.price) * np.sqrt(L / (mu * result.rounds)))
    np.testing.assert_allclose(markets.rows(result.x), truth.x, atol=tolerance)
    scale = np.maximum(1, np.abs(truth.price))
    np.testing.assert_allclose(result.price / scale, truth.price / scale, atol=10 * tolerance)
    assert (result.history["dual"] <= truth.value + 1e-8 * (1 + abs(truth.value))).all()
    assert result.certificate.dual <= truth.value + 1e-8 * (1 + abs(truth.value))
    assert result.certificate.violation < 10 * tolerance


@a_few("DualAscent", "ExchangeADMM")
def test_it_reaches_the_central_solution_of_an_allocation(name):
    """In closed form, so that it is quick: λ = (Σc − d)/Σ(1/a), x = c − λ/a."""
    a, c = markets.separable()
    total = np.array([1.0, -2.0])
    price = (c.sum(0) - total) / (1 / a).sum(0)
    rounds = 4000 if markets.kind(name).claims.rate == "linear" else 1500
    result = markets.solve(tw.allocation(a, c, total), markets.kind(name)(), rounds=rounds, every=rounds)
    np.testing.assert_allclose(result.x, c - price / a, atol=accuracy(name))
    np.testing.assert_allclose(result.price, price, atol=accuracy(name))


@every_export
def test_exact_methods_reach_the_optimum_under_what_they_claim(name):
    """A part of the agents in each round; lost answers; both."""
    a, c = markets.separable(spread=1.5)
    total, claims = np.array([1.0, -2.0]), exact(name)
    if not claims:
        pytest.skip("claims nothing under failures")
    price = (c.sum(0) - total) / (1 / a).sum(0)
    cases = [{"fleet": tw.Fleet(N, dropout=p)} for p in (LOSS, 0.5) if "dropout" in claims]
    cases += [{"cohort": size} for size in (1, 4) if "partial" in claims]
    cases += [{"cohort": 4, "fleet": tw.Fleet(N, dropout=LOSS)}] if {"partial", "dropout"} <= claims else []
    for options in cases:
        algorithm = markets.kind(name)(cohort=options.pop("cohort", None))
        result = markets.solve(tw.allocation(a, c, total), algorithm, rounds=6000, every=6000, **options)
        np.testing.assert_allclose(result.x, c - price / a, atol=1e-8, err_msg=str(options))


@a_few("ProximalBundle", "ExchangeADMM")
def test_what_a_method_does_not_claim_is_warned_of_or_refused(name):
    a, c = markets.separable()
    problem, kind = tw.allocation(a, c, [1.0, -2.0]), markets.kind(name)
    if "everyone" in kind.needs:
        with pytest.raises(ValueError, match=f"{name} needs all clients in every round"):
            tw.solve(problem, kind(cohort=3), rounds=1)
        refused = f"{name} exchanges 2 messages" if len(kind.phases) > 1 else rf"\(buffer=2\): {name} needs all clients"
        with pytest.raises(ValueError, match=f"EventDriven.*{refused}"):
            tw.solve(problem, kind(), rounds=1, engine=tw.EventDriven(buffer=2))
        with pytest.warns(RuntimeWarning, match=f"{name} is exact when everybody answers"):
            tw.solve(problem, kind(), rounds=1, fleet=tw.Fleet(N, dropout=0.1))
    elif "partial" not in kind.exact_under:
        with pytest.warns(RuntimeWarning, match=f"{name} is exact with all clients in every round"):
            tw.solve(problem, kind(cohort=3), rounds=1)
        with pytest.warns(RuntimeWarning, match=rf"EventDriven\(buffer=2\): {name} diverges"):
            tw.solve(problem, kind(), rounds=1, engine=tw.EventDriven(buffer=2))


@a_few("DualAscent")
def test_without_delay_asynchrony_is_the_synchronous_run(name):
    if len(markets.kind(name).phases) > 1:
        pytest.skip("two messages make a round, and asynchrony has none")
    a, c = markets.separable()
    problem = tw.allocation(a, c, [1.0, -2.0], low=-1, high=0.8, sense=["=", "<="])
    solve = lambda engine: markets.solve(problem, markets.kind(name)(), rounds=15, every=5, engine=engine)
    together, apart = solve("simulated"), solve(tw.EventDriven(buffer=N))
    np.testing.assert_allclose(apart.x, together.x, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(apart.price, together.price, rtol=1e-12, atol=1e-12)


@a_few("ExchangeADMM")
def test_one_agent_in_its_own_dtype(name):
    """n = 1, float32 under x64; the only feasible plan is b itself, and the price −f'(b)."""
    problem = tw.allocation(np.full((1, 2), 2.0), np.array([[1.0, -1.0]], np.float32), [3.0, 0.5])
    rounds = 6000 if markets.kind(name).claims.rate == "sublinear" else 400
    result = markets.solve(problem, markets.kind(name)(), rounds=rounds, every=rounds)
    assert {leaf.dtype for leaf in jax.tree.leaves((result.x, result.price))} == {np.dtype("float32")}
    # Averages are (λ_K − λ_0)/Σα_k off their rows, here about 4/(¼ · 2√6000).
    slow = name == "DualSubgradient"
    np.testing.assert_allclose(result.x, [[3.0, 0.5]], atol=0.12 if slow else max(2e-4, accuracy(name)))
    np.testing.assert_allclose(result.price, [-4.0, -3.0], atol=0.5 if slow else max(2e-3, 10 * accuracy(name)))


@pytest.mark.slow
@every_export
def test_single_precision_stays_single(name, ordinary):
    double = ordinary(name)[1]
    result = run(name, markets.problem(markets.data(), dtype=np.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves((result.x, result.price))} == {np.dtype("float32")}
    np.testing.assert_allclose(markets.rows(result.x), markets.rows(double.x), rtol=5e-3, atol=5e-3)


@pytest.mark.slow
@pytest.mark.parametrize("closed", [True, False])
@every_export
def test_engines_agree_to_the_bit_and_pack_the_predicted_bytes(name, closed):
    a, c = markets.separable()
    boxed = tw.allocation(a, c, [1.0, -2.0], low=-1, high=0.8, sense=["=", "<="])
    problem = boxed if closed else markets.problem(markets.data(), local=tw.box(-1.0, 1.0))
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        solve = lambda engine: run(name, problem, rounds=6, engine=engine, deterministic=True)
        simulated, sharded = solve("simulated"), solve(tw.Sharded(devices=4))
        result, session = debugged(solve)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    for other in (sharded, result):
        np.testing.assert_allclose(markets.flat(other.x), markets.flat(simulated.x), rtol=1e-12, atol=1e-12)
        assert exports.bits((other.x, other.price)) == exports.bits((simulated.x, simulated.price))
        assert exports.bits((other.history.scalars, other.history.agents)) == exports.bits(
            (simulated.history.scalars, simulated.history.agents)
        )
        np.testing.assert_array_equal(other.ledger.messages, simulated.ledger.messages)
    packed = packed_bytes(session, simulated)
    assert (packed == simulated.ledger.message_bytes).all()
    np.testing.assert_array_equal(simulated.ledger.bytes, simulated.ledger.messages * packed[0, 0])
    assert simulated.ledger.bytes.sum() > 0


def packed_bytes(session, result):
    """`[rounds, c]` bytes that were really packed for each client of a cohort, all phases of a round together."""
    return np.sum(np.reshape(session.executor.wire, (result.rounds, len(result.algorithm.phases), -1)), axis=1)


def debugged(solve):
    """(result, the debug session it ran in)."""
    sessions = []

    class Kept(tw.Debug):
        def open(self):
            sessions.append(super().open())
            return sessions[-1]

    return solve(Kept()), sessions[-1]


@pytest.mark.slow
@every_export
def test_sparse_rows_on_all_engines(name):
    """Flows along routes of unequal length: an agent hears and sends its own rows only."""
    problem = tw.network_utility(np.arange(1.0, 9.0), [[0, 1], [1], [2, 0], [2], [0], [1, 2], [2], [0, 1]], [3.0, 4.0, 5.0])
    solve = lambda engine: run(name, problem, rounds=6, engine=engine, deterministic=True)
    jax.config.update("jax_disable_most_optimizations", False)
    try:
        simulated, sharded = solve("simulated"), solve(tw.Sharded(devices=4))
        result, session = debugged(solve)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    for other in (sharded, result):
        assert exports.bits((other.x, other.price, other.history.scalars)) == exports.bits(
            (simulated.x, simulated.price, simulated.history.scalars)
        )
    assert (packed_bytes(session, simulated) == simulated.ledger.message_bytes).all()


def best(price, data):
    """argmin ½a(x − c)² + price·x."""
    return data["c"] - price / data["a"]


def parabola(x, data):
    return 0.5 * jnp.sum(data["a"] * (x - data["c"]) ** 2)


def itself(x, data):
    return x


def test_best_responses_in_closed_form_compile_once():
    def solve(seed):
        a, c = markets.separable(seed=seed)
        problem = tw.Coupled(
            parabola, {"a": a, "c": c}, coupling=itself, total=[1.0, 2.0], x0=np.zeros(2), best_response=best,
            smoothness=10.0, strong_convexity=0.1,
        )  # fmt: skip
        problem.pricing  # noqa: B018
        with contextlib.nullcontext() if seed == 0 else no_compilation():
            return markets.solve(problem, tw.DualAscent(), rounds=5, every=5)

    solve(0)
    assert solve(1).rounds == 5
