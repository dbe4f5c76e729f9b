"""A server and its clients as processes of their own give the numbers of the simulation, bit by bit, and send the bytes that it
predicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import markets
import server_exports as exports
import thalweg as tw
from deployed import run_federation
from programs import quick
from thalweg.deploy.post import Kind
from thalweg.deploy.site import Settings

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


def _cost(x, data):
    return 0.5 * jnp.sum(data["a"] * (x - data["c"]) ** 2)


def _both(x, data):
    return data["s"] * x


ROWS = np.array([[0, 1], [1, 2], [2, -1], [3, 0], [1, 3]])


def sparse(which, rows=ROWS, **options):
    """Of these agents; each touches two of four rows, or one."""
    rng = np.random.default_rng(3)
    data = {name: rng.uniform(0.5, 2, (len(ROWS), 2)) for name in "acs"}
    own = jax.tree.map(lambda leaf: leaf[which], data)
    return tw.Coupled(
        _cost, own, coupling=_both, total=np.array([1.0, 0.5, 2.0, 1.0]), x0=np.zeros(2), rows=rows[which], **options
    )


@quick(("DualAscent", "ExchangeADMM", "ProximalBundle"), "ExchangeADMM")
def test_sites_that_touch_few_rows_hear_and_say_little(name):
    each = [sparse(slice(i, i + 1)) for i in range(len(ROWS))]
    simulated, server, clients = compare(sparse(slice(None)), each, markets.kind(name)())
    assert server.ledger.payload == sum(client.ledger.messages for client in clients) * simulated.ledger.received_bytes
    assert simulated.ledger.message_bytes >= 2 * 8


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({3: {"rows": np.where(ROWS == 3, -1, ROWS)}, 4: {"rows": np.where(ROWS == 3, -1, ROWS)}}, "nobody touches row 3"),
        ({1: {"rows": ROWS[:, :1]}}, "touches 1 rows"),
        ({2: {"share": np.array([[0.5, 0.0]])}}, "the parts add up to"),
    ],
    ids=["untouched", "width", "share"],
)
def test_rows_and_shares_that_do_not_fit_together_are_refused(changed, why):
    each = []
    for i in range(len(ROWS)):
        options = dict(changed.get(i, {}))
        if options.get("rows", ROWS).shape[1] == 1:
            each.append(_narrow(i))
        else:
            each.append(sparse(slice(i, i + 1), **options))
    with pytest.raises(ValueError, match=why):
        run_federation(each, tw.DualAscent(step_size=0.1), rounds=2, settings=Settings(wait=60))


def _narrow(i):
    one = lambda x, data: (data["s"] * x)[:1]
    data = {name: np.ones((1, 2)) for name in "acs"}
    return tw.Coupled(_cost, data, coupling=one, total=np.array([1.0, 0.5, 2.0, 1.0]), x0=np.zeros(2), rows=ROWS[i : i + 1, :1])


def test_sites_with_other_numbers_than_at_first():
    """`with_data` moves the total, and equal shares of it stay equal ones."""
    parts, other = markets.data(), markets.data(seed=4)
    total = np.array([2.0, -3.0])

    def moved(which):
        first, then = (tuple(part[which] for part in numbers) for numbers in (parts, other))
        problem = markets.problem(first)
        return problem.with_data(problem.pieces.data | {"q": jnp.asarray(then[1])}, total)

    each = [moved(slice(i, i + 1)) for i in range(markets.N)]
    compare(moved(slice(None)), each, tw.DualAscent(step_size=0.01))
    alone = each[0]
    assert np.isfinite(exports.solve(alone, tw.DualAscent(step_size=0.01), rounds=2).price).all()


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
        own, algorithm, rounds=9, engine=engine, deterministic=True, of_server=lambda post: Ordered(post, order),
        settings=Settings(wait=60, timeout=60),
    )  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, server.x, simulated.x)
    np.testing.assert_array_equal(server.history["staleness"], simulated.history["staleness"])
    assert max(server.history["staleness"]) > 1
