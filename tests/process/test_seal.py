"""Channels and who is there, without a network: frames go from hand to hand, and an adversary has every one of them."""

import base64
import json
import time
from collections import Counter

import pytest

from thalweg.deploy import keys
from thalweg.deploy.circle import Circle
from thalweg.deploy.frame import GREETING_BYTES, HEADER_BYTES, Ends, Reason, Rejected, What, header, read
from thalweg.deploy.identity import Identity
from thalweg.deploy.post import Kind, Letter
from thalweg.deploy.seal import SealedOpening
from thalweg.deploy.unsealed import UnsealedOpening

SITES, MOST = ["a", "b", "c"], 10**6


@pytest.fixture(scope="module")
def federation(tmp_path_factory):
    return keys.init(tmp_path_factory.mktemp("keys") / "federation", SITES)


def opening(folder, name, run="run"):
    return SealedOpening(Identity.load(folder, name), run)


def pair(folder, run="run"):
    """The two ends of a channel between a and b."""
    a, b = opening(folder, "a", run), opening(folder, "b", run)
    return a.channel("b", b.session, b.hello), b.channel("a", a.session, a.hello)


def opened(channel, frame):
    frame = bytes(frame)
    return channel.unseal(read(frame, MOST), frame)


def reason(call, *args):
    with pytest.raises(Rejected) as caught:
        call(*args)
    return caught.value.reason


def letter(body=b"words"):
    return Letter(Kind.MESSAGE, 1, 2, 3, body)


def test_what_is_sealed_opens_at_the_other_end_once(federation):
    a, b = pair(federation)
    frames = [bytes(a.seal(What.LETTER, letter(body))) for body in (b"", b"words", bytes(1000))]
    assert [opened(b, frame) for frame in frames] == [b"", b"words", bytes(1000)]
    assert b"words" not in frames[1]
    for frame in frames:
        assert reason(opened, b, frame) is Reason.REPLAYED
    assert opened(a, b.seal(What.LETTER, letter())) == b"words"


def test_a_letter_that_is_overtaken_is_refused_and_a_gap_is_not(federation):
    a, b = pair(federation)
    first, second, third = (bytes(a.seal(What.LETTER, letter(bytes([i])))) for i in range(3))
    assert opened(b, first) == b"\0"
    assert opened(b, third) == b"\2"
    assert reason(opened, b, second) is Reason.REPLAYED


def test_every_bit_of_a_frame_is_authenticated_or_checked(federation):
    a, b = pair(federation)
    frame = bytes(a.seal(What.LETTER, letter()))
    for bit in range(8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        assert reason(opened, b, flipped) in Reason
    assert opened(b, frame) == b"words"


def test_it_opens_for_nobody_else(federation):
    a, b = opening(federation, "a"), opening(federation, "b")
    to_b = a.channel("b", b.session, b.hello)
    frame = bytes(to_b.seal(What.LETTER, letter()))
    c = opening(federation, "c")
    c.session = b.session  # whatever it says of itself, it has not the key
    assert reason(opened, c.channel("a", a.session, a.hello), frame) is Reason.FORGED
    assert reason(opened, to_b, frame) is Reason.SESSION  # back to its sender
    again = opening(federation, "b").channel("a", a.session, a.hello)
    assert reason(opened, again, frame) is Reason.SESSION  # b in its next life
    later = opening(federation, "a")
    assert reason(opened, b.channel("a", later.session, later.hello), frame) is Reason.SESSION  # of a session that is over


def test_another_run_opens_nothing(federation):
    a, b, elsewhere = opening(federation, "a"), opening(federation, "b"), opening(federation, "b", run="other")
    assert reason(a.channel, "b", elsewhere.session, elsewhere.hello) is Reason.FORGED
    assert a.channel("b", b.session, b.hello)


def test_hellos_that_are_not_what_they_say(federation, tmp_path):
    a, b = opening(federation, "a"), opening(federation, "b")
    assert reason(a.channel, "c", b.session, b.hello) is Reason.CERTIFICATE
    stranger = opening(keys.init(tmp_path / "other", ["b"]), "b")
    assert reason(a.channel, "b", stranger.session, stranger.hello) is Reason.CERTIFICATE
    assert reason(a.channel, "router", *of_router(federation, tmp_path)) is Reason.CERTIFICATE
    soon = keys.add(federation, "c2", days=1.5 / 86400)
    late = SealedOpening(Identity.load(soon), "run")
    time.sleep(2.0)
    assert reason(a.channel, "c2", late.session, late.hello) is Reason.CERTIFICATE
    assert reason(a.channel, "b", bytes(16), b.hello) is Reason.MALFORMED
    for cut in (0, 1, 49, 50, 51, 300, len(b.hello) - 1):
        assert reason(a.channel, "b", b.session, b.hello[:cut]) in (Reason.MALFORMED, Reason.CERTIFICATE, Reason.FORGED)
    for bit in range(0, 8 * len(b.hello), 5):
        flipped = bytearray(b.hello)
        flipped[bit // 8] ^= 1 << bit % 8
        assert reason(a.channel, "b", b.session, bytes(flipped)) in Reason


def of_router(folder, tmp_path):
    """Session and hello that somebody with the key of a router makes."""
    written = json.loads(keys.router(folder, listen=["tls/127.0.0.1:1"]).read_text())["transport"]["link"]["tls"]
    for name, part in (("ca", "root_ca_certificate"), ("cert", "listen_certificate"), ("key", "listen_private_key")):
        (tmp_path / f"{name}.pem").write_bytes(base64.b64decode(written[f"{part}_base64"]))
    side = SealedOpening(Identity.load(tmp_path), "run")
    return side.session, side.hello


def hello(side):
    return header(What.HELLO, Ends(side.run, side.session), size=len(side.hello)) + side.hello


class Wire:
    """Circles of several sites; every frame waits until it is delivered."""

    def __init__(self, make):
        self.make, self.circles, self.frames, self.rejected, self.patience = make, {}, [], {}, 0.2

    def start(self, name):
        side = self.make(name)
        self.rejected[name] = Counter()
        put = lambda to, frame: self.frames.append((name, to, bytes(frame)))
        circle = Circle(side, SITES, MOST, put, lambda: None, self.rejected[name], patience=self.patience)
        self.circles[name] = (side, circle)
        return side, circle

    def deliver(self):
        taken = []
        while self.frames:
            sender, to, frame = self.frames.pop(0)
            try:
                taken.append(self.circles[to][1].take(sender, frame))
            except Rejected as rejected:
                self.rejected[to][rejected.reason] += 1
        return [one for one in taken if one is not None]

    def meet(self, *names):
        for name in names:
            for other in names:
                if other != name:
                    self.circles[name][1].appeared(other, self.circles[other][0].session)
        for _ in range(100):
            self.deliver()
            if all(set(names) - {name} <= self.circles[name][1].present for name in names):
                return
            time.sleep(0.02)
        raise AssertionError("they did not meet")

    def write(self, sender, to, text):
        assert self.circles[sender][1].send(to, letter(text))


@pytest.fixture(params=["sealed", "unsealed"])
def wire(request, federation):
    made = Wire(lambda name: opening(federation, name) if request.param == "sealed" else UnsealedOpening(name, "run"))
    yield made
    for _, circle in made.circles.values():
        circle.close()


def test_they_meet_and_write(wire):
    for name in SITES:
        wire.start(name)
    wire.meet(*SITES)
    for to in ("b", "c"):
        wire.write("a", to, to.encode())
    assert [(one.sender, one.body, one.round) for one in wire.deliver()] == [("a", b"b", 2), ("a", b"c", 2)]
    assert not any(wire.rejected.values())


def test_who_starts_again_has_a_new_session_and_the_old_one_is_over(wire):
    wire.start("a"), wire.start("b")
    wire.meet("a", "b")
    wire.write("a", "b", b"old")
    old = wire.frames[0]
    wire.deliver()
    side, circle = wire.circles["a"]
    circle.close()
    wire.circles["b"][1].left("a", side.session)
    assert wire.circles["b"][1].present == frozenset()
    wire.start("a")
    wire.meet("a", "b")
    wire.frames.append(old)
    assert wire.deliver() == []
    wire.frames += [("a", "b", hello(side)), old]  # the old hello, too, comes again
    assert wire.deliver() == []
    assert wire.rejected["b"] == {Reason.SESSION: 3}
    wire.write("a", "b", b"new")
    assert [one.body for one in wire.deliver()] == [b"new"]


def test_a_second_process_of_a_name_does_not_disturb_the_first(wire):
    wire.start("a"), wire.start("b")
    wire.meet("a", "b")
    first, second = wire.circles["a"], wire.start("a")
    wire.circles["b"][1].appeared("a", second[0].session)
    second[1].appeared("b", wire.circles["b"][0].session)
    for _ in range(3):
        wire.frames.append(("a", "b", hello(second[0])))
        wire.deliver()
    assert second[1].present == frozenset()
    assert wire.rejected["b"][Reason.TAKEN] >= 3
    first[1].send("b", letter(b"still here"))
    assert [one.body for one in wire.deliver()] == [b"still here"]
    first[1].close()


def test_the_newer_of_two_processes_with_one_name_gives_way(wire):
    """Even when somebody has met the newer one first."""
    wire.patience = 1.0
    for name in ("b", "c"):
        wire.start(name)
    older = wire.start("a")
    wire.meet("a", "b")
    newer = wire.start("a")
    wire.meet("a", "c")
    for to, sides in (("b", (older, newer)), ("c", (newer, older))):
        for side, circle in sides:
            wire.circles[to][1].appeared("a", side.session)
            circle.appeared(to, wire.circles[to][0].session)
    end = time.monotonic() + 20
    while not newer[1].twin and time.monotonic() < end:
        for name, (side, circle) in {"older": older, "newer": newer}.items():
            wire.circles["a"] = side, circle
            for to in ("b", "c"):
                wire.frames.append(("a", to, hello(side)))
                wire.deliver()
            assert name == "newer" or not circle.twin
        time.sleep(0.02)
    assert "two sites are called 'a'" in newer[1].twin
    assert older[1].present >= {"b"}
    wire.circles["a"] = older
    wire.circles["c"][1].left("a", newer[0].session)
    while older[1].present != {"b", "c"} and time.monotonic() < end:
        wire.deliver()
        time.sleep(0.02)
    assert older[1].present == {"b", "c"}
    assert not older[1].twin
    newer[1].close()


def test_strangers_are_counted_and_kept_out(wire):
    side, circle = wire.start("a")
    circle.appeared("mallory", bytes(16))
    assert circle.present == frozenset()
    assert wire.rejected["a"] == {Reason.SITE: 1}
    ends = Ends(side.run, bytes(16))
    said = header(What.HELLO, ends, size=0)
    assert reason(circle.take, "mallory", said) is Reason.SITE
    assert reason(circle.take, "a", said) is Reason.SITE
    letter_frame = header(What.LETTER, ends, 1, letter(b""))
    assert reason(circle.take, "b", letter_frame) is Reason.SESSION
    assert reason(circle.take, "b", header(What.LETTER, ends._replace(run=bytes(8)), 1, letter(b""))) is Reason.RUN
    big = header(What.HELLO, ends, size=GREETING_BYTES + 1) + bytes(GREETING_BYTES + 1)
    assert reason(circle.take, "b", big) is Reason.OVERSIZED
    assert len(letter_frame) == HEADER_BYTES
