"""Drawn orders of events: the laws of clocks, losses, delays and sleep, and that a longer order begins like a shorter one.

Axes: `n` agents.
"""

import numpy as np
import pytest

import exports
import thalweg as tw
from thalweg.engine.draw_events import draw_events
from thalweg.engine.event_plan import plan_of

N = exports.N
NETWORK = tw.network.from_edges(exports.EDGES, N)
DEGREE = NETWORK.slots().mask.sum(1)
PERIOD = np.array([0.5, 1.0, 1.0, 2.0, 0.25, 1.5])


def draw(clocks, rounds, network=NETWORK, seed=0, ids=None):
    return draw_events(clocks, network, np.arange(N) if ids is None else ids, seed, rounds)[0]


def columns(events):
    return np.stack([events.agent, events.sender, events.number]), events.time


def wakes(events, i):
    return events.time[(events.agent == i) & (events.sender < 0)]


def test_gaps_between_wakes_are_exponential():
    """Mean and standard deviation are the period; Kolmogorov and Smirnov find no difference."""
    stats = pytest.importorskip("scipy.stats")
    events = draw(tw.Clocks(period=PERIOD), 4000)
    for i in range(N):
        gaps = np.diff(wakes(events, i))
        assert stats.kstest(gaps, "expon", args=(0, PERIOD[i])).pvalue > 1e-3
    assert events.wakes == 4000 * N


def test_regular_clocks_are_regular():
    first = np.linspace(0, 1, N)
    events = draw(tw.Clocks(period=PERIOD, poisson=False, first=first), 3000)
    for i in range(N):
        found = wakes(events, i)
        np.testing.assert_allclose(found, first[i] + PERIOD[i] * np.arange(len(found)), rtol=1e-12)
    drawn = draw(tw.Clocks(period=PERIOD, poisson=False), 10)
    assert len({float(wakes(drawn, i)[0] / PERIOD[i]) for i in range(N)}) == N


def test_each_message_is_lost_by_itself():
    """Without delays whatever is not lost is heard at once: a binomial number, over each edge and direction."""
    events = draw(tw.Clocks(period=PERIOD), 4000, NETWORK.with_failures(loss=0.3, symmetric=False))
    for sender, receiver in [*exports.EDGES.tolist(), *exports.EDGES[:, ::-1].tolist()]:
        sent = len(wakes(events, sender))
        came = int(((events.agent == receiver) & (events.sender == sender)).sum())
        assert abs(came - 0.7 * sent) < 5 * np.sqrt(0.21 * sent)


def test_delays_are_latency_and_an_exponential_jitter():
    """Of messages that nothing overtakes: the sender is slow."""
    events = draw(tw.Clocks(period=np.where(np.arange(N) == 0, 60.0, 1.0), latency=0.5, jitter=2.0), 4000)
    sent = wakes(events, 0)
    heard = (events.sender == 0) & (events.agent == 1)
    delay = events.time[heard] - sent[events.number[heard]]
    assert delay.min() >= 0.5
    assert abs(delay.mean() - 2.5) < 5 * 2.0 / np.sqrt(len(delay))


def test_messages_of_one_sender_are_heard_in_order_and_who_sleeps_does_nothing():
    sleep = tw.fleet.intervals([[0.0, 30.0]] * N, [[10.0, 50.0]] * N, 50.0)
    events = draw(tw.Clocks(period=PERIOD, latency=0.1, jitter=1.0, availability=sleep), 500)
    events.slots(NETWORK)  # raises where wakes or messages are out of turn
    inside = np.mod(events.time, 50.0)
    assert ((inside < 10.0) | (inside >= 30.0 - 1e-9)).all()
    waited = np.isclose(inside, 30.0) & (events.sender >= 0)
    assert waited.sum() > 10  # what came in the night is heard in the morning


@pytest.mark.parametrize(
    "clocks",
    [
        tw.Clocks(period=PERIOD, latency=0.3, jitter=1.0),
        tw.Clocks(period=PERIOD, poisson=False),
        tw.Clocks(availability=tw.fleet.intervals([[0.0]] * N, [[7.0]] * N, 10.0), jitter=0.5),
    ],
)
def test_a_longer_order_begins_like_a_shorter_one_and_keeps_its_places(clocks):
    network = NETWORK.with_failures(loss=0.2, symmetric=False)
    short, long = (draw_events(clocks, network, np.arange(N), 3, rounds) for rounds in (300, 3000))
    for a, b in zip(columns(short[0]), columns(long[0]), strict=True):
        np.testing.assert_array_equal(a, b[..., : a.shape[-1]])
    plans = [plan_of(events, network, over, clocks) for events, over in (short, long)]
    if plans[0].places == plans[1].places:  # another number of places is another state
        np.testing.assert_array_equal(plans[0].place, plans[1].place[: len(plans[0].place)])
    np.testing.assert_array_equal(plans[0].starts, plans[1].starts[:301])
    other = draw_events(clocks, network, np.arange(N), 4, 300)[0]
    assert not np.array_equal(columns(other)[1][:50], columns(short[0])[1][:50])


def test_no_message_is_overwritten_before_it_is_heard():
    """The place where a message is read still has what its sender wrote there."""
    clocks = tw.Clocks(period=PERIOD, latency=1.0, jitter=3.0)
    network = NETWORK.with_failures(loss=0.2, symmetric=False)
    events, over = draw_events(clocks, network, np.arange(N), 0, 2000)
    for given in (plan_of(events, network, over, clocks), plan_of(events, network, None, None)):
        holds: dict[int, tuple[int, int]] = {}
        for agent, sender, number, place in zip(events.agent, events.sender, events.number, given.place, strict=True):
            if sender < 0:
                holds[place] = (agent, number)
            else:
                assert holds[place] == (sender, number)
