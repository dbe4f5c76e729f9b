"""Agnostic, q-fair and constrained federated learning against recursions in NumPy and solutions by SciPy and cvxpy.

Axes: `n` clients, `d` variables.
"""

import cvxpy
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import thalweg as tw
from thalweg.algorithm.server.agnostic import onto_simplex

N, D = 5, 3
WEIGHTS = np.array([4, 1, 1, 2, 3]) / 11


def clients(seed=0, weights=WEIGHTS):
    """(problem, A, b, c, losses, gradients): f_i ≥ 0.1·i with minimisers that lie apart."""
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((N, D, D))
    A = roots @ roots.swapaxes(1, 2) / D + 0.5 * np.eye(D)
    centre = 2 * rng.standard_normal((N, D))
    b = -np.einsum("nij,nj->ni", A, centre)
    c = 0.5 * np.einsum("ni,nij,nj->n", centre, A, centre) + 0.1 * np.arange(N)
    losses = lambda x: 0.5 * np.einsum("i,nij,j->n", x, A, x) + b @ x + c
    return tw.quadratic(A, b, c, weights=weights), A, b, c, losses, lambda x: A @ x + b


def optimum(A, b, c, *, minimax=False, bounds=None):
    """x by cvxpy: of max_i f_i, or of Σ w_i f_i under f_i ≤ bounds."""
    x = cvxpy.Variable(D)
    each = [0.5 * cvxpy.quad_form(x, cvxpy.psd_wrap(A[i])) + b[i] @ x + c[i] for i in range(N)]
    if minimax:
        level = cvxpy.Variable()
        cvxpy.Problem(cvxpy.Minimize(level), [f <= level for f in each]).solve(solver="CLARABEL")
        return x.value, None
    limits = [f <= bound for f, bound in zip(each, bounds, strict=True)]
    cvxpy.Problem(cvxpy.Minimize(sum(w * f for w, f in zip(WEIGHTS, each, strict=True))), limits).solve(solver="CLARABEL")
    return x.value, np.array([np.asarray(limit.dual_value).item() for limit in limits])


def step(**options):
    return tw.LocalSGD(0.1, steps=1, **options)


def test_the_projection_onto_the_simplex_is_the_nearest_point():
    rng = np.random.default_rng(1)
    for support in (np.ones(6, bool), np.array([1, 1, 0, 1, 0, 1], bool)):
        v = 2 * rng.standard_normal(6)
        p = cvxpy.Variable(6)
        wanted = [p >= 0, cvxpy.sum(p) == 1, p[~support] == 0] if not support.all() else [p >= 0, cvxpy.sum(p) == 1]
        cvxpy.Problem(cvxpy.Minimize(cvxpy.sum_squares(p - v)), wanted).solve(solver="CLARABEL")
        np.testing.assert_allclose(onto_simplex(jnp.asarray(v), jnp.asarray(support)), p.value, atol=1e-6)


def test_agnostic_follows_its_recursion_and_reaches_the_minimax_model():
    problem, A, b, c, losses, gradients = clients()
    algorithm = tw.AgnosticFL(step(), mixture_step_size=0.01)
    x, mixture = np.zeros(D), WEIGHTS.copy()
    for _ in range(7):
        x, seen = x - 0.1 * mixture @ gradients(x), losses(x)
        mixture = np.asarray(onto_simplex(jnp.asarray(mixture + 0.01 * seen), jnp.ones(N, bool)))
    np.testing.assert_allclose(tw.solve(problem, algorithm, rounds=7).x, x, rtol=1e-12)

    best, _ = optimum(A, b, c, minimax=True)
    by_epigraph = minimize(
        lambda z: z[-1], np.r_[np.zeros(D), 100], method="SLSQP", options={"ftol": 1e-13},
        constraints=[{"type": "ineq", "fun": lambda z: z[-1] - losses(z[:-1])}],
    )  # fmt: skip
    result = tw.solve(problem, algorithm, rounds=3000)
    np.testing.assert_allclose(losses(np.asarray(result.x)).max(), by_epigraph.fun, rtol=1e-7)
    np.testing.assert_allclose(result.x, best, atol=1e-4)
    np.testing.assert_allclose(result.history.scalars["worst_loss"][-1], by_epigraph.fun, rtol=1e-7)
    average = tw.solve(problem, tw.FedAvg(step()), rounds=500)
    assert losses(np.asarray(average.x)).max() > 1.5 * by_epigraph.fun


def test_agnostic_with_a_part_of_the_clients_and_with_the_mean_of_iterates():
    problem, A, b, c, losses, _ = clients()
    best = losses(optimum(A, b, c, minimax=True)[0]).max()
    drawn = tw.solve(problem, tw.AgnosticFL(tw.LocalSGD(0.01, steps=1), cohort=3, mixture_step_size=2e-4), rounds=20_000)
    assert losses(np.asarray(drawn.x)).max() < 1.05 * best
    averaged = tw.solve(problem, tw.AgnosticFL(step(), mixture_step_size=0.01, averaged=True), rounds=20_000)
    assert losses(np.asarray(averaged.x)).max() < 1.005 * best
    without = clients(weights=np.array([1, 1, 1, 0, 1]))[0]
    mixture = tw.solve(without, tw.AgnosticFL(step(), mixture_step_size=0.01), rounds=50).records[1].state.mixture
    assert mixture[3] == 0
    np.testing.assert_allclose(np.sum(mixture), 1, rtol=1e-12)


@pytest.mark.slow
def test_q_zero_is_federated_averaging():
    problem = clients()[0]
    solver = tw.LocalSGD(0.05, steps=4)
    fair, plain = (tw.solve(problem, a, rounds=30) for a in (tw.QFFL(solver, q=0.0), tw.FedAvg(solver)))
    np.testing.assert_allclose(fair.x, plain.x, rtol=1e-12)
    cohort = tw.cohort.uniform(2, normalise=True)
    fair, plain = (tw.solve(problem, a, rounds=9) for a in (tw.QFFL(solver, cohort, q=0.0), tw.FedAvg(solver, cohort)))
    np.testing.assert_allclose(fair.x, plain.x, rtol=1e-12)


@pytest.mark.parametrize("q", [0.5, 2.0, 8.0])
def test_q_follows_its_recursion_and_reaches_the_fair_model(q):
    problem, _, _, _, losses, gradients = clients()
    L, x = 10.0, np.zeros(D)
    for _ in range(6):
        F, g = losses(x), gradients(x)
        h = q * F ** (q - 1) * (g**2).sum(1) + L * F**q
        x = x - (WEIGHTS * F**q) @ g / (WEIGHTS @ h)
    np.testing.assert_allclose(tw.solve(problem, tw.QFFL(step(), q=q), rounds=6).x, x, rtol=1e-11)
    scaled = lambda x: (WEIGHTS @ (losses(x) / 15) ** (q + 1)) ** (1 / (q + 1))
    best = minimize(scaled, x, options={"gtol": 1e-10})
    result = tw.solve(problem, tw.QFFL(step(), q=q), rounds=8000, every=8000)
    np.testing.assert_allclose(result.x, best.x, atol=2e-5)


def test_larger_q_is_fairer():
    problem, *_, losses, _ = clients()
    worst = [losses(np.asarray(tw.solve(problem, tw.QFFL(step(), q=q), rounds=3000).x)).max() for q in (0.0, 1.0, 4.0)]
    assert worst[0] > worst[1] > worst[2]


def test_a_negative_loss_ends_a_q_fair_run_with_a_reason():
    problem = tw.quadratic(np.eye(2)[None] * np.ones((3, 1, 1)), np.ones((3, 2)), -5.0)
    result = tw.solve(problem, tw.QFFL(step(), q=0.5), rounds=5)
    assert not result.converged
    assert "NaN" in result.reason or "not finite" in result.reason


def test_alone_is_every_clients_own_minimum():
    problem, A, b, _, _, _ = clients()
    own = tw.alone(problem)
    np.testing.assert_allclose(own.losses, 0.1 * np.arange(N), atol=1e-10)
    np.testing.assert_allclose(own.models, np.linalg.solve(A, -b[..., None])[..., 0], atol=1e-7)
    assert own.converged.all()
    ridge = tw.quadratic(A, b, regularizer=tw.l2(0.7))
    wanted = np.linalg.solve(A + 0.7 * np.eye(D), -b[..., None])[..., 0]
    np.testing.assert_allclose(tw.alone(ridge).models, wanted, atol=1e-7)
    with pytest.raises(ValueError, match="expected a positive number"):
        tw.alone(problem, tol=0)


@pytest.mark.parametrize("per_client", [False, True])
def test_constrained_reaches_the_constrained_optimum_and_its_multipliers(per_client):
    problem, A, b, c, losses, _ = clients()
    lowest = losses(optimum(A, b, c, minimax=True)[0]).max()
    bounds = 1.15 * lowest * (np.array([1, 1.2, 0.5, 0.55, 1]) if per_client else np.ones(N))
    best, multipliers = optimum(A, b, c, bounds=bounds)
    by_slsqp = minimize(
        lambda x: WEIGHTS @ losses(x), best, method="SLSQP", options={"ftol": 1e-13},
        constraints=[{"type": "ineq", "fun": lambda x: bounds - losses(x)}],
    )  # fmt: skip
    algorithm = tw.ConstrainedFL(bounds if per_client else bounds[0], step())
    result = tw.solve(problem, algorithm, rounds=6000, every=6000)
    np.testing.assert_allclose(result.x, by_slsqp.x, atol=1e-6)
    np.testing.assert_allclose(result.x, best, atol=1e-4)
    np.testing.assert_allclose(result.algorithm.prices(result), multipliers, atol=1e-3)
    assert (multipliers > 1e-3).sum() >= 2
    assert not result.warnings
    assert abs(result.history.scalars["price_excess"][-1]) < 1e-6
    assert (losses(np.linalg.solve(np.einsum("n,nij->ij", WEIGHTS, A), -WEIGHTS @ b)) > bounds).any()


def test_constrained_follows_its_recursion():
    problem, _, _, _, losses, gradients = clients()
    bounds, x, integral, price = 13.0, np.zeros(D), np.zeros(N), np.zeros(N)
    scale = np.abs(losses(x)).mean()
    for _ in range(8):
        share = (1 + price) / (WEIGHTS @ (1 + price))
        excess = (losses(x) - bounds) / scale
        x = x - 0.1 * (WEIGHTS * share) @ gradients(x)
        integral = np.maximum(0, integral + 0.3 * excess)
        price = np.maximum(0, integral + 0.7 * excess)
    algorithm = tw.ConstrainedFL(bounds, step(), price_step_size=0.3, damping=0.7)
    with pytest.warns(RuntimeWarning, match="bounds are exceeded"):
        np.testing.assert_allclose(tw.solve(problem, algorithm, rounds=8).x, x, rtol=1e-12)


@pytest.mark.filterwarnings("ignore:ConstrainedFL.*at the end:RuntimeWarning")
def test_bounds_hold_with_local_steps_and_a_part_of_the_clients():
    problem, A, b, c, losses, _ = clients()
    bounds = 1.2 * losses(optimum(A, b, c, minimax=True)[0]).max()
    local = tw.solve(problem, tw.ConstrainedFL(bounds, tw.LocalSGD(0.05, steps=5)), rounds=3000)
    assert losses(np.asarray(local.x)).max() < bounds * (1 + 1e-6)
    # What was last heard of a client is of another model, so that a bound may look exceeded.
    slow = tw.ConstrainedFL(bounds, tw.LocalSGD(0.004, steps=1), cohort=4, price_step_size=0.01, damping=0.1)
    assert losses(np.asarray(tw.solve(problem, slow, rounds=10_000, every=10_000).x)).max() < 1.1 * bounds
    average = np.linalg.solve(np.einsum("n,nij->ij", WEIGHTS, A), -WEIGHTS @ b)
    assert losses(average).max() > 1.6 * bounds


@pytest.mark.slow
def test_bounds_relative_to_what_each_reaches_alone():
    rng = np.random.default_rng(3)
    slopes = np.array([1.0, 1.2, 0.3])
    data = [(a := rng.standard_normal((20, 2)), (a @ [s, 0.3] + 0.3 * rng.standard_normal(20) > 0) * 1.0) for s in slopes]
    model = tw.losses.linear_model(tw.losses.logistic)
    problem = tw.EmpiricalRisk(model, data, model.start(2), regularizer=tw.l2(0.1))
    bounds = 1.04 * tw.alone(problem).losses
    result = tw.solve(problem, tw.ConstrainedFL(bounds), rounds=6000)
    reached = np.asarray(problem.folded().losses(result.x))
    assert (reached <= bounds * (1 + 1e-4)).all()
    assert not result.warnings
    plain = tw.reference(problem).x
    assert (np.asarray(problem.folded().losses(plain)) > bounds).any()


def test_bounds_that_cannot_be_met_are_named_and_refuted():
    problem, _, _, _, losses, _ = clients()
    named = tw.quadratic(*_arrays(problem), weights=WEIGHTS, names=["oslo", "bergen", "narvik", "molde", "bodø"])
    bounds = np.array([np.inf, 8.0, 100.0, np.inf, 8.0])
    with pytest.warns(RuntimeWarning, match=r"ConstrainedFL: at the end, bounds are exceeded by (bergen|bodø)"):
        result = tw.solve(named, tw.ConstrainedFL(bounds), rounds=3000)
    (said,) = result.warnings
    assert "cannot be met together" in said and "bergen" in said and "bodø" in said and "oslo" not in said
    verdict = tw.feasibility(named, bounds, result.algorithm.prices(result))
    assert verdict.infeasible and set(verdict.clients) == {"bergen", "bodø"}
    assert "no model meets the bounds of these clients together" in str(verdict)
    # By another method: the smallest level t with f_i ≤ b_i + t is positive, and the proved excess is below it.
    finite = np.isfinite(bounds)
    level = minimize(
        lambda z: z[-1], np.r_[np.zeros(D), 100], method="SLSQP",
        constraints=[{"type": "ineq", "fun": lambda z: z[-1] - (losses(z[:-1]) - bounds)[finite]}],
    ).fun  # fmt: skip
    assert 0 < verdict.excess <= level + 1e-6
    np.testing.assert_allclose(verdict.excess, level, rtol=0.02)
    assert not tw.feasibility(named, bounds + 2 * level, result.algorithm.prices(result)).infeasible


def _arrays(problem):
    data = problem.pieces.data
    return np.asarray(data["A"]), np.asarray(data["b"]), np.asarray(data["c"])


def test_what_is_refused():
    problem = clients()[0]
    for bad, words in (
        (lambda: tw.ConstrainedFL([1.0, 2.0]), "one per client"),
        (lambda: tw.ConstrainedFL(float("nan")), "got NaN"),
        (lambda: tw.ConstrainedFL(1.0, damping=-1.0), "expected a number ≥ 0"),
        (lambda: tw.QFFL(q=-1.0), "expected a number ≥ 0"),
        (lambda: tw.QFFL(lipschitz=0.0), "expected a positive number"),
        (lambda: tw.QFFL(tw.LocalSGD(lambda k: 0.1)), "give lipschitz="),
    ):
        with pytest.raises(ValueError, match=words):
            tw.solve(problem, bad(), rounds=1)
    for prices in ([1.0, 2.0], [-1.0] * 5, [0.0] * 5):
        with pytest.raises(ValueError, match="feasibility prices"):
            tw.feasibility(problem, 1.0, prices)


@pytest.mark.slow
def test_engines_agree_to_the_bit():
    problem = clients()[0]
    runs = [tw.solve(problem, tw.ConstrainedFL(30.0), rounds=4, engine=e, deterministic=True).x for e in ("simulated", "debug")]
    np.testing.assert_array_equal(*map(np.asarray, runs))
