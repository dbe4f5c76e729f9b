"""Prox of a local function: closed forms, the inner Newton solver, and SciPy on the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import thalweg.problem as tp
from thalweg.problem.inner import solve_prox


def every(problem, ask):
    return jax.jit(jax.vmap(lambda piece: ask(problem.local(piece))))(problem.pieces)


def quadratic_data(n=5, d=4):
    generator = np.random.default_rng(11)
    A = generator.standard_normal((n, d, d))
    return A @ A.swapaxes(1, 2), generator.standard_normal((n, d))


def test_quadratic_prox_in_closed_form_and_by_newton():
    A, b = quadratic_data()
    n, d = b.shape
    w = np.arange(1.0, n + 1)
    v = np.random.default_rng(0).standard_normal(d)
    scale = n * w / w.sum()
    closed = tp.quadratic(A, b, weights=w)
    inner = tp.Consensus(lambda x, data: 0.5 * x @ data[0] @ x + data[1] @ x, (A, b), np.zeros(d), weights=w)

    @jax.jit
    def both(step):
        return [jax.vmap(lambda piece, p=p: p.local(piece).prox(v, step))(p.pieces) for p in (closed, inner)]

    for step in (1e-3, 0.5, 100.0):
        systems = zip(scale, A, b, strict=True)
        expected = [np.linalg.solve(s * A_i + np.eye(d) / step, v / step - s * b_i) for s, A_i, b_i in systems]
        for found in both(step):
            np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def logistic(x, example):
    margin = example[0] @ x["w"] + x["b"]
    return jnp.logaddexp(0.0, margin) - example[1] * margin


def test_logistic_prox_against_scipy():
    generator = np.random.default_rng(1)
    data = [(generator.standard_normal((m, 3)), generator.integers(0, 2, m)) for m in (20, 9)]
    problem = tp.EmpiricalRisk(logistic, data, {"w": np.zeros(3), "b": 0.0})
    v = {"w": generator.standard_normal(3), "b": np.array(0.5)}
    elsewhere = {"w": np.ones(3), "b": np.array(-2.0)}
    target = np.append(v["w"], v["b"])

    @jax.jit
    def prox(step, x_init):
        return jax.vmap(lambda piece: problem.local(piece).prox(v, step, x_init))(problem.pieces)

    def definition(z, features, labels, scale, step):
        margin = features @ z[:3] + z[3]
        error = 1 / (1 + np.exp(-margin)) - labels
        value = scale * np.mean(np.logaddexp(0, margin) - labels * margin) + np.sum((z - target) ** 2) / (2 * step)
        slope = scale * np.append(features.T @ error, error.sum()) / len(labels) + (z - target) / step
        return value, slope

    for step in (0.1, 10.0, 1e4):
        found = [prox(step, start) for start in (v, elsewhere)]
        for i, part in enumerate(data):
            rest = (*part, problem.n * problem.weights[i], step)
            best = scipy.optimize.minimize(definition, target, rest, jac=True, method="BFGS", options={"gtol": 1e-9}).x
            for x in found:
                z = np.append(x["w"][i], x["b"][i])
                np.testing.assert_allclose(z, best, atol=2e-6)
                # The stated tolerance: distance ≤ s‖∇h‖, with ‖∇h‖ tiny beside the two terms that cancel in it.
                assert np.linalg.norm(definition(z, *rest)[1]) < 1e-11


@pytest.mark.parametrize("d", [5, 300])
def test_newton_direct_and_by_conjugate_gradients(d):
    """h(x) = Σ x⁴/4 + (x − v)²/(2s): x³ + (x − v)/s = 0 entry by entry, solved here by NumPy's roots."""
    v, s = np.linspace(-3, 3, d), 0.7
    x = jax.jit(lambda v: solve_prox(lambda z: jnp.sum(z**4) / 4, v, s, v))(v)
    exact = [next(r.real for r in np.roots([1, 0, 1 / s, -a / s]) if abs(r.imag) < 1e-9) for a in v]
    np.testing.assert_allclose(x, exact, atol=1e-9)


def test_float32_reaches_its_stated_tolerance():
    v = np.linspace(-3, 3, 6)
    prox = jax.jit(lambda v: solve_prox(lambda z: jnp.sum(jnp.logaddexp(0, z)), v, 0.7, v))
    exact, found = prox(v), prox(jnp.asarray(v, jnp.float32))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact, atol=2e-5)


def test_nonconvex_prox_goes_downhill_to_a_stationary_point():
    def valley(z):
        return jnp.sum((z**2 - 1) ** 2)

    v, s = jnp.array([0.1, -0.05]), 5.0
    x = solve_prox(valley, v, s, v)

    def h(z):
        return valley(z) + jnp.sum((z - v) ** 2) / (2 * s)

    assert h(x) < h(v)
    assert np.linalg.norm(jax.grad(h)(x)) < 1e-9


def test_users_prox_gets_the_step_of_the_unscaled_function():
    """f_i = c_i·|x|, whose prox soft-thresholds at step·c_i; with weights it must threshold at n·w_i·step·c_i."""
    c = np.array([1.0, 2.0])

    def soft(v, step, data):
        return jnp.sign(v) * jnp.maximum(jnp.abs(v) - step * data, 0)

    problem = tp.Consensus(lambda x, data: data * jnp.abs(x), c, 1.0, weights=[1, 3], prox=soft)
    np.testing.assert_allclose(every(problem, lambda local: local.prox(jnp.array(5.0), 0.4)), 5 - 0.4 * c * [0.5, 1.5])


@pytest.mark.parametrize("step", [0, -0.1, float("nan")])
def test_bad_step(step):
    problem = tp.Measurements([1.0, 2.0])
    local = problem.local(jax.tree.map(lambda a: a[0], problem.pieces))
    with pytest.raises(ValueError, match=r"prox step: got .*, expected a positive number"):
        local.prox(jnp.array(0.0), step)
