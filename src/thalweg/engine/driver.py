"""The host's side of a run: chunks of rounds, progress, checkpoints, Ctrl-C, and finding where a run broke."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from thalweg.observe import History, Outcome

from . import checkpoint
from .debug import Debug, RoleFailure
from .limits import judge, limited
from .loop import Shared
from .stop import Stop

# A chunk is as long as it takes to be worth a look: progress is shown, and Ctrl-C heard, about this often.
CHUNK_SECONDS = 0.25
CHECKPOINT_SECONDS = 10.0


@dataclasses.dataclass
class Run:
    """A run under way. `carry` is the last good state, at `history`'s last record.

    With `regrets` the history sums up its gaps, record by record.
    """

    engine: Any
    experiment: Any
    rules: Any
    local: Any
    shared: Shared
    history: History
    seconds: float = 0.0
    compile_seconds: float = 0.0
    regrets: bool = False

    @property
    def round(self) -> int:
        """Rounds done."""
        return int(self.shared.round)

    def record(self, scalars: dict[str, np.ndarray], agents: dict[str, np.ndarray]) -> None:
        """Add records to the history. A look between two regular ones, at the end of an earlier part, gives way to them."""
        if not len(scalars["round"]):
            return
        if len(self.history) and self.history["round"][-1] % int(self.rules.every):
            self.history = self.history.without_last()
        if self.regrets:
            # One after another, whatever the chunks, so that a resumed run has the same bits.
            before = self.history["regret"][-1:] if len(self.history) else np.zeros(1)
            gaps = np.asarray(scalars["gap"], float)
            scalars = {**scalars, "regret": np.cumsum(np.concatenate([before, gaps]))[1:]}
        self.history = self.history.extended(scalars, agents)


def drive(
    run: Run,
    rounds: int,
    show: Callable[[int, History], None],
    folder: Path | None,
    meta: dict[str, Any],
    tabulate: Any,
    names: tuple[str, ...],
    stop: Stop | None = None,
) -> tuple[Outcome, str]:
    """Run to `rounds`, to the stop rule, or to the end of somebody's patience. Returns (outcome, reason).

    What `stop` wants judged on the host is judged at every record, so that the end does not depend on chunks.
    """
    hosts, length, saved = run.engine.hosts, 1, time.monotonic()
    start = time.monotonic()
    jax.block_until_ready(run.engine.advance(run.experiment, run.rules, run.local, run.shared, run.round))  # compiles
    run.compile_seconds += time.monotonic() - start
    with _interrupts() as interrupted:
        while run.round < rounds and not bool(run.shared.done):
            due = folder is not None and time.monotonic() - saved > CHECKPOINT_SECONDS
            heard = hosts.told([length, due, interrupted.is_set()])  # clocks differ: process 0's rules, and anybody's Ctrl-C
            length, due = int(heard[0, 0]), bool(heard[0, 1])
            if due:
                _save(run, folder, meta, tabulate)
                saved = time.monotonic()
            if heard[:, 2].any():
                _save(run, folder, meta, tabulate)
                return Outcome.INTERRUPTED, f"stopped by hand after round {run.round}"
            start, before = time.monotonic(), run.round
            try:
                until = min(rounds, _next_record(run, before + (1 if limited(stop) else length)))
                local, shared, records = run.engine.advance(run.experiment, run.rules, run.local, run.shared, until)
            except RoleFailure as failure:
                _stand_at(run, failure.round, tabulate)
                _save(run, folder, meta, tabulate)
                return (
                    Outcome.NOT_FINITE,
                    f"{_called(names, failure.agent)}, {failure.role}, in round {failure.round}: {failure}",
                )
            jax.block_until_ready(local)
            elapsed = time.monotonic() - start
            if bool(shared.broken):
                run.record(*tabulate(records, int(records.count) - 1))
                outcome, reason = _find_break(run, int(shared.round), tabulate, names)
                _save(run, folder, meta, tabulate)
                return outcome, reason
            run.local, run.shared = local, shared
            run.record(*tabulate(records, int(records.count)))
            run.seconds += elapsed
            length = _next_length(length, run.round - before, elapsed)
            show(run.round, run.history)
            if limited(stop) and (verdict := judge(stop, run.history)) is not None:
                _save(run, folder, meta, tabulate)
                return verdict
    _save(run, folder, meta, tabulate)
    if bool(run.shared.done):
        return Outcome.CONVERGED, f"no more progress and in agreement at round {run.round}"
    return Outcome.ROUND_LIMIT, f"all {rounds} rounds done"


def _next_record(run: Run, k: int) -> int:
    """The first round from `k` on that is recorded: chunks end there, so that their length leaves no trace."""
    every = int(run.rules.every)
    return -(-k // every) * every


def _next_length(length: int, done: int, elapsed: float) -> int:
    """Rounds of the next chunk, growing by at most 16×."""
    wanted = max(1, int(done * CHUNK_SECONDS / max(elapsed, 1e-6)))
    return min(max(wanted, 1), 16 * max(length, 1))


def _find_break(run: Run, broken_at: int, tabulate, names) -> tuple[Outcome, str]:
    """Replay from the last good state, round by round, to the first bad one; leave the run at the last good round."""
    while True:
        local, shared, records = _every_round(run, broken_at)
        if bool(shared.broken):
            break
        run.local, run.shared = local, shared
    bad = int(shared.round)
    _stand_at(run, bad - 1, tabulate)
    snapshot = jax.tree.map(lambda leaf: leaf[0], _last(records).rows.snapshot)
    guilty = np.flatnonzero(~snapshot.finite)
    failure = None if snapshot.finite.all() and np.isfinite(snapshot.objective) else _first_failure(run, bad - 1)
    if guilty.size or failure is not None:
        # One client's NaN is everybody's once the server has it: who began is seen in the replay alone.
        first = int(guilty[0]) if failure is None else failure.agent
        others = f" and {guilty.size - 1} more" if guilty.size > 1 else ""
        stage = "" if failure is None else f" (first in role {failure.role!r})"
        who = f"{_called(names, first)}{others} not finite in round {bad - 1}{stage}"
        return Outcome.NOT_FINITE, f"{who}; the result is the last good state"
    if not np.isfinite(snapshot.objective):
        return Outcome.NOT_FINITE, (
            f"the objective at the mean of the estimates is not finite after round {bad - 1}, while every agent's own loss is; "
            "the result is the last good state"
        )
    apart = snapshot.disagreement if snapshot.disagreement.size else np.abs(snapshot.loss)
    farthest = f", {_called(names, int(np.argmax(apart)))} farthest" if np.size(apart) else ""
    return Outcome.DIVERGED, (
        f"in round {bad - 1} the estimates outgrew all bounds{farthest}; the result is the last good state"
    )


def _every_round(run: Run, until: int):
    """Advance with a record after every round, and no decision to stop: the run it replays made none."""
    stop = run.rules.stop
    if stop is not None and not stop.distributed:
        stop = dataclasses.replace(stop, progress=jax.numpy.full_like(stop.progress, -1))
    rules = dataclasses.replace(run.rules, every=jax.numpy.asarray(1, jax.numpy.int32), stop=stop)
    return run.engine.advance(run.experiment, rules, run.local, run.shared, until)


def _stand_at(run: Run, k: int, tabulate) -> None:
    """Bring the run to round `k`, which is known to be good, and end its history there."""
    records = None
    while run.round < k:
        run.local, run.shared, records = _every_round(run, k)
    recorded = run.history["round"][-1] if len(run.history) else 0
    if records is not None and recorded < k:
        run.record(*tabulate(_last(records), 1))


def _last(records):
    """The last record alone."""
    count = int(records.count)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[count - 1 : count] if np.ndim(leaf) else leaf, records)


def _first_failure(run: Run, k: int) -> RoleFailure | None:
    """Which role of which agent made the first value that is not finite, by replaying one round role by role."""
    if run.experiment.problem.pieces is None or not run.experiment.by_hand:  # nobody holds the data of all, or it has no rounds
        return None
    try:
        Debug().open().advance(run.experiment, run.rules, run.engine.whole(run.local), run.shared, k + 1)
    except RoleFailure as failure:
        return failure
    return None


def _called(names: tuple[str, ...], agent: int) -> str:
    """Name of an agent; where there are too many for names, its position."""
    return names[agent] if agent < len(names) and names != ("all clients",) else f"client {agent}"


def _save(run: Run, folder: Path | None, meta: dict[str, Any], tabulate: Any) -> None:
    if folder is None:
        return
    columns = {f"scalars/{name}": column for name, column in run.history.scalars.items()}
    columns |= {f"agents/{name}": column for name, column in run.history.agents.items()}
    state = {"round": run.round, "messages": tabulate.counters, "seconds": run.seconds, "compile_seconds": run.compile_seconds}
    local, hosts = run.engine.whole(run.local), run.engine.hosts
    hosts.together(lambda: hosts.leads and checkpoint.save(folder, (local, run.shared), meta | state, columns))
    run.engine.committed(run.local, run.round)


@contextlib.contextmanager
def _interrupts():
    """An event that Ctrl-C sets; a second Ctrl-C ends the process in the usual way."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number, frame):
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    signal.signal(signal.SIGINT, handle)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
