"""Sites that die, come back, or never come; what they log; and sites that do not fit together."""

import time

import numpy as np
import pytest

import support
import thalweg as tw
from deployed import Frozen, Killed, Mortal, Wrapped, in_a_thread
from thalweg.deploy.history_log import HistoryLog
from thalweg.deploy.journal import Journal
from thalweg.deploy.membership import Refused
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.peer import Peer, Settings
from thalweg.deploy.post import Kind, Letter
from thalweg.observe import Outcome

NAMES = ["a", "b", "c", "d"]
NETWORK = tw.network.ring(4)


_, A, B, X_STAR = support.quadratics(4, 3, 7)  # no site's own minimiser is that of all


# Whichever site is left out, the others can all reach each other.
DIRECTED = tw.network.from_edges([[i, j] for i in range(4) for j in range(4) if i != j and (i, j) != (0, 3)], 4, directed=True)
METHODS = {
    "on a path": (tw.GradientTracking(step_size=0.02), tw.network.path(4)),  # where d has no neighbour but c
    "GradientTracking": (tw.GradientTracking(step_size=0.02), NETWORK),
    "EXTRA": (tw.EXTRA(step_size=0.02), NETWORK),
    "EdgeADMM": (tw.EdgeADMM(penalty=1.0), NETWORK),
    "PushDIGing": (tw.PushDIGing(step_size=0.005), DIRECTED),
    "PushPull": (tw.PushPull(step_size=0.01), DIRECTED),
    "one after another": (
        tw.GradientTracking(step_size=0.01), tw.network.periodic([tw.network.ring(4), tw.network.star(4)])
    ),
}  # fmt: skip


def start(exchange, i, answers, *, post=None, method="GradientTracking", **options):
    """Site i in a thread of its own."""
    own = tw.quadratic(A[i : i + 1], B[i : i + 1])
    make = lambda post: Peer(own, *METHODS[method], sites=NAMES, post=post, **options)
    return in_a_thread(NAMES[i], exchange.join(NAMES[i]) if post is None else post, make, answers)


@pytest.mark.parametrize("absence", [pytest.param(0.0, marks=pytest.mark.slow), 2.0])
def test_a_site_that_is_killed_comes_back_from_its_log_and_all_find_the_optimum(absence, tmp_path):
    """Before the others have seen that it was gone, and after they have gone on without it."""
    stop = tw.Stop(progress=1e-12, agreement=1e-11, distributed=True)
    answers = kill_and_return("GradientTracking", 300, absence, tmp_path, rounds=200_000, stop=stop, every=10_000)
    for name in NAMES:
        assert answers[name].outcome is Outcome.CONVERGED, answers[name]
        assert answers[name].rejected.get("wrong size", 0) == 0
    assert answers["a"].ledger.epochs >= 2


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_exact_methods_are_exact_when_a_site_was_away(method, tmp_path):
    """With push and pull weights, and on networks that change, the weights of whoever is away stay with the others."""
    answers = kill_and_return(method, 100, 1.0, tmp_path, rounds=8_000)
    assert answers["a"].ledger.epochs >= 2


def kill_and_return(method, looks, absence, folder, **options):
    """Answers of a run in which site c was killed and came back; all have found the optimum."""
    exchange, answers = Exchange(), {}
    common = lambda i: {"method": method, "settings": Settings(wait=60, folder=folder / NAMES[i])} | options
    threads = [start(exchange, i, answers, **common(i)) for i in range(4) if i != 2]
    start(exchange, 2, answers, post=Mortal(exchange.join("c"), looks), **common(2)).join(60)
    assert isinstance(answers["c"], Killed)
    assert Journal(folder / "c").notes()["epoch"] == 0
    time.sleep(absence)
    threads.append(start(exchange, 2, answers, **common(2)))
    for thread in threads:
        thread.join(100)
    for name in NAMES:
        if isinstance(answers[name], Exception):
            raise answers[name]
        np.testing.assert_allclose(answers[name].x, X_STAR, atol=1e-8)
    return answers


def test_too_few_sites_end_the_run_within_the_wait_and_say_who_is_missing():
    exchange, answers = Exchange(), {}
    began = time.monotonic()
    threads = [start(exchange, i, answers, rounds=10, settings=Settings(wait=1.0)) for i in range(2)]
    for thread in threads:
        thread.join(60)
    assert time.monotonic() - began < 30
    for name in ("a", "b"):
        assert answers[name].outcome is Outcome.TOO_FEW_AGENTS
        assert "c, d" in answers[name].reason  # the first to give up is missed by the other


class Liar(Wrapped):
    """A post that sends NaN in round 50, in round 60 a message that is too short before the right one, and in round 70 a hundred of
    rounds to come, and of one that never comes."""

    def send(self, to, letter):
        if letter.kind is Kind.MESSAGE and letter.round == 50:
            letter = letter._replace(body=np.full(len(letter.body) // 8, np.nan).tobytes())
        if letter.kind is Kind.MESSAGE and letter.round == 60:
            self._post.send(to, letter._replace(body=letter.body[:-1]))
        if letter.kind is Kind.MESSAGE and letter.round == 70:
            for k in (*range(80, 120), *range(60), 2**31):
                self._post.send(to, letter._replace(round=70 + k))
        self._post.send(to, letter)


def test_what_no_site_can_have_sent_is_counted_and_thrown_away():
    exchange, answers = Exchange(), {}
    options = {"rounds": 120, "settings": Settings(wait=60)}
    threads = [start(exchange, i, answers, **options) for i in range(3)]
    threads.append(start(exchange, 3, answers, post=Liar(exchange.join("d")), **options))
    for thread in threads:
        thread.join(60)
    for name in ("a", "c"):  # the neighbours of d
        assert answers[name].rejected["not finite"] == 1
        assert answers[name].rejected["wrong size"] == 1
        assert answers[name].rejected["too far ahead"] > 60
    for name in NAMES:
        assert answers[name].rounds == 120
        assert np.linalg.norm(answers[name].x - X_STAR) < 0.5 * np.linalg.norm(X_STAR)


def test_what_came_before_a_site_had_its_seat_is_looked_at_later():
    exchange, answers = Exchange(), {}
    posts = {1: Hasty(exchange.join("b"))}
    threads = [start(exchange, i, answers, post=posts.get(i), rounds=400, settings=Settings(wait=20)) for i in range(4)]
    for thread in threads:
        thread.join(60)
    for name in NAMES:
        assert answers[name].outcome is Outcome.ROUND_LIMIT, answers[name]
        np.testing.assert_allclose(answers[name].x, X_STAR, atol=0.1)


class Hasty(Wrapped):
    """Sends messages of round 2, which are none, as soon as it meets anybody."""

    def send(self, to, letter):
        if letter.kind is Kind.JOIN:
            self._post.send(to, Letter(Kind.MESSAGE, 0, 2, 0, b"123"))
        self._post.send(to, letter)


def test_an_impossible_interval_of_records_is_refused():
    with pytest.raises(ValueError, match="every: got 0"):
        Peer(tw.quadratic(A[:1], B[:1]), *METHODS["EXTRA"], sites=NAMES, post=Exchange().join("a"), every=0)


def test_other_experiments_and_other_data_are_named_on_both_sides():
    exchange, answers = Exchange(), {}
    settings = Settings(wait=20)
    threads = [start(exchange, i, answers, run="aaa" if i else "bbb", settings=settings, rounds=3) for i in range(2)]
    for thread in threads:
        thread.join(60)
    for name in ("a", "b"):
        assert isinstance(answers[name], Refused), answers[name]
        assert "aaa" in str(answers[name])
        assert "bbb" in str(answers[name])


def test_a_log_survives_a_torn_write_and_a_full_disk(tmp_path):
    journal, state = Journal(tmp_path), {"x": np.arange(3.0)}
    for k in range(3):
        journal.write(0, k, {"epoch": 0}, {"x": state["x"] + k})
    assert journal.read(state).round == 2
    newest = journal._paths[journal._turn]
    newest.write_bytes(newest.read_bytes()[:-5])
    entry = journal.read(state)
    assert entry.round == 1
    np.testing.assert_array_equal(entry.state["x"], state["x"] + 1)
    with pytest.raises(ValueError, match=r"the log in .* is of another run"):
        journal.read({"x": np.zeros(4)})
    full = Journal(tmp_path / "full")
    for path in full._paths:
        path.symlink_to("/dev/full")
    full.write(0, 0, {}, state)
    assert full.failures == 1


def test_rows_of_a_history_outlive_a_torn_one_and_a_full_disk(tmp_path):
    row = lambda k: {"round": k, "loss": 1.0 / k}
    log = HistoryLog(tmp_path)
    for k in range(1, 6):
        log.add(row(k))
    with log._path.open("a") as file:
        file.write('{"round": 6, "lo')
    again = HistoryLog(tmp_path)
    assert again.restore(3) == [row(1), row(2), row(3)]
    again.add(row(4))
    assert HistoryLog(tmp_path).restore(10) == [row(1), row(2), row(3), row(4)]
    HistoryLog(tmp_path).add(row(1))  # a site that begins anew
    assert HistoryLog(tmp_path).restore(10) == [row(1)]
    log._path.unlink()
    log._path.symlink_to("/dev/full")
    HistoryLog(tmp_path).add(row(1))


@pytest.mark.slow
def test_a_site_that_stood_still_while_the_others_went_on_is_taken_back():
    """The network never missed it; the leader waited for it in vain, when another one died."""
    exchange, answers = Exchange(), {}
    options = {"rounds": 20_000, "settings": Settings(wait=60, timeout=0.3, quorum=2)}
    posts = {1: Mortal(exchange.join("b"), 100), 2: Frozen(exchange.join("c"), 90, 2.0, deaf=True)}
    threads = [start(exchange, i, answers, post=posts.get(i), **options) for i in range(4)]
    for thread in threads:
        thread.join(100)
    assert isinstance(answers["b"], Killed)
    left = [0, 2, 3]
    for i in left:
        np.testing.assert_allclose(answers[NAMES[i]].x, -np.linalg.solve(A[left].sum(0), B[left].sum(0)), atol=1e-8)
    assert answers["a"].ledger.epochs >= 3  # without b and c, and with c
