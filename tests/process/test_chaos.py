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


class Run:
    """Processes of one run. `through(name, port)` is the port at which others connect to a site that listens at `port`."""

    def __init__(self, folder, kind, n, rounds, pace=0.0, through=lambda name, port: port):
        self.folder, self.kind, self.rounds, self.pace = folder, kind, rounds, pace
        self.names = [lived.SERVER] * (kind == "server") + [f"site{i}" for i in range(n)]
        keys.init(folder / "federation", self.names)
        ports = dict(zip(self.names, free_ports(len(self.names)), strict=True))
        first = self.names[0]
        places = {
            name: (port, [] if name == first else [through(first, ports[first])] if kind == "server" else
                   [through(other, ports[other]) for other in self.names[: self.names.index(name)]])
            for name, port in ports.items()
        }  # fmt: skip
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
    chance, killed, paused = random.Random(0), 0, 0
    with Run(tmp_path, kind, n, rounds=130 * seconds, pace=0.01) as run:
        run.under_way()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(chance.uniform(2, 6))
            name = chance.choice(run.names)
            if run.processes[name].poll() is not None:
                break
            if chance.random() < 0.5:
                run.kill(name)
                time.sleep(chance.uniform(0, 4))
                run.start(name)
                killed += 1
            else:
                run.processes[name].send_signal(signal.SIGSTOP)
                time.sleep(chance.uniform(0.5, 5))
                run.processes[name].send_signal(signal.SIGCONT)
                paused += 1
        answers = run.answers(400)
    assert min(killed, paused) >= seconds // 30
    at_the_optimum(answers, n)
    if kind == "peer":
        assert max(answer["epochs"] for answer in answers.values()) > 2


@pytest.mark.parametrize("kind", ["peer", "server"])
def test_half_a_second_of_delay(kind, tmp_path):
    relays = {}

    def through(name, port):
        relays[name] = relays.get(name) or Relay(port, delay=0.5)
        return relays[name].port

    with Run(tmp_path, kind, 3, rounds=12, through=through) as run:
        answers = run.answers(200)
    assert {answer["rounds"] for answer in answers.values()} == {12}


def test_a_network_that_was_split_comes_together_again(tmp_path):
    """One of four peers is cut off for eight seconds, and nobody is told; the others go on, and take it back."""
    relays = {}

    def through(name, port):
        relays[name] = relays.get(name) or Relay(port)
        return relays[name].port

    with Run(tmp_path, "peer", 4, rounds=3000, pace=0.01, through=through) as run:
        run.under_way()
        time.sleep(2)
        relays["site0"].held = True
        time.sleep(8)
        relays["site0"].held = False
        answers = run.answers(300)
    at_the_optimum(answers, 4)
    assert answers["site1"]["epochs"] >= 3  # without it, and with it
