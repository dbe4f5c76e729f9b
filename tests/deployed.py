"""Sites of a deployed run as threads of one process."""

import threading

from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.peer import Peer, Settings


def run_peers(pieces, algorithm, network, *, posts=None, settings=None, **options):
    """Every site's answer, in order; `pieces[i]` is the problem of site i alone."""
    names = [f"site-{i}" for i in range(len(pieces))]
    exchange = Exchange()
    posts = [exchange.join(name) for name in names] if posts is None else posts
    answers, failures = {}, {}

    def live(i):
        try:
            peer = Peer(
                pieces[i], algorithm, network, sites=names, post=posts[i], settings=settings or Settings(wait=60), **options
            )
            answers[i] = peer.run()
        except Exception as failure:
            failures[i] = failure
            posts[i].close()

    threads = [threading.Thread(target=live, args=(i,), daemon=True) for i in range(len(pieces))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(240)
    for failure in failures.values():
        raise failure
    assert len(answers) == len(pieces), f"only {sorted(answers)} have ended"
    return [answers[i] for i in range(len(pieces))]
