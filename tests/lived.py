"""One site of a deployed run as a process of its own: `python lived.py KIND FOLDER NAME ROUNDS PACE`.

KIND is "peer" or "server", or, without rounds, "admm" or "sums"; FOLDER has the keys and "names.json" (name → [port it listens
at, ports it connects to]; who listens nowhere connects to a router), and gets the answer, NAME.json. PACE: seconds that a round
takes at least, or between two wakes.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

import support
import thalweg as tw
from thalweg.deploy.asynchronous import AsynchronousPeer
from thalweg.deploy.client import Client
from thalweg.deploy.federation import Plan
from thalweg.deploy.identity import Identity
from thalweg.deploy.peer import Peer
from thalweg.deploy.server import Server
from thalweg.deploy.site import Settings
from thalweg.deploy.zenoh_post import ZenohPost

SERVER = "server"


def problem(n):
    """(A, b, x*) of n sites."""
    _, a, b, x = support.quadratics(n, 3, 7)
    return a, b, x


def without_rounds(kind, a, b):
    """(problem, algorithm, what all sites find) of the sites with these matrices and vectors."""
    if kind == "admm":
        return tw.quadratic(a, b), tw.AsynchronousADMM(penalty=1.5), np.linalg.solve(a.mean(0), -b.mean(0))
    return tw.Measurements(b), tw.AsynchronousPushSum(), b.mean(0)


def main(kind, folder, name, rounds, pace):
    places = json.loads((folder / "names.json").read_text())
    sites = [site for site in places if site != SERVER]
    listen, connect = places[name]
    post = ZenohPost(
        Identity.load(folder / "federation", name), list(places), run="test", timeout=2.0, routed=not listen,
        listen=[f"tls/127.0.0.1:{listen}"] if listen else [], connect=[f"tls/127.0.0.1:{port}" for port in connect],
    )  # fmt: skip
    a, b, _ = problem(len(sites))
    i = sites.index(name) if name != SERVER else 0
    own = tw.quadratic(a[i : i + 1], b[i : i + 1])
    options = {
        "post": post, "sites": sites, "every": 1, "watch": lambda k, history: time.sleep(pace),
        "settings": Settings(timeout=2.0, wait=120, folder=folder / "logs" / name),
    }  # fmt: skip
    plan = Plan(tw.SCAFFOLD(tw.LocalSGD(0.02, steps=4)), rounds=rounds)
    if kind in ("admm", "sums"):
        own, algorithm, _ = without_rounds(kind, a[i : i + 1], b[i : i + 1])
        del options["watch"], options["every"]
        site = AsynchronousPeer(
            own, algorithm, tw.network.ring(len(sites)), wakes=rounds, period=pace, deterministic=True, record=True, **options
        )
    elif kind == "peer":
        site = Peer(own, tw.GradientTracking(step_size=0.02), tw.network.ring(len(sites)), rounds=rounds, **options)
    elif name == SERVER:
        site = Server(own.with_pieces(jax.tree.map(lambda leaf: 0 * leaf, own.pieces)), plan, **options)
    else:
        site = Client(own, plan, server=SERVER, **options)
    answer = site.run()
    told = {
        "x": np.asarray(answer.x).tolist(), "outcome": answer.outcome.value, "rounds": answer.rounds,
        "epochs": answer.ledger.epochs, "rejected": answer.rejected, "reason": answer.reason,
    }  # fmt: skip
    told |= {} if getattr(answer, "events", None) is None else {"events": np.asarray(answer.events).tolist()}
    (folder / f"{name}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
