"""Averaging and its faster, directed, moving and extreme relatives, against closed forms and stacked recursions."""

import numpy as np
import pytest
from scipy.special import eval_chebyt

import thalweg as tw
from support import agents, assert_follows, rate_of_modes

N, D = 8, 2
VALUES = np.random.default_rng(0).standard_normal((N, D))
PROBLEM = tw.Measurements(VALUES)
NETWORK = tw.network.geometric(N, seed=3)
W = NETWORK.mixing.toarray()
MEAN = np.tile(VALUES.mean(0), (N, 1))
SIGMA = np.sort(np.abs(np.linalg.eigvalsh(W)))[-2]
DIRECTED = tw.network.from_edges([(i, (i + 1) % N) for i in range(N)] + [(0, 3), (5, 2), (2, 7), (6, 1)], N, directed=True)


def test_averaging():
    iterates = [np.linalg.matrix_power(W, k) @ VALUES for k in range(31)]
    assert_follows(PROBLEM, tw.Averaging(), NETWORK, iterates)


def two_steps(factors):
    """x⁺ = ω_k W x + (1 − ω_k) x⁻ from x(−1) = x(0) = m."""
    x = [VALUES, VALUES]
    for factor in factors:
        x.append(factor * W @ x[-1] + (1 - factor) * x[-2])
    return x[1:]


def test_accelerated_averaging():
    omega = ((1 - np.sqrt(1 - SIGMA**2)) / SIGMA) ** 2
    assert_follows(PROBLEM, tw.AcceleratedAveraging(), NETWORK, two_steps([1 + omega] * 30))
    found = tw.solve(PROBLEM, tw.AcceleratedAveraging(), NETWORK, rounds=300)
    assert found.algorithm.momentum == pytest.approx(omega, rel=1e-12)
    np.testing.assert_allclose(found.agents, MEAN, atol=1e-13)
    rate = SIGMA / (1 + np.sqrt(1 - SIGMA**2))
    # At the best ω the slowest mode is a double root, which numerical eigenvalues resolve to √ε only.
    assert rate_of_modes(found.algorithm, 1.0, NETWORK) == pytest.approx(rate, rel=1e-6)
    assert rate_of_modes(tw.AcceleratedAveraging(omega + 0.05), 1.0, NETWORK) > rate
    assert rate_of_modes(tw.AcceleratedAveraging(omega - 0.05), 1.0, NETWORK) > rate


def test_chebyshev_averaging_is_the_scaled_chebyshev_polynomial():
    eigenvalues, basis = np.linalg.eigh(W)

    def polynomial(k):
        return basis @ np.diag(eval_chebyt(k, eigenvalues / SIGMA) / eval_chebyt(k, 1 / SIGMA)) @ basis.T @ VALUES

    assert_follows(PROBLEM, tw.ChebyshevAveraging(), NETWORK, [polynomial(k) for k in range(31)])


def test_chebyshev_averaging_attains_its_bound_in_every_round():
    eigenvalues, basis = np.linalg.eigh(W)
    slowest = basis[:, [np.argmin(np.abs(np.abs(eigenvalues) - SIGMA))] * D]
    problem = tw.Measurements(slowest)
    for k in (1, 3, 8, 20):
        error = np.linalg.norm(agents(problem, tw.ChebyshevAveraging(), NETWORK, k)) / np.linalg.norm(slowest)
        assert error == pytest.approx(1 / eval_chebyt(k, 1 / SIGMA), rel=1e-9)
    error = np.linalg.norm(agents(problem, tw.Averaging(), NETWORK, 20)) / np.linalg.norm(slowest)
    assert error == pytest.approx(SIGMA**20, rel=1e-9)


@pytest.mark.parametrize("algorithm", [tw.AcceleratedAveraging, tw.ChebyshevAveraging])
def test_acceleration_where_there_is_nothing_to_gain(algorithm):
    """σ = 0: one round of W = J is the answer, and nothing divides by σ."""
    problem = tw.Measurements(VALUES[:4])
    x = agents(problem, algorithm(), tw.network.complete(4), 3)
    np.testing.assert_allclose(x, np.tile(VALUES[:4].mean(0), (4, 1)), atol=1e-14)


@pytest.mark.parametrize(
    ("algorithm", "failures"),
    [(tw.AcceleratedAveraging(), {"loss": 0.2, "asleep": 0.3}), (tw.ChebyshevAveraging(), {"loss": 0.2})],
    ids=["accelerated", "Chebyshev"],
)
def test_acceleration_is_exact_under_its_failures(algorithm, failures):
    np.testing.assert_allclose(agents(PROBLEM, algorithm, NETWORK.with_failures(**failures), 1500), MEAN, atol=1e-11)


def test_acceleration_needs_a_fixed_symmetric_network():
    with pytest.raises(ValueError, match="does not change"):
        tw.solve(PROBLEM, tw.ChebyshevAveraging(), tw.network.pairwise_gossip(NETWORK))
    with pytest.raises(ValueError, match="symmetric"):
        tw.solve(PROBLEM, tw.AcceleratedAveraging(), tw.network.exponential(N))
    with pytest.raises(ValueError, match="0 ≤ momentum < 1"):
        tw.AcceleratedAveraging(1.0)
    with pytest.raises(ValueError, match="0 ≤ sigma < 1"):
        tw.ChebyshevAveraging(1.5)


def test_push_sum():
    B = DIRECTED.push.toarray()
    assert np.abs(B.sum(1) - 1).max() > 0.1  # not row-stochastic, so that the weights have work to do
    iterates, mass, weight = [VALUES], VALUES, np.ones((N, 1))
    for _ in range(30):
        mass, weight = B @ mass, B @ weight
        iterates.append(mass / weight)
    assert_follows(PROBLEM, tw.PushSum(), DIRECTED, iterates)
    errors = [np.linalg.norm(agents(PROBLEM, tw.PushSum(), DIRECTED, k) - MEAN) for k in (20, 60)]
    rate = np.sort(np.abs(np.linalg.eigvals(B)))[-2]
    assert (errors[1] / errors[0]) ** (1 / 40) == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize(
    "failures",
    [
        {"loss": 0.3, "symmetric": False},
        {"asleep": 0.3},
        {"loss": 0.2, "symmetric": False, "asleep": 0.2, "delay": (0.5, 0.3, 0.2)},
    ],
    ids=["loss", "asleep", "all"],
)
def test_push_sum_loses_nothing(failures):
    """Mass that is on its way arrives in the end: the exact mean, though a third of the messages is lost."""
    np.testing.assert_allclose(agents(PROBLEM, tw.PushSum(), DIRECTED.with_failures(**failures), 1500), MEAN, atol=1e-9)


@pytest.mark.parametrize(
    ("algorithm", "extreme"), [(tw.MaxConsensus(), np.max), (tw.MinConsensus(), np.min)], ids=["max", "min"]
)
def test_extremum_takes_exactly_the_distance(algorithm, extreme):
    """After k rounds everyone has the extremum over its k-neighbourhood; over all after the diameter, and not before."""
    reach = np.eye(N, dtype=bool)
    adjacency = (W != 0) | reach
    diameter = int(NETWORK.facts.diameter)
    for k in range(diameter + 2):
        expected = np.stack([extreme(VALUES[reach[i]], axis=0) for i in range(N)])
        np.testing.assert_array_equal(agents(PROBLEM, algorithm, NETWORK, k), expected)
        reach = (reach.astype(int) @ adjacency) > 0
    np.testing.assert_array_equal(expected, np.tile(extreme(VALUES, axis=0), (N, 1)))


def test_extremum_under_every_failure_on_a_directed_network():
    failing = DIRECTED.with_failures(loss=0.3, symmetric=False, asleep=0.3, delay=(0.4, 0.3, 0.3))
    np.testing.assert_array_equal(agents(PROBLEM, tw.MaxConsensus(), failing, 300), np.tile(VALUES.max(0), (N, 1)))


def moving(value, k):
    """The first half of a value grows by its second half per round."""
    half = value.shape[0] // 2
    return value.at[:half].add(k * value[half:])


def test_dynamic_average_on_a_ramp():
    slope = np.random.default_rng(1).standard_normal((N, D))
    problem = tw.Measurements(np.concatenate([VALUES, slope], axis=1), signal=moving)
    iterates = [np.concatenate([VALUES, slope], axis=1)]
    for k in range(200):
        change = 0 if k == 0 else slope  # receive in round k sees problem k, and init saw problem 0 too
        x = W @ iterates[-1]
        x[:, :D] += change
        iterates.append(x)
    assert_follows(problem, tw.DynamicAverage(), NETWORK, iterates)
    J = np.full((N, N), 1 / N)
    expected = np.linalg.solve(np.eye(N) - W + J, slope - slope.mean(0))
    x = agents(problem, tw.DynamicAverage(), NETWORK, 400)[:, :D]
    mean = VALUES.mean(0) + 399 * slope.mean(0)  # of the last round's measurements
    np.testing.assert_allclose(x - mean, expected, atol=1e-10)
    assert np.linalg.norm(expected) <= np.linalg.norm(slope - slope.mean(0)) / (1 - SIGMA) + 1e-12


def stepping(value, k):
    """Doubled from round 40 on."""
    return value * (1 + (k >= 40))


def test_dynamic_average_recovers_the_mean_when_the_signal_stops():
    problem = tw.Measurements(VALUES, signal=stepping)
    failing = NETWORK.with_failures(loss=0.2, asleep=0.3)
    np.testing.assert_allclose(agents(problem, tw.DynamicAverage(), failing, 1500), 2 * MEAN, atol=1e-11)
    np.testing.assert_allclose(agents(problem, tw.DynamicAverage(), failing, 20).mean(0), MEAN[0], atol=1e-13)


@pytest.mark.parametrize(
    "algorithm",
    [tw.AcceleratedAveraging(), tw.ChebyshevAveraging(), tw.PushSum(), tw.MaxConsensus(), tw.DynamicAverage()],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_alone_one_is_the_mean(algorithm):
    x = agents(tw.Measurements(VALUES[:1]), algorithm, tw.network.complete(1), 5)
    np.testing.assert_allclose(x, VALUES[:1], atol=1e-15)


def test_measurements_are_needed():
    with pytest.raises(TypeError, match=r"use tw\.Measurements"):
        tw.solve(tw.quadratic(np.eye(2)[None].repeat(N, 0), VALUES), tw.PushSum(), DIRECTED)
