"""One algorithm text, three engines, the same numbers; chunks, checkpoints and interrupts leave no trace in them."""

import dataclasses
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exports
import support
import thalweg as tw
from thalweg.engine import driver
from thalweg.engine.fence import isolate
from thalweg.observe import Outcome

N, ROUNDS, EVERY = 6, 11, 4
UNDIRECTED = tw.network.from_edges(exports.EDGES, N, weights="lazy_metropolis")
DIRECTED = tw.network.from_edges(exports.ARCS, N, directed=True)
RING, STAR = tw.network.ring(N), tw.network.star(N)


@dataclasses.dataclass
class Case:
    """An algorithm on a network that has one kind of failure or schedule."""

    algorithm: object
    network: tw.Network
    noise: float = 0.0

    @property
    def problem(self):
        if "measurements" in self.algorithm.needs:
            return tw.Measurements(np.random.default_rng(0).standard_normal((N, 3)))
        return support.quadratics(N, 3, 0, gradient_noise=self.noise)[0]

    def solve(self, engine, deterministic=True, **options):
        options = {"rounds": ROUNDS, "every": EVERY, "seed": 5} | options
        return exports.solve(self.problem, self.algorithm, self.network, engine=engine, deterministic=deterministic, **options)


CASES = {
    "mixing, bursts and sleep": Case(
        tw.AugDGM(), tw.network.periodic([RING, STAR]).with_failures(loss=0.3, burst=3, asleep=0.2)
    ),
    "edges, everything": Case(
        tw.EdgeADMM(), UNDIRECTED.with_failures(loss=0.2, symmetric=False, delay=(0.5, 0.3, 0.2), asleep=0.2)
    ),
    "push, everything": Case(tw.PushDIGing(), DIRECTED.with_failures(loss=0.2, symmetric=False, delay=(0.6, 0.4), asleep=0.2)),
    "neighbours, late": Case(tw.MaxConsensus(), DIRECTED.with_failures(delay=(0.3, 0.3, 0.4))),
    "tracking": Case(tw.GradientTracking(), UNDIRECTED),
    "stochastic, random phases": Case(
        tw.DGD(step_size=0.05, stochastic=True), tw.network.random_phases([RING, STAR], [0.7, 0.3]), noise=0.5
    ),
    "sum, loss": Case(tw.DecentralizedADMM(), UNDIRECTED.with_failures(loss=0.3)),
    "pull": Case(tw.PushPull(), DIRECTED.with_failures(loss=0.1, symmetric=False)),
    "gossip": Case(tw.Averaging(), tw.network.pairwise_gossip(UNDIRECTED)),
}
QUICK = ("edges, everything",)
every_case = pytest.mark.parametrize(
    "case", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in CASES]
)


@pytest.fixture(scope="module")
def deterministic():
    """name → result of the simulated engine, made when first asked for."""
    runs = {}

    def of(name):
        if name not in runs:
            runs[name] = CASES[name].solve("simulated")
        return runs[name]

    return of


def numbers(result):
    """Everything a run computed but time."""
    return exports.bits((result.x, result.agents, result.records, result.history.scalars, result.history.agents))


def debugged(solve):
    """(result, the debug session it ran in)."""
    sessions = []

    class Kept(tw.Debug):
        def open(self):
            sessions.append(super().open())
            return sessions[-1]

    return solve(Kept()), sessions[-1]


@every_case
def test_sharded_is_bitwise_equal(case, deterministic):
    assert numbers(CASES[case].solve(tw.Sharded(devices=2))) == numbers(deterministic(case))


@every_case
def test_debug_is_bitwise_equal_and_packs_the_predicted_bytes(case, deterministic):
    result, session = debugged(CASES[case].solve)
    assert numbers(result) == numbers(deterministic(case))
    packed = np.reshape(session.executor.wire, (ROUNDS, len(CASES[case].algorithm.phases), N))
    per_message = packed.sum(axis=1)
    assert (per_message == result.ledger.message_bytes).all()
    np.testing.assert_array_equal(result.ledger.bytes, result.ledger.messages * per_message[0])
    assert 0 < result.ledger.bytes.sum() == result.history["bytes"][-1].sum() == result.history.agents["bytes"][-1].sum()


def test_bytes_by_hand(deterministic):
    """Every message is 3 float64 for each vector that one neighbour gets."""
    assert deterministic("mixing, bursts and sleep").ledger.message_bytes == 2 * 3 * 8
    assert deterministic("edges, everything").ledger.message_bytes == 3 * 8
    gossip = CASES["gossip"].solve("simulated", deterministic=False).ledger
    assert (gossip.message_bytes, gossip.messages.sum()) == (3 * 8, 2 * ROUNDS)


def test_messages_of_a_schedule_by_hand():
    """Rounds 0, 2, …, 10 on a ring, where everybody has two neighbours, and 1, 3, …, 9 on a star."""
    case = dataclasses.replace(CASES["gossip"], network=tw.network.periodic([RING, STAR]))
    turns = case.solve("simulated", deterministic=False).ledger.messages
    np.testing.assert_array_equal(turns, 6 * 2 + 5 * np.array([5, 1, 1, 1, 1, 1]))


@every_case
def test_the_fast_plan_agrees_to_rounding(case, deterministic):
    fast, slow = CASES[case].solve("simulated", deterministic=False), deterministic(case)
    np.testing.assert_allclose(fast.agents, slow.agents, rtol=1e-12 * ROUNDS, atol=1e-12 * ROUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_the_fast_plan_agrees_on_three_devices(case, deterministic):
    fast, slow = CASES[case].solve(tw.Sharded(devices=3), deterministic=False), deterministic(case)
    np.testing.assert_allclose(fast.agents, slow.agents, rtol=1e-12 * ROUNDS, atol=1e-12 * ROUNDS)


def test_a_dense_plan_agrees_to_rounding():
    """Above eight neighbours the fast plan multiplies by a dense W."""
    problem, network = support.quadratics(12, 3, 0)[0], tw.network.complete(12)
    solve = lambda **how: tw.solve(problem, tw.GradientTracking(), network, rounds=ROUNDS, **how).agents
    np.testing.assert_allclose(solve(deterministic=False), solve(deterministic=True), rtol=1e-12 * ROUNDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", exports.NAMES)
def test_all_exports_on_all_engines(name):
    """On ragged empirical risks over a pytree, with inner solvers where there is no closed form."""
    problem, network = exports.problem(name, exports.data(name)), exports.network(name)

    def solve(engine, **options):
        return exports.solve(problem, exports.algorithm(name), network, rounds=ROUNDS, every=EVERY, engine=engine, **options)

    simulated = solve("simulated", deterministic=True)
    assert numbers(solve(tw.Sharded(devices=2), deterministic=True)) == numbers(simulated)
    result, session = debugged(solve)
    assert numbers(result) == numbers(simulated)
    packed = np.reshape(session.executor.wire, (ROUNDS, -1, N)).sum(axis=1)
    assert (packed == simulated.ledger.message_bytes).all()
    fast = solve("simulated", deterministic=False)
    np.testing.assert_allclose(exports.flat(fast.agents), exports.flat(simulated.agents), rtol=1e-11, atol=1e-11)


def test_a_quotient_is_a_quotient_on_all_engines():
    """One agent divides by one number, all of them by many: XLA must not make a product with 1/s of the first alone."""
    rng = np.random.default_rng(0)
    x, s = jnp.asarray(rng.standard_normal((200, 8))), jnp.asarray(rng.standard_normal(200))
    zero = jnp.asarray(0, jnp.uint32)
    divide = lambda a, b: a / b
    one = jax.jit(lambda zero, a, b: isolate(divide, zero)(a, b))
    all_ = jax.jit(lambda zero, a, b: isolate(jax.vmap(divide), zero)(a, b))
    exact = np.asarray(x) / np.asarray(s)[:, None]
    np.testing.assert_array_equal(all_(zero, x, s), exact)
    np.testing.assert_array_equal(np.stack([one(zero, a, b) for a, b in zip(x, s, strict=True)]), exact)


def logistic(x, example):
    features, label = example
    return jnp.logaddexp(0, -label * (features @ x)) + 0.05 * jnp.sum(x**2)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [tw.GradientTracking(), tw.EdgeADMM()], ids=["gradient", "prox"])
def test_engines_agree_on_transcendental_losses_of_ragged_data(algorithm):
    rng = np.random.default_rng(1)
    data = [(rng.standard_normal((m, 17)), np.sign(rng.standard_normal(m))) for m in (3, 9, 4, 1, 7, 5)]
    problem = tw.EmpiricalRisk(logistic, data, np.zeros(17), smoothness=4.0, strong_convexity=0.1)
    case = Case(algorithm, UNDIRECTED.with_failures(loss=0.2))
    solve = lambda engine: exports.solve(
        problem, case.algorithm, case.network, rounds=8, every=3, engine=engine, deterministic=True
    )
    simulated = numbers(solve("simulated"))
    assert numbers(solve(tw.Sharded(devices=2))) == simulated
    assert numbers(solve("debug")) == simulated


@pytest.mark.parametrize("rounds", [ROUNDS, 300])
def test_the_length_of_chunks_leaves_no_trace(rounds, monkeypatch):
    case = CASES["gossip"]
    stop = tw.Stop(progress=1e-3, agreement=1e-2, patience=2)
    solve = lambda: case.solve("simulated", deterministic=False, rounds=rounds, every=3, stop=stop)
    usual = solve()
    for seconds in (1e-9, 1e9):
        monkeypatch.setattr(driver, "CHUNK_SECONDS", seconds)
        other = solve()
        assert numbers(other) == numbers(usual)
        assert (other.outcome, other.rounds) == (usual.outcome, usual.rounds)
    assert (usual.outcome is Outcome.CONVERGED) == (rounds == 300)


ENGINES = {"simulated": "simulated", "sharded": tw.Sharded(devices=2), "debug": "debug"}
RESUMED = "push, everything"


@pytest.mark.parametrize("engine", ENGINES)
def test_resuming_is_bitwise_the_uninterrupted_run(engine, tmp_path, deterministic):
    """The first part ends between two records; the second half may even run on another engine."""
    case, other = CASES[RESUMED], {"simulated": "sharded", "sharded": "debug", "debug": "simulated"}[engine]
    part = case.solve(ENGINES[engine], rounds=6, checkpoint=tmp_path)
    assert part.history["round"].tolist() == [4, 6]
    resumed = case.solve(ENGINES[other], checkpoint=tmp_path, resume=True)
    assert numbers(resumed) == numbers(deterministic(RESUMED))
    np.testing.assert_array_equal(resumed.ledger.messages, deterministic(RESUMED).ledger.messages)
    again = case.solve(ENGINES[engine], checkpoint=tmp_path, resume=True)
    assert numbers(again) == numbers(deterministic(RESUMED))


def test_ctrl_c_leaves_a_run_that_can_be_resumed(tmp_path, deterministic):
    def interrupt(k, history):
        if k == EVERY:
            signal.raise_signal(signal.SIGINT)

    case, before = CASES[RESUMED], signal.getsignal(signal.SIGINT)
    stopped = case.solve("simulated", checkpoint=tmp_path, progress=interrupt)
    assert (stopped.outcome, stopped.rounds) == (Outcome.INTERRUPTED, EVERY)
    assert signal.getsignal(signal.SIGINT) is before
    resumed = case.solve("simulated", checkpoint=tmp_path, resume=True)
    assert numbers(resumed) == numbers(deterministic(RESUMED))
    assert resumed.outcome is Outcome.ROUND_LIMIT


def test_a_stop_rule_does_not_notice_a_resume(tmp_path):
    """The look at the end of a part, between two records, must not count as calm."""
    case = CASES["gossip"]
    options = {"every": 10, "stop": tw.Stop(progress=1e-2, agreement=1e-1, patience=4), "deterministic": False}
    whole = case.solve("simulated", rounds=500, **options)
    assert whole.outcome is Outcome.CONVERGED
    assert whole.rounds > 45
    for number, rounds in enumerate((whole.rounds - 33, whole.rounds - 15, whole.rounds - 7, 500)):
        part = case.solve("simulated", rounds=rounds, checkpoint=tmp_path, resume=number > 0, **options)
    assert numbers(part) == numbers(whole)
    assert (part.outcome, part.rounds) == (whole.outcome, whole.rounds)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    case = CASES["gossip"]
    run = lambda case=case, **options: case.solve("simulated", False, checkpoint=tmp_path, **options)
    run()
    with pytest.raises(ValueError, match=r"already holds a run at round 11: pass resume=True"):
        run()
    with pytest.raises(ValueError, match=r"another seed: got 6, the checkpoint has 5; resume with"):
        run(resume=True, seed=6)
    with pytest.raises(ValueError, match="another network"):
        run(dataclasses.replace(case, network=case.network.with_failures(loss=1e-9)), resume=True)
    with pytest.raises(ValueError, match="another network"):
        run(resume=True, ids=np.arange(N) + 1)
    with pytest.raises(ValueError, match="another algorithm"):
        run(dataclasses.replace(case, algorithm=tw.DynamicAverage()), resume=True)
    with pytest.raises(ValueError, match="another columns"):
        run(resume=True, keep_agents=False)
    with pytest.raises(ValueError, match="another link"):
        run(resume=True, link=tw.message.cast("float32"))
    other = tw.Measurements(case.problem.pieces.data.at[0, 0].add(1e-15))
    with pytest.raises(ValueError, match="another problem"):
        tw.solve(other, case.algorithm, case.network, rounds=ROUNDS, checkpoint=tmp_path, resume=True, seed=5, every=EVERY)
    with pytest.raises(FileNotFoundError, match="no run in"):
        case.solve("simulated", False, checkpoint=tmp_path / "elsewhere", resume=True)
    with pytest.raises(ValueError, match="checkpoint="):
        case.solve("simulated", False, resume=True)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json cannot be read .* choose another folder"):
        run(resume=True)
    with pytest.raises(ValueError, match="got a file, expected a folder"):
        case.solve("simulated", False, checkpoint=tmp_path / "run.json")


def test_step_sizes_that_print_alike_are_told_apart(tmp_path):
    problem = support.quadratics(N, 3, 0)[0]
    run = lambda step, **how: tw.solve(problem, tw.DGD(step), UNDIRECTED, rounds=4, checkpoint=tmp_path, **how)
    run(0.05)
    with pytest.raises(ValueError, match="another algorithm"):
        run(0.05000001, resume=True)


def test_a_crash_while_saving_leaves_the_checkpoint_before(tmp_path, monkeypatch, deterministic):
    case = CASES[RESUMED]
    case.solve("simulated", rounds=4, checkpoint=tmp_path)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    with monkeypatch.context() as broken:
        broken.setattr(driver.checkpoint.json, "dumps", fail)
        with pytest.raises(OSError, match="disk full"):
            case.solve("simulated", rounds=8, checkpoint=tmp_path, resume=True)
    resumed = case.solve("simulated", checkpoint=tmp_path, resume=True)
    assert numbers(resumed) == numbers(deterministic(RESUMED))
    assert len(list(tmp_path.iterdir())) == 3


def test_bfloat16_runs_can_be_resumed(tmp_path):
    values = jnp.asarray(np.random.default_rng(0).standard_normal((N, 2)), jnp.bfloat16)
    run = lambda **how: tw.solve(tw.Measurements(values), tw.Averaging(), RING, every=2, **how)
    whole = run(rounds=6)
    run(rounds=4, checkpoint=tmp_path)
    assert numbers(run(rounds=6, checkpoint=tmp_path, resume=True)) == numbers(whole)


def test_more_than_a_buffer_of_records():
    """64 records fit the device's buffer; the others follow, none missing and none twice."""
    result = CASES["gossip"].solve("simulated", deterministic=False, rounds=200, every=1)
    np.testing.assert_array_equal(result.history["round"], np.arange(1, 201))
    np.testing.assert_array_equal(result.history["messages"], 2 * np.arange(1, 201))


def test_no_rounds_at_all():
    result = CASES["gossip"].solve("simulated", deterministic=False, rounds=0)
    np.testing.assert_array_equal(result.agents, CASES["gossip"].problem.pieces.data)
    assert (result.rounds, len(result.history), result.ledger.bytes.sum()) == (0, 0, 0)
    assert "all 0 rounds done" in str(result)
