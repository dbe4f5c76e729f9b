"""Problems that drift: solutions round by round, recursions against NumPy, the bound on the tracking error, regret.

Axes: `k` rounds, `n` agents, `d` variables, `m` rows.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

import thalweg as tw
from thalweg.problem.quadratic import quadratic_loss

# Minutes of CPU together: the contract tests of prices are the quick ones.
pytestmark = pytest.mark.slow

ROUNDS = 30


def rising(total, k):
    """A ramp of 0.1 per round in the first row, a wave in the others."""
    return total + jnp.where(jnp.arange(total.shape[0]) == 0, 0.1 * k, 0.3 * jnp.sin(0.2 * k))


def until_ten(total, k):
    return total + 0.1 * jnp.minimum(k, 10)


def swaying(data, k):
    return {**data, "c": data["c"] + 0.05 * jnp.cos(0.3 * k)}


def pushed(data, k):
    return {**data, "b": data["b"] + 0.05 * k}


def pushed_until_ten(data, k):
    return {**data, "b": data["b"] + 0.05 * jnp.minimum(k, 10)}


def market(seed=0, n=5, d=3, m=2, **options):
    rng = np.random.default_rng(seed)
    options = {"signal": rising, "data_signal": swaying, "coupling": rng.normal(size=(n, m, d))} | options
    curvature = rng.uniform(1, 3, (n, d))
    curvature[0, 0] = 1.0  # the smallest is part of the program: markets of all seeds are compiled once
    return tw.allocation(curvature, rng.normal(size=(n, d)), rng.normal(size=m), **options)


def shared(seed=0, n=6, d=3, **options):
    rng = np.random.default_rng(seed)
    A = np.stack([np.diag(rng.uniform(1, 4, d)) for _ in range(n)])
    return tw.quadratic(A, rng.normal(size=(n, d)), **{"data_signal": pushed} | options)


class Numbers:
    """A market in NumPy: curvature a, targets c_k, A, b_k."""

    def __init__(self, problem, rounds=ROUNDS):
        data = jax.tree.map(np.asarray, problem.pieces.data)
        self.a, self.A = data["a"], data["A"]
        self.c = [data["c"] + 0.05 * np.cos(0.3 * k) for k in range(rounds + 1)]
        b = np.asarray(problem.coupling.initial)
        self.b = [b + np.where(np.arange(len(b)) == 0, 0.1 * k, 0.3 * np.sin(0.2 * k)) for k in range(rounds + 1)]

    def respond(self, price, k):
        return self.c[k] - np.einsum("nmd,m->nd", self.A, price) / self.a

    def excess(self, price, k):
        return np.einsum("nmd,nd->m", self.A, self.respond(price, k)) - self.b[k]

    def solution(self, k):
        M = np.einsum("nmd,nd,nld->ml", self.A, 1 / self.a, self.A)
        price = np.linalg.solve(M, self.excess(np.zeros(len(self.b[k])), k))
        return price, self.respond(price, k)


# Problems of a round


def test_a_problem_of_a_round_knows_only_that_round():
    problem = market()
    assert problem.drifts and np.array_equal(problem.at(4).at(7).coupling.total, problem.at(7).coupling.total)
    assert np.allclose(problem.at(7).coupling.total[0] - problem.coupling.total[0], 0.7)
    assert np.array_equal(problem.at(0).coupling.total, problem.coupling.total)
    own = jax.tree.map(lambda leaf: leaf[0], problem.pieces)
    assert np.allclose(problem.at(9).local(own).data["c"], own.data["c"] + 0.05 * np.cos(2.7))
    assert problem.fingerprint() != market(signal=until_ten).fingerprint()
    assert problem.fingerprint() != problem.at(3).fingerprint()


def test_consensus_data_move_also_under_a_folded_regulariser():
    problem = shared(regularizer=tw.l2(0.3))
    b = np.asarray(problem.pieces.data["b"])
    A = np.asarray(problem.pieces.data["A"]).mean(0)
    for k in (0, 5):
        gradient = A @ np.ones(3) + b.mean(0) + 0.05 * k
        assert np.allclose(problem.at(k).gradient(jnp.ones(3)), gradient)
        assert np.allclose(problem.folded().at(k).gradient(jnp.ones(3)), gradient + 0.3)


def test_constants_are_those_of_the_round():
    def stiffer(data, k):
        return {**data, "A": data["A"] * (1 + k)}

    data = {"A": np.stack([np.eye(2), 2 * np.eye(2)]), "b": np.zeros((2, 2)), "c": np.zeros(2)}
    problem = tw.Consensus(quadratic_loss, data, np.zeros(2), data_signal=stiffer)
    assert np.allclose(problem.smoothness, [1, 2]) and np.allclose(problem.at(3).smoothness, [4, 8])
    assert np.allclose(problem.smoothness, [1, 2])

    def flatter(data, k):
        return {**data, "a": data["a"] / (1 + k)}

    coupled = tw.Coupled(
        lambda x, data: 0.5 * jnp.sum(data["a"] * x**2), {"a": np.ones((3, 1))}, coupling=lambda x, data: x, total=1.0,
        x0=np.zeros(1), data_signal=flatter,
    )  # fmt: skip
    assert np.isclose(coupled.pricing.largest, 3) and np.isclose(coupled.at(2).pricing.largest, 9)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: market(signal=lambda b, k: b[:1]), r"signal\(total, k\) must return something like the totals"),
        (
            lambda: market(data_signal=lambda data, k: data["c"]),
            r"data_signal\(data_i, k\) must return something like one agent's",
        ),
        (lambda: shared(data_signal=lambda data, k: {**data, "A": data["A"] * 2}), "quadratic data_signal: got another A"),
        (lambda: tw.online.references(market(), -1), "references rounds: got -1"),
        (lambda: tw.online.references(market(), 3, tol=0), "references tol: got 0"),
    ],
)
def test_what_cannot_be_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_a_signal_must_be_a_function():
    with pytest.raises(TypeError, match="data_signal"):
        tw.Consensus(
            quadratic_loss, {"A": np.ones((1, 1, 1)), "b": np.ones((1, 1)), "c": np.ones(1)}, np.zeros(1), data_signal=3
        )


# References


def test_references_of_a_market_are_the_kkt_solutions_and_those_of_a_conic_solver():
    problem = market()
    numbers, found = Numbers(problem), tw.online.references(problem, ROUNDS)
    assert found.rounds == ROUNDS and found.residual < 1e-12
    for k in range(ROUNDS + 1):
        price, plans = numbers.solution(k)
        assert np.allclose(found.price[k], price) and np.allclose(found.x[k], plans)
    central = tw.reference(problem.at(11))
    assert np.allclose(found.x[11], central.x, atol=1e-7) and np.allclose(found.price[11], central.price, atol=1e-7)
    assert np.isclose(found.objective[11], central.objective) and np.isclose(found.at(11).objective, central.objective)


def test_references_over_boxes_and_inequalities_come_from_the_central_solver():
    problem = market(low=-0.5, high=0.8, sense="<=", coupling=None, d=2)
    found = tw.online.references(problem, 2)
    for k in range(3):
        now = problem.at(k)
        assert tw.certify(now, found.price[k], jnp.asarray(found.x[k])).holds(1e-6, 1e-6)


def test_references_with_sparse_rows():
    rows = np.array([[0], [1], [0], [1]])
    problem = tw.Coupled(
        lambda x, data: 0.5 * jnp.sum((x - data) ** 2), np.arange(4.0)[:, None], coupling=lambda x, data: x, total=[1.0, 2.0],
        x0=np.zeros(1), rows=rows, signal=rising,
    )  # fmt: skip
    found = tw.online.references(problem, 4)
    totals = np.array([problem.at(k).coupling.total for k in range(5)])
    assert np.allclose(found.price, (np.array([0 + 2, 1 + 3]) - totals) / 2)


def test_references_of_a_common_x_follow_newton_or_the_central_solver():
    plain, sparse = shared(), shared(regularizer=tw.l1(0.05))
    found = tw.online.references(plain, 10)
    A, b = (np.asarray(plain.pieces.data[name]).mean(0) for name in "Ab")
    assert np.allclose(found.x, np.stack([np.linalg.solve(A, -b - 0.05 * k) for k in range(11)]))
    assert np.allclose(tw.online.references(sparse, 2).x[2], tw.reference(sparse.at(2)).x)
    assert "Newton" in found.solver


# Recursions and what is measured of them


def dual_ascent(price, k, memory, numbers, step):
    return price + step * numbers.excess(price, k), None


def extragradient(price, k, memory, numbers, step):
    return price + step * numbers.excess(price + step * numbers.excess(price, k), k), None


def optimistic(price, k, memory, numbers, step):
    excess = numbers.excess(price, k)
    return price + step * (2 * excess - (excess if memory is None else memory)), excess


def predicting(price, k, memory, numbers, step):
    corrected = price + step * numbers.excess(price, k)
    return (corrected if memory is None else 2 * corrected - memory), corrected


METHODS = {
    tw.DualAscent: (dual_ascent, 0.5),
    tw.ExtragradientDual: (extragradient, 0.4),
    tw.OptimisticDual: (optimistic, 0.3),
    tw.PredictionCorrection: (predicting, 0.5),
}


@pytest.mark.parametrize("method", METHODS)
def test_price_methods_on_a_drifting_market_are_their_recursions(method):
    problem, (step_of, fraction) = market(), METHODS[method]
    step, numbers = fraction / problem.pricing.largest, Numbers(problem)
    found = tw.online.references(problem, ROUNDS)
    result = tw.solve(problem, method(step_size=step), rounds=ROUNDS, reference=found)
    price, memory, regret = np.zeros(2), None, 0.0
    for k in range(ROUNDS):
        asked = price if method is not tw.ExtragradientDual else price + step * numbers.excess(price, k)
        plans = numbers.respond(asked, k)
        price, memory = step_of(price, k, memory, numbers, step)
        # What was planned with the data of round k is measured in the world of round k + 1.
        best_price, best = numbers.solution(k + 1)
        cost = lambda x, k=k: 0.5 * np.sum(numbers.a * (x - numbers.c[k + 1]) ** 2)
        regret += cost(plans) - cost(best)
        row = {name: column[k] for name, column in result.history.scalars.items()}
        left = np.abs(np.einsum("nmd,nd->m", numbers.A, plans) - numbers.b[k + 1])
        assert np.isclose(row["price_error"], np.linalg.norm(price - best_price))
        assert np.isclose(row["error"], np.linalg.norm(plans - best))
        assert np.isclose(row["violation"], np.max(left / np.maximum(1, np.abs(numbers.b[k + 1]))))
        assert np.isclose(row["objective"], cost(plans)) and np.isclose(row["regret"], regret)
        assert np.isclose(row["dual"], problem.at(k + 1).dual(price)[0])
    assert np.allclose(result.price, price)
    assert np.isclose(result.certificate.violation, row["violation"])
    assert np.isclose(result.certificate.dual, row["dual"])


@pytest.mark.slow
def test_engines_agree_on_drifting_problems():
    coupled, common = market(n=4), shared(n=4)
    found, best = tw.online.references(coupled, 12), tw.online.references(common, 12)
    runs = [
        lambda engine: tw.solve(coupled, tw.ExtragradientDual(), rounds=12, reference=found, engine=engine, deterministic=True),
        lambda engine: tw.solve(coupled, tw.ExchangeADMM(), rounds=12, reference=found, engine=engine, deterministic=True),
        lambda engine: tw.solve(
            common, tw.GradientTracking(), tw.network.ring(4), rounds=12, reference=best, engine=engine, deterministic=True
        ),
        lambda engine: tw.solve(
            common, tw.FedAvg(solver=tw.LocalSGD(0.1, steps=3)), rounds=12, reference=best, engine=engine, deterministic=True
        ),
    ]
    for run in runs:
        first, *others = (run(engine).history.scalars for engine in ("simulated", "debug", "sharded"))
        for other in others:
            for name in set(first) & {"error", "price_error", "gap", "regret", "violation", "dual", "objective"}:
                assert np.allclose(first[name], other[name], rtol=1e-12, atol=1e-12), name


def test_an_event_driven_market_sees_the_world_of_its_updates():
    problem = market(n=4)
    found = tw.online.references(problem, 12)
    each = [
        tw.solve(problem, tw.DualAscent(), rounds=12, reference=found, engine=engine)
        for engine in ("simulated", tw.EventDriven(buffer=4))
    ]
    assert np.allclose(each[0].history["price_error"], each[1].history["price_error"])


def test_what_stops_moving_is_reached():
    problem, common = market(signal=until_ten, data_signal=None), shared(data_signal=pushed_until_ten)
    found, best = tw.online.references(problem, 400), tw.online.references(common, 400)
    methods = (
        tw.ExtragradientDual(),
        tw.OptimisticDual(),
        tw.PredictionCorrection(),
        tw.ExchangeADMM(),
        tw.DualAscent(cohort=3),
    )
    for method in methods:
        result = tw.solve(problem, method, rounds=400, reference=found)
        assert result.history["error"][8] > 1e-3 and result.history["error"][-1] < 1e-8, method
        assert result.certificate.holds(1e-8, 1e-8)
    tracked = tw.solve(common, tw.GradientTracking(), tw.network.ring(6), rounds=400, reference=best)
    averaged = tw.solve(common, tw.FedAvg(solver=tw.LocalSGD(0.2, steps=1)), rounds=400, reference=best)
    biased = tw.solve(common, tw.DGD(), tw.network.ring(6), rounds=400, reference=best)
    assert tracked.history["error"][-1] < 1e-8 and averaged.history["error"][-1] < 1e-8
    assert 1e-3 < biased.history["error"][-1] < 1
    assert tracked.history["regret"][-1] == pytest.approx(np.sum(tracked.history["gap"]))


@pytest.mark.parametrize("sense", ["<=", ">="])
@pytest.mark.parametrize("method", [tw.ExtragradientDual, tw.OptimisticDual, tw.PredictionCorrection])
def test_new_methods_solve_inequalities_over_boxes(method, sense):
    rng = np.random.default_rng(3)
    total = 1.0 if sense == "<=" else 4.0
    problem = tw.allocation(rng.uniform(1, 3, (5, 1)), rng.uniform(0, 1, (5, 1)), total, low=0.0, high=1.2, sense=sense)
    result = tw.solve(problem, method(), rounds=400)
    assert result.certificate.holds(1e-8, 1e-8) and abs(float(result.price[0])) > 0.1


@pytest.mark.parametrize("method", [tw.ExtragradientDual, tw.OptimisticDual, tw.PredictionCorrection])
def test_step_bounds_divide_what_converges_from_what_does_not(method):
    problem = market(signal=None, data_signal=None)
    bound = method().step_bound(tw.engine.facts.of_market(problem))
    inside = tw.solve(problem, method(step_size=0.97 * bound), rounds=600)
    with pytest.warns(RuntimeWarning, match="stability is proved below"):
        outside = tw.solve(problem, method(step_size=1.03 * bound), rounds=600)
    assert inside.certificate.violation < 1e-3 < outside.certificate.violation


# The bound


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**16), fraction=st.floats(0.1, 1.9), per_row=st.booleans(), method=st.sampled_from([0, 1]))
def test_the_bound_is_never_violated_by_prices_and_plans(seed, fraction, per_row, method):
    problem, kind = market(seed), (tw.DualAscent, tw.ExtragradientDual)[method]
    constants = problem.pricing
    step = fraction / (2 if method else 1)
    step = step / (constants.scaled * constants.diagonal) if per_row else step / constants.largest
    found = tw.online.references(problem, ROUNDS)
    result = tw.solve(problem, kind(step_size=step), rounds=ROUNDS, reference=found)
    bound = tw.online.tracking_bound(problem, result.algorithm, found)
    assert bound.stable and bound.holds(result) and bound.contraction.source == "exact"
    assert np.all(bound.measured(result) <= bound.contraction.factor ** result.history["round"] * bound.initial + bound.limit)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16), fraction=st.floats(0.1, 1.9))
def test_the_bound_is_never_violated_by_gradient_descent(seed, fraction):
    problem = shared(seed)
    found = tw.online.references(problem, ROUNDS)
    largest = np.linalg.eigvalsh(np.asarray(problem.pieces.data["A"]).mean(0)).max()
    method = tw.FedAvg(solver=tw.LocalSGD(fraction / largest, steps=1))
    result = tw.solve(problem, method, rounds=ROUNDS, reference=found)
    bound = tw.online.tracking_bound(problem, result.algorithm, found)
    assert bound.stable and bound.holds(result)
    assert np.allclose(bound.measured(result), result.history["error"])


def test_the_bound_holds_where_costs_are_not_quadratic():
    """f_i = a/2 (x − c)² + log cosh x: L_i = a + 1, μ_i = a. The references are found by bisection, and put together by hand."""
    rng, rounds = np.random.default_rng(1), 15
    a, c = rng.uniform(1, 2, 4), rng.normal(size=4)
    problem = tw.Coupled(
        _softly, {"a": a, "c": c}, coupling=lambda x, data: x[None], total=1.0, x0=np.zeros(()), smoothness=a + 1,
        strong_convexity=a, signal=steadily,
    )  # fmt: skip
    slope = lambda x, i, price: a[i] * (x - c[i]) + np.tanh(x) + price
    answer = lambda price: np.array([brentq(slope, -50, 50, (i, price)) for i in range(4)])
    excess = lambda price, k: answer(price).sum() - 1 - 0.1 * k
    prices = np.array([brentq(excess, -50, 50, (k,), xtol=1e-13) for k in range(rounds + 1)])
    plans = np.array([answer(price) for price in prices])
    costs = np.sum(0.5 * a * (plans - c) ** 2 + np.log(np.cosh(plans)), axis=1)
    found = tw.online.References(plans, costs, prices[:, None], 1e-12, "bisection")
    result = tw.solve(problem, tw.DualAscent(step_size=0.3), rounds=rounds, reference=found)
    bound = tw.online.tracking_bound(problem, result.algorithm, found)
    assert bound.contraction.source == "given" and bound.stable and bound.holds(result)
    assert np.isclose(bound.contraction.highest, 0.3 * np.sum(1 / a))
    assert np.isclose(bound.contraction.lowest, 0.3 * np.sum(1 / (a + 1)))


def _softly(x, data):
    return 0.5 * data["a"] * (x - data["c"]) ** 2 + jnp.log(jnp.cosh(x))


def test_boxes_leave_no_contraction_and_the_bound_says_so():
    problem = market(coupling=None, d=2, low=-0.3, high=0.6, data_signal=None)
    found = tw.online.references(problem, 8)
    result = tw.solve(problem, tw.DualAscent(), rounds=8, reference=found)
    bound = tw.online.tracking_bound(problem, result.algorithm, found)
    assert bound.contraction.factor == 1 and not bound.stable and np.isinf(bound.limit) and bound.holds(result)


def steadily(total, k):
    return total + 0.1 * k


@pytest.mark.parametrize("step", [0.1, 0.35, 0.6])
def test_the_bound_is_tight_for_a_ramp(step):
    # Σ a_i/2 (x_i − c_i)², Σ x_i = b + vk: λ* = (Σc − b)/Σ(1/a), so that it moves by v/Σ(1/a) a round.
    problem = tw.allocation(np.array([[1.0], [2.0], [4.0]]), np.ones((3, 1)), 1.0, signal=steadily)
    found = tw.online.references(problem, 60)
    result = tw.solve(problem, tw.DualAscent(step_size=step), rounds=60, reference=found)
    bound = tw.online.tracking_bound(problem, result.algorithm, found)
    M = 1 + 1 / 2 + 1 / 4
    assert np.isclose(bound.contraction.factor, abs(1 - step * M)) and np.isclose(bound.drift, 0.1 / M)
    lag = 0.1 / M / (step * M)  # what a ramp leaves of 1 − αM, whatever the sign
    assert np.isclose(result.history["price_error"][-1], lag, rtol=1e-4)
    if step * M < 1:
        assert np.isclose(bound.limit, lag)


def test_the_bound_is_tight_for_gradient_descent_on_a_ramp():
    problem = shared(d=1, n=1)
    curvature = float(np.asarray(problem.pieces.data["A"])[0, 0, 0])
    found = tw.online.references(problem, 80)
    result = tw.solve(problem, tw.FedAvg(solver=tw.LocalSGD(0.3 / curvature, steps=1)), rounds=80, reference=found)
    bound = tw.online.tracking_bound(problem, result.algorithm, found)
    assert np.isclose(result.history["error"][-1], bound.limit) and np.isclose(bound.limit, 0.05 / curvature / 0.3)


def test_outside_the_stable_step_errors_grow_and_the_bound_says_so():
    problem = market()
    found = tw.online.references(problem, 60)
    with pytest.warns(RuntimeWarning, match="stability is proved below"):
        result = tw.solve(problem, tw.DualAscent(step_size=2.2 / problem.pricing.largest), rounds=60, reference=found)
    bound = tw.online.tracking_bound(problem, result.algorithm, found)
    assert np.isclose(bound.contraction.factor, 1.2) and not bound.stable and bound.limit == np.inf
    assert "no bound in the long run" in str(bound)
    errors = bound.measured(result)
    assert errors[-1] > 100 * errors[20] and bound.holds(result)
    steady = tw.online.tracking_bound(problem, tw.DualAscent(step_size=1.0 / problem.pricing.largest), found)
    assert not steady.holds(result) and errors[-1] > steady.limit


def test_gradient_tracking_on_a_complete_graph_is_gradient_descent_a_round_late():
    problem, step = shared(), 0.2
    found = tw.online.references(problem, 60)
    result = tw.solve(problem, tw.GradientTracking(step_size=step), tw.network.complete(6), rounds=60, reference=found)
    central = tw.online.contraction(problem, tw.FedAvg(solver=tw.LocalSGD(step, steps=1)))
    bound = tw.online.tracking_bound(problem, result.algorithm, found, factor=central.factor, late=1)
    assert bound.holds(result)
    on_time = tw.online.tracking_bound(problem, result.algorithm, found, factor=central.factor)
    alone = shared(d=1, n=2)
    best = tw.online.references(alone, 60)
    mean = float(np.asarray(alone.pieces.data["A"]).mean())
    late = tw.solve(alone, tw.GradientTracking(step_size=0.3 / mean), tw.network.complete(2), rounds=60, reference=best)
    assert np.isclose(late.history["error"][-1], 0.05 / mean / 0.3 + 0.05 / mean)
    assert on_time.limit < bound.limit


def test_contractions_are_refused_where_they_are_not_known():
    problem, common = market(), shared()
    with pytest.raises(TypeError, match="pass factor="):
        tw.online.contraction(problem, tw.OptimisticDual(step_size=0.1))
    with pytest.raises(ValueError, match="was left open"):
        tw.online.contraction(problem, tw.DualAscent())
    with pytest.raises(ValueError, match="expected everybody"):
        tw.online.contraction(problem, tw.DualAscent(cohort=2, step_size=0.1))
    with pytest.raises(ValueError, match="one local step"):
        tw.online.contraction(common, tw.FedAvg(solver=tw.LocalSGD(0.1, steps=2)))
    with pytest.raises(ValueError, match="noisy"):
        tw.online.contraction(shared(gradient_noise=0.1), tw.FedAvg(solver=tw.LocalSGD(0.1, steps=1)))
    bare = tw.solve(common, tw.FedAvg(solver=tw.LocalSGD(0.1, steps=1)), rounds=5)
    bound = tw.online.tracking_bound(common, bare.algorithm, tw.online.references(common, 5))
    with pytest.raises(ValueError, match="the history has no 'error'"):
        bound.measured(bare)


def test_the_bound_is_drawn_beside_what_was_measured(tmp_path):
    problem = market()
    found = tw.online.references(problem, ROUNDS)
    result = tw.solve(problem, tw.DualAscent(), rounds=ROUNDS, reference=found)
    figure = tw.online.tracking_bound(problem, result.algorithm, found).plot(result, tmp_path / "bound.png")
    assert len(figure.axes) == 2 and (tmp_path / "bound.png").stat().st_size > 0
    assert {line.get_label() for line in figure.axes[0].lines} == {"bound", "measured", "v/(1 − c)"}


# Prediction


def sampled(period):
    """b(t) = 5 + sin t, seen every `period`; so much of it that the rounds end at the same time."""

    def signal(total, k):
        return total + jnp.sin(period * k)

    problem = tw.allocation(np.array([[1.0], [2.0], [4.0]]), np.ones((3, 1)), 5.0, signal=signal)
    rounds = round(6.3 / period)
    found = tw.online.references(problem, rounds)

    def worst(method):
        result = tw.solve(problem, method, rounds=rounds, reference=found)
        return result.history["price_error"][rounds // 2 :].max()

    M = 1 + 1 / 2 + 1 / 4
    return worst(tw.DualAscent(step_size=0.5 / M)), worst(tw.PredictionCorrection(step_size=0.5 / M))


def test_halving_the_period_halves_the_lag_and_quarters_it_with_prediction():
    errors = np.array([sampled(period) for period in (0.2, 0.1, 0.05)])
    ratios = errors[:-1] / errors[1:]
    assert np.all((ratios[:, 0] > 1.8) & (ratios[:, 0] < 2.2))
    assert np.all((ratios[:, 1] > 3.6) & (ratios[:, 1] < 4.4))
    assert errors[-1, 1] < errors[-1, 0] / 10


def test_a_ramp_is_predicted_without_lag():
    problem = tw.allocation(np.array([[1.0], [2.0]]), np.ones((2, 1)), 1.0, signal=steadily)
    found = tw.online.references(problem, 120)
    result = tw.solve(problem, tw.PredictionCorrection(), rounds=120, reference=found)
    assert result.history["price_error"][-1] < 1e-12
    same = [
        tw.solve(problem, method, rounds=20).history["price of row 0"]
        for method in (tw.PredictionCorrection(step_size=0.3, extrapolation=0.0), tw.DualAscent(step_size=0.3))
    ]
    assert np.array_equal(*same)
    with pytest.raises(ValueError, match=r"extrapolation=1\.5"):
        tw.PredictionCorrection(extrapolation=1.5)


# Regret in the history


def test_a_moving_reference_needs_every_round():
    problem = market()
    found = tw.online.references(problem, 10)
    with pytest.raises(ValueError, match="a reference for every round needs a record of every round"):
        tw.solve(problem, tw.DualAscent(), rounds=10, every=2, reference=found)
    with pytest.raises(
        ValueError, match=r"got references of rounds 0 … 10; pass reference=tw.online.references\(problem, 11\)"
    ):
        tw.solve(problem, tw.DualAscent(), rounds=11, reference=found)
    common, best = shared(), tw.online.references(shared(), 500)
    result = tw.solve(common, tw.FedAvg(solver=tw.LocalSGD(0.2, steps=1)), rounds=500, reference=best)
    assert len(result.history) == 500 and "dynamic regret" in str(result)


def test_one_reference_has_no_gap_in_a_world_that_drifts():
    common = shared()
    result = tw.solve(common, tw.DGD(), tw.network.ring(6), rounds=5, reference=tw.reference(common))
    assert "gap" not in result.history.scalars and "regret" not in result.history.scalars


@pytest.mark.parametrize("kind", ["price", "server", "peers"])
def test_a_resumed_run_has_the_same_regret(kind, tmp_path):
    problem = market() if kind == "price" else shared()
    arguments = {
        "price": (tw.PredictionCorrection(),),
        "server": (tw.FedAvg(solver=tw.LocalSGD(0.1, steps=1)),),
        "peers": (tw.GradientTracking(), tw.network.ring(6)),
    }[kind]
    found = tw.online.references(problem, 90)
    whole = tw.solve(problem, *arguments, rounds=90, reference=found)
    tw.solve(problem, *arguments, rounds=37, reference=found, checkpoint=tmp_path / "run")
    resumed = tw.solve(problem, *arguments, rounds=90, reference=found, checkpoint=tmp_path / "run", resume=True)
    for name in {"error", "gap", "regret", "price_error"} & set(whole.history.scalars):
        assert np.array_equal(whole.history[name], resumed.history[name]), name
