"""A peer's seat: the program of one agent, cut out of that of all.

The program is the one that simulates everybody, with one row: this agent. In its neighbour slots stand row numbers of what a round
brings: row 0 is the agent itself, row s + 1 is whoever sits in slot s. So a round is the simulated one, cut where messages travel.

Axes: `n` sites, `D` slots, `o` sites that hear this one.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg.algorithm.base import PeerAlgorithm
from thalweg.engine.assembly import assemble
from thalweg.engine.peers import Peers
from thalweg.engine.world import World
from thalweg.message.aggregate import Mixer
from thalweg.message.stage import Stage
from thalweg.network import Network
from thalweg.problem.scattered import Scattered


@dataclasses.dataclass(frozen=True)
class Seat:
    """One agent among n.

    Attributes:
        place: its position; program: its program.
        heard: `[D]`, the site in each slot, −1 where there is none; hearing: `[o]`, the sites that hear it.
        slot_of: `[o]`, in which of its own slots they are (of messages that differ between neighbours).
        outward: of those that hear it, the slot in which it is.
        algorithm: resolved, hyper-parameters as the user reads them.
        said: warnings.
    """

    place: int
    program: Peers
    heard: np.ndarray
    hearing: np.ndarray
    slot_of: np.ndarray
    outward: World
    algorithm: PeerAlgorithm
    said: tuple[str, ...]

    def renewed(self, secret: Any) -> "Seat":
        """With another key of what nobody else may know."""
        return dataclasses.replace(self, program=dataclasses.replace(self.program, secret=secret))

    def with_members(self, members: frozenset[int]) -> Peers:
        """The program where only these sites take part: the weight of the others returns to oneself."""
        here = np.array([j in members for j in self.heard])[None]
        world = self.program.world
        missing = world.mask & ~jnp.asarray(here)
        weights, own = {}, {}
        for kind, row in world.weights.items():
            gone = missing[:, None] if kind != "push" else jnp.zeros_like(missing)[:, None]
            lost = jnp.sum(jnp.where(gone, row, 0), axis=-1)
            weights[kind], own[kind] = jnp.where(missing[:, None], 0, row), world.self_weights[kind] + lost
        if "push" in own:  # the sender's weights: what it would have given to the missing stays with it
            given = [self.outward.weights["push"][i] for i, j in enumerate(self.hearing) if j not in members]
            kept = sum((jnp.sum(row, axis=-1) for row in given), jnp.zeros_like(own["push"][0]))
            own["push"] = own["push"] + kept[None]
        out = sum(int(j) in members for j in self.hearing)
        changed = dataclasses.replace(
            world,
            mask=world.mask & ~missing,
            active=world.active & ~missing[:, None],
            degree=world.degree - jnp.sum(missing, axis=1, dtype=jnp.int32),
            out_degree=jnp.minimum(world.out_degree, out),
            weights=weights,
            self_weights=own,
        )
        return eqx.tree_at(lambda p: p.world, self.program, changed)


def take_seat(
    problem: Scattered,
    algorithm: PeerAlgorithm,
    network: Network,
    place: int,
    *,
    seed: int,
    link: Stage | None = None,
    mixer: Mixer | None = None,
    secret: Any = None,
) -> Seat:
    """The seat of the agent at `place`; `problem` is that of all, with its piece alone. `secret`: the key of what nobody else may
    know, None for the simulation's.

    Raises:
        TypeError, ValueError: as `thalweg.solve`, before anything runs.
    """
    ids = np.arange(problem.n)
    found = assemble(
        problem, algorithm, network, ids=ids, seed=seed, link=link, mixer=mixer, adversary=None, fast=False
    )  # fmt: skip
    full = found.program.world
    slots = network.slots()
    mask = np.asarray(slots.mask)
    receiver, slot = np.nonzero((np.asarray(slots.neighbours) == place) & mask)
    heard = np.where(mask[place], np.asarray(slots.neighbours)[place], -1)
    mine = {j: s for s, j in enumerate(heard.tolist()) if j >= 0}
    return Seat(
        place=place,
        program=dataclasses.replace(alone(found.program, place), secret=secret),
        heard=heard,
        hearing=receiver,
        slot_of=np.array([mine.get(j, 0) for j in receiver.tolist()], int),
        outward=_slots_of(full, receiver, slot),
        algorithm=found.algorithm,
        said=tuple(found.said),
    )


def alone(program: Any, place: int) -> Any:
    """One agent's row of the program, whose neighbours are the rows of what a round brings. Its piece is a single row already."""
    agents = program.belongs_to_agents()
    agents = eqx.tree_at(lambda m: m.problem.pieces, agents, jax.tree.map(lambda _: False, program.problem.pieces))
    row = jax.tree.map(lambda leaf, each: leaf[place : place + 1] if each else leaf, program, agents)
    slots = jnp.arange(1, row.world.mask.shape[1] + 1, dtype=jnp.int32)[None]
    heard = jnp.where(row.world.mask, slots, 0), jnp.zeros_like(row.world.reverse)
    return eqx.tree_at(lambda p: (p.world.neighbours, p.world.reverse), row, heard)


def _slots_of(world: World, receivers: np.ndarray, slots: np.ndarray) -> World:
    """Of some agents one slot each: what the schedule says of it."""
    rows: Any = jax.tree.map(lambda leaf: leaf[receivers], world)
    pick = lambda leaf, axis: jnp.take_along_axis(leaf, jnp.asarray(slots).reshape(-1, *(1,) * (leaf.ndim - 1)), axis=axis)
    return dataclasses.replace(
        rows,
        neighbours=pick(rows.neighbours, 1),
        neighbour_ids=pick(rows.neighbour_ids, 1),
        reverse=pick(rows.reverse, 1),
        mask=pick(rows.mask, 1),
        active=pick(rows.active, 2),
        weights={kind: pick(leaf, 2) for kind, leaf in rows.weights.items()},
    )
