"""Personal models against recursions in NumPy, closed forms on quadratics and planted structure.

Axes: `n` clients, `d` variables.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from thalweg.algorithm.leaves import LeafFilter, normalisation_leaves
from thalweg.algorithm.server.base import ClientContext, ServerContext, Shared
from thalweg.algorithm.server.perfedavg import AfterOneStep

N, D = 4, 3
WEIGHTS = np.array([4, 1, 2, 3]) / 10
RATE, STEPS = 0.1, 3
BODY, HEAD = [0, 1], [2]
SHARED = {"body": True, "head": False}


def pieces(seed=0):
    """A_i, b_i of f_i = ½ xᵀA_i x + b_iᵀx."""
    rng = np.random.default_rng(seed)
    roots = rng.standard_normal((N, D, D))
    return roots @ roots.swapaxes(1, 2) / D + 0.5 * np.eye(D), 2 * rng.standard_normal((N, D))


A, B = pieces()


def gradient(i, x):
    return A[i] @ x + B[i]


def descend(i, x, steps, extra=lambda x: 0.0):
    for _ in range(steps):
        x = x - RATE * (gradient(i, x) + extra(x))
    return x


def plain():
    return tw.quadratic(A, B, weights=WEIGHTS)


def loss_of_parts(x, data):
    z = jnp.concatenate([x["body"], x["head"]])
    return 0.5 * z @ data["A"] @ z + data["b"] @ z


def in_parts():
    start = {"body": np.array([0.3, -0.2]), "head": np.array([0.5])}
    return tw.Consensus(loss_of_parts, {"A": A, "b": B}, start, weights=WEIGHTS)


def solver(steps=STEPS):
    return tw.LocalSGD(RATE, steps=steps)


def run(problem, algorithm, rounds, **options):
    return tw.solve(problem, algorithm, rounds=rounds, every=max(rounds, 1), **options)


def average(x, answers):
    return x + WEIGHTS @ (np.array(answers) - x)


@pytest.mark.parametrize("tuning", [None, 5])
def test_fine_tuning(tuning):
    x, own = np.zeros(D), None
    for _ in range(4):
        own = [descend(i, x, tuning or STEPS) for i in range(N)]
        x = average(x, [descend(i, x, STEPS) for i in range(N)])
    result = run(plain(), tw.FineTune(solver(), tuning=None if tuning is None else solver(tuning)), 4)
    np.testing.assert_allclose(result.x, x, rtol=1e-12)
    np.testing.assert_allclose(result.agents, own, rtol=1e-12)


def test_personal_layers_follow_their_recursion_and_are_never_sent():
    x, heads = np.array([0.3, -0.2]), np.full((N, 1), 0.5)
    for _ in range(5):
        after = np.array([descend(i, np.r_[x, heads[i]], STEPS) for i in range(N)])
        x, heads = average(x, after[:, BODY]), after[:, HEAD]
    algorithm = tw.FedPer(SHARED, solver())
    result = run(in_parts(), algorithm, 5)
    np.testing.assert_allclose(result.x["body"], x, rtol=1e-12)
    np.testing.assert_array_equal(result.x["head"], [0.5])
    np.testing.assert_allclose(result.agents["head"], heads, rtol=1e-12)
    np.testing.assert_allclose(result.agents["body"], np.broadcast_to(x, (N, 2)), rtol=1e-12)
    assert (result.ledger.message_bytes, result.ledger.received_bytes) == (2 * 8, 2 * 8)
    by_path = run(in_parts(), tw.FedPer(lambda path, leaf: path == "body", solver()), 5)
    np.testing.assert_array_equal(by_path.agents["head"], result.agents["head"])


def test_a_message_has_no_personal_leaf():
    problem = in_parts()
    for algorithm in (tw.FedPer(SHARED, solver()), tw.FedRep(SHARED, solver(), head_solver=solver())):
        server = algorithm.init_server(Shared(None, N), problem.x0)
        context = ClientContext(jax.random.key(0), jnp.asarray(0, jnp.int32))
        local = problem.local(jax.tree.map(lambda leaf: leaf[0], problem.pieces))
        client = algorithm.init_client(local, problem.x0, context)
        down = algorithm.broadcast(server, ServerContext(jax.random.key(0), jnp.asarray(0, jnp.int32)))
        state, up, _ = algorithm.work(local, client, down, context)
        for message in (down, up):
            assert message["x"]["head"] is None and message["x"]["body"].shape == (2,)
        assert state["body"] is None and state["head"].shape == (1,)


def test_shared_representation_follows_its_recursion():
    def half(i, z, places, steps):
        z = z.copy()
        for _ in range(steps):
            z[places] -= RATE * gradient(i, z)[places]
        return z

    x, heads = np.array([0.3, -0.2]), np.full((N, 1), 0.5)
    for _ in range(4):
        fitted = [half(i, np.r_[x, heads[i]], HEAD, 6) for i in range(N)]
        after = np.array([half(i, z, BODY, STEPS) for i, z in enumerate(fitted)])
        x, heads = average(x, after[:, BODY]), after[:, HEAD]
    result = run(in_parts(), tw.FedRep(SHARED, solver(), head_solver=solver(6)), 4)
    np.testing.assert_allclose(result.x["body"], x, rtol=1e-12)
    np.testing.assert_allclose(result.agents["head"], heads, rtol=1e-12)


def bilinear(x, example):
    """½(headᵀ body a − b)²: a linear representation."""
    a, b = example
    return 0.5 * (x["head"] @ (x["body"] @ a) - b) ** 2


def test_a_planted_representation_is_found_and_heads_fit_their_own_clients():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((6, 2)))[0].T
    heads = rng.standard_normal((8, 2))
    draw = lambda head: (a := rng.standard_normal((30, 6)), a @ (head @ basis))
    data, held = [draw(head) for head in heads], [draw(head) for head in heads]
    start = {"body": 0.5 * rng.standard_normal((2, 6)), "head": rng.standard_normal(2)}
    problem = tw.EmpiricalRisk(bilinear, data, start)
    algorithm = tw.FedRep(SHARED, tw.LocalSGD(0.05, steps=5), head_solver=tw.LocalSGD(0.1, steps=20))
    result = run(problem, algorithm, 400, evaluate={"error": (bilinear, held)})
    found = np.linalg.qr(np.asarray(result.x["body"]).T)[0].T
    np.testing.assert_allclose(np.linalg.svd(found @ basis.T)[1], 1, atol=1e-8)
    assert result.history.scalars["error_highest"][-1] < 1e-8
    assert np.asarray(problem.losses(result.x)).max() > 0.1


def test_local_normalisation_is_personal_layers_of_its_filter():
    def loss(x, data):
        return loss_of_parts({"body": x["dense"], "head": x["LayerNorm_0"]["scale"]}, data)

    problem = tw.Consensus(loss, {"A": A, "b": B}, {"dense": np.ones(2), "LayerNorm_0": {"scale": np.ones(1)}}, weights=WEIGHTS)
    one = run(problem, tw.FedBN(solver()), 5)
    other = run(problem, tw.FedPer({"dense": True, "LayerNorm_0": False}, solver()), 5)
    np.testing.assert_array_equal(one.agents["LayerNorm_0"]["scale"], other.agents["LayerNorm_0"]["scale"])
    np.testing.assert_array_equal(one.x["dense"], other.x["dense"])
    assert one.ledger.message_bytes == 2 * 8


def test_normalisation_leaves_are_found():
    class Net(eqx.Module):
        first: eqx.nn.Linear
        scaling: eqx.nn.GroupNorm
        last: eqx.nn.Linear

    keys = jax.random.split(jax.random.key(0))
    net = Net(eqx.nn.Linear(2, 4, key=keys[0]), eqx.nn.GroupNorm(2, 4), eqx.nn.Linear(4, 1, key=keys[1]))
    x, _ = eqx.partition(net, eqx.is_inexact_array)
    mask = normalisation_leaves(x)
    assert mask.scaling.weight is mask.scaling.bias is True
    assert not any(jax.tree.leaves((mask.first, mask.last)))
    flax = {"Dense_0": {"kernel": 1.0}, "BatchNorm_1": {"scale": 1.0, "bias": 1.0}, "bn2": {"w": 1.0}, "normal_head": 1.0}
    found = normalisation_leaves(flax)
    assert found == {
        "Dense_0": {"kernel": False}, "BatchNorm_1": {"scale": True, "bias": True}, "bn2": {"w": True}, "normal_head": False,
    }  # fmt: skip


def test_ditto():
    algorithm = tw.Ditto(solver(), penalty=0.7, personal_solver=solver(2))
    x, own = np.zeros(D), np.zeros((N, D))
    for _ in range(4):
        own = np.array([descend(i, own[i], 2, lambda v, x=x: 0.7 * (v - x)) for i in range(N)])
        x = average(x, [descend(i, x, STEPS) for i in range(N)])
    result = run(plain(), algorithm, 4)
    np.testing.assert_allclose(result.x, x, rtol=1e-12)
    np.testing.assert_allclose(result.agents, own, rtol=1e-12)
    last = run(plain(), algorithm, 2000)
    for i, v in enumerate(np.asarray(last.agents)):
        np.testing.assert_allclose(gradient(i, v) + 0.7 * (v - np.asarray(last.x)), 0, atol=1e-10)
    np.testing.assert_allclose(last.x, run(plain(), tw.FedAvg(solver()), 2000).x, rtol=1e-10)


@pytest.mark.slow
def test_moreau_envelopes():
    penalty = 1.5
    shrunk = [np.linalg.solve(A[i] + penalty * np.eye(D), np.c_[penalty * np.eye(D), -B[i]]) for i in range(N)]
    prox = lambda i, u: shrunk[i][:, :D] @ u + shrunk[i][:, D]
    x = np.zeros(D)
    for _ in range(3):
        ends = []
        for i in range(N):
            u = x
            for _ in range(2):
                own = prox(i, u)
                u = u - 0.2 * penalty * (u - own)
            ends.append(u)
        x = average(x, ends)
    algorithm = tw.PFedMe(penalty=penalty, steps=2, learning_rate=0.2)
    np.testing.assert_allclose(run(plain(), algorithm, 3).x, x, rtol=1e-10)

    # One exact step a round is gradient descent on Σ w_i F_i: at its end the envelopes' gradients cancel.
    last = run(plain(), tw.PFedMe(penalty=penalty), 3000)
    own = np.asarray(last.agents)
    envelope = penalty * (np.asarray(last.x) - own)
    np.testing.assert_allclose(WEIGHTS @ envelope, 0, atol=1e-10)
    np.testing.assert_allclose([gradient(i, v) for i, v in enumerate(own)], envelope, atol=1e-9)
    np.testing.assert_allclose(last.x, _envelopes(penalty), atol=1e-9)
    inexact = run(plain(), tw.PFedMe(tw.LocalSGD(steps=150), penalty=penalty), 3000)
    np.testing.assert_allclose(inexact.x, last.x, atol=1e-6)


def _envelopes(penalty):
    """argmin Σ w_i F_i: ∇F_i(x) = λ(I − λ(A_i + λI)⁻¹) x + λ(A_i + λI)⁻¹ b_i."""
    inverse = np.linalg.inv(A + penalty * np.eye(D))
    curvature = penalty * (np.eye(D) - penalty * inverse)
    return np.linalg.solve(np.einsum("n,nij->ij", WEIGHTS, curvature), -penalty * np.einsum("n,nij,nj->i", WEIGHTS, inverse, B))


def test_adaptive_mixtures():
    x, own, share = np.zeros(D), np.zeros((N, D)), np.full(N, 0.4)
    for _ in range(5):
        ends = []
        for i in range(N):
            mixed = share[i] * own[i] + (1 - share[i]) * x
            share[i] = np.clip(share[i] - 0.05 * (own[i] - x) @ gradient(i, mixed), 0, 1)
            y, v, a = x, own[i], share[i]
            for _ in range(STEPS):
                y, v = y - RATE * gradient(i, y), v - RATE * a * gradient(i, a * v + (1 - a) * y)
            own[i] = v
            ends.append(y)
        x = average(x, ends)
    result = run(plain(), tw.APFL(solver(), share=0.4, share_step_size=0.05), 5)
    np.testing.assert_allclose(result.x, x, rtol=1e-12)
    mixed = share[:, None] * own + (1 - share[:, None]) * x
    np.testing.assert_allclose(result.agents, mixed, rtol=1e-11)
    assert np.ptp(share) > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("order", ["exact", "hessian_free", "first"])
def test_meta_learning(order):
    alpha = 0.2
    shrink = np.eye(D) - alpha * A

    def meta(i, x):
        outer = gradient(i, x - alpha * gradient(i, x))
        return outer if order == "first" else shrink[i] @ outer

    algorithm = tw.PerFedAvg(solver(), adaptation=alpha, order=order)
    x = np.zeros(D)
    for _ in range(4):
        before, ends = x, []
        for i in range(N):
            y = x
            for _ in range(STEPS):
                y = y - RATE * meta(i, y)
            ends.append(y)
        x = average(x, ends)
    result = run(plain(), algorithm, 4)
    np.testing.assert_allclose(result.x, x, rtol=1e-8)
    np.testing.assert_allclose(result.agents, [before - alpha * gradient(i, before) for i in range(N)], rtol=1e-8)

    # One step a round: F_i(x) = f_i((I − αA_i) x − αb_i) has gradient (I − αA_i)(A_i (I − αA_i) x + (I − αA_i) b_i).
    last = np.asarray(run(plain(), dataclasses.replace(algorithm, solver=solver(1)), 3000).x)
    left = np.broadcast_to(np.eye(D), A.shape) if order == "first" else shrink
    curvature = np.einsum("n,nij->ij", WEIGHTS, left @ A @ shrink)
    np.testing.assert_allclose(
        last, np.linalg.solve(curvature, -np.einsum("n,nij,nj->i", WEIGHTS, left @ shrink, B)), atol=1e-8
    )


def squared(x, example):
    a, b = example
    return 0.5 * (a @ x - b) ** 2


def test_meta_gradients_of_a_minibatch_use_different_examples():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((7, D)), rng.standard_normal(7)
    problem = tw.EmpiricalRisk(squared, [(a, b)], np.ones(D))
    local = problem.local(jax.tree.map(lambda leaf: leaf[0], problem.pieces))
    view = AfterOneStep(local, 0.1, 1e-3, "exact")
    order = np.array([4, 0, 6, 2, 5])
    risk = lambda x, rows: np.mean([squared(x, (a[j], b[j])) for j in rows])
    first, second = order[::2], order[1::2]
    wanted = lambda x: jnp.mean(0.5 * (a[second] @ (x - 0.1 * a[first].T @ (a[first] @ x - b[first]) / 3) - b[second]) ** 2)
    value, slope = view.batch_value_and_grad(jnp.ones(D), jnp.asarray(order))
    np.testing.assert_allclose(slope, jax.grad(wanted)(jnp.ones(D)), rtol=1e-10)
    np.testing.assert_allclose(value, wanted(jnp.ones(D)), rtol=1e-12)
    padded = view.batch_value_and_grad(jnp.ones(D), jnp.asarray([*order, 0, 0]), jnp.arange(7) < 5)
    np.testing.assert_allclose(padded[1], slope, rtol=1e-12)
    assert np.isfinite(risk(np.ones(D), order))


@pytest.fixture(scope="module")
def planted():
    """(problem, held-out data, cluster of each client): two clusters of linear regression, eight clients."""
    rng = np.random.default_rng(1)
    truth, cluster = np.array([[1.5, -1, 0.5], [-1, 1.2, 1.0]]), np.array([0, 1, 1, 0, 1, 0, 0, 1])

    def draw(m, k):
        a = rng.standard_normal((m, D))
        return a, a @ truth[k] + 0.1 * rng.standard_normal(m)

    train = [draw(m, k) for m, k in zip(rng.integers(8, 30, 8), cluster, strict=True)]
    held = [draw(50, k) for k in cluster]
    return tw.EmpiricalRisk(squared, train, np.zeros(D)), train, held, cluster


@pytest.mark.slow
def test_planted_clusters_are_recovered(planted):
    problem, train, held, cluster = planted
    algorithm = tw.IFCA(2, tw.LocalSGD(0.1, epochs=2, batch_size=8), cohort=6)
    result = run(problem, algorithm, 60, evaluate={"error": (squared, held)})
    chosen = np.asarray(result.records[0][0])
    assert len({*zip(chosen.tolist(), cluster.tolist(), strict=True)}) == 2
    assert result.history.scalars["error_highest"][-1] < 0.02
    full = tw.IFCA(2, tw.LocalSGD(0.1, steps=1))
    last = run(problem, full, 2000)
    for k in (0, 1):
        a, b = (np.concatenate(parts) for parts in zip(*(train[i] for i in np.flatnonzero(cluster == k)), strict=True))
        mine = np.asarray(last.agents)[cluster == k]
        np.testing.assert_allclose(mine, np.broadcast_to(np.linalg.lstsq(a, b)[0], mine.shape), atol=1e-8)
    heavier = np.bincount(cluster, weights=problem.weights).argmax()
    np.testing.assert_allclose(last.x, np.asarray(last.agents)[cluster == heavier][0])


def test_empty_clusters_stay_and_ties_go_to_the_first(planted):
    problem = planted[0]
    starts = np.array([[0.1, 0, 0], [0.1, 0, 0], [50.0, 50, 50]])
    result = run(problem, tw.IFCA(3, tw.LocalSGD(0.1, steps=1), starts=starts), 1)
    models = np.asarray(result.records[1].state.models)
    np.testing.assert_array_equal(models[1:], starts[1:])
    assert np.linalg.norm(models[0] - starts[0]) > 0.05
    np.testing.assert_array_equal(result.records[0][0], np.zeros(8))
    assert result.history.scalars["clusters_used"][-1] == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "algorithm",
    [
        tw.FineTune(tw.LocalSGD(0.05, epochs=4, batch_size=8)),
        tw.Ditto(tw.LocalSGD(0.05, steps=2), penalty=0.05, personal_solver=tw.LocalSGD(0.1, steps=5)),
        tw.PFedMe(penalty=0.1),
        tw.APFL(tw.LocalSGD(0.1, epochs=2, batch_size=8), share=0.5),
        tw.PerFedAvg(tw.LocalSGD(0.05, epochs=1, batch_size=8), adaptation=0.6),
    ],
    ids=lambda a: type(a).__name__,
)
def test_personal_models_are_better_on_their_own_held_out_data(planted, algorithm):
    problem, _, held, _ = planted
    result = run(problem, algorithm, 150, evaluate={"error": (squared, held)})
    shared = np.mean([np.mean([squared(np.asarray(result.x), e) for e in zip(*part, strict=True)]) for part in held])
    assert result.history.scalars["error"][-1] < 0.5 * shared
    assert result.history.agents["own_loss"].shape[1] == 8


def test_what_is_refused():
    problem = in_parts()
    for which, words in (
        (lambda path, leaf: True, "matches every leaf"),
        (lambda path, leaf: False, "matches no leaf"),
        ({"body": True, "head": True}, "matches every leaf"),
        ({"other": True}, "expected that of the model"),
    ):
        for kind in (tw.FedPer, tw.FedRep):
            with pytest.raises(ValueError, match=words):
                tw.solve(problem, kind(which, solver()), rounds=1)
    with pytest.raises(ValueError, match=r"FedBN.* matches no leaf"):
        tw.solve(problem, tw.FedBN(solver()), rounds=1)
    with pytest.raises(TypeError, match=r"FedPer\(shared=…\): got int"):
        tw.FedPer(3)
    for make, words in (
        (lambda: tw.FedPer(), "shared= is missing"),
        (lambda: tw.Ditto(penalty=0.0), "expected a positive number"),
        (lambda: tw.PFedMe(steps=0), "expected a positive number"),
        (lambda: tw.APFL(share=1.5), r"expected a number in \[0, 1\]"),
        (lambda: tw.APFL(share_step_size=-1.0), "expected a number ≥ 0"),
        (lambda: tw.PerFedAvg(order="second"), "expected 'exact'"),
        (lambda: tw.IFCA(0), "expected a whole number"),
        (lambda: tw.IFCA(2, spread=0.0), "equal models would all stay equal"),
        (lambda: tw.IFCA(2, starts=np.zeros((3, 1))), "expected a leading axis of 2"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_equal_filters_are_equal():
    one, other = (LeafFilter({"body": True, "head": False}, "x") for _ in range(2))
    assert one == other and hash(one) == hash(other)
    assert one != LeafFilter({"body": False, "head": True}, "x")
    assert tw.FedPer(SHARED, solver()) == tw.FedPer(dict(SHARED), solver())
