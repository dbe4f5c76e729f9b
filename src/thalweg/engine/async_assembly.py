"""The program of peers without rounds, put together from what a user chose: for `solve`, and for a site, which cuts its row out."""

import dataclasses

import jax
import numpy as np

from thalweg.algorithm.asynchronous.base import AsynchronousAlgorithm
from thalweg.algorithm.base import Facts
from thalweg.algorithm.step import traced
from thalweg.message.stage import Identity
from thalweg.network import Failures, Network
from thalweg.problem import Problem

from .async_peers import AsyncPeers
from .peer_kinds import OneAnswer, kind_of
from .refusals_events import check_network
from .world import make_setting, make_world


@dataclasses.dataclass(frozen=True)
class AsyncAssembled:
    """A program with what was found on the way: `algorithm` is resolved, as the user reads it."""

    program: AsyncPeers
    kind: OneAnswer
    algorithm: AsynchronousAlgorithm
    facts: Facts


def assemble_asynchronous(
    problem: Problem, algorithm: AsynchronousAlgorithm, network: Network, *, ids: np.ndarray, seed: int, places: int = 0
) -> AsyncAssembled:
    """The program of all agents, with `places` for messages under way.

    Raises:
        TypeError, ValueError: an impossible combination.
    """
    check_network(algorithm, network)
    kind = kind_of(problem, algorithm)
    assert isinstance(kind, OneAnswer)
    facts = kind.facts(algorithm, network)
    algorithm = algorithm.resolve(facts)
    program = AsyncPeers(
        problem=kind.problem,
        algorithm=traced(algorithm, problem.dtype),
        link=Identity(),
        mixer=None,
        adversary=None,
        world=make_world(network, problem.dtype, ids, frozenset(), fast=False),
        setting=make_setting(dataclasses.replace(network, failures=Failures()), ids),  # what is lost is in the order of events
        key=jax.random.key_data(jax.random.key(seed)),
        places=places,
        gauge=kind.gauge,
    )
    return AsyncAssembled(program, kind, algorithm, facts)
