"""One site as a process: policy, keys, network, log, status and metrics around a run; and what it leaves in its folder."""

import contextlib
import dataclasses
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from thalweg.experiment import Experiment
from thalweg.experiment.folder import plain_algorithm
from thalweg.observe import Outcome
from thalweg.problem import Coupled

from .beat import Beat, Status
from .folder import LOG, SiteFolder
from .launch import Prepared, digest, open_post, prepare, site_of
from .logs import logged
from .metrics import Metrics
from .policy import Policy
from .site import Answer, Site
from .watched import Stopped, Watched


@dataclasses.dataclass(frozen=True)
class Options:
    """How a site is run.

    Attributes:
        keys: the folder of the site's keys, or of the federation's.
        folder: of the site; made if it is not there.
        data: its own records; None: its part of those that the experiment names.
        policy: its limits; None: none.
        listen, connect: endpoints in place of those of the experiment.
        metrics: (host, port) to serve metrics at; None: nowhere.
        tied: end when standard input ends, as that of a child does with its parent.
    """

    keys: Path
    folder: Path
    data: Path | None = None
    policy: Path | None = None
    listen: Sequence[str] = ()
    connect: Sequence[str] = ()
    metrics: tuple[str, int] | None = None
    tied: bool = False


def live(experiment: Experiment, name: str, options: Options, show: Callable[[Status], None] | None = None) -> Answer:
    """Take part in `experiment` as site `name` to the end; Ctrl-C, SIGTERM and `thalweg stop` end it so that it can go on.

    Raises:
        Forbidden: the site's policy does not allow it. Nothing was sent.
        ValueError, OSError: what `prepare` and `open_post` refuse; sites do not fit together.
    """
    # A round is a few short calls, each of which is waited for: to hand them to another thread costs more than it spares.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    folder = SiteFolder(options.folder)
    with folder.held(), logged(folder.path / LOG, name) as log, _said(log):
        about = {"experiment": experiment.name, "hash": digest(experiment), "rounds": experiment.settings.rounds}
        log.info("asked to join", extra={"fields": about})
        if options.policy is not None:
            Policy.load(options.policy).check(experiment, about["hash"])
        prepared = prepare(experiment, name, options.data)
        with contextlib.closing(Watched(open_post(prepared, options.keys, options.listen, options.connect), log)) as post:
            site = site_of(prepared, post, folder.path)
            beat = Beat(folder, post, site, about | {"site": name, "sites": experiment.everybody}, show, log)
            with _metrics(options, beat, log), _stopping(post, options.tied):
                return _lived(prepared, folder, site, post, beat, log)


def _lived(prepared: Prepared, folder: SiteFolder, site: Site, post: Watched, beat: Beat, log: logging.Logger) -> Answer:
    try:
        with beat:
            try:
                answer = site.run()
                if answer.outcome is Outcome.TOO_FEW_AGENTS:
                    answer = dataclasses.replace(answer, reason="; ".join([answer.reason, *post.troubles()]))
            except Stopped as stopped:
                answer = site.ended(Outcome.INTERRUPTED, str(stopped))
    except BaseException as error:
        beat.end("failed", reason=str(error))
        raise
    answer = dataclasses.replace(
        answer,
        warnings=(*answer.warnings, *prepared.said),
        **prepared.spending.ended(answer.outcome, answer.reason, answer.rounds),
    )
    folder.write_answer(_plain(prepared, answer), answer.x)
    state = "stopped" if answer.outcome is Outcome.INTERRUPTED else "finished"
    beat.end(state, round=answer.rounds, outcome=answer.outcome.value, reason=answer.reason)
    log.info(state, extra={"fields": {"outcome": answer.outcome.value, "reason": answer.reason, "round": answer.rounds}})
    return answer


def _plain(prepared: Prepared, answer: Answer) -> dict[str, Any]:
    """What answer.json holds."""
    network, score = prepared.network, prepared.piece.score
    graph = None
    if network is not None:
        positions = None if network.positions is None else np.asarray(network.positions).tolist()
        graph = {"edges": np.asarray(network.edges).tolist(), "positions": positions, "directed": bool(network.directed)}
    return {
        "site": answer.site,
        "sites": prepared.sites,
        "server": prepared.experiment.server,
        "market": isinstance(prepared.piece.problem, Coupled),
        "outcome": answer.outcome.name,
        "reason": answer.reason,
        "rounds": answer.rounds,
        "history": answer.history,
        "ledger": dataclasses.asdict(answer.ledger),
        "rejected": {str(why): count for why, count in answer.rejected.items()},
        "warnings": answer.warnings,
        "epsilon": None if prepared.leads else prepared.spending.of_site(answer.ledger.spent),
        "algorithm": plain_algorithm(answer.algorithm or prepared.algorithm),
        "graph": graph,
        "config": prepared.config,
        "score": None if score is None or answer.x is None else score(jax.tree.map(np.asarray, answer.x)),
    }


@contextlib.contextmanager
def _said(log: logging.Logger) -> Iterator[None]:
    """Whatever ends a site is in its log: what the user can mend in a line, a fault of ours with its trace."""
    try:
        yield
    except (ValueError, OSError) as error:
        log.error("refused", extra={"fields": {"kind": type(error).__name__, "reason": str(error)}})
        raise
    except Exception:
        log.exception("failed")
        raise


@contextlib.contextmanager
def _metrics(options: Options, beat: Beat, log: logging.Logger) -> Iterator[None]:
    if options.metrics is None:
        yield
        return
    metrics = Metrics(options.metrics, beat.status)
    log.info("metrics", extra={"fields": {"host": options.metrics[0], "port": metrics.port}})
    try:
        yield
    finally:
        metrics.close()


@contextlib.contextmanager
def _stopping(post: Watched, tied: bool) -> Iterator[None]:
    """Within, the first Ctrl-C or SIGTERM ends the site at its next look into the mailbox, and the second at once."""
    if tied:
        threading.Thread(target=_follow, args=(post,), name="thalweg parent", daemon=True).start()
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def heard(number: int, frame: Any) -> None:
        post.stop("stopped by hand" if number == signal.SIGINT else "it got SIGTERM")
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(post: Watched) -> None:
    while os.read(0, 4096):  # by its number: a thread that waits in Python's own stdin holds up the end of the program
        pass
    post.stop("the process that started it has ended")
