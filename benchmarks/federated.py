"""Speed of federated simulation.

    python -m benchmarks.federated                     everything below, from one run
    python -m benchmarks.federated --only softmax      one part: softmax, cnn, scale or overhead
    python -m benchmarks.federated --peers pytorch     beside these peers only (none: --peers)

1. softmax regression 784×10, 1000 clients × 50 examples, cohort 50, batch 10, one epoch, beside other simulators;
2. a CNN on the same federation, the set-up of pfl-research's own comparison on Fashion-MNIST;
3. SCAFFOLD with up to a million registered clients whose state is kept;
4. the engine's own time per round, with a client that has next to nothing to do.

Peers run the same work, each in an environment of its own (`benchmarks/rivals`). Accuracies must agree before ratios are printed.
"""

import argparse
import json
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw

from .machine import describe, peak_mebibytes
from .rivals import data
from .rivals.environment import PEERS, run

SOLVER = tw.LocalSGD(data.RATE, epochs=1, batch_size=data.BATCH)
PARITY = {"softmax": 0.01, "cnn": 0.025}  # largest difference of test accuracies
ROUNDS = {"softmax": (20, 320), "cnn": (2, 14)}  # a short and a long run; their difference is timed
SIZES = (1_000, 10_000, 100_000, 1_000_000)
SCALE_COHORT, SCALE_VARIABLES, SCALE_ROUNDS = 1000, 1000, 40


def softmax_logits(x, image):
    """Scores of a linear model."""
    return image @ x["weight"] + x["bias"]


def cnn_logits(x, image):
    """Scores of the CNN: "valid" convolutions, channels last."""
    layout = ("NHWC", "HWIO", "NHWC")
    h = image.reshape(1, 28, 28, 1)
    for name in ("conv1", "conv2"):
        h = jax.lax.conv_general_dilated(h, x[f"{name}.weight"], (1, 1), "VALID", dimension_numbers=layout)
        h = jax.nn.relu(h + x[f"{name}.bias"].reshape(1, 1, 1, -1))
    h = h.reshape(12, 2, 12, 2, 64).max((1, 3)).reshape(-1)
    h = jax.nn.relu(h @ x["dense1.weight"] + x["dense1.bias"])
    return h @ x["dense2.weight"] + x["dense2.bias"]


LOGITS = {"softmax": softmax_logits, "cnn": cnn_logits}


def softmax_loss(x, example):
    """Cross entropy of the linear model."""
    return tw.losses.softmax_cross_entropy(softmax_logits(x, example[0]), example[1])


def cnn_loss(x, example):
    """Cross entropy of the CNN."""
    return tw.losses.softmax_cross_entropy(cnn_logits(x, example[0]), example[1])


LOSS = {"softmax": softmax_loss, "cnn": cnn_loss}


def ours(workload: str, seed: int) -> dict:
    """Seconds per round and test accuracy of Thalweg on a workload."""
    images, labels = data.federation(seed)
    start = data.channels_last(data.initial(workload, seed))
    problem = tw.EmpiricalRisk(LOSS[workload], (images, labels.astype(np.int32)), start)
    algorithm = tw.FedAvg(SOLVER, cohort=data.COHORT)
    times, result = {}, None
    for rounds in ROUNDS[workload]:
        best = np.inf
        for _ in range(3 if workload == "softmax" else 1):
            result = tw.solve(problem, algorithm, rounds=rounds, every=rounds, seed=seed, keep_agents=False, progress=False)
            best = min(best, result.ledger.seconds)
        times[rounds] = best
    short, long = ROUNDS[workload]
    test, truth = data.images("t10k")
    score = jax.jit(lambda x, images: jax.lax.map(lambda image: LOGITS[workload](x, image).argmax(), images, batch_size=500))
    accuracy = float((np.asarray(score(result.x, test)) == truth).mean())
    return {
        "seconds_per_round": (times[long] - times[short]) / (long - short),
        "accuracy": accuracy,
        "plan": result.config["engine"],
        "rounds": long,
    }


def beside_peers(workload: str, peers: list[str], seed: int) -> None:
    """One table: Thalweg and its peers on one workload."""
    mine = ours(workload, seed)
    print(
        f"\n{workload}: {data.CLIENTS} clients × {data.EXAMPLES}, cohort {data.COHORT}, batch {data.BATCH}, {mine['rounds']} rounds"
    )
    speed = f"{1e3 * mine['seconds_per_round']:>10,.2f} ms/round"
    print(f"  {'thalweg':<14} {speed}             accuracy {mine['accuracy']:.4f}   {mine['plan']}")
    for peer in peers:
        try:
            theirs = run(peer, workload, rounds=mine["rounds"], seed=seed)
        except (RuntimeError, TimeoutError) as error:
            print(f"  {peer:<14} did not run: {str(error).splitlines()[-1]}")
            continue
        ratio = theirs["seconds_per_round"] / mine["seconds_per_round"]
        difference = abs(theirs["accuracy"] - mine["accuracy"])
        parity = f"{ratio:>8.1f}x slower" if difference <= PARITY[workload] else "no parity of accuracy"
        print(
            f"  {peer:<14} {1e3 * theirs['seconds_per_round']:>10,.2f} ms/round   {parity}   accuracy {theirs['accuracy']:.4f}   "
            f"{theirs['setting']}",
            flush=True,
        )


def examples_of(client):
    """10 examples of a client, made from its id: logistic labels about a model of its own."""
    shift, noise = jax.random.split(jax.random.fold_in(jax.random.key(0), client))
    features = jax.random.normal(noise, (10, SCALE_VARIABLES))
    own = 1 + 0.3 * jax.random.normal(shift, (SCALE_VARIABLES,))
    return features, (features @ own > 0).astype(jnp.float32)


MODEL = tw.losses.linear_model(tw.losses.logistic, fit_intercept=False)


def one_scale(n: int) -> dict:
    """SCAFFOLD over n registered clients, in this process."""
    source = tw.data.Generated(examples_of, n=n, count=10)
    problem = tw.StreamedRisk(MODEL, source, MODEL.start(SCALE_VARIABLES, dtype=jnp.float32))
    cohort = min(SCALE_COHORT, n // 2)
    algorithm = tw.SCAFFOLD(tw.LocalSGD(0.05, epochs=1, batch_size=5), cohort=cohort)
    marks = []
    result = tw.solve(
        problem,
        algorithm,
        rounds=SCALE_ROUNDS,
        every=SCALE_ROUNDS // 4,
        progress=lambda k, _: marks.append((k, time.perf_counter())),
    )
    (first, began), (last, ended) = marks[0], marks[-1]
    disk = result.records[0].store.bytes_on_disk
    return {
        "rate": (last - first) / (ended - began),
        "peak": peak_mebibytes(),
        "disk": disk / 2**20,
        "loss": float(result.history["objective"][-1]),
        "cohort": cohort,
    }


def scale() -> None:
    """A table of rounds per second and memory against the number of registered clients, each in a process of its own."""
    print(
        f"\nSCAFFOLD, client state kept on disk, {SCALE_VARIABLES} variables, 10 generated examples each, {SCALE_ROUNDS} rounds"
    )
    for n in SIZES:
        command = [sys.executable, "-m", "benchmarks.federated", "--one-scale", str(n)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        print(
            f"  {n:>9,} clients, cohort {found['cohort']:>5,}: {found['rate']:>7.2f} rounds/s   peak {found['peak']:>7,.0f} MiB   "
            f"on disk {found['disk']:>7,.0f} MiB",
            flush=True,
        )


def overhead() -> None:
    """The engine's own time per round."""
    problem = tw.quadratic(np.ones((1000, 1, 1), np.float32), np.ones((1000, 1), np.float32))
    algorithm = tw.FedAvg(tw.LocalSGD(0.1, steps=1), cohort=50)
    go = lambda rounds: (
        tw.solve(problem, algorithm, rounds=rounds, every=rounds, keep_agents=False, progress=False).ledger.seconds
    )
    go(10)
    best = min(go(2000) for _ in range(5)) / 2000
    print(f"\nengine alone: {1e3 * best:.3f} ms per round at a cohort of 50 (one variable, one step; best of 5)")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federated", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("softmax", "cnn", "scale", "overhead"), action="append", help="only this part")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS), help="beside these peers")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--one-scale", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one_scale:
        print(json.dumps(one_scale(asked.one_scale)))
        return
    parts = asked.only or ["softmax", "cnn", "scale", "overhead"]
    print(f"python -m benchmarks.federated {' '.join(sys.argv[1:])}\n{describe()}, seed {asked.seed}")
    for part in parts:
        if part in LOSS:
            beside_peers(part, asked.peers, asked.seed)
        else:
            {"scale": scale, "overhead": overhead}[part]()


if __name__ == "__main__":
    main()
