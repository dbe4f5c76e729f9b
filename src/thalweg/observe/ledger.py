"""What a run cost: messages, payload bytes, time."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Ledger:
    """Communication and time of a run.

    Attributes:
        messages: `[n]` messages that each agent put on its links, lost ones included; one per link and round.
        message_bytes: payload of one message (all phases of a round together), from shapes.
        header_bytes: fixed-size headers of one message (round, epoch, sequence, stop flags; one per phase), counted apart.
        report_bytes: what the agents reported to the experiment (`report=`), all together.
        seconds: wall-clock time of the rounds, compilation apart.
        compile_seconds: time of the first call, which compiles; NaN of sites, whose seconds have it, and waiting, in them.
        epsilon, delta: of a run with a privacy budget: ε spent at each record of the history `[records]`, at this δ; else None.
        received, received_bytes: of a server's clients: messages received `[n]`, and the payload of one; else None and 0.
    """

    messages: np.ndarray
    message_bytes: int
    header_bytes: int
    report_bytes: int
    seconds: float
    compile_seconds: float
    received: np.ndarray | None = None
    received_bytes: int = 0
    epsilon: np.ndarray | None = None
    delta: float | None = None

    @property
    def bytes(self) -> np.ndarray:
        """`[n]` payload bytes that each agent sent."""
        return self.messages * self.message_bytes

    @property
    def header(self) -> np.ndarray:
        """`[n]` header bytes that each agent sent."""
        return self.messages * self.header_bytes


def human_bytes(count: float) -> str:
    """1536 → "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
