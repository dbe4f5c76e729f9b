"""Fashion-MNIST: 70,000 pictures of clothes in 10 classes (Xiao, Rasul and Vollgraf 2017, MIT licence), dealt to clients."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np

from thalweg.data.federated import FederatedData
from thalweg.data.partitioning import partition
from thalweg.data.strategy import Strategy

FOLDER = Path("/usr/share/datasets/fashion-mnist")

CLOTHES = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
"""What the classes 0 to 9 are."""


def fashion_mnist(
    clients: Any = 100,
    by: Strategy | Any = None,
    *,
    test: Any = 0.0,
    seed: Any = 0,
    folder: str | Path | None = None,
    flat: bool = True,
    dtype: Any = np.float32,
) -> FederatedData:
    """60,000 training pictures dealt to clients; the 10,000 test pictures are `central`.

        data = fashion_mnist(100, dirichlet(0.3))
        problem = tw.EmpiricalRisk(model, data, model.start(784, outputs=10))

    Args:
        clients, by, test, seed: as for `partition`; IID by default.
        folder: with the four `…-ubyte.gz` files; by default where Debian's package dataset-fashion-mnist puts them.
        flat: features `[m, 784]`; else `[m, 28, 28, 1]`, for convolutions.
        dtype: of the pixels. Floats are in [0, 1]; an integer type keeps 0 … 255. Labels are int32, 0 to 9.

    Raises:
        FileNotFoundError: the files are not there; the message says how to get them.
        ValueError: files that are not what they are called; what `partition` refuses.
    """
    folder = FOLDER if folder is None else Path(folder)
    train, central = (
        (
            pixels(read_idx(folder / f"{part}-images-idx3-ubyte.gz"), flat, dtype),
            read_idx(folder / f"{part}-labels-idx1-ubyte.gz").astype(np.int32),
        )
        for part in ("train", "t10k")
    )
    return partition(*train, clients, by, test=test, seed=seed, classes=10, central=central)


def pixels(images: np.ndarray, flat: bool, dtype: Any) -> np.ndarray:
    """Bytes `[m, 28, 28]` as features `[m, 784]` or `[m, 28, 28, 1]`; floats in [0, 1]."""
    images = images.reshape(len(images), -1) if flat else images[..., None]
    if np.issubdtype(dtype, np.floating):
        return images.astype(dtype) / np.asarray(255, dtype)
    return images.astype(dtype)


def read_idx(path: Path) -> np.ndarray:
    """The array of bytes in a gzipped IDX file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not IDX of bytes, or of another length than its header says.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path}; apt install dataset-fashion-mnist, or without root: apt-get download dataset-fashion-mnist && "
            "dpkg-deb -x dataset-fashion-mnist_*.deb DIR, and pass folder='DIR/usr/share/datasets/fashion-mnist'"
        )
    with gzip.open(path) as file:
        content = file.read()
    axes = content[3] if content[:3] == b"\0\0\x08" else 0
    shape = np.frombuffer(content, ">u4", axes, 4) if axes and len(content) >= 4 + 4 * axes else np.zeros(1)
    if len(content) != 4 + 4 * axes + int(np.prod(shape)):
        raise ValueError(f"{path}: got {len(content)} bytes that are no IDX file of bytes, expected one; get the file anew")
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape.astype(int))
