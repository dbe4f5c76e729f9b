"""A partition is a partition: laws of every strategy, on labels of any kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import thalweg.data as td
from thalweg.data.sizes import apportioned, raised

STRATEGIES = {
    "iid": td.iid(),
    "dirichlet": td.dirichlet(0.3, minimum=2),
    "dirichlet_extreme": td.dirichlet(1e-3, minimum=3),
    "dirichlet_balanced": td.dirichlet(0.3, balanced=True),
    "shards": td.shards(2),
    "by_size_lognormal": td.by_size(td.lognormal(1.5)),
    "by_size_power": td.by_size(td.power_law(1.2), minimum=2),
}
LABELS = st.lists(st.integers(-3, 6), min_size=24, max_size=120)
strategies = pytest.mark.parametrize("name", STRATEGIES)


@strategies
@settings(max_examples=40, deadline=None)
@given(labels=LABELS, clients=st.integers(1, 8), seed=st.integers(0, 2**31))
def test_every_example_goes_to_exactly_one_client(name, labels, clients, seed):
    parts = STRATEGIES[name](np.array(labels), clients, seed)
    assert len(parts) == clients
    assert min(map(len, parts)) >= getattr(STRATEGIES[name], "minimum", 1)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    again = STRATEGIES[name](np.array(labels), clients, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@settings(max_examples=40, deadline=None)
@given(classes=st.integers(2, 6), per_client=st.integers(1, 6), clients=st.integers(1, 12), seed=st.integers(0, 99))
def test_pathological_clients_have_exactly_their_classes(classes, per_client, clients, seed):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), 12))
    if per_client > classes or per_client * clients < classes:
        with pytest.raises(ValueError, match=r"pathological: got .* expected at most"):
            td.pathological(per_client)(labels, clients, seed)
        return
    parts = td.pathological(per_client)(labels, clients, seed)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert {len(np.unique(labels[part])) for part in parts} == {per_client}
    holders = [sum(k in labels[part] for part in parts) for k in range(classes)]
    assert max(holders) - min(holders) <= 1


@settings(max_examples=60, deadline=None)
@given(ids=st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=60))
def test_natural_owners_have_their_own(ids):
    by = td.natural(ids)
    parts = by(np.zeros(len(ids)))
    assert by.names(len(parts)) == tuple(sorted(set(ids)))
    assert [set(np.array(ids)[part]) for part in parts] == [{name} for name in sorted(set(ids))]
    assert sum(map(len, parts)) == len(ids)


@settings(max_examples=200, deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12), minimum=st.integers(0, 10))
def test_raised_takes_from_the_largest_one_by_one(sizes, minimum):
    """Against the procedure itself."""
    if sum(sizes) < minimum * len(sizes):
        return
    slow = np.array(sizes)
    while slow.min() < minimum:
        slow[slow.argmax()] -= 1
        slow[slow.argmin()] += 1
    fast = raised(np.array(sizes), minimum)
    np.testing.assert_array_equal(np.sort(fast), np.sort(slow))
    assert fast.sum() == sum(sizes)
    unchanged = (np.array(sizes) >= minimum) & (np.array(sizes) <= fast.max() - 1)
    np.testing.assert_array_equal(fast[unchanged], np.array(sizes)[unchanged])


@given(total=st.integers(1, 500), shares=st.lists(st.floats(0.01, 10), min_size=1, max_size=9))
def test_apportioned_is_within_one(total, shares):
    sizes = apportioned(total, np.array(shares))
    assert sizes.sum() == total
    assert np.abs(sizes - total * np.array(shares) / sum(shares)).max() < 1 + 1e-9


LABELS_10 = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 400))


def distance(by, clients=20, seed=0):
    data = td.partition(np.zeros((4000, 1)), LABELS_10, clients, by, seed=seed)
    return data.label_distances().mean()


@pytest.mark.parametrize("balanced", [False, True])
def test_dirichlet_between_iid_and_one_class(balanced):
    """α → ∞ is as near to the pooled labels as chance is; α → 0 is a class alone, at distance 1 − 1/10."""
    near, far = (distance(td.dirichlet(alpha, minimum=1, balanced=balanced)) for alpha in (1e9, 1e-4))
    assert near < distance(td.iid()) + 0.03  # where classes are drawn, not dealt, chance is a little larger
    assert far > (0.85 if balanced else 0.6)  # by class, the few who hold classes share them with those who must have some
    middle = [distance(td.dirichlet(alpha, balanced=balanced)) for alpha in (0.05, 0.3, 2.0, 20.0)]
    assert middle == sorted(middle, reverse=True)


def test_dirichlet_by_class_has_the_law_it_states():
    """Mean and variance of a client's share of a class, over seeds: Dir_n(α) has 1/n and (n − 1)/(n²(nα + 1))."""
    n, alpha, share = 4, 0.7, []
    for seed in range(400):
        parts = td.dirichlet(alpha, minimum=1)(LABELS_10, n, seed)
        share += [np.mean(np.isin(np.flatnonzero(k == LABELS_10), parts[0])) for k in range(10)]
    assert np.mean(share) == pytest.approx(1 / n, abs=0.012)
    assert np.var(share) == pytest.approx((n - 1) / (n**2 * (n * alpha + 1)), rel=0.06)


def test_balanced_dirichlet_has_the_law_it_states():
    """The first client, which finds every class: E ‖q‖² of Dir_K(α/K) is (α/K + 1)/(α + 1)."""
    alpha, K, squares = 2.0, 10, []
    for seed in range(600):
        part = td.dirichlet(alpha, balanced=True)(LABELS_10, 20, seed)[0]
        q = np.bincount(LABELS_10[part], minlength=K) / len(part)
        squares.append((np.sum(q**2) - 1 / len(part)) / (1 - 1 / len(part)))  # unbiased for ‖q‖²
    assert np.mean(squares) == pytest.approx((alpha / K + 1) / (alpha + 1), rel=0.05)


def test_balanced_sizes_differ_by_at_most_one():
    sizes = [len(part) for part in td.dirichlet(0.01, balanced=True)(LABELS_10[:3997], 13, 5)]
    assert max(sizes) - min(sizes) <= 1


def test_seeds_differ():
    for by in STRATEGIES.values():
        first, second = by(LABELS_10, 10, 1), by(LABELS_10, 10, 2)
        assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))
