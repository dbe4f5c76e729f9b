"""Graphs that look alike from every agent: ring and exponential graphs, directed or not."""

from typing import Any

import numpy as np

from thalweg.network import _checks
from thalweg.network.network import Network
from thalweg.network.scheduled import periodic


def ring(n: int, directed: bool = False, *, weights: Any = None) -> Network:
    """A circle. Undirected with Metropolis weights 1/3 (n >= 3): sigma = 1/3 + (2/3) cos(2π/n).

    Directed: agent i + 1 hears agent i, with weights 1/2, which are doubly stochastic. ring(2) is one edge.
    """
    n = _checks.integer("n", n, 1)
    name = f"ring({n}, directed=True)" if directed else f"ring({n})"
    return _circulant(n, [1], directed, name, weights)


def exponential(n: int, *, weights: Any = None) -> Network:
    """The static exponential graph: agent i sends to i + 1, i + 2, i + 4, … modulo n; directed.

    Uniform weights 1/(1 + ⌈log₂ n⌉) are doubly stochastic, and sigma = 1 - 2/(1 + log₂ n) for n a power of two.
    Ying, Yuan, Chen et al., *Exponential graph is provably efficient for decentralized deep training*, 2021.
    """
    n = _checks.integer("n", n, 1)
    return _circulant(n, _powers(n), True, f"exponential({n})", weights)


def one_peer_exponential(n: int) -> Network:
    """In round k every agent sends to the one agent 2^(k mod ⌈log₂ n⌉) ahead, and both keep half; periodic and directed.

    If n is a power of two, ⌈log₂ n⌉ rounds average *exactly*: the product of the phases is J.
    Assran, Loizou, Ballas and Rabbat, *Stochastic gradient push*, 2019; Ying et al. 2021.
    """
    n = _checks.integer("n", n, 1)
    phases = [_circulant(n, [ahead], True, f"ahead({ahead})", None, phase=True) for ahead in _powers(n) or [0]]
    union = periodic(phases)
    return Network(
        n, union.edges, True, f"one_peer_exponential({n})", union.weights, union.mixing, union.pull, union.push,
        union.positions, union.schedule,
    )  # fmt: skip


def _powers(n: int) -> list[int]:
    """1, 2, 4, … below n."""
    return [1 << k for k in range((n - 1).bit_length())]


def _circulant(n: int, offsets: list[int], directed: bool, name: str, weights: Any, phase: bool = False) -> Network:
    ids = np.arange(n)
    arcs = np.concatenate([np.zeros((0, 2), np.int64), *(np.stack([ids, (ids + ahead) % n], axis=1) for ahead in offsets)])
    angle = 2 * np.pi * ids / n
    positions = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return Network(n, arcs, directed, name, weights, positions=positions, allow_disconnected=phase)
