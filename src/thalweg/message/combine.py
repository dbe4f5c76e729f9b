"""Combine rules: what becomes of the messages that reach an agent.

An algorithm states one rule per field of its message. The engine evaluates them over padded neighbour slots, in
order of agent id, so that every engine adds the same numbers in the same order.
"""

from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool, Int


class Combine(eqx.Module):
    """A rule that turns what arrived for one field of a message into what `receive` sees in its inbox."""


class Mix(Combine):
    """Σ_j w_ij m_j over neighbours and oneself, with the network's mixing weights.

    The weight of a message that does not arrive goes to one's own message, so that rows of W_k still sum to one.
    """


class Pull(Combine):
    """Σ_j a_ij m_j with row-stochastic weights A, which a receiver can choose alone on a directed graph."""


class Push(Combine):
    """Σ_j b_ij m_j with column-stochastic weights B, applied by the sender.

    Under loss the sender keeps one running sum per out-edge and the receiver takes differences, so that mass is
    delayed and never lost.
    """


class Sum(Combine):
    """Σ_j m_j over the neighbours whose message arrived, unweighted, oneself excluded. Arrives as `Summed`.

    Server: Σ_i w_i m_i over the clients whose message arrived, for contributions that the server accumulates.
    """


class Neighbours(Combine):
    """The stack of the neighbours' newest messages, `[max_degree, ...]` with a mask. Arrives as `Stack`."""


class Edges(Combine):
    """A different message for each neighbour: the sender's field has a leading slot axis `[max_degree, ...]`.

    The engine routes what i wrote for j into j's slot for i. Arrives as `Stack`; a slot keeps its newest message.
    """


class Mean(Combine):
    """Server: an estimate of Σ_i w_i m_i over the population, from those whose message arrived (weights sum to one)."""


class Clients(Combine):
    """Server: what each client sent, in a row of its own. Arrives as `Stack`: `[n, ...]`, zeros where nothing arrived."""


class PerClient(eqx.Module):
    """In a broadcast: `values [n, ...]`, of which each client receives its own entry alone."""

    values: Any


class Rows(Combine):
    """Server: Σ over those that arrived, row by row, in order of id. A message `[r]` has the rows that its sender touches."""


class PerRow(eqx.Module):
    """In a broadcast: `values [m, ...]`, of which each client receives the entries of the rows that it touches, `[r, ...]`."""

    values: Any


class Summed(NamedTuple):
    """What `Sum` puts into the inbox: `total` like one message, `count` of messages that arrived."""

    total: Any
    count: Int[Array, ""]


class Stack(NamedTuple):
    """What `Neighbours` and `Edges` put into the inbox.

    `values` has a leading slot axis `[max_degree, ...]`; `mask [max_degree]` is true where a message has ever arrived;
    `fresh [max_degree]` is true where one arrived in this round.
    """

    values: Any
    mask: Bool[Array, " slots"]
    fresh: Bool[Array, " slots"]
