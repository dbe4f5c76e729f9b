"""Stopping: both conditions with patience from global measures; and the distributed rule, sound under loss."""

import dataclasses

import numpy as np
import pytest
from exports import solve
from support import quadratics

import thalweg as tw

N = 8
FAMILIES = {
    "path": tw.network.path(N),
    "ring": tw.network.ring(N),
    "star": tw.network.star(N),
    "complete": tw.network.complete(N),
    "grid": tw.network.grid(2, 4),
    "hypercube": tw.network.hypercube(3),
    "torus": tw.network.torus(2, 4),
    "tree": tw.network.tree(branching=2, depth=2),
    "erdos_renyi": tw.network.erdos_renyi(N, 0.5, seed=1),
    "geometric": tw.network.geometric(N, seed=1),
    "small_world": tw.network.small_world(N, 4, 0.2, seed=1),
    "random_regular": tw.network.random_regular(N, 3, seed=1),
    "directed ring": tw.network.ring(N, directed=True),
    "exponential": tw.network.exponential(N),
}


def measurements(n):
    return tw.Measurements(np.random.default_rng(3).normal(size=(n, 2)) * 10)


class TestGlobalRule:
    def test_both_conditions_must_hold(self):
        problem, *_ = quadratics(N, 2, 0)
        network = FAMILIES["ring"]
        loose, tight = 1.0, 1e-9
        calm = solve(problem, tw.GradientTracking(), network, rounds=3000, every=5, stop=tw.Stop(tight, loose))
        agreed = solve(problem, tw.GradientTracking(), network, rounds=3000, every=5, stop=tw.Stop(loose, tight))
        both = solve(problem, tw.GradientTracking(), network, rounds=3000, every=5, stop=tw.Stop(tight, tight))
        assert calm.converged and agreed.converged and both.converged
        assert both.rounds == max(calm.rounds, agreed.rounds)

    def test_patience_counts_records_in_a_row(self):
        problem, *_ = quadratics(N, 2, 0)
        ends = [
            solve(problem, tw.GradientTracking(), FAMILIES["ring"], rounds=3000, every=5, stop=tw.Stop(1e-8, 1e-8, patience=p)).rounds
            for p in (1, 4)
        ]
        assert ends[1] - ends[0] == 3 * 5

    def test_standing_still_without_agreement_is_not_convergence(self):
        # Agents that only repeat what they measured make no progress and never agree: max-consensus of different values
        # on a network that always loses its messages.
        network = FAMILIES["ring"].with_failures(loss=0.999999)
        result = solve(measurements(N), tw.Averaging(), network, rounds=200, every=5, stop=tw.Stop(1e-6, 1e-6, patience=2))
        assert result.outcome is tw.Outcome.ROUND_LIMIT


@pytest.mark.parametrize("family", FAMILIES)
def test_distributed_rule_stops_everybody_together_and_in_agreement(family):
    network = FAMILIES[family]
    n, diameter = network.n, int(network.facts.diameter)
    stop = tw.Stop(1e-7, 1e-7, patience=2, distributed=True)
    result = solve(measurements(n), tw.Averaging(), network, rounds=3000, every=3000, stop=stop)
    assert result.converged
    # All decide at the end of one window of `diameter` rounds; nobody needed the news to be carried to it.
    assert result.rounds % diameter == 0
    x = np.asarray(result.agents)
    spread = np.abs(x - x.mean(0)).max()
    assert spread <= 1e-7 * (1 + np.linalg.norm(x, axis=1).max()) * np.sqrt(x.shape[1])
    one_less = dataclasses.replace(stop, patience=1)
    earlier = solve(measurements(n), tw.Averaging(), network, rounds=3000, every=3000, stop=one_less)
    assert result.rounds - earlier.rounds == diameter


@pytest.mark.parametrize("failures", [{"loss": 0.05}, {"loss": 0.05, "symmetric": False}, {"asleep": 0.03}])
def test_under_failures_nobody_stops_before_all_agree(failures):
    """The flags are watched round by round: at the first decision, all estimates agree already."""
    network = FAMILIES["hypercube"].with_failures(**failures)
    tolerance = 1e-4
    stop = tw.Stop(tolerance, tolerance, patience=1, distributed=True)
    for seed in range(3):
        result = solve(measurements(N), tw.Averaging(), network, rounds=4000, every=1, stop=stop, seed=seed)
        assert result.converged
        # `every=1`: the record before the last is at least one round before the last agent heard; go back by a diameter.
        spread = result.history["disagreement"].max(1)
        size = 1 + np.linalg.norm(np.asarray(result.agents), axis=1).max()
        first_possible = max(0, result.rounds - 4 * int(network.facts.diameter))
        assert (spread[first_possible:] <= 2 * tolerance * size).all()


def test_a_missing_flag_counts_as_not_agreed():
    """At an agent that hears nobody, agreement on its own values must not count."""
    network = FAMILIES["ring"].with_failures(loss=0.9)
    equal = tw.Measurements(np.ones((N, 2)))  # everybody agrees and is calm from the start
    stop = tw.Stop(1e-6, 1e-6, patience=1, distributed=True)
    without_loss = solve(equal, tw.Averaging(), FAMILIES["ring"], rounds=50, every=50, stop=stop)
    with_loss = solve(equal, tw.Averaging(), network, rounds=50, every=50, stop=stop)
    assert without_loss.rounds == 2 * 4  # one window to be calm in, one to hear of everybody
    assert with_loss.outcome is tw.Outcome.ROUND_LIMIT


def test_a_bound_below_the_diameter_is_refused():
    with pytest.raises(ValueError, match=r"expected a bound on the diameter, which is 4"):
        solve(measurements(N), tw.Averaging(), FAMILIES["ring"], stop=tw.Stop(distributed=True, diameter=3))


def test_schedules_are_refused_by_the_distributed_rule():
    gossip = tw.network.pairwise_gossip(FAMILIES["ring"])
    with pytest.raises(ValueError, match="needs a network whose edges do not change"):
        solve(measurements(N), tw.Averaging(), gossip, stop=tw.Stop(distributed=True))


@pytest.mark.parametrize("wrong", [{"progress": 0.0}, {"agreement": -1.0}, {"patience": 0}, {"diameter": 0}])
def test_wrong_rules(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
        tw.Stop(**wrong)


def test_tolerances_finer_than_the_dtype_are_refused():
    problem = tw.Measurements(np.zeros((N, 1), np.float32))
    with pytest.raises(ValueError, match="finer than float32's resolution"):
        solve(problem, tw.Averaging(), FAMILIES["ring"], stop=tw.Stop(1e-9, 1e-9))
