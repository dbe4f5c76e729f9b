"""Clients and servers that die and come back, or never come, or do not fit together."""

import dataclasses
import json
import time

import numpy as np
import pytest

import support
import thalweg as tw
from deployed import SERVER, Frozen, Killed, Mortal, Wrapped, blank, in_a_thread, names
from thalweg.deploy.card import Card
from thalweg.deploy.client import Client
from thalweg.deploy.desk import NUMBERS
from thalweg.deploy.federation import Plan
from thalweg.deploy.membership import Refused
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.post import Kind, Letter
from thalweg.deploy.roster import Roster
from thalweg.deploy.server import Server
from thalweg.deploy.site import Settings
from thalweg.observe import Outcome

N = 4
NAMES = names(N)
_, A, B, X_STAR = support.quadratics(N, 3, 7)  # no client's own minimiser is that of all
EXACT = tw.SCAFFOLD(tw.LocalSGD(0.02, steps=4))


def start(exchange, name, answers, plan, *, post=None, run="", every=None, stop=None, **settings):
    """A site in a thread of its own."""
    options = {"sites": NAMES, "run": run, "every": every, "settings": Settings(**{"wait": 60, **settings})}

    def make(post):
        if name == SERVER:
            return Server(blank(tw.quadratic(A[:1], B[:1])), plan, post=post, stop=stop, **options)
        i = NAMES.index(name)
        return Client(tw.quadratic(A[i : i + 1], B[i : i + 1]), plan, server=SERVER, post=post, **options)

    return in_a_thread(name, exchange.join(name) if post is None else post, make, answers)


def straight(plan):
    """The answer of the simulation."""
    return tw.solve(tw.quadratic(A, B), plan.algorithm, rounds=plan.rounds, deterministic=True).x


@pytest.mark.parametrize("absence", [pytest.param(0.0, marks=pytest.mark.slow), 1.5])
def test_a_client_that_is_killed_comes_back_and_the_limit_is_exact(absence, tmp_path):
    exchange, answers, plan, victim = Exchange(), {}, Plan(EXACT, rounds=3000), NAMES[2]
    options = lambda name: {"folder": tmp_path / name}
    threads = [start(exchange, name, answers, plan, **options(name)) for name in (SERVER, *NAMES) if name != victim]
    start(exchange, victim, answers, plan, post=Mortal(exchange.join(victim), 200), **options(victim)).join(60)
    assert isinstance(answers[victim], Killed)
    time.sleep(absence)
    threads.append(start(exchange, victim, answers, plan, **options(victim)))
    for thread in threads:
        thread.join(60)
    for name in (SERVER, *NAMES):
        assert answers[name].outcome is Outcome.ROUND_LIMIT, answers[name]
        np.testing.assert_allclose(answers[name].x, X_STAR, atol=1e-8)
    history = answers[victim].history
    assert (
        history["round"] == sorted(set(history["round"])) and history["round"][0] < 50
    )  # it did not begin again, and forgot nothing
    assert history["seconds"] == sorted(history["seconds"])


@pytest.mark.parametrize("looks", [1, 40, 41, 42, 43, 44])
def test_a_server_that_is_killed_goes_on_from_its_last_round_with_the_same_numbers(looks, tmp_path):
    """None is lost or applied twice, wherever in a round it died."""
    exchange, answers, plan = Exchange(), {}, Plan(EXACT, rounds=40, deterministic=True)
    options = lambda name: {"folder": tmp_path / name, "timeout": 60}
    threads = [start(exchange, name, answers, plan, **options(name)) for name in NAMES]
    start(exchange, SERVER, answers, plan, post=Mortal(exchange.join(SERVER), 10 + looks), **options(SERVER)).join(60)
    assert isinstance(answers[SERVER], Killed)
    threads.append(start(exchange, SERVER, answers, plan, **options(SERVER)))
    for thread in threads:
        thread.join(60)
    for name in (SERVER, *NAMES):
        assert answers[name].rounds == 40, answers[name]
        np.testing.assert_array_equal(answers[name].x, straight(plan))
    assert answers[SERVER].history["round"] == list(range(1, 41))


def test_too_few_clients_end_the_run_and_it_can_be_resumed(tmp_path):
    exchange, answers, plan = Exchange(), {}, Plan(EXACT, rounds=30, deterministic=True)
    began = time.monotonic()
    threads = [start(exchange, name, answers, plan, wait=1.0) for name in (SERVER, *NAMES[:2])]
    for thread in threads:
        thread.join(60)
    assert time.monotonic() - began < 20
    assert answers[SERVER].outcome is Outcome.TOO_FEW_AGENTS
    assert "site-2, site-3" in answers[SERVER].reason


def test_a_client_that_does_not_answer_is_left_out_and_taken_back():
    exchange, answers, plan = Exchange(), {}, Plan(EXACT, rounds=1500)
    threads = [start(exchange, name, answers, plan, timeout=0.2, every=1) for name in (SERVER, *NAMES[:3])]
    frozen = Frozen(exchange.join(NAMES[3]), 60, 1.0)
    threads.append(start(exchange, NAMES[3], answers, plan, post=frozen, timeout=0.2))
    for thread in threads:
        thread.join(60)
    for name in (SERVER, *NAMES):
        np.testing.assert_allclose(answers[name].x, X_STAR, atol=1e-5)
    taking_part = answers[SERVER].history["participants"]
    assert 3 in taking_part
    assert 4 in taking_part[taking_part.index(3) :]


@pytest.mark.parametrize(
    ("stop", "outcome"), [(tw.Stop(progress=1e-6), Outcome.CONVERGED), (tw.Stop(progress=1e-12, bytes=20_000), Outcome.BUDGET)]
)
def test_a_server_stops_where_the_simulation_does(stop, outcome):
    exchange, answers, plan = Exchange(), {}, Plan(EXACT, rounds=2000, deterministic=True)
    threads = [start(exchange, name, answers, plan, stop=stop, every=10) for name in (SERVER, *NAMES)]
    for thread in threads:
        thread.join(60)
    found = tw.solve(tw.quadratic(A, B), EXACT, rounds=2000, stop=stop, every=10, deterministic=True)
    assert found.outcome is outcome and found.rounds < 2000
    for name in (SERVER, *NAMES):
        assert answers[name].outcome is outcome and answers[name].rounds == found.rounds, answers[name].reason
    np.testing.assert_array_equal(answers[SERVER].x, found.x)


@pytest.mark.parametrize("engine", [None, tw.EventDriven(buffer=2)])
def test_a_client_that_began_again_while_nobody_looked_is_asked_again(engine):
    """Its absence was never seen: only the life that its card tells of is another one."""
    exchange, answers, victim = Exchange(), {}, NAMES[2]
    plan = Plan(tw.FedAvg(tw.LocalSGD(0.02, steps=4)), rounds=600, engine=engine)
    threads = [start(exchange, SERVER, answers, plan, post=Blind(exchange.join(SERVER)), wait=20)]
    threads += [start(exchange, name, answers, plan) for name in NAMES if name != victim]
    for looks in (20, 20):
        start(exchange, victim, answers, plan, post=Mortal(exchange.join(victim), looks)).join(60)
        assert isinstance(answers[victim], Killed)
    threads.append(start(exchange, victim, answers, plan))
    for thread in threads:
        thread.join(60)
    for name in (SERVER, *NAMES):
        assert answers[name].outcome is Outcome.ROUND_LIMIT, answers[name]
    assert answers[victim].ledger.messages > 5


def test_who_joins_by_a_letter_and_is_gone_is_not_there():
    exchange = Exchange()
    server = Steady(exchange.join(SERVER))
    roster, client = Roster(server, NAMES, Card(SERVER, "", "form", columns=[])), exchange.join(NAMES[0])
    tell = lambda life: client.send(
        SERVER,
        Letter(
            Kind.JOIN,
            body=json.dumps({"life": life, "card": dataclasses.asdict(Card(NAMES[0], "", "form", columns=[]))}).encode(),
        ),
    )
    look = lambda: [roster.receive(0.0, True) for _ in range(6)]
    tell("one")
    look()
    assert roster.here == {NAMES[0]}
    tell("two")
    client.close()
    look()
    assert roster.here == frozenset()
    assert NAMES[0] in roster.cards


class Steady(Wrapped):
    """A post whose view of who is there is the same object until it changes, as that of a network is."""

    def __init__(self, post):
        super().__init__(post)
        self._seen = frozenset()

    def present(self):
        if (now := self._post.present()) != self._seen:
            self._seen = now
        return self._seen


class Blind(Wrapped):
    """A post that never sees anybody leave."""

    def __init__(self, post):
        super().__init__(post)
        self._met = frozenset()

    def present(self):
        self._met |= self._post.present()
        return self._met


def test_a_server_is_refused_what_it_cannot_see():
    with pytest.raises(ValueError, match="no_better="):
        Server(
            blank(tw.quadratic(A[:1], B[:1])), Plan(EXACT), sites=NAMES, post=Exchange().join(SERVER),
            stop=tw.Stop(no_better=("loss", "min", 3)),
        )  # fmt: skip


def test_other_experiments_are_named_on_all_sides():
    """Also to a client that fits: it is not to wait for a run that cannot be."""
    exchange, answers, plan = Exchange(), {}, Plan(EXACT, rounds=3)
    runs = {SERVER: "aaa", NAMES[0]: "bbb", NAMES[1]: "aaa"}
    posts = {name: exchange.join(name) for name in runs}
    threads = [start(exchange, name, answers, plan, post=posts[name], run=run) for name, run in runs.items()]
    for thread in threads:
        thread.join(30)
    for name in runs:
        assert isinstance(answers[name], Refused), answers
        assert "aaa" in str(answers[name])
        assert "bbb" in str(answers[name])


def test_what_no_client_can_have_sent_is_counted_and_thrown_away():
    exchange, answers, plan = Exchange(), {}, Plan(tw.FedAvg(tw.LocalSGD(0.02, steps=2)), rounds=60, deterministic=True)
    threads = [start(exchange, name, answers, plan) for name in (SERVER, *NAMES[:3])]
    liar = Liar(exchange.join(NAMES[3]))
    threads.append(start(exchange, NAMES[3], answers, plan, post=liar))
    for thread in threads:
        thread.join(60)
    rejected = answers[SERVER].rejected
    assert rejected["wrong size"] == 1
    assert rejected["not finite"] == 1
    assert rejected["stale"] >= 1
    assert np.isfinite(answers[SERVER].x).all()


class Liar(Wrapped):
    """Sends rounds 5, 10 and 15 too short, as NaN, and under an old number before the right one."""

    def send(self, to, letter):
        if letter.kind is Kind.MESSAGE and letter.round == 5:
            self._post.send(to, Letter(Kind.MESSAGE, letter.epoch, 5, 0, letter.body[:-1]))
        if letter.kind is Kind.MESSAGE and letter.round == 10:
            return self._post.send(to, Letter(Kind.MESSAGE, letter.epoch, 10, 0, np.full(3, np.nan).tobytes()))
        if letter.kind is Kind.MESSAGE and letter.round == 15:
            self._post.send(to, Letter(Kind.MESSAGE, letter.epoch, 14, 0, letter.body))
        return self._post.send(to, letter)


def test_what_no_server_can_have_sent_is_counted_and_thrown_away():
    exchange, answers, plan = Exchange(), {}, Plan(tw.FedAvg(tw.LocalSGD(0.02, steps=2)), rounds=30, deterministic=True)
    threads = [start(exchange, SERVER, answers, plan, post=Muddled(exchange.join(SERVER)))]
    threads += [start(exchange, name, answers, plan) for name in NAMES]
    for thread in threads:
        thread.join(60)
    for name in NAMES:
        rejected = answers[name].rejected
        assert (rejected["wrong size"], rejected["no such round"], rejected["malformed"]) == (3, 2, 4), rejected
        np.testing.assert_array_equal(answers[name].x, straight(plan))


class Muddled(Wrapped):
    """Sends round 5 too short, too long, and in a phase that is not there, round 10 under numbers beyond all and before all, and
    last words that are none, before the right ones."""

    def send(self, to, letter):
        if letter.kind is Kind.MESSAGE and letter.round == 5:
            for wrong in (
                letter._replace(body=letter.body[:-1]),
                letter._replace(body=letter.body + b"?"),
                letter._replace(phase=1),
            ):
                self._post.send(to, wrong)
        if letter.kind is Kind.MESSAGE and letter.round == 10:
            self._post.send(to, letter._replace(round=2**32 - 1))
            self._post.send(to, letter._replace(body=NUMBERS.pack(-1, -1) + letter.body[NUMBERS.size :]))
        if letter.kind is Kind.DONE:
            start = NUMBERS.size + 4
            for body in (b"", letter.body[:-1], letter.body[:start] + b"?" + letter.body[start + 1 :], letter.body[:start]):
                self._post.send(to, letter._replace(body=body))
        self._post.send(to, letter)
