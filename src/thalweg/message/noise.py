"""Noise that every agent adds to its own messages: local differential privacy.

Who receives them learns little of one message, however much it knows. Where the receiver may be trusted with the messages and only
their mean is to be private, `noisy_mean` needs far less noise; with `secure_sum` nobody need be trusted.
"""

import abc
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp

from .flow import Mechanism
from .stage import Stage


class Noise(Stage):
    """m ← m + noise of scale `scale` in every coordinate, drawn from the secret stream."""

    scale: eqx.AbstractVar[float]
    kind: ClassVar[Literal["gaussian", "laplace"]]

    @abc.abstractmethod
    def sample(self, key, shape, dtype):
        """Noise of scale one."""

    def after(self, flow):
        bound, which, order = (flow.norm, "", 2) if self.kind == "gaussian" else (flow.norm_1, " in the l1 norm", 1)
        if flow.replicated or flow.memory:
            raise ValueError(
                f"{self.kind} noise: a stage before it has a memory, or sends changes of what was sent, so the noise of one round "
                "does not hide one message; add noise to the message itself, first clip, then noise, then compress"
            )
        if bound is None:
            raise ValueError(
                f"{self.kind} noise before clipping hides nothing that is known: nothing bounds a message{which}; put a "
                f"tw.message.clip(C{', order=1' if order == 1 else ''}) before it in the chain"
            )
        found = Mechanism(self.kind, self.scale / bound, bound)
        return flow.but(norm=None, norm_1=None, noise=(*flow.noise, found))

    def init(self, spec):
        return ()

    def encode(self, state, message, key):
        leaves, structure = jax.tree.flatten(message)
        for leaf in leaves:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise TypeError(
                    f"{self.kind} noise: got a message with numbers of type {leaf.dtype}, which would leave as they are"
                )
        keys = jax.random.split(key, len(leaves))
        noisy = [
            leaf + jnp.asarray(self.scale, leaf.dtype) * self.sample(k, leaf.shape, leaf.dtype)
            for leaf, k in zip(leaves, keys, strict=True)
        ]
        sent = structure.unflatten(noisy)
        return state, sent, sent

    def decode(self, wire, spec):
        return wire


class Gaussian(Noise):
    """m ← m + N(0, σ²I); σ is `scale`. With ‖m‖₂ ≤ C before it, the noise multiplier of one message is σ/C."""

    scale: float = eqx.field(static=True)
    kind: ClassVar[Literal["gaussian", "laplace"]] = "gaussian"

    def sample(self, key, shape, dtype):
        return jax.random.normal(key, shape, dtype)


class Laplace(Noise):
    """m ← m + independent Laplace noise of scale b in every coordinate; with ‖m‖₁ ≤ C before it, ε = 2C/b for one message."""

    scale: float = eqx.field(static=True)
    kind: ClassVar[Literal["gaussian", "laplace"]] = "laplace"

    def sample(self, key, shape, dtype):
        return jax.random.laplace(key, shape, dtype)


def gaussian(std: float) -> Gaussian:
    """Gaussian noise of standard deviation `std` in every coordinate of a message that was clipped before."""
    return Gaussian(_positive("gaussian", std))


def laplace(scale: float) -> Laplace:
    """Laplace noise of this scale in every coordinate of a message that was clipped in the l1 norm before."""
    return Laplace(_positive("laplace", scale))


def _positive(name: str, value: float) -> float:
    if not (isinstance(value, int | float) and 0 < value < float("inf")):
        raise ValueError(f"{name} noise: got {value!r}, expected a positive number, its scale in every coordinate")
    return float(value)
