"""Error feedback: what a message leaves out goes into the next one."""

from typing import Any

import jax
import jax.numpy as jnp

from thalweg.message.flow import Flow
from thalweg.message.stage import Stage


class ErrorFeedback(Stage):
    """`stage` with a memory of what it has left out so far.

        sent = C(m + e),    e ← m + e − sent,    e(0) = 0

    so that Σ sent + e = Σ m at all times: everything is sent, later. With E‖C(v) − v‖² ≤ (1 − δ)‖v‖² and messages of at most G,
    E‖e‖² ≤ 4(1 − δ)G²/δ². Messages must be changes (gradients, differences of models): what is late is added to what comes.

    Args:
        stage: C, a contraction: top-k, sign, unscaled random-k, fine quantisation, or a chain of such.

    Frank Seide, Hao Fu, Jasha Droppo, Gang Li, Dong Yu, *1-bit stochastic gradient descent and its application to data-parallel
    distributed training of speech DNNs*, Interspeech 2014; Sebastian Stich, Jean-Baptiste Cordonnier, Martin Jaggi, *Sparsified
    SGD with memory*, NeurIPS 2018; Sai Praneeth Karimireddy, Quentin Rebjock, Sebastian Stich, Martin Jaggi, *Error feedback
    fixes SignSGD and other gradient compression schemes*, ICML 2019.
    """

    stage: Stage

    def __check_init__(self):
        self.after(Flow())

    def after(self, flow: Flow) -> Flow:
        inner = behind_memory("error_feedback", self.stage, flow)
        return inner.but(norm=None, norm_1=None, unbiased=False, linear=False, fixed=False, memory=True)

    def init(self, spec: Any) -> Any:
        check_contracts("error_feedback", self.stage, spec)
        return {"memory": zeros_of(spec), "stage": self.stage.init(spec)}

    def encode(self, state: Any, message: Any, key) -> tuple[Any, Any, Any]:
        wanted = added(message, state["memory"])
        inner, wire, sent = self.stage.encode(state["stage"], wanted, key)
        return {"memory": change(wanted, sent), "stage": inner}, wire, sent

    def decode(self, wire: Any, spec: Any) -> Any:
        return self.stage.decode(wire, spec)


def behind_memory(name: str, stage: Stage, flow: Flow) -> Flow:
    """What is known behind `stage`, around which something with a memory stands.

    Raises:
        ValueError: a memory of what it leaves out makes no sense there.
    """
    if flow.replicated or flow.memory:
        raise ValueError(f"{name}: got a message that another memory has been at, expected one memory; leave one of them out")
    if not flow.fixed:
        raise ValueError(
            f"{name}: got entries that an earlier stage chooses or mixes in every message in another way, so that what was left "
            f"out of one means nothing in the next; put it around all of them: {name}(chain(…))"
        )
    inner = stage.after(flow.but(noise=()))
    if inner.noise:
        raise ValueError(
            f"{name}: got a stage that adds noise, which the memory would keep and take back in the next message; add noise in "
            f"front: chain(clip(…), gaussian(…), {name}(…))"
        )
    if inner.memory or inner.replicated:
        raise ValueError(f"{name}: got a stage that has a memory, expected one without; leave one of them out")
    if stage.after(Flow()) == Flow():
        raise ValueError(
            f"{name}: got {type(stage).__name__}, which leaves nothing out; expected a stage that compresses, such as top_k(0.01)"
        )
    return inner.but(noise=flow.noise)


def check_contracts(name: str, stage: Stage, spec: Any) -> None:
    """The stage is no worse than sending nothing.

    Raises:
        ValueError: it may lengthen what it sends so much that the memory grows.
    """
    delta = stage.contraction(spec)
    if delta is not None and not delta > 0:
        raise ValueError(
            f"{name}: got {type(stage).__name__} with E‖C(m) − m‖² up to {1 - delta:.3g}‖m‖² for this message, expected less than "
            "‖m‖²: its memory may grow without bound; use random_k(…, scale=False), more bits or smaller blocks"
        )


def zeros_of(spec: Any) -> Any:
    """Zeros like the floating leaves of `spec`; None elsewhere."""
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype) if _is_float(leaf) else None, spec)


def added(message: Any, memory: Any) -> Any:
    """message + memory in floating leaves."""
    return jax.tree.map(lambda m, e: m if e is None else m + e, message, memory, is_leaf=lambda x: x is None)


def change(new: Any, old: Any) -> Any:
    """new − old in floating leaves; None elsewhere."""
    return jax.tree.map(lambda a, b: a - b if _is_float(a) else None, new, old)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def error_feedback(stage: Stage) -> ErrorFeedback:
    """What `stage` leaves out of a message is added to the next one."""
    return ErrorFeedback(stage)
