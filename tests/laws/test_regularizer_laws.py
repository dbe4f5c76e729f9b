"""Regularisers: Moreau's identity, optimality of the prox, cvxpy, and closed forms."""

import cvxpy as cp
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thalweg.problem as tp
from thalweg.problem.regularizer import Zero

SHAPE = (3, 4)

ALL = {
    "zero": (Zero(), lambda x: 0),
    "l1": (tp.l1(0.7), lambda x: 0.7 * cp.norm1(x)),
    "l2": (tp.l2(0.7), lambda x: 0.35 * cp.sum_squares(x)),
    "elastic_net": (tp.elastic_net(0.4, 0.9), lambda x: 0.4 * cp.norm1(x) + 0.45 * cp.sum_squares(x)),
    "group_lasso": (tp.group_lasso(0.6), lambda x: 0.6 * cp.sum([cp.norm2(x[i]) for i in range(SHAPE[0])])),
    "group_lasso_columns": (tp.group_lasso(0.6, axis=0), lambda x: 0.6 * cp.sum([cp.norm2(x[:, j]) for j in range(SHAPE[1])])),
    "box": (tp.box(-0.3, 0.5), [lambda x: x >= -0.3, lambda x: x <= 0.5]),
    "nonnegative": (tp.nonnegative(), [lambda x: x >= 0]),
    "ball": (tp.ball(0.2, 1.1), [lambda x: cp.norm(x - 0.2, "fro") <= 1.1]),
    "second_order_cone": (
        tp.second_order_cone(0.7),
        [lambda x, i=i: cp.norm2(x[i, :-1]) <= 0.7 * x[i, -1] for i in range(SHAPE[0])],
    ),
    "simplex": (tp.simplex(1.5), [lambda x: x >= 0, lambda x: cp.sum(x, axis=1) == 1.5]),
}
names = pytest.mark.parametrize("name", ALL)


def points(seed, count=1):
    return 1.5 * np.random.default_rng(seed).standard_normal((count, *SHAPE))


@names
@pytest.mark.parametrize("step", [0.3, 2.0])
def test_prox_solves_its_definition(name, step):
    r, described = ALL[name]
    v = points(0)[0]
    x = cp.Variable(SHAPE)
    constraints = [c(x) for c in described] if isinstance(described, list) else []
    penalty = 0 if isinstance(described, list) else described(x)
    problem = cp.Problem(cp.Minimize(penalty + cp.sum_squares(x - v) / (2 * step)), constraints)
    problem.solve(solver=cp.CLARABEL, tol_gap_abs=1e-9, tol_gap_rel=1e-9, tol_feas=1e-9)
    np.testing.assert_allclose(r.prox(v, step), x.value, atol=2e-5)


@names
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), step=st.floats(1e-2, 10))
def test_prox_satisfies_the_subgradient_inequality(name, seed, step):
    """(v − p)/s is a subgradient of r at p: r(y) ≥ r(p) + ⟨(v − p)/s, y − p⟩ for every y."""
    r, _ = ALL[name]
    v, *others = points(seed, 5)
    p = r.prox(v, step)
    for y in others:
        y = r.prox(y, 1.0)
        assert r.value(y) >= r.value(p) + np.sum((v - p) / step * (y - p)) - 1e-9


@names
def test_prox_is_firmly_nonexpansive(name):
    r, _ = ALL[name]
    a, b = points(1, 2)
    p, q = r.prox(a, 0.8), r.prox(b, 0.8)
    assert np.sum((p - q) ** 2) <= np.sum((p - q) * (a - b)) + 1e-12


CONJUGATE_PROX = {
    "l1": lambda u, s: np.clip(u, -0.7, 0.7),
    "l2": lambda u, s: u / (1 + 1 / (s * 0.7)),
    "group_lasso": lambda u, s: u / np.maximum(1, np.linalg.norm(u, axis=1, keepdims=True) / 0.6),
    "zero": lambda u, s: np.zeros_like(u),
    "nonnegative": lambda u, s: np.minimum(u, 0),
}


@pytest.mark.parametrize("name", CONJUGATE_PROX)
def test_moreau(name):
    """v = prox_{s r}(v) + s·prox_{r*/s}(v/s), with the prox of the conjugate written down independently."""
    r, _ = ALL[name]
    v, s = points(2)[0], 0.45
    np.testing.assert_allclose(r.prox(v, s) + s * CONJUGATE_PROX[name](v / s, s), v, atol=1e-14)


@names
def test_value_matches_its_formula(name):
    r, described = ALL[name]
    feasible = np.asarray(r.prox(points(3)[0], 1.0))
    if isinstance(described, list):
        assert r.indicator
        assert r.value(feasible) == 0
        assert r.value(feasible - 3.0) == np.inf
    else:
        assert not r.indicator
        x = cp.Variable(SHAPE, value=feasible)
        np.testing.assert_allclose(r.value(feasible), getattr(described(x), "value", 0), rtol=1e-12)


@names
def test_dtype_structure_and_compilation(name):
    r, _ = ALL[name]
    tree = {"a": jnp.ones(SHAPE, jnp.float32), "b": (jnp.ones((2, 4)),)}
    out = jax.jit(jax.vmap(r.prox, in_axes=(0, None)))(jax.tree.map(lambda a: jnp.stack([a, 2 * a]), tree), 0.5)
    assert jax.tree.map(lambda a: (a.shape[1:], a.dtype), out) == jax.tree.map(lambda a: (a.shape, a.dtype), tree)
    eager = r.prox(tree, 0.5)
    np.testing.assert_allclose(out["a"][0], eager["a"], rtol=1e-6)


def test_simplex_against_bisection():
    """Projection onto the simplex is max(v − θ, 0) with the θ that makes it sum to one, found here by bisection."""
    v = points(4)[0]
    low, high = v.min(axis=1) - 2, v.max(axis=1)
    for _ in range(200):
        middle = 0.5 * (low + high)
        too_much = np.maximum(v - middle[:, None], 0).sum(axis=1) > 1
        low, high = np.where(too_much, middle, low), np.where(too_much, high, middle)
    np.testing.assert_allclose(tp.simplex().prox(v, 1.0), np.maximum(v - low[:, None], 0), atol=1e-13)


def test_group_lasso_at_zero():
    r = tp.group_lasso(1.0)
    out = r.prox(jnp.zeros(SHAPE), 1.0)
    assert not np.isnan(out).any()
    np.testing.assert_array_equal(out, 0)


def test_part_leaves_the_rest_free():
    r = tp.l1(1.0).on(lambda x: x["weights"])
    x = {"weights": jnp.array([3.0, -0.2]), "bias": jnp.array(5.0)}
    out = r.prox(x, 0.5)
    np.testing.assert_allclose(out["weights"], [2.5, 0.0])
    assert out["bias"] == 5.0
    np.testing.assert_allclose(r.value(x), 3.2)
    assert tp.l2(2.0).on(lambda x: x["weights"]).curvature() == (2.0, 0.0)


def test_box_with_arrays():
    r = tp.box({"x": np.array([0.0, -1.0])}, {"x": np.array([1.0, np.inf])})
    np.testing.assert_allclose(r.prox({"x": jnp.array([2.0, 7.0])}, 1.0)["x"], [1.0, 7.0])


def test_own_regularizer_and_one_shared_by_tracing():
    own = tp.regularizer(lambda x: jnp.sum(x**4), lambda v, step: v, smooth=True)
    assert own.smooth
    assert own.value(jnp.array([2.0])) == 16
    assert eqx.tree_equal(tp.l1(0.1), tp.l1(0.1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tp.l1(-1), "l1 strength: got -1, expected a finite number ≥ 0"),
        (lambda: tp.l2(np.nan), "l2 strength: got nan"),
        (lambda: tp.elastic_net(1, -2), "elastic_net l2: got -2"),
        (lambda: tp.box(1, 0), "got low = 1 above high = 0"),
        (lambda: tp.box(np.nan, 0), "NaN among the bounds"),
        (lambda: tp.simplex(0), "simplex total: got 0, expected a positive number"),
        (lambda: tp.group_lasso(np.inf), "group_lasso strength: got inf"),
        (lambda: tp.l1(1).prox(jnp.ones(2), 0.0), "prox step: got 0.0, expected a positive number"),
        (lambda: tp.l1(1).prox(jnp.ones(2), -1), "prox step: got -1"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_own_must_be_functions():
    with pytest.raises(TypeError, match="regularizer prox: got NoneType, expected a function"):
        tp.regularizer(lambda x: 0, None)
