"""A site that has a certificate and writes nonsense beside its letters: it is counted, and changes no number."""

import numpy as np

import exports
import support
import thalweg as tw
from deployed import run_peers
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.post import Kind

TALK = 10  # rounds with nonsense in them


class Babbler:
    """A post that sends nonsense with every message of an algorithm."""

    def __init__(self, post):
        self._post = post

    def __getattr__(self, name):
        return getattr(self._post, name)

    def send(self, to, letter):
        if letter.kind is Kind.MESSAGE and letter.round < TALK:
            other = lambda **changes: self._post.send(to, letter._replace(**changes))
            other(body=bytes(letter.body)[:-1])
            other(body=bytes(letter.body) * 2)
            other(phase=7)
            for kind in (Kind.JOIN, Kind.SEES, Kind.VIEW, Kind.READY, Kind.START):
                self._post.send(to, letter._replace(kind=kind, epoch=5, body=b"\xff{"))
            deep, strangers = b"[" * 100_000, b'["site-0", "mallory"]'
            for body in (deep, strangers, b"[[]]", b'{"life": 1}', b"1"):
                self._post.send(to, letter._replace(kind=Kind.VIEW, epoch=5, body=body))
            other(kind=Kind.AGAIN, round=10**6)
        self._post.send(to, letter)


def test_nonsense_is_counted_and_changes_no_number():
    n, (_, a, b, _) = 4, support.quadratics(4, 3, 7)
    network, exchange = tw.network.ring(n), Exchange()
    simulated = exports.solve(tw.quadratic(a, b), tw.DGD(step_size=0.02), network, rounds=30, deterministic=True)
    posts = [exchange.join(f"site-{i}") for i in range(n)]
    posts[1] = Babbler(posts[1])
    own = [tw.quadratic(a[i : i + 1], b[i : i + 1]) for i in range(n)]
    answers = run_peers(own, simulated.algorithm, network, posts=posts, rounds=30, deterministic=True)
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.x, np.asarray(simulated.agents)[i])
        assert answer.ledger.epochs == 1
    for neighbour in (answers[0], answers[2]):
        # READY and START are of a proposal, of which there is none: nobody reads them.
        assert neighbour.rejected == {"wrong size": 3 * TALK, "malformed": 8 * TALK}
    assert answers[3].rejected == answers[1].rejected == {}
