"""Failures: expected mixing and mean-square rates against enumeration of everything that can happen; validation."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg import network as nets
from thalweg.network import Failures


def outcomes(network, failures):
    """Every W_k that symmetric loss and sleep can produce, with its probability."""
    mixing = network.mixing.toarray()
    for awake in itertools.product([False, True], repeat=network.n):
        sleeping = np.prod([1 - failures.asleep if up else failures.asleep for up in awake])
        for kept in itertools.product([False, True], repeat=len(network.edges)):
            losing = np.prod([1 - failures.loss if up else failures.loss for up in kept])
            if sleeping * losing == 0:
                continue
            w = np.zeros_like(mixing)
            for (low, high), up in zip(network.edges, kept, strict=True):
                if up and awake[low] and awake[high]:
                    w[low, high] = w[high, low] = mixing[low, high]
            yield w + np.diag(1 - w.sum(axis=1)), sleeping * losing


CASES = [
    (nets.path(4), Failures(loss=0.3)),
    (nets.ring(4), Failures(asleep=0.25)),
    (nets.star(4), Failures(loss=0.2, asleep=0.4)),
    (nets.complete(4, weights="lazy_metropolis"), Failures(loss=0.5, asleep=0.1)),
]


@pytest.mark.parametrize(("network", "failures"), CASES, ids=lambda v: str(v)[:24])
def test_moments_match_enumeration(network, failures):
    n = network.n
    mean, second = np.zeros((n, n)), np.zeros((n * n, n * n))
    for w, probability in outcomes(network, failures):
        mean += probability * w
        second += probability * np.kron(w, w)
    centre = np.kron(np.eye(n) - 1 / n, np.eye(n) - 1 / n)
    np.testing.assert_allclose(failures.expected_mixing(network.mixing).toarray(), mean, atol=1e-14)
    assert failures.mean_square_rate(network.mixing) == pytest.approx(
        np.abs(np.linalg.eigvals(centre @ second)).max(), abs=1e-12
    )


def test_symmetric_loss_formula():
    """E[W⊗W] = W̄⊗W̄ + p(1-p) Σ_e l_e⊗l_e with the weighted edge Laplacians l_e."""
    network, loss = nets.grid(2, 3), 0.35
    mean = Failures(loss=loss).expected_mixing(network.mixing).toarray()
    second = np.kron(mean, mean)
    for low, high in network.edges:
        direction = np.zeros(6)
        direction[low], direction[high] = 1, -1
        laplacian = network.mixing[low, high] * np.outer(direction, direction)
        second += loss * (1 - loss) * np.kron(laplacian, laplacian)
    centre = np.kron(np.eye(6) - 1 / 6, np.eye(6) - 1 / 6)
    expected = np.abs(np.linalg.eigvals(centre @ second)).max()
    assert Failures(loss=loss).mean_square_rate(network.mixing) == pytest.approx(expected, abs=1e-12)


def test_no_failures_give_sigma_squared():
    network = nets.geometric(20, seed=1)
    assert Failures().mean_square_rate(network.mixing) == pytest.approx(network.facts.sigma**2, abs=1e-12)
    np.testing.assert_allclose(Failures().expected_mixing(network.mixing).toarray(), network.mixing.toarray(), atol=1e-15)


def test_late_messages_count_as_lost_in_expected_mixing():
    mixing = nets.ring(5).mixing
    late = Failures(delay=(0.7, 0.2, 0.1)).expected_mixing(mixing)
    np.testing.assert_allclose(late.toarray(), Failures(loss=0.3).expected_mixing(mixing).toarray(), atol=1e-15)


@settings(max_examples=40, deadline=None)
@given(st.floats(0, 0.95), st.floats(0, 0.95), st.integers(2, 12))
def test_expected_mixing_stays_doubly_stochastic(loss, asleep, n):
    mixing = Failures(loss=loss, asleep=asleep).expected_mixing(nets.ring(n).mixing).toarray()
    np.testing.assert_allclose(mixing.sum(axis=0), 1, atol=1e-13)
    np.testing.assert_allclose(mixing.sum(axis=1), 1, atol=1e-13)


def test_bursts_have_the_stated_loss_and_length():
    """Simulate the two-state chain: stationary loss 0.2, mean burst 5 rounds."""
    worse, better = Failures(loss=0.2, burst=5).transition
    rng = np.random.default_rng(1)
    lost, history = np.zeros(2000, bool), []
    for _ in range(2000):
        draw = rng.random(2000)
        lost = np.where(lost, draw >= better, draw < worse)
        history.append(lost)
    history = np.array(history[200:])
    starts = (history[1:] & ~history[:-1]).sum()
    assert history.mean() == pytest.approx(0.2, abs=0.003)
    assert history[1:].sum() / starts == pytest.approx(5, rel=0.02)
    assert Failures(loss=0.3).transition == (0.3, 0.7)


@pytest.mark.parametrize(
    ("failures", "kinds"),
    [
        (Failures(), set()),
        (Failures(delay=(1.0,)), set()),
        (Failures(loss=0.1), {"symmetric"}),
        (Failures(loss=0.1, symmetric=False, asleep=0.1), {"independent", "asleep"}),
        (Failures(delay=(0.9, 0.1)), {"delay"}),
        (Failures(symmetric=False), set()),
    ],
)
def test_kinds(failures, kinds):
    assert failures.kinds == kinds and failures.any == bool(kinds)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss": 1.0}, ValueError, r"loss must lie in \[0, 1\)"),
        ({"loss": float("nan")}, ValueError, "loss must lie"),
        ({"loss": "often"}, TypeError, "loss must be a probability"),
        ({"asleep": -0.1}, ValueError, "asleep must lie"),
        ({"symmetric": "no"}, TypeError, "symmetric must be True or False"),
        ({"burst": 3}, ValueError, "without loss"),
        ({"loss": 0.1, "burst": 0.5}, ValueError, ">= 1"),
        ({"loss": 0.9, "burst": 2}, ValueError, "Pass burst >= 9"),
        ({"delay": (0.5, 0.4)}, ValueError, "sum to 1"),
        ({"delay": ()}, ValueError, "sum to 1"),
    ],
)
def test_validation(arguments, error, message):
    with pytest.raises(error, match=message):
        Failures(**arguments)


def test_with_failures_changes_only_what_is_named():
    network = nets.ring(4).with_failures(loss=0.1).with_failures(asleep=0.2)
    assert network.failures == Failures(loss=0.1, asleep=0.2)
    assert not network.with_failures(loss=0, asleep=0).failures.any
    with pytest.raises(TypeError, match=r"failures are loss=.*got lost="):
        network.with_failures(lost=0.1)


def test_symmetric_loss_is_refused_on_directed_networks():
    with pytest.raises(ValueError, match="symmetric=False"):
        nets.exponential(4).with_failures(loss=0.1)
    assert nets.exponential(4).with_failures(loss=0.1, symmetric=False).failures.any


def test_mean_square_rate_refuses_what_it_cannot_know():
    mixing = nets.ring(4).mixing
    for failures in (Failures(loss=0.1, symmetric=False), Failures(delay=(0.5, 0.5)), Failures(loss=0.1, burst=4)):
        with pytest.raises(ValueError, match="no mean-square rate"):
            failures.mean_square_rate(mixing)
    with pytest.raises(ValueError, match="symmetric W"):
        Failures(loss=0.1).mean_square_rate(nets.ring(4, directed=True).mixing)
    with pytest.raises(ValueError, match="n <= 40"):
        Failures(loss=0.1).mean_square_rate(nets.ring(41).mixing)
