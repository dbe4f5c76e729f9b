"""Robust rules are what their definitions say, withstand what they promise, and no more.

Every exported rule is compared with its definition in plain NumPy, over messages with outliers of which some did not arrive.
Axes: `n` messages, `d` numbers in each.
"""

import itertools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from thalweg import message
from thalweg.algorithm.step import traced
from thalweg.message.robust.order import NETWORK, between, comparators, nth

N, D, F, SLOTS = 11, 5, 2, 16


def cloud(n=N, d=D, seed=0, spread=1.0):
    """Messages about a centre far from zero, in directions that differ in scale."""
    rng = np.random.default_rng(seed)
    return 3.0 + spread * rng.standard_normal((n, d)) * np.geomspace(1, 4, d)


def with_liars(x, f, seed=1, size=30.0):
    """The same with `f` outliers in places of their own, some together and some apart."""
    rng, x = np.random.default_rng(seed), x.copy()
    bad = rng.choice(len(x), f, replace=False)
    x[bad] += size * (1 + 0.1 * rng.standard_normal((f, x.shape[1])))
    x[bad[: f // 2]] *= -1
    return x, bad


@eqx.filter_jit
def combined(rule, state, x, weights, arrived, key):
    return rule.combine(state, x, weights, arrived, key)[1]


def aggregate(rule, x, arrived=None, weights=None, seed=0):
    """Of the rows that arrived, dealt to slots of which some stay empty: one program for all numbers of messages and of liars."""
    n = len(x)
    arrived = np.ones(n, bool) if arrived is None else arrived
    weights = np.full(n, 1 / max(arrived.sum(), 1)) if weights is None else weights
    place = np.sort(np.random.default_rng(n).permutation(SLOTS)[:n])

    def spread(rows):
        slots = np.zeros((SLOTS, *rows.shape[1:]), rows.dtype)
        slots[place] = np.where(arrived.reshape(-1, *(1,) * (rows.ndim - 1)), rows, 0)
        return slots

    rule = traced(rule, x.dtype)
    state = rule.init(x.shape[1], x.dtype)
    weights = spread(weights.astype(x.dtype))
    return np.asarray(combined(rule, state, spread(x), weights, spread(arrived), jax.random.key(seed)))


def apart(x):
    return ((x[:, None] - x[None]) ** 2).sum(-1)


def krum_order(x, f):
    return np.argsort(np.sort(apart(x), axis=1)[:, : len(x) - f].sum(1), kind="stable")


def trimmed(x, f):
    return np.sort(x, axis=0)[f : len(x) - f].mean(0)


def around_median(x, count):
    order = np.argsort(np.abs(x - np.median(x, axis=0)), axis=0)[:count]
    return np.take_along_axis(x, order, axis=0).mean(0)


def bulyan(x, f):
    left, chosen = list(range(len(x))), []
    for _ in range(len(x) - 2 * f):
        chosen.append(left.pop(krum_order(x[left], f)[0]))
    return around_median(x[chosen], len(x) - 4 * f)


def geometric_median(x):
    """By Newton steps with a line search on the sum of distances."""
    y = np.median(x, axis=0)
    total = lambda y: np.linalg.norm(x - y, axis=1).sum()
    for _ in range(200):
        r = np.linalg.norm(x - y, axis=1)
        u = (y - x) / r[:, None]
        gradient, hessian = u.sum(0), (np.eye(x.shape[1]) - u[:, :, None] * u[:, None]).T @ (1 / r)
        step, length = np.linalg.solve(hessian, gradient), 1.0
        while total(y - length * step) > total(y) and length > 1e-9:
            length /= 2
        y = y - length * step
    return y


def minimum_diameter(x, f):
    sets = itertools.combinations(range(len(x)), len(x) - f)
    return x[list(min(sets, key=lambda s: apart(x[list(s)]).max()))].mean(0)


def covariance_filter(x, f):
    c, best, smallest = np.ones(len(x)), x.mean(0), np.inf
    while c.sum() > len(x) - 2 * f:
        mean = c @ x / c.sum()
        values, vectors = np.linalg.eigh((x - mean).T @ ((x - mean) * c[:, None]) / c.sum())
        if values[-1] < smallest:
            best, smallest = mean, values[-1]
        tau = ((x - mean) @ vectors[:, -1]) ** 2
        c = c * (1 - tau / tau[c > 0].max())
    return best


def clip(x, radius):
    return x * np.minimum(1, radius / np.linalg.norm(x, axis=1))[:, None]


def centred(x, radius, iterations):
    v = np.zeros(x.shape[1])
    for _ in range(iterations):
        v = v + clip(x - v, radius).mean(0)
    return v


def mixed(x, f):
    near = np.argsort(apart(x), axis=1)[:, : len(x) - f]
    return x[near].mean(1)


# builder → (rule that is told f, its definition); wrappers around rules that tell wrong mixtures from right ones
RULES = {
    "bucketing": (lambda f: message.bucketing(message.coordinate_median(), 1), lambda x, f: np.median(x, axis=0)),
    "bulyan": (message.bulyan, bulyan),
    "centred_clipping": (lambda f: message.centred_clipping(4.0, 3), lambda x, f: centred(x, 4.0, 3)),
    "coordinate_median": (lambda f: message.coordinate_median(), lambda x, f: np.median(x, axis=0)),
    "covariance_filter": (message.covariance_filter, covariance_filter),
    "geometric_median": (lambda f: message.geometric_median(1e-9), lambda x, f: geometric_median(x)),
    "krum": (message.krum, lambda x, f: x[krum_order(x, f)[0]]),
    "mean_around_median": (message.mean_around_median, lambda x, f: around_median(x, len(x) - f)),
    "minimum_diameter": (message.minimum_diameter, minimum_diameter),
    "multi_krum": (message.multi_krum, lambda x, f: x[krum_order(x, f)[: len(x) - f]].mean(0)),
    "nearest_neighbour_mixing": (
        lambda f: message.nearest_neighbour_mixing(f, message.trimmed_mean(f)),
        lambda x, f: trimmed(mixed(x, f), f),
    ),
    "norm_bound": (lambda f: message.norm_bound(5.0), lambda x, f: clip(x, 5.0).mean(0)),
    "trimmed_mean": (message.trimmed_mean, trimmed),
}
LOOSE = {"covariance_filter": 1e-4}  # power iteration
MIXERS = {"clipped_gossip", "nearest_neighbours", "neighbour_median", "neighbour_trimmed_mean"}
every_rule = pytest.mark.parametrize("name", RULES)


def test_every_exported_rule_is_tested():
    exported = {name for name in message.robust.__all__ if name.islower()}
    assert exported == set(RULES) | MIXERS


@every_rule
@pytest.mark.parametrize(("n", "f"), [(11, 2), (16, 3), (12, 2), (7, 1), (7, 0)])
def test_a_rule_is_its_definition(name, n, f):
    """Odd and even n, with empty slots and (16) without."""
    rule, definition = RULES[name]
    x, _ = with_liars(cloud(n), f)
    np.testing.assert_allclose(aggregate(rule(f), x), definition(x, f), rtol=LOOSE.get(name, 1e-7))


@every_rule
def test_a_fraction_is_of_those_that_arrived(name):
    x, _ = with_liars(cloud(12), 2)
    arrived = np.arange(12) != 5
    rule, _ = RULES[name]
    np.testing.assert_array_equal(aggregate(rule(2 / 11), x, arrived), aggregate(rule(2), x, arrived))


@every_rule
def test_the_order_of_messages_does_not_matter(name):
    x, _ = with_liars(cloud(), F)
    order = np.random.default_rng(5).permutation(N)
    rule = RULES[name][0](F)
    np.testing.assert_allclose(aggregate(rule, x[order]), aggregate(rule, x), rtol=LOOSE.get(name, 1e-9))


@pytest.mark.parametrize("name", sorted(set(RULES) - {"centred_clipping", "norm_bound"}))
def test_moving_and_stretching_all_messages_moves_and_stretches_the_aggregate(name):
    x, _ = with_liars(cloud(), F)
    shift, rule = np.linspace(-1e3, 1e3, D), RULES[name][0](F)
    np.testing.assert_allclose(aggregate(rule, 2 * x + shift), 2 * aggregate(rule, x) + shift, rtol=LOOSE.get(name, 1e-7))


def furthest(rule, f, n=N):
    """How far it is carried away by `f` liars that send the same, the worst of three lengths."""
    x = cloud(n, seed=7)
    sent = []
    for size in (1e1, 1e3, 1e7):
        lying = x.copy()
        lying[:f] = size
        sent.append(np.linalg.norm(aggregate(rule, lying) - x[f:].mean(0)))
    return max(sent)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"norm_bound", "centred_clipping", "bucketing"}))
def test_liars_break_a_rule_beyond_f_and_not_before(name):
    """With f of n the aggregate stays among the honest; with a majority of liars it goes where they want."""
    most = 2 if name == "bulyan" else 4 if "krum" in name else 5
    rule, spread = RULES[name][0](most), np.linalg.norm(cloud(seed=7).std(0))
    assert furthest(rule, most) < 4 * spread
    assert furthest(rule, N // 2 + 1) > 1e6


@pytest.mark.parametrize("name", ["trimmed_mean", "nearest_neighbour_mixing", "mean_around_median", "multi_krum"])
def test_a_rule_that_is_told_fewer_liars_than_there_are_breaks(name):
    """f + 1 liars who agree and lie far off in one coordinate only."""
    assert furthest(RULES[name][0](F), F) < 10
    assert furthest(RULES[name][0](F), N - F) > 1e5


def test_bounded_rules_move_no_farther_than_their_bound():
    x = cloud()
    x[:F] = 1e9
    honest = clip(x[F:], 5.0).sum(0)
    assert np.linalg.norm(N * aggregate(message.norm_bound(5.0), x) - honest) <= F * 5.0 * (1 + 1e-9)
    assert np.linalg.norm(aggregate(message.centred_clipping(0.5, 4), x)) <= 4 * 0.5


@pytest.mark.parametrize("name", [name for name in RULES if RULES[name][0](1).kappa(N, 1) is not None])
def test_kappa_is_never_exceeded(name):
    """Over all honest sets S of n − f, for messages of several shapes, and for liars who search for the worst."""
    rng, worst = np.random.default_rng(0), 0.0
    for n, f in ((7, 1), (9, 3)):
        rule = RULES[name][0](f)
        kappa = rule.kappa(n, f)
        sets = np.array(list(itertools.combinations(range(n), n - f)))
        for trial in range(60):
            x = rng.standard_normal((n, D)) * rng.choice([0.1, 1, 10], (n, 1))
            if trial % 3 == 1:  # all liars on one side, as far as the honest reach
                x[:f] = x[f:].mean(0) + rng.uniform(0, 4) * x[f:].std(0)
            if trial % 3 == 2:
                x[:f] = 100 * rng.standard_normal(D)
            found = aggregate(rule, x)
            means = x[sets].mean(1)
            variances = ((x[sets] - means[:, None]) ** 2).sum(-1).mean(1)
            ratio = (((found - means) ** 2).sum(-1) / variances).max()
            assert ratio <= kappa * (1 + 1e-9), (n, f)
            worst = max(worst, ratio / kappa)
    assert worst > 0.01, "a bound that is a hundred times too large says nothing"


def test_kappa_is_the_published_one():
    """Allouah et al. 2023, table 1, at n = 10 and f = 2: f/(n − 2f) = 1/3."""
    expected = {
        "trimmed_mean": 6 / 3 * 4 / 3,
        "krum": 6 * 4 / 3,
        "coordinate_median": 4 * 16 / 9,
        "geometric_median": 4 * 16 / 9,
    }
    for name, value in expected.items():
        assert RULES[name][0](2).kappa(10, 2) == pytest.approx(value)
    mixing = message.nearest_neighbour_mixing(2, message.krum(2))
    assert mixing.kappa(10, 2) == pytest.approx(8 * 2 / 8 * (1 + 8))
    assert message.trimmed_mean(2).kappa(4, 2) == math.inf


def test_the_geometric_median_converges_to_its_tolerance():
    """The mean of unit vectors is what its tolerance says, also where a message is the median itself."""
    x = cloud(8, seed=2)
    for tolerance in (1e-2, 1e-5, 1e-10):
        y = aggregate(message.geometric_median(tolerance), x)
        pull = (x - y) / np.linalg.norm(x - y, axis=1)[:, None]
        assert np.linalg.norm(pull.mean(0)) <= 2 * tolerance
    x[3] = geometric_median(x[[0, 1, 2, 4, 5, 6, 7]])
    np.testing.assert_allclose(aggregate(message.geometric_median(1e-8), x), x[3], atol=1e-5)


def test_buckets_are_means_of_distinct_messages_that_arrived():
    """The mean over buckets of equal size is the mean; every bucket is a mean of `size` of the messages."""
    arrived = np.arange(N + 1) != 4
    x, inner = cloud(N + 1), message.krum(0)
    found = {tuple(aggregate(message.bucketing(inner, 3), x, arrived, seed=s).round(9)) for s in range(30)}
    means = {
        tuple(m.round(9)) for k in (2, 3) for m in (x[list(c)].mean(0) for c in itertools.combinations(np.where(arrived)[0], k))
    }
    assert found <= means
    assert len(found) > 10
    whole = message.bucketing(message.trimmed_mean(0), 2)
    np.testing.assert_allclose(aggregate(whole, cloud(12)), cloud(12).mean(0), rtol=1e-12)


def test_centred_clipping_remembers():
    x, rule, ones = cloud(), message.centred_clipping(2.0), jnp.ones(N)
    state, first = rule.combine(rule.init(D, x.dtype), jnp.asarray(x), ones, ones > 0, jax.random.key(0))
    np.testing.assert_allclose(first, centred(x, 2.0, 1))
    _, second = rule.combine(state, jnp.asarray(x), ones, ones > 0, jax.random.key(0))
    np.testing.assert_allclose(second, centred(x, 2.0, 2))


def test_the_norm_bound_weighs():
    x, w = cloud(), np.random.default_rng(0).uniform(0, 1, N)
    np.testing.assert_allclose(aggregate(message.norm_bound(5.0), x, weights=w), w @ clip(x, 5.0))


@every_rule
def test_nothing_arrived_or_all_agree(name):
    rule = RULES[name][0](F)
    assert not aggregate(rule, cloud(), np.zeros(N, bool), np.zeros(N)).any()
    same = np.full((N, D), 0.25)
    np.testing.assert_allclose(aggregate(rule, same), 0.25, rtol=1e-12)
    one = np.arange(N) == 6
    if name not in ("norm_bound", "centred_clipping"):
        np.testing.assert_allclose(aggregate(rule, cloud(), one), cloud()[6], rtol=1e-12)


@pytest.mark.slow
@every_rule
def test_numbers_of_32_bits_keep_their_digits_beside_huge_ones(name):
    """Distances between honest messages do not drown in what liars send, nor do sums."""
    x = cloud()
    rule, small = RULES[name][0](F), x.astype(np.float32)
    small[:F] = 1e12 if name in ("covariance_filter", "geometric_median") else 1e25  # beyond 1e19 these leave them out
    if name in ("norm_bound", "centred_clipping"):
        assert np.isfinite(aggregate(rule, small)).all()
        return
    x[:F] = 1e8
    tolerance = 1e-2 if name == "geometric_median" else 1e-4
    np.testing.assert_allclose(aggregate(rule, small), aggregate(rule, x), rtol=tolerance)


@pytest.mark.parametrize(
    ("rule", "n", "expected"),
    [
        (message.trimmed_mean(2), 4, "more than 2·2"),
        (message.trimmed_mean(0.49), 1, None),
        (message.mean_around_median(3), 6, "more than 2·3"),
        (message.krum(2), 6, r"more than 2·2 \+ 2"),
        (message.multi_krum(2), 6, r"more than 2·2 \+ 2"),
        (message.bulyan(1), 6, r"more than 4·1 \+ 2"),
        (message.minimum_diameter(1), 40, "at most 18"),
        (message.minimum_diameter(2), 4, "more than 2·2"),
        (message.covariance_filter(2), 4, "more than 2·2"),
        (message.bucketing(message.trimmed_mean(2), 3), 12, "got 4 clients"),
        (message.nearest_neighbour_mixing(1, message.krum(2)), 6, "Krum"),
        (message.nearest_neighbour_mixing(3, message.coordinate_median()), 6, "NearestNeighbourMixing"),
        (message.neighbour_trimmed_mean(1), 2, "2 neighbours"),
        (message.nearest_neighbours(1), 2, "2 neighbours"),
    ],
)
def test_too_few_are_refused(rule, n, expected):
    if expected is None:
        rule.check(n)
        return
    with pytest.raises(ValueError, match=expected):
        rule.check(n)
    rule.check(13)


@pytest.mark.parametrize(
    "make",
    [
        lambda: message.trimmed_mean(-1),
        lambda: message.krum(0.5),
        lambda: message.multi_krum(True),
        lambda: message.bulyan(1.5),
        lambda: message.geometric_median(0.0),
        lambda: message.centred_clipping(0.0),
        lambda: message.centred_clipping(1.0, 0),
        lambda: message.norm_bound(-1.0),
        lambda: message.bucketing(message.krum(1), 0),
        lambda: message.clipped_gossip(),
        lambda: message.clipped_gossip(1.0, 0.1),
        lambda: message.clipped_gossip(share=1.0),
        lambda: message.neighbour_trimmed_mean(-1),
    ],
)
def test_rules_without_meaning_are_refused(make):
    with pytest.raises(ValueError, match="expected"):
        make()


@pytest.mark.parametrize("n", [2, 3, 8, 19, 64, NETWORK])
def test_the_network_sorts(n):
    """Zeros and ones are enough (Knuth's principle): all of few, many of many."""
    rng = np.random.default_rng(0)
    x = np.array(list(itertools.product([0, 1], repeat=n))) if n <= 8 else rng.integers(0, 2, (500, n))
    for i, j in comparators(n):
        x[:, [i, j]] = np.sort(x[:, [i, j]], axis=1)
    assert (np.diff(x, axis=1) >= 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [9, NETWORK + 7])
def test_order_statistics_with_ties_signs_and_empty_slots(n, dtype):
    """Below and beyond the size of networks; more columns than are bisected at a time."""
    rng = np.random.default_rng(1)
    x = np.round(rng.standard_normal((n, 300)) * np.geomspace(1e-20, 1e20, 300), 1 - int(n > 9)).astype(dtype)
    x[:, :40] = rng.integers(-1, 2, (n, 40))
    arrived = rng.uniform(size=n) < 0.8
    ordered, m = np.sort(x[arrived], axis=0), arrived.sum()
    for rank in (0, m // 3, m - 1):
        np.testing.assert_array_equal(jax.jit(nth)(x, arrived, rank), ordered[rank])
    for low, high in ((0, m), (m // 4, m - m // 4), (m // 2, m // 2 + 1)):
        found = jax.jit(between)(x, arrived, jnp.asarray(low), jnp.asarray(high))
        exact = ordered[low:high].astype(float).mean(0)
        scale = np.abs(ordered[low:high]).max(0).astype(float) + 1e-300
        np.testing.assert_allclose(found / scale, exact / scale, atol=200 * np.finfo(dtype).eps)


# Mixers: (own, neighbours that count, their weights) → combined message.


def gossip(own, x, w, f):
    return own + w @ clip(x - own, 2.0)


def adaptive(own, x, w, share):
    squares = ((x - own) ** 2).sum(1)
    order, left, total = np.argsort(-squares), share, 0.0
    for j in order:
        out = min(left, w[j])
        left -= out
        total += (w[j] - out) * squares[j]
    return own + w @ clip(x - own, np.sqrt(total / share))


def screened(own, x, w, f):
    kept = np.sort(x, axis=0)[f : len(x) - f]
    return np.vstack([kept, own]).mean(0)


def nearest(own, x, w, f):
    near = np.argsort(((x - own) ** 2).sum(1))[: len(x) - f]
    return np.vstack([x[near], own]).mean(0)


@pytest.mark.parametrize(
    ("mixer", "definition", "f"),
    [
        (message.clipped_gossip(2.0), gossip, None),
        (message.clipped_gossip(share=0.3), adaptive, 0.3),
        (message.neighbour_trimmed_mean(2), screened, 2),
        (message.neighbour_trimmed_mean(0.25), screened, 2),
        (message.neighbour_median(), lambda own, x, w, f: np.median(np.vstack([x, own]), axis=0), None),
        (message.nearest_neighbours(2), nearest, 2),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, message.Mixer) else "",
)
def test_a_mixer_is_its_definition(mixer, definition, f):
    rng, slots = np.random.default_rng(0), 11
    arrived = rng.permutation(slots) < 8
    x, _ = with_liars(cloud(slots), 2)
    own = cloud(1, seed=9)[0]
    weights = np.where(arrived, rng.uniform(0.5, 1, slots) / slots, 0)
    mix = lambda *args: mixer.mix(*map(jnp.asarray, args))
    found = mix(own, np.where(arrived[:, None], x, own), weights, 1 - weights.sum(), arrived)
    np.testing.assert_allclose(found, definition(own, x[arrived], weights[arrived], f), rtol=1e-12)
    alone = mix(own, np.tile(own, (slots, 1)), 0 * weights, 1.0, np.zeros(slots, bool))
    np.testing.assert_allclose(alone, own)
