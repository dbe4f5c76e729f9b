"""What every exported server algorithm must keep, whatever it computes. A new export is held to it without a word here.

One program per export is compiled: a part of the clients in each round, minibatches, some uplinks lost. Everything that can be
is tested with it; what needs other programs is tested of a few exports, and of all where slow tests are asked for.
"""

import copy
import dataclasses
import inspect
import re
import signal

import equinox as eqx
import jax
import jax.monitoring
import numpy as np
import pytest

import exports
import server_exports as servers
import thalweg as tw
from programs import no_compilation, once, quick
from server_exports import COHORT, FULL, MINIBATCHES, NAMES, N
from thalweg.observe import Outcome

ROUNDS, EVERY, LOSS = 12, 5, 0.3
ORDER = np.array([3, 5, 0, 7, 4, 6, 1, 2])

# One class with other optimisers; `FedAdam` and `FedOpt` stand for them where time counts.
SIBLINGS = {"FedAdagrad", "FedAvgM", "FedYogi"}
every_export = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in SIBLINGS else name for name in NAMES]
)
# One of each kind of message and memory; what needs runs of its own of all the others is slow.
core_exports = quick(NAMES, "FedAvg", "SCAFFOLD", "FedAdam", "ConsensusADMM", "ConstrainedFL", "FedPer", "Mime")


def a_few(*few, names=NAMES):
    """Of all exports these are quick enough for every run."""
    return quick(names, *few)


@pytest.fixture(scope="module")
def ordinary():
    """name → (problem, result) of one run with a part of the clients and lost uplinks, made when first asked for."""
    return once(lambda name: (problem := servers.problem(servers.data()), run(name, problem)))


def ordinary_algorithm(name):
    return servers.algorithm(name, MINIBATCHES, cohort=servers.partial(name))


def run(name, problem, algorithm=None, **options):
    options = {"rounds": ROUNDS, "every": EVERY, "seed": 3, "fleet": tw.Fleet(problem.n, dropout=LOSS)} | options
    return servers.solve(problem, ordinary_algorithm(name) if algorithm is None else algorithm, **options)


def numbers(result):
    """Everything a run computed but time."""
    return exports.bits((result.x, result.agents, result.records, result.history.scalars, result.history.agents))


def error(result, values):
    return np.abs(exports.flat(result.x) - servers.minimiser(values)).max()


def slower(algorithm):
    """With another learning rate in every local solver (all are resolved)."""
    rates = lambda a: [s.learning_rate for s in solvers(a) if hasattr(s, "learning_rate")]
    return eqx.tree_at(rates, algorithm, [rate / 2 for rate in rates(algorithm)])


def solvers(algorithm):
    fields = [getattr(algorithm, field.name) for field in dataclasses.fields(algorithm)]
    return [value for value in fields if isinstance(value, tw.algorithm.local.LocalSolver)]


@pytest.mark.parametrize("name", NAMES)
def test_documentation_and_declarations(name):
    kind, text = servers.kind(name), inspect.getdoc(servers.export(name))
    assert re.search(r"←|_i\s*≈|γ = ", text) or "as for" in text or "`tw." in text, (
        "the recursion is missing from the docstring"
    )
    assert re.search(r"\*[^*]+\*.*\b(19|20)\d\d", text, re.DOTALL), "the paper (*title*, year) is missing from the docstring"
    assert "←" in inspect.getdoc(kind)
    assert dataclasses.is_dataclass(kind)
    assert issubclass(kind, eqx.Module)
    assert kind.combine
    assert all(isinstance(rule, tw.message.Combine) for rule in kind.combine.values())
    assert isinstance(kind.claims, tw.algorithm.Claims)
    assert kind.claims.theorem
    assert kind.claims.rate in ("linear", "sublinear", "finite")
    assert kind.exact_under <= {"partial", "dropout", "local_steps"}
    assert kind.claims.exact or not kind.exact_under, "what is not exact is exact under nothing"
    assert kind.needs <= {"smooth", "strongly_convex", "everyone"}
    assert {"solver", "cohort"} <= {field.name for field in dataclasses.fields(kind)}
    for parameter in inspect.signature(servers.export(name)).parameters:
        assert re.search(rf"\b{parameter}\b", text), f"the docstring does not mention {parameter}"
    made = servers.algorithm(name)
    for field in dataclasses.fields(kind):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, 1.0)


@core_exports
def test_structure_and_dtype_are_kept(name, ordinary):
    problem, result = ordinary(name)
    assert (result.agents is not None) == servers.personal(name)
    assert jax.tree.structure(result.x) == jax.tree.structure(problem.x0)
    for x, start in zip(*map(jax.tree.leaves, (result.x, problem.x0)), strict=True):
        assert (x.shape, x.dtype) == (start.shape, np.float64)
        assert np.isfinite(x).all()
    if servers.personal(name):
        assert jax.tree.structure(result.agents) == jax.tree.structure(problem.x0)
        for own, start in zip(*map(jax.tree.leaves, (result.agents, problem.x0)), strict=True):
            assert (own.shape, own.dtype) == ((N, *start.shape), np.float64)
            assert np.isfinite(own).all()
    assert exports.bits(result.x) != exports.bits(problem.x0)


@core_exports
def test_a_run_twice_gives_the_same_bits_and_leaves_the_algorithm_alone(name, ordinary):
    problem, first = ordinary(name)
    algorithm = ordinary_algorithm(name)
    before = copy.deepcopy(algorithm)
    with no_compilation():
        second = run(name, problem, algorithm)
    assert eqx.tree_equal(algorithm, before)
    assert numbers(second) == numbers(first)


@core_exports
def test_equal_shapes_compile_nothing(name, ordinary):
    """Other data, seed, step size, probability of loss, number of rounds, records."""
    _, result = ordinary(name)
    other = servers.problem(servers.data(seed=1))
    with no_compilation():
        changed = run(name, other, slower(result.algorithm), seed=8, rounds=17, every=4, fleet=tw.Fleet(N, dropout=0.1))
    assert changed.rounds == 17
    assert exports.bits(changed.x) != exports.bits(result.x)


def test_compilations_are_counted():
    with pytest.raises(AssertionError, match="compiled again"), no_compilation():
        jax.jit(lambda x: x * 3.25 + 1.5)(np.arange(7.0))


@core_exports
def test_permuting_clients_with_their_ids_permutes_the_result(name, ordinary):
    """Who is drawn, whose uplink is lost and which examples make a minibatch follow the ids."""
    result = ordinary(name)[1]
    moved = run(name, servers.problem(servers.permuted(servers.data(), ORDER)), ids=ORDER)
    np.testing.assert_array_equal(moved.ledger.messages, result.ledger.messages[ORDER])
    np.testing.assert_allclose(exports.flat(moved.x), exports.flat(result.x), rtol=1e-12, atol=1e-12)
    if servers.personal(name):
        np.testing.assert_allclose(exports.flat(moved.agents), exports.flat(result.agents)[ORDER], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "cohort",
    [
        pytest.param(tw.cohort.uniform(2), id="uniform", marks=pytest.mark.slow),
        pytest.param(tw.cohort.by_size(3), id="by_size", marks=pytest.mark.slow),
        pytest.param(tw.cohort.poisson(0.4), id="poisson"),
    ],
)
def test_cohorts_follow_ids(cohort):
    """Ids need not begin at 0 nor follow each other."""
    values, ids = servers.data(), 10 * ORDER + 7
    solve = lambda values, ids: run("FedAvg", servers.problem(values), tw.FedAvg(MINIBATCHES, cohort), ids=ids).ledger.messages
    first = solve(values, 10 * np.arange(N) + 7)
    assert len(set(first)) > 1
    np.testing.assert_array_equal(solve(servers.permuted(values, ORDER), ids), first[ORDER])


@pytest.mark.slow
def test_asynchronous_starts_follow_ids():
    values = servers.data()
    engine, seconds = tw.EventDriven(buffer=2), np.linspace(1, 3, N)

    def solve(order):
        fleet = tw.Fleet(N, seconds_per_step=seconds[order])
        problem = servers.problem(servers.permuted(values, order))
        return run("FedAvg", problem, tw.FedAvg(FULL, 3), ids=order, engine=engine, fleet=fleet)

    first, moved = solve(np.arange(N)), solve(ORDER)
    np.testing.assert_array_equal(moved.ledger.messages, first.ledger.messages[ORDER])
    np.testing.assert_allclose(exports.flat(moved.x), exports.flat(first.x), rtol=1e-12, atol=1e-12)


@core_exports
def test_the_identity_pipeline_is_no_pipeline(name, ordinary):
    problem, result = ordinary(name)
    with no_compilation():
        identical = run(name, problem, uplink=tw.message.identity(), downlink=tw.message.identity())
    assert numbers(identical) == numbers(result)


@a_few("SCAFFOLD")
def test_half_the_bytes_in_single_precision(name, ordinary):
    """Bytes of the messages of variables; integers and booleans stay as they are."""
    problem, result = ordinary(name)
    cast = run(name, problem, uplink=tw.message.chain(tw.message.identity(), tw.message.cast("float32")))
    assert 2 * cast.ledger.message_bytes == result.ledger.message_bytes
    np.testing.assert_array_equal(cast.ledger.messages, result.ledger.messages)
    assert exports.bits(cast.x) != exports.bits(result.x)
    np.testing.assert_allclose(exports.flat(cast.x), exports.flat(result.x), atol=1e-4)


@core_exports
def test_resuming_is_bitwise_the_uninterrupted_run(name, ordinary, tmp_path):
    """The first part ends between two records."""
    problem, result = ordinary(name)
    part = run(name, problem, rounds=7, checkpoint=tmp_path)
    resumed = run(name, problem, checkpoint=tmp_path, resume=True)
    assert part.history["round"].tolist() == [5, 7]
    assert numbers(resumed) == numbers(result)
    np.testing.assert_array_equal(resumed.ledger.messages, result.ledger.messages)
    np.testing.assert_array_equal(resumed.ledger.received, result.ledger.received)


def test_a_run_of_other_ids_is_not_resumed(ordinary, tmp_path):
    problem, _ = ordinary("FedAvg")
    run("FedAvg", problem, rounds=5, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="another ids"):
        run("FedAvg", problem, checkpoint=tmp_path, resume=True, ids=ORDER)


@a_few("FedAvg", "SCAFFOLD")
def test_ctrl_c_leaves_a_run_that_can_be_resumed(name, ordinary, tmp_path):
    def interrupt(k, history):
        if k == EVERY:
            signal.raise_signal(signal.SIGINT)

    problem, result = ordinary(name)
    before = signal.getsignal(signal.SIGINT)
    stopped = run(name, problem, checkpoint=tmp_path, progress=interrupt)
    assert (stopped.outcome, stopped.rounds) == (Outcome.INTERRUPTED, EVERY)
    assert signal.getsignal(signal.SIGINT) is before
    assert numbers(run(name, problem, checkpoint=tmp_path, resume=True)) == numbers(result)


@pytest.mark.slow
@a_few("FedAvg")
def test_nan_of_one_client_ends_the_run_and_names_it(name, ordinary):
    """The loss of client 3 is NaN beyond a radius that its own local model reaches in the course of the run."""
    _, whole = ordinary(name)
    clean = run(name, ordinary(name)[0], rounds=3, every=1)
    radius = np.linalg.norm(exports.flat(clean.x))
    trapped = run(name, servers.problem(servers.data(traps={3: 1 / radius**2})))
    assert trapped.outcome is Outcome.NOT_FINITE
    assert re.match(r"client 3( and \d more)? not finite in round \d+ ?", trapped.reason), trapped.reason
    assert trapped.rounds < whole.rounds
    assert f"in round {trapped.rounds}" in trapped.reason
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((trapped.x, trapped.agents)))
    assert not len(trapped.history) or np.isfinite(trapped.history["objective"]).all()
    good = run(name, ordinary(name)[0], rounds=trapped.rounds)
    assert exports.bits(trapped.x) == exports.bits(good.x), "the result is not the last good state"


@pytest.mark.slow
def test_nan_on_the_way_names_the_client_that_began():
    """Client 6 alone goes beyond the radius, while the model stays within it: NaN reaches everybody by way of the server."""
    values = servers.data()
    far = tw.LocalSGD(0.2, steps=40)
    clean = [run("FedAvg", servers.problem(values), tw.FedAvg(far, 4), rounds=4, every=4, fleet=None)]
    own = run("FineTune", servers.problem(values), tw.FineTune(far, 4), rounds=4, every=1, fleet=None)
    reach, model = np.linalg.norm(exports.flat(own.agents), axis=1), np.linalg.norm(exports.flat(clean[0].x))
    client = int(np.argmax(reach))
    assert reach[client] > 1.1 * model
    radius = 0.5 * (reach[client] + max(model, np.sort(reach)[-2]))
    problem = servers.problem(servers.data(traps={client: 1 / radius**2}))
    for engine in ("simulated", "debug"):
        found = run("FedAvg", problem, tw.FedAvg(far, 4), rounds=40, every=40, fleet=None, engine=engine)
        assert found.outcome is Outcome.NOT_FINITE
        assert re.match(rf"client {client}\b", found.reason), found.reason
        assert "work" in found.reason
        assert np.isfinite(exports.flat(found.x)).all()


# Their server divides by the size of what it hears, or by the local rate; FedSPS caps the rate by the loss itself.
TAMED = {"FedAdagrad", "FedAdam", "FedYogi", "QFFL", "FedSPS"}


@a_few("FedAvg", "SCAFFOLD")
def test_divergence_ends_the_run_with_the_last_good_state(name, ordinary):
    if name in TAMED:
        pytest.skip("its steps stay bounded whatever the local rate")
    problem, result = ordinary(name)
    rates = lambda a: [s.learning_rate for s in solvers(a) if hasattr(s, "learning_rate")]
    steep = eqx.tree_at(rates, result.algorithm, [1e3 for _ in rates(result.algorithm)])
    diverged = run(name, problem, steep, rounds=200)
    assert diverged.outcome in (Outcome.DIVERGED, Outcome.NOT_FINITE)
    assert f"in round {diverged.rounds}" in diverged.reason
    assert diverged.rounds < 200
    assert np.isfinite(exports.flat(diverged.x)).all()
    assert (np.abs(exports.flat(diverged.x)) < 1e13).all()


@a_few("SCAFFOLD")
def test_one_client_in_its_own_dtype(name):
    """n = 1, float32 under x64: a constant that promotes anywhere breaks the loop's types."""
    values = servers.data(1)
    result = run(name, servers.problem(values, np.float32), servers.algorithm(name, FULL), rounds=2000, every=1000, fleet=None)
    assert {leaf.dtype for leaf in jax.tree.leaves((result.x, result.agents))} == {np.dtype("float32")}
    assert result.outcome is Outcome.ROUND_LIMIT
    if servers.kind(name).claims.exact or name in ALONE_EXACT:
        np.testing.assert_allclose(exports.flat(result.x), servers.minimiser(values), atol=2e-4)


# Not exact with many clients, but a client alone has nobody to differ from.
ALONE_EXACT = {
    "FedAvg",
    "FedNova",
    "FedAvgM",
    "FedProx",
    "FedOpt",
    "FineTune",
    "Ditto",
    "APFL",
    "QFFL",
    "AgnosticFL",
    "MimeLite",
}


@pytest.mark.slow
@core_exports
def test_single_precision_stays_single_under_failures(name, ordinary):
    double = ordinary(name)[1]
    result = run(name, servers.problem(servers.data(), np.float32), double.algorithm)
    assert {leaf.dtype for leaf in jax.tree.leaves((result.x, result.agents))} == {np.dtype("float32")}
    np.testing.assert_allclose(exports.flat(result.x), exports.flat(double.x), rtol=5e-3, atol=5e-3)


EXACT = [name for name in NAMES if servers.kind(name).claims.exact]
BIASED = [name for name in NAMES if name not in EXACT]


@a_few("SCAFFOLD", names=EXACT)
def test_exact_methods_reach_the_optimum_under_what_they_claim(name):
    """Three local steps on clients that differ; a part of them; lost uplinks; both."""
    values = servers.data()
    problem, claims = servers.problem(values), servers.kind(name).exact_under
    steps = FULL if "local_steps" in claims else tw.LocalSGD(steps=1)
    cases = [{}]
    cases += [{"fleet": tw.Fleet(N, dropout=LOSS)}] if "dropout" in claims else []
    cases += [{"cohort": COHORT}] if "partial" in claims else []
    cases += [{"cohort": COHORT, "fleet": tw.Fleet(N, dropout=LOSS)}] if {"partial", "dropout"} <= claims else []
    for case in cases:
        fleet = case.get("fleet", tw.Fleet(N, dropout=0.0))
        algorithm = servers.algorithm(name, steps, cohort=case.get("cohort"))
        result = run(name, problem, algorithm, rounds=4000, every=4000, fleet=fleet)
        assert error(result, values) < 1e-8, case


@a_few("FedAvg", names=BIASED)
def test_biased_methods_do_not_reach_the_optimum_of_the_average(name):
    """With everybody and nothing lost: what stays away is the claim, not noise."""
    values = servers.data()
    algorithm = servers.algorithm(name, FULL)
    result = run(name, servers.problem(values), algorithm, rounds=4000, every=4000, fleet=None)
    assert result.outcome is Outcome.ROUND_LIMIT
    assert error(result, values) > 1e-6


def debugged(solve):
    """(result, the debug session it ran in)."""
    sessions = []

    class Kept(tw.Debug):
        def open(self):
            sessions.append(super().open())
            return sessions[-1]

    return solve(Kept()), sessions[-1]


def one_text_three_engines(name, algorithm, fast=False):
    """The same bits, and the bytes that were packed are those that were predicted. Five of eight clients on four devices."""
    problem = servers.problem(servers.data())
    solve = lambda engine, **how: run(name, problem, algorithm, rounds=6, engine=engine, **({"deterministic": True} | how))
    simulated = solve("simulated")
    sharded = solve(tw.Sharded(devices=4))
    result, session = debugged(solve)
    for other in (sharded, result):
        np.testing.assert_allclose(exports.flat(other.x), exports.flat(simulated.x), rtol=1e-12, atol=1e-12)
        assert exports.bits((other.x, other.agents)) == exports.bits((simulated.x, simulated.agents))
        assert exports.bits(other.history.agents) == exports.bits(simulated.history.agents)
        np.testing.assert_array_equal(other.ledger.messages, simulated.ledger.messages)
    phases = len(type(algorithm).phases)
    packed = np.reshape(session.executor.wire, (6, phases, -1)).sum(axis=1)
    assert (packed == simulated.ledger.message_bytes).all()
    np.testing.assert_array_equal(simulated.ledger.bytes, simulated.ledger.messages * packed[0, 0])
    assert simulated.ledger.bytes.sum() > 0
    if fast:
        for engine in ("simulated", tw.Sharded(devices=4)):
            quick = solve(engine, deterministic=False)
            np.testing.assert_allclose(exports.flat(quick.x), exports.flat(simulated.x), rtol=1e-11, atol=1e-11)


@pytest.fixture
def _optimised():
    """Programs are compared to the bit here as users compile them."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.slow
@every_export
@pytest.mark.usefixtures("_optimised")
def test_engines_agree_to_the_bit_and_pack_the_predicted_bytes(name):
    one_text_three_engines(name, ordinary_algorithm(name))


@pytest.mark.slow
@every_export
@pytest.mark.usefixtures("_optimised")
def test_engines_agree_with_default_solvers_and_everybody(name):
    """Exact local solutions where they are the default; fast plans agree to rounding."""
    one_text_three_engines(name, servers.algorithm(name), fast=True)
