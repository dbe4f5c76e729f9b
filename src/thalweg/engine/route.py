"""Which agents' messages cross from device to device, found before the run: only those that a neighbour there is to hear.

Axes: `n` agents in `p` blocks of b, one block per device.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


class Route(eqx.Module):
    """Hops: in each, every block sends some of its rows to the block at one fixed distance, by one permutation of the devices.

    After all hops a device holds [its own b rows | what came in hop 0 | what came in hop 1 | …], which is what a routed world's
    `neighbours` count in.

    Attributes:
        rows: of each hop `[p, m]`, its own m: which of the block's rows are sent, padded to the longest list by repeating row 0.
        pairs: of each hop: (sending device, receiving device).
    """

    rows: tuple[Int[Array, "p _"], ...]
    pairs: tuple[tuple[tuple[int, int], ...], ...] = eqx.field(static=True)

    @property
    def moved(self) -> int:
        """Rows that cross between devices in one exchange, all devices together."""
        return sum(rows.shape[1] * len(pairs) for rows, pairs in zip(self.rows, self.pairs, strict=True))

    def heard(self, tree: Any, axis: str | None) -> Any:
        """This device's rows `[b, ...]` → [own | received]; `axis` None, of a trace without devices, changes nothing."""
        if axis is None:
            return tree
        leaves, structure = jax.tree.flatten(tree)
        parts = [[leaf] for leaf in leaves]
        for rows, pairs in zip(self.rows, self.pairs, strict=True):
            sent = [leaf[rows[0]] for leaf in leaves]
            for part, came in zip(parts, _permuted(sent, axis, pairs), strict=True):
                part.append(came)
        return jax.tree.unflatten(structure, [jnp.concatenate(part) for part in parts])


def plan(neighbours: np.ndarray, devices: int) -> tuple[np.ndarray, Route] | None:
    """(`neighbours [n, slots]` as the route numbers them, the route) of agents in `devices` blocks of equal size.

    None where gathering everybody's messages moves no more: over more than two devices, if the union of all graphs of a schedule is
    dense.
    """
    n = len(neighbours)
    size = n // devices
    distance = (neighbours // size - np.arange(n)[:, None] // size) % devices
    places = np.where(distance == 0, neighbours % size, 0)
    rows, pairs, base = [], [], size
    for hop in range(1, devices):
        blocks = zip(np.split(neighbours % size, devices), np.split(distance, devices), strict=True)
        wanted = [np.unique(row[far == hop]) for row, far in blocks]  # by each block, of the one at this distance
        longest = max(map(len, wanted))
        if not longest:
            continue
        table = np.zeros((devices, longest), np.int32)
        for r, rows_of in enumerate(wanted):
            table[(r + hop) % devices, : len(rows_of)] = rows_of
            mine = slice(r * size, (r + 1) * size)
            came = base + np.searchsorted(rows_of, neighbours[mine] % size)
            places[mine] = np.where(distance[mine] == hop, came, places[mine])
        rows.append(jnp.asarray(table))
        pairs.append(tuple(((r + hop) % devices, r) for r in range(devices) if len(wanted[r])))
        base += longest
    if base == n and len(rows) > 1:
        return None
    return places, Route(tuple(rows), tuple(pairs))


def _permuted(leaves: list[Array], axis: str, pairs) -> list[Array]:
    """Each `[m, ...]` of `leaves` as it came; those of one dtype travel together, as one message."""
    came: list[Any] = [None] * len(leaves)
    for dtype in dict.fromkeys(leaf.dtype for leaf in leaves):
        places = [i for i, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat = [leaves[i].reshape(leaves[i].shape[0], -1) for i in places]
        moved = jax.lax.ppermute(jnp.concatenate(flat, axis=1), axis, pairs)
        ends = np.cumsum([part.shape[1] for part in flat])[:-1]
        for i, part in zip(places, jnp.split(moved, ends, axis=1), strict=True):
            came[i] = part.reshape(leaves[i].shape)
    return came
