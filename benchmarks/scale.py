"""Speed of a simulation on one process and on two, and what crosses between them.

    python -m benchmarks.scale            everything below, from one run
    python -m benchmarks.scale --quick    fewer agents

Rounds per second of gradient tracking on a ring, a torus and the exponential graph, the same agents in all runs: on the simulated
engine with all cores of this machine, and on the sharded engine with one process on one core and with two, one core each, that talk
over Gloo. Beside them the bytes of messages that cross between the two in a round (tests/contract/test_route.py holds the plan
against the compiled program), and what handing every message to every process would move.
"""

import argparse
import json
import os
import socket
import subprocess
import sys

from .machine import describe

D = 10
SIZES = {"ring": 100_000, "torus": 99_856, "exponential": 16_384}
QUICK = {"ring": 10_000, "torus": 10_000, "exponential": 2_048}
SECONDS, REPEATS = 3.0, 5


def network(name: str, n: int):
    import thalweg as tw

    side = round(n**0.5)
    return tw.network.torus(side, side) if name == "torus" else getattr(tw.network, name)(n)


def problem(n: int):
    """Diagonal quadratics of D variables in double precision."""
    import numpy as np

    import thalweg as tw

    rng = np.random.default_rng(0)
    curvature, centre = rng.uniform(0.5, 2, (n, D)), rng.normal(size=(n, D))
    loss = lambda x, data: 0.5 * data[0] @ (x - data[1]) ** 2
    return tw.Consensus(loss, (curvature, centre), np.zeros(D), smoothness=2.0, strong_convexity=0.5)


def rate(name: str, n: int, engine) -> tuple[float, float]:
    """(best rounds per second, the objective after 50 rounds)."""
    import thalweg as tw

    task, graph = problem(n), network(name, n)

    def run(rounds):
        return tw.solve(
            task, tw.GradientTracking(step_size=0.1), graph, rounds=rounds, every=rounds, keep_agents=False, progress=False,
            engine=engine,
        )  # fmt: skip

    first = run(50)
    seconds = run(50).ledger.seconds
    # As many rounds in every process, whatever its clock says: those of process 0.
    rounds = int(engine.open().hosts.told([max(50, 50 * SECONDS / REPEATS / max(seconds, 1e-3))])[0, 0])
    seconds = min(run(rounds).ledger.seconds for _ in range(REPEATS))
    return rounds / seconds, float(first.history["objective"][-1])


def moved(name: str, n: int) -> dict[str, int]:
    """Bytes of messages that cross in a round, as "planned", and if "everybody" heard all."""
    import jax.numpy as jnp
    import numpy as np

    import thalweg as tw
    from thalweg.engine.assembly import assemble
    from thalweg.engine.loop import Rules

    made = assemble(
        problem(n), tw.GradientTracking(step_size=0.1), network(name, n), ids=np.arange(n), seed=0, link=None, mixer=None,
        adversary=None, fast=True,
    ).program  # fmt: skip
    rules = Rules(None, jnp.asarray(50, jnp.int32), jnp.full(D, jnp.nan), jnp.asarray(jnp.inf), keep_agents=False)
    session = tw.Sharded().open()
    local, _ = session.begin(made, rules)
    return {"planned": session.moved(made, local), "everybody": (session.hosts.processes - 1) * n * 2 * D * 8}


def measure(address: str, processes: int, rank: int, engine: str, sizes: dict[str, int]) -> None:
    """What one process finds; process 0 prints it. On the sharded engine it keeps to one core."""
    if engine == "sharded":
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    import jax

    jax.config.update("jax_enable_x64", True)
    import thalweg as tw

    if processes > 1:
        tw.distribute(address, processes, rank)
    found = {}
    for name, n in sizes.items():
        found[name] = {"rate": rate(name, n, tw.Sharded() if engine == "sharded" else tw.Simulated())} | moved(name, n)
    if rank == 0:
        print(json.dumps(found), flush=True)


def started(processes: int, engine: str, sizes: dict[str, int]) -> dict:
    """What process 0 of so many found."""
    with socket.socket() as server:
        server.bind(("", 0))
        address = f"127.0.0.1:{server.getsockname()[1]}"
    surroundings = os.environ | {"JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scale", "--part", json.dumps([address, processes, rank, engine, sizes])],
            stdout=subprocess.PIPE, text=True, env=surroundings,
        )
        for rank in range(processes)
    ]  # fmt: skip
    try:
        out, *_ = [process.communicate(timeout=900)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer agents")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part:
        measure(*json.loads(asked.part))
        return
    sizes = QUICK if asked.quick else SIZES
    print(f"$ python -m benchmarks.scale{' --quick' if asked.quick else ''}")
    print(describe())
    print(f"gradient tracking, {D} variables in double precision, messages of {2 * D * 8} bytes; best of {REPEATS}\n")
    whole, one, two = started(1, "simulated", sizes), started(1, "sharded", sizes), started(2, "sharded", sizes)
    cores = len(os.sched_getaffinity(0))
    print("                                  rounds/s, sharded                bytes that cross in a round")
    print("network       agents   simulated, 1 process,   2 processes,    as planned   if everybody")
    print(f"                        {cores:>2} cores    1 core    1 core each                      heard all")
    for name, n in sizes.items():
        rates, objectives = zip(*(run[name]["rate"] for run in (whole, one, two)), strict=True)
        if max(objectives) - min(objectives) > 1e-9 * abs(objectives[0]):
            raise SystemExit(f"{name}: one objective is expected, got {objectives}")
        print(
            f"{name:<12}{n:8,d}{rates[0]:12,.0f}{rates[1]:10,.0f}{rates[2]:15,.0f}"
            f"{two[name]['planned']:14,d}{two[name]['everybody']:15,d}"
        )


if __name__ == "__main__":
    main()
