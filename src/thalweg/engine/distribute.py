"""Several processes, on one machine or many, as one: their devices become those of `Sharded`."""

import os
from typing import Any

import jax

from .hosts import Hosts, here
from .roll_call import roll_call


def distribute(
    coordinator: str | None = None, processes: int | None = None, rank: int | None = None, *, timeout: float = 120.0
) -> Hosts:
    """Join the other processes of this run, before anything is computed; all of them call it, and then `solve` the same problem.

    They talk by JAX's own distributed runtime: NCCL between GPUs, Gloo between processors. `tw.solve(engine="sharded")` then
    shards agents over the devices of all; every process gets the same result (but for `ledger.seconds`, its own clock). Process 0
    alone shows progress, tells trackers and writes checkpoints.

    Args:
        coordinator: "host:port" of process 0, a free port that all can reach. With all three arguments left out they are read
            from SLURM (`srun`) or Open MPI (`mpirun`).
        processes: how many there are.
        rank: which of them this is, from 0.
        timeout: seconds to wait for the others.

    Returns:
        Who is there: `if hosts.leads:` is true in process 0.

    Raises:
        ValueError: impossible arguments, or some left out where nothing gives them.
        RuntimeError: JAX was used before, or somebody did not come, came twice, or counts otherwise.
    """
    given = (coordinator, processes, rank)
    if given != (None, None, None):
        _check(coordinator, processes, rank)
    elif not _launched():
        raise ValueError(
            "distribute(): found no SLURM or Open MPI job in the environment; start by srun or mpirun, or pass "
            'coordinator="host:port", processes and rank'
        )
    if not timeout > 0:
        raise ValueError(f"distribute(timeout={timeout!r}): expected a number of seconds > 0")
    if jax.distributed.is_initialized():
        raise RuntimeError("distribute: called twice in one process; call it once, at the start of the program")
    if _jax_in_use():
        raise RuntimeError(
            "distribute: JAX has been used already, with the devices of this process alone; call tw.distribute(…) before anything "
            "makes an array or asks for devices"
        )
    if jax.config.jax_cpu_collectives_implementation in (None, "none"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if coordinator is not None and processes is not None and rank is not None:
        roll_call(coordinator, processes, rank, timeout)
    try:
        jax.distributed.initialize(coordinator, processes, rank, initialization_timeout=max(1, int(timeout)))
    except (RuntimeError, ValueError) as error:
        raise RuntimeError(f"distribute: {str(error).splitlines()[0]}") from error
    return here()


def _check(coordinator: Any, processes: Any, rank: Any) -> None:
    where = f"distribute(coordinator={coordinator!r}, processes={processes!r}, rank={rank!r})"
    if None in (coordinator, processes, rank):
        raise ValueError(f"{where}: expected all three, or none of them under SLURM or Open MPI")
    host, _, port = str(coordinator).rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(f'{where}: expected the coordinator as "host:port", for example "10.0.0.1:7100"')
    if not isinstance(processes, int) or processes < 1:
        raise ValueError(f"{where}: expected a number of processes ≥ 1")
    if not isinstance(rank, int) or not 0 <= rank < processes:
        raise ValueError(f"{where}: expected a rank from 0 to {processes - 1}")


def _launched() -> bool:
    """Whether this process was started by something that JAX knows to read."""
    return "SLURM_PROCID" in os.environ or "OMPI_MCA_orte_hnp_uri" in os.environ or "JAX_COORDINATOR_ADDRESS" in os.environ


def _jax_in_use() -> bool:
    from jax._src import xla_bridge  # nothing public says it without starting JAX

    return xla_bridge.backends_are_initialized()
