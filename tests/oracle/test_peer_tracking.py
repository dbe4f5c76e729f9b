"""Gradient tracking and Aug-DGM: recursions, the tracked mean, rates, step bounds, failures, own step sizes."""

import numpy as np
import pytest

import thalweg as tw
from support import (
    agents,
    assert_follows,
    assert_rate,
    equal_curvature,
    gradients,
    quadratics,
    rate_of_modes,
    with_lowest_eigenvalue,
)

N, D = 8, 3
NETWORK = tw.network.geometric(N, seed=3)
SHARP = with_lowest_eigenvalue(NETWORK, -0.6)
WEIGHTS = np.arange(1.0, N + 1)
STEPS = np.linspace(0.02, 0.06, N)[:, None]


def tracking(W, gradient, step, rounds, order, momentum=0.0):
    """Nedić, Olshevsky and Shi 2017, Algorithm 1 ("diging"); Qu and Li 2018, or Xu et al. 2015, combine the step too."""
    x = [np.zeros((N, D))]
    y, before = gradient(x[0]), x[0]
    for _ in range(rounds):
        adapted = -step * y + momentum * (x[-1] - before)
        before = x[-1]
        x.append(W @ x[-1] + (adapted if order == "diging" else W @ adapted))
        change = gradient(x[-1]) - gradient(before)
        y = W @ (y + change) if order == "both" else W @ y + change
    return x


CASES = {
    "atc": (tw.GradientTracking(0.05), {"step": 0.05, "order": "atc"}),
    "diging": (tw.GradientTracking(0.05, order="diging"), {"step": 0.05, "order": "diging"}),
    "atc, momentum": (tw.GradientTracking(0.05, momentum=0.4), {"step": 0.05, "order": "atc", "momentum": 0.4}),
    "diging, momentum": (
        tw.GradientTracking(0.05, momentum=0.4, order="diging"),
        {"step": 0.05, "order": "diging", "momentum": 0.4},
    ),
    "AugDGM": (tw.AugDGM(0.05), {"step": 0.05, "order": "both"}),
    "AugDGM, own steps": (tw.AugDGM(tw.PerAgent(STEPS[:, 0])), {"step": STEPS, "order": "both"}),
}


@pytest.mark.parametrize("case", CASES)
def test_recursion_and_limit(case):
    problem, A, b, x_star = quadratics(N, D, 0, weights=WEIGHTS)
    algorithm, options = CASES[case]
    assert_follows(problem, algorithm, NETWORK, tracking(NETWORK.mixing.toarray(), gradients(A, b), rounds=60, **options))
    np.testing.assert_allclose(agents(problem, algorithm, NETWORK, 5000), np.tile(x_star, (N, 1)), atol=1e-11)


@pytest.mark.parametrize(
    "algorithm", [tw.GradientTracking(0.02), tw.GradientTracking(0.02, order="diging"), tw.AugDGM(tw.PerAgent(STEPS[:, 0] / 2))]
)
def test_the_tracker_keeps_the_mean_gradient_and_survives_failures(algorithm):
    """mean(y) = mean(∇φ_i(x_i)) in every round, though edges fail and agents sleep; so the limit is x* itself."""
    problem, A, b, x_star = quadratics(N, D, 0)
    failing = NETWORK.with_failures(loss=0.2, asleep=0.3)
    for rounds in (0, 1, 2, 5, 30):
        state = tw.solve(problem, algorithm, failing, rounds=rounds, every=max(1, rounds)).records.state
        at = gradients(A, b)(np.asarray(state.x))
        np.testing.assert_allclose(state.g, at, atol=1e-12)
        np.testing.assert_allclose(np.mean(state.y, axis=0), at.mean(0), atol=1e-12)
        assert rounds == 0 or np.abs(state.y - at).max() > 1e-3
    np.testing.assert_allclose(agents(problem, algorithm, failing, 12_000), np.tile(x_star, (N, 1)), atol=1e-9)


def semi_atc_bound(eigenvalue):
    """(1 + λ)²/(2λ) at λ > 0, (1 − λ²)/|λ| at λ < 0: the Jury conditions of one mode."""
    return (1 + eigenvalue) ** 2 / (2 * eigenvalue) if eigenvalue > 0 else (1 - eigenvalue**2) / -eigenvalue


@pytest.mark.parametrize("kind", ["diging", "atc", "AugDGM"])
def test_rate_and_largest_step(kind):
    a = 2.0
    problem, _, _, x_star = equal_curvature(N, D, a, 1)
    eigenvalues = np.linalg.eigvalsh(SHARP.mixing.toarray())
    bound = {
        "diging": (1 - 0.6) ** 2 / 2,
        "atc": min(map(semi_atc_bound, eigenvalues)),
        "AugDGM": np.min((1 + eigenvalues) ** 2 / (2 * eigenvalues**2)),
    }[kind] / a

    def at(step):
        return tw.AugDGM(step) if kind == "AugDGM" else tw.GradientTracking(step, order=kind)

    for step in (0.3 * bound, 0.95 * bound):
        rate = rate_of_modes(at(step), a, SHARP)
        assert rate < 1
        assert_rate(problem, at(step), SHARP, x_star, rate)
    assert rate_of_modes(at(0.999 * bound), a, SHARP) < 1 < rate_of_modes(at(1.001 * bound), a, SHARP)
    with pytest.warns(RuntimeWarning, match=f"above the provable bound {bound:.4g}"):
        far = np.linalg.norm(agents(problem, at(1.05 * bound), SHARP, 600) - x_star)
    assert far > 10 * np.linalg.norm(x_star)


def test_momentum_changes_the_rate_as_its_modes_say():
    a = 2.0
    problem, _, _, x_star = equal_curvature(N, D, a, 1)
    for order in ("atc", "diging"):
        rates = []
        for momentum in (0.2, 0.4):
            algorithm = tw.GradientTracking(0.02, momentum=momentum, order=order)
            rates.append(rate_of_modes(algorithm, a, NETWORK))
            assert_rate(problem, algorithm, NETWORK, x_star, rates[-1])
        plain = rate_of_modes(tw.GradientTracking(0.02, order=order), a, NETWORK)
        assert rates[1] < rates[0] < plain  # the step is far below the best one, where momentum helps


@pytest.mark.parametrize("algorithm", [tw.GradientTracking(0.1), tw.AugDGM(0.1)], ids=["semi-ATC", "AugDGM"])
def test_central_on_a_complete_graph(algorithm):
    problem, A, b, _ = quadratics(5, D, 2)
    x = np.zeros(D)
    for _ in range(25):
        x = x - 0.1 * (A.mean(0) @ x + b.mean(0))
    np.testing.assert_allclose(agents(problem, algorithm, tw.network.complete(5), 25), np.tile(x, (5, 1)), atol=1e-12)


def test_step_of_each_agent_is_checked_against_the_common_bound():
    problem, *_ = quadratics(N, D, 0)
    with pytest.warns(RuntimeWarning, match="above the provable bound"):
        tw.solve(problem, tw.AugDGM(tw.PerAgent(np.linspace(0.01, 2.0, N))), NETWORK, rounds=0)


def test_restart_rebuilds_the_tracker():
    problem, _, _, x_star = quadratics(N, D, 0)
    for algorithm in (tw.GradientTracking(0.05), tw.AugDGM(0.05)):
        first = tw.solve(problem, algorithm, NETWORK, rounds=50)
        again = tw.solve(problem, algorithm, NETWORK, rounds=0, start=first).records.state
        np.testing.assert_array_equal(again.y, again.g)
        np.testing.assert_array_equal(again.x, first.records.state.x)
        last = tw.solve(problem, algorithm, NETWORK, rounds=5000, start=first)
        np.testing.assert_allclose(last.agents, np.tile(x_star, (N, 1)), atol=1e-11)


def test_stochastic_gradients_leave_a_neighbourhood_that_shrinks_with_the_step():
    """The mean iterate follows x̄ ← x̄ − α·mean of the stochastic gradients: variance ασ²/(m(2 − αm)n) for equal curvature m."""
    m, sigma, samples = 2.0, 0.5, 4000
    rng = np.random.default_rng(0)
    shift = np.repeat(rng.standard_normal((4, 1)), samples, axis=1)
    problem = tw.Consensus(
        lambda x, c: 0.5 * m * ((x - c) ** 2).sum(), shift, np.zeros(samples),
        smoothness=m, strong_convexity=m, exact=True, gradient_noise=sigma,
    )  # fmt: skip
    spread = []
    for step in (0.2, 0.1):
        algorithm = tw.GradientTracking(step, stochastic=True)
        x = np.asarray(tw.solve(problem, algorithm, tw.network.complete(4), rounds=150, every=150, seed=3).x)
        spread.append(np.mean((x - shift.mean()) ** 2))
    expected = [step * sigma**2 / (m * (2 - step * m) * 4) for step in (0.2, 0.1)]
    assert spread[1] < spread[0]
    # The tracker's noise is that of one round's gradients, used once: the law of D-SGD's mean, to 7 standard errors.
    np.testing.assert_allclose(spread, expected, rtol=7 * np.sqrt(2 / samples))


def test_bad_arguments():
    with pytest.raises((ValueError, TypeError), match="both"):
        tw.GradientTracking(order="both")
    with pytest.raises(ValueError, match="0 < momentum < 1"):
        tw.GradientTracking(momentum=1.5)
