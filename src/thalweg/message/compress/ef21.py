"""EF21: changes of a replica."""

from typing import Any

import jax

from thalweg.message.flow import Flow
from thalweg.message.stage import Stage

from .error_feedback import added, behind_memory, check_contracts, zeros_of


class EF21(Stage):
    """Sender and receiver keep one replica r of the message, and `stage` compresses how the message differs from it.

        c = C(m − r),    r ← r + c,    what is sent is r,    r(0) = 0

    As messages settle their differences vanish, and with them what compression leaves out: r → m, whatever the contraction C.
    What is decoded from the wire is c; a receiver adds it to its replica. So no message may be lost on the way, or the two drift
    apart: with a server, the sender's replica advances if the message was accepted, like a client's record.

    Args:
        stage: C, a contraction: top-k, sign, unscaled random-k, fine quantisation, or a chain of such.

    Peter Richtárik, Igor Sokolov, Ilyas Fatkhullin, *EF21: a new, simpler, theoretically better, and practically faster error
    feedback*, NeurIPS 2021.
    """

    stage: Stage

    def __check_init__(self):
        self.after(Flow())

    def after(self, flow: Flow) -> Flow:
        if not flow.linear:
            raise ValueError(
                "ef21: got a message that an earlier stage encodes, so that a replica is no sum of what was decoded; put that "
                "stage inside: ef21(chain(…))"
            )
        inner = behind_memory("ef21", self.stage, flow)
        return inner.but(norm=None, norm_1=None, unbiased=False, linear=False, fixed=False, replicated=True)

    def init(self, spec: Any) -> Any:
        check_contracts("ef21", self.stage, spec)
        return {"replica": zeros_of(spec), "stage": self.stage.init(spec)}

    def encode(self, state: Any, message: Any, key) -> tuple[Any, Any, Any]:
        replica = state["replica"]
        inner, wire, sent = self.stage.encode(state["stage"], _differing(message, replica), key)
        known = added(sent, replica)
        return {"replica": _kept(known, replica), "stage": inner}, wire, known

    def decode(self, wire: Any, spec: Any) -> Any:
        """The change of the receiver's replica; leaves that are no floats are themselves."""
        return self.stage.decode(wire, spec)


def _differing(message: Any, replica: Any) -> Any:
    return jax.tree.map(lambda m, r: m if r is None else m - r, message, replica, is_leaf=lambda x: x is None)


def _kept(known: Any, replica: Any) -> Any:
    return jax.tree.map(lambda k, r: None if r is None else k, known, replica, is_leaf=lambda x: x is None)


def ef21(stage: Stage) -> EF21:
    """Send what `stage` makes of the difference between a message and the replica that the receiver has of the last one."""
    return EF21(stage)
