"""Padded neighbour slots: the form in which every engine reads a network."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from thalweg.network.graph import arcs_of
from thalweg.network.schedule import Gossip

if TYPE_CHECKING:
    from thalweg.network.network import Network

LARGEST = 5e8


@dataclass(frozen=True, eq=False)
class Slots:
    """Agent i's in-neighbours over the union of all phases, sorted by id, padded to D = max(1, largest in-degree).

    Axes: `n` agents, `D` slots, `P` phases of the schedule (1 unless `Periodic` or `RandomPhase`). Weights are 0 in
    padding and in slots that a phase does not use.
    """

    neighbours: np.ndarray
    """int32 [n, D]: the id in each slot; padding holds the agent's own id."""
    mask: np.ndarray
    """bool [n, D]: False in padding."""
    reverse: np.ndarray
    """int32 [n, D]: the slot of i in the list of neighbours[i, s]; -1 where that one does not hear i; 0 in padding."""
    mixing: np.ndarray
    """float64 [P, n, D]: W[i, neighbours[i, s]]; zeros unless `has_mixing`."""
    mixing_self: np.ndarray
    """float64 [P, n]: W[i, i]."""
    pull: np.ndarray
    """float64 [P, n, D]: row-stochastic weight that i gives to each slot."""
    pull_self: np.ndarray
    """float64 [P, n]."""
    push: np.ndarray
    """float64 [P, n, D]: column-stochastic weight that the *sender* neighbours[i, s] applies for i."""
    push_self: np.ndarray
    """float64 [P, n]: the share that i keeps."""
    active: np.ndarray
    """bool [P, n, D]: slots used in the phase."""
    out_degree: np.ndarray
    """int32 [P, n]: how many agents hear i in the phase."""
    has_mixing: bool
    """Whether doubly stochastic weights exist in every phase."""

    @property
    def degree(self) -> np.ndarray:
        """int32 [n]: in-neighbours over all phases."""
        return self.mask.sum(axis=1, dtype=np.int32)

    def matrix(self, weights: np.ndarray, own: np.ndarray) -> np.ndarray:
        """The dense [n, n] matrix of one phase's slot weights [n, D] and own weights [n]; for tests and small networks."""
        n = len(own)
        dense = np.diag(np.asarray(own, float))
        receiver = np.broadcast_to(np.arange(n)[:, None], self.mask.shape)
        dense[receiver[self.mask], self.neighbours[self.mask]] = weights[self.mask]
        return dense


def build_slots(network: Network) -> Slots:
    """The slots of a network.

    **Raises** `ValueError` if P·n·D > 5·10⁸: one agent with very many neighbours pads everybody.
    """
    n, phases = network.n, network.phases
    arcs = arcs_of(network.edges, n, network.directed)
    sender, receiver = arcs[:, 0], arcs[:, 1]
    degree = np.bincount(receiver, minlength=n)
    width = max(1, int(degree.max()))
    if len(phases) * n * width > LARGEST:
        raise ValueError(
            f"padded slots of {network.name} would need {len(phases)} × {n} × {width} entries, more than {LARGEST:.0e}: agent "
            f"{int(degree.argmax())} hears {width} others. Use a network of bounded degree, or a server algorithm for a star."
        )
    start = np.concatenate([[0], np.cumsum(degree)[:-1]])
    slot = np.arange(len(arcs)) - start[receiver]

    neighbours = np.repeat(np.arange(n, dtype=np.int32)[:, None], width, axis=1)
    neighbours[receiver, slot] = sender
    mask = np.zeros((n, width), bool)
    mask[receiver, slot] = True
    reverse = np.zeros((n, width), np.int32)
    reverse[receiver, slot] = _reverse_slots(sender, receiver, slot, n)

    def spread(matrices: list[csr_array]) -> tuple[np.ndarray, np.ndarray]:
        weights = np.zeros((len(matrices), n, width))
        for phase, matrix in enumerate(matrices):
            if len(arcs):
                weights[phase, receiver, slot] = np.asarray(matrix[receiver, sender]).ravel()
        return weights, np.stack([matrix.diagonal() for matrix in matrices])

    active = np.zeros((len(phases), n, width), bool)
    out_degree = np.zeros((len(phases), n), np.int32)
    for k, phase in enumerate(phases):
        used = arcs_of(phase.edges, n, phase.directed)
        active[k, receiver, slot] = np.isin(receiver * n + sender, used[:, 1] * n + used[:, 0])
        out_degree[k] = np.bincount(used[:, 0], minlength=n)

    if isinstance(network.schedule, Gossip):
        halves, own = np.where(mask, 0.5, 0.0)[None], np.full((1, n), 0.5)
        mixing = pull = push = (halves, own)
    else:
        zero = csr_array((n, n))
        mixing = spread([zero if phase.mixing is None else phase.mixing for phase in phases])
        pull = spread([phase.pull for phase in phases])
        push = spread([phase.push for phase in phases])
    slots = Slots(
        neighbours, mask, reverse, *mixing, *pull, *push, active, out_degree,
        has_mixing=all(phase.mixing is not None for phase in phases),
    )  # fmt: skip
    for array in (getattr(slots, field.name) for field in fields(slots)):
        if isinstance(array, np.ndarray):
            array.setflags(write=False)
    return slots


def _reverse_slots(sender: np.ndarray, receiver: np.ndarray, slot: np.ndarray, n: int) -> np.ndarray:
    keys = receiver * n + sender  # ascending, because arcs are sorted by (receiver, sender)
    wanted = sender * n + receiver
    at = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
    return np.where(keys[at] == wanted, slot[at], -1) if len(keys) else np.zeros(0, np.int64)
