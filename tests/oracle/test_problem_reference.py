"""The central reference against closed forms, SciPy and cvxpy."""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import thalweg.problem as tp
from thalweg.problem import losses


def data(seed=4, counts=(30, 12, 21), d=5):
    generator = np.random.default_rng(seed)
    true = generator.standard_normal(d)
    features = [generator.standard_normal((m, d)) for m in counts]
    return [(X, (X @ true + generator.standard_normal(len(X)) > 0).astype(float)) for X in features]


def squared(x, example):
    return losses.squared(example[0] @ x, example[1])


def pooled(parts):
    return (np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def test_quadratic():
    generator = np.random.default_rng(0)
    A = generator.standard_normal((3, 4, 4))
    A, b, w = A @ A.swapaxes(1, 2), generator.standard_normal((3, 4)), np.array([0.2, 0.5, 0.3])
    found = tp.reference(tp.quadratic(A, b, weights=w))
    np.testing.assert_allclose(found.x, np.linalg.solve(np.einsum("n,nij->ij", w, A), -w @ b), rtol=1e-9)
    assert found.residual < 1e-12
    assert found.certificate.startswith("gradient norm")


def test_logistic_against_scipy():
    parts, strength = data(), 0.05
    X, y = pooled(parts)
    signs = 2 * y - 1

    def objective(z):
        return np.mean(np.logaddexp(0, -signs * (X @ z))) + 0.5 * strength * z @ z

    best = scipy.optimize.minimize(objective, np.zeros(5), method="BFGS", options={"gtol": 1e-7})
    problem = tp.EmpiricalRisk(lambda x, e: losses.logistic(e[0] @ x, e[1]), parts, np.zeros(5), regularizer=tp.l2(strength))
    found = tp.reference(problem)
    np.testing.assert_allclose(found.x, best.x, atol=1e-5)
    np.testing.assert_allclose(found.objective, best.fun, rtol=1e-11)
    assert found.objective <= best.fun + 1e-15


REGULARIZERS = {
    "l1": (tp.l1(0.1), lambda x: (0.1 * cp.norm1(x), [])),
    "elastic_net": (tp.elastic_net(0.05, 0.2), lambda x: (0.05 * cp.norm1(x) + 0.1 * cp.sum_squares(x), [])),
    "box": (tp.box(-0.05, 0.1), lambda x: (0, [x >= -0.05, x <= 0.1])),
    "nonnegative": (tp.nonnegative(), lambda x: (0, [x >= 0])),
    "simplex": (tp.simplex(), lambda x: (0, [x >= 0, cp.sum(x) == 1])),
    "group_lasso": (tp.group_lasso(0.1), lambda x: (0.1 * cp.norm2(x), [])),
}


@pytest.mark.parametrize("name", REGULARIZERS)
def test_composite_against_cvxpy(name):
    r, described = REGULARIZERS[name]
    parts = data()
    X, y = pooled(parts)
    x = cp.Variable(5)
    penalty, constraints = described(x)
    central = cp.Problem(cp.Minimize(cp.sum_squares(X @ x - y) / (2 * len(y)) + penalty), constraints)
    central.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    found = tp.reference(tp.EmpiricalRisk(squared, parts, np.zeros(5), regularizer=r))
    np.testing.assert_allclose(found.x, x.value, atol=2e-5)
    np.testing.assert_allclose(found.objective, central.value, atol=1e-8)
    assert "prox-gradient residual" in found.certificate


def test_many_variables_take_the_matrix_free_way():
    d = 1200
    curvature = np.stack([np.linspace(1, 5, d), np.linspace(5, 1, d)])
    target = np.random.default_rng(1).standard_normal((2, d))
    problem = tp.Consensus(lambda x, c: jnp.sum(c[0] * (jnp.cosh(0.1 * (x - c[1])) - 1)), (curvature, target), np.zeros(d))
    found = tp.reference(problem)
    assert "L-BFGS-B" in found.solver
    slopes = np.mean(curvature * 0.1 * np.sinh(0.1 * (found.x - target)), axis=0)
    assert np.linalg.norm(slopes) < 1e-9


def test_float32_problems_get_a_float64_reference():
    parts = [(X.astype(np.float32), y.astype(np.float32)) for X, y in data()]
    problem = tp.EmpiricalRisk(squared, parts, np.zeros(5, np.float32))
    X, y = pooled([(X.astype(np.float64), y) for X, y in parts])
    found = tp.reference(problem)
    assert found.x.dtype == np.float64
    np.testing.assert_allclose(found.x, np.linalg.lstsq(X, y, rcond=None)[0], rtol=1e-10)
    with jax.enable_x64(False):
        narrow = tp.EmpiricalRisk(squared, parts, np.zeros(5, np.float32))
        np.testing.assert_array_equal(tp.reference(narrow).x, found.x)
        assert jnp.zeros(1).dtype == np.float32


def test_pytrees_keep_their_structure():
    model = losses.linear_model(losses.squared)
    X, y = pooled(data())
    found = tp.reference(tp.EmpiricalRisk(model, data(), model.start(5))).x
    expected = np.linalg.lstsq(np.c_[X, np.ones(len(X))], y, rcond=None)[0]
    np.testing.assert_allclose(np.append(found["weights"], found["bias"]), expected, rtol=1e-9)


def test_no_minimiser_is_said():
    problem = tp.Consensus(lambda x, data: data @ x, np.ones((2, 3)), np.zeros(3))
    with pytest.raises(RuntimeError, match=r"no reference solution: got gradient norm .* expected at most .* tw.l2"):
        tp.reference(problem)


def test_certificate_warns_of_a_flat_or_saddle_hessian():
    flat = tp.Consensus(lambda x, data: 0.5 * (data @ x - 1) ** 2, np.array([[1.0, 0.0]]), np.zeros(2))
    assert "may not be unique" in tp.reference(flat).certificate
    saddle = tp.Consensus(lambda x, data: data * (x[0] ** 2 - x[1] ** 2 + x[1] ** 4), np.ones(2), np.zeros(2))
    found = tp.reference(saddle)
    assert found.objective == pytest.approx(-0.25) or "saddle" in found.certificate


def test_tol_must_be_positive():
    with pytest.raises(ValueError, match="reference tol: got 0"):
        tp.reference(tp.Measurements([1.0]), tol=0)
