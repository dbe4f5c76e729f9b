"""The post over Zenoh: real sessions with mutual TLS, in this process, and in processes that are paused and killed."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import thalweg
from thalweg.deploy import keys, zenoh_config
from thalweg.deploy.frame import HEADER_BYTES, TAG_BYTES, Ends, Reason, What, header, run_bytes
from thalweg.deploy.identity import Identity
from thalweg.deploy.post import Kind, Letter
from thalweg.deploy.seal import new_session
from thalweg.deploy.zenoh_post import ZenohPost

zenoh = pytest.importorskip("zenoh")

SITES = ["a", "b", "c"]
RUN = zenoh_config.run_key("run")
TIMEOUT = 1.5  # of posts; nothing here waits longer than PATIENCE
PATIENCE = 15.0
STARTS = 120.0  # a process that starts takes seconds to load JAX


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    return keys.init(tmp_path_factory.mktemp("keys") / "federation", [*SITES, "outsider"])


@pytest.fixture
def opened():
    """Closes what is given to it."""
    with contextlib.ExitStack() as stack:
        yield lambda thing: stack.enter_context(contextlib.closing(thing))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def end(port):
    return [f"tls/127.0.0.1:{port}"]


@pytest.fixture
def site(federation, opened):
    def make(name, run="run", folder=federation, **options):
        return opened(ZenohPost(Identity.load(folder, name), SITES, run=run, **{"timeout": TIMEOUT} | options))

    return make


@pytest.fixture
def router(tmp_path, opened):
    """Runs the router of a federation's own file, for its sites."""

    def make(port, folder):
        copied = shutil.copytree(folder, Path(tempfile.mkdtemp(dir=tmp_path)), dirs_exist_ok=True)
        shutil.rmtree(copied / "sites" / "outsider")
        return opened(zenoh.open(zenoh.Config.from_file(keys.router(copied, listen=end(port), timeout=TIMEOUT))))

    return make


def until(condition, patience=PATIENCE):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < patience, "waited in vain"
        time.sleep(0.01)
    return time.monotonic() - began


def meet(*posts):
    names = {post.me for post in posts}
    until(lambda: all(names - {post.me} <= post.present() for post in posts))


def settled(value):
    """`value()` once it has stayed the same for a while: greetings may cross, and are then answered twice."""
    found, since = value(), time.monotonic()
    while time.monotonic() - since < 0.5:
        time.sleep(0.02)
        if value() != found:
            found, since = value(), time.monotonic()
    return found


def next_letter(post):
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        if (found := post.receive(1.0)) is not None:
            return found
    raise AssertionError("no letter came")


def said(call, *args, **kwargs):
    with pytest.raises((ValueError, OSError)) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_letters_arrive_in_order_and_are_counted(site):
    port = free_port()
    a, b = site("a", listen=end(port)), site("b", connect=end(port))
    meet(a, b)
    greetings = settled(lambda: a.overhead)
    bodies = [bytes([i]) * (i * i) for i in range(40)] + [os.urandom(3_000_000), memoryview(b"view")]
    for i, body in enumerate(bodies):
        a.send("b", Letter(Kind.MESSAGE, 1, i, 2, body))
    for i, body in enumerate(bodies):
        assert next_letter(b) == Letter(Kind.MESSAGE, 1, i, 2, bytes(body), "a")
    b.send("a", Letter(Kind.DONE, body=b"end"))
    assert next_letter(a).kind is Kind.DONE
    assert a.sent == {Kind.MESSAGE: sum(map(len, bodies))} == b.received
    assert a.overhead == 42 * (HEADER_BYTES + TAG_BYTES) + greetings and b.overhead > 0
    assert not a.rejected and not b.rejected
    a.send("c", Letter(Kind.MESSAGE))  # to nobody
    assert b.receive(0.0) is None


def test_peers_find_each_other_by_one_acquaintance_in_any_order(site):
    port = free_port()
    b, c = (site(name, listen=end(free_port()), connect=end(port)) for name in "bc")
    time.sleep(0.3)
    a = site("a", listen=end(port))
    meet(a, b, c)
    b.send("c", Letter(Kind.MESSAGE, body=b"direct"))
    assert next_letter(c).sender == "b"
    began = time.monotonic()
    a.close()
    until(lambda: b.present() == {"c"} and c.present() == {"b"})
    assert time.monotonic() - began < 1.0


def test_receive_ends_when_somebody_comes_or_leaves(site):
    port = free_port()
    a, b = site("a", listen=end(port)), site("b", connect=end(port))
    while "b" not in a.present():
        a.receive(PATIENCE)
    b.close()
    began = time.monotonic()
    while a.present():
        assert a.receive(PATIENCE) is None
    assert time.monotonic() - began < 2.0


def test_a_router_carries_what_it_cannot_read(site, federation, router):
    port = free_port()
    router(port, federation)
    a, b, c = (site(name, routed=True, connect=end(port)) for name in SITES)
    meet(a, b, c)
    a.send("b", Letter(Kind.MESSAGE, body=b"secret"))
    assert next_letter(b) == Letter(Kind.MESSAGE, body=b"secret", sender="a")
    assert c.receive(0.2) is None
    c.close()
    until(lambda: a.present() == {"b"})


def raw(federation, name, mode, connect, table=None):
    """A session of Zenoh's own with a site's certificate: what somebody who is dishonest may try."""
    credentials = zenoh_config.from_folder(federation / "sites" / name)
    return zenoh.open(zenoh_config.config(zenoh_config.settings(mode, [], connect, TIMEOUT, 10**6, credentials, table)))


class Intruder:
    """Listens to everything and writes in everybody's name, by way of a or of a router between a and c."""

    def __init__(self, name, over, site, federation, opened, router):
        port = free_port()
        if over == "router":
            router(port, federation)
            self.a, self.c = (site(name, routed=True, connect=end(port)) for name in "ac")
        else:
            self.a, self.c = site("a", listen=end(port)), site("c", connect=end(port))
        meet(self.a, self.c)
        self.session = opened(raw(federation, name, "client", end(port)))
        self.heard, self.seen = [], []
        remote = zenoh.Locality.REMOTE
        self.frame = header(What.LETTER, Ends(run_bytes("run"), new_session()), 1, Letter(Kind.MESSAGE))
        hear, see = (lambda sample: self.heard.append(str(sample.key_expr))), (lambda sample: self.seen.append(sample.key_expr))
        keys = ("**", f"thalweg/{RUN}/*/*", f"thalweg/{RUN}/c/a", "thalweg/*/c/*")
        self.kept = [self.session.declare_subscriber(key, hear, allowed_origin=remote) for key in keys]
        alive = self.session.liveliness()
        self.kept.append(alive.declare_subscriber("thalweg/*/@here/a/*", see, history=True))
        self.kept.append(alive.declare_token(zenoh_config.alive_key(RUN, "b" if name == "outsider" else "c", "00" * 16)))
        time.sleep(0.3)
        for to, sender in (("a", "c"), ("a", "outsider"), ("a", "a"), ("c", "a"), ("*", "c"), ("**", "c")):
            self.put(to, sender)
        self.a.send("c", Letter(Kind.MESSAGE, body=b"private"))
        self.c.send("a", Letter(Kind.MESSAGE, body=b"private"))
        assert next_letter(self.a).body == next_letter(self.c).body == b"private"
        time.sleep(0.3)

    def put(self, to, sender, frame=None):
        self.session.put(zenoh_config.frames_key(RUN, to, sender), self.frame if frame is None else frame)


@pytest.mark.parametrize("over", ["peer", "router"])
@pytest.mark.parametrize("name", ["b", "outsider"])
def test_certificates_decide_who_reads_and_writes(site, federation, opened, router, over, name):
    bad = Intruder(name, over, site, federation, opened, router)
    a, c = bad.a, bad.c
    # Nothing came in another's name, not even to be counted: Zenoh dropped it. Nor did anything go out.
    assert not a.rejected and not c.rejected
    assert bad.heard == [] and not (name == "outsider" and bad.seen)
    assert a.present() == {"c"} and c.present() == {"a"}
    # In its own name b may write, and what it writes without the seal is thrown away and counted; an outsider may not even that.
    for frame in (bad.frame, b"", b"junk", bad.frame[:-1], b"x" * 100):
        bad.put("a", name, frame)
    if name == "b":
        until(lambda: a.rejected == {Reason.SESSION: 1, Reason.MALFORMED: 4})
    else:
        time.sleep(0.3)
        assert not a.rejected


@pytest.mark.slow
@pytest.mark.parametrize("over", ["peer", "router"])
def test_it_is_the_table_that_keeps_them_out_and_seals_hold_without_it(site, federation, opened, router, over, monkeypatch):
    monkeypatch.setattr(zenoh_config, "access", lambda *_: {"enabled": False})
    bad = Intruder("outsider", over, site, federation, opened, router)
    assert bad.heard and bad.seen
    assert bad.a.rejected[Reason.SESSION] > 0 and bad.a.rejected[Reason.SITE] > 0
    assert bad.a.present() == {"c"} and bad.c.present() == {"a"}


def test_without_a_certificate_of_the_federation_nobody_gets_in(site, federation, tmp_path):
    port = free_port()
    a = site("a", listen=end(port))
    other = keys.init(tmp_path / "other", SITES)
    for options in ({}, {"routed": True}, {"listen": end(free_port())}):
        assert "of another authority" in said(site, "b", folder=other, connect=end(port), **options)
    with pytest.raises(zenoh.ZError):
        raw(other, "b", "client", end(port))
    assert a.present() == frozenset()
    assert not a.rejected  # nothing came as far as that


def test_an_oversized_letter_is_the_senders_mistake_and_the_receivers_count(site):
    port = free_port()
    a, b = site("a", listen=end(port), most=1000), site("b", connect=end(port), most=2000)
    meet(a, b)
    assert "expected at most 1,000" in said(a.send, "b", Letter(Kind.MESSAGE, body=bytes(1001)))
    b.send("a", Letter(Kind.MESSAGE, body=bytes(1001)))
    b.send("a", Letter(Kind.MESSAGE, body=bytes(1000)))
    assert len(next_letter(a).body) == 1000
    assert a.rejected == {Reason.OVERSIZED: 1}


@pytest.fixture
def deaf():
    """The port of a program that takes connections and says nothing."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        yield one.getsockname()[1]


def test_who_cannot_be_reached_is_named_with_the_reason(site, deaf):
    """At once where everything goes through a router; else on demand, for others may come later."""
    began, short = time.monotonic(), {"timeout": 0.5}
    for where, why in (
        (end(free_port()), "nothing listens there"),
        (["tls/no.such.host.invalid:7447"], "there is no host"),
        (end(deaf), "no answer within"),
    ):
        assert why in said(site, "b", routed=True, connect=where, **short)
    assert why in site("a", listen=end(free_port()), connect=where, **short).troubles()[0]
    assert time.monotonic() - began < 10


def test_mistakes_are_one_line_with_a_remedy(site, federation, tmp_path):
    port = free_port()
    a = site("a", listen=end(port))
    assert a.troubles() == []
    assert "taken by another program" in said(site, "b", listen=end(port))
    assert "is not an address of this machine" in said(site, "b", listen=["tls/192.0.2.1:7447"])
    assert "expected tls/host:port" in said(site, "b", listen=["tcp/127.0.0.1:1"])
    assert "is not among the sites" in said(site, "outsider", listen=end(port))
    assert "leave listen= out" in said(site, "b", routed=True, listen=end(port))
    assert "nobody can be reached" in said(site, "b")
    assert "insecure=True" in said(ZenohPost, "a", SITES, run="run", listen=end(port))
    assert "at least 0.2 s" in said(site, "b", listen=end(port), timeout=0.1)
    assert "most: got 0" in said(site, "b", listen=end(port), most=0)
    copied = shutil.copytree(federation, tmp_path / "federation")
    keys.renew(copied, "b", days=1e-9)
    assert "expired" in said(site, "b", folder=copied, connect=end(port))


def test_a_certificate_that_expired_on_the_way_is_named(site, federation, tmp_path):
    """Loaded while it was valid, used later."""
    port = free_port()
    site("a", listen=end(port))
    copied = shutil.copytree(federation, tmp_path / "federation")
    keys.renew(copied, "b", days=1.5 / 86400)
    identity = Identity.load(copied, "b")
    time.sleep(2.0)
    message = said(ZenohPost, identity, SITES, run="run", routed=True, connect=end(port), timeout=TIMEOUT)
    assert "certificate expired" in message and "keys renew" in message


@pytest.mark.parametrize("reachable", [True, False])
def test_the_second_of_two_sites_with_one_name_gives_way(site, reachable):
    """Whether the two can see each other, or only a third one sees both."""
    port = free_port()
    listen = lambda: {"listen": end(free_port())} if reachable else {}
    a, b = site("a", listen=end(port)), site("b", connect=end(port), **listen())
    meet(a, b)
    twin = site("b", connect=end(port), **listen())
    b2 = lambda: twin.receive(0.1)
    with pytest.raises(ValueError, match="two sites are called 'b'"):
        until(lambda: b2() is not None)
    with pytest.raises(ValueError, match="two sites are called 'b'"):
        twin.send("a", Letter(Kind.MESSAGE))
    assert a.present() == {"b"} and b.present() == {"a"}
    twin.close()
    b.send("a", Letter(Kind.MESSAGE, body=b"first"))
    assert next_letter(a).body == b"first"


@pytest.mark.slow
def test_a_site_whose_certificate_expires_is_cut_off_and_says_why(site, federation, tmp_path):
    port = free_port()
    copied = shutil.copytree(federation, tmp_path / "federation")
    keys.renew(copied, "b", days=2.5 / 86400)
    a, b = site("a", listen=end(port)), site("b", folder=copied, connect=end(port))
    meet(a, b)
    until(lambda: not a.present() and not b.present())
    assert any("expired on" in trouble and "keys renew" in trouble for trouble in b.troubles())


def test_runs_do_not_see_each_other(site):
    port = free_port()
    a, b = site("a", listen=end(port)), site("b", run="other", connect=end(port))
    time.sleep(0.7)
    assert a.present() == b.present() == frozenset()


def test_insecure_is_for_those_who_ask_for_it(opened):
    port = free_port()
    a = opened(ZenohPost("a", SITES, run="run", listen=[f"tcp/127.0.0.1:{port}"], insecure=True))
    b = opened(ZenohPost("b", SITES, run="run", connect=[f"tcp/127.0.0.1:{port}"], insecure=True))
    meet(a, b)
    a.send("b", Letter(Kind.MESSAGE, body=b"open"))
    assert next_letter(b).body == b"open"


ECHO = """
import sys
import tempfile
from thalweg.deploy.identity import Identity
from thalweg.deploy.post import Letter
from thalweg.deploy.zenoh_post import ZenohPost
folder, name, endpoint, timeout = sys.argv[1:]
post = ZenohPost(Identity.load(folder, name), ["a", "b", "c"], run="run", connect=[endpoint], timeout=float(timeout))
while True:
    letter = post.receive(60)
    if letter is not None:
        post.send(letter.sender, letter)
"""


@pytest.fixture
def process(federation):
    """Starts a site in a process of its own, that sends back what it gets."""
    running = []

    def start(name, port, code=ECHO):
        environment = os.environ | {"PYTHONPATH": str(Path(thalweg.__file__).parents[1])}
        command = [sys.executable, "-c", code, str(federation), name, *end(port), str(TIMEOUT)]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for one in running:
        one.kill()
        one.communicate(timeout=PATIENCE)


def echo(post, name, text):
    post.send(name, Letter(Kind.MESSAGE, body=text))
    found = next_letter(post)
    assert (found.sender, found.body) == (name, text)


def test_processes_that_are_killed_paused_and_started_again(site, process):
    port = free_port()
    a = site("a", listen=end(port))
    b, _ = process("b", port), process("c", port)
    until(lambda: a.present() == {"b", "c"}, STARTS)
    echo(a, "b", b"1")

    b.send_signal(signal.SIGKILL)
    assert until(lambda: a.present() == {"c"}) < 1.0  # at once, not after the time-out
    a.send("b", Letter(Kind.MESSAGE, body=b"lost"))
    echo(a, "c", b"2")

    b = process("b", port)
    until(lambda: a.present() == {"b", "c"}, STARTS)
    echo(a, "b", b"3")

    b.send_signal(signal.SIGSTOP)
    took = until(lambda: a.present() == {"c"})
    assert 0.3 * TIMEOUT < took < 2.5 * TIMEOUT
    b.send_signal(signal.SIGCONT)
    until(lambda: a.present() == {"b", "c"})
    echo(a, "b", b"4")
    assert not a.rejected


@pytest.mark.slow
def test_a_site_that_was_paused_finds_those_again_that_it_never_was_told_of(federation, site, process):
    """Of three that listen, b and c know of each other by a alone; b's process is paused, then goes on."""
    port, others = free_port(), free_port()
    a, c = site("a", listen=end(port)), site("c", listen=end(others), connect=end(port))
    b = process("b", port, ECHO.replace("connect=", f"listen=['tls/127.0.0.1:{free_port()}'], connect="))
    until(lambda: a.present() == {"b", "c"} and c.present() == {"a", "b"})
    b.send_signal(signal.SIGSTOP)
    until(lambda: a.present() == {"c"} and c.present() == {"a"})
    b.send_signal(signal.SIGCONT)
    until(lambda: a.present() == {"b", "c"} and c.present() == {"a", "b"})
    echo(c, "b", b"again")


@pytest.mark.slow
def test_a_router_that_is_away_for_a_while(site, federation, router, tmp_path):
    """Sites that are routed lose each other with it, and find each other again."""
    port = free_port()
    first = router(port, federation)
    a, b = (site(name, routed=True, connect=end(port)) for name in "ab")
    meet(a, b)
    first.close()
    until(lambda: not a.present() and not b.present())
    a.send("b", Letter(Kind.MESSAGE, body=b"lost"))
    router(port, federation)
    meet(a, b)
    a.send("b", Letter(Kind.MESSAGE, body=b"found"))
    assert next_letter(b).body == b"found"


@pytest.mark.slow
def test_processes_behind_a_router_that_are_killed_and_paused(site, federation, router, process):
    port = free_port()
    router(port, federation)
    a = site("a", routed=True, connect=end(port))
    b, c = (process(name, port, ECHO.replace("connect=", "routed=True, connect=")) for name in "bc")
    until(lambda: a.present() == {"b", "c"})
    b.send_signal(signal.SIGKILL)
    assert until(lambda: a.present() == {"c"}) < 1.0
    c.send_signal(signal.SIGSTOP)
    assert until(lambda: not a.present()) < 2.5 * TIMEOUT
    c.send_signal(signal.SIGCONT)
    until(lambda: a.present() == {"c"})
    echo(a, "c", b"again")


def test_a_certificate_is_renewed_while_the_others_run_on(site, federation, tmp_path):
    port = free_port()
    copied = shutil.copytree(federation, tmp_path / "federation")
    a, b = site("a", listen=end(port)), site("b", connect=end(port))
    meet(a, b)
    keys.renew(copied, "b")
    b.close()
    until(lambda: not a.present())
    b = site("b", folder=copied, connect=end(port))
    meet(a, b)
    b.send("a", Letter(Kind.MESSAGE, body=b"renewed"))
    assert next_letter(a).body == b"renewed"
    assert not a.rejected


class Spy:
    """A router of the federation that keeps, alters and repeats what it carries."""

    def __init__(self, router, port, federation):
        self.session, self.frames = router(port, federation), {}
        keep = lambda sample: self.frames.setdefault(str(sample.key_expr).split("/", 1)[1], []).append(
            sample.payload.to_bytes()
        )
        self.kept = self.session.declare_subscriber("thalweg/*/*/*", keep)

    def letters(self, run, to, sender):
        """Frames of letters, in order."""
        of = self.frames.get(f"{zenoh_config.run_key(run)}/{to}/{sender}", [])
        return [frame for frame in of if frame[5] == What.LETTER]

    def put(self, to, sender, frame):
        self.session.put(zenoh_config.frames_key(RUN, to, sender), frame)


def test_a_router_that_is_dishonest_reads_and_changes_nothing(site, federation, router):
    port = free_port()
    spy = Spy(router, port, federation)
    a, b, c = (site(name, routed=True, connect=end(port)) for name in SITES)
    others = [site(name, "other", routed=True, connect=end(port)) for name in "ab"]
    meet(a, b, c), meet(*others)
    for i in range(3):
        a.send("b", Letter(Kind.MESSAGE, body=b"secret %d" % i))
        assert next_letter(b).body == b"secret %d" % i
    others[0].send("b", Letter(Kind.MESSAGE, body=b"elsewhere"))
    next_letter(others[1])
    until(lambda: len(spy.letters("run", "b", "a")) == 3 and spy.letters("other", "b", "a"))
    first, last = spy.letters("run", "b", "a")[::2]
    assert not any(b"secret" in frame for frames in spy.frames.values() for frame in frames)
    ahead = bytearray(last)
    ahead[20:28] = (99).to_bytes(8, "little")
    attacks = [
        (Reason.REPLAYED, "b", "a", last),
        (Reason.REPLAYED, "b", "a", first),
        (Reason.FORGED, "b", "a", bytes(ahead)),
        (Reason.SESSION, "b", "c", last),
        (Reason.SESSION, "c", "a", last),
        (Reason.RUN, "b", "a", spy.letters("other", "b", "a")[0]),
        (Reason.SITE, "b", "outsider", last),
        (Reason.MALFORMED, "b", "a", last[:-1]),
    ]
    for reason, to, sender, frame in attacks:
        post = {"b": b, "c": c}[to]
        before = post.rejected[reason]
        spy.put(to, sender, frame)
        until(lambda post=post, reason=reason, before=before: post.rejected[reason] == before + 1)
    a.send("b", Letter(Kind.MESSAGE, body=b"still"))
    assert next_letter(b).body == b"still"


FAILS = ECHO.partition("while True")[0] + "raise ValueError('boom')"


@pytest.mark.parametrize(("code", "expected"), [(FAILS, "boom"), (FAILS.replace("raise", "0 and"), "")])
def test_a_program_that_ends_does_not_hang(process, code, expected):
    done = process("b", free_port(), code)
    _, printed = done.communicate(timeout=STARTS)
    assert done.returncode == bool(expected)
    assert expected in printed


def test_nothing_of_zenoh_is_loaded_before_it_is_used():
    code = "import sys, json, thalweg.deploy.zenoh_post, thalweg.deploy.keys; print(json.dumps(sorted(sys.modules)))"
    environment = os.environ | {"PYTHONPATH": str(Path(thalweg.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert not {"zenoh", "cryptography"} & set(json.loads(done.stdout))
