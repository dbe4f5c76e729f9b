"""Clients' records on disk: read and written for the cohort of a round, undone back to the last checkpoint.

A file per leaf `[n, ...]`, made sparse, so that clients who were never drawn cost nothing; a journal of what was overwritten since
the last commit, so that a run that is resumed, or replayed, never sees a later state.

Axes: `n` clients, `c` clients of a round.
"""

import json
import mmap
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

_META, _JOURNAL = "store.json", "journal"


class Store:
    """Records of n clients in a folder.

    Args:
        folder: made if it is not there; what an earlier run left is used again.
        spec: one client's record, as shapes.
        n: number of clients.
    """

    def __init__(self, folder: Path, spec: Any, n: int):
        self.folder, self.n = folder, n
        folder.mkdir(parents=True, exist_ok=True)
        leaves, self._structure = jax.tree.flatten(spec)
        shapes = [(tuple(leaf.shape), np.dtype(leaf.dtype).name) for leaf in leaves]
        meta = folder / _META
        if meta.exists() and json.loads(meta.read_text())["shapes"] != json.loads(json.dumps(shapes)):
            raise ValueError(f"{folder} holds records of other shapes; choose another folder")
        self._leaves = [self._open(f"leaf-{i}", (n, *shape), dtype) for i, (shape, dtype) in enumerate(shapes)]
        self._seen = self._open("seen", (n,), "bool")
        meta.write_text(json.dumps({"shapes": shapes}))
        self._journal: list[tuple[int, Path]] = sorted(
            (int(path.stem.partition("-")[2]), path) for path in folder.glob(f"{_JOURNAL}-*.npz")
        )

    def take(self, members: Any) -> tuple[Any, np.ndarray]:
        """(records `[c, ...]`, which of them were ever written `[c]`)."""
        members = np.asarray(members)
        return jax.tree.unflatten(self._structure, [leaf[members] for leaf in self._leaves]), self._seen[members]

    def put(self, k: int, members: Any, rows: Any, keep: Any) -> None:
        """Write the rows that are to be kept, in round `k`; what they replace goes to the journal first."""
        keep = np.asarray(keep)
        members = np.asarray(members)[keep]
        path = self.folder / f"{_JOURNAL}-{k}.npz"
        partial = path.with_name(path.name + ".part")  # a crash leaves a whole journal of this round, or none
        with open(partial, "wb") as file:
            np.savez(file, members, self._seen[members], *(leaf[members] for leaf in self._leaves))
        os.replace(partial, path)
        self._journal.append((k, path))
        for leaf, new in zip(self._leaves, jax.tree.leaves(rows), strict=True):
            leaf[members] = np.asarray(new)[keep]
        self._seen[members] = True

    def back_to(self, k: int) -> None:
        """Undo rounds `k` and later."""
        while self._journal and self._journal[-1][0] >= k:
            _, path = self._journal.pop()
            with np.load(path) as file:
                members, seen, *old = (file[f"arr_{i}"] for i in range(len(file.files)))
            for leaf, values in zip(self._leaves, old, strict=True):
                leaf[members] = values
            self._seen[members] = seen
            path.unlink()

    def commit(self, k: int) -> None:
        """Round `k` is safe elsewhere: nothing before it will be undone."""
        for array in (*self._leaves, self._seen):
            if isinstance(array, np.memmap):
                array.flush()
        for _, path in [entry for entry in self._journal if entry[0] < k]:
            path.unlink()
        self._journal = [entry for entry in self._journal if entry[0] >= k]

    @property
    def bytes_on_disk(self) -> int:
        """What the records take, holes not counted."""
        return sum(os.stat(path).st_blocks * 512 for path in self.folder.iterdir())

    def _open(self, name: str, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if 0 in shape:
            return np.zeros(shape, dtype)
        path = self.folder / name
        array = np.memmap(path, dtype, "r+" if path.exists() else "w+", shape=shape)
        if hasattr(mmap, "MADV_RANDOM"):  # clients are drawn at random: what lies beside a record is not worth reading
            array._mmap.madvise(mmap.MADV_RANDOM)
        return array
