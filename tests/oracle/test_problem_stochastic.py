"""Stochastic gradients are unbiased: exactly, by going through every minibatch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg.problem as tp

D = 2


def squared(x, example):
    features, target = example
    return 0.5 * (features @ x - target) ** 2


def make(counts, batch_size, weights="examples"):
    generator = np.random.default_rng(3)
    data = [(generator.standard_normal((m, D)), generator.standard_normal(m)) for m in counts]
    return tp.EmpiricalRisk(squared, data, np.zeros(D), batch_size=batch_size, weights=weights)


def agent(problem, i):
    return problem.local(jax.tree.map(lambda a: a[i], problem.pieces))


@pytest.mark.parametrize("counts", [(3, 3), (4, 2, 3)])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_mean_over_all_minibatches_is_the_gradient(counts, batch_size):
    problem = make(counts, batch_size)
    x = np.array([0.7, -1.2])
    for i, m in enumerate(counts):
        local = agent(problem, i)
        batches = jnp.array(list(itertools.product(range(m), repeat=batch_size)))
        gradients = jax.jit(jax.vmap(lambda batch, local=local: local.batch_grad(x, batch)))(batches)
        np.testing.assert_allclose(gradients.mean(axis=0), local.grad(x), atol=1e-14)


@pytest.mark.parametrize("counts", [(3, 3), (4, 2, 3)])
def test_mean_over_all_examples_is_the_gradient(counts):
    problem = make(counts, None, weights="uniform")
    x = np.array([0.7, -1.2])
    for i, m in enumerate(counts):
        local = agent(problem, i)
        gradients = jax.jit(jax.vmap(lambda j, local=local: local.example_grad(x, j)))(jnp.arange(m))
        np.testing.assert_allclose(gradients.mean(axis=0), local.grad(x), atol=1e-14)


def test_draws_are_uniform_over_own_examples():
    """Padding is never drawn, and each own example equally often (chi-squared, 3 degrees of freedom, p = 1e-6)."""
    problem = make((4, 2), 8)
    for i, m in enumerate((4, 2)):
        keys = jax.random.split(jax.random.key(5), 2000)
        drawn = np.asarray(jax.jit(jax.vmap(lambda key, i=i: agent(problem, i).draw(key)))(keys)).ravel()
        counts = np.bincount(drawn, minlength=m)
        assert len(counts) == m
        expected = len(drawn) / m
        assert np.sum((counts - expected) ** 2 / expected) < 30.7


def test_stochastic_gradient_is_the_gradient_of_its_draw():
    problem = make((4, 2), 3)
    local, key, x = agent(problem, 0), jax.random.key(9), np.array([0.1, 0.4])
    features, targets = (np.asarray(a)[np.asarray(local.draw(key))] for a in local.data)
    by_hand = problem.n * problem.weights[0] * features.T @ (features @ x - targets) / 3
    np.testing.assert_allclose(local.stochastic_grad(x, key), by_hand, atol=1e-14)
    assert not np.allclose(local.stochastic_grad(x, jax.random.key(10)), by_hand)


def test_without_batch_size_the_gradient_is_full():
    local, x = agent(make((4, 2), None), 1), np.array([0.1, 0.4])
    np.testing.assert_array_equal(local.stochastic_grad(x, jax.random.key(0)), local.grad(x))


def test_gradient_noise_has_the_scale_of_the_gradient():
    d, sigma = 40_000, 0.3
    problem = tp.Consensus(lambda x, data: data @ x, np.zeros((2, d)), np.zeros(d), weights=[1, 3], gradient_noise=sigma)
    for i, scale in enumerate((0.5, 1.5)):
        noise = np.asarray(agent(problem, i).stochastic_grad(problem.x0, jax.random.key(i)))
        # 4 standard errors.
        assert abs(noise.mean()) < 4 * scale * sigma / np.sqrt(d)
        assert abs(noise.std() - scale * sigma) < 4 * scale * sigma / np.sqrt(2 * d)
