"""What an agent may ask of its own part, against NumPy formulas on stacked data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg.problem as tp

N, D = 4, 3
WEIGHTS = np.array([1.0, 2.0, 3.0, 4.0])


def rng():
    return np.random.default_rng(7)


def quadratic_data():
    generator = rng()
    A = generator.standard_normal((N, D, D))
    return A @ A.swapaxes(1, 2) + 0.5 * np.eye(D), generator.standard_normal((N, D))


def every(problem, ask):
    """`ask(local)` of every agent, stacked."""
    return jax.jit(jax.vmap(lambda piece: ask(problem.local(piece))))(problem.pieces)


def logistic(x, example):
    features, label = example
    margin = features @ x["w"] + x["b"]
    return jnp.logaddexp(0.0, margin) - label * margin


def ragged(counts=(5, 2, 3)):
    generator = rng()
    return [(generator.standard_normal((m, D)), generator.integers(0, 2, m)) for m in counts]


X0 = {"w": np.zeros(D), "b": np.zeros(())}


def logistic_by_hand(w, b, features, labels):
    margin = features @ w + b
    error = 1 / (1 + np.exp(-margin)) - labels
    loss = np.mean(np.log1p(np.exp(margin)) - labels * margin)
    return loss, features.T @ error / len(labels), error.mean()


def test_quadratic_oracle():
    A, b = quadratic_data()
    c = np.arange(N)
    problem = tp.quadratic(A, b, c, weights=WEIGHTS)
    x, w = rng().standard_normal(D), WEIGHTS / WEIGHTS.sum()
    f = 0.5 * np.einsum("d,nde,e->n", x, A, x) + b @ x + c
    gradients = A @ x + b
    np.testing.assert_allclose(problem.losses(x), f)
    np.testing.assert_allclose(problem.gradients(x), gradients)
    np.testing.assert_allclose(problem.objective(x), w @ f)
    np.testing.assert_allclose(problem.gradient(x), w @ gradients)
    np.testing.assert_allclose(every(problem, lambda local: local.value(x)), N * w * f)
    value, gradient = every(problem, lambda local: local.value_and_grad(x))
    np.testing.assert_allclose(value, N * w * f)
    np.testing.assert_allclose(gradient, (N * w)[:, None] * gradients)
    # The plain mean of the locals is the problem: what every peer method relies on.
    np.testing.assert_allclose(every(problem, lambda local: local.grad(x)).mean(axis=0), w @ gradients)


def test_quadratic_derivatives_against_autodiff():
    A, b = (array[0] for array in quadratic_data())
    x = rng().standard_normal(D)
    data = {"A": A, "b": b, "c": np.array(2.0)}

    def plain(x, data):
        return 0.5 * x @ data["A"] @ x + data["b"] @ x + data["c"]

    from thalweg.problem.quadratic import quadratic_loss

    for derivative in (jax.grad, jax.hessian):
        np.testing.assert_allclose(derivative(quadratic_loss)(x, data), derivative(plain)(x, data), atol=1e-14)
    for leaf, expected in zip(
        *(jax.tree.leaves(jax.grad(f, argnums=1)(x, data)) for f in (quadratic_loss, plain)), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, atol=1e-14)


def test_stacked_equals_list():
    _, b = quadratic_data()
    stacked = tp.Consensus(lambda x, data: data[0] @ x + jnp.sum(x**2), (b,), np.zeros(D))
    listed = tp.Consensus(lambda x, data: data[0] @ x + jnp.sum(x**2), [(row,) for row in b], np.zeros(D))
    np.testing.assert_array_equal(stacked.pieces.data[0], listed.pieces.data[0])
    assert stacked.n == listed.n == N


@pytest.mark.parametrize("weights", ["examples", "uniform", (3.0, 1.0, 2.0)])
def test_ragged_equals_unpadded(weights):
    data = ragged()
    problem = tp.EmpiricalRisk(logistic, data, X0, weights=weights)
    w = {"examples": np.array([5, 2, 3]), "uniform": np.ones(3)}.get(weights if isinstance(weights, str) else None, weights)
    w = np.asarray(w) / np.sum(w)
    x = {"w": rng().standard_normal(D), "b": np.array(0.3)}
    by_hand = [logistic_by_hand(x["w"], x["b"], *part) for part in data]
    np.testing.assert_allclose(problem.weights, w)
    np.testing.assert_allclose(problem.losses(x), [f for f, _, _ in by_hand])
    gradient = every(problem, lambda local: local.grad(x))
    np.testing.assert_allclose(gradient["w"], [3 * v * g for v, (_, g, _) in zip(w, by_hand, strict=True)], atol=1e-15)
    np.testing.assert_allclose(gradient["b"], [3 * v * g for v, (_, _, g) in zip(w, by_hand, strict=True)], atol=1e-15)


def test_default_weights_pool_the_examples():
    data = ragged()
    problem = tp.EmpiricalRisk(logistic, data, X0)
    x = {"w": rng().standard_normal(D), "b": np.array(-0.1)}
    pooled = [np.concatenate(arrays) for arrays in zip(*data, strict=True)]
    np.testing.assert_allclose(problem.objective(x), logistic_by_hand(x["w"], x["b"], *pooled)[0])


def test_padding_stays_finite_where_zeros_would_not():
    """A loss that is infinite on a record of zeros: padding repeats a real record, so no NaN can come in."""
    data = [(np.array([1.0, 2.0, 3.0]),), (np.array([4.0]),)]
    problem = tp.EmpiricalRisk(lambda x, e: x**2 / e[0] + jnp.log(e[0]), data, 1.0)
    np.testing.assert_allclose(problem.gradients(2.0), [4 * np.mean(1 / data[0][0]), 1.0])


def test_equal_counts_carry_no_mask():
    problem = tp.EmpiricalRisk(logistic, ragged((4, 4, 4)), X0)
    assert problem.pieces.mask is None
    assert problem.pieces.count is None
    assert problem.local(jax.tree.map(lambda a: a[0], problem.pieces)).examples == 4


def test_regularizer_enters_once():
    problem = tp.quadratic(*quadratic_data(), weights=WEIGHTS, regularizer=tp.l1(0.5))
    x = rng().standard_normal(D)
    plain = tp.quadratic(*quadratic_data(), weights=WEIGHTS)
    np.testing.assert_allclose(problem.objective(x), plain.objective(x) + 0.5 * np.abs(x).sum())
    # r is unscaled in the locals, and the gradient is of the smooth part alone.
    np.testing.assert_allclose(every(problem, lambda local: local.regularizer.value(x)), np.full(N, 0.5 * np.abs(x).sum()))
    np.testing.assert_allclose(problem.gradient(x), plain.gradient(x))
    assert every(plain, lambda local: local.regularizer.value(x)).max() == 0


def test_folded_is_the_same_problem():
    A, b = quadratic_data()
    problem = tp.quadratic(A, b, weights=WEIGHTS, regularizer=tp.l2(0.3))
    folded = problem.folded()
    x, step = rng().standard_normal(D), 0.7
    scale = N * WEIGHTS / WEIGHTS.sum()
    assert folded.regularizer is None
    np.testing.assert_allclose(folded.objective(x), problem.objective(x))
    np.testing.assert_allclose(every(folded, lambda local: local.grad(x)), scale[:, None] * (A @ x + b + 0.3 * x))
    expected = [
        np.linalg.solve(s * (A_i + 0.3 * np.eye(D)) + np.eye(D) / step, x / step - s * b_i)
        for s, A_i, b_i in zip(scale, A, b, strict=True)
    ]
    np.testing.assert_allclose(every(folded, lambda local: local.prox(x, step)), expected, rtol=1e-10)
    np.testing.assert_allclose(folded.smoothness, problem.smoothness + 0.3 * scale)
    np.testing.assert_allclose(folded.strong_convexity, problem.strong_convexity + 0.3 * scale)
    assert problem.folded().folded().n == N
    assert tp.quadratic(A, b).folded().n == N


def test_folded_examples():
    problem = tp.EmpiricalRisk(logistic, ragged(), X0, regularizer=tp.l2(0.3).on(lambda x: x["w"])).folded()
    x = {"w": jnp.asarray(rng().standard_normal(D)), "b": jnp.array(0.2)}
    for i, count in enumerate((5, 2, 3)):
        local = problem.local(jax.tree.map(lambda a, i=i: a[i], problem.pieces))
        assert local.examples == count
        assert local.max_examples == 5
        each = jax.jit(jax.vmap(lambda j, local=local: local.example_grad(x, j)))(jnp.arange(count))
        for leaf, expected in zip(jax.tree.leaves(each), jax.tree.leaves(local.grad(x)), strict=True):
            np.testing.assert_allclose(leaf.mean(axis=0), expected, atol=1e-14)


def test_measurements():
    values = np.array([[1.0, 2.0], [3.0, 6.0], [8.0, 1.0]])
    problem = tp.Measurements(values)
    x, step = np.array([0.5, -1.0]), 0.4
    np.testing.assert_allclose(problem.losses(x), 0.5 * np.sum((x - values) ** 2, axis=1))
    np.testing.assert_allclose(every(problem, lambda local: local.grad(x)), x - values)
    np.testing.assert_allclose(every(problem, lambda local: local.prox(x, step)), (x + step * values) / (1 + step))
    np.testing.assert_allclose(every(problem, lambda local: local.measurement(jax.random.key(0))), values)
    np.testing.assert_allclose(tp.reference(problem).x, values.mean(axis=0), atol=1e-12)
    np.testing.assert_array_equal(problem.x0, 0)
    assert problem.at(3) is problem


def test_noisy_measurements_have_the_stated_spread():
    problem = tp.Measurements(np.zeros((2, 20_000)), noise=0.5)
    shown = np.asarray(every(problem, lambda local: local.measurement(jax.random.key(1))))
    # 4 standard errors of a mean and of a standard deviation over 40 000 draws.
    assert abs(shown.mean()) < 4 * 0.5 / np.sqrt(40_000)
    assert abs(shown.std() - 0.5) < 4 * 0.5 / np.sqrt(80_000)


def test_moving_signal():
    def ramp(value, k):
        return value * (1.0 + k)

    problem = tp.Measurements([1.0, 3.0], signal=ramp)
    assert problem.drifts

    @jax.jit
    def means(pieces):
        def round_k(_, k):
            now = problem.at(k)
            return None, jax.vmap(lambda p: now.local(p).measurement(jax.random.key(0)))(pieces)

        return jax.lax.scan(round_k, None, jnp.arange(3))[1]

    np.testing.assert_allclose(means(problem.pieces), [[1, 3], [2, 6], [3, 9]])


def test_dtypes_are_kept():
    data = [(f.astype(np.float64), y) for f, y in ragged()]
    x0 = {"w": np.zeros(D, np.float32), "b": np.zeros((), np.float32)}
    problem = tp.EmpiricalRisk(logistic, data, x0, batch_size=2, regularizer=tp.l2(0.1))
    for problem_ in (problem, problem.folded()):
        answers = every(
            problem_,
            lambda local: [
                local.grad(problem.x0),
                local.stochastic_grad(problem.x0, jax.random.key(0)),
                local.prox(problem.x0, 0.5),
                local.example_grad(problem.x0, 0),
                local.regularizer.prox(problem.x0, 0.5),
            ],
        )
        assert {leaf.dtype for leaf in jax.tree.leaves(answers)} == {np.dtype(np.float32)}
    assert problem.dtype == np.float32
    assert problem.size == D + 1


def test_equal_problems_do_not_recompile():
    traces = []

    def loss(x, data):
        traces.append(None)
        return jnp.sum((x - data) ** 2)

    data = np.ones((N, D))
    tp.Consensus(loss, data, np.zeros(D)).objective(jnp.ones(D))
    before = len(traces)
    again = tp.Consensus(loss, 2 * data, np.zeros(D))
    again.objective(jnp.ones(D))
    # Only the shape checks of the constructor may trace the loss again; nothing is compiled twice.
    assert len(traces) - before <= 2
    before = len(traces)
    again.objective(2 * jnp.ones(D))
    again.with_pieces(jax.tree.map(lambda a: a + 1, again.pieces)).gradient(jnp.ones(D))
    assert len(traces) - before <= 1  # the gradient, for the first time
    assert again.constants is again.constants


def test_fingerprint_tells_problems_apart():
    A, b = quadratic_data()
    one = tp.quadratic(A, b)
    others = [
        tp.quadratic(A, b + 1e-12),
        tp.quadratic(A, b, weights=WEIGHTS),
        tp.quadratic(A, b, regularizer=tp.l2(0.1)),
        tp.quadratic(A, b, regularizer=tp.l2(0.2)),
        tp.quadratic(A, b, x0=np.ones(D)),
        tp.quadratic(A.astype(np.float32), b.astype(np.float32)),
        tp.quadratic(A, b, gradient_noise=0.1),
        tp.Measurements(b),
    ]
    prints = [p.fingerprint() for p in (one, *others)]
    assert len(set(prints)) == len(prints)
    _ = one.constants
    assert tp.quadratic(A, b).fingerprint() == one.fingerprint()


def test_constants_are_not_shared_between_pieces():
    A, _ = quadratic_data()
    problem = tp.Consensus(lambda x, data: 0.5 * x @ data @ x, A, np.zeros(D))
    before = problem.constants
    doubled = problem.with_pieces(jax.tree.map(lambda a: 2 * a, problem.pieces))
    assert doubled.constants.smoothness.max() > 2 * before.smoothness.max()
    assert "estimated" in str(problem.constants)


def test_repr():
    assert repr(tp.quadratic(*quadratic_data())) == "Consensus(4 agents, 3 variables, float64)"
