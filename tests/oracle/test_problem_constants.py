"""Constants against numpy.linalg.eigvalsh and closed forms; heterogeneity against its definition."""

import jax.numpy as jnp
import numpy as np
import pytest

import thalweg.problem as tp
from thalweg.problem import losses
from thalweg.problem.reference import reference

W = np.array([1.0, 2.0, 5.0])


def matrices(n=3, d=6, seed=2):
    A = np.random.default_rng(seed).standard_normal((n, d, d))
    return A @ A.swapaxes(1, 2) + 0.1 * np.eye(d)


def form(x, data):
    return 0.5 * x @ data @ x


def test_exact_given_and_estimated_agree_on_quadratics():
    A = matrices()
    n, d = A.shape[:2]
    scale = n * W / W.sum()
    eigenvalues = np.linalg.eigvalsh(A)
    low, high = scale * eigenvalues[:, 0], scale * eigenvalues[:, -1]
    exact = tp.quadratic(A, np.zeros((n, d)), weights=W).constants
    estimated = tp.Consensus(form, A, np.zeros(d), weights=W).constants
    given = tp.Consensus(
        form, A, np.zeros(d), weights=W, smoothness=eigenvalues[:, -1], strong_convexity=eigenvalues[:, 0]
    ).constants
    for constants, source in ((exact, "exact"), (estimated, "estimated"), (given, "given")):
        np.testing.assert_allclose(constants.smoothness, high, rtol=1e-10)
        np.testing.assert_allclose(constants.strong_convexity, low, rtol=1e-8)
        assert constants.source == source
    assert exact.condition_number == pytest.approx(high.max() / low.min())


def test_half_given():
    A = matrices()
    constants = tp.Consensus(form, A, np.zeros(6), smoothness=100.0).constants
    np.testing.assert_allclose(constants.smoothness, 100)
    np.testing.assert_allclose(constants.strong_convexity, np.linalg.eigvalsh(A)[:, 0], rtol=1e-8)
    assert constants.source == "estimated"


def test_lanczos_above_the_dense_limit():
    """Diagonal Hessians with known ends, too large to form."""
    d = 400
    spectrum = np.stack([np.r_[0.5, np.linspace(1, 9, d - 2), 10.0], np.r_[0.05, np.linspace(1, 2, d - 2), 40.0]])
    problem = tp.Consensus(lambda x, data: 0.5 * jnp.sum(data * x**2), spectrum, np.zeros(d))
    np.testing.assert_allclose(problem.smoothness, [10, 40], rtol=1e-3)
    np.testing.assert_allclose(problem.strong_convexity, [0.5, 0.05], rtol=0.05)
    # Ritz values lie inside the spectrum.
    assert (problem.smoothness <= np.array([10, 40]) * (1 + 1e-12)).all()


def test_logistic_at_zero_is_a_quarter_of_the_gram_matrix():
    generator = np.random.default_rng(0)
    data = [(generator.standard_normal((m, 4)), generator.integers(0, 2, m)) for m in (30, 12)]
    problem = tp.EmpiricalRisk(lambda x, e: losses.logistic(e[0] @ x, e[1]), data, np.zeros(4), weights="uniform")
    expected = [np.linalg.eigvalsh(X.T @ X / (4 * len(X)))[-1] for X, _ in data]
    np.testing.assert_allclose(problem.smoothness, expected, rtol=1e-10)


def test_singular_and_nonconvex_have_no_strong_convexity():
    A = np.stack([np.diag([0.0, 1.0]), np.diag([-1.0, 0.5])])
    for problem in (tp.Consensus(form, A, np.zeros(2)), tp.quadratic(A, np.zeros((2, 2)))):
        np.testing.assert_array_equal(problem.strong_convexity, 0)
        np.testing.assert_allclose(problem.smoothness, 1)
        assert problem.constants.condition_number == np.inf


def test_folded_own_regularizer_is_estimated():
    A = matrices()
    own = tp.regularizer(lambda x: 1.5 * jnp.sum(x**2), lambda v, step: v / (1 + 3 * step), smooth=True)
    constants = tp.quadratic(A, np.zeros((3, 6)), regularizer=own).folded().constants
    np.testing.assert_allclose(constants.smoothness, np.linalg.eigvalsh(A)[:, -1] + 3, rtol=1e-10)
    assert constants.source == "estimated"


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"smoothness": -1}, r"smoothness: got -1, expected a positive number"),
        ({"smoothness": [1, 2]}, r"smoothness: got .* shape \(3,\)"),
        ({"strong_convexity": np.nan}, r"strong_convexity: got nan"),
        ({"smoothness": 1, "strong_convexity": 2}, r"strong_convexity of agent 0: got 2.0, expected at most"),
    ],
)
def test_bad_constants(keywords, message):
    with pytest.raises(ValueError, match=message):
        tp.Consensus(form, matrices(), np.zeros(6), **keywords)


def test_heterogeneity_by_its_definition():
    A, w = matrices(), W / W.sum()
    b = np.random.default_rng(5).standard_normal((3, 6))
    problem = tp.quadratic(A, b, weights=W, names=["a", "b", "c"])
    x = np.linalg.solve(np.einsum("n,nij->ij", w, A), -w @ b)
    gradients = A @ x + b
    found = tp.heterogeneity(problem)
    np.testing.assert_allclose(found.per_agent, np.sum(gradients**2, axis=1), rtol=1e-8)
    np.testing.assert_allclose(found.zeta_squared, w @ np.sum(gradients**2, axis=1), rtol=1e-8)
    np.testing.assert_allclose(found.dissimilarity, w @ np.sum(b**2, axis=1) / np.sum((w @ b) ** 2), rtol=1e-10)
    largest = 3 * w * np.linalg.eigvalsh(A)[:, -1]
    np.testing.assert_allclose(found.smoothness_spread, largest.max() / largest.min(), rtol=1e-10)
    assert "abc"[int(np.argmax(found.per_agent))] in repr(found)


def test_identical_agents_are_not_heterogeneous():
    A = np.repeat(matrices(1), 4, axis=0)
    found = tp.heterogeneity(tp.quadratic(A, np.ones((4, 6))), x=reference(tp.quadratic(A, np.ones((4, 6)))).x)
    assert found.zeta_squared < 1e-20
    assert found.dissimilarity == pytest.approx(1)
    assert found.smoothness_spread == pytest.approx(1)


def test_heterogeneity_refuses_another_shape():
    with pytest.raises(ValueError, match="heterogeneity x: got shapes"):
        tp.heterogeneity(tp.quadratic(matrices(), np.zeros((3, 6))), x=np.zeros(5))
