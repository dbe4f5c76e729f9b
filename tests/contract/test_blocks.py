"""Work block by block gives what work on all agents at once gives, and is chosen only where data are read twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.engine import blocks
from thalweg.engine.blocks import readings, vectorised
from thalweg.engine.executor import Vectorised


def _loss(x, example):
    features, label = example
    return tw.losses.logistic(features @ x, label)


def _problem(n=7, m=6, d=3, **options):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, m, d))
    return tw.EmpiricalRisk(_loss, (features, (features.sum(2) > 0).astype(float)), np.zeros(d), **options)


def _loops(function, *args) -> int:
    program = str(jax.make_jaxpr(function)(*args))
    return program.count("while[") + program.count("scan[")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_blocks_of_any_size_give_the_same(size):
    problem, x = _problem(), jnp.asarray(np.random.default_rng(1).normal(size=(7, 3)))
    agent_bytes = (6 * 3 + 3) * 8  # features, and x, which `gradient` reads twice too
    gradient = lambda factor, piece, x: (factor * problem.local(piece).grad(x), x > 0)
    axes = (None, 0, 0)
    args = (jnp.asarray(2.0), problem.pieces, x)
    block = vectorised(gradient, axes, size * agent_bytes, 0)
    assert _loops(block, *args) == 1
    whole, by_block = jax.vmap(gradient, axes)(*args), block(*args)
    np.testing.assert_allclose(by_block[0], whole[0], rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(by_block[1], whole[1])


def test_only_data_that_are_read_twice_are_cut():
    full, minibatch = _problem(), _problem(batch_size=2)
    x, keys = jnp.ones((7, 3)), jax.random.split(jax.random.key(0), 7)
    rng = np.random.default_rng(0)
    A = np.eye(3) * (1 + rng.random((7, 1, 1)))
    quadratic = tw.quadratic(A, rng.normal(size=(7, 3)))
    by_block = lambda function: vectorised(function, (0, 0), 2**10, 0)
    gradient = lambda problem: by_block(lambda piece, x: problem.local(piece).grad(x))
    stochastic = vectorised(lambda p, x, key: minibatch.local(p).stochastic_grad(x, key), (0, 0, 0), 2**10, 0)
    assert _loops(gradient(full), full.pieces, x) == 1
    assert _loops(gradient(quadratic), quadratic.pieces, x) == 0
    before = _loops(jax.vmap(lambda p, x, key: minibatch.local(p).stochastic_grad(x, key)), minibatch.pieces, x, keys)
    assert _loops(stochastic, minibatch.pieces, x, keys) == before
    single = jax.tree.map(lambda leaf: leaf.astype("f4"), full.pieces)
    assert _loops(gradient(full), single, x.astype("f4")) == 0
    assert _loops(vectorised(lambda p, x: full.local(p).grad(x), (0, 0)), full.pieces, x) == 0  # it fits the cache


def test_readings():
    def several(once, twice, never, part, often, unused):
        looped = jax.lax.fori_loop(0, 5, lambda i, s: s + often.sum(), 0.0)
        branch = jax.lax.cond(once[0, 0] > 0, lambda: 0.0, lambda: 1.0)
        unneeded = unused @ unused
        del unneeded
        return jax.jit(jnp.sum)(twice.T) + twice.sum() + part[jnp.argmax(once[0])].sum() + looped + branch, never

    program = jax.make_jaxpr(several)(*[jnp.ones((3, 3))] * 6)
    _, twice, never, part, often, unused = readings(program.jaxpr)
    assert (twice, never, part, unused) == (2, 0, 0, 0)
    assert often >= 2


@pytest.mark.slow
def test_a_run_by_blocks(monkeypatch):
    problem, network = _problem(), tw.network.ring(7)
    run = lambda: tw.solve(problem, tw.GradientTracking(step_size=0.1), network, rounds=20, progress=False).agents
    whole = run()
    monkeypatch.setattr(Vectorised, "role", _role_by_blocks)
    jax.clear_caches()
    by_block = run()
    jax.clear_caches()
    np.testing.assert_allclose(by_block, whole, rtol=1e-12, atol=1e-14)


def _role_by_blocks(self, name, function, *args, axes):
    return blocks.vectorised(function, axes, 2 * 6 * 3 * 8, 0)(*args)
