"""What compressors of whole messages have in common.

Axes: `d` numbers of a message.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from thalweg.message.flow import Flow
from thalweg.message.stage import Stage

from .layout import Layout


class Compressor(Stage):
    """A stage without memory that packs all floating leaves of a message, joined as one vector; other leaves pass through.

    Of a vector m `[d]`, with the expectation over the stage's own randomness:

        contraction   E‖C(m) − m‖² ≤ (1 − δ)‖m‖²
        variance      E C(m) = m and E‖C(m) − m‖² ≤ ω‖m‖², of unbiased ones
    """

    @abc.abstractmethod
    def pack(self, vector: Float[Array, " d"], key: PRNGKeyArray) -> dict[str, Array]:
        """What travels."""

    @abc.abstractmethod
    def unpack(self, packed: dict[str, Array], like: jax.ShapeDtypeStruct) -> Float[Array, " d"]:
        """The vector, of the shape and type of `like`."""

    def init(self, spec: Any) -> Any:
        return ()

    def encode(self, state: Any, message: Any, key: PRNGKeyArray) -> tuple[Any, Any, Any]:
        layout = Layout.of(message)
        vector, others = layout.join(message)
        if not layout.size:
            return state, {"packed": {}, "others": others}, message
        packed = self.pack(vector, key)
        return state, {"packed": packed, "others": others}, layout.part(self.unpack(packed, layout.vector), others)

    def decode(self, wire: Any, spec: Any) -> Any:
        layout, wire = Layout.of(spec), jax.tree.map(jnp.asarray, wire)
        vector = self.unpack(wire["packed"], layout.vector) if layout.size else layout.join(spec)[0]
        return layout.part(vector, wire["others"])


def compressed(name: str, flow: Flow, **changes: Any) -> Flow:
    """`flow` behind a compressor.

    Raises:
        ValueError: nothing is left to compress, or receivers add up what follows.
    """
    if flow.packed:
        raise ValueError(
            f"{name}: got a message that is packed already, expected numbers; put it before the stage that packs, as in "
            "chain(top_k(0.01), quantise(8))"
        )
    return flow.but(**{"unbiased": False, "linear": False, "fixed": False} | changes)


def checked_fraction(name: str, fraction: float) -> None:
    """A part of a message.

    Raises:
        ValueError: it is none.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"{name}: got {fraction!r}, expected a number in (0, 1], the part that is sent")


def norms(flow: Flow, factor: float) -> dict[str, float | None]:
    """The bounds of `flow`, each `factor` times as large."""
    return {
        "norm": None if flow.norm is None else flow.norm * factor,
        "norm_1": None if flow.norm_1 is None else flow.norm_1 * factor,
    }
