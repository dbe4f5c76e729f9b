"""Messages: accuracy against bytes, and how fast stages are.

    python -m benchmarks.messages                    everything below, from one run
    python -m benchmarks.messages --only speed       one part: server, peers or speed
    python -m benchmarks.messages --smallest         the same in a minute, to see that it runs

1. server: softmax regression on Fashion-MNIST, 100 clients whose labels are Dirichlet(0.3), FedAvg with every client in every
   round (so that memories are used at once), by what is done on the uplink: top-1 % with error feedback beside the same with
   memory off, and others;
2. peers: decentralised training of the same on a torus of 16, CHOCO-SGD beside plain diffusion, per byte;
3. speed: encode + decode of 10^7 single-precision numbers, in GB/s of the message, beside a copy of the message in memory.
"""

import argparse
import time

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
PEER_METHODS = {
    "diffusion": (lambda step: tw.Diffusion(step, stochastic=False), None),
    "diffusion, top-1 %": (lambda step: tw.Diffusion(step), message.top_k(0.01)),
    "diffusion, top-1 %, memory": (lambda step: tw.Diffusion(step), message.error_feedback(message.top_k(0.01))),
    "CHOCO, top-1 %": (lambda step: tw.ChocoSGD(step, 0.04), message.top_k(0.01)),
    "CHOCO, int4": (lambda step: tw.ChocoSGD(step, 0.5), message.quantise(4)),
    "BEER, top-1 %": (lambda step: tw.BEER(step / 5, 0.04), message.top_k(0.01)),
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
    return tw.EmpiricalRisk(softmax_loss, parts, start, smoothness=100.0, strong_convexity=0.0)


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


def peers(rounds: int, examples: int, seed: int) -> None:
    """Part 2."""
    risk, network, runs = problem(PEERS, examples, seed), tw.network.torus(4, 4), {}
    for name, (make, link) in PEER_METHODS.items():
        result = tw.solve(risk, make(0.02), network, rounds=rounds, every=rounds, seed=seed, link=link, progress=False)
        runs[name] = result, jax.tree.map(lambda leaf: leaf[0], result.agents)
    table(f"peers: {PEERS} on a torus × {examples}, {rounds} rounds of full gradients, accuracy of agent 0", runs)


def speed(numbers: int, repeats: int) -> None:
    """Part 3."""
    m = jax.random.normal(jax.random.key(0), (numbers,), jnp.float32)
    copy = copy_bandwidth(max(1, m.nbytes // 2**20)) / 2
    print(f"\nspeed: {numbers:,} numbers, a copy of the message takes {1e3 * m.nbytes / copy:.1f} ms ({copy / 1e9:.2f} GB/s)")
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
    print(describe())
    small = asked.smallest
    if asked.only in (None, "server"):
        server(3 if small else 200, 20 if small else EXAMPLES, asked.seed)
    if asked.only in (None, "peers"):
        peers(3 if small else 2000, 20 if small else 500, asked.seed)
    if asked.only in (None, "speed"):
        speed(10**5 if small else 10**7, 2 if small else 7)


if __name__ == "__main__":
    main()
