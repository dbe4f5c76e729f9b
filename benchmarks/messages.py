"""Messages: accuracy against bytes, and how fast stages are.

    python -m benchmarks.messages                    everything below, from one run
    python -m benchmarks.messages --only speed       one part: server, peers or speed
    python -m benchmarks.messages --smallest         the same in a minute, to see that it runs

1. server: softmax regression on Fashion-MNIST, 100 clients whose labels are Dirichlet(0.3), FedAvg with every client in every
   round (so that memories are used at once), by what is done on the uplink: top-1 % with error feedback beside the same with
   memory off, and others;
2. peers: decentralised training of the same on a torus of 16, CHOCO-SGD beside plain diffusion: what the same bytes buy;
3. speed: encode + decode of 10^7 single-precision numbers, in GB/s of the message, beside a copy of the message in memory.
"""

import argparse
import functools
import itertools
import sys
import tempfile
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import thalweg as tw
from thalweg import message

from .federated import softmax_logits, softmax_loss
from .machine import copy_bandwidth, describe
from .rivals import data

CLIENTS, EXAMPLES, PEERS = 100, 200, 16
SERVER_STAGES = {
    "uncompressed": None,
    "top-1 %, memory": message.error_feedback(message.top_k(0.01)),
    "top-1 %, memory off": message.top_k(0.01),
    "top-1 % of 8 bits, memory": message.error_feedback(message.chain(message.top_k(0.01), message.quantise(8))),
    "top-1 %, ef21": message.ef21(message.top_k(0.01)),
    "random 1 %, memory": message.error_feedback(message.random_k(0.01, scale=False)),
    "sign, memory": message.error_feedback(message.sign()),
    "int8": message.quantise(8),
    "int4": message.quantise(4),
    "rotation and int4": message.rotate(message.quantise(4, block=1024)),
    "natural": message.natural(),
    "rank 2, memory": message.error_feedback(message.power_sgd(2)),
}
# Name → method of a step and a consensus step, link, the consensus steps that are tried; all of `STEPS` are.
STEPS, MEGABYTES = (0.03, 0.1, 0.3), (5, 20)
PEER_METHODS = {
    "diffusion": (lambda step, _: tw.Diffusion(step), None, (1.0,)),
    "diffusion, top-1 %": (lambda step, _: tw.Diffusion(step), message.top_k(0.01), (1.0,)),
    "diffusion, top-1 %, memory": (lambda step, _: tw.Diffusion(step), message.error_feedback(message.top_k(0.01)), (1.0,)),
    "CHOCO, int4": (tw.ChocoSGD, message.quantise(4), (0.4, 0.8, 1.0)),
    "CHOCO, top-1 %": (tw.ChocoSGD, message.top_k(0.01), (0.02, 0.05, 0.2)),
    "BEER, top-1 %": (tw.BEER, message.top_k(0.01), (0.02, 0.05, 0.2)),
}
SPEED_STAGES = {
    "cast to bfloat16": message.cast("bfloat16"),
    "top_k 1 %": message.top_k(0.01),
    "block_top_k 1 %": message.block_top_k(0.01),
    "threshold": message.threshold(0.5, at_most=0.01),
    "random_k 1 %": message.random_k(0.01),
    "subsample 1 %": message.subsample(0.01),
    "quantise 8": message.quantise(8),
    "quantise 4": message.quantise(4),
    "qsgd 7": message.qsgd(7),
    "sign": message.sign(),
    "natural": message.natural(),
    "rotate and quantise 4": message.rotate(message.quantise(4, block=1024)),
    "top_k 1 % of 8 bits": message.chain(message.top_k(0.01), message.quantise(8)),
    "error_feedback of top_k 1 %": message.error_feedback(message.top_k(0.01)),
}


def problem(owners: int, examples: int, seed: int) -> tw.EmpiricalRisk:
    """Fashion-MNIST among `owners`, labels Dirichlet(0.3), single precision."""
    images, labels = data.images("train")
    chosen = np.random.default_rng(seed).permutation(len(images))[: owners * examples]
    parts = tw.data.partition(
        images[chosen], labels[chosen].astype(np.int32), clients=owners, by=tw.data.dirichlet(0.3), seed=seed
    )
    start = {"weight": np.zeros((784, 10), np.float32), "bias": np.zeros(10, np.float32)}
    # The second derivative in the scores is at most ½.
    largest = [np.linalg.norm(np.column_stack([x, np.ones(len(x))]), 2) ** 2 / len(x) / 2 for x, _ in parts.train]
    return tw.EmpiricalRisk(softmax_loss, parts, start, smoothness=largest, strong_convexity=0.0)


def accuracy(x) -> float:
    """On the test set."""
    images, labels = data.images("t10k")
    return float((np.asarray(softmax_logits(x, images)).argmax(1) == labels).mean())


def table(title: str, runs: dict) -> None:
    """name → (result, x): accuracy, bytes of one message, of all, how many times fewer than the first."""
    print(f"\n{title}\n  {'':<28}{'accuracy':>10}{'bytes/message':>15}{'megabytes':>11}{'fewer':>8}{'s/round':>9}")
    first = next(iter(runs.values()))[0]
    for name, (result, x) in runs.items():
        size = result.ledger.message_bytes
        total = size * int(result.ledger.messages.sum()) / 1e6
        fewer = first.ledger.message_bytes / size
        each = result.ledger.seconds / max(1, result.rounds)
        print(f"  {name:<28}{100 * accuracy(x):>9.2f}%{size:>15,}{total:>11.1f}{fewer:>7.1f}×{each:>9.3f}", flush=True)


def server(rounds: int, examples: int, seed: int) -> None:
    """Part 1."""
    risk, runs = problem(CLIENTS, examples, seed), {}
    for name, uplink in SERVER_STAGES.items():
        algorithm = tw.FedAvg(tw.LocalSGD(0.05, epochs=1, batch_size=20))
        result = tw.solve(
            risk, algorithm, rounds=rounds, every=rounds, seed=seed, uplink=uplink, keep_agents=False, progress=False
        )
        runs[name] = result, result.x
    table(f"server: {CLIENTS} clients × {examples}, {rounds} rounds of one epoch, bytes of the uplink", runs)


def peers(megabytes: tuple[float, ...], examples: int, seed: int) -> None:
    """Part 2: every method with all steps of its grid, and the best that so many bytes buy."""
    risk, network = problem(PEERS, examples, seed), tw.network.torus(4, 4)
    print(
        f"\npeers: {PEERS} on a torus × {examples}, full gradients; mean accuracy of the agents by what all have sent, at the"
        f"\nbest step of {', '.join(map(str, STEPS))} (and consensus step, of those tried), rounds behind it"
        f"\n  {'':<28}{'bytes/message':>14}" + "".join(f"{size:>29g} MB" for size in megabytes) + "   consensus steps"
    )
    for name, (make, link, consensus) in PEER_METHODS.items():
        ledger, runs = tw.solve(risk, make(1e-3, 0.1), network, rounds=1, link=link, progress=False).ledger, []
        size = ledger.message_bytes
        rounds = [max(1, round(1e6 * most / (size * int(ledger.messages.sum())))) for most in megabytes]
        for step, gamma in itertools.product(STEPS, consensus):
            chosen = f"{step:g}" if len(consensus) == 1 else f"{step:g}, {gamma:g}"
            cells = zip(reached(risk, make(step, gamma), network, link, rounds, seed), rounds, strict=True)
            runs.append([(found, k, chosen) for found, k in cells])
        best_of = [max(cells) for cells in zip(*runs, strict=True)]
        shown = "".join(f"{f'{100 * found:.2f}% ({chosen}; {k})':>32}" for found, k, chosen in best_of)
        print(f"  {name:<28}{size:>14,}{shown}   {', '.join(f'{gamma:g}' for gamma in consensus)}", flush=True)


def reached(risk, algorithm, network, link, rounds: list[int], seed: int) -> list[float]:
    """The mean accuracy of the agents after each of these numbers of rounds, of one run; chance where it diverges."""
    solve, found = functools.partial(tw.solve, risk, algorithm, network, seed=seed, link=link, progress=False), []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the grid goes beyond what is proved
        for k in rounds:
            result = solve(rounds=k, every=None if found else k, checkpoint=folder, resume=bool(found))
            if result.outcome is not tw.Outcome.ROUND_LIMIT:
                return found + [0.1] * (len(rounds) - len(found))
            agents = [jax.tree.map(lambda leaf, i=i: leaf[i], result.agents) for i in range(PEERS)]
            found.append(float(np.mean([accuracy(x) for x in agents])))
    return found


def speed(numbers: int, repeats: int) -> None:
    """Part 3."""
    m = jax.random.normal(jax.random.key(0), (numbers,), jnp.float32)
    copy = copy_bandwidth(max(1, m.nbytes // 2**20)) / 2
    new = 1e3 * best(repeats, jax.jit(jnp.negative), m)
    print(
        f"\nspeed: {numbers:,} numbers; a copy of the message takes {1e3 * m.nbytes / copy:.1f} ms ({copy / 1e9:.2f} GB/s), into "
        f"new memory, as every\ndecoded message is, {new:.1f} ms"
    )
    print(f"  {'':<28}{'encode':>11}{'decode':>11}{'both':>12}{'of a copy':>11}{'bits/number':>13}{'entropy':>9}")
    for name, stage in SPEED_STAGES.items():
        state = stage.init(jax.ShapeDtypeStruct(m.shape, m.dtype))
        encode = jax.jit(lambda state, m, key, stage=stage: stage.encode(state, m, key)[:2])
        decode = jax.jit(lambda wire, stage=stage: stage.decode(wire, jax.ShapeDtypeStruct(m.shape, m.dtype)))
        wire = encode(state, m, jax.random.key(1))[1]
        there, back = best(repeats, encode, state, m, jax.random.key(1)), best(repeats, decode, wire)
        rate = m.nbytes / (there + back)
        bits, entropy = 8 * message.payload_bytes(wire) / numbers, message.entropy_bits(wire) / numbers
        print(
            f"  {name:<28}{1e3 * there:>8.1f} ms{1e3 * back:>8.1f} ms{rate / 1e9:>7.2f} GB/s{100 * rate / copy:>10.1f}%"
            f"{bits:>13.3f}{entropy:>9.3f}",
            flush=True,
        )


def best(repeats: int, run, *args) -> float:
    """Seconds of the fastest of some runs, the first apart."""
    jax.block_until_ready(run(*args))
    found = np.inf
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(run(*args))
        found = min(found, time.perf_counter() - began)
    return found


def main() -> None:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=("server", "peers", "speed"))
    parser.add_argument("--smallest", action="store_true", help="few rounds, examples and numbers")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print(f"python -m benchmarks.messages {' '.join(sys.argv[1:])}\n{describe()}, seed {asked.seed}")
    small = asked.smallest
    if asked.only in (None, "server"):
        server(3 if small else 200, 20 if small else EXAMPLES, asked.seed)
    if asked.only in (None, "peers"):
        peers((0.1, 0.5) if small else MEGABYTES, 20 if small else 500, asked.seed)
    if asked.only in (None, "speed"):
        speed(10**5 if small else 10**7, 2 if small else 7)


if __name__ == "__main__":
    main()
