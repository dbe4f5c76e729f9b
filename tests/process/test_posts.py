"""What every post promises, whatever carries its letters (`thalweg.deploy.post`)."""

import contextlib
import socket
import threading
import time

import pytest

from thalweg.deploy import keys
from thalweg.deploy.identity import Identity
from thalweg.deploy.memory_post import Exchange
from thalweg.deploy.post import Kind, Letter
from thalweg.deploy.zenoh_post import ZenohPost

SITES = ["a", "b", "c"]
PATIENCE = 15.0


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    return keys.init(tmp_path_factory.mktemp("keys") / "federation", SITES)


@pytest.fixture(params=["memory", "zenoh", "insecure"])
def join(request, federation):
    """Makes the post of a site."""
    if request.param == "memory":
        make = Exchange().join
    else:
        protocol, ports = "tls" if request.param == "zenoh" else "tcp", {}
        for name in SITES:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                ports[name] = f"{protocol}/127.0.0.1:{free.getsockname()[1]}"

        def make(name):
            who = Identity.load(federation, name) if request.param == "zenoh" else name
            own, insecure = [] if name in taken else [ports[name]], request.param == "insecure"
            taken.add(name)
            first = [ports["a"]] if name != "a" else []
            return ZenohPost(who, SITES, run="run", listen=own, connect=first, timeout=1.0, insecure=insecure)

    taken = set()
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(contextlib.closing(make(name)))


def until(condition):
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < PATIENCE, "waited in vain"
        time.sleep(0.01)


def meet(*posts):
    names = {post.me for post in posts}
    until(lambda: all(post.present() == names - {post.me} for post in posts))


def letters(post, count):
    found, began = [], time.monotonic()
    while len(found) < count:
        assert time.monotonic() - began < PATIENCE, "a letter did not come"
        if (letter := post.receive(1.0)) is not None:
            found.append(letter)
    return found


def test_letters_come_whole_in_order_and_from_whom_they_are(join):
    a, b, c = map(join, SITES)
    meet(a, b, c)
    for i in range(200):
        a.send("c", Letter(Kind.MESSAGE, 1, i, 2, b"a" * (i * i), sender="b"))
        b.send("c", Letter(Kind.AGAIN, 1, i, 2, memoryview(b"b" * i)))
    found = letters(c, 400)
    for name, kind, power in (("a", Kind.MESSAGE, 2), ("b", Kind.AGAIN, 1)):
        mine = [letter for letter in found if letter.sender == name]
        assert mine == [Letter(kind, 1, i, 2, name.encode() * i**power, name) for i in range(200)]
    assert c.received == a.sent + b.sent
    assert not a.rejected and not b.rejected and not c.rejected


def test_a_letter_to_nobody_is_lost_without_an_error(join):
    a = join("a")
    a.send("b", Letter(Kind.MESSAGE, body=b"lost"))
    b = join("b")
    meet(a, b)
    a.send("b", Letter(Kind.MESSAGE, body=b"comes"))
    assert [letter.body for letter in letters(b, 1)] == [b"comes"]


def test_whoever_waits_is_told_at_once_who_came_and_who_left(join):
    a, b = join("a"), join("b")
    meet(a, b)
    while a.receive(0.2) is not None or a.receive(0.2) is not None:
        pass
    for change, expected in ((lambda: join("c"), {"b", "c"}), (b.close, {"c"})):
        thread = threading.Timer(0.2, change)
        thread.start()
        began = time.monotonic()
        while a.present() != expected:
            assert a.receive(PATIENCE) is None
        assert time.monotonic() - began < 3.0
        thread.join(PATIENCE)


def test_who_waits_in_vain_is_told_so_in_time(join):
    a = join("a")
    a.receive(0.1)
    for timeout in (0.0, 0.2):
        began = time.monotonic()
        assert a.receive(timeout) is None
        assert timeout <= time.monotonic() - began < timeout + 0.5


def test_two_sites_of_one_name_are_an_error_of_the_second(join):
    a, b = join("a"), join("b")
    meet(a, b)

    def join_again():
        second, began = join("b"), time.monotonic()
        while time.monotonic() - began < PATIENCE:
            second.receive(0.1)

    with pytest.raises(ValueError, match="two sites are called 'b'"):
        join_again()
    a.send("b", Letter(Kind.MESSAGE, body=b"to the first"))
    assert letters(b, 1)[0].body == b"to the first"


def test_who_has_left_may_come_again(join):
    a, b = join("a"), join("b")
    meet(a, b)
    b.close()
    until(lambda: not a.present())
    b = join("b")
    meet(a, b)
    b.send("a", Letter(Kind.MESSAGE, body=b"again"))
    assert letters(a, 1)[0].sender == "b"
