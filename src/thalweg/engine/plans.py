"""Where the clients of a cohort are computed: side by side, or one after another.

XLA's CPU backend runs the backward pass of convolutions inside a loop many times slower than outside; there clients work one
after another, in one jitted call each, with their local steps unrolled. All else runs side by side (`vmap`) inside one
compiled loop over rounds.
"""

import dataclasses
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from .asynchronous import AsyncServer
from .debug import ByHand
from .hosted import Hosted, HostedServer
from .sequential import Sequential
from .server import ServerProgram
from .sharded import Sharded
from .simulated import EventDriven, Simulated
from .walk import equations

PLANS = {
    "vmap": "clients side by side",
    "hosted": "clients side by side, their records on disk",
    "sequential": "clients one after another, local steps unrolled",
}


def planned(engine: Any, program: ServerProgram, folder: Path | None = None) -> tuple[Any, ServerProgram, str]:
    """(engine to run on, program as it suits it, the plan in words). `folder` is for records on disk; a temporary one if None."""
    if program.problem.pieces is None:
        if type(engine) is not Simulated:
            raise ValueError(f"solve: a StreamedRisk runs on the simulated engine, got {engine.name!r}")
        fields = {field.name: getattr(program, field.name) for field in dataclasses.fields(program)}
        hosted = Hosted(engine.deterministic)
        return ByHand(engine.name, hosted, engine.deterministic), HostedServer(**fields, folder=folder), PLANS["hosted"]
    if isinstance(engine, Sharded):
        devices = len(jax.devices()) if engine.devices is None else engine.devices
        slots = -(-program.slots // devices) * devices
        return engine.open(), dataclasses.replace(program, slots=slots), f"{PLANS['vmap']}, on {devices} device(s)"
    if isinstance(engine, EventDriven):
        fields = {field.name: getattr(program, field.name) for field in dataclasses.fields(program)}
        stale = jnp.asarray(engine.staleness, program.problem.dtype)
        program = AsyncServer(**fields, buffer=engine.buffer, staleness=stale)
        return engine, program, f"{program.slots} clients at a time, an update after every {engine.buffer} messages"
    if not isinstance(engine, Simulated):
        return engine.open(), program, "role by role"
    plan = engine.plan or ("sequential" if jax.default_backend() == "cpu" and _convolves(program) else "vmap")
    if plan == "vmap":
        return engine, program, PLANS[plan]
    executor = Sequential(engine.deterministic)
    return ByHand("simulated", executor, engine.deterministic), dataclasses.replace(program, unroll=True), PLANS[plan]


@eqx.filter_jit
def _convolves(program: ServerProgram) -> bool:
    """Whether the loss has a convolution in it; looked up once for all programs that trace alike."""
    first = jax.tree.map(lambda leaf: leaf[0], program.problem.pieces)
    jaxpr = jax.make_jaxpr(lambda piece, x: program.problem.local(piece).value(x))(first, program.problem.x0)
    return any(equation.primitive.name == "conv_general_dilated" for equation in equations(jaxpr.jaxpr))
