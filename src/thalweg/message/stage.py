"""Stages: what is done to a message between an algorithm and the wire.

    encode(state, message, key) → (state, wire, sent)        at the sender
    decode(wire) → message                                   at the receiver

`sent` is the message as a receiver will decode it: encode promises sent = decode(wire). A stage's state belongs to
the sender and advances when the message is sent; under a server it is kept, like a client's record, if the message was accepted.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from .flow import Flow


class Stage(eqx.Module):
    """One transformation of a message. Encodings have a fixed size.

    Where `flow.replicated` holds after it, `decode` gives the change of the receiver's copy of the sender's last message.
    """

    @abc.abstractmethod
    def after(self, flow: Flow) -> Flow:
        """What is known of the message after this stage, from what was known before.

        Raises:
            ValueError: it is unsound here.
        """

    @abc.abstractmethod
    def init(self, spec: Any) -> Any:
        """The sender's state for messages shaped like `spec` (a pytree of `jax.ShapeDtypeStruct`)."""

    @abc.abstractmethod
    def encode(self, state: Any, message: Any, key: PRNGKeyArray) -> tuple[Any, Any, Any]:
        """(state, wire, sent)."""

    @abc.abstractmethod
    def decode(self, wire: Any, spec: Any) -> Any:
        """The message, shaped like `spec`."""

    def contraction(self, spec: Any) -> float | None:
        """δ with E‖C(m) − m‖² ≤ (1 − δ)‖m‖² for every message shaped like `spec`; None where it is not known."""
        return None

    def variance(self, spec: Any) -> float | None:
        """ω with E C(m) = m and E‖C(m) − m‖² ≤ ω‖m‖² for every message shaped like `spec`; None where it is not known."""
        return None

    @property
    def projects(self) -> bool:
        """Whether it sends some of the entries as they are, and the others not at all."""
        return False


class Identity(Stage):
    """The message itself."""

    def contraction(self, spec):
        return 1.0

    def variance(self, spec):
        return 0.0

    @property
    def projects(self) -> bool:
        """All of them."""
        return True

    def after(self, flow):
        return flow

    def init(self, spec):
        return ()

    def encode(self, state, message, key):
        return state, message, message

    def decode(self, wire, spec):
        return wire


class Cast(Stage):
    """Every floating leaf is rounded to a shorter dtype on the wire: half or a quarter of the bytes.

    Rounding is deterministic and biased by at most half a unit in the last place of `dtype`; values beyond its range
    become infinite, so that overflow ends a run instead of passing unnoticed.
    """

    dtype: str = eqx.field(static=True, default="float32")

    def __check_init__(self):
        if self.dtype not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"Cast(dtype={self.dtype!r}): expected 'float32', 'float16' or 'bfloat16'")

    def after(self, flow):
        # Rounding may lengthen a message by half a unit in the last place.
        longer = 1 + float(jnp.finfo(self.dtype).eps)
        bound = lambda norm: None if norm is None else norm * longer
        return flow.but(norm=bound(flow.norm), norm_1=bound(flow.norm_1), unbiased=False, linear=False)

    def init(self, spec):
        return ()

    def encode(self, state, message, key):
        wire = jax.tree.map(lambda leaf: leaf.astype(self.dtype) if _is_float(leaf) else leaf, message)
        return state, wire, self.decode(wire, message)

    def decode(self, wire, spec):
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), wire, spec)


class Chain(Stage):
    """Stages one after another: the first one sees the algorithm's message, the last one writes the wire."""

    stages: tuple[Stage, ...]

    def __check_init__(self):
        self.after(Flow())

    def after(self, flow):
        for stage in self.stages:
            if flow.replicated:
                raise ValueError(
                    f"chain: got {type(stage).__name__} behind a stage whose receivers keep a replica, expected nothing: it would "
                    "act on changes of the replica; put it inside, as in ef21(chain(top_k(0.01), quantise(8)))"
                )
            flow = stage.after(flow)
        return flow

    def init(self, spec):
        return tuple(stage.init(like) for stage, like in zip(self.stages, self._specs(spec), strict=True))

    def encode(self, state, message, key):
        states, wire, sent, specs = [], message, message, []
        for index, (stage, own) in enumerate(zip(self.stages, state, strict=True)):
            specs.append(wire)
            own, wire, sent = stage.encode(own, wire, jax.random.fold_in(key, index))
            states.append(own)
        # The last stage knows what arrives of what it was given, be it by a replica.
        return tuple(states), wire, self._decoded(sent, specs[:-1])

    def decode(self, wire, spec):
        specs = self._specs(spec)
        return self._decoded(self.stages[-1].decode(wire, specs[-1]), specs[:-1])

    def contraction(self, spec):
        """The product of those of the stages, where all but the last send entries as they are."""
        if not all(stage.projects for stage in self.stages[:-1]):
            return None
        found = [stage.contraction(like) for stage, like in zip(self.stages, self._specs(spec), strict=True)]
        return None if None in found else math.prod(found)

    def variance(self, spec):
        """Π(1 + ω) − 1."""
        found = [stage.variance(like) for stage, like in zip(self.stages, self._specs(spec), strict=True)]
        return None if None in found else math.prod(1 + omega for omega in found) - 1

    @property
    def projects(self) -> bool:
        """Where all its stages do."""
        return all(stage.projects for stage in self.stages)

    def _decoded(self, message, specs):
        """What comes of the last stage's message, through those before it."""
        for stage, spec in zip(reversed(self.stages[:-1]), reversed(specs), strict=True):
            message = stage.decode(message, spec)
        return message

    def _specs(self, spec) -> list[Any]:
        """The shapes that each stage sees."""
        specs = [spec]
        for stage in self.stages[:-1]:
            encode = lambda m, stage=stage: stage.encode(stage.init(m), m, _some_key())[1]
            specs.append(jax.eval_shape(encode, specs[-1]))
        return specs


def identity() -> Identity:
    """No change: the pipeline that equals no pipeline."""
    return Identity()


def cast(dtype: str = "float32") -> Cast:
    """Send floats as `dtype`: "float32", "float16" or "bfloat16"."""
    return Cast(dtype)


def chain(*stages: Stage) -> Stage:
    """Compose stages, the first one nearest to the algorithm."""
    return stages[0] if len(stages) == 1 else Chain(stages)


def _is_float(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _some_key() -> PRNGKeyArray:
    return jax.random.key(0)  # only for shapes; never used to draw
