"""Distributed model predictive control beside the central one, and what happens when planning ends early."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

import thalweg as tw
from thalweg.apps import mpc
from thalweg.apps.mpc import condensed
from thalweg.apps.mpc.best_response import multipliers
from thalweg.apps.mpc.horizon import Horizon, _prepare
from thalweg.apps.mpc.plan import mixed

pytest.importorskip("clarabel")

EXAMPLES = {
    "factories": (mpc.factories, 8, {}),
    "tanks": (mpc.tanks, 8, {"penalty": 2.0}),
    "springs": (lambda: mpc.springs(3), 6, {"penalty": 2.0}),
}


@pytest.fixture(params=EXAMPLES)
def example(request):
    make, horizon, options = EXAMPLES[request.param]
    return *make(), horizon, options


@pytest.mark.slow
def test_in_closed_loop_it_is_the_central_controller(example):
    plant, x, horizon, options = example
    ours = mpc.closed_loop(mpc.Controller(plant, horizon, rounds=400, tolerance=1e-7, **options), x, 8)
    central = mpc.closed_loop(mpc.Central(plant, horizon), x, 8)
    assert ours.cost == pytest.approx(central.cost, rel=1e-4)
    assert ours.violation < 1e-5 and ours.not_converged == () and ours.fallback == ()
    np.testing.assert_allclose(ours.states, central.states, atol=2e-3)
    assert "0 of 8" in str(ours) and len(ours.table(central).rows[0]) == 3


def test_the_limits_of_the_examples_matter():
    for make, horizon, _ in EXAMPLES.values():
        plant, x = make()
        plan = mpc.Central(plant, horizon).plan(x)
        assert plan.converged and plan.violation < 1e-6
        assert np.sum(plant.excess(plan.states, plan.inputs, 0) > -1e-6) >= 2


def test_osqp_agrees_with_clarabel(example):
    plant, x, horizon, _ = example
    pytest.importorskip("osqp")
    for t in range(2):
        a, b = (mpc.Central(plant, horizon, solver, 1e-8).plan(x, t) for solver in ("clarabel", "osqp"))
        np.testing.assert_allclose(a.inputs, b.inputs, atol=1e-4)


def test_a_condensed_plan_obeys_the_dynamics_and_costs_what_it_costs(example):
    plant, x, H, _ = example
    horizon = Horizon(plant, H)
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((plant.n, H, plant.a))
    states = plant.rollout(x, inputs)
    plans = []
    for i in range(plant.n):
        copies = np.zeros((horizon.k, H - 1, horizon.y))
        for slot, j in enumerate(horizon.neighbours[i]):
            if j is not None:
                copies[slot] = states[j, 1:-1][:, plant.heard]
        plans.append(np.concatenate([inputs[i].ravel(), copies.ravel()]))
    problem = horizon.problem(x)
    plans = jnp.asarray(np.stack(plans))
    stage = sum(plant.stage_cost(states[:, t + 1], inputs[:, t]) for t in range(H))
    assert float(problem.objective(plans)) == pytest.approx(stage, rel=1e-12)
    quantity = np.asarray(problem.quantity(plans))
    np.testing.assert_allclose(quantity[: horizon.copies], 0, atol=1e-12)
    np.testing.assert_allclose(quantity[horizon.copies :], np.einsum("nba,nta->tb", plant.use, inputs).ravel(), atol=1e-12)
    S = np.asarray(jax.vmap(condensed.predicted)(horizon.model))
    moved = np.einsum("ntsd,nd->nts", S, plans)
    resting = np.einsum("ntsd,nd->nts", S, np.zeros_like(plans))
    assert moved.shape == states[:, 1:].shape and not resting.any()


def test_pivoting_meets_the_conditions_of_karush_kuhn_and_tucker():
    rng = np.random.default_rng(1)
    for p, d in ((8, 12), (12, 12)):
        root, C = rng.standard_normal((40, d, d)), rng.standard_normal((40, p, d))
        W = C @ np.linalg.inv(root @ root.swapaxes(1, 2) + 0.1 * np.eye(d)) @ C.swapaxes(1, 2)
        s, middle = rng.standard_normal((2, 40, p))
        low, high = middle - 0.2, np.where(rng.random((40, p)) < 0.3, 1e9, middle + 0.2)
        z = np.asarray(jax.vmap(multipliers)(W, s, low, high))
        r = s - np.einsum("nij,nj->ni", W, z)
        soft = 1e-7 * (1 + np.abs(z) * np.trace(W, axis1=1, axis2=2)[:, None] / p)
        assert ((r <= high + soft) & (r >= low - soft)).all()
        assert (np.where(z > 0, np.abs(r - high), np.where(z < 0, np.abs(r - low), 0)) <= soft).all()
        assert (z != 0).mean() > 0.1


@pytest.mark.slow
def test_the_interior_point_gives_the_same_plan(example):
    plant, x, horizon, options = example
    pytest.importorskip("qpax")
    if plant.n > 4:
        return
    exact = mpc.Controller(plant, horizon, rounds=400, tolerance=1e-7, **options).plan(x)
    algorithm = tw.ExchangeADMM(penalty=options.get("penalty", 5.0), adaptive=None)
    with jax.numpy_rank_promotion("allow"):  # qpax broadcasts
        other = mpc.Controller(plant, horizon, rounds=400, tolerance=1e-6, algorithm=algorithm, exact=False).plan(x)
    np.testing.assert_allclose(other.inputs, exact.inputs, atol=5e-3)


@pytest.mark.slow
def test_few_rounds_keep_the_limits_by_the_fallback_and_say_so():
    plant, x = mpc.factories()
    loop = mpc.closed_loop(mpc.Controller(plant, 8, rounds=2, tolerance=None), x, 12)
    central = mpc.closed_loop(mpc.Central(plant, 8), x, 12)
    assert loop.violation < 1e-7
    assert loop.fallback and loop.not_converged == tuple(range(12))
    assert all(loop.plans[t].taken < 1 for t in loop.fallback)
    assert central.cost <= loop.cost * (1 + 1e-6) and loop.cost < 1.05 * central.cost
    assert f"{len(loop.fallback)} of 12" in str(loop)


@pytest.mark.slow
def test_a_warm_start_saves_rounds_and_nothing_is_compiled_anew(caplog):
    plant, x = mpc.tanks()
    controller = mpc.Controller(plant, 8, rounds=400, penalty=0.3, every=1)
    first = controller.plan(x)
    x = plant.step(x, first.inputs[:, 0])
    for t in (1, 2):
        plan = controller.plan(x, t)
        x = plant.step(x, plan.inputs[:, 0])
    with jax.log_compiles():
        warm = controller.plan(x, 3)
    assert not [record for record in caplog.records if "Finished XLA compilation" in record.message]
    controller.reset()
    assert warm.rounds < controller.plan(x, 3).rounds


def test_a_mixture_goes_as_far_as_the_limits_allow():
    limit = lambda u: u.ravel() - 1.0
    planned, backup = np.full((1, 1, 1), 3.0), np.full((1, 1, 1), -1.0)
    inputs, taken = mixed(limit, planned, [np.full((1, 1, 1), 2.0), backup], 0.0)
    assert taken == pytest.approx(0.5) and inputs.item() == pytest.approx(1.0)
    assert mixed(limit, backup, [backup], 0.0)[1] == 1.0
    inputs, taken = mixed(limit, planned, [np.full((1, 1, 1), 2.0)], 0.0)  # nothing keeps the limit: the lesser evil
    assert taken == 0.0 and inputs.item() == 2.0
    assert mixed(limit, np.full((1, 1, 1), np.nan), [backup], 0.0)[0].item() == -1.0


@pytest.mark.slow
def test_a_disturbance_is_answered():
    plant, x = mpc.tanks()
    noise = 0.02 * np.random.default_rng(0).standard_normal((6, plant.n, plant.s))
    loop = mpc.closed_loop(mpc.Controller(plant, 8, rounds=300, penalty=2.0), x, 6, disturbance=noise)
    calm = mpc.closed_loop(mpc.Central(plant, 8), x, 6, disturbance=noise)
    assert loop.cost == pytest.approx(calm.cost, rel=1e-4)


def drag(x, u, strength):
    """A tank's outflow grows with its level squared."""
    return -strength * x * jnp.abs(x)


def bending():
    straight, x = mpc.tanks(3)
    subsystems = dict(zip(straight.names, straight.subsystems, strict=True))
    return mpc.Plant(subsystems, budget=0.25, bend=drag, parameters=np.array([0.3, 0.2, 0.1])), x


@pytest.mark.slow
def test_sweeps_end_at_a_stationary_point_of_the_nonlinear_problem():
    plant, x = bending()
    H = 4
    plan = mpc.Controller(plant, H, rounds=400, first_rounds=400, tolerance=1e-8, penalty=0.3).plan(x)

    def cost(u):
        inputs = u.reshape(plant.n, H, 1)
        states = plant.rollout(x, inputs)
        return sum(plant.stage_cost(states[:, t + 1], inputs[:, t]) for t in range(H))

    limits = {
        "type": "ineq",
        "fun": lambda u: -plant.excess(plant.rollout(x, u.reshape(3, H, 1))[:, 1:], u.reshape(3, H, 1), 0),
    }
    best = minimize(cost, np.zeros(3 * H), constraints=limits, method="SLSQP", options={"ftol": 1e-10, "maxiter": 200})
    assert best.success and plan.violation < 1e-6
    assert cost(plan.inputs.ravel()) == pytest.approx(best.fun, rel=1e-4)
    with pytest.raises(ValueError, match="not linear"):
        mpc.Central(plant, H)


@pytest.mark.slow
def test_a_budget_may_change_with_time():
    straight, x = mpc.factories()
    subsystems = dict(zip(straight.names, straight.subsystems, strict=True))
    plant = mpc.Plant(subsystems, budget=lambda t: 3.0 if t < 4 else 2.5)
    loop = mpc.closed_loop(mpc.Controller(plant, 6, rounds=300), x, 8)
    used = loop.inputs.sum(axis=(1, 2))
    assert used[0] == pytest.approx(3.0, abs=1e-4) and (used[4:] <= 2.5 + 1e-4).all()


ONE = mpc.Subsystem(A=1.0, B=1.0, Q=1.0, R=1.0, use=1.0)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: mpc.Plant({}), "no subsystems"),
        (lambda: mpc.Plant({"a": ONE, "b": mpc.Subsystem(A=np.eye(2), B=1.0, Q=1.0, R=1.0)}), "A of shape"),
        (lambda: mpc.Plant({"a": mpc.Subsystem(A=1.0, B=1.0, Q=1.0, R=0.0)}), "R positive definite"),
        (lambda: mpc.Plant({"a": mpc.Subsystem(A=1.0, B=1.0, Q=1.0, R=1.0, low=1, high=0)}), "lies above"),
        (lambda: mpc.Plant({"a": mpc.Subsystem(A=1.0, B=1.0, Q=1.0, R=1.0, influence={"z": [[1]]})}), "influence of 'z'"),
        (lambda: mpc.Plant({"a": mpc.Subsystem(A=np.nan, B=1.0, Q=1.0, R=1.0)}), "NaN in A"),
        (lambda: Horizon(mpc.Plant({"a": ONE}), 3), "nothing couples"),
        (lambda: Horizon(mpc.Plant({"a": ONE}, 1.0), 0), "whole number"),
        (lambda: Horizon(mpc.tanks()[0], 1), "at least 2 steps"),
        (lambda: mpc.Controller(mpc.Plant({"a": ONE}, 1.0), 3, rounds=0), "whole number"),
        (lambda: mpc.Controller(mpc.tanks()[0], 3, algorithm=tw.ExchangeADMM()), "exact=False"),
        (lambda: mpc.Controller(mpc.tanks()[0], 3, fallback=np.zeros(3)), "fallback"),
        (lambda: mpc.Controller(mpc.tanks()[0], 3).plan(np.zeros(3)), "states of shape"),
        (lambda: mpc.Central(mpc.tanks()[0], 3, "simplex"), "'clarabel' or 'osqp'"),
        (lambda: mpc.closed_loop(mpc.Central(mpc.tanks()[0], 3), mpc.tanks()[1], 2, disturbance=np.zeros(3)), "disturbance"),
    ],
)
def test_mistakes_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_state_that_is_heard_must_cost_something():
    a = mpc.Subsystem(A=1.0, B=1.0, Q=0.0, R=1.0)
    b = mpc.Subsystem(A=1.0, B=1.0, Q=1.0, R=1.0, influence={"a": [[0.1]]})
    with pytest.raises(ValueError, match="small positive weight in Q"):
        Horizon(mpc.Plant({"a": a, "b": b}), 3)


def test_batches_of_factorisations_never_run_side_by_side():
    """Two batched LAPACK calls that do not wait for each other deadlock on machines with two threads (jaxlib 0.10, CPU)."""
    plant, x = mpc.springs(3)
    horizon = Horizon(plant, 6)
    with jax.enable_x64(True):
        lowered = _prepare.lower(horizon.model, jnp.asarray(horizon.outs), jnp.ones(horizon.rows.shape), (0,), (0,))
        data = horizon.data(x)
        many = jax.jit(jax.vmap(multipliers)).lower(data.W, data.low, data.low, data.high)
    assert lowered.as_text().count("call @lapack_dgetrf") == 1
    assert many.as_text().count("call @lapack_dpotrf") == 1
