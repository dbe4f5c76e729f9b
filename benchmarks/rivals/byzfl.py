"""The aggregation rules of ByzFL, timed one by one on the matrices of `benchmarks.robust`; each by the faster of its two backends.

Its rules take NumPy arrays and PyTorch tensors. Which is faster is tried on the same rows with at most `TRIED` columns.
"""

import argparse
import contextlib
import importlib
import importlib.metadata
import json
import os
import sys
import time
import unittest.mock
from pathlib import Path

import numpy as np
import torch

from . import matrices

TRIED = 10_000


def library():
    """ByzFL, without the torchvision that it imports for pictures: its builds do not all fit a PyTorch without CUDA."""
    sys.modules["torchvision"] = unittest.mock.MagicMock()
    return importlib.import_module("byzfl")


def rules(byzfl, f: int, n: int):
    """Name here → their rule, made anew for each call: centred clipping remembers."""
    found = {
        "coordinate_median": lambda: byzfl.Median(),
        "trimmed_mean": lambda: byzfl.TrMean(f),
        "mean_around_median": lambda: byzfl.Meamed(f),
        "geometric_median": lambda: byzfl.GeometricMedian(nu=1e-6, T=matrices.WEISZFELD),
        "krum": lambda: byzfl.Krum(f),
        "multi_krum": lambda: byzfl.MultiKrum(f),
        "centred_clipping": lambda: byzfl.CenteredClipping(L=1, tau=matrices.RADIUS),
        "covariance_filter": lambda: byzfl.CAF(f),
        "nearest_neighbour_mixing": lambda: lambda x: byzfl.TrMean(f)(byzfl.NNM(f)(x)),
    }
    if n <= matrices.FEW:
        found["minimum_diameter"] = lambda: byzfl.MDA(f)
    return found


def seconds(make, x, repeats: int):
    """(best time, aggregate) of a rule on `x`."""
    best = np.inf
    for _ in range(repeats):
        rule = make()
        start = time.perf_counter()
        with contextlib.redirect_stdout(None):
            result = rule(x)
        best = min(best, time.perf_counter() - start)
        if best > matrices.LONG:
            break
    return best, np.asarray(result)


def main() -> None:
    """Time the rules on one matrix, write one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rivals.byzfl")
    parser.add_argument("--n", type=int, required=True)
    parser.add_argument("--d", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    x, f = matrices.messages(asked.n, asked.d), matrices.liars(asked.n)
    backends = {"numpy": lambda a: a, "torch": torch.from_numpy}
    found = {}
    for name, make in rules(library(), f, asked.n).items():
        few = np.ascontiguousarray(x[:, :TRIED])
        trials, errors = {}, []
        for backend, turn in backends.items():
            try:
                trials[backend] = seconds(make, turn(few), 2)[0]
            except Exception as error:
                errors.append(f"{backend}: {error}")
        if not trials:
            found[name] = {"error": "; ".join(errors)}
            continue
        chosen = min(trials, key=trials.get)
        spent, result = seconds(make, backends[chosen](x), matrices.REPEATS)
        found[name] = {"seconds": spent, "backend": chosen, "sample": matrices.sample(result)}
    versions = {name: importlib.metadata.version(name) for name in ("byzfl", "torch", "numpy")}
    asked.out.write_text(json.dumps({"rules": found, "versions": versions}))


if __name__ == "__main__":
    main()
