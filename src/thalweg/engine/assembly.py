"""The program of peers, put together from what a user chose: for `solve`, which runs it, and for a site, which cuts its row out."""

import dataclasses

import jax
import numpy as np

from thalweg.adversary import Adversary
from thalweg.algorithm.base import Facts, PeerAlgorithm
from thalweg.algorithm.step import localise, traced
from thalweg.message.aggregate import Mixer
from thalweg.message.stage import Identity, Stage
from thalweg.network import Network
from thalweg.problem import Coupled, Problem

from . import refusals
from .combining import weight_kinds
from .peer_kinds import Kind, kind_of
from .peers import Peers
from .refusals_message import check_link, check_mixer, link_facts
from .world import make_setting, make_world


@dataclasses.dataclass(frozen=True)
class Assembled:
    """A program with what was found on the way: `algorithm` is resolved, as the user reads it; `said` are warnings."""

    program: Peers
    kind: Kind
    algorithm: PeerAlgorithm
    facts: Facts
    said: list[str]


def assemble(
    problem: Problem | Coupled,
    algorithm: PeerAlgorithm,
    network: Network,
    *,
    ids: np.ndarray,
    seed: int,
    link: Stage | None,
    mixer: Mixer | None,
    adversary: Adversary | None,
    fast: bool,
) -> Assembled:
    """The program of all agents. `fast`: weights of many neighbours may become one dense matrix.

    Raises:
        TypeError, ValueError: an impossible combination.
    """
    refusals.check_network(algorithm, network)
    check_link(link, network)
    check_mixer(algorithm, problem.n, mixer, adversary, int(network.facts.min_degree))
    kind = kind_of(problem, algorithm)
    facts = dataclasses.replace(kind.facts(algorithm, network), **link_facts(link, problem.x0))
    if facts.local_smoothness is not None:
        algorithm = localise(algorithm, facts.local_smoothness)
    algorithm = algorithm.resolve(facts)
    dtype = problem.dtype
    program = Peers(
        problem=kind.problem,
        algorithm=traced(algorithm, dtype),
        link=Identity() if link is None else link,
        mixer=None if mixer is None else traced(mixer, dtype),
        adversary=None if adversary is None else traced(adversary, dtype),
        world=make_world(network, dtype, ids, weight_kinds(algorithm.combine), fast),
        setting=make_setting(network, ids),
        key=jax.random.key_data(jax.random.key(seed)),
        gauge=kind.gauge,
    )
    return Assembled(program, kind, algorithm, facts, refusals.step_warnings(algorithm, facts, network))
