"""Prices among peers, against KKT systems, cvxpy and SciPy, and against their recursions in NumPy.

Axes: `n` agents, `d` variables of one agent, `m` rows, `k` rounds.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import exports
import thalweg as tw
from thalweg.problem.respond import ClosedForm

# Minutes of CPU together: the contract tests of prices are the quick ones.
pytestmark = pytest.mark.slow

N, D, M = 8, 3, 2
EXACT = (tw.DualGradientTracking, tw.TrackingADMM, tw.DistributedPrimalDual)
ALL = (*EXACT, tw.ConsensusDualDecomposition, tw.LaplacianGradient)
name = lambda value: value.__name__ if isinstance(value, type) else str(value)


# -- problems ------------------------------------------------------------------------------------


def quadratic(x, data):
    """½ Σ h x² − c·x."""
    return 0.5 * jnp.sum(data["h"] * x**2) - jnp.sum(data["c"] * x)


def linear(x, data):
    return jnp.sum(data["c"] * x)


def through(x, data):
    return data["A"] @ x


def itself(x, data):
    return x


def turned(x, data):
    """Consumers count as x, producers as −x."""
    return data["sign"] * x + data["base"]


def exact_response(question, data):
    """Of `quadratic` under `through`, penalty included."""
    A, H, right = data["A"], jnp.diag(data["h"]), data["c"] - data["A"].T @ question.price
    if question.penalty is not None:
        H = H + A.T @ jnp.diag(question.penalty) @ A
        right = right + A.T @ (question.penalty * question.target)
    return jnp.linalg.solve(H, right)


def boxed_response(question, data):
    """Of `quadratic` under `itself` over a box, penalty included."""
    bend, right = data["h"], data["c"] - question.price
    if question.penalty is not None:
        bend, right = bend + question.penalty, right + question.penalty * question.target
    return jnp.clip(right / bend, -data["r"], data["r"])


def own_box(data):
    return tw.box(-data["r"], data["r"])


def bends(x, data):
    return jnp.sum(x**2)[None]


def dented(x, data):
    return jnp.sum(data["c"] * x) - jnp.sum(x**2)


def moving(total, k):
    return total + k


@functools.cache
def data(n=N, m=M, seed=0):
    """Heterogeneous: curvatures over a decade, different couplings, unequal shares."""
    rng = np.random.default_rng(seed)
    share = rng.standard_normal((n, m)) * 2
    return {
        "h": np.exp(rng.uniform(0, np.log(10), (n, D))),
        "c": 3 * rng.standard_normal((n, D)),
        "A": rng.standard_normal((n, m, D)),
    }, share


def coupled(n=N, m=M, units=1.0):
    """(problem, share, plans, price) with equalities, solved by its KKT system; rows in other `units`."""
    values, share = data(n, m)
    values = {**values, "A": values["A"] * (units * np.ones(m))[:, None]}
    share = share * units
    b = share.sum(0)
    problem = tw.Coupled(
        quadratic, values, coupling=through, total=b, share=share, x0=np.zeros(D), solver=ClosedForm(exact_response, True)
    )
    A, h, c = values["A"], values["h"], values["c"]
    bend = sum((A[i] / h[i]) @ A[i].T for i in range(n))
    price = np.linalg.solve(bend, sum((A[i] / h[i]) @ c[i] for i in range(n)) - b)
    plans = np.stack([(c[i] - A[i].T @ price) / h[i] for i in range(n)])
    return problem, share, plans, price


@functools.cache
def market():
    """(problem, plans, price): quadratics over boxes, one equality, one inequality that binds, one that does not; by Clarabel."""
    import cvxpy as cp

    values = {name: value for name, value in data()[0].items() if name != "A"} | {"r": np.full((N, D), 1.5)}
    b, x = np.array([1.0, -2.0, 30.0]), cp.Variable((N, D))
    rows = cp.sum(x, axis=0)
    cost = 0.5 * cp.sum(cp.multiply(values["h"], x**2)) - cp.sum(cp.multiply(values["c"], x))
    constraints = [rows[0] == b[0], rows[1] <= b[1], rows[2] <= b[2], cp.abs(x) <= 1.5]
    cp.Problem(cp.Minimize(cost), constraints).solve("CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-12, tol_feas=1e-12)
    problem = tw.Coupled(
        quadratic, values, coupling=itself, total=b, sense=["=", "<=", "<="], x0=np.zeros(D), local=own_box,
        solver=ClosedForm(boxed_response, True),
    )  # fmt: skip
    return problem, x.value, np.array([float(constraints[j].dual_value) for j in range(3)])


@functools.cache
def bids():
    """(problem, plans, price): linear bids, Σ x = 3.3, by HiGHS."""
    c = np.random.default_rng(1).uniform(1, 5, (N, 1))
    found = scipy.optimize.linprog(c.ravel(), A_eq=np.ones((1, N)), b_eq=[3.3], bounds=[(0, 1)] * N)
    problem = tw.Coupled(linear, {"c": c}, coupling=itself, total=3.3, x0=np.zeros(1), local=tw.box(0.0, 1.0))
    return problem, found.x[:, None], -found.eqlin.marginals


def allocation(n=N):
    """(problem, share, plans, price): producers and consumers, Σ ±x_i + base_i = b, in closed form."""
    values, _ = data(n)
    rng = np.random.default_rng(2)
    sign, base = rng.choice([-1.0, 1.0], (n, D)), rng.standard_normal((n, D))
    share = rng.standard_normal((n, D)) * 3
    values = {"h": values["h"], "c": values["c"], "sign": sign, "base": base}
    problem = tw.Coupled(quadratic, values, coupling=turned, total=share.sum(0), share=share, x0=np.ones(D))
    h, c = values["h"], values["c"]
    price = ((sign * c / h + base).sum(0) - share.sum(0)) / (1 / h).sum(0)
    return problem, share, (c - sign * price) / h, price


# -- networks ------------------------------------------------------------------------------------

RING = tw.network.ring(N)
RANDOM = tw.network.erdos_renyi(N, 0.4, seed=1)
HALVES = [np.array([[i, (i + 1) % N] for i in range(s, N, 2)]) for s in (0, 1)]
PERIODIC = tw.network.periodic([tw.network.from_edges(half, N, allow_disconnected=True) for half in HALVES])
NETWORKS = {
    "random": RANDOM,
    "ring": RING,
    "10 %": RANDOM.with_failures(loss=0.1),
    "30 %": RING.with_failures(loss=0.3),
    "asleep": RANDOM.with_failures(asleep=0.2),
    "periodic": PERIODIC,
}
QUICK = ("10 %",)
CASES = [
    pytest.param(kind, network, marks=[] if network in QUICK else [pytest.mark.slow]) for kind in EXACT for network in NETWORKS
]


def distances(result, price):
    """(of plans from the reference, of the price)."""
    return result.history["error"][-1], np.abs(result.price - price).max()


# -- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "network"), CASES, ids=name)
def test_equalities_end_at_the_solution_of_the_kkt_system(kind, network):
    problem, _, plans, price = coupled()
    result = tw.solve(problem, kind(), NETWORKS[network], rounds=3000, reference=plans)
    assert max(distances(result, price)) < 1e-9
    assert result.history["consensus_error"][-1] < 1e-9
    np.testing.assert_allclose(result.agents, plans, atol=1e-9)
    assert result.certificate.holds(gap=1e-9, violation=1e-9)


@pytest.mark.parametrize(("kind", "network"), CASES, ids=name)
def test_inequalities_and_boxes_end_at_the_solution_of_clarabel(kind, network):
    problem, plans, price = market()
    result = tw.solve(problem, kind(), NETWORKS[network], rounds=2000, reference=plans)
    assert max(distances(result, price)) < 1e-8
    assert result.price[1] > 0.5 and abs(result.price[2]) < 1e-9
    assert result.certificate.holds(gap=1e-9, violation=1e-9) and result.certificate.slackness < 1e-8


@pytest.mark.parametrize("kind", [tw.TrackingADMM, pytest.param(tw.DistributedPrimalDual, marks=pytest.mark.slow)], ids=name)
def test_linear_bids_do_not_jump_where_a_method_holds_them(kind):
    problem, plans, price = bids()
    result = tw.solve(problem, kind(), RING, rounds=3000, reference=plans)
    assert max(distances(result, price)) < 1e-9


def test_averages_of_jumping_best_responses_clear_the_market_slowly():
    problem, plans, price = bids()
    result = tw.solve(
        problem, tw.ConsensusDualDecomposition(), RING.with_failures(loss=0.1), rounds=8000, every=1000, reference=plans
    )
    violation = result.history["violation"]
    # Of order 1/Σ c_k, which is k^−0.4.
    assert violation[-1] < 0.6 * violation[0] and violation[-1] < 0.1
    assert abs(result.price - price)[0] < 0.05
    assert result.history["error"][-1] < 0.3


def test_averages_that_leave_out_the_first_rounds_are_close_to_the_solution_of_clarabel():
    problem, plans, price = market()
    method = tw.ConsensusDualDecomposition(power=1.0, burn_in=1000)
    result = tw.solve(problem, method, RING, rounds=5000, reference=plans)
    assert result.history["error"][-1] < 0.05 and np.abs(result.price - price).max() < 0.05


@pytest.mark.parametrize(
    "failures", [{"loss": 0.3}, *(pytest.param(other, marks=pytest.mark.slow) for other in ({}, {"asleep": 0.2}))], ids=str
)
def test_trades_keep_the_sum_in_every_round_and_end_at_the_optimum(failures):
    problem, share, plans, price = allocation()
    network = RING.with_failures(**failures) if failures else RING
    result = tw.solve(problem, tw.LaplacianGradient(), network, rounds=1000, every=1, reference=plans)
    assert len(result.history) == 1000 and result.history["violation"].max() < 1e-13
    assert np.all(np.diff(result.history["objective"]) < 1e-12)
    assert max(distances(result, price)) < 1e-10
    data = problem.pieces.data
    np.testing.assert_allclose((data["sign"] * result.agents + data["base"]).sum(0), share.sum(0), atol=1e-12)


def test_trades_under_loss_per_direction_do_not_keep_the_sum_and_say_so():
    problem, *_ = allocation()
    with pytest.warns(RuntimeWarning, match="exact under sleeping agents, symmetric loss, not under loss per direction"):
        result = tw.solve(problem, tw.LaplacianGradient(), RING.with_failures(loss=0.3, symmetric=False), rounds=50)
    assert result.history["violation"][-1] > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXACT, ids=name)
def test_loss_per_direction_is_not_claimed_and_is_biased(kind):
    problem, _, plans, _ = coupled()
    network = RING.with_failures(loss=0.3, symmetric=False)
    with pytest.warns(RuntimeWarning, match="biased here"):
        result = tw.solve(problem, kind(), network, rounds=2000, reference=plans)
    assert not result.history["error"][-1] < 1e-3


@pytest.mark.parametrize("kind", [pytest.param(k, marks=pytest.mark.slow if k in EXACT[1:] else []) for k in ALL], ids=name)
def test_a_single_agent_solves_its_own_problem(kind):
    problem, _, plans, price = allocation(1) if kind is tw.LaplacianGradient else coupled(1)
    result = tw.solve(problem, kind(), tw.network.ring(1), rounds=3000, reference=plans)
    far = 0.5 if kind is tw.ConsensusDualDecomposition else 1e-9
    assert max(distances(result, price)) < far


# -- recursions ----------------------------------------------------------------------------------


def run(problem, method, network, rounds, **options):
    """(plans, prices) `[n, …]` after so many rounds."""
    result = tw.solve(problem, method, network, rounds=rounds, **options)
    return np.asarray(result.agents), np.asarray(jax.vmap(method.price)(result.records.state))


def respond(values, i, price, penalty=0.0, target=0.0):
    A, h, c = (values[name][i] for name in ("A", "h", "c"))
    return np.linalg.solve(
        np.diag(h) + A.T @ (penalty * np.eye(M)) @ A, c - A.T @ price + A.T @ (penalty * (0 * price + target))
    )


@pytest.mark.parametrize("network", [RANDOM, pytest.param(RING, marks=pytest.mark.slow)], ids=["random", "ring"])
def test_gradient_tracking_is_its_recursion_on_stacked_matrices(network):
    problem, share, *_ = coupled()
    values, W, step = problem.pieces.data, network.mixing.toarray(), 0.15
    values = {name: np.asarray(value) for name, value in values.items()}
    excess = lambda x: np.einsum("nij,nj->ni", values["A"], x) - share
    price = np.zeros((N, M))
    x = np.stack([respond(values, i, price[i]) for i in range(N)])
    y = s = excess(x)
    for _ in range(15):
        price = W @ (price + step * y)
        x = np.stack([respond(values, i, price[i]) for i in range(N)])
        y, s = W @ y + excess(x) - s, excess(x)
    plans, prices = run(problem, tw.DualGradientTracking(step_size=step), network, 15)
    np.testing.assert_allclose(prices, price, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(plans, x, rtol=1e-11, atol=1e-12)


def test_tracking_admm_is_its_recursion_on_stacked_matrices():
    problem, share, *_ = coupled()
    values = {name: np.asarray(value) for name, value in problem.pieces.data.items()}
    W, penalty = RANDOM.mixing.toarray(), 0.4
    quantity = lambda x: np.einsum("nij,nj->ni", values["A"], x)
    x, price = np.zeros((N, D)), np.zeros((N, M))
    d = quantity(x) - share
    for _ in range(15):
        mixed, left, before = W @ price, W @ d, quantity(x)
        x = np.stack([respond(values, i, mixed[i], penalty, before[i] - left[i]) for i in range(N)])
        d = left + quantity(x) - before
        price = mixed + penalty * d
    plans, prices = run(problem, tw.TrackingADMM(penalty=penalty), RANDOM, 15)
    np.testing.assert_allclose(plans, x, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(prices, price, rtol=1e-10, atol=1e-11)


def test_tracking_admm_with_inequalities_is_the_method_on_twice_as_many_members():
    """Members 0 … n−1 plan, n … 2n−1 hold slack; rows of inequalities alone are mixed with W ⊗ ½11ᵀ."""
    values = {name: np.asarray(value) for name, value in data()[0].items() if name != "A"} | {"r": np.full((N, D), 1.5)}
    b = np.array([-2.0, 1.0, -1.0])
    problem = tw.Coupled(
        quadratic, values, coupling=itself, total=b, sense="<=", x0=np.zeros(D), local=own_box,
        solver=ClosedForm(boxed_response, True),
    )  # fmt: skip
    penalty, W = 0.7, np.kron(np.full((2, 2), 0.5), RANDOM.mixing.toarray())
    x, s, price = np.zeros((N, D)), np.zeros((N, D)), np.zeros((2 * N, D))
    d = np.concatenate([np.tile(-b / N, (N, 1)), np.zeros((N, D))])
    for _ in range(12):
        mixed, left = W @ price, W @ d
        target = x - left[:N]
        new = np.clip((values["c"] - mixed[:N] + penalty * target) / (values["h"] + penalty), -1.5, 1.5)
        slack = np.maximum(s - left[N:] - mixed[N:] / penalty, 0)
        d = left + np.concatenate([new - x, slack - s])
        x, s, price = new, slack, mixed + penalty * d
    plans, prices = run(problem, tw.TrackingADMM(penalty=penalty), RANDOM, 12)
    np.testing.assert_allclose(plans, x, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(prices, (price[:N] + price[N:]) / 2, rtol=1e-11, atol=1e-12)


def test_primal_dual_is_its_recursion_on_stacked_matrices():
    problem, *_ = market()
    values = {name: np.asarray(value) for name, value in problem.pieces.data.items()}
    b, low = np.array([1.0, -2.0, 30.0]), np.array([-np.inf, 0, 0])
    W, step, sigma, kappa = RING.mixing.toarray(), 0.05, 0.6, 0.3
    x = v = price = np.zeros((N, D))
    for _ in range(20):
        flow = v - kappa / sigma * (price - W @ price)
        new = np.clip(x - step * (values["h"] * x - values["c"] + price), -1.5, 1.5)
        price = np.maximum(price + sigma * (2 * new - x + 2 * flow - v - b / N), low)
        x, v = new, flow
    plans, prices = run(problem, tw.DistributedPrimalDual(step_size=step, price_step=sigma, mixing=kappa), RING, 20)
    np.testing.assert_allclose(plans, x, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(prices, price, rtol=1e-11, atol=1e-12)


def test_dual_decomposition_is_its_recursion_on_stacked_matrices():
    problem, share, *_ = coupled()
    values = {name: np.asarray(value) for name, value in problem.pieces.data.items()}
    W, price, average, total = RING.mixing.toarray(), np.zeros((N, M)), np.zeros((N, D)), 0.0
    for k in range(12):
        step, mixed = 0.8 / (k + 1) ** 0.75, W @ price
        x = np.stack([respond(values, i, mixed[i]) for i in range(N)])
        price = mixed + step * (np.einsum("nij,nj->ni", values["A"], x) - share)
        if k >= 3:
            total += step
            average = average + step / total * (x - average)
    plans, prices = run(problem, tw.ConsensusDualDecomposition(step_size=0.8, power=0.75, burn_in=3), RING, 12)
    np.testing.assert_allclose(plans, average, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(prices, price, rtol=1e-11, atol=1e-12)


def test_trades_are_gradient_descent_in_the_metric_of_the_network():
    problem, share, *_ = allocation()
    values = {name: np.asarray(value) for name, value in problem.pieces.data.items()}
    W, step = RANDOM.mixing.toarray(), 0.07
    x = values["sign"] * (share - values["base"])
    for _ in range(15):
        price = -values["sign"] * (values["h"] * x - values["c"])
        x = x + step * values["sign"] * (price - W @ price)
    plans, _ = run(problem, tw.LaplacianGradient(step_size=step), RANDOM, 15)
    np.testing.assert_allclose(plans, x, rtol=1e-11, atol=1e-12)


def test_rate_of_trades_at_equal_curvature_is_that_of_the_network():
    problem = tw.Coupled(
        quadratic, {"h": np.full((N, 1), 2.0), "c": np.arange(N)[:, None] * 1.0}, coupling=itself, total=3.0, x0=np.zeros(1)
    )
    eigenvalues = np.linalg.eigvalsh(RING.mixing.toarray())[:-1]
    result = tw.solve(problem, tw.LaplacianGradient(), RING, rounds=60, every=1)
    step = float(result.algorithm.step_size)
    expected = np.abs(1 - 2 * step * (1 - eigenvalues)).max()
    assert step == pytest.approx(2 / (2 * (1 - eigenvalues[0]) + 2 * (1 - np.abs(eigenvalues).max())))
    error = result.history["consensus_error"]
    assert (error[50] / error[30]) ** (1 / 20) == pytest.approx(expected, rel=1e-3)


# -- laws ----------------------------------------------------------------------------------------


def test_tracking_admm_on_a_complete_network_is_exchange_admm():
    """From plans that leave nothing over, with which a price-setter begins: here nothing, and Σ b_i = 0."""
    values, share = data()
    share = share - share.mean(0)
    problem = tw.Coupled(
        quadratic,
        values,
        coupling=through,
        total=np.zeros(M),
        share=share,
        x0=np.zeros(D),
        solver=ClosedForm(exact_response, True),
    )
    server = tw.solve(problem, tw.ExchangeADMM(penalty=0.4, adaptive=None), rounds=12)
    peers = tw.solve(problem, tw.TrackingADMM(penalty=0.4), tw.network.complete(N), rounds=12)
    np.testing.assert_allclose(peers.agents, server.agents, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(peers.price, server.price, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXACT[:2], ids=name)
def test_units_of_the_rows_do_not_matter(kind):
    units = np.array([1e3, 1e-2])
    plain, scaled = (
        run(coupled(units=u)[0], tw.solve(coupled(units=u)[0], kind(), RING, rounds=0).algorithm, RING, 25)
        for u in (1.0, units)
    )
    np.testing.assert_allclose(scaled[0], plain[0], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(scaled[1] * units, plain[1], rtol=1e-6, atol=1e-9)


def test_agents_in_another_order_end_in_another_order():
    problem, share, *_ = coupled()
    order = np.random.default_rng(3).permutation(N)
    values = jax.tree.map(lambda leaf: np.asarray(leaf)[order], problem.pieces.data)
    permuted = tw.Coupled(
        quadratic, values, coupling=through, total=share.sum(0), share=share[order], x0=np.zeros(D),
        solver=ClosedForm(exact_response, True),
    )  # fmt: skip
    place = np.argsort(order)
    networks = (tw.network.from_edges(RANDOM.edges, N), tw.network.from_edges(place[RANDOM.edges], N))
    plain, _ = run(problem, tw.DualGradientTracking(step_size=0.15), networks[0].with_failures(loss=0.2), 30)
    again, _ = run(permuted, tw.DualGradientTracking(step_size=0.15), networks[1].with_failures(loss=0.2), 30, ids=order)
    np.testing.assert_allclose(again, plain[order], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("p", [0.51, 0.6, 0.75, 1.0])
def test_powers_by_square_roots_are_powers(p):
    from thalweg.algorithm.price.steps import power

    for k in (1.0, 2.0, 77.0, 1e6):
        assert float(power(jnp.asarray(k), p)) == pytest.approx(k**p, rel=2e-5)


# -- engines, checkpoints, epochs ----------------------------------------------------------------


def suited(kind):
    """(problem, reference) small enough for the debug engine."""
    if kind is tw.LaplacianGradient:
        problem, _, plans, _ = allocation()
    else:
        problem, plans, _ = market()
    return problem, plans


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow if k is not tw.TrackingADMM else []) for k in ALL], ids=name
)
def test_engines_agree_to_the_bit(kind):
    problem, plans = suited(kind)
    network = RANDOM.with_failures(loss=0.2)
    engines = {"simulated": tw.Simulated(deterministic=True), "debug": tw.Debug(), "sharded": tw.Sharded(deterministic=True)}
    runs = {
        name: tw.solve(problem, kind(), network, rounds=5, every=2, engine=engine, reference=plans)
        for name, engine in engines.items()
    }
    first = runs.pop("simulated")
    for name, other in runs.items():
        assert exports.bits(other.records.state) == exports.bits(first.records.state), name
        assert exports.bits((other.agents, other.price)) == exports.bits((first.agents, first.price)), name
        for column in first.history.scalars:
            assert exports.bits(other.history[column]) == exports.bits(first.history[column]), (name, column)
    fast = tw.solve(problem, kind(), network, rounds=5, every=2)
    np.testing.assert_allclose(fast.agents, first.agents, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", [tw.TrackingADMM, tw.LaplacianGradient], ids=name)
def test_a_run_that_was_stopped_and_resumed_has_the_bits_of_one_that_was_not(kind, tmp_path):
    problem, _ = suited(kind)
    network = RING.with_failures(loss=0.2)
    whole = tw.solve(problem, kind(), network, rounds=40, every=8)
    tw.solve(problem, kind(), network, rounds=20, every=8, checkpoint=tmp_path / "run")
    resumed = tw.solve(problem, kind(), network, rounds=40, every=8, checkpoint=tmp_path / "run", resume=True)
    assert exports.bits((resumed.agents, resumed.price, resumed.records.state)) == exports.bits(
        (whole.agents, whole.price, whole.records.state)
    )
    for column in whole.history.scalars:
        assert exports.bits(resumed.history[column]) == exports.bits(whole.history[column]), column


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=pytest.mark.slow if k in EXACT else []) for k in (*EXACT, ALL[4])], ids=name
)
def test_a_new_epoch_with_other_shares_and_one_agent_less_ends_at_its_own_optimum(kind):
    method = kind()
    build = allocation if kind is tw.LaplacianGradient else coupled
    problem = build()[0]
    first = tw.solve(problem, method, RING, rounds=50)
    values, share = problem.pieces.data, np.asarray(problem.pieces.share)[:-1] + 0.5
    less = jax.tree.map(lambda leaf: np.asarray(leaf)[:-1], values)
    coupling, options = (
        (turned, {}) if kind is tw.LaplacianGradient else (through, {"solver": ClosedForm(exact_response, True)})
    )
    left = tw.Coupled(quadratic, less, coupling=coupling, total=share.sum(0), share=share, x0=problem.x0, **options)
    second = tw.solve(left, method, tw.network.ring(N - 1), rounds=3000, start=first, ids=np.arange(N - 1))
    assert second.certificate.violation < 1e-9 and second.certificate.stationarity < 1e-9


# -- what is recorded ----------------------------------------------------------------------------


def test_a_run_stops_when_it_is_certified_and_says_what_it_found():
    problem, plans, price = market()
    result = tw.solve(
        problem,
        tw.DualGradientTracking(),
        RING,
        rounds=5000,
        every=10,
        stop=tw.Stop(progress=1e-7, agreement=1e-7),
        reference=plans,
    )
    assert result.converged and result.rounds < 1000
    assert result.certificate.holds(1e-7, 1e-7)
    np.testing.assert_allclose(result.price, price, atol=1e-5)
    columns = result.history.scalars
    assert {
        "objective",
        "violation",
        "dual",
        "duality_gap",
        "slackness",
        "consensus_error",
        "movement",
        "error",
        "bytes",
    } <= set(columns)
    assert np.all(columns["dual"] <= float(problem.objective(plans)) + 1e-9)
    np.testing.assert_allclose(columns["price of row 0"][-1], result.price[0], atol=1e-5)
    np.testing.assert_allclose(columns["bytes"], columns["round"] * N * 2 * 2 * 3 * 8)
    assert set(result.history.agents) == {"loss", "disagreement", "bytes"}
    assert "certificate" in str(result) and "violation" in str(result)


def test_rows_per_agent_are_left_out_when_asked_and_reports_kept():
    problem, _ = suited(tw.LaplacianGradient)
    result = tw.solve(problem, tw.LaplacianGradient(), RING, rounds=4, keep_agents=False, report=("gradient_norm",))
    assert set(result.history.agents) == {"gradient_norm"}
    assert result.history["objective"].shape == (4,)


def test_messages_may_be_compressed():
    problem, _, plans, _ = coupled()
    link = tw.message.chain(tw.message.cast("float32"))
    result = tw.solve(problem, tw.DualGradientTracking(), RING, rounds=400, link=link, reference=plans)
    assert result.history["error"][-1] < 1e-4
    assert result.ledger.message_bytes == 2 * M * 4


def test_an_infeasible_total_is_refused():
    values = market()[0].pieces.data
    problem = tw.Coupled(quadratic, values, coupling=itself, total=np.full(D, 100.0), x0=np.zeros(D), local=own_box)
    with pytest.raises(ValueError, match=r"no plan is feasible"):
        tw.solve(problem, tw.TrackingADMM(), RING, rounds=5)


# -- what is refused -----------------------------------------------------------------------------


def small(**changes):
    arguments = {"coupling": itself, "total": np.zeros(D), "x0": np.zeros(D)} | changes
    values = {name: value for name, value in data()[0].items() if name != "A"}
    return tw.Coupled(arguments.pop("cost", quadratic), values, **arguments)


REFUSED = {
    "sparse rows": (
        lambda: tw.solve(small(rows=np.tile(np.arange(D), (N, 1))), tw.TrackingADMM(), RING, rounds=1),
        r"peers agree on the prices of all rows, got rows= with 3 of 3 rows",
    ),
    "moving total": (lambda: tw.solve(small(signal=moving), tw.TrackingADMM(), RING, rounds=1), r"fixed shares of the total"),
    "distributed stop": (
        lambda: tw.solve(small(), tw.TrackingADMM(), RING, stop=tw.Stop(distributed=True)),
        r"Stop\(distributed=True\): got a Coupled problem",
    ),
    "inequality with trades": (
        lambda: tw.solve(small(sense=["=", "<=", "="], row_names=("a", "b", "c")), tw.LaplacianGradient(), RING, rounds=1),
        r"got an inequality \(b\); use tw.DualGradientTracking",
    ),
    "trades in a box": (
        lambda: tw.solve(small(local=tw.box(-1.0, 1.0)), tw.LaplacianGradient(), RING, rounds=1),
        r"trades would leave X_i, got local=Box",
    ),
    "trades of something else": (
        lambda: tw.solve(coupled()[0], tw.LaplacianGradient(), RING, rounds=1),
        r"A_i orthogonal.*got 2 rows and 3 variables",
    ),
    "trades of linear costs": (
        lambda: tw.solve(small(cost=linear), tw.LaplacianGradient(), RING, rounds=1),
        r"smooth costs with some curvature",
    ),
    "linear costs without a step": (
        lambda: tw.solve(bids()[0], tw.DualGradientTracking(), RING, rounds=1),
        r"no step size is safe.*tw.TrackingADMM",
    ),
    "a coupling that bends": (
        lambda: tw.solve(
            small(coupling=bends, total=1.0, sense="<="), tw.DistributedPrimalDual(), RING, rounds=1
        ),
        r"got a coupling\(x, data_i\) that bends",
    ),
    "concave costs": (lambda: tw.solve(small(cost=dented), tw.TrackingADMM(), RING, rounds=1), r"needs convex costs"),
    "a polyhedron to project onto": (
        lambda: tw.solve(
            small(local=tw.Polyhedron(np.eye(D), np.ones(D))), tw.DistributedPrimalDual(), RING, rounds=1
        ),
        r"got a Polyhedron",
    ),
    "steps of another shape": (
        lambda: tw.solve(small(), tw.DualGradientTracking(step_size=np.ones(2)), RING, rounds=1),
        r"got shape \(2,\), expected one number, or \(3,\), one per row",
    ),
    "steps below zero": (lambda: tw.TrackingADMM(penalty=-1.0), r"expected a positive number, or one per row"),
    "power": (lambda: tw.ConsensusDualDecomposition(power=0.5), r"expected a number in \(½, 1\]"),
    "burn-in": (lambda: tw.ConsensusDualDecomposition(burn_in=-1), r"at least 0"),
    "mixing": (lambda: tw.DistributedPrimalDual(mixing=0.0), r"expected a number in \(0, 1\], or None"),
    "another number of agents": (
        lambda: tw.solve(small(), tw.TrackingADMM(), tw.network.ring(5), rounds=1),
        r"the problem has 8 agents and the network 5",
    ),
    "a directed network": (
        lambda: tw.solve(small(), tw.TrackingADMM(), tw.network.from_edges(exports.ARCS, 6, directed=True), rounds=1),
        r"8 agents and the network 6|doubly stochastic",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_impossible_combinations_are_refused(case):
    act, text = REFUSED[case]
    with pytest.raises((ValueError, TypeError), match=text):
        act()


def test_methods_of_the_wrong_kind_are_refused():
    with pytest.raises(TypeError, match=r"tw\.TrackingADMM"):
        tw.solve(small(), tw.GradientTracking(), RING, rounds=1)
    consensus = exports.problem("DGD", exports.data("DGD"))
    with pytest.raises(TypeError, match=r"TrackingADMM sets prices, got a EmpiricalRisk; expected a tw.Coupled problem"):
        tw.solve(consensus, tw.TrackingADMM(), tw.network.ring(exports.N), rounds=1)


def test_steps_beyond_the_bound_are_warned_of():
    problem, *_ = coupled()
    with pytest.warns(RuntimeWarning, match="above the provable bound"):
        tw.solve(problem, tw.DualGradientTracking(step_size=50.0), RING, rounds=1)
    with pytest.warns(RuntimeWarning, match="above the provable bound"):
        tw.solve(problem, tw.DistributedPrimalDual(step_size=50.0), RING, rounds=1)


@pytest.mark.parametrize("kind", ALL, ids=name)
def test_what_a_method_declares_is_there(kind):
    method = kind()
    assert "prices" in method.handles and method.claims.exact and method.exact_under <= {"symmetric", "asleep"}
    assert kind.__name__ in tw.price.__all__
