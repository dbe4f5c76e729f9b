"""Unequal devices, and how a server waits for them.

Axes: `n` devices.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .availability import Availability

# The same for all devices, or one for each.
Values = float | Sequence[float] | np.ndarray | Array


class Fleet(eqx.Module):
    """The devices of n clients, and the pace of a round.

    A client's round takes (bytes received)/download + (local steps)·seconds_per_step + (bytes sent)/upload. Fields are
    numbers, the same for all, or arrays `[n]`.

    Args:
        seconds_per_step: of one local step.
        download, upload: bytes per second.
        dropout: probability that a client that was drawn does not answer, independently in every round. As it is known,
            estimates divide by 1 − dropout and stay unbiased.
        availability: when devices can be reached (`tw.fleet.intervals`, `daily`, `read_intervals`); at all times when None.
        deadline: seconds after which the server waits no longer.
        accept: with a fraction of the cohort's answers the round ends (over-selection: draw 1.3 times as many clients as
            are needed and accept 1/1.3 of them); None waits for all.
        partial_work: clients do as many local steps as fit before the deadline, and send what they have.

    Where it depends on a device's speed or habits whether it answers (a deadline, `accept`, availability), no probability
    is known: means are taken over those that answered, and the result says that they are biased towards them.
    """

    seconds_per_step: Float[Array, " n"]
    download: Float[Array, " n"]
    upload: Float[Array, " n"]
    dropout: Float[Array, " n"]
    availability: Availability | None
    deadline: Float[Array, ""]
    accept: Float[Array, ""] | None
    partial_work: bool = eqx.field(static=True)
    selective: bool = eqx.field(static=True)

    def __init__(
        self,
        n: int,
        *,
        seconds_per_step: Values = 0.0,
        download: Values = np.inf,
        upload: Values = np.inf,
        dropout: Values = 0.0,
        availability: Availability | None = None,
        deadline: float = np.inf,
        accept: float | None = None,
        partial_work: bool = False,
    ):
        def vector(name, value, low, high):
            array = np.asarray(value, float)
            if array.shape not in ((), (n,)):
                raise ValueError(f"Fleet {name}: got shape {array.shape}, expected a number or one for each of {n} devices")
            if not ((array >= low) & (array <= high)).all():
                raise ValueError(
                    f"Fleet {name}: got values from {array.min():g} to {array.max():g}, expected {low:g} to {high:g}"
                )
            return jnp.asarray(np.broadcast_to(array, (n,)), jnp.float32)

        self.seconds_per_step = vector("seconds_per_step", seconds_per_step, 0, 1e12)
        self.download, self.upload = vector("download", download, 1e-9, np.inf), vector("upload", upload, 1e-9, np.inf)
        self.dropout = vector("dropout", dropout, 0, 0.999)
        if availability is not None and availability.start.shape[0] != n:
            raise ValueError(f"Fleet availability: got {availability.start.shape[0]} devices, expected {n}")
        if not deadline > 0:
            raise ValueError(f"Fleet deadline: got {deadline!r} s, expected a positive number")
        if accept is not None and not 0 < accept <= 1:
            raise ValueError(f"Fleet accept: got {accept!r}, expected a fraction of the cohort in (0, 1], or None")
        if partial_work and not np.isfinite(deadline):
            raise ValueError("Fleet partial_work=True: expected a deadline, which is what limits the work")
        self.availability, self.partial_work = availability, bool(partial_work)
        self.deadline = jnp.asarray(deadline, jnp.float32)
        self.accept = None if accept is None else jnp.asarray(accept, jnp.float32)
        self.selective = bool(np.isfinite(deadline)) or accept is not None or availability is not None

    @property
    def n(self) -> int:
        """Number of devices."""
        return self.dropout.shape[0]

    def seconds(self, steps: Any, down: int, up: int) -> np.ndarray:
        """`[n]` how long a round of `steps` local steps (a number, or `[n]`) takes, with messages of so many bytes."""
        download, step, upload = (np.asarray(a, float) for a in (self.download, self.seconds_per_step, self.upload))
        return down / download + steps * step + up / upload
