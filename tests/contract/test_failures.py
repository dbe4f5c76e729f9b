"""Weather: what is drawn has the law that was asked for, and does to mass and to sleepers what it should.

Statistical tests use fixed seeds and bounds of five standard deviations. Axes: `k` rounds, `n` agents, `s` slots.
"""

import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import exports
import thalweg as tw
from thalweg.engine.weather import conditions, first_weather
from thalweg.engine.world import make_setting, make_world

N, ROUNDS = 6, 4000
UNDIRECTED = tw.network.from_edges(exports.EDGES, N)
DIRECTED = tw.network.from_edges(exports.ARCS, N, directed=True)
VALUES = np.random.default_rng(0).standard_normal((N, N))


@eqx.filter_jit
def _observe(setting, world, key, channel):
    def step(channel, k):
        channel, weather = conditions(key, setting, world, k, 0, channel)
        return channel, (weather, weather.arrived)

    return jax.lax.scan(step, channel, jnp.arange(ROUNDS, dtype=jnp.int32))[1]


def observe(network, seed=0, ids=None):
    """(conditions and what arrived, with a leading axis of rounds, neighbours `[n, s]`, mask `[n, s]`)."""
    ids = np.arange(network.n) if ids is None else ids
    world, setting = make_world(network, jnp.float64, ids, frozenset(), False), make_setting(network, ids)
    key = jax.random.key_data(jax.random.key(seed))
    weather, arrived = jax.tree.map(np.asarray, _observe(setting, world, key, first_weather(key, setting, world)))
    seen = types.SimpleNamespace(**vars(weather) | {"arrived": arrived})
    return seen, np.asarray(world.neighbours), np.asarray(world.mask)


def near(mean, probability, draws):
    return abs(mean - probability) <= 5 * np.sqrt(probability * (1 - probability) / draws)


def series(seen, neighbours, mask):
    """(receiver, sender) → lost `[k]`."""
    return {(i, neighbours[i, s]): seen.lost[:, i, s] for i, s in zip(*np.nonzero(mask), strict=True)}


def test_symmetric_loss_drops_both_ends_of_an_edge_together():
    lost = series(*observe(UNDIRECTED.with_failures(loss=0.3)))
    assert all((lost[i, j] == lost[j, i]).all() for i, j in lost)
    edges = {tuple(sorted(pair)): loss for pair, loss in lost.items()}
    assert all(near(loss.mean(), 0.3, ROUNDS) for loss in edges.values())
    assert_independent(list(edges.values()), 0.3)


def test_independent_loss_drops_every_direction_by_itself():
    lost = series(*observe(UNDIRECTED.with_failures(loss=0.3, symmetric=False)))
    assert all(near(loss.mean(), 0.3, ROUNDS) for loss in lost.values())
    assert_independent(list(lost.values()), 0.3)


def assert_independent(events, probability):
    """Uncorrelated between edges and between rounds."""
    for a in range(len(events)):
        assert near((events[a][1:] & events[a][:-1]).mean(), probability**2, ROUNDS / 2)
        for b in range(a):
            assert near((events[a] & events[b]).mean(), probability**2, ROUNDS)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("loss", "burst"), [(0.2, 5.0), (0.4, 1.5)])
def test_bursts_have_the_mean_length_and_the_stationary_loss(loss, burst, symmetric):
    lost = series(*observe(UNDIRECTED.with_failures(loss=loss, burst=burst, symmetric=symmetric)))
    if symmetric:
        assert all((lost[i, j] == lost[j, i]).all() for i, j in lost)
        lost = {pair: events for pair, events in lost.items() if pair[0] < pair[1]}
    together = np.concatenate([np.append(events, False) for events in lost.values()])
    ends = np.flatnonzero(np.diff(together.astype(int), prepend=0) == -1).size
    lengths = together.sum() / ends
    assert abs(lengths - burst) < 5 * burst / np.sqrt(ends)  # a geometric length deviates by less than its mean
    correlation = 1 - 1 / burst - loss / burst / (1 - loss)  # of the state of two rounds in a row
    effective = len(together) * (1 - correlation) / (1 + correlation)
    assert near(together.mean(), loss, effective)
    first = np.concatenate([events[:1] for seed in range(200) for events in _first_round(loss, burst, seed)])
    assert near(first.mean(), loss, first.size)


def _first_round(loss, burst, seed):
    network = UNDIRECTED.with_failures(loss=loss, burst=burst, symmetric=False)
    world, setting = make_world(network, jnp.float64, np.arange(N), frozenset(), False), make_setting(network, np.arange(N))
    key = jax.random.key_data(jax.random.key(seed))
    start = first_weather(key, setting, world)
    return [np.asarray(conditions(key, setting, world, jnp.asarray(0), 0, start)[1].lost)[np.asarray(world.mask)]]


def test_a_burst_lasts_rounds_whatever_the_number_of_exchanges_in_one():
    network = UNDIRECTED.with_failures(loss=0.3, burst=4)
    world, setting = make_world(network, jnp.float64, np.arange(N), frozenset(), False), make_setting(network, np.arange(N))
    key = jax.random.key_data(jax.random.key(0))
    channel = first_weather(key, setting, world)
    for k in map(jnp.asarray, range(20)):
        channel, first = conditions(key, setting, world, k, 0, channel)
        channel, second = conditions(key, setting, world, k, 1, channel)
        np.testing.assert_array_equal(first.lost, second.lost)


def test_delays_have_the_given_distribution():
    delay = (0.5, 0.2, 0.0, 0.3)
    seen, _, mask = observe(DIRECTED.with_failures(delay=delay))
    late = seen.late[:, mask]
    for rounds, probability in enumerate(delay):
        assert near((late == rounds).mean(), probability, late.size)
    assert late.max() == 3
    assert (seen.arrived[:, mask] == (late == 0)).all()


def test_sleepers_neither_send_nor_hear():
    seen, neighbours, mask = observe(UNDIRECTED.with_failures(asleep=0.3))
    assert near(seen.awake.mean(), 0.7, ROUNDS * N)
    both = seen.awake[:, :, None] & seen.awake[:, neighbours]
    assert (seen.arrived == (both & mask)).all()
    assert (seen.scheduled == (seen.awake[:, neighbours] & mask)).all()
    assert_independent([~seen.awake[:, i] for i in range(N)], 0.3)


def test_gossip_wakes_one_edge_uniformly():
    network = tw.network.pairwise_gossip(UNDIRECTED)
    seen, neighbours, mask = observe(network)
    used = {(i, neighbours[i, s]): seen.used[:, i, s] for i, s in zip(*np.nonzero(mask), strict=True)}
    assert (sum(used.values()) == 2).all()
    for i, j in UNDIRECTED.edges.tolist():
        assert (used[i, j] == used[j, i]).all()
        assert near(used[i, j].mean(), 1 / len(UNDIRECTED.edges), ROUNDS)


def test_phases_come_in_turn_or_with_their_probabilities():
    networks = [tw.network.ring(N), tw.network.star(N), tw.network.path(N)]
    np.testing.assert_array_equal(observe(tw.network.periodic(networks))[0].phase, np.arange(ROUNDS) % 3)
    drawn = observe(tw.network.random_phases(networks, [0.6, 0.3, 0.1]))[0].phase
    assert all(near((drawn == phase).mean(), p, ROUNDS) for phase, p in enumerate((0.6, 0.3, 0.1)))


def test_events_belong_to_ids():
    """The same agents in other places meet the same weather."""
    order = np.array([4, 2, 5, 0, 1, 3])
    everything = {"loss": 0.3, "symmetric": False, "delay": (0.5, 0.5), "asleep": 0.2}
    ids = 10 * np.arange(N)
    here, neighbours, mask = observe(UNDIRECTED.with_failures(**everything), ids=ids)
    moved = tw.network.from_edges(np.argsort(order)[exports.EDGES], N).with_failures(**everything)
    there, elsewhere, _ = observe(moved, ids=ids[order])
    np.testing.assert_array_equal(there.awake, here.awake[:, order])
    for i, s in zip(*np.nonzero(mask), strict=True):
        at = int(np.argsort(order)[i])
        slot = next(t for t in range(mask.shape[1]) if order[elsewhere[at, t]] == neighbours[i, s])
        np.testing.assert_array_equal(there.arrived[:, at, slot], here.arrived[:, i, s])


def step_matrix(network, seed):
    """W_0 [n, n]: what one round of averaging does to unit vectors."""
    problem = tw.Measurements(np.eye(N))
    return np.asarray(exports.solve(problem, tw.Averaging(), network, rounds=1, seed=seed).agents)


def test_lost_weight_returned_keeps_symmetric_loss_doubly_stochastic():
    network = UNDIRECTED.with_failures(loss=0.4)
    for seed in range(10):
        W = step_matrix(network, seed)
        np.testing.assert_allclose(W.sum(axis=0), 1, atol=1e-15)
        np.testing.assert_allclose(W.sum(axis=1), 1, atol=1e-15)
        np.testing.assert_array_equal(W, W.T)
        kept = W[UNDIRECTED.mixing.toarray() > 0]
        assert (kept >= 0).all()


def test_lost_weight_returned_leaves_independent_loss_row_stochastic_only():
    network = UNDIRECTED.with_failures(loss=0.4, symmetric=False)
    matrices = [step_matrix(network, seed) for seed in range(10)]
    for W in matrices:
        np.testing.assert_allclose(W.sum(axis=1), 1, atol=1e-15)
        expected = UNDIRECTED.mixing.toarray()
        off = ~np.eye(N, dtype=bool)
        assert np.isin(np.round(W[off] / np.where(expected[off] > 0, expected[off], 1), 12), [0, 1]).all()
    assert max(np.abs(W.sum(axis=0) - 1).max() for W in matrices) > 0.1


@pytest.mark.parametrize(
    "failures", [{"loss": 0.3}, {"loss": 0.3, "burst": 3}, {"asleep": 0.3}], ids=["loss", "bursts", "sleep"]
)
def test_the_mean_is_conserved_while_both_ends_know(failures):
    result = exports.solve(tw.Measurements(VALUES), tw.Averaging(), UNDIRECTED.with_failures(**failures), rounds=60)
    np.testing.assert_allclose(result.agents.mean(0), VALUES.mean(0), atol=1e-14)
    assert result.history["consensus_error"][-1] < result.history["consensus_error"][0]


def test_the_mean_drifts_under_independent_loss():
    network = UNDIRECTED.with_failures(loss=0.3, symmetric=False)
    with pytest.warns(RuntimeWarning, match="Averaging is exact under .*, not under loss per direction"):
        result = tw.solve(tw.Measurements(VALUES), tw.Averaging(), network, rounds=200)
    assert np.abs(result.agents.mean(0) - VALUES.mean(0)).max() > 1e-3


def test_push_conserves_mass_with_what_is_on_its_way():
    """What senders ever gave minus what receivers ever took is in flight; nothing else is missing, in any round."""
    network = DIRECTED.with_failures(loss=0.3, symmetric=False, delay=(0.4, 0.3, 0.3), asleep=0.3)
    mask = network.slots().mask
    largest = 0.0
    for rounds in (1, 2, 3, 5, 8, 40):
        records = tw.solve(tw.Measurements(VALUES), tw.PushSum(), network, rounds=rounds).records
        for held, box, total in (
            (records.state.mass, records.mail["mass"], VALUES.sum(0)),
            (records.state.weight, records.mail["weight"], N),
        ):
            flight = np.asarray(box.total - box.newest)[mask].sum(0)
            np.testing.assert_allclose(np.asarray(held).sum(0) + flight, total, atol=1e-13)
            largest = max(largest, np.abs(flight).max())
    assert largest > 0.5


def test_the_newest_message_of_a_neighbour_is_kept():
    """Neighbours: a late message never replaces a newer one. Messages carry their round here: x grows by one per round."""

    class Clock(tw.algorithms.MaxConsensus):
        """Sends its own round count and keeps what it heard of the others."""

        def init(self, local, x0, context):
            return type(super().init(local, x0, context))((x0[..., 0] * 0, jnp.zeros(context.mask.shape)))

        def send(self, state, context):
            return {"x": state.x[0]}

        def receive(self, local, state, inbox, context):
            own, heard = state.x
            values = jnp.where(inbox["x"].mask, inbox["x"].values, -1.0)
            newer = jnp.where(inbox["x"].fresh, (values > heard) | (heard == 0.0), True)
            bad = jnp.where(jnp.all(newer), 0.0, 1e6)
            return type(state)((own + 1 + bad, jnp.maximum(values, 0.0))), tw.algorithm.Info.none()

        def estimate(self, state):
            return jnp.stack([state.x[0], state.x[0]])

    network = DIRECTED.with_failures(loss=0.2, symmetric=False, delay=(0.3, 0.3, 0.4))
    result = tw.solve(tw.Measurements(np.zeros((N, 2))), Clock(), network, rounds=60)
    np.testing.assert_array_equal(result.agents, np.full((N, 2), 60.0))
    heard, mask = np.asarray(result.records.state.x[1]), network.slots().mask
    assert (heard[mask] >= 40).all(), "within twenty rounds something of everybody arrives"
    assert (heard[mask] < 60).all()


def test_sleepers_are_frozen_and_silent():
    network = UNDIRECTED.with_failures(asleep=0.4)
    seen, *_ = observe(network, seed=7)
    degree = network.slots().mask.sum(1)
    runs = [tw.solve(tw.Measurements(VALUES), tw.Averaging(), network, rounds=k, seed=7) for k in range(8)]
    for k in range(7):
        before, after = runs[k], runs[k + 1]
        asleep = ~seen.awake[k]
        np.testing.assert_array_equal(np.asarray(after.agents)[asleep], np.asarray(before.agents)[asleep])
        sent = after.ledger.messages - before.ledger.messages
        np.testing.assert_array_equal(sent, np.where(asleep, 0, degree))
        np.testing.assert_array_equal(after.ledger.bytes - before.ledger.bytes, sent * 8 * N)
    assert any((~seen.awake[k]).any() for k in range(7))
