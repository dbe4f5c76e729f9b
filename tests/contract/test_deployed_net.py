"""Sites over a real network, with mutual TLS and sealed letters, give the numbers of the simulation, bit by bit."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import exports
import support
import thalweg as tw
from deployed import run_peers
from thalweg.deploy import keys
from thalweg.deploy.identity import Identity
from thalweg.deploy.post import Kind
from thalweg.deploy.zenoh_post import ZenohPost


def ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"tls/127.0.0.1:{one.getsockname()[1]}" for one in sockets]


def test_peers_over_zenoh_give_the_simulated_numbers(tmp_path):
    n, (_, a, b, _) = 4, support.quadratics(4, 3, 7)
    network, names, at = tw.network.ring(n), [f"site-{i}" for i in range(n)], ports(n)
    federation = keys.init(tmp_path / "federation", names)
    simulated = exports.solve(tw.quadratic(a, b), tw.GradientTracking(step_size=0.02), network, rounds=40, deterministic=True)
    with contextlib.ExitStack() as stack:
        posts = [
            stack.enter_context(
                contextlib.closing(ZenohPost(Identity.load(federation, name), names, run="run", listen=[here], connect=at[:i]))
            )
            for i, (name, here) in enumerate(zip(names, at, strict=True))
        ]
        own = [tw.quadratic(a[i : i + 1], b[i : i + 1]) for i in range(n)]
        answers = run_peers(own, simulated.algorithm, network, posts=posts, rounds=40, deterministic=True)
    for i, answer in enumerate(answers):
        np.testing.assert_array_equal(answer.x, np.asarray(simulated.agents)[i])
        assert answer.ledger.payload == simulated.ledger.messages[i] * simulated.ledger.message_bytes
        assert answer.ledger.again == 0
        assert not answer.rejected
        assert posts[i].sent[Kind.MESSAGE] == answer.ledger.payload + answer.ledger.headers


SITE = """
import json, sys
import jax
jax.config.update("jax_enable_x64", True)
import support
import thalweg as tw
from thalweg.deploy.identity import Identity
from thalweg.deploy.peer import Peer
from thalweg.deploy.zenoh_post import ZenohPost
folder, place, *at = sys.argv[1:]
place, n = int(place), len(at)
_, a, b, _ = support.quadratics(n, 3, 7)
names = [f"site-{i}" for i in range(n)]
post = ZenohPost(Identity.load(folder, names[place]), names, run="run", listen=[at[place]], connect=at[:place])
own = tw.quadratic(a[place : place + 1], b[place : place + 1])
peer = Peer(own, tw.GradientTracking(step_size=0.02), tw.network.ring(n), sites=names, post=post, rounds=40, deterministic=True)
answer = peer.run()
print(json.dumps({"x": [x.hex() for x in answer.x.tolist()], "rejected": answer.rejected, "again": answer.ledger.again}))
"""


@pytest.mark.slow
def test_processes_over_zenoh_give_the_simulated_numbers(tmp_path):
    n, (_, a, b, _) = 3, support.quadratics(3, 3, 7)
    at, federation = ports(n), keys.init(tmp_path / "federation", [f"site-{i}" for i in range(n)])
    paths = os.pathsep.join([str(Path(tw.__file__).parents[1]), str(Path(support.__file__).parent)])
    sites = [
        subprocess.Popen(
            [sys.executable, "-c", SITE, str(federation), str(i), *at],
            env=os.environ | {"PYTHONPATH": paths},
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(n)
    ]
    try:
        found = [json.loads(site.communicate(timeout=120)[0]) for site in sites]
    finally:
        for site in sites:
            site.kill()
    simulated = exports.solve(
        tw.quadratic(a, b), tw.GradientTracking(step_size=0.02), tw.network.ring(n), rounds=40, deterministic=True
    )
    for i, answer in enumerate(found):
        assert answer == {"x": [x.hex() for x in np.asarray(simulated.agents)[i].tolist()], "rejected": {}, "again": 0}
