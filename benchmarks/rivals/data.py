"""The work every federated rival does: one federation, one schedule of cohorts, one start. Plain NumPy, for every environment.

1000 clients × 50 examples of Fashion-MNIST, cohorts of 50, one local epoch of batch 10 at rate 0.1, equal weights. Batches are
taken in the stored order and the cohorts are drawn beforehand, so that peers which can follow both run the same recursion.
"""

import gzip
import os
from pathlib import Path

import numpy as np

CLIENTS, EXAMPLES, COHORT, BATCH, RATE = 1000, 50, 50, 10, 0.1
FOLDER = Path(os.environ.get("THALWEG_FASHION_MNIST", "/usr/share/datasets/fashion-mnist"))
WORKLOADS = ("softmax", "cnn")

# Name, shape, fan-in and fan-out of each parameter; kernels are out × in × height × width, matrices out × in.
PARAMETERS = {
    "softmax": [("weight", (10, 784), 784, 10), ("bias", (10,), 0, 0)],
    "cnn": [
        ("conv1.weight", (32, 1, 3, 3), 9, 288),
        ("conv1.bias", (32,), 0, 0),
        ("conv2.weight", (64, 32, 3, 3), 288, 576),
        ("conv2.bias", (64,), 0, 0),
        ("dense1.weight", (128, 9216), 9216, 128),
        ("dense1.bias", (128,), 0, 0),
        ("dense2.weight", (10, 128), 128, 10),
        ("dense2.bias", (10,), 0, 0),
    ],
}


def images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """`"train"` or `"t10k"`: pixels/255 `[n, 784]` float32, labels `[n]` int64. FileNotFoundError says where to get them."""
    try:
        with gzip.open(FOLDER / f"{split}-images-idx3-ubyte.gz") as file:
            pixels = np.frombuffer(file.read(), np.uint8, offset=16)
        with gzip.open(FOLDER / f"{split}-labels-idx1-ubyte.gz") as file:
            labels = np.frombuffer(file.read(), np.uint8, offset=8)
    except FileNotFoundError as error:
        hint = "Debian's package dataset-fashion-mnist has it; THALWEG_FASHION_MNIST names another folder"
        raise FileNotFoundError(f"no Fashion-MNIST in {FOLDER}: {hint}") from error
    return pixels.reshape(-1, 784).astype(np.float32) / np.float32(255), labels.astype(np.int64)


def federation(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The train split shuffled and cut: images `[1000, 50, 784]`, labels `[1000, 50]`."""
    pixels, labels = images("train")
    order = np.random.default_rng(seed).permutation(len(labels))[: CLIENTS * EXAMPLES]
    return pixels[order].reshape(CLIENTS, EXAMPLES, 784), labels[order].reshape(CLIENTS, EXAMPLES)


def cohorts(seed: int, rounds: int) -> np.ndarray:
    """Who takes part, `[rounds, 50]`, without replacement within a round. A longer schedule begins with the shorter one."""
    rng = np.random.default_rng([seed, 1])
    return np.stack([rng.choice(CLIENTS, COHORT, replace=False) for _ in range(rounds)])


def initial(workload: str, seed: int) -> dict[str, np.ndarray]:
    """Where all start, float32: zeros for softmax; for the CNN Glorot-uniform weights and zero biases."""
    rng = np.random.default_rng([seed, 2])
    start = {}
    for name, shape, fan_in, fan_out in PARAMETERS[workload]:
        bound = np.sqrt(6 / (fan_in + fan_out)) if fan_in and workload != "softmax" else 0.0
        start[name] = (rng.uniform(-1, 1, shape) * bound).astype(np.float32)
    return start


def channels_last(start: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same start for NHWC: kernels height × width × in × out, matrices in × out, features height, width, channel."""
    turned = dict(start)
    for name, value in start.items():
        if value.ndim == 4:
            turned[name] = np.ascontiguousarray(value.transpose(2, 3, 1, 0))
        elif value.shape == (128, 9216):
            turned[name] = np.ascontiguousarray(value.reshape(128, 64, 12, 12).transpose(2, 3, 1, 0).reshape(9216, 128))
        elif value.ndim == 2:
            turned[name] = np.ascontiguousarray(value.T)
    return turned
