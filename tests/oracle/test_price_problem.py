"""Coupled problems, their best responses, bounds, constants and certificates against NumPy, cvxpy and SciPy.

Axes: `n` agents, `m` rows, `d` variables of one agent.
"""

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import markets
import thalweg as tw
from markets import solve
from thalweg.observe import Outcome
from thalweg.problem.certificate import infeasible

pytestmark = pytest.mark.filterwarnings("ignore:Solution may be inaccurate")  # cvxpy: 1e-12 is much to ask
TIGHT = {"solver": "CLARABEL", "tol_gap_abs": 1e-12, "tol_gap_rel": 1e-12, "tol_feas": 1e-12}


@pytest.fixture(autouse=True, scope="module")
def _compile_quickly():
    """Many small programs that run for a moment."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def parabola(x, data):
    return 0.5 * x @ (data["H"] @ x) + data["q"] @ x


def mapped(x, data):
    return data["A"] @ x


def own_rows(x, data):
    """The entries of A x that the agent's own rows name."""
    return (data["A"] @ x)[data["rows"]] * data["used"]


def coupled(parts=None, **options):
    """(problem, (H, q, A)) over plain vectors."""
    H, q, A = markets.data(n=4, seed=3) if parts is None else parts
    values = {"H": H, "q": q, "A": A}
    return tw.Coupled(parabola, values, **({"coupling": mapped, "total": [1.0, -2.0], "x0": np.zeros(q.shape[1])} | options)), (
        H,
        q,
        A,
    )


def local(problem, i):
    return problem.local(jax.tree.map(lambda leaf: leaf[i], problem.pieces))


SETS = {
    "free": (None, lambda x: []),
    "box": (tw.box(-0.3, 0.4), lambda x: [x >= -0.3, x <= 0.4]),
    "half open": (tw.nonnegative(), lambda x: [x >= 0]),
    "simplex": (tw.simplex(), lambda x: [x >= 0, cp.sum(x) == 1]),
    "polyhedron": (
        tw.Polyhedron(np.array([[1.0, 1.0, 0.0], [-1.0, 0.0, 0.5]]), np.array([0.1, 0.2]), np.ones((1, 3)), np.array([0.3])),
        lambda x: [x[0] + x[1] <= 0.1, -x[0] + 0.5 * x[2] <= 0.2, cp.sum(x) == 0.3],
    ),
    "ball": (tw.ball(0.1, 0.4), lambda x: [cp.norm2(x - 0.1) <= 0.4]),
    "cone": (tw.second_order_cone(0.7), lambda x: [cp.norm2(x[:2]) <= 0.7 * x[2]]),
    "l1": (tw.l1(0.2), lambda x: []),
}
SOLVED = [(name, tw.Descent) for name in SETS if name != "polyhedron"]
SOLVED += [(name, tw.InteriorPoint) for name in SETS if name not in ("simplex", "ball", "cone", "l1")]


@pytest.mark.parametrize(("name", "solver"), SOLVED)
def test_best_responses_and_bounds_against_cvxpy(name, solver):
    """With a price alone; with a penalty per row, a target, a pull and an anchor. The bound is below the minimum, and near it."""
    set_, rows = SETS[name]
    parts = markets.data(n=2, seed=3)
    mu = float(np.linalg.eigvalsh(parts[0]).min())
    problem, (H, q, A) = coupled(
        parts, local=set_, solver=solver(strong_convexity=0.99 * mu) if solver is tw.Descent else solver()
    )
    oracle, price = local(problem, 1), np.array([0.7, -0.4])
    penalty, target, pull, anchor = np.array([0.5, 3.0]), np.array([1.0, -1.0]), 0.6, np.array([0.2, 0.1, -0.3])
    x = cp.Variable(3)
    own = 0.2 * cp.norm1(x) if name == "l1" else 0
    base = 0.5 * cp.quad_form(x, H[1]) + q[1] @ x + own + price @ (A[1] @ x)
    low = cp.Problem(cp.Minimize(base), rows(x)).solve(**TIGHT)
    alone = x.value
    extra = 0.5 * penalty @ cp.square(A[1] @ x - target) + 0.5 * pull * cp.sum_squares(x - anchor)
    cp.Problem(cp.Minimize(base + extra), rows(x)).solve(**TIGHT)
    respond = jax.jit(lambda price, **more: oracle.respond(price, jnp.zeros(3), **more))
    answer = respond(jnp.asarray(price))
    np.testing.assert_allclose(answer.x, alone, atol=1e-6)
    np.testing.assert_allclose(answer.quantity, A[1] @ np.asarray(answer.x), atol=1e-12)
    more = {"penalty": jnp.asarray(penalty), "target": jnp.asarray(target), "pull": pull, "anchor": jnp.asarray(anchor)}
    np.testing.assert_allclose(respond(jnp.asarray(price), **more).x, x.value, atol=1e-6)
    bound, plan = jax.jit(lambda price: oracle.bound(price, jnp.zeros(3)))(jnp.asarray(price))
    assert low - 1e-6 <= bound <= low + 1e-8
    np.testing.assert_allclose(plan, alone, atol=1e-6)


@pytest.mark.parametrize("name", ["box", "simplex", "ball", "free"])
def test_inexact_responses_still_bound_from_below(name):
    """After one step of the solver the bound is true, though not tight."""
    set_, rows = SETS[name]
    parts = markets.data(n=2, seed=5)
    mu = float(np.linalg.eigvalsh(parts[0]).min())
    problem, (H, q, A) = coupled(parts, local=set_, solver=tw.Descent(most=1, strong_convexity=0.99 * mu))
    price, x = np.array([0.7, -0.4]), cp.Variable(3)
    low = cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, H[0]) + q[0] @ x + price @ (A[0] @ x)), rows(x)).solve(**TIGHT)
    bound, _ = local(problem, 0).bound(jnp.asarray(price), jnp.zeros(3))
    assert np.isfinite(bound)
    assert bound <= low + 1e-10


def test_nothing_is_proved_where_nothing_can_be():
    problem, _ = coupled(solver=tw.Descent(most=1))
    assert local(problem, 0).bound(jnp.ones(2), jnp.zeros(3))[0] == -np.inf
    assert "no certificate" in str(tw.certify(problem, np.ones(2), np.zeros((4, 3))))


@pytest.mark.parametrize("kind", ["allocation", "linear", "bids", "flow"])
def test_closed_forms_against_cvxpy(kind):
    rng = np.random.default_rng(0)
    price, penalty, target = np.array([0.4, -0.9]), np.array([0.5, 3.0]), np.array([0.3, 0.8])
    pull, anchor = 0.6, np.array([0.2, 0.1])
    a, c = np.array([[0.5, 2.0]]), np.array([[1.0, -1.0]])
    x, sums = cp.Variable(2), lambda x: x
    if kind == "bids":
        cost, width = np.sort(rng.uniform(0, 2, (1, 2, 3)), axis=2), rng.uniform(0.2, 0.5, (1, 2, 3))
        problem, parts = tw.bids(cost, width, [1.0, 1.0]), cp.Variable((2, 3))
        f, rows = cp.sum(cp.multiply(cost[0], parts)), [parts >= 0, parts <= width[0], x == cp.sum(parts, axis=1)]
    elif kind == "flow":
        problem = tw.network_utility([1.3], [[0, 1]], [2.0, 3.0])
        x, anchor, sums = cp.Variable(), 0.2, lambda x: cp.hstack([x, x])
        f, rows = -1.3 * cp.log(x), [x >= 1e-3, x <= 2.0]
    else:
        A = rng.standard_normal((1, 2, 2)) if kind == "linear" else None
        problem = tw.allocation(a, c, [0.5, 0.5], low=-0.4, high=0.9, coupling=A)
        sums = (lambda x: A[0] @ x) if kind == "linear" else sums
        f, rows = cp.sum(cp.multiply(a[0] / 2, cp.square(x - c[0]))), [x >= -0.4, x <= 0.9]
    oracle, start = local(problem, 0), problem.x0
    for sign in (1, -1):
        base = f + sign * price @ sums(x)
        low = cp.Problem(cp.Minimize(base), rows).solve(**TIGHT)
        bound, plan = oracle.bound(jnp.asarray(sign * price), start)
        np.testing.assert_allclose(bound, low, atol=1e-7)
        np.testing.assert_allclose(plan, x.value, atol=1e-5)
        extra = 0.5 * penalty @ cp.square(sums(x) - target) + 0.5 * pull * cp.sum_squares(x - anchor)
        cp.Problem(cp.Minimize(base + extra), rows).solve(**TIGHT)
        found = oracle.respond(
            jnp.asarray(sign * price), start, penalty=jnp.asarray(penalty), target=jnp.asarray(target), pull=pull,
            anchor=jnp.asarray(anchor),
        )  # fmt: skip
        np.testing.assert_allclose(found.x, x.value, atol=1e-6)


ROWS = np.array([[0, 1], [1, -1], [2, 0], [2, 1]])


def sparse(sense="=", share=None):
    """(with `rows`, the same dense): four agents, three rows."""
    H, q, A = markets.data(n=4, seed=6, m=3)
    used = (ROWS >= 0).astype(float)
    mask = np.zeros((4, 3, 1))
    for i, row in enumerate(ROWS):
        mask[i, row[row >= 0]] = 1
    total, strong = [1.0, -0.5, 0.3], np.linalg.eigvalsh(H)[:, 0]
    values = {"H": H, "q": q, "A": A, "rows": np.maximum(ROWS, 0), "used": used}
    few = tw.Coupled(
        parabola,
        values,
        coupling=own_rows,
        total=total,
        x0=np.zeros(3),
        rows=ROWS,
        sense=sense,
        strong_convexity=strong,
        share=share,
    )
    return few, coupled((H, q, A * mask), total=total, sense=sense, strong_convexity=strong)[0]


@pytest.mark.slow
def test_sparse_rows_equal_dense_ones():
    few, dense = sparse(sense=["=", "<=", ">="])
    price, plans = np.array([0.3, 0.8, -0.2]), np.random.default_rng(0).standard_normal((4, 3))
    np.testing.assert_allclose(few.quantity(plans), dense.quantity(plans), rtol=1e-12)
    np.testing.assert_allclose(few.dual(price)[0], dense.dual(price)[0], rtol=1e-10)
    a, b = tw.certify(few, price, plans), tw.certify(dense, price, plans)
    np.testing.assert_allclose(
        [a.objective, a.dual, a.violation, a.slackness, a.stationarity],
        [b.objective, b.dual, b.violation, b.slackness, b.stationarity], rtol=1e-10,
    )  # fmt: skip
    np.testing.assert_allclose(few.pricing.diagonal, dense.pricing.diagonal, rtol=1e-10)
    assert few.pricing.largest >= dense.pricing.largest * (1 - 1e-12)
    assert few.pricing.scaled >= dense.pricing.scaled * (1 - 1e-12)
    for algorithm in (tw.DualAscent(step_size=0.05), tw.ExchangeADMM(penalty=0.7)):
        # ADMM counts who touches a row, which the dense problem takes to be all: the same limit.
        x, y = (solve(p, algorithm, rounds=1500, every=1500) for p in (few, dense))
        np.testing.assert_allclose(x.price, y.price, atol=1e-7)
        np.testing.assert_allclose(x.x, y.x, atol=1e-7)


def test_one_number_is_the_total_of_every_row():
    assert tw.allocation(1.0, np.zeros((3, 4)), 2.0).coupling.total.tolist() == [2.0] * 4
    assert tw.bids(np.ones((3, 4, 2)), np.ones((3, 4, 2)), 2.0).coupling.total.tolist() == [2.0] * 4


def test_shares_add_up_to_the_total():
    few, dense = sparse()
    np.testing.assert_allclose(np.asarray(dense.pieces.share).sum(0), dense.coupling.total)
    np.testing.assert_allclose(few.added(few.pieces.share), few.coupling.total)
    with pytest.raises(ValueError, match="the parts add up to"):
        sparse(share=np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"share: got shape \(4, 3\), expected \(4, 2\)"):
        sparse(share=np.ones((4, 3)))


def test_one_agent_is_a_site_among_others_until_it_is_solved():
    few, _ = sparse()
    one = jax.tree.map(lambda leaf: leaf[:1], few.pieces)
    options = {"coupling": own_rows, "total": [1.0, -0.5, 0.3], "x0": np.zeros(3), "strong_convexity": 0.1}
    for more, why in (({"rows": ROWS[:1]}, "nobody touches row"), ({"share": np.ones((1, 2)), "rows": ROWS[:1]}, "nobody")):
        site = tw.Coupled(parabola, one.data, **options, **more)
        with pytest.raises(ValueError, match=why):
            tw.solve(site, tw.DualAscent(), rounds=1)
    whole = tw.allocation(1.0, np.zeros((1, 2)), 3.0)
    lone = tw.Coupled(
        whole.function, jax.tree.map(np.asarray, whole.pieces.data), coupling=whole.quantities, total=[3.0, 3.0], x0=np.zeros(2),
        share=[[1.0, 3.0]],
    )  # fmt: skip
    with pytest.raises(ValueError, match="the parts add up to"):
        tw.solve(lone, tw.DualAscent(), rounds=1)


def test_equal_shares_of_many_agents_in_single_precision_are_not_refused():
    n = 100_003
    problem = tw.allocation(np.float32(1.0), np.zeros((n, 1), np.float32), np.float32(0.7))
    assert problem.n == n


def test_certificates_against_numpy():
    problem, (H, q, A) = coupled(sense=["<=", ">="], local=tw.box(-1.0, 1.0))
    price, plans = np.array([0.5, -0.25]), np.random.default_rng(1).uniform(-1.4, 1.4, (4, 3))
    found, b = tw.certify(problem, price, plans), np.array([1.0, -2.0])
    total = np.einsum("nmd,nd->m", A, plans)
    objective = sum(0.5 * x @ h @ x + v @ x for x, h, v in zip(plans, H, q, strict=True))
    excess = np.array([max(total[0] - b[0], 0), max(b[1] - total[1], 0)])
    step = plans - (np.einsum("nij,nj->ni", H, plans) + q + np.einsum("nmd,m->nd", A, price))
    residual = np.linalg.norm(plans - np.clip(step, -1, 1), axis=1)
    dual = -price @ b
    for h, v, a in zip(H, q, A, strict=True):
        x = cp.Variable(3)
        dual += cp.Problem(cp.Minimize(0.5 * cp.quad_form(x, h) + (v + a.T @ price) @ x), [x >= -1, x <= 1]).solve(**TIGHT)
    np.testing.assert_allclose(found.objective, objective)
    np.testing.assert_allclose(found.violation, (excess / [1, 2]).max())
    np.testing.assert_allclose(found.outside, np.linalg.norm(plans - np.clip(plans, -1, 1), axis=1).max())
    np.testing.assert_allclose(found.slackness, np.abs(price * (total - b)).max())
    np.testing.assert_allclose((found.stationarity, found.worst), (residual.max(), residual.argmax()))
    np.testing.assert_allclose(found.dual, dual, atol=1e-7)
    np.testing.assert_allclose(found.relative_gap, (objective - dual) / max(1, abs(dual)), rtol=1e-6)
    assert not found.holds()
    # A price of the wrong sign is projected before it bounds anything.
    np.testing.assert_allclose(problem.dual(np.array([-0.5, 0.25]))[0], problem.dual(np.zeros(2))[0])


def quartic(x, data):
    return parabola(x, data) + jnp.sum(x**4)


def squared_rows(x, data):
    return data["A"] @ x + 0.5 * jnp.sum(x**2)


def test_constants_against_numpy():
    problem, (H, _, A) = coupled()
    found = problem.pricing
    M = sum(a @ np.linalg.solve(h, a.T) for a, h in zip(A, H, strict=True))
    scale = 1 / np.sqrt(np.diag(M))
    np.testing.assert_allclose(found.diagonal, np.diag(M))
    np.testing.assert_allclose(found.largest, np.linalg.eigvalsh(M)[-1])
    np.testing.assert_allclose(found.scaled, np.linalg.eigvalsh(scale[:, None] * M * scale)[-1])
    np.testing.assert_allclose(found.smoothness, np.linalg.eigvalsh(H)[:, -1])
    np.testing.assert_allclose(found.strong_convexity, np.linalg.eigvalsh(H)[:, 0])
    np.testing.assert_allclose(found.gain, np.sum(A**2, axis=(1, 2)))
    assert (found.source, found.convex, found.affine, found.bulging) == ("exact", True, True, True)
    boxed, _ = coupled(local=tw.box(-1.0, 2.0))
    np.testing.assert_allclose(boxed.pricing.least, np.minimum(-A, 2 * A).sum((0, 2)))
    np.testing.assert_allclose(boxed.pricing.most, np.maximum(-A, 2 * A).sum((0, 2)))
    given = tw.Coupled(
        quartic, problem.pieces.data, coupling=squared_rows, total=[5.0, 6.0], sense="<=", x0=np.zeros(3)
    ).pricing
    assert (given.source, given.affine, given.bulging) == ("estimated", False, True)
    a, c = markets.separable(5)
    closed = tw.allocation(a, c, [1.0, 2.0], low=-1, high=1).pricing
    np.testing.assert_allclose(closed.diagonal, (1 / a).sum(0))
    np.testing.assert_allclose((closed.least, closed.most), (-5 * np.ones(2), 5 * np.ones(2)))


def test_constants_are_those_of_the_present_total():
    import equinox as eqx

    problem, _ = coupled()
    assert problem.pricing.total.tolist() == [1.0, -2.0]
    moved = eqx.tree_at(lambda p: p.coupling.total, problem, jnp.array([3.0, 4.0]))
    assert moved.pricing.total.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("name", ["free", "box", "simplex", "polyhedron", "ball", "cone"])
def test_references_against_cvxpy(name):
    set_, rows = SETS[name]
    total = {"free": [1.0, -2.0], "box": [0.5, -0.2], "simplex": [0.3, 0.1], "polyhedron": [0.1, 0.0]}.get(name, [0.4, -0.3])
    parts = markets.data(n=4, seed=3)
    problem, (H, q, A) = coupled(parts, local=set_, total=total, sense=["<=", ">="], strong_convexity=0.05)
    x = cp.Variable((4, 3))
    sums = sum(A[i] @ x[i] for i in range(4))
    coupling = [sums[0] <= total[0], sums[1] >= total[1]]
    cost = sum(0.5 * cp.quad_form(x[i], H[i]) + q[i] @ x[i] for i in range(4))
    optimum = cp.Problem(cp.Minimize(cost), coupling + [row for i in range(4) for row in rows(x[i])]).solve(**TIGHT)
    found = tw.reference(problem)
    np.testing.assert_allclose(found.x, x.value, atol=1e-6)
    np.testing.assert_allclose(found.price, [coupling[0].dual_value, -coupling[1].dual_value], atol=1e-5)
    np.testing.assert_allclose(found.objective, optimum, atol=1e-7)


@pytest.mark.parametrize("sense", ["=", ">=", ["<=", "="]])
def test_references_of_bids_against_cvxpy(sense):
    """A market of segments as the linear program that it is."""
    rng = np.random.default_rng(4)
    width, price = rng.uniform(0.2, 1, (6, 2, 3)), np.sort(rng.uniform(-1, 4, (6, 2, 3)), axis=2)
    total = 0.4 * width.sum(axis=(0, 2))
    found = tw.reference(tw.bids(price, width, total, sense=sense))
    y = cp.Variable(width.size, nonneg=True)
    sums = [cp.sum(y[np.ravel_multi_index(np.mgrid[:6, j : j + 1, :3].reshape(3, -1), width.shape)]) for j in range(2)]
    senses = [sense] * 2 if isinstance(sense, str) else sense
    compare = {"=": lambda a, b: a == b, "<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b}
    rows = [compare[s](a, b) for s, a, b in zip(senses, sums, total, strict=True)]
    optimum = cp.Problem(cp.Minimize(price.ravel() @ y), [y <= width.ravel(), *rows]).solve(**TIGHT)
    np.testing.assert_allclose(found.objective, optimum, atol=1e-8)
    for s, value, row in zip(senses, found.price, rows, strict=True):
        np.testing.assert_allclose(value, {"=": 1, "<=": 1, ">=": -1}[s] * row.dual_value, atol=1e-6)


def entropy(x, data):
    return jnp.sum(data["a"] * x * jnp.log(x))


def itself(x, data):
    return x


@pytest.mark.slow
def test_a_reference_that_is_not_quadratic_and_costs_defined_within_their_set_only():
    """Entropy, convex only where x > 0; x0 is near the edge, and the constants look within the set."""
    a = np.exp(np.random.default_rng(0).uniform(-1, 1, (3, 2)))
    problem = tw.Coupled(entropy, {"a": a}, coupling=itself, total=[1.0, 0.8], x0=np.full(2, 0.06), local=tw.box(0.05, 1.0))
    x = cp.Variable((3, 2))
    row = cp.sum(x, axis=0) == [1.0, 0.8]
    optimum = cp.Problem(cp.Minimize(-cp.sum(cp.multiply(a, cp.entr(x)))), [row, x >= 0.05, x <= 1]).solve(**TIGHT)
    found = tw.reference(problem)
    np.testing.assert_allclose(found.x, x.value, atol=1e-5)
    np.testing.assert_allclose(found.objective, optimum, atol=1e-6)
    result = solve(problem, tw.ExchangeADMM(), rounds=200, every=200)
    np.testing.assert_allclose(result.x, x.value, atol=1e-5)
    np.testing.assert_allclose(result.price, row.dual_value, atol=1e-4)


def test_infeasible_totals_are_refused_naming_the_row():
    a, c = markets.separable(4)
    problem = tw.allocation(a, c, [1.0, 9.0], low=0, high=2, row_names=["heat", "power"])
    with pytest.raises(ValueError, match=r"total of 'power': got 9, and the agents together can only reach 0 … 8"):
        tw.solve(problem, tw.DualAscent(), rounds=1)
    tw.solve(
        tw.allocation(a, c, [1.0, -9.0], low=0, high=2, sense=">="), tw.DualAscent(), rounds=1
    )  # reached by nothing at all


@pytest.mark.slow
def test_rows_that_contradict_each_other_are_proved_to():
    """x₁ + x₂ = 1 and −x₁ − x₂ = 1 over boxes that each row alone can meet: Farkas' λ is checked by hand."""
    H, q = np.tile(np.eye(2), (3, 1, 1)), np.zeros((3, 2))
    A = np.tile(np.array([[1.0, 1.0], [-1.0, -1.0]]), (3, 1, 1))
    problem, _ = coupled((H, q, A), total=[1.0, 1.0], local=tw.box(-1.0, 1.0), strong_convexity=1.0)
    result = solve(problem, tw.DualAscent(), rounds=2000, every=2000)
    assert result.outcome is Outcome.INFEASIBLE
    assert "no plan is feasible" in result.reason
    price = np.asarray(result.price)
    assert np.abs(A[0].T @ price).sum() * 3 < -price @ [1.0, 1.0] or -np.abs(A[0].T @ price).sum() * 3 - price.sum() > 0
    assert infeasible(problem, np.array([1.0, -1.0])) is None, "no proof where there is none"
    feasible, _ = coupled((H, q, A), total=[1.0, -1.0], local=tw.box(-1.0, 1.0), strong_convexity=1.0)
    for price in np.random.default_rng(0).standard_normal((5, 2)):
        assert infeasible(feasible, price) is None


def small(x, data):
    return 0.5 * data["a"] * (x["u"] - data["c"]) ** 2


def small_row(x, data):
    return x["u"][None]


@pytest.mark.slow
def test_groups_equal_the_same_problem_in_one_shape():
    """Generators of one variable, and batteries of two that deliver their sum; with a box, a polyhedron and an l1 term."""
    rng = np.random.default_rng(0)
    a, c = np.exp(rng.standard_normal(3)), rng.standard_normal(3)
    H, q, A = markets.data(n=2, seed=1, d=2, m=1)
    one = tw.Coupled(
        small,
        {"a": a, "c": c},
        coupling=small_row,
        total=[0.5],
        x0={"u": np.zeros(())},
        local=tw.box(-1.0, 0.6),
        strong_convexity=a,
    )
    G, h = np.concatenate([np.eye(2), -np.eye(2)]), np.full(4, 0.8)
    two, _ = coupled((H, q, A), total=[1.0], local=tw.Polyhedron(G, h))
    three, _ = coupled((H, q + 1, A), total=[-0.3], local=tw.l1(0.2), strong_convexity=np.linalg.eigvalsh(H)[:, 0])
    problem = tw.grouped([one, two, three])
    assert (problem.n, problem.size) == (7, 2)
    u, x, y = cp.Variable(3), cp.Variable((2, 2)), cp.Variable((2, 2))
    row = cp.sum(u) + sum(A[i] @ (x[i] + y[i]) for i in range(2)) == 1.2
    cost = cp.sum(cp.multiply(a / 2, cp.square(u - c))) + 0.2 * cp.sum(cp.abs(y))
    cost += sum(0.5 * cp.quad_form(z[i], H[i]) + (q[i] + s) @ z[i] for z, s in ((x, 0), (y, 1)) for i in range(2))
    optimum = cp.Problem(cp.Minimize(cost), [row, u >= -1, u <= 0.6, cp.abs(x) <= 0.8]).solve(**TIGHT)
    result = solve(problem, tw.ExchangeADMM(), rounds=400, every=400)
    plans = tw.ungroup(problem, result.x)
    np.testing.assert_allclose(plans[0]["u"], u.value, atol=1e-5)
    np.testing.assert_allclose(plans[1], x.value, atol=1e-5)
    np.testing.assert_allclose(plans[2], y.value, atol=1e-5)
    np.testing.assert_allclose(result.price, row.dual_value, atol=1e-5)
    np.testing.assert_allclose([result.certificate.objective, result.certificate.dual], optimum, atol=1e-5)
    assert result.certificate.outside < 1e-9


@pytest.mark.slow
def test_groups_know_what_they_can_reach_and_may_touch_different_numbers_of_rows():
    a, c = markets.separable(3)
    boxed = [tw.allocation(a, c, [1.0, 1.0], low=0, high=high) for high in (1, 2)]
    np.testing.assert_allclose(tw.grouped(boxed).pricing.most, [9.0, 9.0])
    H, q, A = markets.data(n=2, seed=1, d=2, m=2)
    wide = tw.Coupled(
        parabola, {"H": H, "q": q, "A": A}, coupling=mapped, total=[0.5, 0.2], x0=np.zeros(2), rows=np.array([[0, 1], [1, 0]]),
        strong_convexity=np.linalg.eigvalsh(H)[:, 0],
    )  # fmt: skip
    narrow = tw.Coupled(
        parabola, {"H": H, "q": q, "A": A[:, :1]}, coupling=mapped, total=[0.5, 0.3], x0=np.zeros(2), rows=np.array([[0], [1]]),
        strong_convexity=np.linalg.eigvalsh(H)[:, 0],
    )  # fmt: skip
    result = solve(tw.grouped([wide, narrow]), tw.ExchangeADMM(), rounds=300, every=300)
    assert result.certificate.holds(1e-7, 1e-7), result.certificate


@pytest.mark.parametrize("seed", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)])
def test_choices_are_enclosed_by_the_bounds(seed):
    """lower ≤ the mixed-integer optimum (SciPy's HiGHS) ≤ upper."""
    rng = np.random.default_rng(seed)
    n, k, m = 8, 3, 2
    cost, use = rng.uniform(0, 4, (n, k)), rng.uniform(0, 2, (n, k, m))
    cost[0, 2] = np.inf
    total = 0.95 * use.mean(1).sum(0)
    problem = tw.choices(cost, use, total)
    result = solve(problem, tw.ProximalBundle(), rounds=150, every=150)
    found = tw.recover(problem, result)
    known = np.where(np.isfinite(cost), cost, 1e3).ravel()
    one = np.kron(np.eye(n), np.ones(k))
    rows = [
        scipy.optimize.LinearConstraint(one, 1, 1),
        scipy.optimize.LinearConstraint(use.reshape(n * k, m).T, -np.inf, total),
    ]
    exact = scipy.optimize.milp(known, constraints=rows, integrality=np.ones(n * k), bounds=scipy.optimize.Bounds(0, 1))
    assert found.lower <= exact.fun + 1e-9
    assert exact.fun <= found.upper + 1e-9
    assert np.isfinite(found.upper)
    np.testing.assert_allclose(found.upper, cost[np.arange(n), found.options].sum())
    assert (use[np.arange(n), found.options].sum(0) <= total + 1e-9).all()
    # The lower bound is the linear relaxation's at a price that is nearly the best.
    relaxed = scipy.optimize.milp(known, constraints=rows, bounds=scipy.optimize.Bounds(0, 1)).fun
    assert relaxed - 0.05 * abs(relaxed) <= found.lower <= relaxed + 1e-9
    with pytest.raises(ValueError, match="equality row"):
        tw.recover(tw.choices(cost, use, total, sense="="), result)
    with pytest.raises(ValueError, match=r"expected a problem made by tw\.choices"):
        tw.recover(coupled()[0], result)


def cap(x, data):
    return -jnp.sum(x**2)[None]


BAD = [
    (lambda: coupled(total=[1.0, np.nan]), ValueError, "total: got .* expected finite numbers"),
    (lambda: coupled(sense="<"), ValueError, 'sense: got \'<\', expected "=", "<=" or ">="'),
    (lambda: coupled(sense=["=", "=", "="]), ValueError, "or 2 of them, one per row"),
    (lambda: coupled(total=[1.0]), ValueError, r"coupling\(x, data_i\): got \(2,\), expected an array of shape \(1,\)"),
    (lambda: coupled(row_names=["a"]), ValueError, "row_names: got 1, expected 2"),
    (lambda: coupled(rows=np.zeros((4, 1))), ValueError, "rows: got shape .* expected integers"),
    (lambda: coupled(rows=np.array([[0, 2]] * 4)), ValueError, "rows: got 0 … 2, expected"),
    (lambda: coupled(rows=np.array([[0, 0]] * 4)), ValueError, "names a row twice"),
    (lambda: coupled(rows=np.array([[0, -1]] * 4)), ValueError, "nobody touches row 1"),
    (lambda: coupled(local=3.0), TypeError, "local: got float, expected a regulariser"),
    (lambda: coupled(local=SETS["polyhedron"][0], solver=tw.Descent()), ValueError, r"use solver=tw\.InteriorPoint\(\)"),
    (lambda: coupled(local=tw.simplex(), solver=tw.InteriorPoint()), ValueError, r"use tw\.Descent\(\)"),
    (lambda: coupled(coupling=3), TypeError, "coupling: got int, expected a function"),
    (lambda: coupled(strong_convexity=[1.0, 2.0]), ValueError, "strong_convexity: got .* or 4 of them"),
    (lambda: tw.Polyhedron(np.ones((2, 3)), np.ones(3)), ValueError, r"got G \(2, 3\) and h \(3,\)"),
    (lambda: tw.Polyhedron(np.ones((2, 3)), np.ones(2), np.ones((1, 3))), ValueError, "A and b belong together"),
    (lambda: tw.allocation(1.0, np.zeros(3), 1.0), ValueError, "got target of shape"),
    (lambda: tw.allocation(np.ones(3), np.zeros((3, 2)), 1.0), ValueError, r"curvature of shape \(3,\), expected a number"),
    (lambda: tw.allocation(0.0, np.zeros((3, 1)), 1.0), ValueError, "curvature must be > 0"),
    (lambda: tw.allocation(1.0, np.zeros((3, 1)), 1.0, low=1, high=0), ValueError, "got low > high"),
    (lambda: tw.allocation(1.0, np.zeros((3, 2)), [1.0], coupling=np.ones((3, 1))), ValueError, "got coupling of shape"),
    (lambda: tw.bids(np.ones((2, 1, 2)), np.ones((2, 1, 3)), 1.0), ValueError, "expected both"),
    (lambda: tw.bids(-np.arange(4.0).reshape(2, 1, 2), np.ones((2, 1, 2)), 1.0), ValueError, "prices must not fall"),
    (lambda: tw.network_utility([1.0], [[-1]], [1.0]), ValueError, "every flow needs a link"),
    (lambda: tw.network_utility([1.0], [[0]], [1e-4]), ValueError, "leaves no room below"),
    (lambda: tw.choices(np.ones(3), np.ones((3, 1, 1)), 1.0), ValueError, "choices: got costs"),
    (lambda: tw.choices(np.full((2, 1), np.inf), np.ones((2, 1, 1)), 1.0), ValueError, "every agent needs an option"),
    (lambda: tw.grouped([coupled()[0], coupled(total=[1.0, 2.0], sense="<=")[0]]), ValueError, "different rows, senses"),
    (lambda: tw.ungroup(coupled()[0], np.zeros((4, 3))), TypeError, "expected a problem made by tw.grouped"),
    (lambda: tw.reference(coupled()[0], -1.0), ValueError, "tol: got -1.0"),
    (lambda: tw.second_order_cone(0), ValueError, "slope: got 0, expected a positive number"),
    (lambda: tw.ball(0, -1.0), ValueError, "radius: got -1.0"),
    (lambda: tw.ball(np.nan, 1.0), ValueError, "expected finite numbers"),
    (lambda: coupled()[0].with_data({**coupled()[0].pieces.data, "q": np.full((4, 3), np.nan)}), ValueError, "NaN or infinite"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "words"), BAD, ids=[words[:30] for *_, words in BAD])
def test_mistakes_are_refused(make, kind, words):
    with pytest.raises(kind, match=words):
        make()


def concave(x, data):
    return -parabola(x, data)


def test_mistakes_that_only_solve_can_see():
    problem, _ = coupled()
    with pytest.raises(ValueError, match=r"ADMM needs convex costs, got one with negative curvature -.* \(agent \d\)"):
        tw.solve(tw.Coupled(concave, problem.pieces.data, coupling=mapped, total=[1.0, 1.0], x0=np.zeros(3)), tw.ExchangeADMM())
    curved = lambda sense, g=cap: tw.Coupled(
        parabola, problem.pieces.data, coupling=g, total=[-1.0], sense=sense, x0=np.full(3, 0.1), local=tw.box(-1.0, 1.0)
    )
    with pytest.raises(ValueError, match="not affine, and row 'row 0' is an equality"):
        tw.solve(curved("="), tw.ExchangeADMM())
    with pytest.raises(ValueError, match="curves the wrong way"):
        tw.solve(curved("<="), tw.ExchangeADMM())
    with pytest.raises(TypeError, match=r"sets prices, got a Consensus; expected a tw\.Coupled problem"):
        tw.solve(tw.quadratic(np.ones((3, 1, 1)), np.ones((3, 1))), tw.DualAscent())
    with pytest.raises(TypeError, match="got a Coupled problem, whose agents share a constraint"):
        tw.solve(problem, tw.FedAvg())
    with pytest.raises(ValueError, match=r"reference has shape \(2, 3\), expected \(4, 3\)"):
        tw.solve(problem, tw.DualAscent(), reference=np.zeros((2, 3)))
    flat = tw.Coupled(
        lambda x, data: data["q"] @ x,
        problem.pieces.data,
        coupling=mapped,
        total=[0.1, 0.1],
        x0=np.zeros(3),
        local=tw.box(-1.0, 1.0),
    )
    with pytest.raises(ValueError, match=r"DualAscent: no step size is safe, got .* tw\.ExchangeADMM\(\)"):
        tw.solve(flat, tw.DualAscent())
    for make, words in (
        (lambda: tw.DualAscent(step_size=-1.0), "step_size=-1.0"), (lambda: tw.ExchangeADMM(penalty=0.0), "penalty=0.0"),
        (lambda: tw.ExchangeADMM(relaxation=2.0), r"number in \(0, 2\)"), (lambda: tw.ProximalBundle(cuts=2), "at least 3"),
        (lambda: tw.MethodOfMultipliers(inner=0), "at least 1"), (lambda: tw.DualSubgradient(power=0.0), "in \\(0, 1\\]"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            make()


def form(x, data):
    return 0.5 * x @ data["H"] @ x + data["q"] @ x


def all_of_it(x, data):
    return x


@pytest.mark.slow
@pytest.mark.parametrize("method", [tw.DualAscent, tw.ExchangeADMM])
def test_inexact_best_responses_clear_the_same_market_with_less_work(method):
    """Beside one cvxpy solve; and an exact response takes tens of steps, not the most that are allowed."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(6, 4, 4))
    H, q = roots @ roots.swapaxes(1, 2) / 4 + 0.3 * np.eye(4), rng.normal(size=(6, 4))
    x = cp.Variable((6, 4))
    cost = sum(0.5 * cp.quad_form(x[i], cp.psd_wrap(H[i])) + q[i] @ x[i] for i in range(6))
    rows = [cp.sum(x, axis=0) == 1]
    optimum = cp.Problem(cp.Minimize(cost), [*rows, x <= 1, x >= -1]).solve(solver="CLARABEL")
    problem = tw.Coupled(
        form, {"H": H, "q": q}, coupling=all_of_it, total=np.ones(4), x0=jnp.zeros(4), local=tw.box(-np.ones(4), np.ones(4))
    )
    stop = tw.Stop(progress=1e-6, agreement=1e-6, patience=1)
    steps = {}
    for tolerance in (None, 1.0):
        result = tw.solve(problem, method(tolerance=tolerance), rounds=400, every=1, stop=stop)
        assert result.converged and result.certificate.objective == pytest.approx(optimum, abs=1e-5)
        steps[tolerance] = float(result.history["steps"].sum()) / result.rounds
    assert steps[1.0] < 4 < steps[None] < 100
