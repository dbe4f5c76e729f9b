"""A federated data set larger than memory: one folder, read by the page as agents are drawn.

A folder holds

    0.npy, 1.npy, …     one file per leaf, `[Σ m_i, ...]`: the agents' examples one after another
    offsets.npy         int64 `[n + 1]`: agent i has the rows offsets[i] … offsets[i + 1] − 1
    tree.json           how the leaves are put together

Axes: `n` agents, `m` examples.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import jax
import numpy as np
from jaxtyping import PyTree

from thalweg.data.padding import stack
from thalweg.data.sources import Source


@dataclasses.dataclass(frozen=True, eq=False)
class MemoryMapped(Source):
    """The agents of a folder that `write_memory_mapped` has written. Nothing is read before it is fetched.

        write_memory_mapped("clients", data.train)
        source = MemoryMapped("clients")
        (features, labels), counts = source.fetch([3, 17])

    Raises:
        FileNotFoundError: no such folder, or files are missing from it.
        ValueError: files whose lengths do not agree.
    """

    folder: Any
    offsets: np.ndarray = dataclasses.field(init=False, repr=False)
    leaves: PyTree = dataclasses.field(init=False, repr=False)

    def __post_init__(self):
        folder = Path(self.folder)
        if not (folder / "tree.json").is_file():
            raise FileNotFoundError(f"MemoryMapped: no tree.json in {folder}; expected a folder made by write_memory_mapped")
        tree = json.loads((folder / "tree.json").read_text(encoding="utf-8"))
        offsets = np.load(folder / "offsets.npy")
        leaves = _decode(tree, lambda name: np.load(folder / name, mmap_mode="r"))
        for leaf in jax.tree.leaves(leaves):
            if len(leaf) != offsets[-1]:
                raise ValueError(f"MemoryMapped {folder}: got {len(leaf)} rows, expected {offsets[-1]}; write the folder anew")
        object.__setattr__(self, "offsets", offsets)
        object.__setattr__(self, "leaves", leaves)

    @property
    def n(self) -> int:
        """Number of agents."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> np.ndarray:
        """m_i of every agent, int64 `[n]`."""
        return np.diff(self.offsets)

    @property
    def longest(self) -> int:
        """The largest m_i."""
        return int(self.counts.max())

    def fetch(self, ids: Any) -> tuple[PyTree, np.ndarray]:
        """The examples of the agents `ids` `[c]`, NumPy arrays `[c, m, ...]`, and their counts, int64 `[c]`.

        Raises:
            ValueError: ids that are not integers in 0 … n − 1, or none.
        """
        ids = self._checked(ids)
        if len(ids) == 0:
            raise ValueError("fetch: got no ids, expected at least one agent")
        rows = list(zip(self.offsets[ids], self.offsets[ids + 1], strict=True))
        read = lambda leaf: stack([leaf[start:end] for start, end in rows], self.longest)
        return jax.tree.map(read, self.leaves), self.offsets[ids + 1] - self.offsets[ids]


def write_memory_mapped(folder: Any, agents: Iterable[PyTree]) -> MemoryMapped:
    """Write agents one after another, in one pass and without holding more than one of them.

    The folder appears when all is written; until then its name ends in ".part", and an error removes it.

    Args:
        folder: must not exist yet.
        agents: pytrees (tuples, lists, dictionaries with string keys) of arrays `[m_i, ...]`; structures, dtypes and all axes
            but the first agree. A generator will do; so will `FederatedData.train`.

    Returns:
        The folder, opened.

    Raises:
        FileExistsError: the folder exists.
        ValueError: no agents, an agent without examples, arrays that differ in length, dtype or shape, NaN or infinity.
        TypeError: a pytree of other things.
    """
    folder = Path(folder)
    part = folder.with_name(folder.name + ".part")
    if folder.exists():
        raise FileExistsError(f"write_memory_mapped: {folder} exists; remove it, or open it with MemoryMapped({str(folder)!r})")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write(part, agents)
        os.replace(part, folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return MemoryMapped(folder)


def _write(folder: Path, agents: Iterable[PyTree]) -> None:
    tree, columns, offsets = None, [], [0]
    try:
        for i, agent in enumerate(agents):
            leaves: list[np.ndarray] = []
            described = _encode(agent, leaves)
            if tree is None:
                tree, columns = described, [_Column(folder / f"{j}.npy", leaf) for j, leaf in enumerate(leaves)]
            lengths = {leaf.shape[0] if leaf.ndim else None for leaf in leaves}
            if described != tree or len(lengths) != 1 or lengths & {0, None}:
                raise ValueError(
                    f"agent {i}: got {described} with lengths {lengths}, expected {tree}, with one number of examples ≥ 1"
                )
            for column, leaf in zip(columns, leaves, strict=True):
                column.append(leaf, i)
            offsets.append(offsets[-1] + lengths.pop())
        if tree is None:
            raise ValueError("write_memory_mapped: got no agents, expected at least one")
    finally:
        for column in columns:
            column.close()
    np.save(folder / "offsets.npy", np.array(offsets, dtype=np.int64))
    (folder / "tree.json").write_text(json.dumps(tree), encoding="utf-8")


class _Column:
    """One .npy file that grows. NumPy leaves room in the header for a longer first axis, so that it can be written again."""

    def __init__(self, path: Path, like: np.ndarray):
        self.dtype, self.shape, self.total = like.dtype, like.shape[1:], 0
        self.file: BinaryIO = path.open("wb")
        self._header()

    def _header(self) -> None:
        described = np.lib.format.dtype_to_descr(self.dtype)
        header = {"descr": described, "fortran_order": False, "shape": (self.total, *self.shape)}
        np.lib.format.write_array_header_1_0(self.file, header)

    def append(self, leaf: np.ndarray, i: int) -> None:
        """Write the examples of agent i."""
        if leaf.dtype != self.dtype or leaf.shape[1:] != self.shape:
            raise ValueError(
                f"agent {i}: got an array of {leaf.dtype}{list(leaf.shape)}, expected {self.dtype}"
                f"{['any', *self.shape]} as for agent 0"
            )
        if leaf.dtype.kind in "fc" and not np.isfinite(leaf).all():
            raise ValueError(
                f"agent {i}: got NaN or infinite values, expected finite numbers; impute or drop such records first"
            )
        self.file.write(np.ascontiguousarray(leaf).tobytes())
        self.total += len(leaf)

    def close(self) -> None:
        """Write the header again, with the length that is known now."""
        body = self.file.tell()
        self.file.seek(0)
        self._header()
        assert self.total == 0 or self.file.tell() + self.total * self.dtype.itemsize * int(np.prod(self.shape)) == body
        self.file.close()


def _encode(node: Any, leaves: list[np.ndarray]) -> Any:
    """What JSON can say of a pytree; its arrays are appended to `leaves`, and named by their files."""
    if isinstance(node, dict) and all(isinstance(key, str) for key in node):
        return {"dict": {key: _encode(node[key], leaves) for key in sorted(node)}}
    if type(node) in (tuple, list):
        return {type(node).__name__: [_encode(child, leaves) for child in node]}
    array = np.asarray(node)
    if array.dtype.kind not in "biufc":
        raise TypeError(
            f"write_memory_mapped: got a {type(node).__name__} in the pytree, expected tuples, lists, dictionaries with string "
            "keys, and arrays of numbers"
        )
    leaves.append(array)
    return f"{len(leaves) - 1}.npy"


def _decode(described: Any, load: Any) -> Any:
    if isinstance(described, str):
        return load(described)
    ((kind, children),) = described.items()
    if kind == "dict":
        return {key: _decode(child, load) for key, child in children.items()}
    return {"tuple": tuple, "list": list}[kind](_decode(child, load) for child in children)
