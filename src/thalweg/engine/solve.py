"""`solve`: one verb for every problem, algorithm, network, pipeline, engine and stop rule."""

import dataclasses
import hashlib
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg._version import __version__
from thalweg.algorithm.base import PeerAlgorithm
from thalweg.algorithm.step import localise, traced
from thalweg.message.payload import HEADER_BYTES, payload_bytes
from thalweg.message.stage import Identity, Stage
from thalweg.network import Network
from thalweg.observe import History, Ledger, Result, describe
from thalweg.problem import Problem

from . import checkpoint as checkpoints
from . import refusals
from .combining import weight_kinds
from .debug import Debug
from .driver import Run, drive
from .epoch import bring
from .facts import gather_facts
from .loop import Rules
from .peer_round import Experiment, message_specs, wire_specs
from .progress import watch
from .simulated import Sharded, Simulated
from .stop import Stop
from .tabulate import Tabulator
from .world import make_setting, make_world

ENGINES = {"simulated": Simulated, "debug": Debug, "sharded": Sharded}
# Above this many values per record the history keeps no row per agent.
AGENT_ROWS = 2000
_DRAWN_FACTS = (
    "sigma", "rate", "spectral_gap", "diameter", "max_degree", "min_degree", "connected", "doubly_stochastic",
)  # fmt: skip
# A run whose estimates are this many times larger than at the start has diverged.
DIVERGENCE = 1e12


def solve(
    problem: Problem,
    algorithm: PeerAlgorithm,
    network: Network,
    *,
    rounds: int = 1000,
    stop: Stop | None = None,
    seed: int = 0,
    every: int | None = None,
    link: Stage | None = None,
    engine: str | Simulated | Sharded | Debug = "simulated",
    deterministic: bool | None = None,
    report: tuple[str, ...] = (),
    reference: Any = None,
    ids: np.ndarray | None = None,
    start: Result | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: bool | Callable[[int, History], None] | None = None,
    keep_agents: bool | None = None,
) -> Result:
    """Solve a problem whose pieces are scattered over the agents of a network.

    Args:
        problem: what is minimised; agent i alone holds piece i.
        algorithm: how agents coordinate; a step size left None is chosen from theory, and the result says which.
        network: who talks to whom, when, and what fails.
        rounds: at most this many rounds.
        stop: when to stop earlier; None runs all rounds.
        seed: of everything random in the run (schedule, failures, stochastic gradients).
        every: record (and check the stop rule) every so many rounds; None chooses about 200 records.
        link: what is done to messages on the wire (`tw.message.chain(...)`); None sends them as they are.
        engine: "simulated", "sharded" or "debug", or an engine object.
        deterministic: the same bits on every engine (float64, CPU); overrides the engine's own setting.
        report: fields of the agents' `Info` to keep in the history, for example ("gradient_norm",).
        reference: a central solution (`tw.reference(problem)`, or x itself) to measure gap and error against.
        ids: `[n]` the agents' ids: who is who from epoch to epoch, and what random keys derive from; 0 … n−1 when None.
        start: continue from another result of the same algorithm in a new epoch: agents with an id of that run call
            `restart` on their record, new ones begin at x0. Problem, network and step sizes may differ.
        checkpoint: a folder that receives the run's state every 10 s and at its end.
        resume: continue the run in `checkpoint`; the result is bitwise that of an uninterrupted run.
        progress: show a progress bar (None: when a person watches), or a function of (round, history).
        keep_agents: keep loss and disagreement of every agent in the history (None: up to 2,000 agents).

    Returns:
        A `Result`. A run that diverges or produces NaN ends with that outcome and the last good state.

    Raises:
        TypeError, ValueError: an impossible combination, before anything runs.
    """
    refusals.check_arguments(problem, algorithm, network, rounds, every, seed, stop, link, report)
    refusals.check_steps(algorithm, problem.n)
    refusals.check_network(algorithm, network)
    asked, problem = problem, refusals.check_problem(algorithm, problem)
    engine = _engine(engine, deterministic).open()
    facts = gather_facts(problem, algorithm, network)
    if facts.local_smoothness is not None:
        algorithm = localise(algorithm, facts.local_smoothness)
    algorithm = algorithm.resolve(facts)
    said = refusals.step_warnings(algorithm, facts, network)
    stop = _stop(stop, network, problem)
    asked_ids = ids is not None
    ids = _ids(ids, problem.n) if asked_ids else np.arange(problem.n)
    experiment = Experiment(
        problem=problem,
        algorithm=traced(algorithm, problem.dtype),
        link=Identity() if link is None else link,
        world=make_world(network, problem.dtype, ids, weight_kinds(algorithm.combine), not engine.deterministic),
        setting=make_setting(network, ids),
        key=jax.random.key_data(jax.random.key(seed)),
    )
    keep = problem.n <= AGENT_ROWS if keep_agents is None else keep_agents
    rounds, seed = int(rounds), int(seed)
    every = int(every or max(1, rounds // 200))
    target = _target(reference, problem)
    rules = Rules(
        stop=_traced_stop(stop, problem.dtype),
        every=jnp.asarray(every, jnp.int32),
        reference=target,
        limit=jnp.asarray(jnp.inf, problem.dtype),
        report=tuple(report),
        keep_agents=keep,
    )
    identity = {
        "problem": problem.fingerprint(),
        "algorithm": f"{describe(algorithm)} {_digest(algorithm)}",
        "network": f"{network!r} {_digest((experiment.world, experiment.setting))}",
        "seed": seed,
        "columns": f"reference: {reference is not None}, agents: {keep}, report: {', '.join(report) or 'none'}",
        "link": f"{experiment.link!r} {_digest(experiment.link)}",
        "deterministic": engine.deterministic,
    }
    began = time.monotonic()
    local, shared = engine.begin(experiment, rules)
    if start is not None:
        earlier = bring(start, algorithm, local.agents.state, problem.x0, ids, asked=asked_ids)
        local, shared = engine.begin(experiment, rules, earlier)
    compile_seconds = time.monotonic() - began
    rules = dataclasses.replace(rules, limit=_limit(local.previous))
    specs = message_specs(experiment, local.agents.state)
    wires = wire_specs(experiment, specs)
    message_bytes = sum(map(payload_bytes, wires.values()))
    optimum = None if reference is None else float(asked.objective(_unravel(problem)(target)))
    tabulate = Tabulator(problem.n * problem.weights, message_bytes, optimum, reference is not None, keep)
    tabulate.resume(np.zeros(problem.n), np.asarray(local.agents.sent))
    run = Run(engine, experiment, rules, local, shared, History.empty(), compile_seconds=compile_seconds)
    folder = None if checkpoint is None else Path(checkpoint)
    if folder is not None:
        _open_folder(run, folder, identity, resume, tabulate)
    elif resume:
        raise ValueError("solve(resume=True): pass the folder of the run as checkpoint=")
    for text in said:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    names = problem.names or tuple(f"agent {i}" for i in range(problem.n))
    meta = {"identity": identity, "every": int(run.rules.every), "rounds": rounds}
    with watch(progress, rounds) as show:
        outcome, reason = drive(run, rounds, show, folder, meta, tabulate, names)
    unravel = _unravel(problem)
    estimates = run.engine.estimates(experiment, run.local.agents)
    return Result(
        x=unravel(estimates.mean(0)),
        agents=jax.vmap(unravel)(estimates),
        outcome=outcome,
        reason=reason,
        rounds=run.round,
        history=run.history,
        ledger=Ledger(
            messages=tabulate.messages,
            message_bytes=message_bytes,
            header_bytes=HEADER_BYTES * len(wires),
            report_bytes=_report_bytes(run.history, report),
            seconds=run.seconds,
            compile_seconds=run.compile_seconds,
        ),
        algorithm=algorithm,
        names=tuple(names),
        graph=_graph(network),
        config=_config(asked, algorithm, network, engine, seed, stop, rounds, facts),
        reference=reference,
        warnings=tuple(said),
        records=run.local.agents,
        ids=ids,
    )


def _digest(tree: Any) -> str:
    """Of every number in `tree`, so that what prints alike but differs is told apart."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes() if eqx.is_array_like(leaf) else repr(leaf).encode())
    return digest.hexdigest()[:16]


def _engine(engine, deterministic: bool | None):
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise ValueError(
                f"solve: got engine={engine!r}, expected one of {', '.join(ENGINES)}{refusals.nearest(engine, ENGINES)}"
            )
        engine = ENGINES[engine]()
    if not isinstance(engine, Simulated | Sharded | Debug):
        raise TypeError(f"solve: got {type(engine).__name__} as engine, expected one of {', '.join(ENGINES)}")
    return engine if deterministic is None else dataclasses.replace(engine, deterministic=deterministic)


def _ids(ids, n: int) -> np.ndarray:
    ids = np.asarray(ids)
    if ids.shape != (n,) or len(np.unique(ids)) != n or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"solve: got ids of shape {ids.shape} and dtype {ids.dtype}, expected {n} different integers")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise ValueError(f"solve: got ids from {ids.min()} to {ids.max()}, expected whole numbers from 0 to 2³¹ − 1")
    return ids


def _stop(stop: Stop | None, network: Network, problem: Problem) -> Stop | None:
    """The stop rule with its diameter filled in."""
    if stop is None:
        return None
    finest = float(jnp.finfo(problem.dtype).eps)
    if min(stop.progress, stop.agreement) < finest:
        raise ValueError(
            f"Stop: got tolerances {stop.progress:.1g} and {stop.agreement:.1g}, finer than {problem.dtype}'s resolution "
            f"{finest:.1g}; loosen them, or use float64 (jax.config.update('jax_enable_x64', True))"
        )
    if not stop.distributed:
        return stop
    if type(network.schedule).__name__ != "Fixed":
        raise ValueError(f"Stop(distributed=True) needs a network whose edges do not change, got {network.schedule}")
    diameter = int(network.facts.diameter) if stop.diameter is None else stop.diameter
    if diameter < network.facts.diameter and not network.facts.diameter_is_bound:
        raise ValueError(f"Stop(diameter={diameter}): expected a bound on the diameter, which is {network.facts.diameter}")
    return dataclasses.replace(stop, diameter=max(1, diameter))


def _traced_stop(stop: Stop | None, dtype) -> Stop | None:
    """Tolerances and diameter as arrays: another value compiles nothing."""
    if stop is None:
        return None
    return dataclasses.replace(
        stop,
        progress=jnp.asarray(stop.progress, dtype),
        agreement=jnp.asarray(stop.agreement, dtype),
        diameter=None if stop.diameter is None else jnp.asarray(stop.diameter, jnp.int32),
    )


def _limit(first) -> jax.Array:
    """Beyond this root mean square the estimates have diverged; `first [n, d]` are those before round 0."""
    return jnp.asarray(DIVERGENCE * (1 + np.sqrt(np.mean(np.sum(np.square(first, dtype=np.float64), axis=1)))), first.dtype)


def _unravel(problem: Problem):
    return ravel_pytree(problem.x0)[1]


def _target(reference: Any, problem: Problem):
    """x* as a row; NaN when there is none."""
    flat = ravel_pytree(problem.x0)[0]
    if reference is None:
        return jnp.full(flat.shape, jnp.nan, flat.dtype)
    x = getattr(reference, "x", reference)
    if jax.tree.structure(x) != jax.tree.structure(problem.x0):
        raise TypeError("solve: the reference has another structure than x0; pass tw.reference(problem) or an x")
    x = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), x, problem.x0)
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (x, problem.x0)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"solve: the reference has shape {shapes[0]}, expected {shapes[1]} as x0; pass tw.reference(problem)")
    row = ravel_pytree(x)[0]
    if not bool(jnp.isfinite(row).all()):
        raise ValueError("solve: the reference has NaN or infinite entries, expected finite ones; pass tw.reference(problem)")
    return row


def _open_folder(run: Run, folder: Path, identity, resume: bool, tabulate: Tabulator) -> None:
    """Continue the run that `folder` holds, or make sure that it holds none."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"solve(checkpoint={str(folder)!r}): got a file, expected a folder, new or that of a run")
    if not resume:
        if (folder / checkpoints.META).exists():
            k = checkpoints.read_meta(folder)["round"]
            raise ValueError(
                f"{folder} already holds a run at round {k}: pass resume=True to continue it, or choose another folder"
            )
        return
    (run.local, run.shared), meta, columns = checkpoints.load(folder, (run.local, run.shared), identity)
    pick = lambda kind: {name[len(kind) :]: c for name, c in columns.items() if name.startswith(kind)}
    run.history = History(pick("scalars/"), pick("agents/"))
    run.seconds, run.compile_seconds = meta["seconds"], meta["compile_seconds"]
    run.rules = dataclasses.replace(run.rules, every=jnp.asarray(meta["every"], jnp.int32))
    tabulate.resume(np.asarray(meta["messages"]), np.asarray(run.local.agents.sent))


def _report_bytes(history: History, report: tuple[str, ...]) -> int:
    return sum(history.agents[name].nbytes for name in report if name in history.agents)


def _graph(network: Network) -> dict[str, Any]:
    facts = network.facts
    known = {name: getattr(facts, name) for name in _DRAWN_FACTS}
    return {"edges": network.edges, "positions": network.positions, "directed": network.directed, "facts": known}


def _config(problem, algorithm, network, engine, seed, stop, rounds, facts) -> dict[str, Any]:
    versions = {"thalweg": __version__, "jax": jax.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {
        "problem": f"{type(problem).__name__}: {problem.n} agents, {problem.size} variables, {problem.dtype}",
        "algorithm": describe(algorithm),
        "network": repr(network),
        "engine": f"{engine.name}{', deterministic' if engine.deterministic else ''}",
        "stop": "none" if stop is None else describe(stop),
        "rounds": rounds,
        "seed": seed,
        "constants": f"L = {facts.smoothness or float('nan'):.4g}, μ = {facts.strong_convexity:.4g} ({facts.source})",
        "machine": f"{platform.machine()}, {jax.default_backend()}, {jax.device_count()} device(s)",
        "versions": versions,
    }
