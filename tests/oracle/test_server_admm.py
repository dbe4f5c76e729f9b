"""ConsensusADMM against the text-book's recursion written in NumPy, predicted rates, and a central solution.

Axes: `n` clients, `d` variables.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from servers import answer, assert_follows, clients, descend, iterate, prox, run

WEIGHTS = np.array([0.3, 0.1, 0.4, 0.2])


def textbook(A, b, w, rho, alpha=1.0, *, shrink=lambda v, s: v, balance=None, x0=None, local=None):
    """x, z and scaled u of Boyd et al. 2011, §7.1; the state is (z, u, ρ) and `residuals` is filled on the way."""
    residuals = []

    def step(z, u, rho):
        x = prox(A, b, z - u, rho) if local is None else local(z, u)
        relaxed = alpha * x + (1 - alpha) * z
        new = shrink(w @ (relaxed + u), 1 / rho)
        u = u + relaxed - new
        primal, dual = np.sqrt(w @ ((x - new) ** 2).sum(1)), rho * np.linalg.norm(new - z)
        if balance is not None:
            factor = 2.0 if primal > balance * dual else 0.5 if dual > balance * primal else 1.0
            u, rho = u / factor, rho * factor
        residuals.append((primal, dual, rho))
        return new, u, rho

    return step, (np.zeros(A.shape[1]), np.zeros(b.shape), rho), residuals


def soft(threshold):
    return lambda v, s: np.sign(v) * np.maximum(np.abs(v) - s * threshold, 0)


@pytest.mark.parametrize("alpha", [1.0, 1.6])
def test_it_follows_the_text_book_with_a_regularizer(alpha):
    problem, A, b, w, _ = clients(regularizer=tw.l1(0.1))
    step, start, residuals = textbook(A, b, w, 0.8, alpha, shrink=soft(0.1))
    algorithm = tw.ConsensusADMM(penalty=0.8, relaxation=alpha)
    assert_follows(problem, algorithm, iterate(step, start))
    history = run(problem, algorithm, 5, every=1).history
    for name, column in zip(("primal_residual", "dual_residual", "penalty"), np.transpose(residuals), strict=True):
        np.testing.assert_allclose(history[name], column, rtol=1e-8)


def test_inexact_local_solutions_follow_their_recursion():
    problem, A, b, w, _ = clients()
    local = lambda z, u: descend(A, b, z, 0.1, 3, lambda y: 0.8 * (y - z + u))
    step, start, _ = textbook(A, b, w, 0.8, local=local)
    assert_follows(problem, tw.ConsensusADMM(tw.LocalSGD(0.1, steps=3), penalty=0.8), iterate(step, start))


@pytest.mark.parametrize("start", [0.01, 100.0])
def test_residual_balancing_follows_the_text_book_and_keeps_the_limit(start):
    problem, A, b, w, x_star = clients()
    step, state, residuals = textbook(A, b, w, start, balance=5.0)
    algorithm = tw.ConsensusADMM(penalty=start, adaptive=True, balance=5.0)
    assert_follows(problem, algorithm, iterate(step, state, 12))
    result = run(problem, algorithm, 300)
    np.testing.assert_allclose(result.x, x_star, atol=1e-10)
    rhos = [rho for *_, rho in residuals]
    assert len(set(rhos)) > 4
    assert 0.05 < float(result.history["penalty"][-1]) < 20


def test_residual_balancing_ends_after_the_rounds_given():
    problem, *_ = clients()
    algorithm = tw.ConsensusADMM(penalty=100.0, adaptive=True, adaptive_rounds=3)
    penalties = run(problem, algorithm, 8, every=1).history["penalty"]
    assert (penalties[2:] == penalties[2]).all()
    assert penalties[2] < 100


@pytest.mark.parametrize(("a", "rho"), [(1.0, 0.25), (1.0, 1.0), (2.0, 5.0)])
def test_it_contracts_by_the_known_factor_on_equal_curvature(a, rho):
    """max(a, ρ)/(a + ρ), one half at ρ = a: the mean by ρ/(a + ρ), differences between clients by a/(a + ρ)."""
    b = np.random.default_rng(0).standard_normal((4, 2))
    problem = tw.quadratic(np.broadcast_to(a * np.eye(2), (4, 2, 2)), b, weights=WEIGHTS, x0=np.array([3.0, -1.0]))
    algorithm = tw.ConsensusADMM(penalty=rho)
    x_star = -WEIGHTS @ b / a
    errors = []
    for k in (6, 16):
        records = run(problem, algorithm, k).records
        q = np.asarray(records[0][0])
        limit = x_star - (a * x_star + b) / rho  # u_i = −∇f_i(x*)/ρ
        errors.append(np.linalg.norm(q - limit))
    np.testing.assert_allclose((errors[1] / errors[0]) ** (1 / 10), max(a, rho) / (a + rho), rtol=1e-2)
    assert rho != a or (errors[1] / errors[0]) ** (1 / 10) == pytest.approx(0.5, rel=1e-6)


def test_the_default_penalty_keeps_the_proved_rate():
    """Giselsson and Boyd 2017: ½ + ½(√κ − 1)/(√κ + 1) at ρ = √(μL), in the norm of the q_i."""
    problem, A, b, w, x_star = clients(seed=6)
    roots = np.linalg.eigvalsh(A)
    root = np.sqrt(roots.max() / roots.min())
    rate = 0.5 + 0.5 * (root - 1) / (root + 1)
    result = run(problem, tw.ConsensusADMM(), 0)
    rho = float(result.algorithm.penalty)
    np.testing.assert_allclose(rho, np.sqrt(roots.max() * roots.min()))
    limit = x_star - (A @ x_star + b) / rho
    sizes = [
        np.sqrt(w @ ((np.asarray(run(problem, result.algorithm, k).records[0][0]) - limit) ** 2).sum(1))
        for k in range(0, 20, 4)
    ]
    assert all(after <= rate**4 * before for before, after in itertools.pairwise(sizes))


@pytest.mark.parametrize(
    "changes",
    [
        {"cohort": 2},
        {"cohort": 1, "relaxation": 1.8},
        {"cohort": 2, "adaptive": True, "penalty": 50.0, "adaptive_rounds": 300},
        {"cohort": 2, "solver": tw.LocalSGD(steps=3)},
    ],
)
def test_it_is_exact_whoever_takes_part_and_whatever_is_lost(changes):
    problem, *_, x_star = clients()
    x = answer(problem, tw.ConsensusADMM(**changes), 3000, fleet=tw.Fleet(5, dropout=0.3))
    np.testing.assert_allclose(x, x_star, atol=1e-9)


def test_clients_that_missed_changes_of_the_penalty_still_add_up():
    """The server's sum is that of the clients' contributions, though most never heard of most changes."""
    problem, *_ = clients()
    algorithm = tw.ConsensusADMM(cohort=1, penalty=50.0, adaptive=True)
    records, central = run(problem, algorithm, 25, fleet=tw.Fleet(5, dropout=0.3)).records
    server = central.state
    assert float(server.penalty) < 20
    own = 50.0 / float(server.penalty) * np.asarray(records[0]) + np.asarray(server.offset)
    np.testing.assert_allclose(np.asarray(problem.weights) @ own, server.q, rtol=1e-10)


def test_with_l1_it_reaches_the_central_solution():
    problem, *_ = clients(regularizer=tw.l1(0.3), seed=2)
    central = tw.reference(problem).x
    assert (np.abs(central) < 1e-9).any() and (np.abs(central) > 1e-3).any()
    for fleet in (None, tw.Fleet(5, dropout=0.3)):
        x = answer(problem, tw.ConsensusADMM(cohort=None if fleet is None else 3), 1500, fleet=fleet)
        np.testing.assert_allclose(x, central, atol=1e-8)
        np.testing.assert_array_equal(x == 0, np.abs(central) < 1e-9)


def logistic(x, example):
    a, label = example
    return jnp.logaddexp(0.0, -label * (a @ x["w"] + x["c"])) + 0.05 * x["w"] @ x["w"]


@pytest.mark.slow
def test_losses_without_a_closed_form_on_ragged_data_and_pytrees():
    rng = np.random.default_rng(5)
    data = [(rng.standard_normal((m, 2)), np.sign(rng.standard_normal(m) + 0.5 * i)) for i, m in enumerate((4, 9, 6))]
    x0 = {"w": np.zeros(2), "c": np.zeros(())}
    problem = tw.EmpiricalRisk(logistic, data, x0)
    central = tw.reference(problem).x
    for solver in (None, tw.LocalSGD(epochs=5)):
        x = run(problem, tw.ConsensusADMM(solver, penalty=0.3), 400).x
        for name in x0:
            np.testing.assert_allclose(x[name], central[name], atol=1e-7)


def absolute_deviation(x, target):
    return jnp.sum(jnp.abs(x - target))


def shrink_towards(v, step, target):
    away = v - target
    return target + jnp.sign(away) * jnp.maximum(jnp.abs(away) - step, 0)


def test_non_smooth_losses_lead_to_the_weighted_median():
    values = np.array([[0.0, 5.0], [1.0, -2.0], [2.0, 1.0], [7.0, 0.0]])
    problem = tw.Consensus(absolute_deviation, values, np.zeros(2), prox=shrink_towards, weights=WEIGHTS)
    result = run(problem, tw.ConsensusADMM(), 3000)
    assert result.algorithm.penalty == 1.0  # no curvature to choose it from
    np.testing.assert_allclose(result.x, [2.0, 1.0], atol=1e-7)


def test_it_uses_what_work_was_done():
    """Devices that manage 1, 2, 3, 0 and 9 steps: the one without any has no say, the others find their optimum."""
    problem, A, b, w, _ = clients()
    fleet = tw.Fleet(5, seconds_per_step=[1, 0.5, 0.33, 5, 0.1], deadline=1.2, partial_work=True)
    x = answer(problem, tw.ConsensusADMM(tw.LocalSGD(steps=5)), 2000, fleet=fleet)
    # Its contribution stays x0 = 0, and z averages over it.
    rho = float(run(problem, tw.ConsensusADMM(), 0).algorithm.penalty)
    w = np.where([1, 1, 1, 0, 1], w, 0)
    expected = np.linalg.solve(np.einsum("n,nij->ij", w, A) + rho * (1 - w.sum()) * np.eye(3), -w @ b)
    np.testing.assert_allclose(x, expected, atol=1e-9)


@pytest.mark.parametrize("changes", [{"relaxation": 0.0}, {"relaxation": 2.0}, {"balance": 1.0}, {"penalty": -1.0}])
def test_parameters_without_meaning_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        tw.ConsensusADMM(**changes)
