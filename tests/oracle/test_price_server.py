"""Price methods against recursions written in NumPy, rates known in closed form, and central solutions by cvxpy and SciPy.

Axes: `n` agents, `m` rows, `d` variables of one agent.
"""

import itertools

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

import markets
import thalweg as tw
from markets import solve
from thalweg.engine.facts import of_market
from thalweg.observe import Outcome

# Minutes of CPU together: the contract tests of prices are the quick ones.
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _compile_quickly():
    """Many small programs that run for a moment."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


TIGHT = {"solver": "CLARABEL", "tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}
ALLOCATION = [np.array([1.0, 2.0, 4.0, 0.5]), np.array([[1.0], [-2.0], [0.5], [3.0]]), 4.0]


def prices(problem, algorithm, rounds):
    """The price after 1 … `rounds` rounds, `[rounds, m]`."""
    history = solve(problem, algorithm, rounds=rounds, every=1).history
    return np.stack([history[f"price of {name}"] for name in problem.row_names], axis=1)


def test_dual_ascent_follows_the_stacked_recursion():
    """λ⁺ = Π(λ + α(A x − b)) with x = −Q⁻¹(q + Aᵀλ) of all agents in one matrix; a partial row sense projects."""
    parts, b, alpha = markets.data(n=4, seed=1), np.array([1.0, -2.0]), 0.05
    H, q, A = parts
    Q, A = _block(H), np.concatenate(list(A), axis=1)
    price, expected = np.zeros(2), []
    for _ in range(12):
        x = -np.linalg.solve(Q, q.ravel() + A.T @ price)
        price = price + alpha * (A @ x - b)
        price[1] = max(price[1], 0)
        expected.append(price)
    found = prices(markets.problem(parts, b), tw.DualAscent(step_size=alpha), 12)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def _block(H):
    n, d, _ = H.shape
    Q = np.zeros((n * d, n * d))
    for i in range(n):
        Q[i * d : (i + 1) * d, i * d : (i + 1) * d] = H[i]
    return Q


def response(parts):
    """M = A Q⁻¹ Aᵀ and λ* for equality rows with b, by NumPy."""
    H, q, A = parts
    M = sum(A[i] @ np.linalg.solve(H[i], A[i].T) for i in range(len(H)))
    free = -sum(A[i] @ np.linalg.solve(H[i], q[i]) for i in range(len(H)))
    return M, lambda b: np.linalg.solve(M, free - b)


def test_the_step_bound_of_dual_ascent_is_sharp_and_its_best_factor_is_known():
    """2/λmax(A Q⁻¹ Aᵀ); (κ − 1)/(κ + 1) at 2/(λmax + λmin)."""
    parts, b = markets.data(n=5, seed=2), np.array([1.0, -2.0])
    M, optimum = response(parts)
    low, high = np.linalg.eigvalsh(M)
    problem = markets.problem(parts, b, ("=", "="), strong_convexity=None, smoothness=None)
    assert tw.DualAscent().step_bound(of_market(problem)) == pytest.approx(2 / high, rel=1e-9)
    distance = lambda step, rounds: np.linalg.norm(prices(problem, tw.DualAscent(step_size=step), rounds) - optimum(b), axis=1)
    stable, unstable = distance(1.98 / high, 600), distance(2.02 / high, 600)
    assert stable[-1] < 1e-3 * stable[0]
    assert unstable[-1] > 1e3 * unstable[0]
    best = distance(2 / (high + low), 40)
    kappa = high / low
    # Two rows are two modes, of equal factors: constant from the start, until best responses' own accuracy shows.
    np.testing.assert_allclose((best[15] / best[5]) ** (1 / 10), (kappa - 1) / (kappa + 1), rtol=1e-6)


def test_a_step_beyond_the_bound_is_warned_of():
    problem = markets.problem(markets.data(n=5, seed=2), sense=("=", "="))
    with pytest.warns(RuntimeWarning, match="stability is proved below"):
        tw.solve(problem, tw.DualAscent(step_size=2.02 / problem.pricing.largest), rounds=1)
    steps = 1.5 / (problem.pricing.scaled * problem.pricing.diagonal)
    with pytest.warns(RuntimeWarning, match="one of its scaled steps"):
        tw.solve(problem, tw.AcceleratedDualAscent(step_size=steps), rounds=1)


def mean_square_radius(a, step, answers, probabilities):
    """ρ(E[W ⊗ W]) of dual ascent on Σ ½a_i x_i², Σ x = 0, when only some answer: the state is (x_1 … x_n, λ)."""
    n = len(a)
    E = 0
    for subset, p in zip(answers, probabilities, strict=True):
        W = np.eye(n + 1)
        for i in subset:
            W[i] = 0
            W[i, n] = -1 / a[i]
        W[n] += step * W[:n].sum(0)
        E = E + p * np.kron(W, W)
    return np.abs(np.linalg.eigvals(E)).max()


@pytest.mark.parametrize("cohort", [1, 2])
def test_the_default_step_of_dual_ascent_is_stable_when_a_part_answers(cohort):
    """In mean square, whatever the curvatures, also where the full step is not."""
    rng, broken = np.random.default_rng(0), 0
    for _ in range(25):
        n = int(rng.integers(cohort, 5))
        a = np.exp(rng.uniform(-3, 3, n))
        subsets = list(itertools.combinations(range(n), cohort))
        even = np.full(len(subsets), 1 / len(subsets))
        p = cohort / n
        full = 1 / np.sum(1 / a)
        assert mean_square_radius(a, p / (2 - p) * full, subsets, even) < 1
        broken += mean_square_radius(a, full, subsets, even) > 1
    assert broken > 0
    problem = tw.allocation(a[:, None], np.ones((n, 1)), 1.0)
    step = solve(problem, tw.DualAscent(cohort=cohort), rounds=1).algorithm.step_size
    np.testing.assert_allclose(step, p / (2 - p) * full)


@pytest.mark.parametrize(("a", "rho"), [(1.0, 0.25), (1.0, 1.0), (2.0, 5.0)])
def test_exchange_admm_contracts_by_the_known_factor_on_equal_curvature(a, rho):
    """max(a, ρ)/(a + ρ), one half at ρ = a."""
    c = np.random.default_rng(0).standard_normal((5, 2))
    b = np.array([1.0, -1.0])
    problem = tw.allocation(a, c, b)
    price = a * (c.sum(0) - b) / 5
    algorithm = tw.ExchangeADMM(penalty=rho, adaptive=None)
    errors = []
    for k in (6, 16):
        result = solve(problem, algorithm, rounds=k, every=k)
        errors.append(np.sqrt(np.sum((result.x - (c - price / a)) ** 2) + np.sum((result.price - price) ** 2)))
    np.testing.assert_allclose((errors[1] / errors[0]) ** (1 / 10), max(a, rho) / (a + rho), rtol=2e-2)


def textbook_exchange(a, c, b, rho, rounds, gamma=1.0):
    """Boyd et al. 2011, §7.3.2 with scaled u, written for Σ ½a(x − c)² and Σ x = b."""
    n = len(a)
    q, left, price = np.zeros_like(c), np.zeros(c.shape[1]), np.zeros(c.shape[1])
    for _ in range(rounds):
        target = q - left
        x = (a * c + rho * target - price) / (a + rho)
        q = gamma * x + (1 - gamma) * target
        left = (q.sum(0) - b) / n
        price = price + rho * left
    return x, price


@pytest.mark.parametrize("gamma", [1.0, 1.6])
def test_exchange_admm_follows_the_text_book(gamma):
    a, c = markets.separable(5)
    b = np.array([1.0, -2.0])
    for k in (1, 2, 9):
        result = solve(tw.allocation(a, c, b), tw.ExchangeADMM(penalty=0.7, relaxation=gamma, adaptive=None), rounds=k, every=k)
        x, price = textbook_exchange(a, c, b, 0.7, k, gamma)
        np.testing.assert_allclose(result.x, x, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(result.price, price, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("adaptive", ["balance", "spectral"])
@pytest.mark.parametrize("start", [1e-3, 1e3])
def test_adaptive_penalties_mend_a_bad_start(adaptive, start):
    a, c = markets.separable(6)
    problem = tw.allocation(a, c, [1.0, -2.0], low=-1, high=1.2, sense=["=", "<="])
    result = solve(problem, tw.ExchangeADMM(penalty=start, adaptive=adaptive), rounds=600, every=600)
    assert result.certificate.holds(1e-9, 1e-9), result.certificate
    routes = tw.network_utility(np.ones(4), [[0, 1], [0], [1, 2], [2]], [1.0, 2.0, 3.0])  # of unequal length
    result = solve(routes, tw.ExchangeADMM(penalty=start, adaptive=adaptive), rounds=600, every=600)
    assert result.certificate.holds(1e-7, 1e-7), result.certificate


@pytest.mark.parametrize("algorithm", [tw.DualAscent(), tw.ExchangeADMM(), tw.AcceleratedDualAscent()])
def test_surveyors_pay_minus_two_c(algorithm):
    """min Σ x_i², Σ x_i = nc: everyone ends at c, and the price is −2c."""
    result = solve(tw.allocation(2.0, np.zeros((7, 1)), 7 * 1.5), algorithm, rounds=300, every=300)
    np.testing.assert_allclose(result.x, 1.5, rtol=1e-9)
    np.testing.assert_allclose(result.price, [-3.0], rtol=1e-9)


@pytest.mark.parametrize("name", ["DualAscent", "ExchangeADMM"])
def test_resource_allocation_in_closed_form(name):
    a, c, d = ALLOCATION
    price = (c.sum() - d) / np.sum(1 / a)
    result = solve(tw.allocation(a[:, None], c, d), getattr(tw, name)(), rounds=400, every=400)
    np.testing.assert_allclose(result.price, [price], rtol=1e-9)
    np.testing.assert_allclose(result.x[:, 0], c[:, 0] - price / a, rtol=1e-9)


def auction(seed=0, n=6, m=2, s=3):
    """(problem, optimal cost, Σ width of each row) of linear bids, by HiGHS."""
    rng = np.random.default_rng(seed)
    cost, width = np.sort(rng.uniform(1, 9, (n, m, s)), axis=2), rng.uniform(0.5, 2, (n, m, s))
    b = 0.45 * width.sum((0, 2))
    rows = np.zeros((m, n, m, s))
    for j in range(m):
        rows[j, :, j] = 1
    rows = rows.reshape(m, -1)
    found = scipy.optimize.linprog(
        cost.ravel(), A_eq=rows, b_eq=b, bounds=list(zip(np.zeros(width.size), width.ravel(), strict=True))
    )
    return tw.bids(cost, width, b), found, (cost, width, b)


def dual_of_bids(price, cost, width, b):
    """Σ min over 0 ≤ x ≤ width of (cost + λ)x, minus ⟨λ, b⟩."""
    return np.minimum((cost + price[None, :, None]) * width, 0).sum() - price @ b


@pytest.mark.parametrize(
    ("algorithm", "rounds", "accuracy"),
    [
        (tw.ExchangeADMM(), 3000, 1e-6),
        (tw.ProximalBundle(), 400, 1e-5),
        (tw.DualSubgradient(step_size=0.5), 6000, 3e-2),
        pytest.param(tw.MethodOfMultipliers(), 6000, 1e-4, marks=pytest.mark.slow),
    ],
    ids=lambda v: type(v).__name__,
)
def test_linear_bids_against_highs(algorithm, rounds, accuracy):
    """The cost, the rows, and a price that is a valid dual: its value, by NumPy, is that of the linear program."""
    problem, truth, data = auction()
    result = solve(problem, algorithm, rounds=rounds, every=rounds)
    assert abs(result.certificate.objective - truth.fun) <= accuracy * (1 + truth.fun)
    assert result.certificate.violation <= accuracy
    value = dual_of_bids(result.price, *data)
    assert value <= truth.fun + 1e-9 * truth.fun
    assert value >= truth.fun - accuracy * (1 + truth.fun)
    np.testing.assert_allclose(result.certificate.dual, value, rtol=1e-10)


def test_dual_averages_are_off_by_exactly_the_way_of_the_price():
    """x̄ − b = (λ_K − λ_0)/Σα_k for equality rows, whatever the best responses: from the recursion itself."""
    problem, _, (_, _, b) = auction()
    K, step = 50, 0.5
    result = solve(problem, tw.DualSubgradient(step_size=step), rounds=K, every=K)
    weights = step / np.sqrt(np.arange(1, K + 1))
    server = result.records[1].state
    np.testing.assert_allclose(np.asarray(result.x).sum(0) - b, np.asarray(server.price) / weights.sum(), rtol=1e-9)


@pytest.mark.parametrize("name", ["DualAscent", "AcceleratedDualAscent", "ExchangeADMM"])
def test_network_utility_against_cvxpy(name):
    utility, capacity = np.array([1.0, 2.0, 1.5, 1.0, 3.0]), np.array([1.0, 2.0, 1.5])
    routes = [[0, 1], [1], [1, 2], [2, 0], [2]]
    x = cp.Variable(5)
    links = [sum(x[i] for i in range(5) if link in routes[i]) <= capacity[link] for link in range(3)]
    cp.Problem(cp.Maximize(utility @ cp.log(x)), links).solve(**TIGHT)
    problem = tw.network_utility(utility, routes, capacity)
    rounds = {"DualAscent": 20000, "AcceleratedDualAscent": 4000}.get(name, 1500)
    result = solve(problem, getattr(tw, name)(), rounds=rounds, every=rounds)
    np.testing.assert_allclose(result.x, x.value, atol=1e-5)
    np.testing.assert_allclose(result.price, [row.dual_value for row in links], atol=1e-4)


METHODS = [getattr(tw.price, name)() for name in markets.NAMES]


@pytest.mark.parametrize("algorithm", METHODS, ids=markets.NAMES)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_the_dual_value_never_exceeds_the_optimum(algorithm, seed):
    """Weak duality at every record (trap 17), and an objective below the optimum only where rows are violated (trap 10)."""
    rng = np.random.default_rng(seed)
    a, c = np.exp(rng.uniform(-2, 2, (6, 2))), 2 * rng.standard_normal((6, 2))
    low, high, b = -1 - rng.random((6, 2)), 1 + rng.random((6, 2)), rng.uniform(-3, 3, 2)
    x = cp.Variable((6, 2))
    rows = [cp.sum(x[:, 0]) == b[0], cp.sum(x[:, 1]) <= b[1], x >= low, x <= high]
    optimum = cp.Problem(cp.Minimize(cp.sum(cp.multiply(a / 2, (x - c) ** 2))), rows).solve(**TIGHT)
    problem = tw.allocation(a, c, b, low=low, high=high, sense=["=", "<="])
    history = solve(problem, algorithm, rounds=30, every=1).history
    slack = 1e-7 * (1 + abs(optimum))
    assert (history["dual"] <= optimum + slack).all()
    below = history["objective"] < optimum - 10 * slack
    assert (history["violation"][below] > 0).all()


@settings(max_examples=6, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_the_dual_value_of_jumping_responses_never_exceeds_the_optimum(seed):
    problem, truth, _ = auction(seed)
    for algorithm in (tw.ExchangeADMM(), tw.ProximalBundle(), tw.DualSubgradient(), tw.DualAscent(step_size=0.3)):
        history = solve(problem, algorithm, rounds=25, every=1).history
        assert (history["dual"] <= truth.fun + 1e-9 * truth.fun).all()


def test_an_oscillating_plan_is_never_called_converged():
    """Dual ascent on linear bids: every answer is all or nothing. The same rule lets ADMM stop."""
    problem, truth, _ = auction()
    stop = tw.Stop(progress=1e-6, agreement=1e-6)
    for step in (0.01, 0.3):
        result = solve(problem, tw.DualAscent(step_size=step), rounds=3000, every=5, stop=stop)
        assert result.outcome is Outcome.ROUND_LIMIT
        assert result.certificate.violation > 1e-2
    result = solve(problem, tw.ExchangeADMM(), rounds=5000, every=5, stop=stop)
    assert result.outcome is Outcome.CONVERGED
    assert result.certificate.holds(1.1e-6, 1.1e-6)
    assert abs(result.certificate.objective - truth.fun) <= 3e-6 * truth.fun


def squares(x, data):
    return 0.5 * jnp.sum(data["a"] * (x - data["c"]) ** 2)


def itself(x, data):
    return x


@pytest.mark.parametrize("algorithm", [tw.DualAscent(), tw.ProximalBundle(), tw.ExchangeADMM()], ids=lambda a: type(a).__name__)
def test_costs_of_local_terms_count(algorithm):
    """An l1 term of every agent, by cvxpy: objective, bound and price."""
    a, c = markets.separable(5)
    b = np.array([1.0, 2.0])
    x = cp.Variable((5, 2))
    row = cp.sum(x, axis=0) == b
    cost = cp.sum(cp.multiply(a / 2, (x - c) ** 2)) + 0.3 * cp.sum(cp.abs(x))
    optimum = cp.Problem(cp.Minimize(cost), [row]).solve(**TIGHT)
    problem = tw.Coupled(
        squares, {"a": a, "c": c}, coupling=itself, total=b, x0=np.zeros(2), local=tw.l1(0.3), strong_convexity=a.min(1)
    )
    result = solve(problem, algorithm, rounds=300, every=300)
    np.testing.assert_allclose(result.x, x.value, atol=1e-4)
    np.testing.assert_allclose(result.price, row.dual_value, atol=2e-3)
    np.testing.assert_allclose([result.certificate.objective, result.certificate.dual], optimum, atol=2e-5)
    assert (result.history["dual"] <= optimum + 1e-8).all()
