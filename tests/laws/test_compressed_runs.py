"""Pipelines that compress and remember, in runs: the same on every engine, in as many bytes as said, resumed without a trace.

Axes: `n` agents or clients, `d` variables.
"""

import warnings

import jax
import numpy as np
import pytest

import exports
import support
import thalweg as tw
from thalweg import message

N, D, ROUNDS = 5, 12, 9
PROBLEM, A, B, OPTIMUM = support.quadratics(N, D, 0)
RING = tw.network.ring(N)

LINKS = {
    "memory and four bits": message.error_feedback(message.chain(message.top_k(0.3), message.quantise(4, block=4))),
    "replica": message.ef21(message.sign()),
    "rotated": message.rotate(message.quantise(2, block=8)),
    "natural": message.natural(),
}


def peers(link, **options):
    options = {"rounds": ROUNDS, "every": 4, "seed": 2, "deterministic": True} | options
    return tw.solve(PROBLEM, tw.DGD(step_size=0.02), RING, link=link, **options)


def server(uplink, **options):
    options = {"rounds": ROUNDS, "every": 4, "seed": 2, "deterministic": True} | options
    algorithm = options.pop("algorithm", tw.FedAvg(tw.LocalSGD(0.05, steps=3), cohort=3))
    return tw.solve(PROBLEM, algorithm, uplink=uplink, **options)


def debugged(solve):
    """(result, the debug session it ran in)."""
    sessions = []

    class Kept(tw.Debug):
        def open(self):
            sessions.append(super().open())
            return sessions[-1]

    return solve(engine=Kept()), sessions[-1]


def numbers(result):
    return exports.bits((result.x, result.agents, result.records, result.history.scalars))


slow_but_first = [name if name == "memory and four bits" else pytest.param(name, marks=pytest.mark.slow) for name in LINKS]


@pytest.mark.parametrize("name", slow_but_first)
@pytest.mark.parametrize("run", [pytest.param(peers, marks=pytest.mark.slow), server])
def test_engines_agree_to_the_bit_and_in_bytes_and_resuming_leaves_no_trace(run, name, tmp_path):
    whole = run(LINKS[name])
    result, session = debugged(lambda **options: run(LINKS[name], **options))
    # the objective is measured, not computed with: all clients at once, or one by one
    assert exports.bits((result.x, result.agents, result.records)) == exports.bits((whole.x, whole.agents, whole.records))
    spec = {"x": jax.ShapeDtypeStruct((D,), np.float64)}
    wire = jax.eval_shape(lambda m: LINKS[name].encode(LINKS[name].init(spec), m, jax.random.key(0))[1], spec)
    packed = message.payload_bytes(wire)
    assert (np.asarray(session.executor.wire) == packed).all()
    assert whole.ledger.message_bytes == packed < 8 * D
    run(LINKS[name], rounds=5, checkpoint=tmp_path)
    assert numbers(run(LINKS[name], checkpoint=tmp_path, resume=True)) == numbers(whole)


def test_the_memories_of_clients_that_were_not_drawn_stay_as_they_are():
    result = server(LINKS["memory and four bits"], rounds=1)
    memory = np.asarray(result.records[0][1]["round"]["memory"]["x"])
    assert (np.abs(memory).sum(axis=1) > 0).sum() == 3


def test_a_client_whose_answer_is_lost_forgets_that_it_sent_it():
    """Nearly all answers are lost but those of one client: the others' memories are those of round 0."""
    fleet = tw.Fleet(N, dropout=[0.999, 0.999, 0.0, 0.999, 0.999])
    result = server(LINKS["memory and four bits"], algorithm=tw.FedAvg(tw.LocalSGD(0.05, steps=3)), fleet=fleet, rounds=3)
    memory = np.asarray(result.records[0][1]["round"]["memory"]["x"])
    np.testing.assert_array_equal(np.abs(memory).sum(axis=1) > 0, [False, False, True, False, False])


@pytest.mark.slow
def test_error_feedback_reaches_what_top_k_alone_does_not():
    """Distributed gradient descent by one local step, one entry of twelve sent: the optimum of heterogeneous clients."""
    algorithm = tw.FedAvg(tw.LocalSGD(0.02, steps=1))
    error = {}
    for name, uplink in {
        "plain": message.top_k(1 / D),
        "memory": message.error_feedback(message.top_k(1 / D)),
        "replica": message.ef21(message.top_k(1 / D)),
    }.items():
        result = server(uplink, algorithm=algorithm, rounds=4000, every=4000, deterministic=False)
        error[name] = np.abs(np.asarray(result.x) - OPTIMUM).max()
    assert error["plain"] > 0.1
    assert error["memory"] < error["plain"] / 5
    assert error["replica"] < 1e-8


def test_a_downlink_with_a_replica_reaches_the_optimum_where_everybody_listens():
    algorithm = tw.FedAvg(tw.LocalSGD(0.02, steps=1))
    result = server(
        None, algorithm=algorithm, downlink=message.ef21(message.top_k(0.25)), rounds=3000, every=3000, deterministic=False
    )
    np.testing.assert_allclose(result.x, OPTIMUM, atol=1e-8)


def refused(match, run):
    ran = []
    with pytest.raises(ValueError, match=match):
        run(progress=lambda k, history: ran.append(k))
    assert not ran


@pytest.mark.parametrize(
    "network",
    [
        RING.with_failures(loss=0.1),
        RING.with_failures(asleep=0.1),
        RING.with_failures(delay=(0.5, 0.5)),
        tw.network.periodic([RING, tw.network.star(N)]),
        tw.network.pairwise_gossip(RING),
    ],
    ids=["loss", "sleep", "delay", "schedule", "gossip"],
)
def test_replicas_that_would_drift_apart_are_refused(network):
    solve = lambda **options: tw.solve(
        PROBLEM, tw.DGD(), network, link=message.chain(message.identity(), LINKS["replica"]), **options
    )
    refused(r"changes of a replica \(ef21\).*every message arrives.*error_feedback", solve)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        assert tw.solve(PROBLEM, tw.DGD(), network, link=LINKS["memory and four bits"], rounds=2).rounds == 2


@pytest.mark.parametrize("stage", ["memory and four bits", "replica"])
@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"algorithm": tw.FedAvg(cohort=3)}, "the cohort Uniform"),
        ({"algorithm": tw.FedAvg(), "engine": tw.EventDriven(buffer=2)}, "event-driven engine"),
        ({"algorithm": tw.FedAvg(), "engine": "event-driven"}, "event-driven engine"),
        ({"algorithm": tw.FedAvg(), "fleet": tw.Fleet(N, deadline=3.0)}, "a deadline, accept"),
    ],
    ids=["cohort", "event-driven", "by name", "deadline"],
)
def test_a_downlink_with_a_memory_that_not_everybody_hears_is_refused(stage, options, why):
    refused(
        rf"a downlink with a memory.*{why}.*every client receives every broadcast",
        lambda **more: tw.solve(PROBLEM, downlink=LINKS[stage], **options, **more),
    )


@pytest.mark.slow
def test_prices_are_found_exactly_by_what_is_sent_late():
    """The price-setter adds up changes of quantity: with a memory their sum is right in the end, and without one it is not."""
    rng = np.random.default_rng(1)
    market = tw.allocation(rng.uniform(1, 8, (8, 6)), rng.normal(0, 2, (8, 6)), total=rng.normal(0, 3, 6), low=-4.0, high=4.0)
    solve = lambda uplink, rounds=3000: tw.solve(market, tw.DualAscent(), rounds=rounds, uplink=uplink)
    plain, memory, none = map(solve, (None, message.error_feedback(message.top_k(0.5)), message.top_k(0.5)))
    np.testing.assert_allclose(memory.price, plain.price, atol=1e-7)
    assert np.abs(none.price - plain.price).max() > 1e-3
    refused("DualAscent adds up 'quantity'", lambda **more: tw.solve(market, tw.DualAscent(), uplink=LINKS["replica"], **more))
