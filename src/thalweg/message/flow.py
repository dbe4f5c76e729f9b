"""What is known of a message on its way to the wire, whatever the data were; it travels with the composition of stages.

A stage says in `after` what it makes of what came before, and refuses an order in which it would be unsound. So a pipeline is
checked when it is built, not when it is run.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """Noise that was added to hide one agent, or one example.

    Attributes:
        kind: its law.
        noise_multiplier: standard deviation (Laplace: scale) of the noise in units of the bound it hides.
        bound: the norm (l2; of Laplace noise l1) that one message could have; noise has `noise_multiplier * bound`.
    """

    kind: Literal["gaussian", "discrete_gaussian", "laplace"]
    noise_multiplier: float
    bound: float


@dataclasses.dataclass(frozen=True)
class Flow:
    """Facts about a message.

    Attributes:
        norm: ‖message‖₂ ≤ norm, None where nothing bounds it.
        norm_1: the same in the l1 norm.
        noise: what was added to it for privacy, first to last.
        unbiased: E[what is sent | the message] = the message.
        linear: sums may be taken on the wire, decode(Σ wire) = Σ decode(wire).
        fixed: what is sent is a function of the message alone, coordinate by coordinate: no choice of coordinates, no memory.
        memory: stages that carry what they left out into later messages.
        packed: its floats are scales of packed numbers, or of another basis: nothing that could be compressed once more.
        replicated: receivers keep a copy of the sender's last message, and changes of it are sent.
    """

    norm: float | None = None
    norm_1: float | None = None
    noise: tuple[Mechanism, ...] = ()
    unbiased: bool = True
    linear: bool = True
    fixed: bool = True
    memory: bool = False
    packed: bool = False
    replicated: bool = False

    def but(self, **changes) -> "Flow":
        """The same facts with some of them changed."""
        return dataclasses.replace(self, **changes)
