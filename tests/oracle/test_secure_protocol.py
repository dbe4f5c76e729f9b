"""The protocol of secure sums: exact for every pattern of drop-outs, silent below the threshold, and deaf to wrong messages.

The oracle is the sum in the ring by NumPy. Axes: `n` clients, `d` numbers of a vector.
"""

import contextlib
import hashlib
import itertools
import os

import networkx as nx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("cryptography")

from thalweg.message import secure
from thalweg.message.secure import Client, ProtocolError, Server, Setup, TooFewClients, crypto, graph, shamir, simulate, wire
from thalweg.message.secure.wire import HEADER_BYTES, Kind

STEPS = ("keys", "shares", "masked", "attest", "reveal")


def vectors(n, d, bits=32, seed=0):
    return np.random.default_rng(seed).integers(0, 2**bits, (n, d), dtype=f"uint{bits}")


def ring_sum(rows, members):
    return rows[sorted(members)].sum(0, dtype=rows.dtype)


@pytest.mark.parametrize(("n", "signed"), [(5, False), (6, True)])
def test_every_pattern_of_drop_outs_at_every_step(n, signed):
    """Each client drops out at one of the steps, or never: all patterns for two or fewer of them, many for more."""
    rows, threshold = vectors(n, 3), n // 2 + 1 if not signed else 2 * n // 3 + 1
    steps = [step for step in STEPS if signed or step != "attest"]
    patterns = [dict(zip(who, when, strict=True)) for count in range(3) for who in itertools.combinations(range(n), count)
                for when in itertools.product(steps, repeat=count)]  # fmt: skip
    rng = np.random.default_rng(1)
    patterns += [{i: steps[s] for i, s in enumerate(rng.integers(0, len(steps), n)) if rng.uniform() < 0.5} for _ in range(40)]
    if signed:
        patterns = patterns[::4]
    for pattern in patterns:
        drops = {step: [i for i, when in pattern.items() if when == step] for step in steps}
        survivors = {i for i in range(n) if pattern.get(i) not in ("keys", "shares", "masked")}
        if n - len(pattern) >= threshold:
            found = simulate(rows, threshold=threshold, signed=signed, drops=drops)
            assert found.survivors == survivors
            np.testing.assert_array_equal(found.total, ring_sum(rows, survivors))
            continue
        with pytest.raises(TooFewClients) as caught:
            simulate(rows, threshold=threshold, signed=signed, drops=drops)
        assert set(caught.value.missing) <= set(pattern)
        assert caught.value.missing
        assert str(caught.value.missing[0]) in str(caught.value)


@pytest.mark.parametrize("bits", [16, 32])
def test_vectors_longer_than_a_piece_of_keystream(bits):
    rows = vectors(3, crypto.PIECE + 13, bits)
    found = simulate(rows, threshold=2, drops={"masked": [1]})
    np.testing.assert_array_equal(found.total, ring_sum(rows, {0, 2}))


def test_sums_over_a_graph():
    n, rows = 24, vectors(24, 5)
    for seed, drops in enumerate([{}, {"masked": [3, 17]}, {"shares": [0], "masked": [9], "reveal": [12]}]):
        found = simulate(rows, threshold=15, degree=12, drops=drops)
        gone = {i for step in ("keys", "shares", "masked") for i in drops.get(step, ())}
        np.testing.assert_array_equal(found.total, ring_sum(rows, set(range(n)) - gone), err_msg=str(seed))
        assert found.sent.max() < simulate(rows[:, :5], threshold=15).sent.max()


def test_the_graph_is_regular_symmetric_and_everybody_finds_the_same():
    for n, k in ((10, 4), (31, 8), (200, 16)):
        around = graph.neighbourhoods(n, k, bytes(16))
        edges = {(i, int(j)) for i, row in enumerate(around) for j in row}
        assert all(len(set(row.tolist()) - {i}) == k for i, row in enumerate(around))
        assert edges == {(j, i) for i, j in edges}
        assert nx.node_connectivity(nx.Graph(list(edges))) == k if n < 50 else True  # Harary's: as connected as can be
        other = graph.neighbourhoods(n, k, b"another session.")
        assert any((a != b).any() for a, b in zip(around, other, strict=True))


def test_how_often_a_graph_fails_is_bounded_as_stated():
    """Against draws: of graphs in which many drop out, how often some secret has too few holders left."""
    n, k, dropped, trials = 60, 12, 0.25, 3000
    rng, around = np.random.default_rng(0), np.array(graph.neighbourhoods(60, 12, bytes(16)))
    failed = 0
    for _ in range(trials):
        away = np.zeros(n, bool)
        away[rng.choice(n, int(dropped * n), replace=False)] = True
        failed += ((~away[around]).sum(1) < graph.majority(k + 1)).any()
    bound = graph.failure(n, k, dropped, 0.0)[1]
    assert failed / trials <= bound
    assert failed / trials >= bound / 10  # a union bound, not a wild one
    assert secure.degree(100) < secure.degree(10_000) < 2 * secure.degree(100) + 10
    with pytest.raises(ValueError, match="2·corrupt"):
        secure.degree(50, dropped=0.3, corrupt=0.2)


# Secrets in shares.


def test_shares_reveal_a_secret_from_the_threshold_on_and_are_uniform_below():
    secret, points = bytes(range(224, 256)), [1, 2, 5, 9, 1000, 2**30 - 1]
    for threshold in (2, 3, 6):
        shares = shamir.share(secret, threshold, points, os.urandom)
        for chosen in itertools.combinations(range(6), threshold):
            at = [points[i] for i in chosen]
            assert shamir.reveal(shares[list(chosen)], shamir.weights(at)) == secret
    first = np.array([shamir.share(secret, 2, [1], os.urandom)[0] for _ in range(3000)]) / shamir.PRIME
    assert (np.abs(first.mean(0) - 0.5) < 5 / np.sqrt(12 * 3000)).all()


def test_shares_are_values_of_a_polynomial_over_the_field():
    """By Python's own integers."""
    drawn = []

    def source(count):
        drawn.append(os.urandom(count))
        return drawn[-1]

    secret, points = os.urandom(32), [1, 7, 2**29 + 3]
    shares = shamir.share(secret, 4, points, source)
    coefficients = np.frombuffer(drawn[0], "<u4").reshape(3, shamir.LIMBS) & np.uint32(shamir.PRIME)
    number = int.from_bytes(secret, "little")
    for limb in range(shamir.LIMBS):
        polynomial = [*(int(c) for c in coefficients[:, limb]), number >> (30 * limb) & (2**30 - 1)]
        for point, share in zip(points, shares[:, limb], strict=True):
            value = 0
            for c in polynomial:
                value = (value * point + c) % shamir.PRIME
            assert value == share


# What the server sees.


class Watched(Server):
    """Keeps all that it ever received."""

    def __init__(self, setup):
        super().__init__(setup)
        self.seen = []

    def receive(self, sender, message):
        self.seen.append((sender, message))
        super().receive(sender, message)


def conducted(setup, rows, drops=(), identities=None, server=None):
    """(server, clients) after a run in which `drops` send no masked vector."""
    clients = [Client(setup, i, identity=identities and identities[i]) for i in range(setup.clients)]
    server = server or Watched(setup)
    calls = [
        lambda c, m: c.advertise(),
        lambda c, m: c.share(m),
        lambda c, m: c.mask(m, rows[c.index]),
        *([lambda c, m: c.attest(m)] if identities else []),
        lambda c, m: c.unmask(m),
    ]
    inbox = dict.fromkeys(range(setup.clients), b"")
    for step, call in enumerate(calls):
        for i, message in inbox.items():
            if i not in drops or step < 2:
                server.receive(i, call(clients[i], message))
        inbox = server.advance()
    return server, clients


def test_the_server_sees_masked_vectors_and_one_kind_of_share_of_each_client():
    n, d, gone = 7, 4, (2, 5)
    setup = Setup(os.urandom(16), n, d, 5)
    rows = vectors(n, d)
    server, clients = conducted(setup, rows, gone)
    np.testing.assert_array_equal(server.total, ring_sum(rows, set(range(n)) - set(gone)))
    everything = b"".join(message for _, message in server.seen)
    for client in clients:
        for secret in (client._self, client._pair, client._channel, rows[client.index].tobytes()):
            assert secret not in everything
    # Of whom the server can reveal what: shares about each client, by kind, as the clients gave them.
    held = {i: client._held for i, client in enumerate(clients)}
    revealed = {kind: {who: set() for who in range(n)} for kind in ("mask", "pair")}
    for sender, message in server.seen:
        if message[5] != Kind.REVEAL:
            continue
        entries = wire.unpack_entries(sender, memoryview(message)[HEADER_BYTES:], shamir.SHARE_BYTES, frozenset(range(n)))
        for who, share in entries.items():
            mine = held[sender][who]
            revealed["mask" if share == mine[: shamir.SHARE_BYTES] else "pair"][who].add(sender)
    for who in range(n):
        known, hidden = ("pair", "mask") if who in gone else ("mask", "pair")
        assert len(revealed[known][who]) == 5
        assert not revealed[hidden][who]


def test_what_the_server_can_take_off_leaves_only_the_sum():
    """Having removed all masks that it can, the server has y_u = x_u + Σ ±p_uv with unknown p_uv of surviving pairs.

    Combinations of the y_u without any p are the left null space of the incidence matrix: multiples of the plain sum alone, where
    the survivors are connected. And what is left does hide: it differs from the vectors in nearly all numbers.
    """
    n, d, gone = 12, 400, (1, 4)
    for degree in (None, 6):
        setup = Setup(os.urandom(16), n, d, 8, degree=degree)
        rows = vectors(n, d)
        server, clients = conducted(setup, rows, gone)
        survivors = sorted(server.survivors)
        pairs = [(u, v) for u, v in itertools.combinations(survivors, 2) if v in setup.neighbours[u]]
        incidence = np.zeros((len(survivors), len(pairs)))
        for column, (u, v) in enumerate(pairs):
            incidence[survivors.index(u), column], incidence[survivors.index(v), column] = 1, -1
        assert np.linalg.matrix_rank(incidence) == len(survivors) - 1
        np.testing.assert_allclose(np.ones(len(survivors)) @ incidence, 0)
        masked = {s: np.frombuffer(m[HEADER_BYTES:], setup.dtype).copy() for s, m in server.seen if m[5] == Kind.MASKED}
        masks, public = crypto.Masks(), [crypto.public_key(client._pair) for client in clients]
        left = {}
        for u in survivors:
            left[u] = masked[u]
            masks.add(left[u], crypto.derive(clients[u]._self, setup.session, b"self"), -1)
            for v in set(gone) & setup.neighbours[u]:
                masks.add(left[u], secure.client.pair_key(setup, clients[v]._pair, public[u], u), -1 if u < v else 1)
            assert (left[u] != rows[u]).mean() > 0.99
        np.testing.assert_array_equal(np.sum(list(left.values()), axis=0, dtype=np.uint32), server.total)


def test_a_client_gives_only_one_kind_of_share_whatever_it_is_asked():
    setup = Setup(os.urandom(16), 5, 3, 3)
    rows = vectors(5, 3)
    server, clients = Server(setup), [Client(setup, i) for i in range(5)]
    for client in clients:
        server.receive(client.index, client.advertise())
    for i, message in server.advance().items():
        server.receive(i, clients[i].share(message))
    for i, message in server.advance().items():
        clients[i].mask(message, rows[i])
    survive = lambda who: wire.pack(setup, Kind.SURVIVORS, None, wire.pack_bitmap(setup, set(who)))
    clients[0].unmask(survive([0, 1, 2, 3]))
    with pytest.raises(ProtocolError, match="asked to unmask, expected nothing"):
        clients[0].unmask(survive([0, 1, 2, 4]))  # the other kind of share of 3 and 4
    with pytest.raises(ProtocolError, match="at least 3, the threshold"):
        clients[1].unmask(survive([1, 2]))
    with pytest.raises(ProtocolError, match="told something wrong"):
        clients[1].unmask(survive([0, 1, 2, 3]))
    with pytest.raises(ProtocolError, match="without client 2"):
        clients[2].unmask(survive([0, 1, 3, 4]))


def signed_setup(n, d, threshold):
    private = [os.urandom(32) for _ in range(n)]
    return Setup(os.urandom(16), n, d, threshold, identities=tuple(map(crypto.signing_public, private))), private


def test_a_server_that_tells_clients_different_survivors_is_found_out():
    setup, private = signed_setup(6, 3, 5)
    rows = vectors(6, 3)
    clients, server = [Client(setup, i, identity=private[i]) for i in range(6)], Server(setup)
    for client in clients:
        server.receive(client.index, client.advertise())
    for i, message in server.advance().items():
        server.receive(i, clients[i].share(message))
    for i, message in server.advance().items():
        server.receive(i, clients[i].mask(message, rows[i]))
    survive = lambda who: wire.pack(setup, Kind.SURVIVORS, None, wire.pack_bitmap(setup, set(who)))
    stories = {i: survive(range(6)) if i < 3 else survive(set(range(6)) - {0}) for i in range(1, 6)}
    answers = {i: clients[i].attest(story) for i, story in stories.items()}
    signatures = {i: answer[HEADER_BYTES:] for i, answer in answers.items()}
    proof = lambda to, who: wire.pack(setup, Kind.PROOF, None, wire.pack_entries({i: signatures[i] for i in who if i != to}))
    with pytest.raises(ProtocolError, match="client 3: it did not sign the survivors that I was told of"):
        clients[1].unmask(proof(1, range(1, 6)))
    with pytest.raises(ProtocolError, match="got 2 neighbours that signed"):
        clients[2].unmask(proof(2, [1, 2]))


def test_keys_that_were_replaced_are_found_out():
    setup, private = signed_setup(4, 2, 3)
    clients = [Client(setup, i, identity=private[i]) for i in range(4)]
    keys = {i: client.advertise()[HEADER_BYTES:] for i, client in enumerate(clients)}
    evil = crypto.public_key(os.urandom(32)) + keys[2][32:]
    roster = wire.pack(setup, Kind.ROSTER, None, wire.pack_entries({1: keys[1], 2: evil, 3: keys[3]}))
    with pytest.raises(ProtocolError, match="client 2: its keys are not signed by it"):
        clients[0].share(roster)
    with pytest.raises(ValueError, match="not the one in the setup"):
        Client(setup, 1, identity=private[0])


# Messages that are wrong.


def opened(n=4, d=3, threshold=3):
    setup = Setup(os.urandom(16), n, d, threshold)
    return setup, Server(setup), [Client(setup, i) for i in range(n)]


def test_wrong_forged_replayed_and_late_messages_are_refused_by_name_and_change_nothing():
    setup, server, clients = opened()
    first = [client.advertise() for client in clients]
    refused = [
        (0, first[1], "says it is from client 1"),
        (0, b"", "0 bytes"),
        (0, first[0][:-1], "keys of 63 bytes, expected 64"),
        (0, first[0] + b"x", "keys of 65 bytes"),
        (0, b"XXXX" + first[0][4:], "begins"),
        (0, first[0][:5] + bytes([Kind.MASKED]) + first[0][6:], "MASKED, expected KEYS"),
        (0, first[0][:5] + bytes([99]) + first[0][6:], "99, expected KEYS"),
        (0, Client(Setup(os.urandom(16), 4, 3, 3), 0).advertise(), "another sum"),
        (0, Client(Setup(setup.session, 4, 4, 3), 0).advertise(), "set up differently"),
    ]
    for sender, message, why in refused:
        with pytest.raises(ProtocolError, match=why) as caught:
            server.receive(sender, message)
        assert caught.value.client == sender
    for i in range(3):
        server.receive(i, first[i])
    with pytest.raises(ProtocolError, match="client 1: got KEYS too late or twice"):
        server.receive(1, first[1])
    rosters = server.advance()
    with pytest.raises(ProtocolError, match="client 3: got KEYS, expected SHARES"):
        server.receive(3, first[3])
    sealed = {i: clients[i].share(rosters[i]) for i in range(3)}
    with pytest.raises(ProtocolError, match="client 3"):
        server.receive(3, sealed[0])
    body = sealed[0][HEADER_BYTES:]
    short = sealed[0][:HEADER_BYTES] + body[:32] + (1).to_bytes(4, "little") + body[36 : 36 + 4 + wire.SEALED_BYTES]
    with pytest.raises(ProtocolError, match="client 0: got no share for client 2"):
        server.receive(0, short)
    for i in range(3):
        server.receive(i, sealed[i])
    inbox, rows = server.advance(), vectors(4, 3)
    forged = bytearray(inbox[0])
    forged[-1] ^= 1
    with pytest.raises(ProtocolError, match="client 2: its shares for client 0 do not decrypt"):
        clients[0].mask(bytes(forged), rows[0])
    with pytest.raises(ProtocolError, match="got ROSTER, expected INBOX"):
        clients[1].mask(rosters[1], rows[1])


def test_holders_that_lie_about_shares_are_noticed():
    _, server, clients = opened()
    rows = vectors(4, 3)
    for client in clients:
        server.receive(client.index, client.advertise())
    for i, message in server.advance().items():
        server.receive(i, clients[i].share(message))
    for i, message in server.advance().items():
        if i != 3:
            server.receive(i, clients[i].mask(message, rows[i]))
    for i, message in server.advance().items():
        answer = bytearray(clients[i].unmask(message))
        if i == 1:
            answer[HEADER_BYTES + 8] ^= 1  # its share of the mask of client 0
        server.receive(i, bytes(answer))
    with pytest.raises(ProtocolError, match=r"client 0: the shares (of its mask give another secret|about it)"):
        server.advance()


def test_a_public_key_of_small_order_is_refused():
    setup, _, clients = opened(3, 2, 2)
    keys = {i: client.advertise()[HEADER_BYTES:] for i, client in enumerate(clients)}
    roster = wire.pack(setup, Kind.ROSTER, None, wire.pack_entries({1: bytes(32) + keys[1][32:], 2: keys[2]}))
    with pytest.raises(ProtocolError, match="client 1: its public key is of small order"):
        clients[0].share(roster)


def test_vectors_of_another_kind_are_refused():
    _, server, clients = opened(3, 4, 2)
    for client in clients:
        server.receive(client.index, client.advertise())
    for i, message in server.advance().items():
        server.receive(i, clients[i].share(message))
    inbox = server.advance()
    with pytest.raises(ValueError, match=r"expected uint32\[4\]"):
        clients[0].mask(inbox[0], np.zeros(5, np.uint32))


SETUPS = [
    ({"session": b"short"}, "16"),
    ({"clients": 1}, "at least 2"),
    ({"bits": 64}, "16 or 32"),
    ({"threshold": 3}, "expected 4 to 6: more than n/2"),
    ({"threshold": 7}, "expected 4 to 6"),
    ({"degree": 3}, "even number"),
    ({"identities": (bytes(32),) * 6, "threshold": 4}, "more than 2n/3"),
    ({"identities": (bytes(32),) * 5, "threshold": 5}, "expected 6 Ed25519"),
]


@pytest.mark.parametrize(("changes", "why"), SETUPS)
def test_setups_that_cannot_be_safe_are_refused(changes, why):
    with pytest.raises(ValueError, match=why):
        Setup(**({"session": bytes(16), "clients": 6, "length": 3, "threshold": 5} | changes))


def test_bytes_are_known_from_the_setup():
    for n, degree, signed in ((5, None, False), (6, None, True), (20, 8, False)):
        found = simulate(vectors(n, 11, 16), threshold=2 * n // 3 + 1, degree=degree, signed=signed)
        identities = (bytes(32),) * n if signed else None
        setup = Setup(bytes(16), n, 11, 2 * n // 3 + 1, 16, degree, identities)
        assert (found.sent == wire.sent_bytes(setup)).all()


def test_randomness_is_the_source_s_and_nothing_else():
    """The same bytes give the same messages; other bytes give others, of masked vectors too."""
    setup = Setup(bytes(16), 3, 2, 2)

    def stream(seed):
        count = itertools.count()
        block = lambda: hashlib.sha512(f"{seed} {next(count)}".encode()).digest()
        return lambda size: b"".join(block() for _ in range(size // 64 + 1))[:size]

    messages = {(seed, i): Client(setup, i, source=stream(f"{seed} {i}")).advertise() for seed in (0, 0, 1) for i in range(3)}
    assert messages == {
        (seed, i): Client(setup, i, source=stream(f"{seed} {i}")).advertise() for seed in (0, 1) for i in range(3)
    }
    assert len(set(messages.values())) == 6
    rows = vectors(3, 1000)
    masked = [conducted(Setup(os.urandom(16), 3, 1000, 2), rows)[0].seen[7][1][HEADER_BYTES:] for _ in range(2)]
    assert (np.frombuffer(masked[0], np.uint32) != np.frombuffer(masked[1], np.uint32)).mean() > 0.99


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_the_bytes_decoders_refuse_or_read(data):
    setup = FUZZED
    kind = data.draw(st.sampled_from(list(Kind)))
    body = data.draw(st.binary(max_size=300))
    message = data.draw(st.sampled_from([wire.pack(setup, kind, 1, body), wire.pack(setup, kind, None, body), body]))
    server, client = Server(setup), Client(setup, 0)
    client.advertise()
    for read in (lambda: server.receive(1, message), lambda: client.share(message)):
        with contextlib.suppress(ProtocolError):
            read()
    for decode in (
        lambda: wire.unpack_entries(1, memoryview(body), 5, frozenset({0, 1})),
        lambda: wire.unpack_bitmap(setup, 1, memoryview(body)),
    ):
        try:
            found = decode()
        except ProtocolError:
            continue
        assert set(found) <= {0, 1, 2, 3}


FUZZED = Setup(bytes(16), 4, 3, 3)


@settings(max_examples=60, deadline=None)
@given(entries=st.dictionaries(st.integers(0, 9), st.binary(min_size=6, max_size=6)), members=st.sets(st.integers(0, 3)))
def test_lists_come_out_as_they_went_in(entries, members):
    body = memoryview(wire.pack_entries(entries))
    assert wire.unpack_entries(1, body, 6, frozenset(range(10))) == entries
    assert wire.unpack_bitmap(FUZZED, None, memoryview(wire.pack_bitmap(FUZZED, members))) == members


def test_simulations_of_what_does_not_exist_are_refused():
    with pytest.raises(ValueError, match="uint16 or uint32"):
        simulate(np.zeros((3, 2)), threshold=2)
    with pytest.raises(ValueError, match="expected steps among"):
        simulate(vectors(3, 2), threshold=2, drops={"late": [1]})
    with pytest.raises(ValueError, match="expected 0 to 2"):
        simulate(vectors(3, 2), threshold=2, drops={"keys": [3]})
