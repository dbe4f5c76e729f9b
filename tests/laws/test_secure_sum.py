"""Secure sums: exact in the ring, within the stated bound of the real sum, with the stated noise, refused where they are unsound.

Axes: `c` slots of a cohort, `d` numbers of a message.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import servers
import thalweg as tw
from thalweg.message import Flow, Stage, secure, secure_sum
from thalweg.message.noise_shares import discrete_gaussian
from thalweg.message.ring import fitted

KEY = jax.random.key_data(jax.random.key(3))


def combined(aggregator, messages, weights, arrived=None, normalise=False, key=KEY):
    """The aggregate `[d]` of a cohort in which all arrive unless said otherwise."""
    c = len(messages)
    arrived = np.ones(c, bool) if arrived is None else arrived
    found = aggregator.resolve(c, normalise)
    return np.asarray(jax.jit(found.combine)((), jnp.asarray(messages), jnp.asarray(weights), jnp.asarray(arrived), key)[1])


@pytest.mark.parametrize(
    ("bits", "dtype", "c"), [(16, "float64", 7), (32, "float64", 7), (32, "float32", 60), (16, "float32", 3)]
)
def test_the_sum_is_within_the_bound(bits, dtype, c):
    rng = np.random.default_rng(0)
    weights, messages = rng.uniform(0.5, 1.5, c) / c, rng.uniform(-1.2, 1.2, (c, 2000))
    aggregator = secure_sum(2.0, bits=bits)
    error = np.abs(combined(aggregator, messages.astype(dtype), weights.astype(dtype)) - weights @ messages)
    assert error.max() <= aggregator.error_bound(c, dtype)


def test_the_bound_is_nearly_attained():
    """Numbers that lie 0.9 of a step above a level: among many, some are rounded down by all three clients."""
    aggregator = secure_sum(2.0, bits=16)
    ring = aggregator.resolve(3, False).ring
    levels = np.floor(np.random.default_rng(0).uniform(-0.5, 0.5, (3, 20_000)) * ring.levels) + 0.9
    messages, equal = levels * float(ring.step), np.full(3, 1 / 3)
    error = np.abs(combined(aggregator, messages, equal) - equal @ messages)
    assert 0.85 * aggregator.error_bound(3) <= error.max() <= aggregator.error_bound(3)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("c", [2, 5, 64, 1000])
def test_sums_of_the_largest_numbers_do_not_wrap_around(bits, c):
    for sign in (1, -1):
        found = combined(secure_sum(3.0, bits=bits), sign * np.full((c, 2), 100.0), np.full(c, 1 / c))
        np.testing.assert_allclose(found, sign * 3.0, rtol=1e-12)
    ring = fitted(c, bits, 3.0, None, 0.0)
    assert c * ring.levels < 2 ** (bits - 1)
    if bits == 16:  # and it is the finest one: of more bits, only those that single precision knows
        assert c * (ring.levels + 1) >= 2**15


def test_rounding_is_right_on_average_and_never_further_than_a_step():
    ring = fitted(4, 16, 1.0, None, 0.0)
    values = jnp.asarray([0.0, 0.3, -0.7123, 1.0, -1.0, 5.0])
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 20_000))
    found = np.asarray(jax.jit(jax.vmap(lambda key: ring.encode(values, key)))(keys)) * float(ring.step)
    true = np.clip(np.asarray(values), -1, 1)
    assert np.abs(found - true).max() < float(ring.step)
    assert (np.abs(found.mean(0) - true) <= 5 * 0.5 * float(ring.step) / np.sqrt(len(keys))).all()


def test_whole_numbers_enter_and_leave_the_ring():
    for bits in (16, 32):
        ring = fitted(4, bits, 1.0, None, 0.0)
        whole = jnp.asarray([0, 1, -1, ring.levels, -ring.levels, 2 ** (bits - 1) - 1, -(2 ** (bits - 1))], jnp.int32)
        np.testing.assert_array_equal(np.asarray(ring.enter(whole)), np.asarray(whole).astype(f"uint{bits}"))
        np.testing.assert_array_equal(ring.leave(ring.enter(whole)), whole)


@pytest.mark.parametrize(("bits", "c"), [(16, 6), (16, 1000), (32, 6)])
def test_weights_are_summed_unseen(bits, c):
    """The mean over those that arrived, the weights going into the sum as digits."""
    rng = np.random.default_rng(1)
    weights, messages, arrived = rng.uniform(0.1, 3, c) / c, rng.standard_normal((c, 50)), rng.uniform(size=c) < 0.8
    aggregator = secure_sum(40.0, bits=bits)
    exact = (weights * arrived) @ messages / (weights * arrived).sum()
    share = (weights * arrived).sum()
    bound = aggregator.error_bound(c) / share + np.abs(exact).max() * c * 2.0**-25 / share
    assert np.abs(combined(aggregator, messages, weights, arrived, normalise=True) - exact).max() <= bound


def test_weights_of_any_size_survive_their_digits():
    for c, bits in ((2, 16), (1000, 16), (32000, 16), (100, 32)):
        ring = fitted(c, bits, 1.0, None, 0.0)
        weights = jnp.asarray([0.0, 1e-7, 0.37, 1.0, 255.9])
        digits = jax.vmap(ring.encode_weight)(weights)
        assert int(digits.min()) >= 0
        assert int(digits.max()) <= ring.levels
        np.testing.assert_allclose(ring.decode_weight(digits.sum(0), jnp.float64), weights.sum(), atol=5 * 2.0**-25)


def test_whoever_does_not_arrive_does_not_count_whatever_it_holds():
    rng = np.random.default_rng(2)
    messages, weights, arrived = rng.standard_normal((6, 4)), np.full(6, 1 / 6), np.array([1, 1, 0, 1, 1, 1], bool)
    messages[2] = np.nan
    exact = weights[arrived] @ messages[arrived]
    aggregator = secure_sum(8.0)
    np.testing.assert_allclose(combined(aggregator, messages, weights, arrived), exact, atol=aggregator.error_bound(6))
    assert np.isnan(combined(aggregator, messages, weights)).all()


def test_a_round_without_enough_clients_is_void():
    aggregator = secure_sum(8.0, dropouts=2).resolve(6, False)
    accept = lambda arrived, drawn: np.asarray(aggregator.accept(jnp.asarray(arrived, bool), jnp.asarray(drawn, bool))).sum()
    assert accept([1, 1, 0, 1, 0, 1], [1] * 6) == 4
    assert accept([1, 1, 0, 1, 0, 0], [1] * 6) == 0
    assert accept([1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 0, 1]) == 0  # half of four might be told another story
    assert accept([1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 1, 1]) == 3
    nobody = combined(secure_sum(8.0, dropouts=2), np.ones((6, 2)), np.full(6, 1 / 6), np.zeros(6, bool))
    assert not nobody.any()


class Facts(Stage):
    """A pipeline of which this is known."""

    changes: tuple

    def after(self, flow):
        return flow.but(**dict(self.changes))

    def init(self, spec):
        return ()

    def encode(self, state, message, key):
        return state, message, message

    def decode(self, wire, spec):
        return wire


UNSOUND = [
    (Facts((("fixed", False),)), "chooses its own coordinates"),
    (Facts((("memory", True),)), "left out"),
    (Facts((("replicated", True),)), "copy"),
    (tw.message.cast("float16"), "ring quantises by itself"),
]


@pytest.mark.parametrize(("stage", "why"), UNSOUND)
def test_pipelines_whose_wires_do_not_add_up_are_refused(stage, why):
    problem = servers.clients()[0]
    with pytest.raises(ValueError, match=why):
        tw.solve(problem, tw.FedAvg(tw.LocalSGD(0.1, steps=2)), rounds=2, uplink=stage, aggregate=secure_sum(1.0))


REFUSED = [
    ({"range": 0.0}, "range"),
    ({}, "neither range nor clip"),
    ({"range": 1.0, "bits": 8}, "bits"),
    ({"range": 1.0, "step": 0.0}, "step"),
    ({"range": 1.0, "clip": 1.0}, "belong together"),
    ({"range": 1.0, "noise_multiplier": 1.0}, "belong together"),
    ({"noise_multiplier": -1.0, "clip": 1.0}, "above 0"),
]


@pytest.mark.parametrize(("arguments", "why"), REFUSED)
def test_numbers_out_of_range_are_refused(arguments, why):
    with pytest.raises(ValueError, match=why):
        secure_sum(**arguments)


SETTLED = [
    ({"range": 1.0, "bits": 16, "step": 1e-3}, 40, r"40 clients.*1000 levels, expected at most 32767.*bits=32"),
    ({"range": 1.0, "step": 1e-8}, 40, "coarser step"),
    ({"range": 1.0}, 1, "sum of one message"),
    ({"range": 1.0, "dropouts": 3}, 6, "expected 0 to 2"),
    ({"range": 1.0, "degree": 4, "dropouts": 12}, 30, "larger degree"),
    ({"noise_multiplier": 0.5, "clip": 1.0, "bits": 16}, 2000, "shares of deviation"),
]


@pytest.mark.parametrize(("arguments", "clients", "why"), SETTLED)
def test_cohorts_that_do_not_fit_are_refused_with_the_numbers(arguments, clients, why):
    with pytest.raises(ValueError, match=why):
        secure_sum(**arguments).resolve(clients, False)


def test_the_smaller_ring_is_chosen_where_it_is_fine_enough():
    assert secure_sum(1.0, step=1e-2).resolve(40, False).ring.bits == 16
    assert secure_sum(1.0, step=1e-3).resolve(40, False).ring.bits == 32
    assert float(secure_sum(1.0, step=0.3).resolve(4, False).ring.step) <= 0.3


def test_what_would_show_single_clients_is_refused_beside_it():
    problem = servers.clients()[0]
    learns = tw.FedAvg(tw.LocalSGD(0.1, steps=2), cohort=tw.cohort.power_of_choice(3, 5))
    with pytest.raises(ValueError, match="in the clear"):
        tw.solve(problem, learns, rounds=2, aggregate=secure_sum(1.0))
    with pytest.raises(ValueError, match="before they know how late"):
        tw.solve(
            problem, tw.FedAvg(tw.LocalSGD(0.1, steps=2)), rounds=2, aggregate=secure_sum(1.0),
            engine=tw.EventDriven(buffer=2), fleet=tw.Fleet(5, seconds_per_step=1.0),
        )  # fmt: skip
    with pytest.raises(ValueError, match="one client can change"):
        secure_sum(noise_multiplier=1.0, clip=1.0).resolve(5, True)
    large = tw.quadratic(np.broadcast_to(np.eye(400), (5, 400, 400)), np.zeros((5, 400)))
    coarse = secure_sum(noise_multiplier=1.0, clip=1.0, bits=16, step=0.05)
    with pytest.raises(ValueError, match="rounding may"):
        tw.solve(large, tw.FedAvg(tw.LocalSGD(0.1, steps=2)), rounds=2, aggregate=coarse)


# A whole run.

RATE, STEPS = 0.1, 3
ALGORITHM = tw.FedAvg(tw.LocalSGD(RATE, steps=STEPS))


def contraction(A, w):
    """‖M‖ of FedAvg's map x ↦ Mx + v on quadratics: M = Σ w_i (I − αA_i)^K."""
    return np.linalg.norm(
        sum(wi * np.linalg.matrix_power(np.eye(len(Ai)) - RATE * Ai, STEPS) for wi, Ai in zip(w, A, strict=True)), 2
    )


def test_fedavg_ends_where_it_does_in_the_clear_within_the_stated_bound():
    problem, A, _, w, _ = servers.clients()
    aggregator = secure_sum(4.0, bits=16)
    plain, secure = (servers.answer(problem, ALGORITHM, 80, **options) for options in ({}, {"aggregate": aggregator}))
    bound = np.sqrt(len(plain)) * aggregator.error_bound(5) / (1 - contraction(A, w))
    assert 0 < np.linalg.norm(secure - plain) <= bound
    assert bound < 0.02


@pytest.mark.slow
def test_engines_agree_bit_by_bit_and_with_the_clear_run():
    """Weights go into the sum, since it depends on a client's speed whether it arrives; two of eight never do."""
    problem, _, _, w, _ = servers.clients(8, weights=(1, 2, 3, 1, 2, 1, 4, 2))
    slow = np.array([1.0, 9.0, 1.1, 2.0, 1.0, 1.0, 1.5, 9.0])
    fleet = tw.Fleet(8, seconds_per_step=slow, deadline=7.0, dropout=np.where(np.arange(8) == 6, 0.3, 0.0))
    aggregator, options = secure_sum(8.0, dropouts=3), {"fleet": fleet}
    engines = tw.Simulated(deterministic=True), tw.Debug(), tw.Sharded(devices=2, deterministic=True)
    runs = [servers.run(problem, ALGORITHM, 8, aggregate=aggregator, engine=engine, **options) for engine in engines]
    for other in runs[1:]:
        np.testing.assert_array_equal(runs[0].x, other.x)
    plain = servers.run(problem, ALGORITHM, 8, **options)
    share = 1 - w[1] - w[7] - w[6]  # the least that arrives
    difference = np.abs(np.asarray(runs[0].x) - np.asarray(plain.x)).max()
    assert 0 < difference <= 8 * (aggregator.error_bound(8) + 8 * 8 * 2.0**-25) / share


@pytest.mark.slow
def test_a_run_that_pays_for_the_cryptography_ends_at_the_same_bits():
    pytest.importorskip("cryptography")
    problem, fleet = servers.clients()[0], tw.Fleet(5, dropout=0.15)
    aggregators = [secure_sum(8.0, dropouts=2, protocol=protocol) for protocol in (False, True)]
    clear, sealed = (
        servers.run(problem, ALGORITHM, 6, fleet=fleet, deterministic=True, aggregate=aggregator) for aggregator in aggregators
    )
    np.testing.assert_array_equal(clear.x, sealed.x)
    transcript = secure.simulate(np.zeros((5, 3), np.uint32), threshold=3)
    assert clear.ledger.message_bytes == transcript.sent[0]


def test_rounds_with_too_many_drop_outs_leave_everything_as_it_was():
    problem = servers.clients()[0]
    fleet, reference = tw.Fleet(5, dropout=0.3), tw.reference(problem)
    result = servers.run(
        problem, ALGORITHM, 60, every=1, fleet=fleet, aggregate=secure_sum(30.0, dropouts=1), reference=reference
    )
    participants, error = (np.asarray(result.history[name]) for name in ("participants", "error"))
    assert set(participants[1:].tolist()) == {0, 4, 5}
    np.testing.assert_array_equal(np.diff(error) != 0, participants[1:] > 0)


# Noise in shares.


def pmf(variance, most):
    x = np.arange(-most, most + 1)
    p = np.exp(-(x**2) / (2 * variance))
    return p / p.sum()


def chi_square(values, p):
    """p-value of whole numbers against the probabilities `p` of −most … most; rare values together."""
    most = len(p) // 2
    found, expected = np.bincount(values + most, minlength=len(p)), len(values) * p
    common = expected >= 8
    return stats.chisquare(
        np.append(found[common], found[~common].sum()), np.append(expected[common], expected[~common].sum())
    ).pvalue


def test_noise_is_a_discrete_gaussian():
    variances = np.array([0.3, 4.0, 61.7])
    draw = jax.jit(jax.vmap(lambda key, v: discrete_gaussian(key, (60_000,), v)))
    for values, variance in zip(np.asarray(draw(jax.random.split(jax.random.key(3), 3), variances)), variances, strict=True):
        assert chi_square(values, pmf(variance, 200)) > 1e-4


@pytest.mark.parametrize("variance", [1, 5, 60])
def test_exact_noise_is_a_discrete_gaussian(variance):
    random = np.random.default_rng(variance)
    values = secure.discrete_gaussian(variance, 20_000, random.bytes)
    assert chi_square(values, pmf(variance, 100)) > 1e-4


def test_exact_noise_of_a_large_deviation():
    """Against the normal distribution, from which it cannot be told apart at this width; odd numbers are as many as even ones."""
    deviation = 10**7
    values = secure.discrete_gaussian(deviation**2, 5000, np.random.default_rng(0).bytes)
    assert stats.kstest(values / deviation, stats.norm.cdf).pvalue > 1e-4
    assert abs((values % 2).mean() - 0.5) < 5 * 0.5 / np.sqrt(5000)
    with pytest.raises(ValueError, match="round it up"):
        secure.discrete_gaussian(0, 1)


@pytest.mark.parametrize("gone", [0, 2])
def test_the_sum_carries_the_noise_that_was_asked_for_whoever_drops_out(gone):
    """Shares of the survivors add up to the convolution of their laws; with `dropouts` of them away its deviation is z·clip."""
    c, z, clip, d = 6, 0.8, 1.5, 20_000
    aggregator = secure_sum(noise_multiplier=z, clip=clip, dropouts=2, step=0.004, range=1.0)
    ring, arrived = aggregator.resolve(c, False).ring, np.arange(c) >= gone
    mean = combined(dataclasses.replace(aggregator, step=0.004), np.zeros((c, d)), np.full(c, 1 / c), arrived)
    total = np.round(mean * c / float(ring.step)).astype(int)
    deviation = z * clip / float(ring.step)
    assert abs(total.std() / (deviation * np.sqrt((c - gone) / (c - 2))) - 1) < 5 / np.sqrt(2 * d)
    share = pmf(deviation**2 / (c - 2), int(12 * deviation / 2))
    law = share
    for _ in range(c - gone - 1):
        law = np.convolve(law, share)
    edges = np.unique(np.quantile(total, np.linspace(0, 1, 60)).astype(int))[1:-1]
    cumulative = np.cumsum(law)[edges + len(law) // 2]
    expected = d * np.diff(np.concatenate([[0], cumulative, [1]]))
    found = np.diff(np.concatenate([[0], [(total <= e).sum() for e in edges], [d]]))
    assert stats.chisquare(found, expected, sum_check=False).pvalue > 1e-4


def test_no_rounded_message_is_longer_than_what_the_noise_hides():
    """The composition's fact is about what is really sent: integers, after clipping and rounding."""
    aggregator = secure_sum(noise_multiplier=1.0, clip=1.0, bits=16).resolve(5, False)
    ring, rng = aggregator.ring, np.random.default_rng(0)
    messages = rng.standard_normal((200, 300)) * rng.uniform(0.01, 5, (200, 1))
    sent = jax.jit(jax.vmap(lambda m, key: aggregator.seal(m, jnp.asarray(0.2), key, 0, 5, noisy=False)))
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), 200))
    lengths = np.linalg.norm(np.asarray(ring.leave(sent(jnp.asarray(messages), keys))) * float(ring.step), axis=1)
    assert lengths.max() <= 1.0
    assert lengths.max() > 0.9
    (mechanism,) = aggregator.after(Flow()).noise
    assert (mechanism.kind, mechanism.noise_multiplier, mechanism.bound) == ("discrete_gaussian", 1.0, 1.0)


def test_facts_about_the_sum():
    assert secure_sum(2.0).after(Flow(norm=1.0)).unbiased
    assert not secure_sum(2.0).after(Flow(norm=3.0)).unbiased
    assert not secure_sum(2.0).after(Flow()).unbiased
    assert not secure_sum(2.0).individual
    assert not secure_sum(2.0).unweighted


@pytest.mark.slow
def test_a_budget_is_spent_as_by_central_noise_that_is_as_large():
    """Poisson cohorts, whose size varies: shares are made for those that were drawn."""
    pytest.importorskip("dp_accounting")
    problem = tw.quadratic(np.ones((40, 1, 1)), np.arange(40.0)[:, None] / 40)
    method = tw.FedAvg(tw.LocalSGD(0.1, steps=2), cohort=tw.cohort.poisson(0.3))
    budget = tw.privacy.Budget(epsilon=8.0, delta=1e-4)
    aggregators = secure_sum(noise_multiplier=2.0, clip=1.0, dropouts=1), tw.message.noisy_mean(2.0, 1.0)
    runs = [servers.run(problem, method, 12, every=4, aggregate=aggregator, privacy=budget) for aggregator in aggregators]
    np.testing.assert_allclose(runs[0].ledger.epsilon, runs[1].ledger.epsilon, rtol=1e-6)
    assert "nobody but the client itself" in runs[0].config["privacy"]
    assert np.asarray(runs[0].history["participants"])[1:].min() > 0
