"""Sums of encrypted vectors agree with NumPy's within the stated bound, and the server can read nothing."""

import numpy as np
import pytest

import servers
import thalweg as tw
from thalweg.message.secure import ProtocolError, ckks

pytest.importorskip("tenseal")


@pytest.mark.parametrize(("n", "d", "largest"), [(3, 10, 1.0), (8, ckks.SLOTS + 5, 3.0), (4, 100, 1000.0)])
def test_the_decrypted_sum_is_the_sum(n, d, largest):
    vectors = np.random.default_rng(0).uniform(-largest, largest, (n, d))
    first = ckks.KeyHolder(n, largest)
    clients = [first, *(ckks.KeyHolder(n, largest, first.context(secret=True)) for _ in range(n - 1))]
    server = ckks.Adder(first.context(secret=False), d)
    for i, (client, vector) in enumerate(zip(clients, vectors, strict=True)):
        server.receive(i, client.encrypt(vector))
    error = np.abs(clients[-1].decrypt(server.total()) - vectors.sum(0)).max()
    assert error <= ckks.error_bound(n, largest)
    assert error >= ckks.error_bound(n, largest) / 1e5
    assert server.count == n


def test_the_server_cannot_read_what_it_adds():
    client = ckks.KeyHolder(2, 1.0)
    server = ckks.Adder(client.context(secret=False), 3)
    server.receive(0, client.encrypt(np.ones(3)))
    with pytest.raises(ValueError, match="secret"):
        server._totals[0].decrypt()
    with pytest.raises(ValueError, match="must not have"):
        ckks.Adder(client.context(secret=True), 3)


def test_wrong_messages_are_refused():
    client = ckks.KeyHolder(2, 1.0)
    server = ckks.Adder(client.context(secret=False), 3)
    text = client.encrypt(np.ones(3))
    for message, why in (
        ([b"garbage"], "no ciphertext"),
        ([text[0][:-100]], "no ciphertext"),
        (client.encrypt(np.ones(4)), "4 numbers"),
    ):
        with pytest.raises(ProtocolError, match=f"client 1.*{why}"):
            server.receive(1, message)
    server.receive(1, text)
    with pytest.raises(ProtocolError, match="second"):
        server.receive(1, text)
    for vector in (np.full(3, 1.5), np.array([0.0, np.nan, 0.0])):
        with pytest.raises(ValueError, match="expected at most 1"):
            client.encrypt(vector)
    with pytest.raises(ValueError, match="expected a product below"):
        ckks.KeyHolder(10, 1e12)


@pytest.mark.parametrize("deadline", [np.inf, 7.0])
def test_a_run_with_encryption_is_the_clear_one_within_the_bound(deadline):
    """Where the fourth and fifth client are late, weights are encrypted too."""
    problem, _, _, w, _ = servers.clients()
    fleet = tw.Fleet(5, seconds_per_step=np.array([1.0, 1.0, 1.1, 9.0, 9.0]), deadline=deadline, dropout=0.1)
    method, aggregator = tw.FedAvg(tw.LocalSGD(0.1, steps=3)), tw.message.homomorphic_sum(20.0, protocol=True)
    clear, sealed = (servers.run(problem, method, 5, fleet=fleet, **options) for options in ({}, {"aggregate": aggregator}))
    difference = np.abs(np.asarray(clear.x) - np.asarray(sealed.x)).max()
    assert 0 < difference <= 5 * 256 * aggregator.error_bound(5) / w.min()
    assert sealed.ledger.message_bytes >= len(ckks.KeyHolder(5, 20.0).encrypt(np.zeros(3))[0])
