"""Sites without rounds: replayed in the simulation, the order of events that really happened gives their numbers, bit by bit.

Axes: `n` sites.
"""

import threading
import time

import numpy as np
import pytest

import support
import thalweg as tw
from deployed import Killed, Mortal, Wrapped, names, run_asynchronous
from thalweg.deploy.asynchronous import AsynchronousPeer
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.post import Kind
from thalweg.deploy.site import Settings
from thalweg.observe import Outcome

N = 4
PROBLEM, A, B, OPTIMUM = support.quadratics(N, 3, 7)
VALUES = np.random.default_rng(2).standard_normal((N, 2)) + np.arange(N)[:, None]
RING = tw.network.ring(N)
ONE_WAY = tw.network.from_edges([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2]], N, directed=True)
METHODS = {
    "admm": (
        PROBLEM, [tw.quadratic(A[i : i + 1], B[i : i + 1]) for i in range(N)], tw.AsynchronousADMM(penalty=1.5), RING, OPTIMUM
    ),
    "sums": (
        tw.Measurements(VALUES), [tw.Measurements(VALUES[i : i + 1]) for i in range(N)], tw.AsynchronousPushSum(), ONE_WAY,
        VALUES.mean(0),
    ),
}  # fmt: skip


def replayed(method, answers, killed=None):
    """The same order of events in the simulation, whose numbers are those of the sites; what a life that was killed has sent is
    in no ledger."""
    problem, _, algorithm, network, _ = METHODS[method]
    events = tw.Events.merged([answer.events for answer in answers])
    result = tw.solve(
        problem, algorithm, network, rounds=10**6, engine=tw.EventDriven(events=events, deterministic=True), every=10**6
    )
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.x, np.asarray(result.agents)[i])
        assert (answer.ledger.payload == result.ledger.bytes[i]) == (i != killed)
        assert answer.rounds == int((np.asarray(answer.events)[:, 0] == -1).sum())
    return result


@pytest.mark.parametrize("method", METHODS)
def test_the_order_that_happened_gives_the_same_bits_in_the_simulation(method):
    _, pieces, algorithm, network, answer = METHODS[method]
    answers = run_asynchronous(pieces, algorithm, network, wakes=150, period=0.002, deterministic=True, record=True)
    replayed(method, answers)
    for found in answers:
        assert found.outcome is Outcome.ROUND_LIMIT
        assert found.rounds >= 150
        np.testing.assert_allclose(found.x, answer, atol=1e-7)


class Unreliable(Wrapped):
    """A post that loses three of ten messages."""

    def __init__(self, post, seed):
        super().__init__(post)
        self._rng = np.random.default_rng(seed)

    def send(self, to, letter):
        if letter.kind is Kind.MESSAGE and self._rng.random() < 0.3:
            return
        self._post.send(to, letter)


def test_losses_and_unequal_clocks():
    """Site 1 wakes when it hears something, site 2 ten times as often as site 0; replayed to the bit, and exact."""
    _, pieces, algorithm, network, answer = METHODS["sums"]
    exchange = Exchange()
    posts = [Unreliable(exchange.join(name), i) for i, name in enumerate(names(N))]
    periods = {0: 0.01, 1: 0.0, 2: 0.001, 3: 0.004}
    answers = run_asynchronous(
        pieces, algorithm, network, posts=posts, wakes=200, deterministic=True, record=True,
        settings=Settings(wait=60, timeout=0.1),
        of_site=lambda i: {"period": periods[i]},
    )  # fmt: skip
    replayed("sums", answers)
    for found in answers:
        np.testing.assert_allclose(found.x, answer, atol=1e-9)
    assert answers[2].rounds > 3 * answers[0].rounds


def start(exchange, i, answers, method, *, post=None, **options):
    """Site i in a thread of its own."""
    _, pieces, algorithm, network, _ = METHODS[method]
    post = exchange.join(names(N)[i]) if post is None else post

    def live():
        try:
            options.setdefault("settings", Settings(wait=60))
            answers[i] = AsynchronousPeer(pieces[i], algorithm, network, sites=names(N), post=post, **options).run()
        except Exception as failure:
            answers[i] = failure
            post.close()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("method", METHODS)
def test_a_site_that_is_killed_goes_on_from_its_log_and_nothing_is_lost(method, tmp_path):
    """What it had told nobody never happened; the order of events over both lives is replayed to the bit."""
    exchange, answers = Exchange(), {}
    settings = lambda i: {"settings": Settings(wait=60, folder=tmp_path / str(i))}
    options = {"wakes": 400, "period": 0.002, "deterministic": True, "record": True}
    threads = [start(exchange, i, answers, method, **options, **settings(i)) for i in range(N) if i != 2]
    start(exchange, 2, answers, method, post=Mortal(exchange.join(names(N)[2]), 300), **options, **settings(2)).join(60)
    assert isinstance(answers[2], Killed)
    time.sleep(0.1)
    threads.append(start(exchange, 2, answers, method, **options, **settings(2)))
    for thread in threads:
        thread.join(100)
    answers = [answers[i] for i in range(N)]
    for found in answers:
        np.testing.assert_allclose(found.x, METHODS[method][-1], atol=1e-8)
    replayed(method, answers, killed=2)


@pytest.mark.parametrize("method", METHODS)
def test_a_site_that_lost_its_log_begins_anew_and_all_are_right_in_the_end(method):
    """Others tell it how far they have heard it, so that its new messages are later ones; there is no whole order any more."""
    exchange, answers = Exchange(), {}
    options = {"wakes": 600, "period": 0.002, "record": True}
    threads = [start(exchange, i, answers, method, **options) for i in range(N) if i != 2]
    start(exchange, 2, answers, method, post=Mortal(exchange.join(names(N)[2]), 200), **options).join(60)
    assert isinstance(answers[2], Killed)
    threads.append(start(exchange, 2, answers, method, **options))
    for thread in threads:
        thread.join(100)
    for i in range(N):
        np.testing.assert_allclose(answers[i].x, METHODS[method][-1], atol=1e-8)
    assert answers[2].events is None
