"""Runs that can be continued: one folder, written atomically, refused by another problem."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

META = "run.json"


def save(folder: Path, carry: Any, meta: dict[str, Any], history: dict[str, np.ndarray]) -> None:
    """Write the run's state; a crash at any moment leaves the previous one intact.

    State and history are one file each, named by round; `run.json` is replaced last and names them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {"state": f"state-{meta['round']}.npz", "history": f"history-{meta['round']}.npz"}
    _write(folder / names["state"], lambda file: np.savez(file, *map(_host, jax.tree.leaves(carry))))
    _write(folder / names["history"], lambda file: np.savez(file, **history))
    _write(folder / META, lambda file: file.write(json.dumps(meta | {"files": names}, indent=1).encode()))
    for old in [*folder.glob("state-*.npz"), *folder.glob("history-*.npz")]:
        if old.name not in names.values():
            old.unlink()


def load(folder: Path, like: Any, expected: dict[str, Any]) -> tuple[Any, dict[str, Any], dict[str, np.ndarray]]:
    """(carry, meta, history) of the run in `folder`.

    Args:
        folder: where `save` wrote.
        like: a carry of the same structure.
        expected: entries of the meta data that must agree ("problem", "algorithm", "network", "seed", …).

    Raises:
        FileNotFoundError: there is no run in the folder.
        ValueError: it is the run of another problem, algorithm, network or seed; the message names the first difference.
    """
    meta = read_meta(folder)
    for name, value in expected.items():
        if meta["identity"].get(name) != value:
            raise ValueError(
                f"{folder} holds a run of another {name}: got {value!r}, the checkpoint has {meta['identity'].get(name)!r}; "
                "resume with what the run was started with, or choose another folder"
            )
    with np.load(folder / meta["files"]["state"], allow_pickle=False) as file:
        stored = [file[f"arr_{i}"] for i in range(len(file.files))]
    leaves, structure = jax.tree.flatten(like)
    stored = [a.view(b.dtype) if a.dtype == f"V{b.dtype.itemsize}" else a for a, b in zip(stored, leaves, strict=False)]
    if [(a.shape, a.dtype) for a in stored] != [(np.shape(a), np.dtype(a.dtype)) for a in leaves]:
        raise ValueError(f"{folder} holds a run whose state has other shapes or dtypes; choose another folder")
    with np.load(folder / meta["files"]["history"], allow_pickle=False) as file:
        history = {name: file[name] for name in file.files}
    return jax.tree.unflatten(structure, map(jax.numpy.asarray, stored)), meta, history


def read_meta(folder: Path) -> dict[str, Any]:
    """What `run.json` says."""
    path = folder / META
    if not path.exists():
        raise FileNotFoundError(f"there is no run in {folder} ({META} is missing)")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} cannot be read ({error}); choose another folder") from error


def _host(leaf) -> np.ndarray:
    return np.asarray(leaf)


def _write(path: Path, write) -> None:
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
