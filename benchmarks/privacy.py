"""What privacy costs in accuracy: DP-SGD in every client, on the hospitals' records and on 30 people's movements.

    python -m benchmarks.privacy

Every example is hidden from everybody but the client that holds it; δ = 1e-4 is less than one over the hospitals' records,
and noise is calibrated to the number of steps. Medians over seeds, with the smallest and largest. An audit beside it: ε that an
attack with canaries shows to be spent, with 95 % confidence.
"""

import argparse

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import thalweg as tw  # noqa: E402

from .machine import describe  # noqa: E402

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, np.inf)
DELTA, RATE, ROUNDS, SEEDS = 1e-4, 0.2, 60, 5


def hospitals():
    """(problem, score of a model: mean AUC over the held-out records of the hospitals, learning rate)."""
    data = tw.data.heart_disease()
    problem = tw.EmpiricalRisk(logistic, data, {"w": np.zeros(data.d), "b": np.zeros(())}, weights="uniform")
    score = lambda x: np.mean([tw.data.auc(X @ np.asarray(x["w"]), y) for X, y in data.test])
    return problem, score, 0.5


def logistic(x, example):
    features, label = example
    z = features @ x["w"] + x["b"]
    return jax.nn.softplus(z) - label * z


def people():
    """(problem, accuracy on the held-out windows of all people, learning rate); features are statistics of a window's channels."""
    data = tw.data.har()
    summary = lambda X: np.concatenate([X.mean(1), X.std(1), X.min(1), X.max(1), np.abs(np.diff(X, axis=1)).mean(1)], axis=1)
    train = [(summary(np.asarray(X, float)), y) for X, y in data.train]
    pooled = np.concatenate([X for X, _ in train])
    center, scale = pooled.mean(0), pooled.std(0)
    scaled = lambda X: (X - center) / scale
    x0 = {"w": np.zeros((6, pooled.shape[1])), "b": np.zeros(6)}
    problem = tw.EmpiricalRisk(softmax, [(scaled(X), y) for X, y in train], x0)
    held = [(scaled(summary(np.asarray(X, float))), y) for X, y in data.test]

    def score(x):
        right = [np.argmax(X @ np.asarray(x["w"]).T + np.asarray(x["b"]), axis=1) == y for X, y in held]
        return np.mean(np.concatenate(right))

    return problem, score, 1.0


def softmax(x, example):
    features, label = example
    logits = x["w"] @ features + x["b"]
    return jax.nn.logsumexp(logits) - logits[label]


def curve(name: str, problem, score, rate: float) -> None:
    """One line for each ε."""
    sizes = f"{problem.n} clients, {int(problem.counts.sum())} examples, {problem.size} variables"
    print(f"\n{name}: {sizes}, {ROUNDS} rounds of one step, each example drawn with probability {RATE}, δ = {DELTA:g}")
    for epsilon in EPSILONS:
        if np.isinf(epsilon):
            noise, solver, budget = 0.0, tw.LocalSGD(rate, steps=1), None
        else:
            noise = tw.privacy.calibrate(epsilon, DELTA, rounds=ROUNDS, sampling_rate=RATE, accountant="pld")
            solver = tw.PrivateSGD(rate, noise, clip=1.0, sampling_rate=RATE)
            budget = tw.privacy.Budget(epsilon * 1.001, DELTA, "pld")
        found, spent = [], 0.0
        for seed in range(SEEDS):
            result = tw.solve(problem, tw.FedAvg(solver), rounds=ROUNDS, seed=seed, every=ROUNDS, privacy=budget)
            found.append(score(result.x))
            spent = 0.0 if budget is None else result.ledger.epsilon[-1]
        low, middle, high = np.quantile(found, [0, 0.5, 1])
        print(
            f"  ε ≤ {epsilon:<4g} noise multiplier {noise:6.3f}   {middle:.3f} ({low:.3f} … {high:.3f})   spent {spent:.3f}",
            flush=True,
        )


def canaries() -> None:
    """One run of FedAvg under a noisy mean, in which half of many clients with a direction of their own take part."""
    n, d, rounds, clip = 4000, 8000, 5, 1.0
    print(
        f"\naudit: {n} canaries of norm {clip}, each in a direction of its own, half present; {rounds} rounds of a noisy mean"
    )
    for z in (0.3, 0.5, 1.0, 3.0):
        rule = tw.message.NoisyMean(z, clip, largest=1 / n)
        inside = np.random.default_rng(0).random(n) < 0.5
        directions = np.zeros((n, d))
        directions[np.arange(n), np.arange(n)] = clip
        state, scores = rule.init(d, jnp.float64), np.zeros(n)
        for k in range(rounds):
            weights = jnp.full(n, 1 / n) * inside
            state, mean = rule.combine(
                state, jnp.asarray(directions), weights, jnp.asarray(inside), jax.random.fold_in(jax.random.key(0), k)
            )
            scores += np.asarray(mean)[:n]
        account = tw.privacy.Account("client", "add or remove one", "the server", "gaussian", z)
        found = tw.privacy.audit(scores[inside], scores[~inside], 1e-5)
        spent = account.epsilon(rounds, 1e-5, "pld")
        print(f"  noise multiplier {z:3g}: ε = {spent:6.2f} by the account, at least {found.epsilon:5.2f} by the audit")


def main(only: str | None = None) -> None:
    """Print everything."""
    print("python -m benchmarks.privacy", f"\n{describe()}")
    if only in (None, "hospitals"):
        curve("hospitals, mean AUC", *hospitals())
    if only in (None, "people"):
        curve("people, accuracy", *people())
    if only in (None, "audit"):
        canaries()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("hospitals", "people", "audit"))
    main(parser.parse_args().only)
