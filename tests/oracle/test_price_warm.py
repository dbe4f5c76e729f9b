"""Price methods that begin at a price and plans, and coupled problems that take other numbers."""

import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw


def cost(x, data):
    return 0.5 * jnp.sum(data["h"] * (x - data["goal"]) ** 2)


def same(x, data):
    return x


def problem(goal, total, sense="="):
    h = np.linspace(1.0, 3.0, len(goal))[:, None]
    return tw.Coupled(cost, {"h": h, "goal": goal}, coupling=same, total=total, sense=sense, x0=jnp.zeros(1))


GOAL = np.array([[1.0], [2.0], [4.0]])
METHODS = [tw.DualAscent(), tw.AcceleratedDualAscent(), tw.ExchangeADMM(penalty=2.0), tw.ExchangeADMM(relaxation=1.6)]


@pytest.mark.parametrize("algorithm", METHODS, ids=str)
@pytest.mark.parametrize("sense", ["=", "<="])
def test_begun_at_the_answer_it_stays_there(algorithm, sense):
    market = problem(GOAL, [3.0], sense)
    found = tw.solve(market, tw.AcceleratedDualAscent(), rounds=400)
    start = tw.WarmStart(found.price, found.x)
    for rounds in (0, 1, 5):
        warm = tw.solve(market, algorithm, rounds=rounds, start=start)
        np.testing.assert_allclose(warm.price, found.price, atol=1e-9)
        np.testing.assert_allclose(warm.x, found.x, atol=1e-9)


def test_admm_begun_at_its_own_answer_goes_on_as_it_would():
    market = problem(GOAL, [3.0])
    algorithm = tw.ExchangeADMM(penalty=2.0, adaptive=None)
    half, whole = (tw.solve(market, algorithm, rounds=k) for k in (4, 9))
    on = tw.solve(market, algorithm, rounds=5, start=tw.WarmStart(half.price, half.x))
    np.testing.assert_allclose(on.price, whole.price, rtol=1e-12)


def test_other_numbers_are_another_problem_of_the_same_kind():
    first = problem(GOAL, [3.0])
    moved = first.with_data({"h": first.pieces.data["h"], "goal": jnp.asarray(GOAL + 1)}, [5.0])
    fresh = problem(GOAL + 1, [5.0])
    a, b = (tw.solve(p, tw.DualAscent(), rounds=300) for p in (moved, fresh))
    np.testing.assert_allclose(a.price, b.price, rtol=1e-10)
    np.testing.assert_allclose(np.asarray(moved.pieces.share), np.asarray(fresh.pieces.share))
    assert moved.pricing is first.pricing and first.coupling.total[0] == 3.0


def test_mistakes_are_refused():
    market = problem(GOAL, [3.0])
    plans = jnp.zeros((3, 1))
    for start in (
        tw.WarmStart(np.zeros(2), plans),
        tw.WarmStart(np.zeros(1), jnp.zeros((3, 2))),
        tw.WarmStart([0.0], plans[:2]),
    ):
        with pytest.raises(ValueError, match="WarmStart"):
            tw.solve(market, tw.DualAscent(), rounds=1, start=start)
    with pytest.raises(TypeError, match="DualSubgradient cannot begin at"):
        tw.solve(market, tw.DualSubgradient(), rounds=1, start=tw.WarmStart([0.0], plans))
    with pytest.raises(ValueError, match="make a new problem"):
        market.with_data({"h": jnp.ones((3, 1)), "goal": jnp.ones((3, 2))})
    with pytest.raises(ValueError, match="total of shape"):
        market.with_data(market.pieces.data, [1.0, 2.0])


def bowl(x, data):
    return 0.5 * x @ data["P"] @ x + data["q"] @ x


def first(x, data):
    return x[:2]


def unit_box(data):
    d = data["q"].shape[0]
    return tw.Polyhedron(jnp.concatenate([jnp.eye(d), -jnp.eye(d)]), jnp.ones(2 * d))


@pytest.mark.slow
def test_interior_points_of_many_agents_end_and_know_when_they_have():
    """Hundreds of agents on two threads: batched factorisations side by side would wait for each other for ever."""
    pytest.importorskip("qpax")
    n, d, rng = 300, 20, np.random.default_rng(0)
    root = rng.standard_normal((n, d, d))
    data = {"P": root @ root.swapaxes(1, 2) / d + np.eye(d), "q": 3 * rng.standard_normal((n, d))}
    market = tw.Coupled(bowl, data, coupling=first, total=np.zeros(2), x0=jnp.zeros(d), local=unit_box)
    result = tw.solve(market, tw.ExchangeADMM(), rounds=80, every=20)
    assert result.certificate.holds(1e-6, 1e-6)
    assert result.history["steps"].max() < 20  # iterations of the interior point, at most 60
