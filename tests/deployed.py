"""Sites of a deployed run as threads of one process."""

import functools
import threading
import time

import jax
import jax.numpy as jnp

from thalweg.deploy.asynchronous import AsynchronousPeer
from thalweg.deploy.client import Client
from thalweg.deploy.federation import Plan
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.peer import Peer
from thalweg.deploy.server import Server
from thalweg.deploy.site import Settings

SERVER = "server"


class Killed(Exception):
    """Stands for kill −9: nothing is said, nothing is saved."""


class Wrapped:
    """A post that behaves as another one does, but for what is overridden."""

    def __init__(self, post):
        self._post = post

    def __getattr__(self, name):
        return getattr(self._post, name)


class Mortal(Wrapped):
    """A post whose site dies at the n-th look into its mailbox."""

    def __init__(self, post, looks):
        super().__init__(post)
        self._looks = looks

    def receive(self, timeout):
        self._looks -= 1
        if self._looks < 0:
            self._post.close()
            raise Killed
        return self._post.receive(timeout)


class Frozen(Wrapped):
    """A post whose site stands still for some seconds at the n-th look into its mailbox, as SIGSTOP does; one that is `deaf`
    misses what was sent to it meanwhile."""

    def __init__(self, post, looks, seconds, deaf=False):
        super().__init__(post)
        self._looks, self._seconds, self._deaf = looks, seconds, deaf

    def receive(self, timeout):
        self._looks -= 1
        if self._looks == 0:
            time.sleep(self._seconds)
            while self._deaf and not self._post.mailbox.empty():
                self._post.receive(0)
        return self._post.receive(timeout)


def names(n):
    """Of sites."""
    return [f"site-{i}" for i in range(n)]


def in_a_thread(name, post, make, answers):
    """The site that `make(post)` gives, which lives in this thread; what it answers, or what it died of, is in `answers[name]`."""

    def live():
        try:
            answers[name] = make(post).run()
        except Exception as failure:
            answers[name] = failure
            post.close()

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    return thread


def live_together(posts, make, seconds=240):
    """name → answer of the sites that `make(name, post)` gives."""
    answers = {}
    threads = [in_a_thread(name, post, functools.partial(make, name), answers) for name, post in posts.items()]
    for thread in threads:
        thread.join(seconds)
    for answer in answers.values():
        if isinstance(answer, Exception):
            raise answer
    assert len(answers) == len(posts), f"only {sorted(answers)} have ended"
    return answers


def run_peers(pieces, algorithm, network, *, posts=None, settings=None, **options):
    """Every site's answer, in order; `pieces[i]` is the problem of site i alone."""
    sites = names(len(pieces))
    exchange = Exchange()
    posts = [exchange.join(name) for name in sites] if posts is None else posts
    options["settings"] = settings or Settings(wait=60)

    def make(name, post):
        return Peer(pieces[sites.index(name)], algorithm, network, sites=sites, post=post, **options)

    answers = live_together(dict(zip(sites, posts, strict=True)), make)
    return [answers[name] for name in sites]


def run_federation(
    pieces,
    algorithm,
    *,
    settings=None,
    simulated_secrets=True,
    of_server=None,
    of_client=None,
    stop=None,
    every=None,
    allowance=None,
    **options,
):
    """(the server's answer, the clients', in order); `pieces[i]` is the problem of client i alone. The server holds zeros."""
    sites, exchange, plan = names(len(pieces)), Exchange(), Plan(algorithm, **options)
    common = {"sites": sites, "settings": settings or Settings(wait=60), "simulated_secrets": simulated_secrets}

    def make(name, post):
        if name == SERVER:
            return Server(blank(pieces[0]), plan, post=of_server(post) if of_server else post, **common)
        if of_client is not None:
            post = of_client(name, post)
        i = sites.index(name)
        most = allowance[i] if isinstance(allowance, list) else allowance
        return Client(pieces[i], plan, server=SERVER, post=post, allowance=most, **common)

    answers = live_together({name: exchange.join(name) for name in (SERVER, *sites)}, make)
    return answers[SERVER], [answers[name] for name in sites]


def blank(problem):
    """A problem of the same form without anybody's data."""
    return problem.with_pieces(jax.tree.map(jnp.zeros_like, problem.pieces))


def run_asynchronous(pieces, algorithm, network, *, posts=None, settings=None, of_site=lambda i: {}, **options):
    """Every site's answer, in order, of a run without rounds; `of_site(i)` are options of site i alone."""
    sites, exchange = names(len(pieces)), Exchange()
    posts = [exchange.join(name) for name in sites] if posts is None else posts
    options["settings"] = settings or Settings(wait=60)

    def make(name, post):
        i = sites.index(name)
        return AsynchronousPeer(pieces[i], algorithm, network, sites=sites, post=post, **(options | of_site(i)))

    answers = live_together(dict(zip(sites, posts, strict=True)), make)
    return [answers[name] for name in sites]
