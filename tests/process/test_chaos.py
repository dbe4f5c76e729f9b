"""Sites as processes over Zenoh with mutual TLS, killed, paused, cut off and slowed down: exact methods are exact all the same."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import lived
import thalweg as tw
from relay import Relay
from thalweg.deploy import keys

pytest.importorskip("zenoh")
pytestmark = pytest.mark.slow
BODY = Path(lived.__file__)
ENVIRONMENT = os.environ | {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}


def free_ports(count):
    """Of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def names_of(kind, n):
    """Of the processes of a run."""
    return [lived.SERVER] * (kind == "server") + [f"site{i}" for i in range(n)]


def directly(names, kind, through=lambda name, port: port):
    """Places where all listen; others connect to who listens at `port` through another one. Clients connect to their server."""
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    before = lambda name: names[: names.index(name)] if kind == "peer" else names[: min(1, names.index(name))]
    return {name: (port, [through(other, ports[other]) for other in before(name)]) for name, port in ports.items()}


class Run:
    """Processes of one run. `places` of names: name → (port to listen at, or None; ports to connect to)."""

    def __init__(self, folder, kind, names, places, rounds, pace=0.0):
        self.folder, self.kind, self.names, self.rounds, self.pace = folder, kind, names, rounds, pace
        if not (folder / "federation").exists():
            keys.init(folder / "federation", names)
        (folder / "names.json").write_text(json.dumps(places))
        self.processes = {}

    def __enter__(self):
        for name in self.names:
            self.start(name)
        return self

    def __exit__(self, *_):
        for process in self.processes.values():
            process.kill()
            process.wait()

    def start(self, name):
        command = [sys.executable, str(BODY), self.kind, str(self.folder), name, str(self.rounds), str(self.pace)]
        with (self.folder / f"{name}.log").open("a") as log:
            self.processes[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=BODY.parent, env=ENVIRONMENT)

    def kill(self, name):
        self.processes[name].kill()
        self.processes[name].wait()

    def trouble(self, chance, seconds, every, kills, away, pause):
        """(how often a site was killed, and paused), of any at any moment for so many seconds.

        Args:
            chance: draws everything. every: seconds between two troubles. kills: the part of them that kill.
            away: seconds from there to the next life. pause: seconds of standing still.
        """
        killed, paused, end = 0, 0, time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(chance.uniform(*every))
            name = chance.choice(self.names)
            if self.processes[name].poll() is not None:
                break
            if chance.random() < kills:
                self.kill(name)
                time.sleep(chance.uniform(*away))
                self.start(name)
                killed += 1
            else:
                self.processes[name].send_signal(signal.SIGSTOP)
                time.sleep(chance.uniform(*pause))
                self.processes[name].send_signal(signal.SIGCONT)
                paused += 1
        return killed, paused

    def under_way(self, seconds=120):
        """Wait until all sites have logged a round."""
        end = time.monotonic() + seconds
        while not all((self.folder / "logs" / name / "state.1").exists() for name in self.names):
            assert time.monotonic() < end, self.logs()
            time.sleep(0.2)

    def answers(self, seconds):
        """name → answer, once all have ended."""
        end = time.monotonic() + seconds
        for name, process in self.processes.items():
            process.wait(max(1.0, end - time.monotonic()))
            assert process.returncode == 0, f"{name}: {self.logs()}"
        return {name: json.loads((self.folder / f"{name}.json").read_text()) for name in self.names}

    def logs(self):
        """What sites printed last."""
        return {name: (self.folder / f"{name}.log").read_text()[-800:] for name in self.names}


def at_the_optimum(answers, n, tolerance=1e-8):
    print({name: (answer["epochs"], answer["rounds"], answer["reason"], answer["x"]) for name, answer in answers.items()})
    x = lived.problem(n)[2]
    for name, answer in answers.items():
        assert answer["outcome"] == "round limit", (name, answer)
        np.testing.assert_allclose(answer["x"], x, atol=tolerance)


@pytest.mark.parametrize(("kind", "n", "seconds"), [("peer", 4, 30), ("server", 3, 30), ("peer", 8, 120), ("server", 7, 120)])
def test_random_kills_and_pauses(kind, n, seconds, tmp_path):
    """Of any site, the server too, at any moment."""
    names = names_of(kind, n)
    with Run(tmp_path, kind, names, directly(names, kind), rounds=130 * seconds, pace=0.01) as run:
        run.under_way()
        killed, paused = run.trouble(random.Random(0), seconds, every=(2, 6), kills=0.5, away=(0, 4), pause=(0.5, 5))
        answers = run.answers(400)
    assert min(killed, paused) >= seconds // 30
    at_the_optimum(answers, n)
    if kind == "peer":
        assert max(answer["epochs"] for answer in answers.values()) > 2


@pytest.mark.parametrize(("kind", "pace"), [("admm", 0.01), ("sums", 0.01), ("sums", 0.0)])
def test_sites_without_rounds_that_are_killed_and_paused_are_replayed_to_the_bit(kind, pace, tmp_path):
    """Every site's own order of events, over all its lives, gives its own numbers in the simulation."""
    n = 4
    a, b, _ = lived.problem(n)
    whole, algorithm, x = lived.without_rounds(kind, a, b)
    names = names_of(kind, n)
    with Run(tmp_path, kind, names, directly(names, "peer"), rounds=2500, pace=pace) as run:
        run.under_way()
        killed, _ = run.trouble(random.Random(1), 15, every=(1, 3), kills=0.6, away=(0, 2), pause=(0.5, 3))
        answers = run.answers(300)
    assert killed
    events = tw.Events.merged([answers[name]["events"] for name in names])
    engine = tw.EventDriven(events=events, deterministic=True)
    found = tw.solve(whole, algorithm, tw.network.ring(n), rounds=10**6, every=10**6, engine=engine)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(answers[name]["x"], np.asarray(found.agents)[i])
        np.testing.assert_allclose(answers[name]["x"], x, atol=1e-8)


@pytest.mark.parametrize("kind", ["peer", "server"])
def test_half_a_second_of_delay(kind, tmp_path):
    relays = {}

    def through(name, port):
        relays[name] = relays.get(name) or Relay(port, delay=0.5)
        return relays[name].port

    names = names_of(kind, 3)
    with Run(tmp_path, kind, names, directly(names, kind, through), rounds=12) as run:
        answers = run.answers(200)
    assert {answer["rounds"] for answer in answers.values()} == {12}


def test_a_network_that_was_split_comes_together_again(tmp_path):
    """One of four peers is cut off from the router for eight seconds, and nobody is told; the others go on, and take it back."""
    zenoh, names, port = pytest.importorskip("zenoh"), names_of("peer", 4), free_ports(1)[0]
    federation = keys.init(tmp_path / "federation", names)
    router = keys.router(federation, listen=[f"tls/127.0.0.1:{port}"], timeout=2.0)
    relays = {name: Relay(port) for name in names}
    places = {name: (None, [relay.port]) for name, relay in relays.items()}
    with zenoh.open(zenoh.Config.from_file(router)), Run(tmp_path, "peer", names, places, rounds=3000, pace=0.01) as run:
        run.under_way()
        time.sleep(2)
        relays["site0"].held = True
        time.sleep(8)
        relays["site0"].held = False
        answers = run.answers(300)
    at_the_optimum(answers, 4)
    assert answers["site1"]["epochs"] >= 3  # without it, and with it
