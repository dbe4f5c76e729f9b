"""SCAFFOLD, FedDyn, Mime and DANE against recursions written in NumPy, and their limits with several local steps.

Axes: `n` clients, `d` variables.
"""

import numpy as np
import optax
import pytest

import thalweg as tw
from servers import answer, assert_follows, clients, descend, iterate, prox, run

RATE, STEPS = 0.06, 3
SOLVER = tw.LocalSGD(RATE, steps=STEPS)


def gradients(A, b, y):
    return np.einsum("nij,nj->ni", A, y) + b


@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_follows_its_recursion(option):
    problem, A, b, w, _ = clients()

    def step(x, c):
        common = w @ c
        y = descend(A, b, x, RATE, STEPS, lambda y: common - c)
        new = A @ x + b if option == "I" else c - common + (x - y) / (STEPS * RATE)
        return x + 0.9 * w @ (y - x), new

    algorithm = tw.SCAFFOLD(SOLVER, option=option, server_learning_rate=0.9)
    assert_follows(problem, algorithm, iterate(step, (np.zeros(3), np.zeros((5, 3)))))


@pytest.mark.parametrize("option", ["I", "II"])
def test_scaffold_reaches_the_optimum_where_fedavg_has_a_floor(option):
    h, b = np.array([1.0, 5.0]), np.array([2.0, -1.0])
    problem = tw.quadratic(h[:, None, None], (-h * b)[:, None])
    x = answer(problem, tw.SCAFFOLD(tw.LocalSGD(0.02, steps=10), option=option), 400)
    np.testing.assert_allclose(x, -0.5, atol=1e-8)  # shared/ORACLES.md


def reached(algorithm, rounds, *, cohort=None, dropout=0.0, seed=0):
    """Distance from the optimum of unequally weighted, heterogeneous clients."""
    problem, *_, x_star = clients()
    fleet = None if dropout == 0 else tw.Fleet(5, dropout=dropout)
    return np.abs(answer(problem, algorithm, rounds, fleet=fleet, seed=seed) - x_star).max()


@pytest.mark.parametrize("option", ["I", "II"])
@pytest.mark.parametrize(("cohort", "dropout"), [(None, 0.1), (None, 0.3), (2, 0.0), (2, 0.3)])
def test_scaffold_is_exact_whoever_takes_part_and_whatever_is_lost(option, cohort, dropout):
    assert reached(tw.SCAFFOLD(SOLVER, cohort, option), 3000, dropout=dropout) < 1e-8


def test_scaffold_is_exact_when_clients_do_what_they_have_time_for():
    """Unequal work, and ragged data: a client of m_i examples takes ⌈m_i/2⌉ steps."""
    counts, h, b = np.array([2, 7, 4]), np.array([1.0, 3.0, 0.5]), np.array([2.0, -1.0, 4.0])
    data = [(np.full((m, 1), np.sqrt(a)), np.full(m, np.sqrt(a) * c)) for m, a, c in zip(counts, h, b, strict=True)]
    w = np.array([0.5, 0.2, 0.3])
    problem = tw.EmpiricalRisk(lambda x, e: 0.5 * (e[0] @ x - e[1]) ** 2, data, np.zeros(1), weights=w)
    x = answer(problem, tw.SCAFFOLD(tw.LocalSGD(0.05, epochs=1, batch_size=2)), 1500)
    np.testing.assert_allclose(x, (w * h @ b) / (w @ h), atol=1e-8)


@pytest.mark.parametrize("solver", [None, SOLVER])
def test_feddyn_follows_its_recursion(solver):
    problem, A, b, w, _ = clients()
    alpha = 0.7

    def step(x, lam, h):
        if solver is None:
            y = prox(A, b, x + lam / alpha, alpha)
        else:
            y = descend(A, b, x, RATE, STEPS, lambda y: alpha * (y - x) - lam)
        h = h - alpha * w @ (y - x)
        return w @ y - h / alpha, lam - alpha * (y - x), h

    algorithm = tw.FedDyn(solver, penalty=alpha)
    assert_follows(problem, algorithm, iterate(step, (np.zeros(3), np.zeros((5, 3)), np.zeros(3))))


@pytest.mark.parametrize("alpha", [0.4, 1.5, 4.0])
def test_feddyn_contracts_as_predicted_on_equal_curvature(alpha):
    """The mean by α/(a + α), differences between the λ_i by a/(a + α)."""
    a, b = 1.5, np.random.default_rng(0).standard_normal((4, 2))
    problem = tw.quadratic(np.broadcast_to(a * np.eye(2), (4, 2, 2)), b)
    algorithm = tw.FedDyn(penalty=alpha)
    before, after = (run(problem, algorithm, k).records[1].state for k in (3, 9))
    h = np.linalg.norm(after.h) / np.linalg.norm(before.h)
    np.testing.assert_allclose(h ** (1 / 6), alpha / (a + alpha), rtol=1e-6)
    lam = [np.asarray(run(problem, algorithm, k).records[0][0]) - b for k in (3, 9)]
    spread = [np.linalg.norm(v - v.mean(0)) for v in lam]
    np.testing.assert_allclose((spread[1] / spread[0]) ** (1 / 6), a / (a + alpha), rtol=1e-6)


def test_the_default_penalty_of_feddyn_is_the_geometric_mean_of_the_constants():
    problem, A, *_ = clients()
    roots = np.linalg.eigvalsh(A)
    result = run(problem, tw.FedDyn(), 0)
    np.testing.assert_allclose(result.algorithm.penalty, np.sqrt(roots.max() * roots.min()))


@pytest.mark.parametrize("solver", [None, tw.LocalSGD(steps=STEPS)])
@pytest.mark.parametrize(("cohort", "dropout"), [(None, 0.0), (2, 0.0), (1, 0.3)])
def test_feddyn_is_exact_whoever_takes_part_and_whatever_is_lost(solver, cohort, dropout):
    assert reached(tw.FedDyn(solver, cohort), 2000, dropout=dropout) < 1e-9


def test_mime_follows_its_recursion():
    problem, A, b, w, _ = clients()

    def step(x, m):
        c = w @ (A @ x + b)
        y = np.tile(x, (5, 1))
        for _ in range(STEPS):
            g = gradients(A, b, y) - (A @ x + b) + c
            y = y - RATE * (0.1 * g + 0.9 * m)
        return x + 0.8 * w @ (y - x), 0.9 * m + 0.1 * c

    algorithm = tw.Mime(SOLVER, server_learning_rate=0.8)
    assert_follows(problem, algorithm, iterate(step, (np.zeros(3), np.zeros(3))))


def test_mime_with_adam_follows_its_recursion():
    """The state of Adam (moments and their count) stays as it is while clients work."""
    problem, A, b, w, _ = clients()
    eta, first, second, eps = 0.05, 0.9, 0.999, 1e-8

    def moved(g, m, v, k):
        m, v = first * m + (1 - first) * g, second * v + (1 - second) * g**2
        return -eta * (m / (1 - first ** (k + 1))) / (np.sqrt(v / (1 - second ** (k + 1))) + eps), m, v

    def step(x, m, v, k):
        c = w @ (A @ x + b)
        y = np.tile(x, (5, 1))
        for _ in range(STEPS):
            y = y + moved(gradients(A, b, y) - (A @ x + b) + c, m, v, k)[0]
        return w @ y, *moved(c, m, v, k)[1:], k + 1

    algorithm = tw.Mime(tw.LocalSGD(steps=STEPS), server_optimizer=optax.adam(eta))
    assert_follows(problem, algorithm, iterate(step, (np.zeros(3), np.zeros(3), np.zeros(3), 0)))


def test_mime_is_exact_with_several_local_steps_and_mimelite_is_not():
    assert reached(tw.Mime(tw.LocalSGD(steps=STEPS)), 2000) < 1e-10
    assert 1e-4 < reached(tw.MimeLite(tw.LocalSGD(steps=STEPS)), 2000) < 0.5


def test_mime_reduces_the_variance_of_minibatches():
    """With minibatches of one example clients do not jitter about the optimum: both gradients are those of one minibatch."""
    rng = np.random.default_rng(3)
    data = [(rng.standard_normal((m, 2)), rng.standard_normal(m) + m) for m in (2, 5, 3)]
    problem = tw.EmpiricalRisk(lambda x, e: 0.5 * (e[0] @ x - e[1]) ** 2 + 0.05 * x @ x, data, np.zeros(2))
    rows, targets = np.concatenate([a for a, _ in data]), np.concatenate([b for _, b in data])
    x_star = np.linalg.solve(rows.T @ rows / len(rows) + 0.1 * np.eye(2), rows.T @ targets / len(rows))
    x = answer(problem, tw.Mime(tw.LocalSGD(0.05, epochs=1, batch_size=1)), 3000)
    np.testing.assert_allclose(x, x_star, atol=1e-9)


@pytest.mark.parametrize("solver", [None, SOLVER])
def test_dane_follows_its_recursion(solver):
    problem, A, b, w, _ = clients()
    mu, eta = 2.5, 0.9

    def step(x):
        own = A @ x + b
        tilt = own - eta * (w @ own)
        if solver is None:
            return (w @ prox(A, b, x + tilt / mu, mu),)
        return (w @ descend(A, b, x, RATE, STEPS, lambda y: mu * (y - x) - tilt),)

    assert_follows(problem, tw.DANE(solver, penalty=mu, gradient_weight=eta), iterate(step, (np.zeros(3),)))


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_dane_contracts_by_its_iteration_matrix_and_by_default_never_diverges(spread):
    problem, A, _, w, x_star = clients(spread=spread)
    penalty = np.linalg.eigvalsh(A).max()
    inverse = np.einsum("n,nij->ij", w, np.linalg.inv(A + penalty * np.eye(3)))
    matrix = np.eye(3) - inverse @ np.einsum("n,nij->ij", w, A)
    roots = np.linalg.eigvals(matrix)
    assert roots.min() >= 0
    assert roots.max() < 1
    expected = x_star - np.linalg.matrix_power(matrix, 12) @ x_star
    np.testing.assert_allclose(answer(problem, tw.DANE(), 12), expected, rtol=1e-9)


def test_dane_is_newtons_method_among_equal_clients():
    """With μ → 0 one round is enough."""
    problem = tw.quadratic(np.tile(np.diag([1.0, 30.0]), (3, 1, 1)), np.array([[1.0, 2.0], [3.0, 1.0], [-2.0, 5.0]]))
    x = answer(problem, tw.DANE(penalty=1e-9), 1)
    np.testing.assert_allclose(x, [-2 / 3, -8 / 90], rtol=1e-6)


def test_feddane_is_exact_with_everybody_and_not_with_a_cohort():
    assert reached(tw.FedDANE(tw.LocalSGD(steps=STEPS)), 2000) < 1e-10
    problem, *_ = clients()
    with pytest.warns(RuntimeWarning, match="not with a part of them"):
        tw.solve(problem, tw.FedDANE(tw.LocalSGD(steps=STEPS), cohort=2), rounds=1)


@pytest.mark.parametrize("kind", [tw.FedDyn, tw.DANE, tw.ConsensusADMM])
def test_penalties_without_meaning_are_refused(kind):
    with pytest.raises(ValueError, match="positive"):
        kind(penalty=0.0)
