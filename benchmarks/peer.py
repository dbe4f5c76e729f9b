"""Speed of the simulated engine for peer methods.

    python -m benchmarks.peer            everything below, from one run
    python -m benchmarks.peer --quick    without the large networks

Rounds per second of ATC gradient tracking on a 3-regular graph, beside (a) ten lines of vectorised NumPy, (b) one Python
object per agent, and (c) the memory floor: the data read twice over the measured read + write copy bandwidth.
"""

import argparse
import subprocess
import sys
import time

import jax
import numpy as np
from scipy.sparse import csr_array

import thalweg as tw

from .machine import copy_bandwidth, describe, peak_mebibytes
from .rivals.numpy_peer import logistic_gradient, one_object_per_agent, quadratic_gradient, vectorised

STEP = 0.02
L2 = 0.01
CHECK = 30  # rounds after which the rivals' iterates are compared with ours


def quadratics(n: int, d: int, dtype):
    """Dense quadratics, `[n, d, d]`."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(n, d, d))
    return ((root @ root.transpose(0, 2, 1)) / d + np.eye(d)).astype(dtype), rng.normal(size=(n, d)).astype(dtype)


def classification(n: int, m: int, d: int, dtype):
    """Features `[n, m, d]` and labels `[n, m]`."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, m, d)).astype(dtype)
    return features, (features @ rng.normal(size=d) + rng.normal(size=(n, m)) > 0).astype(dtype)


def logistic_loss(x, example):
    """One example's loss; the ridge is part of it."""
    features, label = example
    return tw.losses.logistic(features @ x, label) + 0.5 * L2 * x @ x


def engine_rate(problem, network, seconds: float = 1.0, repeats: int = 5):
    """(best rounds per second over `repeats`, x after `CHECK` rounds), through the public verb."""
    algorithm = tw.GradientTracking(step_size=STEP)

    def run(rounds):
        return tw.solve(problem, algorithm, network, rounds=rounds, every=rounds, keep_agents=False, progress=False)

    rounds = 64
    while (elapsed := run(rounds).ledger.seconds) < seconds / repeats:
        rounds = int(rounds * max(2.0, 0.9 * seconds / repeats / max(elapsed, 1e-6)))
    return rounds / min(run(rounds).ledger.seconds for _ in range(repeats)), np.asarray(run(CHECK).agents)


def numpy_rate(W, gradient, x, seconds: float = 1.0):
    """(best rounds per second, with dense or sparse W; x after `CHECK` rounds)."""
    rates = []
    for matrix in (W, csr_array(W)):
        rounds, elapsed = 4, 0.0
        while elapsed < seconds / 5:
            rounds *= 2
            start = time.perf_counter()
            vectorised(matrix, gradient, x, STEP, rounds)
            elapsed = time.perf_counter() - start
        best = elapsed
        for _ in range(4):
            start = time.perf_counter()
            vectorised(matrix, gradient, x, STEP, rounds)
            best = min(best, time.perf_counter() - start)
        rates.append(rounds / best)
    return max(rates), vectorised(W, gradient, x, STEP, CHECK)


def object_rate(W, gradients, x, seconds: float = 1.0):
    """Rounds per second with one object per agent."""
    rounds, elapsed = 1, 0.0
    while elapsed < seconds / 3:
        rounds *= 2
        start = time.perf_counter()
        one_object_per_agent(W, gradients, x, STEP, rounds)
        elapsed = time.perf_counter() - start
    return rounds / elapsed


def compare(kind: str, n: int, dtype) -> str:
    """One row of the table."""
    network = tw.network.random_regular(n, 3, seed=0) if n > 3 else tw.network.complete(n)
    W = network.mixing.toarray().astype(dtype)
    if kind == "quadratic":
        d = 10
        A, b = quadratics(n, d, dtype)
        problem, gradient = tw.quadratic(A, b), quadratic_gradient(A, b)
        gradients = [lambda x, A=A[i], b=b[i]: A @ x + b for i in range(n)]
        data_bytes = A.nbytes
    else:
        m, d = 100, 50
        features, labels = classification(n, m, d, dtype)
        problem = tw.EmpiricalRisk(logistic_loss, (features, labels), np.zeros(d, dtype), smoothness=1.0, strong_convexity=L2)
        gradient = logistic_gradient(features, labels, dtype(L2))
        single = lambda F, y: lambda x: (1 / (1 + np.exp(-(F @ x))) - y) @ F / m + dtype(L2) * x
        gradients = [single(features[i], labels[i]) for i in range(n)]
        data_bytes = features.nbytes
    x0 = np.zeros((n, d), dtype)
    ours, x = engine_rate(problem, network)
    theirs, y = numpy_rate(W, gradient, x0)
    objects = object_rate(W, gradients, x0)
    difference = np.abs(x - y).max() / np.abs(y).max()
    tolerance = 1e-9 if dtype is np.float64 else 1e-3
    assert difference < tolerance, f"not the same recursion: {difference}"
    floor = copy_bandwidth(max(1, 2 * data_bytes // 2**20)) / (2 * data_bytes)
    return (
        f"{kind:<10} {np.dtype(dtype).name:<8} {n:>6}  {ours:>12,.0f} {theirs:>12,.0f} {objects:>12,.1f}   "
        f"{ours / theirs:>6.2f}x  {ours / objects:>8.0f}x  {floor / ours:>6.2f}x   {difference:.0e}"
    )


def scale(n: int, d: int) -> str:
    """Rounds per second and memory on a large sparse graph."""
    network = tw.network.random_regular(n, 3, seed=0)
    rng = np.random.default_rng(0)
    A = (np.eye(d) * (1 + rng.random((n, 1, 1)))).astype(np.float32)
    problem = tw.quadratic(A, rng.normal(size=(n, d)).astype(np.float32))
    start = time.perf_counter()
    rate, _ = engine_rate(problem, network, seconds=2.0, repeats=2)
    peak = peak_mebibytes()
    setup, data = time.perf_counter() - start, A.nbytes / 2**20
    return f"{n:>8} {d:>5}  {rate:>10,.1f} rounds/s   peak {peak:>7,.0f} MiB   data {data:>7,.1f} MiB   all in {setup:.1f} s"


def in_new_process(code: str, repeats: int = 3) -> float:
    """Best wall-clock seconds of a fresh interpreter that runs `code` and prints a number."""
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(repeats)]
    return min(float(run.stdout.strip().splitlines()[-1]) for run in runs)


IMPORT = """
import time, jax, jax.numpy, numpy
start = time.perf_counter(); import thalweg; thalweg.solve; print(time.perf_counter() - start)
"""
FIRST = """
import time; start = time.perf_counter()
import numpy as np, thalweg as tw
rng = np.random.default_rng(0); A = rng.normal(size=(20, 10, 10)); A = A @ A.transpose(0, 2, 1) / 10 + np.eye(10)
problem = tw.quadratic(A.astype("f4"), rng.normal(size=(20, 10)).astype("f4"))
tw.solve(problem, tw.GradientTracking(), tw.network.ring(20), rounds=500)
print(time.perf_counter() - start)
"""


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peer", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the large networks")
    quick = parser.parse_args().quick
    jax.config.update("jax_enable_x64", True)
    print(f"python -m benchmarks.peer{' --quick' if quick else ''}\n{describe()}\n")
    small, large = copy_bandwidth(40) / 1e9, copy_bandwidth(400) / 1e9
    print(f"copy bandwidth (read + write): {small:.1f} GB/s at 40 MiB, {large:.1f} GB/s at 400 MiB\n")
    print("ATC gradient tracking, 3-regular graph, rounds per second (best of 5); difference after 30 rounds")
    print("problem    dtype         n       thalweg        NumPy      objects    NumPy    objects    floor   difference")
    for kind in ("quadratic", "logistic"):
        for dtype in (np.float32, np.float64):
            for n in (20, 100, 1000):
                print(compare(kind, n, dtype), flush=True)
    print("\n(`floor` is how many times longer a round takes than reading the data twice at the copy bandwidth.)\n")
    print(f"import thalweg beyond JAX's own import: {in_new_process(IMPORT):.2f} s (best of 3)")
    print(f"time to first result, new interpreter, 20 agents, 500 rounds: {in_new_process(FIRST):.2f} s (best of 3)\n")
    print("large sparse graphs, quadratics, float32")
    for n, d in [(1000, 10), (10_000, 10)] if quick else [(1000, 10), (10_000, 10), (100_000, 2), (100_000, 10), (10_000, 50)]:
        print(scale(n, d), flush=True)


if __name__ == "__main__":
    main()
