"""What machine a benchmark ran on, and what its memory can do."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np


def describe() -> str:
    """One line: processor, cores, versions."""
    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            cpu = next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = f"Python {sys.version.split()[0]}, jax {jax.__version__}, numpy {np.__version__}"
    return f"{cpu}, {os.cpu_count()} cores, {versions}, commit {_commit()}"


def copy_bandwidth(megabytes: int, repeats: int = 15) -> float:
    """Read + write bytes per second of a copy of an array of this size (best of `repeats`)."""
    source = np.ones(megabytes * 2**20 // 8)
    target = np.empty_like(source)
    best = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def peak_mebibytes() -> float:
    """Peak resident memory of this process. (`ru_maxrss` would be that of whoever started it, if that was larger.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
