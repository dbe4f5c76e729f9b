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
from thalweg.deploy.post import Kind

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


@quick(exports.NAMES, "SCAFFOLD")
def test_every_server_export_gives_the_simulated_numbers(name):
    algorithm = exports.algorithm(name, exports.MINIBATCHES, cohort=exports.partial(name))
    compare(*federation(), algorithm)


def market():
    """(the problem of all, that of each agent)."""
    parts = markets.data()
    return markets.problem(parts), [markets.problem([part[i : i + 1] for part in parts]) for i in range(markets.N)]


@pytest.mark.slow
@pytest.mark.parametrize("name", markets.NAMES)
def test_every_price_setter_gives_the_simulated_numbers(name):
    compare(*market(), markets.kind(name)())


CASES = {
    "eight bits both ways": {"uplink": tw.message.quantise(8), "downlink": tw.message.quantise(8)},
    "top-k with memory": {"uplink": tw.message.error_feedback(tw.message.top_k(0.5))},
    "clipped and noisy": {"uplink": tw.message.chain(tw.message.clip(1.0), tw.message.gaussian(0.1))},
    "a trimmed mean": {"aggregate": tw.message.trimmed_mean(0.2)},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_pipelines_and_aggregators(case):
    compare(*federation(), tw.FedAvg(tw.LocalSGD(0.1, steps=2, batch_size=2), cohort=5), **CASES[case])


SUMS = {
    "of a part": {"aggregate": tw.message.secure_sum(8.0)},
    "over those that arrive": {"aggregate": tw.message.secure_sum(8.0, bits=16)},
    "with noise": {"aggregate": tw.message.secure_sum(noise_multiplier=0.1, clip=4.0, dropouts=2)},
    "with some": {"aggregate": tw.message.secure_sum(8.0, dropouts=1, degree=6)},
}
COHORTS = {"of a part": 5, "over those that arrive": tw.cohort.uniform(6, normalise=True), "with noise": None}


@quick(SUMS, "with noise")
def test_secure_sums_give_the_simulated_numbers(name):
    """Simulated secrets: rounding and noise too, and the bytes of the whole protocol."""
    compare(*federation(), tw.FedAvg(tw.LocalSGD(0.1, steps=2, batch_size=2), cohort=COHORTS.get(name)), **SUMS[name])


@quick(("Mime", "Ditto", "FedDANE"), "Mime")
def test_secure_sums_of_every_phase_and_clients_with_records(name):
    algorithm = exports.algorithm(name, exports.MINIBATCHES, cohort=exports.partial(name))
    compare(*federation(), algorithm, aggregate=tw.message.secure_sum(8.0))


class Ordered:
    """A server's post that hands over its clients' answers in a given order."""

    def __init__(self, post, order):
        self._post, self._order, self._held = post, list(order), {}

    def __getattr__(self, name):
        return getattr(self._post, name)

    def receive(self, timeout):
        if self._order and self._order[0] in self._held:
            return self._held.pop(self._order.pop(0))
        letter = self._post.receive(timeout)
        if letter is None or letter.kind is not Kind.MESSAGE or not self._order:
            return letter
        self._held[letter.sender] = letter
        return None


def arrivals(seconds, count):
    """Who answers, one after another, when client i takes `seconds[i]` and is asked again at once."""
    due, order = list(seconds), []
    for _ in range(count):
        i = int(np.argmin(due))
        order.append(i)
        due[i] += seconds[i]
    return order


def test_a_server_that_does_not_wait_gives_the_numbers_of_the_virtual_clock_for_the_same_order():
    (whole, own), engine = federation(), tw.engine.EventDriven(buffer=3, staleness=0.5)
    seconds = np.array([1.0, 1.3, 1.7, 2.1, 2.9, 3.1, 5.3, 7.9])
    fleet = tw.Fleet(exports.N, seconds_per_step=seconds)
    algorithm = tw.FedAvg(tw.LocalSGD(0.1, steps=1, batch_size=2))
    simulated = tw.solve(whole, algorithm, rounds=9, engine=engine, fleet=fleet, deterministic=True)
    order = [f"site-{i}" for i in arrivals(seconds, 27)]
    assert len(set(order)) == exports.N
    server, _ = run_federation(
        own, algorithm, rounds=9, engine=engine, deterministic=True, of_server=lambda post: Ordered(post, order)
    )
    jax.tree.map(np.testing.assert_array_equal, server.x, simulated.x)
    np.testing.assert_array_equal(server.history["staleness"], simulated.history["staleness"])
    assert max(server.history["staleness"]) > 1
