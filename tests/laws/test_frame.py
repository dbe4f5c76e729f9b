"""Laws of the wire: what is written is read; whatever else arrives is a letter or is rejected, and nothing breaks.

`tests/fuzz.py` searches further, by a fuzzer that is guided by coverage.
"""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.deploy import frame, keys
from thalweg.deploy.circle import Circle
from thalweg.deploy.frame import HEADER_BYTES, TAG_BYTES, Ends, Reason, Rejected, What
from thalweg.deploy.identity import Identity
from thalweg.deploy.post import Kind, Letter
from thalweg.deploy.seal import SealedOpening

MOST = 1000
U2, U4 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
LETTERS = st.builds(
    Letter, kind=st.sampled_from(Kind), epoch=U4, round=U4, phase=U2, body=st.binary(max_size=MOST), sender=st.just("a")
)
# Bytes of any kind, and such as begin like a frame, which get further.
HEADS = st.builds(
    lambda *fields: frame._LAYOUT.pack(frame.MAGIC, 1, *fields),
    st.integers(0, 6),
    st.integers(0, 11),
    st.integers(0, 1),
    U4,
    U4,
    U2,
    st.sampled_from([0, TAG_BYTES, 7]),
    st.integers(0, 2**64 - 1),
    st.just(frame.run_bytes("run")) | st.binary(min_size=8, max_size=8),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=8, max_size=8),
    st.integers(0, 2 * MOST),
)
ANYTHING = st.binary(max_size=2 * MOST) | st.builds(bytes.__add__, HEADS, st.binary(max_size=100))


class Pair:
    """The two ends of a sealed channel from a to b, and b's circle around its end."""

    def __init__(self, folder):
        self.a, self.b = (SealedOpening(Identity.load(folder, name), "run") for name in "ab")
        self.to_b = self.a.channel("b", self.b.session, self.b.hello)
        self.rejected = Counter()
        self.circle = Circle(self.b, "ab", MOST, lambda *_: None, lambda: None, self.rejected, patience=1.0)
        self.circle.appeared("a", self.a.session)
        self.circle.take("a", self.hello(What.HELLO))
        self.circle.take("a", bytes(self.to_b.seal(What.CONFIRM)))
        assert self.circle.present == {"a"}

    def hello(self, what):
        return frame.header(what, Ends(self.a.run, self.a.session), size=len(self.a.hello)) + self.a.hello

    def take(self, data):
        """A letter, None, or the reason why not."""
        try:
            return self.circle.take("a", data)
        except Rejected as rejected:
            return rejected.reason


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    made = Pair(keys.init(tmp_path_factory.mktemp("keys") / "federation", ["a", "b", "c"]))
    yield made
    made.circle.close()


@given(LETTERS, st.binary(min_size=32, max_size=32), st.integers(0, 2**64 - 1))
def test_headers_are_read_as_they_were_written(letter, numbers, counter):
    ends = Ends(numbers[:8], numbers[8:24], numbers[24:])
    data = frame.header(What.LETTER, ends, counter, letter, len(letter.body)) + letter.body
    head = frame.read(data, MOST)
    assert frame.letter(head, data[HEADER_BYTES:], "a") == letter
    assert (head.run, head.session, head.to, head.counter, head.size) == (*ends, counter, len(letter.body))


@given(LETTERS)
def test_letters_arrive_as_they_were_sent_and_once(ends, letter):
    data = bytes(ends.to_b.seal(What.LETTER, letter))
    assert ends.take(data) == letter
    assert ends.take(data) is Reason.REPLAYED


@settings(max_examples=500)
@given(LETTERS, st.data())
def test_a_flipped_bit_is_rejected(ends, letter, data):
    sealed = bytearray(ends.to_b.seal(What.LETTER, letter))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    assert isinstance(ends.take(bytes(sealed)), Reason)


@given(LETTERS)
def test_the_wrong_receiver_rejects(ends, letter):
    sealed = bytes(ends.to_b.seal(What.LETTER, letter))
    with pytest.raises(Rejected):
        ends.to_b.unseal(frame.read(sealed, MOST), sealed)


@settings(max_examples=1500)
@given(ANYTHING)
def test_anything_is_rejected(ends, data):
    assert isinstance(ends.take(data), Reason)


@given(st.binary(min_size=MOST + 1, max_size=MOST + 50))
def test_bodies_beyond_the_limit_are_rejected(ends, body):
    assert ends.take(bytes(ends.to_b.seal(What.LETTER, Letter(Kind.MESSAGE, body=body)))) is Reason.OVERSIZED


@pytest.mark.parametrize("field", ["epoch", "round", "phase"])
@pytest.mark.parametrize("value", [-1, 2**32, 0.5])
def test_numbers_that_do_not_fit_are_the_senders_mistake(ends, field, value):
    with pytest.raises(ValueError, match=f"{field} {value}, expected|{field} {value}"):
        ends.to_b.seal(What.LETTER, Letter(Kind.MESSAGE, **{field: value}))


def mutations(ends, count, seed):
    """Frames, good ones and hellos, with bytes changed, cut, doubled or put in."""
    draw = random.Random(seed)
    hellos = [ends.hello(What.HELLO), ends.hello(What.ANSWER)]
    for i in range(count):
        whole = (
            hellos[i % 2] if i % 50 < 2 else bytes(ends.to_b.seal(What.LETTER, Letter(Kind.MESSAGE, 1, i, 0, bytes(i % 64))))
        )
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at, how = draw.randrange(len(data) + 1), draw.randrange(4)
            if how == 0 and at < len(data):
                data[at] = draw.randrange(256)
            elif how == 1:
                del data[at : at + draw.randint(1, 9)]
            elif how == 2:
                data[at:at] = draw.randbytes(draw.randint(1, 9))
            else:
                data[at:at] = data[:at][-draw.randint(1, 60) :]
        if data != whole:
            yield bytes(data)


def check_mutations(ends, count, seed):
    for data in mutations(ends, count, seed):
        found = ends.take(data)
        # A hello that is new to nobody is answered: what is after its header is not read again.
        assert isinstance(found, Reason) or (found is None and data[5] in (What.HELLO, What.ANSWER)), data.hex()


def test_mutations_are_rejected(ends):
    check_mutations(ends, 5_000, seed=0)
