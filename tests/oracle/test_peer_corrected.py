"""EXTRA, PG-EXTRA, NIDS, exact diffusion: published recursions, exact limits, rates, step bounds, failures."""

import cvxpy as cp
import numpy as np
import pytest

import thalweg as tw
from support import (
    agents,
    assert_follows,
    assert_rate,
    equal_curvature,
    gradients,
    quadratics,
    rate_of_modes,
    with_lowest_eigenvalue,
)

N, D = 8, 3
NETWORK = tw.network.geometric(N, seed=3)
SHARP = with_lowest_eigenvalue(NETWORK, -0.6)
WEIGHTS = np.arange(1.0, N + 1)
STEPS = np.linspace(0.03, 0.12, N)[:, None]  # one per agent
L1 = 0.35


def shrink(x, threshold):
    return np.sign(x) * np.maximum(np.abs(x) - threshold, 0)


def extra(W, gradient, step, rounds):
    """Shi et al. 2015, (2.11) and (2.13)."""
    mean = (np.eye(N) + W) / 2
    x = [np.zeros((N, D))]
    x.append(W @ x[0] - step * gradient(x[0]))
    for _ in range(rounds - 1):
        x.append(x[-1] + W @ x[-1] - mean @ x[-2] - step * (gradient(x[-1]) - gradient(x[-2])))
    return x


def pg_extra(W, gradient, step, rounds):
    """Shi et al. 2015 (PG-EXTRA), Algorithm 1."""
    mean = (np.eye(N) + W) / 2
    x = [np.zeros((N, D))]
    z = W @ x[0] - step * gradient(x[0])
    x.append(shrink(z, step * L1))
    for _ in range(rounds - 1):
        z = W @ x[-1] + z - mean @ x[-2] - step * (gradient(x[-1]) - gradient(x[-2]))
        x.append(shrink(z, step * L1))
    return x


def nids(W, gradient, step, rounds, prox=True):
    """Li, Shi and Yan 2019, (9), whose first round we also combine: z(1) = W̃(x(0) − Λ∇φ(x(0)))."""
    tilde = np.eye(N) - step / (2 * np.max(step)) * (np.eye(N) - W)
    x = [np.zeros((N, D))]
    z = tilde @ (x[0] - step * gradient(x[0]))
    x.append(shrink(z, step * L1) if prox else z)
    for _ in range(rounds - 1):
        z = z - x[-1] + tilde @ (2 * x[-1] - x[-2] - step * (gradient(x[-1]) - gradient(x[-2])))
        x.append(shrink(z, step * L1) if prox else z)
    return x


def exact_diffusion(W, gradient, step, rounds):
    """Yuan et al. 2019, Algorithm 1: adapt, correct, combine."""
    mean = (np.eye(N) + W) / 2
    x, before = [np.zeros((N, D))], np.zeros((N, D))
    for _ in range(rounds):
        adapted = x[-1] - step * gradient(x[-1])
        x.append(mean @ (adapted + x[-1] - before))
        before = adapted
    return x


@pytest.mark.parametrize(
    ("algorithm", "recursion", "step"),
    [(tw.EXTRA, extra, 0.1), (tw.ExactDiffusion, exact_diffusion, 0.1), (tw.NIDS, nids, STEPS)],
)
def test_smooth_recursion_and_limit(algorithm, recursion, step):
    problem, A, b, x_star = quadratics(N, D, 0, weights=WEIGHTS)
    options = {"prox": False} if recursion is nids else {}
    chosen = algorithm(step if np.isscalar(step) else tw.PerAgent(step[:, 0]))
    assert_follows(problem, chosen, NETWORK, recursion(NETWORK.mixing.toarray(), gradients(A, b), step, 60, **options))
    np.testing.assert_allclose(agents(problem, chosen, NETWORK, 3000), np.tile(x_star, (N, 1)), atol=1e-12)


def lasso(A, b):
    """argmin ½xᵀĀx + b̄ᵀx + L1·‖x‖₁."""
    x = cp.Variable(D)
    objective = 0.5 * cp.quad_form(x, cp.psd_wrap(A.mean(0))) + b.mean(0) @ x + L1 * cp.norm1(x)
    cp.Problem(cp.Minimize(objective)).solve(solver=cp.CLARABEL, tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    return x.value


@pytest.mark.parametrize(
    ("algorithm", "recursion", "step"), [(tw.PGEXTRA, pg_extra, 0.1), (tw.NIDS, nids, STEPS), (tw.ExactDiffusion, None, 0.1)]
)
def test_proximal_recursion_and_limit(algorithm, recursion, step):
    problem, A, b, _ = quadratics(N, D, 0, weights=WEIGHTS, regularizer=tw.l1(L1))
    chosen = algorithm(step if np.isscalar(step) else tw.PerAgent(step[:, 0]))
    if recursion is not None:
        assert_follows(problem, chosen, NETWORK, recursion(NETWORK.mixing.toarray(), gradients(A, b), step, 60))
    solution = lasso(A, b)
    assert np.sum(np.abs(solution) < 1e-6) == 1  # so that the prox is seen at work
    x = agents(problem, chosen, NETWORK, 4000)
    np.testing.assert_allclose(x, np.tile(solution, (N, 1)), atol=1e-6)
    # Optimality to the last bit: x = prox_r(x − ∇f(x)).
    np.testing.assert_allclose(shrink(x - (x @ A.mean(0) + b.mean(0)), L1), x, atol=1e-11)


LARGEST = {tw.EXTRA: (5 - 3 * 0.6) / 4, tw.PGEXTRA: (5 - 3 * 0.6) / 4, tw.NIDS: 2.0, tw.ExactDiffusion: 2.0}


@pytest.mark.parametrize("algorithm", LARGEST)
def test_rate_and_largest_step(algorithm):
    a = 2.0
    problem, _, _, x_star = equal_curvature(N, D, a, 1)
    bound = LARGEST[algorithm] / a

    def at(step):
        return tw.NIDS(step, dual_step=0.5 / step) if algorithm is tw.NIDS else algorithm(step)

    for step in (0.3 * bound, 0.95 * bound):
        rate = rate_of_modes(at(step), a, SHARP)
        assert rate < 1
        assert_rate(problem, at(step), SHARP, x_star, rate)
    assert rate_of_modes(at(0.999 * bound), a, SHARP) < 1 < rate_of_modes(at(1.001 * bound), a, SHARP)
    with pytest.warns(RuntimeWarning, match=f"above the provable bound {bound:.4g}"):
        far = np.linalg.norm(agents(problem, at(1.05 * bound), SHARP, 300) - x_star)
    assert far > 10 * np.linalg.norm(x_star)


@pytest.mark.parametrize("algorithm", [tw.EXTRA(), tw.NIDS(), tw.NIDS(tw.LocalStep(1.0)), tw.ExactDiffusion()], ids=str)
def test_default_step_converges(algorithm):
    problem, _, _, x_star = quadratics(N, D, 4, spread=3.0)
    np.testing.assert_allclose(agents(problem, algorithm, NETWORK, 3000), np.tile(x_star, (N, 1)), atol=1e-9)


@pytest.mark.parametrize("algorithm", [tw.EXTRA(0.05), tw.NIDS(tw.LocalStep(0.5)), tw.ExactDiffusion(0.05)], ids=str)
def test_exact_though_edges_fail_and_agents_sleep(algorithm):
    problem, _, _, x_star = quadratics(N, D, 0)
    failing = NETWORK.with_failures(loss=0.2, asleep=0.3)
    np.testing.assert_allclose(agents(problem, algorithm, failing, 4000), np.tile(x_star, (N, 1)), atol=1e-9)


def test_loss_per_direction_is_said_to_bias():
    problem, _, _, x_star = quadratics(N, D, 0)
    with pytest.warns(RuntimeWarning, match="not under loss per direction"):
        x = agents(problem, tw.EXTRA(0.05), NETWORK.with_failures(loss=0.1, symmetric=False), 3000)
    assert 1e-6 < np.abs(x - x_star).max() < 1.0


def test_duals_sum_to_zero_in_every_round():
    problem, *_ = quadratics(N, D, 0)
    failing = NETWORK.with_failures(loss=0.2, asleep=0.3)
    for rounds in (2, 7, 30):
        extra_run = tw.solve(problem, tw.EXTRA(0.05), failing, rounds=rounds).records.state
        nids_run = tw.solve(problem, tw.NIDS(tw.LocalStep(0.5)), failing, rounds=rounds).records.state
        for state in (extra_run, nids_run):
            assert np.abs(state.dual).max() > 1e-3
            np.testing.assert_allclose(np.sum(state.dual, axis=0), 0, atol=1e-12)


def test_d2_forgets_heterogeneity():
    """Under stochastic gradients D² fluctuates around x*, DGD around a limit that the agents' differences push away."""
    problem, _, _, x_star = quadratics(N, D, 0, gradient_noise=0.01)
    x = agents(problem, tw.ExactDiffusion(0.05, stochastic=True), NETWORK, 1000)
    far = agents(problem, tw.DGD(0.05, stochastic=True), NETWORK, 1000)
    # 6 standard deviations of one coordinate: var ≤ ασ²/(μ(2 − αμ)) with μ = ½.
    assert np.abs(x - x_star).max() < 6 * np.sqrt(0.05 * 0.01**2 / (0.5 * (2 - 0.025)))
    assert np.abs(far - x_star).max() > 0.05


def test_restart_continues_to_the_same_limit():
    problem, _, _, x_star = quadratics(N, D, 0)
    for algorithm in (tw.EXTRA(0.1), tw.ExactDiffusion(0.1), tw.NIDS(0.1)):
        first = tw.solve(problem, algorithm, NETWORK, rounds=50)
        again = tw.solve(problem, algorithm, NETWORK, rounds=3000, start=first)
        np.testing.assert_allclose(again.agents, np.tile(x_star, (N, 1)), atol=1e-11)


def test_alone_it_is_proximal_gradient_descent():
    problem, A, b, _ = quadratics(1, D, 0, regularizer=tw.l1(L1))
    alone = tw.network.complete(1)
    x = np.zeros(D)
    for _ in range(20):
        x = shrink(x - 0.1 * (A[0] @ x + b[0]), 0.1 * L1)
    for algorithm in (tw.PGEXTRA(0.1), tw.ExactDiffusion(0.1), tw.NIDS(0.1)):
        np.testing.assert_allclose(agents(problem, algorithm, alone, 20)[0], x, atol=1e-12)


def test_bad_arguments():
    with pytest.raises(ValueError, match="dual_step"):
        tw.NIDS(dual_step=-1.0)
    problem, *_ = quadratics(N, D, 0)
    with pytest.raises(ValueError, match="own step sizes"):
        tw.solve(problem, tw.EXTRA(tw.LocalStep(1.0)), NETWORK)
    with pytest.raises(ValueError, match="symmetric"):
        tw.solve(problem, tw.EXTRA(), tw.network.exponential(N))
