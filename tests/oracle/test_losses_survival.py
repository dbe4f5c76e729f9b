"""Survival losses: densities against SciPy, maximum likelihood against closed forms."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

import thalweg as tw
from thalweg.problem import losses


def sample(seed, m=300):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, 3, m)
    death, end = rng.exponential([2.0, 5.0, 9.0], (m, 3))[np.arange(m), group], rng.uniform(0.5, 8, m)
    return group, np.stack([np.minimum(death, end), death <= end], axis=-1).astype(float)


@pytest.mark.parametrize("rate", [0.2, 3.0])
def test_exponential_is_scipys_density_and_survival(rate):
    law = scipy.stats.expon(scale=1 / rate)
    for time in (0.1, 1.0, 7.0):
        assert losses.exponential_hazard(np.log(rate), np.array([time, 1.0])) == pytest.approx(-law.logpdf(time))
        assert losses.exponential_hazard(np.log(rate), np.array([time, 0.0])) == pytest.approx(-law.logsf(time))


def test_exponential_maximum_likelihood_is_deaths_by_time_at_risk():
    """In each group; and the regression with one indicator per group finds the three rates."""
    group, outcomes = sample(0)
    model = losses.linear_model(losses.exponential_hazard, fit_intercept=False)
    agents = [(np.eye(3)[group[rows]], outcomes[rows]) for rows in np.array_split(np.arange(len(group)), 4)]
    best = tw.reference(tw.EmpiricalRisk(model, agents, model.start(3)))
    time, event = outcomes.T
    expected = [event[group == g].sum() / time[group == g].sum() for g in range(3)]
    np.testing.assert_allclose(np.exp(best.x["weights"]), expected, rtol=1e-7)


def test_piecewise_with_one_piece_is_exponential():
    _, outcomes = sample(1)
    eta = np.random.default_rng(2).normal(size=len(outcomes))
    one = losses.piecewise_hazard([])(eta[:, None], outcomes)
    np.testing.assert_allclose(one, losses.exponential_hazard(eta, outcomes), rtol=1e-13)


def test_piecewise_is_a_likelihood():
    """exp(−loss) of a death integrates to one over all times, and of a censored patient is what is left of it."""
    loss = losses.piecewise_hazard([1.0, 2.5])
    eta = jnp.log(jnp.array([0.3, 1.1, 0.6]))
    density = lambda t: float(jnp.exp(-loss(eta, jnp.array([t, 1.0]))))
    pieces = [scipy.integrate.quad(density, a, b)[0] for a, b in ((0, 1), (1, 2.5), (2.5, 4), (4, 80))]
    assert sum(pieces) == pytest.approx(1, abs=1e-7)
    assert float(jnp.exp(-loss(eta, jnp.array([4.0, 0.0])))) == pytest.approx(pieces[-1], abs=1e-7)


def test_piecewise_maximum_likelihood_is_deaths_by_time_at_risk_in_each_interval():
    _, outcomes = sample(3)
    time, event = outcomes.T
    loss, edges = losses.piecewise_hazard([1.0, 3.0]), np.array([0, 1.0, 3.0, np.inf])
    assert loss.outputs == 3
    exposure = np.clip(time[:, None], edges[:-1], edges[1:]) - edges[:-1]
    np.testing.assert_allclose(loss.exposure(jnp.asarray(time)), exposure, atol=1e-15)
    np.testing.assert_allclose(exposure.sum(axis=1), time)
    deaths = [event[(time > a) & (time <= b)].sum() for a, b in itertools.pairwise(edges)]
    total = lambda eta: float(jnp.sum(jax.vmap(loss, in_axes=(None, 0))(jnp.asarray(eta), jnp.asarray(outcomes))))
    best = scipy.optimize.minimize(total, np.zeros(3), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10}).x
    np.testing.assert_allclose(np.exp(best), deaths / exposure.sum(axis=0), rtol=1e-5)


def test_a_death_at_a_break_belongs_to_the_interval_it_ends():
    loss = losses.piecewise_hazard([2.0])
    assert float(loss(jnp.array([0.5, -9.0]), jnp.array([2.0, 1.0]))) == pytest.approx(2 * np.exp(0.5) - 0.5)


def test_equal_losses_are_one_program():
    assert losses.piecewise_hazard([1, 2]) == losses.piecewise_hazard((1.0, 2.0))
    assert hash(losses.piecewise_hazard([1, 2])) == hash(losses.piecewise_hazard((1.0, 2.0)))


@pytest.mark.parametrize("breaks", [[0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [np.inf], [np.nan]])
def test_bad_breaks(breaks):
    with pytest.raises(ValueError, match=r"piecewise_hazard breaks: got .*increasing"):
        losses.piecewise_hazard(breaks)
