"""What local solvers must keep, whatever they minimise.

Axes: `n` clients, `m` examples.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import thalweg as tw
from thalweg.algorithm.server.base import ClientContext

COUNTS = (7, 4, 1)


def linear(x, example):
    """−x[j] of example j, as a unit vector: gradients say which examples were used."""
    return -(x @ example)


def squared_error(x, example):
    a, b = example
    return 0.5 * (a @ x - b) ** 2


def unit_examples(counts=COUNTS):
    """The locals of clients whose examples are unit vectors."""
    longest = max(counts)
    problem = tw.EmpiricalRisk(linear, [np.eye(longest)[:m] for m in counts], np.zeros(longest), weights="uniform")
    return locals_of(problem)


def regression(m=7):
    rng = np.random.default_rng(0)
    problem = tw.EmpiricalRisk(squared_error, [(rng.standard_normal((m, 2)), rng.standard_normal(m))], np.zeros(2))
    return locals_of(problem)[0]


def locals_of(problem):
    pieces = [jax.tree.map(lambda leaf, i=i: leaf[i], problem.pieces) for i in range(problem.n)]
    return [problem.local(piece) for piece in pieces]


def context(seed=0, k=0, budget=None):
    key = jax.random.key_data(jax.random.key(seed))
    budget = None if budget is None else jnp.asarray(budget, jnp.int32)
    return ClientContext(key, jnp.asarray(k, jnp.int32), budget)


def many(solver, local, draws):
    """Runs from 0 with `draws` different keys."""
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), draws))
    one = lambda key: solver.run(local, jnp.zeros(7), ClientContext(key, jnp.asarray(0, jnp.int32)))
    return jax.jit(jax.vmap(one))(keys)


@pytest.mark.parametrize("batch_size", [3, 7, 50, 1])
@pytest.mark.parametrize("epochs", [1, 3])
def test_an_epoch_visits_every_example_once(batch_size, epochs):
    """The smaller last minibatch has longer steps per example; nothing of the padding is ever used."""
    for i, local in enumerate(unit_examples()):
        m = COUNTS[i]
        run = tw.LocalSGD(1.0, epochs=epochs, batch_size=batch_size).run(local, jnp.zeros(7), context(i))
        size = min(batch_size, 7)
        assert int(run.steps) == epochs * -(-m // size)
        np.testing.assert_allclose(run.length, run.steps)
        sizes = np.diff([*range(0, m, size), m])  # of the minibatches
        once = np.sort(np.repeat(1 / sizes, sizes))
        y = np.asarray(run.x)
        if epochs == 1:
            np.testing.assert_allclose(np.sort(y[:m]), once, rtol=1e-12)
        np.testing.assert_allclose(y[:m].sum(), epochs * len(sizes), rtol=1e-12)
        assert (y[:m] >= epochs * once.min() - 1e-12).all() and (y[:m] <= epochs * once.max() + 1e-12).all()
        assert (y[m:] == 0).all()


def test_every_epoch_and_every_key_has_an_order_of_its_own():
    """Who is in the smaller last minibatch tells orders apart."""
    ends = lambda epochs: many(tw.LocalSGD(1.0, epochs=epochs, batch_size=3), unit_examples()[0], 30).x
    assert len(set(np.argmax(np.asarray(ends(1)), axis=1))) > 3
    assert (np.isclose(np.asarray(ends(2)), 4 / 3).sum(1) == 2).any()  # not the same one in both epochs


def test_the_order_is_uniform():
    draws = 2000
    run = many(tw.LocalSGD(1.0, epochs=1, batch_size=3), unit_examples()[1], draws)
    last = np.bincount(np.argmax(np.asarray(run.x), axis=1), minlength=7)
    np.testing.assert_allclose(last[:4], draws / 4, atol=5 * np.sqrt(draws * 3 / 16))
    assert last[4:].sum() == 0


def test_minibatches_by_steps_are_unbiased():
    """Drawn with replacement among the own examples: E[(y − x)/(η K)] is the mean of −∇."""
    draws, steps, size = 2000, 3, 2
    solver = tw.LocalSGD(0.5, steps=steps, batch_size=size)
    for m, local in zip(COUNTS, unit_examples(), strict=True):
        runs = many(solver, local, draws)
        assert (np.asarray(runs.steps) == steps).all()
        mean = np.asarray(runs.x).mean(0) / (0.5 * steps)
        deviation = np.sqrt((1 / m) * (1 - 1 / m) / (draws * steps * size))
        np.testing.assert_allclose(mean[:m], 1 / m, atol=5 * deviation + 1e-12)
        assert (mean[m:] == 0).all()


@pytest.mark.parametrize("budget", [0, 1, 2, 9])
def test_a_budget_cuts_the_steps_short(budget):
    local = regression()
    x = jnp.asarray([1.0, -1.0])
    whole = tw.LocalSGD(0.1, steps=4).run(local, x, context(budget=budget))
    taken = min(budget, 4)
    assert int(whole.steps) == taken
    short = x if taken == 0 else tw.LocalSGD(0.1, steps=taken).run(local, x, context()).x
    np.testing.assert_allclose(whole.x, short, rtol=1e-14)
    np.testing.assert_allclose(whole.length, 0.1 * taken)
    for ragged in unit_examples():
        run = tw.LocalSGD(1.0, epochs=3, batch_size=3).run(ragged, jnp.zeros(7), context(budget=budget))
        assert int(run.steps) == min(budget, 3 * -(-int(ragged.examples) // 3))


@pytest.mark.parametrize("work", [{"epochs": 2, "batch_size": 3}, {"steps": 5, "batch_size": 2}, {"steps": 3}])
def test_plain_steps_are_those_of_optax_sgd(work):
    local, x = regression(), jnp.asarray([1.0, -1.0])
    plain = tw.LocalSGD(0.1, **work).run(local, x, context(3))
    solver = tw.LocalSGD(optimizer=optax.sgd(0.1), **work)
    assert not solver.open()
    facts = tw.algorithm.Facts(smoothness=None, strong_convexity=0.0, local_smoothness=None, n=1)
    other = solver.resolve(facts).run(local, x, context(3))
    np.testing.assert_allclose(other.x, plain.x, rtol=1e-13)
    half = tw.LocalSGD(0.5, optimizer=optax.sgd(0.2), **work).run(local, x, context(3))
    np.testing.assert_allclose(half.x, plain.x, rtol=1e-13)


def test_momentum_of_a_local_optimizer_starts_anew():
    local, x = regression(), jnp.asarray([1.0, -1.0])
    solver = tw.LocalSGD(1.0, optimizer=optax.sgd(0.1, momentum=0.9), steps=3)
    y, m = np.asarray(x), 0.0
    for _ in range(3):
        m = 0.9 * m + np.asarray(local.grad(jnp.asarray(y)))
        y = y - 0.1 * m
    for _ in range(2):
        np.testing.assert_allclose(solver.run(local, x, context()).x, y, rtol=1e-12)


def test_a_clip_shortens_long_gradients_only():
    local, x = regression(), jnp.asarray([30.0, -10.0])
    gradient = np.asarray(local.grad(x))
    size = np.linalg.norm(gradient)
    run = tw.LocalSGD(0.1, steps=1, clip=0.5).run(local, x, context())
    np.testing.assert_allclose(np.asarray(run.x - x), -0.1 * 0.5 * gradient / size, rtol=1e-12)
    np.testing.assert_allclose(run.gradient_norm, size)  # before the clip
    free = tw.LocalSGD(0.1, steps=1, clip=2 * size).run(local, x, context())
    np.testing.assert_allclose(np.asarray(free.x - x), -0.1 * gradient, rtol=1e-12)


def test_a_schedule_sees_the_round():
    local, x = regression(), jnp.asarray([1.0, -1.0])
    solver = tw.LocalSGD(lambda k: 0.1 / (1 + k), steps=2)
    for k in (0, 3):
        run = solver.run(local, x, context(k=k))
        np.testing.assert_allclose(run.x, tw.LocalSGD(0.1 / (1 + k), steps=2).run(local, x, context()).x, rtol=1e-13)
        np.testing.assert_allclose(run.length, 0.2 / (1 + k))


@pytest.mark.parametrize("solver", [tw.LocalSGD(0.1, steps=2, batch_size=2), tw.LocalPolyak(steps=2, batch_size=2)])
def test_corrections_see_gradient_and_place(solver):
    local, x = regression(), jnp.asarray([1.0, -1.0])
    seen = []
    away = solver.run(local, x, context(), lambda g, y: (seen.append((g.shape, y.shape)), y - x)[1])
    assert seen[0] == ((2,), (2,))
    np.testing.assert_array_equal(away.x, x)  # no pull towards x at x


@pytest.mark.parametrize("work", [{"epochs": 2, "batch_size": 3}, {"steps": 4, "batch_size": 2}, {"steps": 3}])
def test_with_an_anchor_gradients_are_differences_on_one_minibatch(work):
    """At the anchor they vanish whatever the minibatch; with the mean gradient added (SVRG) steps are unbiased."""
    local, x = regression(), jnp.asarray([1.0, -1.0])
    still = tw.LocalSGD(0.1, **work).run(local, x, context(2), anchor=x)
    np.testing.assert_array_equal(still.x, x)
    shifted = tw.LocalSGD(0.1, steps=1).run(local, x, context(), anchor=jnp.zeros(2))
    expected = np.asarray(x) - 0.1 * np.asarray(local.grad(x) - local.grad(jnp.zeros(2)))
    np.testing.assert_allclose(shifted.x, expected, rtol=1e-12)


def test_loss_is_the_mean_before_each_step_and_polyak_steps_add_up():
    local, x = regression(), jnp.asarray([1.0, -1.0])
    run = tw.LocalPolyak(largest=0.4, scale=0.7, steps=3).run(local, x, context())
    y, losses, length = np.asarray(x), [], 0.0
    for _ in range(3):
        value, g = float(local.value(jnp.asarray(y))), np.asarray(local.grad(jnp.asarray(y)))
        rate = min(value / (0.7 * g @ g), 0.4)
        losses.append(value)
        length += rate
        y = y - rate * g
    np.testing.assert_allclose(run.x, y, rtol=1e-12)
    np.testing.assert_allclose((run.loss, run.length), (np.mean(losses), length), rtol=1e-12)


@pytest.mark.parametrize("kind", [tw.LocalSGD, tw.LocalPolyak])
@pytest.mark.parametrize("changes", [{"steps": 0}, {"epochs": 1, "steps": 1}, {"batch_size": -3}, {"epochs": True}])
def test_work_that_is_no_whole_number_is_refused(kind, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        kind(**changes)


def test_an_open_step_without_constants_is_refused():
    facts = tw.algorithm.Facts(smoothness=None, strong_convexity=0.0, local_smoothness=None, n=1)
    with pytest.raises(ValueError, match="learning_rate was left open"):
        tw.LocalSGD().resolve(facts)
