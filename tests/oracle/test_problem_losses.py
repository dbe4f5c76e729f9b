"""Ready losses: values and derivatives against formulas and finite differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from thalweg.problem import losses

MARGINS = np.array([-40.0, -3.0, -0.5, 0.0, 0.7, 2.0, 800.0])


@pytest.mark.parametrize("label", [0, 1, 0.3])
def test_logistic(label):
    value = jax.vmap(losses.logistic, in_axes=(0, None))(MARGINS, label)
    np.testing.assert_allclose(value, np.logaddexp(0, MARGINS) - label * MARGINS)
    slope = jax.vmap(jax.grad(losses.logistic), in_axes=(0, None))(MARGINS, label)
    np.testing.assert_allclose(slope, scipy.special.expit(MARGINS) - label, atol=1e-15)
    bend = jax.vmap(jax.grad(jax.grad(losses.logistic)), in_axes=(0, None))(MARGINS, label)
    np.testing.assert_allclose(bend, scipy.special.expit(MARGINS) * scipy.special.expit(-MARGINS), atol=1e-15)


def test_logistic_derivative_in_the_label():
    assert jax.grad(losses.logistic, argnums=1)(0.7, 0.2) == pytest.approx(-0.7)
    value, change = jax.jvp(losses.logistic, (0.7, 0.2), (1.0, 1.0))
    assert change == pytest.approx(scipy.special.expit(0.7) - 0.2 - 0.7)
    assert value == pytest.approx(np.logaddexp(0, 0.7) - 0.14)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.squared, lambda e: 0.5 * e**2),
        (losses.huber, lambda e: np.where(abs(e) <= 1, 0.5 * e**2, abs(e) - 0.5)),
    ],
)
def test_regression_losses(loss, expected):
    target = 0.4
    np.testing.assert_allclose(loss(MARGINS, target), expected(MARGINS - target))
    for margin in (-3.0, 0.0, 0.9, 2.0):
        numeric = scipy.optimize.approx_fprime(np.array([margin]), lambda z: float(loss(z[0], target)), 1e-7)[0]
        assert jax.grad(loss)(margin, target) == pytest.approx(numeric, abs=1e-6)


def test_huber_at_its_kinks_and_own_delta():
    assert jax.grad(losses.huber)(0.0, 0.0) == 0
    assert losses.huber(5.0, 0.0, delta=2.0) == pytest.approx(2 * 5 - 2)


def test_hinge_squared():
    for label, sign in ((0, -1), (1, 1)):
        np.testing.assert_allclose(losses.hinge_squared(MARGINS, label), 0.5 * np.maximum(0, 1 - sign * MARGINS) ** 2)


def test_softmax_cross_entropy():
    logits, labels = np.random.default_rng(0).standard_normal((6, 4)), np.array([0, 1, 2, 3, 0, 1])
    expected = -np.log(scipy.special.softmax(logits, axis=1))[np.arange(6), labels]
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, labels), expected)
    slope = jax.grad(losses.softmax_cross_entropy)(logits[0], jnp.asarray(2))
    np.testing.assert_allclose(slope, scipy.special.softmax(logits[0]) - np.eye(4)[2], atol=1e-15)


def test_linear_model():
    model = losses.linear_model(losses.softmax_cross_entropy)
    x = model.start(3, outputs=4)
    assert {k: v.shape for k, v in x.items()} == {"weights": (3, 4), "bias": (4,)}
    assert model(x, (jnp.ones(3), jnp.asarray(1))) == pytest.approx(np.log(4))
    assert model.predict(x, jnp.ones((7, 3))).shape == (7, 4)
    plain = losses.linear_model(losses.squared, fit_intercept=False)
    assert list(plain.start(2)) == ["weights"]
    np.testing.assert_allclose(plain.predict({"weights": jnp.array([1.0, 2.0])}, jnp.ones((5, 2))), 3)
    assert plain == losses.linear_model(losses.squared, fit_intercept=False)
    assert hash(plain) == hash(losses.linear_model(losses.squared, fit_intercept=False))
