"""What a secure sum costs: clients × parameters × drop-outs against time and bytes, beside the plain sum.

    python -m benchmarks.secure                      100 and 1000 clients, 10⁵ and 10⁶ parameters
    python -m benchmarks.secure --clients 20 --parameters 1000

Everybody masks with everybody, and with `secure.degree(n)` neighbours. All clients really share their secrets; only `--masking` of
them mask their vectors, whose time is that of any, and the server works as if all had. So sums are checked where all mask alone.
"""

import argparse
import itertools
import json
import os
import sys
import time
from unittest import mock

import numpy as np

from thalweg.message import secure
from thalweg.message.secure import Client, Server, Setup, crypto, sent_bytes
from thalweg.message.secure import client as client_side

from .machine import describe

SHARE_OF_DROPOUTS = (0.0, 0.1)


class Clock:
    """Seconds by who spent them, and in which step."""

    def __init__(self):
        self.spent = {}

    def __call__(self, name, function, *args):
        began = time.perf_counter()
        value = function(*args)
        self.spent[name] = self.spent.get(name, 0.0) + time.perf_counter() - began
        return value


def measured(n: int, d: int, degree: int | None, dropped: float, masking: int) -> dict:
    """One secure sum."""
    setup = Setup(os.urandom(16), n, d, max(n // 2 + 1, int(0.7 * n)), 32, degree)
    clients, server, clock = [Client(setup, i) for i in range(n)], Server(setup), Clock()
    gone = set(range(0, n, int(1 / dropped))) if dropped else set()
    vector = np.random.default_rng(0).integers(0, 2**32, d, dtype=np.uint32)
    for client in clients:
        clock("server", server.receive, client.index, clock("keys", client.advertise))
    for i, roster in clock("server", server.advance).items():
        clock("server", server.receive, i, clock("shares", clients[i].share, roster))
    inboxes, masked, unmasked = clock("server", server.advance), 0, lambda *_: None
    survivors = [i for i in inboxes if i not in gone]
    for i in survivors:
        if masked < masking:
            message, masked = clock("mask", clients[i].mask, inboxes[i], vector), masked + 1
        else:
            with mock.patch.object(crypto.Masks, "add", unmasked), mock.patch.object(client_side, "pair_key", unmasked):
                message = clients[i].mask(inboxes[i], vector)
        clock("server", server.receive, i, message)
    for i, message in clock("server", server.advance).items():
        clock("server", server.receive, i, clock("reveal", clients[i].unmask, message))
    clock("server unmask", server.advance)
    if masked == len(survivors):
        assert (server.total == np.uint32(len(survivors)) * vector).all()
    spent = clock.spent
    per_client = spent["keys"] / n + spent["shares"] / n + spent["mask"] / masked + spent["reveal"] / len(survivors)
    return {
        "clients": n, "parameters": d, "neighbours": n - 1 if degree is None else degree, "dropped": len(gone),
        "client_s": per_client, "server_s": spent["server"] + spent["server unmask"], "client_mb": sent_bytes(setup) / 1e6,
        "steps": {name: spent[name] / (n if name in ("keys", "shares") else masked if name == "mask" else len(survivors))
                  for name in ("keys", "shares", "mask", "reveal")},
    }  # fmt: skip


def plain(n: int, d: int) -> tuple[float, float]:
    """(server's seconds, megabytes of one client) of the sum in the clear, single precision."""
    vector, total = np.random.default_rng(0).standard_normal(d).astype(np.float32), np.zeros(d, np.float32)
    began = time.perf_counter()
    for _ in range(n):
        total += vector
    return time.perf_counter() - began, 4 * d / 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--parameters", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--masking", type=int, default=3, help="clients that really mask")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    print(f"python -m benchmarks.secure {' '.join(sys.argv[1:])}\n{describe()}")
    print(f"{'clients':>8}{'params':>10}{'nbrs':>6}{'dropped':>8}{'client s':>10}{'server s':>10}{'client MB':>11}"
          f"{'plain s':>9}{'plain MB':>10}")  # fmt: skip
    for n, d in itertools.product(arguments.clients, arguments.parameters):
        seconds, size = plain(n, d)
        degree = secure.degree(n)
        for k, dropped in itertools.product([None] if degree >= n - 1 else [None, degree], SHARE_OF_DROPOUTS):
            row = measured(n, d, k, dropped, arguments.masking)
            print(f"{n:8}{d:10}{row['neighbours']:6}{row['dropped']:8}{row['client_s']:10.3f}{row['server_s']:10.2f}"
                  f"{row['client_mb']:11.3f}{seconds:9.3f}{size:10.3f}", flush=True)  # fmt: skip
            if arguments.json:
                print(json.dumps(row))


if __name__ == "__main__":
    main()
