"""Clients whose data and records are not on the device: fetched for the cohort of a round, and ahead of it.

Memory grows with the cohort; the records themselves lie in a `Store`.
"""

import concurrent.futures
import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from thalweg._trees import square

from .executor import Vectorised, weighted
from .fence import isolate
from .loop import Rules
from .server import Clients, Run, ServerProgram, round_together
from .server_round import Central, draw_cohort, first_memory
from .store import Store


class Stored(eqx.Module):
    """Records that lie in a store; `fresh(members)` makes those of clients that were never drawn. No arrays of its own."""

    store: Store = eqx.field(static=True)
    fresh: Callable = eqx.field(static=True)
    spec: Any = eqx.field(static=True)


class Shapes(Vectorised):
    """As `Vectorised`, to find shapes: what is not on the device reads as zeros."""

    like: Any = None

    def take(self, tree: Any, members: Any) -> Any:
        if isinstance(tree, Stored):
            return _zeros(tree.spec, members.shape[0])
        return jax.tree.map(lambda leaf: leaf[members], tree)

    def pieces(self, problem: Any, members: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros((members.shape[0], *leaf.shape[1:]), leaf.dtype), self.like)

    def put(self, tree: Any, members: Any, rows: Any, keep: Any, whole: bool = False) -> Any:
        return tree


class Hosted:
    """Every role compiled once, for all clients of a cohort side by side; what they hold is fetched."""

    axis = None

    def __init__(self, isolated: bool):
        self.isolated, self._compiled, self._known, self._round = isolated, {}, {}, 0
        self._pool = concurrent.futures.ThreadPoolExecutor(1)
        self._fetched: dict[bytes, concurrent.futures.Future] = {}

    @property
    def shapes(self) -> Shapes:
        """An executor that may be traced."""
        return Shapes(jnp.asarray(0, jnp.uint32), False, like=self._like)

    def role(self, name: str, function: Callable, *args: Any, axes: tuple) -> Any:
        return self._run(name, jax.vmap(function, in_axes=axes), *args)

    def acting(self, members: Any) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def once(self, name: str, compute: Callable) -> Any:
        if name not in self._known:
            self._known[name] = compute()
        return self._known[name]

    def network_role(self, name: str, function: Callable, *args: Any) -> Any:
        return self._run(name, function, *args)

    def pieces(self, problem: Any, members: Any) -> Any:
        """What `members` hold: fetched already, or now."""
        members = np.asarray(members)
        future = self._fetched.get(members.tobytes())
        found = self._look_up(problem, members) if future is None else future.result()
        self._like = found
        return found

    def prefetch(self, problem: Any, members: Any) -> None:
        """Begin to fetch what `members` hold; what was fetched for earlier rounds is forgotten."""
        members = np.asarray(members)
        key = members.tobytes()
        kept = dict(list(self._fetched.items())[-1:])
        self._fetched = kept | {key: kept.get(key) or self._pool.submit(self._look_up, problem, members)}

    def take(self, tree: Any, members: Any) -> Any:
        if not isinstance(tree, Stored):
            return self._run("take", lambda tree, members: jax.tree.map(lambda leaf: leaf[members], tree), tree, members)
        rows, seen = tree.store.take(members)
        if seen.all():
            return jax.tree.map(jnp.asarray, rows)
        fresh = tree.fresh(self, members)
        pick = lambda old, new: np.where(seen.reshape(-1, *(1,) * (old.ndim - 1)), old, np.asarray(new))
        return jax.tree.map(lambda old, new: jnp.asarray(pick(old, new)), rows, fresh)

    def put(self, tree: Any, members: Any, rows: Any, keep: Any, whole: bool = False) -> Any:
        if isinstance(tree, Stored):
            tree.store.put(self._round, members, rows, keep)
            return tree
        return self._run("put", _scatter, tree, members, rows, keep)

    def weighted(self, name: str, weights: Any, tree: Any) -> Any:
        return self._run(name, weighted, weights, tree)

    def squares(self, tree: Any) -> Any:
        return self.role("squares", square, tree, axes=(0,))

    def share(self, tree: Any) -> Any:
        return tree

    def everyone(self, tree: Any) -> Any:
        return tree

    def post(self, common: Any, each: Any) -> None:
        """Nothing is packed."""

    @contextlib.contextmanager
    def in_round(self, k: int):
        """Within, what is written belongs to round `k`."""
        self._round = k
        yield

    def _look_up(self, problem: Any, members: Any) -> Any:
        return problem.fetch(members)

    def _run(self, name: str, function: Callable, *args: Any) -> Any:
        if name not in self._compiled:
            run = lambda zero, *args: isolate(function, zero)(*args) if self.isolated else function(*args)
            self._compiled[name] = jax.jit(run)
        return self._compiled[name](jnp.asarray(0, jnp.uint32), *args)


class HostedServer(ServerProgram):
    """A server whose clients' records are in a store; `folder` says where, None for a temporary one."""

    folder: Path | None = eqx.field(static=True, default=None)

    def begin(self, executor, rules: Rules, earlier: None = None) -> tuple[Clients, Run]:
        one = jnp.zeros(1, jnp.int32)
        pieces = executor.pieces(self.problem, one)
        states = self.first_states(executor, pieces, self.ids[one])
        server = self.first_server(executor)
        memory = first_memory(executor, self)
        uplink, downlink, aggregate = self.pipelines(pieces, states, server)
        spec = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), (states, uplink))
        store = Store(Path(tempfile.mkdtemp(prefix="thalweg-")) if self.folder is None else self.folder, spec, self.n)
        if self.folder is None:  # quietly, when nobody needs the records any more
            weakref.finalize(store, shutil.rmtree, store.folder, ignore_errors=True)

        def fresh(executor, members):
            pieces = executor.pieces(self.problem, members)
            states = self.first_states(executor, pieces, self.ids[members])
            return states, self.pipelines(pieces, states, server)[0]

        records = Stored(store, fresh, _Spec(spec))
        return self.around(executor, records, Central(server, downlink, aggregate, memory))

    def stretch(self, local: Clients, k: int) -> None:
        local.records.store.back_to(k)
        if self.folder is None:
            local.records.store.commit(k)

    def one_round(self, executor, rules: Rules, local: Clients, shared: Run, k) -> tuple[Clients, Run, Any]:
        if isinstance(local.records, Stored) and not isinstance(k, jax.core.Tracer):
            local.records.store.back_to(int(k))
            for ahead in (k, k + 1):
                executor.prefetch(self.problem, draw_cohort(executor, self, shared.central.cohort, ahead).members)
        return round_together(executor, self, local, shared, k)


class _Spec:
    """Shapes as one static value."""

    def __init__(self, tree: Any):
        self.tree = tree


def _zeros(spec: _Spec, count: int) -> Any:
    return jax.tree.map(lambda s: jnp.zeros((count, *s.shape), s.dtype), spec.tree)


def _scatter(tree, members, rows, keep):
    size = jax.tree.leaves(tree)[0].shape[0]
    place = jnp.where(keep, members, size)
    return jax.tree.map(lambda leaf, new: leaf.at[place].set(new, mode="drop"), tree, rows)
