"""Models as losses of one example: of Equinox, Flax and pairs of functions; frozen parameters; adapters."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import thalweg as tw
from thalweg.problem import losses

KEY = jax.random.key(0)


def mlp(seed=0, width=6):
    return eqx.nn.MLP(4, 3, width, 2, key=jax.random.key(seed))


def examples(n=4, m=6, seed=0, classes=3):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((m + i, 4)), rng.integers(0, classes, m + i)) for i in range(n)]


def compiled(function):
    """Number of programs that `function` compiles."""
    events = []
    listener = lambda event, seconds, **_: events.append(event) if event.endswith("backend_compile_duration") else None
    jax.monitoring.register_event_duration_secs_listener(listener)
    function()
    return len(events)


def test_an_equinox_module_becomes_loss_and_start():
    net = mlp()
    model, x0 = tw.models.from_equinox(net, losses.softmax_cross_entropy)
    data = examples()
    problem = tw.EmpiricalRisk(model, data, x0)
    for i, (a, b) in enumerate(data):
        logits = np.array([net(jnp.asarray(row)) for row in a])
        wanted = np.mean(scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(b)), b])
        np.testing.assert_allclose(problem.losses(problem.x0)[i], wanted, rtol=1e-12)
    again, _ = tw.models.from_equinox(mlp(seed=1), losses.softmax_cross_entropy)
    assert model == again and hash(model) == hash(again)
    assert model != tw.models.from_equinox(mlp(width=7), losses.softmax_cross_entropy)[0]
    assert model != tw.models.from_equinox(net, losses.squared)[0]


def test_equal_models_compile_nothing_and_learn():
    def train(seed):
        model, x0 = tw.models.from_equinox(mlp(seed), losses.softmax_cross_entropy)
        problem = tw.EmpiricalRisk(model, examples(seed=seed), x0)
        algorithm = tw.FedAvg(tw.LocalSGD(0.2, epochs=1, batch_size=3))
        metric = {"accuracy": (tw.models.accuracy(model), examples(seed=seed))}
        return problem, tw.solve(problem, algorithm, rounds=60, every=30, evaluate=metric)

    problem, result = train(0)
    assert compiled(lambda: train(1)) == 0
    assert float(problem.objective(result.x)) < 0.7 * float(problem.objective(problem.x0))
    assert result.history.scalars["accuracy"][-1] > 0.6
    assert isinstance(result.x, eqx.nn.MLP)
    assert isinstance(result.agents, type(None))


def test_what_from_equinox_refuses():
    class Counting(eqx.Module):
        table: jax.Array
        weight: jax.Array

    with pytest.raises(TypeError, match="got an array of int32, expected floating ones"):
        tw.models.from_equinox(Counting(jnp.arange(3, dtype=jnp.int32), jnp.ones(2)), losses.squared)
    with pytest.raises(ValueError, match="stateful layers"):
        tw.models.from_equinox(eqx.nn.BatchNorm(3, "batch", mode="ema"), losses.squared)


@pytest.mark.slow
def test_group_and_instance_normalisation_stay_local_under_scanner_shifts():
    class Scan(eqx.Module):
        first: eqx.nn.Conv1d
        norm: eqx.nn.GroupNorm
        last: eqx.nn.Linear

        def __init__(self, norm, key):
            keys = jax.random.split(key)
            self.first, self.norm = eqx.nn.Conv1d(1, 4, 3, key=keys[0]), norm
            self.last = eqx.nn.Linear(4, "scalar", key=keys[1])

        def __call__(self, signal):
            return self.last(jnp.mean(jax.nn.relu(self.norm(self.first(signal[None]))), axis=1))

    rng = np.random.default_rng(0)
    data = [(gain * rng.standard_normal((4, 8)) + gain, rng.integers(0, 2, 4) * 1.0) for gain in (1.0, 3.0)]
    for norm in (eqx.nn.GroupNorm(2, 4), tw.models.instance_norm(4)):
        model, x0 = tw.models.from_equinox(Scan(norm, KEY), losses.logistic)
        problem = tw.EmpiricalRisk(model, data, x0)
        result = tw.solve(problem, tw.FedBN(tw.LocalSGD(0.1)), rounds=3)
        stay = 2 * 4 * 8
        assert result.ledger.message_bytes == 8 * problem.size - stay
        own = result.agents.norm.weight
        assert own.shape == (2, 4) and not np.allclose(own[0], own[1])
        np.testing.assert_array_equal(result.agents.last.weight[0], result.agents.last.weight[1])
    signal = jnp.asarray(data[0][0][0])[None] * jnp.ones((4, 1))
    normed = tw.models.instance_norm(4, channelwise_affine=False, eps=0.0)(signal)
    np.testing.assert_allclose(normed[0], (signal[0] - signal[0].mean()) / signal[0].std(), rtol=1e-10)


def test_flax_modules():
    nn = pytest.importorskip("flax.linen")

    class Net(nn.Module):
        @nn.compact
        def __call__(self, a):
            return nn.Dense(3, param_dtype=jnp.float64)(nn.LayerNorm(param_dtype=jnp.float64)(a))

    make = lambda: tw.models.from_flax(Net(), losses.softmax_cross_entropy, jnp.zeros(4), KEY)
    model, x0 = make()
    assert make()[0] == model and hash(make()[0]) == hash(model)
    problem = tw.EmpiricalRisk(model, examples(), x0)
    result = tw.solve(problem, tw.FedBN(tw.LocalSGD(0.1)), rounds=20)
    assert float(problem.objective(result.x)) < float(problem.objective(x0))
    assert result.ledger.message_bytes == 8 * (4 * 3 + 3)


class Affine:
    """What a linen module looks like from outside."""

    def __init__(self, extra=False):
        self.extra = extra

    def init(self, key, a):
        statistics = {"batch_stats": {"mean": jnp.zeros(4)}} if self.extra else {}
        return {"params": {"w": jax.random.normal(key, (a.shape[0],))}} | statistics

    def apply(self, variables, a):
        return variables["params"]["w"] @ a


def test_flax_and_pairs_of_functions_by_their_protocol():
    module = Affine()
    model, x0 = tw.models.from_flax(module, losses.squared, jnp.zeros(4), KEY)
    assert model(x0, (jnp.arange(4.0), 1.0)) == 0.5 * (x0["w"] @ jnp.arange(4.0) - 1) ** 2
    with pytest.raises(ValueError, match="'batch_stats' beside the parameters"):
        tw.models.from_flax(Affine(extra=True), losses.squared, jnp.zeros(4), KEY)
    pair = lambda: tw.models.from_init_apply(_init, _apply, losses.squared, jnp.zeros(4), KEY)
    assert pair()[0] == pair()[0]
    model, x0 = pair()
    assert model(x0, (jnp.arange(4.0), 1.0)) == 0.5 * (x0 @ jnp.arange(4.0) - 1) ** 2


def _init(key, a):
    return jax.random.normal(key, a.shape)


def _apply(x, a):
    return x @ a


def test_generalised_linear_models_reach_their_maximum_likelihood():
    rng = np.random.default_rng(0)
    a = [rng.standard_normal((30, 2)) for _ in range(3)]
    rate = lambda rows: np.exp(rows @ [0.5, -0.3] + 0.2)
    model, x0 = tw.models.poisson_regression(2)
    assert (model, x0["weights"].shape) == (tw.models.poisson_regression(5)[0], (2,))
    data = [(rows, rng.poisson(rate(rows)).astype(float)) for rows in a]
    found = tw.reference(tw.EmpiricalRisk(model, data, x0)).x
    rows, counts = np.concatenate(a), np.concatenate([b for _, b in data])
    likelihood = lambda z: np.mean(np.exp(rows @ z[:2] + z[2]) - counts * (rows @ z[:2] + z[2]))
    best = scipy.optimize.minimize(likelihood, np.zeros(3), options={"gtol": 1e-9}).x
    np.testing.assert_allclose([*found["weights"], found["bias"]], best, atol=1e-5)
    assert tw.models.softmax_regression(5, 3)[1]["weights"].shape == (5, 3)
    assert tw.models.logistic_regression(5, fit_intercept=False)[1].keys() == {"weights"}
    assert tw.models.linear_regression(5)[0].loss is losses.squared
    with pytest.raises(ValueError, match="expected at least 2"):
        tw.models.softmax_regression(5, 1)


def frozen_loss(x, example, frozen):
    a, b = example
    return 0.5 * (x @ jnp.tanh(frozen["w"] @ a) - b) ** 2


def plain_loss(x, example):
    return frozen_loss(x, example, {"w": WIDE})


WIDE = np.random.default_rng(5).standard_normal((3, 4))


@pytest.mark.slow
def test_frozen_parameters_are_an_argument_and_the_same_problem():
    rng = np.random.default_rng(0)
    data = [(rng.standard_normal((m, 4)), rng.standard_normal(m)) for m in (5, 7)]
    make = lambda w: tw.EmpiricalRisk(frozen_loss, data, np.ones(3), frozen={"w": w}, regularizer=tw.l2(0.1))
    problem, other = make(WIDE), tw.EmpiricalRisk(plain_loss, data, np.ones(3), regularizer=tw.l2(0.1))
    algorithm = tw.FedAvg(tw.LocalSGD(0.05, epochs=2, batch_size=2))
    metric = {"own": (frozen_loss, data), "pool": (frozen_loss, data[0])}
    result = tw.solve(problem, algorithm, rounds=5, evaluate=metric)
    wanted = tw.solve(other, algorithm, rounds=5, evaluate={"own": (plain_loss, data), "pool": (plain_loss, data[0])})
    np.testing.assert_allclose(result.x, wanted.x, rtol=1e-12)
    for name in ("own", "pool"):
        np.testing.assert_allclose(result.history.scalars[name], wanted.history.scalars[name], rtol=1e-6)
    np.testing.assert_allclose(tw.reference(problem).x, tw.reference(other).x, rtol=1e-8)
    np.testing.assert_allclose(problem.smoothness, other.smoothness)
    assert make(WIDE).fingerprint() == problem.fingerprint() != make(2 * WIDE).fingerprint()
    assert compiled(lambda: tw.solve(make(2 * WIDE), algorithm, rounds=5, evaluate=metric)) == 0
    local = problem.local(jax.tree.map(lambda leaf: leaf[0], problem.pieces))
    np.testing.assert_allclose(
        np.mean([local.example_grad(jnp.ones(3), j) for j in range(5)], axis=0), local.grad(jnp.ones(3)), rtol=1e-10
    )
    assert jax.tree.leaves(problem.pieces)[0].shape[0] == 2 and problem.frozen["w"].shape == (3, 4)


def test_part_of_a_model_is_frozen():
    model, x0 = tw.models.from_equinox(mlp(), losses.softmax_cross_entropy)
    trained, others = tw.models.freeze(x0, lambda path, leaf: path.startswith("layers/2"))
    problem = tw.EmpiricalRisk(model, examples(), trained, frozen=others)
    assert problem.size == 3 * 6 + 3
    full = tw.EmpiricalRisk(model, examples(), x0)
    np.testing.assert_allclose(problem.losses(trained), full.losses(x0), rtol=1e-12)
    metric = {"accuracy": (tw.models.accuracy(model), examples())}
    result = tw.solve(problem, tw.FedAvg(tw.LocalSGD(0.1)), rounds=3, evaluate=metric)
    assert result.x.layers[0].weight is None and result.x.layers[2].weight.shape == (3, 6)
    with pytest.raises(ValueError, match=r"freeze\(trainable=…\) matches no leaf"):
        tw.models.freeze(x0, lambda path, leaf: False)


def test_adapters_change_nothing_at_first_and_merge_to_the_same_model():
    model, params = tw.models.from_equinox(mlp(), losses.softmax_cross_entropy)
    adapters = tw.models.lora(params, 2, key=KEY)
    assert set(adapters) == {f"layers/{i}/weight" for i in range(3)}
    a = jnp.arange(4.0) / 3
    np.testing.assert_array_equal(tw.models.adapted(model).predict(adapters, a, params), model.predict(params, a))
    moved = jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(KEY, leaf.shape, leaf.dtype), adapters)
    merged = tw.models.merge(params, moved, 0.5)
    w, target = params.layers[1].weight, moved["layers/1/weight"]
    np.testing.assert_allclose(merged.layers[1].weight, w + 0.5 * target["b"] @ target["a"], rtol=1e-12)
    forward = model.predict(merged, a)
    assert not np.allclose(forward, model.predict(params, a))
    for kind in (False, True):
        np.testing.assert_allclose(tw.models.adapted(model, 0.5, merged=kind).predict(moved, a, params), forward, rtol=1e-12)
    low = tw.models.LowRank(w, target["a"], target["b"], 0.5)
    v = jnp.arange(6.0)
    np.testing.assert_allclose(v @ low, v @ merged.layers[1].weight, rtol=1e-12)
    np.testing.assert_allclose(jnp.sum(jnp.asarray(low)), jnp.sum(merged.layers[1].weight), rtol=1e-12)
    assert (low.shape, low.ndim, low.dtype) == ((6, 6), 2, np.float64)


@pytest.mark.slow
def test_adapters_are_trained_on_frozen_parameters():
    """An Equinox network, pretrained on the common task, is adapted to clients whose labels are turned."""
    model, params = tw.models.from_equinox(mlp(), losses.softmax_cross_entropy)
    data = [(a, (np.asarray(jax.vmap(lambda r: jnp.argmax(model.predict(params, r)))(a)) + 1) % 3) for a, _ in examples(m=20)]
    adapters = tw.models.lora(params, 2, lambda path, leaf: path.endswith("2/weight") or path.endswith("1/weight"), key=KEY)
    loss = tw.models.adapted(model)
    problem = tw.EmpiricalRisk(loss, data, adapters, frozen=params)
    metric = {"accuracy": (tw.models.accuracy(loss), data)}
    result = tw.solve(problem, tw.FedAvg(tw.LocalSGD(0.1, epochs=2, batch_size=5)), rounds=60, every=60, evaluate=metric)
    assert result.history.scalars["accuracy"][-1] > 0.8  # 0 at the start, by the choice of labels
    assert result.ledger.message_bytes == 8 * sum(leaf.size for leaf in jax.tree.leaves(adapters)) < 8 * 90
    tuned = tw.models.merge(params, result.x)
    plain = tw.EmpiricalRisk(model, data, params)
    np.testing.assert_allclose(plain.losses(tuned), problem.losses(result.x), rtol=1e-10)
    personal = tw.solve(problem, tw.FedPer(lambda path, leaf: path.endswith("/a"), tw.LocalSGD(0.5)), rounds=3)
    assert personal.ledger.message_bytes == 8 * (2 * 6 + 2 * 6)


def test_what_adapters_refuse():
    _, params = tw.models.from_equinox(mlp(), losses.squared)
    for call, words in (
        (lambda: tw.models.lora(params, 9, key=KEY), "lora rank for layers/0/weight: got 9"),
        (lambda: tw.models.lora(params, 1, lambda path, leaf: path.endswith("bias"), key=KEY), "expected a matrix"),
        (lambda: tw.models.lora(params, 1, lambda path, leaf: False, key=KEY), "matches no leaf"),
        (lambda: tw.models.lora({"bias": jnp.zeros(3)}, 1, key=KEY), "found no matrix"),
        (lambda: tw.models.merge(params, {"other": {"a": 0, "b": 0}}), "have no such leaf"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
