"""Robust aggregation: what rules are worth under attack, and what they cost.

    python -m benchmarks.robust                     both parts
    python -m benchmarks.robust --only speed        time per aggregation, beside ByzFL
    python -m benchmarks.robust --only accuracy     rule × attack × fraction of liars, on clients that differ
    python -m benchmarks.robust --tiny              each at its smallest size

1. Softmax regression on MNIST-5k (or 5,000 pictures of Fashion-MNIST: --data fashion_mnist), 20 clients by Dirichlet(0.3) of
   labels, FedAvg: accuracy on the common test pictures after the last round, for every rule under every attack.
2. Seconds per aggregation of an [n, d] matrix of float32, compiled, beside the same rules of ByzFL in an environment of its own;
   values are compared. Matrices that would take more than `MEMORY` are left out; where ByzFL takes more than `PATIENCE` seconds
   for all rules together, only our times are printed, and not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw
from thalweg import adversary, message

from .machine import copy_bandwidth, describe
from .rivals import matrices
from .rivals.environment import prepare

SIZES = [(n, d) for n in (10, 100, 1000) for d in (10_000, 100_000, 1_000_000)]
MEMORY, PATIENCE = 6e9, 120.0
COPIES = 6  # of a matrix, that the greediest of all holds at once

CLIENTS, PICTURES, SHARES, ROUNDS = 20, 5000, (0.2, 0.4), 100

# Rules whose definitions are not the same in both libraries, and why values may differ.
DIFFERENT = {
    "coordinate_median": "torch takes the lower of two middle values",
    "mean_around_median": "torch takes the lower of two middle values",
    "covariance_filter": "ByzFL takes one step of the power iteration from a random start",
}


def rules(f: int, n: int) -> dict:
    """Name → rule that withstands f of n."""
    found = {
        "coordinate_median": message.coordinate_median(),
        "trimmed_mean": message.trimmed_mean(f),
        "mean_around_median": message.mean_around_median(f),
        "geometric_median": message.geometric_median(),
        "krum": message.krum(f),
        "multi_krum": message.multi_krum(f),
        "centred_clipping": message.centred_clipping(matrices.RADIUS),
        "covariance_filter": message.covariance_filter(f),
        "nearest_neighbour_mixing": message.nearest_neighbour_mixing(f, message.trimmed_mean(f)),
    }
    if n <= matrices.FEW:
        found["minimum_diameter"] = message.minimum_diameter(f)
    return found


def seconds(rule, x) -> tuple[float, np.ndarray, float]:
    """(best time of a call, aggregate, time to compile)."""
    n, d = x.shape
    weights, arrived, key = jnp.full(n, 1 / n, x.dtype), jnp.ones(n, bool), jax.random.key(0)
    state = rule.init(d, x.dtype)
    start = time.perf_counter()
    # Who arrived is an argument, as in a run: known beforehand, XLA would leave half of the work out.
    known = rule, state, x, weights, arrived, key
    run = jax.jit(lambda rule, *known: rule.combine(*known)[1]).lower(*known).compile()
    compiled, best = time.perf_counter() - start, np.inf
    for _ in range(matrices.REPEATS + 1):
        start = time.perf_counter()
        result = jax.block_until_ready(run(*known))
        best = min(best, time.perf_counter() - start)
        if best > matrices.LONG:
            break
    return best, np.asarray(result), compiled


def theirs(n: int, d: int) -> dict | None:
    """What ByzFL measures on the same matrix; None where it takes too long."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [prepare("byzfl"), "-m", "benchmarks.rivals.byzfl", "--n", str(n), "--d", str(d), "--out", out]
        private = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "XLA_", "JAX_", "OMP_"))}
        at = Path(__file__).parents[1]
        try:
            done = subprocess.run(command, env=private, capture_output=True, text=True, check=False, cwd=at, timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            return None
        if done.returncode:
            raise RuntimeError(f"ByzFL on {n} × {d}:\n{done.stderr[-2000:]}")
        return json.loads(out.read_text())


def speed(sizes) -> None:
    """One table per matrix, and the totals."""
    totals = np.zeros(2)
    bandwidth = copy_bandwidth(256)
    for n, d in sizes:
        size = 4 * n * d
        if COPIES * size > MEMORY:
            print(f"\n{n} × {d:,}: left out, {size / 1e9:.1f} GB that would be held {COPIES} times")
            continue
        f, x = matrices.liars(n), matrices.messages(n, d)
        rival = theirs(n, d)
        said = f"ByzFL took more than {PATIENCE:g} s"
        if rival is not None:
            said = "beside " + ", ".join(f"{name} {version}" for name, version in rival["versions"].items())
        print(f"\n{n} messages of {d:,}, {f} liars; one pass over memory {1e3 * size / bandwidth:,.2f} ms; {said}", flush=True)
        x = jnp.asarray(x)
        for name, rule in rules(f, n).items():
            mine, result, compiled = seconds(rule, x)
            if rival is None:
                print(f"  {name:<25} {1e3 * mine:>10,.2f} ms   compiled in {compiled:.1f} s", flush=True)
                continue
            other = rival["rules"][name]
            if "error" in other:
                print(f"  {name:<25} {1e3 * mine:>10,.2f} ms   ByzFL did not run: {other['error'][:120]}", flush=True)
                continue
            totals += mine, other["seconds"]
            found, expected = np.array(matrices.sample(result)), np.array(other["sample"])
            apart = np.abs(found - expected).max() / np.abs(expected).max()
            agreement = f"differ by {apart:.0e}" + (f" ({DIFFERENT[name]})" if name in DIFFERENT and apart > 1e-4 else "")
            print(
                f"  {name:<25} {1e3 * mine:>10,.2f} ms   ByzFL {1e3 * other['seconds']:>11,.2f} ms ({other['backend']})   "
                f"{other['seconds'] / mine:>7.1f}x   compiled in {compiled:.1f} s   {agreement}",
                flush=True,
            )
    print(f"\nin total {totals[0]:.2f} s, ByzFL {totals[1]:.2f} s: {totals[1] / totals[0]:.1f} times")


def attacks(agents: tuple[int, ...]) -> dict:
    """Name → adversary."""
    return {
        "sign flip ×5": adversary.sign_flip(agents, 5.0),
        "little is enough": adversary.little_is_enough(agents, 1.5),
        "inner product": adversary.inner_product(agents, 1.0),
        "mimic": adversary.mimic(agents),
        "noise": adversary.noise(agents, 1.0),
        "nan": adversary.constant(agents, np.nan),
        "labels flipped": None,
    }


def accuracies(data: str, shares, rounds: int, seed: int = 0) -> None:
    """A table for each fraction of liars."""
    load = {"mnist_5k": tw.data.mnist_5k, "fashion_mnist": tw.data.fashion_mnist}[data]
    federated = load(CLIENTS, tw.data.dirichlet(0.3), seed=seed)
    test, truth = map(jnp.asarray, federated.central)
    start = {"weight": np.zeros((784, 10), np.float32), "bias": np.zeros(10, np.float32)}
    loss = lambda x, example: tw.losses.softmax_cross_entropy(example[0] @ x["weight"] + x["bias"], example[1])
    apart = max(1, sum(len(e[1]) for e in federated.train) // PICTURES)
    features, labels = [e[0][::apart] for e in federated.train], [e[1][::apart] for e in federated.train]
    method = tw.FedAvg(tw.LocalSGD(0.1, steps=5, batch_size=32))

    def risk(labels):
        return tw.EmpiricalRisk(loss, list(zip(features, labels, strict=True)), start, weights="uniform")

    def accuracy(problem, rule, liar):
        result = tw.solve(
            problem, method, rounds=rounds, every=rounds, aggregate=rule, adversary=liar, progress=False, seed=seed
        )
        scores = test @ result.x["weight"] + result.x["bias"]
        return float((scores.argmax(1) == truth).mean()) if np.isfinite(result.x["bias"]).all() else 0.1

    true = risk(labels)
    for share in shares:
        f = int(share * CLIENTS)
        agents = tuple(range(f))
        made = {"mean": None} | {k: v for k, v in rules(f, CLIENTS).items() if k != "minimum_diameter"}
        made |= {
            "bucketing, median": message.bucketing(message.coordinate_median(), 2),
            "norm_bound": message.norm_bound(1.0),
            "centred_clipping": message.centred_clipping(1.0),
        }
        if 4 * f + 2 < CLIENTS:
            made["bulyan"] = message.bulyan(f)
        columns = {"nobody lies": None} | attacks(agents)
        flipped = risk(adversary.flip_labels(labels, agents, 10))
        print(
            f"\n{data}, {sum(map(len, labels)):,} pictures, {CLIENTS} clients, Dirichlet(0.3), {f} of them liars, "
            f"{rounds} rounds: test accuracy in %"
        )
        print(" " * 27 + "".join(f"{name:>18}" for name in columns), flush=True)
        for name, rule in made.items():
            row = []
            for attack, liar in columns.items():
                problem = flipped if attack == "labels flipped" else true
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", RuntimeWarning)
                    row.append(100 * accuracy(problem, rule, liar))
            print(f"  {name:<25}" + "".join(f"{value:>18.1f}" for value in row), flush=True)
            jax.clear_caches()  # a process can map only so many pieces of memory, and every program takes several


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.robust", description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("speed", "accuracy"), action="append", help="only this part")
    parser.add_argument("--data", choices=("mnist_5k", "fashion_mnist"), default="mnist_5k")
    parser.add_argument("--share", type=float, action="append", help="only this fraction of liars")
    parser.add_argument("--tiny", action="store_true", help="the smallest size of each part")
    asked = parser.parse_args()
    print(f"python -m benchmarks.robust {' '.join(sys.argv[1:])}\n{describe()}")
    for part in asked.only or ["speed", "accuracy"]:
        if part == "speed":
            speed(SIZES[:1] if asked.tiny else SIZES)
        else:
            accuracies(asked.data, asked.share or (SHARES[:1] if asked.tiny else SHARES), 5 if asked.tiny else ROUNDS)


if __name__ == "__main__":
    main()
