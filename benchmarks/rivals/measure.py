"""The command line, the clock and the one line of JSON that every federated rival shares. Standard library and NumPy only."""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from .data import WORKLOADS

WARM_UP = 3  # rounds that no median sees: allocators, caches, worker start
TRIAL = 4  # rounds by which settings are compared before the run that counts; the first is not looked at


def main(peer: str, train: Callable, settings: Callable[[str], Mapping[str, dict]], packages: list[str]) -> None:
    """Pick the fastest setting, train with it, print one line.

    `train(workload, rounds, seed, **setting)` gives (seconds of each round without evaluation, test accuracy, peak bytes of its
    worker processes); `settings(workload)` names what to try.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.rivals.{peer}")
    parser.add_argument("--workload", choices=WORKLOADS, default="softmax")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="also write the line here")
    parser.add_argument("--setting", help="this one only, by its name in the output")
    asked = parser.parse_args()
    if asked.rounds <= WARM_UP:
        parser.error(f"--rounds must exceed the {WARM_UP} rounds of warm-up, got {asked.rounds}")
    choices = settings(asked.workload)
    if asked.setting is not None and asked.setting not in choices:
        parser.error(f"--setting must be one of {list(choices)}, got {asked.setting!r}")
    if asked.setting is not None:
        choices = {asked.setting: choices[asked.setting]}
    trials = {}
    if len(choices) > 1:
        for name, setting in choices.items():
            seconds, _, _ = train(asked.workload, TRIAL, asked.seed, **setting)
            trials[name] = min(seconds[1:])
    chosen = min(trials, key=trials.get) if trials else next(iter(choices))
    start = time.perf_counter()
    seconds, accuracy, workers = train(asked.workload, asked.rounds, asked.seed, **choices[chosen])
    wall = time.perf_counter() - start
    line = json.dumps(
        {
            "peer": peer,
            "workload": asked.workload,
            "rounds": asked.rounds,
            "seed": asked.seed,
            "seconds_per_round": statistics.median(seconds[WARM_UP:]),
            "total_seconds": sum(seconds),
            "wall_seconds": wall,
            "accuracy": accuracy,
            "peak_rss_bytes": peak_memory() + workers,
            "setting": chosen,
            "trials": trials,
            "versions": {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in packages},
        }
    )
    if asked.out is not None:
        asked.out.write_text(line + "\n")
    sys.stdout.flush()
    print(line, flush=True)


def peak_memory(pid: int | str = "self") -> int:
    """Peak resident bytes of a process (Linux); 0 once it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(row.split()[1]) * 1024 for row in status.splitlines() if row.startswith("VmHWM")), 0)


def peak_memory_below(pid: int | None = None) -> int:
    """Sum over the processes below this one of their peak resident bytes. Pages they share count in each."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    total, below = 0, list(children.get(pid or os.getpid(), []))
    while below:
        child = below.pop()
        total += peak_memory(child)
        below += children.get(child, [])
    return total
