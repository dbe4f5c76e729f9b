"""Rounds of deployed runs: one process per site, on loopback with mutual TLS, 1,000 numbers a message.

    python -m benchmarks.deploy_rounds [--only raw|ring|server|sum|flower] [--sites 8] [--rounds 2000] [--numbers 1000]
        [--turns 3]

*ring*: peers that average. *server*: clients that take one gradient step each. *sum*: the same behind a secure sum. *raw*: the
messages of the ring over Zenoh alone, with the same certificates: no algorithm, no seals, no table of access. *flower*: FedAvg of
the same clients by Flower's deployment engine, in an environment of its own and without TLS, `FLOWER_ROUNDS` rounds, of which the
first is not counted.

The kinds take turns, since a shared machine's speed changes from minute to minute; Flower has one turn. Of a turn are taken the
median time of a round after the first tenth as the median site saw it, what nine of ten rounds kept to at the slowest site, and
the processor time of a round, of all processes together: on c cores no round is shorter than a c-th of that. Printed are medians
over the turns and, of the first of the three, the fastest and the slowest turn.
"""

import argparse
import itertools
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Times are those of so many rounds together.
NUMBERS, EVERY = 1000, 10
KINDS = ("raw", "ring", "server", "sum", "flower")
FLOWER_ROUNDS = 8
# A round of a secure sum takes so many times as long; it has as many times fewer.
SUM_TAKES = 10


def free_ports(count: int) -> list[int]:
    """Of this machine."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def live(kind: str, folder: Path, name: str, names: list[str], ports: list[int], rounds: int, numbers: int) -> None:
    """Be one site, and print what it saw."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    import thalweg as tw
    from thalweg.deploy.client import Client
    from thalweg.deploy.federation import Plan
    from thalweg.deploy.identity import Identity
    from thalweg.deploy.peer import Peer
    from thalweg.deploy.server import Server
    from thalweg.deploy.site import Settings
    from thalweg.deploy.zenoh_post import ZenohPost

    jax.config.update("jax_cpu_enable_async_dispatch", False)  # as `thalweg join` does
    i, times = names.index(name), []
    post = ZenohPost(
        Identity.load(folder, name), names, run="benchmark",
        listen=[f"tls/127.0.0.1:{ports[i]}"], connect=[f"tls/127.0.0.1:{ports[0]}"] if i else [],
    )  # fmt: skip
    values = np.random.default_rng(i).standard_normal((1, numbers)).astype(np.float32)
    common = {
        "post": post, "settings": Settings(wait=120), "every": EVERY,
        "watch": lambda k, history: times.append((time.perf_counter(), time.process_time())),
    }  # fmt: skip
    if kind == "ring":
        site = Peer(tw.Measurements(values), tw.Averaging(), tw.network.ring(len(names)), sites=names, rounds=rounds, **common)
    else:
        problem = tw.Consensus(
            _distance, jnp.asarray(values), np.zeros(numbers, np.float32), smoothness=1.0, strong_convexity=1.0
        )
        plan = Plan(
            tw.FedAvg(tw.LocalSGD(0.5, steps=1)), rounds=rounds, aggregate=tw.message.secure_sum(4.0) if kind == "sum" else None
        )
        clients = names[1:]
        if i:
            site = Client(problem, plan, server=names[0], sites=clients, **common)
        else:
            site = Server(problem, plan, sites=clients, **common)
    report(times, site.run().rounds)


def exchange(folder: Path, name: str, names: list[str], ports: list[int], rounds: int, numbers: int) -> None:
    """Be one site of a ring over Zenoh alone."""
    import queue

    import zenoh

    from thalweg.deploy import zenoh_config

    i, n, times = names.index(name), len(names), []
    at = [f"tls/127.0.0.1:{ports[i]}"], [f"tls/127.0.0.1:{ports[0]}"] if i else []
    credentials = zenoh_config.from_folder(folder / "sites" / name)
    session = zenoh.open(zenoh_config.config(zenoh_config.settings("peer", *at, 5.0, zenoh_config.MOST, credentials, None)))
    boxes = {names[(i + side) % n]: queue.SimpleQueue() for side in (-1, 1)}
    kept = [
        session.declare_subscriber(
            f"raw/{name}/{other}",
            zenoh.handlers.Callback(lambda sample, box=box: box.put(sample.payload.to_bytes()), indirect=True),
        )
        for other, box in boxes.items()
    ]
    options = {"congestion_control": zenoh.CongestionControl.BLOCK, "express": True}
    publishers = [session.declare_publisher(f"raw/{other}/{name}", **options) for other in boxes]
    while not all(publisher.matching_status for publisher in publishers):
        time.sleep(0.05)
    time.sleep(2)  # Zenoh may lose what is first put to a subscriber that it has just met
    body = os.urandom(4 * numbers)
    for k in range(rounds):
        for publisher in publishers:
            publisher.put(body)
        for box in boxes.values():
            box.get(timeout=60)
        if k % EVERY == 0:
            times.append((time.perf_counter(), time.process_time()))
    time.sleep(1)
    report(times, rounds)
    del kept
    session.close()


def report(times: list[tuple[float, float]], rounds: int) -> None:
    """Print what a site saw, from the clock and the processor time after every so many rounds."""
    late = times[len(times) // 10 :]
    took = sorted((b[0] - a[0]) / EVERY for a, b in itertools.pairwise(late))
    busy = (late[-1][1] - late[0][1]) / len(took) / EVERY
    print(json.dumps({"median": statistics.median(took), "p90": took[int(0.9 * len(took))], "busy": busy, "rounds": rounds}))


def _distance(x, a):
    import jax.numpy as jnp

    return 0.5 * jnp.sum((x - a) ** 2)


def measured(kind: str, sites: int, rounds: int, numbers: int) -> list[dict[str, float]]:
    """What every site saw; of a server first."""
    from thalweg.deploy import keys

    names = (["server"] if kind in ("server", "sum") else []) + [f"site{i}" for i in range(sites)]
    with tempfile.TemporaryDirectory() as folder:
        federation = keys.init(Path(folder) / "federation", names)
        ports = free_ports(len(names))
        command = [
            sys.executable,
            "-m",
            "benchmarks.deploy_rounds",
            "--be",
            kind,
            str(federation),
            json.dumps(names),
            json.dumps(ports),
            str(rounds),
            str(numbers),
        ]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        processes = [subprocess.Popen([*command, name], stdout=subprocess.PIPE, text=True, env=environment) for name in names]
        try:
            return [json.loads(process.communicate(timeout=280)[0].splitlines()[-1]) for process in processes]
        finally:
            for process in processes:
                process.kill()


def flower(sites: int) -> None:
    """Print its row: what processor time it takes is not known."""
    from .rivals.environment import prepare

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [prepare("flower_deployment"), "-m", "benchmarks.rivals.flower_deployment", "--out", out]
        command += ["--clients", str(sites), "--rounds", str(FLOWER_ROUNDS)]
        subprocess.run(command, check=True, capture_output=True, timeout=400, cwd=Path(__file__).parents[1])
        found = json.loads(out.read_text())
    took = sorted(b - a for a, b in itertools.pairwise(found["times"][1:]))
    print(
        f"  {'flower':<10}{1e3 * statistics.median(took):>7,.0f} ms{1e3 * took[-1]:>7,.0f} ms   (flwr {found['version']}; most)"
    )


def main() -> None:
    """Print the table, or be one site of it."""
    if sys.argv[1:2] == ["--be"]:
        kind, folder, names, ports, rounds, numbers, name = sys.argv[2:]
        site = Path(folder), name, json.loads(names), json.loads(ports), int(rounds), int(numbers)
        return exchange(*site) if kind == "raw" else live(kind, *site)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=KINDS)
    parser.add_argument("--sites", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--numbers", type=int, default=NUMBERS)
    parser.add_argument("--turns", type=int, default=3)
    asked = parser.parse_args()
    from .machine import describe

    print(describe())
    print(
        f"{asked.sites} sites, {asked.numbers:,} single numbers a message, mutual TLS and sealed letters, {asked.rounds} rounds "
        f"({asked.rounds // SUM_TAKES} of sum), turns: {asked.turns}"
    )
    print(f"  {'':<10}{'median':>10}{'turns':>19}{'9 of 10':>13}{'processor, all':>16}")
    kinds = (asked.only,) if asked.only else KINDS
    turns: dict[str, list[tuple[float, float, float]]] = {kind: [] for kind in kinds if kind != "flower"}
    for _ in range(asked.turns):
        for kind, rows in turns.items():
            rounds = asked.rounds // SUM_TAKES if kind == "sum" else asked.rounds
            rows.append(of_a_turn(measured(kind, asked.sites, rounds, asked.numbers)))
    for kind, rows in turns.items():
        each, late, busy = zip(*rows, strict=True)
        print(
            f"  {kind:<10}{statistics.median(each):>7.2f} ms{min(each):>9.2f} to{max(each):>7.2f}"
            f"{statistics.median(late):>10.2f} ms{statistics.median(busy):>13.2f} ms"
        )
    if "flower" in kinds:
        flower(asked.sites)
    return None


def of_a_turn(seen: list[dict[str, float]]) -> tuple[float, float, float]:
    """(median round, nine of ten, processor time of all) in milliseconds, from what every site saw."""
    found = statistics.median(s["median"] for s in seen), max(s["p90"] for s in seen), sum(s["busy"] for s in seen)
    return tuple(1e3 * seconds for seconds in found)


if __name__ == "__main__":
    main()
