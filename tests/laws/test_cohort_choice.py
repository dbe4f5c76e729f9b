"""Cohort rules that learn from what clients reported, against what they claim.

Axes: `n` clients, `c` slots, `s` draws.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import servers
import thalweg as tw
from thalweg.cohort.base import weighted

WEIGHTS = np.array([0.05, 0.3, 0.15, 0.1, 0.2, 0.2])
LOSSES = np.array([5.0, 0.2, 1.0, 3.0, 0.1, 2.0])
SECONDS = np.array([1.0, 1.0, 20.0, 40.0, 1.0, 10.0])
N, DRAWS = 6, 20_000


def registry(seconds=None):
    return tw.cohort.Registry(jnp.asarray(WEIGHTS), jnp.ones(N) if seconds is None else jnp.asarray(seconds))


def taught(rule, field, values, known=None, seconds=None):
    """The rule's memory after a round in which the `known` clients (all when None) reported `values`."""
    everyone = tw.cohort.Draw(jnp.arange(N, dtype=jnp.int32), jnp.ones(N, bool), jnp.ones(N))
    known = jnp.ones(N, bool) if known is None else jnp.isin(jnp.arange(N), jnp.asarray(known))
    book = registry(seconds)
    return rule.learn(rule.init(book), book, everyone, known, {field: jnp.asarray(values, jnp.float32)})


def draws(rule, state, seconds=None, count=DRAWS):
    """(members, valid, factor) `[s, c]`."""
    book = registry(seconds)
    draw = jax.jit(jax.vmap(lambda key: rule.draw(state, book, key)))(jax.random.split(jax.random.key(0), count))
    members, valid = np.asarray(draw.members), np.asarray(draw.valid)
    assert all(len(set(row[there])) == there.sum() for row, there in zip(members, valid, strict=True))
    assert (np.diff(np.where(valid, members, N), axis=1)[:, 0] >= 0).all()
    return members, valid, np.asarray(draw.factor)


def frequencies(members, valid):
    return np.array([((members == i) & valid).any(1).mean() for i in range(N)])


def without_replacement(p, size):
    """P(i among the first `size`), drawn one after another in proportion to p: by recursion over what is left."""
    if size == 0:
        return np.zeros(len(p))
    total = np.zeros(len(p))
    for first in np.flatnonzero(p):
        rest = np.where(np.arange(len(p)) == first, 0, p)
        later = without_replacement(rest / max(rest.sum(), 1e-300), size - 1)
        total += p[first] * (later + (np.arange(len(p)) == first))
    return total


def test_successive_draws_have_their_exact_inclusion_probabilities():
    keys = jax.random.split(jax.random.key(1), DRAWS)
    members, there = jax.vmap(lambda key: weighted(key, jnp.asarray(WEIGHTS), 3))(keys)
    np.testing.assert_allclose(frequencies(np.asarray(members), np.asarray(there)), without_replacement(WEIGHTS, 3), atol=0.015)
    assert not weighted(keys[0], jnp.asarray([0.0, 1.0, 0.0]), 2)[1].all()  # nobody is drawn who cannot be


@pytest.mark.parametrize("known", [None, [1, 3], []])
def test_importance_is_unbiased_and_draws_what_it_says(known):
    """E factor_i·1[i drawn] = 1 for every client, whoever reported."""
    rule = tw.cohort.importance(3, mix=0.2)
    state = taught(rule, "loss", LOSSES, known)
    members, valid, factor = draws(rule, state)
    here = np.arange(N) if known is None else np.array(known, int)
    losses = np.full(N, WEIGHTS[here] @ LOSSES[here] / WEIGHTS[here].sum() if len(here) else 1.0)
    losses[here] = LOSSES[here]
    p = 0.8 * WEIGHTS * losses / (WEIGHTS @ losses) + 0.2 * WEIGHTS
    np.testing.assert_allclose(rule.probabilities(state, registry()), p, rtol=1e-6)
    np.testing.assert_allclose(frequencies(members, valid), 1 - (1 - p) ** 3, atol=0.015)
    values = np.zeros((DRAWS, N))
    for slot in range(3):
        np.add.at(values, (np.arange(DRAWS), members[:, slot]), np.where(valid[:, slot], factor[:, slot], 0))
    error = values.std(0) / np.sqrt(DRAWS)
    assert (np.abs(values.mean(0) - 1) < 4.5 * error).all()
    # The number of times in all is `size`: Σ factor_i·size·p_i over the cohort.
    np.testing.assert_allclose((np.where(valid, factor * p[members], 0)).sum(1), 1, rtol=1e-6)


def test_importance_has_less_variance_than_weights_where_changes_go_with_losses():
    spread = {}
    for rule in (tw.cohort.importance(3), tw.cohort.by_size(3)):
        state = taught(rule, "loss", LOSSES) if rule.reports else rule.init(registry())
        members, valid, factor = draws(rule, state)
        spread[type(rule)] = np.where(valid, factor * WEIGHTS[members] * LOSSES[members], 0).sum(1).std()
    assert spread[tw.cohort.Importance] < 0.3 * spread[tw.cohort.BySize]


def test_importance_without_losses_to_go_by_is_a_draw_by_weight():
    rule = tw.cohort.importance(2)
    state = taught(rule, "loss", -LOSSES)  # below zero counts as zero
    np.testing.assert_allclose(rule.probabilities(state, registry()), WEIGHTS, rtol=1e-12)


def test_power_of_choice_takes_the_worst_of_its_candidates():
    rule = tw.cohort.power_of_choice(2, 4)
    state = taught(rule, "loss", LOSSES)
    members, valid, factor = draws(rule, state)
    assert valid.all()
    np.testing.assert_allclose(factor * WEIGHTS[members], 1, rtol=1e-12)  # all count alike
    # Over every set of four candidates and its probability: which two have the largest losses.
    expected = np.zeros(N)
    for order, probability in orders(WEIGHTS, 4):
        worst = sorted(order, key=lambda i: -LOSSES[i])[:2]
        expected[worst] += probability
    np.testing.assert_allclose(frequencies(members, valid), expected, atol=0.015)
    everybody = draws(tw.cohort.power_of_choice(2, N), state, count=20)[0]
    assert (everybody == [0, 3]).all()  # losses 5 and 3


def orders(p, size, taken=()):
    """(ordered draw, its probability), of all."""
    if len(taken) == size:
        yield taken, 1.0
        return
    left = 1 - sum(p[i] for i in taken)
    for i in set(range(len(p))) - set(taken):
        for order, probability in orders(p, size, (*taken, i)):
            yield order, p[i] / left * probability


def test_power_of_choice_takes_those_first_whose_loss_is_unknown():
    rule = tw.cohort.power_of_choice(2, N)
    members = draws(rule, taught(rule, "loss", LOSSES, known=[0, 1, 3, 5]), count=20)[0]
    assert (members == [2, 4]).all()


def test_power_of_choice_with_no_choice_is_a_draw_by_weight():
    rule = tw.cohort.power_of_choice(2, 2)
    members, valid, _ = draws(rule, taught(rule, "loss", LOSSES))
    np.testing.assert_allclose(frequencies(members, valid), without_replacement(WEIGHTS, 2), atol=0.015)


def test_oort_prefers_clients_with_large_losses_and_fast_devices():
    rule = tw.cohort.oort(2, 0.0, 2.0, 5.0)
    state = taught(rule, "loss", LOSSES)
    book = registry(SECONDS)
    gain = WEIGHTS * LOSSES
    doubt = np.sqrt(0.1 * np.log(2) / 1)  # everybody reported in round 1, this is round 2
    expected = (gain / gain.max() + doubt) * np.minimum(1, 5 / SECONDS) ** 2
    np.testing.assert_allclose(rule.utility(state, book), expected, rtol=1e-6)
    slow = draws(rule, state, SECONDS, 50)[0]
    assert (slow == np.sort(np.argsort(-expected)[:2])).all()
    patient = tw.cohort.oort(2, 0.0, 0.0, 5.0)
    assert (draws(patient, state, SECONDS, 50)[0] == np.sort(np.argsort(-gain)[:2])).all()


def test_oort_doubts_what_it_heard_long_ago():
    rule, book = tw.cohort.oort(2, 0.0, 0.0, 5.0), registry()
    draw = tw.cohort.Draw(jnp.asarray([0, 3], jnp.int32), jnp.ones(2, bool), jnp.ones(2))
    state = taught(rule, "loss", np.ones(N))
    for _ in range(50):
        state = rule.learn(state, book, draw, jnp.ones(2, bool), {"loss": jnp.ones(2, jnp.float32)})
    bonus = np.asarray(rule.utility(state, book)) - WEIGHTS / WEIGHTS.max()
    np.testing.assert_allclose(bonus[[0, 3]], np.sqrt(0.1 * np.log(52) / 51), rtol=1e-6)
    np.testing.assert_allclose(bonus[[1, 2, 4, 5]], np.sqrt(0.1 * np.log(52)), rtol=1e-6)


def test_oort_explores_its_share_and_more_while_it_knows_too_few():
    rule = tw.cohort.oort(4, 0.5, 1.0, 5.0)
    members = draws(rule, taught(rule, "loss", LOSSES, known=[0, 1, 3]), SECONDS, 2000)[0]
    assert (np.isin(members, [2, 4, 5]).sum(1) == 2).all()
    speed = np.where(np.isin(np.arange(N), [2, 4, 5]), 1 / SECONDS, 0)
    expected = without_replacement(speed / speed.sum(), 2)
    found = frequencies(members, np.ones(members.shape, bool))[[2, 4, 5]]
    np.testing.assert_allclose(found, expected[[2, 4, 5]], atol=0.04)
    few = draws(rule, taught(rule, "loss", LOSSES, known=[0]), SECONDS, 100)[0]
    assert (np.isin(few, [0]).sum(1) == 1).all()
    assert (draws(rule, taught(rule, "loss", LOSSES), SECONDS, 100)[0].shape) == (100, 4)  # nobody is left to explore


def test_progress_per_bit_takes_the_largest_weighted_drift_per_second():
    rule = tw.cohort.progress_per_bit(3)
    state = taught(rule, "drift", LOSSES)
    for seconds in (None, SECONDS):
        worth = WEIGHTS * LOSSES / (1 if seconds is None else seconds)
        assert (draws(rule, state, seconds, 20)[0] == np.sort(np.argsort(-worth)[:3])).all()
    unknown = draws(rule, taught(rule, "drift", LOSSES, known=[0, 3]), None, 500)[0]
    assert np.isin(unknown, [1, 2, 4, 5]).all()
    assert (frequencies(unknown, np.ones(unknown.shape, bool))[[1, 2, 4, 5]] > 0.6).all()


def test_only_what_arrived_is_learnt():
    rule, book = tw.cohort.power_of_choice(3, 4), registry()
    draw = tw.cohort.Draw(jnp.asarray([1, 2, 0], jnp.int32), jnp.asarray([True, True, False]), jnp.ones(3))
    arrived, losses = jnp.asarray([True, False, False]), jnp.asarray([7.0, 8.0, 9.0], jnp.float32)
    state = rule.learn(rule.init(book), book, draw, arrived, {"loss": losses})
    np.testing.assert_array_equal(state, [np.inf, 7, np.inf, np.inf, np.inf, np.inf])
    state = rule.learn(state, book, draw, arrived, {"loss": jnp.full(3, jnp.nan, jnp.float32)})
    assert state[1] == 7


@pytest.mark.parametrize(
    ("rule", "extra"),
    [
        (tw.cohort.power_of_choice(2, 3), 4), (tw.cohort.importance(2), 4), (tw.cohort.oort(2, 0.5, 1.0, 10.0), 4),
        (tw.cohort.progress_per_bit(2), 4),
    ],
)  # fmt: skip
def test_what_a_rule_learns_is_in_the_bytes_and_its_clock_in_the_registry(rule, extra):
    """One single-precision number per client and round, besides the model of three double-precision ones."""
    problem, *_ = servers.clients()
    fleet = tw.Fleet(5, seconds_per_step=[1, 2, 3, 4, 5.0], upload=10.0, download=[100, 50, 50, 50, 50.0])
    algorithm = tw.FedAvg(tw.LocalSGD(0.05, steps=2), cohort=rule)
    result = servers.run(problem, algorithm, 1, fleet=fleet, keep_agents=True)
    assert result.ledger.message_bytes == 24 + extra
    assert result.history["bytes"][-1] == int(result.ledger.messages.sum()) * (24 + extra)
    took = np.asarray(result.ledger.messages) > 0
    alone = 24 / np.array([100, 50, 50, 50, 50]) + 2 * np.arange(1, 6) + (24 + extra) / 10
    np.testing.assert_allclose(result.history["clock"][-1], alone[took].max(), rtol=1e-6)


def test_choosing_the_worst_client_lowers_the_worst_loss():
    """f_i = ½(x − b_i)²: power-of-choice ends nearer to the outlier than a mean does."""
    b = np.array([0.0, 0.1, -0.1, 0.0, 4.0])
    problem = tw.Consensus(lambda x, target: 0.5 * (x - target) ** 2, b, np.zeros(()))
    solver = tw.LocalSGD(0.2, steps=1)
    far = lambda cohort: float(servers.answer(problem, tw.FedAvg(solver, cohort=cohort), 200))
    assert far(tw.cohort.power_of_choice(2, 5)) > 1.2 > 0.9 > far(None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: tw.cohort.power_of_choice(4, 3), "3 candidates for 4 places, expected at least as many"),
        (lambda: tw.cohort.power_of_choice(0, 3), "0 clients, expected a whole number"),
        (lambda: tw.cohort.power_of_choice(2, 9).slots(N), "9 clients, expected at most 6"),
        (lambda: tw.cohort.importance(2, mix=0.0), r"mix 0.0, expected a number in \(0, 1\]"),
        (lambda: tw.cohort.oort(2, 1.5, 1.0, 1.0), "exploration 1.5, expected a share"),
        (lambda: tw.cohort.oort(2, 0.5, -1.0, 1.0), "alpha -1.0, expected a number ≥ 0"),
        (lambda: tw.cohort.oort(2, 0.5, 1.0, 0.0), "preferred_seconds 0.0, expected a positive"),
        (lambda: tw.cohort.oort(7, 0.5, 1.0, 1.0).slots(N), "7 clients, expected at most 6"),
        (lambda: tw.cohort.progress_per_bit(7).slots(N), "7 clients, expected at most 6"),
        (lambda: tw.cohort.uniform(7).slots(N), "7 clients, expected at most 6"),
    ],
)
def test_rules_that_cannot_be(build, message):
    with pytest.raises(ValueError, match=message):
        build()
