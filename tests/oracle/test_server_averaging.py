"""FedAvg, FedProx, FedNova, the FedOpt family, FedSPS and MimeLite against recursions written in NumPy, and their limits.

Axes: `n` clients, `d` variables.
"""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import thalweg as tw
from servers import answer, assert_follows, clients, descend, iterate, optimum, prox, run

RATE, STEPS = 0.06, 3
SOLVER = tw.LocalSGD(RATE, steps=STEPS)


def squared_error(x, example):
    a, b = example
    return 0.5 * (a @ x - b) ** 2


def two(weights=None):
    """f_i = h_i/2 (x − b_i)² with h = (1, 5), b = (2, −1)."""
    h, b = np.array([1.0, 5.0]), np.array([2.0, -1.0])
    return tw.quadratic(h[:, None, None], (-h * b)[:, None], weights=weights), h, b


def test_fedavg_settles_at_its_predicted_floor():
    problem, *_ = two()
    x = answer(problem, tw.FedAvg(tw.LocalSGD(0.02, steps=10)), 400)
    np.testing.assert_allclose(x, -0.342, atol=5e-4)  # shared/ORACLES.md


@pytest.mark.parametrize("steps", [1, 4])
def test_fedavg_settles_where_contracted_pulls_balance(steps):
    w = np.array([0.3, 0.7])
    problem, h, b = two(weights=w)
    pull = w * (1 - (1 - 0.05 * h) ** steps)
    x = answer(problem, tw.FedAvg(tw.LocalSGD(0.05, steps=steps), server_learning_rate=0.7), 600)
    np.testing.assert_allclose(x, (pull @ b) / pull.sum(), rtol=1e-10)


def test_fedavg_follows_its_recursion():
    problem, A, b, w, _ = clients()
    step = lambda x: (x + 0.8 * w @ (descend(A, b, x, RATE, STEPS) - x),)
    assert_follows(problem, tw.FedAvg(SOLVER, server_learning_rate=0.8), iterate(step, (np.zeros(3),)))


def test_one_full_step_of_everybody_is_central_gradient_descent_on_ragged_data():
    rng = np.random.default_rng(1)
    data = [(rng.standard_normal((m, 2)), rng.standard_normal(m) + m) for m in (2, 5, 3)]
    problem = tw.EmpiricalRisk(squared_error, data, np.zeros(2))
    rows, targets = np.concatenate([a for a, _ in data]), np.concatenate([b for _, b in data])
    step = lambda x: (x - 0.3 * rows.T @ (rows @ x - targets) / len(rows),)
    iterates = iterate(step, (np.zeros(2),), 20)
    for solver in (tw.LocalSGD(0.3, epochs=1, batch_size=5), tw.LocalSGD(0.3)):
        for k in (1, 20):
            np.testing.assert_allclose(answer(problem, tw.FedAvg(solver), k), iterates[k], rtol=1e-12, atol=1e-12)


def test_a_schedule_of_the_learning_rate_goes_by_rounds():
    problem, A, b, w, _ = clients()
    step = lambda x, k: (w @ descend(A, b, x, 0.1 / (1 + k), STEPS), k + 1)
    solver = tw.LocalSGD(lambda k: 0.1 / (1 + k), steps=STEPS)
    assert_follows(problem, tw.FedAvg(solver), iterate(step, (np.zeros(3), 0)))


def test_fedprox_follows_its_recursion():
    problem, A, b, w, _ = clients()
    step = lambda x: (w @ descend(A, b, x, RATE, STEPS, lambda y: 2.0 * (y - x)),)
    assert_follows(problem, tw.FedProx(SOLVER, penalty=2.0), iterate(step, (np.zeros(3),)))


def test_exact_fedprox_follows_its_recursion_to_the_minimiser_of_the_envelopes():
    problem, A, b, w, _ = clients()
    step = lambda x: (w @ prox(A, b, np.tile(x, (5, 1)), 1.5),)
    algorithm = tw.FedProx(solver=None, penalty=1.5)
    assert_follows(problem, algorithm, iterate(step, (np.zeros(3),)))
    # ∇M_i(x) = 1.5 (x − (A_i + 1.5 I)⁻¹(1.5 x − b_i)) is affine.
    shrink = np.linalg.inv(A + 1.5 * np.eye(3))
    limit = np.linalg.solve(np.einsum("n,nij->ij", w, np.eye(3) - 1.5 * shrink), -np.einsum("n,nij,nj->i", w, shrink, b))
    np.testing.assert_allclose(answer(problem, algorithm, 400), limit, atol=1e-10)


def test_fedprox_without_penalty_is_fedavg():
    problem, *_ = clients()
    np.testing.assert_array_equal(answer(problem, tw.FedProx(SOLVER, penalty=0.0), 5), answer(problem, tw.FedAvg(SOLVER), 5))


def test_a_large_penalty_ties_fedprox_to_the_optimum_and_slows_it_down():
    """Exactly solved, μ(x⁺ − x) → −∇f(x); by steps of 1/(L+μ), which the default stays below, y_i → x."""
    problem, A, b, w, x_star = clients()
    x = answer(problem, tw.FedProx(solver=None, penalty=1e6), 1)
    np.testing.assert_allclose(1e6 * x, -w @ b, rtol=2e-5)
    biases = [np.abs(answer(problem, tw.FedProx(None, penalty=mu), 6000) - x_star).max() for mu in (5.0, 50.0, 200.0)]
    np.testing.assert_allclose(biases[1] / biases[2], 4, rtol=0.1)  # O(1/μ)
    assert 0.1 > biases[0] > 5 * biases[1]
    smoothness = np.linalg.eigvalsh(A).max()
    for mu in (1.0, 1e3):
        result = run(problem, tw.FedProx(tw.LocalSGD(steps=80), penalty=mu), 1)
        np.testing.assert_allclose(result.algorithm.solver.learning_rate, 0.5 / (smoothness + mu))
        exact = answer(problem, tw.FedProx(None, penalty=mu), 1)
        np.testing.assert_allclose(result.x, exact, rtol=1e-5)


@pytest.mark.parametrize("solver", [SOLVER, None])
def test_fedprox_and_its_kin_use_what_work_was_done(solver):
    """Devices that manage 1, 2, 3, 0 and 9 steps before the deadline; one that manages none does not count."""
    problem, A, b, w, _ = clients()
    fleet = tw.Fleet(5, seconds_per_step=[1, 0.5, 0.33, 5, 0.1], deadline=1.2, partial_work=True)
    taken = np.minimum([1, 2, 3, 0, 9], 1 if solver is None else STEPS)
    share = np.where(taken > 0, w, 0) / w[taken > 0].sum()

    def step(x):
        near = lambda y: 2.0 * (y - x)
        y = prox(A, b, np.tile(x, (5, 1)), 2.0) if solver is None else descend(A, b, x, RATE, taken, near)
        return (share @ y,)

    assert_follows(problem, tw.FedProx(solver, penalty=2.0), iterate(step, (np.zeros(3),)), fleet=fleet)


@pytest.mark.parametrize("penalty", [-1.0, 0.0])
def test_fedprox_refuses_a_penalty_without_meaning(penalty):
    with pytest.raises(ValueError, match="penalty"):
        tw.FedProx(solver=None, penalty=penalty)


def unequal_work(rate=0.05):
    """(problem, algorithm's solver, h, b, w, τ): every example of a client is the same, so that a minibatch has the full gradient;
    a client of m_i examples takes ⌈m_i/2⌉ steps."""
    counts, h, b = np.array([2, 7, 4]), np.array([1.0, 3.0, 0.5]), np.array([2.0, -1.0, 4.0])
    data = [(np.full((m, 1), np.sqrt(a)), np.full(m, np.sqrt(a) * c)) for m, a, c in zip(counts, h, b, strict=True)]
    problem = tw.EmpiricalRisk(squared_error, data, np.zeros(1), weights=[0.5, 0.2, 0.3])
    return problem, tw.LocalSGD(rate, epochs=2, batch_size=2), h, b, np.array([0.5, 0.2, 0.3]), 2 * np.array([1, 4, 2])


def test_fednova_follows_its_recursion_under_unequal_work():
    problem, solver, h, b, w, tau = unequal_work()

    def step(x, effective):
        y = descend(h[:, None, None], -(h * b)[:, None], x, 0.05, tau)
        return x + effective * w @ ((y - x) / tau[:, None]), effective

    assert_follows(problem, tw.FedNova(solver), iterate(step, (np.zeros(1), w @ tau)))
    assert_follows(problem, tw.FedNova(solver, effective_steps=3.0), iterate(step, (np.zeros(1), 3.0)))


def test_fednova_tends_to_the_right_optimum_under_unequal_work_and_fedavg_does_not():
    problem, _, h, b, w, tau = unequal_work()
    right, wrong = (w * h @ b) / (w @ h), (w * tau * h @ b) / (w * tau @ h)
    assert abs(right - wrong) > 0.3
    for rate in (0.05, 0.005):
        _, solver, *_ = unequal_work(rate)
        pull = w * (1 - (1 - rate * h) ** tau)
        normalised = pull / tau
        for algorithm, limit, share in ((tw.FedNova, right, normalised), (tw.FedAvg, wrong, pull)):
            x = answer(problem, algorithm(solver), int(100 / rate))
            np.testing.assert_allclose(x, (share @ b) / share.sum(), rtol=1e-8)
            assert abs(x[0] - limit) < 15 * rate


@pytest.mark.slow
def test_fednova_is_fedavg_under_equal_work():
    problem, *_ = clients()
    np.testing.assert_allclose(answer(problem, tw.FedNova(SOLVER), 5), answer(problem, tw.FedAvg(SOLVER), 5), rtol=1e-12)
    x = answer(problem, tw.FedNova(SOLVER, 2, effective_steps=float(STEPS)), 5)
    np.testing.assert_allclose(x, answer(problem, tw.FedAvg(SOLVER, 2), 5), rtol=1e-12)


def test_fednova_uses_what_work_was_done():
    problem, A, b, w, _ = clients()
    fleet = tw.Fleet(5, seconds_per_step=[1, 0.5, 0.33, 5, 0.1], deadline=1.2, partial_work=True)
    taken = np.minimum([1, 2, 3, 0, 9], STEPS)
    share = np.where(taken > 0, w, 0) / w[taken > 0].sum()

    def step(x):
        change = descend(A, b, x, RATE, taken) - x
        return (x + (share @ taken) * share @ (change / np.maximum(taken, 1)[:, None]),)

    assert_follows(problem, tw.FedNova(SOLVER), iterate(step, (np.zeros(3),)), fleet=fleet)


@pytest.mark.parametrize("kind", [tw.FedNova, tw.SCAFFOLD, tw.Mime, tw.MimeLite])
def test_methods_that_count_on_plain_steps_refuse_others(kind):
    with pytest.raises(ValueError, match="plain gradient steps"):
        kind(tw.LocalSGD(optimizer=optax.adam(0.1)))
    with pytest.raises(ValueError, match="plain gradient steps"):
        kind(tw.LocalSGD(0.1, clip=1.0))


@pytest.mark.parametrize("optimizer", [None, optax.sgd(1.0)])
def test_plain_averaging_as_a_server_optimizer_is_fedavg(optimizer):
    problem, *_ = clients()
    x = answer(problem, tw.FedOpt(SOLVER, server_optimizer=optimizer, server_learning_rate=0.8), 5)
    np.testing.assert_allclose(x, answer(problem, tw.FedAvg(SOLVER, server_learning_rate=0.8), 5), rtol=1e-13)


def adaptive(grow, first, tau, eta, A, b, w):
    """Reddi et al. 2021, algorithm 2."""

    def step(x, m, v):
        change = w @ (descend(A, b, x, RATE, STEPS) - x)
        m = first * m + (1 - first) * change
        v = grow(v, change**2)
        return x + eta * m / (np.sqrt(v) + tau), m, v

    return iterate(step, (np.zeros(3), np.zeros(3), np.full(3, tau**2)))


GROW = {
    tw.FedAdagrad: lambda v, square: v + square,
    tw.FedAdam: lambda v, square: 0.9 * v + 0.1 * square,
    tw.FedYogi: lambda v, square: v - 0.1 * square * np.sign(v - square),
}


@pytest.mark.parametrize("kind", list(GROW))
def test_adaptive_server_optimizers_follow_the_paper(kind):
    problem, A, b, w, _ = clients()
    second = {} if kind is tw.FedAdagrad else {"second_momentum": 0.9}
    algorithm = kind(SOLVER, server_learning_rate=0.2, momentum=0.7, adaptivity=0.05, **second)
    assert_follows(problem, algorithm, adaptive(GROW[kind], 0.7, 0.05, 0.2, A, b, w))
    assert kind(SOLVER, momentum=0.7, adaptivity=0.05, **second).server_optimizer is algorithm.server_optimizer


def test_fedavgm_follows_its_recursion():
    problem, A, b, w, _ = clients()

    def step(x, m):
        m = 0.6 * m + w @ (descend(A, b, x, RATE, STEPS) - x)
        return x + 0.9 * m, m

    algorithm = tw.FedAvgM(SOLVER, server_learning_rate=0.9, momentum=0.6)
    assert_follows(problem, algorithm, iterate(step, (np.zeros(3), np.zeros(3))))


def test_a_server_optimizer_of_optax_sees_the_negative_average_change():
    problem, A, b, w, _ = clients()
    optimizer = optax.adam(0.1)

    def step(x, state):
        updates, state = optimizer.update(jnp.asarray(-w @ (descend(A, b, x, RATE, STEPS) - x)), state, jnp.asarray(x))
        return x + np.asarray(updates), state

    iterates = iterate(step, (np.zeros(3), optimizer.init(jnp.zeros(3))))
    assert_follows(problem, tw.FedOpt(SOLVER, server_optimizer=optimizer), iterates)


def test_bad_server_optimizers_are_refused():
    with pytest.raises(TypeError, match="optax"):
        tw.FedOpt(server_optimizer=0.1)
    with pytest.raises(ValueError, match="momentum"):
        tw.FedAvgM(momentum=1.0)
    with pytest.raises(ValueError, match="adaptivity"):
        tw.FedAdam(adaptivity=0.0)


def test_mimelite_follows_its_recursion():
    problem, A, b, w, _ = clients()

    def step(x, m):
        y = np.tile(x, (5, 1))
        for _ in range(STEPS):
            y = y - RATE * (0.1 * (np.einsum("nij,nj->ni", A, y) + b) + 0.9 * m)
        return w @ y, 0.9 * m + 0.1 * w @ (A @ x + b)

    assert_follows(problem, tw.MimeLite(SOLVER), iterate(step, (np.zeros(3), np.zeros(3))))


def shifted_square(x, data):
    """½ xᵀA x + bᵀx + c, kept above zero by c."""
    return 0.5 * x @ (data["A"] @ x) + data["b"] @ x + data["c"]


def test_fedsps_follows_its_recursion():
    _, A, b, w, _ = clients()
    c = 0.5 * np.einsum("ni,nij,nj->n", b, np.linalg.inv(A), b) + np.arange(5) / 10  # f_i ≥ i/10
    problem = tw.Consensus(shifted_square, {"A": A, "b": b, "c": c}, np.zeros(3), weights=w)
    solver = tw.LocalPolyak(largest=0.6, lower_bound=-0.05, scale=0.8, steps=STEPS)
    sizes = []

    def step(x):
        y = np.tile(x, (5, 1))
        for _ in range(STEPS):
            Ay = np.einsum("nij,nj->ni", A, y)
            value, gradient = 0.5 * (y * Ay).sum(1) + (b * y).sum(1) + c, Ay + b
            rate = np.minimum((value + 0.05) / (0.8 * (gradient**2).sum(1)), 0.6)
            sizes.extend(rate)
            y = y - rate[:, None] * gradient
        return (w @ y,)

    assert_follows(problem, tw.FedSPS(solver), iterate(step, (np.zeros(3),)))
    assert min(sizes) < 0.59 and max(sizes) == 0.6  # both branches were taken


def test_fedsps_finds_a_common_minimiser_however_unequal_the_clients():
    rng = np.random.default_rng(2)
    truth = np.array([1.0, -2.0])
    data = [(a := s * rng.standard_normal((m, 2)), a @ truth) for s, m in ((0.1, 4), (1.0, 3), (10.0, 5))]
    problem = tw.EmpiricalRisk(squared_error, data, np.zeros(2))
    solver = tw.LocalPolyak(largest=1e6, scale=0.6, epochs=2, batch_size=2)
    np.testing.assert_allclose(answer(problem, tw.FedSPS(solver), 300), truth, atol=1e-8)


def test_the_mean_over_a_cohort_estimates_that_over_everybody():
    """Averaged over rounds of a small step, the answer of cohorts of 2 is near that of everybody; unequal weights count once."""
    problem, A, b, w, _ = clients(seed=4)
    solver = tw.LocalSGD(0.004, steps=STEPS)
    x = np.mean([answer(problem, tw.FedAvg(solver, 2), 3000, seed=seed) for seed in range(6)], axis=0)
    np.testing.assert_allclose(x, answer(problem, tw.FedAvg(solver), 3000), atol=0.05)
    assert np.abs(optimum(A, b, np.ones(5) / 5) - optimum(A, b, w)).max() > 0.1
