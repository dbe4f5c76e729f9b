"""Whatever comes over the wire is a letter or is counted and thrown away; nothing else happens. By a coverage-guided fuzzer.

    python tests/fuzz.py [-runs=1000000] [other options of libFuzzer]

Needs `pip install atheris`. The first byte of an input says what the rest is: a frame at the end of a sealed channel, a hello
among them; a frame where nothing is sealed, so that what it holds goes on as a letter; the body of a letter about membership; how
to change a good one into another that is JSON still, and the same of what a client writes to join a server.
Ends with an error, and leaves the input behind, at the first exception that is not meant for it.
"""

import copy
import dataclasses
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["thalweg.deploy"]):
    from thalweg.deploy import circle, frame, keys, membership, roster, seal, unsealed
    from thalweg.deploy.card import Card
    from thalweg.deploy.identity import Identity
    from thalweg.deploy.memory_post import Exchange
    from thalweg.deploy.post import Kind, Letter

SITES, MOST = ("a", "b", "c"), 1000
CARDS = [Card(name, "run", "x [3] float64", 5, 2.0, 1.0, 0.5) for name in SITES]
SURVEY = {
    "each": {"gain": [1.0]},
    "worst": {"bend": 0.0},
    "peaks": {"peak": [1.0, 2.0]},
    "sums": {"M": [[1.0, 0.0], [0.0, 1.0]]},
}
KINDS = [Kind.JOIN, Kind.SEES, Kind.VIEW, Kind.READY, Kind.START, Kind.REFUSED]


def bodies():
    """One good body of every kind of letter about membership, and some that are nearly so."""
    told = [vars(card) for card in CARDS]
    join = {"life": "00", "cards": told[:1]}
    yield Kind.JOIN, json.dumps(join).encode()
    yield Kind.JOIN, json.dumps(join | {"cards": [told[0] | {"examples": "5"}]}).encode()
    yield Kind.JOIN, json.dumps(join | {"cards": [told[0] | {"weight": 1e999}]}).encode()
    yield Kind.JOIN, json.dumps(join | {"cards": [told[0] | {"survey": SURVEY}]}).encode()
    yield Kind.JOIN, json.dumps(join | {"cards": [told[0] | {"rows": [0, -1], "share": [1.0, 0.5]}]}).encode()
    for kind in (Kind.SEES, Kind.VIEW, Kind.READY):
        yield kind, json.dumps(SITES).encode()
        yield kind, b"[]"
    yield Kind.START, json.dumps(told).encode()
    yield Kind.REFUSED, b"because"
    yield Kind.VIEW, b"[" * 2000


GOOD = [(kind, body) for kind, body in bodies() if kind is not Kind.REFUSED and body != b"[" * 2000]


CLIENT = [(Kind.JOIN, json.dumps({"life": "00", "card": vars(CARDS[0])}).encode())]
# What a part of a body may be changed into.
WRONG = [
    None,
    True,
    -1,
    0,
    5,
    2**70,
    10**400,
    1.5,
    -0.0,
    1e999,
    float("nan"),
    "",
    "a",
    "b",
    "é\ud800",
    "run",
    [],
    {},
    [[]],
    ["b"],
    [None],
    {"b": 1},
]


def places(value, inside=()):
    """Where the parts of a JSON value stand."""
    yield inside
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*inside, key))


def changed(choose, among):
    """(kind, body): one of these letters, of which some parts were replaced, left out or doubled."""
    kind, good = among[choose(len(among))]
    whole = [json.loads(good)]
    for _ in range(1 + choose(3)):
        at = list(places(whole))[1:]
        if not at:
            break
        *path, last = at[choose(len(at))]
        around = whole
        for key in path:
            around = around[key]
        how = choose(len(WRONG) + 3)
        if how < len(WRONG):
            around[last] = copy.deepcopy(WRONG[how])
        elif how == len(WRONG):
            del around[last]
        elif how == len(WRONG) + 1 and isinstance(around, list):
            around.append(json.loads(json.dumps(around[last])))
        elif isinstance(around, dict):
            around["more"] = around[last]
    return kind, json.dumps(whole[0] if whole else None).encode()


class Ends:
    """A site b, and what a has to write to it."""

    def __init__(self, a, b):
        self.a, self.rejected = a, Counter()
        self.channel = a.channel("b", b.session, b.hello)
        self.circle = circle.Circle(b, SITES, MOST, lambda *_: None, lambda: None, self.rejected, patience=1.0)
        self.circle.appeared("a", a.session)
        self.circle.take("a", self.hello())
        self.circle.take("a", bytes(self.channel.seal(frame.What.CONFIRM)))
        assert self.circle.present == {"a"}

    def counts(self):
        return {str(reason): count for reason, count in self.rejected.items()}

    def hello(self):
        return frame.header(frame.What.HELLO, frame.Ends(self.a.run, self.a.session), size=len(self.a.hello)) + self.a.hello

    def frames(self):
        yield self.hello()
        for what in (frame.What.CONFIRM, frame.What.TAKEN):
            yield bytes(self.channel.seal(what, body=bytes(16 if what is frame.What.TAKEN else 0)))
        for size in (0, 5, MOST, MOST + 1):
            yield bytes(self.channel.seal(frame.What.LETTER, Letter(Kind.MESSAGE, 1, 2, 3, bytes(size))))

    def take(self, data):
        try:
            letter = self.circle.take("a", data)
        except frame.Rejected as rejected:
            self.rejected[rejected.reason] += 1
            return
        self.rejected["none: letters"] += letter is not None
        if letter is not None:
            assert (letter.sender, len(letter.body) <= MOST) == ("a", True)


class Member:
    """A site b in an epoch with a and c, that a writes to."""

    def __init__(self):
        self.counts = Counter()
        self.renew()

    def renew(self):
        exchange = Exchange()
        self.posts = {name: exchange.join(name) for name in SITES}
        self.site = membership.Membership(self.posts["b"], SITES, CARDS[1], quorum=2, timeout=1.0, wait=1.0)
        self.site.cards = {card.name: card for card in CARDS}
        self.heard = 0

    def take(self, data):
        if len(data) < 2:
            return
        self.hear(KINDS[data[0] % len(KINDS)], data[1], data[2:])

    def change(self, data):
        """As `take`, of letters that are JSON."""
        provider = atheris.FuzzedDataProvider(data)
        kind, body = changed(lambda most: provider.ConsumeIntInRange(0, most - 1), GOOD)
        self.hear(kind, provider.ConsumeIntInRange(0, 5), body)

    def hear(self, kind, number, body):
        self.heard += 1
        if self.heard % 50 == 0:
            self.renew()
        letter = Letter(kind, epoch=number, round=number, body=body, sender="a")
        try:
            before = self.posts["b"].rejected.total()
            epoch = self.site.hear(letter)
            self.site.disturbed()
            self.counts[kind.name, "thrown away" if self.posts["b"].rejected.total() > before else "taken"] += 1
        except membership.Refused:
            self.counts[kind.name, "refused"] += 1
            self.renew()
            return
        if epoch is not None:
            assert epoch.members <= set(SITES) and [card.name for card in epoch.cards] == list(SITES)
            assert all(card.examples > 0 and card.weight >= 0 for card in epoch.cards)


class Listed:
    """A server, that a client a writes to."""

    def __init__(self):
        self.counts = Counter()
        self.renew()

    def renew(self):
        exchange, self.heard = Exchange(), 0
        self.server, self.a = exchange.join("server"), exchange.join("a")
        self.roster = roster.Roster(self.server, SITES, dataclasses.replace(CARDS[0], name="server"))
        while self.roster.receive(0.0, True) is not None:
            pass

    def change(self, data):
        """The letter of a client that joins, changed."""
        provider = atheris.FuzzedDataProvider(data)
        _, body = changed(lambda most: provider.ConsumeIntInRange(0, most - 1), CLIENT)
        self.heard += 1
        if self.heard % 50 == 0:
            self.renew()
        self.a.send("server", Letter(Kind.JOIN, body=body))
        assert self.roster.receive(0.0, True) is None
        self.counts["malformed"] = self.counts["malformed"] + self.server.rejected.pop("malformed", 0)
        self.counts["joined"] += len(self.roster.joined())
        for card in self.roster.cards.values():
            assert card.name == "a" and card.examples > 0 and card.weight >= 0


def main():
    """Fuzz."""
    folder = keys.init(Path(tempfile.mkdtemp()) / "federation", SITES)
    sealed = Ends(*(seal.SealedOpening(Identity.load(folder, name), "run") for name in "ab"))
    plain = Ends(*(unsealed.UnsealedOpening(name, "run") for name in "ab"))
    told, made, listed = Member(), Member(), Listed()
    targets, seen = [sealed.take, plain.take, told.take, made.change, listed.change], Counter()
    corpus = Path(tempfile.mkdtemp())
    draw = random.Random(0)
    seeds = [(i, data) for i, ends in enumerate((sealed, plain)) for data in ends.frames()]
    seeds += [(2, bytes([KINDS.index(kind), epoch]) + body) for kind, body in bodies() for epoch in (0, 3)]
    seeds += [(3 + i % 2, draw.randbytes(40)) for i in range(300)]
    for i, (target, data) in enumerate(seeds):
        (corpus / str(i)).write_bytes(bytes([target]) + data)

    def one(data):
        if data:
            targets[data[0] % len(targets)](data[1:])
            seen[targets[data[0] % len(targets)].__qualname__] += 1
        if sum(seen.values()) % 200_000 == 0:
            print(
                dict(seen),
                "sealed:",
                sealed.counts(),
                "unsealed:",
                plain.counts(),
                "members:",
                told.counts,
                made.counts,
                listed.counts,
            )

    options = sys.argv if any(option.startswith("-runs=") for option in sys.argv) else [*sys.argv, "-runs=1000000"]
    atheris.Setup([*options, str(corpus), "-max_len=2400", "-timeout=10"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
