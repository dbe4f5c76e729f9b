"""`--hosts`: one run by several processes, of which the first prints and writes."""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from .console import outcome_code

if TYPE_CHECKING:
    from thalweg.engine import Hosts
    from thalweg.observe import Result

Address = Annotated[
    str | None,
    typer.Option(
        "--hosts",
        metavar="HOST:PORT",
        help='Run together with other processes: where process 0 listens, or "auto" under SLURM or Open MPI.',
        show_default=False,
    ),
]
Rank = Annotated[int | None, typer.Option(help="With --hosts: which process this is, from 0.", show_default=False)]
Processes = Annotated[int | None, typer.Option(help="With --hosts: how many there are.", show_default=False)]

# Seconds that a process which failed gives the others to end at the same time.
FAREWELL_SECONDS = 5.0


def join(address: str | None, processes: int | None, rank: int | None, engine: str) -> "Hosts | None":
    """The processes that run together; None where nobody asked for them. `engine` is the experiment's.

    Raises:
        ValueError, RuntimeError: impossible options; somebody is missing.
    """
    if address is None:
        if processes is not None or rank is not None:
            raise ValueError("--rank and --processes belong to --hosts; add --hosts host:port, or leave them out")
        return None
    if engine not in ("simulated", "sharded"):
        raise ValueError(f"--hosts: got run.engine = {engine!r}, expected 'sharded', which alone runs on several hosts")
    from thalweg.engine import distribute

    if address != "auto":
        return distribute(address, processes, rank)
    if processes is not None or rank is not None:
        raise ValueError(
            "--hosts auto reads rank and number of processes from SLURM or Open MPI; leave --rank and --processes out"
        )
    return distribute()


def follow(result: "Result") -> None:
    """How a process ends that does not print: with the exit code of the one that does."""
    raise typer.Exit(outcome_code(result))


@contextlib.contextmanager
def parting(address: str | None) -> Iterator[None]:
    """Within, a process of several that fails does not wait for the others, who would wait for it."""
    try:
        yield
    except BaseException as error:
        if address is None or (isinstance(error, typer.Exit) and not error.exit_code):
            raise
        code = error.exit_code if isinstance(error, typer.Exit) else 1
        if not isinstance(error, typer.Exit):
            traceback.print_exc()
        _leave(code)


def _leave(code: int) -> None:
    import jax

    farewell = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    farewell.start()
    farewell.join(FAREWELL_SECONDS)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
