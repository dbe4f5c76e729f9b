"""Mistakes are refused before anything runs, saying what was got, what is expected and how to mend it; and a run that breaks
names the agent and the round, and keeps the last good state.

What problem and network refuse while they are built is tested with them; here is what only meets in `solve`.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

import support
import thalweg as tw
from thalweg.engine import refusals
from thalweg.observe import Outcome

N = 5
RING = tw.network.ring(N)
ONE_WAY = tw.network.from_edges([[i, (i + 1) % N] for i in range(N)] + [[0, 2]], directed=True)
QUADRATIC = support.quadratics(N, 2, 0)[0]
MEASURED = tw.Measurements(np.arange(N, dtype=float))
TRACKING = tw.GradientTracking()


def refused(kind, got, expected, remedy, problem=QUADRATIC, algorithm=TRACKING, network=RING, **options):
    """`solve` raises `kind` before it runs, and its message has all three parts."""
    ran = []
    with pytest.raises(kind) as caught:
        tw.solve(problem, algorithm, network, progress=lambda k, history: ran.append(k), **options)
    message = str(caught.value)
    for part in (got, expected, remedy):
        assert part in message, message
    assert not ran


def test_networks_that_do_not_fit():
    split = tw.network.from_edges([[0, 1], [2, 3], [3, 4]], n=N, allow_disconnected=True)
    refused(ValueError, "not connected", "agree", "add edges", network=split)
    refused(ValueError, "directed", "undirected", "two-way", algorithm=tw.EdgeADMM(), network=ONE_WAY)
    refused(ValueError, "does not have", "doubly stochastic", "PushPull", network=ONE_WAY)
    refused(ValueError, "5 agents and the network 6", "n=5", "build the network", network=tw.network.ring(6))
    gossip = tw.network.pairwise_gossip(RING)
    refused(ValueError, "pairwise gossip", "row- or column-stochastic", "weights", algorithm=tw.PushDIGing(), network=gossip)
    changing = tw.network.periodic([RING, tw.network.star(N)])
    changes = {"problem": MEASURED, "algorithm": tw.ChebyshevAveraging(), "network": changing}
    refused(ValueError, "periodic", "does not change", "network", **changes)


def test_weights_that_do_not_fit():
    """A directed doubly stochastic W is not symmetric."""
    cycle = tw.network.ring(N, directed=True)
    refused(ValueError, "uniform weights", "symmetric", "PushPull", algorithm=tw.EXTRA(), network=cycle)
    matrix = RING.mixing.toarray()
    matrix[0, 1] += 0.1
    with pytest.raises(ValueError, match=r"must be symmetric; got W\[.*Pass \(W \+ W\.T\)/2"):
        RING.with_weights(matrix)
    matrix[1, 0] += 0.1
    with pytest.raises(ValueError, match=r"must sum to 1 in every row; got row 0.*Put what is missing"):
        RING.with_weights(matrix)


@pytest.mark.parametrize("algorithm", [tw.Averaging(), tw.GradientTracking(), tw.EXTRA(), tw.PushPull(), tw.PushSum()])
def test_weights_that_never_agree(algorithm):
    """σ = 1 where everybody only swaps, and 2 with a negative entry; the library's rules always have σ < 1."""
    swap = [[0.0, 1.0], [1.0, 0.0]]
    problem = tw.Measurements([1.0, 2.0]) if "measurements" in algorithm.needs else support.quadratics(2, 2, 0)[0]
    for matrix, sigma in ((swap, "1"), ([[1.5, -0.5], [-0.5, 1.5]], "2")):
        network = tw.network.from_matrix(np.array(matrix), directed=isinstance(algorithm, tw.PushPull | tw.PushSum))
        refused(ValueError, f"got {sigma} as second", "less than 1", "(I + W)/2", problem, algorithm, network)
    lazy = tw.network.from_matrix((np.eye(2) + swap) / 2)
    assert tw.solve(problem, algorithm, lazy, rounds=1).rounds == 1


def test_problems_that_do_not_fit():
    lasso = tw.quadratic(np.ones((N, 1, 1)), np.ones((N, 1)), regularizer=tw.l1(0.1))
    refused(ValueError, "non-smooth", "prox", "PGEXTRA", problem=lasso)
    refused(TypeError, "Consensus", "Measurements(values)", "optimisation method", algorithm=tw.Averaging())
    convex = tw.quadratic(np.zeros((N, 1, 1)) + np.eye(1) * np.arange(N)[:, None, None], np.ones((N, 1)))
    refused(ValueError, "min μ_i = 0", "strongly convex", "tw.l2", problem=convex, algorithm=tw.OPAPC())
    flat = tw.Consensus(lambda x, slope: slope * x, np.ones(N), np.zeros(()))
    refused(ValueError, "L_i =", "positive Lipschitz constant", "smoothness=", problem=flat)


@pytest.mark.parametrize("step", [0.0, -0.1, float("nan"), float("inf"), 0])
def test_step_sizes_that_are_none(step):
    for algorithm, field in ((tw.GradientTracking, "step_size"), (tw.EdgeADMM, "penalty")):
        refused(
            ValueError, f"{field}={step!r}", "positive number", "None for the default", algorithm=algorithm(**{field: step})
        )


def test_an_array_is_no_step_size():
    many = eqx.tree_at(lambda a: a.step_size, tw.AugDGM(0.1), np.ones(5))  # users run without a type checker
    refused(TypeError, "shape (5,)", "one number", "tw.PerAgent", algorithm=many)


def test_step_sizes_per_agent():
    each = tw.algorithm.PerAgent(np.full(N, 0.1))
    refused(ValueError, "own step sizes", "one number", "tw.NIDS", algorithm=tw.GradientTracking(each))
    refused(ValueError, "own step sizes", "one number", "tw.NIDS", algorithm=tw.GradientTracking(tw.algorithm.LocalStep()))
    wrong = tw.algorithm.PerAgent(np.full(N + 1, 0.1))
    refused(ValueError, "(6,)", "(5,)", "one value per agent", algorithm=tw.NIDS(wrong))
    negative = tw.algorithm.PerAgent(np.array([0.1, 0.1, -0.1, 0.1, 0.1]))
    refused(ValueError, "step_size=", "positive number", "None", algorithm=tw.NIDS(negative))


@pytest.mark.parametrize("step", [5.0, 5, np.float64(5), jnp.asarray(5.0)], ids=["float", "int", "numpy", "jax"])
def test_a_step_above_the_provable_bound_is_warned_about_with_the_bound(step):
    with pytest.warns(RuntimeWarning, match=r"step_size 5 is above the provable bound 0\.\d+; the run may diverge") as caught:
        result = tw.solve(QUADRATIC, tw.DGD(step), RING, rounds=2)
    assert result.warnings == tuple(str(warning.message) for warning in caught)
    facts = result.algorithm.step_bound(refusals_facts())
    assert f"{facts:.4g}" in result.warnings[0]


def refusals_facts():
    from thalweg.engine.facts import gather_facts

    return gather_facts(QUADRATIC, tw.DGD(), RING)


def test_arguments_of_solve():
    refused(ValueError, "rounds=-1", "whole number", "≥ 0", rounds=-1)
    refused(ValueError, "every=0", "whole number", "None", every=0)
    refused(ValueError, "'simulatd'", "simulated, debug, sharded", "did you mean 'simulated'", engine="simulatd")
    refused(ValueError, "devices=99", "4 device(s)", "machine", engine=tw.Sharded(devices=99))
    refused(ValueError, "devices=2", "5 agents", "use devices=1", engine=tw.Sharded(devices=2))
    refused(ValueError, "shape (3,)", "5 different integers", "ids", ids=np.arange(3))
    refused(ValueError, "shape (5,)", "different", "ids", ids=np.zeros(N, int))
    refused(ValueError, "from -1 to 3", "from 0", "2³¹", ids=np.arange(N) - 1)
    refused(ValueError, "to 4294967296", "from 0", "2³¹", ids=np.arange(N) * 2**30)
    refused(ValueError, "'gradient_nrm'", "gradient_norm", "expected one of", report=("gradient_nrm",))
    refused(TypeError, "another structure", "x0", "tw.reference", reference={"x": np.zeros(2)})
    refused(ValueError, "(3,)", "(2,)", "tw.reference", reference=np.zeros(3))
    refused(ValueError, "NaN", "finite", "tw.reference", reference=np.array([0.0, np.nan]))
    other = tw.solve(QUADRATIC, tw.DGD(), RING, rounds=1)
    refused(ValueError, "another algorithm", "start", "it had DGD", start=other)


def test_types_of_arguments():
    """Checked by hand, since users run without a type checker."""
    good = {
        "problem": QUADRATIC, "algorithm": TRACKING, "network": RING, "rounds": 1, "every": None, "seed": 0, "stop": None,
        "link": None, "report": (),
    }  # fmt: skip
    refusals.check_arguments(**good)
    for name, value, words in (
        ("problem", 3, "got int as problem, expected a thalweg Problem"),
        ("network", "ring", "got str as network, expected a thalweg Network"),
        ("algorithm", tw.DGD, r"got the class DGD, expected an object: write DGD\(\)"),
        ("algorithm", "DGD", "got str as algorithm, expected one of tw.algorithms"),
        ("stop", 1e-8, r"got float as stop, expected tw\.Stop"),
        ("link", "float32", "got str as link, expected a stage of tw.message"),
        ("seed", 0.5, "seed=0.5, expected a whole number"),
        ("rounds", True, "rounds=True, expected a whole number"),
        ("rounds", 1e3, r"rounds=1000.0, expected a whole number"),
        ("every", 2.5, "every=2.5, expected a whole number"),
        ("report", "gradient_norm", r"expected a tuple of names: report=\('gradient_norm',\)"),
    ):
        with pytest.raises(TypeError, match=words):
            refusals.check_arguments(**good | {name: value})


def test_numpy_integers_are_whole_numbers(tmp_path):
    """…also where a checkpoint writes them into a file."""
    how = {"rounds": np.int64(4), "every": np.int32(2), "seed": np.uint8(3), "checkpoint": tmp_path}
    solve = tw.solve.__wrapped__  # users run without a type checker
    result = solve(MEASURED, tw.Averaging(), RING, **how)
    again = solve(MEASURED, tw.Averaging(), RING, **how | {"rounds": 6, "seed": 3}, resume=True)
    assert (result.rounds, again.rounds) == (4, 6)


def test_large_values_are_no_divergence():
    """Clocks in nanoseconds: what has diverged is measured against where the agents start."""
    clocks = 1.7e18 + 1e6 * np.arange(N)
    result = tw.solve(tw.Measurements(clocks), tw.Averaging(), RING, rounds=100)
    assert result.outcome is Outcome.ROUND_LIMIT
    np.testing.assert_allclose(result.agents, clocks.mean(), rtol=1e-12)


# A run that breaks: φ_i(x) = ½(x − 1)² for all, gradient descent from 0 with step ½ on a complete graph, so that every agent
# stands at x_k = 1 − 2^−k. Beyond its own wall, one agent's loss is not a number.
WALL = 0.95  # x_4 = 0.9375 and x_5 = 0.96875: round 4, counted from 0, is the first that ends beyond it
BAD_ROUND, BAD_AGENT = 4, 3


def everywhere(x, wall):
    """Value and gradient NaN beyond the wall."""
    return 0.5 * (x - 1) ** 2 * jnp.where(x > wall, jnp.nan, 1.0)


def value_only(x, wall):
    """NaN as a value, with gradient zero."""
    return jnp.where(x > wall, jnp.nan, 0.5 * (x - 1) ** 2)


def gradient_only(x, wall):
    """√ of what is left, weighted by zero: finite, but 0·∞ as a gradient beyond the wall."""
    return 0.5 * (x - 1) ** 2 + 0.0 * jnp.sqrt(jnp.maximum(wall - x, 0.0))


@pytest.mark.parametrize(("engine", "every"), [("simulated", 1), ("simulated", 7), ("simulated", 100), ("debug", 7)])
@pytest.mark.parametrize("loss", [everywhere, value_only, gradient_only])
def test_nan_names_the_agent_and_the_round_and_keeps_the_last_good_state(loss, engine, every):
    walls = np.full(N, 10.0)
    walls[BAD_AGENT] = WALL
    names = ("Ada", "Bo", "Cy", "Dee", "Eve")
    problem = tw.Consensus(loss, walls, np.zeros(()), smoothness=1.0, strong_convexity=1.0, names=names)
    rule = tw.Stop(progress=10.0, agreement=10.0, patience=3) if every == 7 else None
    result = tw.solve(
        problem, tw.GradientTracking(0.5), tw.network.complete(N), rounds=300, every=every, engine=engine, stop=rule
    )
    assert result.outcome is Outcome.NOT_FINITE
    assert names[BAD_AGENT] in result.reason, result.reason
    assert not any(name in result.reason for name in names if name != names[BAD_AGENT])
    assert f"in round {BAD_ROUND}" in result.reason, result.reason
    assert result.rounds == BAD_ROUND
    np.testing.assert_allclose(result.agents, 1 - 0.5**BAD_ROUND, rtol=1e-12)
    assert result.history["round"][-1] == BAD_ROUND
    assert (np.diff(result.history["round"]) > 0).all()
    assert np.isfinite(result.history["objective"]).all()
    assert result.outcome.remedy in str(result)
    if loss is not value_only:
        assert "receive" in result.reason, "the role that made it is named"


def test_the_records_before_a_break_are_kept():
    """More good records than one look of the host: all are there, up to the last good round."""
    walls = np.full(N, 10.0)
    walls[BAD_AGENT] = 1 - 2.0**-30.5
    problem = tw.Consensus(everywhere, walls, np.zeros(()), smoothness=1.0, strong_convexity=1.0)
    result = tw.solve(problem, tw.GradientTracking(0.5), tw.network.complete(N), rounds=300, every=1)
    assert result.rounds == 30
    np.testing.assert_array_equal(result.history["round"], np.arange(1, 31))


def test_divergence_keeps_the_last_good_state():
    """x ← x − 5x: |x_k| = 4^k passes 10¹² times the start in the 21st round."""
    problem = tw.Consensus(lambda x, _: 0.5 * x**2, np.zeros(N), np.ones(()), smoothness=1.0, strong_convexity=1.0)
    with pytest.warns(RuntimeWarning, match="above the provable bound"):
        result = tw.solve(problem, tw.DGD(5.0), tw.network.complete(N), rounds=300, every=9)
    assert result.outcome is Outcome.DIVERGED
    limit = 1e12 * (1 + 1.0)
    expected = next(k for k in range(100) if 1 + 4.0 ** (k + 1) > limit)
    assert result.rounds == expected
    assert f"in round {expected}" in result.reason
    np.testing.assert_allclose(result.agents, (-4.0) ** expected)


def test_a_stop_rule_does_not_hide_a_break():
    """Calm at every single round but not yet at enough records when it breaks: the replay must not stop there either."""
    walls = np.full(N, 10.0)
    walls[BAD_AGENT] = 1 - 2.0**-25.5
    problem = tw.Consensus(everywhere, walls, np.zeros(()), smoothness=1.0, strong_convexity=1.0)
    rule = tw.Stop(progress=10.0, agreement=10.0, patience=3)
    result = tw.solve(problem, tw.GradientTracking(0.5), tw.network.complete(N), rounds=300, every=10, stop=rule)
    assert (result.outcome, result.rounds) == (Outcome.NOT_FINITE, 25)


def test_a_broken_run_can_be_looked_at_again(tmp_path):
    """Its checkpoint is the last good state, and resuming meets the same break."""
    walls = np.where(np.arange(N) == BAD_AGENT, WALL, 10.0)
    problem = tw.Consensus(everywhere, walls, np.zeros(()), smoothness=1.0, strong_convexity=1.0)
    run = lambda **how: tw.solve(
        problem, tw.GradientTracking(0.5), tw.network.complete(N), rounds=300, every=7, checkpoint=tmp_path, **how
    )
    first, again = run(), run(resume=True)
    assert (again.outcome, again.reason, again.rounds) == (first.outcome, first.reason, first.rounds)
    np.testing.assert_array_equal(again.history["round"], first.history["round"])
