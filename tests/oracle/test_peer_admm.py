"""EdgeADMM and DecentralizedADMM against their recursions written with matrices, closed forms and failures.

Axes: `n` agents, `d` variables.
"""

import jax.numpy as jnp
import numpy as np
import pytest

import thalweg as tw
from support import agents, assert_follows, assert_rate, equal_curvature, quadratics

WEIGHTS = (1, 2, 3, 1, 2, 3)
SIX = tw.network.from_edges([(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 0), (0, 3), (1, 3)])
RING = tw.network.ring(12)
FAILING = {"loss": 0.2, "symmetric": False, "asleep": 0.3, "delay": (0.6, 0.3, 0.1)}


def adjacency(network):
    matrix = np.zeros((network.n, network.n))
    matrix[tuple(network.edges.T)] = 1
    return matrix + matrix.T


def minimiser(A, b, shift, weight):
    """argmin ½xᵀA_i x + b_iᵀx − shift_iᵀx + weight_i/2 ‖x‖² of every agent."""
    eye = np.eye(A.shape[1])
    return np.stack([np.linalg.solve(A[i] + weight[i] * eye, shift[i] - b[i]) for i in range(len(A))])


def edge_admm(A, b, network, rho, r, rounds):
    """z[i, j] for every ordered pair of neighbours."""
    on = adjacency(network)[:, :, None]
    degree = on.sum((1, 2))
    z = np.zeros((*on.shape[:2], A.shape[1]))
    x = [minimiser(A, b, z.sum(1), rho * degree)]
    for _ in range(rounds):
        offered = 2 * rho * x[-1][:, None, :] - z  # [i, j]: what i says to j
        z = on * ((1 - r) * z + r * offered.swapaxes(0, 1))
        x.append(minimiser(A, b, z.sum(1), rho * degree))
    return x


def decentralized_admm(A, b, network, rho, rounds):
    """With the extended adjacency matrices: D the degrees, A₊ = D + adjacency, A₋ = D − adjacency."""
    neighbours = adjacency(network)
    degree = np.diag(neighbours.sum(1))
    x, dual = [np.zeros(b.shape)], np.zeros(b.shape)
    for _ in range(rounds):
        x.append(minimiser(A, b, rho * (degree + neighbours) @ x[-1] - dual, 2 * rho * np.diag(degree)))
        dual = dual + rho * (degree - neighbours) @ x[-1]
    return x


def test_edge_admm_follows_the_recursion_over_ordered_pairs():
    problem, A, b, _ = quadratics(6, 3, 0, weights=WEIGHTS)
    assert_follows(problem, tw.EdgeADMM(penalty=0.7, relaxation=0.6), SIX, edge_admm(A, b, SIX, 0.7, 0.6, 20))


def test_decentralized_admm_follows_the_stacked_recursion():
    problem, A, b, _ = quadratics(6, 3, 0, weights=WEIGHTS)
    assert_follows(problem, tw.DecentralizedADMM(penalty=0.4), SIX, decentralized_admm(A, b, SIX, 0.4, 20))


@pytest.mark.parametrize("penalty", [pytest.param(0.3, marks=pytest.mark.slow), 0.5, 1.0, 2.0])
def test_decentralized_admm_contracts_at_the_root_of_its_quadratic(penalty):
    """z² − (1 + (A − B)/S) z + A/S = 0 with a = 1, d = 2 and the adjacency eigenvalues m = 2 cos(2πj/12), j > 0."""
    roots = [2 * penalty * 2 / (1 + 4 * penalty)]  # m = d, the mean of x
    for m in 2 * np.cos(2 * np.pi * np.arange(1, 7) / 12):
        up, down, total = penalty * (2 + m), penalty * (2 - m), 1 + 4 * penalty
        roots += [*np.roots([1, -(1 + (up - down) / total), up / total])]
    predicted = np.abs(roots).max()
    problem, _, _, x_star = equal_curvature(12, 2, 1.0, 0)
    # Complex roots make the error swing about its trend, hence the tolerance.
    assert_rate(problem, tw.DecentralizedADMM(penalty=penalty), RING, x_star, predicted, tolerance=0.02)


@pytest.mark.parametrize(("penalty", "rate"), [(1.0, 0.8640), (2.0, 0.9107)])
def test_modes_of_decentralized_admm_give_the_known_rates_on_a_ring_of_12(penalty, rate):
    algorithm = tw.DecentralizedADMM(penalty=penalty)
    matrices = [algorithm.adjacency_modes(1.0, 2, m) for m in 2 * np.cos(2 * np.pi * np.arange(7) / 12)]
    assert max(np.abs(np.linalg.eigvals(matrix)).max() for matrix in matrices) == pytest.approx(rate, abs=6e-5)


def test_default_penalty_is_the_best_one_where_that_is_known():
    """The slowest mode m = √3 is critically damped, (1 + (A − B)/S)² = 4A/S, at ρ = a/(2√(d² − m²)) = a/2."""
    problem, *_ = equal_curvature(12, 2, 1.0, 0)
    assert tw.solve(problem, tw.DecentralizedADMM(), RING, rounds=0).algorithm.penalty == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("relaxation", [0.3, 0.5, 0.9])
@pytest.mark.parametrize("penalty", [0.2, 1.0])
def test_edge_admm_contracts_as_its_modes_say(penalty, relaxation):
    algorithm = tw.EdgeADMM(penalty=penalty, relaxation=relaxation)
    matrices = [algorithm.adjacency_modes(1.5, 2, m) for m in 2 * np.cos(2 * np.pi * np.arange(7) / 12)]
    predicted = max(np.abs(np.linalg.eigvals(matrix)).max() for matrix in matrices)
    problem, _, _, x_star = equal_curvature(12, 2, 1.5, 1)
    assert_rate(problem, algorithm, RING, x_star, predicted)


@pytest.mark.parametrize(
    ("penalty", "relaxation"),
    [
        pytest.param(penalty, relaxation, marks=() if penalty == 1.0 else pytest.mark.slow)
        for penalty in (0.05, 1.0, 10.0)
        for relaxation in (0.1, 0.5, 0.95)
    ],
)
def test_edge_admm_is_exact_whatever_is_lost_late_or_asleep(penalty, relaxation):
    problem, _, _, x_star = quadratics(6, 3, 0, weights=WEIGHTS)
    x = agents(problem, tw.EdgeADMM(penalty, relaxation), SIX.with_failures(**FAILING), 50_000)
    np.testing.assert_allclose(x, np.broadcast_to(x_star, x.shape), atol=1e-9)


def test_decentralized_admm_is_exact_while_both_ends_miss_each_other_and_only_then():
    problem, _, _, x_star = quadratics(6, 3, 0, weights=WEIGHTS)
    x = agents(problem, tw.DecentralizedADMM(), SIX.with_failures(loss=0.2, asleep=0.3), 3000)
    np.testing.assert_allclose(x, np.broadcast_to(x_star, x.shape), atol=1e-9)
    with pytest.warns(RuntimeWarning, match="not under loss per direction"):
        x = agents(problem, tw.DecentralizedADMM(), SIX.with_failures(loss=0.2, symmetric=False), 3000)
    assert np.abs(x - x_star).max() > 1e-3


def absolute_deviation(x, target):
    return jnp.sum(jnp.abs(x - target))


def shrink_towards(v, step, target):
    """prox of step·|x − target|."""
    away = v - target
    return target + jnp.sign(away) * jnp.maximum(jnp.abs(away) - step, 0)


@pytest.mark.parametrize("algorithm", [tw.EdgeADMM(), tw.DecentralizedADMM()])
def test_non_smooth_losses_lead_to_the_median(algorithm):
    values = np.random.default_rng(3).standard_normal((5, 2))
    problem = tw.Consensus(absolute_deviation, values, np.zeros(2), prox=shrink_towards)
    result = tw.solve(problem, algorithm, tw.network.ring(5), rounds=3000, every=3000)
    assert result.algorithm.penalty == 1.0  # no curvature to choose it from
    np.testing.assert_allclose(result.agents, np.broadcast_to(np.median(values, axis=0), (5, 2)), atol=1e-7)


@pytest.mark.parametrize("algorithm", [tw.EdgeADMM(), tw.DecentralizedADMM()])
def test_an_agent_alone_finds_its_own_minimiser(algorithm):
    problem, _, _, x_star = quadratics(1, 3, 5)
    np.testing.assert_allclose(agents(problem, algorithm, tw.network.complete(1), 60)[0], x_star, atol=1e-10)


@pytest.mark.parametrize("relaxation", [0.0, 1.0, -0.5])
def test_relaxation_outside_its_interval_is_refused(relaxation):
    with pytest.raises(ValueError, match="0 < relaxation < 1"):
        tw.EdgeADMM(relaxation=relaxation)


def test_edges_that_go_one_way_only_are_refused():
    problem, *_ = quadratics(6, 3, 0)
    with pytest.raises(ValueError, match="undirected"):
        tw.solve(problem, tw.EdgeADMM(), tw.network.ring(6, directed=True))
