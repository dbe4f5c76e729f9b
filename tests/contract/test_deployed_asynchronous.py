"""Sites without rounds: replayed in the simulation, the order of events that really happened gives their numbers, bit by bit.

Axes: `n` sites.
"""

import time

import jax
import numpy as np
import pytest

import support
import thalweg as tw
from deployed import Killed, Mortal, Wrapped, in_a_thread, names, run_asynchronous
from thalweg.deploy.asynchronous import PART_DONE, AsynchronousPeer
from thalweg.deploy.membership import Refused
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.post import Kind
from thalweg.deploy.rest import Rest
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
    periods = {0: 0.03, 1: 0.0, 2: 0.003, 3: 0.012}
    answers = run_asynchronous(
        pieces, algorithm, network, posts=posts, wakes=100, deterministic=True, record=True,
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
    options.setdefault("settings", Settings(wait=60))
    make = lambda post: AsynchronousPeer(pieces[i], algorithm, network, sites=names(N), post=post, **options)
    return in_a_thread(i, exchange.join(names(N)[i]) if post is None else post, make, answers)


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
    start(exchange, 2, answers, method, post=Mortal(exchange.join(names(N)[2]), 900), **options).join(60)
    assert isinstance(answers[2], Killed)
    threads.append(start(exchange, 2, answers, method, **options))
    for thread in threads:
        thread.join(100)
    for i in range(N):
        np.testing.assert_allclose(answers[i].x, METHODS[method][-1], atol=1e-8)
    assert answers[2].events is None
    assert answers[2].rounds >= 600  # of this life


class Liar(Wrapped):
    """A post that, beside every message, sends what nobody can have meant: too short, not finite, of before, of beyond all numbers;
    and cards that are none."""

    def send(self, to, letter):
        self._post.send(to, letter)
        if letter.kind is Kind.MESSAGE and letter.round == 20:
            wrong = lambda letter, **changes: letter._replace(**changes)
            nan = np.full(len(letter.body) // 8, np.nan).tobytes()
            for other in (
                wrong(letter, round=21, body=letter.body[:-1]),
                wrong(letter, round=21, body=nan),
                letter,
                wrong(letter, round=2**32 - 1),
                wrong(letter, kind=Kind.JOIN, body=b'{"card": 1}'),
                wrong(letter, kind=Kind.JOIN, body=b"\xff"),
                wrong(letter, kind=Kind.REFUSED, body=b"go away"),
            ):
                self._post.send(to, other)


@pytest.mark.parametrize("method", METHODS)
def test_what_nobody_can_have_meant_is_counted_and_left_out(method):
    _, pieces, algorithm, network, answer = METHODS[method]
    exchange = Exchange()
    posts = [exchange.join(name) for name in names(N)]
    posts[3] = Liar(posts[3])
    answers = run_asynchronous(
        pieces, algorithm, network, posts=posts, wakes=150, period=0.002, deterministic=True, record=True
    )
    replayed(method, answers)
    np.testing.assert_allclose([found.x for found in answers], np.broadcast_to(answer, (N, *answer.shape)), atol=1e-7)
    hears = 0  # who hears site 3 on both networks
    assert answers[hears].rejected == {"wrong size": 1, "not finite": 1, "stale": 1, "malformed": 3}


def test_other_experiments_and_other_data_are_refused_on_both_sides(tmp_path):
    exchange, answers = Exchange(), {}
    settings = {"settings": Settings(wait=20)}
    threads = [start(exchange, i, answers, "admm", run="aaa" if i else "bbb", wakes=3, **settings) for i in range(2)]
    for thread in threads:
        thread.join(60)
    for i in range(2):
        assert isinstance(answers[i], Refused), answers[i]
        assert "aaa" in str(answers[i]) and "bbb" in str(answers[i])


def test_sites_that_never_come_end_the_run_within_the_wait():
    exchange, answers = Exchange(), {}
    start(exchange, 0, answers, "admm", wakes=3, settings=Settings(wait=1.0)).join(60)
    assert answers[0].outcome is Outcome.TOO_FEW_AGENTS
    assert "site-1, site-2, site-3" in answers[0].reason
    assert answers[0].x is None


@pytest.mark.parametrize("method", [pytest.param("admm", marks=pytest.mark.slow), "sums"])
def test_sites_stop_when_all_are_at_rest(method):
    """Long before their wakes are over, and not before the slowest is; replayed to the bit like any other order."""
    _, pieces, algorithm, network, answer = METHODS[method]
    stop = tw.Stop(progress=1e-9, patience=5)
    answers = run_asynchronous(
        pieces, algorithm, network, wakes=20_000, stop=stop, deterministic=True, record=True,
        of_site=lambda i: {"period": 0.02 if i == 1 else 0.001},
    )  # fmt: skip
    replayed(method, answers)
    for found in answers:
        assert found.outcome is Outcome.CONVERGED
        np.testing.assert_allclose(found.x, answer, atol=1e-6)
    assert answers[1].rounds < 1000


def test_who_moves_again_takes_back_that_it_was_at_rest():
    rest, around = Rest(tw.Stop(progress=1e-3, patience=2)), frozenset({"a"})
    for wakes in (1, 2, 3):
        assert not rest.due(around) and not rest.calm
        rest.hear("a")
        assert rest.due(around)
        rest.look(np.zeros(1), wakes)
    assert rest.calm
    rest.look(np.array([2e-3]), 5)  # as far as two wakes may
    assert rest.calm
    rest.look(np.array([4e-3]), 6)
    assert not rest.calm
    assert not Rest(None).due(frozenset())


def test_seconds_end_a_run_and_who_is_gone_is_named():
    _, pieces, algorithm, network, _ = METHODS["admm"]
    run_asynchronous(pieces, algorithm, network, wakes=2, period=0.01)  # compiles; that takes longer than the seconds
    exchange, answers = Exchange(), {}
    options = {"wakes": None, "seconds": 1.0, "period": 0.01}
    threads = [start(exchange, i, answers, "admm", **options) for i in range(3)]
    threads.append(start(exchange, 3, answers, "admm", post=Mortal(exchange.join(names(N)[3]), 30), **options))
    for thread in threads:
        thread.join(60)
    assert isinstance(answers[3], Killed)
    for i in range(3):
        assert "gone before they had: site-3" in answers[i].reason
        assert 10 < answers[i].rounds < 200


@pytest.mark.parametrize("method", METHODS)
def test_who_has_done_its_part_waits_for_one_that_was_killed(method, tmp_path):
    """It finds somebody to talk to when it comes back, although the others have done all their wakes meanwhile."""
    exchange, answers = Exchange(), {}
    settings = lambda i: {"settings": Settings(wait=60, timeout=0.5, folder=tmp_path / str(i))}
    options = {"wakes": 100, "deterministic": True, "record": True}
    threads = [start(exchange, i, answers, method, **options, **settings(i)) for i in range(N) if i != 2]
    start(exchange, 2, answers, method, post=Mortal(exchange.join(names(N)[2]), 40), **options, **settings(2)).join(60)
    assert isinstance(answers[2], Killed)
    time.sleep(2)
    assert not answers.keys() - {2}
    threads.append(start(exchange, 2, answers, method, **options, **settings(2)))
    for thread in threads:
        thread.join(100)
    answers = [answers[i] for i in range(N)]
    for found in answers:
        assert found.outcome is Outcome.ROUND_LIMIT and "gone" not in found.reason
        assert found.rounds >= 100
    replayed(method, answers, killed=2)


@pytest.mark.parametrize(
    "stop", [pytest.param(None, marks=pytest.mark.slow), tw.Stop(progress=1e-9, patience=3)], ids=["wakes", "rest"]
)
def test_a_site_that_is_alone_ends_within_the_wait_and_goes_on_when_others_are_back(stop, tmp_path):
    """Nothing moves where nobody is heard: that is no rest."""
    exchange, answers = Exchange(), {}
    settings = Settings(wait=8, timeout=0.2, folder=tmp_path)
    for i in range(1, N):
        start(exchange, i, answers, "sums", post=Mortal(exchange.join(names(N)[i]), 40), period=0.01)
    options = {"settings": settings, "period": 0.01, "stop": stop}
    start(exchange, 0, answers, "sums", wakes=10**5, **options).join(60)
    assert all(isinstance(answers[i], Killed) for i in range(1, N))
    assert answers[0].outcome is Outcome.TOO_FEW_AGENTS, answers[0]
    assert answers[0].reason.startswith("alone after") and answers[0].reason.endswith("missing: site-1, site-2, site-3")
    woken = answers[0].rounds
    threads = [start(exchange, 0, answers, "sums", wakes=woken + 300, **options)]
    threads += [start(exchange, i, answers, "sums", wakes=300, period=0.01) for i in range(1, N)]
    for thread in threads:
        thread.join(60)
    for i in range(N):
        assert answers[i].outcome is not Outcome.TOO_FEW_AGENTS
        np.testing.assert_allclose(answers[i].x, VALUES.mean(0), atol=1e-8)
    assert answers[0].rounds > woken


def test_who_begins_anew_takes_back_that_it_had_done_its_part():
    """Its log is lost, and with it what it had done; the others wait for the new one, although the old one had said it was done."""
    exchange, answers = Exchange(), {}
    options = {"wakes": 300, "period": 0.005}
    others = {"wakes": 900, "period": 0.005}
    threads = [start(exchange, i, answers, "sums", **others) for i in range(N) if i != 2]
    done = Leaver(exchange.join(names(N)[2]))
    start(exchange, 2, answers, "sums", post=done, **options).join(60)
    assert isinstance(answers[2], Killed)
    options["wakes"] = 1500  # its part takes longer now than that of the others
    threads.append(start(exchange, 2, answers, "sums", **options))
    for thread in threads:
        thread.join(100)
    for i in range(N):
        assert answers[i].outcome is Outcome.ROUND_LIMIT and "gone" not in answers[i].reason
    assert answers[0].rounds > 1200


class Leaver(Wrapped):
    """A post whose site dies when it has said that it has done its part."""

    over = False

    def send(self, to, letter):
        self._post.send(to, letter)
        self.over |= letter.kind is Kind.DONE and letter.phase == PART_DONE

    def receive(self, timeout):
        if self.over:
            self._post.close()
            raise Killed
        return self._post.receive(timeout)


def test_a_site_that_has_no_finite_answer_is_not_waited_for():
    exchange, answers = Exchange(), {}
    _, pieces, algorithm, network, _ = METHODS["sums"]
    threads = [start(exchange, i, answers, "sums", wakes=200, period=0.005) for i in range(N) if i != 2]
    bad = pieces[2].with_pieces(jax.tree.map(lambda leaf: leaf * np.nan, pieces[2].pieces))
    began = time.monotonic()
    site = lambda post: AsynchronousPeer(bad, algorithm, network, sites=names(N), post=post, wakes=200, every=1, period=0.005)
    threads.append(in_a_thread(2, exchange.join(names(N)[2]), site, answers))
    for thread in threads:
        thread.join(100)
    assert answers[2].outcome is Outcome.NOT_FINITE
    for i in (0, 1, 3):
        assert answers[i].reason.endswith("gone before they had: site-2")
    assert time.monotonic() - began < 50  # less than `wait`
