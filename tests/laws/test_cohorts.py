"""Cohorts are drawn as their rules say: distinct, sorted, with the right probabilities, and unbiased.

Bounds are five standard deviations of what is counted. Axes: `n` clients, `c` slots of a cohort.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import thalweg as tw
from thalweg.cohort import Registry, distinct
from thalweg.cohort.base import SPARSE

DRAWS = 4000


def registry(n, seed=0):
    weights = np.random.default_rng(seed).uniform(0.2, 2.0, n)
    return Registry(jnp.asarray(weights / weights.sum()), jnp.ones(n))


def draws(rule, known, count=DRAWS, seed=1):
    """`count` cohorts: members, valid, factor, each `[count, c]`."""
    state = rule.init(known)
    keys = jax.random.key_data(jax.random.split(jax.random.key(seed), count))
    found = jax.jit(jax.vmap(lambda key: rule.draw(state, known, key)))(keys)
    return np.asarray(found.members), np.asarray(found.valid), np.asarray(found.factor)


def taken(members, valid, n):
    """`[count, n]`, who is in each cohort."""
    rows = np.zeros((len(members), n))
    np.add.at(rows, (np.arange(len(members))[:, None].repeat(members.shape[1], 1)[valid], members[valid]), 1)
    return rows


RULES = [
    (12, tw.cohort.uniform(5)),
    (200, tw.cohort.uniform(3)),  # few of many: another way of drawing
    (12, tw.cohort.by_size(5)),
    (12, tw.cohort.poisson(0.3)),
    (300, tw.cohort.poisson(0.01)),
    (6, tw.cohort.everyone()),
]


def test_both_ways_of_drawing_are_tested():
    assert SPARSE * 5 >= 12
    assert SPARSE * 3 < 200


@pytest.mark.parametrize(("n", "rule"), RULES)
def test_members_are_distinct_sorted_and_registered(n, rule):
    members, valid, _ = draws(rule, registry(n), 300)
    assert members.shape[1] == rule.slots(n)
    for cohort, real in zip(members, valid, strict=True):
        chosen = cohort[real]
        assert (np.diff(chosen) > 0).all()
        assert chosen.size == 0 or (chosen[0] >= 0 and chosen[-1] < n)


def inclusion(n, rule):
    w = np.asarray(registry(n).weights)
    if isinstance(rule, tw.cohort.Uniform):
        return np.full(n, rule.size / n)
    if isinstance(rule, tw.cohort.Poisson):
        return np.full(n, rule.rate)
    if isinstance(rule, tw.cohort.BySize):
        return 1 - (1 - w) ** rule.size
    return np.ones(n)


@pytest.mark.parametrize(("n", "rule"), RULES)
def test_clients_are_drawn_as_often_as_they_should(n, rule):
    members, valid, factor = draws(rule, registry(n))
    found, pi = taken(members, valid, n).mean(0), inclusion(n, rule)
    assert (np.abs(found - pi) <= 5 * np.sqrt(pi * (1 - pi) / DRAWS) + 1e-12).all()
    if not isinstance(rule, tw.cohort.BySize):
        np.testing.assert_allclose(factor[valid], 1 / pi[members[valid]], rtol=1e-12)


@pytest.mark.parametrize(("n", "rule"), RULES)
def test_the_weighted_sum_over_a_cohort_is_an_unbiased_estimate(n, rule):
    known = registry(n)
    w, m = np.asarray(known.weights), np.random.default_rng(3).standard_normal(n) + 1
    members, valid, factor = draws(rule, known)
    sums = np.sum(np.where(valid, factor * w[members] * m[members], 0), axis=1)
    np.testing.assert_allclose(sums.mean(), w @ m, atol=5 * sums.std() / np.sqrt(DRAWS) + 1e-12)


@pytest.mark.parametrize(("n", "size"), [(6, 2), (SPARSE * 2 + 4, 2)])
def test_every_subset_is_equally_likely(n, size):
    """All pairs of 6; in groups of pairs where there are many (the difference of the two numbers)."""
    keys = jax.random.key_data(jax.random.split(jax.random.key(4), 20_000))
    pairs = np.sort(np.asarray(jax.jit(jax.vmap(lambda key: distinct(key, n, size)))(keys)), axis=1)
    assert (pairs[:, 0] < pairs[:, 1]).all()
    gap = pairs[:, 1] - pairs[:, 0]
    found = np.bincount(gap, minlength=n)[1:]
    expected = len(pairs) * (n - np.arange(1, n)) / (n * (n - 1) / 2)
    common = expected >= 8
    found, expected = (np.append(a[common], a[~common].sum()) if (~common).any() else a for a in (found, expected))
    assert stats.chisquare(found, expected).pvalue > 1e-5
    if n == 6:
        cells = np.bincount(pairs[:, 0] * n + pairs[:, 1], minlength=n * n)
        assert stats.chisquare(cells[cells > 0], np.full(15, len(pairs) / 15)).pvalue > 1e-5


@pytest.mark.parametrize(("n", "rate"), [(12, 0.3), (300, 0.01)])
def test_poisson_cohorts_are_independent_coins(n, rate):
    """Their number is binomial, and two clients meet as often as chance has it."""
    members, valid, _ = draws(tw.cohort.poisson(rate), registry(n))
    found = np.bincount(valid.sum(1), minlength=n + 1)
    expected = DRAWS * stats.binom.pmf(np.arange(n + 1), n, rate)
    common = expected >= 8
    found, expected = (np.append(a[common], a[~common].sum()) for a in (found, expected))
    assert stats.chisquare(found, expected, sum_check=False).pvalue > 1e-5
    rows = taken(members, valid, n)
    together = rows.T @ rows / DRAWS
    pairs = together[np.triu_indices(n, 1)]
    bound = 6 if n > 100 else 5
    assert np.abs(pairs - rate**2).max() <= bound * np.sqrt(rate**2 * (1 - rate**2) / DRAWS) + 4 / DRAWS


def test_poisson_cohorts_overflow_as_rarely_as_stated():
    rule = tw.cohort.poisson(0.3, maximum=4)
    _, valid, _ = draws(rule, registry(12))
    assert valid.sum(1).max() == 4
    assert tw.cohort.poisson(0.3).overflow(12) < 1e-8
    expected = stats.binom.sf(4, 12, 0.3) + stats.binom.pmf(4, 12, 0.3)
    np.testing.assert_allclose((valid.sum(1) == 4).mean(), expected, atol=5 * np.sqrt(expected * (1 - expected) / DRAWS))
    np.testing.assert_allclose(rule.overflow(12), stats.binom.sf(4, 12, 0.3))


def test_by_size_counts_clients_that_are_drawn_twice():
    """Σ factor_i w_i is one in every cohort: each of the draws has the same share."""
    known = registry(5)
    members, valid, factor = draws(tw.cohort.by_size(4), known, 200)
    share = np.where(valid, factor * np.asarray(known.weights)[members], 0)
    np.testing.assert_allclose(share.sum(1), 1, rtol=1e-12)
    assert (valid.sum(1) < 4).any()
    np.testing.assert_allclose(4 * share, np.round(4 * share), atol=1e-12)


@pytest.mark.parametrize("rule", [tw.cohort.poisson(0.5), tw.cohort.by_size(2), tw.cohort.uniform(2, normalise=True)])
def test_rules_work_in_a_run_and_members_that_were_not_drawn_stay_as_they_are(rule):
    problem = tw.quadratic(np.ones((4, 1, 1)), np.arange(4.0)[:, None], weights=[1, 2, 3, 4])
    result = tw.solve(problem, tw.SCAFFOLD(tw.LocalSGD(0.1, steps=2), cohort=rule), rounds=1)
    moved = np.asarray(result.records[0][0])[:, 0] != 0
    assert moved[1:].sum() <= min(4, rule.slots(4))
    assert int(result.history["participants"][-1]) >= moved.sum()


@pytest.mark.parametrize("make", [lambda: tw.cohort.uniform(0), lambda: tw.cohort.poisson(1.5), lambda: tw.cohort.by_size(-2)])
def test_rules_without_meaning_are_refused(make):
    with pytest.raises(ValueError, match="cohort"):
        make()


def test_a_cohort_larger_than_the_population_is_refused():
    problem = tw.quadratic(np.ones((4, 1, 1)), np.arange(4.0)[:, None])
    with pytest.raises(ValueError, match="at most 4"):
        tw.solve(problem, tw.FedAvg(cohort=5))
