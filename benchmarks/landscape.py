"""Every exported peer algorithm on three networks, clean and under failures: its error floor beside its claim.

    python -m benchmarks.landscape                 all of them (about half an hour on two cores; compilation dominates)
    python -m benchmarks.landscape EXTRA EdgeADMM  only these

The floor is √(mean_i ‖x_i − x*‖²) after the last round, relative to 1 + ‖x*‖, on heterogeneous quadratics (16 agents, 3
variables, condition number about 20). "exact" is printed where the algorithm's `exact_under` claims the case, "biased"
where it does not. A floor above 1e-6 where exactness is claimed is marked with ✗ and makes the exit status 1, unless
the error was still falling by half over the last half of the rounds (↓).
"""

import argparse
import sys
import warnings

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np  # noqa: E402

import thalweg as tw  # noqa: E402

from .machine import describe  # noqa: E402

N, D, ROUNDS, TOLERANCE = 16, 3, 20_000, 1e-6

CASES = {
    "clean": ({}, frozenset()),
    "sym 10%": ({"loss": 0.1}, frozenset({"symmetric"})),
    "sym 30%": ({"loss": 0.3}, frozenset({"symmetric"})),
    "indep 10%": ({"loss": 0.1, "symmetric": False}, frozenset({"independent"})),
    "indep 30%": ({"loss": 0.3, "symmetric": False}, frozenset({"independent"})),
    "asleep 30%": ({"asleep": 0.3}, frozenset({"asleep"})),
}


def networks(directed: bool) -> dict[str, tw.Network]:
    """Ring, geometric and exponential graph; one-way ones for methods that push or pull."""
    if directed:
        geometric = tw.network.geometric(N, radius=0.5, seed=1)
        arcs = [(i, j) for i, j in geometric.edges] + [(j, i) for i, j in geometric.edges if (i + j) % 3]
        oneway = tw.network.from_edges(arcs, n=N, directed=True)
        return {"ring": tw.network.ring(N, directed=True), "geometric": oneway, "exponential": tw.network.exponential(N)}
    exponential = [(i, (i + 2**k) % N) for i in range(N) for k in range(4)]
    made = {
        "ring": tw.network.ring(N),
        "geometric": tw.network.geometric(N, radius=0.5, seed=1),
        "exponential": tw.network.from_edges(exponential, n=N),
    }
    return {name: network.with_weights("lazy_metropolis") for name, network in made.items()}


def quadratics():
    """(problem, x*)."""
    rng = np.random.default_rng(0)
    root = rng.normal(size=(N, D, D))
    A = root @ root.transpose(0, 2, 1) / D + 0.3 * np.eye(D)
    b = rng.normal(size=(N, D)) * 3
    return tw.quadratic(A, b), np.linalg.solve(A.mean(0), -b.mean(0))


def risk():
    """The same kind of problem with examples, for methods that draw them: least squares, 6 examples each."""
    rng = np.random.default_rng(0)
    features, targets = rng.normal(size=(N, 6, D)), 3 * rng.normal(size=(N, 6))
    loss = lambda x, example: 0.5 * (example[0] @ x - example[1]) ** 2 + 0.15 * x @ x
    A = np.einsum("nmi,nmj->ij", features, features) / (6 * N) + 0.3 * np.eye(D)
    b = np.einsum("nmi,nm->i", features, targets) / (6 * N)
    problem = tw.EmpiricalRisk(loss, (features, targets), np.zeros(D), batch_size=1)
    return problem, np.linalg.solve(A, b)


def measurements(algorithm):
    """(problem, what every agent should end with)."""
    values = np.random.default_rng(0).normal(size=(N, D)) * 3
    answer = {"MaxConsensus": values.max(0), "MinConsensus": values.min(0)}.get(type(algorithm).__name__, values.mean(0))
    return tw.Measurements(values), answer


def choose(algorithm):
    """(problem, answer) for an algorithm."""
    if "measurements" in algorithm.needs:
        return measurements(algorithm)
    return risk() if "examples" in algorithm.needs else quadratics()


def floor(problem, answer, algorithm, network) -> tuple[float, bool]:
    """(relative error after the last round, whether it was still falling); infinity when the run broke."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = tw.solve(problem, algorithm, network, rounds=ROUNDS, every=ROUNDS // 2, reference=answer, progress=False)
    if result.rounds < ROUNDS:
        return np.inf, False
    half, error = result.history["error"]
    return float(error / (1 + np.linalg.norm(answer))), bool(error < half / 2)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.landscape", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="algorithms; all when none is named")
    names = parser.parse_args().names or tw.algorithms.__all__
    print(f"python -m benchmarks.landscape {' '.join(parser.parse_args().names)}\n{describe()}")
    print(f"{N} agents, {D} variables, {ROUNDS} rounds, float64, seed 0\n")
    print(f"{'algorithm':<22} {'network':<12} " + " ".join(f"{case:>18}" for case in CASES))
    broken, refusals = 0, {}
    for name in names:
        algorithm = getattr(tw.algorithms, name)()
        problem, answer = choose(algorithm)
        directed = any(type(rule).__name__ in ("Push", "Pull") for rule in algorithm.combine.values())
        for label, network in networks(directed).items():
            cells = []
            for failures, kinds in CASES.values():
                if directed and failures.get("symmetric", True) and "loss" in failures:
                    cells.append("–")  # on a directed network there is no symmetric loss
                    continue
                try:
                    error, falling = floor(problem, answer, algorithm, network.with_failures(**failures))
                except ValueError as refusal:
                    cells.append("refused")
                    refusals[name] = str(refusal)
                    continue
                exact = algorithm.claims.exact and kinds <= algorithm.exact_under
                wrong = exact and not (error < TOLERANCE or falling)
                broken += wrong
                mark = " ✗" if wrong else " ↓" if exact and error >= TOLERANCE else ""
                cells.append(f"{error:.0e} {'exact' if exact else 'biased'}{mark}")
            print(f"{name:<22} {label:<12} " + " ".join(f"{cell:>18}" for cell in cells), flush=True)
    for name, reason in refusals.items():
        print(f"\n{name} refused: {reason}")
    print(f"\n{broken} claims broken")
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
