"""Sites that die, come back, or never come; what they log; and sites that do not fit together."""

import threading
import time

import numpy as np
import pytest

import support
import thalweg as tw
from deployed import Killed, Mortal
from thalweg.deploy.journal import Journal
from thalweg.deploy.membership import Refused
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.peer import Peer, Settings
from thalweg.observe import Outcome

NAMES = ["a", "b", "c", "d"]
NETWORK = tw.network.ring(4)


_, A, B, X_STAR = support.quadratics(4, 3, 7)  # no site's own minimiser is that of all


def start(exchange, i, answers, *, post=None, **options):
    """Site i in a thread of its own."""
    post = exchange.join(NAMES[i]) if post is None else post

    def live():
        try:
            own = tw.quadratic(A[i : i + 1], B[i : i + 1])
            answers[NAMES[i]] = Peer(own, tw.GradientTracking(step_size=0.02), NETWORK, sites=NAMES, post=post, **options).run()
        except Exception as failure:
            answers[NAMES[i]] = failure
            post.close()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("absence", [0.0, 2.0])
def test_a_site_that_is_killed_comes_back_from_its_log_and_all_find_the_optimum(absence, tmp_path):
    """Before the others have seen that it was gone, and after they have gone on without it."""
    exchange, answers = Exchange(), {}
    stop = tw.Stop(progress=1e-12, agreement=1e-11, distributed=True)
    options = lambda i: {
        "rounds": 200_000,
        "stop": stop,
        "every": 10_000,
        "settings": Settings(wait=60, folder=tmp_path / NAMES[i]),
    }
    threads = [start(exchange, i, answers, **options(i)) for i in range(4) if i != 2]
    victim = Mortal(exchange.join("c"), 300)
    start(exchange, 2, answers, post=victim, **options(2)).join(60)
    assert isinstance(answers["c"], Killed)
    assert Journal(tmp_path / "c").notes()["epoch"] == 0
    time.sleep(absence)
    threads.append(start(exchange, 2, answers, **options(2)))
    for thread in threads:
        thread.join(60)
    for name in NAMES:
        assert answers[name].outcome is Outcome.CONVERGED, answers[name]
        np.testing.assert_allclose(answers[name].x, X_STAR, atol=1e-8)
        assert answers[name].rejected.get("wrong size", 0) == 0
    assert answers["a"].ledger.epochs >= 2


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
    newest = max(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
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
