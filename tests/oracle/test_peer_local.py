"""KGT, GTSAGA and ProximalTracking: local steps, single examples and non-smooth terms, all with the optimum as their limit.

Axes: `n` agents, `d` variables, `m` examples.
"""

import cvxpy as cp
import numpy as np
import pytest

import thalweg as tw
from support import agents, assert_follows, assert_rate, equal_curvature, gradients, quadratics, rate_of_modes

WEIGHTS = (1, 2, 3, 1, 2, 3)
SIX = tw.network.from_edges([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3), (1, 3)])
RING = tw.network.ring(10)
STEP = 0.02


def kgt(A, b, W, steps, kept, rounds):
    gradient = gradients(A, b)
    x, c = [np.zeros(b.shape)], np.zeros(b.shape)
    for _ in range(rounds):
        moved = x[-1]
        for _ in range(steps):
            moved = moved - STEP * (gradient(moved) + c)
        z = (x[-1] - moved) / (steps * STEP)
        c = c - z + W @ z
        x.append(W @ (x[-1] - steps * STEP * kept * z))
    return x


@pytest.mark.parametrize(("steps", "kept"), [(4, 1.0), (4, 0.5)])
def test_kgt_follows_the_stacked_recursion(steps, kept):
    problem, A, b, _ = quadratics(6, 3, 0, weights=WEIGHTS)
    expected = kgt(A, b, SIX.mixing.toarray(), steps, kept, 20)
    assert_follows(problem, tw.KGT(step_size=STEP, local_steps=steps, communication_step=kept), SIX, expected)


def test_kgt_with_one_local_step_is_gradient_tracking():
    problem, *_ = quadratics(6, 3, 0, weights=WEIGHTS)
    expected = agents(problem, tw.GradientTracking(step_size=STEP), SIX, 25)
    np.testing.assert_allclose(agents(problem, tw.KGT(step_size=STEP, local_steps=1), SIX, 25), expected, rtol=1e-10)


def test_kgt_reaches_the_optimum_where_plain_local_steps_do_not():
    problem, A, b, x_star = quadratics(6, 3, 0, weights=WEIGHTS)
    plain, W, gradient = np.zeros((6, 3)), SIX.mixing.toarray(), gradients(A, b)
    for _ in range(3000):
        for _ in range(4):
            plain = plain - STEP * gradient(plain)
        plain = W @ plain
    assert np.abs(plain - x_star).max() > 1e-2
    x = agents(problem, tw.KGT(step_size=STEP, local_steps=4), SIX, 3000)
    np.testing.assert_allclose(x, np.broadcast_to(x_star, x.shape), atol=1e-11)


def test_kgt_is_exact_under_symmetric_loss_and_sleep():
    problem, _, _, x_star = quadratics(6, 3, 0, weights=WEIGHTS)
    x = agents(problem, tw.KGT(), SIX.with_failures(loss=0.2, asleep=0.3), 6000)
    np.testing.assert_allclose(x, np.broadcast_to(x_star, x.shape), atol=1e-9)


@pytest.mark.parametrize("step", [0.02, 0.05])
def test_kgt_contracts_as_its_modes_say(step):
    problem, _, _, x_star = equal_curvature(10, 2, 1.5, 1)
    algorithm = tw.KGT(step_size=step, local_steps=4)
    assert_rate(problem, algorithm, RING, x_star, rate_of_modes(algorithm, 1.5, RING), tolerance=0.02)


def squared_error(x, example):
    features, target = example
    return 0.5 * (features @ x - target) ** 2


def ragged(seed=0, d=2):
    """(problem, pooled least squares solution): 3 to 8 examples per agent, targets from agent-specific models."""
    rng = np.random.default_rng(seed)
    data = []
    for m in (3, 8, 5, 4, 7, 6):
        features = np.sqrt(d) * np.linalg.qr(rng.standard_normal((m, d)))[0] * np.sqrt(m / d)
        data.append((features, features @ rng.standard_normal(d) + rng.standard_normal(m)))
    pooled = [np.concatenate(part) for part in zip(*data, strict=True)]
    return tw.EmpiricalRisk(squared_error, data, np.zeros(d)), np.linalg.lstsq(*pooled, rcond=None)[0]


@pytest.mark.parametrize("network", [SIX, SIX.with_failures(loss=0.2, asleep=0.3)], ids=["calm", "failing"])
def test_gt_saga_reaches_the_pooled_optimum_from_single_examples(network):
    problem, x_star = ragged()
    for seed in range(3):
        x = agents(problem, tw.GTSAGA(step_size=0.05), network, 12_000, seed=seed)
        np.testing.assert_allclose(x, np.broadcast_to(x_star, x.shape), atol=1e-9)


def test_gt_saga_with_its_default_step():
    problem, x_star = ragged()
    x = agents(problem, tw.GTSAGA(), SIX, 20_000)
    np.testing.assert_allclose(x, np.broadcast_to(x_star, x.shape), atol=1e-9)


def test_gt_saga_keeps_its_table_its_mean_and_its_tracker_consistent():
    """After any number of rounds: mean = mean of the table over own examples, Σ y = Σ g, and never a padded row touched."""
    problem, _ = ragged()
    result = tw.solve(problem, tw.GTSAGA(step_size=0.05), SIX, rounds=200, every=200)
    state = result.records.state
    start = tw.solve(problem, tw.GTSAGA(step_size=0.05), SIX, rounds=0).records.state
    for i, m in enumerate(problem.counts):
        np.testing.assert_allclose(state.mean[i], state.table[i, :m].mean(0), rtol=1e-9, atol=1e-12)
        np.testing.assert_array_equal(state.table[i, m:], start.table[i, m:])
        assert np.all(np.any(state.table[i, :m] != start.table[i, :m], axis=1))
    np.testing.assert_allclose(state.y.sum(0), state.g.sum(0), atol=1e-12)


def test_gt_saga_without_examples_is_gradient_tracking():
    problem, *_ = quadratics(6, 3, 0, weights=WEIGHTS)
    expected = agents(problem, tw.GradientTracking(step_size=STEP, order="diging"), SIX, 25)
    np.testing.assert_allclose(agents(problem, tw.GTSAGA(step_size=STEP), SIX, 25), expected, rtol=1e-10)


@pytest.mark.parametrize("relaxation", [1.0, 0.6])
def test_proximal_tracking_follows_the_stacked_recursion(relaxation):
    problem, A, b, _ = quadratics(6, 3, 0, weights=WEIGHTS, regularizer=tw.l1(0.2))
    W, gradient = SIX.mixing.toarray(), gradients(A, b)
    x = [np.zeros((6, 3))]
    y = gradient(x[0])
    for _ in range(20):
        v = x[-1] - 0.05 * y
        target = np.sign(v) * np.maximum(np.abs(v) - 0.05 * 0.2, 0)
        x.append(W @ (x[-1] + relaxation * (target - x[-1])))
        y = W @ y + gradient(x[-1]) - gradient(x[-2])
    assert_follows(problem, tw.ProximalTracking(step_size=0.05, relaxation=relaxation), SIX, x)


@pytest.mark.parametrize("failures", [{}, {"loss": 0.2, "asleep": 0.3}], ids=["calm", "failing"])
def test_proximal_tracking_reaches_the_lasso_solution_of_cvxpy(failures):
    strength = 0.2
    problem, A, b, smooth = quadratics(6, 3, 0, weights=WEIGHTS, regularizer=tw.l1(strength))
    x = cp.Variable(3)
    objective = 0.5 * cp.quad_form(x, cp.psd_wrap(A.mean(0))) + b.mean(0) @ x + strength * cp.norm1(x)
    cp.Problem(cp.Minimize(objective)).solve(solver="CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    # r changes the answer, and sets some of it to zero.
    assert np.any(np.abs(x.value) < 1e-6)
    assert np.abs(x.value - smooth).max() > 0.05
    found = agents(problem, tw.ProximalTracking(), SIX.with_failures(**failures), 6000)
    np.testing.assert_allclose(found, np.broadcast_to(x.value, found.shape), atol=1e-6)
    # cvxpy's digits end there; optimality in closed form does not: A x + b + strength·s = 0 with s a subgradient of ‖x‖₁.
    for own in found:
        slope, active = -(A.mean(0) @ own + b.mean(0)) / strength, np.abs(own) > 1e-6
        np.testing.assert_allclose(slope[active], np.sign(own[active]), atol=1e-8)
        assert np.all(np.abs(slope[~active]) <= 1 + 1e-8)


def test_proximal_tracking_without_r_is_gradient_tracking():
    problem, *_ = quadratics(6, 3, 0, weights=WEIGHTS)
    expected = agents(problem, tw.GradientTracking(step_size=STEP), SIX, 25)
    np.testing.assert_allclose(agents(problem, tw.ProximalTracking(step_size=STEP), SIX, 25), expected, rtol=1e-10)


@pytest.mark.parametrize("algorithm", [tw.KGT(step_size=0.1), tw.GTSAGA(step_size=0.1), tw.ProximalTracking(step_size=0.1)])
def test_one_agent_finds_its_own_minimiser(algorithm):
    problem, _, _, x_star = quadratics(1, 3, 5)
    np.testing.assert_allclose(agents(problem, algorithm, tw.network.complete(1), 600)[0], x_star, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tw.KGT(local_steps=0), "whole number ≥ 1"),
        (lambda: tw.KGT(communication_step=1.5), "0 < communication_step ≤ 1"),
        (lambda: tw.ProximalTracking(relaxation=0.0), "0 < relaxation ≤ 1"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
