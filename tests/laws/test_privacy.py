"""Differential privacy: accountants against closed forms, mechanisms against their definitions, compositions that are refused.

Axes: `n` clients, `d` numbers of a message, `m` examples, `k` rounds.
"""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import toeplitz
from scipy.optimize import brentq
from scipy.stats import kstest, norm

import thalweg as tw
from thalweg import message as ms
from thalweg.privacy import Account, Budget, audit, calibrate, reconstruct

pytest.importorskip("dp_accounting")
BUDGET = Budget(2.0, 1e-4)


def gaussian_epsilon(multiplier, delta):
    """ε of the Gaussian mechanism, exactly. Borja Balle and Yu-Xiang Wang, ICML 2018, Theorem 8."""
    s = 1 / multiplier
    leak = lambda e: norm.cdf(s / 2 - e / s) - np.exp(e) * norm.cdf(-s / 2 - e / s) - delta
    return brentq(leak, 0, 500)


def account(**changes):
    return Account(**{
        "unit": "client", "adjacency": "add or remove one", "sees": "the server", "kind": "gaussian", "noise_multiplier": 1.3,
    } | changes)  # fmt: skip


@pytest.mark.parametrize("rounds", [1, 7, 60])
def test_gaussian_rounds_against_the_exact_mechanism(rounds):
    """k rounds of multiplier z are one of z/√k."""
    exact = gaussian_epsilon(1.3 / np.sqrt(rounds), 1e-5)
    assert account().epsilon(rounds, 1e-5, "pld") == pytest.approx(exact, rel=2e-3)
    assert exact <= account().epsilon(rounds, 1e-5) <= 1.15 * exact


def test_laplace_costs_its_scale_and_sampling_costs_less():
    laplace = account(kind="laplace", noise_multiplier=2.0)
    assert laplace.epsilon(3, 1e-12) == pytest.approx(1.5, rel=1e-2)
    full, sampled = account().epsilon(20, 1e-5), account(sampling_rate=0.1).epsilon(20, 1e-5)
    assert sampled < 0.25 * full
    assert account(sampling_rate=1.0).epsilon(20, 1e-5) == full


def test_overflow_is_taken_out_of_delta_and_a_cycle_counts_once():
    plain, cut = account(sampling_rate=0.1), account(sampling_rate=0.1, overflow=4e-7)
    assert cut.epsilon(20, 1e-5) == pytest.approx(plain.epsilon(20, 1e-5 - 20 * 4e-7), rel=1e-12)
    assert cut.epsilon(30, 1e-5) == np.inf
    assert account(cycle=10).epsilon(25, 1e-5, "pld") == pytest.approx(gaussian_epsilon(1.3 / np.sqrt(3), 1e-5), rel=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_calibrated_noise_spends_the_budget(accountant):
    z = calibrate(2.0, 1e-5, rounds=30, sampling_rate=0.05, accountant=accountant)
    found = account(noise_multiplier=z, sampling_rate=0.05)
    assert 1.97 <= found.epsilon(30, 1e-5, accountant) <= 2.0 + 1e-3
    assert found.rounds(Budget(2.0 + 1e-3, 1e-5, accountant), 100) in (30, 31)


def mean_of(rule, messages, weights, arrived, keys, state=None):
    """[keys, d] of the rule's aggregates."""
    state = rule.init(messages.shape[1], messages.dtype) if state is None else state
    return jax.vmap(lambda key: rule.combine(state, messages, weights, arrived, key)[1])(keys)


def rule(**options):
    return dataclasses.replace(ms.noisy_mean(**({"noise_multiplier": 1.5, "clip": 2.0} | options)), largest=0.25)


def test_a_noisy_mean_has_the_noise_it_says_even_where_nobody_came():
    keys = jax.random.split(jax.random.key(0), 4000)
    nobody = mean_of(rule(), jnp.zeros((4, 3)), jnp.zeros(4), jnp.zeros(4, bool), keys)
    assert kstest(np.ravel(nobody) / (1.5 * 2.0 * 0.25), "norm").pvalue > 1e-3


def test_one_client_changes_a_noisy_mean_by_its_bound_at_most():
    """Whatever it sends; the noise is the same under the same key."""
    rng, key = np.random.default_rng(1), jax.random.split(jax.random.key(1), 1)
    messages, weights = jnp.asarray(rng.normal(size=(4, 3))), jnp.full(4, 0.25)
    present = jnp.ones(4, bool)
    absent = mean_of(rule(), messages, weights.at[2].set(0), present.at[2].set(False), key)[0]
    for sent in (1e-3, 10.0, 1e300, np.inf, np.nan):
        changed = mean_of(rule(), messages.at[2].set(sent * np.array([1.0, -2.0, 0.5])), weights, present, key)[0]
        moved = np.linalg.norm(changed - absent)
        assert moved <= 0.25 * 2.0 * (1 + 1e-12)
        if sent == 10.0:
            assert moved == pytest.approx(0.5, rel=1e-12)


def test_banded_noise_is_white_under_its_matrix_and_takes_itself_back():
    """C ν = ζ for the banded Toeplitz C; prefix sums of ν then have variances of the rows of A C⁻¹."""
    bands, rounds, runs = 6, 24, 3000
    made = rule(bands=bands)
    nothing, mask = jnp.zeros((1, 1)), jnp.zeros(1, bool)

    def one(key):
        step = lambda state, k: made.combine(state, nothing, jnp.zeros(1), mask, jax.random.fold_in(key, k))
        return jax.lax.scan(step, made.init(1, jnp.float64), jnp.arange(rounds))[1][:, 0]

    noise = np.asarray(jax.vmap(one)(jax.random.split(jax.random.key(2), runs))) / (1.5 * 2.0 * 0.25)
    C = toeplitz(np.r_[made.coefficients, np.zeros(rounds - bands)], np.zeros(rounds))
    assert kstest((noise @ C.T).ravel(), "norm").pvalue > 1e-3
    predicted = np.sum((np.tri(rounds) @ np.linalg.inv(C)) ** 2, axis=1)
    np.testing.assert_allclose(np.var(np.cumsum(noise, axis=1), axis=0), predicted, rtol=0.15)
    assert (
        predicted[-1] * made.coefficients @ made.coefficients < 0.6 * rounds
    )  # at equal privacy, independent noise has `rounds`
    columns = C[:, ::bands]
    gram = columns.T @ columns
    assert np.abs(gram - np.diag(np.diag(gram))).max() == 0  # so that a client's changes in several cycles do not add up


def test_an_adaptive_norm_finds_its_quantile():
    rng = np.random.default_rng(3)
    lengths = rng.uniform(0.5, 5.0, 400)
    messages = jnp.asarray(lengths[:, None] * np.array([[1.0, 0.0]]))
    made = dataclasses.replace(ms.noisy_mean(1.0, 1.0, quantile=0.7, count_noise=5.0), largest=1 / 400)
    step = lambda state, key: (made.combine(state, messages, jnp.full(400, 1 / 400), jnp.ones(400, bool), key)[0], state.clip)
    _, clips = jax.lax.scan(step, made.init(2, jnp.float64), jax.random.split(jax.random.key(3), 150))
    assert np.mean(lengths <= np.mean(clips[-50:])) == pytest.approx(0.7, abs=0.03)


def binary(x, example):
    z = example["x"] @ x["w"] + x["b"]
    return jax.nn.softplus(z) - example["y"] * z


def clients(n=6, m=12, d=3, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, d))
    data = []
    for i in range(n):
        X = rng.normal(size=(m + i, d)) + 0.3 * i
        data.append({"x": X, "y": (X @ truth[i] > 0).astype(float)})
    return tw.EmpiricalRisk(binary, data, {"w": np.zeros(d), "b": np.zeros(())}, weights="uniform"), data


@pytest.mark.filterwarnings("ignore:noise is added")
def test_private_steps_against_their_definition():
    """q = 1 and next to no noise: one step from 0 is the mean of clipped gradients."""
    problem, data = clients()
    solver = tw.PrivateSGD(0.7, noise_multiplier=1e-9, clip=0.6, sampling_rate=1.0)
    result = tw.solve(problem, tw.FedAvg(solver), rounds=1)
    wanted = []
    for own in data:
        gradients = (0.5 - own["y"])[:, None] * np.c_[own["x"], np.ones(len(own["y"]))]
        lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
        wanted.append(-0.7 * (gradients * np.minimum(1, 0.6 / lengths)).mean(axis=0))
    np.testing.assert_allclose(np.r_[result.x["w"], result.x["b"]], np.mean(wanted, axis=0), atol=1e-8)


@pytest.mark.filterwarnings("ignore:noise is added")
def test_private_steps_neither_clip_nor_hide_a_regulariser():
    """Two steps on examples whose gradients are clipped, with ½λ‖x‖² as it is."""
    _, data = clients()
    one = [{"x": own["x"] + 2.0, "y": own["y"]} for own in data]
    x0 = {"w": np.full(3, 5.0), "b": np.asarray(1.0)}
    problem = tw.EmpiricalRisk(binary, one, x0, weights="uniform", regularizer=tw.l2(0.3))
    solver = tw.PrivateSGD(0.5, noise_multiplier=1e-9, clip=0.2, sampling_rate=1.0, steps=2)
    result = tw.solve(problem, tw.FedAvg(solver), rounds=1)
    ends = []
    for own in one:
        y, rows = np.r_[x0["w"], x0["b"]], np.c_[own["x"], np.ones(len(own["y"]))]
        for _ in range(2):
            gradients = (1 / (1 + np.exp(-rows @ y)) - own["y"])[:, None] * rows
            lengths = np.linalg.norm(gradients, axis=1, keepdims=True)
            y = y - 0.5 * ((gradients * np.minimum(1, 0.2 / np.maximum(lengths, 1e-300))).mean(axis=0) + 0.3 * y)
        ends.append(y)
    np.testing.assert_allclose(np.r_[result.x["w"], result.x["b"]], np.mean(ends, axis=0), atol=1e-8)


def test_private_steps_draw_every_example_by_a_coin_of_its_own():
    """The variance of the undamped gradient under Poisson sampling, (1 − q)/(q m²) Σ ‖g_j‖², and no bias."""
    problem, data = clients(n=1, m=40)
    solver = tw.PrivateSGD(1.0, noise_multiplier=1e-12, clip=1e3, sampling_rate=0.3)
    local = problem.local(jax.tree.map(lambda leaf: leaf[0], problem.pieces))

    def moved(key):
        context = type("Context", (), {"key": key, "round": jnp.asarray(0), "budget": None, "unroll": False})
        return solver.run(local, problem.x0, context).x

    steps = jax.vmap(moved)(jax.random.split(jax.random.key(5), 6000))
    rows = np.c_[steps["w"], steps["b"]]
    gradients = (0.5 - data[0]["y"])[:, None] * np.c_[data[0]["x"], np.ones(40)]
    variance = 0.7 / 0.3 * np.sum(gradients**2, axis=0) / 40**2
    np.testing.assert_allclose(rows.mean(axis=0), -gradients.mean(axis=0), atol=4 * np.sqrt(variance.max() / 6000))
    np.testing.assert_allclose(rows.var(axis=0), variance, rtol=0.12)


RUNS = {
    "clients": lambda: ({"cohort": tw.cohort.poisson(0.5)}, {"aggregate": ms.noisy_mean(4.0, 0.5)}),
    "cycles": lambda: ({"cohort": tw.cohort.cyclic(2)}, {"aggregate": ms.noisy_mean(6.0, 0.5, bands=3)}),
    "quantile": lambda: ({}, {"aggregate": ms.noisy_mean(9.0, 0.5, quantile=0.5, count_noise=9.0)}),
    "messages": lambda: ({}, {"uplink": ms.chain(ms.clip(0.5), ms.gaussian(9.0))}),
    "examples": lambda: ({"solver": tw.PrivateSGD(0.2, 2.0, 1.0, 0.2)}, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n in ("clients", "cycles") else pytest.param(n, marks=pytest.mark.slow) for n in RUNS])
def test_runs_stop_within_their_budget_and_engines_agree(name):
    problem, _ = clients()
    algorithm, options = RUNS[name]()
    algorithm = tw.FedAvg(**({"solver": tw.LocalSGD(0.3, steps=2)} | algorithm))
    run = lambda **more: tw.solve(problem, algorithm, rounds=60, every=1, privacy=BUDGET, **options, **more)
    result = run(deterministic=True)
    assert result.outcome is tw.Outcome.PRIVACY
    assert 0 < result.rounds < 60
    assert result.ledger.epsilon[0] <= result.ledger.epsilon[-1] <= 2.0
    assert "gives none" in str(result)
    if name in ("clients", "examples"):
        by_hand = run(engine="debug")
        jax.tree.map(np.testing.assert_array_equal, by_hand.x, result.x)


@pytest.mark.slow
def test_the_account_of_a_run_is_that_of_its_parts():
    problem, _ = clients()
    run = lambda **more: tw.solve(
        problem, tw.FedAvg(tw.LocalSGD(0.3, steps=1)), rounds=3, every=1, privacy=Budget(50.0, 1e-4), **more
    )
    central = run(aggregate=ms.noisy_mean(2.0, 1.0)).ledger.epsilon
    local = run(uplink=ms.chain(ms.clip(1.0), ms.gaussian(4.0))).ledger.epsilon  # σ/C = 4, and messages differ by 2C
    expected = [account(noise_multiplier=2.0).epsilon(k, 1e-4) for k in (1, 2, 3)]
    np.testing.assert_allclose(central, expected)
    np.testing.assert_allclose(local, expected)
    network = tw.network.ring(6)
    peers = tw.solve(problem, tw.DGD(0.1), network, rounds=3, every=1, privacy=Budget(50.0, 1e-4),
                     link=ms.chain(ms.clip(1.0), ms.gaussian(4.0)))  # fmt: skip
    np.testing.assert_allclose(peers.ledger.epsilon, expected)


def test_secrets_do_not_come_from_the_streams_that_everybody_knows():
    """The same run with another schedule of local steps has other noise only if its keys are others: each round draws anew."""
    problem, _ = clients()
    once = tw.solve(problem, tw.FedAvg(tw.LocalSGD(1e-9, steps=1)), rounds=4, every=1, aggregate=ms.noisy_mean(1.0, 1.0),
                    privacy=Budget(50.0, 1e-4), keep_agents=True)  # fmt: skip
    again = tw.solve(problem, tw.FedAvg(tw.LocalSGD(1e-9, steps=1)), rounds=4, aggregate=ms.noisy_mean(1.0, 1.0), seed=1,
                     privacy=Budget(50.0, 1e-4))  # fmt: skip
    assert not np.allclose(once.x["w"], again.x["w"])
    assert np.unique(np.diff(once.history["objective"])).size == 3


def uniform(**options):
    problem, _ = clients()
    return tw.solve(problem, tw.FedAvg(tw.LocalSGD(0.3, steps=1), **options.pop("method", {})), rounds=5, **options)


NOISY = ms.noisy_mean(1.0, 1.0)
REFUSED = [
    (lambda: ms.chain(ms.gaussian(1.0), ms.clip(1.0)), "noise before clipping hides nothing"),
    (lambda: ms.chain(ms.clip(1.0), ms.laplace(1.0)), "bounds a message in the l1 norm"),
    (lambda: uniform(method={"cohort": 3}, aggregate=NOISY, privacy=BUDGET), "does not amplify privacy"),
    (lambda: uniform(method={"cohort": tw.cohort.uniform(3, normalise=True)}, aggregate=NOISY), "depends on who came"),
    (lambda: uniform(method={"cohort": tw.cohort.by_size(3)}, aggregate=NOISY), "depends on who came"),
    (lambda: uniform(fleet=tw.Fleet(6, dropout=0.1), aggregate=NOISY), "chance to drop out"),
    (lambda: uniform(method={"cohort": tw.cohort.cyclic(3)}, aggregate=ms.noisy_mean(1.0, 1.0, bands=4)), "size ≤ 1 of 6"),
    (lambda: uniform(privacy=BUDGET), "nothing in the run is private"),
    (lambda: uniform(privacy=4.0), "Budget"),
    (lambda: uniform(aggregate=ms.noisy_mean(0.1, 1.0), privacy=Budget(0.1, 1e-6)), "one round costs"),
    (lambda: uniform(uplink=ms.chain(ms.clip(1.0), ms.gaussian(1.0)), aggregate=NOISY, privacy=BUDGET), "several"),
    (lambda: uniform(engine="event-driven", aggregate=NOISY), "without rounds"),
    (lambda: tw.solve(clients()[0], tw.Ditto(tw.PrivateSGD(0.1, 1.0, 1.0, 0.5), penalty=1.0), rounds=1), "sends more than where"),
    (lambda: ms.clip(-1.0), "expected a positive number"),
    (lambda: ms.noisy_mean(1.0, 1.0, quantile=0.5), "belong together"),
    (lambda: ms.noisy_mean(1.0, 1.0, quantile=0.5, count_noise=0.4), "more than half"),
    (lambda: Budget(1.0, 0.0), "delta=0.0"),
    (lambda: calibrate(1.0, 1e-5, rounds=0), "rounds=0"),
    (lambda: tw.PrivateSGD(0.1, 1.0, 1.0, 1.5), "sampling_rate=1.5"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_unsound_or_unknown_is_refused(make, words):
    with pytest.raises((ValueError, TypeError), match=re.escape(words)):
        make()


def test_noise_without_a_budget_is_warned_of():
    with pytest.warns(RuntimeWarning, match="not accounted for"):
        uniform(aggregate=NOISY)


@pytest.mark.slow
def test_audits_bound_what_is_known_from_below():
    """Scores of the Gaussian mechanism itself, the best attack there is."""
    rng = np.random.default_rng(6)
    truth = gaussian_epsilon(0.5, 1e-5)
    found = audit(rng.normal(2, 1, 20000), rng.normal(0, 1, 20000), 1e-5)
    assert 0.35 * truth < found.epsilon < truth
    assert audit(rng.normal(size=5000), rng.normal(size=5000), 1e-5).epsilon < 0.2
    assert audit(np.ones(4000), np.zeros(4000), 0.0).epsilon > 5
    with pytest.raises(ValueError, match="at least 20"):
        audit(np.ones(5), np.zeros(100), 0.1)


@pytest.mark.slow
def test_a_record_is_read_off_an_unprotected_update_and_not_off_a_private_one():
    """One patient, one step of softmax regression."""
    rng = np.random.default_rng(7)
    picture = rng.uniform(size=64)

    def softmax(x, example):
        logits = x["W"] @ example["x"] + x["b"]
        return jax.nn.logsumexp(logits) - logits[example["y"]]

    x0 = {"W": np.zeros((3, 64)), "b": np.zeros(3)}
    problem = tw.EmpiricalRisk(softmax, [{"x": picture[None], "y": np.array([1])}], x0)

    def seen(**options):
        result = tw.solve(problem, tw.FedAvg(tw.LocalSGD(0.1, steps=1)), rounds=1, **options)
        return reconstruct(result.x["W"], result.x["b"])

    np.testing.assert_allclose(seen(), picture, atol=1e-10)
    protected = seen(uplink=ms.chain(ms.clip(1.0), ms.gaussian(2.0)), privacy=Budget(10.0, 1e-4))
    assert np.corrcoef(protected, picture)[0, 1] ** 2 < 0.2
