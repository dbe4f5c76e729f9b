"""A server and its clients as processes of their own give the numbers of the simulation, bit by bit, and send the bytes that it
predicts."""

import jax
import numpy as np
import pytest

import markets
import server_exports as exports
import thalweg as tw
from deployed import run_federation
from programs import quick

ROUNDS = 5


def compare(whole, own, algorithm, **options):
    simulated = exports.solve(whole, algorithm, rounds=ROUNDS, deterministic=True, **options)
    server, clients = run_federation(own, simulated.algorithm, rounds=ROUNDS, deterministic=True, **options)
    market = isinstance(whole, tw.Coupled)
    jax.tree.map(np.testing.assert_array_equal, server.x, simulated.price if market else simulated.x)
    if simulated.agents is not None:
        for i, client in enumerate(clients):
            jax.tree.map(np.testing.assert_array_equal, client.x, jax.tree.map(lambda leaf, i=i: leaf[i], simulated.agents))
    ledger = simulated.ledger
    assert server.ledger.received == ledger.messages.sum() * ledger.message_bytes
    assert server.ledger.payload == ledger.received.sum() * ledger.received_bytes
    for i, client in enumerate(clients):
        assert client.ledger.payload == ledger.messages[i] * ledger.message_bytes
    return simulated, server, clients


def federation():
    """(the problem of all, that of each client)."""
    values = exports.data()
    return exports.problem(values), [exports.problem([part]) for part in values]


@quick(exports.NAMES, "SCAFFOLD", "FedPer")
def test_every_server_export_gives_the_simulated_numbers(name):
    algorithm = exports.algorithm(name, exports.MINIBATCHES, cohort=exports.partial(name))
    compare(*federation(), algorithm)


def market():
    """(the problem of all, that of each agent)."""
    parts = markets.data()
    return markets.problem(parts), [markets.problem([part[i : i + 1] for part in parts]) for i in range(markets.N)]


@quick(markets.NAMES, "ExchangeADMM")
def test_every_price_setter_gives_the_simulated_numbers(name):
    compare(*market(), markets.kind(name)())


CASES = {
    "eight bits both ways": {"uplink": tw.message.quantise(8), "downlink": tw.message.quantise(8)},
    "top-k with memory": {"uplink": tw.message.error_feedback(tw.message.top_k(0.5))},
    "clipped and noisy": {"uplink": tw.message.chain(tw.message.clip(1.0), tw.message.gaussian(0.1))},
    "a trimmed mean": {"aggregate": tw.message.trimmed_mean(0.2)},
}


@pytest.mark.parametrize("case", [c if c == "eight bits both ways" else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_pipelines_and_aggregators(case):
    compare(*federation(), tw.FedAvg(tw.LocalSGD(0.1, steps=2, batch_size=2), cohort=5), **CASES[case])
