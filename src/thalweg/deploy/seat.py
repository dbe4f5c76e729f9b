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
from thalweg.algorithm.step import PerAgent, localise, traced
from thalweg.engine import refusals
from thalweg.engine.combining import weight_kinds
from thalweg.engine.peer_kinds import kind_of
from thalweg.engine.peers import Peers
from thalweg.engine.refusals_message import check_link, check_mixer, link_facts
from thalweg.engine.world import World, make_setting, make_world
from thalweg.message.aggregate import Mixer
from thalweg.message.stage import Identity, Stage
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
            own["push"] = own["push"] + sum((jnp.sum(row, axis=-1) for row in given), jnp.zeros(()))
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
) -> Seat:
    """The seat of the agent at `place`; `problem` is that of all, with its piece alone.

    Raises:
        TypeError, ValueError: as `thalweg.solve`, before anything runs.
    """
    n, ids = problem.n, np.arange(problem.n)
    refusals.check_network(algorithm, network)
    check_link(link, network)
    check_mixer(algorithm, n, mixer, None, int(network.facts.min_degree))
    kind = kind_of(problem, algorithm)
    facts = dataclasses.replace(kind.facts(algorithm, network), **link_facts(link, problem.x0))
    if facts.local_smoothness is not None:
        algorithm = localise(algorithm, facts.local_smoothness)
    algorithm = algorithm.resolve(facts)
    full = make_world(network, problem.dtype, ids, weight_kinds(algorithm.combine), fast=False)
    slots = network.slots()
    mask = np.asarray(slots.mask)
    receiver, slot = np.nonzero((np.asarray(slots.neighbours) == place) & mask)
    heard = np.where(mask[place], np.asarray(slots.neighbours)[place], -1)
    mine = {j: s for s, j in enumerate(heard.tolist()) if j >= 0}
    program = Peers(
        problem=kind.problem,
        algorithm=traced(_own(algorithm, place), problem.dtype),
        link=Identity() if link is None else link,
        mixer=None if mixer is None else traced(mixer, problem.dtype),
        adversary=None,
        world=_row(full, place),
        setting=make_setting(network, ids),
        key=jax.random.key_data(jax.random.key(seed)),
        gauge=kind.gauge,
    )
    return Seat(
        place=place,
        program=program,
        heard=heard,
        hearing=receiver,
        slot_of=np.array([mine.get(j, 0) for j in receiver.tolist()], int),
        outward=_slots_of(full, receiver, slot),
        algorithm=algorithm,
        said=tuple(refusals.step_warnings(algorithm, facts, network)),
    )


def _own(algorithm: PeerAlgorithm, place: int) -> PeerAlgorithm:
    """With the hyper-parameters of this agent."""
    is_each = lambda leaf: isinstance(leaf, PerAgent)
    pick = lambda leaf: jax.tree.map(lambda values: np.asarray(values)[place : place + 1], leaf) if is_each(leaf) else leaf
    return jax.tree.map(pick, algorithm, is_leaf=is_each)


def _row(world: World, place: int) -> World:
    """The agent's row, whose neighbours are the rows of what a round brings."""
    row = jax.tree.map(lambda leaf: leaf[place : place + 1], world)
    slots = jnp.arange(1, world.mask.shape[1] + 1, dtype=jnp.int32)[None]
    return dataclasses.replace(row, neighbours=jnp.where(row.mask, slots, 0), reverse=jnp.zeros_like(row.reverse))


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
