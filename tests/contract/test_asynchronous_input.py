"""What is refused of runs without rounds, before anything runs: got, expected, how to mend."""

import numpy as np
import pytest

import support
import thalweg as tw
from thalweg.deploy.asynchronous import AsynchronousPeer
from thalweg.deploy.memory_post import Exchange

N = 4
PROBLEM, A, B, _ = support.quadratics(N, 2, 0)
MEASURED = tw.Measurements(np.arange(4.0))
RING = tw.network.ring(N)
DIRECTED = tw.network.ring(N, directed=True)
ADMM, SUMS = tw.AsynchronousADMM(penalty=1.0), tw.AsynchronousPushSum()
ENGINE = tw.EventDriven()


def solve(problem=PROBLEM, algorithm=ADMM, network=RING, **options):
    return tw.solve(problem, algorithm, network, **({"rounds": 2, "engine": ENGINE} | options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "simulated"}, "AsynchronousADMM has no rounds, got engine 'simulated', expected .*EventDriven"),
        ({"engine": "sharded"}, "got engine 'sharded'"),
        ({"engine": tw.EventDriven(buffer=2)}, "is of a server"),
        ({"link": tw.message.cast("float32")}, "got link=, expected none"),
        ({"aggregate": tw.message.neighbour_median()}, "got aggregate="),
        ({"adversary": tw.adversary.sign_flip([1])}, "got adversary="),
        ({"privacy": tw.privacy.Budget(1.0, 1e-5)}, "got privacy="),
        ({"report": ("gradient_norm",)}, "got report="),
        ({"fleet": tw.Fleet(N)}, "fleet="),
        ({"stop": tw.Stop(distributed=True)}, "distributed=True. is decided in rounds"),
        ({"network": DIRECTED}, "AsynchronousADMM needs an undirected network"),
        ({"network": tw.network.ring(5)}, "4 agents and the network 5"),
        ({"network": tw.network.pairwise_gossip(RING)}, "changes from round to round"),
        ({"network": RING.with_failures(loss=0.2)}, "with_failures.loss=0.2, symmetric=False."),
        ({"network": RING.with_failures(loss=0.2, symmetric=False, burst=3)}, "losses come in bursts"),
        ({"network": RING.with_failures(delay=(0.5, 0.5))}, "latency="),
        ({"network": RING.with_failures(asleep=0.2)}, "availability="),
        ({"network": tw.network.from_edges([[0, 1], [2, 3]], N, allow_disconnected=True)}, "not connected"),
        ({"algorithm": SUMS}, "computes with measurements"),
        ({"problem": tw.Measurements(np.arange(4.0), signal=lambda m, k: m + k), "algorithm": SUMS}, "changes from round to round"),
        ({"problem": tw.allocation(np.ones((N, 1)), np.ones((N, 1)), np.ones(1))}, "one answer for all, got a Coupled"),
        ({"algorithm": tw.GradientTracking()}, "goes in rounds, got the event-driven engine"),
        ({"algorithm": tw.AsynchronousADMM(penalty=-1.0)}, "expected a positive number"),
        ({"rounds": -1}, "a whole number ≥ 0"),
        ({"rounds": 10**9}, "fewer rounds"),
        ({"engine": tw.EventDriven(clocks=tw.Clocks(period=[1.0, 2.0]))}, r"period=….: got shape \(2,\)"),
        ({"engine": tw.EventDriven(clocks=tw.Clocks(availability=tw.fleet.daily(3, 8, 0)))}, "got 3 agents, expected 4"),
        (
            {"engine": tw.EventDriven(clocks=tw.Clocks(availability=tw.fleet.intervals(np.zeros((4, 1)), np.ones((4, 1)))))},
            "availability ends after . wakes",
        ),
    ],
)  # fmt: skip
def test_solve(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        solve(**options)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tw.Clocks(period=0.0), r"period=0.0.: expected seconds > 0"),
        (lambda: tw.Clocks(latency=-1.0), "seconds ≥ 0"),
        (lambda: tw.Clocks(jitter="much"), "expected seconds, a number"),
        (lambda: tw.Clocks(period=np.nan), "seconds > 0"),
        (lambda: tw.Clocks(first=0.0), "poisson=False beside it"),
        (lambda: tw.Clocks(poisson="yes"), "True or False"),
        (lambda: tw.Clocks(availability=3), "tw.fleet.intervals"),
        (lambda: tw.AsynchronousADMM(relaxation=1.0), "0 < relaxation < 1"),
        (lambda: tw.EventDriven(clocks=1.0), "got float, expected tw.Clocks"),
        (lambda: tw.EventDriven(clocks=tw.Clocks(), events=tw.Events([0], [-1], [0])), "got both, expected one"),
        (lambda: tw.Events([0.5], [-1], [0]), "expected whole numbers"),
        (lambda: tw.Events([0, 1], [-1], [0]), "1 and 2 entries"),
        (lambda: tw.Events([0, 0], [-1, -1], [0, 1], [1.0, 0.5]), "times that go back"),
        (lambda: tw.Events.merged([[(-1, 0), (1, 0)], []]), "agent 0 heard message 0 of agent 1"),
    ],
)  # fmt: skip
def test_values(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(4, -1, 0)], "got 4 to 4, expected 0 to 3"),
        ([(0, -1, 1)], "event 0 is wake 1 at agent 0, out of its order"),
        ([(0, -1, 0), (0, -1, 0)], "event 1 is wake 0"),
        ([(0, -1, 0), (2, 0, 0)], "hears agent 0, expected one of its neighbours"),
        ([(1, 0, 0), (0, -1, 0)], "event 0 is message 0 of agent 0 at agent 1"),
        ([(0, -1, 0), (1, 0, 3)], "message 3 of agent 0"),
        ([(0, -1, 0), (0, -1, 1), (1, 0, 1), (1, 0, 0)], "event 3 is message 0"),
        ([(0, -1, 0), (1, 0, 0), (1, 0, 0)], "event 2 is message 0"),
    ],
)
def test_events_that_cannot_have_happened(rows, message):
    with pytest.raises(ValueError, match=message):
        solve(engine=tw.EventDriven(events=tw.Events(*np.array(rows).T)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": tw.EdgeADMM()}, "got EdgeADMM, expected a method without rounds"),
        ({"wakes": None}, "it would never end"),
        ({"wakes": 0}, "wakes=0.: expected a number ≥ 1"),
        ({"period": -1.0}, "period=-1.0"),
        ({"network": RING.with_failures(loss=0.1, symmetric=False)}, "really lost, or not"),
        ({"network": tw.network.ring(3)}, "4 sites and a network of 3"),
        ({"sites": ["x", "y", "z", "w"]}, "got site 'a', expected one of x"),
        ({"problem": PROBLEM}, "expected the one piece that this site holds"),
    ],
)
def test_sites(options, message):
    given = {"problem": tw.quadratic(A[:1], B[:1]), "algorithm": ADMM, "network": RING, "sites": list("abcd")} | options
    problem, algorithm, network = (given.pop(name) for name in ("problem", "algorithm", "network"))
    with pytest.raises((TypeError, ValueError), match=message):
        AsynchronousPeer(problem, algorithm, network, post=Exchange().join("a"), **given)
