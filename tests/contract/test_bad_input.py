"""A user's mistake is refused before anything runs: what was got, what was expected, how to mend it."""

import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from exports import solve
from support import quadratics

N = 4
RING = tw.network.ring(N)


@pytest.fixture(scope="module")
def problem():
    return quadratics(N, 2, 0)[0]


# Without the type checker of the tests, which would speak before our own messages.
unchecked = getattr(tw.solve, "__wrapped__", tw.solve)


def refused(*words, kind=ValueError):
    """`pytest.raises` of a message that has all the words."""
    pattern = "(?s)" + "".join(f"(?=.*{word})" for word in words)
    return pytest.raises(kind, match=pattern)


class TestNetwork:
    def test_disconnected_graph(self):
        with refused("not connected", "2 components", "with agent 0", "with agent 2", "Add edges"):
            tw.network.from_edges([(0, 1), (2, 3)], n=4)

    def test_asymmetric_weights_on_an_undirected_network(self):
        W = RING.mixing.toarray()
        W[0, 1], W[0, 0] = W[0, 1] + 0.1, W[0, 0] - 0.1
        with refused("symmetric"):
            RING.with_weights(W)

    def test_rows_that_do_not_sum_to_one(self):
        W = RING.mixing.toarray()
        W[2, 2] += 0.5
        with refused("row 2", "1.5"):
            RING.with_weights(W)

    @pytest.mark.parametrize("algorithm", [tw.GradientTracking(), tw.EXTRA(), tw.EdgeADMM(), tw.DGD()], ids=lambda a: type(a).__name__)
    def test_undirected_method_on_a_directed_graph(self, problem, algorithm):
        arcs = [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)]
        with refused(type(algorithm).__name__, "directed"):
            solve(problem, algorithm, tw.network.from_edges(arcs, n=4, directed=True))

    def test_another_number_of_agents(self, problem):
        with refused("4 agents", "network 5", "n=4"):
            solve(problem, tw.DGD(), tw.network.ring(5))

    def test_a_method_for_fixed_networks_under_a_schedule(self, problem):
        with refused("OPAPC", "does not change"):
            solve(problem, tw.OPAPC(), tw.network.pairwise_gossip(RING))


class TestProblem:
    def test_an_agent_without_data(self):
        data = [np.ones((2, 3)), np.ones((0, 3)), np.ones((1, 3))]
        with refused("agent 1", "no"):
            tw.EmpiricalRisk(lambda x, a: (a @ x) ** 2, data, np.zeros(3))

    def test_nan_in_the_data(self):
        data = np.ones((N, 3))
        data[2, 1] = np.nan
        with refused("agent 2"):
            tw.Consensus(lambda x, a: jnp.sum((x - a) ** 2), data, np.zeros(3))

    def test_agents_of_different_shapes(self):
        with refused("agent", "shape"):
            tw.Consensus(lambda x, a: jnp.sum((x - a) ** 2), [np.ones(3), np.ones(2)], np.zeros(3))

    def test_negative_weights(self):
        with refused("weights", "-1"):
            tw.quadratic(np.stack([np.eye(2)] * 2), np.zeros((2, 2)), weights=[2.0, -1.0])

    def test_loss_that_is_not_a_scalar(self):
        with refused("scalar", r"\(3,\)", kind=(TypeError, ValueError)):
            tw.Consensus(lambda x, a: (x - a) ** 2, np.ones((N, 3)), np.zeros(3))

    def test_loss_that_is_not_differentiable(self):
        with refused("gradient of the loss of agent 0", "differentiable"):
            tw.Consensus(lambda x, a: jnp.sum(jnp.sqrt(jnp.abs(x))) * a, np.ones(N), np.zeros(2))

    def test_integer_start(self):
        with refused("float", kind=(TypeError, ValueError)):
            tw.Consensus(lambda x, a: jnp.sum(x * a), np.ones((N, 3)), np.zeros(3, int))

    def test_a_regulariser_without_a_prox_method(self, problem):
        lasso = quadratics(N, 2, 0, regularizer=tw.l1(0.1))[0]
        with refused("DGD has no prox", "PGEXTRA"):
            solve(lasso, tw.DGD(), RING)

    def test_consensus_on_an_optimisation_problem(self, problem):
        with refused("Averaging computes with measurements", "Measurements", kind=TypeError):
            solve(problem, tw.Averaging(), RING)


class TestSteps:
    @pytest.mark.parametrize("step", [0.0, -0.1, float("nan"), float("inf")])
    def test_not_positive(self, problem, step):
        with refused("step_size", "positive"):
            solve(problem, tw.DGD(step_size=step), RING)

    def test_above_the_bound_is_a_warning_with_the_bound(self, problem):
        bound = tw.EXTRA().step_bound
        result = solve(problem, tw.EXTRA(step_size=1e-3), RING, rounds=1)
        assert not result.warnings
        assert bound is not None
        with pytest.warns(RuntimeWarning, match=r"step_size 50 is above the provable bound 0\.\d+"):
            tw.solve(problem, tw.EXTRA(step_size=50.0), RING, rounds=1)

    def test_the_users_own_objects_are_not_changed(self, problem):
        algorithm = tw.DGD(step_size=1e-3)
        solve(problem, algorithm, RING, rounds=1)
        assert algorithm.step_size == 1e-3

    def test_steps_per_agent_where_they_would_move_the_limit(self, problem):
        with refused("GradientTracking", "NIDS"):
            solve(problem, tw.GradientTracking(step_size=tw.LocalStep(0.5)), RING)


class TestArguments:
    def test_a_class_for_an_object(self, problem):
        with refused(r"write DGD\(\)", kind=TypeError):
            unchecked(problem, tw.DGD, RING)

    def test_unknown_engine(self, problem):
        with refused("got engine='simulate'", "did you mean 'simulated'"):
            solve(problem, tw.DGD(), RING, engine="simulate")

    @pytest.mark.parametrize("wrong", [{"rounds": -1}, {"rounds": 1.5}, {"every": 0}])
    def test_counts(self, problem, wrong):
        with refused(next(iter(wrong)), "whole number"):
            unchecked(problem, tw.DGD(), RING, **wrong)

    def test_resume_without_a_folder(self, problem):
        with refused("resume=True", "checkpoint="):
            solve(problem, tw.DGD(), RING, resume=True)

    def test_ids_that_are_not_different(self, problem):
        with refused("4 different integers"):
            solve(problem, tw.DGD(), RING, ids=np.zeros(N, int))

    def test_unknown_report(self, problem):
        with refused("gradient_norm"):
            solve(problem, tw.DGD(), RING, report=("gradnorm",))


class TestNotFinite:
    @pytest.mark.parametrize("engine", ["simulated", "debug"])
    def test_names_agent_and_round_and_keeps_the_last_good_state(self, engine):
        """Agent 2's loss has no value once x exceeds 1, which gradient steps of a known size reach in a known round."""
        target = np.full((N, 1), 10.0)
        limit = np.array([1e9, 1e9, 1.0, 1e9])

        def loss(x, data):
            target, limit = data
            return jnp.sum(0.5 * (x - target) ** 2 * jnp.where(x > limit, jnp.nan, 1.0))

        names = ("a", "b", "c", "d")
        problem = tw.Consensus(loss, (target, limit), np.zeros(1), smoothness=1.0, strong_convexity=1.0, names=names)
        step = 0.03
        x, k = 0.0, 0
        while x <= 1:  # all agents move alike: x ← x − step (x − 10)
            x, k = x - step * (x - 10), k + 1
        result = solve(problem, tw.DGD(step_size=step), RING, rounds=100, every=50, engine=engine)
        assert result.outcome is tw.Outcome.NOT_FINITE
        # DGD computes the gradient at the x of the round before; the first one that is NaN is that of round k.
        assert "c" in result.reason.split()[0]
        assert f"round {k}" in result.reason or f"round {k - 1}" in result.reason
        assert np.isfinite(np.asarray(result.agents)).all()

    def test_divergence(self, problem):
        result = solve(problem, tw.DGD(step_size=50.0), RING, rounds=500)
        assert result.outcome is tw.Outcome.DIVERGED
        assert "round" in result.reason
        assert "smaller step" in str(result)
        assert np.isfinite(np.asarray(result.agents)).all()
