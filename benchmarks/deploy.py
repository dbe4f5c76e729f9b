"""What a deployed run costs over a real network: the post beside the transport underneath it.

    python -m benchmarks.deploy

Two processes on this machine, mutual TLS. *Raw* is a Zenoh publisher and subscriber with the same certificates and nothing else:
no seals, no handshake, no table of access. Latency is half of a round trip of 8 kB; throughput is that of letters of 10⁷ single
numbers, one after another, until the last has arrived as bytes in Python.
"""

import argparse
import contextlib
import json
import os
import queue
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from thalweg.deploy import keys, zenoh_config
from thalweg.deploy.identity import Identity
from thalweg.deploy.post import Kind, Letter
from thalweg.deploy.zenoh_post import ZenohPost

from .machine import describe

SITES = ("near", "far")
LATENCY_BYTES, THROUGHPUT_BYTES = 8_000, 4 * 10**7
PATIENCE = 30.0


class Post:
    """One end over a `ZenohPost`."""

    def __init__(self, folder: Path, me: str, port: int):
        at = {"listen" if me == "far" else "connect": [f"tls/127.0.0.1:{port}"]}
        self.post = ZenohPost(Identity.load(folder, me), SITES, run="benchmark", **at)
        self.other = SITES[1 - SITES.index(me)]
        self.close = self.post.close
        began = time.monotonic()
        while not self.post.present():
            self.post.receive(1.0)
            assert time.monotonic() - began < PATIENCE, "the other end did not come"

    def put(self, body: bytes) -> None:
        self.post.send(self.other, Letter(Kind.MESSAGE, body=body))

    def get(self) -> bytes:
        while (found := self.post.receive(PATIENCE)) is None:
            assert self.post.present(), "the other end is gone"
        return found.body


class Raw:
    """One end over Zenoh alone."""

    def __init__(self, folder: Path, me: str, port: int):
        import zenoh

        at = [f"tls/127.0.0.1:{port}"]
        listen, connect = (at, []) if me == "far" else ([], at)
        credentials = zenoh_config.from_folder(folder / "sites" / me)
        settings = zenoh_config.settings("peer", listen, connect, 5.0, zenoh_config.MOST, credentials, None)
        session = zenoh.open(zenoh.Config.from_json5(json.dumps(zenoh_config.nested(settings))))
        came = queue.SimpleQueue()
        take = zenoh.handlers.Callback(lambda sample: came.put(sample.payload.to_bytes()), indirect=True)
        self.kept = session.declare_subscriber(f"raw/{me}", take)
        publisher = session.declare_publisher(
            f"raw/{SITES[1 - SITES.index(me)]}", congestion_control=zenoh.CongestionControl.BLOCK, express=True
        )
        self.put, self.get, self.close = publisher.put, lambda: came.get(timeout=PATIENCE), session.close
        began = time.monotonic()
        while not publisher.matching_status:
            time.sleep(0.02)
            assert time.monotonic() - began < PATIENCE, "the other end did not come"
        if me == "near":
            self._warm(came)

    def _warm(self, came: queue.SimpleQueue) -> None:
        """Zenoh may lose what is first put to a subscriber that it has just met."""
        while came.empty():
            self.put(b"?")
            time.sleep(0.2)
        time.sleep(0.2)
        while not came.empty():
            came.get()


ENDS = {"raw": Raw, "post": Post}


def far(end: Raw | Post) -> None:
    """Send back what is small; acknowledge every letter that is large with one byte. An empty letter ends it."""
    while body := end.get():
        end.put(body if len(body) <= LATENCY_BYTES else b"k")


def near(end: Raw | Post, pings: int, letters: int) -> dict[str, float]:
    """Latency in ms (median, and what 9 of 10 keep to) and throughput in MB/s."""
    small, large, took = os.urandom(LATENCY_BYTES), os.urandom(THROUGHPUT_BYTES), []
    for _ in range(pings):
        began = time.perf_counter()
        end.put(small)
        end.get()
        took.append(1e3 * (time.perf_counter() - began) / 2)
    end.put(large)
    end.get()  # buffers have grown to their size
    began = time.perf_counter()
    for _ in range(letters):
        end.put(large)
    for _ in range(letters):
        end.get()
    rate = letters * THROUGHPUT_BYTES / 1e6 / (time.perf_counter() - began)
    took = sorted(took[pings // 5 :])
    return {"latency_ms": statistics.median(took), "p90_ms": took[int(0.9 * len(took))], "mb_s": rate}


def measured(kind: str, folder: Path, pings: int, letters: int) -> dict[str, float]:
    """Both ends in processes of their own; what the near one saw."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "benchmarks.deploy", "--end", kind, "--folder", str(folder), "--port", str(port)]
    command += ["--pings", str(pings), "--letters", str(letters), "--site"]
    other = subprocess.Popen([*command, "far"])
    try:
        done = subprocess.run([*command, "near"], stdout=subprocess.PIPE, text=True, timeout=120, check=True)
        other.wait(PATIENCE)
    finally:
        other.kill()
    return json.loads(done.stdout)


def transport(pings: int, letters: int, repeats: int) -> None:
    """Print the table: medians over turns, in which raw and post follow each other."""
    found: dict[str, list] = {kind: [] for kind in ENDS}
    with tempfile.TemporaryDirectory() as folder:
        federation = keys.init(Path(folder) / "federation", SITES)
        for _ in range(repeats):
            for kind, rows in found.items():
                rows.append(measured(kind, federation, pings, letters))
    middle = {k: {name: statistics.median(row[name] for row in rows) for name in rows[0]} for k, rows in found.items()}
    print(f"{'transport, TLS':<16}{'8 kB, ms':>10}{'p90, ms':>10}{'40 MB, MB/s':>14}")
    for kind, row in middle.items():
        print(f"{kind:<16}{row['latency_ms']:>10.3f}{row['p90_ms']:>10.3f}{row['mb_s']:>14.0f}")
    post, raw = middle["post"], middle["raw"]
    print(f"{'post / raw':<16}{post['latency_ms'] / raw['latency_ms']:>10.2f}{'':>10}{post['mb_s'] / raw['mb_s']:>14.2f}")


def main() -> None:
    """Print the table, or be one end of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pings", type=int, default=3000)
    parser.add_argument("--letters", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    for name in ("--end", "--site", "--folder", "--port"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.end is None:
        print(describe())
        transport(arguments.pings, arguments.letters, arguments.repeats)
        return
    with contextlib.closing(ENDS[arguments.end](Path(arguments.folder), arguments.site, int(arguments.port))) as end:
        if arguments.site == "far":
            far(end)
        else:
            print(json.dumps(near(end, arguments.pings, arguments.letters)))
            end.put(b"")
            time.sleep(0.2)


if __name__ == "__main__":
    main()
