"""FedAvg as a plain PyTorch loop: one model, the global weights copied into it in place, no framework.

Gradients are asked for and subtracted directly: on the small model a third faster than `backward` and an optimiser object.
"""

import time

import torch
from torch.nn.functional import cross_entropy

from . import data, measure, torch_model


def train(workload: str, rounds: int, seed: int, threads: int, channels_last: bool = False):
    """Seconds per round, test accuracy, no workers."""
    torch.set_num_threads(threads)
    batches = torch_model.batches(workload, seed, channels_last)
    model = torch_model.build(workload, seed, channels_last)
    weights = list(model.parameters())
    centre = [w.detach().clone() for w in weights]
    total = [torch.zeros_like(w) for w in centre]
    schedule = data.cohorts(seed, rounds).tolist()
    seconds = []
    for cohort in schedule:
        start = time.perf_counter()
        for t in total:
            t.zero_()
        for client in cohort:
            with torch.no_grad():
                for w, c in zip(weights, centre, strict=True):
                    w.copy_(c)
            for inputs, targets in batches[client]:
                gradients = torch.autograd.grad(cross_entropy(model(inputs), targets), weights)
                with torch.no_grad():
                    for w, g in zip(weights, gradients, strict=True):
                        w.sub_(g, alpha=data.RATE)
            with torch.no_grad():
                for t, w in zip(total, weights, strict=True):
                    t.add_(w)
        for c, t in zip(centre, total, strict=True):
            torch.div(t, data.COHORT, out=c)
        seconds.append(time.perf_counter() - start)
    with torch.no_grad():
        for w, c in zip(weights, centre, strict=True):
            w.copy_(c)
    return seconds, torch_model.accuracy(model, workload), 0


if __name__ == "__main__":
    measure.main("pytorch", train, torch_model.settings, ["torch", "numpy"])
