"""What every run needs before its first round, whoever talks to whom."""

import dataclasses
import hashlib
import platform
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from thalweg._version import __version__
from thalweg.algorithm.base import Facts
from thalweg.network import Network
from thalweg.observe import History, Outcome, describe
from thalweg.observe.describing import shown
from thalweg.problem.scattered import Scattered

from . import checkpoint as checkpoints
from . import refusals
from .debug import Debug
from .driver import Run, drive
from .progress import watch
from .sharded import Sharded
from .simulated import EventDriven, Simulated
from .stop import Stop
from .tracking import Tracking

ENGINES = {"simulated": Simulated, "debug": Debug, "sharded": Sharded, "event-driven": EventDriven}
# A run whose estimates are this many times larger than at the start has diverged.
DIVERGENCE = 1e12


def digest_of(tree: Any) -> str:
    """Of every number in `tree`, so that what prints alike but differs is told apart."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes() if eqx.is_array_like(leaf) else shown(leaf).encode())
    return digest.hexdigest()[:16]


def chosen_engine(engine, deterministic: bool | None):
    """The engine object that was named or given.

    Raises:
        TypeError, ValueError: there is no such engine.
    """
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise ValueError(
                f"solve: got engine={engine!r}, expected one of {', '.join(ENGINES)}{refusals.nearest(engine, ENGINES)}"
            )
        engine = ENGINES[engine]()
    if not isinstance(engine, Simulated | Sharded | Debug):
        raise TypeError(f"solve: got {type(engine).__name__} as engine, expected one of {', '.join(ENGINES)}")
    return engine if deterministic is None else dataclasses.replace(engine, deterministic=deterministic)


def protection(aggregate: Any, adversary: Any, n: int) -> dict[str, str]:
    """What a run says of its aggregator, and of its adversary among `n` agents."""
    said = {} if aggregate is None else {"aggregate": describe(aggregate)}
    if adversary is not None:
        liars = len(adversary.agents)
        said["adversary"] = f"{describe(adversary)}; what is shown is of the {n - liars} of {n} who are honest"
    return said


def checked_ids(ids, n: int) -> np.ndarray:
    """The agents' ids, `[n]`: 0 … n−1 when None.

    Raises:
        ValueError: not n different whole numbers.
    """
    if ids is None:
        return np.arange(n)
    ids = np.asarray(ids)
    if ids.shape != (n,) or len(np.unique(ids)) != n or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"solve: got ids of shape {ids.shape} and dtype {ids.dtype}, expected {n} different integers")
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise ValueError(f"solve: got ids from {ids.min()} to {ids.max()}, expected whole numbers from 0 to 2³¹ − 1")
    return ids


def checked_groups(groups: Any, problem: Any) -> dict[str, list[str]]:
    """What the run's config says of the agents' groups.

    Raises:
        ValueError: there is not one label for each agent.
    """
    if groups is None:
        return {}
    n = getattr(problem, "n", None)
    if isinstance(groups, str) or len(groups) != n:
        got = repr(groups) if isinstance(groups, str) else f"{len(groups)} labels"
        raise ValueError(f"solve: got groups={got}, expected a label for each of the {n} agents, in their order")
    return {"groups": [str(label) for label in groups]}


def with_diameter(stop: Stop | None, network: Network, problem: Scattered) -> Stop | None:
    """The stop rule of peers, with its diameter filled in.

    Raises:
        ValueError: tolerances that the dtype cannot tell, or a network or a diameter that the distributed rule cannot have.
    """
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


def traced_stop(stop: Stop | None, dtype) -> Stop | None:
    """What the compiled loop sees: tolerances and diameter as arrays, so that another value compiles nothing."""
    if stop is None:
        return None
    return dataclasses.replace(
        stop,
        above=None,
        below=None,
        no_better=None,
        clock=None,
        bytes=None,
        progress=jnp.asarray(stop.progress, dtype),
        agreement=jnp.asarray(stop.agreement, dtype),
        diameter=None if stop.diameter is None else jnp.asarray(stop.diameter, jnp.int32),
    )


def size_limit(first) -> jax.Array:
    """Beyond this root mean square the estimates have diverged; `first [n, d]` are those before round 0."""
    return jnp.asarray(DIVERGENCE * (1 + np.sqrt(np.mean(np.sum(np.square(first, dtype=np.float64), axis=1)))), first.dtype)


def unraveller(problem: Scattered):
    """Row `[d]` → x, in the structure of x0."""
    return ravel_pytree(problem.x0)[1]


def target_row(reference: Any, problem: Scattered):
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


def open_folder(run: Run, folder: Path, identity, resume: bool, tabulate: Any) -> None:
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
    tabulate.resume(meta["messages"], run.local)


def execute(
    run: Run,
    rounds: int,
    *,
    every: Any,
    checkpoint: str | Path | None,
    resume: bool,
    identity: dict[str, Any],
    tabulate: Any,
    said: Sequence[str],
    names: tuple[str, ...],
    config: dict[str, Any],
    stop: Stop | None,
    progress: Any,
    trackers: Sequence[Any],
    depth: int = 3,
) -> tuple[Outcome, str, Tracking]:
    """Drive a run that is set up, or what its folder holds of it, to its end.

    `every` is the user's, None where left open; warnings point at the user, `depth` frames up.
    """
    hosts = run.engine.hosts
    if checkpoint is not None:
        hosts.together(lambda: open_folder(run, Path(checkpoint), identity, resume, tabulate))
        _check_resumed(run, rounds, every)
    elif resume:
        raise ValueError("solve(resume=True): pass the folder of the run as checkpoint=")
    for text in said if hosts.leads else ():
        warnings.warn(text, RuntimeWarning, stacklevel=depth)
    meta = {"identity": identity, "every": int(run.rules.every), "rounds": rounds}
    tracking = Tracking(trackers if hosts.leads else (), config, run.history, int(run.rules.every))
    folder = None if checkpoint is None else Path(checkpoint)
    with watch(progress if hosts.leads else False, rounds) as show, tracking:
        outcome, reason = drive(run, rounds, tracking.beside(show), folder, meta, tabulate, names, stop)
        tracking.update(run.history)
    run.local = run.engine.whole(run.local)
    return outcome, reason, tracking


def _check_resumed(run: Run, rounds: int, every: Any) -> None:
    """What was asked for fits what the folder holds."""
    if run.round > rounds:
        raise ValueError(f"solve(resume=True, rounds={rounds}): the run is at round {run.round} already; pass more rounds")
    if every is not None and int(every) != int(run.rules.every):
        raise ValueError(
            f"solve(resume=True, every={every}): the run is recorded every {int(run.rules.every)} rounds; leave `every` out, or "
            "pass the same"
        )


def identified(fingerprint: str, algorithm: Any, seed: int, engine: Any, start: Any, **others: Any) -> dict[str, Any]:
    """What a checkpoint must agree with to be continued; `others` is told apart by name as well."""
    return {
        "problem": fingerprint,
        "algorithm": f"{describe(algorithm)} {digest_of(algorithm)}",
        "seed": seed,
        "deterministic": engine.deterministic,
        "start": "x0" if start is None else digest_of(getattr(start, "records", start)),
        **others,
    }


def length(rounds: int, goal: Any, stop: Stop | None, checkpoint: Any, resume: bool) -> dict[str, Any]:
    """What processes that run together must agree on beside `identified`."""
    return {
        "number of rounds": int(rounds),
        "distance between records": goal.every,
        "reference": digest_of(goal.row),
        "stop rule": "none" if stop is None else describe(stop),
        "checkpoint": "none" if checkpoint is None else "a new one" if not resume else "one to resume",
    }


def constants(facts: Facts) -> str:
    """What peers' config says of L and μ."""
    return f"L = {facts.smoothness or float('nan'):.4g}, μ = {facts.strong_convexity:.4g} ({facts.source})"


def surroundings() -> dict[str, Any]:
    """Of every run's config: the machine and the versions."""
    versions = {"thalweg": __version__, "jax": jax.__version__, "numpy": np.__version__, "python": platform.python_version()}
    devices = f"{jax.device_count()} device(s)" + (f" of {jax.process_count()} processes" if jax.process_count() > 1 else "")
    return {"machine": f"{platform.machine()}, {jax.default_backend()}, {devices}", "versions": versions}


def stated(
    problem: Scattered, fingerprint: str, kind: str, algorithm: Any, stop: Stop | None, rounds: int, seed: int
) -> dict[str, Any]:
    """Of every run's config: what was asked for."""
    return {
        "problem": f"{type(problem).__name__}: {problem.n} {kind}, {problem.size} variables, {problem.dtype}",
        "fingerprint": fingerprint,
        "algorithm": describe(algorithm),
        "stop": "none" if stop is None else describe(stop),
        "rounds": rounds,
        "seed": seed,
    }
