"""Before JAX's distributed runtime begins: is everybody there?

The runtime ends a process with a stack trace where somebody does not come. Here all hear in one line who is missing; then it takes
over the port.
"""

import json
import socket
import time
from typing import Any

import jax

# Bytes of the longest line, and seconds in which one that is under way arrives.
_LINE, _PATIENCE = 1024, 5.0


def roll_call(coordinator: str, processes: int, rank: int, timeout: float) -> None:
    """Return when everybody is there, once, and counts alike.

    Raises:
        RuntimeError: somebody is not; all who are hear who.
    """
    host, _, port = coordinator.rpartition(":")
    host, deadline = host.strip("[]"), time.monotonic() + timeout
    mine = {"rank": rank, "processes": processes, "jax": jax.__version__}
    if rank == 0:
        _call(int(port), mine, deadline, timeout)
    else:
        _answer(host, int(port), mine, deadline, timeout)


def _call(port: int, mine: dict[str, Any], deadline: float, timeout: float) -> None:
    """Process 0: hear the others out, then tell all of them that it begins, or why not."""
    both = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
    try:
        server = socket.create_server(("", port), **both)
    except OSError as error:
        raise RuntimeError(f"distribute: port {port} cannot be opened ({error.strerror}); choose another one") from None
    lines: dict[int, socket.socket] = {}
    wrong = None
    with server:
        while wrong is None and len(lines) < mine["processes"] - 1:
            server.settimeout(max(0.01, deadline - time.monotonic()))
            said, line = _next(server)
            if said is None:
                if time.monotonic() < deadline:
                    continue
                missing = sorted(set(range(1, mine["processes"])) - set(lines))
                wrong = f"process {', '.join(map(str, missing))} of {mine['processes']} did not come within {timeout:g} s"
                break
            wrong = _difference(mine, said, lines)
            lines[-1 if wrong else said["rank"]] = line
        for line in lines.values():
            line.sendall((wrong or "begin").encode())
            line.close()
    if wrong:
        raise RuntimeError(f"distribute: {wrong}")


def _next(server: socket.socket) -> tuple[Any, Any]:
    """(what the next process says, the line to it); None twice where nobody comes, or somebody who is not one of us."""
    try:
        line, _ = server.accept()
    except OSError:
        return None, None
    line.settimeout(_PATIENCE)
    try:
        said = json.loads(line.recv(_LINE))
        if isinstance(said, dict) and said.keys() == {"rank", "processes", "jax"}:
            return said, line
    except (OSError, ValueError):
        pass
    line.close()
    return None, None


def _difference(mine: dict[str, Any], said: dict[str, Any], lines: dict[int, Any]) -> str | None:
    """Why a process that `said` this cannot take part."""
    if said["rank"] in lines:
        return f"rank {said['rank']} came twice; give every process its own, 0 … {mine['processes'] - 1}"
    for name, what in (("processes", "processes"), ("jax", "JAX")):
        if said[name] != mine[name]:
            return f"process {said['rank']} counts on {what} {said[name]}, process 0 on {mine[name]}; start all of them alike"
    return None


def _answer(host: str, port: int, mine: dict[str, Any], deadline: float, timeout: float) -> None:
    """Another process: say who it is, wait for the word to begin."""
    heard = ""
    while not heard:
        left = deadline - time.monotonic()
        if left <= 0:
            raise RuntimeError(
                f"distribute: process 0 did not answer at {host}:{port} within {timeout:g} s; is it running, and is the port open?"
            )
        try:
            with socket.create_connection((host, port), timeout=left) as line:
                line.sendall(json.dumps(mine).encode())
                line.settimeout(left + _PATIENCE)  # process 0, which began to wait later, says who is missing
                heard = line.recv(_LINE).decode()
        except socket.gaierror as error:
            raise RuntimeError(f"distribute: there is no host {host!r} ({error.strerror})") from None
        except OSError:
            time.sleep(min(0.1, max(0.0, left)))
    if heard != "begin":
        raise RuntimeError(f"distribute: {heard}")
